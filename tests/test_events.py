"""Listeners: how they are added, in which order events come, and what becomes of what they raise."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import weakref
from typing import Any, Callable

import pytest

from clientrequest import ClientRequest, ClientRequestError, ListenerError, Session, signals
from tests.support import (
    LIMIT,
    REQUEST_EVENTS,
    RESPONSE_EVENTS,
    Conn,
    Gate,
    Peer,
    Recorder,
    early_answer,
    echo_json,
    refused_port,
    scripted,
    server_context,
)
from tests.support.logs import wait_logged

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SHORT_BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"


class Boom(Exception):
    """What listeners raise here."""


def boom(*_: object) -> None:
    raise Boom("in a listener")


@pytest.fixture
def request_nowhere() -> ClientRequest:
    """A request that is never sent."""
    return ClientRequest("http://127.0.0.1:9/")


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What came to `threading.excepthook`."""
    caught: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: caught.append(args.exc_value))
    return caught


def run(request: ClientRequest, body: bytes | None = None) -> None:
    """Send it and wait for its end, good or bad."""
    closed = threading.Event()
    request.on("close", closed.set)
    request.end(body)
    assert closed.wait(LIMIT)


def start(request: ClientRequest, body: bytes | None = None, *, consume: bool = False) -> Recorder:
    """Send it, with all of its events recorded."""
    recorder = Recorder(request, consume=consume)
    request.end(body)
    return recorder


# --- on, once, off, listeners ---


def test_on_gives_the_request(request_nowhere: ClientRequest) -> None:
    assert request_nowhere.on("close", print) is request_nowhere
    assert request_nowhere.once("close", print) is request_nowhere
    assert request_nowhere.off("close", print) is request_nowhere


def test_on_as_a_decorator_gives_the_function(request_nowhere: ClientRequest) -> None:
    @request_nowhere.on("close")
    def first() -> None: ...

    @request_nowhere.once("close")
    def second() -> None: ...

    assert request_nowhere.listeners("close") == [first, second]


def test_listeners_are_told_in_the_order_added(request_nowhere: ClientRequest) -> None:
    functions: list[Callable[..., object]] = [lambda: None for _ in range(20)]
    for function in functions:
        request_nowhere.on("close", function)
    assert request_nowhere.listeners("close") == functions


def test_list_of_listeners_is_a_copy(request_nowhere: ClientRequest) -> None:
    request_nowhere.on("close", print)
    request_nowhere.listeners("close").clear()
    assert request_nowhere.listeners("close") == [print]


def test_off_takes_one_away(request_nowhere: ClientRequest) -> None:
    request_nowhere.on("close", print).on("close", boom)
    request_nowhere.off("close", print)
    assert request_nowhere.listeners("close") == [boom]


def test_off_takes_the_last_of_the_same_listeners(request_nowhere: ClientRequest) -> None:
    request_nowhere.on("close", print).on("close", boom).on("close", print)
    request_nowhere.off("close", print)
    assert request_nowhere.listeners("close") == [print, boom]


def test_off_of_a_stranger_is_no_error(request_nowhere: ClientRequest) -> None:
    request_nowhere.off("close", print)


def test_off_finds_a_bound_method(request_nowhere: ClientRequest) -> None:
    calls: list[object] = []
    request_nowhere.on("close", calls.append)
    request_nowhere.off("close", calls.append)
    assert request_nowhere.listeners("close") == []


@pytest.mark.parametrize("name", REQUEST_EVENTS)
def test_every_event_can_be_listened_to(request_nowhere: ClientRequest, name: str) -> None:
    request_nowhere.on(name, boom)
    assert request_nowhere.listeners(name) == [boom]


@pytest.mark.parametrize("method", ["on", "once", "off", "listeners"])
@pytest.mark.parametrize("name", ["Response", "data", "", "uploadProgress"])
def test_unknown_event_names_the_known_ones(request_nowhere: ClientRequest, method: str, name: str) -> None:
    arguments = (name,) if method == "listeners" else (name, print)
    with pytest.raises(ValueError, match=r"unknown event .*abort, close.*upload-progress"):
        getattr(request_nowhere, method)(*arguments)


def test_unknown_event_of_a_decorator_is_told_at_once(request_nowhere: ClientRequest) -> None:
    with pytest.raises(ValueError, match="unknown event 'closed'"):
        request_nowhere.on("closed")


def test_unknown_event_of_a_response_names_its_own(session: Session) -> None:
    with Peer(scripted(OK)) as peer:
        response = session.request(peer.url()).end().get_response(LIMIT)
        with pytest.raises(ValueError, match=r"unknown event 'finish'.*aborted, close, data"):
            response.on("finish", print)
        assert response.read() == b"ok"


@pytest.mark.parametrize("add", ["on", "once"])
def test_coroutine_function_is_refused(request_nowhere: ClientRequest, add: str) -> None:
    async def listener() -> None: ...

    with pytest.raises(TypeError, match="coroutine function"):
        getattr(request_nowhere, add)("close", listener)
    with pytest.raises(TypeError, match="coroutine function"):
        getattr(request_nowhere, add)("close")(listener)
    assert request_nowhere.listeners("close") == []


@pytest.mark.parametrize("listener", [1, "print", []])
def test_listener_must_be_callable(request_nowhere: ClientRequest, listener: Any) -> None:
    with pytest.raises(TypeError, match="callable"):
        request_nowhere.on("close", listener)


def test_request_with_listeners_that_is_dropped_is_collected_without_a_trace() -> None:
    def make() -> weakref.ref[ClientRequest]:
        request = ClientRequest("http://127.0.0.1:9/")
        request.on("close", lambda: request.method)
        return weakref.ref(request)

    gone = make()
    gc.collect()
    assert gone() is None


# --- calling them ---


def test_listeners_are_called_in_the_order_added(session: Session) -> None:
    calls: list[int] = []
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        for number in range(12):
            request.on("finish", lambda number=number: calls.append(number))
        request.end()
        assert request.wait(LIMIT)
    assert calls == list(range(12))


def test_same_listener_twice_is_called_twice(session: Session) -> None:
    calls: list[int] = []

    def listener() -> None:
        calls.append(1)

    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).on("finish", listener).on("finish", listener).end()
        assert request.wait(LIMIT)
    assert calls == [1, 1]


def test_listener_that_is_only_held_by_the_request_is_called(session: Session) -> None:
    calls: list[str] = []

    class Listener:
        def hear(self) -> None:
            calls.append("heard")

    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).on("finish", Listener().hear)
        gc.collect()
        request.end()
        assert request.wait(LIMIT)
    assert calls == ["heard"]


def read_twice(conn: Conn) -> None:
    """Answer with a body that comes in two pieces."""
    conn.read_request()
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    conn.peer.more.wait()  # type: ignore[attr-defined]
    conn.send(b"cd")


def test_once_is_called_for_the_first_event_only(session: Session) -> None:
    once: list[bytes] = []
    pieces: list[bytes] = []
    with Peer(read_twice) as peer:
        more = peer.more = Gate()  # type: ignore[attr-defined]
        request = session.request(peer.url())

        @request.on("response")
        def listen(response: Any) -> None:
            response.once("data", once.append)
            response.on("data", lambda piece: (pieces.append(piece), more.set()))

        request.end()
        assert request.wait(LIMIT)
    assert once == pieces[:1]
    assert b"".join(pieces) == b"abcd"
    assert len(pieces) > 1


def test_once_is_off_before_it_is_called(session: Session) -> None:
    seen: list[list[object]] = []
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        request.once("finish", lambda: seen.append(list(request.listeners("finish"))))
        request.end()
        assert request.wait(LIMIT)
    assert seen == [[]]


def test_once_taken_off_is_not_called(session: Session) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).once("finish", boom).off("finish", boom).end()
        assert request.wait(LIMIT)


def test_listener_added_during_the_event_is_for_the_next_one(session: Session) -> None:
    late: list[bytes] = []
    with Peer(read_twice) as peer:
        more = peer.more = Gate()  # type: ignore[attr-defined]
        request = session.request(peer.url())

        @request.on("response")
        def listen(response: Any) -> None:
            @response.once("data")
            def first(piece: bytes) -> None:
                response.on("data", late.append)
                more.set()

        request.end()
        assert request.wait(LIMIT)
    assert b"".join(late) == b"cd"


def test_listener_taken_away_during_the_event_still_gets_this_one(session: Session) -> None:
    """As in Node: what is under way goes to those who were there when it began."""
    calls: list[str] = []

    def last() -> None:
        calls.append("last")

    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        request.on("finish", lambda: request.off("finish", last)).on("finish", last)
        request.end()
        assert request.wait(LIMIT)
    assert calls == ["last"]
    assert request.listeners("finish") != [last]


def test_nothing_is_delivered_to_a_listener_added_after_the_event(session: Session) -> None:
    late: list[object] = []
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).end()
        assert request.wait(LIMIT)
        for name in REQUEST_EVENTS:
            request.on(name, lambda *args: late.append(args))
        request.abort()
    gc.collect()
    assert late == []


def test_callback_of_the_constructor_is_a_response_listener(session: Session) -> None:
    got: list[Any] = []
    with Peer(scripted(OK)) as peer:
        request = ClientRequest(peer.url(), lambda response: got.append(response.read()), session=session)
        assert len(request.listeners("response")) == 1
        request.end()
        assert request.wait(LIMIT)
    assert got == [b"ok"]
    assert request.listeners("response") == []


def test_first_argument_is_the_events_own(session: Session) -> None:
    recorded: dict[str, tuple[object, ...]] = {}
    steps = (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\nLINK: b\r\n\r\n", OK)
    with Peer(scripted(*steps)) as peer:
        recorder = start(session.request(peer.url(), method="POST"), b"body", consume=True)
        recorder.wait("close")
    for event in recorder.events:
        recorded[event.label] = event.args
    assert recorded["finish"] == ()
    assert recorded["information"] == (103, "Early Hints", {"link": ["a", "b"]})
    assert recorded["response"] == (recorder.response,)
    assert recorded["response.data"] == (b"ok",)
    assert recorded["response.end"] == ()
    assert recorded["response.close"] == ()
    assert recorded["close"] == ()


# --- the order ---


def send_nothing(request: ClientRequest) -> None:
    request.end()


def send_buffered(request: ClientRequest) -> None:
    request.write(b"some")
    request.end(b"body")


def send_chunked(request: ClientRequest) -> None:
    request.chunked_encoding = True
    for piece in (b"some", b"bo", b"dy"):
        request.write(piece)
    request.end()


def send_known_length(request: ClientRequest) -> None:
    request.set_header("Content-Length", 8)
    request.write(b"some")
    request.end(b"body")


def send_large(request: ClientRequest) -> None:
    request.chunked_encoding = True
    for _ in range(64):
        request.write(bytes(65536))
    request.end()


MODES = [send_nothing, send_buffered, send_chunked, send_known_length, send_large]
GOOD = ["finish", "response", "response.data", "response.end", "response.close", "close"]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("send", MODES)
def test_order_of_a_good_request(session: Session, send: Callable[[ClientRequest], None], tls: bool) -> None:
    with Peer(echo_json, tls=server_context() if tls else None) as peer:
        request = session.request(peer.url(), method="POST")
        recorder = Recorder(request, consume=True)
        send(request)
        recorder.wait("close")
    assert recorder.outline() == GOOD
    recorder.check_grammar()


def test_order_with_continue(session: Session) -> None:
    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST", headers={"Expect": "100-continue"})
        recorder = Recorder(request, consume=True)
        request.end(b"body")
        recorder.wait("close")
    assert recorder.outline() in (
        ["information", "continue", *GOOD],
        ["finish", "information", "continue", *GOOD[1:]],
    )


def test_order_in_the_file_face(session: Session) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        recorder = Recorder(request)
        request.on("response", lambda response: response.read())
        request.end()
        recorder.wait("close")
    assert recorder.outline() == ["finish", "response", "response.close", "close"]


def test_finish_of_a_buffered_body_comes_before_its_first_byte(session: Session) -> None:
    """The listener holds the worker, and meanwhile the server has got nothing."""
    checked, read = Gate("checked"), Gate("read")
    finishing = threading.Event()

    def answer(conn: Conn) -> None:
        read.wait()
        conn.read_request()
        conn.respond()

    def hold() -> None:
        finishing.set()
        checked.wait()

    with Peer(answer) as peer:
        request = session.request(peer.url(), method="POST").on("finish", hold)
        request.end(b"body")
        assert finishing.wait(LIMIT)
        conn = peer.wait_connection()
        with pytest.raises(BlockingIOError):
            conn.sock.recv(1)
        checked.set()
        read.set()
        assert request.wait(LIMIT)
        assert conn.requests[0].body == b"body"


def test_finish_of_a_streamed_body_waits_for_end(session: Session) -> None:
    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        recorder = Recorder(request, consume=True)
        written = threading.Event()
        request.write(b"x", callback=lambda error: written.set())
        peer.wait_request()
        assert written.wait(LIMIT)
        request.flush()
        assert "finish" not in recorder.names()
        request.end()
        recorder.wait("close")
    assert recorder.outline() == GOOD


def test_answer_to_a_body_that_only_lacks_its_end_is_no_early_one(session: Session) -> None:
    """All that `Content-Length` announced is written, and the server answers before `end()` is called."""
    ended: list[object] = []
    with Peer(echo_json) as peer:
        for round_number in range(2):
            request = session.request(peer.url(), method="POST", headers={"Content-Length": "4"})
            recorder = Recorder(request, consume=True)
            request.write(b"body")
            recorder.wait("close")
            called = threading.Event()
            request.end(callback=lambda error, called=called: (ended.append(error), called.set()))
            assert called.wait(LIMIT)
            assert request.wait(LIMIT)
            assert recorder.outline() == GOOD
            recorder.check_grammar()
            assert len(peer.connections) == 1, f"not used again in round {round_number}"
    assert ended == [None, None]


def test_callbacks_of_writes_come_in_order_and_before_finish(session: Session) -> None:
    order: list[str] = []
    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        request.on("finish", lambda: order.append("finish"))
        for number in range(5):
            request.write(b"x" * number, callback=lambda error, number=number: order.append(f"{number} {error}"))
        request.end(b"y", callback=lambda error: order.append(f"end {error}"))
        assert request.wait(LIMIT)
    assert order == ["0 None", "1 None", "2 None", "3 None", "4 None", "end None", "finish"]


def test_early_answer_needs_no_finish(session: Session) -> None:
    with Peer(early_answer("keep_reading")) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        recorder = Recorder(request, consume=True)
        request.write(b"x")
        recorder.wait("close")
    assert recorder.outline() == GOOD[1:]
    recorder.check_grammar(early_answer=True)


def test_events_of_the_response_after_a_failure_in_its_body(session: Session) -> None:
    with Peer(scripted(SHORT_BODY)) as peer:
        recorder = start(session.request(peer.url()), consume=True)
        recorder.wait("close")
    assert recorder.outline() == ["finish", "response", "response.data", "response.error", "response.close", "close"]
    recorder.check_grammar()


def test_events_of_a_request_that_finds_no_server(session: Session) -> None:
    with refused_port() as port:
        request = session.request(f"http://127.0.0.1:{port}/", method="POST")
        recorder = Recorder(request)
        request.end(b"x")
        recorder.wait("close")
    assert recorder.outline() == ["error", "close"]
    (error,) = recorder.find("error")[0].args
    assert error.request is request


def test_events_of_a_request_that_gets_no_answer(session: Session) -> None:
    with Peer(scripted(Conn.reset)) as peer:
        recorder = start(session.request(peer.url()))
        recorder.wait("close")
    assert recorder.outline() == ["finish", "error", "close"]


def test_abort_fires_no_error(session: Session) -> None:
    with Peer(scripted(Conn.hold)) as peer:
        request = session.request(peer.url())
        recorder = start(request)
        peer.wait_request()
        request.abort()
        recorder.wait("close")
    assert recorder.outline()[-2:] == ["abort", "close"]
    assert "error" not in recorder.names()


# --- error: once, and on the right object ---


@pytest.mark.parametrize(
    ("on_request", "on_response", "told"),
    [(True, True, "response"), (True, False, "request"), (False, True, "response")],
)
def test_error_of_the_body_goes_to_the_response_or_else_to_the_request(
    session: Session, on_request: bool, on_response: bool, told: str
) -> None:
    heard: list[str] = []
    with Peer(scripted(SHORT_BODY)) as peer:
        request = session.request(peer.url())
        if on_request:
            request.on("error", lambda error: heard.append("request"))

        @request.on("response")
        def listen(response: Any) -> None:
            response.on("data", lambda piece: None)
            if on_response:
                response.on("error", lambda error: heard.append("response"))

        run(request)
    assert heard == [told]


def test_error_before_the_response_goes_to_the_request_and_no_response_comes(session: Session) -> None:
    with Peer(scripted(b"nonsense\r\n\r\n")) as peer:
        recorder = start(session.request(peer.url()))
        recorder.wait("close")
    assert recorder.outline() == ["finish", "error", "close"]


# --- nobody listens ---


def errors_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def fail_and_drop(session: Session, listen: Callable[[ClientRequest], object] = lambda request: None) -> None:
    """A request that nobody holds any more once it has failed."""
    with refused_port() as port:
        request = session.request(f"http://127.0.0.1:{port}/path?secret=1")
        listen(request)
        run(request)
    del request
    gc.collect()


def test_failure_that_nobody_saw_is_logged_when_the_request_is_collected(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    fail_and_drop(session)
    (record,) = wait_logged(caplog)
    assert record.name == "clientrequest"
    assert "ERR_CONNECTION_REFUSED" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_failure_is_not_logged_while_somebody_could_still_ask(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    with refused_port() as port:
        request = session.request(f"http://127.0.0.1:{port}/")
        run(request)
        gc.collect()
        assert errors_of(caplog) == []
        with pytest.raises(ClientRequestError):
            request.wait(LIMIT)


def test_request_that_is_dropped_while_it_runs_is_logged_after_it_failed(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    closed, fail = threading.Event(), Gate()
    with Peer(scripted(fail, Conn.reset)) as peer:
        request = session.request(peer.url()).on("close", closed.set).end()
        peer.wait_request()
        del request
        gc.collect()
        fail.set()
        assert closed.wait(LIMIT)
        (record,) = wait_logged(caplog)
    assert record.name == "clientrequest"


@pytest.mark.parametrize("how", ["error listener", "wait", "get_response"])
def test_failure_that_somebody_saw_is_not_logged(session: Session, caplog: pytest.LogCaptureFixture, how: str) -> None:
    if how == "error listener":
        fail_and_drop(session, lambda request: request.on("error", lambda error: None))
    else:
        with refused_port() as port:
            request = session.request(f"http://127.0.0.1:{port}/").end()
            with pytest.raises(ClientRequestError):
                getattr(request, how.replace(" ", "_"))(LIMIT)
        del request
        gc.collect()
    assert errors_of(caplog) == []


def test_failure_that_a_reader_got_is_not_logged(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with Peer(scripted(SHORT_BODY)) as peer:
        request = session.request(peer.url()).end()
        with pytest.raises(ClientRequestError):
            request.get_response(LIMIT).read()
        del request
    gc.collect()
    assert errors_of(caplog) == []


def test_failure_that_a_listener_of_the_response_got_is_not_logged(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    with Peer(scripted(SHORT_BODY)) as peer:
        recorder = start(session.request(peer.url()), consume=True)
        recorder.wait("close")
        del recorder
    gc.collect()
    assert errors_of(caplog) == []


def test_abort_is_not_logged(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    request = session.request("http://127.0.0.1:9/")
    closed = threading.Event()
    request.on("close", closed.set)
    request.abort()
    assert closed.wait(LIMIT)
    del request
    gc.collect()
    assert errors_of(caplog) == []


def test_good_request_is_not_logged(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with Peer(scripted(OK)) as peer:
        run(session.request(peer.url()))
    gc.collect()
    assert errors_of(caplog) == []


# --- a listener that raises ---


def request_that_raises_in(session: Session, peer: Peer, event: str) -> tuple[ClientRequest, Recorder, list[str]]:
    """A request with a recorder and two further listeners of `event`: one raises, the one after it notes its call."""
    after: list[str] = []
    request = session.request(peer.url(), method="POST")
    recorder = Recorder(request, consume=True)
    source, _, name = event.rpartition(".")

    def add(emitter: Any) -> None:
        emitter.on(name, boom)
        emitter.on(name, lambda *args: after.append(name))

    if source:
        request.on("response", add)
    else:
        add(request)
    return request, recorder, after


@pytest.mark.parametrize("event", ["finish", "response", "information", "response.data", "response.end"])
def test_listener_that_raises_fails_the_request(session: Session, event: str) -> None:
    with Peer(scripted(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)) as peer:
        request, recorder, after = request_that_raises_in(session, peer, event)
        request.end(b"body")
        recorder.wait("close")
        with pytest.raises(ListenerError) as raised:
            request.wait(LIMIT)
    assert after == [event.rpartition(".")[2]], "the other listeners of the event still run"
    assert isinstance(raised.value.__cause__, Boom)
    assert raised.value.code == "ERR_FAILED"
    names = recorder.names()
    assert names.count("error") + names.count("response.error") == 1
    assert "abort" not in names
    assert "response.aborted" not in names
    recorder.check_grammar()


def test_listener_that_raises_makes_get_response_raise(session: Session) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).on("finish", boom).end()
        with pytest.raises(ListenerError):
            request.get_response(LIMIT)
        with pytest.raises(ListenerError):
            request.wait(LIMIT)


def test_listener_that_raises_before_the_first_byte_sends_none(session: Session) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).on("finish", boom).end()
        with pytest.raises(ListenerError):
            request.wait(LIMIT)
        peer.wait_connection().finished.wait()
        assert peer.requests == []


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_base_exceptions_are_kept_from_the_worker_too(session: Session, kind: type[BaseException]) -> None:
    def leave() -> None:
        raise kind

    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).on("finish", leave).end()
        with pytest.raises(ListenerError) as raised:
            request.wait(LIMIT)
    assert isinstance(raised.value.__cause__, kind)


def test_second_exception_of_the_same_event_goes_to_the_hook(
    session: Session, hooked: list[BaseException | None]
) -> None:
    second = Boom("the second")

    def boom_too() -> None:
        raise second

    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).on("finish", boom).on("finish", boom_too).end()
        with pytest.raises(ListenerError) as raised:
            request.wait(LIMIT)
    assert str(raised.value.__cause__) == "in a listener"
    assert hooked == [second]


def test_listener_that_aborts_and_raises_is_an_abort(session: Session, hooked: list[BaseException | None]) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())

        def both() -> None:
            request.abort()
            raise Boom

        recorder = Recorder(request.on("finish", both))
        request.end()
        recorder.wait("close")
    assert recorder.outline() == ["finish", "abort", "close"]
    assert [type(error) for error in hooked] == [Boom]


def end_well(session: Session, peer: Peer) -> ClientRequest:
    return session.request(peer.url())


def end_with_an_abort(session: Session, peer: Peer) -> ClientRequest:
    request = session.request(peer.url())
    return request.on("finish", request.abort)


def end_with_an_error(session: Session, peer: Peer) -> ClientRequest:
    return session.request(peer.url()).on("finish", boom)


@pytest.mark.parametrize(
    ("make", "event", "rest"),
    [
        (end_well, "close", []),
        (end_with_an_abort, "abort", ["close"]),
        (end_with_an_abort, "close", []),
        (end_with_an_error, "error", ["close"]),
        (end_with_an_error, "close", []),
    ],
)
def test_what_closing_listeners_raise_goes_to_the_hook_only(
    session: Session,
    hooked: list[BaseException | None],
    make: Callable[[Session, Peer], ClientRequest],
    event: str,
    rest: list[str],
) -> None:
    with Peer(scripted(OK)) as peer:
        request = make(session, peer)
        request.on(event, boom)
        recorder = start(request, consume=True)
        recorder.wait("close")
        if make is end_well:
            assert request.wait(LIMIT)
        else:
            with pytest.raises(ClientRequestError) as raised:
                request.wait(LIMIT)
            assert (type(raised.value) is ListenerError) is (make is end_with_an_error)
    names = recorder.names()
    assert names[names.index(event) + 1 :] == rest
    assert [type(error) for error in hooked] == [Boom]


@pytest.mark.parametrize("event", ["aborted", "close"])
def test_what_closing_listeners_of_a_response_raise_goes_to_the_hook_only(
    session: Session, hooked: list[BaseException | None], event: str
) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())

        @request.on("response")
        def listen(response: Any) -> None:
            response.on(event, boom)
            request.abort()

        recorder = Recorder(request)
        request.end()
        recorder.wait("close")
    assert recorder.outline()[-4:] == ["abort", "response.aborted", "response.close", "close"]
    assert [type(error) for error in hooked] == [Boom]


def test_observer_of_the_process_that_raises_harms_nobody(session: Session, hooked: list[BaseException | None]) -> None:
    def observer(sender: object, **details: object) -> None:
        raise Boom

    with signals.request_started.connected_to(observer), Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).end()
        assert request.get_response(LIMIT).read() == b"ok"
        assert request.wait(LIMIT)
    assert [type(error) for error in hooked] == [Boom]


def test_hook_that_raises_itself_does_not_stop_close(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", boom)
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).on("close", boom)
        run(request)
        assert request.wait(LIMIT)
    assert "Boom" in capsys.readouterr().err


# --- write and end callbacks ---


def send_with_raising_write(request: ClientRequest) -> None:
    request.write(b"x", callback=boom)
    request.end()


def send_with_raising_end(request: ClientRequest) -> None:
    request.end(b"x", callback=boom)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("send", [send_with_raising_write, send_with_raising_end])
def test_callback_that_raises_fails_the_request(
    session: Session, send: Callable[[ClientRequest], None], chunked: bool
) -> None:
    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=chunked)
        recorder = Recorder(request)
        with contextlib.suppress(ListenerError):  # end() may find that it has failed already
            send(request)
        recorder.wait("close")
        with pytest.raises(ListenerError) as raised:
            request.wait(LIMIT)
    assert isinstance(raised.value.__cause__, Boom)
    assert recorder.outline()[-2:] == ["error", "close"]
    assert "abort" not in recorder.names()


def test_callbacks_after_one_that_raised_get_the_error(session: Session) -> None:
    got: list[object] = []
    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST")
        request.write(b"x", callback=boom)
        request.write(b"y", callback=got.append)
        request.end(callback=got.append)
        with pytest.raises(ListenerError):
            request.wait(LIMIT)
    assert [type(error) for error in got] == [ListenerError, ListenerError]


def test_every_callback_is_called_once_with_the_error_of_an_abort(session: Session) -> None:
    got: list[object] = []
    request = session.request("http://127.0.0.1:9/", method="POST")
    request.write(b"x", callback=got.append)
    request.write(b"y", callback=got.append)
    closed = threading.Event()
    request.on("close", closed.set)
    request.abort()
    assert closed.wait(LIMIT)
    assert [getattr(error, "code", None) for error in got] == ["ERR_ABORTED"] * 2


def test_callback_that_raises_while_told_of_an_error_goes_to_the_hook(
    session: Session, hooked: list[BaseException | None]
) -> None:
    request = session.request("http://127.0.0.1:9/", method="POST")
    request.write(b"x", callback=boom)
    recorder = Recorder(request)
    request.abort()
    recorder.wait("close")
    assert recorder.outline() == ["abort", "close"]
    assert [type(error) for error in hooked] == [Boom]


def test_all_events_of_a_response_can_be_listened_to(session: Session) -> None:
    with Peer(scripted(OK)) as peer:
        response = session.request(peer.url()).end().get_response(LIMIT)
        for name in set(RESPONSE_EVENTS) - {"data"}:
            response.on(name, print)
            assert response.listeners(name) == [print]
            response.off(name, print)
        assert response.read() == b"ok"
