"""The high-water mark: who waits at it, who does not, and what frees him who waits."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from clientrequest import (
    AbortedError,
    ClientRequest,
    ClientRequestError,
    RequestTimeout,
    Timeout,
    TransferError,
    _gates,
)
from clientrequest._body import CHUNKED, Outbox
from clientrequest._round_trip import RoundTrip
from tests.support import LIMIT, Conn, Gate, Handler, Peer, Recorder, echo_json

KIB, MIB = 1024, 1024 * 1024
BIG = 32 * MIB
"""More than the buffers of the system take on a connection that nobody reads."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
STREAMED = ("chunked", "length")


def post(peer: Peer, name: str = "chunked", **options: Any) -> ClientRequest:
    options.setdefault("high_water_mark", 64 * KIB)
    if name == "chunked":
        return ClientRequest(peer.url(), method="POST", chunked_encoding=True, **options)
    return ClientRequest(peer.url(), method="POST", headers={"Content-Length": str(BIG)}, **options)


def read_once_told(gate: Gate) -> Handler:
    """Reads nothing of the body until the gate opens, then all of it, and answers."""

    def handle(conn: Conn) -> None:
        request = conn.read_request(body=False)
        gate.wait()
        if conn.drain_body(request).complete:
            conn.send(OK)

    return handle


class Writer:
    """A thread that writes, and what came of it."""

    def __init__(self, write: Callable[[], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self.done = Gate("the writer's return")
        self.ended_at = 0.0
        self._write = write
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._write()
        except BaseException as error:
            self.error = error
        self.ended_at = time.monotonic()
        self.done.set()

    def join(self, timeout: float = LIMIT) -> None:
        self.done.wait(timeout)
        self._thread.join(timeout)


@contextlib.contextmanager
def blocked_writer(peer: Peer, name: str = "chunked", **options: Any) -> Iterator[tuple[ClientRequest, Writer]]:
    """A request with a writer that hangs in ``write``: its chunk is with the worker, and nobody reads."""
    request = post(peer, name, **options)
    taken = Gate("the worker's taking of the chunk")
    writer = Writer(lambda: request.write(bytes(BIG), "utf-8", taken.set))
    taken.wait()
    assert not writer.done.is_set()
    yield request, writer
    writer.join()


class TestBlockedWriter:
    @pytest.mark.parametrize("name", STREAMED)
    def test_is_freed_by_reading(self, name: str) -> None:
        read = Gate()
        with Peer(read_once_told(read)) as peer:
            with blocked_writer(peer, name) as (request, writer):
                assert request.writable_length > 64 * KIB
                read.set()
                writer.join()
                assert writer.result == BIG
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().length == BIG

    @pytest.mark.parametrize("name", STREAMED)
    def test_is_freed_by_abort(self, name: str) -> None:
        with Peer(read_once_told(Gate())) as peer, blocked_writer(peer, name) as (request, writer):
            start = time.monotonic()
            request.abort()
            writer.join()
            assert isinstance(writer.error, AbortedError)
            assert writer.ended_at - start < 1.0  # 0.05 on a quiet machine

    def test_all_of_many_are_freed_by_abort(self) -> None:
        with Peer(read_once_told(Gate())) as peer, blocked_writer(peer) as (request, writer):
            writers = [writer, *(Writer(lambda: request.write(b"x" * KIB)) for _ in range(8))]
            start = time.monotonic()
            request.abort()
            for one in writers:
                one.join()
                assert isinstance(one.error, AbortedError)
                assert one.ended_at - start < 1.0

    def test_is_freed_by_the_reset_of_the_connection(self) -> None:
        with Peer(read_once_told(Gate())) as peer, blocked_writer(peer) as (request, writer):
            recorder = Recorder(request)
            start = time.monotonic()
            peer.wait_connection().reset()
            writer.join()
            assert writer.ended_at - start < 1.0
            assert isinstance(writer.error, TransferError)
            assert recorder.wait("error").args == (writer.error,)

    def test_is_freed_by_the_close_of_the_connection(self) -> None:
        with Peer(read_once_told(Gate())) as peer, blocked_writer(peer) as (_request, writer):
            peer.wait_connection().close()
            writer.join()
            assert isinstance(writer.error, ClientRequestError)

    @pytest.mark.parametrize("timeout", [Timeout(write=0.2), Timeout(total=0.2)], ids=["write", "total"])
    def test_is_freed_by_a_timeout(self, timeout: Timeout) -> None:
        with Peer(read_once_told(Gate())) as peer, blocked_writer(peer, timeout=timeout) as (_request, writer):
            writer.join()
            assert isinstance(writer.error, RequestTimeout)

    def test_is_freed_by_an_early_answer(self) -> None:
        def answer_early(conn: Conn) -> None:
            conn.read_request(body=False)
            ready.wait()
            conn.respond(413)
            conn.hold()

        ready = Gate()
        with Peer(answer_early) as peer, blocked_writer(peer) as (request, writer):
            ready.set()
            writer.join()
            assert writer.result == BIG
            assert not request.writable()
            assert request.get_response(LIMIT).status_code == 413
            assert request.wait(LIMIT)

    def test_before_the_connection_is_made_is_freed_by_its_failure(self) -> None:
        with Peer(echo_json) as peer:
            port = peer.port
        request = ClientRequest(f"http://127.0.0.1:{port}/", method="POST", chunked_encoding=True, high_water_mark=1)
        with pytest.raises(ClientRequestError) as caught:
            request.write(b"more than the mark")
        assert caught.value.code == "ERR_CONNECTION_REFUSED"


class TestMark:
    def test_up_to_it_nobody_waits(self) -> None:
        read = Gate()
        with Peer(read_once_told(read)) as peer:
            request = post(peer, high_water_mark=BIG)
            writer = Writer(lambda: [request.write(bytes(MIB)) for _ in range(BIG // MIB)])
            writer.join()
            assert writer.error is None
            assert not read.is_set()
            read.set()
            request.end()
            assert request.wait(LIMIT)

    def test_no_more_than_it_and_one_chunk_ever_waits(self) -> None:
        lengths = []
        with Peer(echo_json) as peer:
            request = post(peer)
            for _ in range(500):
                request.write(bytes(10_000))
                lengths.append(request.writable_length)
            request.end()
            assert request.get_response(LIMIT).json()["length"] == 5_000_000
            assert request.wait(LIMIT)
        assert max(lengths) <= 64 * KIB

    @pytest.mark.parametrize("high", [1, 2, 100])
    def test_tiny_marks_work(self, high: int) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, high_water_mark=high)
            for _ in range(50):
                request.write(b"x" * 33)
            request.end()
            assert request.get_response(LIMIT).json()["length"] == 50 * 33
            assert request.wait(LIMIT)

    def test_who_waited_goes_on_at_half_of_it(self) -> None:
        read = Gate()
        with Peer(read_once_told(read)) as peer:
            with blocked_writer(peer, high_water_mark=8 * MIB) as (request, writer):
                read.set()
                writer.join()
                assert request.writable_length <= 4 * MIB
            request.end()
            assert request.wait(LIMIT)

    def test_chunk_larger_than_it_is_taken_whole(self) -> None:
        with Peer(echo_json) as peer:
            request = post(peer)
            assert request.write(bytes(BIG)) == BIG
            assert request.writable_length <= 32 * KIB
            request.end()
            assert request.get_response(LIMIT).json()["length"] == BIG
            assert request.wait(LIMIT)

    def test_buffered_body_never_waits(self) -> None:
        with Peer(echo_json) as peer:
            request = ClientRequest(peer.url(), method="POST", high_water_mark=1)
            request.write(bytes(MIB))
            assert not request.writable_need_drain
            request.end()
            assert request.get_response(LIMIT).json()["length"] == MIB
            assert request.wait(LIMIT)

    def test_end_never_waits(self) -> None:
        read = Gate()
        with Peer(read_once_told(read)) as peer:
            request = post(peer)
            writer = Writer(lambda: request.end(bytes(BIG)))
            writer.join()
            assert writer.result is request
            read.set()
            assert request.wait(LIMIT)


class TestMemory:
    SIZE = 256 * MIB

    def push(self, handler: Handler, piece: int, **options: Any) -> int:
        """Push a lot through ``handler``; the most memory that was ever in use, of both sides together."""
        with Peer(handler) as peer:
            tracemalloc.start()
            try:
                request = ClientRequest(peer.url(), method="POST", **options)
                for number in range(self.SIZE // piece):
                    request.write(bytes([number % 256]) * piece)
                request.end()
                assert request.wait(LIMIT)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    def test_is_bounded_for_a_slow_reader(self) -> None:
        def read_slowly(conn: Conn) -> None:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
            conn.read_request(body=False)
            left = self.SIZE
            while left:
                left -= len(conn.recv_some(16 * KIB))
            conn.send(OK)

        peak = self.push(read_slowly, 256 * KIB, headers={"Content-Length": str(self.SIZE)})
        assert peak < 16 * MIB

    def test_is_bounded_for_joined_writes(self) -> None:
        def drain(conn: Conn) -> None:
            assert conn.drain_body(conn.read_request(body=False)).length == self.SIZE
            conn.send(OK)

        assert self.push(drain, 32 * KIB, chunked_encoding=True) < 16 * MIB


class TestNotBlocking:
    """``blocking=False``."""

    def test_never_waits(self) -> None:
        read = Gate()
        with Peer(read_once_told(read)) as peer:
            request = post(peer, blocking=False)
            writer = Writer(lambda: [request.write(bytes(BIG)) for _ in range(2)])
            writer.join()
            assert writer.error is None
            request.flush()
            assert request.writable_length > BIG
            assert request.writable_need_drain
            read.set()
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().length == 2 * BIG

    def test_drain_follows_and_takes_the_need_away(self) -> None:
        read = Gate()
        states: list[tuple[bool, int]] = []
        with Peer(read_once_told(read)) as peer:
            request = post(peer, blocking=False, high_water_mark=MIB)
            recorder = Recorder(request, consume=True)
            request.on("drain", lambda: states.append((request.writable_need_drain, request.writable_length)))
            request.write(bytes(BIG))
            assert request.writable_need_drain
            assert recorder.find("drain") == []
            read.set()
            recorder.wait("drain")
            request.flush()
            assert not request.writable_need_drain
            request.end()
            recorder.wait("close")
            recorder.check_grammar()
        assert len(recorder.find("drain")) == 1
        needed, waiting = states[0]
        assert not needed
        assert waiting <= MIB // 2

    def test_drain_follows_however_fast_the_worker_is(self) -> None:
        """Whether it does is known at the call, as in Node: what is written passes the mark, or it does not."""
        outbox = Outbox(high=10, keep=0)
        outbox.mode, outbox.starving = CHUNKED, True
        outbox.admit()

        def send_all() -> None:
            for chunk in outbox.take()[0]:
                outbox.advance(len(chunk))

        outbox.wake = send_all
        assert not outbox.put(b"x" * 11)
        assert outbox.waiting == 0

    def test_drain_follows_a_writer_that_asks_late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its chunk is sent before it asks, and its wake-up comes while the worker looks for an answer."""
        sent, asked = Gate(), Gate()
        wait_for_room, answered = ClientRequest._wait_for_room, RoundTrip._answered

        def ask_late(request: ClientRequest) -> None:
            sent.wait()
            wait_for_room(request)
            asked.set()

        def look_late(trip: RoundTrip) -> bool:
            sent.set()
            asked.wait()
            return answered(trip)

        monkeypatch.setattr(ClientRequest, "_wait_for_room", ask_late)
        monkeypatch.setattr(RoundTrip, "_answered", look_late)
        with Peer(echo_json) as peer:
            request = post(peer, blocking=False, high_water_mark=10)
            recorder = Recorder(request, consume=True)
            request.write(b"x" * 1000)
            recorder.wait("drain")
            request.end()
            recorder.wait("close")

    def test_below_the_mark_there_is_no_drain(self) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, blocking=False)
            recorder = Recorder(request, consume=True)
            for _ in range(10):
                request.write(b"x" * 100)
                assert not request.writable_need_drain
            request.end()
            recorder.wait("close")
        assert recorder.find("drain") == []

    def test_one_drain_for_each_time_the_mark_is_passed(self) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, blocking=False)
            recorder = Recorder(request, consume=True)
            for number in range(1, 6):
                request.write(bytes(4 * MIB))
                recorder.wait("drain", count=number)
            request.end()
            recorder.wait("close")
        assert len(recorder.find("drain")) == 5
        assert peer.wait_request().length == 20 * MIB

    def test_wrote_in_time_with_drain(self) -> None:
        """The way it is meant to be used: write until a drain is needed, go on when it comes."""
        pieces = [bytes([number]) * 50_000 for number in range(200)]
        left = iter(pieces)

        def pump() -> None:
            for piece in left:
                request.write(piece)
                if request.writable_need_drain:
                    return
            request.end()

        with Peer(echo_json) as peer:
            request = post(peer, blocking=False)
            recorder = Recorder(request, consume=True)
            request.on("drain", pump)
            pump()
            recorder.wait("close")
        assert peer.wait_request().length == 200 * 50_000
        assert len(recorder.find("drain")) > 1


def test_flush_is_told_beside_other_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They keep more than the mark waiting all the time; what was written before is with the network all the same."""
    monkeypatch.setattr(_gates, "SLICE", 10 * LIMIT)
    outbox = Outbox(high=100, keep=0)
    outbox.mode = CHUNKED
    outbox.admit()
    outbox.put(bytes(60))
    flushed = Writer(lambda: outbox.await_sent(lambda: False))
    pause = threading.Event()
    while not outbox.room._waiters:
        pause.wait(0.001)
    outbox.put(bytes(1000))
    outbox.advance(60)
    flushed.join()
    assert flushed.error is None


class TestInCallbacks:
    def test_write_in_a_write_callback_does_not_wait(self) -> None:
        read, written = Gate(), Gate()
        with Peer(read_once_told(read)) as peer:
            request = post(peer)
            recorder = Recorder(request, consume=True)

            def write_more() -> None:
                request.write(bytes(BIG))
                needs.append(request.writable_need_drain)
                written.set()

            needs: list[bool] = []
            request.write(b"x", "utf-8", write_more)
            written.wait()
            assert needs == [True]
            assert recorder.find("drain") == []
            read.set()
            recorder.wait("drain")
            request.end()
            recorder.wait("close")
            assert peer.wait_request().length == BIG + 1

    def test_write_in_drain_does_not_wait(self) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, blocking=False)
            recorder = Recorder(request, consume=True)
            rest = [bytes(MIB)] * 5

            def write_next() -> None:
                if rest:
                    request.write(rest.pop())
                else:
                    request.end()

            request.on("drain", write_next)
            request.write(bytes(MIB))
            recorder.wait("close")
            assert peer.wait_request().length == 6 * MIB
        assert len(recorder.find("drain")) == 6

    def test_write_to_another_request_waits(self) -> None:
        """A callback of one request is no excuse for another request."""
        read, taken, returned = Gate(), Gate(), Gate()
        with Peer(read_once_told(read)) as slow, Peer(echo_json) as quick:
            target = post(slow)
            source = post(quick)

            def write_to_the_other() -> None:
                target.write(bytes(BIG), "utf-8", taken.set)
                returned.set()

            source.write(b"x", "utf-8", write_to_the_other)
            taken.wait()
            assert not returned.is_set()
            read.set()
            returned.wait()
            for request in (source, target):
                request.end()
                assert request.wait(LIMIT)
            assert slow.wait_request().length == BIG
