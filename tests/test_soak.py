"""A thousand uploads in a row leave threads, descriptors and memory where they were."""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
from typing import Callable

import pytest

from clientrequest import AbortedError, ClientRequest, Session
from tests.support import LIMIT, Conn, Peer

ROUNDS = 1000
GROWTH = 256 * 1024  # bytes that a thousand requests may leave in caches and counters

EARLY = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nstop"


def serve(conn: Conn) -> None:
    """Counts bodies; answers ``/early`` before the body, and hangs up on ``/cut``."""
    while True:
        request = conn.read_request(body=False)
        if request.target == "/early":
            conn.send(EARLY)
            conn.shutdown_write()
            while conn.recv_some():
                pass
            return
        body = conn.drain_body(request)
        if request.target == "/cut":
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
            return
        conn.respond(body=b"%d" % (body if isinstance(body, int) else request.length))


def upload_chunked(session: Session, url: str) -> None:
    request = session.request(url, method="POST", chunked_encoding=True)
    for _ in range(10):
        request.write(b"x" * 100)
    assert request.end().get_response(LIMIT).read() == b"1000"
    assert request.wait(LIMIT)


def upload_buffered(session: Session, url: str) -> None:
    request = session.request(url, method="PUT")
    request.write("text")
    assert request.end(b"bytes").get_response(LIMIT).text() == "9"


def upload_by_events(session: Session, url: str) -> None:
    body = bytearray()
    request = session.request(url, method="POST", headers={"Content-Length": 5})
    request.on("response", lambda response: response.on("data", body.extend))
    request.end(b"exact")
    assert request.wait(LIMIT)
    assert body == b"5"


def upload_aborted(session: Session, url: str) -> None:
    request = session.request(url, method="POST", chunked_encoding=True)
    request.write(b"never ended")
    request.abort()
    with pytest.raises(AbortedError):
        request.wait(LIMIT)


def upload_answered_early(session: Session, url: str) -> None:
    request = session.request(url + "early", method="POST", chunked_encoding=True)
    request.write(b"x" * 1000)
    assert request.get_response(LIMIT).read() == b"stop"
    assert request.wait(LIMIT)
    request.end()


def upload_with_a_cut_answer(session: Session, url: str) -> None:
    request: ClientRequest = session.request(url + "cut", method="POST").end(b"x")
    with pytest.raises(OSError, match="ERR_CONTENT_LENGTH_MISMATCH"):
        request.get_response(LIMIT).read()


KINDS: list[Callable[[Session, str], None]] = [
    upload_chunked,
    upload_buffered,
    upload_by_events,
    upload_aborted,
    upload_answered_early,
    upload_with_a_cut_answer,
]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def memory() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def run(session: Session, url: str, count: int) -> None:
    for number in range(count):
        KINDS[number % len(KINDS)](session, url)


def test_a_thousand_uploads_leave_nothing_behind() -> None:
    with Session() as session, Peer(serve) as peer:
        url = peer.url("/")
        run(session, url, 60)  # whatever is made once is made now
        peer.connections.clear()
        peer.requests.clear()
        tracemalloc.start()
        try:
            before = memory(), descriptors(), threading.active_count()
            for _ in range(10):
                run(session, url, ROUNDS // 10)
                peer.connections.clear()  # the server of the test remembers everything
                peer.requests.clear()
            after = memory(), descriptors(), threading.active_count()
        finally:
            tracemalloc.stop()
        assert after[0] - before[0] < GROWTH
        assert after[1] <= before[1] + 4  # the last connection may still be on its way out, at both ends
        assert after[2] <= before[2] + 2
