"""Redirects: the three modes, what is rewritten and dropped, bodies sent again, and targets that are refused."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any, Callable, Optional

import pytest

from clientrequest import ClientRequest, InvalidStateError, RedirectError, Session
from clientrequest._http1 import ResponseHead
from clientrequest._options import parse_url
from clientrequest._redirects import parse_redirect, referrer_after
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, echo_json


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as one:
        yield one


def redirecting(status: int, location: str, to: Optional[Callable[[Conn], None]] = None) -> Callable[[Conn], None]:
    """Answers ``/start`` with a redirect and everything else as ``echo_json`` does."""

    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.target == "/start":
                conn.respond(status, [("Location", location), ("X-Two", "a"), ("X-Two", "b")], b"moved")
            else:
                answer = {
                    "method": request.method,
                    "headers": {name.lower(): value for name, value in request.headers},
                    "body": request.body.decode(),
                }
                conn.respond(200, body=json.dumps(answer).encode())

    return handle


def ask(session: Session, url: str, body: bytes = b"", **options: Any) -> ClientRequest:
    request = session.request(url, **options)
    if body:
        request.write(body)
    return request.end()


@pytest.mark.parametrize(
    ("status", "method", "expected"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (301, "PUT", "PUT"),
        (302, "DELETE", "DELETE"),
        (307, "POST", "POST"),
        (308, "PUT", "PUT"),
        (301, "GET", "GET"),
    ],
)
def test_method_and_body(session: Session, status: int, method: str, expected: str) -> None:
    with Peer(redirecting(status, "/there")) as peer:
        body = b"" if method in ("GET", "DELETE") else b"payload"
        response = ask(session, peer.url("/start"), body, method=method, headers={"X-Kept": "yes"}).get_response(LIMIT)
        answer = response.json()
        kept = expected == method
        assert answer["method"] == expected
        assert answer["body"] == (body.decode() if kept else "")
        assert answer["headers"]["x-kept"] == "yes"
        assert ("content-length" in answer["headers"]) == (kept and bool(body))
        assert response.url == peer.url("/there")
        assert response.redirects == [peer.url("/start")]
        assert len(peer.connections) == 1  # the redirect's body was read, its connection used again


def test_head_stays_head(session: Session) -> None:
    with Peer(redirecting(303, "/there")) as peer:
        ask(session, peer.url("/start"), method="HEAD").get_response(LIMIT).read()
        assert [request.method for request in peer.requests] == ["HEAD", "HEAD"]


def test_rewriting_drops_what_describes_the_body(session: Session) -> None:
    headers = {"Content-Type": "text/plain", "Content-Language": "en", "Origin": "http://one.example"}
    with Peer(redirecting(303, "/there")) as peer:
        answer = ask(session, peer.url("/start"), b"x", method="POST", headers=headers).get_response(LIMIT).json()
        assert not {"content-type", "content-language", "origin", "transfer-encoding"} & set(answer["headers"])


@pytest.mark.parametrize("other_origin", [True, False])
def test_credentials_stay_at_their_origin(session: Session, other_origin: bool) -> None:
    secrets = {"Authorization": "Basic c2VjcmV0", "Cookie": "a=b", "Host": "named.example", "X-Mine": "1"}
    with Peer(redirecting(302, "/unused")) as other, Peer(echo_json) as first:
        there = other.url("/there")
        target = there if other_origin else "/start2"
        with Peer(redirecting(307, target)) as peer:
            answer = ask(session, peer.url("/start"), headers=secrets).get_response(LIMIT).json()
            kept = {"authorization", "cookie"} & set(answer["headers"])
            assert kept == (set() if other_origin else {"authorization", "cookie"})
            assert (answer["headers"]["host"] == "named.example") is not other_origin
            assert answer["headers"]["x-mine"] == "1"
        assert not first.connections


def test_streamed_body_within_the_limit_is_sent_again_and_goes_on(session: Session) -> None:
    with Peer(redirecting(307, "/there")) as peer:
        request = session.request(peer.url("/start"), method="POST", chunked_encoding=True)
        request.write("one ")
        request.write("two")
        assert request.end().get_response(LIMIT).json()["body"] == "one two"


def test_early_redirect_of_a_stream_goes_on_at_the_next_hop(session: Session) -> None:
    seen: list[bytes] = []

    def handle(conn: Conn) -> None:
        request = conn.read_request(body=False)
        if request.target == "/start":
            conn.read_chunk()
            conn.respond(307, [("Location", "/there")])
            return
        while True:
            chunk = conn.read_chunk()
            if not chunk:
                break
            seen.append(chunk)
        conn.respond(200, body=b"done")

    with Peer(handle) as peer:
        request = session.request(peer.url("/start"), method="POST", chunked_encoding=True)
        redirected = Gate("redirect")
        request.on("redirect", lambda *_: redirected.set())
        request.write(b"first ")
        redirected.wait()
        request.write(b"second")
        assert request.end().get_response(LIMIT).read() == b"done"
        assert b"".join(seen) == b"first second"


def moved_in_the_middle(conn: Conn) -> None:
    """Redirects ``/start`` after a first chunk, and reads no more of it; anything else is echoed."""
    request = conn.read_request(body=False)
    if request.target == "/start":
        conn.read_chunk()
        conn.respond(307, [("Location", "/there"), ("Connection", "close")])
        return
    conn.respond(200, body=conn.read_body(request).body)


def test_stream_that_is_past_the_limit_in_the_middle_is_an_error(session: Session) -> None:
    with Peer(moved_in_the_middle) as peer:
        request = session.request(peer.url("/start"), method="POST", chunked_encoding=True, replay_limit=10)
        recorder = Recorder(request)
        request.write(b"more than ten bytes")
        recorder.wait("close")
        with pytest.raises(RedirectError, match="REWIND_NOT_SUPPORTED"):
            request.write(b"and more")
        assert [one.target for one in peer.requests] == ["/start"]


def test_writer_that_waits_for_room_goes_on_after_the_redirect(session: Session) -> None:
    body = [bytes([65 + number]) * 100_000 for number in range(20)]
    limits = {"high_water_mark": 100_000, "replay_limit": 4_000_000}
    with Peer(moved_in_the_middle) as peer:
        request = session.request(peer.url("/start"), method="POST", chunked_encoding=True, **limits)
        for piece in body:
            request.write(piece)
        assert request.end().get_response(LIMIT).read() == b"".join(body)


def test_decision_from_outside_a_listener_when_none_is_asked_for(session: Session) -> None:
    with Peer(redirecting(302, "/there")) as peer:
        request = session.request(peer.url("/start"))
        inside: list[None] = []
        request.on("redirect", lambda *_: inside.append(request.follow_redirect()))  # no effect
        with pytest.raises(InvalidStateError):
            request.follow_redirect()
        assert request.end().get_response(LIMIT).status_code == 200
        assert inside == [None]


def test_stream_beyond_the_limit_is_an_error_and_never_empty(session: Session) -> None:
    with Peer(redirecting(308, "/there")) as peer:
        request = session.request(peer.url("/start"), method="POST", chunked_encoding=True, replay_limit=10)
        request.write(b"more than ten bytes")
        with pytest.raises(RedirectError) as raised:
            request.end().get_response(LIMIT)
        assert raised.value.code == "ERR_UPLOAD_STREAM_REWIND_NOT_SUPPORTED"
        assert [one.target for one in peer.requests] == ["/start"]


def test_large_buffered_body_is_sent_again_from_its_file(session: Session) -> None:
    with Peer(redirecting(307, "/there")) as peer:
        request = session.request(peer.url("/start"), method="POST")
        for _ in range(9):
            request.write(b"x" * 1024 * 1024)
        assert len(request.end().get_response(LIMIT).json()["body"]) == 9 * 1024 * 1024


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("ftp://example.com/", "ERR_UNSAFE_REDIRECT"),
        ("file:///etc/passwd", "ERR_UNSAFE_REDIRECT"),
        ("data:text/plain,x", "ERR_UNSAFE_REDIRECT"),
        ("javascript:alert(1)", "ERR_UNSAFE_REDIRECT"),
        ("http://[::1", "ERR_INVALID_REDIRECT"),
        ("http://a:99999/", "ERR_INVALID_REDIRECT"),
    ],
)
def test_refused_targets(session: Session, location: str, code: str) -> None:
    with Peer(redirecting(302, location)) as peer:
        request = session.request(peer.url("/start"))
        recorder = Recorder(request, skip=("response",))
        request.end()
        recorder.wait("close")
        with pytest.raises(RedirectError) as raised:
            request.wait(LIMIT)
        assert raised.value.code == code
        assert recorder.names("request") == ["finish", "error", "close"]


@pytest.mark.parametrize("start", ["http://a:x/", "http://a%@b:x/"])
@pytest.mark.parametrize("filler", ["a", "["])
def test_a_long_location_takes_no_long_time(start: str, filler: str) -> None:
    head = ResponseHead((1, 1), 302, "", [("Location", start + filler * 200_000)])
    began = time.thread_time()
    with contextlib.suppress(RedirectError):
        parse_redirect(head, "GET", parse_url("http://example.com/"))
    assert time.thread_time() - began < 5.0  # it took minutes once


def test_a_long_name_of_other_letters_takes_no_long_time() -> None:
    name = "".join(chr(0x4E00 + number) for number in range(8000)).encode().decode("latin-1")
    head = ResponseHead((1, 1), 302, "", [("Location", f"http://{name}/")])
    began = time.thread_time()
    with pytest.raises(RedirectError) as raised:
        parse_redirect(head, "GET", parse_url("http://example.com/"))
    assert raised.value.code == "ERR_INVALID_REDIRECT"
    assert time.thread_time() - began < 5.0  # the codec for such names needed three times as long


def test_twenty_are_followed_and_no_more(session: Session) -> None:
    def handle(conn: Conn) -> None:
        while True:
            number = int(conn.read_request().target[1:])
            if number == 0:
                conn.respond(200, body=b"there")
            else:
                conn.respond(302, [("Location", f"/{number - 1}")])

    with Peer(handle) as peer:
        assert ask(session, peer.url("/20")).get_response(LIMIT).read() == b"there"
        with pytest.raises(RedirectError) as raised:
            ask(session, peer.url("/21")).get_response(LIMIT)
        assert raised.value.code == "ERR_TOO_MANY_REDIRECTS"


def test_mode_error(session: Session) -> None:
    with Peer(redirecting(302, "/there")) as peer:
        with pytest.raises(RedirectError) as raised:
            ask(session, peer.url("/start"), redirect="error").get_response(LIMIT)
        assert raised.value.code == "ERR_FAILED"
        assert len(peer.requests) == 1


def test_redirect_without_location_is_the_response(session: Session) -> None:
    with Peer(lambda conn: conn.read_request() and conn.respond(302, body=b"nowhere", close=True)) as peer:  # type: ignore[func-returns-value]
        assert ask(session, peer.url("/")).get_response(LIMIT).read() == b"nowhere"


def test_event_tells_where_it_goes(session: Session) -> None:
    told: list[Any] = []
    with Peer(redirecting(303, "/there")) as peer:
        request = session.request(peer.url("/start"), method="POST")
        request.on("redirect", lambda *args: (told.append(args), request.follow_redirect()))
        request.end().get_response(LIMIT).read()
        ((status, method, url, headers),) = told
        assert (status, method, url) == (303, "GET", peer.url("/there"))
        assert headers["x-two"] == ["a", "b"]


def test_manual_with_nobody_listening_gives_the_redirect_itself(session: Session) -> None:
    with Peer(redirecting(302, "/there")) as peer:
        response = ask(session, peer.url("/start"), redirect="manual").get_response(LIMIT)
        assert (response.status_code, response.read()) == (302, b"moved")


@pytest.mark.parametrize("where", ["listener", "later"])
def test_manual_waits_for_the_decision(session: Session, where: str) -> None:
    with Peer(redirecting(307, "/there")) as peer:
        request = session.request(peer.url("/start"), method="POST", redirect="manual")
        asked = Gate("asked")

        @request.on("redirect")
        def decide(*_: object) -> None:
            if where == "listener":
                request.follow_redirect()
            asked.set()

        request.write(b"body")
        request.end()
        asked.wait()
        if where == "later":
            assert not request.wait(0.05)
            request.follow_redirect()
        assert request.get_response(LIMIT).json()["body"] == "body"


@pytest.mark.parametrize("where", ["listener", "later"])
def test_manual_may_be_aborted(session: Session, where: str) -> None:
    with Peer(redirecting(302, "/there")) as peer:
        request = session.request(peer.url("/start"), redirect="manual")
        recorder = Recorder(request, skip=("response",))
        if where == "listener":
            request.on("redirect", lambda *_: request.abort())
        request.end()
        recorder.wait("redirect")
        request.abort()
        recorder.wait("close")
        assert recorder.names("request") == ["finish", "redirect", "abort", "close"]
        assert len(peer.requests) == 1


def test_decision_with_nothing_waiting(session: Session) -> None:
    with Peer(echo_json) as peer:
        request = session.request(peer.url("/"), redirect="manual")
        with pytest.raises(InvalidStateError):
            request.follow_redirect()
        request.abort()


def test_manual_is_bounded_by_the_total_timeout(session: Session) -> None:
    from clientrequest import RequestTimeout, Timeout

    with Peer(redirecting(302, "/there")) as peer:
        request = session.request(peer.url("/start"), redirect="manual", timeout=Timeout(total=0.2))
        request.on("redirect", lambda *_: None)
        with pytest.raises(RequestTimeout):
            request.end().get_response(LIMIT)


@pytest.mark.parametrize(
    ("policy", "target", "expected"),
    [
        ("", "http://b.example/x", None),
        ("", "https://a.example/y", "https://a.example/page?q"),
        ("", "https://b.example/y", "https://a.example/"),
        ("no-referrer", "https://a.example/y", None),
        ("origin", "http://b.example/", "https://a.example/"),
        ("same-origin", "https://b.example/", None),
        ("same-origin", "https://a.example/", "https://a.example/page?q"),
        ("strict-origin", "http://a.example/", None),
        ("strict-origin", "https://b.example/", "https://a.example/"),
        ("no-referrer-when-downgrade", "http://a.example/", None),
        ("no-referrer-when-downgrade", "https://b.example/", "https://a.example/page?q"),
        ("origin-when-cross-origin", "http://b.example/", "https://a.example/"),
        ("unsafe-url", "http://b.example/", "https://a.example/page?q"),
    ],
)
def test_referrer_policy(policy: str, target: str, expected: Optional[str]) -> None:
    assert referrer_after(policy, "https://a.example/page?q", parse_url(target)) == expected
