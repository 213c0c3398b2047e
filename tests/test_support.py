"""The toolkit itself, tried with plain sockets and the standard library's clients."""

from __future__ import annotations

import hashlib
import http.client
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from urllib3.util.ssltransport import SSLTransport

from clientrequest import Session
from clientrequest._exchange import Exchange
from tests.support import (
    LIMIT,
    REQUEST_EVENTS,
    RESPONSE_EVENTS,
    BadRequest,
    Conn,
    EndOfStream,
    Gate,
    GrammarError,
    Handler,
    Peer,
    PeerTimeout,
    Recorder,
    Stopped,
    blackhole,
    ca_path,
    client_certificate,
    client_context,
    demanding_context,
    early_answer,
    echo_json,
    expired_context,
    has_ipv6,
    open_sockets,
    parse_head,
    refused_port,
    scripted,
    server_context,
    untrusted_context,
    witness,
    wrong_name_context,
)

SHORT = 0.05
"""For waits that have to run out."""

RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER that makes closing a reset."""

POST = b"POST /p HTTP/1.1\r\nHost: h\r\n"
GET = b"GET /g HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def connected(
    peer: Peer, *, trusting: ssl.SSLContext | None = None, name: str = "localhost"
) -> Iterator[socket.socket]:
    """A client's socket; over TLS when the peer speaks it."""
    with socket.create_connection((peer.host, peer.port), timeout=10) as plain:
        if peer.tls is None:
            yield plain
            return
        with (trusting or client_context()).wrap_socket(plain, server_hostname=name) as secure:
            yield secure


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def read_until(sock: socket.socket | SSLTransport, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = sock.recv(65536)
        assert isinstance(piece, bytes)  # urllib3's type says that it may be a number
        assert piece, f"the end came after {data!r}"
        data += piece
    return data


def wait_broken(sock: socket.socket) -> None:
    """Wait until the kernel knows that the connection was reset."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(10_000), "no reset came"


def fetch(client: http.client.HTTPConnection, method: str, target: str = "/", **options: Any) -> dict[str, Any]:
    client.request(method, target, **options)
    response = client.getresponse()
    assert response.status == 200
    described: dict[str, Any] = json.loads(response.read())
    return described


def run_handler(handler: Handler, *sent: bytes, end: str = "eof") -> Conn:
    """Send bytes to `handler`, end the connection, and return it once the handler is through."""
    with Peer(handler, expect_errors=True) as peer, connected(peer) as sock:
        for data in sent:
            sock.sendall(data)
        if end == "eof":
            sock.shutdown(socket.SHUT_WR)
        elif end == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
        peer.join()
        return peer.wait_connection()


def read_one(conn: Conn) -> None:
    conn.read_request()


class TestReading:
    def test_request_without_body(self) -> None:
        head = b"GET /a?b=%20 HTTP/1.1\r\nHost: h:1\r\nX-Twice: 1\r\nx-twice:\t2 \r\nEmpty:\r\n\r\n"
        request = run_handler(read_one, head).requests[0]
        assert (request.method, request.target, request.version) == ("GET", "/a?b=%20", "HTTP/1.1")
        assert request.headers == [("Host", "h:1"), ("X-Twice", "1"), ("x-twice", "2"), ("Empty", "")]
        assert request.head == head
        assert (request.body, request.chunks, request.complete) == (b"", [], True)
        assert request.header("HOST") == "h:1"
        assert request.header("absent") is None
        with pytest.raises(AssertionError, match="2 times"):
            request.header("x-twice")

    def test_known_length(self) -> None:
        request = run_handler(read_one, POST, b"Content-Length: 5\r\n\r\nab", b"cde+").requests[0]
        assert (request.body, request.length, request.content_length) == (b"abcde", 5, 5)
        assert request.sha256 == hashlib.sha256(b"abcde").hexdigest()
        assert request.complete
        assert not request.chunked

    def test_chunks_and_trailers(self) -> None:
        body = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n"
        request = run_handler(read_one, POST + b"Transfer-Encoding: chunked\r\n\r\n", body).requests[0]
        assert request.chunks == [b"abc", b"0123456789"]
        assert request.body == b"abc0123456789"
        assert (request.chunk_count, request.length, request.trailers) == (2, 13, [("X-Sum", "1")])
        assert request.complete

    def test_draining_counts_and_stores_nothing(self) -> None:
        piece = bytes(range(256)) * 4096
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for _ in range(4)) + b"0\r\n\r\n"

        def drain(conn: Conn) -> None:
            conn.drain_body(conn.read_request(body=False))

        request = run_handler(drain, POST + b"Transfer-Encoding: chunked\r\n\r\n" + body).requests[0]
        assert (request.length, request.chunk_count, request.complete) == (4 * len(piece), 4, True)
        assert request.sha256 == hashlib.sha256(piece * 4).hexdigest()
        assert (request.body, request.chunks) == (b"", [])

    def test_chunk_by_chunk(self) -> None:
        seen: list[bytes] = []

        def read_chunks(conn: Conn) -> None:
            conn.read_request(body=False)
            seen.extend(iter(conn.read_chunk, b""))

        conn = run_handler(
            read_chunks, POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\nT: 1\r\n\r\n"
        )
        assert conn.error is None
        assert seen == [b"a", b"bc"]
        assert conn.trailers == [("T", "1")]

    def test_what_lies_behind_a_request_is_kept(self) -> None:
        rest: list[bytes] = []

        def read_more(conn: Conn) -> None:
            conn.read_request()
            conn.read_request()
            rest.extend([conn.recv_exact(3), conn.recv_some(2), conn.recv_some(), conn.recv_some()])

        conn = run_handler(read_more, GET + GET + b"0123456")
        assert rest == [b"012", b"34", b"56", b""]
        assert conn.received == 2 * len(GET) + 7

    @pytest.mark.parametrize("end", ["eof", "reset"])
    @pytest.mark.parametrize(
        ("framing", "part"),
        [(b"Content-Length: 9", b"abc"), (b"Transfer-Encoding: chunked", b"2\r\nab\r\n4\r\nc")],
    )
    def test_cut_body(self, end: str, framing: bytes, part: bytes) -> None:
        arrived = Gate("the part of the body")

        def read_slowly(conn: Conn) -> None:
            request = conn.read_request(body=False)
            arrived.set()
            conn.read_body(request)

        with Peer(read_slowly) as peer, connected(peer) as sock:
            sock.sendall(POST + framing + b"\r\n\r\n" + part)
            arrived.wait()
            if end == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
            peer.join()
        request = peer.requests[0]
        assert not request.complete
        assert request.cut_by == end
        # A reset makes the kernel forget what was not read yet.
        assert request.body == b"abc" or end == "reset"

    def test_connection_that_ends_before_a_request(self) -> None:
        assert isinstance(run_handler(read_one).error, EndOfStream)

    def test_connection_that_ends_in_the_head(self) -> None:
        error = run_handler(read_one, b"GET / HT").error
        assert isinstance(error, EndOfStream)
        assert error.partial == b"GET / HT"

    @pytest.mark.parametrize(
        "head",
        [
            b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"G(T / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
            b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nA : 1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\n folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nA: 1\rB: 2\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nA: 1\nB: 2\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\nA: \0\r\n\r\n",
            POST + b"Content-Length: +1\r\n\r\n",
            POST + b"Content-Length: 1, 1\r\n\r\n",
            POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
            POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
            POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ],
    )
    def test_bad_head(self, head: bytes) -> None:
        with pytest.raises(BadRequest):
            parse_head(head)
        assert isinstance(run_handler(read_one, head).error, BadRequest)

    @pytest.mark.parametrize(
        "body",
        [
            b"0x2\r\nab\r\n0\r\n\r\n",
            b"2;a=b\r\nab\r\n",
            b"\r\n",
            b"-1\r\n",
            b"2\r\nabc\r\n",
            b"0\r\nbad\r\n\r\n",
        ],
    )
    def test_bad_chunk(self, body: bytes) -> None:
        head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
        assert isinstance(run_handler(read_one, head + body).error, BadRequest)

    def test_a_stalled_client_is_reported(self) -> None:
        with Peer(read_one, limit=SHORT, expect_errors=True) as peer, connected(peer) as sock:
            sock.sendall(POST + b"Content-Length: 2\r\n\r\na")
            peer.join()
        assert isinstance(peer.errors[0], PeerTimeout)

    def test_a_request_may_be_long_in_coming(self) -> None:
        with Peer(echo_json, limit=SHORT) as peer, connected(peer) as sock:
            with pytest.raises(PeerTimeout):
                peer.wait_connection().finished.wait(4 * SHORT)
            sock.sendall(GET)
            assert sock.recv(15) == b"HTTP/1.1 200 OK"


class TestAnswering:
    def answer(self, request: bytes, **options: Any) -> bytes:
        def respond(conn: Conn) -> None:
            conn.read_request()
            conn.respond(**options)

        with Peer(respond) as peer, connected(peer) as sock:
            sock.sendall(request)
            return read_all(sock)

    def test_length_is_added(self) -> None:
        assert self.answer(GET, body=b"abc") == b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"

    def test_headers_and_reason_are_sent_as_given(self) -> None:
        answer = self.answer(GET, status=299, headers=[("A", "1"), ("a", "\xe9")], reason="Fine so")
        assert answer == b"HTTP/1.1 299 Fine so\r\nA: 1\r\na: \xe9\r\nContent-Length: 0\r\n\r\n"

    def test_unknown_status_has_no_reason(self) -> None:
        assert self.answer(GET, status=299).startswith(b"HTTP/1.1 299 \r\n")

    def test_given_framing_is_kept(self) -> None:
        answer = self.answer(GET, headers={"content-length": "99"}, body=b"abc")
        assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nabc"

    @pytest.mark.parametrize("status", [204, 304])
    def test_status_without_body(self, status: int) -> None:
        assert b"Content-Length" not in self.answer(GET, status=status)

    def test_head_gets_no_body(self) -> None:
        answer = self.answer(GET.replace(b"GET", b"HEAD"), body=b"abc")
        assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"

    def test_chunked(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert self.answer(GET, body=[b"a", b"", b"bcd"], chunked=True) == head + b"1\r\na\r\n3\r\nbcd\r\n0\r\n\r\n"
        assert self.answer(GET, body=b"abc", chunked=True) == head + b"3\r\nabc\r\n0\r\n\r\n"

    def test_close_is_announced(self) -> None:
        assert b"Connection: close\r\n" in self.answer(GET, close=True)


class TestHandlers:
    def test_echo_keeps_the_connection(self) -> None:
        with Peer(echo_json) as peer:
            client = http.client.HTTPConnection(peer.host, peer.port, timeout=10)
            first = fetch(client, "POST", "/1?q", body=b"abc", headers={"X-A": "1"})
            second = fetch(client, "PUT", "/2", body=iter([b"ab", b"c"]), encode_chunked=True)
            client.close()
        assert (first["method"], first["target"], first["length"], first["chunks"]) == ("POST", "/1?q", 3, 0)
        assert ["X-A", "1"] in first["headers"]
        assert second["chunks"] == 2
        assert first["sha256"] == second["sha256"] == hashlib.sha256(b"abc").hexdigest()
        assert first["connection"] == second["connection"] == 1
        assert [request.target for request in peer.requests] == ["/1?q", "/2"]

    def test_echo_closes_when_asked(self) -> None:
        with Peer(echo_json) as peer, connected(peer) as sock:
            sock.sendall(GET[:-2] + b"Connection: close\r\n\r\n")
            assert b"Connection: close\r\n" in read_all(sock)

    def test_echo_asks_for_an_expected_body(self) -> None:
        with Peer(echo_json) as peer, connected(peer) as sock:
            sock.sendall(POST + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n")
            assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"a")
            assert b'"length": 1' in read_until(sock, b"}")

    def test_script_waits_at_its_gates(self) -> None:
        first, second = Gate("first"), Gate("second")
        handler = scripted(b"HTTP/1.1 200 OK\r\n", first, b"Content-Length: 1\r\n\r\n", second, b"x")
        with Peer(handler) as peer, connected(peer) as sock:
            sock.sendall(GET)
            assert read_until(sock, b"\r\n") == b"HTTP/1.1 200 OK\r\n"
            first.set()
            assert read_until(sock, b"\r\n\r\n") == b"Content-Length: 1\r\n\r\n"
            second.set()
            assert read_all(sock) == b"x"

    def test_script_can_end_with_a_reset(self) -> None:
        with Peer(scripted(b"HTTP/1.1 2", Conn.reset)) as peer, connected(peer) as sock:
            sock.sendall(GET)
            with pytest.raises(ConnectionResetError):
                read_all(sock)


EARLY = ["close", "keep_reading", "half_close", "stop_reading"]
TLS_OR_NOT = [pytest.param(False, id="plain"), pytest.param(True, id="tls")]


class TestEarlyAnswer:
    @contextmanager
    def answered(self, kind: str, tls: bool, after: int = 0) -> Iterator[tuple[Peer, socket.socket]]:
        handler = early_answer(kind, after=after)
        with Peer(handler, server_context() if tls else None) as peer, connected(peer) as sock:
            sock.sendall(POST + b"Content-Length: 1000000000\r\n\r\n" + b"x" * after)
            assert read_until(sock, b"too much\n").startswith(b"HTTP/1.1 413 ")
            yield peer, sock

    @pytest.mark.parametrize("tls", TLS_OR_NOT)
    @pytest.mark.parametrize("kind", EARLY)
    def test_answer_comes_before_the_body(self, kind: str, tls: bool) -> None:
        with self.answered(kind, tls) as (peer, _):
            assert not peer.requests[0].complete

    def test_bytes_can_be_awaited_first(self) -> None:
        with self.answered("keep_reading", tls=False, after=70_000) as (peer, _):
            assert peer.wait_connection().received >= 70_000

    def test_close(self) -> None:
        with self.answered("close", tls=False) as (peer, sock):
            peer.join()
            sock.sendall(b"more")
            wait_broken(sock)

    @pytest.mark.parametrize("tls", TLS_OR_NOT)
    @pytest.mark.parametrize("kind", ["keep_reading", "half_close"])
    def test_reading_on(self, kind: str, tls: bool) -> None:
        with self.answered(kind, tls) as (peer, sock):
            if kind == "half_close":
                assert sock.recv(1) == b""
            sock.sendall(b"x" * 3_000_000)
            sock.close()
            peer.join()
            assert peer.wait_connection().error is None
            assert peer.wait_connection().received > 3_000_000

    def test_stop_reading(self) -> None:
        with self.answered("stop_reading", tls=False) as (peer, sock):
            sock.settimeout(SHORT)
            with pytest.raises((socket.timeout, BlockingIOError)):
                sock.sendall(b"x" * 50_000_000)
            assert not peer.wait_connection().finished.is_set()

    def test_stop_reading_sees_the_client_leave(self) -> None:
        with self.answered("stop_reading", tls=False) as (peer, sock):
            sock.close()
            peer.join()

    def test_unknown_kind(self) -> None:
        with pytest.raises(KeyError):
            early_answer("never")


def wait_at(gate: Gate) -> Handler:
    return lambda conn: gate.wait()


def send_endlessly(conn: Conn) -> None:
    while True:
        conn.send(bytes(1 << 20))


WAITS: dict[str, Handler] = {
    "a request": read_one,
    "bytes": Conn.recv_some,
    "the client's end": Conn.wait_closed,
    "nothing": Conn.hold,
    "a gate": wait_at(Gate()),
    "the client to read": send_endlessly,
}


class TestEnding:
    @pytest.mark.parametrize("tls", TLS_OR_NOT)
    @pytest.mark.parametrize("what", WAITS)
    def test_leaving_frees_a_handler_that_waits_for(self, what: str, tls: bool) -> None:
        started = Gate("handler")

        def handler(conn: Conn) -> None:
            started.set()
            WAITS[what](conn)

        client = ExitStack()  # left after the peer, so that the client does not go first
        with client, Peer(handler, server_context() if tls else None) as peer:
            client.enter_context(connected(peer))
            started.wait()
        # The end that it saw was the test's: it must not pass for the client's.
        assert isinstance(peer.wait_connection().error, Stopped)
        assert not any(thread.name.startswith(f"peer-{peer.port}") for thread in threading.enumerate())

    @pytest.mark.parametrize("tls", TLS_OR_NOT)
    @pytest.mark.parametrize("end", ["close", "reset"])
    @pytest.mark.parametrize("what", WAITS)
    def test_the_test_ends_a_connection_whose_handler_waits_for(self, what: str, end: str, tls: bool) -> None:
        started = Gate("handler")

        def handler(conn: Conn) -> None:
            started.set()
            WAITS[what](conn)

        with Peer(handler, server_context() if tls else None) as peer, connected(peer) as sock:
            started.wait()
            getattr(peer.wait_connection(), end)()
            assert peer.wait_connection().finished.is_set()
            if end == "close":
                read_all(sock)
            else:
                wait_broken(sock)

    def test_ending_twice_has_no_effect(self) -> None:
        with Peer(Conn.close) as peer, connected(peer):
            conn = peer.wait_connection()
            conn.close()
            conn.reset()

    def test_idle_connection_is_closed_by_the_test(self) -> None:
        with Peer(echo_json) as peer, connected(peer) as sock:
            sock.sendall(GET)
            read_until(sock, b"}")
            peer.wait_connection().close()
            assert sock.recv(1) == b""

    @pytest.mark.parametrize("tls", TLS_OR_NOT)
    @pytest.mark.parametrize("end", ["eof", "reset"])
    def test_wait_closed_tells_how(self, end: str, tls: bool) -> None:
        seen: list[str] = []

        def handler(conn: Conn) -> None:
            seen.append(conn.wait_closed())

        context = server_context() if tls else None
        if context is not None:
            context.num_tickets = 0  # left unread, they would make any end a reset
        with Peer(handler, context) as peer, connected(peer) as sock:
            sock.sendall(b"some" * 1000)
            if end == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()
            peer.join()
        assert seen == [end]

    def test_wait_closed_has_a_limit(self) -> None:
        with Peer(lambda conn: conn.wait_closed(SHORT), expect_errors=True) as peer, connected(peer):
            peer.join()
        assert isinstance(peer.errors[0], PeerTimeout)

    def test_half_closed_connection_still_reads(self) -> None:
        seen: list[bytes] = []

        def handler(conn: Conn) -> None:
            conn.shutdown_write()
            seen.append(conn.recv_exact(4))

        with Peer(handler) as peer, connected(peer) as sock:
            assert sock.recv(1) == b""
            sock.sendall(b"late")
            peer.join()
        assert seen == [b"late"]


def fail(conn: Conn) -> None:
    raise ValueError("the handler is wrong")


class TestErrors:
    def test_leaving_raises_what_a_handler_raised(self) -> None:
        def session() -> None:
            with Peer(fail) as peer, connected(peer) as sock:
                read_all(sock)

        with pytest.raises(ValueError, match="the handler is wrong"):
            session()

    def test_joining_raises_it_too(self) -> None:
        with Peer(fail) as peer, connected(peer):
            with pytest.raises(ValueError, match="the handler is wrong"):
                peer.join()
            peer.expect_errors = True

    def test_expected_errors_are_kept(self) -> None:
        with Peer(fail, expect_errors=True) as peer, connected(peer) as sock:
            read_all(sock)
        assert [type(error) for error in peer.errors] == [ValueError]
        assert peer.wait_connection().error is peer.errors[0]

    def test_the_failure_of_the_test_comes_first(self, capsys: pytest.CaptureFixture[str]) -> None:
        def session() -> None:
            with Peer(fail) as peer, connected(peer) as sock:
                read_all(sock)
                raise KeyError("the test")

        with pytest.raises(KeyError, match="the test"):
            session()
        assert "ValueError: the handler is wrong" in capsys.readouterr().err

    def test_a_client_that_leaves_is_no_error(self) -> None:
        conn = run_handler(send_endlessly, end="reset")
        assert isinstance(conn.error, ConnectionError)
        assert conn.peer.errors == []

    def test_waiting_has_a_limit(self) -> None:
        with Peer(echo_json) as peer:
            with pytest.raises(PeerTimeout, match="0 of 1 connections"):
                peer.wait_connection(timeout=SHORT)
            with connected(peer), connected(peer):
                assert peer.wait_connection(2).number == 2
                with pytest.raises(PeerTimeout, match="0 of 1 requests"):
                    peer.wait_request(timeout=SHORT)
                with pytest.raises(PeerTimeout, match="end of connection 1"):
                    peer.join(SHORT)

    def test_gate(self) -> None:
        gate = Gate("sluice")
        assert repr(gate) == "<Gate 'sluice' shut>"
        with pytest.raises(AssertionError, match=r"'sluice' was not opened within 0\.05 s"):
            gate.wait(SHORT)
        gate.set()
        gate.wait(0)
        assert gate.is_set()


class TestPlaces:
    def test_url(self) -> None:
        with Peer(echo_json) as peer:
            assert peer.url() == f"http://127.0.0.1:{peer.port}/"
            assert peer.url("/a", host="localhost") == f"http://localhost:{peer.port}/a"
        with Peer(echo_json, server_context()) as secure:
            assert secure.url().startswith("https://")

    @pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
    def test_ipv6(self) -> None:
        with Peer(echo_json, host="::1") as peer:
            assert peer.url() == f"http://[::1]:{peer.port}/"
            client = http.client.HTTPConnection("::1", peer.port, timeout=10)
            assert fetch(client, "GET")["method"] == "GET"
            client.close()

    def test_nothing_is_left(self) -> None:
        before = open_sockets()
        if before is None:
            pytest.skip("this system does not list descriptors")
        with Peer(echo_json) as peer, connected(peer), connected(peer):
            peer.wait_connection(2)
            assert len(open_sockets() or ()) > len(before)
        assert open_sockets() == before

    def test_many_connections(self) -> None:
        with Peer(echo_json) as peer:
            socks = [socket.create_connection((peer.host, peer.port), timeout=10) for _ in range(100)]
            for sock in socks:
                sock.sendall(GET)
            for sock in socks:
                read_until(sock, b"}")
                sock.close()
            peer.join()
        assert len(peer.requests) == 100

    def test_refused_port(self) -> None:
        with refused_port() as port, pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10)

    def test_blackhole(self) -> None:
        with blackhole() as port, pytest.raises(socket.timeout):
            socket.create_connection(("127.0.0.1", port), timeout=0.3)


class TestCertificates:
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_good_server(self, version: ssl.TLSVersion) -> None:
        with Peer(echo_json, server_context(tls_version=version)) as peer:
            context = ssl.create_default_context(cafile=ca_path())
            client = http.client.HTTPSConnection("localhost", peer.port, timeout=10, context=context)
            assert fetch(client, "POST", body=b"x" * 1_000_000)["length"] == 1_000_000
            sock: ssl.SSLSocket = client.sock
            assert sock.version() == version.name.replace("_", ".")
            client.close()

    @pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
    def test_names_of_this_machine(self, name: str) -> None:
        with Peer(Conn.hold, server_context()) as peer, connected(peer, name=name) as sock:
            assert isinstance(sock, ssl.SSLSocket)

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (expired_context, "certificate has expired"),
            (wrong_name_context, "mismatch"),
            (untrusted_context, "unable to get local issuer certificate"),
        ],
    )
    def test_bad_server(self, make: Callable[[], ssl.SSLContext], reason: str) -> None:
        with Peer(echo_json, make()) as peer:
            with pytest.raises(ssl.SSLCertVerificationError, match=reason), connected(peer):
                pass
            peer.join()
        assert peer.wait_connection().handshake_error is not None
        assert peer.wait_connection().error is None

    def test_client_certificate(self) -> None:
        context = client_context()
        context.load_cert_chain(*client_certificate())
        with Peer(echo_json, demanding_context()) as peer, connected(peer, trusting=context) as sock:
            sock.sendall(GET)
            assert read_until(sock, b"}").startswith(b"HTTP/1.1 200")
            layer = peer.wait_connection().tls
            assert layer is not None
            assert layer.getpeercert()

    def test_client_without_certificate(self) -> None:
        with Peer(echo_json, demanding_context()) as peer, connected(peer) as sock:
            # In TLS 1.3 the client learns of it with its first read; what it sent may make it a reset.
            with pytest.raises((ssl.SSLError, ConnectionError)):
                read_until(sock, b"}")
            peer.join()
        assert isinstance(peer.wait_connection().handshake_error, ssl.SSLError)

    def test_client_that_does_not_speak_tls(self) -> None:
        with Peer(echo_json, server_context()) as peer:
            with socket.create_connection((peer.host, peer.port), timeout=10) as plain:
                plain.sendall(GET)
                peer.wait_connection().finished.wait()
            assert peer.wait_connection().handshake_error is not None
            assert peer.requests == []

    @pytest.mark.parametrize("notify", [True, False])
    def test_goodbye(self, notify: bool) -> None:
        def handler(conn: Conn) -> None:
            conn.read_request()
            conn.send(OK)
            conn.close(notify=notify)

        context = client_context()
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # set by Python 3.9
        with Peer(handler, server_context()) as peer:
            plain = socket.create_connection((peer.host, peer.port), timeout=10)
            options: dict[str, Any] = {"server_hostname": "localhost", "suppress_ragged_eofs": False}
            with context.wrap_socket(plain, **options) as sock:
                sock.sendall(GET)
                assert read_until(sock, b"ok") == OK
                if notify:
                    assert sock.recv(1) == b""
                else:
                    with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
                        sock.recv(1)

    @pytest.mark.parametrize("tls", TLS_OR_NOT)
    def test_tunnel(self, tls: bool) -> None:
        def proxy(conn: Conn) -> None:
            assert conn.read_request().method == "CONNECT"
            conn.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            conn.start_tls(server_context("far.example"))
            echo_json(conn)

        with Peer(proxy, server_context() if tls else None) as peer, connected(peer) as sock:
            sock.sendall(b"CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n\r\n")
            read_until(sock, b"\r\n\r\n")
            tunnel = SSLTransport(sock, client_context(), "far.example")
            tunnel.sendall(GET)
            assert b'"target": "/g"' in read_until(tunnel, b"}")

    def test_one_authority_for_all_threads(self) -> None:
        paths: list[str] = []
        threads = [threading.Thread(target=lambda: paths.append(ca_path())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(paths) == 8
        assert len(set(paths)) == 1


class FakeEmitter:
    """Emits what a test tells it to, on the calling thread."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[Callable[..., object]]] = {}

    def on(self, name: str, listener: Callable[..., object]) -> FakeEmitter:
        self.listeners.setdefault(name, []).append(listener)
        return self

    def emit(self, name: str, *args: object) -> None:
        for listener in self.listeners.get(name, []):
            listener(*args)


def play(events: str, *, consume: bool = True, skip: tuple[str, ...] = ()) -> Recorder:
    """A recorder that has heard `events`, in the spelling of `names()`, from a request and its response."""
    request, response = FakeEmitter(), FakeEmitter()
    recorder = Recorder(request, consume=consume, skip=skip)
    for label in events.split():
        if label == "response":
            request.emit("response", response)
        elif label.startswith("response."):
            name = label[len("response.") :]
            response.emit(name, *([b"piece"] if name == "data" else []))
        else:
            request.emit(label)
    return recorder


class TestRecorder:
    def test_listens_to_everything(self) -> None:
        request, response = FakeEmitter(), FakeEmitter()
        recorder = Recorder(request, consume=True)
        assert set(request.listeners) == set(REQUEST_EVENTS)
        request.emit("response", response)
        assert set(response.listeners) == set(RESPONSE_EVENTS)
        assert recorder.response is response

    def test_leaves_the_choice_of_face_to_others(self) -> None:
        request, response = FakeEmitter(), FakeEmitter()
        Recorder(request)
        request.emit("response", response)
        assert "data" not in response.listeners

    def test_skips(self) -> None:
        request, response = FakeEmitter(), FakeEmitter()
        recorder = Recorder(request, skip=["response", "login", "response.error"])
        assert set(REQUEST_EVENTS) - set(request.listeners) == {"response", "login"}
        recorder.attach_response(response)
        assert "error" not in response.listeners

    def test_records(self) -> None:
        recorder = play("finish response response.data response.data response.end response.close close")
        assert recorder.names("response") == ["data", "data", "end", "close"]
        assert recorder.names("request") == ["finish", "response", "close"]
        assert recorder.body == b"piecepiece"
        assert recorder.threads() == {threading.get_ident()}
        assert recorder.find("data", "response")[1].args == (b"piece",)

    def test_outline_leaves_out_what_depends_on_timing(self) -> None:
        recorder = play("upload-progress drain finish response response.data response.data response.end")
        assert recorder.outline() == ["finish", "response", "response.data", "response.end"]

    def test_waits(self) -> None:
        request = FakeEmitter()
        recorder = Recorder(request)
        request.emit("drain")
        emitter = threading.Thread(target=request.emit, args=("information", 103))
        emitter.start()
        assert recorder.wait("information").args == (103,)
        emitter.join(10)
        with pytest.raises(AssertionError, match=r"'drain' number 2 did not come .* \['drain', 'information'\]"):
            recorder.wait("drain", count=2, timeout=SHORT)

    def test_callback_inside_a_callback(self) -> None:
        request = FakeEmitter()
        recorder = Recorder(request)
        request.on("finish", recorder.guard(lambda: request.emit("close")))
        request.emit("finish")
        assert recorder.overlaps == ["close during <lambda>"]
        with pytest.raises(GrammarError, match="overlap"):
            recorder.check_grammar()

    def test_callback_beside_a_callback(self) -> None:
        request, entered, leave = FakeEmitter(), Gate("entered"), Gate("leave")
        recorder = Recorder(request)

        def slow() -> None:
            entered.set()
            leave.wait()

        request.on("finish", recorder.guard(slow))
        other = threading.Thread(target=request.emit, args=("finish",))
        other.start()
        entered.wait()
        request.emit("drain")
        leave.set()
        other.join(10)
        assert recorder.overlaps == ["drain during slow"]

    @pytest.mark.parametrize(
        "events",
        [
            "close",
            "error close",
            "finish error close",
            "abort close",
            "finish abort close",
            "finish response response.end response.close close",
            "drain upload-progress continue information login redirect finish response"
            " response.data response.download-progress response.data response.end response.close close",
            "finish response response.data response.error response.close close",
            "finish response response.end response.error response.close close",
            "finish response response.data abort response.aborted response.close close",
            "finish response response.end abort response.close close",
            "finish response response.end abort response.aborted response.close close",
            "finish response response.end response.close abort close",
        ],
    )
    def test_good_grammar(self, events: str) -> None:
        play(events).check_grammar()

    @pytest.mark.parametrize(
        ("events", "rule"),
        [
            ("finish", "exactly one 'close'"),
            ("close close", "exactly one 'close'"),
            ("close finish", "nothing follows"),
            ("finish finish close", "at most one 'finish'"),
            ("response response.end response.close close", "'finish' comes before"),
            ("response finish response.end response.close close", "'finish'"),
            ("finish response response.end close", "the response has exactly one 'close'"),
            ("finish response response.end response.close response.close close", "exactly one 'close'"),
            (
                "finish response response.end response.close response.download-progress close",
                "follows its 'close'",
            ),
            ("finish response response.close close", "without saying why"),
            ("finish response response.end response.data response.close close", "the response goes"),
            ("finish response response.end response.end response.close close", "the response goes"),
            ("finish response response.error response.end response.close close", "the response goes"),
            ("finish response login response.end response.close close", "cannot follow 'response'"),
            ("error error close", "at most one 'error'"),
            ("finish response response.error error response.close close", "at most one 'error'"),
            ("finish error response response.end response.close close", "no 'response' after 'error'"),
            ("finish response response.end error response.close close", "fires on the response"),
            ("abort abort close", "at most one 'abort'"),
            ("abort error close", "no 'error' with 'abort'"),
            ("error abort close", "no 'error' with 'abort'"),
            ("abort finish close", "'abort' is followed by"),
            ("abort response response.end response.close close", "'finish' comes before"),
            ("finish abort response response.aborted response.close close", "'abort' is followed by"),
            ("finish response abort response.end response.close close", "'abort' is followed by"),
            (
                "finish response abort response.data response.aborted response.close close",
                "'abort' is followed by",
            ),
            ("finish response response.aborted response.close close", "no 'aborted' without 'abort'"),
            ("finish response response.end response.close abort drain close", "'abort' is followed by"),
        ],
    )
    def test_bad_grammar(self, events: str, rule: str) -> None:
        with pytest.raises(GrammarError, match=rule):
            play(events).check_grammar()

    def test_early_answer(self) -> None:
        play("response response.end response.close close").check_grammar(early_answer=True)
        with pytest.raises(GrammarError, match="'finish'"):
            play("response finish response.end response.close close").check_grammar(early_answer=True)

    def test_two_responses(self) -> None:
        request = FakeEmitter()
        recorder = Recorder(request)
        request.emit("finish")
        request.emit("response", FakeEmitter())
        request.emit("response", FakeEmitter())
        request.emit("close")
        with pytest.raises(GrammarError):
            recorder.check_grammar()

    def test_what_is_skipped_is_not_missed(self) -> None:
        play("finish response abort response.close close", skip=("response.aborted",)).check_grammar()
        play("finish response error response.close close", skip=("response.error",)).check_grammar()
        play("finish response response.close close", consume=False).check_grammar()
        with pytest.raises(GrammarError, match="skips 'close'"):
            play("finish close", skip=("close",)).check_grammar()


# --- the witness of all requests ---


@pytest.mark.parametrize(
    "labels",
    [
        "finish response response.close close",
        "finish response response.data response.end response.close close",
        "finish upload-progress response response.data abort response.aborted response.close close",
        "finish error close",
        "abort close",
    ],
)
def test_witness_lets_lawful_events_pass(labels: str) -> None:
    witness.check_decided(labels.split())


@pytest.mark.parametrize(
    "labels",
    [
        "finish response response.close",
        "finish response response.close close close",
        "finish response response.close close drain",
        "response finish response.close close",
        "response response.close close",
        "finish response response.close response.close close",
        "finish response response.end response.data response.close close",
        "finish response response.end response.download-progress response.close close",
        "finish error error close",
        "finish response error response.error response.close close",
        "error finish close",
        "abort error close",
        "abort drain close",
        "finish response abort close",
        "finish response continue response.close close",
    ],
)
def test_witness_stops_unlawful_events(labels: str) -> None:
    with pytest.raises(GrammarError):
        witness.check_decided(labels.split())


@pytest.mark.parametrize(
    ("delivered", "posted"),
    [
        ("finish finish close", "finish close"),
        ("close finish", "finish close"),
        ("close", "finish close"),
        ("finish", "finish close"),
    ],
)
def test_witness_compares_what_was_delivered_with_what_was_due(delivered: str, posted: str) -> None:
    decided = ["finish", "response", "response.close", "close"]
    with pytest.raises(GrammarError):
        witness.check_delivered(decided, posted.split(), delivered.split(), succeeded=True)


def wait_until_watched(count: int) -> None:
    """Polls: the worker comes to its verdict after `close`, and makes no noise of it."""
    pause, deadline = threading.Event(), time.monotonic() + LIMIT
    while witness.watched != count:
        assert time.monotonic() < deadline
        pause.wait(0.001)


def test_witness_sees_what_nobody_hears(session: Session) -> None:
    before = witness.watched
    with Peer(echo_json) as peer:
        request = session.request(peer.url()).end()
        assert request.wait(LIMIT)
    wait_until_watched(before + 1)
    trace = witness.trace_of(request._exchange)
    assert list(trace.decided) == ["finish", "response", "response.close", "close"]
    assert not trace.posted


def test_witness_complains_of_a_request_that_breaks_the_law(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether somebody listens or not."""
    announce = Exchange._announce

    def announce_and_go_on(exchange: Exchange, *args: Any) -> None:
        announce(exchange, *args)
        exchange.emit("continue")

    monkeypatch.setattr(Exchange, "_announce", announce_and_go_on)
    before = witness.watched
    with Peer(echo_json) as peer:
        request = session.request(peer.url()).on("close", lambda: None).end()
        assert request.wait(LIMIT)
    wait_until_watched(before + 1)
    (complaint,) = witness.take_complaints()
    assert "cannot follow 'response'" in complaint
    request._exchange.emit("drain")
    (complaint,) = witness.take_complaints()
    assert "after the end" in complaint
