"""The end of the program: what is finished, what is aborted, and that nothing holds it up.

Each test runs a program in a process of its own.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Callable

import pytest

from tests.support import LIMIT, Conn, Gate, Peer, echo_json, scripted

AT_ONCE = 4.0
"""Seconds within which a process that has nothing to wait for is gone: mostly for a machine that is busy."""

BEGIN = """
import asyncio, concurrent.futures, os, queue, sys, threading, time
import clientrequest
from clientrequest import ClientRequest, ClientRequestError

url = sys.argv[1]

def say(*words):
    print(*words, flush=True)

def until(condition):
    pause = threading.Event()
    while not condition():
        pause.wait(0.002)

def exiting():
    return clientrequest._workers.crew.closing

"""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun"


class Program:
    """A Python program that runs in a process of its own, with `url` as its argument."""

    def __init__(self, code: str, peer: Peer, *options: str) -> None:
        script = BEGIN + textwrap.dedent(code)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, *options, "-c", script, peer.url()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._complaints: list[str] = []
        self._threads = [
            threading.Thread(target=self._listen, daemon=True),
            threading.Thread(target=self._listen_to_complaints, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def _listen_to_complaints(self) -> None:
        assert self._process.stderr is not None
        self._complaints.append(self._process.stderr.read())

    def wait_for(self, line: str) -> None:
        """Wait until it says that."""
        while True:
            said = self._lines.get(timeout=2 * LIMIT)
            assert said is not None, f"it ended without {line!r}: {self.said}, {self.wait()}"
            self.said.append(said)
            if said == line:
                return

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def wait(self, timeout: float = 2 * LIMIT) -> str:
        """Wait for its end; gives what it wrote to stderr."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end; it said {self.said}") from None
        for thread in self._threads:
            thread.join(LIMIT)
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None:
                self.said.append(line)
        return self._complaints[0]

    def wait_at_once(self) -> str:
        """Wait for its end, which must come at once."""
        started = time.monotonic()
        complaints = self.wait()
        took = time.monotonic() - started
        print(f"gone after {1000 * took:.0f} ms")
        assert took < AT_ONCE, f"it took {took:.2f} s; it said {self.said}, {complaints}"
        return complaints

    @property
    def status(self) -> int:
        return self._process.returncode

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


def hold_after_head(conn: Conn) -> None:
    conn.read_request(body=False)
    conn.hold()


# --- idle workers ---


@pytest.mark.parametrize("count", [1, 20])
def test_idle_workers_hold_nothing_up(count: int) -> None:
    code = f"""
        clientrequest._workers.SLICE = 3600  # they have to be told, and do not find out by themselves
        requests = [ClientRequest(url).end() for _ in range({count})]
        for request in requests:
            request.get_response().read()
            request.wait()
        say("end of main")
    """
    with Peer(echo_json) as peer, Program(code, peer, "-W", "always") as program:
        program.wait_for("end of main")
        assert program.wait_at_once() == ""
        assert program.status == 0


def test_idle_worker_holds_nothing_up_where_there_is_no_hook_at_exit() -> None:
    """It then looks for itself, from time to time."""
    code = """
        threading.__dict__.pop("_register_atexit", None)
        ClientRequest(url).end().wait()
        say("end of main")
    """
    with Peer(echo_json) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        started = time.monotonic()
        assert program.wait() == ""
        assert time.monotonic() - started < 1 + AT_ONCE


def test_session_that_is_left_open_makes_no_noise() -> None:
    code = """
        session = clientrequest.Session()
        assert session.request(url).end().get_response().read()
        say("end of main")
    """
    with Peer(echo_json) as peer, Program(code, peer, "-X", "dev", "-W", "always") as program:
        program.wait_for("end of main")
        assert program.wait_at_once() == ""


def test_request_that_was_never_sent_makes_no_noise() -> None:
    code = """
        request = ClientRequest(url, method="POST", chunked_encoding=True)
        request.on("close", lambda: say("closed"))
        say("end of main")
    """
    with Peer(echo_json) as peer, Program(code, peer, "-W", "always") as program:
        program.wait_for("end of main")
        assert program.wait_at_once() == ""
        assert program.said == ["end of main"]


# --- ended requests finish ---


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "del request"])
def test_ended_request_finishes(ending: str) -> None:
    code = f"""
        request = ClientRequest(url, method="POST")
        request.on("response", lambda response: say("read", response.read()))
        request.on("close", lambda: say("closed"))
        request.end(b"body")
        say("end of main")
        {ending}
    """
    answer = Gate()
    with Peer(scripted(answer, OK)) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        peer.wait_request()
        answer.set()
        program.wait_for("closed")
        assert program.wait_at_once() == ""
        assert "read b'ok'" in program.said
        assert program.status == 0


def test_large_upload_that_was_ended_finishes() -> None:
    code = """
        request = ClientRequest(url, method="POST", chunked_encoding=True, high_water_mark=1 << 30)
        for _ in range(32):
            request.write(bytes(1 << 20))
        request.end()
        say("end of main")
    """
    start = Gate()

    def slow(conn: Conn) -> None:
        request = conn.read_request(body=False)
        start.wait()
        assert conn.drain_body(request).length == 32 << 20
        conn.respond()

    with Peer(slow) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        start.set()
        assert program.wait() == ""
        peer.join()
        assert peer.requests[0].complete


def test_timeouts_hold_at_exit() -> None:
    code = """
        request = ClientRequest(url, timeout=0.5)
        request.on("error", lambda error: say(error.code))
        request.end()
        say("end of main")
    """
    with Peer(scripted(Conn.hold)) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        program.wait_for("ERR_TIMED_OUT")
        assert program.wait_at_once() == ""


def test_events_flow_to_their_end() -> None:
    code = """
        size = 0

        def count(piece):
            global size
            size += len(piece)

        request = ClientRequest(url, lambda response: response.on("data", count).on("end", lambda: say(size)))
        request.end()
        say("end of main")
    """
    more = Gate()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"
    with Peer(scripted(head + b"some", more, b"more")) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        peer.wait_request()
        more.set()
        program.wait_for("8")
        assert program.wait_at_once() == ""


def test_request_of_a_daemon_thread_finishes() -> None:
    code = """
        ended = threading.Event()

        def work():
            request = ClientRequest(url, method="POST")
            request.on("close", lambda: say("closed"))
            request.end(b"body")
            ended.set()
            threading.Event().wait()

        threading.Thread(target=work, daemon=True).start()
        ended.wait()
        say("end of main")
    """
    answer = Gate()
    with Peer(scripted(answer, OK)) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        peer.wait_request()
        answer.set()
        program.wait_for("closed")
        assert program.wait_at_once() == ""


def test_other_thread_may_go_on_writing_after_the_end_of_main() -> None:
    code = """
        request = ClientRequest(url, method="POST", chunked_encoding=True)
        request.write(b"some")

        def work():
            request.write(b"more")
            request.end()
            say(request.get_response().json()["length"])

        say("end of main")
        threading.Thread(target=lambda: (until(exiting), work())).start()
    """
    with Peer(echo_json) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        program.wait_for("8")
        assert program.wait_at_once() == ""


# --- responses that nobody reads ---

UNREAD: dict[str, str] = {
    "a response that is held": """
        request = ClientRequest(url).end()
        response = request.get_response()
    """,
    "a response that is read in part": """
        request = ClientRequest(url).end()
        response = request.get_response()
        response.read(2)
    """,
    "a request that is held": """
        got = threading.Event()
        request = ClientRequest(url, lambda response: got.set()).end()
        got.wait()
    """,
    "a request whose response nobody asked for": """
        request = ClientRequest(url).end()
        until(lambda: request._exchange.incoming is not None)
    """,
    "a response that its listener keeps": """
        got = queue.Queue()
        request = ClientRequest(url, got.put).end()
        response = got.get()
    """,
    "a response that is paused": """
        got = queue.Queue()
        request = ClientRequest(url, lambda response: response.on("data", lambda _: got.put(response.pause()))).end()
        got.get()
    """,
    "a response that a daemon thread reads": """
        request = ClientRequest(url).end()
        response = request.get_response()
        response.read(5)
        threading.Thread(target=response.read, daemon=True).start()
        until(response._incoming.turn.locked)
    """,
}


@pytest.mark.parametrize("what", UNREAD)
def test_response_that_nobody_reads_holds_nothing_up(what: str) -> None:
    code = textwrap.dedent(UNREAD[what]) + 'say("end of main")\n'
    with Peer(scripted(BEGUN, Conn.hold)) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        program.wait_at_once()
        assert program.status == 0


# --- dispatchers that run nothing any more ---

DISPATCHERS: dict[str, str] = {
    "a queue that nobody works off": """
        tasks = queue.Queue()
        dispatch = tasks.put
    """,
    "a loop that has stopped": """
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        dispatch = loop.call_soon_threadsafe
    """,
    "a loop that is closed": """
        loop = asyncio.new_event_loop()
        loop.close()
        dispatch = loop.call_soon_threadsafe
    """,
}
LISTENING: dict[str, str] = {
    "before the response": """
        request = ClientRequest(url, dispatcher=dispatch)
        request.on("finish", lambda: None).on("close", lambda: None).on("error", lambda error: None).end()
    """,
    "with data on the way": """
        request = ClientRequest(url, dispatcher=dispatch)
        request.on("close", lambda: None).on("error", lambda error: None).end()
        try:
            response = request.get_response()
            response.on("data", lambda piece: None)
            response.on("error", lambda error: None)
        except (ClientRequestError, ValueError):
            pass
        until(lambda: request._exchange.strand.busy() or request._exchange.closed)
    """,
}


@pytest.mark.parametrize("listening", LISTENING)
@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_dispatcher_that_runs_nothing_holds_nothing_up(dispatcher: str, listening: str) -> None:
    code = textwrap.dedent(DISPATCHERS[dispatcher]) + textwrap.dedent(LISTENING[listening]) + 'say("end of main")\n'
    with Peer(scripted(BEGUN + bytes(1_000_000), Conn.hold)) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        program.wait_at_once()
        assert program.status == 0


def test_executor_that_python_shuts_down_holds_nothing_up() -> None:
    code = """
        executor = concurrent.futures.ThreadPoolExecutor(1)
        request = ClientRequest(url, dispatcher=executor.submit)
        request.on("response", lambda response: response.on("data", lambda piece: None))
        request.on("error", lambda error: None)
        request.end()
        say("end of main")
    """
    with Peer(echo_json) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        program.wait_at_once()
        assert program.status == 0


# --- un-ended requests are aborted ---

UNENDED: dict[str, str] = {
    "held": "",
    "in a wrapper": """
        import io
        wrapper = io.TextIOWrapper(request)
        wrapper.write("text")
        wrapper.flush()
    """,
    "corked": "request.cork()",
    "with a listener that holds it": """
        request.on("response", lambda response: request.method)
    """,
    "with a daemon thread that would write": """
        threading.Thread(target=lambda: (threading.Event().wait(), request.end()), daemon=True).start()
    """,
}


@pytest.mark.parametrize("how", UNENDED)
def test_unended_request_is_aborted(how: str) -> None:
    with Peer(lambda conn: conn.read_request()) as peer:
        with Program(unended(how), peer, "-W", "always") as program:
            program.wait_for("end of main")
            complaints = program.wait_at_once()
            assert "ResourceWarning" in complaints
            assert "Traceback" not in complaints
            assert "closed" in program.said
            assert program.status == 0
        peer.join()
        assert not [request for request in peer.requests if request.complete]


def unended(how: str) -> str:
    parts = (
        """
        request = ClientRequest(url, method="POST", chunked_encoding=True)
        request.on("abort", lambda: say("aborted"))
        request.on("close", lambda: say("closed"))
        request.flush_headers()
        """,
        UNENDED[how],
        """
        request.write(b"some")
        say("end of main")
        """,
    )
    return "".join(textwrap.dedent(part) for part in parts)


@pytest.mark.parametrize("mode", ["buffered", "known length"])
def test_unended_request_of_other_modes_sends_nothing_whole(mode: str) -> None:
    code = f"""
        request = ClientRequest(url, method="POST")
        if {mode == "known length"}:
            request.set_header("Content-Length", 100)
        request.write(b"some")
        say("end of main")
    """
    with Peer(lambda conn: conn.read_request()) as peer:
        with Program(code, peer, "-W", "always") as program:
            program.wait_for("end of main")
            complaints = program.wait_at_once()
            assert "ResourceWarning" in complaints
            assert "Traceback" not in complaints
        assert not [request for request in peer.requests if request.complete]


@pytest.mark.parametrize("where", ["before end", "in with"])
def test_exception_that_ends_the_program_aborts(where: str) -> None:
    code = f"""
        request = ClientRequest(url, method="POST", chunked_encoding=True)
        request.on("close", lambda: say("closed"))
        request.write(b"some")
        request.flush()
        say("end of main")
        if {where == "in with"}:
            with request:
                raise RuntimeError("by the program")
        raise RuntimeError("by the program")
    """
    with Peer(lambda conn: conn.read_request()) as peer:
        with Program(code, peer) as program:
            program.wait_for("end of main")
            assert "by the program" in program.wait_at_once()
            assert "closed" in program.said
            assert program.status == 1
        peer.join()
        assert not peer.requests[0].complete


def test_daemon_thread_that_is_blocked_in_a_write_holds_nothing_up() -> None:
    code = """
        request = ClientRequest(url, method="POST", chunked_encoding=True)

        def write():
            while True:
                request.write(bytes(1 << 20))

        threading.Thread(target=write, daemon=True).start()
        until(lambda: request._exchange.outbox.room._waiters)
        say("end of main")
    """
    with Peer(hold_after_head) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        program.wait_at_once()


# --- Ctrl-C ---

WAITS: dict[str, tuple[str, Callable[[Conn], object]]] = {
    "wait": ("request.end(); waiting(); request.wait()", scripted(Conn.hold)),
    "get_response": ("request.end(); waiting(); request.get_response()", scripted(Conn.hold)),
    "read": (
        "request.end(); response = request.get_response(); waiting(); response.read()",
        scripted(BEGUN, Conn.hold),
    ),
    "readline": (
        "request.end(); response = request.get_response(); waiting(); response.readline()",
        scripted(BEGUN, Conn.hold),
    ),
    "write": ("waiting()\nwhile True: request.write(bytes(1 << 20))", hold_after_head),
    "flush": ("request.write(bytes(1 << 24)); waiting(); request.flush()", hold_after_head),
}


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
@pytest.mark.parametrize("what", WAITS)
def test_ctrl_c_gets_through_at_once_and_ends_the_program(what: str) -> None:
    statement, handler = WAITS[what]
    code = textwrap.dedent(
        """
        request = ClientRequest(url, method="POST", chunked_encoding=True, high_water_mark=1 << 25)
        request.on("close", lambda: say("closed"))

        def is_blocked():
            exchange = request._exchange
            waits = exchange.news._waiters or exchange.outbox.room._waiters
            return waits or exchange.incoming is not None and exchange.incoming.turn.locked()

        def waiting():
            threading.Thread(target=lambda: (until(is_blocked), say("waiting")), daemon=True).start()

        """
    )
    code += statement + "\n"
    with Peer(handler) as peer, Program(code, peer) as program:
        program.wait_for("waiting")
        program.interrupt()
        assert "KeyboardInterrupt" in program.wait_at_once()
        assert "closed" in program.said


# --- very late ---


def test_request_that_is_made_in_an_exit_function_works_or_says_why_not() -> None:
    """Some Pythons start no thread at that time."""
    code = """
        import atexit

        def late():
            try:
                say("answered", ClientRequest(url).end().get_response(5).status_code)
            except ClientRequestError as error:
                say("refused", error.code)

        atexit.register(late)
        ClientRequest(url).end().wait()
        say("end of main")
    """
    with Peer(echo_json) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        program.wait_at_once()
        assert program.said[-1] in ("answered 200", "refused ERR_INSUFFICIENT_RESOURCES")


def test_request_that_is_made_by_the_last_listener_works_or_says_why_not() -> None:
    code = """
        def again():
            try:
                ClientRequest(url, lambda response: say("again", response.status_code)).end()
            except ClientRequestError as error:
                say("refused", error.code)

        ClientRequest(url).on("close", lambda: (until(exiting), again())).end()
        say("end of main")
    """
    with Peer(echo_json) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        program.wait()
        assert program.said[-1] in ("again 200", "refused ERR_INSUFFICIENT_RESOURCES")


def test_failure_that_nobody_heard_of_is_told_before_the_program_ends() -> None:
    code = """
        done = threading.Event()
        request = ClientRequest(url).on("close", done.set).end()
        done.wait()
        say("end of main")
    """
    with Peer(scripted(Conn.reset)) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        assert "ERR_CONNECTION_RESET" in program.wait_at_once()


def test_failure_of_a_request_that_is_let_go_of_is_told_too() -> None:
    code = """
        ClientRequest(url).end()
        say("end of main")
    """
    with Peer(scripted(Conn.reset)) as peer, Program(code, peer) as program:
        program.wait_for("end of main")
        assert "ERR_CONNECTION_RESET" in program.wait_at_once()


# --- decisions that nobody is left to make ---

TO_DECIDE = {
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n",
    "login": b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="r"\r\nContent-Length: 0\r\n\r\n',
}


@pytest.mark.parametrize("event", TO_DECIDE)
def test_decision_that_nobody_is_left_to_make_holds_nothing_up(event: str) -> None:
    code = f"""
    kept = []
    def ask(*args):
        kept.append(args)
        say("asked")
    request = ClientRequest(url, redirect="manual")
    request.on({event!r}, ask)
    request.on("abort", lambda: say("abort"))
    request.on("close", lambda: say("close"))
    request.end()
    until(lambda: kept)
    """
    with Peer(scripted(TO_DECIDE[event])) as peer, Program(code, peer) as program:
        program.wait_for("asked")
        program.wait_at_once()
    assert program.said == ["asked", "abort", "close"]
    assert program.status == 0


# --- forked in C ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="there Python waits for threads in a way that cannot be ended")
@pytest.mark.parametrize("parked", [True, False], ids=["parked worker", "busy worker"])
@pytest.mark.parametrize("uses_it", [True, False], ids=["that makes a request", "that makes none"])
def test_child_that_was_forked_in_c_ends(parked: bool, uses_it: bool) -> None:
    """Some servers fork so, uWSGI for one: no hook is called, and Python takes the threads of the parent for alive."""
    code = f"""
        import ctypes, signal

        first = ClientRequest(url).end()
        if {parked}:
            first.wait()
            until(clientrequest._workers.crew.parked)
        else:
            response = first.get_response()
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            signal.alarm(5)
            if {uses_it}:
                say(ClientRequest(url).end().get_response().status_code)
            sys.exit(0)
        say("child ended with", os.waitpid(pid, 0)[1])
        first.abort()
    """

    def answer(conn: Conn) -> None:
        conn.read_request()
        if conn.number == 1 and not parked:
            conn.send(BEGUN)
            conn.hold()
        conn.respond(200, body=b"ok")

    with Peer(answer) as peer, Program(code, peer) as program:
        program.wait_for("child ended with 0")
        program.wait()
        assert ("200" in program.said) == uses_it
