"""What bodies are made of: bytes, text, files and iterables, as pieces of bytes, counted where a length is known."""

from __future__ import annotations

import base64
import errno
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable, Optional

from ._errors import ProtocolError

BLOCK = 64 * 1024  # bytes that are read at once
_NODE_ENCODINGS = {"binary": "latin-1", "ucs2": "utf-16-le", "ucs-2": "utf-16-le", "utf16le": "utf-16-le"}


def to_bytes(chunk: Any, encoding: str = "utf-8") -> bytes:
    """A chunk as bytes: text is encoded, a buffer copied. Raises ``TypeError`` or ``ValueError``."""
    if type(chunk) is bytes:
        return chunk
    if isinstance(chunk, str):
        return _encode(chunk, encoding)
    try:
        return memoryview(chunk).tobytes()
    except TypeError:
        raise TypeError(f"a chunk must be bytes, a buffer or str, not {type(chunk).__name__}") from None


def _encode(text: str, encoding: str) -> bytes:
    name = encoding.lower()
    try:
        if name == "hex":
            return bytes.fromhex(text)
        if name == "base64":
            return base64.b64decode(text, validate=True)
        return text.encode(_NODE_ENCODINGS.get(name, encoding))
    except LookupError:
        raise ValueError(f"unknown encoding {encoding!r}") from None


def check_length(name: str, length: Optional[int]) -> None:
    """Raise ``ValueError`` for what is no number of bytes."""
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 0):
        raise ValueError(f"{name} must be a number of bytes or None, not {length!r}")


def content_of(source: Any) -> Any:
    """A whole content, checked: ``bytes`` for text and buffers, a binary file or an iterable as it is.

    Raises:
        TypeError: it is none of these, or a text file, or one that is not open for reading, or a file of which only a
            coroutine can read.
        ValueError: the file is closed.
    """
    read = getattr(source, "read", None)
    if callable(read):
        if isinstance(source, io.TextIOBase):
            raise TypeError(f"a file must be open in binary mode, not {type(source).__name__}")
        import inspect  # as in _dispatch

        if inspect.iscoroutinefunction(read):
            raise TypeError(f"read() of a {type(source).__name__} is a coroutine function, which nobody would await")
        readable = getattr(source, "readable", None)
        if callable(readable) and not readable():
            raise TypeError(f"a file must be open for reading, and this {type(source).__name__} is not")
        return source
    if isinstance(source, (str, bytes)):
        return to_bytes(source)
    try:
        return memoryview(source).tobytes()
    except TypeError:
        pass
    if isinstance(source, Iterable) and not isinstance(source, Mapping):
        return source
    raise TypeError(f"expected bytes, str, a binary file or an iterable of chunks, not {type(source).__name__}")


def chunks_of(source: Any, length: Optional[int]) -> Iterator[Any]:
    """The pieces of a readable or an iterable; of a readable with a length no more than that is asked for at once."""
    read = getattr(source, "read1", None) or getattr(source, "read", None)
    if callable(read):
        return _read_chunks(source, read, length)
    if isinstance(source, (str, bytes, bytearray, memoryview)) or not isinstance(source, Iterable):
        raise TypeError(f"source must be readable or an iterable of chunks, not {type(source).__name__}")
    return iter(source)


def measured(chunks: Iterable[Any], length: Optional[int], whose: str = "the source") -> Iterator[bytes]:
    """The same chunks as bytes. Raises ``ProtocolError`` where they are fewer or more than ``length`` bytes.

    The one that makes them ``length`` bytes comes when there are no more: with it a body of that length is whole.
    """
    count, last = 0, None
    for chunk in chunks:
        data = to_bytes(chunk)
        count += len(data)
        if length is not None and count > length:
            raise wrong_length(f"more than the {length} bytes that it should have", whose)
        if count != length:
            yield data
        elif data or last is None:
            last = data
    if length is not None and count < length:
        raise wrong_length(f"{count} of the {length} bytes that it should have", whose)
    if last is not None:
        yield last


def wrong_length(has: str, whose: str = "the source") -> ProtocolError:
    """The error for a source that is not as long as it should be."""
    return ProtocolError("ERR_CONTENT_LENGTH_MISMATCH", f"{whose} has {has}")


def first_bytes(read: Callable[[int], Any], count: int) -> Iterator[Any]:
    """What ``read`` gives, up to so many bytes."""
    while count > 0:
        chunk = read(min(BLOCK, count))
        if not chunk:
            return
        yield chunk
        count -= len(chunk)


def _read_chunks(source: Any, read: Callable[[int], Any], length: Optional[int]) -> Iterator[Any]:
    left = length
    while left is None or left > 0:
        chunk = read(BLOCK if left is None else min(BLOCK, left))
        if chunk is None:
            raise BlockingIOError(errno.EAGAIN, "the source has nothing to read yet, and that is not its end")
        if not chunk:
            return
        yield chunk
        if left is not None:
            left -= len(chunk) if isinstance(chunk, bytes) else len(to_bytes(chunk))
    if not _is_socket_file(source):
        more = read(1)
        if more:
            yield more


def _is_socket_file(source: Any) -> bool:
    """Whether this reads from a socket, as ``wsgi.input`` does in wsgiref: behind the length another byte would be
    waited for until the client goes away, so it is not asked for one."""
    return type(getattr(source, "raw", source)).__name__ == "SocketIO"
