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
from typing import Any

import certifi
import pytest

from clientrequest import ClientRequest, RequestTimeout, Session, Timeout, TLSError, UploadProgress
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, ca_path, echo_json, scripted, server_context

HERE = Path(__file__).parent
MIB = 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun"

NOTHING = UploadProgress(active=False, started=False, current=0, total=0)


def run_program(script: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, with `url` as its argument."""
    command = [sys.executable, "-c", script, url]
    return subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=LIMIT, check=False)


# ------------------------------------------------------------------------------
# Progress of the upload


class TestUploadProgress:
    def test_is_inactive_before_the_start(self) -> None:
        request = ClientRequest("http://127.0.0.1:9/", method="POST")
        assert request.get_upload_progress() == NOTHING
        request.write(b"buffered")
        assert request.get_upload_progress() == NOTHING
        request.abort()
        assert request.get_upload_progress() == NOTHING

    @pytest.mark.parametrize("chunked", [False, True], ids=["buffered", "chunked"])
    def test_is_inactive_after_the_end(self, chunked: bool) -> None:
        with Peer(echo_json) as peer:
            request = ClientRequest(peer.url(), method="POST", chunked_encoding=chunked)
            request.end(b"body")
            assert request.wait(LIMIT)
        assert request.get_upload_progress() == NOTHING

    def test_total_of_chunks_is_unknown_until_end(self) -> None:
        with Peer(scripted(Conn.hold)) as peer:
            request = ClientRequest(peer.url(), method="POST", chunked_encoding=True)
            request.write(b"twelve bytes")
            request.flush()
            assert request.get_upload_progress() == (True, True, 12, 0)
            request.end(b"!")
            assert request.get_upload_progress().total == 13
            request.abort()

    def test_total_of_a_known_length_is_known_at_once(self) -> None:
        with Peer(scripted(Conn.hold)) as peer:
            request = ClientRequest(peer.url(), method="POST", headers={"Content-Length": 10})
            request.flush_headers()
            progress = request.get_upload_progress()
            assert (progress.active, progress.started, progress.current, progress.total) == (True, False, 0, 10)
            request.write(b"abc")
            request.flush()
            assert request.get_upload_progress() == (True, True, 3, 10)
            request.abort()

    def test_total_of_a_buffered_body_is_known_once_it_has_begun(self) -> None:
        with Peer(scripted(b"HTTP/1.1 103 Early Hints\r\n\r\n", Conn.hold)) as peer:
            request = ClientRequest(peer.url(), method="POST")
            recorder = Recorder(request)
            request.write(b"ab")
            request.end(b"cd")
            recorder.wait("information")  # it comes after the body, so all of that is counted
            assert request.get_upload_progress() == (True, True, 4, 4)
            request.abort()
            recorder.wait("close")

    def test_counts_what_the_socket_took_and_not_what_was_written(self) -> None:
        go_on = Gate()

        def read_late(conn: Conn) -> None:
            request = conn.read_request(body=False)
            go_on.wait()
            conn.drain_body(request)
            conn.send(OK)

        size = 32 * MIB  # more than the system takes
        with Peer(read_late) as peer:
            request = ClientRequest(peer.url(), method="POST", chunked_encoding=True, high_water_mark=2 * size)
            request.write(bytes(size))
            assert request.tell() == size
            progress = request.get_upload_progress()
            assert (progress.active, progress.total) == (True, 0)
            assert progress.current < size
            go_on.set()
            request.flush()
            assert request.get_upload_progress().current == size
            request.end()
            assert request.wait(LIMIT)

    @pytest.mark.parametrize("way", ["buffered", "chunked", "length"])
    def test_events_rise_and_end_with_the_whole(self, way: str) -> None:
        size = 8 * MIB
        options: dict[str, Any] = {
            "buffered": {},
            "chunked": {"chunked_encoding": True},
            "length": {"headers": {"Content-Length": size}},
        }[way]
        with Peer(echo_json) as peer:
            request = ClientRequest(peer.url(), method="POST", **options)
            recorder = Recorder(request, consume=True)
            for _ in range(8):
                request.write(bytes(MIB))
            request.end()
            recorder.wait("close")
        told = [event.args for event in recorder.find("upload-progress")]
        assert told == sorted(told)
        assert told[-1] == (size, size)
        assert {total for _, total in told} <= {0, size}
        recorder.check_grammar()

    def test_events_come_at_most_ten_times_a_second(self) -> None:
        with Peer(echo_json) as peer:
            request = ClientRequest(peer.url(), method="POST", chunked_encoding=True)
            recorder = Recorder(request, consume=True)
            start = time.monotonic()
            for _ in range(300):
                request.write(b"x")
                request.flush()
            request.end()
            recorder.wait("close")
            elapsed = time.monotonic() - start
        told = recorder.find("upload-progress")
        assert told[-1].args == (300, 300)
        assert len(told) <= 10 * elapsed + 2


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
        request._outbox.wake = lambda: (wakes.append(1), wake())  # type: ignore[func-returns-value]
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


def test_timeout_of_the_session_is_the_default() -> None:
    with Session(timeout=Timeout(read=0.05)) as session, Peer(scripted(Conn.hold)) as peer:
        request = session.request(peer.url()).end()
        with pytest.raises(RequestTimeout) as caught:
            request.wait(LIMIT)
    assert caught.value.code == "ERR_TIMED_OUT"


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

        thread = threading.Thread(target=interrupt)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            getattr(response, read)()
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


def test_every_module_is_introduced() -> None:
    text = (HERE / "README.md").read_text("utf-8")
    assert [module.name for module in sorted(HERE.glob("test_*.py")) if f"| `{module.name}` |" not in text] == []
