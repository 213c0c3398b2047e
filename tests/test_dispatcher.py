"""Callbacks on somebody else's thread: event loops, executors, a queue of one's own; and dispatchers that fail."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import queue
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from clientrequest import (
    AbortedError,
    ClientRequest,
    ClientRequestError,
    InvalidStateError,
    ListenerError,
    Session,
    signals,
)
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, echo_json, scripted, server_context

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GOOD = ["finish", "response", "response.data", "response.end", "response.close", "close"]
Task = Callable[[], None]


class Boom(Exception):
    """What listeners raise here."""


class Desk:
    """A dispatcher whose tasks are done by whoever calls `work`."""

    def __init__(self) -> None:
        self.tasks: queue.Queue[Task] = queue.Queue()
        self.posted = 0

    def __call__(self, task: Task) -> None:
        self.posted += 1
        self.tasks.put(task)

    def work_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.tasks.get(timeout=LIMIT)()

    def work_once(self) -> None:
        self.tasks.get(timeout=LIMIT)()

    def work_until_quiet(self, quiet: float = 0.005) -> None:
        """Work until nothing has come for a while."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.tasks.get(timeout=quiet)()

    def work_all(self) -> None:
        """Do what is there already."""
        while not self.tasks.empty():
            self.work_once()


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What came to `threading.excepthook`."""
    caught: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: caught.append(args.exc_value))
    return caught


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop")
    thread.start()
    yield loop
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT)
        loop.close()


def stop(loop: asyncio.AbstractEventLoop) -> None:
    """Stop and close it, and wait until that is done."""
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "loop"]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(LIMIT)
    loop.close()


def chunks(count: int, size: int) -> Callable[[Conn], None]:
    """A handler that answers with that many chunks."""

    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(body=[bytes(size)] * count, chunked=True)

    return answer


# --- where callbacks run ---


def test_event_loop_runs_all_callbacks(session: Session, loop: asyncio.AbstractEventLoop) -> None:
    idents: list[int] = []
    loop.call_soon_threadsafe(lambda: idents.append(threading.get_ident()))
    with Peer(echo_json) as peer:
        request = session.request(
            peer.url(), method="POST", chunked_encoding=True, dispatcher=loop.call_soon_threadsafe
        )
        recorder = Recorder(request, consume=True)
        called: list[int] = []
        request.write(b"x", callback=lambda error: called.append(threading.get_ident()))
        request.end(callback=lambda error: called.append(threading.get_ident()))
        recorder.wait("close")
        assert request.wait(LIMIT)
    assert recorder.threads() == set(idents)
    assert called == idents * 2
    assert recorder.outline() == GOOD
    recorder.check_grammar()


def test_program_that_is_all_asyncio(session: Session) -> None:
    """Loop in the test's own thread, the answer awaited through a future."""

    async def fetch(url: str) -> bytes:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        body = bytearray()
        request = session.request(url, dispatcher=loop.call_soon_threadsafe)

        @request.on("response")
        def listen(response: Any) -> None:
            response.on("data", body.extend)
            response.on("close", lambda: done.set_result(bytes(body)))

        request.end()
        return await asyncio.wait_for(done, LIMIT)

    with Peer(chunks(10, 1000)) as peer:
        assert asyncio.run(fetch(peer.url())) == bytes(10_000)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_executor_runs_callbacks_one_at_a_time_and_in_order(session: Session, threads: int, tls: bool) -> None:
    context = server_context() if tls else None
    with Peer(echo_json, tls=context) as peer, concurrent.futures.ThreadPoolExecutor(threads) as executor:
        request = session.request(peer.url(), method="POST", chunked_encoding=True, dispatcher=executor.submit)
        recorder = Recorder(request, consume=True)
        order: list[int] = []
        pause = threading.Event()
        for number in range(50):
            noted = recorder.guard(lambda error, number=number: (pause.wait(0.0002), order.append(number)))
            request.write(b"x" * number, callback=noted)
        request.end()
        recorder.wait("close")
        assert request.wait(LIMIT)
    assert order == list(range(50))
    assert recorder.overlaps == []
    assert recorder.outline() == GOOD
    recorder.check_grammar()


def test_queue_that_the_tests_own_thread_works_off(session: Session) -> None:
    desk = Desk()
    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST", dispatcher=desk)
        recorder = Recorder(request, consume=True)
        request.end(b"body")
        desk.work_until(lambda: "close" in recorder.names())
        desk.work_until(lambda: request.wait(0.001))
    assert recorder.threads() == {threading.get_ident()}
    assert recorder.outline() == GOOD


def test_nothing_runs_before_the_dispatcher_runs_it(session: Session) -> None:
    desk = Desk()
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=desk)
        recorder = Recorder(request, consume=True)
        request.end()
        assert request.get_response(LIMIT).status_code == 200
        assert recorder.names() == []
        desk.work_until(lambda: "close" in recorder.names())
        desk.work_all()
        assert request.wait(LIMIT)


def test_dispatcher_that_calls_at_once(session: Session) -> None:
    with Peer(chunks(10, 1000)) as peer:
        request = session.request(peer.url(), dispatcher=lambda task: task())
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
        assert request.wait(LIMIT)
    assert recorder.outline() == GOOD


def test_dispatcher_of_the_session_is_the_default() -> None:
    desk = Desk()
    with Session(dispatcher=desk) as session, Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        recorder = Recorder(request, consume=True)
        request.end()
        desk.work_until(lambda: "close" in recorder.names())
        desk.work_all()
        assert request.wait(LIMIT)
    assert recorder.threads() == {threading.get_ident()}


def test_dispatcher_of_the_request_wins() -> None:
    others, own = Desk(), Desk()
    with Session(dispatcher=others) as session, Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=own)
        recorder = Recorder(request, consume=True)
        request.end()
        own.work_until(lambda: "close" in recorder.names())
        own.work_all()
        assert request.wait(LIMIT)
    assert others.posted == 0


@pytest.mark.parametrize("dispatcher", [1, "loop", object()])
def test_dispatcher_must_be_callable(dispatcher: Any) -> None:
    with pytest.raises(TypeError, match="dispatcher"):
        ClientRequest("http://127.0.0.1/", dispatcher=dispatcher)
    with pytest.raises(TypeError, match="dispatcher"):
        Session(dispatcher=dispatcher)


def test_file_face_needs_no_dispatcher_to_run(session: Session) -> None:
    desk = Desk()
    with Peer(chunks(100, 1000)) as peer:
        request = session.request(peer.url(), dispatcher=desk).end()
        assert request.get_response(LIMIT).read() == bytes(100_000)
        desk.work_until(lambda: request.wait(0.001))


colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


def test_context_of_the_creating_thread_is_visible(session: Session, loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    token = colour.set("red")
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=loop.call_soon_threadsafe)
        colour.reset(token)
        request.on("finish", lambda: seen.append(colour.get())).on("close", lambda: seen.append(colour.get()))
        request.end()
        assert request.wait(LIMIT)
    assert seen == ["red", "red"]


def test_observers_are_told_through_the_dispatcher_too(session: Session) -> None:
    desk = Desk()
    idents: list[int] = []

    def observe(sender: object, **details: object) -> None:
        idents.append(threading.get_ident())

    with signals.request_closed.connected_to(observe), Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=desk).end()
        desk.work_until(lambda: bool(idents))
        desk.work_all()
        assert request.wait(LIMIT)
    assert idents == [threading.get_ident()]


# --- what may be called there ---


@pytest.mark.parametrize("what", ["wait", "get_response"])
def test_waiting_in_a_callback_is_refused(session: Session, loop: asyncio.AbstractEventLoop, what: str) -> None:
    raised: list[BaseException] = []
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=loop.call_soon_threadsafe)
        at_finish = Gate()

        def listen() -> None:
            with pytest.raises(InvalidStateError) as caught:
                request.wait() if what == "wait" else request.get_response()
            raised.append(caught.value)
            at_finish.set()

        # Held by the server until the listener has run: later the response is there, and may be asked for.
        peer._handler = scripted(at_finish, OK)
        request.on("finish", listen).end()
        assert request.wait(LIMIT)
    assert len(raised) == 1


def test_writing_in_a_callback_does_not_block(session: Session, loop: asyncio.AbstractEventLoop) -> None:
    with Peer(echo_json) as peer:
        request = session.request(
            peer.url(),
            method="POST",
            chunked_encoding=True,
            high_water_mark=10,
            headers={"Expect": "100-continue"},
            dispatcher=loop.call_soon_threadsafe,
        )

        @request.on("continue")
        def write() -> None:
            for _ in range(10):
                request.write(b"x" * 1000)
            request.end()

        request.flush_headers()
        assert request.get_response(LIMIT).json()["length"] == 10_000
        assert request.wait(LIMIT)


def test_abort_in_a_callback(session: Session, loop: asyncio.AbstractEventLoop) -> None:
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", Conn.hold)) as peer:
        request = session.request(peer.url(), dispatcher=loop.call_soon_threadsafe)
        recorder = Recorder(request, consume=True)
        request.on("response", lambda response: response.on("data", lambda piece: request.abort()))
        request.end()
        recorder.wait("close")
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
    assert recorder.outline() == [*GOOD[:3], "abort", "response.aborted", "response.close", "close"]


@pytest.mark.parametrize("event", ["finish", "response", "response.data", "response.end"])
def test_listener_that_raises_fails_the_request(session: Session, loop: asyncio.AbstractEventLoop, event: str) -> None:
    """The last events too: the request has not succeeded before its listeners have run."""

    def boom(*_: object) -> None:
        raise Boom

    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=loop.call_soon_threadsafe)
        recorder = Recorder(request, consume=True)
        source, _, name = event.rpartition(".")
        if source:
            request.on("response", lambda response: response.on(name, boom))
        else:
            request.on(name, boom)
        request.end()
        recorder.wait("close")
        with pytest.raises(ListenerError) as raised:
            request.wait(LIMIT)
    assert isinstance(raised.value.__cause__, Boom)
    names = recorder.names()
    assert names.count("error") + names.count("response.error") == 1
    recorder.check_grammar()


def test_abort_in_the_last_listener_counts(session: Session, loop: asyncio.AbstractEventLoop) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=loop.call_soon_threadsafe)
        recorder = Recorder(request, consume=True)
        request.on("response", lambda response: response.on("end", request.abort))
        request.end()
        recorder.wait("close")
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
    assert recorder.outline()[-3:] == ["abort", "response.close", "close"]


def test_write_callback_that_raises_at_the_very_end_counts(session: Session, loop: asyncio.AbstractEventLoop) -> None:
    answered = Gate()

    def late_boom(error: BaseException | None) -> None:
        answered.wait()
        raise Boom

    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), method="POST", dispatcher=loop.call_soon_threadsafe)
        request.end(b"x", callback=late_boom)
        assert request.get_response(LIMIT).read() == b"ok"
        answered.set()
        with pytest.raises(ListenerError):
            request.wait(LIMIT)


# --- a loop that is busy ---


def test_at_most_one_data_event_is_under_way_while_the_loop_is_busy(session: Session) -> None:
    """Megabytes are waiting to be delivered, and one piece of them at most is in memory."""
    desk = Desk()
    begun, size = Gate(), 8 << 20
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, begun, bytes(size))) as peer:
        request = session.request(peer.url(), dispatcher=desk)
        sizes: list[int] = []
        undelivered: list[int] = []

        def take(piece: bytes) -> None:
            sizes.append(len(piece))
            undelivered.append(len(request._exchange.strand._tasks))

        request.on("response", lambda response: response.on("data", take)).end()
        desk.work_once()
        begun.set()
        desk.work_until(lambda: request.wait(0))
    assert sum(sizes) == size
    assert set(undelivered) == {1}, "more than the one that is being delivered"
    assert max(sizes) <= 256 * 1024


def test_busy_loop_holds_the_server_back(session: Session) -> None:
    """What is not delivered stays in the server: it cannot send all of a large body."""
    desk, sent = Desk(), threading.Event()

    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        for _ in range(64):
            conn.send(bytes(1 << 20))
        sent.set()

    with Peer(answer) as peer:
        request = session.request(peer.url(), dispatcher=desk)
        received = [0]

        def count(piece: bytes) -> None:
            received[0] += len(piece)

        request.on("response", lambda response: response.on("data", count)).end()
        desk.work_until(lambda: received[0] > 0)
        assert not sent.wait(0.1)
        desk.work_until(lambda: request.wait(0))
    assert received[0] == 64 << 20


def test_pause_takes_effect_at_once(session: Session) -> None:
    """Not one piece is delivered behind the call, and all of them come after `resume()`."""
    desk, size = Desk(), 2 << 20
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))) as peer:
        request = session.request(peer.url(), dispatcher=desk)
        received: list[int] = []
        responses: list[Any] = []

        @request.on("response")
        def listen(response: Any) -> None:
            responses.append(response)

            @response.on("data")
            def take(piece: bytes) -> None:
                received.append(len(piece))
                response.pause()

        request.end()
        while sum(received) < size:
            before = len(received)
            desk.work_until(lambda before=before: len(received) > before)  # type: ignore[misc]
            desk.work_until_quiet()
            assert len(received) == before + 1
            responses[0].resume()
        desk.work_until(lambda: request.wait(0.001))


def test_abort_is_quick_though_the_loop_is_busy(session: Session) -> None:
    """Who waits is told at once; the events follow when the loop gets to them."""
    desk = Desk()
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", Conn.hold)) as peer:
        request = session.request(peer.url(), dispatcher=desk)
        recorder = Recorder(request, consume=True)
        request.end()
        desk.work_until(lambda: "response.data" in recorder.names())
        request.abort()
        with pytest.raises(AbortedError):
            request.wait(0.5)
        assert "abort" not in recorder.names()
        desk.work_until(lambda: "close" in recorder.names())
        desk.work_all()
    assert recorder.outline() == [*GOOD[:3], "abort", "response.aborted", "response.close", "close"]


def test_no_data_is_delivered_after_an_abort_though_it_was_queued(session: Session) -> None:
    desk = Desk()
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", Conn.hold)) as peer:
        request = session.request(peer.url(), dispatcher=desk)
        recorder = Recorder(request)
        request.end()
        desk.work_until(lambda: "response" in recorder.names())
        desk.work_until_quiet()
        received: list[bytes] = []
        recorder.response.on("data", received.append)
        deliver = desk.tasks.get(timeout=LIMIT)
        request.abort()
        deliver()
        desk.work_until(lambda: "close" in recorder.names())
        desk.work_all()
    assert received == []
    assert recorder.outline() == ["finish", "response", "abort", "response.aborted", "response.close", "close"]


# --- a dispatcher that fails ---


def test_loop_that_is_closed_before_the_start(
    session: Session, loop: asyncio.AbstractEventLoop, hooked: list[BaseException | None]
) -> None:
    stop(loop)
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=loop.call_soon_threadsafe)
        recorder = Recorder(request, consume=True)
        request.end()
        with pytest.raises(ListenerError, match="dispatcher raised") as raised:
            request.wait(LIMIT)
        assert recorder.names()[-2:] == ["error", "close"]
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert recorder.find("error")[0].args == (raised.value,)


def test_loop_that_is_closed_in_the_middle(session: Session, loop: asyncio.AbstractEventLoop) -> None:
    more = Gate()
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", more, b"cd", Conn.hold)) as peer:
        request = session.request(peer.url(), dispatcher=loop.call_soon_threadsafe)
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("data", "response")
        stop(loop)
        more.set()
        recorder.wait("close")
        with pytest.raises(ListenerError):
            request.wait(LIMIT)
    assert recorder.names()[-3:] == ["response.error", "response.close", "close"]
    recorder.check_grammar()


def test_executor_that_is_shut_down(session: Session) -> None:
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.shutdown()
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=executor.submit)
        recorder = Recorder(request)
        request.end()
        recorder.wait("close")
        with pytest.raises(ListenerError):
            request.wait(LIMIT)
    recorder.check_grammar()


def test_dispatcher_that_fails_at_the_last_event_does_not_lose_it(session: Session) -> None:
    """It takes all but `close`, which then comes on the worker; the request was good."""
    desk = Desk()
    broken = threading.Event()

    def dispatch(task: Task) -> None:
        if broken.is_set():
            raise RuntimeError("gone")
        desk(task)

    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), dispatcher=dispatch)
        closed = threading.Event()

        @request.on("response")
        def listen(response: Any) -> None:
            response.on("data", lambda piece: None)
            response.on("end", broken.set)

        request.on("close", closed.set).end()
        desk.work_until(lambda: broken.is_set())
        desk.work_all()
        assert closed.wait(LIMIT)
        assert request.wait(LIMIT)


def test_other_requests_of_a_broken_dispatcher_are_not_disturbed(session: Session) -> None:
    def broken(task: Task) -> None:
        raise Boom

    with Peer(echo_json) as peer:
        with pytest.raises(ClientRequestError):
            session.request(peer.url(), dispatcher=broken).on("finish", lambda: None).end().wait(LIMIT)
        assert session.request(peer.url()).end().wait(LIMIT)
