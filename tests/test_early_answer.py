"""Answers that come before the body is sent, leave to send it, and interim answers."""

from __future__ import annotations

import contextlib
import io
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import pytest

from clientrequest import ClientRequest, IncomingMessage, Session
from tests.support import (
    LIMIT,
    Conn,
    Gate,
    Handler,
    Peer,
    PeerTimeout,
    Recorder,
    early_answer,
    echo_json,
    scripted,
    server_context,
)

Serve = Callable[..., Peer]
Make = Callable[..., ClientRequest]

KINDS = ["close", "keep_reading", "half_close", "stop_reading"]
BLOCK = bytes(256 * 1024)
MUCH = bytes(32 * 1024 * 1024)
"""More than the kernel's buffers hold."""


@pytest.fixture(params=["chunked", "length"])
def upload(request: pytest.FixtureRequest, session: Session) -> Make:
    """Makes an upload in one of the two ways that stream."""
    framing: dict[str, Any] = {
        "chunked": {"chunked_encoding": True},
        "length": {"headers": {"Content-Length": 1 << 40}},
    }

    def make(peer: Peer, **options: Any) -> ClientRequest:
        made: ClientRequest = session.request(peer.url("/"), method="PUT", **framing[request.param], **options)
        return made

    return make


def early(kind: str, **options: Any) -> Handler:
    """`early_answer`, in peace with OpenSSL, which may refuse to read on once it has said goodbye."""
    answer = early_answer(kind, **options)

    def answer_early(conn: Conn) -> None:
        with contextlib.suppress(ssl.SSLError):
            answer(conn)

    return answer_early


def write_until_refused(request: ClientRequest) -> None:
    """Write as fast as it goes, until no more is wanted."""
    for _ in range(16 * 1024):  # 4 GiB
        if not request.writable():
            return
        request.write(BLOCK)
    raise AssertionError("the answer never stopped the upload")


# --- the answer comes through ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_fast_writer_gets_the_answer(serve: Serve, upload: Make, kind: str) -> None:
    request = upload(serve(early(kind)))
    write_until_refused(request)
    response = request.get_response(LIMIT)
    assert response.status_code == 413
    assert response.read() == b"too much\n"
    assert request.wait(LIMIT)  # though end() was never called


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_writer_gets_the_answer(serve: Serve, upload: Make, kind: str) -> None:
    request = upload(serve(early(kind)))
    request.write(b"a little")
    response = request.get_response(LIMIT)
    assert response.status_code == 413
    assert response.read() == b"too much\n"
    assert request.wait(LIMIT)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_in_the_middle_of_the_body(serve: Serve, upload: Make, kind: str) -> None:
    request = upload(serve(early(kind, after=1_000_000)))
    write_until_refused(request)
    assert request.get_response(LIMIT).read() == b"too much\n"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_to_a_buffered_body(serve: Serve, session: Session, kind: str) -> None:
    request = session.request(serve(early(kind)).url("/"), method="PUT")
    recorder = Recorder(request, consume=True)
    request.end(MUCH)
    recorder.wait("close")
    recorder.check_grammar()
    assert recorder.response.status_code == 413
    assert recorder.body == b"too much\n"


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_after_end_while_the_body_is_on_its_way(serve: Serve, session: Session, kind: str) -> None:
    options = {"chunked_encoding": True, "high_water_mark": 2 * len(MUCH)}
    request = session.request(serve(early(kind)).url("/"), method="PUT", **options)
    request.end(MUCH)
    assert request.get_response(LIMIT).read() == b"too much\n"
    assert request.wait(LIMIT)


@pytest.mark.parametrize("status", [200, 404, 503])
def test_any_final_status_ends_the_upload(serve: Serve, upload: Make, status: int) -> None:
    request = upload(serve(early("stop_reading", status=status)))
    write_until_refused(request)
    assert request.get_response(LIMIT).status_code == status


@pytest.mark.parametrize("kind", ["keep_reading", "stop_reading"])
def test_a_long_answer_is_read_whole(serve: Serve, upload: Make, kind: str) -> None:
    answer = bytes(range(256)) * 8192
    request = upload(serve(early(kind, body=answer)))
    write_until_refused(request)
    assert request.get_response(LIMIT).read() == answer


def test_an_answer_frees_a_writer_that_waits(serve: Serve, upload: Make) -> None:
    answer = Gate()
    request = upload(serve(scripted(answer, b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n", Conn.hold, body=False)))
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(write_until_refused, request)
        assert not request.wait(0.2)  # by now it waits for room
        assert not writing.done()
        answer.set()
        writing.result(LIMIT)
    assert request.get_response(LIMIT).status_code == 413


def test_an_answer_frees_who_waits_for_drain(serve: Serve, upload: Make) -> None:
    answer = Gate()
    request = upload(
        serve(scripted(answer, b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n", Conn.hold, body=False)), blocking=False
    )
    recorder = Recorder(request, consume=True)
    request.write(MUCH)
    assert request.writable_need_drain
    answer.set()
    recorder.wait("drain")
    assert not request.writable_need_drain
    recorder.wait("close")
    recorder.check_grammar(early_answer=True)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_frees_flush(serve: Serve, upload: Make, kind: str) -> None:
    request = upload(serve(early(kind)), high_water_mark=2 * len(MUCH))
    request.write(MUCH)
    request.flush()
    assert request.get_response(LIMIT).status_code == 413


def test_an_answer_to_headers_alone(serve: Serve, upload: Make) -> None:
    request = upload(serve(early("stop_reading")))
    request.flush_headers()
    assert request.get_response(LIMIT).status_code == 413


# --- what becomes of the rest ---------------------------------------------------------------------------------------


@pytest.fixture
def answered(serve: Serve, upload: Make) -> Iterator[ClientRequest]:
    """An upload that has got its answer, and was not ended."""
    request = upload(serve(early("keep_reading")))
    request.write(b"a little")
    request.get_response(LIMIT)
    yield request
    assert request.wait(LIMIT)


def test_no_more_is_wanted(answered: ClientRequest) -> None:
    assert not answered.writable()
    assert answered.writable_length == 0


def test_writes_are_taken_and_dropped(answered: ClientRequest) -> None:
    assert answered.write(b"more") == 4
    assert answered.tell() == len(b"a little" + b"more")
    assert answered.writable_length == 0


def test_dropped_writes_never_wait(answered: ClientRequest) -> None:
    for _ in range(64):
        answered.write(BLOCK)
    assert not answered.writable_need_drain


def test_end_is_taken(answered: ClientRequest) -> None:
    assert answered.end(b"the rest") is answered
    assert answered.writable_ended


def test_a_clean_exit_is_no_error(answered: ClientRequest) -> None:
    with answered:
        shutil.copyfileobj(io.BytesIO(MUCH), answered)
    assert answered.closed


def test_pipe_from_is_no_error(answered: ClientRequest) -> None:
    assert answered.pipe_from(io.BytesIO(BLOCK), len(BLOCK)) == len(BLOCK)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_events(serve: Serve, upload: Make, kind: str) -> None:
    request = upload(serve(early(kind)))
    recorder = Recorder(request, consume=True)
    request.write(b"a little")
    recorder.wait("close")
    recorder.check_grammar(early_answer=True)
    assert recorder.outline() == ["response", "response.data", "response.end", "response.close", "close"]


def test_write_inside_the_response_listener(serve: Serve, upload: Make) -> None:
    request = upload(serve(early("stop_reading")))
    taken: list[int] = []
    request.on("response", lambda response: taken.append(request.write(BLOCK)))
    request.on("response", lambda response: response.resume())
    request.write(b"a little")
    assert request.wait(LIMIT)
    assert taken == [len(BLOCK)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_write_callback_is_called_once(serve: Serve, upload: Make, kind: str) -> None:
    request = upload(serve(early(kind)), high_water_mark=1 << 30)
    called = threading.Semaphore(0)
    calls: list[tuple[int, object]] = []

    def callback(number: int) -> Callable[[object], None]:
        return lambda error: (calls.append((number, error)), called.release())

    request.on("response", lambda response: response.resume())
    for number in range(200):
        request.write(BLOCK, callback=callback(number))
    for _ in range(200):
        assert called.acquire(timeout=LIMIT)
    assert request.wait(LIMIT)
    assert [number for number, _ in calls] == list(range(200))
    lost = [error is not None for _, error in calls]
    assert lost == sorted(lost)  # once one is lost, all that follow are


def test_a_write_callback_after_the_answer_is_called_with_an_error(answered: ClientRequest) -> None:
    called = threading.Event()
    errors: list[object] = []
    answered.write(b"more", callback=lambda error: (errors.append(error), called.set()))
    answered.end()
    assert called.wait(LIMIT)
    assert isinstance(errors[0], OSError)


@pytest.mark.parametrize("kind", KINDS)
def test_the_connection_is_not_used_again(serve: Serve, session: Session, upload: Make, kind: str) -> None:
    answer = early(kind)
    peer = serve(lambda conn: answer(conn) if conn.number == 1 else echo_json(conn))
    request = upload(peer)
    write_until_refused(request)
    request.get_response(LIMIT).read()
    assert request.wait(LIMIT)
    assert session.request(peer.url("/")).end().get_response(LIMIT).json()["connection"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_connection_is_closed(serve: Serve, upload: Make, kind: str) -> None:
    peer = serve(early(kind))
    request = upload(peer)
    request.write(b"a little")
    request.get_response(LIMIT).read()
    peer.join()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_ticket_is_no_answer(session: Session, version: ssl.TLSVersion) -> None:
    came, go_on = Gate(), Gate()

    def read_in_two(conn: Conn) -> None:
        conn.read_request(body=False)
        chunks = [conn.read_chunk()]
        came.set()
        go_on.wait()
        while chunks[-1]:
            chunks.append(conn.read_chunk())
        conn.respond(body=b"".join(chunks))

    with Peer(read_in_two, server_context(tls_version=version)) as peer:
        request = session.request(peer.url("/"), method="PUT", chunked_encoding=True)
        request.write(b"one ")
        came.wait()
        assert request.writable()
        request.end(b"two")
        go_on.set()
        assert request.get_response(LIMIT).read() == b"one two"


# --- Expect: 100-continue -------------------------------------------------------------------------------------------

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODY = b"0123456789"

WAYS: dict[str, dict[str, Any]] = {
    "buffered": {},
    "chunked": {"chunked_encoding": True},
    "length": {"headers": {"Expect": "100-continue", "Content-Length": len(BODY)}},
}


@pytest.fixture(params=WAYS)
def polite(request: pytest.FixtureRequest, session: Session) -> Callable[[Peer], ClientRequest]:
    """Makes an upload that asks for leave."""

    def make(peer: Peer) -> ClientRequest:
        options = {"headers": {"Expect": "100-continue"}, **WAYS[request.param]}
        made: ClientRequest = session.request(peer.url("/"), method="PUT", **options)
        return made

    return make


def nothing_more(conn: Conn) -> None:
    """Assert that the client says nothing for as long as the peer's limit is."""
    with pytest.raises(PeerTimeout):
        conn.recv_some()


def test_the_body_waits_for_leave(serve: Serve, polite: Callable[[Peer], ClientRequest]) -> None:
    def allow(conn: Conn) -> None:
        request = conn.read_request(body=False)
        nothing_more(conn)
        conn.send(CONTINUE)
        conn.respond(body=conn.read_body(request).body)

    request = polite(serve(allow, limit=0.2))
    recorder = Recorder(request, consume=True)
    request.end(BODY)
    recorder.wait("close")
    recorder.check_grammar()
    assert recorder.body == BODY
    assert recorder.find("information")[0].args == (100, "Continue", {})
    assert len(recorder.find("continue")) == 1


def test_with_leave_the_connection_is_used_again(
    serve: Serve, session: Session, polite: Callable[[Peer], ClientRequest]
) -> None:
    peer = serve(echo_json)
    assert polite(peer).end(BODY).get_response(LIMIT).json()["length"] == len(BODY)
    assert session.request(peer.url("/")).end().get_response(LIMIT).json()["connection"] == 1


@pytest.mark.parametrize("status", [200, 413, 417])
def test_a_final_answer_keeps_the_body_at_home(
    serve: Serve, polite: Callable[[Peer], ClientRequest], status: int
) -> None:
    def refuse(conn: Conn) -> None:
        request = conn.read_request(body=False)
        conn.respond(status, body=b"no")
        conn.wait_closed()  # and so the connection is not used again
        assert conn.received == len(request.head)

    peer = serve(refuse)
    response = polite(peer).end(BODY).get_response(LIMIT)
    assert (response.status_code, response.read()) == (status, b"no")
    peer.join()


def test_without_an_answer_the_body_goes_after_a_second(polite: Callable[[Peer], ClientRequest]) -> None:
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as peer:
        start = time.monotonic()
        assert polite(peer).end(BODY).get_response(LIMIT).read() == b"ok"
        assert 0.9 < time.monotonic() - start < 5
        assert peer.requests[0].body == BODY


def test_leave_that_comes_with_the_answer_is_understood(serve: Serve, session: Session) -> None:
    peer = serve(scripted(CONTINUE + b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", Conn.wait_closed, body=False))
    request = session.request(peer.url("/"), method="PUT", headers={"Expect": "100-continue"}).end(BODY)
    assert request.get_response(LIMIT).status_code == 403


def test_hints_do_not_count_as_leave(serve: Serve, session: Session) -> None:
    def hint(conn: Conn) -> None:
        request = conn.read_request(body=False)
        conn.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        nothing_more(conn)
        conn.send(CONTINUE)
        conn.respond(body=conn.read_body(request).body)

    request = session.request(serve(hint, limit=0.2).url("/"), method="PUT", headers={"Expect": "100-continue"})
    assert request.end(BODY).get_response(LIMIT).read() == BODY


# --- interim answers ------------------------------------------------------------------------------------------------

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nlink: </b>\r\nX: 1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("status", [100, 102, 103, 110, 199])
def test_an_interim_answer_is_never_the_response(serve: Serve, session: Session, status: int) -> None:
    request = session.request(serve(scripted(b"HTTP/1.1 %d Wait\r\n\r\n" % status, OK)).url("/"))
    recorder = Recorder(request, consume=True)
    request.end()
    recorder.wait("close")
    recorder.check_grammar()
    assert recorder.response.status_code == 200
    assert recorder.find("information")[0].args == (status, "Wait", {})
    assert len(recorder.find("continue")) == (status == 100)


def test_all_interim_answers_are_told_in_order(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(CONTINUE + HINTS + b"HTTP/1.1 102 \r\n\r\n" + OK)).url("/"))
    recorder = Recorder(request, consume=True)
    request.end()
    recorder.wait("close")
    recorder.check_grammar()
    assert [event.args[0] for event in recorder.find("information")] == [100, 103, 102]


def test_headers_of_an_interim_answer_are_lists(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(HINTS, OK)).url("/"))
    recorder = Recorder(request, consume=True)
    request.end()
    assert recorder.wait("information").args[2] == {"link": ["</a>", "</b>"], "x": ["1"]}
    recorder.wait("close")


def test_hints_are_told_before_the_response_is_there(serve: Serve, session: Session) -> None:
    answer = Gate()
    request = session.request(serve(scripted(HINTS, answer, OK)).url("/"))
    recorder = Recorder(request, consume=True)
    request.end()
    recorder.wait("information")
    assert recorder.response is None
    answer.set()
    recorder.wait("close")


@pytest.mark.parametrize("cut", [1, 9, len(HINTS) - 1, len(HINTS), len(HINTS) + 1, len(HINTS) + 20])
def test_interim_answers_may_be_cut_anywhere(serve: Serve, session: Session, cut: int) -> None:
    answers = HINTS + OK
    request = session.request(serve(scripted(answers[:cut], answers[cut:])).url("/")).end()
    assert request.get_response(LIMIT).read() == b"ok"


def test_hints_during_an_upload_do_not_end_it(serve: Serve, session: Session) -> None:
    def hint(conn: Conn) -> None:
        request = conn.read_request(body=False)
        conn.send(HINTS)
        conn.respond(body=b"%d" % conn.drain_body(request).length)

    request = session.request(serve(hint).url("/"), method="PUT", chunked_encoding=True)
    recorder = Recorder(request, consume=True)
    request.write(BLOCK)
    recorder.wait("information")
    assert request.writable()
    request.end(BLOCK)
    recorder.wait("close")
    assert recorder.body == b"%d" % (2 * len(BLOCK))


def test_late_hints_do_not_poison_the_next_request(serve: Serve, session: Session) -> None:
    late = Gate()

    def hint_twice(conn: Conn) -> None:
        for body in (b"first", b"second"):
            conn.read_request()
            conn.send(HINTS)
            late.wait()
            conn.respond(body=body)

    peer = serve(hint_twice)
    first = session.request(peer.url("/"))
    first.on("information", lambda status, message, headers: late.set())
    assert first.end().get_response(LIMIT).read() == b"first"
    assert session.request(peer.url("/")).end().get_response(LIMIT).read() == b"second"
    assert len(peer.connections) == 1


def test_what_comes_between_two_requests_is_not_the_answer_to_the_second(serve: Serve, session: Session) -> None:
    more, sent = Gate(), Gate()

    def speak_out_of_turn(conn: Conn) -> None:
        if conn.number == 1:
            conn.read_request()
            conn.respond(body=b"first")
            more.wait()
            conn.respond(body=b"nobody asked")
            sent.set()
            conn.wait_closed()
        else:
            echo_json(conn)

    peer = serve(speak_out_of_turn)
    assert session.request(peer.url("/")).end().get_response(LIMIT).read() == b"first"
    more.set()
    sent.wait()
    assert session.request(peer.url("/")).end().get_response(LIMIT).json()["connection"] == 2


def test_a_listener_of_information_may_abort(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(HINTS, Conn.wait_closed)).url("/"))
    request.on("information", lambda status, message, headers: request.abort())
    recorder = Recorder(request)
    request.end()
    recorder.wait("close")
    recorder.check_grammar()
    assert recorder.names()[-2:] == ["abort", "close"]


def test_leave_without_being_asked_is_told_too(serve: Serve, session: Session) -> None:
    bodies: list[IncomingMessage] = []
    request = session.request(serve(scripted(CONTINUE + OK)).url("/"), bodies.append)
    recorder = Recorder(request, consume=True)
    request.end()
    recorder.wait("close")
    assert recorder.names("request").index("continue") < recorder.names("request").index("response")
