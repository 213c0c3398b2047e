"""Bodies over TLS, which come in records: all that are there are taken at once, and none waits for the next."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import pytest

from clientrequest import AbortedError, ClientRequestError, IncomingMessage, Session
from clientrequest._tls import Records, make_tls_context
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, ca_path, scripted, server_context

RECORD = 16 * 1024
"""The most bytes that one record may carry."""

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def sized(length: int) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % length


# --- the receiver alone: what is sent on a socket pair is there when send() returns ---------------------------------


class Ends:
    """Both ends of a TLS connection; the client's waits as long as ``LIMIT``."""

    def __init__(self) -> None:
        near, far = socket.socketpair()
        for sock in (near, far):
            sock.settimeout(LIMIT)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
        with ThreadPoolExecutor(1) as thread:
            serving = thread.submit(server_context("localhost").wrap_socket, far, server_side=True)
            self.client = make_tls_context(ca_path()).wrap_socket(
                near, server_hostname="localhost", suppress_ragged_eofs=False
            )
            self.server: ssl.SSLSocket = serving.result(LIMIT)
        self.records = Records(self.client)

    def receive(self, size: int, enough: int | None = None) -> bytes:
        room = memoryview(bytearray(size))
        return bytes(room[: self.records.recv_into(room, enough or size)])

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def test_all_that_are_there_come_at_once(ends: Ends) -> None:
    for record in (b"one,", b"two,", b"six"):
        ends.server.sendall(record)
    assert ends.receive(1000) == b"one,two,six"


@pytest.mark.parametrize("patience", [0.0, LIMIT])
def test_one_that_comes_alone_does_not_wait_for_the_next(ends: Ends, patience: float) -> None:
    ends.client.settimeout(patience)
    ends.server.sendall(b"alone")
    began = time.monotonic()
    assert ends.receive(1000) == b"alone"
    assert time.monotonic() - began < LIMIT / 2
    assert ends.client.gettimeout() == patience  # and the next receive waits as before


def test_where_none_is_there_it_is_waited_for_or_not_as_the_socket_says(ends: Ends) -> None:
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(ends.receive, 1000)
        ends.server.sendall(b"late")
        assert waiting.result(LIMIT) == b"late"
    ends.client.settimeout(0.0)
    with pytest.raises(ssl.SSLWantReadError):
        ends.receive(1000)


def test_no_more_are_taken_than_there_is_room_for(ends: Ends) -> None:
    data = os.urandom(5 * RECORD)
    ends.server.sendall(data)
    assert ends.receive(2 * RECORD + 100) == data[: 2 * RECORD + 100]
    assert ends.receive(10 * RECORD) == data[2 * RECORD + 100 :]


def test_no_more_are_taken_than_are_enough(ends: Ends) -> None:
    data = os.urandom(5 * RECORD)
    ends.server.sendall(data)
    assert ends.receive(10 * RECORD, 2 * RECORD) == data[: 2 * RECORD]


def test_an_end_comes_behind_what_was_sent_before_it(ends: Ends) -> None:
    ends.server.sendall(b"last")
    ends.server.settimeout(0.0)
    with pytest.raises(ssl.SSLWantReadError):  # for the answer to its close_notify
        ends.server.unwrap()
    assert [ends.receive(1000) for _ in range(3)] == [b"last", b"", b""]


def test_an_error_comes_behind_what_was_sent_before_it(ends: Ends) -> None:
    ends.server.sendall(b"last")
    ends.server.close()
    assert ends.receive(1000) == b"last"
    with pytest.raises(ssl.SSLError):
        ends.receive(1000)


# --- by way of requests ---------------------------------------------------------------------------------------------


@pytest.fixture
def secure() -> Iterator[Callable[..., str]]:
    """Starts a TLS server for a handler; gives its URL."""
    peers: list[Peer] = []

    def start(*steps: Any) -> str:
        peer = Peer(scripted(*steps), server_context())
        peers.append(peer)
        return peer.__enter__().url("/")

    yield start
    for peer in peers:
        peer.__exit__(None, None, None)


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(tls=ca_path()) as session:
        yield session


def in_records(body: bytes, size: int) -> Callable[[Conn], None]:
    def send(conn: Conn) -> None:
        for start in range(0, len(body), size):
            conn.send(body[start : start + size])

    return send


def in_chunks(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def read_into(response: IncomingMessage) -> bytes:
    room, whole = bytearray(256 * 1024), bytearray()
    while count := response.readinto(room):
        whole += room[:count]
    return bytes(whole)


READS: dict[str, Callable[[IncomingMessage], bytes]] = {
    "readinto": read_into,
    "iter_chunks": lambda response: b"".join(response.iter_chunks()),
    "read": IncomingMessage.read,
    "lines": lambda response: b"".join(response),
}


@pytest.mark.parametrize("size", [700, 5000, 100_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("taken", [*READS, "events"])
def test_every_byte_comes_once_and_in_order(
    secure: Callable[..., str], session: Session, size: int, framing: str, taken: str
) -> None:
    body = os.urandom(1_000_003)
    head, sent = (sized(len(body)), body) if framing == "length" else (CHUNKED, in_chunks(body, 30_011))
    request = session.request(secure(head, in_records(sent, size)))
    if taken == "events":
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
        recorder.check_grammar()
        assert recorder.body == body
    else:
        assert READS[taken](request.end().get_response(LIMIT)) == body


def test_a_record_is_an_event_before_the_next_is_sent(secure: Callable[..., str], session: Session) -> None:
    gates = [Gate(), Gate()]
    request = session.request(secure(sized(9), b"one", gates[0], b"two", gates[1], b"six"))
    recorder = Recorder(request, consume=True)
    request.end()
    for number, gate in enumerate(gates, 1):
        recorder.wait("data", "response", count=number)
        gate.set()
    recorder.wait("close")
    assert [event.args[0] for event in recorder.find("data", "response")] == [b"one", b"two", b"six"]


def test_a_record_is_read_before_the_next_is_sent(secure: Callable[..., str], session: Session) -> None:
    gates = [Gate(), Gate(), Gate()]
    url = secure(sized(4 * RECORD), gates[0], bytes(RECORD), gates[1], bytes(RECORD), gates[2], bytes(2 * RECORD))
    response = session.request(url).end().get_response(LIMIT)
    gates[0].set()
    room = bytearray(10 * RECORD)
    assert response.readinto1(room) == RECORD
    gates[1].set()
    assert response.read1() == bytes(RECORD)
    gates[2].set()
    assert response.readinto(room) == 2 * RECORD


def without_end(conn: Conn) -> None:
    block = bytes(1024 * 1024)
    while True:
        conn.send(block)


@pytest.mark.parametrize("taken", ["readinto", "iter_chunks", "read"])
def test_abort_frees_who_reads_as_fast_as_he_can(secure: Callable[..., str], session: Session, taken: str) -> None:
    response = session.request(secure(sized(1 << 50), without_end)).end().get_response(LIMIT)
    running = threading.Event()

    def read() -> None:
        room = bytearray(64 * 1024 * 1024)
        chunks = response.iter_chunks()
        while True:
            if taken == "readinto":
                response.readinto(room)
            elif taken == "read":
                response.read(1024 * 1024)
            else:
                next(chunks)
            running.set()

    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read)
        assert running.wait(LIMIT)
        response.request.abort()
        with pytest.raises(AbortedError):
            reading.result(LIMIT)


def test_abort_ends_events_that_come_as_fast_as_they_can(secure: Callable[..., str], session: Session) -> None:
    request = session.request(secure(sized(1 << 50), without_end))
    flowing, closed = threading.Event(), threading.Event()
    request.on("response", lambda response: response.on("data", lambda chunk: flowing.set()))
    request.on("close", closed.set)
    request.end()
    assert flowing.wait(LIMIT)
    request.abort()
    assert closed.wait(LIMIT)


def test_what_came_before_a_cut_is_read(secure: Callable[..., str], session: Session) -> None:
    body = os.urandom(10 * RECORD)
    url = secure(sized(len(body) + 1), body, lambda conn: conn.close(notify=False))
    response = session.request(url).end().get_response(LIMIT)
    assert response.read(len(body)) == body
    with pytest.raises(ClientRequestError) as caught:
        response.read()
    assert caught.value.code == "ERR_CONTENT_LENGTH_MISMATCH"


def test_connection_with_bytes_behind_the_body_is_not_used_again(session: Session) -> None:
    """Those of the same record are in the hands of TLS: the socket itself knows nothing of them."""
    rest = Gate()
    first = scripted(sized(3), rest, b"0,1" + sized(7) + b"planted", Conn.wait_closed)
    second = scripted(sized(4) + b"real")
    with Peer(lambda conn: (first if conn.number == 1 else second)(conn), server_context()) as peer:
        response = session.request(peer.url("/")).end().get_response(LIMIT)
        assert response.read(0) == b""  # from here on the worker reads nothing ahead
        rest.set()
        assert response.read(3) == b"0,1"
        assert session.request(peer.url("/")).end().get_response(LIMIT).read() == b"real"
