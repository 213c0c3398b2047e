"""`abort()` in every phase: everybody who waits is free at once, the events are right, nothing is left."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable, Optional

import pytest

from clientrequest import AbortedError, ClientRequest, ClientRequestError, IncomingMessage, Session
from clientrequest._lifecycle import Phase
from tests.conftest import wait_for_lookups
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, blackhole, scripted, server_context

AT_ONCE = 0.5
"""Seconds within which everybody must be free: ten times what is promised, for a machine that is busy."""

BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

BEFORE_RESPONSE = ["abort", "close"]
IN_RESPONSE = ["abort", "response.aborted", "response.close", "close"]


class Blocked:
    """A call in a thread of its own, which is expected to end with `AbortedError`."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.result: object = None
        self.error: Optional[BaseException] = None
        self.freed = 0.0
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error
        self.freed = time.monotonic()

    def join(self) -> float:
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), "still blocked"
        return self.freed


class Scene:
    """A request in the midst of something."""

    def __init__(self, request: ClientRequest, *, consume: bool = False) -> None:
        self.request = request
        self.exchange = request._exchange
        self.recorder = Recorder(request, consume=consume)
        self.blocked: list[Blocked] = []
        self.closed = 0.0
        request.on("close", self._note_close)

    def _note_close(self) -> None:
        self.closed = time.monotonic()

    def block(self, call: Callable[[], object]) -> None:
        self.blocked.append(Blocked(call))

    def response(self) -> IncomingMessage:
        """The response, once its event is out too: it may be had a moment before."""
        response = self.request.get_response(LIMIT)
        self.recorder.wait("response")
        return response

    def until(self, condition: Callable[[], bool]) -> None:
        """Polls: what it waits for makes no noise."""
        pause, deadline = threading.Event(), time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, f"not reached: {self.exchange.phase}, {self.recorder}"
            pause.wait(0.001)

    def write_until_blocked(self) -> None:
        """One write, of more than all buffers on the way can hold."""
        self.block(lambda: self.request.write(bytes(32 << 20)))
        self.until(lambda: bool(self.exchange.outbox.room._waiters))


Phases = Callable[[Session, bool], "contextlib.AbstractContextManager[Scene]"]


def peer_of(handler: Callable[[Conn], object], tls: bool) -> Peer:
    return Peer(handler, tls=server_context() if tls else None)


def hold_after_head(conn: Conn) -> None:
    conn.read_request(body=False)
    conn.hold()


@contextlib.contextmanager
def before_the_start(session: Session, tls: bool) -> Iterator[Scene]:
    yield Scene(session.request("http://127.0.0.1:9/", method="POST"))


@contextlib.contextmanager
def after_a_buffered_write(session: Session, tls: bool) -> Iterator[Scene]:
    scene = Scene(session.request("http://127.0.0.1:9/", method="POST"))
    scene.request.write(b"some")
    yield scene


@contextlib.contextmanager
def slow_names() -> Iterator[Gate]:
    """No name is found while this lasts; the gate opens when one is asked for."""
    asked, free = Gate("asked"), Gate("free")
    look_up = socket.getaddrinfo

    def hangs(host: Any, port: Any, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if flags & socket.AI_NUMERICHOST:
            return look_up(host, port, family, kind, proto, flags)
        asked.set()
        free.wait()
        raise socket.gaierror(socket.EAI_NONAME, "nobody")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", hangs)
        try:
            yield asked
        finally:
            free.set()
            wait_for_lookups()


@contextlib.contextmanager
def looking_up_the_name(session: Session, tls: bool) -> Iterator[Scene]:
    with slow_names() as asked:
        scene = Scene(session.request(f"{'https' if tls else 'http'}://slow.example/"))
        scene.request.end()
        asked.wait()
        yield scene


@contextlib.contextmanager
def connecting(session: Session, tls: bool) -> Iterator[Scene]:
    with blackhole() as port:
        scene = Scene(session.request(f"{'https' if tls else 'http'}://127.0.0.1:{port}/"))
        scene.request.end()
        scene.until(lambda: bool(scene.exchange._exposed))
        yield scene


@contextlib.contextmanager
def shaking_hands(session: Session, tls: bool) -> Iterator[Scene]:
    """The server takes the first message of TLS, and says nothing."""
    begun = Gate()

    def say_nothing(conn: Conn) -> None:
        conn.recv_some()
        begun.set()
        conn.hold()

    with Peer(say_nothing) as peer:
        scene = Scene(session.request(f"https://127.0.0.1:{peer.port}/"))
        scene.request.end()
        begun.wait()
        yield scene


@contextlib.contextmanager
def sending_to_one_who_does_not_read(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(hold_after_head, tls) as peer:
        scene = Scene(session.request(peer.url(), method="POST", chunked_encoding=True))
        scene.write_until_blocked()
        yield scene


@contextlib.contextmanager
def sending_a_large_buffered_body(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(hold_after_head, tls) as peer:
        scene = Scene(session.request(peer.url(), method="POST"))
        scene.request.end(bytes(32 << 20))
        peer.wait_request()
        scene.until(lambda: scene.exchange.outbox.position > 0)
        yield scene


@contextlib.contextmanager
def flushing(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(hold_after_head, tls) as peer:
        scene = Scene(session.request(peer.url(), method="POST", chunked_encoding=True, high_water_mark=1 << 30))
        scene.request.write(bytes(32 << 20))
        scene.block(scene.request.flush)
        scene.until(lambda: bool(scene.exchange.outbox.room._waiters))
        yield scene


@contextlib.contextmanager
def waiting_for_the_writer(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(hold_after_head, tls) as peer:
        scene = Scene(session.request(peer.url(), method="POST", chunked_encoding=True))
        scene.request.write(b"some")
        scene.request.flush()
        scene.until(lambda: scene.exchange.outbox.starving)
        yield scene


@contextlib.contextmanager
def corked(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(hold_after_head, tls) as peer:
        scene = Scene(session.request(peer.url(), method="POST", chunked_encoding=True))
        scene.request.cork()
        scene.request.write(b"some")
        peer.wait_request()
        yield scene


@contextlib.contextmanager
def waiting_for_the_head(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(scripted(Conn.hold), tls) as peer:
        scene = Scene(session.request(peer.url(), method="POST"))
        scene.request.end(b"body")
        peer.wait_request()
        scene.until(lambda: scene.exchange.phase is Phase.WAITING)
        yield scene


@contextlib.contextmanager
def in_the_middle_of_the_head(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(scripted(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nCont", Conn.hold), tls) as peer:
        scene = Scene(session.request(peer.url()))
        scene.request.end()
        scene.recorder.wait("information")
        yield scene


@contextlib.contextmanager
def waiting_for_continue(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(hold_after_head, tls) as peer:
        scene = Scene(session.request(peer.url(), method="POST", headers={"Expect": "100-continue"}))
        scene.request.end(b"body")
        peer.wait_request()
        yield scene


@contextlib.contextmanager
def deciding_about_a_redirect(session: Session, tls: bool) -> Iterator[Scene]:
    answer = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
    with peer_of(scripted(answer, Conn.hold), tls) as peer:
        scene = Scene(session.request(peer.url(), method="POST", redirect="manual"))
        scene.request.end(b"body")
        scene.recorder.wait("redirect")
        yield scene


@contextlib.contextmanager
def following_a_redirect(session: Session, tls: bool) -> Iterator[Scene]:
    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(307, {"Location": "/there"})
        conn.read_request()
        conn.hold()

    with peer_of(answer, tls) as peer:
        scene = Scene(session.request(peer.url(), method="POST"))
        scene.request.end(b"body")
        peer.wait_request(2)
        scene.until(lambda: scene.exchange.phase is Phase.WAITING)
        yield scene


@contextlib.contextmanager
def response_nobody_has_asked_for(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(scripted(BEGUN, Conn.hold), tls) as peer:
        scene = Scene(session.request(peer.url()))
        scene.request.end()
        scene.recorder.wait("response")
        yield scene


@contextlib.contextmanager
def reading_by_events(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(scripted(BEGUN, Conn.hold), tls) as peer:
        scene = Scene(session.request(peer.url()), consume=True)
        scene.request.end()
        scene.recorder.wait("data", "response")
        yield scene


@contextlib.contextmanager
def paused(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(scripted(BEGUN, Conn.hold), tls) as peer:
        scene = Scene(session.request(peer.url()), consume=True)
        scene.request.on("response", lambda response: response.on("data", lambda piece: response.pause()))
        scene.request.end()
        scene.recorder.wait("data", "response")
        yield scene


@contextlib.contextmanager
def reading_as_a_file(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(scripted(BEGUN, Conn.hold), tls) as peer:
        scene = Scene(session.request(peer.url()))
        scene.request.end()
        response = scene.response()
        assert response.read(5) == b"begun"
        scene.block(lambda: response.read(1))
        scene.until(response._incoming.turn.locked)
        yield scene


@contextlib.contextmanager
def reading_all_as_a_file(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(scripted(BEGUN, Conn.hold), tls) as peer:
        scene = Scene(session.request(peer.url()))
        scene.request.end()
        response = scene.response()
        scene.block(response.read)
        scene.until(response._incoming.turn.locked)
        yield scene


@contextlib.contextmanager
def between_two_reads(session: Session, tls: bool) -> Iterator[Scene]:
    with peer_of(scripted(BEGUN, Conn.hold), tls) as peer:
        scene = Scene(session.request(peer.url()))
        scene.request.end()
        assert scene.response().read(2) == b"be"
        yield scene


PHASES: list[tuple[Phases, list[str]]] = [
    (before_the_start, BEFORE_RESPONSE),
    (after_a_buffered_write, BEFORE_RESPONSE),
    (looking_up_the_name, BEFORE_RESPONSE),
    (connecting, BEFORE_RESPONSE),
    (shaking_hands, BEFORE_RESPONSE),
    (sending_to_one_who_does_not_read, BEFORE_RESPONSE),
    (sending_a_large_buffered_body, BEFORE_RESPONSE),
    (flushing, BEFORE_RESPONSE),
    (waiting_for_the_writer, BEFORE_RESPONSE),
    (corked, BEFORE_RESPONSE),
    (waiting_for_the_head, BEFORE_RESPONSE),
    (in_the_middle_of_the_head, BEFORE_RESPONSE),
    (waiting_for_continue, BEFORE_RESPONSE),
    (deciding_about_a_redirect, BEFORE_RESPONSE),
    (following_a_redirect, BEFORE_RESPONSE),
    (response_nobody_has_asked_for, IN_RESPONSE),
    (reading_by_events, IN_RESPONSE),
    (paused, IN_RESPONSE),
    (reading_as_a_file, IN_RESPONSE),
    (reading_all_as_a_file, IN_RESPONSE),
    (between_two_reads, IN_RESPONSE),
]
NO_TLS = {before_the_start, after_a_buffered_write}
ONLY_TLS = {shaking_hands}
CASES = [
    pytest.param(phase, ending, tls, id=f"{phase.__name__}-{'tls' if tls else 'plain'}")
    for (phase, ending), tls in itertools.product(PHASES, (False, True))
    if phase not in (NO_TLS if tls else ONLY_TLS)
]


@pytest.mark.parametrize(("phase", "ending", "tls"), CASES)
def test_abort_frees_everybody_at_once(
    session: Session, request: pytest.FixtureRequest, phase: Phases, ending: list[str], tls: bool
) -> None:
    with phase(session, tls) as scene:
        scene.block(scene.request.wait)
        if ending is BEFORE_RESPONSE:
            scene.block(scene.request.get_response)
        waiting = 1 + (ending is BEFORE_RESPONSE)
        scene.until(lambda: len(scene.exchange.news._waiters) == waiting)
        before = scene.recorder.outline()
        started = time.monotonic()
        scene.request.abort()
        returned = time.monotonic()
        scene.recorder.wait("close")
        free = [blocked.join() for blocked in scene.blocked] + [scene.closed]
        for blocked in scene.blocked:
            assert isinstance(blocked.error, AbortedError), f"it gave {blocked.result!r}, {blocked.error!r}"
            assert blocked.error.request is scene.request
        print(f"{request.node.callspec.id}: {1000 * (max(free) - started):.2f} ms")
        assert returned - started < AT_ONCE
        assert max(free) - started < AT_ONCE
        assert scene.recorder.outline() == before + ending
        scene.recorder.check_grammar()
        assert session._pools.idle() == []
        with pytest.raises(AbortedError):
            scene.request.write(b"more")
        with pytest.raises(AbortedError):
            scene.request.end()
        with pytest.raises(AbortedError):
            scene.request.get_response(0)
    assert scene.request.get_upload_progress() == (False, False, 0, 0)
    assert not scene.request.writable()


@pytest.mark.parametrize(("phase", "ending", "tls"), CASES)
def test_second_abort_has_no_effect(session: Session, phase: Phases, ending: list[str], tls: bool) -> None:
    with phase(session, tls) as scene:
        before = scene.recorder.outline()
        scene.request.abort()
        scene.request.abort()
        scene.recorder.wait("close")
        scene.request.abort()
        for blocked in scene.blocked:
            blocked.join()
        with pytest.raises(AbortedError):
            scene.request.wait(LIMIT)
        assert scene.recorder.outline() == before + ending


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_next_request_of_the_session_is_not_disturbed(session: Session, tls: bool) -> None:
    def answer(conn: Conn) -> None:
        conn.read_request()
        if conn.number == 1:
            conn.hold()
        conn.respond(body=b"ok")

    with peer_of(answer, tls) as peer:
        request = session.request(peer.url()).end()
        peer.wait_request()
        request.abort()
        assert session.request(peer.url()).end().get_response(LIMIT).read() == b"ok"
        with pytest.raises(AbortedError):
            request.wait(LIMIT)


def test_server_sees_the_end_of_the_connection(session: Session) -> None:
    """Of the connection, not of the body: what was cut does not look whole."""

    def watch(conn: Conn) -> None:
        request = conn.read_request()
        assert not request.complete
        assert request.cut_by in ("eof", "reset")

    with Peer(watch) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True)
        request.write(b"some")
        request.flush()
        peer.wait_request()
        request.abort()
        peer.join()


def test_server_of_a_reader_sees_the_end_of_the_connection(session: Session) -> None:
    ends: list[str] = []
    with Peer(scripted(BEGUN, lambda conn: ends.append(conn.wait_closed()))) as peer:
        request = session.request(peer.url()).end()
        request.get_response(LIMIT).read(5)
        request.abort()
        peer.join()
    assert len(ends) == 1


# --- from the inside ---


def abort_in(request: ClientRequest, event: str) -> None:
    source, _, name = event.rpartition(".")
    if source:
        request.on("response", lambda response: response.on(name, lambda *args: request.abort()))
    else:
        request.on(name, lambda *args: request.abort())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    ("event", "ending"),
    [
        ("finish", BEFORE_RESPONSE),
        ("information", BEFORE_RESPONSE),
        ("continue", BEFORE_RESPONSE),
        ("upload-progress", BEFORE_RESPONSE),
        ("response", IN_RESPONSE),
        ("response.data", IN_RESPONSE),
        ("response.download-progress", IN_RESPONSE),
        ("response.end", ["abort", "response.close", "close"]),
    ],
)
def test_abort_in_a_listener(session: Session, event: str, ending: list[str], tls: bool) -> None:
    with peer_of(scripted(b"HTTP/1.1 100 Continue\r\n\r\n", OK), tls) as peer:
        request = session.request(peer.url(), method="POST")
        recorder = Recorder(request, consume=True)
        abort_in(request, event)
        request.end(b"body")
        recorder.wait("close")
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
        names = [name for name in recorder.names() if "progress" not in name]
    assert names[-len(ending) :] == ending
    assert "abort" not in names[: -len(ending)]
    recorder.check_grammar()


@pytest.mark.parametrize("event", ["close", "response.close"])
def test_abort_at_close_comes_too_late(session: Session, event: str) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        recorder = Recorder(request, consume=True)
        abort_in(request, event)
        request.end()
        recorder.wait("close")
        assert request.wait(LIMIT)
    assert recorder.outline() == ["finish", "response", "response.data", "response.end", "response.close", "close"]


def test_abort_at_error_does_not_hide_the_error(session: Session) -> None:
    with Peer(scripted(Conn.reset)) as peer:
        request = session.request(peer.url())
        recorder = Recorder(request)
        abort_in(request, "error")
        request.end()
        recorder.wait("close")
        with pytest.raises(ClientRequestError) as raised:
            request.wait(LIMIT)
    assert not isinstance(raised.value, AbortedError)
    assert recorder.outline() == ["finish", "error", "close"]


def test_abort_at_drain(session: Session) -> None:
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True, high_water_mark=10, blocking=False)
        recorder = Recorder(request)
        abort_in(request, "drain")
        request.write(b"x" * 1000)
        recorder.wait("close")
    assert recorder.outline() == ["abort", "close"]


@pytest.mark.parametrize("chunked", [False, True])
def test_abort_in_a_write_callback(session: Session, chunked: bool) -> None:
    """The callbacks behind it get the error."""
    later: list[object] = []
    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=chunked)
        recorder = Recorder(request)
        request.cork()
        request.write(b"x", callback=lambda error: request.abort())
        request.write(b"y", callback=later.append)
        request.end(callback=later.append)
        recorder.wait("close")
    assert [type(error) for error in later] == [AbortedError, AbortedError]
    assert recorder.names()[-2:] == ["abort", "close"]


def test_abort_in_the_callback_that_an_abort_calls(session: Session) -> None:
    request = session.request("http://127.0.0.1:9/", method="POST")
    recorder = Recorder(request)
    request.write(b"x", callback=lambda error: request.abort())
    request.abort()
    recorder.wait("close")
    assert recorder.names() == ["abort", "close"]


def test_abort_while_a_listener_runs(session: Session) -> None:
    """From another thread; the listener is not interrupted, and what would follow it does not come."""
    inside, go_on = Gate(), Gate()

    def hold(*_: object) -> None:
        inside.set()
        go_on.wait()

    with Peer(scripted(OK)) as peer:
        request = session.request(peer.url())
        recorder = Recorder(request, consume=True)
        request.on("response", recorder.guard(hold))
        request.end()
        inside.wait()
        started = time.monotonic()
        request.abort()
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
        assert time.monotonic() - started < AT_ONCE
        assert recorder.outline() == ["finish", "response"]
        go_on.set()
        recorder.wait("close")
    assert recorder.outline() == ["finish", "response", *IN_RESPONSE]
    recorder.check_grammar()


def test_session_that_is_closed_aborts_what_runs(session: Session) -> None:
    with Peer(scripted(Conn.hold)) as peer:
        requests = [session.request(peer.url()) for _ in range(3)]
        recorders = [Recorder(request) for request in requests]
        for request in requests:
            request.end()
        for number in range(3):
            peer.wait_request(number + 1)
        session.close()
        for recorder in recorders:
            recorder.wait("close")
            assert recorder.outline() == ["finish", "abort", "close"]


# --- no byte after it ---

PATTERN = bytes(range(251)) * 4096


def pour(conn: Conn) -> None:
    """Send a body without end, whose every byte is known."""
    conn.read_request()
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    while True:
        conn.send(PATTERN)


def check_pattern(body: bytes) -> None:
    whole, rest = divmod(len(body), len(PATTERN))
    assert body == PATTERN * whole + PATTERN[:rest], "these are not the bytes of the body"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("round_number", range(5))
def test_no_data_event_after_an_abort(session: Session, tls: bool, round_number: int) -> None:
    with peer_of(pour, tls) as peer:
        request = session.request(peer.url())
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("data", "response", count=1 + round_number)
        request.abort()
        recorder.wait("close")
    names = recorder.outline()
    assert names[names.index("abort") :] == IN_RESPONSE
    check_pattern(bytes(recorder.body))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("read", ["read1", "read"])
def test_no_read_gives_anything_after_an_abort(session: Session, tls: bool, read: str) -> None:
    """Bytes that are here already are not given either, and never anything that is not the body."""
    aborted = threading.Event()
    begun = Gate()
    body = bytearray()
    late: list[bytes] = []

    with peer_of(pour, tls) as peer:
        request = session.request(peer.url()).end()
        response = request.get_response(LIMIT)

        def read_all() -> None:
            while True:
                is_late = aborted.is_set()
                piece = getattr(response, read)(100_000)
                begun.set()
                body.extend(piece)
                if is_late:
                    late.append(piece)

        reader = Blocked(read_all)
        begun.wait()
        request.abort()
        aborted.set()
        reader.join()
        assert isinstance(reader.error, AbortedError)
        with pytest.raises(AbortedError):
            response.read(1)
        with pytest.raises(AbortedError):
            response.readline()
    assert late == []
    check_pattern(bytes(body))


@pytest.mark.parametrize("round_number", range(5))
def test_aborted_upload_leaks_nothing_through_tls(session: Session, round_number: int) -> None:
    """The server's TLS would complain of anything that was not encrypted."""

    def swallow(conn: Conn) -> None:
        conn.drain_body(conn.read_request(body=False))

    with peer_of(swallow, True) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=True)

        def pour_in() -> None:
            while True:
                request.write(PATTERN)

        writer = Blocked(pour_in)
        peer.wait_request()
        request.abort()
        writer.join()
        assert isinstance(writer.error, AbortedError)
        peer.join()
        with pytest.raises(AbortedError):
            request.wait(LIMIT)


def test_a_hundred_blocked_requests_are_aborted_together(session: Session) -> None:
    count = 100
    with Peer(scripted(Conn.hold)) as peer:
        requests = [session.request(peer.url()).end() for _ in range(count)]
        for number in range(count):
            peer.wait_request(number + 1)
        started = time.monotonic()
        for request in requests:
            request.abort()
        for request in requests:
            with pytest.raises(AbortedError):
                request.wait(LIMIT)
        print(f"{count} requests: {1000 * (time.monotonic() - started):.1f} ms")
        assert time.monotonic() - started < 5 * AT_ONCE
