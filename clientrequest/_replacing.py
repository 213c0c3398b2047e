"""A file that is there only once it is whole, in the place of the one that was there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

FOR_OWNER, FOR_ALL = 0o600, 0o666  # who may read it; of the latter the umask takes away what it takes of any new file

_BUFFER = 256 * 1024  # bytes that are collected before the system is asked to write them


@contextlib.contextmanager
def replacement(path: str, mode: int) -> Iterator[BinaryIO]:
    """A file for the block to write, which takes the place of ``path`` in one step when the block is left cleanly.

    Left by an exception it is removed, and what was at ``path`` is as it was. Raises ``OSError``.
    """
    folder, name = os.path.split(path)
    # Beside it, since a file can be moved in one step only within a file system.
    temporary = os.path.join(folder, f".{name[:100]}.{os.urandom(8).hex()}.part")
    try:
        with open(temporary, "xb", _BUFFER, opener=lambda new, flags: os.open(new, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a crash of the system could leave an empty file in the place of the old one
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
