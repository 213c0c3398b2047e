"""`fork()`: a child begins afresh, and cannot disturb the requests of its parent."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import select
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from clientrequest import ClientRequest, ClientRequestError, InvalidStateError, Session, default_session
from clientrequest._wire import Pools
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, echo_json, scripted, server_context

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 and later warn of every fork in a program with threads.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

CHILD_LIMIT = 20
"""Seconds after which a child is ended by its alarm clock."""


class Child:
    """A forked process that calls `task`, and gives back what that returns or raises.

    The task may call `wait()`, to stay until the parent calls `release()`.
    """

    def __init__(self, task: Callable[[Child], Any]) -> None:
        self._answers, answering = os.pipe()
        waiting, self._releases = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._waiting = waiting
            self._be_child(task, answering)
        os.close(answering)
        os.close(waiting)
        self._ended = False

    def _be_child(self, task: Callable[[Child], Any], answering: int) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_LIMIT)
        try:
            os.close(self._releases)
            answer = (True, task(self))
        except BaseException:
            answer = (False, traceback.format_exc())
        try:
            os.write(answering, pickle.dumps(answer))
        finally:
            os._exit(0)

    def wait(self) -> None:
        os.read(self._waiting, 1)

    def release(self) -> None:
        if self._releases >= 0:
            os.close(self._releases)
            self._releases = -1

    def result(self) -> Any:
        """What the task returned; it failed if it raised."""
        data = b""
        while True:
            ready, _, _ = select.select([self._answers], [], [], CHILD_LIMIT + 1)
            assert ready, "the child says nothing"
            piece = os.read(self._answers, 65536)
            if not piece:
                break
            data += piece
        self.end()
        assert data, "the child was ended by its alarm clock, or died"
        good, value = pickle.loads(data)
        assert good, f"in the child:\n{value}"
        return value

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self.release()
            os.waitpid(self.pid, 0)
            os.close(self._answers)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is not None and not self._ended:
            os.kill(self.pid, signal.SIGKILL)
        self.end()


@pytest.fixture(autouse=True)
def untraced_threads() -> Iterator[None]:
    """Threads of these tests run without a tracer.

    That of coverage takes a lock of its own at every call; a child forked while another thread has it would wait for
    it for ever, before it came to a line of ours.
    """
    tracer = getattr(threading, "_trace_hook", None)  # threading.gettrace() came with Python 3.10
    threading.settrace(None)
    yield
    threading.settrace(tracer)


def in_child(task: Callable[[], Any]) -> Any:
    with Child(lambda child: task()) as child:
        return child.result()


def ask(session: Session, peer: Peer, path: str = "/") -> dict[str, Any]:
    request = session.request(peer.url(path)).end()
    answer = request.get_response(LIMIT).json()
    assert request.wait(LIMIT)
    return answer


# --- each has its own connections ---


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_child_opens_its_own_connection_and_leaves_the_parents_alone(session: Session, tls: bool) -> None:
    with Peer(echo_json, tls=server_context() if tls else None) as peer:
        assert ask(session, peer)["connection"] == 1
        assert in_child(lambda: [ask(session, peer)["connection"] for _ in range(3)]) == [2, 2, 2]
        assert ask(session, peer)["connection"] == 1


def test_default_session_too() -> None:
    with Peer(echo_json) as peer:
        session = default_session()
        assert ask(session, peer)["connection"] == 1
        assert in_child(lambda: ask(default_session(), peer)["connection"]) == 2
        assert ask(session, peer)["connection"] == 1


def test_grandchild_opens_its_own_too(session: Session) -> None:
    def child() -> list[int]:
        own = ask(session, peer)["connection"]
        return [own, in_child(lambda: ask(session, peer)["connection"]), ask(session, peer)["connection"]]

    with Peer(echo_json) as peer:
        ask(session, peer)
        assert in_child(child) == [2, 3, 2]


def test_child_without_hooks_at_fork_opens_its_own_too(session: Session) -> None:
    """Some servers fork in C, where Python calls no hooks; the process number is what counts."""
    patch = pytest.MonkeyPatch()

    def child() -> int:
        patch.undo()
        return ask(session, peer)["connection"]

    with Peer(echo_json) as peer:
        ask(session, peer)
        patch.setattr(Pools, "after_fork", lambda pools: None)
        try:
            assert in_child(child) == 2
        finally:
            patch.undo()
        assert ask(session, peer)["connection"] == 1


def test_children_get_no_wrong_answers(session: Session) -> None:
    """All of them begin with the same idle connection of their parent."""

    def child(number: int) -> list[str]:
        return [ask(session, peer, f"/{number}/{turn}")["target"] for turn in range(20)]

    with Peer(echo_json) as peer, contextlib.ExitStack() as stack:
        ask(session, peer)
        children = [
            stack.enter_context(Child(lambda _, number=number: child(number)))  # type: ignore[misc]
            for number in range(4)
        ]
        own = [ask(session, peer, f"/own/{turn}")["target"] for turn in range(20)]
        for number, process in enumerate(children):
            assert process.result() == [f"/{number}/{turn}" for turn in range(20)]
    assert own == [f"/own/{turn}" for turn in range(20)]


# --- requests of the parent ---


@contextlib.contextmanager
def upload(session: Session) -> Iterator[ClientRequest]:
    """A request of the parent that is half written, and is whole and answered in the end."""
    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        recorder = Recorder(request, skip=("response",))
        request.write(b"some")
        request.flush()
        yield request
        request.end(b"more")
        assert request.get_response(LIMIT).json()["length"] == 8
        assert request.wait(LIMIT)
        assert recorder.outline() == ["finish", "close"]


def test_running_request_survives_the_end_of_a_child(session: Session) -> None:
    with upload(session):
        assert in_child(lambda: "ended") == "ended"


def test_running_request_survives_the_ordinary_exit_of_a_child(session: Session) -> None:
    """With all that Python does at the end of a program."""
    with upload(session):
        process = multiprocessing.get_context("fork").Process(target=int)
        process.start()
        process.join(CHILD_LIMIT)
        assert process.exitcode == 0


def test_running_request_survives_its_abort_in_a_child(session: Session) -> None:
    with upload(session) as request:
        assert in_child(request.abort) is None


def test_running_request_survives_the_closing_of_its_session_in_a_child(session: Session) -> None:
    with upload(session):
        assert in_child(session.close) is None


def test_running_request_survives_its_collection_in_a_child(session: Session) -> None:
    def forget(held: list[ClientRequest]) -> None:
        held.clear()
        gc.collect()

    with upload(session) as request:
        held = [request]
        del request
        assert in_child(lambda: forget(held)) is None


def test_running_request_survives_the_requests_of_a_child(session: Session) -> None:
    with Peer(echo_json) as other, upload(session):
        assert in_child(lambda: ask(session, other)["method"]) == "GET"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_response_that_is_being_read_survives_a_child(session: Session, tls: bool) -> None:
    more = Gate()
    steps = (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsome", more, b"more")
    with Peer(scripted(*steps), tls=server_context() if tls else None) as peer:
        response = session.request(peer.url()).end().get_response(LIMIT)
        assert response.read(4) == b"some"
        assert in_child(lambda: gc.collect() is None) is False
        more.set()
        assert response.read() == b"more"


CALLS: dict[str, Callable[[ClientRequest], object]] = {
    "write": lambda request: request.write(b"x"),
    "end": lambda request: request.end(),
    "flush_headers": lambda request: request.flush_headers(),
    "wait": lambda request: request.wait(1),
    "get_response": lambda request: request.get_response(1),
}


def refused(call: Callable[[ClientRequest], object], request: ClientRequest) -> str:
    with pytest.raises(InvalidStateError) as raised:
        call(request)
    return str(raised.value)


@pytest.mark.parametrize("call", CALLS)
def test_running_request_of_the_parent_is_refused_in_the_child(session: Session, call: str) -> None:
    with upload(session) as request:
        assert "another process" in in_child(lambda: refused(CALLS[call], request))


@pytest.mark.parametrize("call", ["end", "flush_headers", "wait", "get_response"])
def test_request_that_was_made_before_the_fork_is_refused_in_the_child(session: Session, call: str) -> None:
    request = session.request("http://127.0.0.1:9/", method="POST", chunked_encoding=True)
    assert "another process" in in_child(lambda: refused(CALLS[call], request))


def test_response_of_the_parent_is_refused_in_the_child(session: Session) -> None:
    def read() -> str:
        with pytest.raises(ClientRequestError) as raised:
            response.read()
        return str(raised.value)

    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsome", Conn.hold)) as peer:
        request = session.request(peer.url()).end()
        response = request.get_response(LIMIT)
        assert "another process" in in_child(read)
        request.abort()


def test_response_that_is_whole_can_be_read_in_the_child(session: Session) -> None:
    with Peer(echo_json) as peer:
        request = session.request(peer.url()).end()
        response = request.get_response(LIMIT)
        assert request.wait(LIMIT) if response.complete else True
        assert b"GET" in in_child(response.read)


# --- descriptors and locks ---


def test_child_does_not_keep_a_connection_of_the_parent_open(session: Session) -> None:
    """While it lives, the server sees the parent close it."""
    ends: list[str] = []

    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.peer.forked.wait()  # type: ignore[attr-defined]
        conn.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        ends.append(conn.wait_closed())

    with Peer(answer) as peer:
        peer.forked = Gate()  # type: ignore[attr-defined]
        request = session.request(peer.url()).end()
        peer.wait_request()
        with Child(Child.wait):
            peer.forked.set()  # type: ignore[attr-defined]
            assert request.get_response(LIMIT).read() == b"ok"
            assert request.wait(LIMIT)
            peer.join()
    assert ends == ["eof"]


def test_child_does_not_keep_an_idle_connection_of_the_parent_open(session: Session) -> None:
    with Peer(echo_json) as peer:
        ask(session, peer)
        with Child(Child.wait):
            session.close_connections()
            peer.join()


def test_server_sees_the_abort_although_a_child_lives(session: Session) -> None:
    ends: list[str] = []
    with Peer(scripted(lambda conn: ends.append(conn.wait_closed()))) as peer:
        request = session.request(peer.url()).end()
        peer.wait_request()
        with Child(Child.wait):
            request.abort()
            peer.join()
    assert len(ends) == 1


def test_child_is_not_stopped_by_locks_that_others_held_at_the_fork(session: Session) -> None:
    """Threads of the parent write, read and make requests without a pause while it forks."""
    stop = threading.Event()

    def write(request: ClientRequest) -> None:
        while not stop.is_set():
            request.write(b"x" * 10)

    def make(peer: Peer) -> None:
        while not stop.is_set():
            ask(session, peer)

    def child() -> str:
        refused(CALLS["write"], request)
        refused(CALLS["end"], request)
        request.abort()
        return ask(session, other)["method"]

    with upload(session) as request, Peer(echo_json) as other:
        # Taken back at the end, when the length is looked at.
        taken = request.tell()
        threads = [threading.Thread(target=make, args=(other,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert in_child(child) == "GET"
        stop.set()
        for thread in threads:
            thread.join(LIMIT)
        assert request.tell() == taken


def test_child_is_not_stopped_by_writers_of_the_parent(session: Session) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            request.write(b"x" * 10)

    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert "another process" in in_child(lambda: refused(CALLS["write"], request))
            assert "another process" in in_child(lambda: refused(CALLS["end"], request))
        stop.set()
        for writer in writers:
            writer.join(LIMIT)
        request.end()
        assert request.get_response(LIMIT).json()["length"] == request.tell()
        assert request.wait(LIMIT)


# --- multiprocessing ---


def fetch(url: str, answers: Any) -> None:
    """What a process does; at the top of the module, for those that are spawned."""
    request = ClientRequest(url, method="POST")
    request.end(b"from a process")
    answers.put(request.get_response(LIMIT).json()["length"])
    request.wait(LIMIT)


def fetch_without_waiting(url: str, answers: Any) -> None:
    """The process comes to its end while the request is under way."""
    ClientRequest(url, method="POST").end(b"x" * 1_000_000)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_process_of_multiprocessing(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not here")
    context = multiprocessing.get_context(method)
    with Peer(echo_json) as peer:
        ask(default_session(), peer)
        answers = context.SimpleQueue()
        process = context.Process(target=fetch, args=(peer.url(), answers))
        process.start()
        process.join(CHILD_LIMIT)
        assert process.exitcode == 0
        assert answers.get() == 14
        answers.close()
        process.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_process_of_multiprocessing_finishes_what_it_has_ended(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not here")
    context = multiprocessing.get_context(method)
    with Peer(echo_json) as peer:
        answers = context.SimpleQueue()
        process = context.Process(target=fetch_without_waiting, args=(peer.url(), answers))
        process.start()
        process.join(CHILD_LIMIT)
        assert process.exitcode == 0
        request = peer.wait_request()
        peer.join()
        assert request.length == 1_000_000
        answers.close()
        process.close()
