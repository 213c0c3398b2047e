"""A thousand uploads in a row leave threads, descriptors and memory where they were."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import json
import os
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any, Callable

import pytest

import clientrequest
from clientrequest import ClientRequest, ClientRequestError, IncomingMessage, Session
from clientrequest._exchange import _live
from tests.support import LIMIT, Conn, Peer, ca_path, server_context

ROUNDS = 1000
WARM_UP = 100
GROWTH = 20_000
"""Bytes that requests may leave behind altogether, however many they are: about what two of them take."""

PACKAGE = os.path.dirname(clientrequest.__file__)


def answer(conn: Conn) -> None:
    """Answers everything with what it got; some paths have their own ways."""
    while True:
        request = conn.read_request(body=False)
        if request.target == "/early":
            conn.respond(413, {"Connection": "close"}, body=b"too much")
            conn.wait_closed()
            return
        if request.target == "/reset":
            conn.reset()
            return
        if request.header("expect"):
            conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not conn.drain_body(request).complete:
            return
        body = json.dumps({"length": request.length}).encode()
        if request.target == "/gzip":
            conn.respond(headers={"Content-Encoding": "gzip"}, body=gzip.compress(body))
        elif request.target == "/large":
            conn.respond(body=[bytes(50_000)] * 4, chunked=True)
        elif request.target == "/close":
            conn.respond(body=body, close=True)
            return
        else:
            conn.respond(body=body)


def whole(request: ClientRequest, length: int) -> None:
    assert request.get_response(LIMIT).json()["length"] == length
    assert request.wait(LIMIT)


def buffered(session: Session, peer: Peer) -> ClientRequest:
    request = session.request(peer.url(), method="POST")
    request.write(b"x" * 1000)
    whole(request.end(b"y"), 1001)
    return request


def chunked(session: Session, peer: Peer) -> ClientRequest:
    request = session.request(peer.url("/gzip"), method="POST", chunked_encoding=True)
    for _ in range(20):
        request.write(b"x" * 100)
    whole(request.end(), 2000)
    return request


def known_length(session: Session, peer: Peer) -> ClientRequest:
    request = session.request(peer.url(), method="PUT", headers={"Content-Length": "300000"})
    request.pipe_from(io.BytesIO(bytes(300_000)), 300_000)
    whole(request.end(), 300_000)
    return request


def as_a_file(session: Session, peer: Peer) -> ClientRequest:
    with session.request(peer.url("/close"), method="POST", chunked_encoding=True) as request:
        text = io.TextIOWrapper(request, encoding="utf-8")
        text.write("some text")
        text.flush()
        text.detach()
    whole(request, 9)
    return request


def with_continue(session: Session, peer: Peer) -> ClientRequest:
    request = session.request(peer.url(), method="POST", headers={"Expect": "100-continue"})
    whole(request.end(b"x" * 100), 100)
    return request


def by_events(session: Session, peer: Peer) -> ClientRequest:
    request = session.request(peer.url("/large"), method="POST")
    received: list[int] = []
    closed = threading.Event()

    @request.on("response")
    def listen(response: IncomingMessage) -> None:
        response.on("data", lambda piece: received.append(len(piece)))
        response.on("close", lambda: response.status_code)

    request.on("close", closed.set)
    request.on("upload-progress", lambda current, total: None)
    request.end(b"x")
    assert closed.wait(LIMIT)
    assert sum(received) == 200_000
    return request


def unread(session: Session, peer: Peer) -> ClientRequest:
    request = session.request(peer.url("/large"), method="POST").end(b"x")
    assert request.wait(LIMIT)
    return request


def early(session: Session, peer: Peer) -> ClientRequest:
    request = session.request(peer.url("/early"), method="POST", chunked_encoding=True)
    for _ in range(10):
        request.write(b"x" * 10_000)
    assert request.get_response(LIMIT).read() == b"too much"
    request.end()
    assert request.wait(LIMIT)
    return request


def aborted(session: Session, peer: Peer) -> ClientRequest:
    request = session.request(peer.url(), method="POST", chunked_encoding=True)
    request.write(b"x" * 1000)
    request.abort()
    return failed(request)


def failing(session: Session, peer: Peer) -> ClientRequest:
    return failed(session.request(peer.url("/reset"), method="POST").end(b"x"))


def raising(session: Session, peer: Peer) -> ClientRequest:
    def listen() -> None:
        raise RuntimeError("by the listener")

    return failed(session.request(peer.url(), method="POST").on("finish", listen).end(b"x"))


def failed(request: ClientRequest) -> ClientRequest:
    with contextlib.suppress(ClientRequestError):
        request.wait(LIMIT)
        raise AssertionError("it should have failed")
    return request


def never_sent(session: Session, peer: Peer) -> ClientRequest:
    return session.request(peer.url(), method="POST")


KINDS: list[Callable[[Session, Peer], ClientRequest]] = [
    buffered,
    chunked,
    known_length,
    as_a_file,
    with_continue,
    by_events,
    unread,
    early,
    aborted,
    failing,
    raising,
    never_sent,
]


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("clientrequest")]


def descriptors() -> int:
    """How many are open; always 0 where the system does not tell."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def our_memory(peer: Peer) -> int:
    """Bytes in use that were asked for by this package, or by what it called."""
    with peer._changed:  # what the server remembers may be in memory that was ours before
        peer.connections[:] = [conn for conn in peer.connections if not conn.finished.is_set()]
        peer.requests.clear()
    gc.collect()
    ours = tracemalloc.Filter(True, os.path.join(PACKAGE, "*"), all_frames=True)
    traces = tracemalloc.take_snapshot().filter_traces([ours])
    return sum(statistic.size for statistic in traces.statistics("filename"))


@pytest.fixture
def session() -> Iterator[Session]:
    with Session(tls=ca_path()) as session:
        yield session


def run(session: Session, peers: list[Peer], rounds: int) -> list[weakref.ref[Any]]:
    made: list[weakref.ref[Any]] = []
    for number in range(rounds):
        kind = KINDS[number % len(KINDS)]
        request = kind(session, peers[number // len(KINDS) % len(peers)])
        made.append(weakref.ref(request))
    return made


@pytest.mark.slow
def test_a_thousand_uploads_leave_threads_and_descriptors_where_they_were(session: Session) -> None:
    with Peer(answer) as plain, Peer(answer, tls=server_context()) as secure:
        peers = [plain, plain, plain, secure]
        run(session, peers, WARM_UP)
        gc.collect()
        threads, before = len(our_threads()), descriptors()
        made = run(session, peers, ROUNDS)
        gc.collect()
        assert not _live
        assert not session._running
        assert [request for request in made if request() is not None] == []
        assert len(our_threads()) <= max(threads, 2)
        # The servers' sides of some connections may still be on their way out.
        assert descriptors() <= before + 12
        assert len(session._pools.idle()) <= 4


def test_hundreds_of_uploads_leave_memory_where_it_was(session: Session) -> None:
    with Peer(answer) as peer:
        run(session, [peer], WARM_UP)
        tracemalloc.start(12)
        try:
            run(session, [peer], WARM_UP)
            before = our_memory(peer)
            run(session, [peer], 3 * WARM_UP)
            growth = our_memory(peer) - before
        finally:
            tracemalloc.stop()
    assert growth < GROWTH


def test_good_requests_leave_nothing_for_the_cyclic_collector(session: Session) -> None:
    with Peer(answer) as peer:
        gc.collect()
        gc.disable()
        try:
            made = [weakref.ref(kind(session, peer)) for kind in (buffered, chunked, known_length, unread, never_sent)]
            left = [request() for request in made if request() is not None]
        finally:
            gc.enable()
    assert left == []
