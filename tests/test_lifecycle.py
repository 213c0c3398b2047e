"""The law of phases and events: what it says, and that real requests keep it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from clientrequest import ClientRequest, ClientRequestError, Session
from clientrequest._exchange import Exchange
from clientrequest._lifecycle import (
    CLOSING_EVENTS,
    MOVES,
    REQUEST_ENDS,
    REQUEST_EVENTS,
    RESPONSE_ENDS,
    RESPONSE_EVENTS,
    Phase,
    may_move,
)
from tests import support
from tests.support import Conn, Gate, Peer, Recorder, ca_path, early_answer, echo_json, scripted, server_context

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# --- the law ---


@pytest.mark.parametrize(("before", "after"), list(itertools.product(Phase, Phase)))
def test_every_pair_of_phases(before: Phase, after: Phase) -> None:
    assert may_move(before, after) is (after in MOVES[before])


def test_every_phase_has_its_row() -> None:
    assert set(MOVES) == set(Phase)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.CLOSED])
def test_every_phase_can_be_closed(phase: Phase) -> None:
    assert may_move(phase, Phase.CLOSED)


@pytest.mark.parametrize("phase", list(Phase))
def test_closed_is_for_good(phase: Phase) -> None:
    assert not may_move(Phase.CLOSED, phase)


@pytest.mark.parametrize("phase", list(Phase))
def test_nothing_comes_back_to_new(phase: Phase) -> None:
    assert not may_move(phase, Phase.NEW)


def test_every_phase_can_be_reached() -> None:
    reached = {Phase.NEW}
    for _ in Phase:
        reached |= {after for before in reached for after in MOVES[before]}
    assert reached == set(Phase)


def test_nothing_is_sent_before_there_is_a_connection() -> None:
    assert [phase for phase in Phase if may_move(phase, Phase.SENDING)] == [Phase.CONNECTING]


@pytest.mark.parametrize("ends", [REQUEST_ENDS, RESPONSE_ENDS])
def test_nothing_follows_close(ends: dict[str, frozenset[str]]) -> None:
    assert ends["close"] == (REQUEST_EVENTS if ends is REQUEST_ENDS else RESPONSE_EVENTS)


@pytest.mark.parametrize("ends", [REQUEST_ENDS, RESPONSE_ENDS])
def test_the_law_speaks_of_events_that_exist(ends: dict[str, frozenset[str]]) -> None:
    known = REQUEST_EVENTS if ends is REQUEST_ENDS else RESPONSE_EVENTS
    assert set(ends) <= known
    assert all(forbidden <= known for forbidden in ends.values())


def test_close_may_follow_everything_but_itself() -> None:
    for ends in (REQUEST_ENDS, RESPONSE_ENDS):
        assert [name for name, forbidden in ends.items() if "close" in forbidden] == ["close"]


def test_closing_events_exist() -> None:
    assert CLOSING_EVENTS <= REQUEST_EVENTS | RESPONSE_EVENTS


def test_toolkit_knows_the_same_events() -> None:
    assert set(support.REQUEST_EVENTS) == REQUEST_EVENTS
    assert set(support.RESPONSE_EVENTS) == RESPONSE_EVENTS


# --- real requests ---


class Moves:
    """Every change of phase of every exchange, in order."""

    def __init__(self) -> None:
        self.made: list[tuple[Phase, Phase]] = []
        self._lock = threading.Lock()

    def get(self, exchange: Exchange) -> Phase:
        return exchange.__dict__.get("phase", Phase.NEW)

    def set(self, exchange: Exchange, phase: Phase) -> None:
        before = self.get(exchange)
        exchange.__dict__["phase"] = phase
        with self._lock:
            self.made.append((before, phase))

    def path(self) -> list[Phase]:
        return [Phase.NEW] + [after for _, after in self.made]


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moves]:
    """Watches all moves, and fails the test when one of them is against the law."""
    moves = Moves()
    monkeypatch.setattr(Exchange, "phase", property(moves.get, moves.set), raising=False)
    yield moves
    wrong = [move for move in moves.made if not may_move(*move)]
    assert not wrong, f"moves against the law: {wrong}"
    assert moves.made, "no move was made at all"


def check_law(recorder: Recorder) -> None:
    """Hold recorded events against `REQUEST_ENDS` and `RESPONSE_ENDS`."""
    for source, ends in (("request", REQUEST_ENDS), ("response", RESPONSE_ENDS)):
        names = recorder.names(source)
        for position, name in enumerate(names):
            wrong = ends.get(name, frozenset()).intersection(names[position + 1 :])
            assert not wrong, f"{sorted(wrong)} after {name!r}: {names}"


def get(request: ClientRequest) -> None:
    request.end()


def buffered(request: ClientRequest) -> None:
    request.end(b"body")


def chunked(request: ClientRequest) -> None:
    request.chunked_encoding = True
    request.write(b"a")
    request.write(b"b")
    request.end(b"c")


def known_length(request: ClientRequest) -> None:
    request.set_header("Content-Length", 2)
    request.write(b"ab")
    request.end()


def expecting(request: ClientRequest) -> None:
    request.set_header("Expect", "100-continue")
    request.end(b"body")


PATH = [Phase.NEW, Phase.CONNECTING, Phase.SENDING, Phase.WAITING, Phase.READING, Phase.CLOSED]


@pytest.mark.parametrize("send", [get, buffered, chunked, known_length, expecting])
def test_way_of_a_good_request(moves: Moves, send: Callable[[ClientRequest], None]) -> None:
    with Peer(echo_json) as peer, Session() as session:
        request = ClientRequest(peer.url(), method="GET" if send is get else "POST", session=session)
        recorder = Recorder(request, consume=True)
        send(request)
        recorder.wait("close")
    assert moves.path() == PATH
    check_law(recorder)


def test_way_over_tls(moves: Moves) -> None:
    with Peer(echo_json, tls=server_context()) as peer, Session(tls=ca_path()) as session:
        request = ClientRequest(peer.url(), session=session)
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
    assert moves.path() == PATH


@pytest.mark.parametrize("kind", ["close", "keep_reading", "half_close", "stop_reading"])
def test_early_answer_keeps_the_law(moves: Moves, kind: str) -> None:
    with Peer(early_answer(kind)) as peer, Session() as session:
        request = ClientRequest(peer.url(), method="POST", chunked_encoding=True, session=session)
        recorder = Recorder(request, consume=True)
        request.write(b"x")
        recorder.wait("close")
    check_law(recorder)


def test_redirect_is_one_more_way(moves: Moves) -> None:
    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(307, {"Location": "/there"})
        conn.read_request()
        conn.respond()

    with Peer(answer) as peer, Session() as session:
        request = ClientRequest(peer.url(), method="POST", session=session)
        recorder = Recorder(request, consume=True)
        request.end(b"body")
        recorder.wait("close")
    assert moves.path().count(Phase.CONNECTING) == 2
    assert moves.path()[-2:] == [Phase.READING, Phase.CLOSED]
    check_law(recorder)


def test_idle_connection_that_died_is_one_more_way(moves: Moves) -> None:
    hang_up = Gate()

    def dies_at_the_second(conn: Conn) -> None:
        conn.read_request()
        conn.respond()
        if conn.number == 1:
            hang_up.set()
            conn.read_request()

    with Peer(dies_at_the_second) as peer, Session() as session:
        for _ in range(2):
            request = ClientRequest(peer.url(), session=session)
            request.end()
            assert request.wait(10)
            hang_up.wait()
    assert moves.path().count(Phase.CONNECTING) == 3
    assert moves.path().count(Phase.CLOSED) == 2


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"nonsense\r\n\r\n", OK[:-1]])
def test_damaged_answer_keeps_the_law(moves: Moves, answer: bytes) -> None:
    with Peer(scripted(answer)) as peer, Session() as session:
        request = ClientRequest(peer.url(), session=session)
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
    assert "error" in recorder.names("request") + recorder.names("response")
    check_law(recorder)


def test_refused_connection_keeps_the_law(moves: Moves) -> None:
    with support.refused_port() as port:
        request = ClientRequest(f"http://127.0.0.1:{port}/")
        recorder = Recorder(request)
        request.end()
        with pytest.raises(ClientRequestError):
            request.wait(10)
    check_law(recorder)
    assert moves.path() == [Phase.NEW, Phase.CONNECTING, Phase.CLOSED]


def test_abort_before_the_start_goes_straight_to_closed(moves: Moves) -> None:
    request = ClientRequest("http://127.0.0.1:9/")
    recorder = Recorder(request)
    request.abort()
    recorder.wait("close")
    assert moves.path() == [Phase.NEW, Phase.CLOSED]


@pytest.mark.parametrize("event", ["finish", "response", "response.data", "response.end"])
@pytest.mark.parametrize("deed", ["abort", "raise"])
def test_listener_that_ends_it_keeps_the_law(moves: Moves, event: str, deed: str) -> None:
    with Peer(scripted(OK)) as peer, Session() as session:
        request = ClientRequest(peer.url(), method="POST", session=session)
        recorder = Recorder(request, consume=True)

        def end_it(*_: Any) -> None:
            if deed == "raise":
                raise RuntimeError("by the listener")
            request.abort()

        source, _, name = event.rpartition(".")
        if source:
            request.on("response", lambda response: response.on(name, end_it))
        else:
            request.on(name, end_it)
        request.end(b"body")
        recorder.wait("close")
    check_law(recorder)
    recorder.check_grammar()
