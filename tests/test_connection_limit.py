"""`max_connections_per_host`: how many connections may be in use at once, and how the others wait for their turn."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable, Optional

import pytest

from clientrequest import AbortedError, ClientRequest, ClientRequestError, RequestTimeout, Session, Timeout
from clientrequest._exchange import Exchange
from clientrequest._negotiate import available
from clientrequest._options import parse_url
from tests.support import (
    LIMIT,
    Conn,
    Gate,
    Handler,
    Peer,
    Recorder,
    ca_path,
    early_answer,
    echo_json,
    refused_port,
    scripted,
    server_context,
    wrong_name_context,
)
from tests.support.proxies import HttpProxy, SocksProxy, basic, wants
from tests.test_fork import in_child, untraced_threads

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def limited() -> Iterator[Callable[..., Session]]:
    """Makes sessions with a limit."""
    with ExitStack() as stack:

        def make(most: Optional[int] = 1, **options: Any) -> Session:
            settings = {"tls": ca_path(), "proxies": {}, **options}
            return stack.enter_context(Session(max_connections_per_host=most, **settings))

        yield make


Limited = Callable[..., Session]


class Doorman:
    """A handler that lets requests wait for ``go_on``, and knows how many were being served at once."""

    def __init__(self, close: bool = False) -> None:
        self.go_on = Gate("go on")
        self.most = 0
        self.order: list[str] = []
        """The targets of the requests, as they came."""
        self._now = 0
        self._lock = threading.Lock()
        self._close = close

    def __call__(self, conn: Conn) -> None:
        while True:
            request = conn.read_request()
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
                self.order.append(request.target)
            self.go_on.wait()
            with self._lock:  # before the answer: the next one may come as soon as that is there
                self._now -= 1
            conn.respond(body=b"ok", close=self._close)
            if self._close:
                return


def start(session: Session, url: str, **options: Any) -> ClientRequest:
    return session.request(url, **options).end()


def finish(request: ClientRequest) -> bytes:
    body: bytes = request.get_response(LIMIT).read()
    assert request.wait(LIMIT)
    return body


def wait_until_free(session: Session, url: str, count: int) -> None:
    """Wait until that many turns are free, and nobody waits. Polls: an error is told before the last line is run."""
    turns = session._pools._turns[parse_url(url).origin]
    poll(lambda: (len(turns._free), len(turns._waiting)), (count, 0))


def wait_for_queue(session: Session, url: str, count: int) -> None:
    """Wait until that many wait for a turn. Polls: one who waits makes no noise."""

    def waiting() -> Optional[int]:
        turns = session._pools._turns.get(parse_url(url).origin)
        return None if turns is None else len(turns._waiting)

    poll(waiting, count)


def poll(ask: Callable[[], object], expected: object) -> None:
    deadline, pause = time.monotonic() + LIMIT, threading.Event()
    while ask() != expected and time.monotonic() < deadline:
        pause.wait(0.001)
    assert ask() == expected


def queue_up(session: Session, peer: Peer, *paths: str) -> list[ClientRequest]:
    """Requests that wait for a turn, in this order."""
    requests = []
    for path in paths:
        requests.append(start(session, peer.url(path)))
        wait_for_queue(session, peer.url(), len(requests))
    return requests


@pytest.fixture
def gated_turns(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has a request come to a gate before or after it waits for its turn: ``gated_turns(request, before=gate)``."""
    gates: dict[Exchange, tuple[Optional[Gate], Optional[Gate]]] = {}
    wait_turn = Exchange.wait_turn

    def gated(exchange: Exchange) -> None:
        before, after = gates.get(exchange, (None, None))
        if before is not None:
            before.wait()
        wait_turn(exchange)
        if after is not None:
            after.wait()

    monkeypatch.setattr(Exchange, "wait_turn", gated)

    def set_gates(request: ClientRequest, before: Optional[Gate] = None, after: Optional[Gate] = None) -> None:
        gates[request._exchange] = (before, after)

    return set_gates


# --- the limit ---


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_is_honoured_under_many_threads(limited: Limited, most: int, tls: bool, close: bool) -> None:
    doorman = Doorman(close)
    doorman.go_on.set()
    with Peer(doorman, server_context() if tls else None) as peer:
        session = limited(most)

        def work() -> None:
            for _ in range(10):
                assert finish(start(session, peer.url())) == b"ok"

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * LIMIT)
        assert len(peer.requests) == 80
        assert doorman.most <= most
        if not close:
            assert len(peer.connections) <= most
        wait_until_free(session, peer.url(), most)


@pytest.mark.parametrize("most", [1, 3])
def test_is_used_up(limited: Limited, most: int) -> None:
    doorman = Doorman()
    with Peer(doorman) as peer:
        session = limited(most)
        requests = [start(session, peer.url()) for _ in range(most + 2)]
        peer.wait_request(most)
        wait_for_queue(session, peer.url(), 2)
        assert len(peer.connections) == most
        doorman.go_on.set()
        assert [finish(request) for request in requests] == [b"ok"] * (most + 2)
        assert doorman.most == most


def test_there_is_none_by_default(limited: Limited) -> None:
    doorman = Doorman()
    with Peer(doorman) as peer:
        session = limited(None)
        requests = [start(session, peer.url()) for _ in range(10)]
        peer.wait_request(10)
        doorman.go_on.set()
        assert [finish(request) for request in requests] == [b"ok"] * 10


def test_each_host_has_its_own(limited: Limited) -> None:
    doorman = Doorman()
    with Peer(doorman) as busy, Peer(echo_json) as other:
        session = limited(1)
        request = start(session, busy.url())
        busy.wait_request()
        assert finish(start(session, other.url()))
        doorman.go_on.set()
        assert finish(request) == b"ok"


@pytest.mark.parametrize("kind", ["forwarded", "tunnel", "tls in tls", "socks"])
def test_is_about_the_server_and_not_about_its_proxy(limited: Limited, kind: str) -> None:
    doorman = Doorman()
    tls = server_context() if kind in ("tunnel", "tls in tls") else None
    with ExitStack() as stack:
        proxy: Any = SocksProxy() if kind == "socks" else HttpProxy(server_context() if kind == "tls in tls" else None)
        stack.enter_context(proxy)
        busy, other = stack.enter_context(Peer(doorman, tls)), stack.enter_context(Peer(echo_json, tls))
        address = proxy.address("socks5") if kind == "socks" else proxy.address()
        session = limited(2, proxies={"all": address})
        requests = [start(session, busy.url()) for _ in range(4)]
        wait_for_queue(session, busy.url(), 2)
        busy.wait_request(2)
        assert finish(start(session, other.url()))
        doorman.go_on.set()
        assert [finish(request) for request in requests] == [b"ok"] * 4
        assert doorman.most == 2
        wait_until_free(session, busy.url(), 2)


def test_requests_that_omit_credentials_count_too(limited: Limited) -> None:
    doorman = Doorman()
    with Peer(doorman) as peer:
        session = limited(1)
        requests = [start(session, peer.url(), credentials="omit"), start(session, peer.url())]
        wait_for_queue(session, peer.url(), 1)
        doorman.go_on.set()
        assert [finish(request) for request in requests] == [b"ok"] * 2
        assert doorman.most == 1


@pytest.mark.parametrize("value", [0, -1])
def test_value_that_is_too_small(value: int) -> None:
    with pytest.raises(ValueError, match="max_connections_per_host"):
        Session(max_connections_per_host=value)


@pytest.mark.parametrize("value", [True, 1.5, "2", [1]])
def test_value_of_a_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match="max_connections_per_host"):
        Session(max_connections_per_host=value)


# --- the order ---


def test_first_come_first_served(limited: Limited) -> None:
    doorman = Doorman()
    with Peer(doorman) as peer:
        session = limited(1)
        first = start(session, peer.url("/0"))
        peer.wait_request()
        waiting = queue_up(session, peer, "/1", "/2", "/3", "/4")
        doorman.go_on.set()
        for request in (first, *waiting):
            assert finish(request) == b"ok"
        assert doorman.order == ["/0", "/1", "/2", "/3", "/4"]


def test_being_looked_after_does_not_cost_the_place(limited: Limited) -> None:
    """``wait()`` and the like wake the one who waits, who then has to wait on where he was."""
    doorman = Doorman()
    with Peer(doorman) as peer:
        session = limited(1)
        first = start(session, peer.url("/0"))
        peer.wait_request()
        waiting = queue_up(session, peer, "/1", "/2", "/3")
        assert not waiting[0].wait(0.05)
        wait_for_queue(session, peer.url(), 3)
        doorman.go_on.set()
        for request in (first, *waiting):
            assert finish(request) == b"ok"
        assert doorman.order == ["/0", "/1", "/2", "/3"]


def test_newcomer_does_not_overtake_the_one_whose_turn_it_is(
    limited: Limited, gated_turns: Callable[..., None]
) -> None:
    doorman, slow = Doorman(), Gate("slow")
    with Peer(doorman) as peer:
        session = limited(1)
        first = start(session, peer.url("/0"))
        peer.wait_request()
        second = session.request(peer.url("/1"))
        gated_turns(second, after=slow)  # its worker is slow to come to its senses
        second.end()
        wait_for_queue(session, peer.url(), 1)
        third = start(session, peer.url("/2"))
        wait_for_queue(session, peer.url(), 2)
        doorman.go_on.set()
        assert finish(first) == b"ok"
        newcomer = start(session, peer.url("/3"))
        newcomer.wait(0.1)
        slow.set()
        for request in (second, third, newcomer):
            assert finish(request) == b"ok"
        assert doorman.order == ["/0", "/1", "/2", "/3"]


# --- waiting ---


def test_abort_frees_the_one_who_waits_at_once(limited: Limited) -> None:
    doorman = Doorman()
    with Peer(doorman) as peer:
        session = limited(1)
        first = start(session, peer.url())
        peer.wait_request()
        request = session.request(peer.url("/never"))
        recorder = Recorder(request)
        request.end()
        wait_for_queue(session, peer.url(), 1)
        begin = time.monotonic()
        request.abort()
        recorder.wait("close", timeout=0.5)
        assert time.monotonic() - begin < 0.5
        assert recorder.names() == ["abort", "close"]
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
        doorman.go_on.set()
        assert finish(first) == b"ok"
        assert doorman.order == ["/"]
        wait_until_free(session, peer.url(), 1)


def test_writer_of_one_who_waits_is_freed_by_abort(limited: Limited) -> None:
    doorman = Doorman()
    with Peer(doorman) as peer:
        session = limited(1)
        first = start(session, peer.url())
        peer.wait_request()
        request = session.request(peer.url(), method="POST", chunked_encoding=True, high_water_mark=1000)
        freed: list[BaseException] = []

        def write() -> None:
            try:
                for _ in range(10):
                    request.write(bytes(1000))
            except AbortedError as error:
                freed.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        wait_for_queue(session, peer.url(), 1)
        request.abort()
        writer.join(0.5)
        assert len(freed) == 1
        doorman.go_on.set()
        assert finish(first) == b"ok"


def test_waiting_is_bounded_by_the_total_timeout(limited: Limited) -> None:
    doorman = Doorman()
    with Peer(doorman) as peer:
        session = limited(1)
        first = start(session, peer.url())
        peer.wait_request()
        with pytest.raises(RequestTimeout) as raised:
            finish(start(session, peer.url("/late"), timeout=Timeout(total=0.2)))
        assert raised.value.code == "ERR_TIMED_OUT"
        doorman.go_on.set()
        assert finish(first) == b"ok"
        assert doorman.order == ["/"]
        assert finish(start(session, peer.url())) == b"ok"


def test_waiting_is_not_time_of_connecting(limited: Limited) -> None:
    doorman = Doorman(close=True)
    with Peer(doorman) as peer:
        session = limited(1)
        first = start(session, peer.url())
        peer.wait_request()
        second = start(session, peer.url(), timeout=Timeout(connect=0.2))
        assert not second.wait(0.4)
        doorman.go_on.set()
        assert finish(first) == b"ok"
        assert finish(second) == b"ok"


def test_time_of_connecting_begins_with_the_turn(limited: Limited) -> None:
    go_on = Gate("go on")

    def handle(conn: Conn) -> None:
        if conn.number > 1:
            conn.hold()
            return
        conn.start_tls(server_context())
        conn.read_request()
        go_on.wait()
        conn.respond(body=b"ok", close=True)

    with Peer(handle) as peer:
        url = f"https://127.0.0.1:{peer.port}/"
        session = limited(1)
        first = start(session, url)
        peer.wait_request()
        second = start(session, url, timeout=Timeout(connect=0.3))
        assert not second.wait(0.4)
        go_on.set()
        assert finish(first) == b"ok"
        with pytest.raises(RequestTimeout) as raised:
            second.wait(LIMIT)
        assert raised.value.code == "ERR_CONNECTION_TIMED_OUT"
        wait_until_free(session, url, 1)


def test_session_that_is_closed_frees_all(limited: Limited) -> None:
    with Peer(Doorman()) as peer:
        session = limited(1)
        requests = [start(session, peer.url()) for _ in range(5)]
        wait_for_queue(session, peer.url(), 4)
        session.close()
        for request in requests:
            with pytest.raises(AbortedError):
                request.wait(LIMIT)


def test_closing_the_idle_connections_changes_nothing(limited: Limited) -> None:
    doorman = Doorman()
    with Peer(doorman) as peer:
        session = limited(1)
        requests = [start(session, peer.url()) for _ in range(3)]
        wait_for_queue(session, peer.url(), 2)
        session.close_connections()
        doorman.go_on.set()
        assert [finish(request) for request in requests] == [b"ok"] * 3
        assert doorman.most == 1
        wait_until_free(session, peer.url(), 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures(untraced_threads.__name__)
def test_forked_child_has_turns_of_its_own(limited: Limited) -> None:
    served = Gate("first")

    def handle(conn: Conn) -> None:
        request = conn.read_request()
        if request.target == "/first":
            served.wait()
        conn.respond(body=b"ok", close=True)

    with Peer(handle) as peer:
        session = limited(1)
        first = start(session, peer.url("/first"))
        peer.wait_request()
        (second,) = queue_up(session, peer, "/second")
        assert in_child(lambda: [finish(start(session, peer.url("/child"))) for _ in range(2)]) == [b"ok"] * 2
        served.set()
        assert [finish(first), finish(second)] == [b"ok"] * 2
        wait_until_free(session, peer.url(), 1)


# --- the turn comes back, whatever happens ---


def reset_in_the_body(conn: Conn) -> None:
    conn.read_request()
    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")
    conn.reset()


FAILURES: dict[str, Handler] = {
    "reset": Conn.reset,
    "empty answer": Conn.close,
    "reset after the request": scripted(Conn.reset),
    "nonsense": scripted(b"nonsense\r\n\r\n"),
    "two lengths": scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    "cut body": scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"),
    "reset in the body": reset_in_the_body,
    "bad redirect": scripted(b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\nContent-Length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("name", FAILURES)
def test_comes_back_after_a_failure(limited: Limited, name: str, tls: bool) -> None:
    def handle(conn: Conn) -> None:
        (echo_json if conn.number == 4 else FAILURES[name])(conn)

    with Peer(handle, server_context() if tls else None, expect_errors=True) as peer:
        session = limited(1)
        for _ in range(3):
            with pytest.raises(ClientRequestError):
                finish(start(session, peer.url()))
        wait_until_free(session, peer.url(), 1)
        assert finish(start(session, peer.url()))


def test_comes_back_after_a_refused_connection(limited: Limited) -> None:
    with refused_port() as port:
        session, url = limited(2), f"http://127.0.0.1:{port}/"
        for _ in range(4):
            with pytest.raises(ClientRequestError):
                finish(start(session, url))
        wait_until_free(session, url, 2)


def test_comes_back_after_a_name_that_does_not_exist(limited: Limited) -> None:
    session, url = limited(1), "http://nowhere.invalid/"
    for _ in range(2):
        with pytest.raises(ClientRequestError):
            finish(start(session, url))
    wait_until_free(session, url, 1)


def test_comes_back_after_a_bad_certificate(limited: Limited) -> None:
    with Peer(echo_json, wrong_name_context(), expect_errors=True) as peer:
        session = limited(1)
        for _ in range(3):
            with pytest.raises(ClientRequestError):
                finish(start(session, peer.url()))
        wait_until_free(session, peer.url(), 1)


@pytest.mark.parametrize("close", [False, True])
def test_comes_back_after_a_refused_tunnel(limited: Limited, close: bool) -> None:
    with HttpProxy(door=wants("nobody", close=close)) as proxy:
        session, url = limited(1, proxies={"all": proxy.address("", "a:b")}), "https://origin.example/"
        for _ in range(3):
            with pytest.raises(ClientRequestError):
                finish(start(session, url))
        wait_until_free(session, url, 1)


def test_comes_back_after_timeouts(limited: Limited) -> None:
    def handle(conn: Conn) -> None:
        conn.hold()

    with Peer(handle) as peer:
        for url, limit in (
            (peer.url(), Timeout(read=0.1)),
            (peer.url(), Timeout(total=0.1)),
            (f"https://127.0.0.1:{peer.port}/", Timeout(connect=0.1)),
        ):
            session = limited(1)
            for _ in range(2):
                with pytest.raises(RequestTimeout):
                    finish(start(session, url, timeout=limit))
            wait_until_free(session, url, 1)


@pytest.mark.parametrize("kind", ["close", "keep_reading", "half_close", "stop_reading"])
def test_comes_back_after_an_early_answer(limited: Limited, kind: str) -> None:
    with Peer(early_answer(kind)) as peer:
        session = limited(1)
        for _ in range(3):
            request = session.request(peer.url(), method="POST", chunked_encoding=True)
            request.write(b"x")
            assert request.get_response(LIMIT).status_code == 413
            request.end()
            assert request.wait(LIMIT)
        wait_until_free(session, peer.url(), 1)


def test_comes_back_after_a_response_that_nobody_wants(limited: Limited) -> None:
    body = bytes(4 * 1024 * 1024)
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)) as peer:
        session = limited(1)
        for _ in range(3):
            assert start(session, peer.url()).wait(LIMIT)
        for _ in range(3):
            start(session, peer.url())  # and forgotten
        assert len(finish(start(session, peer.url()))) == len(body)
        assert start(session, peer.url()).wait(LIMIT)
        wait_until_free(session, peer.url(), 1)


def test_comes_back_when_a_response_is_closed(limited: Limited) -> None:
    body = bytes(4 * 1024 * 1024)
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)) as peer:
        session = limited(1)
        for _ in range(3):
            request = start(session, peer.url())
            response = request.get_response(LIMIT)
            assert len(response.read(1000)) == 1000
            response.close()
        assert len(finish(start(session, peer.url()))) == len(body)


def test_response_that_is_being_read_keeps_it(limited: Limited) -> None:
    body = bytes(4 * 1024 * 1024)
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)) as peer:
        session = limited(1)
        response = start(session, peer.url()).get_response(LIMIT)
        assert len(response.read(1000)) == 1000
        second = start(session, peer.url())
        wait_for_queue(session, peer.url(), 1)
        assert len(peer.connections) == 1
        assert len(response.read()) == len(body) - 1000
        assert len(finish(second)) == len(body)


@pytest.mark.parametrize("size", [0, 1000, 4 * 1024 * 1024])
@pytest.mark.parametrize("status", [302, 307])
def test_redirect_within_a_host_needs_one_turn(limited: Limited, status: int, size: int) -> None:
    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.target == "/":
                conn.respond(status, {"Location": "/there"}, bytes(size))
            else:
                conn.respond(body=b"ok")

    with Peer(handle) as peer:
        session = limited(1)
        for _ in range(3):
            assert finish(start(session, peer.url())) == b"ok"
        wait_until_free(session, peer.url(), 1)


def test_redirects_between_two_hosts(limited: Limited) -> None:
    """Who goes from one to the other gives his turn back first, so that two cannot wait for each other."""

    def to(url: str) -> Handler:
        def handle(conn: Conn) -> None:
            while True:
                request = conn.read_request()
                hops = int(request.target[1:])
                if hops:
                    conn.respond(302, {"Location": f"{url}{hops - 1}"})
                else:
                    conn.respond(body=b"ok")

        return handle

    with ExitStack() as stack:
        two = Peer(lambda conn: to(one.url())(conn))
        stack.enter_context(two)
        one = stack.enter_context(Peer(to(two.url())))
        session = limited(1)
        requests = [start(session, peer.url("/6")) for _ in range(5) for peer in (one, two)]
        assert [finish(request) for request in requests] == [b"ok"] * 10
        for peer in (one, two):
            wait_until_free(session, peer.url(), 1)


@pytest.mark.parametrize("close", [False, True])
def test_login_needs_one_turn(limited: Limited, close: bool) -> None:
    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.header("authorization") == basic("a", "b"):
                conn.respond(body=b"ok")
            else:
                conn.respond(401, {"WWW-Authenticate": "Basic realm=x"}, b"who?", close=close)
                if close:
                    return

    with Peer(handle) as peer:
        session = limited(1)
        for _ in range(3):
            request = session.request(peer.url())
            request.on("login", lambda info, callback: callback("a", "b"))
            assert finish(request.end()) == b"ok"
            session.clear_auth_cache()
        wait_until_free(session, peer.url(), 1)


@pytest.mark.skipif(not available(), reason="pyspnego is not installed")
@pytest.mark.parametrize("close", [False, True])
def test_login_that_keeps_its_connection_needs_one_turn(limited: Limited, close: bool) -> None:
    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.header("authorization"):
                conn.respond(body=b"ok", close=close)
            else:
                conn.respond(401, {"WWW-Authenticate": "NTLM"}, b"who?", close=close)
            if close:
                return

    with Peer(handle) as peer:
        session = limited(1)
        for _ in range(3):
            request = session.request(peer.url())
            request.on("login", lambda info, callback: callback("a", "b"))
            assert finish(request.end()) == b"ok"
        wait_until_free(session, peer.url(), 1)


@pytest.mark.parametrize("tls", [False, True])
def test_retry_on_a_fresh_connection_needs_one_turn(limited: Limited, tls: bool) -> None:
    """A server that ends each connection without a word when it is used again."""

    def handle(conn: Conn) -> None:
        conn.read_request()
        conn.respond(body=b"ok")
        conn.read_request()

    with Peer(handle, server_context() if tls else None) as peer:
        session = limited(1)
        for _ in range(4):
            assert finish(start(session, peer.url())) == b"ok"
        assert len(peer.connections) == 4
        wait_until_free(session, peer.url(), 1)


def test_one_who_dies_hands_the_turn_on(limited: Limited, gated_turns: Callable[..., None]) -> None:
    """It was given to somebody who was aborted before he noticed."""
    doorman, slow = Doorman(), Gate("slow")
    with Peer(doorman) as peer:
        session = limited(1)
        first = start(session, peer.url("/0"))
        peer.wait_request()
        dying = session.request(peer.url("/dying"))
        gated_turns(dying, before=slow)
        dying.end()
        wait_for_queue(session, peer.url(), 1)
        heir = start(session, peer.url("/heir"))
        wait_for_queue(session, peer.url(), 2)
        doorman.go_on.set()
        assert finish(first) == b"ok"
        wait_for_queue(session, peer.url(), 1)  # the dying one was called
        dying.abort()
        slow.set()
        assert finish(heir) == b"ok"
        with pytest.raises(AbortedError):
            dying.wait(LIMIT)
        assert doorman.order == ["/0", "/heir"]
        wait_until_free(session, peer.url(), 1)


def test_one_who_dies_with_the_turn_hands_it_on(limited: Limited, gated_turns: Callable[..., None]) -> None:
    doorman, slow = Doorman(), Gate("slow")
    with Peer(doorman) as peer:
        session = limited(1)
        first = start(session, peer.url("/0"))
        peer.wait_request()
        dying = session.request(peer.url("/dying"))
        gated_turns(dying, after=slow)
        dying.end()
        wait_for_queue(session, peer.url(), 1)
        heir = start(session, peer.url("/heir"))
        wait_for_queue(session, peer.url(), 2)
        doorman.go_on.set()
        assert finish(first) == b"ok"
        dying.abort()
        slow.set()
        assert finish(heir) == b"ok"
        wait_until_free(session, peer.url(), 1)


def test_none_is_lost_however_many_are_aborted(limited: Limited) -> None:
    dice = random.Random(7)
    doorman = Doorman()
    doorman.go_on.set()
    with Peer(doorman, expect_errors=True) as peer:
        session = limited(2)

        def work(seed: int) -> None:
            own = random.Random(seed)
            for _ in range(25):
                request = start(session, peer.url())
                if own.random() < 0.5:
                    request.wait(own.random() * 0.003)
                    request.abort()
                else:
                    assert finish(request) == b"ok"

        threads = [threading.Thread(target=work, args=(dice.random(),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * LIMIT)
        assert not [thread for thread in threads if thread.is_alive()]
        assert doorman.most <= 4  # an aborted one may still be served when the next one comes
        assert finish(start(session, peer.url())) == b"ok"
        wait_until_free(session, peer.url(), 2)


def test_many_that_wait_are_all_served(limited: Limited) -> None:
    doorman = Doorman()
    with Peer(doorman) as peer:
        session = limited(2)
        requests = [start(session, peer.url()) for _ in range(40)]
        wait_for_queue(session, peer.url(), 38)
        for request in requests[::3]:
            request.abort()
        doorman.go_on.set()
        for number, request in enumerate(requests):
            if number % 3:
                assert finish(request) == b"ok"
        wait_until_free(session, peer.url(), 2)
