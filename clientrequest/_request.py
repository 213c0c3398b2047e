"""``ClientRequest``: the object that users write to."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Union

from ._body import BUFFERED, CHUNKED, LENGTH, NotOpenError, Outbox, Piece, Receipt
from ._dispatch import taking_error
from ._errors import AbortedError, ClientRequestError, InvalidStateError, ProtocolError
from ._events import Emitter, EventTarget
from ._exchange import Exchange
from ._file_part import FilePart, rest_of, size_of_rest
from ._incoming import Incoming
from ._later import LateModule
from ._life import log
from ._lifecycle import REQUEST_EVENTS
from ._multipart import FileRest, MultipartForm
from ._options import BODILESS, HeaderTable, add_query, check_framing_header, merge_options, parse_options
from ._response import IncomingMessage
from ._round_trip import Hop
from ._session import Session, default_session
from ._sources import check_length, chunks_of, content_of, first_bytes, measured, to_bytes, wrong_length
from ._values import Data, Pairs, encode_body, urlencoded

if TYPE_CHECKING:
    from concurrent import futures

    from ._future import ResponseFuture
else:
    futures = LateModule("concurrent.futures")

# Without a body these say nothing about one, even where chunks were asked for.
_NEVER_EMPTY_CHUNKS = frozenset({"GET", "HEAD", "DELETE"})

_NOT_GIVEN = object()

Chunk = Any  # bytes, str, or any object with the buffer interface
Callback = Callable[..., object]


class UploadProgress(NamedTuple):
    """How far an upload is; see ``ClientRequest.get_upload_progress``.

    Attributes:
        active: whether the request is under way.
        started: whether any of the body was given to the network.
        current: bytes of the body that the network took.
        total: bytes of the whole body, 0 while nobody knows.
    """

    active: bool
    started: bool
    current: int
    total: int


class ClientRequest(EventTarget, io.BufferedIOBase):
    """An HTTP request that is a writable binary file and an event emitter.

    After Electron's ``ClientRequest``. Nothing is connected before the first write of a streamed body, or ``end()``.
    Events: ``response``, ``login``, ``redirect``, ``finish``, ``abort``, ``error``, ``close``, ``drain``,
    ``upload-progress``, ``information``, ``continue``. Listeners run one at a time on the request's worker thread, or
    through the ``dispatcher``.

    Args:
        options: a URL, as ``str`` or parsed, or a mapping of options; see the README for all of them.
        callback: a listener for the one ``response``.
        **overrides: options that win over ``options``.

    Raises:
        TypeError, ValueError: an option is unknown, of a wrong type or has a bad value; the message names it.
    """

    _chunked_by_header = False
    _begun = False
    _file_closed = False
    _unclosed = ""  # the wrapper that was collected un-closed
    _response_ref: Optional[weakref.ref[IncomingMessage]] = None
    _future_ref: Optional[weakref.ref[ResponseFuture]] = None

    def __init__(
        self,
        options: object,
        callback: Optional[Callable[[IncomingMessage], object]] = None,
        **overrides: Any,
    ) -> None:
        session = overrides.pop("session", _NOT_GIVEN)  # so that what is left can be known from another request
        parsed = parse_options(options, overrides)
        session = _session_of(parsed.session if session is _NOT_GIVEN else session, parsed.partition)
        session._check_open()
        self._options = parsed
        self._session = session
        self._headers = self._initial_headers(session)
        self._chunked = parsed.chunked_encoding
        if parsed.headers:
            for name in ("content-length", "transfer-encoding"):
                if self._headers.has(name):
                    self._note_framing(name, self._headers.get(name))
        self._outbox = Outbox(parsed.high_water_mark, parsed.replay_limit)
        self._emitter = Emitter(REQUEST_EVENTS)
        self._lock = threading.Lock()  # begin, start and end, each once
        # A request made in an except block is not to be aborted by that block's exception; see close().
        self._handled_before = _mark(sys.exc_info()[1])
        self._exchange = Exchange(
            self,
            self._outbox,
            parsed.timeout or session._timeout,
            parsed.dispatcher or session._dispatcher,
            session._shared,
            parsed,
        )
        if callback is not None:
            self.once("response", callback)

    def _initial_headers(self, session: Session) -> HeaderTable:
        table = session._headers.copy()
        if self._options.origin is not None:
            table.set("Origin", self._options.origin)
        table.update(self._options.headers)
        return table

    # --- what it is ---

    @property
    def method(self) -> str:
        """The method, in upper case."""
        return self._options.method

    @property
    def url(self) -> str:
        """The URL asked for, without user name and password."""
        return self._options.target.url

    @property
    def session(self) -> Session:
        """The session it belongs to."""
        return self._session

    @property
    def chunked_encoding(self) -> bool:
        """Whether the body is streamed in chunks; may be set until the first write.

        Raises:
            InvalidStateError: set after the first write or ``end()``.
            ValueError: set together with a ``Content-Length`` header.
        """
        return self._chunked

    @chunked_encoding.setter
    def chunked_encoding(self, value: bool) -> None:
        self._check_not_begun("chunked_encoding can be set")
        if not isinstance(value, bool):
            raise TypeError(f"chunked_encoding must be True or False, not {type(value).__name__}")
        if value and self._headers.has("content-length"):
            raise ValueError("chunked_encoding: not allowed together with a Content-Length header")
        if not value:
            self._headers.remove("transfer-encoding")
        self._chunked = value

    def __repr__(self) -> str:
        target = self._options.target
        path = target.path.partition("?")[0]  # what follows may be a secret
        state = "aborted" if isinstance(self._exchange.failure, AbortedError) else self._exchange.phase.value
        return f"<ClientRequest {self.method} {target.scheme}://{target.authority}{path} {state}>"

    # --- headers (Electron: request.setHeader and its relatives) ---

    def set_header(self, name: str, value: Any) -> None:
        """Set a header, replacing one of that name and its spelling.

        Args:
            name: an HTTP token; goes out as spelled.
            value: goes out as ``str(value)``; a list or tuple as one line per item (``cookie``: joined by ``"; "``).

        Raises:
            InvalidStateError: after the first write or ``end()``.
            TypeError: the name is no ``str``, or the value is ``None``.
            ValueError: the name or the value cannot be sent; names the header.
        """
        self._check_not_begun("headers can be set")
        table = self._headers.copy()
        table.set(name, value)
        self._note_framing(name, value)
        self._headers = table

    def _note_framing(self, name: str, value: Any) -> None:
        framing = check_framing_header(name, value, self._chunked)
        if framing is True:
            if self._headers.has("content-length"):
                raise ValueError("header 'Transfer-Encoding': not allowed together with a Content-Length header")
            self._chunked = self._chunked_by_header = True

    def get_header(self, name: str) -> Any:
        """The value that was set, as the object it was; ``None`` if there is none. Case does not matter."""
        return self._headers.get(name)

    def remove_header(self, name: str) -> None:
        """Take a header away, a default one too. Raises ``InvalidStateError`` after the first write or ``end()``."""
        self._check_not_begun("headers can be removed")
        self._headers.remove(name)
        if name.lower() == "transfer-encoding" and self._chunked_by_header:
            self._chunked = self._chunked_by_header = False

    def has_header(self, name: str) -> bool:
        """Whether the header is set."""
        return self._headers.has(name)

    def get_headers(self) -> dict[str, Any]:
        """A copy of all headers: lower-case names, the values as set."""
        return self._headers.as_dict()

    def get_header_names(self) -> list[str]:
        """The names of all headers, in lower case and in order."""
        return self._headers.names()

    @property
    def headers_sent(self) -> bool:
        """Whether headers can no longer be changed: after the first write, ``flush_headers()`` or ``end()``."""
        return self._begun

    def _check_not_begun(self, what: str) -> None:
        if self._begun:
            raise InvalidStateError(f"{what} before the first write or end() only")

    # --- writing (Electron: request.write, request.end) ---

    def write(self, chunk: Chunk, encoding: Union[str, Callback] = "utf-8", callback: Optional[Callback] = None) -> int:
        """Take all of ``chunk``, or raise and take nothing. Any thread; each call is atomic.

        Blocks while more than ``high_water_mark`` bytes wait, unless called from a callback of this request or with
        ``blocking=False``. After an early answer (the server has had enough) it takes and drops.

        Args:
            chunk: ``bytes``, which are not copied; any other buffer, copied; ``str``, encoded.
            encoding: of a ``str``: any of Python's, ``hex`` or ``base64``.
            callback: called once, in order: with no error once the worker has the chunk, else with the error.

        Returns:
            The number of bytes taken.

        Raises:
            TypeError, ValueError: the chunk cannot be made bytes; the request is as it was.
            InvalidStateError: after ``end()``.
            ProtocolError: more bytes than ``Content-Length`` announced; nothing of the chunk is taken.
            ClientRequestError: what the request died of, ``AbortedError`` after ``abort()``.
        """
        data = chunk if type(chunk) is bytes else _to_bytes(chunk, encoding)
        receipt = None
        if callback is not None or not isinstance(encoding, str):
            receipt = _receipt(callback, encoding)
        try:
            room = self._outbox.put(data, receipt)
        except NotOpenError:
            room = self._write_first(data, receipt)
        if not room:
            self._wait_for_room()
        if receipt is not None and self._outbox.dropping:
            self._exchange.refuse()
        return len(data)

    def _write_first(self, data: Piece, receipt: Optional[Receipt]) -> bool:
        """A write that found the body not open: the first one, or one too late."""
        self._exchange.check_process()  # before the lock, which a thread of the parent may have held at the fork
        try:
            with self._lock:
                if self._unclosed and not self._file_closed:  # the last flush of the wrapper
                    self._begun = True
                    self._drop()
                    return True
                self._check_may_write("write")
                if self._outbox.open:  # another thread's write was the first
                    return self._outbox.put(data, receipt)
                self._begin()
                self._open()
                self._outbox.written = True
                try:
                    return self._outbox.put(data, receipt)
                finally:  # started even when it was too much: the next write finds the body open, and starts nothing
                    if self._outbox.mode is not BUFFERED:
                        self._start()
        except NotOpenError:  # it died at this very moment
            self._exchange.raise_failure()
            raise
        finally:
            self._exchange.launch()

    def _open(self) -> None:
        """Let ``write()`` put its chunks into the outbox directly, unless an abort came first."""
        self._outbox.admit()
        if self._exchange.failure is not None:
            self._outbox.shut()
            self._exchange.raise_failure()

    def _check_may_write(self, what: str) -> None:
        exchange = self._exchange
        if self._outbox.dropping and self._outbox.open:
            return
        exchange.raise_failure()
        if self._outbox.ended:
            raise InvalidStateError(f"{what}() after end()")

    def _begin(self) -> None:
        """The headers are final from here on."""
        if self._begun:
            return
        self._session._check_open()
        outbox = self._outbox
        announced = self._headers.line("content-length")
        if self._chunked:
            outbox.mode = CHUNKED
        elif announced is not None:
            outbox.mode, outbox.length = LENGTH, int(announced)
        self._begun = True

    def _start(self) -> None:
        outbox, method = self._outbox, self._options.method
        if outbox.mode is LENGTH:
            sends_body = True
        elif outbox.mode is CHUNKED:
            sends_body = outbox.written or not outbox.ended or method not in _NEVER_EMPTY_CHUNKS
        else:
            sends_body = outbox.written or method not in BODILESS
        headers = self._headers
        if not sends_body:
            headers.discard("transfer-encoding")
        self._exchange.start(Hop(method, self._options.target, headers, sends_body))
        if self._session._closed:  # asked after it was entered there: either ``close()`` finds it, or this does
            self._exchange.die(AbortedError("ERR_ABORTED", "the session was closed"))

    def _wait_for_room(self) -> None:
        outbox, exchange = self._outbox, self._exchange
        if not self._options.blocking or exchange.strand.is_current():
            outbox.need_drain = True
            exchange.wake()  # it may have made room already, and would not look again
            if outbox.dropping:  # and looks no more
                outbox.need_drain = False
            return
        try:
            outbox.room.wait_for(lambda: outbox.has_room() or exchange.over)
        except BaseException:
            # Ctrl-C: whether the chunk counts could not be told, so the body can no longer be a whole one.
            self.abort()
            raise
        if exchange.over:
            exchange.raise_failure()

    def end(
        self,
        chunk: Optional[Chunk] = None,
        encoding: Union[str, Callback] = "utf-8",
        callback: Optional[Callback] = None,
    ) -> ClientRequest:
        """End the body, after ``chunk`` if one is given. Any thread, never blocks.

        Args:
            chunk, encoding: as for ``write``.
            callback: called once: with no error when all of the body is with the worker, else with the error.

        Returns:
            The request itself.

        Raises:
            InvalidStateError: at a second call.
            ProtocolError: fewer bytes than ``Content-Length`` announced; the request is over then, never sent short.
            TypeError, ValueError, ClientRequestError: as ``write``.
        """
        if callable(chunk):
            chunk, callback = None, chunk
        data = None if chunk is None else chunk if type(chunk) is bytes else _to_bytes(chunk, encoding)
        receipt = None
        if callback is not None or not isinstance(encoding, str):
            receipt = _receipt(callback, encoding)
        outbox = self._outbox
        self._exchange.check_process()  # as in _write_first
        try:
            with self._lock:
                self._check_may_write("end")
                self._begin()
                if data is None:
                    self._exchange.raise_failure()
                else:
                    self._open()
                    try:
                        outbox.put(data)
                    except ProtocolError:
                        self._start()  # as in _write_first
                        raise
                    outbox.written = True
                self._exchange.hold(self)
                self._end_body(receipt)
                self._start()
        except NotOpenError:  # as in _write_first
            self._exchange.raise_failure()
            raise
        finally:
            self._exchange.launch()
        if receipt is not None and outbox.dropping:
            self._exchange.refuse()
        return self

    def _end_body(self, receipt: Optional[Receipt]) -> None:
        try:
            self._outbox.end(receipt)
        except ProtocolError as error:
            self._exchange.condemn(error)
            self._exchange.raise_failure()
            raise

    def pipe_from(self, source: Any, length: Optional[int] = None) -> int:
        """Write all of ``source``, without ending the body. Blocks as ``write`` does.

        Args:
            source: a readable (``read1`` is used where there is one, else ``read``) or an iterable of chunks.
            length: bytes that the source must have. A source that is cut short would otherwise pass for a whole one:
                several WSGI servers give a short read when their client dies.

        Returns:
            The number of bytes written.

        Raises:
            ProtocolError: the source has fewer or more bytes than ``length``; the request is aborted.
            TypeError: the source is neither readable nor iterable.
            Exception: whatever the source raises; the request is aborted.
        """
        check_length("length", length)
        return self._pipe(chunks_of(source, length), length)

    def _pipe(self, chunks: Iterable[Any], length: Optional[int], even_unwanted: bool = True) -> int:
        written = 0
        with self._committing():
            for data in measured(chunks, length):
                written += self.write(data)
                if self._outbox.dropping and not even_unwanted:
                    break
        return written

    @contextlib.contextmanager
    def _committing(self) -> Iterator[None]:
        """What raises in here aborts the request: a part of its source must not pass for the whole."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, ClientRequestError) and error.request is None:
                error.request = self
            self.abort()
            raise

    def send_file(self, file: Any, count: Optional[int] = None) -> int:
        """Write a file from its position on, without ending the body. Blocks as ``write`` does.

        A file on disk goes from the system's cache straight to the network (``os.sendfile``; over TLS in large
        blocks), and needs no memory to be sent again after a redirect or a login. It may be closed at once, but must
        not change until the request is over. Where no framing was chosen its size becomes the ``Content-Length``.
        Any other readable is written as ``pipe_from`` does, and so is every file once a buffered body has begun.

        Args:
            file: open for reading in binary mode. Its position moves as if it had been read.
            count: bytes to send, which it must have; by default all that it has.

        Returns:
            The number of bytes taken.

        Raises:
            ProtocolError: the file has fewer than ``count`` bytes, or more than ``Content-Length`` has room for; the
                request is aborted.
            TypeError: ``file`` is not readable, or is a text file.
            ClientRequestError: what the request died of; ``TransferError`` (ERR_UPLOAD_FILE_CHANGED) if the file was
                cut short meanwhile.
        """
        check_length("count", count)
        read = getattr(file, "read", None)
        if not callable(read) or isinstance(file, io.TextIOBase):
            raise TypeError(f"file must be readable, and open in binary mode, not {type(file).__name__}")
        part = None if self._begun and self._outbox.mode is BUFFERED else rest_of(file, count)
        if part is None:
            return self.pipe_from(file if count is None else first_bytes(read, count), count)
        with self._committing():
            if count is not None and len(part) < count:
                raise wrong_length(f"{len(part)} of the {count} bytes that it should have")
            self._choose_framing(len(part))
            self._write_part(part)
            file.seek(len(part), os.SEEK_CUR)
        return len(part)

    def _choose_framing(self, size: Optional[int]) -> None:
        """Where the user chose none: a body of this size is announced, one of which nobody knows it sent in chunks."""
        if self._begun or self._chunked or self._headers.has("content-length"):
            return
        if size is None:
            self.chunked_encoding = True
        else:
            self.set_header("Content-Length", size)

    def _write_part(self, part: FilePart) -> None:
        try:
            room = self._outbox.put_part(part)
        except NotOpenError:
            room = self._write_first(part, None)
        if not room:
            self._wait_for_room()

    def send(self, source: Any, length: Optional[int] = None) -> ClientRequest:
        """Write all of ``source`` and end the body: ``request.send(source).get_response()``. Blocks as ``write`` does.

        Where no framing was chosen, a size that is known becomes the ``Content-Length``: of ``bytes`` and text, of a
        file on disk, which goes the way of ``send_file``, of an ``io.BytesIO``, of a ``MultipartForm`` whose sizes are
        all known, or ``length``. Anything else is sent in chunks. After an early answer no more of it is read.

        Args:
            source: ``bytes`` or another buffer, ``str`` (sent in UTF-8), a binary file, from its position on, an
                iterable of chunks, or a ``MultipartForm``, whose ``Content-Type`` is set.
            length: bytes that the source must have, as for ``pipe_from``.

        Returns:
            The request itself.

        Raises:
            TypeError: the source is nothing of that; the request is as it was.
            ValueError: the ``Content-Type`` that is set does not belong to the form; the request is as it was.
            InvalidStateError: after ``end()``; or the form can be read only once, and was.
            ProtocolError: the source has fewer or more bytes than ``length`` or ``Content-Length``, or a file changed
                its size meanwhile; the request is aborted.
            ClientRequestError: what the request died of.
            Exception: whatever the source raises; the request is aborted.
        """
        check_length("length", length)
        form = source if isinstance(source, MultipartForm) else None
        content = source if form is not None else content_of(source)
        self._exchange.check_process()
        self._check_may_write("send")
        if form is not None:
            self._write_form(form, lambda: self._choose_framing(form.content_length if length is None else length))
        elif isinstance(content, bytes):
            return self._send_bytes(content, length)
        else:
            self._send_pieces(content, length)
        return self.end()

    def _send_bytes(self, content: bytes, length: Optional[int]) -> ClientRequest:
        try:
            if length is not None and length != len(content):
                raise wrong_length(f"{len(content)} of the {length} bytes that it should have")
            return self.end(content)
        except ProtocolError as error:  # after anything else nothing of it was taken
            error.request = self
            self.abort()
            raise

    def _send_pieces(self, source: Any, length: Optional[int]) -> None:
        with self._committing():
            size = size_of_rest(source)
            if length is not None and size is not None and size != length:
                raise wrong_length(f"{size} of the {length} bytes that it should have")
            self._choose_framing(length if size is None else size)
            if size is None:
                self._pipe(chunks_of(source, length), length, even_unwanted=False)
            else:
                self.send_file(source, size)

    def _write_form(self, form: MultipartForm, choose_framing: Callable[[], None] = lambda: None) -> None:
        """Write a form and set its ``Content-Type``, without ending the body."""
        form._check_unused()
        given = self._headers.get("content-type")
        if given is None:
            self.set_header("Content-Type", form.content_type)
        elif not form._is_announced_by(str(given)):
            raise ValueError("header 'Content-Type': has not the boundary of the form; leave it out, the form sets it")
        with self._committing(), contextlib.closing(form._pieces(files_whole=True)) as pieces:
            choose_framing()
            for piece in pieces:
                if isinstance(piece, FileRest):
                    self.send_file(*piece)
                else:
                    self.write(piece)
                if self._outbox.dropping:
                    break

    def flush(self) -> None:
        """Wait until what was written is with the network.

        At once when buffered, corked or not started, and in a callback of this request.

        Raises:
            ClientRequestError: what the request died of.
        """
        outbox, exchange = self._outbox, self._exchange
        if self._unclosed and not self._file_closed:  # the last flush of the wrapper
            return
        exchange.raise_failure()
        if not exchange.started or outbox.mode is BUFFERED or outbox.corked or not self._options.blocking:
            return
        if exchange.strand.is_current():
            return
        outbox.await_sent(lambda: exchange.over)
        exchange.raise_failure()

    def flush_headers(self) -> None:
        """Start a chunked or known-length request before there is anything of its body.

        Raises:
            InvalidStateError: the body is buffered, so its length, a header, is not known yet; or after ``end()``.
            ClientRequestError: what the request died of.
        """
        self._exchange.check_process()  # as in _write_first
        with self._lock:
            self._check_may_write("flush_headers")
            if not self._chunked and not self._headers.has("content-length"):
                raise InvalidStateError(
                    "flush_headers() needs chunked_encoding or a Content-Length header; this body waits for end()"
                )
            self._begin()
            self._open()
            self._start()
        self._exchange.launch()

    def cork(self) -> None:
        """Hold back what is written until ``uncork()`` or ``end()``. Calls nest."""
        self._outbox.corked += 1

    def uncork(self) -> None:
        """Send what was held back, at the call that matches the first ``cork()``."""
        outbox = self._outbox
        outbox.corked = max(0, outbox.corked - 1)
        if not outbox.corked:
            outbox.wake()

    @property
    def writable_length(self) -> int:
        """Bytes written that the network has not taken."""
        return self._outbox.waiting

    @property
    def writable_high_water_mark(self) -> int:
        """Bytes that may wait before ``write()`` does."""
        return self._outbox.high

    @property
    def writable_need_drain(self) -> bool:
        """Whether more than the mark is waiting, and a ``drain`` event will follow."""
        return self._outbox.need_drain

    @property
    def writable_ended(self) -> bool:
        """Whether ``end()`` was called."""
        return self._outbox.ended

    @property
    def writable_finished(self) -> bool:
        """Whether all of the body is with the worker (the ``finish`` event)."""
        return self._outbox.finished

    # --- as a file ---

    mode = "wb"
    if TYPE_CHECKING:
        name: Any  # there is none; without it a type checker refuses io.TextIOWrapper(request)

    def writable(self) -> bool:
        """Whether more of the body is wanted: not ended, not dead, and not answered early."""
        outbox = self._outbox
        return not (outbox.ended or outbox.dropping or self._file_closed or self._exchange.over)

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        """Bytes taken by ``write()``."""
        return self._outbox.taken

    @property
    def closed(self) -> bool:
        """Whether the file face is closed: by ``end()`` or ``close()``."""
        return self._file_closed or self._outbox.ended

    def close(self) -> None:
        """End the body, unless it has ended. Idempotent.

        While an exception is being handled it aborts instead, so that a ``TextIOWrapper`` or the like around the
        request that is left by an exception does not commit half a body.

        Raises:
            ClientRequestError: what the request died of before its body was whole, unless it was aborted.
        """
        if self._file_closed:
            return
        self._file_closed = True
        if self._outbox.ended:
            return
        handled = _mark(sys.exc_info()[1])
        if self._unclosed:
            self._exchange.drop(self)
        elif handled is not None and handled != self._handled_before:
            self.abort()
        elif not isinstance(self._exchange.failure, AbortedError):
            self.end()

    def __enter__(self) -> ClientRequest:
        return self

    def __exit__(
        self,
        exc_type: Optional[type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if exc_type is not None:
            self.abort()
            self._file_closed = True
            return
        self._handled_before = _mark(sys.exc_info()[1])  # of an except block around the with statement
        self.close()

    def _dealloc_warn(self, source: object) -> None:
        """Called by the wrappers of ``io`` when they are collected un-closed, before they flush and close us."""
        if not self._outbox.ended:
            self._unclosed = f"un-closed {type(source).__name__} around "
            self._drop()

    def _drop(self) -> None:
        if self._outbox.ended or self._outbox.dropping or self._exchange.over or not self._begun:
            return
        message = f"{self._unclosed}un-ended {self!r} was dropped; it is aborted"
        self._exchange.drop(self)
        if not self._exchange.started:
            self._outbox.close()
        warnings.warn(message, ResourceWarning, stacklevel=3, source=self)  # last: it may be an error

    def __del__(self) -> None:
        exchange = self.__dict__.get("_exchange")
        if exchange is None or exchange.is_foreign():
            return
        try:
            self._drop()
        finally:
            exchange.abandon(self)

    # --- the answer ---

    def get_response(self, timeout: Optional[float] = None) -> IncomingMessage:
        """Wait for the response, from any thread, as often as wanted. The body then counts as taken.

        Args:
            timeout: seconds, ``None`` to wait as long as the request's own limits let it live.

        Raises:
            TimeoutError: time is over; the request goes on.
            InvalidStateError: called in a callback of this request before its response.
            ClientRequestError: what the request died of, if that was before the response.
        """
        self._exchange.check_process()
        if self._exchange.incoming is None:
            self._exchange.check_may_wait("get_response()")
        incoming = self._exchange.wait_head(timeout)
        if incoming is None:
            raise TimeoutError(f"no response within {timeout} s")
        return self._response_for(incoming)

    @property
    def future(self) -> futures.Future[IncomingMessage]:
        """The response as a ``concurrent.futures.Future``: for ``as_completed``, ``wait``, ``asyncio.wrap_future``.

        Made when it is first asked for, be it before the start or after the end, and the same one as long as anybody
        holds it; hold it to ask later whether it was cancelled. It gives, or raises, what ``get_response()`` would; to
        ask for it is like calling that, and leaves the body to who reads it.
        ``cancel()`` before the response aborts the request. Callbacks added to it run on the request's worker, also
        where there is a ``dispatcher``, or in the thread that cancels; what they raise is logged. It does not hold a
        request that is yet to be ended: if that is dropped, the future has an ``AbortedError``.

        Raises:
            InvalidStateError: in a forked child, of a request of the parent.
        """
        from ._future import ResponseFuture  # not before somebody wants one: few do

        exchange = self._exchange
        exchange.check_process()
        with self._lock:  # two who ask at once get the same one
            future = None if self._future_ref is None else self._future_ref()
            if future is None:
                future = ResponseFuture(exchange)
                self._future_ref = weakref.ref(future)  # when it is done it holds the response, and that the request
                exchange.promise(future)
        exchange.settle()
        return future

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Wait for ``close``. A body that nobody took is thrown away.

        Args:
            timeout: seconds, ``None`` for no limit.

        Returns:
            ``False`` if time is over; the request goes on.

        Raises:
            InvalidStateError: called in a callback of this request.
            ClientRequestError: what the request died of, ``AbortedError`` after ``abort()``.
        """
        self._exchange.check_process()
        if not self._exchange.closed:
            self._exchange.check_may_wait("wait()")
        if not self._exchange.wait_closed(timeout):
            return False
        self._exchange.raise_failure()
        return True

    def _response_for(self, incoming: Incoming) -> IncomingMessage:
        """The one ``IncomingMessage``; a new one where the last was let go of, around the same body."""
        with self._lock:  # two who ask at once get the same one
            response = None if self._response_ref is None else self._response_ref()
            if response is None:
                exchange = self._exchange
                response = IncomingMessage(self, incoming)
                self._response_ref = weakref.ref(response, lambda _: exchange.rouse())
            return response

    def _response_alive(self) -> bool:
        return self._response_ref is not None and self._response_ref() is not None

    # --- ending it ---

    def abort(self) -> None:
        """End the request at once, in any phase, from any thread or signal handler. Never blocks; may be repeated.

        ``abort`` follows, then the response's ``aborted`` and ``close`` if there is one, then ``close``; no ``error``.
        Waiting calls raise ``AbortedError``. After ``close`` it has no effect.
        """
        self._exchange.abort()

    def follow_redirect(self) -> None:
        """Follow the redirect that is waiting for a decision (``redirect="manual"``). Any thread.

        In ``follow`` mode, inside the ``redirect`` listener, it has no effect.

        Raises:
            InvalidStateError: none is waiting.
        """
        self._exchange.follow_redirect()

    def get_upload_progress(self) -> UploadProgress:
        """How far the upload is. Inactive, all zero, before the start and after ``close``. Any thread."""
        exchange = self._exchange
        if not exchange.started or exchange.over:
            return UploadProgress(False, False, 0, 0)
        outbox = self._outbox
        return UploadProgress(True, outbox.started, outbox.position, outbox.total if outbox.started else 0)

    def _error_unseen(self, error: ClientRequestError) -> None:
        if not isinstance(error, AbortedError):
            log.error("%r failed and nobody listened: %s", self, error)

    # --- Electron's spelling ---

    chunkedEncoding = chunked_encoding
    setHeader = set_header
    getHeader = get_header
    removeHeader = remove_header
    followRedirect = follow_redirect
    getUploadProgress = get_upload_progress


def _session_of(given: object, partition: Optional[str]) -> Session:
    if given is None:
        return default_session() if partition is None else Session.from_partition(partition)
    if not isinstance(given, Session):
        raise TypeError(f"option 'session' must be a Session, not {type(given).__name__}")
    return given


def _to_bytes(chunk: Chunk, encoding: Union[str, Callback]) -> bytes:
    return to_bytes(chunk, encoding if isinstance(encoding, str) else "utf-8")


def _receipt(callback: Optional[Callback], encoding: Union[str, Callback, None]) -> Receipt:
    """A callback as the outbox keeps it. Like Node, ``write(chunk, callback)`` is understood."""
    function = encoding if callback is None else callback
    if not callable(function):
        what = "encoding must be a str" if callback is None else "callback must be callable"
        raise TypeError(f"{what}, not {type(function).__name__}")
    return taking_error(function)


_marks = itertools.count(1)


def _mark(error: Optional[BaseException]) -> Optional[int]:
    """A number that no other exception has; an ``id`` is soon another's. Kept in the exception, for to hold one is to
    hold all that its frames hold."""
    if error is None:
        return None
    mark: int = error.__dict__.setdefault("_clientrequest_mark", next(_marks))
    return mark


def make_request(
    options: object,
    callback: Optional[Callable[[IncomingMessage], object]],
    overrides: dict[str, Any],
    params: Optional[Pairs],
    data: Union[Data, MultipartForm, None],
    json: object,
) -> ClientRequest:
    """What ``request()`` and ``Session.request()`` do: ``params`` go into the URL, ``data`` or ``json`` is written."""
    if params is None and data is None and json is None:
        return ClientRequest(options, callback, **overrides)
    if data is not None and json is not None:
        raise ValueError("data and json: only one of them can be the body")
    given = merge_options(options, overrides)
    if params is not None:
        add_query(given, urlencoded("params", params))
    content, content_type = (data, None) if isinstance(data, MultipartForm) else encode_body(data, json)
    if content is not None:
        given.setdefault("method", "POST")
    request = ClientRequest(given, callback)
    if isinstance(content, MultipartForm):
        request._write_form(content)
    elif content is not None:
        if content_type is not None and not request.has_header("content-type"):
            request.set_header("Content-Type", content_type)
        with request._committing():
            request.write(content)
    return request
