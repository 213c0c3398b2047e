"""The server of the soak: a process of its own, one thread a connection, and a ledger of every body that came whole.

    python -m tests.soak.server LEDGER [CERTIFICATE]

It prints its ports, plain, plain and TLS, and ends with its standard input. What it does with a request is in the URL:
the path says how to answer, the query says the details. A line of the ledger is written before the answer is sent, so
a body whose answer the client has seen is in it.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import re
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable
from urllib.parse import parse_qsl, urlsplit

PATIENCE = 300.0
"""Seconds without a byte before a connection is given up; far beyond what the client allows itself."""

STOPPED = 15.0
"""Seconds for which a server that has stopped reading keeps the connection."""

USER, PASSWORD = "ada", "engine"
NONCE_PERIOD = 20.0
"""Seconds between two nonces."""
NONCES = 4
"""So many are good; an older one is stale, and the client has to take a new one without asking. Not so few that a
client on a busy machine never comes in time."""

RECEIVE_SIZE = 256 * 1024
_FILLER = os.urandom(64 * 1024)
_DIGEST_FIELD = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')

Query = dict[str, str]


class Gone(Exception):
    """The client has left; nothing can be said to it any more."""


class Ledger:
    """One line for each body that came whole: id, what became of it, its digest and length, was the connection used."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, body: Body, label: str, used: bool) -> None:
        self._write(f"{body.id} {label} {body.digest} {body.length} {used:d}\n")

    def note_early(self, name: str, used: bool) -> None:
        """An answer is on its way before the body has come: it must not be lost."""
        self._write(f"{name} early - 0 {used:d}\n")

    def _write(self, line: str) -> None:
        os.write(self._file, line.encode())  # in one piece, from whatever thread: the file is opened for appending


class Body:
    """What came of the body of one request."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.length = 0
        self.digest = ""
        self.whole = False


class Request:
    """The head of a request."""

    def __init__(self, text: str) -> None:
        line, *fields = text.split("\r\n")
        self.method, self.target, _ = line.split(" ")
        self.headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        parts = urlsplit(self.target)
        self.path = parts.path
        self.query: Query = dict(parse_qsl(parts.query))
        self.chunked = self.headers.get("transfer-encoding", "") == "chunked"
        self.length = int(self.headers.get("content-length", "0"))
        self.id = self.headers.get("x-id", "")

    @property
    def has_body(self) -> bool:
        return self.chunked or "content-length" in self.headers


class Conn:
    """One connection, and the requests that come on it one after another."""

    def __init__(self, sock: Any, ledger: Ledger) -> None:
        self.sock = sock
        self.ledger = ledger
        self.served = 0
        self._rest = b""

    def serve(self) -> None:
        while True:
            request = self._read_head()
            if request is None:
                return
            name = request.path.strip("/").partition("/")[0]
            if not ROUTES[name](self, request):
                return
            self.served += 1

    # --- reading ---

    def _receive(self, size: int = RECEIVE_SIZE) -> bytes:
        data: bytes = self.sock.recv(size)
        return data

    def _more(self) -> None:
        data = self._receive()
        if not data:
            raise Gone
        self._rest += data

    def _read_head(self) -> Request | None:
        while b"\r\n\r\n" not in self._rest:
            data = self._receive(65536)
            if not data:
                if self._rest:
                    raise Gone
                return None
            self._rest += data
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return Request(head.decode("latin-1"))

    def pieces(self, request: Request) -> Iterator[bytes]:
        """The body, without its framing. Raises `Gone` where it is cut."""
        if request.headers.get("expect") == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not request.chunked:
            yield from self._exactly(request.length)
            return
        while True:
            size = int(self._line(), 16)
            yield from self._exactly(size)
            if self._line():
                raise Gone  # no line end behind the chunk
            if size == 0:
                return

    def _line(self) -> bytes:
        # The line end behind the last chunk is that of the empty trailer section.
        while b"\r\n" not in self._rest:
            self._more()
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line

    def _exactly(self, count: int) -> Iterator[bytes]:
        while count:
            if not self._rest:
                self._more()
            piece, self._rest = self._rest[:count], self._rest[count:]
            count -= len(piece)
            yield piece

    def take(self, request: Request, label: str, pause: float = 0.0) -> Body:
        """All of the body; noted if there is one. Raises `Gone` where it is cut."""
        body, digest = Body(request.id), hashlib.sha256()
        for piece in self.pieces(request):
            digest.update(piece)
            body.length += len(piece)
            if pause:
                time.sleep(pause)
        body.digest, body.whole = digest.hexdigest(), True
        if request.has_body:
            self.ledger.note(body, label, self.served > 0)
        return body

    def take_some(self, request: Request, count: int) -> None:
        """At least `count` bytes of the body, if there are so many."""
        for piece in self.pieces(request):
            count -= len(piece)
            if count <= 0:
                return

    def wait_gone(self) -> None:
        """Until the client leaves, without reading what it sends; not for long, since the end of one that has filled
        the kernel's buffers does not get through."""
        poller = select.poll()
        poller.register(self.sock.fileno(), getattr(select, "POLLRDHUP", 0))
        poller.poll(STOPPED * 1000)

    # --- answering ---

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, status: int, body: bytes, *fields: str, close: bool = False, head_only: bool = False) -> bool:
        lines = [f"HTTP/1.1 {status} Soak", *fields, f"Content-Length: {len(body)}"]
        if close:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        self.send(head if head_only else head + body)
        return not close

    def reset(self) -> bool:
        """Leave with a reset; what was not read, or not sent, is lost."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


# --- the ways to answer; each says whether the connection goes on ---


def what_came(body: Body) -> bytes:
    return json.dumps({"id": body.id, "length": body.length, "digest": body.digest}).encode()


def ok(conn: Conn, request: Request) -> bool:
    """What came, as JSON. `pause`: between pieces of the body. `gzip`, `close`: of the answer."""
    body = conn.take(request, "ok", float(request.query.get("pause", 0)))
    return say_what_came(conn, request, body)


def say_what_came(conn: Conn, request: Request, body: Body) -> bool:
    said, close = what_came(body), "close" in request.query
    if "gzip" in request.query:
        return conn.answer(200, gzip.compress(said, 1), "Content-Encoding: gzip", close=close)
    return conn.answer(200, said, close=close)


def leave(conn: Conn, request: Request) -> bool:
    """As `ok`, but it closes behind the answer and had not said so: the next request meets a dead connection."""
    ok(conn, request)
    return False


def large(conn: Conn, request: Request) -> bool:
    """`size` bytes; `pieces`: in so many chunks, with `pause` seconds in between."""
    size, count = int(request.query["size"]), int(request.query.get("pieces", 0))
    body = conn.take(request, "ok")
    fields = [f"X-Digest: {body.digest}"]
    if not count:
        content = (_FILLER * (size // len(_FILLER) + 1))[:size]
        if "gzip" in request.query:
            return conn.answer(200, gzip.compress(content, 1), "Content-Encoding: gzip", *fields)
        return conn.answer(200, content, *fields)
    conn.send("\r\n".join(["HTTP/1.1 200 Soak", *fields, "Transfer-Encoding: chunked", "", ""]).encode())
    pause, each = float(request.query.get("pause", 0)), size // count
    piece = (_FILLER * (each // len(_FILLER) + 1))[:each]
    for _ in range(count if each else 0):  # an empty chunk would be the last one
        conn.send(f"{each:x}\r\n".encode() + piece + b"\r\n")
        if pause:
            time.sleep(pause)
    conn.send(b"0\r\n\r\n")
    return True


def early(conn: Conn, request: Request) -> bool:
    """413 before the body has come, and then `how`: close, read on, or stop reading."""
    how = request.query["how"]
    conn.take_some(request, int(request.query.get("after", 0)))
    conn.ledger.note_early(request.id, conn.served > 0)
    if how == "read":
        # Says "close", since what it takes from here on is nobody's request.
        conn.answer(413, b"too much", close=True)
        while conn._receive():
            pass
        return False
    conn.answer(413, b"too much", close=True)
    if how == "stop":
        conn.wait_gone()
    return False


def hold(conn: Conn, request: Request) -> bool:
    """Takes the body and says nothing until the client leaves."""
    conn.take(request, "hold")
    conn._receive()
    return False


def reset(conn: Conn, request: Request) -> bool:
    """Resets the connection: at the `head`, in the `middle` of the body, behind the `body`, or in its `answer`."""
    when = request.query["when"]
    if when == "middle":
        conn.take_some(request, request.length // 2 or 1000)
    elif when != "head":
        conn.take(request, "reset")
        if when == "answer":
            conn.send(b"HTTP/1.1 200 Soak\r\nContent-Length: 1000\r\n\r\nhalf an answer")
    return conn.reset()


def short(conn: Conn, request: Request) -> bool:
    """Less than it says, and a clean end: a damaged answer that must not pass for a whole one."""
    conn.take(request, "short")
    if "chunked" in request.query:
        conn.send(b"HTTP/1.1 200 Soak\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    else:
        conn.send(b"HTTP/1.1 200 Soak\r\nContent-Length: 1000\r\n\r\nhalf an answer")
    return False


def redirect(conn: Conn, request: Request) -> bool:
    """Takes the body, or with `early` none of it yet, and points to `to`."""
    fields = (f"Location: {request.query['to']}",)
    if "early" in request.query:
        conn.answer(int(request.query["status"]), b"elsewhere", *fields, close=True)
        while conn._receive():
            pass
        return False
    conn.take(request, "redirect")
    return conn.answer(int(request.query["status"]), b"elsewhere", *fields)


def basic(conn: Conn, request: Request) -> bool:
    given = request.headers.get("authorization", "")
    wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    if given == wanted:
        return ok(conn, request)
    conn.take(request, "challenge")
    return conn.answer(401, b"who?", f'WWW-Authenticate: Basic realm="{request.path}"')


def digest(conn: Conn, request: Request) -> bool:
    """Digest with `algorithm`, whose nonces are good for some seconds only."""
    algorithm, realm = request.query.get("algorithm", "SHA-256"), request.path
    period = int(time.time() / NONCE_PERIOD)
    given = _digest_fields(request.headers.get("authorization", ""))
    good, stale = False, False
    if given and _is_right(given, algorithm, realm, request):
        good = given["nonce"] in [_nonce(realm, period - number) for number in range(NONCES)]
        stale = not good
    if good:
        return ok(conn, request)
    conn.take(request, "challenge")
    challenge = f'Digest realm="{realm}", nonce="{_nonce(realm, period)}", qop="auth", algorithm={algorithm}'
    return conn.answer(401, b"who?", f"WWW-Authenticate: {challenge}{', stale=true' if stale else ''}")


def _nonce(realm: str, period: int) -> str:
    return hashlib.md5(f"{realm} {period}".encode()).hexdigest()


def _digest_fields(value: str) -> Query:
    scheme, _, rest = value.partition(" ")
    if scheme.lower() != "digest":
        return {}
    return {match[1].lower(): match[2] if match[2] is not None else match[3] for match in _DIGEST_FIELD.finditer(rest)}


def _is_right(given: Query, algorithm: str, realm: str, request: Request) -> bool:
    make = hashlib.md5 if algorithm == "MD5" else hashlib.sha256

    def hashed(*parts: str) -> str:
        return make(":".join(parts).encode()).hexdigest()

    if given.get("uri") != request.target or given.get("realm") != realm:
        return False
    secret, asked = hashed(USER, realm, PASSWORD), hashed(request.method, request.target)
    expected = hashed(secret, given["nonce"], given["nc"], given["cnonce"], given["qop"], asked)
    return given["response"] == expected


ROUTES: dict[str, Callable[[Conn, Request], bool]] = {
    "ok": ok,
    "leave": leave,
    "large": large,
    "early": early,
    "hold": hold,
    "reset": reset,
    "short": short,
    "redirect": redirect,
    "basic": basic,
    "digest": digest,
}


# --- the process ---


def carry(sock: Any, context: ssl.SSLContext | None, ledger: Ledger) -> None:
    with contextlib.suppress(OSError, Gone), sock:
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            sock = context.wrap_socket(sock, server_side=True)
        with sock:
            Conn(sock, ledger).serve()


def listen(context: ssl.SSLContext | None, ledger: Ledger) -> int:
    """Accept in the background; gives the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=carry, args=(sock, context, ledger), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def main(path: str, certificate: str | None = None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the client; we end with our input
    threading.stack_size(256 * 1024)
    ledger = Ledger(path)
    ports = [listen(None, ledger), listen(None, ledger)]
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        ports.append(listen(context, ledger))
    print(*ports, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
