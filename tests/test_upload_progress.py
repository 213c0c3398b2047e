"""How far an upload is: asked for, and told by events."""

from __future__ import annotations

import time
from typing import Any

import pytest

from clientrequest import AbortedError, ClientRequest, ClientRequestError, Session, UploadProgress
from tests.support import (
    LIMIT,
    Conn,
    Gate,
    Handler,
    Peer,
    Recorder,
    ca_path,
    echo_json,
    refused_port,
    scripted,
    server_context,
)

KIB, MIB = 1024, 1024 * 1024
BIG = 32 * MIB
"""More than the buffers of the system take on a connection that nobody reads."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
INACTIVE = UploadProgress(active=False, started=False, current=0, total=0)
WAYS = ("buffered", "chunked", "length")
STREAMED = ("chunked", "length")


def post(peer: Peer, name: str, length: int, **options: Any) -> ClientRequest:
    ways: dict[str, dict[str, Any]] = {
        "buffered": {},
        "chunked": {"chunked_encoding": True},
        "length": {"headers": {"Content-Length": str(length)}},
    }
    return ClientRequest(peer.url(), method="POST", **ways[name], **options)


def read_once_told(gate: Gate) -> Handler:
    """Reads nothing of the body until the gate opens, then all of it, and answers."""

    def handle(conn: Conn) -> None:
        request = conn.read_request(body=False)
        gate.wait()
        if conn.drain_body(request).complete:
            conn.send(OK)

    return handle


def progress(recorder: Recorder) -> list[tuple[int, int]]:
    """What the events said: (current, total)."""
    return [event.args for event in recorder.find("upload-progress")]


class TestAsked:
    """``get_upload_progress``."""

    def test_is_a_tuple_with_names(self) -> None:
        assert UploadProgress._fields == ("active", "started", "current", "total")

    def test_inactive_before_the_start(self) -> None:
        request = ClientRequest("http://127.0.0.1:9/", method="POST")
        assert request.get_upload_progress() == INACTIVE
        assert request.getUploadProgress() == INACTIVE

    def test_inactive_while_a_buffered_body_is_written(self) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, "buffered", 4)
            request.write(b"body")
            assert request.get_upload_progress() == INACTIVE
            request.end()
            assert request.wait(LIMIT)

    @pytest.mark.parametrize("name", STREAMED)
    def test_active_and_not_started_before_a_byte_of_the_body(self, name: str) -> None:
        with Peer(scripted(OK)) as peer:
            request = post(peer, name, 4)
            request.flush_headers()
            peer.wait_request()
            assert request.get_upload_progress() == UploadProgress(True, False, 0, 0)
            request.end(b"body")
            assert request.wait(LIMIT)

    def test_active_and_not_started_without_a_body(self) -> None:
        with Peer(scripted(Conn.hold)) as peer:
            request = ClientRequest(peer.url()).end()
            peer.wait_request()
            assert request.get_upload_progress() == UploadProgress(True, False, 0, 0)
            request.abort()

    @pytest.mark.parametrize(("name", "total"), [("chunked", 0), ("length", 10)])
    def test_while_it_is_written(self, name: str, total: int) -> None:
        with Peer(scripted(OK)) as peer:
            request = post(peer, name, 10)
            for piece, current in ((b"abc", 3), (b"d", 4), (b"efghi", 9)):
                request.write(piece)
                request.flush()
                assert request.get_upload_progress() == UploadProgress(True, True, current, total)
            request.end(b"j")
            assert request.wait(LIMIT)

    @pytest.mark.parametrize("name", WAYS)
    def test_while_the_answer_is_waited_for(self, name: str) -> None:
        answer = Gate()
        with Peer(scripted(answer, OK)) as peer:
            request = post(peer, name, 10)
            recorder = Recorder(request, consume=True)
            request.end(b"x" * 10)
            recorder.wait("upload-progress")
            request.flush()
            assert request.get_upload_progress() == UploadProgress(True, True, 10, 10)
            answer.set()
            recorder.wait("close")

    def test_counts_what_the_socket_took_and_not_what_was_written(self) -> None:
        read = Gate()
        with Peer(read_once_told(read)) as peer:
            request = post(peer, "length", BIG, high_water_mark=BIG)
            recorder = Recorder(request, consume=True)
            request.end(bytes(BIG))
            recorder.wait("upload-progress")
            asked = request.get_upload_progress()
            assert (asked.active, asked.started, asked.total) == (True, True, BIG)
            assert 0 < asked.current < BIG
            assert request.tell() == BIG
            read.set()
            recorder.wait("close")

    @pytest.mark.parametrize("name", WAYS)
    def test_active_until_the_answer_is_read(self, name: str) -> None:
        asked: list[UploadProgress] = []
        with Peer(scripted(OK)) as peer:
            request = post(peer, name, 4)
            request.on("response", lambda response: asked.append(request.get_upload_progress()))
            request.on("close", lambda: asked.append(request.get_upload_progress()))
            recorder = Recorder(request, consume=True)
            request.end(b"body")
            recorder.wait("close")
        assert asked == [UploadProgress(True, True, 4, 4), INACTIVE]
        assert request.get_upload_progress() == INACTIVE

    def test_inactive_after_an_abort(self) -> None:
        with Peer(scripted(Conn.hold)) as peer:
            request = post(peer, "chunked", 0)
            request.write(b"x")
            request.flush()
            request.abort()
            assert request.get_upload_progress() == INACTIVE
            with pytest.raises(AbortedError):
                request.wait(LIMIT)

    def test_inactive_after_a_failure(self) -> None:
        with refused_port() as port:
            request = ClientRequest(f"http://127.0.0.1:{port}/", method="POST").end(b"x")
            with pytest.raises(ClientRequestError):
                request.wait(LIMIT)
        assert request.get_upload_progress() == INACTIVE

    def test_after_an_early_answer_tells_what_was_sent(self) -> None:
        def answer_early(conn: Conn) -> None:
            conn.read_request(body=False)
            conn.recv_exact(4)
            conn.respond(413)
            conn.hold()

        with Peer(answer_early) as peer:
            request = post(peer, "length", BIG)
            recorder = Recorder(request)
            request.write(b"body")
            recorder.wait("response")
            request.write(bytes(MIB))
            assert request.get_upload_progress() == UploadProgress(True, True, 4, BIG)
            recorder.response.resume()
            recorder.wait("close")


class TestTold:
    """The event ``upload-progress``."""

    @pytest.mark.parametrize("size", [1, 1000, 3 * MIB])
    @pytest.mark.parametrize("name", WAYS)
    def test_last_one_has_the_full_count(self, name: str, size: int) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, name, size)
            recorder = Recorder(request, consume=True)
            for start in range(0, size, 100_000):
                request.write(bytes(min(100_000, size - start)))
            request.end()
            recorder.wait("close")
        assert progress(recorder)[-1] == (size, size)

    @pytest.mark.parametrize("name", WAYS)
    def test_last_one_does_not_wait_for_the_answer(self, name: str) -> None:
        last, answer = Gate("last progress"), Gate("answer")
        with Peer(scripted(answer, OK)) as peer:
            request = post(peer, name, 9 * MIB)
            recorder = Recorder(request, consume=True)
            request.on("upload-progress", lambda *counts: counts == (9 * MIB, 9 * MIB) and last.set())
            request.write(bytes(9 * MIB))
            request.end()
            last.wait()
            assert recorder.find("response") == []
            answer.set()
            recorder.wait("close")
            recorder.check_grammar()

    @pytest.mark.parametrize(("name", "total"), [("buffered", BIG), ("chunked", 0), ("length", BIG)])
    def test_first_one_comes_while_the_body_is_sent(self, name: str, total: int) -> None:
        read, ending = Gate(), name == "buffered"
        with Peer(read_once_told(read)) as peer:
            request = post(peer, name, BIG, high_water_mark=2 * BIG)
            recorder = Recorder(request, consume=True)
            request.write(bytes(BIG))
            if ending:
                request.end()
            current, told = recorder.wait("upload-progress").args
            assert 0 < current < BIG
            assert told == total
            read.set()
            if not ending:
                request.end()
            recorder.wait("close")

    def test_counts_grow_and_framing_is_not_counted(self) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, "chunked", 0)
            recorder = Recorder(request, consume=True)
            for _ in range(200):
                request.write(b"x")
                request.flush()
            request.end()
            recorder.wait("close")
        counts = [current for current, _ in progress(recorder)]
        assert counts == sorted(counts)
        assert counts[-1] == 200

    def test_at_most_ten_a_second(self) -> None:
        times: list[float] = []
        with Peer(echo_json) as peer:
            request = post(peer, "chunked", 0)
            request.on("upload-progress", lambda current, total: times.append(time.monotonic()))
            end = time.monotonic() + 0.45
            while time.monotonic() < end:
                request.write(bytes(64 * KIB))
                request.flush()
            request.end()
            assert request.wait(LIMIT)
        *regular, _last = times
        gaps = [after - before for before, after in zip(regular, regular[1:])]
        assert len(regular) >= 3
        assert min(gaps) > 0.09
        assert len(regular) <= 6

    def test_none_without_a_body(self) -> None:
        with Peer(echo_json) as peer:
            request = ClientRequest(peer.url())
            recorder = Recorder(request, consume=True)
            request.end()
            recorder.wait("close")
        assert progress(recorder) == []

    def test_comes_on_the_event_thread(self) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, "buffered", 0)
            recorder = Recorder(request, consume=True)
            request.end(b"x" * MIB)
            recorder.wait("close")
            recorder.check_grammar()
        assert recorder.find("upload-progress")
        assert len(recorder.threads()) == 1

    def test_aborted_upload_claims_no_end(self) -> None:
        with Peer(read_once_told(Gate())) as peer:
            request = post(peer, "length", BIG, high_water_mark=BIG)
            recorder = Recorder(request)
            request.end(bytes(BIG))
            recorder.wait("upload-progress")
            request.abort()
            recorder.wait("close")
            recorder.check_grammar()
        assert all(current < BIG for current, _ in progress(recorder))

    def test_early_answer_ends_with_what_was_sent(self) -> None:
        ready = Gate()

        def answer_early(conn: Conn) -> None:
            conn.read_request(body=False)
            ready.wait()
            conn.respond(413)
            conn.hold()

        with Peer(answer_early) as peer:
            request = post(peer, "length", BIG)
            recorder = Recorder(request, consume=True)
            request.write(b"x" * 1000)
            request.flush()
            ready.set()
            recorder.wait("close")
        assert progress(recorder)[-1] == (1000, BIG)


@pytest.mark.parametrize("context", [None, server_context()], ids=["plain", "tls"])
def test_one_large_write_shows_how_far_it_is(context: Any) -> None:
    """The server reads a part and stops: what went until then counts, be it of a single write."""
    gate, read = Gate(), Gate()

    def handle(conn: Conn) -> None:
        conn.read_request(body=False)
        conn.recv_exact(2 * MIB)
        read.set()
        gate.wait()

    with Peer(handle, context) as peer, Session(tls=ca_path()) as session:
        request = session.request(peer.url(), method="POST", blocking=False, headers={"Content-Length": BIG})
        request.write(bytes(BIG))
        read.wait()
        # Told right after it was taken: makes no noise, so it is polled.
        assert request._exchange.news.wait_for(lambda: request.get_upload_progress().current >= MIB, LIMIT)
        request.abort()
        gate.set()
