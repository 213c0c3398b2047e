"""The other end of requests that are answered from memory: what a handler is given, what it returns, how that is sent.

``testing`` is what users see of it. Each connection is one end of a pair of sockets, with a thread that serves it; a
strict little server of HTTP/1.1, and no more than our own requests need.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import json as _json
import re
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable, Optional, Protocol, Union
from urllib.parse import parse_qs

from ._errors import InvalidStateError, ProtocolError
from ._gates import Gate
from ._http1 import (
    LAST_CHUNK,
    MAX_HEAD,
    TOKEN,
    BodyFraming,
    Bytes,
    LengthFraming,
    ResponseHead,
    body_framing,
    encode_chunk_size,
    keeps_alive,
    parse_fields,
)
from ._mapping import reset
from ._options import HeaderTable, Target

LOOK = 0.01  # seconds between two looks at whether the client is still there
_REQUEST_LINE = re.compile(rf"({TOKEN}) (\S+) HTTP/1\.1")
_THEN = ("read", "stop", "close")
_ALL = sys.maxsize  # bytes: more than there are
_ABSENT: Any = object()


class ClientGone(ConnectionError):
    """The client ended the connection before its body was whole.

    Raised in a handler by what reads the body; a handler need not catch it. Elsewhere by ``Request.body``.
    """


# --- what a handler is given ---------------------------------------------------------------------------------------


class Request:
    """A request as the server saw it.

    In its handler the body can be read while it arrives. Everywhere else, and at any time, this is a record.

    Attributes:
        method: as it was sent.
        url: where it went, without user name, password and fragment.
        target: path and query, as in the request line.
        path: the target without its query, percent-encoded as it came.
        query: name to list of values, decoded.
        headers: the lines in their order and spelling (``items()``, ``get_all(name)``); looked up without regard to
            case, ``None`` where there is none.
        connection: the number of the connection on which it came, from 1: two requests with the same shared it.
        size: bytes of the body that were read so far.
        complete: the body came whole, and was read. Never true of an upload that was aborted.
    """

    def __init__(self, line: Line, method: str, target: str, head: ResponseHead, keep_body: bool) -> None:
        self.method = method
        self.url: str = line.origin + target
        self.target = target
        path, _, query = target.partition("?")
        self.path: str = path
        self.query: dict[str, list[str]] = parse_qs(query, keep_blank_values=True)
        self.headers: http.client.HTTPMessage = http.client.HTTPMessage()
        for name, value in head.headers:
            self.headers[name] = value
        self.connection: int = line.number
        self.size: int = 0
        self._line = line
        self._framing = _request_framing(head)
        self.complete: bool = self._framing.complete
        self._keeps_alive = keeps_alive(head)
        self._expects = "100-continue" in head.tokens("expect")
        self._kept: Optional[list[Bytes]] = [] if keep_body else None
        self._unread: deque[Bytes] = deque()

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url} {self.size} bytes{'' if self.complete else ', not whole'}>"

    # --- in the handler ---

    def read(self, size: int = -1) -> bytes:
        """Read the body; in the handler only.

        Args:
            size: how many bytes, fewer come only at the end; below 0 for all that is left.

        Returns:
            ``b""`` at the end.

        Raises:
            ClientGone: the client went before that.
            InvalidStateError: called elsewhere.
        """
        left = _ALL if size < 0 else size
        pieces: list[Bytes] = []
        while left:
            piece = self._next_piece(left)
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def iter_chunks(self) -> Iterator[bytes]:
        """The body in pieces as they arrive; in the handler only. Raises as ``read`` does."""
        while piece := self._next_piece(_ALL):
            yield bytes(piece)

    # --- anywhere ---

    @property
    def body(self) -> bytes:
        """The whole body; in the handler it is read first.

        Raises:
            ClientGone: the client ended the connection before it was whole.
            InvalidStateError: elsewhere: it is not whole (yet), see ``received``. Or the bodies are not kept.
        """
        if self._kept is None:
            raise InvalidStateError("the body was not kept (keep_bodies=False); read() it in the handler")
        if self._line.is_current():
            self._read_up_to(None)
        if not self.complete:
            raise ClientGone(f"{self!r}: the body is not whole; received has what was read of it")
        return self.received

    @property
    def received(self) -> bytes:
        """What has been read of the body so far, whole or not. Raises ``InvalidStateError`` if bodies are not kept."""
        if self._kept is None:
            raise InvalidStateError("the body was not kept (keep_bodies=False); read() it in the handler")
        return b"".join(self._kept)

    def text(self, encoding: str = "utf-8") -> str:
        """The whole body as text. Raises as ``body`` does."""
        return self.body.decode(encoding)

    def json(self) -> Any:
        """What the whole body is the JSON of. Raises as ``body`` does, and ``ValueError`` where it is none."""
        return _json.loads(self.body)

    # --- on the thread of the server ---

    def _next_piece(self, most: int) -> Bytes:
        """The next bytes of the body, at most ``most``; none at its end."""
        if not self._line.is_current():
            raise InvalidStateError("a body is read in the handler; elsewhere ask for body or received")
        while not self._unread:
            if self._framing.complete:
                return b""
            if self._expects:
                self._expects = False
                self._line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._take(self._line.receive())
        piece = self._unread.popleft()
        if len(piece) > most:
            self._unread.appendleft(piece[most:])
            piece = piece[:most]
        self.size += len(piece)
        if self._kept is not None:
            self._kept.append(piece)
        self._look_whether_whole()
        return piece

    def _take(self, data: bytes) -> None:
        """Bytes that came."""
        self._unread.extend(self._framing.feed(data))
        if self._framing.surplus:
            raise ProtocolError("ERR_INVALID_HTTP_RESPONSE", "the client sent bytes behind the end of its body")
        self._look_whether_whole()

    def _look_whether_whole(self) -> None:
        self.complete = self._framing.complete and not self._unread

    def _read_up_to(self, size: Optional[int]) -> None:
        """Read until ``size`` bytes of the body were read, ``None`` for all."""
        while not self.complete and (size is None or self.size < size):
            self._next_piece(_ALL if size is None else size - self.size)


def _request_framing(head: ResponseHead) -> BodyFraming:
    """The framing of a request's body: that of a response, but without a length there is none (RFC 9112, 6.3)."""
    framing = body_framing(head, "")
    return LengthFraming(0) if framing.ends_with_connection else framing


# --- what it returns -----------------------------------------------------------------------------------------------


class Answer:
    """An answer, which may be told to go wrong.

    Args:
        status: 200 to 999.
        body: ``bytes`` or ``str``, sent with its length; or an iterable of such, sent in chunks as they come. An
            iterable may have ``threading.Event`` objects in it: there the answer stops until the test sets them. An
            iterator is good for one request.
        headers: a mapping or pairs. A ``Content-Length`` or ``Transfer-Encoding`` of yours is sent in place of ours,
            right or wrong, and the body behind it as it is. With ``Connection: close`` the server closes afterwards.
        json: sent as JSON, in place of a body.
        reason: the text behind the status, by default the one that belongs to it.
        hold: nothing of it is sent before this event is set.
        after: it is sent once so many bytes of the request's body were read, ``None`` for the whole body. Less than
            the whole makes it an early answer.
        then: what the server does behind an early answer: ``"read"`` the rest of the body and keep the connection,
            ``"stop"`` reading, or ``"close"`` the connection. The last one, unannounced, behind any answer.
        cut_after: the connection is closed after so many bytes of the body, before its end.
        reset_after: the same, by a reset.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """

    __slots__ = ("_body", "_chunked", "_closes", "_cut", "_head", "_resets", "after", "hold", "status", "then")

    def __init__(
        self,
        status: int = 200,
        body: Union[bytes, str, Iterable[Union[bytes, str, threading.Event]]] = b"",
        *,
        headers: Union[Mapping[str, Any], Iterable[tuple[str, Any]]] = (),
        json: Any = _ABSENT,
        reason: Optional[str] = None,
        hold: Optional[threading.Event] = None,
        after: Optional[int] = None,
        then: str = "read",
        cut_after: Optional[int] = None,
        reset_after: Optional[int] = None,
    ) -> None:
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError(f"status must be an int, not {type(status).__name__}")
        if not 200 <= status <= 999:
            raise ValueError(f"status: {status} is not the status of a final answer, 200 to 999")
        if hold is not None and not isinstance(hold, threading.Event):
            raise TypeError(f"hold must be a threading.Event or None, not {type(hold).__name__}")
        if then not in _THEN:
            raise ValueError(f"then: {then!r} is none of {', '.join(map(repr, _THEN))}")
        if cut_after is not None and reset_after is not None:
            raise ValueError("cut_after and reset_after: one of the two")
        self.hold: Optional[threading.Event] = hold
        self.after: Optional[int] = _checked_count("after", after)
        self.then = then
        self._resets = reset_after is not None
        cut_after, reset_after = _checked_count("cut_after", cut_after), _checked_count("reset_after", reset_after)
        self._cut = reset_after if self._resets else cut_after
        table = HeaderTable(headers)
        self._body = self._checked_body(body, json, table)
        if isinstance(self._body, bytes) and self._cut is not None and self._cut >= max(1, len(self._body)):
            raise ValueError(f"the body has {len(self._body)} bytes, and cannot be cut after {self._cut}")
        framed = table.has("content-length") or table.has("transfer-encoding")
        self._chunked = not framed and not isinstance(self._body, bytes)
        if self._chunked:
            table.set("Transfer-Encoding", "chunked")
        elif not framed and status not in (204, 304):
            assert isinstance(self._body, bytes)  # else it goes in chunks
            table.set("Content-Length", len(self._body))
        self._closes = "close" in (table.line("connection") or "").lower()
        self.status: int = status
        lines = "".join(f"{name}: {line}\r\n" for name, line in table.pairs())
        self._head = f"HTTP/1.1 {status} {_checked_reason(status, reason)}\r\n{lines}\r\n".encode("latin-1")

    @staticmethod
    def _checked_body(body: Any, json: Any, table: HeaderTable) -> Union[bytes, Iterable[Any]]:
        kind = ""
        if json is not _ABSENT:
            if body != b"":
                raise TypeError("body and json: one of the two")
            body, kind = _json.dumps(json).encode(), "application/json"
        elif isinstance(body, str):
            body, kind = body.encode(), "text/plain; charset=utf-8"
        if kind and not table.has("content-type"):
            table.set("Content-Type", kind)
        if isinstance(body, (bytes, bytearray, memoryview)):
            return bytes(body)
        if isinstance(body, Mapping) or not isinstance(body, Iterable):
            raise TypeError(f"body must be bytes, a str or an iterable of them, not {type(body).__name__}")
        return body

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"

    def _give(self, line: Line, request: Request) -> bool:
        """Send it; whether the connection goes on."""
        request._read_up_to(self.after)
        if self.hold is not None:
            line.await_event(self.hold)
        if request.method == "HEAD" or self.status in (204, 304):
            line.send(self._head)
        elif not self._send_with_body(line):
            return False
        if self.then == "close":
            return False
        if self.then == "stop" and not request.complete:
            line.await_end()
            return False
        request._read_up_to(None)
        return not self._closes and request._keeps_alive

    def _send_with_body(self, line: Line) -> bool:
        """Send it; false if it was broken off."""
        if isinstance(self._body, bytes) and self._cut is None:
            line.send(self._head + self._body)
            return True
        line.send(self._head)
        left = _ALL if self._cut is None else self._cut
        for piece in [self._body] if isinstance(self._body, bytes) else self._body:
            if isinstance(piece, threading.Event):
                line.await_event(piece)
                continue
            data = _checked_piece(piece)
            before, behind = (encode_chunk_size(len(data)), b"\r\n") if self._chunked and data else (b"", b"")
            if len(data) >= left:
                line.send(before + data[:left])
                break
            line.send(before + data + behind)
            left -= len(data)
        if self._cut is None:
            line.send(LAST_CHUNK if self._chunked else b"")
        elif self._resets:
            line.reset()
        return self._cut is None


class Reset:
    """No answer: the connection is reset.

    Args:
        after: once so many bytes of the request's body were read, ``None`` for the whole body.
    """

    def __init__(self, after: Optional[int] = None) -> None:
        self.after: Optional[int] = _checked_count("after", after)

    def __repr__(self) -> str:
        return f"Reset(after={self.after})"

    def _give(self, line: Line, request: Request) -> bool:
        request._read_up_to(self.after)
        line.reset()
        return False


class Silence:
    """No answer, and an open connection, until the client has had enough.

    Args:
        after: nothing is read any more once so many bytes of the request's body were, ``None`` for the whole body.
    """

    def __init__(self, after: Optional[int] = None) -> None:
        self.after: Optional[int] = _checked_count("after", after)

    def __repr__(self) -> str:
        return f"Silence(after={self.after})"

    def _give(self, line: Line, request: Request) -> bool:
        request._read_up_to(self.after)
        line.await_end()
        return False


class Raw:
    """Any bytes as an answer; behind them the connection is closed.

    Args:
        data: what is sent, head and all.
        after: once so many bytes of the request's body were read, ``None`` for the whole body.
    """

    def __init__(self, data: bytes, after: Optional[int] = None) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        self.data = data
        self.after: Optional[int] = _checked_count("after", after)

    def __repr__(self) -> str:
        return f"Raw({self.data!r}, after={self.after})"

    def _give(self, line: Line, request: Request) -> bool:
        request._read_up_to(self.after)
        line.send(self.data)
        return False


Reply = Union[Answer, Reset, Silence, Raw, bytes, str, int, dict[str, Any], list[Any]]
Handler = Callable[[Request], Reply]


def as_answer(reply: object) -> Union[Answer, Reset, Silence, Raw]:
    """What a handler's reply means. Raises ``TypeError`` if it means nothing."""
    if isinstance(reply, (Answer, Reset, Silence, Raw)):
        return reply
    if isinstance(reply, (bytes, str)):
        return Answer(body=reply)
    if isinstance(reply, int) and not isinstance(reply, bool):
        return Answer(reply)
    if isinstance(reply, (dict, list)):
        return Answer(json=reply)
    raise TypeError(
        "a handler must return an Answer, Reset, Silence or Raw, or, short for an Answer, bytes or str (a body), "
        f"int (a status), dict or list (JSON); not {type(reply).__name__}"
    )


def _checked_count(name: str, count: object) -> Optional[int]:
    if count is None:
        return None
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{name} must be an int or None, not {type(count).__name__}")
    if count < 0:
        raise ValueError(f"{name}: {count} is less than 0")
    return count


def _checked_piece(piece: object) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    raise TypeError(f"a body is made of bytes, str and threading.Event, not of {type(piece).__name__}")


def _checked_reason(status: int, reason: Optional[str]) -> str:
    if reason is None:
        return http.HTTPStatus(status).phrase if status in http.HTTPStatus._value2member_map_ else ""
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str or None, not {type(reason).__name__}")
    if not (reason.isascii() and reason.isprintable()):
        raise ValueError("reason: only printable ASCII can be sent")
    return reason


# --- connections ---------------------------------------------------------------------------------------------------


class Link:
    """What the two ends of a pair know of each other, and a pair of sockets does not tell."""

    def __init__(self) -> None:
        self.was_reset = False
        self.client_gone = False
        self.cut_off = False  # the server is being closed
        self.gate: Gate = Gate()  # takes no lock: the client's end may be closed by the garbage collector, anywhere

    def is_over(self) -> bool:
        return self.client_gone or self.cut_off


class ClientSocket(socket.socket):
    """The client's end of a pair."""

    def __init__(self, sock: socket.socket, link: Link) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self._link = link

    # The system makes a reset of an end by which bytes were left unread, or an end of it: here it is what it was to be.

    def recv(self, size: int, flags: int = 0) -> bytes:
        try:
            data = super().recv(size, flags)
        except ConnectionResetError:
            data = b""
        if not data and self._link.was_reset:
            raise reset()
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        try:
            count = super().recv_into(buffer, nbytes, flags)
        except ConnectionResetError:
            count = 0
        if not count and self._link.was_reset:
            raise reset()
        return count

    def close(self) -> None:
        super().close()
        self._link.client_gone = True
        self._link.gate.notify()


class Host(Protocol):
    """Whose connection it is; called on the connection's thread."""

    handler: Handler
    keep_bodies: bool

    def note(self, request: Request) -> None:
        """This was asked."""

    def report(self, error: BaseException) -> None:
        """The handler, or what it returned, raised this."""

    def left(self, line: Line) -> None:
        """The connection has ended."""


class Line(threading.Thread):
    """The server's end of one connection, and the thread that serves it."""

    def __init__(self, host: Host, number: int, target: Target, sock: socket.socket, link: Link) -> None:
        super().__init__(name=f"clientrequest-testing-{number}", daemon=True)
        self.number = number
        self.origin: str = f"{target.scheme}://{target.authority}"
        self.link = link
        self._host = host
        self._sock = sock
        self._closing = threading.Lock()  # nobody shuts a descriptor that is somebody else's by then

    def is_current(self) -> bool:
        """Whether this is the thread of the caller."""
        return threading.current_thread() is self

    # --- from any thread ---

    def cut_off(self) -> None:
        """End the connection under whoever waits for it."""
        self.link.cut_off = True
        self.link.gate.notify()
        with self._closing, contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    # --- on its own thread ---

    def run(self) -> None:
        try:
            while self._serve_one():
                pass
        except ClientGone:
            pass
        except BaseException as error:  # of a body that a handler made, or no HTTP/1.1 came
            self._host.report(error)
        finally:
            with self._closing:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)  # a forked child may have a copy, which holds it open
                self._sock.close()
            self._host.left(self)

    def _serve_one(self) -> bool:
        """Answer the next request; false when the connection has ended."""
        request = self._next_request()
        if request is None:
            return False
        self._host.note(request)
        try:
            answer = as_answer(self._host.handler(request))
        except ClientGone:
            raise
        except BaseException as error:
            self._host.report(error)
            answer = Answer(500, f"The handler raised {type(error).__name__}: {error}")
        return answer._give(self, request)

    def _next_request(self) -> Optional[Request]:
        """The next request, as far as its head; ``None`` if the client has ended the connection between two."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > MAX_HEAD:
                raise ProtocolError("ERR_INVALID_HTTP_RESPONSE", f"a head of more than {MAX_HEAD} bytes")
            try:
                data += self.receive()
            except ClientGone:
                return None
        request_line, _, fields = data[: end + 2].decode("latin-1").partition("\r\n")
        match = _REQUEST_LINE.fullmatch(request_line)
        if match is None:
            raise ProtocolError("ERR_INVALID_HTTP_RESPONSE", f"bad request line {request_line[:60]!r}")
        head = ResponseHead((1, 1), 200, "", parse_fields(fields))  # what is asked of it is the same for a request
        request = Request(self, match[1], match[2], head, self._host.keep_bodies)
        request._take(data[end + 4 :])
        return request

    def receive(self) -> bytes:
        """The next bytes, at least one. Raises ``ClientGone``."""
        try:
            data = self._sock.recv(65536)
        except OSError as error:
            raise ClientGone("the connection broke") from error
        if not data:
            raise ClientGone("the client ended the connection")
        return data

    def send(self, data: bytes) -> None:
        """All of it. Raises ``ClientGone``."""
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise ClientGone("the connection broke") from error

    def await_event(self, event: threading.Event) -> None:
        """Wait for an event of the test's. Raises ``ClientGone`` if the client or the server goes before that."""
        while not event.wait(LOOK):
            if self.link.is_over():
                raise ClientGone("the client ended the connection")

    def await_end(self) -> None:
        """Wait until the client or the server goes."""
        self.link.gate.wait_for(self.link.is_over)

    def reset(self) -> None:
        """Have the end that follows be a reset."""
        self.link.was_reset = True
