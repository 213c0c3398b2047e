"""The short way, disturbed: Ctrl-C at every line, aborts, many who wait, the end of the program, forks."""

from __future__ import annotations

import contextlib
import itertools
import linecache
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Optional

import pytest

import clientrequest
from clientrequest import AbortedError, ClientRequest, InvalidStateError, Session, _workers
from clientrequest._exchange import Exchange, _live
from clientrequest._workers import crew
from tests.conftest import busy_workers, wait_until_quiet
from tests.support import LIMIT, Conn, Gate, Peer
from tests.support.threads import in_threads
from tests.test_exit import Program
from tests.test_fork import in_child, untraced_threads  # noqa: F401 (a fixture)

PACKAGE = str(Path(clientrequest.__file__).parent)


def answer_with_path(conn: Conn) -> None:
    while True:
        conn.respond(body=conn.read_request().target.encode())


def answer_when(go_on: Gate) -> Callable[[Conn], None]:
    """A server that answers with the path, and to `/x` once the gate is open."""

    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.target == "/x":
                go_on.wait()
            conn.respond(body=request.target.encode())

    return handle


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that come after each other count as being in a hurry, however slow the machine is."""
    monkeypatch.setattr(_workers, "HURRY", LIMIT)


def get(session: Session, peer: Peer, path: str = "/") -> None:
    request = session.request(peer.url(path)).end()
    assert request.get_response(LIMIT).read() == path.encode()
    assert request.wait(LIMIT)


def warm_up(session: Session, peer: Peer, path: str = "/") -> None:
    """Have a connection idle, and a worker that looks out."""
    deadline = time.monotonic() + LIMIT
    get(session, peer, path)
    while not crew.looks_out:
        assert time.monotonic() < deadline
        get(session, peer, path)


def begin(session: Session, peer: Peer, path: str = "/x", **options: Any) -> ClientRequest:
    """A request on the short way."""
    warm_up(session, peer)
    before = crew._reservations
    request = session.request(peer.url(path), **options).end()
    assert crew._reservations > before
    return request


# --- time ---


@pytest.mark.parametrize("method", ["get_response", "wait"])
def test_time_is_not_counted_twice(session: Session, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[Optional[float]] = []
    carry = Exchange.carry_here

    def look(exchange: Exchange, timeout: Optional[float]) -> Optional[float]:
        left.append(carry(exchange, timeout))
        return left[-1]

    go_on = Gate()
    with Peer(answer_when(go_on)) as peer:
        monkeypatch.setattr(_workers, "TICK", LIMIT)  # else the lookout may be faster than we are
        request = begin(session, peer)
        monkeypatch.setattr(Exchange, "carry_here", look)
        with contextlib.suppress(TimeoutError):
            assert not getattr(request, method)(0.05)
        assert left[0] is not None
        assert left[0] <= 0
        go_on.set()
        assert request.get_response(LIMIT).read() == b"/x"


# --- Ctrl-C ---


class Trap:
    """A tracer that raises ``KeyboardInterrupt`` at the ``number``-th line of ours, once ``begins`` was called."""

    def __init__(self, number: int, begins: str, spared: frozenset[str]) -> None:
        self.sprung = ""
        self._left = number
        self._begins: Optional[str] = begins
        self._spared = spared
        self._seen: list[tuple[FrameType, int]] = []  # holds the frames: else another may get the place of one

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        name = frame.f_code.co_name
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if name == self._begins:
            self._begins = None
        if event != "line" or self._begins is not None or name in self._spared:
            return self
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        again = (frame, frame.f_lineno) in self._seen
        self._seen.append((frame, frame.f_lineno))
        # No signal comes between the last line of a with statement and its __exit__; nor can it be mended that one
        # comes between the end of a request and the last lines that let its worker go.
        if (again and line.lstrip().startswith("with ")) or ".settle(" in line:
            return self
        self._left -= 1
        if self._left == 0:
            self.sprung = f"{frame.f_code.co_filename}:{frame.f_lineno} {line.strip()}"
            sys.settrace(None)
            self._seen.clear()
            raise KeyboardInterrupt
        return self


def interrupt(call: Callable[[], object], trap: Trap) -> None:
    before = sys.gettrace()
    try:
        sys.settrace(trap)
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)


# Handing over is one step more than marking: the same that has no remedy where a worker is called at once.
SPARED = {
    "end": frozenset({"reserve", "__init__", "launch", "_employ", "run", "hand", "end"}),
    "get_response": frozenset({"settle", "let_go"}),
    "wait": frozenset({"settle", "let_go"}),
}


# A connection that is on its way from one hand to another is closed by being let go of.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("body", [b"", b"body"], ids=["get", "post"])
@pytest.mark.parametrize("method", ["end", "get_response", "wait"])
def test_ctrl_c_at_every_line(session: Session, method: str, body: bytes) -> None:
    begins = "_can_begin_here" if method == "end" else "carry_here"
    with Peer(answer_with_path, expect_errors=True) as peer:
        for number in itertools.count(1):
            warm_up(session, peer)
            path = f"/{number}"
            request = session.request(peer.url(path), method="POST" if body else "GET")
            trap = Trap(number, begins, SPARED[method])
            if method != "end":
                request.end(body or None)
            arguments = ((body,) if body else ()) if method == "end" else (LIMIT,)
            interrupt(lambda: getattr(request, method)(*arguments), trap)  # noqa: B023 (called at once)
            with contextlib.suppress(AbortedError):
                assert request.get_response(LIMIT).read() == path.encode(), trap.sprung
                assert request.wait(LIMIT), trap.sprung
            get(session, peer, f"/after/{number}")
            assert request._exchange.news.wait_for(lambda: request._exchange.closed, LIMIT), trap.sprung  # noqa: B023
            wait_until_quiet()
            assert not crew.reserved, trap.sprung
            if not trap.sprung:
                break
    assert number > 20


# --- aborts and drops ---


def test_abort_before_anybody_waits(session: Session) -> None:
    with Peer(answer_with_path, expect_errors=True) as peer:
        request = begin(session, peer)
        request.abort()
        with pytest.raises(AbortedError):
            request.get_response(LIMIT)
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
        get(session, peer, "/after")


@pytest.mark.parametrize("means", ["abort", "session"])
def test_abort_while_somebody_carries_it(means: str) -> None:
    asked = threading.Event()

    def handle(conn: Conn) -> None:
        while (request := conn.read_request()).target != "/x":
            conn.respond(body=request.target.encode())
        asked.set()
        conn.wait_closed()

    with Peer(handle, expect_errors=True) as peer, Session() as session:
        request = begin(session, peer)

        def end_it() -> None:
            assert asked.wait(LIMIT)
            (request.abort if means == "abort" else session.close)()

        helper = threading.Thread(target=end_it)
        helper.start()
        with pytest.raises(AbortedError):
            request.get_response(LIMIT)
        helper.join(LIMIT)


def test_dropped_right_after_its_end_it_is_answered_all_the_same(session: Session) -> None:
    seen = threading.Event()

    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            conn.respond(body=request.target.encode())
            if request.target == "/x":
                seen.set()

    with Peer(handle) as peer:
        begin(session, peer)
        assert seen.wait(LIMIT)
        wait_until_quiet()
        assert not crew.reserved
        get(session, peer)


# --- many ---


def test_many_wait_for_one(session: Session, nervous: None) -> None:
    with Peer(answer_with_path) as peer:
        for _ in range(10):
            request = begin(session, peer)
            got: list[Any] = []

            def ask(number: int) -> None:
                if number % 3:
                    got.append(request.get_response(LIMIT))  # noqa: B023 (joined in the loop)
                else:
                    request.wait(LIMIT)  # noqa: B023

            in_threads(4, ask)
            assert len(set(map(id, got))) == 1
            assert got[0].read() == b"/x"


def test_many_threads_with_requests_of_their_own(session: Session, nervous: None) -> None:
    with Peer(answer_with_path) as peer:
        warm_up(session, peer)

        def work(number: int) -> None:
            for round_number in range(15):
                get(session, peer, f"/{number}/{round_number}")

        in_threads(4, work)
        wait_until_quiet()
        assert not crew.reserved


# --- who is called, and where ---


def test_who_listens_later_is_never_called_on_the_thread_that_waits(session: Session) -> None:
    called: list[Optional[int]] = []
    go_on = Gate()
    with Peer(answer_when(go_on)) as peer:
        request = begin(session, peer)
        closed = threading.Event()

        def listen() -> None:
            for event in ("response", "close"):
                request.on(event, lambda *arguments: called.append(threading.get_ident()))
            request.on("close", closed.set)
            request.future.add_done_callback(lambda future: called.append(threading.get_ident()))
            go_on.set()

        helper = threading.Thread(target=listen)
        helper.start()
        assert request.get_response(LIMIT).read() == b"/x"
        assert closed.wait(LIMIT)
        helper.join(LIMIT)
        assert len(called) >= 2
        assert threading.get_ident() not in called


def test_future_asked_for_as_the_response_comes_is_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for when nobody looks for listeners any more; and told, but not by the thread that waits."""
    take_in = Exchange._take_in
    told: list[int] = []

    def ask(exchange: Exchange, *arguments: Any) -> Any:
        made = threading.Thread(target=lambda: futures.append(request.future))
        made.start()
        made.join(LIMIT)
        futures[0].add_done_callback(lambda future: told.append(threading.get_ident()))
        return take_in(exchange, *arguments)

    futures: list[Any] = []
    with Peer(answer_with_path) as peer:
        request = begin(session, peer)
        with monkeypatch.context() as patch:
            patch.setattr(Exchange, "_take_in", ask)
            response = request.get_response(LIMIT)
        assert request.wait(LIMIT)
        assert told
        assert threading.get_ident() not in told
        assert futures[0].result(LIMIT) is response


def test_cookies_are_stored_by_the_worker(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their file may be slow, or locked by another process: nobody waits for it longer than he wants to."""
    threads: list[threading.Thread] = []
    note = Exchange._note

    def look(exchange: Exchange, *arguments: Any) -> None:
        if exchange.target is not None and exchange.target.path == "/x":
            threads.append(threading.current_thread())
        note(exchange, *arguments)

    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            conn.respond(headers={"Set-Cookie": "a=b"} if request.target == "/x" else {}, body=b"/")

    with Peer(handle) as peer:
        monkeypatch.setattr(Exchange, "_note", look)
        warm_up(session, peer)
        request = session.request(peer.url("/x"), use_session_cookies=True).end()
        assert request.get_response(LIMIT).read() == b"/"
        assert threads
        assert all(isinstance(thread, _workers.Worker) for thread in threads)


# --- processes ---

SHORTLY = """
clientrequest._workers.HURRY = 60
session = clientrequest.Session()
def get(path=""):
    request = session.request(url + path).end()
    request.get_response(10).read()
    request.wait(10)
def begin(path="x"):
    get()
    while not clientrequest._workers.crew.looks_out:
        get()
    before = clientrequest._workers.crew._reservations
    request = session.request(url + path).end()
    assert clientrequest._workers.crew._reservations > before
    return request
"""

ENDS = {
    "reserved": "request = begin()",
    "reserved for ever": "clientrequest._workers.TICK = 60\nrequest = begin()",
    "in a daemon": "request = begin()\nthreading.Thread(target=request.get_response, daemon=True).start()",
    "at exit": "import atexit\nrequest = begin()\natexit.register(lambda: say(request.get_response(10).read()))",
    "begun at exit": "import atexit\nbegin().wait(10)\n@atexit.register\ndef ask():\n    get('x')\n    say('done')",
}


@pytest.mark.parametrize("how", ENDS)
def test_end_of_the_program(how: str) -> None:
    with Peer(answer_with_path, expect_errors=True) as peer:
        with Program(f"{SHORTLY}{ENDS[how]}\nsay('that was all')", peer) as program:
            program.wait_for("that was all")
            complaints = program.wait_at_once()
            assert program.status == 0, complaints
            assert complaints == ""
        assert "/x" in [request.target for request in peer.requests]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("waits", [False, True])
def test_fork_while_a_worker_is_reserved(session: Session, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, asked = Gate(), threading.Event()

    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.target == "/x":
                asked.set()
                go_on.wait()
            conn.respond(body=request.target.encode())

    monkeypatch.setattr(_workers, "TICK", LIMIT)
    with Peer(handle) as peer:
        request = begin(session, peer)
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(request.get_response(LIMIT).read()))
        if waits:
            reader.start()
        assert asked.wait(LIMIT)

        def child() -> Any:
            get(session, peer, "/child")
            with contextlib.suppress(InvalidStateError):
                request.get_response(LIMIT)
            return len(crew.reserved), crew.looks_out and busy_workers(), len(_live)

        assert in_child(child) in [(0, False, 0), (0, [], 0)]
        go_on.set()
        if not waits:
            reader.start()
        reader.join(LIMIT)
        assert got == [b"/x"]


@pytest.fixture(autouse=True)
def nothing_reserved() -> Iterator[None]:
    yield
    assert not crew.reserved
