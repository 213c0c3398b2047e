"""Which thread does what: callbacks on one worker, one at a time; waiting on the user's threads."""

from __future__ import annotations

import contextvars
import threading
import time
from typing import Any, Callable

import pytest

from clientrequest import (
    ClientRequest,
    ClientRequestError,
    ConnectError,
    InvalidStateError,
    Session,
    _workers,
    signals,
)
from clientrequest._exchange import Exchange
from clientrequest._workers import Worker, crew
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, early_answer, echo_json, scripted, server_context

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"


@pytest.fixture
def no_workers() -> None:
    """No worker is parked when the test begins."""
    for worker in crew.send_home():
        worker.join(LIMIT)


def workers() -> list[Worker]:
    return [thread for thread in threading.enumerate() if isinstance(thread, Worker)]


def wait_parked(count: int) -> None:
    """Polls: parking is silent on purpose."""
    pause, deadline = threading.Event(), time.monotonic() + LIMIT
    while len(crew.parked()) != count:
        assert time.monotonic() < deadline
        pause.wait(0.001)


# --- callbacks ---


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_all_callbacks_run_on_one_worker(session: Session, tls: bool) -> None:
    threads: list[threading.Thread] = []
    with Peer(echo_json, tls=server_context() if tls else None) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        recorder = Recorder(request, consume=True)
        request.write(b"x", callback=lambda error: threads.append(threading.current_thread()))
        request.end(b"y", callback=lambda error: threads.append(threading.current_thread()))
        recorder.wait("close")
    assert len(recorder.threads() | {thread.ident for thread in threads}) == 1
    assert threading.get_ident() not in recorder.threads()
    assert threads[0].name.startswith("clientrequest")


def test_callbacks_never_overlap_though_many_threads_write(session: Session) -> None:
    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True, high_water_mark=1000)
        recorder = Recorder(request, consume=True)
        slow = recorder.guard(lambda error: threading.Event().wait(0.0005))

        def write() -> None:
            for _ in range(10):
                request.write(b"x" * 300, callback=slow)

        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(LIMIT)
        request.end(callback=slow)
        recorder.wait("close")
    assert recorder.overlaps == []
    recorder.check_grammar()


def test_requests_at_the_same_time_have_a_worker_each(session: Session) -> None:
    answer = Gate()
    with Peer(scripted(answer, OK)) as peer:
        requests = [session.request(peer.url()) for _ in range(5)]
        recorders = [Recorder(request, consume=True) for request in requests]
        for request in requests:
            request.end()
        for number in range(5):
            peer.wait_request(number + 1)
        answer.set()
        for recorder in recorders:
            recorder.wait("close")
    assert len({ident for recorder in recorders for ident in recorder.threads()}) == 5


def test_slow_listener_of_one_request_holds_up_no_other(session: Session) -> None:
    hold = Gate()
    with Peer(echo_json) as peer:
        slow = session.request(peer.url()).on("finish", hold.wait).end()
        quick = session.request(peer.url()).end()
        assert quick.wait(LIMIT)
        hold.set()
        assert slow.wait(LIMIT)


def test_names_of_threads_begin_with_clientrequest(session: Session) -> None:
    before = set(threading.enumerate())
    answer = Gate()
    with Peer(scripted(answer, OK)) as peer:
        request = session.request(peer.url(host="localhost")).end()
        peer.wait_request()
        started = [thread.name for thread in set(threading.enumerate()) - before]
        answer.set()
        assert request.wait(LIMIT)
    ours = [name for name in started if not name.startswith("peer-")]
    assert all(name.startswith("clientrequest") for name in ours), ours


def test_thread_of_the_name_lookup_has_our_name(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    names: list[str] = []
    look_up = socket.getaddrinfo

    def watched(*args: Any, **kwargs: Any) -> Any:
        names.append(threading.current_thread().name)
        return look_up(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    with Peer(scripted(OK)) as peer:
        assert session.request(peer.url(host="localhost")).end().wait(LIMIT)
    assert names
    assert all(name.startswith("clientrequest") for name in names)


# --- context ---

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


def test_context_of_the_creating_thread_is_visible_in_callbacks(session: Session) -> None:
    seen: dict[str, str] = {}

    def look(name: str) -> Callable[..., None]:
        return lambda *args: seen.update({name: colour.get()})

    def observe(sender: object, **details: object) -> None:
        seen["observer"] = colour.get()

    token = colour.set("red")
    with Peer(echo_json) as peer, signals.request_closed.connected_to(observe):
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        colour.reset(token)

        @request.on("response")
        def listen(response: Any) -> None:
            seen["response"] = colour.get()
            response.on("data", look("data"))

        request.on("finish", look("finish")).on("close", look("close"))
        request.write(b"x", callback=look("write"))
        request.end(callback=look("end"))
        assert request.wait(LIMIT)
    assert seen == dict.fromkeys(["response", "data", "finish", "close", "write", "end", "observer"], "red")
    assert colour.get() == "none"


def test_context_is_seen_by_the_listeners_of_an_abort_before_the_start() -> None:
    seen: list[str] = []
    token = colour.set("blue")
    request = ClientRequest("http://127.0.0.1:9/")
    colour.reset(token)
    closed = threading.Event()
    request.on("abort", lambda: seen.append(colour.get())).on("close", closed.set)
    request.abort()
    assert closed.wait(LIMIT)
    assert seen == ["blue"]


def test_what_a_callback_sets_stays_in_its_request(session: Session) -> None:
    seen: list[str] = []
    with Peer(echo_json) as peer:
        for name in ("green", "yellow"):
            request = session.request(peer.url())

            @request.on("finish")
            def change(name: str = name) -> None:
                seen.append(colour.get())
                colour.set(name)

            request.on("close", lambda: seen.append(colour.get()))
            request.end()
            assert request.wait(LIMIT)
    assert seen == ["none", "green", "none", "yellow"]


# --- workers come and go ---


@pytest.mark.usefixtures("no_workers")
def test_nothing_is_started_before_the_first_chunked_write_or_end(session: Session) -> None:
    before = set(threading.enumerate())
    request = session.request("http://127.0.0.1:9/", method="POST")
    request.write(b"buffered")
    assert set(threading.enumerate()) == before
    request.abort()
    with pytest.raises(ClientRequestError):
        request.wait(LIMIT)


@pytest.mark.usefixtures("no_workers")
def test_one_worker_serves_requests_one_after_the_other(session: Session) -> None:
    idents: set[int] = set()
    with Peer(echo_json) as peer:
        for _ in range(10):
            request = session.request(peer.url()).on("finish", lambda: idents.add(threading.get_ident())).end()
            assert request.wait(LIMIT)
            wait_parked(1)
    assert len(idents) == 1


@pytest.mark.usefixtures("no_workers")
def test_idle_worker_is_gone_after_its_time(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "IDLE", 0.01)
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        used: list[threading.Thread] = []
        request.on("finish", lambda: used.append(threading.current_thread())).end()
        assert request.wait(LIMIT)
    used[0].join(LIMIT)
    assert not used[0].is_alive()


def test_idle_time_is_some_seconds() -> None:
    assert 1 <= _workers.IDLE <= 10


@pytest.mark.usefixtures("no_workers")
def test_next_request_finds_a_worker_although_the_last_has_left(session: Session) -> None:
    with Peer(echo_json) as peer:
        for _ in range(3):
            assert session.request(peer.url()).end().wait(LIMIT)
            for worker in crew.send_home():
                worker.join(LIMIT)


def test_worker_survives_everything_a_request_dies_of(session: Session) -> None:
    """The same thread goes on working after an abort, a listener's exception and a broken connection."""

    def boom() -> None:
        raise RuntimeError

    with Peer(scripted(Conn.reset), expect_errors=True) as broken, Peer(echo_json) as peer:
        broken_request = session.request(broken.url()).end()
        raising = session.request(peer.url()).on("finish", boom).end()
        aborted = session.request(peer.url())
        aborted.on("finish", aborted.abort).end()
        for request in (broken_request, raising, aborted):
            with pytest.raises(ClientRequestError):
                request.wait(LIMIT)
        assert session.request(peer.url()).end().wait(LIMIT)


# --- waiting where it could never end ---


@pytest.mark.parametrize("event", ["finish", "close", "response"])
def test_wait_in_a_callback_of_the_same_request_is_refused(session: Session, event: str) -> None:
    raised: list[BaseException] = []
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())

        def listen(*_: object) -> None:
            try:
                request.wait()
            except InvalidStateError as error:
                raised.append(error)

        closed = threading.Event()
        request.on(event, listen).on("close", closed.set)
        request.on("response", lambda response: response.read())
        request.end()
        assert closed.wait(LIMIT)
    assert len(raised) == 1


def test_get_response_before_the_response_is_refused_in_a_callback(session: Session) -> None:
    raised: list[BaseException] = []
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())

        def listen() -> None:
            with pytest.raises(InvalidStateError) as caught:
                request.get_response()
            raised.append(caught.value)

        request.on("finish", listen).end()
        assert request.wait(LIMIT)
    assert len(raised) == 1


def test_get_response_in_the_response_listener_is_the_response(session: Session) -> None:
    same: list[bool] = []
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        request.on("response", lambda response: same.append(request.get_response() is response)).end()
        assert request.wait(LIMIT)
    assert same == [True]


@pytest.mark.parametrize("what", ["wait", "get_response"])
def test_waiting_in_a_write_callback_is_refused(session: Session, what: str) -> None:
    raised: list[BaseException | None] = []
    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True)

        def called(error: BaseException | None) -> None:
            with pytest.raises(InvalidStateError) as caught:
                getattr(request, what)()
            raised.append(caught.value)

        request.write(b"x", callback=called)
        request.end()
        assert request.wait(LIMIT)
    assert len(raised) == 1


def test_waiting_in_an_observer_is_refused(session: Session) -> None:
    raised: list[BaseException] = []

    def observe(sender: ClientRequest, **details: object) -> None:
        with pytest.raises(InvalidStateError) as caught:
            sender.wait()
        raised.append(caught.value)

    with Peer(scripted(OK)) as peer, signals.request_started.connected_to(observe):
        assert session.request(peer.url()).end().wait(LIMIT)
    assert len(raised) == 1


def test_waiting_for_another_request_in_a_callback_is_possible(session: Session) -> None:
    got: list[bytes] = []
    with Peer(echo_json) as peer:
        outer = session.request(peer.url())

        @outer.on("finish")
        def ask() -> None:
            inner = session.request(peer.url("/inner")).end()
            got.append(inner.get_response(LIMIT).read())
            inner.wait(LIMIT)

        outer.end()
        assert outer.wait(LIMIT)
    assert b"/inner" in got[0]


def test_writing_in_a_callback_never_blocks(session: Session) -> None:
    """More than the mark is written where waiting for room would be waiting for oneself."""
    with Peer(echo_json) as peer:
        request = session.request(
            peer.url(), method="POST", chunked_encoding=True, high_water_mark=10, headers={"Expect": "100-continue"}
        )

        @request.on("continue")
        def write() -> None:
            for _ in range(10):
                request.write(b"x" * 1000)
            request.end()

        request.flush_headers()
        assert request.get_response(LIMIT).json()["length"] == 10_000
        assert request.wait(LIMIT)


# --- waiting with a limit ---


def test_get_response_gives_up_and_the_request_goes_on(session: Session) -> None:
    answer = Gate()
    with Peer(scripted(answer, OK)) as peer:
        request = session.request(peer.url()).end()
        with pytest.raises(TimeoutError) as raised:
            request.get_response(timeout=0.01)
        assert not isinstance(raised.value, ClientRequestError)
        answer.set()
        assert request.get_response(LIMIT).read() == b"ok"
        assert request.wait(LIMIT)


def test_wait_gives_false_and_the_request_goes_on(session: Session) -> None:
    answer = Gate()
    with Peer(scripted(answer, OK)) as peer:
        request = session.request(peer.url()).end()
        assert request.wait(timeout=0.01) is False
        assert request.wait(timeout=0) is False
        answer.set()
        assert request.wait(LIMIT) is True
        assert request.wait(timeout=0) is True


def test_wait_before_the_start_waits_for_the_end(session: Session) -> None:
    done: list[bool] = []
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        waiting = threading.Thread(target=lambda: done.append(request.wait(LIMIT)))
        waiting.start()
        assert request.wait(0.01) is False
        request.end()
        waiting.join(LIMIT)
    assert done == [True]


@pytest.mark.parametrize("what", ["wait", "get_response"])
def test_everybody_who_waits_is_told(session: Session, what: str) -> None:
    answer = Gate()
    results: list[object] = []
    with Peer(scripted(answer, OK)) as peer:
        request = session.request(peer.url()).end()
        waiting = [threading.Thread(target=lambda: results.append(getattr(request, what)(LIMIT))) for _ in range(5)]
        for thread in waiting:
            thread.start()
        peer.wait_request()
        answer.set()
        for thread in waiting:
            thread.join(LIMIT)
        assert request.get_response(LIMIT).read() == b"ok" or what == "wait"
    assert len(results) == 5
    assert len(set(map(id, results))) == 1


@pytest.mark.parametrize("what", ["wait", "get_response"])
def test_waiting_calls_raise_the_same_error_again_and_again(session: Session, what: str) -> None:
    with Peer(scripted(Conn.reset)) as peer:
        request = session.request(peer.url()).end()
        errors = []
        for _ in range(3):
            with pytest.raises(ClientRequestError) as raised:
                getattr(request, what)(LIMIT)
            errors.append(raised.value)
    assert errors[0].request is request
    assert all(error is errors[0] for error in errors)


def test_get_response_after_the_response_gives_it_although_its_body_failed(session: Session) -> None:
    with Peer(scripted(BEGUN)) as peer:
        request = session.request(peer.url()).end()
        response = request.get_response(LIMIT)
        with pytest.raises(ClientRequestError):
            response.read()
        assert request.get_response(LIMIT) is response
        with pytest.raises(ClientRequestError):
            request.wait(LIMIT)


def test_reading_works_from_any_thread(session: Session) -> None:
    read: list[bytes] = []
    more = Gate()
    with Peer(scripted(BEGUN, more, b"cd")) as peer:
        response = session.request(peer.url()).end().get_response(LIMIT)
        reader = threading.Thread(target=lambda: read.append(response.read()))
        reader.start()
        more.set()
        reader.join(LIMIT)
    assert read == [b"abcd"]


# --- no thread to be had ---


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch, no_workers: None) -> None:
    """No thread of ours can be started."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("clientrequest"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def end(request: ClientRequest) -> None:
    request.end()


def write(request: ClientRequest) -> None:
    request.chunked_encoding = True
    request.write(b"x")


def flush_headers(request: ClientRequest) -> None:
    request.chunked_encoding = True
    request.flush_headers()


@pytest.mark.usefixtures("no_threads")
@pytest.mark.parametrize("call", [end, write, flush_headers])
def test_call_that_finds_no_thread_says_so(session: Session, call: Callable[[ClientRequest], None]) -> None:
    request = session.request("http://127.0.0.1:9/", method="POST")
    recorder = Recorder(request)
    with pytest.raises(ClientRequestError, match="no worker could be started") as raised:
        call(request)
    assert raised.value.code == "ERR_INSUFFICIENT_RESOURCES"
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert recorder.names() == ["error", "close"]
    with pytest.raises(ClientRequestError) as again:
        request.wait(LIMIT)
    assert again.value is raised.value
    with pytest.raises(ClientRequestError):
        request.write(b"more")


@pytest.mark.usefixtures("no_threads")
@pytest.mark.parametrize("call", [end, write, flush_headers])
def test_listeners_of_a_request_without_a_thread_may_use_it(
    session: Session, call: Callable[[ClientRequest], None]
) -> None:
    """They run while the call is under way, and find nothing locked."""
    request = session.request("http://127.0.0.1:9/", method="POST")
    told: list[str] = []

    def use() -> None:
        for method in (request.end, lambda: request.write(b"x"), request.abort):
            try:
                method()
            except ClientRequestError as error:
                told.append(error.code)

    request.on("close", use)
    failed: list[BaseException] = []

    def go() -> None:
        try:
            call(request)
        except ClientRequestError as error:
            failed.append(error)

    user = threading.Thread(target=go, name="user", daemon=True)
    user.start()
    user.join(LIMIT)
    assert not user.is_alive(), "it waits for itself"
    assert told == ["ERR_INSUFFICIENT_RESOURCES"] * 2
    assert len(failed) == 1


@pytest.mark.usefixtures("no_threads")
def test_abort_before_the_start_works_without_a_thread() -> None:
    request = ClientRequest("http://127.0.0.1:9/")
    recorder = Recorder(request)
    request.abort()
    assert recorder.names() == ["abort", "close"]


@pytest.mark.usefixtures("no_workers")
def test_name_that_no_thread_can_look_up_is_an_error_that_says_so(session: Session) -> None:
    """There is a worker, parked by the request before, but no thread for the name."""
    with Peer(echo_json) as peer, pytest.MonkeyPatch.context() as patch:
        assert session.request(peer.url()).end().wait(LIMIT)
        wait_parked(1)
        patch.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("no thread")))
        request = session.request(peer.url(host="localhost"))
        recorder = Recorder(request)
        with pytest.raises(ConnectError) as raised:
            request.end().wait(LIMIT)
        assert raised.value.code == "ERR_INSUFFICIENT_RESOURCES"
        assert isinstance(raised.value.__cause__, RuntimeError)
        recorder.wait("close")
        assert recorder.names() == ["error", "close"]
        patch.undo()
        assert session.request(peer.url(host="localhost")).end().wait(LIMIT)


@pytest.mark.usefixtures("no_workers")
def test_callback_of_a_dropped_chunk_waits_for_a_thread_if_there_is_none(session: Session) -> None:
    """Behind an early answer ``write()`` takes and drops; that it finds no thread is no reason to raise."""
    called: list[tuple[str, object]] = []
    both = threading.Event()

    def call_back(name: str, error: object) -> None:
        called.append((name, error))
        if len(called) == 2:
            both.set()

    with Peer(scripted(OK)) as peer, pytest.MonkeyPatch.context() as patch:
        early = early_answer("keep_reading")
        with Peer(early) as refusing:
            request = session.request(refusing.url(), method="POST", chunked_encoding=True)
            request.write(b"x")
            assert request.get_response(LIMIT).read() == b"too much\n"
            assert request.wait(LIMIT)
            wait_parked(1)
            for worker in crew.send_home():
                worker.join(LIMIT)
            patch.setattr(Worker, "start", lambda worker: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
            assert request.write(b"first", callback=lambda error: call_back("first", error)) == 5
            request.end(callback=lambda error: call_back("end", error))
            assert called == []
            patch.undo()
        assert session.request(peer.url()).end().wait(LIMIT)
        assert both.wait(LIMIT)
    assert [name for name, _ in called] == ["first", "end"]
    assert all(isinstance(error, ClientRequestError) for _, error in called)


def test_session_works_again_once_threads_can_be_had(session: Session) -> None:
    with pytest.MonkeyPatch.context() as patch, Peer(scripted(OK)) as peer:
        for worker in crew.send_home():
            worker.join(LIMIT)
        patch.setattr(Worker, "start", lambda worker: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
        with pytest.raises(ClientRequestError):
            session.request(peer.url()).end()
        patch.undo()
        assert session.request(peer.url()).end().wait(LIMIT)


def test_who_sees_the_end_finds_the_request_in_no_list(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """``closed`` comes last: said before, a thread that waits for it could still find the request among the live."""
    closed_when_taken_out: list[bool] = []

    class Watched(set[Exchange]):
        def discard(self, exchange: Exchange) -> None:
            closed_when_taken_out.append(exchange.closed)
            super().discard(exchange)

    monkeypatch.setattr("clientrequest._exchange._live", Watched())
    with Peer(echo_json) as peer:
        assert session.request(peer.url()).end().wait(LIMIT)
    assert closed_when_taken_out == [False]
