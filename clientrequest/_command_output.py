"""Where the body of an answer goes: standard output, or a file that is there only once it is whole."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import select
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Callable, Optional

from ._errors import ClientRequestError

Write = Callable[[bytes], object]

_FILE_BUFFER = 256 * 1024  # bytes that are collected before the system is asked to write them


class LocalError(Exception):
    """Something here, no matter of the network, could not be read or written; the text says what, and why."""


class ReaderGone(Exception):
    """Whoever read standard output reads no more."""


def local_error(name: str, error: OSError) -> LocalError:
    """What the system says about a file, as it is told to the user."""
    return LocalError(f"{name}: {error.strerror or error}")


# --- standard output -------------------------------------------------------------------------------------------------


class StandardOutput:
    """Bytes to standard output at once, with no buffer in between that could fail later.

    Args:
        anything: whether what is no text may go to a terminal.

    Raises:
        LocalError: standard output is closed.
    """

    def __init__(self, anything: bool = False) -> None:
        number = descriptor_of(sys.stdout)
        if number is None:
            raise LocalError("standard output is closed")
        self._file = open(number, "wb", buffering=0, closefd=False)  # noqa: SIM115  (not ours to close)
        self.is_terminal = self._file.isatty()
        self._refuses = self.is_terminal and not anything

    def write(self, data: bytes) -> None:
        """Write all of it.

        Raises:
            ReaderGone: it is a pipe that nobody reads any more.
            LocalError: it cannot be written to, or is a terminal and this is no text.
        """
        if self._refuses and b"\0" in data:
            raise LocalError("the body is not text; use -o FILE, or -o - to have it on the terminal all the same")
        rest = memoryview(data)
        try:
            while rest:
                count = self._file.write(rest)
                if count is None:  # somebody who has the other end of this terminal or pipe made it non-blocking
                    select.select([], [self._file], [])
                else:
                    rest = rest[count:]
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise local_error("standard output", error) from None


def descriptor_of(stream: Any) -> Optional[int]:
    """The descriptor behind ``sys.stdin``, ``sys.stdout`` or ``sys.stderr``; ``None`` if it is closed."""
    try:
        number: int = stream.fileno()
    except (AttributeError, ValueError, io.UnsupportedOperation):
        return None
    return number


# --- a file ----------------------------------------------------------------------------------------------------------


def check_target(path: str) -> None:
    """See early what would go wrong late. Raises ``LocalError``."""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        raise LocalError(f"{path}: Is a directory")
    if not os.path.isdir(folder):
        raise LocalError(f"{path}: there is no folder {folder}")
    if not os.access(folder if _is_replaceable(path) else path, os.W_OK):
        raise LocalError(f"{path}: Permission denied")


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[Write]:
    """A file for the block to write, which takes the place of ``path`` when the block is left cleanly.

    Left by an exception it is removed, and what was at ``path`` is as it was. A device or a named pipe, which cannot be
    replaced, is written to.

    Raises:
        LocalError: it cannot be written.
    """
    try:
        if _is_replaceable(path):
            with _replacement(os.path.realpath(path)) as file:
                yield file.write
        else:
            with open(path, "wb") as device:
                yield lambda data: _write_through(device, data)
    except ClientRequestError:  # an OSError too
        raise
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        raise local_error(path, error) from error


def _is_replaceable(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True  # there is nothing yet


def _write_through(device: BinaryIO, data: bytes) -> None:
    device.write(data)
    device.flush()


@contextlib.contextmanager
def _replacement(path: str) -> Iterator[BinaryIO]:
    folder, name = os.path.split(path)
    # Beside it, since a file can be moved in one step only within a file system.
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(8)}.part")
    try:
        # Not mkstemp, whose files are for their owner alone: this one is to have the permissions of any new file.
        with open(temporary, "xb", _FILE_BUFFER) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a crash of the system could leave an empty file in the place of the old one
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
