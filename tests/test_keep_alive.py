"""Connections that serve several requests: when they are kept, when not, and when they die in between."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest

from clientrequest import (
    ClientRequestError,
    InvalidStateError,
    RequestTimeout,
    Session,
    Timeout,
    TransferError,
)
from clientrequest._wire import MOST_IDLE
from tests.support import (
    LIMIT,
    Conn,
    Gate,
    Handler,
    Peer,
    Recorder,
    ca_path,
    client_context,
    echo_json,
    server_context,
    site,
)

Serve = Callable[[Handler], Peer]

OK = b"HTTP/1.1 200 OK\r\n"


def echoed(session: Session, peer: Peer, **options: Any) -> dict[str, Any]:
    """What the server heard of a request without a body."""
    answer: dict[str, Any] = session.request(peer.url("/"), **options).end().get_response(LIMIT).json()
    return answer


def first_answers(*answers: bytes) -> Handler:
    """A server that gives these answers one after the other, and then echoes; later connections echo at once."""

    def serve(conn: Conn) -> None:
        if conn.number == 1:
            for answer in answers:
                conn.read_request()
                conn.send(answer)
        echo_json(conn)

    return serve


# --- kept -----------------------------------------------------------------------------------------------------------


def test_requests_in_a_row_share_a_connection(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    assert {echoed(session, peer)["connection"] for _ in range(50)} == {1}


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 2\r\n\r\nok",
        b"Content-Length: 0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",
        b"Content-Length: 2\r\nKeep-Alive: timeout=60, max=100\r\n\r\nok",
        b"Content-Length: 2\r\nKeep-Alive: timeout=nonsense\r\n\r\nok",
        b"Content-Length: 2\r\nConnection: Keep-Alive\r\n\r\nok",
        b"Content-Length: 2\r\nConnection: X-Closed\r\n\r\nok",
    ],
)
@pytest.mark.parametrize("status", [200, 401, 404, 500])
def test_a_whole_answer_keeps_the_connection(session: Session, status: int, body: bytes) -> None:
    with Peer(first_answers(b"HTTP/1.1 %d Any\r\n" % status + body)) as peer:
        session.request(peer.url("/")).end().get_response(LIMIT).read()
        assert echoed(session, peer)["connection"] == 1


@pytest.mark.parametrize("options", [{}, {"chunked_encoding": True}, {"headers": {"Content-Length": 4}}])
def test_uploads_keep_the_connection(serve: Serve, session: Session, options: dict[str, Any]) -> None:
    peer = serve(echo_json)
    for _ in range(3):
        request = session.request(peer.url("/"), method="POST", **options).end(b"body")
        assert request.get_response(LIMIT).json()["length"] == 4
    assert len(peer.connections) == 1


@pytest.mark.parametrize(
    ("status", "size", "used_again"),
    [(200, 100_000, True), (201, 100_000, True), (404, 100_000, False), (307, 100_000, False), (404, 1000, True)],
)
def test_server_that_did_not_want_a_large_body_is_not_trusted_to_have_read_it(
    session: Session, status: int, size: int, used_again: bool
) -> None:
    """Squid 5 answers 407, says that the connection is kept, reads no more of the body, and hangs."""
    answer = b"HTTP/1.1 %d Any\r\nContent-Length: 0\r\n\r\n" % status
    with Peer(first_answers(answer)) as peer:
        session.request(peer.url("/"), method="POST").end(bytes(size)).wait(LIMIT)
        assert (echoed(session, peer)["connection"] == 1) is used_again


def test_requests_at_the_same_time_have_connections_of_their_own(serve: Serve, session: Session) -> None:
    both = threading.Barrier(2)

    def meet(conn: Conn) -> None:
        conn.read_request()
        both.wait(LIMIT)
        conn.respond()
        echo_json(conn)

    peer = serve(meet)
    requests = [session.request(peer.url("/")).end() for _ in range(2)]
    for request in requests:
        request.get_response(LIMIT).read()
        assert request.wait(LIMIT)
    assert {echoed(session, peer)["connection"] for _ in range(4)} <= {1, 2}
    assert len(peer.connections) == 2


def test_the_connection_is_free_once_the_response_is_read(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    numbers: list[int] = []

    def ask_again(response: Any) -> None:
        response.read()
        numbers.append(echoed(session, peer)["connection"])

    assert session.request(peer.url("/"), ask_again).end().wait(LIMIT)
    assert numbers == [1]


# --- not kept -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok",
        OK + b"Connection: Close\r\nContent-Length: 2\r\n\r\nok",
        OK + b"Connection: x, close\r\nContent-Length: 2\r\n\r\nok",
        OK + b"Connection: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nConnection: x\r\nContent-Length: 2\r\n\r\nok",
        OK + b"Keep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nok",
        OK + b"Keep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_the_server_may_ask_for_an_end(serve: Serve, session: Session, answer: bytes) -> None:
    peer = serve(first_answers(answer))
    session.request(peer.url("/")).end().get_response(LIMIT).read()
    assert echoed(session, peer)["connection"] == 2
    peer.connections[0].finished.wait()  # the client has closed


def test_http_1_0_may_keep_the_connection(serve: Serve, session: Session) -> None:
    answer = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    peer = serve(first_answers(answer, answer))
    for _ in range(2):
        assert session.request(peer.url("/")).end().get_response(LIMIT).read() == b"ok"
    assert len(peer.connections) == 1


@pytest.mark.parametrize("value", ["close", "Close", "x, close"])
def test_the_caller_may_ask_for_an_end(serve: Serve, session: Session, value: str) -> None:
    def answer_and_wait(conn: Conn) -> None:
        conn.read_request()
        conn.respond()
        conn.wait_closed()

    peer = serve(answer_and_wait)
    session.request(peer.url("/"), headers={"Connection": value}).end().get_response(LIMIT).read()
    peer.join()
    assert peer.requests[0].header("Connection") == value


def test_sessions_share_no_connections(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    with Session(tls=ca_path()) as other:
        assert echoed(session, peer)["connection"] == 1
        assert echoed(other, peer)["connection"] == 2
        assert echoed(session, peer)["connection"] == 1


def test_hosts_share_no_connections(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    assert echoed(session, peer)["connection"] == 1
    request = session.request(peer.url("/", host="localhost")).end()
    assert request.get_response(LIMIT).json()["connection"] == 2


def test_close_connections_closes_what_is_idle(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    assert echoed(session, peer)["connection"] == 1
    session.close_connections()
    peer.connections[0].finished.wait()
    assert echoed(session, peer)["connection"] == 2


def test_close_connections_leaves_what_is_in_use(serve: Serve, session: Session) -> None:
    rest = Gate()

    def half_and_half(conn: Conn) -> None:
        conn.read_request()
        conn.send(OK + b"Content-Length: 4\r\n\r\nab")
        rest.wait()
        conn.send(b"cd")

    response = session.request(serve(half_and_half).url("/")).end().get_response(LIMIT)
    session.close_connections()
    rest.set()
    assert response.read() == b"abcd"


def test_close_closes_what_is_idle_and_refuses_more(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    echoed(session, peer)
    session.close()
    peer.join()
    with pytest.raises(InvalidStateError, match="closed"):
        session.request(peer.url("/"))


# --- connections that die while they are idle ----------------------------------------------------------------------


def once_and_close(conn: Conn) -> None:
    """One answer for each connection, which is then closed without notice."""
    request = conn.read_request()
    conn.respond(body=b"%d" % request.length)


@pytest.mark.parametrize("end", [lambda conn: conn.close(), lambda conn: conn.reset()], ids=["close", "reset"])
def test_an_idle_connection_that_the_server_has_ended_is_not_used(
    serve: Serve, session: Session, end: Callable[[Conn], None]
) -> None:
    peer = serve(echo_json)
    echoed(session, peer)
    end(peer.connections[0])
    request = session.request(peer.url("/"), method="POST", chunked_encoding=True, replay_limit=0)
    assert request.end(b"body").get_response(LIMIT).json()["connection"] == 2


def dies_on_reuse(end: Handler, *, body: bool = True, say: bytes = b"") -> Handler:
    """A server whose first connection answers once, takes another request, says `say`, and ends with `end`."""

    def serve(conn: Conn) -> None:
        if conn.number > 1:
            echo_json(conn)
            return
        conn.read_request()
        conn.respond()
        conn.read_request(body=body)
        if say:
            conn.send(say)
        end(conn)

    return serve


@pytest.fixture(params=[Conn.close, Conn.reset], ids=["close", "reset"])
def end(request: pytest.FixtureRequest) -> Handler:
    """How the server ends a connection."""
    handler: Handler = request.param
    return handler


def warmed(session: Session, peer: Peer) -> Peer:
    """The peer, with an idle connection to it."""
    session.request(peer.url("/")).end().get_response(LIMIT).read()
    return peer


BODY = bytes(range(256)) * 100

REPLAYABLE: dict[str, dict[str, Any]] = {
    "no body": {"method": "GET"},
    "buffered": {"method": "POST"},
    "chunked": {"method": "POST", "chunked_encoding": True},
    "length": {"method": "POST", "headers": {"Content-Length": len(BODY)}},
}


@pytest.mark.parametrize("way", REPLAYABLE)
def test_a_request_on_a_dying_connection_is_sent_again(serve: Serve, session: Session, end: Handler, way: str) -> None:
    peer = warmed(session, serve(dies_on_reuse(end)))
    request = session.request(peer.url("/"), **REPLAYABLE[way])
    recorder = Recorder(request, skip=["response"])
    request.end(None if way == "no body" else BODY)
    answer = request.get_response(LIMIT).json()
    recorder.wait("close")
    assert answer["connection"] == 2
    assert answer["length"] == (0 if way == "no body" else len(BODY))
    assert recorder.names().count("finish") == 1
    assert not recorder.find("error")


def test_a_body_that_is_being_written_goes_on_over_the_new_connection(
    serve: Serve, session: Session, end: Handler
) -> None:
    peer = warmed(session, serve(dies_on_reuse(end, body=False)))
    request = session.request(peer.url("/"), method="POST", chunked_encoding=True)
    request.write(BODY)
    peer.wait_request(3)  # the first piece was sent again
    request.write(b"more")
    answer = request.end(b"!").get_response(LIMIT).json()
    assert answer["length"] == len(BODY) + 5
    assert answer["connection"] == 2


def test_a_body_that_was_let_go_of_is_not_sent_again(serve: Serve, session: Session, end: Handler) -> None:
    peer = warmed(session, serve(dies_on_reuse(end)))
    options: dict[str, Any] = {"chunked_encoding": True, "replay_limit": len(BODY) - 1}
    request = session.request(peer.url("/"), method="POST", **options).end(BODY)
    with pytest.raises(TransferError):
        request.wait(LIMIT)
    assert len(peer.requests) == 2


@pytest.mark.parametrize("say", [b"H", OK, b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_once_an_answer_has_begun_nothing_is_sent_again(
    serve: Serve, session: Session, end: Handler, say: bytes
) -> None:
    peer = warmed(session, serve(dies_on_reuse(end, say=say)))
    with pytest.raises(ClientRequestError):
        session.request(peer.url("/")).end().wait(LIMIT)
    assert len(peer.requests) == 2


def test_a_new_connection_that_dies_is_an_error(serve: Serve, session: Session, end: Handler) -> None:
    def hang_up(conn: Conn) -> None:
        conn.read_request()
        end(conn)

    peer = serve(hang_up)
    with pytest.raises(TransferError):
        session.request(peer.url("/")).end().wait(LIMIT)
    assert len(peer.requests) == 1


def test_a_request_is_sent_again_only_once(serve: Serve, session: Session, end: Handler) -> None:
    def hang_up(conn: Conn) -> None:
        if conn.number == 1:
            conn.read_request()
            conn.respond()
        conn.read_request()
        end(conn)

    peer = warmed(session, serve(hang_up))
    with pytest.raises(TransferError):
        session.request(peer.url("/")).end().wait(LIMIT)
    assert len(peer.requests) == 3


def test_a_connection_that_falls_silent_is_no_reason_to_send_again(serve: Serve, session: Session) -> None:
    peer = warmed(session, serve(dies_on_reuse(lambda conn: conn.wait_closed())))
    with pytest.raises(RequestTimeout):
        session.request(peer.url("/"), timeout=Timeout(read=0.1)).end().wait(LIMIT)
    assert len(peer.requests) == 2


def test_many_requests_in_a_row_to_a_server_that_never_keeps_its_word(serve: Serve, session: Session) -> None:
    peer = serve(once_and_close)
    for length in range(30):
        request = session.request(peer.url("/"), method="POST").end(bytes(length))
        assert request.get_response(LIMIT).read() == b"%d" % length


# --- many threads ---------------------------------------------------------------------------------------------------


def test_threads_share_the_pool(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)

    def ask(number: int) -> list[str]:
        answers = []
        for turn in range(10):
            request = session.request(peer.url(f"/{number}/{turn}"), method="POST", chunked_encoding=True)
            with request:
                request.write(bytes(number))
                request.write(bytes(turn))
            answer = request.get_response(LIMIT).json()
            assert answer["length"] == number + turn
            answers.append(answer["target"])
        return answers

    with ThreadPoolExecutor(16) as threads:
        for number, answers in enumerate(threads.map(ask, range(16))):
            assert answers == [f"/{number}/{turn}" for turn in range(10)]
    assert len(peer.connections) <= 16


def test_idle_connections_are_limited(serve: Serve, session: Session) -> None:
    all_here = threading.Barrier(80)

    def meet(conn: Conn) -> None:
        conn.read_request()
        all_here.wait(LIMIT)
        conn.respond()
        conn.wait_closed()

    peer = serve(meet)
    requests = [session.request(peer.url("/")).end() for _ in range(80)]
    assert all(request.wait(LIMIT) for request in requests)
    assert len(session._pools.idle()) == MOST_IDLE


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_ca(tmp_path: Path) -> Path:
    """A copy of the authority's certificate, to be taken away."""
    return Path(shutil.copy(ca_path(), tmp_path / "ca.pem"))


def test_a_second_tls_connection_does_not_load_the_authorities_again(own_ca: Path) -> None:
    with Peer(echo_json, server_context()) as peer, Peer(echo_json, server_context()) as other, ExitStack() as stack:
        session = stack.enter_context(Session(tls=str(own_ca)))
        assert echoed(session, peer)["connection"] == 1
        own_ca.unlink()
        session.close_connections()
        assert echoed(session, peer)["connection"] == 2
        assert echoed(session, other)["connection"] == 1


def test_nothing_is_loaded_before_the_first_https_request(own_ca: Path) -> None:
    with Peer(echo_json) as peer, Session(tls=str(own_ca)) as session:
        own_ca.unlink()
        assert echoed(session, peer)["connection"] == 1


def test_a_context_is_used_itself() -> None:
    context = client_context()
    with Peer(echo_json, server_context()) as peer, Session(tls=context) as session:
        assert echoed(session, peer)["connection"] == 1
        assert context.session_stats()["connect_good"] == 1
        assert echoed(session, peer)["connection"] == 1
        assert context.session_stats()["connect_good"] == 1
        session.close_connections()
        assert echoed(session, peer)["connection"] == 2
        assert context.session_stats()["connect_good"] == 2


def test_a_context_is_not_weakened_by_its_use() -> None:
    context = client_context()
    with Peer(echo_json, server_context()) as peer, Session(tls=context) as session:
        echoed(session, peer)
    assert context.check_hostname
    assert context.verify_mode == client_context().verify_mode


def test_threads_that_begin_together_make_one_context() -> None:
    start = threading.Barrier(8)
    made: list[object] = []
    with Peer(echo_json, server_context()) as peer, Session(tls=ca_path()) as session:
        make = session._pools._make_contexts["server"]
        session._pools._make_contexts["server"] = lambda: (made.append(None), make())[1]

        def ask() -> int:
            start.wait(LIMIT)
            return session.request(peer.url("/")).end().get_response(LIMIT).status_code

        with ThreadPoolExecutor(8) as threads:
            futures = [threads.submit(ask) for _ in range(8)]
            assert [future.result(LIMIT) for future in futures] == [200] * 8
    assert len(made) == 1


@pytest.mark.parametrize("way", ["buffered", "chunked"])
def test_dead_connection_behind_a_redirect_that_drops_the_body_is_replaced(session: Session, way: str) -> None:
    """The GET that a 302 makes of a POST has no body that would have to be sent again."""

    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(body=b"here")
        if len(target.connections) == 1:
            conn.read_request()
            conn.reset()

    with Peer(answer) as target, Peer(site({"/": (302, {"Location": target.url()})})) as first:
        assert session.request(target.url()).end().wait(LIMIT)
        request = session.request(first.url(), method="POST", chunked_encoding=way == "chunked")
        request.write(b"body")
        assert request.end().get_response(LIMIT).read() == b"here"
        assert request.wait(LIMIT)
        assert [one.method for one in target.requests] == ["GET", "GET", "GET"]
