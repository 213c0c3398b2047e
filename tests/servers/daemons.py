"""Server programs as context managers: started in the foreground, waited for, stopped, and seen to end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Callable, Optional

START_LIMIT = 20.0  # seconds until a server that was started must answer, or one that was stopped must be gone
HOST = "127.0.0.1"
TEMPLATES = Path(__file__).with_name("templates")

_pause = threading.Event()  # never set: what is polled for here makes no noise


class DaemonError(AssertionError):
    """A server did not start, or did not end."""


class _PortTaken(DaemonError):
    pass


def render(name: str, **values: object) -> str:
    """A configuration out of its template: placeholders are `@{name}`, since `$` means something in most of them."""
    text = (TEMPLATES / name).read_text("utf-8")
    return re.sub(r"@\{(\w+)\}", lambda match: str(values[match[1]]), text)


def free_ports(*names: str) -> dict[str, int]:
    """A port for each name that nobody listens at. All are held until all are found, so no two are the same."""
    with contextlib.ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in names}
        for one in sockets.values():
            one.bind((HOST, 0))
        return {name: one.getsockname()[1] for name, one in sockets.items()}


class Daemon:
    """A running server program.

    Args:
        name: what it is called in messages.
        command: its command line; it must stay in the foreground.
        ports: where it will answer.
        logs: the files it complains in; what it prints goes into the first.
    """

    def __init__(self, name: str, command: list[str], ports: Mapping[str, int], logs: list[Path]) -> None:
        self.name = name
        self.command = command
        self.ports = dict(ports)
        self.logs = logs
        self._process: Optional[subprocess.Popen[bytes]] = None

    def __repr__(self) -> str:
        return f"<{self.name} at {self.ports}>"

    def __enter__(self) -> Daemon:
        with open(self.logs[0], "ab") as output:
            # A session of its own: Ctrl-C is for the tests, which then stop it; and its children can be counted.
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(START_LIMIT)
            self._wait_until_gone()
        except BaseException:
            self._kill()
            raise

    def log(self, since: Optional[Mapping[Path, int]] = None) -> str:
        """What it complained of, `since` these lengths of its logs."""
        told = []
        for path in self.logs:
            if path.exists():
                text = path.read_bytes()[(since or {}).get(path, 0) :].decode(errors="replace")
                told += [f"{path.name}: {line}" for line in text.splitlines()[-40:]]
        return "\n".join(told)

    def log_lengths(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self.logs if path.exists()}

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_LIMIT
        for name, port in self.ports.items():
            while not answers(port):
                if self._process.poll() is not None:
                    raise self._failure(f"ended with status {self._process.returncode} before it answered")
                if time.monotonic() > deadline:
                    raise self._failure(f"did not answer at its port {name!r}")
                _pause.wait(0.01)

    def _wait_until_gone(self) -> None:
        """Its children too: a server that is gone only itself would go on answering."""
        assert self._process is not None
        deadline = time.monotonic() + START_LIMIT
        while _group_exists(self._process.pid):
            if time.monotonic() > deadline:
                raise self._failure("left processes behind")
            _pause.wait(0.01)
        still = [port for port in self.ports.values() if answers(port)]
        if still:
            raise self._failure(f"still answers at {still}")

    def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(START_LIMIT)

    def _failure(self, what: str) -> DaemonError:
        log = self.log()
        kind = _PortTaken if "in use" in log else DaemonError
        return kind(f"{self.name} {what}; its log:\n{log}")


def answers(port: int) -> bool:
    """Whether anybody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def running(make: Callable[[], Daemon]) -> Iterator[Daemon]:
    """Start what `make` makes; a port that somebody took since it was found free is chosen anew, by `make`."""
    with contextlib.ExitStack() as stack:
        for attempt in range(3):
            try:
                daemon = stack.enter_context(make())
                break
            except _PortTaken:
                if attempt == 2:
                    raise
        yield daemon
