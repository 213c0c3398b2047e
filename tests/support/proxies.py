"""Small real proxies for tests: HTTP, with tunnels and logins, plain and over TLS; and SOCKS.

    with Peer(echo_json, server_context()) as origin, HttpProxy() as proxy:
        session = Session(proxies={"all": proxy.address()}, tls=ca_path())
        session.request(origin.url("/x")).end().get_response().json()
        assert proxy.tunnels == [f"127.0.0.1:{origin.port}"]

They are peers: what clients sent is in `requests` and `connections`, and leaving ends what is left. They know no names
but those they are told, so a test sees who looks a name up.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import selectors
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from typing import Callable
from urllib.parse import urlsplit

from .peer import LIMIT, RECEIVE_SIZE, Conn, EndOfStream, Gate, Header, Peer, PeerTimeout, Request

Door = Callable[[Conn, Request], bool]
"""Sees each request that comes to an `HttpProxy`; false if it may not pass, and then has been answered."""

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_HOP_BY_HOP = {"connection", "proxy-connection", "keep-alive", "proxy-authorization", "proxy-authenticate", "te"}


def basic(username: str, password: str) -> str:
    """The header value that a client sends for Basic."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def wants(
    *accepted: str, challenges: Sequence[str] = ('Basic realm="proxy"',), close: bool = False, body: bytes = b"who?"
) -> Door:
    """A door for those whose `Proxy-Authorization` is one of `accepted`; the others get a 407."""

    def check(conn: Conn, request: Request) -> bool:
        if request.header("proxy-authorization") in accepted:
            return True
        conn.respond(407, [("Proxy-Authenticate", challenge) for challenge in challenges], body, close=close)
        return False

    return check


def _open(conn: Conn, request: Request) -> bool:
    return True


class _ProxyPeer(Peer):
    """What both kinds have in common: where hosts lead."""

    routes: dict[str, int]
    """By the names that are known, a port of this machine; more may be added."""

    def address(self, scheme: str, login: str = "") -> str:
        """The URL for a session's `proxies`; `login` is `user:password`, percent-encoded."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{login}{'@' if login else ''}{host}:{self.port}"

    def _connect(self, host: str, port: int) -> socket.socket:
        """To the port of this machine that `host` has in the routes, else to that address; no name is looked up."""
        if host in self.routes:
            host, port = "127.0.0.1", self.routes[host]
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
        sock = socket.socket(found[0][0], socket.SOCK_STREAM)
        try:
            sock.settimeout(LIMIT)
            sock.connect(found[0][4])
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
            raise
        return sock


class HttpProxy(_ProxyPeer):
    """Forwards requests with an absolute URL, one whole message at a time, and makes tunnels for CONNECT.

    Args:
        tls: a server's context, if the proxy itself is to be spoken to over TLS.
        door: who may pass; by default everybody.
        routes: by the names that are known, a port of this machine.
        expect_errors, host: as for `Peer`.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        door: Door = _open,
        routes: Mapping[str, int] | None = None,
        host: str = "127.0.0.1",
        expect_errors: bool = False,
    ) -> None:
        super().__init__(self._carry, tls, host=host, expect_errors=expect_errors)
        self.tunnels: list[str] = []
        """Where the tunnels led that were made, in order."""
        self.routes = dict(routes or {})
        self._door = door

    def address(self, scheme: str = "", login: str = "") -> str:
        return super().address(scheme or ("http" if self.tls is None else "https"), login)

    def _carry(self, conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if not self._door(conn, request):
                if conn.sock.fileno() < 0:
                    return
            elif request.method == "CONNECT":
                self._make_tunnel(conn, request.target)
                return
            else:
                self._forward(conn, request)

    def _make_tunnel(self, conn: Conn, authority: str) -> None:
        host, _, port = authority.rpartition(":")
        try:
            upstream = self._connect(host.strip("[]"), int(port))
        except OSError:
            conn.respond(502, body=b"nobody is there", close=True)
            return
        with upstream:
            self.tunnels.append(authority)
            conn.send(ESTABLISHED)
            relay(conn, upstream)

    def _forward(self, conn: Conn, request: Request) -> None:
        parts = urlsplit(request.target)
        path = request.target.split("/", 3)[3]
        try:
            upstream = self._connect(parts.hostname or "", parts.port or 80)
        except OSError:
            conn.respond(502, body=b"nobody is there")
            return
        client = http.client.HTTPConnection("unused")
        client.sock = upstream
        with contextlib.closing(client):
            client.putrequest(request.method, f"/{path}", skip_host=True, skip_accept_encoding=True)
            for name, value in _end_to_end(request.headers):
                client.putheader(name, value)
            if request.chunked or request.content_length is not None:
                client.putheader("Content-Length", str(len(request.body)))
            client.putheader("Connection", "close")
            client.endheaders(request.body)
            answer = client.getresponse()
            conn.respond(answer.status, _end_to_end(answer.getheaders()), answer.read(), reason=answer.reason)


def _end_to_end(fields: Sequence[Header]) -> list[Header]:
    """Those that a proxy passes on; the framing is made anew."""
    own = {"content-length", "transfer-encoding"} | _HOP_BY_HOP
    return [(name, value) for name, value in fields if name.lower() not in own]


# ------------------------------------------------------------------------------
# Passing bytes on


def relay(conn: Conn, upstream: socket.socket) -> None:
    """Pass bytes on, both ways at once, until one side ends."""
    upstream.setblocking(False)
    unsent = bytearray()
    moved = True
    while True:
        if not moved:
            _wait(conn, upstream, unsent)
        data = _receive_now(conn) if len(unsent) < RECEIVE_SIZE else None
        if data == b"":
            return
        unsent += data or b""
        sent = _send_now(upstream, unsent)
        del unsent[:sent]
        answer = _answer_now(conn, upstream)
        if answer == b"":
            return
        if answer:
            conn.send(answer)
        moved = bool(data or sent or answer)


def _wait(conn: Conn, upstream: socket.socket, unsent: bytearray) -> None:
    interests = {upstream: selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)}
    if len(unsent) < RECEIVE_SIZE:
        interests[conn.sock] = selectors.EVENT_READ
    conn._wire._poll(interests, None)
    conn._wire.check()


def _receive_now(conn: Conn) -> bytes | None:
    """What is here of the client; `None` if that is nothing."""
    if conn._buffer:
        return conn._take(RECEIVE_SIZE)
    try:
        return conn._receive(RECEIVE_SIZE, 0)
    except PeerTimeout:
        return None


def _send_now(upstream: socket.socket, data: bytearray) -> int:
    """How many bytes the server takes; all, if it is gone: it may have answered before."""
    try:
        return upstream.send(bytes(data)) if data else 0
    except BlockingIOError:
        return 0
    except ConnectionError:
        return len(data)


def _answer_now(conn: Conn, upstream: socket.socket) -> bytes | None:
    """What is here of the server; `None` if that is nothing. A reset is handed on."""
    try:
        return upstream.recv(RECEIVE_SIZE)
    except BlockingIOError:
        return None
    except ConnectionError:
        conn.reset()
        return b""


# ------------------------------------------------------------------------------
# SOCKS


class SocksProxy(_ProxyPeer):
    """SOCKS 5 (RFC 1928, 1929), and SOCKS 4 and 4a.

    Args:
        login: user name and password, without which nobody passes; for SOCKS 4 the user name alone.
        refuse: the code to answer requests with; 0 grants them.
        stop_at: `greeting`, `login` or `request`: say nothing more when that has come.
        routes: by the names that are known, a port of this machine.
    """

    def __init__(
        self,
        *,
        login: tuple[str, str] | None = None,
        refuse: int = 0,
        stop_at: str = "",
        routes: Mapping[str, int] | None = None,
        expect_errors: bool = False,
    ) -> None:
        super().__init__(self._carry, expect_errors=expect_errors)
        self.routes = dict(routes or {})
        self.asked: list[tuple[str, str, int]] = []
        """What was asked for: `name`, `ipv4` or `ipv6`, the host, the port."""
        self.versions: list[int] = []
        self.offered: list[bytes] = []
        """The methods of login that clients offered, one entry for each."""
        self.told: list[tuple[str, str]] = []
        """User names and passwords that were sent; for SOCKS 4 without passwords."""
        self.stopped = Gate("the proxy has stopped")
        self._login = login
        self._refuse = refuse
        self._stop_at = stop_at

    def _carry(self, conn: Conn) -> None:
        version = conn.recv_exact(1)[0]
        self.versions.append(version)
        talk = {4: self._talk_4, 5: self._talk_5}[version]
        upstream = talk(conn)
        if upstream is not None:
            with upstream:
                relay(conn, upstream)

    def _pause(self, conn: Conn, where: str) -> None:
        if where == self._stop_at:
            self.stopped.set()
            conn.hold()
            raise EndOfStream("the client has left")

    def _reach(self, kind: str, host: str, port: int) -> socket.socket | None:
        """The way to the server, or `None` if it is refused."""
        self.asked.append((kind, host, port))
        return None if self._refuse else self._connect(host, port)

    def _talk_5(self, conn: Conn) -> socket.socket | None:
        methods = conn.recv_exact(conn.recv_exact(1)[0])
        self.offered.append(methods)
        self._pause(conn, "greeting")
        wanted = 0 if self._login is None else 2
        if wanted not in methods:
            conn.send(b"\x05\xff")
            return None
        conn.send(bytes([5, wanted]))
        if wanted and not self._log_in(conn):
            return None
        version, command, _, kind = conn.recv_exact(4)
        assert (version, command) == (5, 1)
        host_kind, host = self._read_host(conn, kind)
        (port,) = struct.unpack("!H", conn.recv_exact(2))
        self._pause(conn, "request")
        upstream = self._reach(host_kind, host, port)
        conn.send(bytes([5, self._refuse, 0, 1]) + bytes(6))
        return upstream

    def _log_in(self, conn: Conn) -> bool:
        assert conn.recv_exact(1) == b"\x01"
        username = conn.recv_exact(conn.recv_exact(1)[0]).decode()
        password = conn.recv_exact(conn.recv_exact(1)[0]).decode()
        self.told.append((username, password))
        self._pause(conn, "login")
        good = (username, password) == self._login
        conn.send(b"\x01\x00" if good else b"\x01\x01")
        return good

    @staticmethod
    def _read_host(conn: Conn, kind: int) -> tuple[str, str]:
        if kind == 3:
            return "name", conn.recv_exact(conn.recv_exact(1)[0]).decode("idna")
        if kind == 1:
            return "ipv4", socket.inet_ntop(socket.AF_INET, conn.recv_exact(4))
        assert kind == 4
        return "ipv6", socket.inet_ntop(socket.AF_INET6, conn.recv_exact(16))

    def _talk_4(self, conn: Conn) -> socket.socket | None:
        command, port = struct.unpack("!BH", conn.recv_exact(3))
        address = conn.recv_exact(4)
        assert command == 1
        username = _read_text(conn)
        self.told.append((username, ""))
        is_name = address[:3] == bytes(3) and address[3] != 0
        host = _read_text(conn) if is_name else socket.inet_ntop(socket.AF_INET, address)
        self._pause(conn, "request")
        if self._login is not None and username != self._login[0]:
            conn.send(b"\x00\x5d" + bytes(6))
            return None
        upstream = self._reach("name" if is_name else "ipv4", host, port)
        conn.send(bytes([0, self._refuse or 0x5A]) + bytes(6))
        return upstream


def _read_text(conn: Conn) -> str:
    """Up to the zero that ends it."""
    text = b""
    while (byte := conn.recv_exact(1)) != b"\0":
        text += byte
    return text.decode()
