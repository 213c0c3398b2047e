"""Rules of the contract that belong to no other module, and the check that the table of rules names real tests."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest

from clientrequest import ClientRequest, RequestTimeout, Session, Timeout, TLSError
from clientrequest._wire import refuse_future
from tests.support import LIMIT, Conn, Gate, Peer, ca_path, echo_json, scripted, server_context

HERE = Path(__file__).parent
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun"


def run_program(script: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, with `url` as its argument."""
    command = [sys.executable, "-c", script, url]
    return subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=LIMIT, check=False)


# ------------------------------------------------------------------------------
# Writing


def test_what_is_written_while_the_worker_is_busy_goes_out_together() -> None:
    """No packet and no wake-up for each tiny write."""
    busy, go_on = Gate(), Gate()
    chunks: list[bytes] = []

    def read_chunks(conn: Conn) -> None:
        conn.read_request(body=False)
        while not chunks or chunks[-1]:
            chunks.append(conn.read_chunk())
        conn.send(OK)

    def hold_the_worker() -> None:
        busy.set()
        go_on.wait()

    wakes: list[int] = []
    with Peer(read_chunks) as peer:
        request = ClientRequest(peer.url(), method="POST", chunked_encoding=True)
        request.write(b"first", callback=hold_the_worker)
        busy.wait()
        wake = request._outbox.wake

        def count_and_wake() -> None:
            wakes.append(1)
            wake()

        request._outbox.wake = count_and_wake
        for _ in range(1000):
            request.write(b"x")
        assert wakes == []
        go_on.set()
        request.end()
        assert request.wait(LIMIT)
    assert b"".join(chunks) == b"first" + b"x" * 1000
    assert [len(chunk) for chunk in chunks] == [5, 1000, 0]


# ------------------------------------------------------------------------------
# Timeouts and certificates that nobody gave


def test_timeout_of_the_request_wins_over_that_of_the_session() -> None:
    with Session(timeout=1000) as session, Peer(scripted(Conn.hold)) as peer:
        request = session.request(peer.url(), timeout=Timeout(read=0.05)).end()
        with pytest.raises(RequestTimeout):
            request.wait(LIMIT)


def test_certificates_come_from_certifi(monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer(echo_json, tls=server_context()) as peer:
        with Session() as session, pytest.raises(TLSError, match="ERR_CERT_AUTHORITY_INVALID"):
            session.request(peer.url()).end().get_response(LIMIT)
        monkeypatch.setattr(certifi, "where", ca_path)
        with Session() as session:
            assert session.request(peer.url()).end().get_response(LIMIT).status_code == 200


# ------------------------------------------------------------------------------
# Ctrl-C, exit and fork


@pytest.fixture
def interrupted() -> Iterator[None]:
    """Ctrl-C raises, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal to one thread")
@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize("read", ["read", "readline", "read1"])
def test_ctrl_c_gets_through_a_read_at_once(read: str) -> None:
    main = threading.main_thread().ident
    assert main == threading.get_ident()
    with Peer(scripted(BEGUN, Conn.hold)) as peer:
        request = ClientRequest(peer.url()).end()
        response = request.get_response(LIMIT)
        assert response.read(5) == b"begun"

        def interrupt() -> None:
            pause = threading.Event()  # the reader makes no noise, so this polls
            while not response._incoming.turn.locked():
                pause.wait(0.001)
            signal.pthread_kill(main, signal.SIGINT)

        def read_interrupted() -> None:
            thread.start()
            getattr(response, read)()

        thread = threading.Thread(target=interrupt)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            read_interrupted()
        assert time.monotonic() - start < LIMIT / 2
        thread.join(LIMIT)
        request.abort()


def test_timeouts_hold_at_exit() -> None:
    script = """
import sys
from clientrequest import ClientRequest, Timeout
request = ClientRequest(sys.argv[1], timeout=Timeout(read=0.1))
request.on("error", lambda error: print(error.code, flush=True))
request.end()
"""
    with Peer(scripted(Conn.hold)) as peer:
        program = run_program(script, peer.url())
    assert (program.returncode, program.stdout, program.stderr) == (0, "ERR_TIMED_OUT\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_child_of_a_fork_works_and_does_not_disturb_the_parent() -> None:
    script = """
import os
import sys
import warnings
from clientrequest import ClientRequest, InvalidStateError
warnings.simplefilter("ignore")
url = sys.argv[1]
assert ClientRequest(url + "idle").end().get_response(5).json()["connection"] == 1
running = ClientRequest(url + "parent", method="POST", chunked_encoding=True)
running.write(b"parent ")
running.flush()
idle = ClientRequest(url + "second").end().get_response(5).json()["connection"]
child = os.fork()
if child == 0:
    status = 1
    try:
        try:
            running.wait()
        except InvalidStateError:
            running.abort()
            del running
            answer = ClientRequest(url + "child").end().get_response(5).json()
            status = 0 if answer["target"] == "/child" and answer["connection"] > idle else 2
    finally:
        os._exit(status)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
running.end(b"goes on")
print(running.get_response(5).json()["length"])
assert ClientRequest(url + "again").end().get_response(5).json()["connection"] <= idle
"""
    with Peer(echo_json) as peer:
        program = run_program(script, peer.url())
    assert (program.stderr, program.stdout.split()) == ("", ["0", "14"])


# ------------------------------------------------------------------------------
# The table of rules

NAME = re.compile(r"`(test_\w+\.py)((?:::\w+)+)`")


def names_in(module: Path) -> set[str]:
    """`::test_name` and `::Class::test_name` of all tests in a module."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = set()
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, functions):
            names.add(f"::{node.name}")
        elif isinstance(node, ast.ClassDef):
            names.update(f"::{node.name}::{inner.name}" for inner in node.body if isinstance(inner, functions))
    return names


def test_every_test_that_the_table_names_exists() -> None:
    named = NAME.findall((HERE / "README.md").read_text("utf-8"))
    assert len(named) > 100
    there = {module: names_in(HERE / module) for module in {module for module, _ in named} if (HERE / module).exists()}
    assert [module + test for module, test in named if test not in there.get(module, ())] == []


# --- beside other packages ---


def test_another_urllib3_is_refused_by_its_name() -> None:
    """niquests replaces urllib3 by its own, through which requests would break off in ways that nobody understands."""
    with pytest.raises(ImportError, match=r"urllib3-future 2\.25\.904.*niquests"):
        refuse_future("2.25.904")


@pytest.mark.parametrize("version", ["2.6.3", "2.8.0", "2.12", "2.7.0.dev3", "2.7.12rc1"])
def test_urllib3_itself_is_not_refused(version: str) -> None:
    refuse_future(version)
