"""``IncomingMessage``: the response, as users hold it."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

from ._errors import AbortedError, ClientRequestError, StatusError
from ._events import EventTarget
from ._http1 import Headers
from ._incoming import BLOCK, EVENTS, Incoming

if TYPE_CHECKING:
    from ._request import ClientRequest

WritableT = TypeVar("WritableT")

# Of these a second line is discarded (Electron: response.headers).
_SINGLE = frozenset(
    {
        "age",
        "authorization",
        "content-length",
        "content-type",
        "etag",
        "expires",
        "from",
        "host",
        "if-modified-since",
        "if-unmodified-since",
        "last-modified",
        "location",
        "max-forwards",
        "proxy-authorization",
        "referer",
        "retry-after",
        "server",
        "user-agent",
    }
)


def fold_headers(headers: Headers) -> dict[str, Union[str, list[str]]]:
    """Header lines as a mapping, by Electron's rules."""
    folded: dict[str, Any] = {}
    for name, value in headers:
        key = name.lower()
        if key == "set-cookie":
            folded.setdefault(key, []).append(value)
        elif key not in folded:
            folded[key] = value
        elif key not in _SINGLE:
            folded[key] += ("; " if key == "cookie" else ", ") + value
    return folded


class IncomingMessage(EventTarget, io.BufferedIOBase):
    """The response to a ``ClientRequest``: a readable binary file, or an emitter of ``data`` and ``end``.

    After Electron's ``IncomingMessage``. It is one or the other: reading after a ``data`` listener, ``resume()`` or
    ``pipe()``, or the other way round, raises ``InvalidStateError``. Events: ``data``, ``end``, ``aborted``, ``error``,
    ``close``, ``download-progress``. Made by the request only.
    """

    def __init__(self, request: ClientRequest, incoming: Incoming) -> None:
        self._request = request
        self._incoming = incoming
        self._emitter = incoming.emitter

    # --- the head ---

    @property
    def status_code(self) -> int:
        """Such as 200."""
        return self._incoming.head.status

    @property
    def status_message(self) -> str:
        """The reason phrase, such as ``"OK"``; may be empty."""
        return self._incoming.head.reason

    @property
    def headers(self) -> dict[str, Union[str, list[str]]]:
        """Lower-case names; ``set-cookie`` is a list, duplicates are discarded or joined by Electron's rules."""
        return fold_headers(self._incoming.head.headers)

    @property
    def raw_headers(self) -> list[str]:
        """Name, value, name, value, ... as they came: order, spelling and duplicates."""
        return [text for line in self._incoming.head.headers for text in line]

    @property
    def http_version(self) -> str:
        """Such as ``"1.1"``."""
        return f"{self.http_version_major}.{self.http_version_minor}"

    @property
    def http_version_major(self) -> int:
        """Such as 1."""
        return self._incoming.head.version[0]

    @property
    def http_version_minor(self) -> int:
        """Such as 1."""
        return self._incoming.head.version[1]

    @property
    def trailers(self) -> dict[str, Union[str, list[str]]]:
        """The header lines behind a chunked body, folded like ``headers``; empty before the end."""
        return fold_headers(self._incoming.trailers)

    @property
    def url(self) -> str:
        """The URL that answered, after redirects, without user name and password."""
        target = self._request._exchange.target
        return self._request.url if target is None else target.url

    @property
    def redirects(self) -> list[str]:
        """The URLs that redirected on the way here, in order."""
        return list(self._request._exchange.redirects)

    @property
    def request(self) -> ClientRequest:
        """The request that this answers."""
        return self._request

    @property
    def complete(self) -> bool:
        """Whether all of the body has come, whole, off the network."""
        return self._incoming.complete

    @property
    def error(self) -> Optional[ClientRequestError]:
        """What the response died of, or that its login was cancelled; ``None`` while all is well."""
        exchange = self._request._exchange
        return exchange.failure or exchange.login_error

    def raise_for_status(self) -> IncomingMessage:
        """Raise for a status of 400 or more, else give the response itself. Leaves the body alone.

        Raises:
            StatusError: names method, URL and status.
        """
        status, reason = self.status_code, self.status_message
        if status < 400:
            return self
        url = self.url.partition("?")[0]  # what follows may be a secret
        detail = f"{self._incoming.method} {url} was answered with {status} {reason}".rstrip()
        error = StatusError(None, detail, status, reason, url)
        error.request = self._request
        raise error

    def __repr__(self) -> str:
        return f"<IncomingMessage {self.status_code} {self.status_message} of {self._request!r}>"

    # --- the event face ---

    def pause(self) -> IncomingMessage:
        """Stop the ``data`` events. At most 64 KiB are read ahead then, so that TCP holds the server back."""
        self._incoming.flow(False)
        return self

    def resume(self) -> IncomingMessage:
        """Let ``data`` events flow; without a listener the body is thrown away.

        Raises:
            InvalidStateError: the body is read as a file, or the request is closed.
        """
        self._check_open_for_events("resume()")
        self._incoming.flow(True)
        return self

    def is_paused(self) -> bool:
        """Whether no ``data`` events flow: nobody has asked for them yet, or ``pause()`` was called."""
        return self._incoming.flowing is not True

    def set_encoding(self, encoding: Optional[str]) -> IncomingMessage:
        """Give ``data`` listeners text instead of bytes; characters are never cut in two.

        Raises:
            LookupError: there is no such encoding.
        """
        self._incoming.text_decoder = None if encoding is None else codecs.getincrementaldecoder(encoding)("replace")
        return self

    def pipe(self, writable: WritableT, end: bool = True) -> WritableT:
        """Write all data to ``writable`` as it comes; its ``write`` may block, which holds the server back.

        Args:
            writable: anything with ``write(bytes)``; another ``ClientRequest`` for instance.
            end: call its ``end()``, if it has one, after a whole body. A body that broke off calls ``abort()``
                instead, if there is one. A file is left open.

        Returns:
            ``writable``.
        """
        self._check_open_for_events("pipe()")
        write = getattr(writable, "write", None)
        if not callable(write):
            raise TypeError(f"{type(writable).__name__} has no write()")
        finish, abort = getattr(writable, "end", None), getattr(writable, "abort", None)
        if end and callable(finish):
            self.on("end", lambda: finish())
        if callable(abort):
            self.on("aborted", lambda: abort())
            self.on("error", lambda error: abort())
        self.on("data", write)
        return writable

    def _add_listener(self, name: str, listener: Callable[..., object], once: bool) -> None:
        if name == "data":
            self._check_open_for_events("a data listener")
            self._incoming.choose(EVENTS)
        super()._add_listener(name, listener, once)
        if name == "data" and self._incoming.flowing is None:
            self._incoming.flow(True)

    def _check_open_for_events(self, what: str) -> None:
        incoming = self._incoming
        if incoming.settled or (self._request._exchange.closed and incoming.face is None):
            incoming.refuse_events(what)

    # --- the file face ---

    mode = "rb"
    if TYPE_CHECKING:
        name: Any  # there is none; without it a type checker refuses io.TextIOWrapper(response)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._incoming.closed

    def _reader(self) -> io.BufferedReader:
        self._check_readable()
        return self._incoming.reader()

    def _check_readable(self) -> None:
        if self._incoming.closed:
            raise ValueError("I/O operation on a closed response")
        failure = self._request._exchange.failure
        if isinstance(failure, AbortedError):
            self._request._exchange.raise_failure()

    def _note(self) -> None:
        """An error that a reader was given needs no log."""
        self._request._exchange.error_seen = True

    def read(self, size: Optional[int] = -1) -> bytes:
        """Read ``size`` bytes, fewer only at the end; all of the rest without a size. Blocks; any thread.

        Raises:
            InvalidStateError: the body is taken by events, or was thrown away.
            ClientRequestError: what the response died of, after what came before it was read.
            ValueError: the response was closed.
        """
        try:  # written out each time: blocks and lines are many
            if size is not None and size >= 0:
                return self._reader().read(size)
            self._check_readable()
            return self._incoming.read_all()
        except ClientRequestError:
            self._note()
            raise

    def read1(self, size: int = -1) -> bytes:
        """Read what is there, at most ``size`` bytes; blocks only while there is nothing. Raises as ``read``."""
        try:
            return self._reader().read1(size if size >= 0 else BLOCK)
        except ClientRequestError:
            self._note()
            raise

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, less only at the end. Gives the number of bytes. Raises as ``read``."""
        try:
            return self._reader().readinto(buffer)
        except ClientRequestError:
            self._note()
            raise

    def readinto1(self, buffer: Any) -> int:
        """Like ``readinto``, with what is there."""
        try:
            return self._reader().readinto1(buffer)
        except ClientRequestError:
            self._note()
            raise

    def readline(self, size: Optional[int] = -1) -> bytes:
        """Read a line with its end. Raises as ``read``."""
        try:
            return self._reader().readline(-1 if size is None else size)
        except ClientRequestError:
            self._note()
            raise

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def iter_chunks(self, size: Optional[int] = None) -> Iterator[bytes]:
        """Pieces of the body: of ``size`` bytes, the last one shorter; without a size as they arrive."""
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1, not {size}")
        while True:
            piece = self.read1() if size is None else self.read(size)
            if not piece:
                return
            yield piece

    def text(self, encoding: Optional[str] = None, errors: str = "replace") -> str:
        """The rest of the body as text: in ``encoding``, else the ``charset`` of ``Content-Type``, else UTF-8."""
        return self.read().decode(encoding or self._charset() or "utf-8", errors)

    def json(self) -> Any:
        """The rest of the body as JSON (UTF-8, UTF-16 or UTF-32, RFC 8259). Raises ``ValueError``."""
        return json.loads(self.read())

    def _charset(self) -> Optional[str]:
        for item in str(self.headers.get("content-type", "")).split(";")[1:]:
            name, _, value = item.partition("=")
            if name.strip().lower() == "charset":
                try:
                    return codecs.lookup(value.strip().strip("\"'")).name
                except LookupError:
                    return None
        return None

    def close(self) -> None:
        """Throw away what is left of the body. The connection is kept if all of it is here already. Idempotent."""
        if not self._incoming.closed:
            self._incoming.closed = True
            self._request._exchange.wake()

    def __del__(self) -> None:
        """Nothing: a response that is let go of may be asked for again by ``get_response()``."""

    # --- Electron's spelling ---

    statusCode = status_code
    statusMessage = status_message
    rawHeaders = raw_headers
    httpVersion = http_version
    httpVersionMajor = http_version_major
    httpVersionMinor = http_version_minor
