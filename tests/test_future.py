"""The response as a future: told once, whenever it is asked for, and to whom it is told."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import io
import itertools
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any, Callable

import pytest

from clientrequest import (
    AbortedError,
    ClientRequest,
    ConnectError,
    IncomingMessage,
    InvalidStateError,
    ListenerError,
    RequestTimeout,
    Session,
    Timeout,
)
from clientrequest._workers import Worker, crew
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, echo_json, refused_port, scripted
from tests.support.logs import wait_logged

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LONG = 1_000_000  # bytes; more than is read ahead
BIG = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LONG + bytes(LONG)
SILENT = scripted(Conn.hold)


def serve_always(conn: Conn) -> None:
    while True:
        conn.read_request()
        conn.send(OK)


class Dispatcher:
    """Runs callbacks in a thread of its own."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)

    def __call__(self, function: Callable[[], None]) -> None:
        self.pool.submit(function)


@pytest.fixture(params=["worker", "dispatcher"])
def dispatcher(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "worker":
        yield None
        return
    dispatcher = Dispatcher()
    yield dispatcher
    dispatcher.pool.shutdown()


# --- what it tells ---


def test_it_is_a_future(session: Session) -> None:
    made = session.request("http://127.0.0.1:9/")
    future = made.future
    assert isinstance(future, Future)
    assert made.future is future
    assert not future.done()
    assert not future.running()
    made.abort()
    wait([future], LIMIT)


@pytest.mark.parametrize("moment", ["before the start", "after end", "after the response", "after close"])
def test_response_whenever_it_is_asked_for(session: Session, moment: str, dispatcher: Any) -> None:
    with Peer(serve_always) as peer:
        made = session.request(peer.url(), dispatcher=dispatcher)
        futures = [made.future] if moment == "before the start" else []
        made.end()
        if moment == "after the response":
            made.get_response(LIMIT)
        elif moment == "after close":
            assert made.wait(LIMIT)
        futures.append(made.future)
        response = futures[0].result(LIMIT)
        assert isinstance(response, IncomingMessage)
        assert futures[-1].result() is futures[0].result() is made.get_response() is response
        assert futures[0].exception() is None
        assert response.read() == b"ok"
        assert made.future.done()
        assert not futures[0].cancel()
        assert made.wait(LIMIT)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("how", ["refused", "abort", "timeout", "listener"])
def test_failure_as_get_response_raises_it(session: Session, how: str, moment: str, dispatcher: Any) -> None:
    kinds: dict[str, type[Exception]] = {
        "refused": ConnectError,
        "abort": AbortedError,
        "timeout": RequestTimeout,
        "listener": ListenerError,
    }

    def fail() -> None:
        raise ZeroDivisionError

    with refused_port() as port, Peer(SILENT) as peer:
        url = f"http://127.0.0.1:{port}/" if how == "refused" else peer.url()
        made = session.request(
            url, timeout=Timeout(read=0.05 if how == "timeout" else None), dispatcher=dispatcher, method="POST"
        )
        if how == "listener":
            made.on("finish", fail)
        future = made.future if moment == "before" else None
        made.end(b"x")
        if how == "abort":
            made.abort()
        if future is None:
            with pytest.raises(kinds[how]):
                made.wait(LIMIT)
        future = future or made.future
        with pytest.raises(kinds[how]) as caught:
            future.result(LIMIT)
        with pytest.raises(kinds[how]) as again:
            made.get_response(LIMIT)
        assert caught.value is again.value is future.exception()
        assert caught.value.request is made  # type: ignore[attr-defined]
        assert not future.cancelled()
        assert not future.cancel()


def test_traceback_does_not_grow(session: Session) -> None:
    made = session.request("http://127.0.0.1:9/")
    made.abort()
    depths = []
    for _ in range(5):
        with pytest.raises(AbortedError) as caught:
            made.future.result(LIMIT)
        depths.append(len(caught.traceback))
    assert len(set(depths)) == 1


def test_failure_behind_the_response_is_not_its_own(session: Session) -> None:
    cut = Gate()
    with Peer(scripted(BIG[: LONG // 2], cut, Conn.reset)) as peer:
        made = session.request(peer.url()).end()
        response = made.future.result(LIMIT)
        cut.set()
        with pytest.raises(OSError, match="net::"):
            response.read()
        assert made.future.result() is response


def test_time_that_is_over_leaves_the_request(session: Session) -> None:
    go_on = Gate()
    with Peer(scripted(go_on, OK)) as peer:
        made = session.request(peer.url()).end()
        with pytest.raises(concurrent.futures.TimeoutError):
            made.future.result(0.01)
        with pytest.raises(concurrent.futures.TimeoutError):
            made.future.exception(0)
        go_on.set()
        assert made.future.result(LIMIT).read() == b"ok"


def test_redirects_are_followed_first(session: Session) -> None:
    def redirect(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n")
        conn.read_request()
        conn.send(OK)

    with Peer(redirect) as peer:
        assert session.request(peer.url()).end().future.result(LIMIT).url == peer.url("/there")


def test_ctrl_c_while_it_is_told_loses_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: ClientRequest, incoming: object) -> None:
        raise KeyboardInterrupt

    with Peer(serve_always) as peer:
        made = session.request(peer.url()).end()
        assert made.wait(LIMIT)
        with monkeypatch.context() as patched:
            patched.setattr(ClientRequest, "_response_for", interrupt)
            with pytest.raises(KeyboardInterrupt):
                _ = made.future
        assert made.future.result(LIMIT).read() == b"ok"


# --- its relatives ---


def test_as_completed_and_wait(session: Session) -> None:
    go_on = Gate()
    with Peer(serve_always) as fast, Peer(scripted(go_on, OK)) as slow:
        futures = [session.request(peer.url()).end().future for peer in (slow, fast, fast)]
        completed = as_completed(futures, LIMIT)
        first = [next(completed), next(completed)]
        assert {*first} == {*futures[1:]}
        assert wait(futures, LIMIT, concurrent.futures.FIRST_COMPLETED).not_done == {futures[0]}
        go_on.set()
        assert next(completed) is futures[0]
        assert [future.result().read() for future in futures] == [b"ok"] * 3


def test_wait_counts_a_cancelled_one_as_done(session: Session) -> None:
    with Peer(SILENT) as peer:
        future = session.request(peer.url()).end().future
        other = threading.Thread(target=future.cancel)
        other.start()
        assert list(as_completed([future], LIMIT)) == [future]
        assert wait([future], LIMIT).done == {future}
        other.join(LIMIT)


def test_asyncio(session: Session) -> None:
    async def main() -> None:
        made = session.request(peer.url("/a"))
        waited = asyncio.wrap_future(made.future)
        made.end()
        response = await asyncio.wait_for(waited, LIMIT)
        assert response.status_code == 200
        aborted = Gate()
        hanging = session.request(silent.url()).on("abort", aborted.set).end()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(hanging.future), 0.01)
        aborted.wait()
        with pytest.raises(ConnectError):
            await asyncio.wrap_future(session.request(f"http://127.0.0.1:{port}/").end().future)

    with Peer(serve_always) as peer, Peer(SILENT) as silent, refused_port() as port:
        asyncio.run(main())


# --- cancelling ---


@pytest.mark.parametrize("moment", ["before the start", "while it waits"])
def test_cancel_aborts(session: Session, moment: str, dispatcher: Any) -> None:
    arrived = Gate()
    with Peer(scripted(lambda conn: arrived.set(), Conn.hold)) as peer:
        made = session.request(peer.url(), dispatcher=dispatcher)
        recorder = Recorder(made)
        future = made.future
        if moment == "while it waits":
            made.end()
            arrived.wait()
        assert future.cancel()
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(CancelledError):
            future.result(LIMIT)
        with pytest.raises(AbortedError):
            made.get_response(LIMIT)
        recorder.wait("close")
        assert recorder.names()[-2:] == ["abort", "close"]
        assert made.future.cancelled()


def test_cancel_of_an_ended_request_that_nobody_holds(session: Session) -> None:
    aborted = Gate()
    with Peer(SILENT) as peer:
        made = session.request(peer.url()).on("abort", aborted.set).end()
        future = made.future
        del made
        assert future.cancel()
        aborted.wait()


def test_abort_in_a_callback_of_the_cancelled_one_is_through_already(session: Session) -> None:
    """Who is told of the cancellation may wait for the end of the request."""
    with Peer(SILENT) as peer:
        made = session.request(peer.url()).end()
        ended: list[Any] = []

        def wait_for_the_end(future: Any) -> None:
            with pytest.raises(AbortedError):
                made.wait(LIMIT)
            ended.append(future)

        made.future.add_done_callback(wait_for_the_end)
        assert made.future.cancel()
        assert ended == [made.future]


# --- callbacks ---


def test_callbacks_run_on_the_worker(session: Session, dispatcher: Any) -> None:
    """Where there is a dispatcher too: who waits on its thread must not wait for himself."""
    called: list[Any] = []
    done = Gate()
    with Peer(serve_always) as peer:
        made = session.request(peer.url(), dispatcher=dispatcher)
        made.future.add_done_callback(lambda future: called.append((future, threading.current_thread())))
        made.future.add_done_callback(lambda future: done.set())
        future = made.future
        made.end()
        done.wait()
        ((told, thread),) = called
        assert told is future
        assert isinstance(thread, Worker)
        made.future.add_done_callback(lambda future: called.append(threading.current_thread()))
        assert called[-1] is threading.current_thread()


def test_waiting_for_itself_is_refused(session: Session, dispatcher: Any) -> None:
    refused: list[str] = []
    done, asked = Gate(), Gate()
    with Peer(scripted(asked, OK)) as peer:
        made = session.request(peer.url(), method="POST", dispatcher=dispatcher)

        def finish() -> None:
            for call in (future.result, future.exception, made.get_response):
                with pytest.raises(InvalidStateError, match="would wait for itself"):
                    call()
                refused.append(call.__name__)
            asked.set()

        def told(future: Any) -> None:
            with pytest.raises(InvalidStateError, match="would wait for itself"):
                made.wait()
            refused.append(future.result().status_code)
            done.set()

        future = made.future
        made.on("finish", finish)
        future.add_done_callback(told)
        made.end()
        done.wait()
        assert made.wait(LIMIT)
    assert refused == ["result", "exception", "get_response", 200]


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
@pytest.mark.parametrize("end", ["response", "failure", "cancel"])
def test_callback_that_raises_hurts_nothing(
    session: Session, error: type[BaseException], end: str, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    hooked: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", hooked.append)
    called = Gate()
    with Peer(serve_always if end == "response" else SILENT) as peer:
        made = session.request(peer.url())
        recorder = Recorder(made, skip=["response"])

        def fail(future: Any) -> None:
            called.set()
            raise error

        made.future.add_done_callback(fail)
        made.end()
        if end == "failure":
            made.abort()
        elif end == "cancel":
            with contextlib.suppress(SystemExit):
                made.future.cancel()
        called.wait()
        recorder.wait("close")
        if end == "response":
            assert made.get_response(LIMIT).read() == b"ok"
        if error is ZeroDivisionError:
            assert "exception calling callback" in caplog.text
            assert hooked == []
        elif end != "cancel":
            assert [each.exc_type for each in hooked] == [SystemExit]


def test_response_may_be_read_in_a_callback(session: Session, dispatcher: Any) -> None:
    read: list[int] = []
    done = Gate()

    def take(future: Any) -> None:
        read.append(len(future.result().read()))
        done.set()

    with Peer(scripted(BIG)) as peer:
        made = session.request(peer.url(), dispatcher=dispatcher)
        made.future.add_done_callback(take)
        made.end()
        done.wait()
        assert made.wait(LIMIT)
    assert read == [LONG]


def test_callbacks_are_called_where_nobody_holds_anything(session: Session) -> None:
    bodies: list[bytes] = []
    done = Gate()

    def take(future: Any) -> None:
        bodies.append(future.result().read())
        done.set()

    with Peer(serve_always) as peer:
        session.request(peer.url()).end().future.add_done_callback(take)
        gc.collect()
        done.wait()
    assert bodies == [b"ok"]


# --- who takes the body ---


def test_events_may_be_chosen_too(session: Session) -> None:
    ended = Gate()
    sizes: list[int] = []
    with Peer(scripted(BIG)) as peer:
        response = session.request(peer.url()).end().future.result(LIMIT)
        response.on("end", ended.set)
        response.on("data", lambda data: sizes.append(len(data)))
        ended.wait()
    assert sum(sizes) == LONG


def test_body_is_left_to_who_asked(session: Session) -> None:
    """As with `get_response()`: `wait()` throws nothing away that was asked for."""
    with Peer(scripted(BIG)) as peer:
        made = session.request(peer.url())
        future = made.future
        made.end()
        wait([future], LIMIT)
        assert not made.wait(0.05)
        assert len(future.result().read()) == LONG
        assert made.wait(LIMIT)


def test_body_that_nobody_can_read_any_more_is_discarded(session: Session) -> None:
    closed = Gate()
    with Peer(scripted(BIG, Conn.wait_closed)) as peer:
        made = session.request(peer.url()).on("close", closed.set).end()
        future = made.future
        del made
        wait([future], LIMIT)
        assert not closed.is_set()
        del future  # and with it response and request, without a garbage collector
        closed.wait()


def test_no_cycle_holds_what_is_done(session: Session) -> None:
    gc.disable()
    try:
        with Peer(serve_always) as peer:
            made = session.request(peer.url())
            future = made.future
            made.end()
            assert future.result(LIMIT).read() == b"ok"
            assert made.wait(LIMIT)
            gone = [weakref.ref(made), weakref.ref(future), weakref.ref(made._exchange)]
            del made, future
            wait_collected(*gone, collect=no_collector)
    finally:
        gc.enable()


# --- dropped ---


@pytest.mark.filterwarnings("ignore:.*was dropped:ResourceWarning")
@pytest.mark.parametrize("begun", ["never written", "buffered", "streamed"])
@pytest.mark.parametrize("told", ["result", "as_completed", "callback"])
def test_request_that_is_dropped_before_its_end_is_aborted(session: Session, begun: str, told: str) -> None:
    with Peer(SILENT) as peer:
        made = session.request(peer.url(), method="POST", chunked_encoding=begun == "streamed")
        future = made.future
        if begun != "never written":
            made.write(b"half")
        called = Gate()
        if told == "callback":
            future.add_done_callback(lambda future: called.set())
        for worker in crew.send_home():  # so that no idle one is there to tell of it
            worker.join(LIMIT)
        del made
        if told == "as_completed":
            assert list(as_completed([future], LIMIT)) == [future]
        elif told == "callback":
            called.wait()
        with pytest.raises(AbortedError, match=r"dropped before end\(\)"):
            future.result(LIMIT)
        assert not any(seen.complete for seen in peer.requests)


def test_future_that_nobody_holds_keeps_nothing(session: Session) -> None:
    made = session.request("http://127.0.0.1:9/")
    gone = [weakref.ref(made), weakref.ref(made.future)]
    del made
    wait_collected(*gone)


@pytest.mark.filterwarnings("ignore:.*was dropped:ResourceWarning")
def test_wrapper_that_is_dropped_tells_the_future(session: Session) -> None:
    for text in ("", "half"):
        made = session.request("http://127.0.0.1:9/", method="POST")
        future = made.future
        wrapper = io.TextIOWrapper(made, "utf-8")
        wrapper.write(text)
        del wrapper
        gc.collect()
        assert wait([future], LIMIT).done
        with pytest.raises(AbortedError):
            future.result(LIMIT)


def test_failure_that_nobody_asked_for_is_logged(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with refused_port() as port:
        future = session.request(f"http://127.0.0.1:{port}/").end().future
        wait([future], LIMIT)
        del future
        assert "nobody listened" in wait_logged(caplog)[0].getMessage()


def test_failure_that_was_asked_for_is_not(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with refused_port() as port:
        made = session.request(f"http://127.0.0.1:{port}/").end()
        assert isinstance(made.future.exception(LIMIT), ConnectError)
        gone = weakref.ref(made)
        del made
        wait_collected(gone)
    assert caplog.records == []


def no_collector() -> None:
    """The worker may be leaving the exchange only now; then it has to go by itself."""


def wait_collected(*gone: weakref.ref[Any], collect: Callable[[], object] = gc.collect) -> None:
    """Polls: what goes makes no noise."""
    pause, until = threading.Event(), time.monotonic() + LIMIT
    while any(ref() is not None for ref in gone) and time.monotonic() < until:
        collect()
        pause.wait(0.002)
    assert [ref() for ref in gone] == [None] * len(gone)


def test_end_of_the_program_ends_it() -> None:
    script = """
import sys
from clientrequest import ClientRequest
def told(future):
    print(future.result().read() if future.exception() is None else future.exception(), flush=True)
ended = ClientRequest(sys.argv[1]).end()
ended.future.add_done_callback(told)
"""
    with Peer(serve_always) as peer:
        command = [sys.executable, "-c", script, peer.url()]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'ok'\n", "")


# --- races ---


def race(*calls: Callable[[], object]) -> list[object]:
    """Calls each on a thread of its own, all at once; what each gave."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait(LIMIT)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [started.result(LIMIT) for started in [pool.submit(run, call) for call in calls]]


@pytest.mark.usefixtures("nervous")
def test_asked_for_while_the_response_comes(session: Session) -> None:
    with Peer(serve_always) as peer:
        for _ in range(60):
            made = session.request(peer.url())
            told: list[Any] = []

            def ask(made: ClientRequest = made, told: list[Any] = told) -> Any:
                future = made.future
                future.add_done_callback(told.append)
                return future

            *futures, _ = race(ask, ask, ask, made.end)
            responses = {id(future.result(LIMIT)) for future in futures}  # type: ignore[attr-defined]
            assert len({id(future) for future in futures}) == len(responses) == 1
            assert made.wait(LIMIT)
            assert told == futures


@pytest.mark.usefixtures("nervous")
def test_cancel_against_the_response(session: Session) -> None:
    """One of them is first, for all who ask; a request that was through already is not aborted any more."""
    outcomes = set()
    with Peer(serve_always) as peer:
        for number in itertools.count():
            made = session.request(peer.url())
            future, told = made.future, Gate()
            calls: list[Any] = []
            future.add_done_callback(lambda future, told=told, calls=calls: (calls.append(future), told.set()))
            made.end()
            if number % 2:
                made.get_response(LIMIT)
            cancelled, also, response = race(future.cancel, future.cancel, lambda made=made: outcome(made))
            assert wait([future], LIMIT).done
            told.wait()
            assert calls == [future]
            assert cancelled is also is future.cancelled()
            if not cancelled:
                assert future.result() is response
            with contextlib.suppress(*([AbortedError] if cancelled else [])):
                assert made.wait(LIMIT)
            outcomes.add(cancelled)
            if number >= 60 and len(outcomes) == 2:
                return
            assert number < 2000


def outcome(made: ClientRequest) -> object:
    try:
        return made.get_response(LIMIT)
    except AbortedError:
        return None


@pytest.mark.usefixtures("nervous")
def test_asked_for_while_it_is_aborted(session: Session) -> None:
    with Peer(echo_json) as peer:
        for _ in range(60):
            made = session.request(peer.url()).end()
            *_, future = race(made.abort, made.abort, lambda made=made: made.future)
            assert isinstance(future, Future)
            assert wait([future], LIMIT).done
            error = future.exception()
            assert error is None or isinstance(error, AbortedError)
            with contextlib.suppress(AbortedError):
                made.wait(LIMIT)
