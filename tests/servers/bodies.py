"""Bodies to upload. Knows nothing of the library, so that the servers start without it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

MEBIBYTE = 1024 * 1024
LARGE = 64 * MEBIBYTE
SMALL = 300_000  # below the default `replay_limit`, and more than a socket takes at once
MIDDLING = 8 * MEBIBYTE  # beyond the default `replay_limit`


@dataclass(frozen=True)
class Body:
    """Bytes that are made while they are sent, no two pieces alike."""

    length: int

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, self.length, MEBIBYTE):
            yield _piece(start // MEBIBYTE)[: self.length - start]

    @property
    def sha256(self) -> str:
        return _sha256(self)


def _piece(number: int) -> bytes:
    return number.to_bytes(4, "big") * (MEBIBYTE // 4)


@functools.cache
def _sha256(body: Body) -> str:
    digest = hashlib.sha256()
    for piece in body.pieces():
        digest.update(piece)
    return digest.hexdigest()
