"""`abort()` at every single step that a worker takes, for every kind of request.

The first run of a scenario is aborted at its first step, the next one at its second, and so on, until a run comes to
its own end. Each is followed by another request on the same session, which finds everything in order.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import ssl
import threading
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Optional

import pytest

from clientrequest import AbortedError, ClientRequest, ClientRequestError, Session
from clientrequest._exchange import Exchange, _live
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, Request, ca_path, server_context

MOST_STEPS = 150
AFTER = b"after"
BODY = bytes(range(256)) * 1024

# --- the abort ---


class Trap:
    """Aborts one request at its `number`-th step: in the step itself, or from another thread while it waits there."""

    def __init__(self, number: int, from_outside: bool) -> None:
        self.request: Optional[ClientRequest] = None
        self.passed: list[str] = []
        """The steps that were taken."""
        self.sprung = False
        self._number = number
        self._from_outside = from_outside
        self._reached, self._done = Gate("reached"), Gate("done")
        self._aborter = threading.Thread(target=self._abort_when_reached, daemon=True)
        self._given_up = False

    def step(self, go_on: Callable[[Exchange, str], None], exchange: Exchange, name: str) -> None:
        """Stands in for `Exchange.step`."""
        if self.request is not None and exchange is self.request._exchange:
            self.passed.append(name)
            if len(self.passed) == self._number + 1:
                self._spring()
        go_on(exchange, name)

    def _spring(self) -> None:
        assert self.request is not None
        self.sprung = True
        if self._from_outside:
            self._reached.set()
            self._done.wait()
        else:
            self.request.abort()

    def _abort_when_reached(self) -> None:
        self._reached.wait(3 * LIMIT)
        if not self._given_up:
            assert self.request is not None
            self.request.abort()
            self._done.set()

    @contextlib.contextmanager
    def set_for(self, request: ClientRequest) -> Iterator[None]:
        self.request = request
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Exchange, "step", functools.partialmethod(_step, self, Exchange.step))
            if self._from_outside:
                self._aborter.start()
            yield
            if self._from_outside:
                self._given_up = not self.sprung
                self._reached.set()
                self._aborter.join(LIMIT)


def _step(exchange: Exchange, trap: Trap, go_on: Callable[[Exchange, str], None], name: str) -> None:
    trap.step(go_on, exchange, name)


# --- what servers do ---

Answer = Callable[[Conn, Request], object]
"""Gives something true when the connection is over."""


def serve(answer: Answer) -> Callable[[Conn], None]:
    """A handler that answers `/x` in its own way, and everything else plainly."""

    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request(body=False)
            if request.target == "/x":
                if answer(conn, request):
                    return
            else:
                conn.drain_body(request)
                conn.respond(body=AFTER)

    return handle


def whole(conn: Conn, request: Request) -> None:
    if conn.drain_body(request).complete:
        conn.respond(body=BODY)


def in_chunks(conn: Conn, request: Request) -> None:
    if conn.drain_body(request).complete:
        conn.respond(body=[b"a", b"b" * 5000, b"c"], chunked=True)


def zipped(conn: Conn, request: Request) -> None:
    if conn.drain_body(request).complete:
        conn.respond(headers={"Content-Encoding": "gzip"}, body=gzip.compress(BODY))


def with_hints(conn: Conn, request: Request) -> None:
    if conn.drain_body(request).complete:
        conn.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        conn.respond(body=b"ok")


def with_continue(conn: Conn, request: Request) -> None:
    conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    whole(conn, request)


def too_early(conn: Conn, request: Request) -> bool:
    # Said so, because the client may happen to have sent all of its body before it sees the answer.
    conn.respond(413, {"Connection": "close"}, body=b"too much")
    conn.wait_closed()
    return True


def until_the_end(conn: Conn, request: Request) -> bool:
    if conn.drain_body(request).complete:
        conn.send(b"HTTP/1.1 200 OK\r\n\r\nto the end")
    return True


def elsewhere(conn: Conn, request: Request) -> None:
    if conn.drain_body(request).complete:
        conn.respond(307, {"Location": "/there"}, body=b"not here")


def elsewhere_at_once(conn: Conn, request: Request) -> bool:
    conn.respond(307, {"Location": "/there", "Connection": "close"})
    conn.wait_closed()
    return True


def nonsense(conn: Conn, request: Request) -> bool:
    conn.send(b"nonsense\r\n\r\n")
    conn.wait_closed()
    return True


def cut_short(conn: Conn, request: Request) -> bool:
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")
    return True


def reset(conn: Conn, request: Request) -> bool:
    conn.reset()
    return True


def gone_at_the_second(conn: Conn, request: Request) -> bool:
    """A connection that was used before is closed without an answer."""
    if len(conn.requests) > 1:
        return True
    whole(conn, request)
    return False


# --- what clients do ---


def by_events(request: ClientRequest) -> None:
    request.end()


def as_a_file(request: ClientRequest) -> None:
    request.end()
    response = request.get_response(LIMIT)
    while response.read1(4096):
        pass


def paused_now_and_then(request: ClientRequest) -> None:
    request.on("response", pause_at_data)
    request.end()


def pause_at_data(response: Any) -> None:
    @response.on("data")
    def pause(piece: bytes) -> None:
        response.pause()
        threading.Thread(target=response.resume).start()


def unread(request: ClientRequest) -> None:
    request.end()
    request.wait(LIMIT)


def buffered(request: ClientRequest) -> None:
    request.write(b"some ")
    request.end(BODY)


def chunked(request: ClientRequest) -> None:
    request.chunked_encoding = True
    for _ in range(3):
        request.write(b"x" * 1000)
        request.flush()
    request.end(b"last")


def chunked_over_the_mark(request: ClientRequest) -> None:
    request.chunked_encoding = True
    for _ in range(20):
        request.write(b"x" * 200_000)
    request.end()


def known_length(request: ClientRequest) -> None:
    request.set_header("Content-Length", 2000)
    request.write(b"x" * 1000)
    request.flush()
    request.end(b"x" * 1000)


def expecting(request: ClientRequest) -> None:
    request.set_header("Expect", "100-continue")
    request.end(BODY)


def expecting_chunked(request: ClientRequest) -> None:
    request.chunked_encoding = True
    request.set_header("Expect", "100-continue")
    request.write(b"x" * 1000)
    request.end(b"y")


class Scenario(NamedTuple):
    name: str
    send: Callable[[ClientRequest], None]
    answer: Answer
    consume: bool = True
    reuse: bool = False
    """Whether an idle connection is there when it begins."""
    fails: bool = False
    """Whether it ends with an error where nobody aborts it."""


SCENARIOS = [
    Scenario("get by events", by_events, whole),
    Scenario("get chunks by events", by_events, in_chunks),
    Scenario("get as a file", as_a_file, whole, consume=False),
    Scenario("get paused", paused_now_and_then, whole),
    Scenario("get unread", unread, whole, consume=False),
    Scenario("get gzip by events", by_events, zipped),
    Scenario("get gzip as a file", as_a_file, zipped, consume=False),
    Scenario("get after hints", by_events, with_hints),
    Scenario("get to the end of the connection", by_events, until_the_end),
    Scenario("get on a used connection", by_events, whole, reuse=True),
    Scenario("get on a dying connection", by_events, gone_at_the_second, reuse=True),
    Scenario("buffered post", buffered, whole),
    Scenario("buffered post as a file", lambda r: (buffered(r), r.get_response(LIMIT).read()), whole, consume=False),
    Scenario("chunked post", chunked, in_chunks),
    Scenario("chunked post over the mark", chunked_over_the_mark, whole),
    Scenario("chunked post on a used connection", chunked, whole, reuse=True),
    Scenario("known length", known_length, whole),
    Scenario("post with continue", expecting, with_continue),
    Scenario("chunked post with continue", expecting_chunked, with_continue),
    Scenario("early answer to a buffered post", expecting, too_early),
    Scenario("early answer to a chunked post", chunked_over_the_mark, too_early),
    Scenario("redirected get", by_events, elsewhere),
    Scenario("redirected buffered post", buffered, elsewhere),
    Scenario("redirected chunked post", chunked, elsewhere),
    Scenario("chunked post redirected early", chunked, elsewhere_at_once),
    Scenario("nonsense", by_events, nonsense, fails=True),
    Scenario("cut short", by_events, cut_short, fails=True),
    Scenario("reset", buffered, reset, fails=True),
]


def run(session: Session, peer: Peer, scenario: Scenario, trap: Trap) -> None:
    if scenario.reuse:
        fetch(session, peer, "/warm")
        assert session._pools.idle()
    method = "GET" if scenario.send in (by_events, as_a_file, paused_now_and_then, unread) else "POST"
    request = session.request(peer.url("/x"), method=method)
    recorder = Recorder(request, consume=scenario.consume, skip=() if scenario.consume else ("response",))
    with trap.set_for(request):
        with contextlib.suppress(ClientRequestError):
            scenario.send(request)
        recorder.wait("close")
    check(scenario, trap, request, recorder)


def check(scenario: Scenario, trap: Trap, request: ClientRequest, recorder: Recorder) -> None:
    names = recorder.names()
    context = f"aborted at step {len(trap.passed)} of {trap.passed}: {names}"
    assert names.count("close") == 1, context
    assert names[-1] == "close", context
    recorder.check_grammar(early_answer=scenario.answer is too_early)
    if trap.sprung:
        assert "abort" in names, context
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
    elif scenario.fails:
        assert {"error", "response.error"} & set(names), context
    else:
        assert request.wait(LIMIT)
        assert not {"error", "response.error", "abort"} & set(names), context
    # After an abort ``wait`` lets go within 50 ms, be the worker done with its last lines or not.
    assert request._exchange.news.wait_for(lambda: request._exchange.closed, LIMIT)
    assert request._exchange not in _live
    assert request._exchange not in request.session._running


def fetch(session: Session, peer: Peer, path: str) -> None:
    request = session.request(peer.url(path)).end()
    assert request.get_response(LIMIT).read() == AFTER
    assert request.wait(LIMIT)


@pytest.mark.parametrize("from_outside", [False, True], ids=["from the worker", "from outside"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_abort_at_every_step(scenario: Scenario, tls: bool, from_outside: bool) -> None:
    context = server_context() if tls else None
    peer = Peer(serve(scenario.answer), tls=context, expect_errors=True)
    with peer, Session(tls=ca_path()) as session:
        for number in itertools.count():
            assert number < MOST_STEPS, "it never comes to its end"
            trap = Trap(number, from_outside)
            run(session, peer, scenario, trap)
            fetch(session, peer, "/after")
            if not trap.sprung:
                break
            session.close_connections()
    assert number > 3, f"too few steps to mean anything: {trap.passed}"
    assert trap.passed[0] == "start"
    # An answer may meet the end of a connection that was aborted, which over TLS has an error of its own.
    assert [error for error in peer.errors if not isinstance(error, ssl.SSLEOFError)] == []
