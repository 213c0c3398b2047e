"""A raw HTTP server for tests that care about every byte, and places where no server answers.

`Peer` accepts connections on loopback and runs one function per connection, in a thread of its own. That
function holds a `Conn`: it reads what the client really sent, strictly, and sends exactly the bytes the
test wants, right or wrong. Every wait has a limit and none is a sleep, so a test that goes wrong fails with
a reason instead of hanging.

Which thread: a handler may call everything on its `Conn`. The test's thread may call `close()` and
`reset()` at any time, whatever the handler is waiting for, and may read the counters; all other calls
belong to the handler.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import http
import json
import os
import re
import select
import selectors
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Callable, Protocol, TypeVar, Union

LIMIT = 10.0
"""Seconds that any wait of the toolkit may take before the test fails."""

CRLF = b"\r\n"
MAX_HEAD = 1 << 20
RECEIVE_SIZE = 256 * 1024

T = TypeVar("T")
Header = tuple[str, str]
Handler = Callable[["Conn"], object]
Headers = Union[Mapping[str, str], Iterable[Header]]
Answer = tuple[int, Headers]

_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (\S+) (HTTP/1\.[01])")
_FIELD_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t -~\x80-\xff]*)")
_CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_LINGER_FORMAT = "hh" if sys.platform == "win32" else "ii"
# Not epoll: it would cost one more descriptor per wait. Not select: it knows no descriptor above 1023.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


class PeerTimeout(AssertionError):
    """Something that the test expects did not happen within the limit."""


class BadRequest(AssertionError):
    """The client sent something that is no valid HTTP/1.1 request."""


class EndOfStream(ConnectionError):
    """The client ended the connection where more was expected; `partial` is what came of it."""

    def __init__(self, message: str, partial: bytes = b"") -> None:
        super().__init__(message)
        self.partial = partial


class Stopped(ConnectionError):
    """The test itself ended this connection, from outside of the handler: not an end by the client."""


# ------------------------------------------------------------------------------
# Gates


class _Here(threading.local):
    """What the calling thread serves, so that a gate knows whether its waiter was told to stop."""

    wire: _Wire | None = None


_here = _Here()


class Gate:
    """An event that two threads order themselves with; waiting for it fails instead of hanging.

    A handler that waits here is also freed, with `Stopped`, when its connection is ended by the test: a
    failing test does not have to open its gates.
    """

    def __init__(self, name: str = "gate") -> None:
        self.name = name
        self._condition = threading.Condition()
        self._open = False

    def __repr__(self) -> str:
        return f"<Gate {self.name!r} {'open' if self._open else 'shut'}>"

    def set(self) -> None:
        """Open the gate, for good: all who wait and who come later pass."""
        with self._condition:
            self._open = True
            self._condition.notify_all()

    def is_set(self) -> bool:
        return self._open

    def wait(self, timeout: float = LIMIT) -> None:
        """Pass once the gate is open.

        Raises:
            PeerTimeout: it did not open in time.
            Stopped: in a handler whose connection the test has ended.
        """
        wire = _here.wire
        if wire is None:
            self._wait_unless(lambda: False, timeout)
            return
        # First say where we wait, then look whether to stop; `_Wire.stop` does the two in the other order. So
        # either it finds this gate and rings, or we see that it has been here.
        wire.waits_at = self
        self._wait_unless(wire.is_stopped, timeout)
        wire.waits_at = None
        wire.check()

    def _wait_unless(self, given_up: Callable[[], bool], timeout: float) -> None:
        with self._condition:
            if not self._condition.wait_for(lambda: self._open or given_up(), timeout):
                raise PeerTimeout(f"{self.name!r} was not opened within {timeout:g} s")

    def ring(self) -> None:
        """Have those who wait look again whether they should."""
        with self._condition:
            self._condition.notify_all()


# ------------------------------------------------------------------------------
# The way of the bytes


class _Stream(Protocol):
    """A way to the client: the socket, or TLS over another one."""

    def recv(self, size: int, limit: float | None) -> bytes:
        """At least one byte, or `b""` at the end."""

    def send(self, data: bytes) -> None:
        """All of `data`, waiting for the client where needed."""

    def push(self, data: bytes) -> None:
        """What of `data` goes without waiting, whatever has happened before."""


class _Wire:
    """A non-blocking socket whose waits have a limit and can be stopped from another thread.

    No thread ever blocks inside a socket call, because closing the socket would not free it, and the kernel
    would send neither FIN nor RST before that call returned. Instead the thread that serves the connection
    polls the socket together with a wake-up, and is the only one to close it: the others leave an order.
    """

    def __init__(self, sock: socket.socket, limit: float) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.limit = limit
        self.waits_at: Gate | None = None
        self._alarm, self._bell = socket.socketpair()
        self._lock = threading.Lock()  # guards _order and _released: no bell is rung after it is closed
        self._order: Callable[[], None] | None = None
        self._released = False
        self._is_sending = False

    # From any thread

    def stop(self, order: Callable[[], None]) -> None:
        """End the connection with `order`, which the serving thread carries out; the first order counts."""
        with self._lock:
            if self._released or self._order is not None:
                return
            self._order = order
            self._bell.send(b"!")
        gate = self.waits_at
        if gate is not None:
            gate.ring()

    def is_stopped(self) -> bool:
        return self._order is not None

    # From the serving thread

    def check(self) -> None:
        if self._order is not None:
            raise Stopped("the test ended this connection")

    def recv(self, size: int, limit: float | None) -> bytes:
        receive = functools.partial(self.sock.recv, size)
        return self._attempt(receive, selectors.EVENT_READ, "bytes from the client", limit)

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        self._is_sending = True
        while view:
            send_rest = functools.partial(self.sock.send, view)
            sent = self._attempt(send_rest, selectors.EVENT_WRITE, "the client to read", self.limit)
            view = view[sent:]
        self._is_sending = False

    def push(self, data: bytes) -> None:
        # Behind the first half of a TLS record, a goodbye would be taken for the second.
        if not self._is_sending:
            with contextlib.suppress(OSError):
                self.sock.send(data)

    def wait_gone(self) -> None:
        """Wait, reading nothing, until the other side has ended the connection or the test stops us."""
        if not hasattr(select, "POLLRDHUP"):
            # Without it an end cannot be told from data that waits: be content with the test's order.
            self._poll({}, None)
        else:
            poll = select.poll()
            poll.register(self.sock, select.POLLRDHUP)
            poll.register(self._alarm, select.POLLIN)
            poll.poll()
        self.check()

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(_LINGER_FORMAT, 1, 0))
        self.sock.close()

    def release(self, close: Callable[[], None]) -> None:
        """Carry out the order that is waiting, or else `close`; the last call."""
        with self._lock:
            self._released = True
        (self._order or close)()
        self._alarm.close()
        self._bell.close()

    def _attempt(self, call: Callable[[], T], events: int, what: str, limit: float | None) -> T:
        while True:
            self.check()
            with contextlib.suppress(BlockingIOError):
                return call()
            if not self._poll({self.sock: events}, limit):
                raise PeerTimeout(f"waited {limit} s for {what}")

    def _poll(self, interests: Mapping[socket.socket, int], limit: float | None) -> bool:
        with _Selector() as selector:
            selector.register(self._alarm, selectors.EVENT_READ)
            for sock, events in interests.items():
                selector.register(sock, events)
            return bool(selector.select(limit))


class _Tls:
    """The server's side of TLS over another stream, which may be TLS itself.

    Not an `SSLSocket`: that one cannot send close_notify without also reading what comes next, reports a reset
    as an end on some Pythons, and cannot be laid over another one.
    """

    def __init__(self, below: _Stream, context: ssl.SSLContext) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def handshake(self, limit: float) -> None:
        self._run(self.object.do_handshake, limit)

    def recv(self, size: int, limit: float | None) -> bytes:
        # An end without close_notify is an end here too.
        with contextlib.suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return self._run(lambda: self.object.read(size), limit)
        return b""

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = self.object.write(view[:RECEIVE_SIZE])
            self._below.send(self._outgoing.read())
            view = view[sent:]

    def push(self, data: bytes) -> None:
        with contextlib.suppress(ssl.SSLError):
            self.object.write(data)
        self._below.push(self._outgoing.read())

    def say_goodbye(self) -> None:
        """Send close_notify, without waiting for the client's."""
        with contextlib.suppress(ssl.SSLError):
            self.object.unwrap()
        self._below.push(self._outgoing.read())

    def _run(self, call: Callable[[], T], limit: float | None) -> T:
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                self._below.send(self._outgoing.read())
                self._feed(limit)
            except ssl.SSLError:
                self._below.push(self._outgoing.read())  # the alert that tells the client why
                raise
            else:
                self._below.send(self._outgoing.read())
                return result

    def _feed(self, limit: float | None) -> None:
        data = self._below.recv(RECEIVE_SIZE, limit)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


# ------------------------------------------------------------------------------
# Requests


@dataclass
class Request:
    """A request as it arrived. It is filled while it is read: the body's fields grow until `complete`."""

    method: str
    target: str
    version: str
    headers: list[Header]
    """Names and values in the order and spelling of the wire, as Latin-1."""
    head: bytes = b""
    """The bytes of the head, the empty line included."""
    content_length: int | None = None
    chunked: bool = False
    body: bytes = b""
    """What arrived of the body; stays empty when it was drained."""
    chunks: list[bytes] = field(default_factory=list)
    """The HTTP chunks that arrived whole; empty for other framings and when drained."""
    chunk_count: int = 0
    length: int = 0
    """How many bytes of the body arrived, stored or not."""
    sha256: str = hashlib.sha256().hexdigest()
    trailers: list[Header] = field(default_factory=list)
    complete: bool = False
    """The body arrived to its end, as its framing announced it."""
    cut_by: str | None = None
    """How the client ended an incomplete body: `eof` or `reset`."""

    def header(self, name: str) -> str | None:
        """The value of a header that is there once; `None` if it is not there."""
        values = self.header_values(name)
        if len(values) > 1:
            raise AssertionError(f"{name} is there {len(values)} times: {values}")
        return values[0] if values else None

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def wants_close(self) -> bool:
        """Whether the client asked for the connection to end after the answer."""
        tokens = [token.strip().lower() for token in ",".join(self.header_values("connection")).split(",")]
        return "close" in tokens or (self.version == "HTTP/1.0" and "keep-alive" not in tokens)


def parse_head(head: bytes) -> Request:
    """Take a request's head apart, refusing whatever RFC 9112 does not allow a client to send."""
    if not head.endswith(CRLF * 2):
        raise BadRequest(f"the head does not end with an empty line: {head[-80:]!r}")
    request_line, *lines = head[:-4].decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(request_line)
    if match is None:
        raise BadRequest(f"request line {request_line!r}")
    request = Request(match[1], match[2], match[3], _parse_fields(lines), head)
    _check_host(request)
    _find_framing(request)
    return request


def _parse_fields(lines: Iterable[str]) -> list[Header]:
    fields = []
    for line in lines:
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            raise BadRequest(f"header line {line!r}")
        fields.append((match[1], match[2].strip(" \t")))
    return fields


def _check_host(request: Request) -> None:
    hosts = request.header_values("host")
    if len(hosts) != 1 and request.version == "HTTP/1.1":
        raise BadRequest(f"one Host line expected: {hosts}")


def _find_framing(request: Request) -> None:
    lengths = request.header_values("content-length")
    codings = request.header_values("transfer-encoding")
    if lengths and codings:
        raise BadRequest("both Content-Length and Transfer-Encoding")
    if codings and codings != ["chunked"]:
        raise BadRequest(f"Transfer-Encoding {codings}")
    if lengths and (len(lengths) > 1 or not re.fullmatch("[0-9]+", lengths[0])):
        raise BadRequest(f"Content-Length {lengths}")
    request.chunked = bool(codings)
    request.content_length = int(lengths[0]) if lengths else None


# ------------------------------------------------------------------------------
# Connections


class Conn:
    """One accepted connection, seen from the server."""

    def __init__(self, peer: Peer, sock: socket.socket, number: int) -> None:
        self.peer = peer
        self.number = number
        """1 for the peer's first connection, and so on."""
        self.requests: list[Request] = []
        """The requests whose heads were read here."""
        self.received = 0
        """Bytes that the client has sent and we have read, heads included, TLS not."""
        self.finished = Gate(f"end of connection {number}")
        """Open once the handler has returned and the socket is closed."""
        self.error: BaseException | None = None
        """What the handler died of, be it forgivable or not."""
        self.handshake_error: OSError | None = None
        """Why the TLS handshake failed; the handler did not run then."""
        self.trailers: list[Header] = []
        """The trailers behind the last chunk of the last chunked body."""
        self._buffer = bytearray()
        self._wire = _Wire(sock, peer.limit)
        self._layers: list[_Tls] = []
        self._thread = threading.Thread(target=self._serve, name=f"peer-{peer.port}-{number}", daemon=True)

    def __repr__(self) -> str:
        return f"<Conn {self.number} of {self.peer!r}, {len(self.requests)} requests, {self.received} bytes>"

    @property
    def sock(self) -> socket.socket:
        """The TCP socket, non-blocking, for options and addresses."""
        return self._wire.sock

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The innermost TLS layer, for its version and the client's certificate; `None` without TLS."""
        return self._layers[-1].object if self._layers else None

    # Reading bytes

    def recv_some(self, size: int = RECEIVE_SIZE) -> bytes:
        """Whatever comes next, at least one byte; `b""` at the end."""
        if not self._buffer:
            return self._receive(size, self.peer.limit)
        return self._take(size)

    def recv_exact(self, size: int) -> bytes:
        """Exactly `size` bytes.

        Raises:
            EndOfStream: fewer came.
        """
        while len(self._buffer) < size:
            self._fill(f"{size} bytes")
        return self._take(size)

    def wait_closed(self, timeout: float = LIMIT) -> str:
        """Read and forget until the client ends the connection; `eof` or `reset` says how it did.

        A TLS 1.3 client that closes without having read its session tickets resets, with no ill will.
        """
        self._buffer.clear()
        deadline = time.monotonic() + timeout
        with contextlib.suppress(PeerTimeout):
            while (rest := deadline - time.monotonic()) > 0:
                try:
                    if not self._receive(RECEIVE_SIZE, rest):
                        return "eof"
                except ConnectionResetError:
                    return "reset"
        raise PeerTimeout(f"the client did not end the connection within {timeout:g} s")

    def hold(self) -> None:
        """Keep the connection open, reading nothing, until the client is gone or the test ends it.

        A client whose last bytes do not fit in the buffers of the kernel cannot be seen going.
        """
        self._wire.wait_gone()

    # Reading HTTP

    def read_head(self) -> bytes:
        """The bytes up to the empty line and with it; what lies behind stays for the next call.

        The first byte is waited for without a limit: a connection may rest between requests.

        Raises:
            EndOfStream: the client ended the connection, before the first byte or in the middle (see
            `partial`).
        """
        if not self._buffer:
            self._fill("a request", resting=True)
        return self._read_through(CRLF * 2, "a request's head")

    def read_request(self, body: bool = True) -> Request:
        """The next request, checked strictly.

        A body that the client does not finish is no error: see `complete`, `cut_by`. With `body=False` it
        is left for `read_body`, `drain_body`, `read_chunk`, or for nobody.

        Raises:
            BadRequest: the bytes are no valid request.
            EndOfStream: there is no further request.
        """
        request = parse_head(self.read_head())
        self.requests.append(request)
        self.peer._saw(request)
        return self.read_body(request) if body else request

    def read_body(self, request: Request) -> Request:
        """Read the body into `request.body` and `request.chunks`."""
        return self._consume(request, keep=True)

    def drain_body(self, request: Request) -> Request:
        """Read the body without storing it: `length`, `sha256` and `chunk_count` tell what it was."""
        return self._consume(request, keep=False)

    def read_chunk(self) -> bytes:
        """One whole HTTP chunk; `b""` for the last one, whose trailers are then in `trailers`."""
        size = self._read_chunk_size()
        if size == 0:
            self.trailers = self._read_trailers()
            return b""
        data = self.recv_exact(size)
        self._expect_line_end()
        return data

    # Writing

    def send(self, data: bytes) -> None:
        """Send exactly these bytes, at once."""
        self._stream.send(data)

    def respond(
        self,
        status: int = 200,
        headers: Headers = (),
        body: bytes | Iterable[bytes] = b"",
        *,
        chunked: bool = False,
        reason: str | None = None,
        close: bool = False,
    ) -> None:
        """Answer the last request that was read, in one send.

        `Content-Length` is added unless the status or the headers settle the framing; HEAD gets no body.
        With `chunked` every item of `body` is one HTTP chunk. `close` says so in the head and closes.
        """
        pieces = [body] if isinstance(body, bytes) else list(body)
        content = _chunked(pieces) if chunked else b"".join(pieces)
        fields = list(headers.items() if isinstance(headers, Mapping) else headers)
        fields += _framing(status, fields, chunked, len(content))
        if close:
            fields.append(("Connection", "close"))
        has_no_body = bool(self.requests) and self.requests[-1].method == "HEAD"
        self.send(_head(status, reason, fields) + (b"" if has_no_body else content))
        if close:
            self.close()

    # Ending

    def close(self, *, notify: bool = True) -> None:
        """Close the connection; over TLS a close_notify goes first, unless told not to.

        The kernel makes this a reset when bytes of the client are left unread. From another thread, this
        returns once the handler has been stopped.
        """
        self._end(self._close_cleanly if notify else self._wire.close)

    def reset(self) -> None:
        """End the connection with a RST. Callable like `close`."""
        self._end(self._wire.reset)

    def shutdown_write(self) -> None:
        """Send FIN (over TLS a close_notify first) and go on reading."""
        self._say_goodbye()
        self.sock.shutdown(socket.SHUT_WR)

    # TLS

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on with TLS, as after the answer to a CONNECT; inside of TLS, if that is already spoken."""
        if self._buffer:
            raise BadRequest(f"sent before the answer: {bytes(self._buffer[:80])!r}")
        layer = _Tls(self._stream, context)
        layer.handshake(self.peer.limit)
        self._layers.append(layer)

    # Inside

    def _start(self) -> None:
        self._thread.start()

    def _serve(self) -> None:
        _here.wire = self._wire
        try:
            if self._greet():
                self.peer._handler(self)
        except BaseException as error:
            self.error = error
        finally:
            self._wire.release(self._close_cleanly)
            self.peer._ended(self)
            self.finished.set()

    def _greet(self) -> bool:
        """Do the TLS handshake, if there is one to do. That it fails is for the test to judge."""
        try:
            if self.peer.tls is not None:
                self.start_tls(self.peer.tls)
        except Stopped:
            raise
        except OSError as error:
            self.handshake_error = error
            return False
        return True

    @property
    def _stream(self) -> _Stream:
        return self._layers[-1] if self._layers else self._wire

    def _say_goodbye(self) -> None:
        for layer in reversed(self._layers):
            layer.say_goodbye()

    def _close_cleanly(self) -> None:
        self._say_goodbye()
        self._wire.close()

    def _end(self, order: Callable[[], None]) -> None:
        if threading.current_thread() is self._thread:
            order()
        else:
            self._wire.stop(order)
            self.finished.wait()

    def _receive(self, size: int, limit: float | None) -> bytes:
        data = self._stream.recv(size, limit)
        self.received += len(data)
        return data

    def _fill(self, what: str, resting: bool = False) -> None:
        data = self._receive(RECEIVE_SIZE, None if resting else self.peer.limit)
        if not data:
            partial = bytes(self._buffer)
            raise EndOfStream(f"the client ended the connection instead of sending {what}", partial)
        self._buffer += data

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _read_through(self, mark: bytes, what: str) -> bytes:
        searched = 0
        while (position := self._buffer.find(mark, searched)) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise BadRequest(f"{what} has more than {MAX_HEAD} bytes")
            searched = max(len(self._buffer) - len(mark), 0)
            self._fill(what)
        return self._take(position + len(mark))

    def _consume(self, request: Request, keep: bool) -> Request:
        digest = hashlib.sha256()
        body, chunk = bytearray(), bytearray()
        try:
            for piece, ends_chunk in self._body_pieces(request):
                digest.update(piece)
                request.length += len(piece)
                request.chunk_count += ends_chunk
                if keep:
                    body += piece
                    chunk += piece
                if keep and ends_chunk:
                    request.chunks.append(bytes(chunk))
                    chunk.clear()
            request.complete = True
        except EndOfStream:
            request.cut_by = "eof"
        except ConnectionResetError:
            request.cut_by = "reset"
        request.body, request.sha256 = bytes(body), digest.hexdigest()
        return request

    def _body_pieces(self, request: Request) -> Iterator[tuple[bytes, bool]]:
        """The body as it arrives; the flag is set, on an empty piece, at the end of each HTTP chunk."""
        if not request.chunked:
            yield from self._sized_pieces(request.content_length or 0)
            return
        while size := self._read_chunk_size():
            yield from self._sized_pieces(size)
            self._expect_line_end()
            yield b"", True
        request.trailers = self.trailers = self._read_trailers()

    def _sized_pieces(self, size: int) -> Iterator[tuple[bytes, bool]]:
        while size:
            if not self._buffer:
                self._fill(f"{size} more bytes of the body")
            piece = self._take(size)
            size -= len(piece)
            yield piece, False

    def _read_chunk_size(self) -> int:
        line = self._read_through(CRLF, "a chunk's size")[:-2]
        if not _CHUNK_SIZE.fullmatch(line):
            raise BadRequest(f"chunk size {line!r}")
        return int(line, 16)

    def _expect_line_end(self) -> None:
        end = self.recv_exact(2)
        if end != CRLF:
            raise BadRequest(f"a chunk is followed by {end!r}")

    def _read_trailers(self) -> list[Header]:
        lines = []
        while line := self._read_through(CRLF, "the trailers")[:-2]:
            lines.append(line.decode("latin-1"))
        return _parse_fields(lines)


def _head(status: int, reason: str | None, fields: Iterable[Header]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_reason(status) if reason is None else reason}"]
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _reason(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


def _framing(status: int, fields: Iterable[Header], chunked: bool, length: int) -> list[Header]:
    names = {name.lower() for name, _ in fields}
    if status < 200 or status in (204, 304) or names & {"content-length", "transfer-encoding"}:
        return []
    return [("Transfer-Encoding", "chunked")] if chunked else [("Content-Length", str(length))]


def _chunked(pieces: Iterable[bytes]) -> bytes:
    # An empty item would be the last chunk, and cut the body short.
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


# ------------------------------------------------------------------------------
# The server


class Peer:
    """A server on loopback that runs `handler` for every connection it accepts; a context manager.

    Leaving ends what is left: handlers that still wait are stopped there (they see `Stopped`, never an end
    that the client did not make), threads are joined and sockets closed. Then the first error of a handler
    is raised again. Use `join()` before leaving when the handlers' own checks have to be heard to the end.

    Args:
        handler: called with each `Conn` in a thread of its own; the connection is closed when it returns.
        tls: a server's context; the handshake is done before the handler is called. host: `127.0.0.1` or
        `::1`. limit: seconds without any progress after which a handler's reading or sending fails.
        expect_errors: do not raise the handlers' errors; they are in `errors` in any case. What follows
        from a client
            that went away (`ConnectionError`) is never among them.
    """

    def __init__(
        self,
        handler: Handler,
        tls: ssl.SSLContext | None = None,
        *,
        host: str = "127.0.0.1",
        limit: float = LIMIT,
        expect_errors: bool = False,
    ) -> None:
        self.tls = tls
        self.host = host
        self.limit = limit
        self.expect_errors = expect_errors
        self.port = 0
        self.connections: list[Conn] = []
        """All that were accepted, in order, ended or not."""
        self.requests: list[Request] = []
        """All whose head was read, on any connection, in order."""
        self.errors: list[BaseException] = []
        """What handlers died of, unless it follows from a client that went away."""
        self._handler = handler
        self._changed = threading.Condition()  # guards the three lists
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Peer {self.url()}>"

    def url(self, path: str = "/", *, host: str | None = None) -> str:
        """The address of `path` here; `host` for another name of this machine, such as `localhost`."""
        name = host or self.host
        bracketed = f"[{name}]" if ":" in name else name
        return f"{'http' if self.tls is None else 'https'}://{bracketed}:{self.port}{path}"

    # Waiting, from the test's thread

    def wait_connection(self, number: int = 1, timeout: float = LIMIT) -> Conn:
        """The `number`-th connection (from 1), as soon as it is accepted."""
        return self._wait_item(self.connections, number, "connections", timeout)

    def wait_request(self, number: int = 1, timeout: float = LIMIT) -> Request:
        """The `number`-th request (from 1), as soon as its head is read; the body may still be coming."""
        return self._wait_item(self.requests, number, "requests", timeout)

    def join(self, timeout: float = LIMIT, *, connections: int = 1) -> None:
        """Wait until every handler has returned by itself, then raise the first error of one.

        A client may be connected before the connection is accepted, so say how many there must be at least.
        """
        deadline = time.monotonic() + timeout
        self.wait_connection(connections, timeout)
        for conn in list(self.connections):
            conn.finished.wait(max(deadline - time.monotonic(), 0))
        self._raise_error()

    def _wait_item(self, items: list[T], number: int, what: str, timeout: float) -> T:
        with self._changed:
            if not self._changed.wait_for(lambda: len(items) >= number, timeout):
                raise PeerTimeout(f"{len(items)} of {number} {what} came within {timeout:g} s")
            return items[number - 1]

    # Life

    def __enter__(self) -> Peer:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.create_server((self.host, 0), family=family, backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._alarm, self._bell = socket.socketpair()
        self._acceptor = threading.Thread(target=self._accept_all, name=f"peer-{self.port}", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if error is None:
            self._raise_error()
            return
        # The test's own failure stays the one that is reported; ours often explains it, so it is printed.
        for mishap in self.errors:
            traceback.print_exception(type(mishap), mishap, mishap.__traceback__)

    def _stop(self) -> None:
        self._stopping = True
        self._bell.send(b"!")
        self._acceptor.join(LIMIT)
        for sock in (self._listener, self._alarm, self._bell):
            sock.close()
        for conn in self.connections:
            conn._wire.stop(conn._close_cleanly)
        self._join_threads()

    def _join_threads(self) -> None:
        deadline = time.monotonic() + LIMIT
        for conn in self.connections:
            conn._thread.join(max(deadline - time.monotonic(), 0))
            if conn._thread.is_alive():
                self.errors.append(PeerTimeout(f"the handler of {conn!r} does not end"))

    def _raise_error(self) -> None:
        if self.errors and not self.expect_errors:
            raise self.errors[0]

    def _accept_all(self) -> None:
        with _Selector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._alarm, selectors.EVENT_READ)
            while not self._stopping:
                selector.select()
                self._accept_waiting()

    def _accept_waiting(self) -> None:
        # A client may leave between the poll and the call.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            sock, _ = self._listener.accept()
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        with self._changed:
            conn = Conn(self, sock, len(self.connections) + 1)
            self.connections.append(conn)
            self._changed.notify_all()
        conn._start()

    # Called by connections

    def _saw(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def _ended(self, conn: Conn) -> None:
        if conn.error is not None and not _is_departure(conn.error):
            with self._changed:
                self.errors.append(conn.error)


def _is_departure(error: BaseException) -> bool:
    """Whether `error` only says that the other side, or the test, ended the connection."""
    # The last one: what `shutdown_write()` meets when a reset was faster.
    return isinstance(error, ConnectionError) or getattr(error, "errno", None) == errno.ENOTCONN


# ------------------------------------------------------------------------------
# Ready-made handlers


def site(answers: Mapping[str, Answer] | None = None) -> Handler:
    """Gives each path its answer, status and headers, and 200 to those that have none."""

    def serve(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            status, headers = (answers or {}).get(request.target, (200, ()))
            conn.respond(status, headers)

    return serve


def echo_json(conn: Conn) -> None:
    """Answer each request with what it was, as JSON, until the client leaves.

    Keys: `method`, `target`, `version`, `headers` (pairs), `length`, `sha256`, `chunks` (their number),
    `trailers`, `connection` (its number). Bodies of any size are drained, `Expect: 100-continue` is
    answered.
    """
    keep_alive = True
    while keep_alive:
        request = conn.read_request(body=False)
        if (request.header("expect") or "").lower() == "100-continue":
            conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not conn.drain_body(request).complete:
            return
        keep_alive = not request.wants_close()
        body = json.dumps(_describe(conn, request)).encode()
        conn.respond(headers={"Content-Type": "application/json"}, body=body, close=not keep_alive)


def _describe(conn: Conn, request: Request) -> dict[str, object]:
    alike = ("method", "target", "version", "headers", "length", "sha256", "trailers")
    described: dict[str, object] = {name: getattr(request, name) for name in alike}
    return {**described, "chunks": request.chunk_count, "connection": conn.number}


def scripted(*steps: bytes | Gate | Handler, body: bool = True) -> Handler:
    """A handler that reads one request, goes through `steps`, and closes.

    A step is bytes to send, a `Gate` to wait for, or a function of the connection (`Conn.reset`,
    `Conn.hold`). With `body=False` the request's body is left unread.
    """

    def play(conn: Conn) -> None:
        conn.read_request(body=body)
        for step in steps:
            if isinstance(step, bytes):
                conn.send(step)
            elif isinstance(step, Gate):
                step.wait()
            else:
                step(conn)

    return play


_AFTER_EARLY_ANSWER: dict[str, tuple[Handler, ...]] = {
    "close": (Conn.close,),
    "keep_reading": (Conn.wait_closed,),
    "half_close": (Conn.shutdown_write, Conn.wait_closed),
    "stop_reading": (Conn.hold,),
}


def late_reader(gate: Gate, answer: bytes) -> Handler:
    """A server that reads the body of one request once the gate is open, and sends `answer` then."""

    def serve(conn: Conn) -> None:
        request = conn.read_request(body=False)
        gate.wait()
        conn.read_body(request)
        conn.send(answer)

    return serve


def early_answer(kind: str, *, status: int = 413, body: bytes = b"too much\n", after: int = 0) -> Handler:
    """A handler that answers before the request's body has come, and then behaves as `kind` says.

    `close`: closes, with bytes unread, so that the client's further bytes meet a reset. `keep_reading`:
    reads on until the client leaves. `half_close`: the same, but sends FIN behind the answer.
    `stop_reading`: reads nothing more and keeps the connection. With `after`, that many bytes of the body,
    framing included, are read first.
    """
    then = _AFTER_EARLY_ANSWER[kind]

    def answer_early(conn: Conn) -> None:
        conn.read_request(body=False)
        conn.recv_exact(after)
        conn.respond(status, body=body)
        for step in then:
            step(conn)

    return answer_early


# ------------------------------------------------------------------------------
# Places where no server answers


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections, and that nobody else can get meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        yield taken.getsockname()[1]


@contextlib.contextmanager
def blackhole() -> Iterator[int]:
    """A port of 127.0.0.1 where connecting neither succeeds nor fails (Linux: the backlog is full).

    Raises:
        OSError: this system has no such thing.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(16):
            filler = stack.enter_context(socket.socket())
            if not _connects(filler, listener.getsockname()):
                break
        else:
            raise OSError("the backlog does not fill up on this system")
        yield listener.getsockname()[1]


def _connects(sock: socket.socket, address: tuple[str, int]) -> bool:
    sock.setblocking(False)
    if sock.connect_ex(address) not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
        return False
    with _Selector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        # On loopback a connection that can be made is made at once.
        return bool(selector.select(0.1))


def has_ipv6() -> bool:
    """Whether a `Peer` can be had on `::1`."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def open_sockets() -> list[str] | None:
    """The sockets and eventfds that this process has open, as the kernel names them; `None` where it does not tell.

    An eventfd has no name of its own: the names of all are the same, so they are counted.
    """
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError:
        return None
    links = []
    for number in numbers:
        # The listing itself had a descriptor, and other threads go on.
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{number}"))
    bells = [link for link in links if "eventfd" in link]
    return sorted(link for link in links if link.startswith("socket:")) + [
        f"{link}, number {number}" for number, link in enumerate(bells, 1)
    ]
