"""The signals for the whole process: which come, with what, in which order, and what they cost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Callable

import blinker
import pytest

from clientrequest import (
    AbortedError,
    ClientRequest,
    ClientRequestError,
    ListenerError,
    Session,
    TransferError,
    signals,
)
from tests.support import LIMIT, Conn, Peer, Recorder, echo_json, refused_port, scripted

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SHORT_BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"

NAMES = [
    "request_started",
    "response_received",
    "request_redirected",
    "request_finished",
    "request_failed",
    "request_aborted",
    "request_closed",
]


class Boom(Exception):
    """What observers raise here."""


class Observer:
    """Hears all signals, and notes them in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ClientRequest, dict[str, Any]]] = []
        self.threads: set[int] = set()
        self._receivers: list[Callable[..., None]] = []
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name in NAMES:
                stack.enter_context(getattr(signals, name).connected_to(self._receiver(name)))
            yield

    def _receiver(self, name: str) -> Callable[..., None]:
        def receive(sender: ClientRequest, **details: Any) -> None:
            with self._changed:
                self.heard.append((name, sender, details))
                self.threads.add(threading.get_ident())
                self._changed.notify_all()

        self._receivers.append(receive)  # blinker holds it weakly
        return receive

    def wait(self, name: str = "request_closed") -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: name in self.names(), LIMIT), self.names()

    def names(self) -> list[str]:
        return [name for name, _, _ in self.heard]

    def details(self, name: str) -> dict[str, Any]:
        (found,) = [details for heard, _, details in self.heard if heard == name]
        return found


@pytest.fixture
def observer() -> Iterator[Observer]:
    observer = Observer()
    with observer.listening():
        yield observer


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What came to `threading.excepthook`."""
    caught: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: caught.append(args.exc_value))
    return caught


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_blinker_signal(name: str) -> None:
    assert isinstance(getattr(signals, name), blinker.Signal)


def test_these_are_all() -> None:
    assert sorted(signals.__all__) == sorted(NAMES)


def test_good_request(session: Session, observer: Observer) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).end()
        response = request.get_response(LIMIT)
        assert request.wait(LIMIT)
        observer.wait()
    assert observer.names() == ["request_started", "response_received", "request_finished", "request_closed"]
    assert {sender for _, sender, _ in observer.heard} == {request}
    assert observer.details("request_started") == {}
    assert observer.details("response_received") == {"response": response}
    assert observer.details("request_finished") == {"response": response}
    assert observer.details("request_closed") == {}


def test_signals_come_between_the_events(session: Session, observer: Observer) -> None:
    order: list[str] = []
    with Peer(scripted(OK)) as peer, contextlib.ExitStack() as stack:
        receivers = []
        for name in NAMES:

            def note(sender: object, name: str = name, **details: object) -> None:
                order.append(name)

            receivers.append(note)
            stack.enter_context(getattr(signals, name).connected_to(note))
        request = session.request(peer.url())

        @request.on("response")
        def listen(response: Any) -> None:
            order.append("response")
            response.on("data", lambda piece: None)
            response.on("end", lambda: order.append("end"))
            response.on("close", lambda: order.append("response.close"))

        request.on("finish", lambda: order.append("finish")).on("close", lambda: order.append("close")).end()
        assert request.wait(LIMIT)
    assert order == [
        "request_started",
        "finish",
        "response_received",
        "response",
        "end",
        "request_finished",
        "response.close",
        "close",
        "request_closed",
    ]


def test_signals_come_on_the_thread_of_the_callbacks(session: Session, observer: Observer) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
        observer.wait()
    assert observer.threads == recorder.threads()


def test_request_that_fails_before_its_response(session: Session, observer: Observer) -> None:
    with refused_port() as port:
        request = session.request(f"http://127.0.0.1:{port}/").end()
        with pytest.raises(ClientRequestError) as raised:
            request.wait(LIMIT)
        observer.wait()
    assert observer.names() == ["request_started", "request_failed", "request_closed"]
    assert observer.details("request_failed") == {"error": raised.value}


def test_request_that_fails_in_its_response(session: Session, observer: Observer) -> None:
    with Peer(scripted(SHORT_BODY)) as peer:
        request = session.request(peer.url()).end()
        with pytest.raises(ClientRequestError) as raised:
            request.get_response(LIMIT).read()
        observer.wait()
    assert observer.names() == ["request_started", "response_received", "request_failed", "request_closed"]
    assert observer.details("request_failed") == {"error": raised.value}


def test_request_whose_listener_raises(session: Session, observer: Observer) -> None:
    def boom() -> None:
        raise Boom

    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).on("finish", boom).end()
        with pytest.raises(ListenerError):
            request.wait(LIMIT)
        observer.wait()
    assert observer.names() == ["request_started", "request_failed", "request_closed"]
    assert isinstance(observer.details("request_failed")["error"], ListenerError)


def test_request_that_is_aborted(session: Session, observer: Observer) -> None:
    with Peer(scripted(Conn.hold)) as peer:
        request = session.request(peer.url()).end()
        peer.wait_request()
        request.abort()
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
        observer.wait()
    assert observer.names() == ["request_started", "request_aborted", "request_closed"]
    assert observer.details("request_aborted") == {}


def test_request_that_is_aborted_before_its_start_was_never_started(observer: Observer) -> None:
    request = ClientRequest("http://127.0.0.1:9/")
    request.abort()
    observer.wait()
    assert observer.names() == ["request_aborted", "request_closed"]


def test_redirect_that_is_followed(session: Session, observer: Observer) -> None:
    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(303, {"Location": "/there"})
        conn.read_request()
        conn.respond(body=b"ok")

    with Peer(answer) as peer:
        request = session.request(peer.url("/here"), method="POST").end(b"x")
        assert request.get_response(LIMIT).read() == b"ok"
        assert request.wait(LIMIT)
        observer.wait()
    assert observer.names() == [
        "request_started",
        "request_redirected",
        "response_received",
        "request_finished",
        "request_closed",
    ]
    details = observer.details("request_redirected")
    assert details["status_code"] == 303
    assert details["method"] == "GET"
    assert details["redirect_url"].endswith("/there")


def test_request_that_is_dropped_unsent_is_not_told_of(observer: Observer) -> None:
    ClientRequest("http://127.0.0.1:9/")
    assert observer.names() == []


def test_only_one_request_can_be_listened_to(session: Session) -> None:
    heard: list[ClientRequest] = []

    def receive(sender: ClientRequest, **details: object) -> None:
        heard.append(sender)

    with Peer(echo_json) as peer:
        first, second = session.request(peer.url()), session.request(peer.url())
        with signals.request_closed.connected_to(receive, sender=second):
            for request in (first, second):
                request.end()
                assert request.wait(LIMIT)
    assert heard == [second]


def test_many_requests_at_once_are_told_apart(session: Session, observer: Observer) -> None:
    with Peer(echo_json) as peer:
        requests = [session.request(peer.url()).end() for _ in range(10)]
        for request in requests:
            assert request.wait(LIMIT)
    for request in requests:
        names = [name for name, sender, _ in observer.heard if sender is request]
        assert names == ["request_started", "response_received", "request_finished", "request_closed"]


# --- observers that raise ---


@pytest.mark.parametrize("name", ["request_started", "response_received", "request_finished", "request_closed"])
def test_observer_that_raises_harms_neither_request_nor_other_observers(
    session: Session, hooked: list[BaseException | None], name: str
) -> None:
    after: list[str] = []

    def boom(sender: object, **details: object) -> None:
        raise Boom

    def other(sender: object, **details: object) -> None:
        after.append(name)

    signal = getattr(signals, name)
    with Peer(scripted(OK)) as peer, signal.connected_to(boom), signal.connected_to(other):
        request = session.request(peer.url())
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
        assert request.wait(LIMIT)
    assert recorder.outline() == ["finish", "response", "response.data", "response.end", "response.close", "close"]
    assert [type(error) for error in hooked] == [Boom]
    assert after == [name]


def test_observer_that_raises_at_a_failure_does_not_hide_it(
    session: Session, hooked: list[BaseException | None]
) -> None:
    def boom(sender: object, **details: object) -> None:
        raise Boom

    with Peer(scripted(Conn.reset)) as peer, signals.request_failed.connected_to(boom):
        request = session.request(peer.url()).end()
        with pytest.raises(TransferError):
            request.wait(LIMIT)
    assert [type(error) for error in hooked] == [Boom]


def test_observer_may_abort(session: Session) -> None:
    def refuse(sender: ClientRequest, **details: object) -> None:
        sender.abort()

    with Peer(scripted(OK)) as peer, signals.request_started.connected_to(refuse):
        request = session.request(peer.url())
        recorder = Recorder(request)
        request.end()
        recorder.wait("close")
    assert recorder.names() == ["abort", "close"]


# --- nobody is connected ---


def test_nothing_is_sent_when_nobody_is_connected(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even asked who would want it."""

    def asked(*_: object) -> Any:
        raise AssertionError("a signal was sent")

    for name in NAMES:
        monkeypatch.setattr(getattr(signals, name), "receivers_for", asked, raising=False)
        monkeypatch.setattr(getattr(signals, name), "send", asked, raising=False)
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).end()
        assert request.get_response(LIMIT).read() == b"ok"
        assert request.wait(LIMIT)
        aborted = session.request(peer.url())
        aborted.abort()
        with pytest.raises(AbortedError):
            aborted.wait(LIMIT)


def test_observer_that_was_collected_is_forgotten(session: Session) -> None:
    class Weak:
        def hear(self, sender: object, **details: object) -> None:
            raise AssertionError("called after it was collected")

    signals.request_started.connect(Weak().hear)
    with Peer(scripted(OK)) as peer:
        assert session.request(peer.url()).end().wait(LIMIT)
