"""The server that the examples talk to: the standard library only, and it counts what it gets instead of keeping it.

::

    python examples/server.py [port]

    GET  /                              a greeting
    POST /upload                        how many bytes came, in how many chunks, and their SHA-256, as JSON
         ?rate=BYTES_PER_SECOND         reads no faster than this
         ?limit=BYTES                   answers 413 as soon as there are more, and reads no further
    GET  /stream?lines=N&pause=SECONDS  lines of text, each sent when it is made
    GET  /file?size=BYTES               so many bytes
    GET  /redirect?to=PATH              a 302 that points there
    POST /echo                          the body again, once all of it is here; it waits in a temporary file
    GET  /private                       a greeting for the user "ada" with the password "engine" (Basic); else a 401
    POST /private                       what /upload does, for the same user; else a 401 at once, reading no further
    GET  /visit                         how often you came, which a cookie counts
    GET  /whoami                        the name in the client's certificate, or "nobody"

PUT does what POST does. Connections are kept (HTTP/1.1); bodies may be chunked or of a known length. With a context
for TLS, which a program can give to ``running_server()``, it speaks https.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import socket
import socketserver
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Optional
from urllib.parse import parse_qsl, urlsplit

BLOCK = 64 * 1024  # bytes handled at once
LINE = 8 * 1024  # the longest line of a chunked body
# As on a small network, where a client soon notices a slow reader; on the loopback it could send megabytes ahead.
WINDOW = 64 * 1024  # bytes that the system receives before we ask for them
SEGMENT = 1448  # bytes of a packet
REALM = "examples"
USER, PASSWORD = "ada", "engine"
COOKIE_AGE = 24 * 3600  # seconds
LINGER = 2.0  # seconds for which a closing connection still listens, so that its last answer is not lost


class Refusal(Exception):
    """The request is answered with an error."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def knows(authorization: Optional[str], user: str, password: str) -> bool:
    """Whether this is the header of that user's Basic login (RFC 7617)."""
    scheme, _, given = (authorization or "").partition(" ")
    expected = base64.b64encode(f"{user}:{password}".encode())
    # Comparing takes the same time wherever the first difference is, so that nobody can guess letter by letter.
    return scheme.lower() == "basic" and hmac.compare_digest(given.strip().encode(), expected)


class Body:
    """The body of a request, piece by piece, whether chunked or of a known length."""

    def __init__(self, source: Any, headers: Any) -> None:
        coding, length = headers.get("Transfer-Encoding"), headers.get("Content-Length")
        if coding is not None and (coding.strip().lower() != "chunked" or length is not None):
            raise Refusal(HTTPStatus.BAD_REQUEST, "a body is either chunked or of a known length")
        if length is not None and not re.fullmatch("[0-9]{1,18}", length):
            raise Refusal(HTTPStatus.BAD_REQUEST, "Content-Length is not a number of bytes")
        self.bytes = 0
        self.chunks = 0
        self._source = source
        self._chunked = coding is not None
        self._left = int(length or 0)  # of the chunk, or of all
        self.done = not self._chunked and not self._left

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, as soon as there are any; ``b""`` at the end."""
        if not self._left and not self.done:
            self._begin_chunk()
        if self.done:
            return b""
        piece = self._source.read1(min(size, self._left))
        if not piece:
            raise ConnectionError("the client went away in the middle of its body")
        self.bytes += len(piece)
        self._left -= len(piece)
        if not self._left:
            if self._chunked:
                self._expect_empty_line()
            else:
                self.done = True
        return bytes(piece)

    def _begin_chunk(self) -> None:
        size = self._line().partition(b";")[0].strip()
        if not re.fullmatch(b"[0-9A-Fa-f]{1,15}", size):
            raise Refusal(HTTPStatus.BAD_REQUEST, "not the size of a chunk")
        self._left = int(size, 16)
        if self._left:
            self.chunks += 1
            return
        while self._line():
            pass  # trailers mean nothing here
        self.done = True

    def _expect_empty_line(self) -> None:
        if self._line():
            raise Refusal(HTTPStatus.BAD_REQUEST, "a chunk is longer than it said")

    def _line(self) -> bytes:
        line: bytes = self._source.readline(LINE)
        if not line.endswith(b"\n"):
            if len(line) == LINE:
                raise Refusal(HTTPStatus.BAD_REQUEST, "a line is too long")
            raise ConnectionError("the client went away in the middle of its body")
        return line.rstrip(b"\r\n")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: ExampleServer
    protocol_version = "HTTP/1.1"
    server_version = "ExampleServer/1"
    disable_nagle_algorithm = True
    timeout = 60
    # Its name in RFC 9110; before Python 3.13 it has an older one.
    responses = {**BaseHTTPRequestHandler.responses, HTTPStatus(413): ("Content Too Large", "")}  # noqa: RUF012

    def handle(self) -> None:
        try:
            super().handle()
        except ssl.SSLError:
            self._hang_up()  # TLS has told the client why
            raise

    def do_GET(self) -> None:
        self._serve(
            {
                "/": self._greet,
                "/stream": self._stream,
                "/file": self._file,
                "/redirect": self._redirect,
                "/private": self._greet_user,
                "/visit": self._visit,
                "/whoami": self._whoami,
            }
        )

    def do_POST(self) -> None:
        self._serve({"/upload": self._upload, "/echo": self._echo, "/private": self._upload_of_user})

    do_PUT = do_POST

    def _serve(self, routes: dict[str, Callable[[], None]]) -> None:
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        self._answer(routes.get(url.path, self._find_nothing))

    def _answer(self, route: Callable[[], None]) -> None:
        self.body: Optional[Body] = None
        try:
            self.body = Body(self.rfile, self.headers)
            route()
        except Refusal as refusal:
            seen = self.body.bytes if self.body else 0
            self.close_connection = True
            self._send_json({"error": str(refusal), "bytes": seen}, refusal.status)
        if self.body is None or not self.body.done:
            self._hang_up()

    # --- the routes ---

    def _find_nothing(self) -> None:
        raise Refusal(HTTPStatus.NOT_FOUND, f"nothing here for {self.command} {urlsplit(self.path).path}")

    def _greet(self) -> None:
        self._send_text(GREETING)

    def _redirect(self) -> None:
        self.send_response(HTTPStatus.FOUND)
        self.send_header("Location", re.sub(r"[^!-~]", "", self.query.get("to", "/")))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _upload(self) -> None:
        rate, limit = self._number("rate", 0), self._number("limit", -1)
        digest = hashlib.sha256()
        for piece in self._pieces(int(rate)):
            assert self.body is not None
            if 0 <= limit < self.body.bytes:
                raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {int(limit)} bytes")
            digest.update(piece)
        assert self.body is not None
        self._send_json({"bytes": self.body.bytes, "chunks": self.body.chunks, "sha256": digest.hexdigest()})

    def _stream(self) -> None:
        lines, pause = int(self._number("lines", 5)), self._number("pause", 0)
        self._begin("text/plain; charset=utf-8")
        for number in range(1, lines + 1):
            if number > 1 and self.server.stopping.wait(pause):
                raise ConnectionError("the server stops")
            line = b"line %d of %d\n" % (number, lines)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def _file(self) -> None:
        left = int(self._number("size", 1024 * 1024))
        self._begin("application/octet-stream", length=left)
        block = bytes(range(256)) * (BLOCK // 256)
        while left:
            left -= self.wfile.write(block[:left])

    def _echo(self) -> None:
        with tempfile.TemporaryFile() as kept:
            kept.writelines(self._pieces())
            self._begin(self.headers.get("Content-Type", "application/octet-stream"), length=kept.tell())
            kept.seek(0)
            while block := kept.read(BLOCK):
                self.wfile.write(block)

    def _greet_user(self) -> None:
        if self._is_logged_in():
            self._send_text(f"Hello {USER}! This is private.")

    def _upload_of_user(self) -> None:
        if self._is_logged_in():
            self._upload()

    def _visit(self) -> None:
        counted = re.search(r"(?:^|; *)visits=([0-9]{1,9})(?:;|$)", self.headers.get("Cookie", ""))
        visits = 1 + (int(counted[1]) if counted else 0)
        self._send_text(f"This is visit {visits}.", {"Set-Cookie": f"visits={visits}; Max-Age={COOKIE_AGE}; Path=/"})

    def _whoami(self) -> None:
        certificate = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        subject: Any = (certificate or {}).get("subject", ())
        names = dict(pair for pairs in subject for pair in pairs)
        self._send_text(names.get("commonName", "nobody"))

    # --- what they share ---

    def _is_logged_in(self) -> bool:
        """Whether it is the user who asks. If not, a 401 has been sent, and nobody waits for the rest of an upload."""
        if knows(self.headers.get("Authorization"), USER, PASSWORD):
            return True
        challenge = {"WWW-Authenticate": f'Basic realm="{REALM}", charset="UTF-8"'}
        self._send_json({"error": "user and password, please"}, HTTPStatus.UNAUTHORIZED, challenge)
        return False

    def _number(self, name: str, default: float) -> float:
        text = self.query.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text):
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{name} is not a number")
        return float(text)

    def _pieces(self, rate: int = 0) -> Iterator[bytes]:
        """The body, as fast as it comes or at so many bytes a second."""
        assert self.body is not None
        size = max(1, min(BLOCK, rate // 20)) if rate else BLOCK
        started = time.monotonic()
        while piece := self.body.read(size):
            yield piece
            if rate:
                early = self.body.bytes / rate - (time.monotonic() - started)
                if early > 0 and self.server.stopping.wait(early):
                    raise ConnectionError("the server stops")

    def _begin(
        self,
        content_type: str,
        status: HTTPStatus = HTTPStatus.OK,
        length: Optional[int] = None,
        headers: Optional[dict[str, str]] = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        if self.close_connection or self.body is None or not self.body.done:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send_text(self, line: str, headers: Optional[dict[str, str]] = None) -> None:
        text = line.encode() + b"\n"
        self._begin("text/plain; charset=utf-8", length=len(text), headers=headers)
        self.wfile.write(text)

    def _send_json(
        self, answer: object, status: HTTPStatus = HTTPStatus.OK, headers: Optional[dict[str, str]] = None
    ) -> None:
        text = json.dumps(answer).encode() + b"\n"
        self._begin("application/json", status, len(text), headers)
        self.wfile.write(text)

    def _hang_up(self) -> None:
        """Close a connection on which the client may still be sending.

        Closing at once would reset it, and the last answer could be lost with it (RFC 9112, 9.6).
        """
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_WR)
        until = time.monotonic() + LINGER
        while (left := until - time.monotonic()) > 0:
            self.connection.settimeout(left)
            if not self.connection.recv(BLOCK):
                return

    def log_message(self, format: str, *args: Any) -> None:
        if self.server.verbose:
            print(f"{self.client_address[0]} {format % args}", flush=True)


GREETING = "Hello! This is the server of the examples."


class ExampleServer(ThreadingHTTPServer):
    """Serves on 127.0.0.1, one thread for each connection; ``server_close()`` ends them all.

    Args:
        port: 0 for any that is free.
        verbose: whether to print a line for every request.
        tls: to serve https; a context that asks for certificates of clients gets them.
        handler: what serves one connection.
    """

    daemon_threads = False  # they are joined
    request_queue_size = 64

    def __init__(
        self,
        port: int = 0,
        verbose: bool = False,
        tls: Optional[ssl.SSLContext] = None,
        handler: type[Handler] = Handler,
    ) -> None:
        self.verbose = verbose
        self.tls = tls
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), handler)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        with contextlib.suppress(AttributeError, OSError):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks a name server for our name

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls:
            # The handshake is made by the first read, in the connection's own thread.
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        self.stopping.set()
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):
                # The one of an SSLSocket would take the TLS away from under the thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)
        elif self.verbose:
            print(f"{client_address[0]} connection lost: {error}", flush=True)


@contextlib.contextmanager
def running(server: ExampleServer) -> Iterator[str]:
    """Have it serve in a thread of this program, for as long as the block runs; gives its URL."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="example-server")
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def running_server(port: int = 0, tls: Optional[ssl.SSLContext] = None) -> Iterator[str]:
    """A server in a thread of this program, for as long as the block runs; gives its URL."""
    with running(ExampleServer(port, tls=tls)) as url:
        yield url


@contextlib.contextmanager
def example_server(tls: Optional[ssl.SSLContext] = None) -> Iterator[str]:
    """The URL on the command line if there is one, else that of a server which runs in this program meanwhile."""
    if len(sys.argv) > 1:
        yield sys.argv[1].rstrip("/")
    else:
        os.environ["no_proxy"] = "127.0.0.1"  # a proxy that the environment has would not find it
        with running_server(tls=tls) as url:
            yield url


def serve_until_interrupted(server: ExampleServer) -> None:
    with server, contextlib.suppress(KeyboardInterrupt):
        print(f"Listening on {server.url}; Ctrl-C stops it.", flush=True)
        server.serve_forever()


def port_of_command_line(default: int) -> int:
    return int(sys.argv[1]) if len(sys.argv) > 1 else default


if __name__ == "__main__":
    serve_until_interrupted(ExampleServer(port_of_command_line(8000), verbose=True))
