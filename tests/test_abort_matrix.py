"""The end of a request: wherever it is, whatever it goes over, whoever ends it. All cells of one table.

`MOMENTS` x `WAYS` x `MEANS`, and `why_not` for the cells that cannot be. In each: who is blocked is free at once, the
events are those of the contract, nothing is left, and another request of the same session comes to its good end.

    ABORT_MATRIX=whole      plays all cells; else as many as it takes to have each two of the three together
    ABORT_TIMES=1           prints how long it took until all were free (in one process: -n 0)
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import signal
import ssl
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable, NamedTuple, Optional

import pytest

from clientrequest import AbortedError, ClientRequestError, RequestTimeout, Session, Timeout
from clientrequest._lifecycle import Phase
from clientrequest._tls import _IGNORE_UNEXPECTED_EOF, is_cut
from tests.support import LIMIT, Conn, EndOfStream, Gate, Peer, Recorder, blackhole, ca_path, server_context
from tests.support.proxies import ESTABLISHED
from tests.test_abort import (
    AT_ONCE,
    BEFORE_RESPONSE,
    BEGUN,
    IN_RESPONSE,
    PATTERN,
    Blocked,
    Scene,
    check_pattern,
    pour,
    slow_names,
)

HALF = b"half of it" * 1000
POKE = b"poke"
MUCH = bytes(32 << 20)
"""More than all buffers on the way can hold."""
BRIEF = 0.03
"""Seconds that are left until the total timeout, once a request is where it shall be."""

# ------------------------------------------------------------------------------
# Ways: what a request goes over

TLS, PROXY_TLS, CONNECT = "TLS with the server", "TLS with the proxy", "CONNECT"
GREETING, SOCKS_REQUEST = "SOCKS greeting", "SOCKS request"
NAMES = ("127.0.0.1", "origin.example")


class Way(NamedTuple):
    """What lies between a request and its server; the peer plays all of it."""

    scheme: str
    proxy: str = ""
    """The scheme of the proxy's URL."""
    layers: tuple[str, ...] = ()
    """What is done on each connection before the first request."""


WAYS = {
    "plain": Way("http"),
    "TLS": Way("https", "", (TLS,)),
    "HTTP proxy": Way("http", "http"),
    "tunnel": Way("https", "http", (CONNECT, TLS)),
    "TLS in TLS": Way("https", "https", (PROXY_TLS, CONNECT, TLS)),
    "SOCKS": Way("https", "socks5h", (GREETING, SOCKS_REQUEST, TLS)),
}


def secure(conn: Conn) -> None:
    conn.start_tls(server_context(*NAMES))


def secure_strictly(conn: Conn) -> None:
    """A connection that is cut is told from one that the client has said goodbye on, which some Pythons hide."""
    context = server_context(*NAMES)
    context.options &= ~_IGNORE_UNEXPECTED_EOF
    conn.start_tls(context)


def open_tunnel(conn: Conn) -> None:
    assert conn.read_request().method == "CONNECT"
    conn.send(ESTABLISHED)


def greet(conn: Conn) -> None:
    _, count = conn.recv_exact(2)
    conn.recv_exact(count)
    conn.send(b"\x05\x00")


def grant(conn: Conn) -> None:
    _, _, _, kind = conn.recv_exact(4)
    assert kind == 3
    struct.unpack("!H", conn.recv_exact(conn.recv_exact(1)[0] + 2)[-2:])
    conn.send(b"\x05\x00\x00\x01" + bytes(6))


LAYERS = {TLS: secure, PROXY_TLS: secure, CONNECT: open_tunnel, GREETING: greet, SOCKS_REQUEST: grant}


# ------------------------------------------------------------------------------
# Moments: where a request is

SERVER, NOWHERE, UNKNOWN = "server", "nowhere", "unknown"
"""Whom the first connection of a request goes to: one who answers, one who never does, one whose name is not found."""

Calls = Callable[["Play"], Callable[[], object]]

CONNECTS = "its worker is busy with the connection, and none of its listeners can run"
NOT_BEGUN = "nothing of it runs yet"


def at_there(play: Play) -> object:
    return play.there.wait()


def at_once(play: Play) -> None:
    """It is there as soon as it is sent."""


def just_end(play: Play) -> object:
    return play.request.end()


def hold_unread(play: Play, conn: Conn) -> None:
    conn.read_request(body=False)
    play.there.set()
    conn.hold()


class Moment(NamedTuple):
    """Where a request is when it is ended, and how it comes there."""

    ending: list[str]
    """The events that an abort leads to."""
    silent: str = ""
    """Why no listener of its own can run just then."""
    event: str = ""
    """Else the event of one that does; of the response with `response.` before it."""
    held: bool = False
    """The listener runs on, whoever ends the request."""
    place: str = SERVER
    stop: str = ""
    """The layer in which the connection stays."""
    stopped_with: bytes = b""
    """What that layer still answers."""
    serve: Callable[[Play, Conn], object] = hold_unread
    options: dict[str, Any] = {}  # noqa: RUF012
    consume: bool = False
    send: Callable[[Play], object] = just_end
    reached: Callable[[Play], object] = at_there
    call: Optional[Calls] = None
    """What the user is blocked in, besides `wait()` and `get_response()`."""
    blocked: Callable[[Play], bool] = lambda play: True


POST = {"method": "POST"}
CHUNKED = {"method": "POST", "chunked_encoding": True}


def writes_much(play: Play) -> Callable[[], object]:
    return functools.partial(play.request.write, MUCH)


def in_outbox(play: Play) -> bool:
    return bool(play.scene.exchange.outbox.room._waiters)


def in_outbox_and_sending(play: Play) -> bool:
    return in_outbox(play) and play.scene.exchange.outbox.position > 0


def send_and_flush(play: Play) -> None:
    play.request.write(b"some")
    play.request.flush()


def sent_some(play: Play) -> None:
    play.scene.until(lambda: play.scene.exchange.outbox.position > 0)


def hint(play: Play, conn: Conn) -> None:
    conn.read_request()
    conn.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    conn.hold()


def answer_with(*answer: bytes) -> Callable[[Play, Conn], object]:
    def serve(play: Play, conn: Conn) -> None:
        conn.read_request()
        for piece in answer:
            conn.send(piece)
        conn.hold()

    return serve


def head(status: str, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "Content-Length: 0", "", ""]).encode()


def seen(name: str, source: str = "request") -> Callable[[Play], object]:
    return lambda play: play.scene.recorder.wait(name, source)


def waits_for_head(play: Play) -> None:
    play.scene.recorder.wait("information")
    play.scene.until(lambda: play.scene.exchange.phase is Phase.WAITING)


def takes_response(play: Play) -> None:
    play.response = play.request.get_response(LIMIT)
    play.scene.recorder.wait("response")  # the event may come later than the response itself
    assert play.response.read(5) == b"begun"


def in_turn(play: Play) -> bool:
    return bool(play.response._incoming.turn.locked())


def read_in_listener(play: Play) -> None:
    def read(response: Any) -> None:
        play.response = response
        play.expire()
        with pytest.raises(ClientRequestError):
            response.read()

    play.request.on("response", play.scene.recorder.guard(read))
    play.request.end()


def reads_in_listener(play: Play) -> None:
    # Or it was in there: the time may be over by now.
    play.scene.until(lambda: play.scene.exchange.over or (play.response is not None and in_turn(play)))


def pause_at_data(play: Play) -> None:
    play.request.on("response", lambda response: response.on("data", lambda piece: response.pause()))
    play.request.end()


WANTS_LOGIN = head("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"')
PROXY_WANTS_LOGIN = head("407 Who?", 'Proxy-Authenticate: Basic realm="x"')
ELSEWHERE = head("307 Elsewhere", "Location: /there")

MOMENTS = {
    "before the start": Moment(BEFORE_RESPONSE, NOT_BEGUN, send=at_once, reached=at_once),
    "written to, not begun": Moment(
        BEFORE_RESPONSE, NOT_BEGUN, options=POST, send=lambda play: play.request.write(b"some"), reached=at_once
    ),
    "name lookup": Moment(BEFORE_RESPONSE, CONNECTS, place=UNKNOWN, reached=lambda play: play.asked.wait()),
    "TCP": Moment(
        BEFORE_RESPONSE,
        CONNECTS,
        place=NOWHERE,
        reached=lambda play: play.scene.until(lambda: bool(play.scene.exchange._exposed)),
    ),
    PROXY_TLS: Moment(BEFORE_RESPONSE, CONNECTS, stop=PROXY_TLS),
    CONNECT: Moment(BEFORE_RESPONSE, CONNECTS, stop=CONNECT),
    GREETING: Moment(BEFORE_RESPONSE, CONNECTS, stop=GREETING),
    SOCKS_REQUEST: Moment(BEFORE_RESPONSE, CONNECTS, stop=SOCKS_REQUEST),
    TLS: Moment(BEFORE_RESPONSE, CONNECTS, stop=TLS),
    "write() while it connects": Moment(
        BEFORE_RESPONSE, CONNECTS, place=NOWHERE, options=CHUNKED, send=at_once, reached=at_once,
        call=writes_much, blocked=in_outbox,
    ),
    "write() at the mark": Moment(
        BEFORE_RESPONSE, event="upload-progress", options=CHUNKED, send=at_once, reached=at_once,
        call=writes_much, blocked=in_outbox_and_sending,
    ),
    "flush()": Moment(
        BEFORE_RESPONSE,
        event="upload-progress",
        options={**CHUNKED, "high_water_mark": 1 << 30},
        send=lambda play: play.request.write(MUCH),
        call=lambda play: play.request.flush,
        blocked=in_outbox,
    ),
    "sending": Moment(
        BEFORE_RESPONSE, event="upload-progress", options=POST, send=lambda play: play.request.end(MUCH),
        reached=sent_some,
    ),
    "waiting for the writer": Moment(
        BEFORE_RESPONSE,
        "its worker waits, and has nothing to tell",
        options=CHUNKED,
        send=send_and_flush,
        reached=lambda play: play.scene.until(lambda: play.scene.exchange.outbox.starving),
    ),
    "in a write callback": Moment(
        BEFORE_RESPONSE, event="write callback", held=True, options=CHUNKED,
        send=lambda play: play.request.write(b"some", callback=lambda error: play.listener()), reached=at_once,
    ),
    "write() while a listener runs": Moment(
        BEFORE_RESPONSE, event="upload-progress", held=True, options=CHUNKED, send=at_once, reached=at_once,
        call=writes_much, blocked=in_outbox_and_sending,
    ),
    "waiting for the head": Moment(BEFORE_RESPONSE, event="information", serve=hint, reached=waits_for_head),
    "login": Moment(BEFORE_RESPONSE, event="login", serve=answer_with(WANTS_LOGIN), reached=seen("login")),
    "login at the proxy": Moment(
        BEFORE_RESPONSE, event="login", stop=CONNECT, stopped_with=PROXY_WANTS_LOGIN, reached=seen("login")
    ),
    "redirect": Moment(
        BEFORE_RESPONSE, event="redirect", options={"redirect": "manual"}, serve=answer_with(ELSEWHERE),
        reached=seen("redirect"),
    ),
    "in a response listener": Moment(
        IN_RESPONSE, event="response", held=True, serve=answer_with(BEGUN), reached=seen("response")
    ),
    "reading in a response listener": Moment(
        IN_RESPONSE, "the listener is the one that reads", serve=answer_with(BEGUN), send=read_in_listener,
        reached=reads_in_listener,
    ),
    "response that nobody reads": Moment(
        IN_RESPONSE, "of a body that nobody takes nothing is told", serve=answer_with(BEGUN), reached=seen("response"),
    ),
    "read()": Moment(
        IN_RESPONSE, event="response.download-progress", serve=answer_with(BEGUN), reached=takes_response,
        call=lambda play: play.response.read, blocked=in_turn,
    ),
    "readinto()": Moment(
        IN_RESPONSE, event="response.download-progress", serve=answer_with(BEGUN), reached=takes_response,
        call=lambda play: functools.partial(play.response.readinto, bytearray(100)), blocked=in_turn,
    ),
    "iteration": Moment(
        IN_RESPONSE, event="response.download-progress", serve=answer_with(BEGUN), reached=takes_response,
        call=lambda play: lambda: list(play.response), blocked=in_turn,
    ),
    "read() while a listener runs": Moment(
        IN_RESPONSE, event="response.download-progress", held=True, serve=answer_with(BEGUN), reached=takes_response,
        call=lambda play: play.response.read, blocked=in_turn,
    ),
    "data flows": Moment(
        IN_RESPONSE, event="response.data", serve=lambda play, conn: pour(conn), consume=True,
        reached=seen("data", "response"),
    ),
    "paused": Moment(
        IN_RESPONSE, event="response.data", serve=answer_with(BEGUN), consume=True, send=pause_at_data,
        reached=seen("data", "response"),
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------
# Means: who ends it

ABORT, OWN, OTHERS = "abort()", "abort() in a listener", "abort() in a listener of another request"
CLOSE, TOTAL, CTRL_C = "session.close()", "total timeout", "Ctrl-C"
MEANS = (ABORT, OWN, OTHERS, CLOSE, TOTAL, CTRL_C)


def why_not(moment: Moment, way: Way, means: str) -> str:
    """Why there is no such cell; empty if there is."""
    if moment.stop and moment.stop not in way.layers:
        return f"no {moment.stop} on this way"
    if means == OWN and moment.silent:
        return moment.silent
    if moment.silent == NOT_BEGUN and means == CLOSE:
        return "session.close() aborts what runs, and this does not run"
    if moment.silent == NOT_BEGUN and means == TOTAL:
        return "the time begins with the start"
    if moment.held and means == TOTAL:
        return "its worker keeps the time, and is in the listener"
    if means == CTRL_C and not hasattr(signal, "pthread_kill"):
        return "no signal to one thread on this system"
    return ""


Cell = tuple[str, str, str]
CELLS: list[Cell] = [
    cell for cell in itertools.product(MOMENTS, WAYS, MEANS) if not why_not(MOMENTS[cell[0]], WAYS[cell[1]], cell[2])
]


def pairs(cell: Cell) -> set[tuple[str, str]]:
    moment, way, means = cell
    return {("moment " + moment, way), ("moment " + moment, means), (way, means)}


def cover(cells: list[Cell]) -> list[Cell]:
    """Some of the cells, in which each two of moment, way and means that go together are together once."""
    left = set().union(*map(pairs, cells))
    chosen = []
    for enough in (3, 2, 1):
        for cell in cells:
            if len(pairs(cell) & left) >= enough:
                chosen.append(cell)
                left -= pairs(cell)
    return chosen


PLAYED = CELLS if os.environ.get("ABORT_MATRIX") == "whole" else cover(CELLS)


# ------------------------------------------------------------------------------
# The play


class Play:
    """One cell: a request on its way to its moment, and whoever is about to end it."""

    def __init__(self, cell: Cell, stack: ExitStack) -> None:
        moment, way, self.means = cell
        self.moment, self.way = MOMENTS[moment], WAYS[way]
        self.there, self.inside, self.go_on = Gate("there"), Gate("inside the listener"), Gate("go on")
        self.asked = Gate("never")
        self.response: Any = None
        self.neighbour_goes_on = Gate("the neighbour's second half"), Gate("the neighbour's last word")
        self._stack = stack
        self._environment = stack.enter_context(pytest.MonkeyPatch.context())
        self.peer = stack.enter_context(Peer(self._serve))
        self.session = self._make_session()

    def _make_session(self) -> Session:
        # The environment chooses the proxy, anew for each host: a request can so be sent where nobody answers, while
        # another one of the session has its own way. A turn that is not given back would be missed.
        return self._stack.enter_context(Session(tls=ca_path(), max_connections_per_host=2))

    # --- the server's side ---

    def _serve(self, conn: Conn) -> None:
        is_neighbour = conn.number == 1
        for layer in self.way.layers:
            if layer == self.moment.stop and not is_neighbour:
                conn.recv_some()
                conn.send(self.moment.stopped_with)
                self.there.set()
                conn.hold()
                raise EndOfStream("it has left")
            LAYERS[layer](conn)
        if is_neighbour:
            self._serve_neighbour(conn)
        else:
            self.moment.serve(self, conn)

    def _serve_neighbour(self, conn: Conn) -> None:
        request = conn.read_request(body=False)
        if request.method == "POST":
            conn.respond(body=conn.drain_body(request).sha256.encode())
        else:
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(HALF) + len(POKE)))
            for gate, piece in zip((None, *self.neighbour_goes_on), (HALF, POKE, HALF)):
                if gate is not None:
                    gate.wait()
                conn.send(piece)
        conn.read_head()  # nothing more comes

    # --- where to ---

    def _address(self, place: str) -> tuple[str, int]:
        if place == NOWHERE:
            return "127.0.0.1", self._stack.enter_context(blackhole())
        return ("127.0.0.1" if place == SERVER else "slow.example"), self.peer.port

    def url(self, place: str, path: str) -> str:
        """The URL; the environment leads there."""
        host, port = self._address(place)
        proxy = f"{self.way.proxy}://{host}:{port}" if self.way.proxy else ""
        for name, value in (("http_proxy", proxy), ("https_proxy", proxy), ("no_proxy", "")):
            self._environment.setenv(name, value)
        if not self.way.proxy:
            return f"{self.way.scheme}://{host}:{port}{path}"
        return f"{self.way.scheme}://{'origin' if place == SERVER else 'other'}.example{path}"

    # --- the user's side ---

    def begin(self) -> None:
        """Have the request come to its moment, with everybody blocked who can be."""
        moment = self.moment
        session = self._make_session() if self.means == CLOSE else self.session
        self.neighbour = Neighbour(self, session, upload=next(_turn) % 2 == 0)
        if moment.place == UNKNOWN:
            self.asked = self._stack.enter_context(slow_names())
        self.request = self.session.request(
            self.url(moment.place, "/x"), timeout=Timeout(total=10 * LIMIT), **moment.options
        )
        self.scene = Scene(self.request, consume=moment.consume)
        # Whatever happens, nobody stays in a listener.
        self._stack.callback(self.go_on.set)
        if moment.held or self.means == OWN:
            self._attach(moment.event)
        moment.send(self)
        moment.reached(self)
        if self.response is not None:
            self.expire()  # now, before somebody is in a read that would not look at it again
        calls = [self.request.wait]
        if moment.ending is BEFORE_RESPONSE:
            calls.append(self.request.get_response)
        self.waiting = len(calls)
        if moment.call is not None:
            calls.append(moment.call(self))
        self.in_main = calls.pop(-1 if moment.call is not None else 0) if self.means == CTRL_C else None
        for call in calls:
            self.scene.block(call)
        if self.in_main is None:
            self.until_all_blocked()
            self.note_events()

    def _attach(self, event: str) -> None:
        source, _, name = event.rpartition(".")
        if source:
            self.request.on("response", lambda response: response.on(name, lambda *args: self.listener()))
        elif event != "write callback":
            self.request.on(event, lambda *args: self.listener())

    def listener(self) -> None:
        """Stays until it is told to go on, and is the one to abort if that is so."""
        self.inside.set()
        self.go_on.wait()
        if self.means == OWN and not self.aborted_inside:
            self.aborted_inside = True
            self.request.abort()

    aborted_inside = False

    def until_all_blocked(self) -> None:
        exchange = self.scene.exchange
        self.scene.until(lambda: exchange.over or len(exchange.news._waiters) == self.waiting)
        self.scene.until(lambda: exchange.over or self.moment.blocked(self))
        if self.moment.held or self.means == OWN:
            self.inside.wait()

    def note_events(self) -> None:
        """Keep what has come before the end. Only the first time: once time runs, the end may come at any moment."""
        self.before = self.before or self.scene.recorder.outline()

    before: Optional[list[str]] = None

    def expire(self) -> None:
        """Have the time be over soon. A real timeout would have to be longer than the slowest machine needs to come
        this far, and each cell would wait for it."""
        if self.means == TOTAL:
            self.note_events()
            self.scene.exchange.deadline = time.monotonic() + BRIEF
            self.scene.exchange.wake()

    # --- the end ---

    def strike(self) -> float:
        """End the request; the time when that was."""
        self.pulse = self._stack.enter_context(Pulse())
        started = time.monotonic()
        if self.means == ABORT:
            self.request.abort()
        elif self.means == OWN:
            self.go_on.set()
        elif self.means == OTHERS:
            self.neighbour.call(self.request.abort)
        elif self.means == CLOSE:
            self.session.close()
        elif self.means == TOTAL:
            if self.response is None:
                self.expire()
            started = self.scene.exchange.deadline or started
        else:
            started = self._interrupt()
        return started

    def _interrupt(self) -> float:
        """Ctrl-C for this thread, the main one, when it is blocked too."""
        main = threading.main_thread().ident
        assert main == threading.get_ident()
        assert self.in_main is not None
        struck: list[float] = []

        def interrupt() -> None:
            self.until_all_blocked()
            self.note_events()
            await_sleep(threading.main_thread())
            struck.append(time.monotonic())
            signal.pthread_kill(main, signal.SIGINT)

        helper: Optional[Blocked] = None

        def be_interrupted() -> None:
            nonlocal helper
            helper = Blocked(interrupt)
            with self.request:
                self.in_main()
            helper.join()

        with pytest.raises(KeyboardInterrupt):
            be_interrupted()
        self.interrupted = time.monotonic()
        helper.join()
        assert helper.error is None
        return struck[0]

    interrupted = 0.0

    def check_free(self, started: float) -> None:
        scene = self.scene
        free = [blocked.join() for blocked in scene.blocked] + [self.interrupted]
        self.go_on.set()
        scene.recorder.wait("close")
        scene.until(lambda: scene.closed > 0)
        if not self.moment.held:
            free.append(scene.closed)
        taken = max(free) - started
        _times.append((taken, self.means, self.moment.held))
        assert taken < AT_ONCE + 3 * self.pulse.longest_stop(), f"{taken:.3f} s"
        for blocked in scene.blocked:
            expected = RequestTimeout if self.means == TOTAL else AbortedError
            assert isinstance(blocked.error, expected), f"it gave {blocked.result!r}, {blocked.error!r}"
            assert blocked.error.request is self.request

    def check_events(self) -> None:
        ending = self.moment.ending
        if self.means == TOTAL:
            ending = ["error", "close"] if ending is BEFORE_RESPONSE else ["response.error", "response.close", "close"]
        assert self.scene.recorder.outline() == (self.before or []) + ending
        self.scene.recorder.check_grammar()

    def check_nothing_is_left(self) -> None:
        exchange = self.scene.exchange
        self.scene.until(lambda: exchange.closed)
        assert exchange._wire is None
        assert exchange.incoming is None or not exchange.incoming.wire.held
        assert not exchange._exposed
        assert self.session._pools.idle() == []
        assert exchange not in self.session._running
        self.neighbour.finish()
        assert len(self.neighbour.session._pools.idle()) == 1
        assert not self.session._running
        assert [len(turns._free) for turns in self.session._pools._turns.values()].count(2) == len(
            self.session._pools._turns
        )


def await_sleep(thread: threading.Thread) -> None:
    """Wait until a thread that is about to block has done so, where the system tells (Linux). Polls.

    A signal that comes between the last look for signals and the system call that waits does not end that call: it is
    seen a slice later, which is a fact of Python and not what these tests are about.
    """
    pause, deadline = threading.Event(), time.monotonic() + LIMIT
    before = None
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/self/task/{thread.native_id}/status") as status:
                now = [line for line in status if line.startswith(("State", "voluntary_ctxt"))]
        except OSError:
            return
        # One and the same sleep, longer than any for the interpreter's lock.
        if now == before and now[0].split()[1] == "S":
            return
        before = now
        pause.wait(0.01)
    raise AssertionError(f"it does not go to sleep: {before}")


class Pulse:
    """A thread that is woken again and again, and sees when the machine is too busy for it."""

    PERIOD = 0.01

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._longest = 0.0
        self._last = time.monotonic()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        while not self._stop.wait(self.PERIOD):
            now = time.monotonic()
            self._longest, self._last = max(self._longest, now - self._last - self.PERIOD), now

    def longest_stop(self) -> float:
        """Seconds for which it was not let run where it should have been."""
        return max(self._longest, time.monotonic() - self._last - self.PERIOD, 0.0)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(LIMIT)


class Neighbour:
    """Another request, which is half through all the while."""

    def __init__(self, play: Play, session: Session, upload: bool) -> None:
        self.session = session
        self.upload = upload
        self.request = session.request(play.url(SERVER, "/neighbour"), **(CHUNKED if upload else {}))
        self.recorder = Recorder(self.request, consume=True)
        self._goes_on = play.neighbour_goes_on
        self._calls: list[Callable[[], object]] = []
        self._sent = hashlib.sha256()
        if upload:
            self._write(HALF)
            self.request.flush()
        else:
            self.request.on("response", lambda response: response.on("data", self._take_calls))
            self.request.end()
            self.recorder.wait("data", "response")
        play.peer.wait_request(1 + (CONNECT in play.way.layers))

    def _write(self, data: bytes, callback: Optional[Callable[[], object]] = None) -> None:
        self._sent.update(data)
        self.request.write(data, callback=None if callback is None else (lambda error: callback()))

    def _take_calls(self, piece: bytes) -> None:
        while self._calls:
            self._calls.pop()()

    def call(self, function: Callable[[], object]) -> None:
        """Have it called in one of its callbacks."""
        if self.upload:
            self._write(POKE, callback=function)
        else:
            self._calls.append(function)
            self._goes_on[0].set()

    def finish(self) -> None:
        """It was not hurt: it comes to its end, and is whole."""
        if self.upload:
            self._write(HALF)
            self.request.end()
        for gate in self._goes_on:
            gate.set()
        assert self.request.wait(LIMIT)
        expected = self._sent.hexdigest().encode() if self.upload else HALF + POKE + HALF
        assert bytes(self.recorder.body) == expected
        self.recorder.check_grammar()


_turn = itertools.count()
_times: list[tuple[float, str, bool]] = []


@pytest.fixture(scope="module", autouse=True)
def times(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if not _times or not os.environ.get("ABORT_TIMES"):
        return
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        for what, held in ((means, held) for means in (*MEANS, "all") for held in (False, True)):
            own = sorted(1000 * taken for taken, means, is_held in _times if what in (means, "all") and held is is_held)
            if own:
                print(
                    f"\n{what}{', a listener runs' if held else ''}: {len(own)} cells, median"
                    f" {statistics.median(own):.2f} ms, 95 % {own[int(0.95 * (len(own) - 1))]:.2f} ms,"
                    f" most {own[-1]:.2f} ms",
                    end="",
                )
        print()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("cell", PLAYED, ids=", ".join)
def test_everybody_is_free_and_nobody_else_is_hurt(cell: Cell) -> None:
    with ExitStack() as stack:
        play = Play(cell, stack)
        play.begin()
        started = play.strike()
        play.check_free(started)
        play.check_events()
        play.check_nothing_is_left()


def test_every_cell_is_there_or_has_a_reason() -> None:
    """And no moment, way or means is left out, nor any two of them that go together."""
    reasons: dict[str, int] = {}
    for moment, way, means in itertools.product(MOMENTS, WAYS, MEANS):
        reason = why_not(MOMENTS[moment], WAYS[way], means)
        assert ((moment, way, means) in CELLS) is (not reason)
        reasons[reason] = reasons.get(reason, 0) + 1
    assert set().union(*map(pairs, PLAYED)) == set().union(*map(pairs, CELLS))
    assert {moment for moment, _, _ in CELLS} == set(MOMENTS)
    assert {way for _, way, _ in CELLS} == set(WAYS)
    assert {means for _, _, means in CELLS} >= set(MEANS) - {CTRL_C}
    for reason, count in reasons.items():
        print(f"{count:4}  {reason or 'cells'}")


# ------------------------------------------------------------------------------
# No byte after it

SessionOn = Callable[[Way, Peer], "tuple[Session, str]"]


@pytest.fixture
def session_on() -> Iterator[SessionOn]:
    """Makes a session whose requests go this way, and the URL of the server that is played by the peer."""
    with ExitStack() as stack:

        def make(way: Way, peer: Peer) -> tuple[Session, str]:
            proxies = {"all": f"{way.proxy}://127.0.0.1:{peer.port}"} if way.proxy else {}
            host = "origin.example" if way.proxy else f"127.0.0.1:{peer.port}"
            return stack.enter_context(Session(tls=ca_path(), proxies=proxies)), f"{way.scheme}://{host}/x"

        yield make


UPLOADS: dict[str, dict[str, Any]] = {
    "chunked": {"chunked_encoding": True},
    "known length": {"headers": {"Content-Length": 1 << 40}},
    "buffered": {},
}
"""How a body may be sent, and the options for it."""

READS = ("on and on", "some", "nothing")
"""How much of it the server takes while it is sent."""

ENOUGH = 3 * len(PATTERN) // 2
"""Bytes after which an upload counts as under way."""


class Witness:
    """A server that takes in what comes of an upload, to the very end, and says what that was."""

    def __init__(self, way: Way, reads_first: int, reads_on: bool) -> None:
        self.begun, self.go_on = Gate("begun"), Gate("go on")
        self.body = b""
        self.complete = True
        self.behind: list[object] = []
        """What each layer of TLS has to say of its end, the outermost first."""
        self._way = way
        self._reads_first = reads_first
        self._reads_on = reads_on

    def serve(self, conn: Conn) -> None:
        for layer in self._way.layers:
            (secure_strictly if layer in (TLS, PROXY_TLS) else LAYERS[layer])(conn)
        request = conn.read_request(body=False)
        body = bytearray()
        if not self._reads_first:
            self._pause()
        # A piece that is no chunk, or bytes that were not encrypted, are errors of this handler, which `join` raises.
        try:
            for piece, _ in conn._body_pieces(request):
                body += piece
                if len(body) >= self._reads_first and not self.begun.is_set():
                    self._pause()
            request.complete = True
        except (EndOfStream, ConnectionResetError):
            pass
        except ssl.SSLError as error:
            if not is_cut(error):
                raise
        self.body, self.complete = bytes(body), request.complete
        assert not conn.requests[-1].trailers
        self.behind = [end_of(layer.object) for layer in conn._layers]

    def _pause(self) -> None:
        self.begun.set()
        if not self._reads_on:
            self.go_on.wait()


def end_of(tls: ssl.SSLObject) -> object:
    """What comes behind the last byte: more bytes, `close_notify`, or `cut`."""
    try:
        return tls.read(1) or "close_notify"
    except ssl.SSLZeroReturnError:
        return "close_notify"
    except ssl.SSLError:
        return "cut"


def pour_in(request: Any) -> None:
    while True:
        request.write(PATTERN)


@pytest.mark.parametrize(
    ("upload", "reads"),
    # One that is here whole might come to its end before the abort, where the server never stops.
    [
        pair
        for pair in itertools.product(UPLOADS, ("on and on", "some", "nothing"))
        if pair != ("buffered", "on and on")
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_aborted_upload_ends_in_the_midst(session_on: SessionOn, way: str, upload: str, reads: str) -> None:
    """The server gets a part of the body from its beginning, not a byte of anything else, and no end of any kind: no
    last chunk, no goodbye of TLS."""
    witness = Witness(WAYS[way], 0 if reads == "nothing" else ENOUGH, reads == "on and on")
    with Peer(witness.serve) as peer:
        session, url = session_on(WAYS[way], peer)
        request = session.request(url, method="POST", **UPLOADS[upload])
        recorder = Recorder(request)
        if upload == "buffered":
            request.end(PATTERN * (len(MUCH) // len(PATTERN)))
            writer = None
        else:
            writer = Blocked(lambda: pour_in(request))
        witness.begun.wait()
        request.abort()
        recorder.wait("close")
        taken = request.tell()
        witness.go_on.set()
        peer.join()
        if writer is not None:
            writer.join()
            assert isinstance(writer.error, AbortedError)
    recorder.check_grammar()
    check_pattern(witness.body)
    assert not witness.complete
    assert len(witness.body) <= taken
    assert witness.behind == ["cut"] * len([layer for layer in WAYS[way].layers if layer in (TLS, PROXY_TLS)])


FACES = ("data", "read", "read1", "readline")


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("way", WAYS)
def test_aborted_download_gives_nothing_more(session_on: SessionOn, way: str, face: str) -> None:
    """What was given is the body from its beginning: nothing that was read later, and nothing of TLS."""

    def serve(conn: Conn) -> None:
        for layer in WAYS[way].layers:
            LAYERS[layer](conn)
        pour(conn)

    body, late = bytearray(), []
    aborted, enough = threading.Event(), Gate("enough")

    def take(piece: bytes, is_late: bool = False) -> None:
        body.extend(piece)
        if is_late:
            late.append(piece)
        if len(body) >= ENOUGH:
            enough.set()

    def read_all(response: Any) -> None:
        while True:
            is_late = aborted.is_set()
            take(response.readline() if face == "readline" else getattr(response, face)(100_000), is_late)

    with Peer(serve) as peer:
        session, url = session_on(WAYS[way], peer)
        request = session.request(url)
        recorder = Recorder(request)
        reader = None
        if face == "data":
            request.on("response", lambda response: response.on("data", lambda piece: take(piece, aborted.is_set())))
            request.end()
        else:
            response = request.end().get_response(LIMIT)
            reader = Blocked(lambda: read_all(response))
        enough.wait()
        request.abort()
        aborted.set()
        if reader is not None:
            reader.join()
            assert isinstance(reader.error, AbortedError)
        recorder.wait("close")
    recorder.check_grammar()
    check_pattern(bytes(body))
    # A listener that ran when the abort came may have looked at the flag only after it.
    assert len(late) <= (1 if face == "data" else 0)
