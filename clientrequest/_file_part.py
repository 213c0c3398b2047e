"""Part of a file on disk as a chunk of a body: the system gives it to the socket, and Python never sees the bytes."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from typing import Any, Optional

from ._errors import TransferError

# The most that one call gives to the socket: Linux takes no more than 2 GiB at once.
_AT_ONCE = 1 << 30

CAN_SEND = hasattr(os, "sendfile") and hasattr(os, "pread")


class FilePart:
    """Bytes of a regular file, from an offset on. It has a descriptor of its own, so the file may be closed meanwhile.

    Args:
        descriptor: what is read.
        offset, size: which bytes.
    """

    __slots__ = ("_descriptor", "_offset", "_size")

    def __init__(self, descriptor: _Descriptor, offset: int, size: int) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._size = size

    def __len__(self) -> int:
        return self._size

    def after(self, count: int) -> FilePart:
        """What is left behind the first ``count`` bytes."""
        return FilePart(self._descriptor, self._offset + count, self._size - count)

    def send_to(self, sock: Any) -> int:
        """Have the socket take what it can at once. Raises ``BlockingIOError`` when that is nothing."""
        number = self._descriptor.number
        return self._whole(os.sendfile(sock.fileno(), number, self._offset, min(self._size, _AT_ONCE)))

    def read(self, size: int) -> bytes:
        """The first bytes, at most ``size``."""
        data = os.pread(self._descriptor.number, min(size, self._size), self._offset)
        self._whole(len(data))
        return data

    def _whole(self, count: int) -> int:
        if count == 0 and self._size:
            raise TransferError("ERR_UPLOAD_FILE_CHANGED", f"the file ended {self._size} bytes before its end")
        return count


class _Descriptor:
    """A copy of a file's descriptor, closed with the last part that needs it."""

    def __init__(self, number: int) -> None:
        self.number: int = os.dup(number)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.number)


def rest_of(file: Any, size: Optional[int] = None) -> Optional[FilePart]:
    """What a file has from its position on, at most ``size`` bytes; ``None`` if it is no plain file on disk.

    Asked for by its type, since others have a ``fileno()`` too: that of a ``GzipFile`` is of what it has not unpacked.
    """
    number = _plain_descriptor(file) if CAN_SEND else None
    if number is None:
        return None
    offset, left = _rest(file, number)
    return FilePart(_Descriptor(number), offset, left if size is None else min(left, size))


def size_of_rest(file: Any) -> Optional[int]:
    """How many bytes a file has from its position on; ``None`` where it would have to be read to know that."""
    if isinstance(file, io.BytesIO):
        return max(0, file.getbuffer().nbytes - file.tell())
    number = _plain_descriptor(file)
    return None if number is None else _rest(file, number)[1]


def _plain_descriptor(file: Any) -> Optional[int]:
    """The descriptor of a plain file on disk, with all that was written to it there; ``None`` for anything else."""
    if isinstance(file, tempfile._TemporaryFileWrapper):
        file = file.file
    raw = file.raw if isinstance(file, (io.BufferedReader, io.BufferedRandom)) else file
    if not isinstance(raw, io.FileIO) or not raw.readable():
        return None
    if raw.writable():
        file.flush()
    number = raw.fileno()
    return number if stat.S_ISREG(os.fstat(number).st_mode) else None


def _rest(file: Any, number: int) -> tuple[int, int]:
    """The position, and how many bytes there are from it on."""
    offset: int = file.tell()
    return offset, max(0, os.fstat(number).st_size - offset)
