"""The short way: nobody listens, a connection is open, and the thread that waits for the answer carries the request.

A worker is kept for it, and is sent as soon as anything is needed that only he may do.
"""

from __future__ import annotations

import gc
import gzip
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable, Optional

import pytest

from clientrequest import (
    AbortedError,
    ClientRequest,
    IncomingMessage,
    ProtocolError,
    RequestTimeout,
    Session,
    Timeout,
    TransferError,
    _workers,
    signals,
)
from clientrequest._exchange import Exchange
from clientrequest._gates import Gate as WaitingGate
from clientrequest._workers import Worker, crew
from tests.support import LIMIT, Conn, Gate, Peer, Request, echo_json, server_context
from tests.support.proxies import HttpProxy

LONG = 60.0  # seconds; more than any test takes

Answer = Callable[[Conn, Request], object]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests seem to come one upon the other, however slow the machine; and no worker is sent for being late."""
    monkeypatch.setattr(_workers, "HURRY", LONG)
    monkeypatch.setattr(_workers, "TICK", LONG)
    monkeypatch.setattr(Worker, "hurried", True)


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[Exchange]:
    """The exchanges that workers have carried, or a part of them."""
    seen: list[Exchange] = []
    run = Exchange._run

    def watched(exchange: Exchange, worker: Worker) -> None:
        seen.append(exchange)
        run(exchange, worker)

    monkeypatch.setattr(Exchange, "_run", watched)
    return seen


def until(condition: Callable[[], object]) -> None:
    """Wait for what has no event of its own."""
    pause = threading.Event()
    for _ in range(int(LIMIT / 0.002)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("it never came")


def warm_up(session: Session, peer: Peer) -> None:
    """Have a connection open, and a worker parked."""
    session.request(peer.url("/warm")).end().get_response(LIMIT).read()
    until(lambda: crew.looks_out and crew.parked())


def after_warm_up(answer: Answer) -> Callable[[Conn], None]:
    """A server that answers in its own way whatever is not asked by ``warm_up`` or of ``/after``."""

    def serve(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.target in ("/warm", "/after"):
                conn.respond(body=request.target.encode())
            elif answer(conn, request):
                return

    return serve


@pytest.fixture(params=["plain", "tls"])
def ask(request: pytest.FixtureRequest, session: Session) -> Iterator[Callable[..., ClientRequest]]:
    """Starts a request, on a connection that is open, to a server that answers it in the way that is given."""
    with ExitStack() as stack:
        tls = server_context() if request.param == "tls" else None

        def start(answer: Answer, options: Any = None, body: bytes = b"", **more: Any) -> ClientRequest:
            peer = stack.enter_context(Peer(after_warm_up(answer), tls, expect_errors=True))
            warm_up(session, peer)
            request = session.request({"url": peer.url("/x"), **(options or {})}, **more)
            return request.end(body or None)

        yield start


def plainly(conn: Conn, request: Request) -> None:
    conn.respond(body=b"plain")


# --- without a worker -----------------------------------------------------------------------------------------------


def test_no_worker_is_woken(ask: Callable[..., ClientRequest], carried: list[Exchange]) -> None:
    request = ask(plainly)
    del carried[:]  # of the warm-up
    assert request.get_response(LIMIT).read() == b"plain"
    assert request.wait(0)
    assert carried == []
    assert len(crew.parked()) == 1
    assert not crew.reserved


def test_many_in_a_row_share_connection_and_worker(serve: Any, session: Session, carried: list[Exchange]) -> None:
    peer = serve(echo_json)
    for _ in range(2):
        session.request(peer.url("/")).end().get_response(LIMIT).read()
        until(lambda: crew.looks_out and crew.parked())
    del carried[:]
    for number in range(100):
        answer = session.request(peer.url(f"/{number}")).end().get_response(LIMIT).json()
        assert (answer["target"], answer["connection"]) == (f"/{number}", 1)
    assert carried == []
    assert len(crew.parked()) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"Content-Length": "4"},
        {"Transfer-Encoding": "chunked"},
        {"Content-Encoding": "gzip"},
    ],
)
def test_whatever_the_framing(ask: Callable[..., ClientRequest], fields: dict[str, str]) -> None:
    def answer(conn: Conn, request: Request) -> None:
        body = gzip.compress(b"body") if "Content-Encoding" in fields else b"body"
        conn.respond(headers={k: v for k, v in fields.items() if k == "Content-Encoding"}, body=body)
        if "Transfer-Encoding" in fields:
            conn.read_request()
            conn.respond(body=[b"bo", b"dy"], chunked=True)

    assert ask(answer).get_response(LIMIT).read() == b"body"


@pytest.mark.parametrize("status", [200, 204, 206, 304, 404, 500])
def test_every_status_that_asks_for_nothing_more(
    ask: Callable[..., ClientRequest], carried: list[Exchange], status: int
) -> None:
    request = ask(lambda conn, request: conn.respond(status))
    del carried[:]
    assert request.get_response(LIMIT).status_code == status
    assert carried == []


@pytest.mark.parametrize("body", [b"little", bytes(16 * 1024)])
def test_small_body_goes_along(ask: Callable[..., ClientRequest], carried: list[Exchange], body: bytes) -> None:
    def answer(conn: Conn, request: Request) -> None:
        conn.respond(body=request.body)

    request = ask(answer, method="POST", body=body)
    del carried[:]
    assert request.writable_finished
    assert request.get_response(LIMIT).read() == body
    assert carried == []
    assert request.writable_length == 0


def test_wait_alone_throws_the_body_away(ask: Callable[..., ClientRequest], carried: list[Exchange]) -> None:
    request = ask(plainly)
    del carried[:]
    assert request.wait(LIMIT)
    assert carried == []


def test_cookies_are_kept_and_sent(session: Session) -> None:
    def answer(conn: Conn, request: Request) -> None:
        conn.respond(headers={"Set-Cookie": "a=b"}, body=(request.header("cookie") or "none").encode())

    with Peer(after_warm_up(answer)) as peer:
        warm_up(session, peer)
        said = [
            session.request(peer.url("/x"), use_session_cookies=True).end().get_response(LIMIT).read() for _ in range(2)
        ]
    assert said == [b"none", b"a=b"]


@pytest.mark.parametrize("headers", [{}, {"Proxy-Authorization": "secret"}], ids=["plainly", "with a login"])
def test_through_a_proxy(carried: list[Exchange], headers: dict[str, str]) -> None:
    with (
        Peer(after_warm_up(plainly)) as peer,
        HttpProxy() as proxy,
        Session(proxies={"http": proxy.address()}) as session,
    ):
        warm_up(session, peer)
        del carried[:]
        request = session.request(peer.url("/x"), headers=headers).end()
        assert request.get_response(LIMIT).read() == b"plain"
        assert carried == ([request._exchange] if headers else [])


def test_nothing_is_left_for_the_collector(ask: Callable[..., ClientRequest]) -> None:
    gc.disable()
    try:
        request = ask(plainly)
        response = request.get_response(LIMIT)
        left = [weakref.ref(request), weakref.ref(request._exchange), weakref.ref(response._incoming)]
        del request, response
        assert [one() for one in left] == [None] * 3
    finally:
        gc.enable()


# --- a worker has to come -------------------------------------------------------------------------------------------


def test_not_for_those_who_listen(ask: Callable[..., ClientRequest], carried: list[Exchange]) -> None:
    threads: list[str] = []

    def listen(response: IncomingMessage) -> None:
        threads.append(threading.current_thread().name)

    request = ask(plainly, callback=listen)
    assert request.wait(LIMIT)
    assert carried[-1] is request._exchange
    assert threads[0].startswith("clientrequest-")


def test_not_for_those_who_watch_the_process(ask: Callable[..., ClientRequest], carried: list[Exchange]) -> None:
    threads: list[str] = []

    def watch(sender: object, **details: object) -> None:
        threads.append(threading.current_thread().name)

    with signals.request_started.connected_to(watch):
        request = ask(plainly)
        assert request.wait(LIMIT)
    assert carried[-1] is request._exchange
    assert all(name.startswith("clientrequest-") for name in threads)


def test_listener_added_meanwhile_is_called_on_a_worker(ask: Callable[..., ClientRequest]) -> None:
    answering, threads = Gate("answering"), []

    def answer(conn: Conn, request: Request) -> None:
        answering.wait()
        conn.respond(body=b"plain")

    request = ask(answer)
    asker = threading.Thread(target=request.get_response, args=(LIMIT,))
    asker.start()
    until(lambda: not crew.reserved)  # it waits itself
    request.on("close", lambda: threads.append(threading.current_thread().name))
    answering.set()
    asker.join(LIMIT)
    assert request.get_response(LIMIT).read() == b"plain"
    assert request.wait(LIMIT)
    assert [name.startswith("clientrequest-") for name in threads] == [True]


@pytest.mark.parametrize("hints", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 3])
def test_interim_answers(ask: Callable[..., ClientRequest], hints: bytes) -> None:
    def answer(conn: Conn, request: Request) -> None:
        conn.send(hints)
        conn.respond(body=b"final")

    assert ask(answer).get_response(LIMIT).read() == b"final"


def test_redirect(ask: Callable[..., ClientRequest]) -> None:
    request = ask(lambda conn, request: conn.respond(302, headers={"Location": "/after"}))
    response = request.get_response(LIMIT)
    assert response.read() == b"/after"
    assert len(response.redirects) == 1


def test_login(ask: Callable[..., ClientRequest]) -> None:
    def answer(conn: Conn, request: Request) -> None:
        if request.header("authorization") is None:
            conn.respond(401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        else:
            conn.respond(body=b"welcome")

    request = ask(answer, headers={"X": "y"}, method="POST", body=b"body")
    assert request.get_response(LIMIT).status_code == 401
    assert request.wait(LIMIT)


def test_answer_that_comes_in_pieces(ask: Callable[..., ClientRequest]) -> None:
    def answer(conn: Conn, request: Request) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody":
            conn.send(bytes([byte]))

    assert ask(answer).get_response(LIMIT).read() == b"body"


@pytest.mark.parametrize("how", ["length", "chunked", "close"])
def test_large_body(ask: Callable[..., ClientRequest], carried: list[Exchange], how: str) -> None:
    size = 3_000_000

    def answer(conn: Conn, request: Request) -> object:
        if how == "close":
            conn.send(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(size))
            return True
        conn.respond(body=[bytes(size)] if how == "chunked" else bytes(size), chunked=how == "chunked")
        return False

    request = ask(answer)
    assert len(request.get_response(LIMIT).read()) == size
    assert request.wait(LIMIT)
    assert carried[-1] is request._exchange


def test_large_body_that_nobody_wants(ask: Callable[..., ClientRequest]) -> None:
    assert ask(lambda conn, request: conn.respond(body=bytes(3_000_000))).wait(LIMIT)


def test_idle_connection_that_dies_is_replaced(ask: Callable[..., ClientRequest]) -> None:
    """The server closes it when the next request is on its way (RFC 9112, 9.3.1)."""

    def answer(conn: Conn, request: Request) -> object:
        if conn.number == 1:
            return True
        conn.respond(body=request.body or b"again")
        return False

    assert ask(answer).get_response(LIMIT).read() == b"again"
    assert ask(answer, method="PUT", body=b"body").get_response(LIMIT).read() == b"body"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"nonsense\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Le", ProtocolError),
    ],
)
def test_damaged_head(ask: Callable[..., ClientRequest], said: bytes, error: type[Exception]) -> None:
    def answer(conn: Conn, request: Request) -> object:
        conn.send(said)
        return True

    with pytest.raises(error):
        ask(answer).get_response(LIMIT)


@pytest.mark.parametrize(
    "said",
    [
        b"Content-Length: 10\r\n\r\nshort",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\nnot gzip",
    ],
)
def test_damaged_body(ask: Callable[..., ClientRequest], said: bytes) -> None:
    def answer(conn: Conn, request: Request) -> object:
        conn.send(b"HTTP/1.1 200 OK\r\n" + said)
        return True

    request = ask(answer)
    response = request.get_response(LIMIT)
    with pytest.raises((ProtocolError, TransferError)):
        response.read()
    with pytest.raises((ProtocolError, TransferError)):
        request.wait(LIMIT)


# --- waiting, and giving up -----------------------------------------------------------------------------------------


@pytest.fixture
def silent(ask: Callable[..., ClientRequest]) -> Iterator[Callable[..., tuple[ClientRequest, Gate]]]:
    """Starts a request that is answered when the gate is opened."""
    gates: list[Gate] = []

    def start(**options: Any) -> tuple[ClientRequest, Gate]:
        gate = Gate("answer")
        gates.append(gate)

        def answer(conn: Conn, request: Request) -> None:
            gate.wait()
            conn.respond(body=b"late")

        return ask(answer, **options), gate

    yield start
    for gate in gates:
        gate.set()


Silent = Callable[..., tuple[ClientRequest, Gate]]


def test_time_for_waiting_is_over_and_the_request_goes_on(silent: Silent) -> None:
    request, gate = silent()
    with pytest.raises(TimeoutError):
        request.get_response(0.05)
    assert not request.wait(0)
    gate.set()
    assert request.get_response(LIMIT).read() == b"late"


def test_time_for_waiting_counts_once(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Optional[float]] = []
    wait_for = WaitingGate.wait_for

    def watched(gate: WaitingGate, condition: Callable[[], bool], timeout: Optional[float] = None) -> bool:
        left.append(timeout)
        return wait_for(gate, condition, timeout)

    request, _ = silent()
    with monkeypatch.context() as patch:
        patch.setattr(WaitingGate, "wait_for", watched)
        assert not request.wait(0.2)
        with pytest.raises(TimeoutError):
            request.get_response(0.1)
    assert left == [0.0, 0.1]


def test_patience_ends(silent: Silent, carried: list[Exchange], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clientrequest._exchange.PATIENCE", 0.05)
    request, gate = silent()
    del carried[:]
    asker = threading.Thread(target=request.get_response, args=(LIMIT,))
    asker.start()
    until(lambda: carried)
    gate.set()
    asker.join(LIMIT)
    assert request.get_response(LIMIT).read() == b"late"


@pytest.mark.parametrize("limits", [{"total": 0.2}, {"read": 0.2}])
def test_limits_hold(silent: Silent, limits: dict[str, float]) -> None:
    request, _ = silent(timeout=Timeout(**limits))
    with pytest.raises(RequestTimeout):
        request.get_response(LIMIT)


def test_limit_counts_from_when_it_was_sent(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from when the worker takes over."""
    monkeypatch.setattr("clientrequest._exchange.PATIENCE", 0.1)
    request, _ = silent(timeout=Timeout(read=0.3))
    trip = request._exchange._trip
    assert trip is not None
    limit = trip.head_until
    with pytest.raises(RequestTimeout):
        request.get_response(LIMIT)
    assert request._exchange.failure is not None
    assert limit is not None
    assert trip.head_until == limit


@pytest.mark.parametrize("waiting", [True, False])
def test_abort(silent: Silent, waiting: bool) -> None:
    request, _ = silent()
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            request.get_response(LIMIT)
        except AbortedError as error:
            errors.append(error)

    asker = threading.Thread(target=ask)
    if waiting:
        asker.start()
        until(lambda: not crew.reserved)
    request.abort()
    if not waiting:
        asker.start()
    asker.join(LIMIT)
    assert len(errors) == 1


def test_several_wait_for_one(silent: Silent) -> None:
    request, gate = silent()
    said: list[bytes] = []
    askers = [threading.Thread(target=lambda: said.append(request.get_response(LIMIT).text().encode())) for _ in "1"]
    askers += [threading.Thread(target=request.wait, args=(LIMIT,)) for _ in range(5)]
    for asker in askers:
        asker.start()
    gate.set()
    for asker in askers:
        asker.join(LIMIT)
    assert said == [b"late"]


# --- nobody waits ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tick(hurry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is late is late soon."""
    monkeypatch.setattr(_workers, "TICK", 0.002)


def test_worker_comes_when_nobody_does(tick: None, ask: Callable[..., ClientRequest], carried: list[Exchange]) -> None:
    request = ask(plainly)
    until(lambda: request._exchange.closed)
    assert carried[-1] is request._exchange
    assert request.get_response(LIMIT).read() == b"plain"


def test_worker_comes_when_it_was_dropped(tick: None, session: Session) -> None:
    answered = Gate("answered")

    def answer(conn: Conn, request: Request) -> None:
        conn.respond()
        answered.set()

    with Peer(after_warm_up(answer)) as peer:
        warm_up(session, peer)
        session.request(peer.url("/x")).end()
        answered.wait()


def test_lookout_goes_when_there_is_no_hurry(session: Session, monkeypatch: pytest.MonkeyPatch, tick: None) -> None:
    with Peer(after_warm_up(plainly)) as peer:
        warm_up(session, peer)
        monkeypatch.setattr(_workers, "HURRY", 0.01)
        until(lambda: not crew.looks_out)
        assert crew.parked()
        assert session.request(peer.url("/x")).end().get_response(LIMIT).read() == b"plain"


def test_answers_are_not_mixed_up(tick: None, nervous: None, session: Session) -> None:
    """Many threads, one session, workers sent late and early."""
    wrong: list[object] = []

    def ask(peer: Peer, first: int) -> None:
        for number in range(first, first + 30):
            request = session.request(peer.url(f"/{number}"), method="POST").end(b"%d" % number)
            if number % 3 == 0:
                request.wait(LIMIT)
            answer = request.get_response(LIMIT).json()
            if answer["target"] != f"/{number}" or answer["length"] != len(str(number)):
                wrong.append((number, answer))

    with Peer(echo_json) as peer:
        askers = [threading.Thread(target=ask, args=(peer, 1000 * number)) for number in range(1, 9)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(3 * LIMIT)
    assert wrong == []
