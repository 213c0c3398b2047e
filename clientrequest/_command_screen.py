"""What a person at the terminal is shown on standard error, and asked for: messages, events, progress, logins."""

from __future__ import annotations

import contextlib
import functools
import getpass
import importlib.util
import os
import sys
import time
from typing import Any, Optional, TextIO

from ._command_line import NAME

UPLOAD, DOWNLOAD = "up", "down"

_TERMINAL = "/dev/tty"
_WIDTH = 80  # columns of a terminal that does not say


def make_screen(stream: Optional[TextIO], quiet: bool) -> Screen:
    """The best that ``stream`` allows: a terminal with rich, one without, or no terminal at all."""
    if stream is None or not stream.isatty():
        return Screen(stream)
    return _RichScreen(stream, quiet) if _has_rich() else _PlainScreen(stream, quiet)


def _has_rich() -> bool:
    try:
        return importlib.util.find_spec("rich") is not None
    except ValueError:  # somebody has put something else in its place
        return False


def printable(text: str) -> str:
    """The text in one line, in which nothing that a server says can steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class Screen:
    """Standard error where it is no terminal: messages and events, a line each.

    Args:
        stream: standard error; ``None`` if it is closed.
    """

    shows_progress = False

    def __init__(self, stream: Optional[TextIO]) -> None:
        self._stream = stream

    def say(self, message: str) -> None:
        """Tell what the user has to know."""
        self._line(NAME, message)

    def event(self, seconds: float, name: str, details: str) -> None:
        """Tell what has happened, so many seconds after the start."""
        self._line(f"{seconds:8.3f} {name}", details)

    def progress(self, direction: str, current: int, total: int) -> None:
        """Show how many bytes have gone ``UPLOAD`` or ``DOWNLOAD``; ``total`` is 0 where nobody knows it."""

    def clear(self) -> None:
        """Take the progress away, for good or for what else comes to the terminal."""

    def _line(self, who: str, what: str) -> None:
        self._put(f"{who}: {printable(what)}\n" if what else f"{who}\n")

    def _put(self, text: str) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):  # there is nowhere else to say it
                self._stream.write(text)
                self._stream.flush()


class _PlainScreen(Screen):
    """A terminal: progress is a line that is written over."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        super().__init__(stream)
        self.shows_progress = not quiet
        self._shown = 0  # characters of the line of progress
        self._began: dict[str, float] = {}

    def progress(self, direction: str, current: int, total: int) -> None:
        if not self.shows_progress:
            return
        now = time.monotonic()
        took = now - self._began.setdefault(direction, now)
        text = progress_text(direction, current, total, took)[: self._columns() - 1]
        self._put("\r" + text.ljust(self._shown))
        self._shown = len(text)

    def clear(self) -> None:
        if self._shown:
            self._put("\r" + " " * self._shown + "\r")
            self._shown = 0

    def _line(self, who: str, what: str) -> None:
        self.clear()
        super()._line(who, what)

    def _columns(self) -> int:
        assert self._stream is not None
        with contextlib.suppress(OSError, ValueError):
            return os.get_terminal_size(self._stream.fileno()).columns or _WIDTH
        return _WIDTH


class _RichScreen(Screen):
    """A terminal, with rich, imported once there is something to show: progress is a bar, lines have colours."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        super().__init__(stream)
        self.shows_progress = not quiet
        self._bars: Any = None  # rich's Progress, while it is shown
        self._tasks: dict[str, Any] = {}

    @functools.cached_property
    def _console(self) -> Any:
        from rich.console import Console

        return Console(file=self._stream, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def progress(self, direction: str, current: int, total: int) -> None:
        if not self.shows_progress:
            return
        bars = self._bars or self._begin()
        if direction in self._tasks:
            bars.update(self._tasks[direction], completed=current, total=total or None)
        else:
            self._tasks[direction] = bars.add_task(direction, completed=current, total=total or None)

    def _begin(self) -> Any:
        from rich import progress

        self._bars = progress.Progress(
            progress.TextColumn("{task.description:>4}"),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
            # Standard output is written to below Python, and may be something else than this terminal.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bars.start()
        return self._bars

    def clear(self) -> None:
        bars, self._bars = self._bars, None
        self._tasks.clear()
        if bars is not None:
            with contextlib.suppress(OSError):
                bars.stop()

    def _line(self, who: str, what: str) -> None:
        from rich.text import Text

        colour = "bold red" if who == NAME else "cyan"
        with contextlib.suppress(OSError):
            self._console.print(Text.assemble((who, colour), f": {printable(what)}" if what else ""))


def progress_text(direction: str, current: int, total: int, seconds: float) -> str:
    """Such as ``up 1.5 MiB of 3.0 MiB, 50 %, 1.0 MiB/s``."""
    parts = [f"{direction} {size_text(current)}"]
    if total:
        parts[0] += f" of {size_text(total)}"
        parts.append(f"{100 * current // total} %")
    if seconds > 0:
        parts.append(f"{size_text(current / seconds)}/s")
    return ", ".join(parts)


def size_text(count: float) -> str:
    """A number of bytes, for a person."""
    unit, units = "bytes", iter(("KiB", "MiB", "GiB", "TiB", "PiB"))
    while count >= 1024 and unit != "PiB":
        count, unit = count / 1024, next(units)
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


# --- logins ----------------------------------------------------------------------------------------------------------


def can_ask() -> bool:
    """Whether there is a terminal to ask at."""
    if sys.platform == "win32":
        return sys.stdin is not None and sys.stdin.isatty()
    try:
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def ask_login(what: str, user: Optional[str]) -> Optional[tuple[str, str]]:
    """Ask at the terminal for user name, unless it is known, and password, which is not shown.

    Args:
        what: that the login is for.
        user: the name, ``None`` to ask for it.

    Returns:
        Name and password; ``None`` if the user has none to give.
    """
    try:
        try:
            name = user or _ask_name(f"User name for {printable(what)}: ")
            return (name, getpass.getpass(f"Password of {printable(name)} for {printable(what)}: ")) if name else None
        except EOFError:
            _write_to_terminal("\n")  # it has not ended the line of the prompt
    except OSError:
        pass
    return None


def _ask_name(prompt: str) -> str:
    if sys.platform == "win32":
        return input(prompt)
    # Not standard input and output: these may be the bodies.
    _write_to_terminal(prompt)
    with open(_TERMINAL, "rb", buffering=0) as terminal:
        line = terminal.readline().decode(errors="replace")
    if not line:
        raise EOFError
    return line.strip()


def _write_to_terminal(text: str) -> None:
    if sys.platform != "win32":  # where the end of input is a line of its own
        with open(_TERMINAL, "wb", buffering=0) as terminal:
            terminal.write(text.encode(errors="replace"))
