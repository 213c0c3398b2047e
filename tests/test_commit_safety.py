"""A half-written body is never committed: only a deliberate end ends it, whatever else happens to the request."""

from __future__ import annotations

import codecs
import contextlib
import gc
import gzip
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Callable, TypeVar

import pytest

import clientrequest
from clientrequest import AbortedError, ClientRequest, ClientRequestError, ProtocolError
from tests.support import LIMIT, Conn, Gate, Handler, Peer, Recorder, late_reader, scripted

KIB, MIB = 1024, 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
WAYS = ("buffered", "chunked", "length")
STREAMED = ("chunked", "length")
ABORTED = ["abort", "close"]
NOISE = os.urandom(20_000)
LENGTH = 100_000
"""What a body of known length announces; no test writes as much unless it means to."""


T = TypeVar("T")


class Oops(Exception):
    pass


def answer(conn: Conn) -> None:
    """Answers a whole body, and only that."""
    if conn.read_request().complete:
        conn.send(OK)


def post(peer: Peer, name: str = "chunked", length: int = LENGTH) -> ClientRequest:
    options: dict[str, dict[str, Any]] = {
        "buffered": {},
        "chunked": {"chunked_encoding": True},
        "length": {"headers": {"Content-Length": str(length)}},
    }
    return ClientRequest(peer.url(), method="POST", **options[name])


def write_half(peer: Peer, request: ClientRequest, name: str) -> None:
    """Write something, and wait until the server sees a request, if it may."""
    request.write(b"half")
    if name != "buffered":
        peer.wait_request()


def check_not_committed(peer: Peer, name: str) -> None:
    """The server saw no whole request; of a buffered one nothing at all."""
    if name == "buffered":
        assert peer.connections == []
        return
    peer.join()
    assert [request.complete for request in peer.requests] == [False]


def leave_by(error: BaseException, manager: AbstractContextManager[T], write: Callable[[T], object]) -> None:
    """Enter, write, and leave by an exception."""
    with manager as target:
        write(target)
        raise error


class TestWith:
    @pytest.mark.parametrize("name", WAYS)
    @pytest.mark.parametrize("error", [Oops, KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_left_by_an_exception_aborts(self, name: str, error: type[BaseException]) -> None:
        with Peer(answer) as peer:
            request = post(peer, name)
            recorder = Recorder(request)
            raised = error()
            with pytest.raises(error) as caught:
                leave_by(raised, request, lambda request: write_half(peer, request, name))
            assert caught.value is raised
            assert request.closed
            recorder.wait("close")
            assert recorder.outline() == ABORTED
            check_not_committed(peer, name)

    @pytest.mark.parametrize("name", WAYS)
    def test_left_by_an_exception_before_anything_was_written_aborts(self, name: str) -> None:
        with Peer(answer) as peer:
            request = post(peer, name)
            recorder = Recorder(request)
            with pytest.raises(Oops), request:
                raise Oops
            recorder.wait("close")
            assert recorder.outline() == ABORTED
            assert peer.requests == []

    def test_generator_that_is_closed_aborts(self) -> None:
        def produce() -> Iterator[None]:
            with request:
                request.write(b"half")
                yield
                request.write(b"rest")

        with Peer(answer) as peer:
            request = post(peer)
            recorder = Recorder(request)
            producer = produce()
            next(producer)
            peer.wait_request()
            producer.close()
            recorder.wait("close")
            check_not_committed(peer, "chunked")

    def test_exception_that_is_handled_inside_does_no_harm(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            with request:
                with contextlib.suppress(Oops):
                    raise Oops
                request.write(b"whole")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"whole"


def text_wrapper(request: ClientRequest) -> Any:
    return io.TextIOWrapper(request, "utf-8")


def byte_wrapper(request: ClientRequest) -> Any:
    writer = io.BufferedWriter(request)  # type: ignore[arg-type]
    return codecs.getwriter("utf-8")(writer)


def nested_wrapper(request: ClientRequest) -> Any:
    return io.TextIOWrapper(io.BufferedWriter(request), "utf-8")  # type: ignore[arg-type]


def codec_writer(request: ClientRequest) -> Any:
    return codecs.getwriter("utf-8")(request)


Wrap = Callable[[ClientRequest], Any]
WRAPPERS = (text_wrapper, byte_wrapper, nested_wrapper, codec_writer)
IO_WRAPPERS = (text_wrapper, nested_wrapper)


class TestWrapperLeftByAnException:
    @pytest.mark.parametrize("name", WAYS)
    @pytest.mark.parametrize("wrap", WRAPPERS)
    def test_aborts(self, name: str, wrap: Wrap) -> None:
        with Peer(answer) as peer:
            request = post(peer, name)
            recorder = Recorder(request)

            def write(wrapper: Any) -> None:
                wrapper.write("half")
                wrapper.flush()
                if name != "buffered":
                    peer.wait_request()

            with pytest.raises(Oops):
                leave_by(Oops(), wrap(request), write)
            recorder.wait("close")
            assert recorder.outline() == ABORTED
            check_not_committed(peer, name)

    @pytest.mark.parametrize("name", WAYS)
    @pytest.mark.parametrize("wrap", WRAPPERS)
    def test_with_all_in_its_own_buffer_aborts(self, name: str, wrap: Wrap) -> None:
        with Peer(answer) as peer:
            request = post(peer, name)
            recorder = Recorder(request)
            with pytest.raises(Oops):
                leave_by(Oops(), wrap(request), lambda wrapper: wrapper.write("half"))
            recorder.wait("close")
            assert recorder.outline() == ABORTED
        assert not any(request.complete for request in peer.requests)

    @pytest.mark.parametrize("name", WAYS)
    def test_gzip_in_a_with_of_the_request_aborts(self, name: str) -> None:
        with Peer(answer) as peer:
            request = post(peer, name)
            recorder = Recorder(request)
            with pytest.raises(Oops), request:
                leave_by(Oops(), gzip.GzipFile(fileobj=request, mode="wb"), lambda zipped: zipped.write(NOISE))
            recorder.wait("close")
            assert recorder.outline() == ABORTED
        assert not any(request.complete for request in peer.requests)

    def test_gzip_alone_does_not_end_the_request(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            with pytest.raises(Oops):
                leave_by(Oops(), gzip.GzipFile(fileobj=request, mode="wb"), lambda zipped: zipped.write(NOISE))
            assert not request.writable_ended
            peer.wait_request()
            request.abort()
            check_not_committed(peer, "chunked")


class TestCloseWhileAnExceptionIsHandled:
    @pytest.mark.parametrize("name", WAYS)
    def test_aborts(self, name: str) -> None:
        with Peer(answer) as peer:
            request = post(peer, name)
            recorder = Recorder(request)
            write_half(peer, request, name)
            try:
                raise Oops
            except Oops:
                request.close()
            recorder.wait("close")
            assert recorder.outline() == ABORTED
            check_not_committed(peer, name)

    def test_aborts_in_finally(self) -> None:
        def produce() -> None:
            try:
                write_half(peer, request, "chunked")
                raise Oops
            finally:
                request.close()

        with Peer(answer) as peer:
            request = post(peer)
            recorder = Recorder(request)
            with pytest.raises(Oops):
                produce()
            recorder.wait("close")
            check_not_committed(peer, "chunked")

    def test_aborts_in_closing(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            recorder = Recorder(request)
            with pytest.raises(Oops):
                leave_by(Oops(), contextlib.closing(request), lambda request: write_half(peer, request, "chunked"))
            recorder.wait("close")
            check_not_committed(peer, "chunked")

    def test_after_it_was_handled_commits(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            request.write(b"whole")
            with contextlib.suppress(Oops):
                raise Oops
            request.close()
            assert request.wait(LIMIT)
            assert peer.wait_request().complete


class TestRequestMadeInAnExceptBlock:
    """A report about an error, say: the exception that is handled all the while says nothing about the request."""

    @pytest.mark.parametrize("how", ["close", "with", "wrapper"])
    def test_commits(self, how: str) -> None:
        with Peer(answer) as peer:
            try:
                raise Oops
            except Oops:
                request = post(peer)
                if how == "close":
                    request.write(b"report")
                    request.close()
                elif how == "with":
                    with request:
                        request.write(b"report")
                else:
                    with text_wrapper(request) as text:
                        text.write("report")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"report"

    def test_with_commits_wherever_the_request_was_made(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            try:
                raise Oops
            except Oops:
                with request:
                    request.write(b"report")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"report"

    def test_another_exception_inside_aborts(self) -> None:
        with Peer(answer) as peer:
            try:
                raise Oops
            except Oops:
                request = post(peer)
                recorder = Recorder(request)
                with pytest.raises(KeyError):
                    leave_by(KeyError(), text_wrapper(request), lambda text: text.write("half"))
            recorder.wait("close")
            assert recorder.outline() == ABORTED

    def test_later_exception_in_the_same_place_of_memory_aborts(self) -> None:
        with Peer(answer) as peer:
            for _ in range(100):
                try:
                    raise Oops
                except Oops as error:
                    place = id(error)
                    request = post(peer, "buffered")
                try:
                    raise Oops
                except Oops as error:
                    is_same_place = place == id(error)
                    request.close()
                with pytest.raises(AbortedError):
                    request.wait(LIMIT)
                if is_same_place:
                    return
        pytest.skip("this Python does not use memory again so soon")


def drop(held: list[Any]) -> None:
    """Let go of the one object in the list."""
    held.clear()
    gc.collect()


class TestDropped:
    @pytest.mark.parametrize("name", STREAMED)
    def test_streamed_is_aborted_with_a_warning(self, name: str) -> None:
        with Peer(answer) as peer:
            held = [post(peer, name)]
            recorder = Recorder(held[0])
            write_half(peer, held[0], name)
            with pytest.warns(ResourceWarning, match="un-ended"):
                drop(held)
            recorder.wait("close")
            assert recorder.outline() == ABORTED
            check_not_committed(peer, name)

    @pytest.mark.parametrize("size", [4, 9 * MIB])
    def test_buffered_is_dropped_with_a_warning(self, size: int) -> None:
        with Peer(answer) as peer:
            held = [post(peer, "buffered")]
            gone = weakref.ref(held[0])
            held[0].write(b"x" * size)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                drop(held)
                messages = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
                del caught  # it holds the request
            gc.collect()
            assert len(messages) == 1
            assert "un-ended" in messages[0]
            assert gone() is None
            assert peer.connections == []

    @pytest.mark.parametrize("name", STREAMED)
    def test_after_flush_headers_it_is_aborted_with_a_warning(self, name: str) -> None:
        with Peer(answer) as peer:
            held = [post(peer, name)]
            held[0].flush_headers()
            peer.wait_request()
            with pytest.warns(ResourceWarning, match="un-ended"):
                drop(held)
            check_not_committed(peer, name)

    def test_in_a_cycle_it_is_aborted(self) -> None:
        with Peer(answer) as peer:
            held = [post(peer)]
            held[0].on("response", lambda response, request=held[0]: request)
            write_half(peer, held[0], "chunked")
            with pytest.warns(ResourceWarning, match="un-ended"):
                drop(held)
            check_not_committed(peer, "chunked")

    def test_its_callbacks_get_the_error(self) -> None:
        errors: list[Any] = []
        called = Gate()
        with Peer(answer) as peer:
            held = [post(peer)]
            write_half(peer, held[0], "chunked")
            held[0].cork()
            held[0].write(b"more", "utf-8", lambda error: (errors.append(error), called.set()))
            with pytest.warns(ResourceWarning):
                drop(held)
            called.wait()
        assert [type(error) for error in errors] == [AbortedError]

    @pytest.mark.parametrize("parked", [True, False])
    def test_buffered_tells_its_callbacks_and_listeners(self, parked: bool) -> None:
        """Nothing runs yet, and a finalizer starts no thread: the next worker that is free sends the events."""
        told: list[str] = []
        closed = Gate("close")
        with Peer(answer) as peer:
            if parked:
                post(peer, "buffered").end().wait(LIMIT)
            held = [post(peer, "buffered")]
            held[0].on("close", lambda: (told.append("close"), closed.set()))
            held[0].write(b"half", "utf-8", lambda error: told.append(type(error).__name__))
            with pytest.warns(ResourceWarning):
                drop(held)
            if not parked:
                post(peer, "buffered").end().wait(LIMIT)
            closed.wait()
        assert told == ["AbortedError", "close"]

    @pytest.mark.parametrize("name", WAYS)
    def test_where_warnings_are_errors_it_is_aborted_all_the_same(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        complaints: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda report: complaints.append(report.exc_type))
        with Peer(answer) as peer:
            held = [post(peer, name)]
            write_half(peer, held[0], name)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                drop(held)
            check_not_committed(peer, name)
        assert complaints == [ResourceWarning]

    @pytest.mark.parametrize("name", WAYS)
    def test_never_written_leaves_no_trace(self, name: str) -> None:
        with Peer(answer) as peer, warnings.catch_warnings():
            warnings.simplefilter("error")
            threads = threading.active_count()
            held = [post(peer, name)]
            held[0].set_header("X-Prepared", "yes")
            held[0].on("response", lambda response: None)
            gone = weakref.ref(held[0])
            held.clear()
            assert gone() is None
            gc.collect()
            assert threading.active_count() <= threads + 1  # the peer's own
            assert peer.connections == []

    @pytest.mark.parametrize("name", WAYS)
    def test_ended_is_sent_whole_without_a_warning(self, name: str) -> None:
        with Peer(answer) as peer, warnings.catch_warnings():
            warnings.simplefilter("error")
            held = [post(peer, name, 5)]
            recorder = Recorder(held[0], consume=True)
            held[0].end(b"whole")
            drop(held)
            recorder.wait("close")
            assert peer.wait_request().body == b"whole"

    @pytest.mark.parametrize("name", WAYS)
    def test_aborted_gives_no_warning(self, name: str) -> None:
        with Peer(answer) as peer, warnings.catch_warnings():
            warnings.simplefilter("error")
            held = [post(peer, name)]
            recorder = Recorder(held[0])
            write_half(peer, held[0], name)
            held[0].abort()
            drop(held)
            recorder.wait("close")


class TestWrapperDropped:
    @pytest.mark.parametrize("flushed", [True, False], ids=["flushed", "pending"])
    @pytest.mark.parametrize("wrap", [*IO_WRAPPERS, io.BufferedWriter])
    @pytest.mark.parametrize("name", WAYS)
    def test_aborts_with_a_warning(self, name: str, wrap: Wrap, flushed: bool) -> None:
        with Peer(answer) as peer:
            request = post(peer, name)
            held = [wrap(request)]
            kind = type(held[0]).__name__
            held[0].write(b"half" if wrap is io.BufferedWriter else "half")
            if flushed:
                held[0].flush()
                if name != "buffered":
                    peer.wait_request()
            del request
            with pytest.warns(ResourceWarning, match=re.escape(f"un-closed {kind} around un-ended")):
                drop(held)
            if flushed:
                check_not_committed(peer, name)
            else:
                assert peer.connections == []

    @pytest.mark.parametrize("flushed", [True, False], ids=["flushed", "pending"])
    @pytest.mark.parametrize("name", WAYS)
    def test_kills_the_request_that_is_still_held(self, name: str, flushed: bool) -> None:
        with Peer(answer) as peer:
            request = post(peer, name)
            held = [text_wrapper(request)]
            held[0].write("half")
            if flushed:
                held[0].flush()
            with pytest.warns(ResourceWarning, match="TextIOWrapper"):
                drop(held)
            for act in (lambda: request.write(b"more"), request.end, lambda: request.wait(LIMIT)):
                with pytest.raises(AbortedError):
                    act()
        assert not any(request.complete for request in peer.requests)

    def test_gzip_aborts_with_the_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The two are in a cycle since Python 3.12. Where the request goes first, gzip says that it could not write.
        monkeypatch.setattr(sys, "unraisablehook", lambda report: None)
        with Peer(answer) as peer:
            held = [gzip.GzipFile(fileobj=post(peer), mode="wb")]
            held[0].write(NOISE)
            peer.wait_request()
            with pytest.warns(ResourceWarning):
                drop(held)
            check_not_committed(peer, "chunked")

    @pytest.mark.parametrize("wrap", [*IO_WRAPPERS, io.BufferedWriter])
    @pytest.mark.parametrize("name", WAYS)
    def test_with_nothing_written_leaves_no_trace(self, name: str, wrap: Wrap) -> None:
        with Peer(answer) as peer, warnings.catch_warnings():
            warnings.simplefilter("error")
            request = post(peer, name)
            held = [wrap(request)]
            drop(held)
            with pytest.raises(AbortedError):
                request.write(b"late")
            assert peer.connections == []

    def test_closed_wrapper_gives_no_warning(self) -> None:
        with Peer(answer) as peer, warnings.catch_warnings():
            warnings.simplefilter("error")
            request = post(peer)
            held = [text_wrapper(request)]
            held[0].write("whole")
            held[0].close()
            drop(held)
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"whole"


# ------------------------------------------------------------------------------
# The end of the program

BEGIN = """
import io, sys, threading, time
from clientrequest import ClientRequest

def post(**options):
    return ClientRequest(sys.argv[1], method="POST", **options)

def say(word):
    print(word, flush=True)

"""
PROMPT = 5.0
"""Seconds in which a program is gone that has nothing to wait for; it takes 0.1 on a quiet machine."""


class Program:
    """A Python of its own that runs a script against a peer."""

    def __init__(self, peer: Peer, script: str) -> None:
        root = str(Path(clientrequest.__file__).resolve().parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "always", "-c", BEGIN + script, peer.url()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root},
            text=True,
        )
        self._watchdog = threading.Timer(3 * LIMIT, self._process.kill)
        self._watchdog.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._watchdog.cancel()

    def hear(self, word: str) -> None:
        """Wait until the script says ``word``."""
        assert self._process.stdout is not None
        heard = self._process.stdout.readline().strip()
        assert heard == word, self._process.communicate()[1]

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def leave(self, within: float = PROMPT) -> tuple[int, str]:
        """Wait for its end: the status and what it complained of."""
        start = time.monotonic()
        errors = self._process.communicate(timeout=3 * LIMIT)[1]
        assert time.monotonic() - start < within, errors
        return self._process.returncode, errors


OPTIONS = {"buffered": "", "chunked": "chunked_encoding=True", "length": "headers={'Content-Length': '100000'}"}


@pytest.mark.parametrize("name", WAYS)
class TestInterpreterExit:
    @pytest.mark.parametrize("held", ["held", "dropped"])
    def test_un_ended_is_aborted_with_a_warning(self, name: str, held: str) -> None:
        script = f"""
request = post({OPTIONS[name]})
request.write(b"half")
request.flush()
{"" if held == "held" else "del request"}
say("leaving")
"""
        with Peer(answer) as peer, Program(peer, script) as program:
            program.hear("leaving")
            status, errors = program.leave()
            assert status == 0
            assert "ResourceWarning" in errors
            assert "Traceback" not in errors
            check_not_committed(peer, name)

    def test_un_ended_wrapper_is_aborted_with_a_warning(self, name: str) -> None:
        script = f"""
text = io.TextIOWrapper(post({OPTIONS[name]}), "utf-8")
text.write("half" * 10_000)
text.buffer.flush()
say("leaving")
"""
        with Peer(answer) as peer, Program(peer, script) as program:
            program.hear("leaving")
            status, errors = program.leave()
            assert status == 0
            assert "ResourceWarning" in errors
            check_not_committed(peer, name)

    def test_wrapper_with_all_in_its_own_buffer_is_not_committed(self, name: str) -> None:
        script = f"""
request = post({OPTIONS[name]})
text = io.TextIOWrapper(request, "utf-8")
text.write("half")
say("leaving")
"""
        with Peer(answer) as peer, Program(peer, script) as program:
            program.hear("leaving")
            status, _ = program.leave()
            assert status == 0
            assert peer.connections == []

    def test_uncaught_exception_aborts(self, name: str) -> None:
        script = f"""
request = post({OPTIONS[name]})
request.write(b"half")
request.flush()
say("leaving")
raise RuntimeError("half-way")
"""
        with Peer(answer) as peer, Program(peer, script) as program:
            program.hear("leaving")
            status, errors = program.leave()
            assert status == 1
            assert "RuntimeError: half-way" in errors
            check_not_committed(peer, name)

    def test_exit_inside_with_aborts(self, name: str) -> None:
        script = f"""
with post({OPTIONS[name]}) as request:
    request.write(b"half")
    request.flush()
    say("leaving")
    sys.exit(3)
"""
        with Peer(answer) as peer, Program(peer, script) as program:
            program.hear("leaving")
            assert program.leave()[0] == 3
            check_not_committed(peer, name)

    def test_ended_finishes(self, name: str) -> None:
        left = Gate()
        script = f"""
request = post({OPTIONS[name]})
request.end(b"x" * 100_000)
del request
say("leaving")
"""
        with Peer(late_reader(left, OK)) as peer, Program(peer, script) as program:
            program.hear("leaving")
            left.set()
            status, errors = program.leave()
            assert (status, errors) == (0, "")
            peer.join()
            assert peer.wait_request().complete
            assert peer.wait_request().length == 100_000


class TestThreadsAtExit:
    SCRIPT = """
request = post(chunked_encoding=True)
request.write(b"half, ")
request.flush()

def write():
    threading.main_thread().join()
    request.end(b"whole")

threading.Thread(target=write, daemon={daemon}).start()
say("leaving")
"""

    def test_body_that_a_thread_still_writes_finishes(self) -> None:
        with Peer(answer) as peer, Program(peer, self.SCRIPT.format(daemon=False)) as program:
            program.hear("leaving")
            assert program.leave()[0] == 0
            peer.join()
            assert peer.wait_request().body == b"half, whole"

    def test_idle_workers_do_not_delay_it(self) -> None:
        script = """
request = post()
request.end(b"x")
request.wait()
say("leaving")
"""
        with Peer(answer) as peer, Program(peer, script) as program:
            program.hear("leaving")
            assert program.leave(within=2.0)[0] == 0


def hold_until(gate: Gate) -> Handler:
    """Reads the head, and the body only once the gate is open."""

    def handle(conn: Conn) -> None:
        request = conn.read_request(body=False)
        gate.wait()
        conn.drain_body(request)

    return handle


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for one process")
class TestCtrlC:
    @pytest.mark.parametrize(
        "block",
        [
            pytest.param('request.write(b"x" * (64 << 20))', id="write"),
            pytest.param('request.write(b"x"); request.end(b"x" * (64 << 20)); request.wait()', id="wait"),
            pytest.param('request.end(b"x" * (64 << 20)); request.get_response()', id="get_response"),
            pytest.param('request.end(b"x" * (64 << 20)); request.wait(1000)', id="wait with a timeout"),
            pytest.param(
                'request.cork(); request.write(b"x" * (64 << 20)); request.uncork(); request.flush()', id="flush"
            ),
            pytest.param('request.write(b"x"); request.flush(); time.sleep(1000)', id="elsewhere"),
        ],
    )
    def test_ends_the_program_and_commits_nothing(self, block: str) -> None:
        gone = Gate()
        script = f"""
request = post(chunked_encoding=True)
request.flush_headers()
say("blocking")
{block}
say("not blocked")
"""
        with Peer(hold_until(gone)) as peer, Program(peer, script) as program:
            program.hear("blocking")
            peer.wait_request()
            program.interrupt()
            status, errors = program.leave()
            assert status == -signal.SIGINT
            assert errors.strip().endswith("KeyboardInterrupt")
            gone.set()
            check_not_committed(peer, "chunked")

    def test_in_with_aborts_and_may_be_survived(self) -> None:
        gone = Gate()
        script = """
request = post(chunked_encoding=True)
try:
    with request:
        request.flush_headers()
        say("blocking")
        request.write(b"x" * (64 << 20))
except KeyboardInterrupt:
    try:
        request.wait()
    except OSError as error:
        say(error.code)
"""
        with Peer(hold_until(gone)) as peer, Program(peer, script) as program:
            program.hear("blocking")
            peer.wait_request()
            program.interrupt()
            program.hear("ERR_ABORTED")
            assert program.leave() == (0, "")
            gone.set()
            check_not_committed(peer, "chunked")

    def test_while_waiting_for_the_answer_ends_the_program(self) -> None:
        script = """
request = post()
request.end(b"x")
say("blocking")
request.get_response()
"""
        with Peer(scripted(Conn.hold)) as peer, Program(peer, script) as program:
            program.hear("blocking")
            peer.wait_request()
            program.interrupt()
            assert program.leave()[0] == -signal.SIGINT


# ------------------------------------------------------------------------------
# pipe_from

DATA = bytes(range(256)) * 1000


class Readable:
    """As little of a file as can be read, in small pieces."""

    def __init__(self, data: bytes, error: Exception | None = None) -> None:
        self._rest = io.BytesIO(data)
        self._error = error

    def read(self, size: int) -> bytes:
        piece = self._rest.read(min(size, 10_000))
        if not piece and self._error is not None:
            raise self._error
        return piece


def in_pieces(data: bytes) -> list[bytes]:
    return [data[start : start + 777] for start in range(0, len(data), 777)]


SOURCES = {
    "BytesIO": io.BytesIO,
    "readable": Readable,
    "buffered reader": lambda data: io.BufferedReader(io.BytesIO(data)),  # type: ignore[arg-type]
    "list": in_pieces,
    "generator": lambda data: (piece for piece in in_pieces(data)),
    "bytearrays": lambda data: map(bytearray, in_pieces(data)),
}
sources = pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))


def raising(pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield from pieces
    raise Oops


class TestPipeFrom:
    @sources
    @pytest.mark.parametrize("length", [None, len(DATA)], ids=["no length", "length"])
    @pytest.mark.parametrize("name", WAYS)
    def test_writes_all_and_does_not_end(self, name: str, source: Callable[[bytes], Any], length: int | None) -> None:
        with Peer(answer) as peer:
            request = post(peer, name, len(DATA) + 4)
            assert request.pipe_from(source(DATA), length) == len(DATA)
            assert not request.writable_ended
            request.end(b"more")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == DATA + b"more"

    @pytest.mark.parametrize("length", [None, 0])
    @sources
    def test_of_nothing(self, source: Callable[[bytes], Any], length: int | None) -> None:
        with Peer(answer) as peer:
            request = post(peer, "buffered")
            assert request.pipe_from(source(b""), length) == 0
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b""

    @sources
    @pytest.mark.parametrize("length", [len(DATA) + 1, len(DATA) - 1, 1, 0, 10 * len(DATA)])
    def test_wrong_length_aborts(self, source: Callable[[bytes], Any], length: int) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            recorder = Recorder(request)
            write_half(peer, request, "chunked")
            with pytest.raises(ProtocolError) as caught:
                request.pipe_from(source(DATA), length)
            assert caught.value.code == "ERR_CONTENT_LENGTH_MISMATCH"
            assert caught.value.request is request
            recorder.wait("close")
            assert recorder.outline() == ABORTED
            check_not_committed(peer, "chunked")

    @pytest.mark.parametrize("name", WAYS)
    @pytest.mark.parametrize("wrong_by", [-1, 1])
    def test_wrong_length_aborts_each_way(self, name: str, wrong_by: int) -> None:
        with Peer(answer) as peer:
            request = post(peer, name, 3 * len(DATA))
            recorder = Recorder(request)
            with pytest.raises(ProtocolError):
                request.pipe_from(io.BytesIO(DATA), len(DATA) + wrong_by)
            recorder.wait("close")
            with pytest.raises(AbortedError):
                request.end()
        assert not any(request.complete for request in peer.requests)

    @pytest.mark.parametrize(
        "source",
        [lambda: raising(in_pieces(DATA)), lambda: raising([]), lambda: Readable(DATA, Oops())],
        ids=["generator", "generator at once", "readable"],
    )
    @pytest.mark.parametrize("length", [None, len(DATA)], ids=["no length", "length"])
    def test_source_that_raises_aborts(self, source: Callable[[], Any], length: int | None) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            recorder = Recorder(request)
            with pytest.raises(Oops):
                request.pipe_from(source(), length)
            recorder.wait("close")
            assert recorder.outline() == ABORTED
        assert not any(request.complete for request in peer.requests)

    def test_piece_of_a_wrong_type_aborts(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            with pytest.raises(TypeError):
                request.pipe_from([b"good", 5])
            with pytest.raises(AbortedError):
                request.write(b"more")

    @pytest.mark.parametrize("source", [b"bytes", "text", bytearray(b"x"), 5, None, object()])
    def test_what_is_no_source_is_refused(self, source: Any) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            with pytest.raises(TypeError, match=type(source).__name__):
                request.pipe_from(source)
            request.end(b"still usable")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"still usable"

    @pytest.mark.parametrize("length", [-1, 1.0, True, "5"])
    def test_what_is_no_length_is_refused(self, length: Any) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            with pytest.raises((ValueError, TypeError), match="length"):
                request.pipe_from([b"x"], length)
            request.end(b"still usable")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"still usable"

    def test_text_is_encoded_and_counted_in_bytes(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            assert request.pipe_from(io.StringIO("größe"), 7) == 7
            assert request.pipe_from(["ü", b"x"]) == 3
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().body == "größeüx".encode()

    def test_nothing_yet_does_not_pass_for_the_end(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.write(writing, b"half")
        with Peer(answer) as peer, open(reading, "rb", buffering=0) as source, open(writing, "wb", buffering=0):
            request = post(peer)
            write_half(peer, request, "chunked")
            with pytest.raises(BlockingIOError):
                request.pipe_from(source)
            check_not_committed(peer, "chunked")


class TestPipeFromSocket:
    """What a WSGI server hands out: behind the body the socket is silent, and stays open."""

    @pytest.fixture
    def pair(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        ours, theirs = socket.socketpair()
        ours.settimeout(LIMIT)  # or a test that waits for too much would hang
        with ours, theirs:
            yield ours, theirs

    @pytest.mark.parametrize("buffering", [0, -1, 100])
    def test_whole_source_is_taken_without_waiting_for_more(
        self, pair: tuple[socket.socket, socket.socket], buffering: int
    ) -> None:
        ours, theirs = pair
        theirs.sendall(b"x" * 5000)
        with Peer(answer) as peer, ours.makefile("rb", buffering=buffering) as source:
            request = post(peer)
            assert request.pipe_from(source, 5000) == 5000
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"x" * 5000

    def test_no_more_than_the_length_is_taken(self, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        theirs.sendall(b"x" * 5000 + b"GET /next")
        with Peer(answer) as peer, ours.makefile("rb") as source:
            request = post(peer)
            request.pipe_from(source, 5000)
            assert source.read(9) == b"GET /next"
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().length == 5000

    @pytest.mark.parametrize("buffering", [0, -1])
    def test_cut_source_aborts(self, pair: tuple[socket.socket, socket.socket], buffering: int) -> None:
        ours, theirs = pair
        theirs.sendall(b"x" * 4999)
        theirs.close()
        with Peer(answer) as peer, ours.makefile("rb", buffering=buffering) as source:
            request = post(peer)
            write_half(peer, request, "chunked")
            with pytest.raises(ProtocolError, match="4999 of the 5000"):
                request.pipe_from(source, 5000)
            check_not_committed(peer, "chunked")


class TestPipeFromResponse:
    def test_whole_response_is_passed_on(self) -> None:
        with (
            Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 256000\r\n\r\n" + DATA)) as origin,
            Peer(answer) as peer,
        ):
            download = ClientRequest(origin.url()).end()
            request = post(peer)
            with request:
                assert request.pipe_from(download.get_response(LIMIT)) == len(DATA)
            assert request.wait(LIMIT)
            assert peer.wait_request().body == DATA

    def test_cut_response_aborts(self) -> None:
        with (
            Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 256001\r\n\r\n" + DATA)) as origin,
            Peer(answer) as peer,
        ):
            download = ClientRequest(origin.url()).end()
            request = post(peer)
            write_half(peer, request, "chunked")
            with pytest.raises(ClientRequestError, match="net::ERR_"), request:
                request.pipe_from(download.get_response(LIMIT))
            with pytest.raises(AbortedError):
                request.wait(LIMIT)
            check_not_committed(peer, "chunked")
