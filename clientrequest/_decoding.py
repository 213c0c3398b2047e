"""Content codings (RFC 9110, 8.4): gzip and deflate always, br and zstd where their packages are installed.

Push-style and bounded: compressed bytes go in, at most a given number of bytes comes out, so a bomb costs no
more memory than any other body. A truncated or damaged body is a ``ProtocolError``; urllib3's decoders cannot
tell a truncated one, which is why they are not used.
"""

from __future__ import annotations

import functools
import importlib
import zlib
from typing import Any, Optional, Protocol

from ._errors import ProtocolError

MOST_CODINGS = 5  # one inside the other; each costs a window of memory
MOST_WINDOW = 23  # of zstd, as a power of two: 8 MiB, beyond which nobody may go (RFC 9659, 3)
MOST_LOST = 16 * 1024 * 1024  # bytes that go from one coding to the next before anything comes out of the last


class Decoder(Protocol):
    """One content coding. ``read`` gives ``b""`` once it needs more input."""

    def feed(self, data: bytes) -> None: ...

    def read(self, limit: int) -> bytes: ...

    def finish(self) -> None:
        """The input is over: raise ``ProtocolError`` if the coded data is not."""


def make_decoder(codings: list[str]) -> Optional[Decoder]:
    """The decoder for a ``Content-Encoding`` with these items; ``None`` where it is unknown or not installed.

    Raises ``ProtocolError`` for too many of them.
    """
    applied = [coding for coding in codings if coding != "identity"]
    if len(applied) > MOST_CODINGS:
        raise ProtocolError("ERR_CONTENT_DECODING_FAILED", f"more than {MOST_CODINGS} content codings")
    if not applied or any(coding not in _FACTORIES or not _available(coding) for coding in applied):
        return None
    decoders: list[Decoder] = [_FACTORIES[coding]() for coding in reversed(applied)]  # the last one comes off first
    return decoders[0] if len(decoders) == 1 else _Chain(decoders)


@functools.lru_cache(maxsize=1)
def accept_encoding() -> str:
    """The value of ``Accept-Encoding`` for what is installed."""
    return ", ".join(coding for coding in ("gzip", "deflate", "br", "zstd") if _available(coding))


def _damaged(coding: str, cause: Optional[BaseException] = None) -> ProtocolError:
    error = ProtocolError("ERR_CONTENT_DECODING_FAILED", f"the body is no {coding} data, or damaged")
    error.__cause__ = cause
    return error


def _truncated(coding: str) -> ProtocolError:
    return ProtocolError("ERR_CONTENT_DECODING_FAILED", f"the {coding} data of the body is cut short")


class _Zlib:
    """gzip (RFC 1952, several members allowed) and deflate (RFC 1950, or RFC 1951 as some servers send it)."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._pending = b""
        self._started = False
        self._padded = False
        self._inflate: Any = None

    def feed(self, data: bytes) -> None:
        self._pending += data

    def read(self, limit: int) -> bytes:
        while self._pending or self._inflate is not None:
            if self._inflate is None and not self._begin():
                return b""
            try:
                piece: bytes = self._inflate.decompress(self._pending, limit)
            except zlib.error as cause:
                raise _damaged(self._coding, cause) from cause
            if self._inflate.eof:
                self._pending, self._inflate = self._inflate.unused_data, None
            else:
                self._pending = self._inflate.unconsumed_tail
            if piece:
                return piece
            if not self._pending:
                return b""
        return b""

    def _begin(self) -> bool:
        """Set up for the next member; false if there is none, or not enough is here to tell."""
        if self._coding == "gzip":
            if self._padded or (self._started and self._pending[:2] != b"\x1f\x8b"[: len(self._pending)]):
                self._padded = True
                self._pending = b""  # padding behind the last member, which every client passes over
                return False
            if self._started and len(self._pending) < 2:
                return False
            self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        else:
            if self._started:
                self._pending = b""
                return False
            if len(self._pending) < 2:
                return False
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if _has_zlib_header(self._pending) else -zlib.MAX_WBITS)
        self._started = True
        return True

    def finish(self) -> None:
        if self._inflate is not None or self._pending:
            raise _truncated(self._coding)


def _has_zlib_header(data: bytes) -> bool:
    return data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0


class _Brotli:
    """br (RFC 7932)."""

    def __init__(self) -> None:
        brotli = importlib.import_module("brotli")
        self._error: type[Exception] = brotli.error
        self._decompressor: Any = brotli.Decompressor()
        self._ready = b""  # its limit is a rough one: what came out beyond it
        self._pending = b""
        self._started = False

    def feed(self, data: bytes) -> None:
        self._started = True
        self._pending += data

    def read(self, limit: int) -> bytes:
        ready = self._ready or self._process(limit)
        self._ready = ready[limit:]
        return ready[:limit]

    def _process(self, limit: int) -> bytes:
        while not self._decompressor.is_finished():
            # It keeps what it could not put out yet, and refuses new input until that is taken.
            more = self._decompressor.can_accept_more_data()
            data, self._pending = (self._pending, b"") if more else (b"", self._pending)
            try:
                piece: bytes = self._decompressor.process(data, output_buffer_limit=limit)
            except self._error as cause:
                raise _damaged("br", cause) from cause
            if piece:
                return piece
            if more and not data:  # asked with nothing, as output may be left when all input is taken
                return b""
        if self._pending:  # what came along with the end it has refused itself
            raise _damaged("br")
        return b""

    def finish(self) -> None:
        if self._started and not self._decompressor.is_finished():
            raise _truncated("br")


class _Zstandard:
    """zstd (RFC 8878, several frames allowed)."""

    def __init__(self) -> None:
        self._module = _zstd_module()
        self._decompressor: Any = None
        self._pending = b""

    def feed(self, data: bytes) -> None:
        self._pending += data

    def read(self, limit: int) -> bytes:
        while self._pending or self._decompressor is not None:
            if self._decompressor is None:
                limits = {self._module.DecompressionParameter.window_log_max: MOST_WINDOW}
                self._decompressor = self._module.ZstdDecompressor(options=limits)
            if self._decompressor.needs_input and not self._pending:
                return b""
            data, self._pending = self._pending, b""
            try:
                piece: bytes = self._decompressor.decompress(data, limit)
            except self._module.ZstdError as cause:
                raise _damaged("zstd", cause) from cause
            if self._decompressor.eof:
                self._pending, self._decompressor = self._decompressor.unused_data, None
            if piece:
                return piece
        return b""

    def finish(self) -> None:
        if self._decompressor is not None:
            raise _truncated("zstd")


class _Chain:
    """Codings one inside the other; the outermost comes first."""

    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    def feed(self, data: bytes) -> None:
        self._decoders[0].feed(data)

    def read(self, limit: int) -> bytes:
        lost = 0
        while True:
            following: Optional[Decoder] = None
            for decoder in reversed(self._decoders):
                piece = decoder.read(limit)
                if piece:
                    break
                following = decoder
            if not piece or following is None:
                return piece
            # Padding and empty blocks come to nothing, and there may be thousands of times as many of them as bytes
            # came in, once for each coding: without a bound, some bytes would keep this busy for hours.
            lost += len(piece)
            if lost > MOST_LOST:
                raise ProtocolError("ERR_CONTENT_DECODING_FAILED", f"more than {MOST_LOST} bytes come to nothing")
            following.feed(piece)

    def finish(self) -> None:
        for decoder in self._decoders:
            decoder.finish()


def _zstd_module() -> Any:
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return importlib.import_module("backports.zstd")


@functools.cache
def _available(coding: str) -> bool:
    try:
        if coding == "br":
            # Before 1.2 its output could not be bounded.
            return hasattr(importlib.import_module("brotli").Decompressor, "can_accept_more_data")
        if coding == "zstd":
            _zstd_module()
    except ImportError:
        return False
    return True


_FACTORIES: dict[str, Any] = {
    "gzip": lambda: _Zlib("gzip"),
    "x-gzip": lambda: _Zlib("gzip"),
    "deflate": lambda: _Zlib("deflate"),
    "br": _Brotli,
    "zstd": _Zstandard,
}
