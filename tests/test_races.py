"""Calls on one request from many threads at the same moment, with threads that change places all the time."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from clientrequest import AbortedError, ClientRequest, ClientRequestError, InvalidStateError, Session
from clientrequest._body import MEMORY_LIMIT
from clientrequest._delivery import Delivery
from clientrequest._exchange import Exchange
from clientrequest._incoming import Incoming
from clientrequest._workers import Waiter
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, echo_json, scripted
from tests.support.logs import wait_logged

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SECONDS = 0.4
"""How long each race goes on."""

EXPECTED = (ClientRequestError, InvalidStateError, TimeoutError)


pytestmark = pytest.mark.usefixtures("nervous")


@pytest.fixture
def runners() -> Iterator[Runners]:
    runners = Runners(8)
    yield runners
    runners.stop()


class Runners:
    """Threads that are there already when the race begins, so that all start at the same moment."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.unexpected: list[BaseException] = []
        self._calls: list[Callable[[], object] | None] = [None] * count
        self._line = threading.Barrier(count + 1)
        self._goal = threading.Barrier(count + 1)
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(count)]
        for thread in self._threads:
            thread.start()
        self._stopping = False

    def _run(self, number: int) -> None:
        while True:
            self._line.wait()
            if self._stopping:
                return
            call = self._calls[number]
            try:
                if call is not None:
                    call()
            except EXPECTED:
                pass
            except BaseException as error:
                self.unexpected.append(error)
            self._goal.wait()

    def race(self, *calls: Callable[[], object]) -> None:
        """Have all of them called at once, and wait until they are through."""
        self._calls = [*calls, *[None] * (self.count - len(calls))]
        self._line.wait(LIMIT)
        self._goal.wait(LIMIT)
        assert self.unexpected == []

    def stop(self) -> None:
        self._stopping = True
        self._line.wait(LIMIT)
        for thread in self._threads:
            thread.join(LIMIT)


def rounds() -> Iterator[int]:
    """Numbers, for as long as a race may go on."""
    until = time.monotonic() + SECONDS
    for number in itertools.count():
        if time.monotonic() > until and number > 10:  # on a busy machine fewer would say nothing
            return
        yield number


ENDINGS = {"abort": "abort", "error": "error", "response.error": "error"}


def outcome(request: ClientRequest) -> str:
    """How it ended, by what `wait()` says."""
    try:
        request.wait(LIMIT)
    except AbortedError:
        return "abort"
    except ClientRequestError:
        return "error"
    return "success"


def check(request: ClientRequest, recorder: Recorder) -> None:
    """Whatever won: the events are right, and the waiting calls say the same as they."""
    recorder.wait("close")
    recorder.check_grammar(early_answer=True)
    names = recorder.names()
    assert outcome(request) == ([ENDINGS[name] for name in names if name in ENDINGS] or ["success"])[0]


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer(echo_json) as peer:
        yield peer


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        yield session


def new(session: Session, peer: Peer, **options: Any) -> tuple[ClientRequest, Recorder]:
    request = session.request(peer.url(), method="POST", **options)
    return request, Recorder(request, consume=True)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("chunked", [False, True], ids=["buffered", "chunked"])
def test_abort_and_end(session: Session, peer: Peer, runners: Runners, chunked: bool, threads: int) -> None:
    for _ in rounds():
        request, recorder = new(session, peer, chunked_encoding=chunked)
        request.write(b"some")
        runners.race(request.end, *[request.abort] * threads)
        check(request, recorder)


def test_abort_and_the_very_first_write(session: Session, peer: Peer, runners: Runners) -> None:
    """After it no write is taken any more, though it may have been that one that opened the body."""
    for _ in rounds():
        request, recorder = new(session, peer, chunked_encoding=True)
        runners.race(functools.partial(request.write, b"some"), request.abort)
        with pytest.raises(AbortedError):
            request.write(b"late")
        with pytest.raises(AbortedError):
            request.flush_headers()
        with pytest.raises(AbortedError):
            request.end()
        check(request, recorder)


@pytest.mark.parametrize("call", ["write", "end", "flush_headers"])
def test_abort_just_before_the_body_is_opened(session: Session, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The call has found the request alive already; it must not open the body of a dead one."""
    begin = ClientRequest._begin

    def begin_and_abort(request: ClientRequest) -> None:
        begin(request)
        aborter = threading.Thread(target=request.abort)
        aborter.start()
        aborter.join(LIMIT)

    monkeypatch.setattr(ClientRequest, "_begin", begin_and_abort)
    request = session.request("http://127.0.0.1:9/", method="POST", chunked_encoding=True)
    arguments = (b"x",) if call == "write" else ()
    for _ in range(2):
        with pytest.raises(AbortedError):
            getattr(request, call)(*arguments)
    with pytest.raises(AbortedError):
        request.write(b"late")
    with pytest.raises(AbortedError):
        request.wait(LIMIT)


def test_abort_and_many_writes(session: Session, peer: Peer, runners: Runners) -> None:
    for _ in rounds():
        request, recorder = new(session, peer, chunked_encoding=True, high_water_mark=1000)

        def write(request: ClientRequest = request) -> None:
            for _ in range(20):
                request.write(b"x" * 300)

        runners.race(write, write, write, request.abort, request.flush)
        check(request, recorder)


def test_abort_frees_writers_with_its_error(session: Session, runners: Runners) -> None:
    """A write that waited for room does not come back as if it had been taken."""

    def hold(conn: Conn) -> None:
        conn.read_request(body=False)
        conn.hold()

    with Peer(hold) as peer:
        for _ in rounds():
            request, recorder = new(session, peer, chunked_encoding=True, high_water_mark=1)
            raised: list[str] = []

            def write(request: ClientRequest = request, raised: list[str] = raised) -> None:
                try:
                    while True:
                        request.write(bytes(4 << 20))
                except AbortedError:
                    raised.append("aborted")

            def abort(request: ClientRequest = request) -> None:
                while not request._exchange.outbox.room._waiters and not request._exchange.over:
                    pass
                request.abort()

            with contextlib.suppress(ClientRequestError):
                runners.race(write, write, abort)
            assert raised == ["aborted"] * 2
            check(request, recorder)


@pytest.mark.parametrize("face", ["events", "file"])
def test_abort_and_reading(session: Session, peer: Peer, runners: Runners, face: str) -> None:
    for _ in rounds():
        request = session.request(peer.url(), method="POST")
        recorder = Recorder(request, consume=face == "events", skip=() if face == "events" else ("response",))
        request.end(b"x" * 1000)
        if face == "file":
            response = request.get_response(LIMIT)
            runners.race(response.read, response.readline, response.read1, request.abort)
        else:
            runners.race(request.abort)
        check(request, recorder)


def test_abort_and_close(session: Session, peer: Peer, runners: Runners) -> None:
    """`close()` of the file: it ends the body, or finds it aborted."""
    for _ in rounds():
        request, recorder = new(session, peer)
        runners.race(request.close, request.close, request.abort)
        check(request, recorder)


def test_abort_and_closing_the_response(session: Session, peer: Peer, runners: Runners) -> None:
    for _ in rounds():
        request = session.request(peer.url()).end()
        recorder = Recorder(request, skip=("response",))
        response = request.get_response(LIMIT)
        runners.race(response.close, response.close, request.abort)
        with contextlib.suppress(AbortedError):
            assert request.wait(LIMIT)
        del recorder


def test_abort_and_pausing(session: Session, peer: Peer, runners: Runners) -> None:
    for _ in rounds():
        request, recorder = new(session, peer)
        request.end()
        response = recorder.wait("response").args[0]

        def pause_and_resume(response: Any = response) -> None:
            for _ in range(5):
                response.pause()
                response.resume()

        runners.race(pause_and_resume, pause_and_resume, request.abort)
        check(request, recorder)


def test_pausing_from_many_threads_loses_no_wake_up(session: Session, peer: Peer, runners: Runners) -> None:
    for _ in rounds():
        request, recorder = new(session, peer)
        request.end(b"body")
        response = recorder.wait("response").args[0]

        def pause_and_resume(response: Any = response) -> None:
            for _ in range(5):
                response.pause()
                response.resume()

        runners.race(pause_and_resume, pause_and_resume)
        with contextlib.suppress(InvalidStateError):
            response.resume()
        recorder.wait("close")
        assert request.wait(LIMIT)


def test_end_and_writes(session: Session, peer: Peer, runners: Runners) -> None:
    """Each write is in the body as a whole or raises; the body is exactly what was taken."""
    for _ in rounds():
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        taken: list[int] = []

        def write(request: ClientRequest = request, taken: list[int] = taken) -> None:
            for _ in range(5):
                taken.append(request.write(b"x" * 100))

        request.write(b"first")
        runners.race(write, write, write, request.end)
        with contextlib.suppress(InvalidStateError):
            request.end()
        assert request.get_response(LIMIT).json()["length"] == 5 + sum(taken)
        assert request.wait(LIMIT)


def test_many_ends(session: Session, peer: Peer, runners: Runners) -> None:
    for _ in rounds():
        request = session.request(peer.url(), method="POST")
        won: list[int] = []

        def end(number: int, request: ClientRequest = request, won: list[int] = won) -> None:
            request.end(b"%d" % number)
            won.append(number)

        runners.race(*[lambda number=number: end(number) for number in range(8)])  # type: ignore[misc]
        assert len(won) == 1
        assert request.get_response(LIMIT).json()["length"] == 1
        assert request.wait(LIMIT)


def test_many_first_writes(session: Session, peer: Peer, runners: Runners) -> None:
    for _ in rounds():
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        write = functools.partial(request.write, b"12345")
        runners.race(*[write] * 7, request.flush_headers)
        request.end()
        assert request.get_response(LIMIT).json()["length"] == 35
        assert request.wait(LIMIT)


def test_writes_of_many_threads_stay_whole_and_none_is_forgotten(
    session: Session, peer: Peer, runners: Runners
) -> None:
    """The worker is asked to look again for each of them, also for the one that came while it fell asleep."""
    for _ in rounds():
        request = session.request(peer.url(), method="POST", chunked_encoding=True)

        def write(request: ClientRequest = request) -> None:
            for _ in range(10):
                request.write(b"x" * 10)

        runners.race(write, write, write)
        request.flush()
        assert request._exchange.outbox.sent == 300
        assert request.writable_length == 0
        request.end()
        assert request.get_response(LIMIT).json()["length"] == 300
        assert request.wait(LIMIT)


def test_corking_from_many_threads(session: Session, peer: Peer, runners: Runners) -> None:
    for _ in rounds():
        request = session.request(peer.url(), method="POST", chunked_encoding=True)

        def write(request: ClientRequest = request) -> None:
            request.cork()
            request.write(b"x" * 10)
            request.uncork()

        runners.race(write)
        runners.race(request.end)
        assert request.get_response(LIMIT).json()["length"] == 10
        assert request.wait(LIMIT)


def test_on_and_off_during_emission(session: Session, peer: Peer, runners: Runners) -> None:
    for _ in rounds():
        request, recorder = new(session, peer)
        calls: list[int] = []

        def churn(request: ClientRequest = request, calls: list[int] = calls) -> None:
            def listener(*_: object) -> None:
                calls.append(1)

            for _ in range(20):
                request.on("finish", listener).once("information", listener).on("close", listener)
                request.off("finish", listener).off("information", listener).off("close", listener)

        runners.race(churn, churn, churn, request.end)
        check(request, recorder)
        assert len(request.listeners("finish")) == 1
        assert len(request.listeners("close")) == 1


def test_get_response_from_many_threads_is_one_object(session: Session, peer: Peer, runners: Runners) -> None:
    for _ in rounds():
        request = session.request(peer.url())
        responses: list[Any] = []

        def get(request: ClientRequest = request, responses: list[Any] = responses) -> None:
            responses.append(request.get_response(LIMIT))

        runners.race(*[get] * 7, request.end)
        assert len(responses) == 7
        assert len(set(map(id, responses))) == 1
        assert responses[0].read()
        assert request.wait(LIMIT)


def test_reading_from_many_threads_gives_every_byte_once(session: Session, runners: Runners) -> None:
    size = 200_000
    body = bytes(range(250)) * (size // 250)
    with Peer(lambda conn: (conn.read_request(), conn.respond(body=body, close=True))) as peer:
        for _ in rounds():
            request = session.request(peer.url()).end()
            response = request.get_response(LIMIT)
            pieces: list[bytes] = []

            def read(response: Any = response, pieces: list[bytes] = pieces) -> None:
                while True:
                    piece = response.read1(1000)
                    if not piece:
                        return
                    pieces.append(piece)

            runners.race(*[read] * 4)
            assert sum(map(len, pieces)) == size
            assert request.wait(LIMIT)


def test_choosing_both_faces_at_once_gives_one(session: Session, peer: Peer, runners: Runners) -> None:
    for _ in rounds():
        request = session.request(peer.url()).end()
        response = request.get_response(LIMIT)
        chosen: list[str] = []

        def by_events(response: Any = response, chosen: list[str] = chosen) -> None:
            response.on("data", lambda piece: None)
            chosen.append("events")

        def as_a_file(response: Any = response, chosen: list[str] = chosen) -> None:
            response.read()
            chosen.append("file")

        runners.race(by_events, as_a_file)
        assert len(chosen) == 1
        assert request.wait(LIMIT)


def test_session_closed_while_requests_start(runners: Runners, peer: Peer) -> None:
    for _ in rounds():
        session = Session()
        requests = [session.request(peer.url()) for _ in range(4)]
        recorders = [Recorder(request, consume=True) for request in requests]
        runners.race(*[request.end for request in requests], session.close)
        for request, recorder in zip(requests, recorders):
            request.abort()  # those that were refused
            recorder.wait("close")
            recorder.check_grammar()
        assert session._pools.idle() == []


def test_connection_that_is_put_back_while_its_session_closes_is_closed(session: Session, peer: Peer) -> None:
    assert session.request(peer.url()).end().wait(LIMIT)
    (way,) = session._pools._found.values()
    idle = way.idle
    connection = idle.take()
    session.close()
    idle.put(connection)
    assert connection.is_closed


def test_connections_closed_while_requests_start(session: Session, peer: Peer, runners: Runners) -> None:
    """No request meets a pool that has just been closed."""
    for _ in rounds():
        requests = [session.request(peer.url()) for _ in range(4)]
        runners.race(*[request.end for request in requests], *[session.close_connections] * 3)
        for request in requests:
            assert request.get_response(LIMIT).json()["method"] == "GET"
            assert request.wait(LIMIT)


def test_requests_of_many_threads_on_one_session_get_their_own_answers(
    session: Session, peer: Peer, runners: Runners
) -> None:
    for number in rounds():
        answers: dict[str, str] = {}

        def ask(name: str, answers: dict[str, str] = answers) -> None:
            request = session.request(peer.url(f"/{name}")).end()
            answers[name] = request.get_response(LIMIT).json()["target"][1:]
            assert request.wait(LIMIT)

        names = [f"{number}-{runner}" for runner in range(8)]
        runners.race(*[lambda name=name: ask(name) for name in names])  # type: ignore[misc]
        assert answers == {name: name for name in names}


def test_abort_at_any_moment(session: Session, peer: Peer, runners: Runners) -> None:
    """The abort comes a little later in each round: as many bytecodes as the loop takes turns."""
    for number in rounds():
        request, recorder = new(session, peer, chunked_encoding=True)

        def later(request: ClientRequest = request, number: int = number) -> None:
            for _ in range(number * 37 % 20_000):
                pass
            request.abort()

        def send(request: ClientRequest = request) -> None:
            request.write(b"some")
            request.end(b"more")

        runners.race(send, later)
        check(request, recorder)
    assert session.request(peer.url()).end().get_response(LIMIT).json()["method"] == "GET"


def test_failure_at_the_moment_when_the_request_is_dropped_is_logged(
    session: Session, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last holder has looked whether it is closed, and is held up; meanwhile it fails and closes."""
    fail, dropping, go_on = Gate(), Gate(), Gate()
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome"
    with Peer(scripted(begun, fail)) as peer:
        held = [session.request(peer.url())]
        exchange = held[0]._exchange
        held[0].end()
        assert held[0].get_response(LIMIT).status_code == 200
        # The worker has let go of it, too, so that the dropper is the last; makes no noise, so it is polled.
        assert exchange.news.wait_for(lambda: sys.getrefcount(held[0]) == 2, LIMIT)

        def started(exchange: Exchange) -> bool:
            if threading.current_thread() is dropper:
                dropping.set()
                go_on.wait()
            return was_started.__get__(exchange)

        was_started = Exchange.__dict__["started"]
        monkeypatch.setattr(Exchange, "started", property(started))
        dropper = threading.Thread(target=held.clear)
        dropper.start()
        dropping.wait()
        fail.set()
        assert exchange.news.wait_for(lambda: exchange.closed, LIMIT)
        go_on.set()
        dropper.join(LIMIT)
        assert exchange.failure is not None
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_dropping_a_failed_request_logs_once(
    session: Session, runners: Runners, caplog: pytest.LogCaptureFixture
) -> None:
    """It is let go of at the moment when it fails."""
    with Peer(scripted(Conn.reset)) as peer:
        for _ in rounds():
            caplog.clear()
            held = [session.request(peer.url()).end()]
            runners.race(held.clear)
            wait_logged(caplog)
            assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_response_is_not_to_be_had_before_its_body_has_begun(
    session: Session, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a reader who asks at that moment would miss what came behind the head, or get it in the wrong place."""
    start = Incoming.start
    too_early: list[object] = []

    def ask() -> None:
        with contextlib.suppress(TimeoutError):
            too_early.append(request.get_response(0))

    def watched(incoming: Incoming, rest: bytes) -> None:
        asker = threading.Thread(target=ask)
        asker.start()
        asker.join(LIMIT)
        start(incoming, rest)

    monkeypatch.setattr(Incoming, "start", watched)
    request = session.request(peer.url())
    request.end()
    assert request.get_response(LIMIT).json()["method"] == "GET"
    assert request.wait(LIMIT)
    assert too_early == []


def test_abort_while_a_long_body_moves_to_its_file(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer gets the request's error or none, never one of our own."""
    make_file = tempfile.TemporaryFile

    class File:
        """A file that takes its time over every write: until the request is closed, or waits for it."""

        def __init__(self, buffering: int) -> None:
            self._file = make_file(buffering=buffering)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, data: Any) -> int:
            request.abort()
            closed.wait(0.1)
            return self._file.write(data)

    monkeypatch.setattr(tempfile, "TemporaryFile", File)
    closed = threading.Event()
    request = session.request("http://127.0.0.1:9/", method="POST")
    request.on("close", closed.set)
    request.write(b"some")
    assert request.write(bytes(MEMORY_LIMIT)) == MEMORY_LIMIT
    with pytest.raises(AbortedError):
        request.wait(LIMIT)
    with pytest.raises(AbortedError):
        request.write(b"more")


@pytest.mark.parametrize("call", ["on", "resume", "pipe"])
@pytest.mark.parametrize("event", ["finish", "close"])
def test_events_asked_for_too_late_are_refused(
    session: Session, monkeypatch: pytest.MonkeyPatch, event: str, call: str
) -> None:
    """The worker has left the body to whoever reads it, and is about to close: no `data` and no `end` would come."""
    decided, go_on = Gate("decided"), Gate("go on")
    close = Exchange._close

    def wait_and_close(exchange: Exchange) -> None:
        decided.set()
        go_on.wait()
        close(exchange)

    monkeypatch.setattr(Exchange, "_close", wait_and_close)
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url()).on(event, lambda: None).end()
        try:
            decided.wait()
            response = request.get_response(LIMIT)
            arguments = {"on": ("data", print), "resume": (), "pipe": (io.BytesIO(),)}[call]
            with pytest.raises(InvalidStateError, match="no event will come"):
                getattr(response, call)(*arguments)
        finally:
            go_on.set()
        assert request.wait(LIMIT)
        assert response.read() == b"ok"


def test_events_asked_for_just_before_the_body_is_thrown_away_come(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wait()` throws away what nobody took; somebody who takes it at that very moment has it."""
    nobody_reads = Delivery._nobody_reads
    took: list[Any] = []

    def take_then(delivery: Delivery, incoming: Incoming) -> bool:
        nobody = nobody_reads(delivery, incoming)
        if nobody and not took:
            taker = threading.Thread(target=lambda: took.append(request.get_response(LIMIT).on("data", pieces.append)))
            taker.start()
            taker.join(LIMIT)
        return nobody

    monkeypatch.setattr(Delivery, "_nobody_reads", take_then)
    body, pieces = b"x" * 100_000, []  # type: ignore[var-annotated]
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", body)) as peer:
        request = session.request(peer.url()).end()
        assert request.wait(LIMIT)
        assert took
        assert b"".join(pieces) == body


class Holder:
    """Something that only the garbage collector can free."""

    def __init__(self, held: object) -> None:
        self.itself = self
        self.held = held


def drop_what_is_given(request: ClientRequest, event: str) -> None:
    """End the request; what the last argument of its listener is, is garbage then."""
    given = Gate(event)

    def listen(*arguments: object) -> None:
        Holder(arguments[-1])
        given.set()

    request.on(event, listen).end()
    given.wait()


def wait_until_read_ahead(request: ClientRequest) -> None:
    """Polls: the worker reads as much as it may in silence."""
    incoming, pause, deadline = request._exchange.incoming, threading.Event(), time.monotonic() + LIMIT
    assert incoming is not None
    while incoming.wants_more():
        assert time.monotonic() < deadline
        pause.wait(0.001)


def drop_response(request: ClientRequest) -> ClientRequest:
    """Nobody can read it any more, and somebody waits for the end: its body is thrown away."""
    drop_what_is_given(request, "response")
    wait_until_read_ahead(request)
    request.wait(0)
    return request


def drop_request(request: ClientRequest) -> None:
    """Nobody can ask for its response any more."""
    Holder(request.end())
    request._exchange.news.wait_for(lambda: request._exchange.incoming is not None, LIMIT)
    wait_until_read_ahead(request)


def drop_login(request: ClientRequest) -> ClientRequest:
    """Nobody can answer any more: the login is cancelled."""
    drop_what_is_given(request, "login")
    return request


def drop_unended(request: ClientRequest) -> None:
    """It waits for its turn, with no connection that could be shut."""
    request.write(b"x")
    Holder(request)


@pytest.mark.filterwarnings("ignore:un-ended:ResourceWarning")
@pytest.mark.parametrize("drop", [drop_response, drop_request, drop_login, drop_unended])
def test_garbage_collected_on_the_worker_itself_is_noticed(
    monkeypatch: pytest.MonkeyPatch, drop: Callable[[ClientRequest], ClientRequest | None]
) -> None:
    """The collector runs on any thread, so also on the worker between its last look and its wait."""
    status = b"401 Who" if drop is drop_login else b"200 OK"
    head = b"HTTP/1.1 %s\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 300000\r\n\r\n" % status
    answer = scripted(head + bytes(200_000), Conn.wait_closed)
    wait, armed, woken = Waiter.wait, [False], Gate("woken")

    def collect_and_wait(waiter: Waiter, sock: Any, events: int, timeout: float | None) -> int:
        if armed[0] and waiter is exchange._waiter:
            armed[0] = False
            woken.wait()
            wait(waiter, None, 0, 0)  # what has woken it so far wakes it no more
            gc.collect()
        return wait(waiter, sock, events, timeout)

    gc.disable()
    try:
        with Session(max_connections_per_host=1) as session, Peer(answer) as peer, contextlib.ExitStack() as stack:
            if drop is drop_unended:
                first = session.request(peer.url()).end()
                stack.callback(first.abort)
                first.get_response(LIMIT)
            request = session.request(peer.url(), method="POST", chunked_encoding=drop is drop_unended)
            exchange = request._exchange
            kept = drop(request)
            monkeypatch.setattr(Waiter, "wait", collect_and_wait)
            del request
            armed[0] = True
            exchange.wake()
            woken.set()
            assert exchange.news.wait_for(lambda: exchange.closed or exchange.login_error is not None, LIMIT)
            del kept
            exchange.abort()
            exchange.news.wait_for(lambda: exchange.closed, LIMIT)
    finally:
        gc.enable()


@pytest.mark.parametrize(("ended", "answered"), [("before", False), ("before", True), ("after", False)])
def test_drain_follows_though_the_body_is_sent_already(
    session: Session, monkeypatch: pytest.MonkeyPatch, ended: str, answered: bool
) -> None:
    """A writer that passed the mark asks for `drain` when the worker has nothing left to send."""
    pause, deadline = threading.Event(), time.monotonic() + LIMIT
    wait_for_room = ClientRequest._wait_for_room

    def wait_until(condition: Callable[[], object]) -> None:
        while not condition():
            assert time.monotonic() < deadline
            pause.wait(0.001)

    def ask_late(request: ClientRequest) -> None:
        wait_until(lambda: request.writable_length == 0)
        if ended == "before":
            request.end()
            wait_until(lambda: request.writable_finished)
        if answered:
            request.get_response(LIMIT)
        wait_for_room(request)

    monkeypatch.setattr(ClientRequest, "_wait_for_room", ask_late)
    answer = Gate("answer")
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    with Peer(scripted(*([head, answer, b"ok"] if answered else [answer, OK]))) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True, blocking=False, high_water_mark=1)
        recorder = Recorder(request, skip=("response",))
        request.write(b"more than the mark")
        if ended == "after":
            request.end()
        recorder.wait("drain")
        assert not request.writable_need_drain
        answer.set()
        recorder.wait("close")
