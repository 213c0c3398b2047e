"""Where the body of an answer goes: standard output, or a file that is there only once it is whole."""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Callable, Optional

from ._errors import ClientRequestError
from ._replacing import FOR_ALL, replacement

Write = Callable[[bytes], object]


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
            with replacement(os.path.realpath(path), FOR_ALL) as file:
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
