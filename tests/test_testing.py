"""``clientrequest.testing``: requests answered from memory, with faults, for the tests of users; and its fixture."""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from clientrequest import (
    AbortedError,
    ClientRequest,
    ClientRequestError,
    ConnectError,
    InvalidStateError,
    ProtocolError,
    RequestTimeout,
    Session,
    Timeout,
    TLSError,
    TransferError,
    default_session,
    testing,
)
from clientrequest._answering import Line
from clientrequest._options import parse_url
from tests.support import Peer, Recorder, echo_json, open_sockets
from tests.support.threads import in_threads

pytest_plugins = ["pytester"]

LIMIT = 10  # seconds
ROOT = Path(__file__).resolve().parent.parent
URL = "http://shop.example/orders"
BLOCK = bytes(100_000)
PLUGINS = ["-p", "no:cacheprovider", "-p", "clientrequest"]  # of the pytest that a test runs


def get(session: Session, url: str = URL, **options: Any) -> Any:
    """The response, its body read."""
    response = session.request(url, **options).end().get_response(LIMIT)
    response.read_whole = response.read()
    return response


def fail(session: Session, url: str = URL, **options: Any) -> ClientRequestError:
    """The error that the request, or the reading of its response, ends with."""
    with pytest.raises(ClientRequestError) as caught:
        session.request(url, **options).end().get_response(LIMIT).read()
    return caught.value


def upload(session: Session, most: int = 100_000_000) -> ClientRequest:
    """An upload that goes on until somebody has had enough of it."""
    request = session.request(URL, method="POST", chunked_encoding=True)
    with request:
        while request.writable() and request.tell() < most:
            request.write(BLOCK)
    return request


# --- what a handler is given ---


def test_handler_gets_the_request_as_it_was_sent() -> None:
    with testing.serve(lambda request: 204) as server:
        headers = [("X-Twice", "1"), ("x-once", "ü"), ("X-Twice", "2")]
        url = "https://ada:secret@shop.example:8443/a%20b?q=1&q=&r=%C3%A4#there"
        server.session.request(url, method="PATCH", headers=headers).end("body").wait(LIMIT)
        (request,) = server.requests
    assert request.method == "PATCH"
    assert request.url == "https://shop.example:8443/a%20b?q=1&q=&r=%C3%A4"
    assert (request.target, request.path) == ("/a%20b?q=1&q=&r=%C3%A4", "/a%20b")
    assert request.query == {"q": ["1", ""], "r": ["ä"]}
    assert request.headers.items()[0] == ("Host", "shop.example:8443")
    ours = [(name, value) for name, value in request.headers.items() if name.lower().startswith("x-")]
    assert ours == [("X-Twice", "1"), ("X-Twice", "2"), ("x-once", "ü")]
    assert request.headers["x-TWICE"] == "1"
    assert request.headers["X-Never"] is None
    assert (request.body, request.size, request.complete) == (b"body", 4, True)
    assert repr(request) == f"<Request PATCH {request.url} 4 bytes>"


@pytest.mark.parametrize("options", [{}, {"chunked_encoding": True}, {"headers": {"Content-Length": 14}}])
def test_body_comes_in_every_framing(options: dict[str, Any]) -> None:
    with testing.serve(lambda request: request.json()) as server:
        request = server.session.request(URL, method="POST", **options)
        request.write('{"tea"')
        assert request.end(': "two"}').get_response(LIMIT).json() == {"tea": "two"}
        assert server.requests[0].text() == '{"tea": "two"}'


def test_body_can_be_read_while_it_arrives() -> None:
    begun = threading.Event()

    def handler(request: testing.Request) -> bytes:
        first = request.read(3)
        begun.set()
        return first + b"|" + b"".join(request.iter_chunks()) + b"|" + request.read() + request.read(1)

    with testing.serve(handler) as server:
        request = server.session.request(URL, method="POST", chunked_encoding=True)
        request.write(b"abcd")
        assert begun.wait(LIMIT)
        assert not server.requests[0].complete
        assert request.end(b"efg").get_response(LIMIT).read() == b"abc|defg|"
        assert server.requests[0].body == b"abcdefg"


def test_body_is_read_in_the_handler_only() -> None:
    with testing.serve(lambda request: 200) as server:
        get(server.session)
        with pytest.raises(InvalidStateError, match="in the handler"):
            server.requests[0].read()


def test_bodies_need_not_be_kept() -> None:
    with testing.serve(lambda request: str(len(request.read())), keep_bodies=False) as server:
        assert upload(server.session, 3_000_000).get_response(LIMIT).text() == "3000000"
        (request,) = server.requests
        assert (request.size, request.complete) == (3_000_000, True)
        for name in ("body", "received"):
            with pytest.raises(InvalidStateError, match="keep_bodies"):
                getattr(request, name)


def test_leave_to_send_the_body_is_given_when_it_is_read() -> None:
    options = {"method": "POST", "headers": {"Expect": "100-continue"}}
    with testing.serve(lambda request: request.body) as server:
        request = server.session.request(URL, **options)
        recorder = Recorder(request)
        assert request.end(b"wanted").get_response(LIMIT).read() == b"wanted"
        recorder.wait("close")
        assert [name for name in recorder.names() if name in ("information", "continue")] == ["information", "continue"]
    with testing.serve(lambda request: testing.Answer(413, after=0)) as server:
        request = server.session.request(URL, **options).end(b"unwanted")
        assert request.get_response(LIMIT).status_code == 413
        request.wait(LIMIT)
        assert (server.requests[0].received, server.requests[0].complete) == (b"", False)


# --- what it returns ---


@pytest.mark.parametrize(
    ("reply", "status", "kind", "body"),
    [
        (b"\x00bytes", 200, None, b"\x00bytes"),
        ("téxt", 200, "text/plain; charset=utf-8", "téxt".encode()),
        (404, 404, None, b""),
        ({"a": 1}, 200, "application/json", b'{"a": 1}'),
        ([], 200, "application/json", b"[]"),
        (testing.Answer(201, json=None), 201, "application/json", b"null"),
        (testing.Answer(200, "{}", headers={"content-type": "x/y"}), 200, "x/y", b"{}"),
        (testing.Answer(body=[b"a", "ß", b"", memoryview(b"c")]), 200, None, "aßc".encode()),
    ],
)
def test_replies(reply: Any, status: int, kind: Optional[str], body: bytes) -> None:
    with testing.serve(lambda request: reply) as server:
        for _ in range(2):
            response = get(server.session)
            assert (response.status_code, response.headers.get("content-type")) == (status, kind)
            assert response.read_whole == body
        assert [request.connection for request in server.requests] == [1, 1]


@pytest.mark.parametrize("reply", [None, True, 1.5, (200, b""), iter([])])
def test_any_other_reply_reaches_the_test(reply: Any) -> None:
    server = testing.serve(lambda request: reply)
    assert get(server.session).status_code == 500
    with pytest.raises(TypeError, match=f"must return an Answer.*not {type(reply).__name__}"):
        server.close()


def test_status_and_reason() -> None:
    for answer, message in [
        (testing.Answer(404), "Not Found"),
        (testing.Answer(404, reason="Gone fishing"), "Gone fishing"),
        (testing.Answer(799), ""),
    ]:
        with testing.serve(lambda request, answer=answer: answer) as server:
            assert get(server.session).status_message == message


def test_headers_go_out_as_they_are() -> None:
    answer = testing.Answer(headers=[("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("X-Packed", "1")])
    with testing.serve(lambda request: answer) as server:
        raw = get(server.session).raw_headers
    assert raw == ["set-cookie", "a=1", "set-cookie", "b=2", "X-Packed", "1", "Content-Length", "0"]


def test_content_is_decoded() -> None:
    answer = testing.Answer(body=gzip.compress(b"packed"), headers={"Content-Encoding": "gzip"})
    with testing.serve(lambda request: answer) as server:
        assert get(server.session).read_whole == b"packed"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_answers_that_have_no_body(method: str, status: int) -> None:
    with testing.serve(lambda request: testing.Answer(status, [b"no", b"body"])) as server:
        for _ in range(2):
            assert get(server.session, method=method).read_whole == b""
        assert [request.connection for request in server.requests] == [1, 1]


def test_wrong_length_is_sent_as_it_is() -> None:
    answer = testing.Answer(body=b"four", headers={"Content-Length": 5}, then="close")
    with testing.serve(lambda request: answer) as server:
        assert fail(server.session).code == "ERR_CONTENT_LENGTH_MISMATCH"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"status": "200"}, TypeError, "status must be an int, not str"),
        ({"status": True}, TypeError, "status"),
        ({"status": 100}, ValueError, "final"),
        ({"body": 5}, TypeError, "body must be"),
        ({"body": {"a": 1}}, TypeError, "body must be"),
        ({"body": b"a", "json": 1}, TypeError, "one of the two"),
        ({"json": object()}, TypeError, "serializable"),
        ({"headers": {"X\n": "1"}}, ValueError, "token"),
        ({"headers": {"X": "1\n"}}, ValueError, "'X'"),
        ({"reason": b"OK"}, TypeError, "reason"),
        ({"reason": "a\r\nb"}, ValueError, "reason"),
        ({"hold": 5}, TypeError, "hold must be"),
        ({"after": "5"}, TypeError, "after must be"),
        ({"after": -1}, ValueError, "after"),
        ({"then": "wait"}, ValueError, "'read', 'stop', 'close'"),
        ({"cut_after": 1, "reset_after": 1}, ValueError, "one of the two"),
        ({"body": b"four", "cut_after": 4}, ValueError, "4 bytes"),
    ],
)
def test_bad_answer_is_refused_where_it_is_made(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        testing.Answer(**arguments)


def test_bad_faults_are_refused_where_they_are_made() -> None:
    with pytest.raises(ValueError, match="after: -1"):
        testing.Reset(-1)
    with pytest.raises(TypeError, match="after must be an int or None, not str"):
        testing.Silence("5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="data must be bytes, not str"):
        testing.Raw("HTTP/1.1 200 OK")  # type: ignore[arg-type]


def test_what_they_show_of_themselves() -> None:
    shown = [testing.Answer(404), testing.Reset(), testing.Silence(after=5), testing.Raw(b"x", 0)]
    assert [repr(one) for one in shown] == [
        "<Answer 404>",
        "Reset(after=None)",
        "Silence(after=5)",
        "Raw(b'x', after=0)",
    ]


# --- connections ---


@pytest.mark.parametrize("answer", [testing.Answer(headers={"Connection": "close"}), testing.Answer(then="close")])
def test_connection_can_be_closed_behind_an_answer(answer: testing.Answer) -> None:
    with testing.serve(lambda request: answer) as server:
        for _ in range(3):
            get(server.session)
        assert [request.connection for request in server.requests] == [1, 2, 3]


def test_client_may_close_too() -> None:
    with testing.serve(lambda request: 200) as server:
        for _ in range(2):
            get(server.session, headers={"Connection": "close"})
        assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize("url", ["http://a.example/", "https://b.example/", "http://[::1]:1/", "https://10.0.0.1:2/"])
def test_any_host_will_do_and_no_tls_is_needed(url: str) -> None:
    with testing.serve(lambda request: request.url) as server:
        response = get(server.session, url)
        assert response.read_whole.decode() == response.url == url
        assert not server.session._pools._contexts  # which take long to make


def test_connections_are_separate_for_each_origin() -> None:
    with testing.serve(lambda request: 200) as server:
        for url in ("http://a.example/", "https://a.example/", "http://a.example/", "http://b.example/"):
            get(server.session, url)
        assert [request.connection for request in server.requests] == [1, 2, 1, 3]


def test_many_at_once() -> None:
    together = threading.Barrier(20)

    def handler(request: testing.Request) -> bytes:
        together.wait(LIMIT)
        return request.body

    with testing.serve(handler) as server:

        def work(number: int) -> None:
            request = server.session.request(URL, method="POST").end(str(number))
            assert request.get_response(LIMIT).text() == str(number)

        in_threads(20, work)
        assert sorted(int(request.text()) for request in server.requests) == list(range(20))
        assert len({request.connection for request in server.requests}) == 20


def test_limit_of_connections_holds() -> None:
    with testing.serve(lambda request: 200, max_connections_per_host=1) as server:
        in_threads(5, lambda number: get(server.session))
        assert {request.connection for request in server.requests} == {1}


def test_redirects_cookies_and_logins_work() -> None:
    def handler(request: testing.Request) -> testing.Reply:
        if request.path == "/":
            headers = {"Location": "https://other.example/private", "Set-Cookie": "a=1; Secure; Domain=shop.example"}
            return testing.Answer(307, headers=headers)
        if request.headers["Authorization"] is None:
            return testing.Answer(401, headers={"WWW-Authenticate": 'Basic realm="tea"'})
        return request.body

    with testing.serve(handler) as server:
        request = server.session.request("https://shop.example/", method="POST", use_session_cookies=True)
        request.on("login", lambda auth_info, callback: callback("ada", auth_info.realm))
        response = request.end(b"whole").get_response(LIMIT)
        assert response.read() == b"whole"
        assert response.redirects == ["https://shop.example/"]
        assert [cookie.name for cookie in server.session.cookies] == ["a"]
        assert [one.body for one in server.requests] == [b"whole"] * 3
        assert [one.connection for one in server.requests] == [1, 2, 2]


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (testing.NoConnection.REFUSED, ConnectError),
        (testing.NoConnection.NAME_NOT_RESOLVED, ConnectError),
        (testing.NoConnection.ADDRESS_UNREACHABLE, ConnectError),
        (testing.NoConnection.TIMED_OUT, RequestTimeout),
        (testing.NoConnection.CERTIFICATE_INVALID, TLSError),
    ],
)
def test_connection_that_is_not_made(fault: testing.NoConnection, kind: type[ClientRequestError]) -> None:
    with testing.serve(lambda request: 200, connections=fault, timeout=Timeout(connect=0.05)) as server:
        for _ in range(2):
            error = fail(server.session, "https://shop.example/")
            assert (type(error), error.code) == (kind, fault.value)
            assert "shop.example" in str(error)
        assert server.requests == []


def test_each_connection_has_its_fault() -> None:
    refused = testing.NoConnection.REFUSED
    with testing.serve(lambda request: 200, connections=[refused, None, refused]) as server:
        one_each = {"headers": {"Connection": "close"}}
        assert fail(server.session, **one_each).errno is not None
        assert get(server.session, **one_each).status_code == 200
        assert fail(server.session, **one_each).code == "ERR_CONNECTION_REFUSED"
        for _ in range(2):
            assert get(server.session, **one_each).status_code == 200


def test_connection_without_tls_has_no_certificate() -> None:
    with testing.serve(lambda request: 200, connections=testing.NoConnection.CERTIFICATE_INVALID) as server:
        assert get(server.session, "http://shop.example/").status_code == 200


def test_abort_while_no_connection_is_made() -> None:
    with testing.serve(lambda request: 200, connections=testing.NoConnection.TIMED_OUT) as server:
        request = server.session.request(URL)
        request.end().abort()
        with pytest.raises(AbortedError):
            request.wait(LIMIT)


@pytest.mark.parametrize("after", [None, 0, 1, 150_000])
def test_reset_comes_after_so_many_bytes_of_the_body(after: Optional[int]) -> None:
    with testing.serve(lambda request: testing.Reset(after)) as server:
        with pytest.raises(TransferError) as caught:
            upload(server.session, 400_000).get_response(LIMIT)
        assert caught.value.code == "ERR_CONNECTION_RESET"
        (seen,) = server.requests
        assert seen.size == (400_000 if after is None else after)
        assert seen.complete is (after is None)


@pytest.mark.parametrize("body", [b"0123456789", [b"01234", b"56789"]], ids=["length", "chunked"])
@pytest.mark.parametrize("count", [0, 1, 5, 7])
def test_answer_breaks_off_after_so_many_bytes(body: Any, count: int) -> None:
    codes = {
        ("cut_after", bytes): "ERR_CONTENT_LENGTH_MISMATCH",
        ("cut_after", list): "ERR_INCOMPLETE_CHUNKED_ENCODING",
        ("reset_after", bytes): "ERR_CONNECTION_RESET",
        ("reset_after", list): "ERR_CONNECTION_RESET",
    }
    for how in ("cut_after", "reset_after"):
        with testing.serve(lambda request, how=how: testing.Answer(body=body, **{how: count})) as server:
            request = server.session.request(URL)
            recorder = Recorder(request, consume=True)
            request.end()
            recorder.wait("close")
            assert b"".join(event.args[0] for event in recorder.events if event.name == "data") == b"0123456789"[:count]
            (error,) = [event.args[0] for event in recorder.events if event.name == "error"]
            assert error.code == codes[how, type(body)]


def test_early_answer_may_break_off_too() -> None:
    answer = testing.Answer(413, "too much", after=5, cut_after=3)
    error = pytest.raises(ProtocolError, match="ERR_CONTENT_LENGTH_MISMATCH")  # writing or reading, as it falls
    with testing.serve(lambda request: answer) as server, error:
        upload(server.session).get_response(LIMIT).read()


def test_chunks_that_end_before_they_are_cut_have_no_end() -> None:
    with testing.serve(lambda request: testing.Answer(body=[b"ab"], cut_after=5)) as server:
        assert fail(server.session).code == "ERR_INCOMPLETE_CHUNKED_ENCODING"


def test_silence_lasts_until_the_client_has_had_enough() -> None:
    with testing.serve(lambda request: testing.Silence(), timeout=Timeout(read=0.05)) as server:
        assert fail(server.session).code == "ERR_TIMED_OUT"
        request = server.session.request(URL, timeout=LIMIT).end()
        request.abort()
        with pytest.raises(AbortedError):
            request.wait(LIMIT)


def test_silence_in_an_upload_stops_it() -> None:
    with testing.serve(lambda request: testing.Silence(after=5), timeout=Timeout(write=0.2)) as server:
        with pytest.raises(RequestTimeout, match="sending"):
            upload(server.session).get_response(LIMIT)
        assert (server.requests[0].size, server.requests[0].complete) == (5, False)


@pytest.mark.parametrize("then", ["read", "stop", "close"])
@pytest.mark.parametrize("after", [0, 250_000])
def test_early_answer_ends_an_upload(then: str, after: int) -> None:
    with testing.serve(lambda request: testing.Answer(413, "too much", after=after, then=then)) as server:
        request = upload(server.session)
        assert request.tell() < 100_000_000
        assert request.get_response(LIMIT).text() == "too much"
        request.wait(LIMIT)
        (seen,) = server.requests
        assert not seen.complete
        assert seen.size == after if then != "read" else seen.size >= after
        assert get(server.session, method="POST").status_code == 413  # by another connection
        assert [one.connection for one in server.requests] == [1, 2]


def test_handler_may_read_some_before_an_early_answer() -> None:
    def handler(request: testing.Request) -> testing.Answer:
        assert len(request.read(123_456)) == 123_456
        return testing.Answer(403, after=0, then="stop")

    with testing.serve(handler) as server:
        assert upload(server.session).get_response(LIMIT).status_code == 403
        assert server.requests[0].size == 123_456


def test_early_answer_to_a_body_that_is_there_is_none() -> None:
    with testing.serve(lambda request: testing.Answer(413, after=1, then="stop")) as server:
        for _ in range(2):
            assert server.session.request(URL, method="POST").end(b"x").get_response(LIMIT).status_code == 413
        assert {request.connection for request in server.requests} == {1}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "ERR_EMPTY_RESPONSE"),
        (b"SSH-2.0-OpenSSH\r\n", "ERR_INVALID_HTTP_RESPONSE"),
        (b"HTTP/1.1 200 OK\r\nContent-", "ERR_RESPONSE_HEADERS_TRUNCATED"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "ERR_INVALID_CHUNKED_ENCODING"),
    ],
)
def test_any_bytes_can_be_an_answer(data: bytes, code: str) -> None:
    with testing.serve(lambda request: testing.Raw(data)) as server:
        assert fail(server.session, headers={"Connection": "close"}).code == code


def test_interim_answers_go_as_they_are() -> None:
    data = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.0 200 Fine\r\n\r\nuntil the end"
    with testing.serve(lambda request: testing.Raw(data)) as server:
        heard: list[Any] = []
        request = server.session.request(URL).on("information", lambda *args: heard.append(args))
        assert request.end().get_response(LIMIT).read() == b"until the end"
        assert heard == [(103, "Early Hints", {"link": ["</x>"]})]


def test_answer_is_held_until_the_test_lets_it_go() -> None:
    head, rest = threading.Event(), threading.Event()
    answer = testing.Answer(body=[b"first", rest, b"second"], hold=head)
    with testing.serve(lambda request: answer) as server:
        request = server.session.request(URL).end()
        with pytest.raises(TimeoutError):
            request.get_response(0.02)
        head.set()
        response = request.get_response(LIMIT)
        assert response.read(5) == b"first"
        rest.set()
        assert response.read() == b"second"


@pytest.mark.parametrize("held", ["head", "body"])
def test_nobody_has_to_let_a_held_answer_go(held: str) -> None:
    never, arrived = threading.Event(), threading.Semaphore(0)
    answer = testing.Answer(hold=never) if held == "head" else testing.Answer(body=[b"first", never])

    def handler(request: testing.Request) -> testing.Answer:
        arrived.release()
        return answer

    with testing.serve(handler) as server:
        given_up, other = (server.session.request(URL).end() for _ in range(2))
        for _ in range(2):
            assert arrived.acquire(timeout=LIMIT)
        if held == "body":
            assert given_up.get_response(LIMIT).read(5) == b"first"
        given_up.abort()
        with pytest.raises(AbortedError):
            given_up.wait(LIMIT)
        assert len(server.requests) == 2
        assert len(server._house.lines) == 1  # the server has noticed
    with pytest.raises(AbortedError):
        other.wait(LIMIT)


def test_dead_connection_is_replaced_as_always() -> None:
    replies = iter([200, testing.Reset(), 201])
    with testing.serve(lambda request: next(replies)) as server:
        assert [get(server.session).status_code for _ in range(2)] == [200, 201]
        assert [request.connection for request in server.requests] == [1, 1, 2]


# --- half a body is never whole ---


def test_aborted_upload_is_never_whole() -> None:
    with testing.serve(lambda request: request.body) as server:

        def produce() -> None:
            with server.session.request(URL, method="POST", chunked_encoding=True) as request:
                request.write(b"half a ")
                request.flush()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            produce()
        (seen,) = server.requests  # waits for the end of it
        assert not seen.complete
        assert seen.received == b"half a "
        with pytest.raises(testing.ClientGone, match="not whole"):
            _ = seen.body
        assert repr(seen).endswith("7 bytes, not whole>")


def test_handler_is_told_that_the_client_has_gone() -> None:
    told: list[bytes] = []

    def handler(request: testing.Request) -> int:
        assert request.read(4) == b"half"
        try:
            request.read()
        except testing.ClientGone:
            told.append(request.received)
            raise
        return 200

    with testing.serve(handler) as server:
        request = server.session.request(URL, method="POST", headers={"Content-Length": 10})
        request.write(b"half a")
        request.flush()
        request.abort()
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
        assert server.requests[0].complete is False
    assert told == [b"half a"]
    assert server.errors == []


# --- the whole process ---


def test_all_requests_are_answered_whatever_their_session() -> None:
    with testing.answer_all(lambda request: request.url) as server, Session() as other:
        urls = ["http://a.example/", "https://b.example/"]
        for session in (default_session(), other, server.session):
            assert [get(session, url).read_whole.decode() for url in urls] == urls
        assert ClientRequest(urls[0]).end().get_response(LIMIT).text() == urls[0]
        assert len(server.requests) == 7


def test_no_kept_connection_leads_out_or_back() -> None:
    with Peer(echo_json) as peer, Session() as session:
        assert get(session, peer.url("/before")).read_whole
        with testing.answer_all(lambda request: "from memory"):
            assert get(session, peer.url("/within")).read_whole == b"from memory"
        assert json.loads(get(session, peer.url("/behind")).read_whole)["target"] == "/behind"
        assert [request.target for request in peer.requests] == ["/before", "/behind"]


def test_what_is_for_no_origin_is_refused_and_does_not_get_out() -> None:
    with Peer(echo_json) as peer:
        with testing.answer_all(lambda request: 200, "https://a.example", "http://b.example:8080/") as server:
            assert get(default_session(), "https://a.example/x").status_code == 200
            assert get(default_session(), "http://b.example:8080/").status_code == 200
            for url in (peer.url("/x?y"), "http://a.example/", "http://b.example/"):
                error = fail(default_session(), url)
                assert (type(error), error.code) == (ConnectError, "ERR_BLOCKED_BY_CLIENT")
                assert url in str(error)
            assert len(server.requests) == 2
        assert peer.requests == []


def test_the_newest_server_for_an_origin_answers() -> None:
    with testing.answer_all(lambda request: "outer"):
        inner = testing.answer_all(lambda request: "inner", "http://a.example")
        urls = ["http://a.example/", "http://b.example/"]
        assert [get(default_session(), url).read_whole for url in urls] == [b"inner", b"outer"]
        inner.close()
        assert [get(default_session(), url).read_whole for url in urls] == [b"outer", b"outer"]


def test_sessions_of_serve_keep_their_server() -> None:
    with testing.serve(lambda request: "own") as server:
        assert get(server.session).read_whole == b"own"
        with testing.answer_all(lambda request: "all"):
            assert get(server.session).read_whole == b"own"
        assert get(server.session).read_whole == b"own"
        assert {request.connection for request in server.requests} == {1}


def test_proxies_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "no proxy: at all")
    with Session(proxies={"all": "http://proxy.example:3128"}) as session, testing.answer_all(lambda request: 200):
        for one in (session, default_session()):
            for url in ("http://a.example/", "https://a.example/"):
                assert get(one, url).status_code == 200
    with testing.serve(lambda request: 200) as server:
        assert get(server.session).status_code == 200


def test_requests_that_run_when_it_ends_fail() -> None:
    arrived = threading.Event()

    def handler(request: testing.Request) -> testing.Silence:
        arrived.set()
        return testing.Silence()

    with testing.answer_all(handler):
        request = ClientRequest(URL).end()
        assert arrived.wait(LIMIT)
    with pytest.raises(TransferError):
        request.wait(LIMIT)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ([b"answer"], {}, TypeError, "handler must be a function of a Request, not bytes"),
        ([lambda request: 200, "a.example"], {}, ValueError, "an origin is a scheme and a host"),
        ([lambda request: 200, "https://a.example/path"], {}, ValueError, "an origin is"),
        ([lambda request: 200, "https://ada@a.example"], {}, ValueError, "an origin is"),
        ([lambda request: 200, 5], {}, TypeError, "origin must be a str, not int"),
        ([lambda request: 200], {"connections": "ERR"}, TypeError, "connections must be"),
        ([lambda request: 200], {"connections": [200]}, TypeError, "connections: each"),
    ],
)
def test_bad_server_is_refused_and_nothing_is_put_up(
    arguments: list[Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        testing.answer_all(*arguments, **options)
    with Peer(echo_json) as peer:
        assert get(default_session(), peer.url()).status_code == 200


def test_bad_session_is_refused() -> None:
    async def handler(request: testing.Request) -> int:
        return 200

    with pytest.raises(TypeError, match="coroutine"):
        testing.serve(handler)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="proxies"):
        testing.serve(lambda request: 200, proxies={})
    with pytest.raises(TypeError, match="timeout"):
        testing.serve(lambda request: 200, timeout="5")


# --- what a handler raises ---


def test_what_a_handler_raises_reaches_the_test() -> None:
    def handler(request: testing.Request) -> int:
        raise LookupError("no such tea")

    server = testing.serve(handler)
    response = get(server.session)
    assert response.status_code == 500
    assert response.read_whole == b"The handler raised LookupError: no such tea"
    with pytest.raises(LookupError, match="no such tea") as caught:
        server.close()
    assert caught.traceback[-1].name == "handler"
    server.close()  # said once


def test_it_is_shown_with_what_the_test_failed_of() -> None:
    def handler(request: testing.Request) -> int:
        raise LookupError

    with pytest.raises(LookupError) as caught, testing.serve(handler) as server:
        assert get(server.session).status_code == 200
    assert isinstance(caught.value.__context__, AssertionError)


def test_it_does_not_take_the_place_of_ctrl_c() -> None:
    def interrupted() -> None:
        with testing.serve(lambda request: 1 // 0) as server:
            get(server.session)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_error_that_was_expected_can_be_taken_out() -> None:
    with testing.serve(lambda request: 1 // 0) as server:
        get(server.session)
        assert [type(error) for error in server.errors] == [ZeroDivisionError]
        server.errors.clear()


def test_body_that_raises_is_cut() -> None:
    def body() -> Iterator[bytes]:
        yield b"first"
        raise LookupError("second")

    server = testing.serve(lambda request: testing.Answer(body=body()))
    assert fail(server.session).code == "ERR_INCOMPLETE_CHUNKED_ENCODING"
    with pytest.raises(LookupError, match="second"):
        server.close()


def test_body_of_something_else_is_an_error() -> None:
    server = testing.serve(lambda request: testing.Answer(body=[b"a", 5]))  # type: ignore[list-item]
    assert fail(server.session).code == "ERR_INCOMPLETE_CHUNKED_ENCODING"
    with pytest.raises(TypeError, match="not of int"):
        server.close()


def test_handler_that_does_not_return_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "_LIMIT", 0.05)
    called, release = threading.Event(), threading.Event()

    def handler(request: testing.Request) -> int:
        called.set()
        release.wait(LIMIT)
        return 200

    server = testing.serve(handler)
    request = server.session.request(URL).end()
    assert called.wait(LIMIT)
    (line,) = server._house.lines
    with pytest.raises(RuntimeError, match="has not returned within"):
        server.close()
    release.set()
    line.join(LIMIT)
    assert not line.is_alive()
    with pytest.raises(AbortedError):
        request.wait(LIMIT)


# --- the server is strict ---


class AnyScope:
    """On whose behalf nothing is interrupted."""

    def step(self, name: str) -> None:
        pass

    def expose(self, handle: Any) -> None:
        pass

    def cover(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "bad request line 'GET / HTTP/1.0'"),
        (b"GET / HTTP/1.1\r\nHost\r\n\r\n", "bad header line"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "different values"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "bad chunk size"),
        (b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", "behind the end of its body"),
        (b"GET / HTTP/1.1\r\nX: " + bytes(300_000), "a head of more than"),
    ],
)
def test_what_is_no_request_reaches_the_test(data: bytes, words: str) -> None:
    server = testing.serve(lambda request: request.body)
    opener = server.session._pools.stand_in.opener(parse_url(URL))  # type: ignore[union-attr]
    sock, handle = opener(AnyScope(), "shop.example", 80, ())  # type: ignore[arg-type]
    with contextlib.closing(sock), contextlib.closing(handle):
        sock.settimeout(LIMIT)
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        while sock.recv(65536):
            pass
    with pytest.raises(ProtocolError, match=words):
        server.close()


def test_no_thread_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with testing.serve(lambda request: 200) as server:
        with monkeypatch.context() as patch:
            patch.setattr(Line, "start", start)
            error = fail(server.session)
            assert (type(error), error.code) == (ConnectError, "ERR_INSUFFICIENT_RESOURCES")
        assert get(server.session).status_code == 200


# --- it leaves nothing behind ---


def test_no_thread_and_no_descriptor_is_left() -> None:
    before = open_sockets()
    server = testing.serve(lambda request: testing.Silence() if request.path == "/silence" else request.body)
    running = [server.session.request("http://a.example/silence").end() for _ in range(3)]
    get(server.session)
    server.close()
    assert [thread for thread in threading.enumerate() if thread.name.startswith("clientrequest-testing")] == []
    for request in running:
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
    workers = 4  # each has a pair of its own, until it leaves
    after = open_sockets()
    if before is not None and after is not None:
        assert len(set(after) - set(before)) <= 2 * workers


def test_closed_server_answers_no_more() -> None:
    server = testing.serve(lambda request: 200)
    server.close()
    with pytest.raises(InvalidStateError, match="closed"):
        server.session.request(URL)
    assert repr(server) == "<Server closed, 0 requests>"


# --- the fixture ---


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder for the tests of a user, with nothing of ours in it; of all plugins only ours is loaded."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini(f"[pytest]\naddopts = {' '.join(PLUGINS)}\nfilterwarnings = error\n")
    return pytester


def test_plugin_is_found_by_pytest() -> None:
    # By hand, as Python 3.9 has another entry_points().
    points = importlib.metadata.distribution("clientrequest").entry_points
    assert [point.value for point in points if point.group == "pytest11"] == ["_clientrequest_pytest"]


def test_fixture_answers_and_cleans_up(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        from clientrequest import ClientRequest, ConnectError

        def fetch():
            return ClientRequest("https://api.example/tea").end().get_response(5).text()

        @pytest.mark.parametrize("number", range(6))
        def test_answers(answer_requests, number):
            server = answer_requests(lambda request: str(number), "https://api.example")
            assert fetch() == str(number)
            assert [request.url for request in server.requests] == ["https://api.example/tea"]

        def test_off(answer_requests):
            with pytest.raises(ConnectError, match="ERR_BLOCKED_BY_CLIENT.*https://api.example/tea"):
                fetch()
        """
    )
    suite.runpytest_inprocess().assert_outcomes(passed=7)
    suite.runpytest_subprocess("-p", "xdist", "-n", "2").assert_outcomes(passed=7)


def test_fixture_fails_the_test_whose_handler_raised(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from clientrequest import ClientRequest

        def handler(request):
            assert request.method == "GET", "a handler may check, too"
            return 200

        def test_program_that_looks_at_nothing(answer_requests):
            answer_requests(handler)
            ClientRequest("http://api.example/", method="PUT").end().wait(5)
        """
    )
    result = suite.runpytest_inprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*def handler(request):", "*AssertionError: a handler may check, too*"])


def test_plugin_costs_nothing_where_it_is_not_used(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import sys

        def test_of_something_else():
            assert "_clientrequest_pytest" in sys.modules
            assert "clientrequest" not in sys.modules
        """
    )
    suite.runpytest_subprocess().assert_outcomes(passed=1)
    result = suite.runpytest_inprocess("--fixtures")
    result.stdout.fnmatch_lines(["answer_requests*", "*Answer clientrequest's requests from memory*"])


# --- documentation, examples ---


def test_program_of_the_docstring_runs() -> None:
    program = re.search(r"^::\n\n(.*?)^``serve``", testing.__doc__ or "", re.M | re.S)
    assert program is not None
    exec(textwrap.dedent(program[1]), {})


def test_all_is_documented() -> None:
    for name in testing.__all__:
        thing = getattr(testing, name)
        if name in ("Handler", "Reply"):
            continue
        assert thing.__doc__
        for member, value in vars(thing).items() if isinstance(thing, type) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert value.__doc__, f"{name}.{member}"


def test_example_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, "-W", "error", *PLUGINS, "test_uploader.py"],
        cwd=ROOT / "examples",
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT * 5,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 6 passed" in done.stdout
