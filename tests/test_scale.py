"""Hundreds of requests at once, and what happens where the system gives no more: threads, descriptors, memory.

A limit is set in a process of its own, which says what became of its requests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from clientrequest import AbortedError, Session
from clientrequest._workers import Worker, crew
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, ca_path, echo_json, server_context

resource = pytest.importorskip("resource")

AT_ONCE = 200
DESCRIPTORS = 10 * AT_ONCE
"""What these requests and their server take in one process, with some to spare."""

LIMITS = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc are those of Linux")


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Allows as many as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if most < DESCRIPTORS:
        pytest.skip(f"no more than {most} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Holding:
    """A server that answers nobody before its gate is opened, and then everybody."""

    def __init__(self) -> None:
        self.gate = Gate("answer")

    def __call__(self, conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.target != "/":
                self.gate.wait(6 * LIMIT)
            conn.respond(body=request.target.encode())


# --- many at once ---


@pytest.mark.usefixtures("descriptors")
def test_hundreds_in_flight_get_each_its_own_answer(session: Session) -> None:
    holding = Holding()
    with Peer(holding, limit=6 * LIMIT) as peer:
        requests = [session.request(peer.url(f"/{number}")).end() for number in range(AT_ONCE)]
        peer.wait_request(AT_ONCE, 6 * LIMIT)
        assert len(busy_workers()) == AT_ONCE
        holding.gate.set()
        answers = [request.get_response(LIMIT).read() for request in requests]
        assert answers == [f"/{number}".encode() for number in range(AT_ONCE)]
        assert all(request.wait(LIMIT) for request in requests)


@pytest.mark.usefixtures("descriptors")
def test_hundreds_in_flight_are_all_aborted_at_once(session: Session) -> None:
    with Peer(Holding(), limit=6 * LIMIT) as peer:
        requests = [session.request(peer.url(f"/{number}")) for number in range(AT_ONCE)]
        recorders = [Recorder(request) for request in requests]
        for request in requests:
            request.end()
        peer.wait_request(AT_ONCE, 6 * LIMIT)
        session.close()
        for request, recorder in zip(requests, recorders):
            with pytest.raises(AbortedError):
                request.wait(LIMIT)
            recorder.wait("close")
            assert recorder.names() == ["finish", "abort", "close"]


def busy_workers() -> list[Worker]:
    import threading

    parked = crew.parked()
    return [one for one in threading.enumerate() if isinstance(one, Worker) and one not in parked]


# --- limits ---

BEGIN = """
import errno, gc, os, resource, sys, threading, time
import clientrequest
from clientrequest import ClientRequest, ClientRequestError, Session, Timeout
from clientrequest._exchange import _live
from clientrequest._workers import crew

url, tls = sys.argv[1:]
session = Session(tls=tls, proxies={})
MIB = 1 << 20
INSUFFICIENT = "ERR_INSUFFICIENT_RESOURCES"

def limit_memory(more):
    "No more address space than now, and so many bytes."
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))

def allow_memory():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def open_descriptors():
    return len(os.listdir("/proc/self/fd"))

class Attempt:
    "A request that may fail; what became of it, and how soon."
    def __init__(self, path="/", base=url, session=session, **options):
        self.events = []
        self.code = None
        started = time.monotonic()
        self.request = ClientRequest(base + path, session=session, timeout=10, **options)
        for name in ("error", "abort", "close"):
            self.request.on(name, lambda *args, name=name: self.events.append(name))
        try:
            self.request.end()
        except ClientRequestError as error:
            self.code = error.code
        self.took = time.monotonic() - started

    def see(self):
        "Wait for the end; gives the code, None if all went well."
        started = time.monotonic()
        try:
            self.request.get_response(10).read()
            assert self.request.wait(10)
        except ClientRequestError as error:
            assert self.code in (None, error.code)
            self.code = error.code
        self.took += time.monotonic() - started
        assert self.request.wait(10) if self.code is None else True
        until(lambda: "close" in self.events)
        assert self.events == (["close"] if self.code is None else ["error", "close"]), self.events
        return self.code

def until(condition):
    pause, deadline = threading.Event(), time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.002)

def send_home():
    "No worker is left, parked or busy."
    until(lambda: not _live)

    def all_left():
        for worker in crew.send_home():
            worker.join(10)
        return not [one for one in threading.enumerate() if one.name.startswith("clientrequest")]

    until(all_left)

def say(*words):
    print(*words, flush=True)

"""


class Program:
    """A Python program in a process of its own; its lines are heard one by one."""

    def __init__(self, code: str, peer: Peer) -> None:
        # One arena: each thread's own would take a part of the address space that nobody can foretell.
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": paths, "MALLOC_ARENA_MAX": "1", "PYTHONFAULTHANDLER": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + textwrap.dedent(code), peer.url().rstrip("/"), ca_path()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def wait_for(self, line: str) -> None:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said == line, f"{said!r}\n{self._process.communicate(timeout=3 * LIMIT)[1]}"

    def wait(self) -> list[str]:
        """Wait for its end, which must be a good one; gives what it said."""
        said, complaints = self._process.communicate(timeout=4 * LIMIT)
        assert self._process.returncode == 0, complaints
        assert complaints == ""
        return said.splitlines()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()


@LIMITS
def test_no_more_threads() -> None:
    """Whoever gets none is told at once, those who have one go on, and their threads serve the next."""
    code = """
        STACK = 64 * MIB  # so large that only some fit into what may be had
        threading.stack_size(STACK)
        Attempt().see()
        session.close_connections()
        send_home()
        before = open_descriptors()
        limit_memory(6 * STACK + STACK // 2)
        held, refused = [], []
        for number in range(30):
            attempt = Attempt(f"/{number}")
            (held if attempt.code is None else refused).append(attempt)
        assert 3 <= len(held) <= 8, len(held)
        assert {attempt.see() for attempt in refused} == {INSUFFICIENT}
        assert max(attempt.took for attempt in refused) < 5
        say("full")
        assert [attempt.see() for attempt in held] == [None] * len(held)
        assert not _live and not session._running

        # Those who are parked now carry the next ones, though no thread could be started.
        assert Attempt().see() is None

        allow_memory()
        assert [Attempt().see() for _ in range(10)] == [None] * 10
        session.close()
        send_home()
        assert open_descriptors() == before, (open_descriptors(), before)
        say("done")
    """
    holding = Holding()
    with Peer(holding, limit=6 * LIMIT) as peer, Program(code, peer) as program:
        program.wait_for("full")
        holding.gate.set()
        assert program.wait() == ["done"]


@LIMITS
def test_no_thread_to_look_a_name_up() -> None:
    code = """
        STACK = 256 * MIB
        name = url.replace("127.0.0.1", "localhost")
        assert Attempt(base=name).see() is None
        until(lambda: crew.parked())
        session.close_connections()
        threading.stack_size(STACK)
        limit_memory(STACK // 2)
        attempt = Attempt(base=name)
        assert attempt.see() == INSUFFICIENT, attempt.code
        assert attempt.took < 5
        assert Attempt().see() is None  # an address needs none
        allow_memory()
        threading.stack_size(0)
        assert Attempt(base=name).see() is None
        say("done")
    """
    with Peer(echo_json) as peer, Program(code, peer) as program:
        assert program.wait() == ["done"]


FILL = """
        def fill(spare):
            "Take all descriptors but so many."
            taken = []
            try:
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError as error:
                assert error.errno == errno.EMFILE
            for _ in range(spare):
                os.close(taken.pop())
            return taken

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
"""


@LIMITS
@pytest.mark.parametrize(
    ("scheme", "host", "worker"),
    [("http", "127.0.0.1", "new"), ("http", "localhost", "parked"), ("https", "127.0.0.1", "new")],
)
def test_no_more_descriptors(scheme: str, host: str, worker: str) -> None:
    """With each number of them that is too small: an error that says so, nothing kept, and the next one works."""
    code = (
        FILL
        + f"""
        base = url.replace("127.0.0.1", {host!r})
        Attempt(base=base).see()
        codes = []
        for spare in range(12):
            session.close()
            session = Session(tls=tls, proxies={{}})  # TLS has to be set up anew
            until(lambda: not _live)
            send_home()
            if {worker!r} == "parked":
                crew.run(lambda worker: None)
                until(lambda: crew.parked())
            before = open_descriptors()
            taken = fill(spare)
            attempt = Attempt(base=base, session=session)
            codes.append(attempt.see())
            assert attempt.took < 5
            for number in taken:
                os.close(number)
            assert Attempt(base=base, session=session).see() is None
            session.close()
            if {worker!r} == "new":
                send_home()
            assert open_descriptors() == before, (spare, open_descriptors(), before)
        enough = codes.index(None)
        assert 0 < enough < 8, codes
        assert set(codes[enough:]) == {{None}}, codes
        assert set(codes[:enough]) == {{INSUFFICIENT}}, codes
        say("done")
    """
    )
    context = server_context() if scheme == "https" else None
    with Peer(echo_json, context, expect_errors=True) as peer, Program(code, peer) as program:
        assert program.wait() == ["done"]


@LIMITS
def test_more_at_once_than_there_are_descriptors() -> None:
    """Some have all they need, the others are told; nobody waits for ever, and nothing is left."""
    code = (
        FILL
        + """
        Attempt().see()
        session.close_connections()
        send_home()
        before = open_descriptors()
        attempts = [Attempt(f"/{number}") for number in range(40)]
        say("full")
        codes = [attempt.see() for attempt in attempts]
        assert set(codes) == {None, INSUFFICIENT}, codes
        assert 5 <= codes.count(None) <= 25, codes
        assert Attempt().see() is None
        session.close_connections()
        send_home()
        gc.collect()
        assert open_descriptors() == before, (open_descriptors(), before)
        say("done")
    """
    )
    holding = Holding()
    with Peer(holding, limit=6 * LIMIT) as peer, Program(code, peer) as program:
        program.wait_for("full")
        holding.gate.set()
        assert program.wait() == ["done"]


def endless(conn: Conn) -> None:
    """Answers with more than anybody has memory for; whoever asks for `/` gets little."""
    while True:
        request = conn.read_request()
        if request.target == "/":
            conn.respond(body=b"little")
            continue
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        block = bytes(1 << 20)
        while True:
            conn.send(block)


WAYS_TO_RUN_OUT = {
    "read": """
        Attempt().see()
        limit_memory(64 * MIB)
        response = session.request(url + "/large").end().get_response(10)
        try:
            response.read()
            failed = None
        except MemoryError as error:
            failed = error.with_traceback(None)  # or it would hold all that was read
        assert isinstance(failed, MemoryError)
        # The request has not died of it; it goes when nobody holds it any more.
        del response
    """,
    "data": """
        Attempt().see()
        limit_memory(64 * MIB)
        pieces, errors, closed = [], [], threading.Event()
        request = session.request(url + "/large", timeout=10)
        request.on("response", lambda response: response.on("data", pieces.append))
        request.on("error", lambda error: (pieces.clear(), errors.append(error)))
        request.on("close", closed.set)
        request.end()
        assert closed.wait(20)
        assert [type(error.__cause__) for error in errors] == [MemoryError], errors
        assert errors[0].code == "ERR_FAILED"
    """,
}


@LIMITS
@pytest.mark.parametrize("way", list(WAYS_TO_RUN_OUT))
def test_no_more_memory_for_a_body(way: str) -> None:
    """A body that is too large for the memory is its reader's trouble, and nobody else's."""
    code = (
        WAYS_TO_RUN_OUT[way]
        + """
        until(lambda: not _live)
        until(lambda: crew.parked())
        assert Attempt().see() is None
        say("done")
    """
    )
    with Peer(endless) as peer, Program(code, peer) as program:
        assert program.wait()[-1:] == ["done"]
