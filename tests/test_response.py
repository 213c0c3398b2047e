"""The response as an object: its head, its body as text and JSON, and who gets to read it."""

from __future__ import annotations

import gc
import gzip
import json
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Callable

import pytest

from clientrequest import ClientRequest, IncomingMessage, InvalidStateError, RequestTimeout, Session, Timeout
from clientrequest._incoming import READ_AHEAD
from tests.support import LIMIT, Conn, Gate, Handler, Peer, Recorder, echo_json, scripted

Serve = Callable[[Handler], Peer]

SHORT = 0.05
"""For waits that have to run out."""

OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def answer(*steps: bytes | Gate | Handler, method: str = "GET") -> Iterator[IncomingMessage]:
    """The response that is made of these bytes."""
    with Peer(scripted(*steps)) as peer:
        request = ClientRequest(peer.url("/x?y=1"), method=method).end()
        yield request.get_response(LIMIT)
        request.abort()


@contextmanager
def headed(*lines: str) -> Iterator[IncomingMessage]:
    """A response with these header lines and no body."""
    block = "".join(f"{line}\r\n" for line in [*lines, "Content-Length: 0", ""])
    with answer(OK + block.encode("latin-1")) as response:
        yield response


def get(session: Session, peer: Peer) -> ClientRequest:
    """A GET that is on its way."""
    return session.request(peer.url("/")).end()


# --- the head -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (b"HTTP/1.1 200 OK", 200, "OK"),
        (b"HTTP/1.1 404 Not Found", 404, "Not Found"),
        (b"HTTP/1.1 500 ", 500, ""),
        (b"HTTP/1.1 500", 500, ""),
        (b"HTTP/1.1 299 Gr\xfc\xdfe", 299, "Grüße"),
        (b"HTTP/1.1 999 Beyond", 999, "Beyond"),
    ],
)
def test_status_line(line: bytes, status: int, message: str) -> None:
    with answer(line + b"\r\nContent-Length: 0\r\n\r\n") as response:
        assert (response.status_code, response.status_message) == (status, message)


@pytest.mark.parametrize("minor", [0, 1])
def test_version(minor: int) -> None:
    with answer(b"HTTP/1.%d 200 OK\r\nContent-Length: 0\r\n\r\n" % minor) as response:
        assert response.http_version == f"1.{minor}"
        assert (response.http_version_major, response.http_version_minor) == (1, minor)


def test_lines_may_end_with_a_bare_lf() -> None:
    with answer(b"HTTP/1.1 200 OK\nA: b\nContent-Length: 2\n\nok") as response:
        assert response.headers["a"] == "b"
        assert response.read() == b"ok"


def test_header_names_become_lower_case() -> None:
    with headed("X-CamelCase: Value") as response:
        assert response.headers == {"x-camelcase": "Value", "content-length": "0"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("  \t around\t ", "around"),
        ("in  side", "in  side"),
        ("", ""),
        ("a:b", "a:b"),
        ("\xe4\xff", "\xe4\xff"),
    ],
)
def test_header_value(value: str, expected: str) -> None:
    with headed(f"X:{value}") as response:
        assert response.headers["x"] == expected


@pytest.mark.parametrize(
    "name",
    [
        "Age",
        "Authorization",
        "Content-Type",
        "ETag",
        "Expires",
        "From",
        "Host",
        "If-Modified-Since",
        "If-Unmodified-Since",
        "Last-Modified",
        "Location",
        "Max-Forwards",
        "Proxy-Authorization",
        "Referer",
        "Retry-After",
        "Server",
        "User-Agent",
    ],
)
def test_duplicates_of_single_valued_headers_are_discarded(name: str) -> None:
    with headed(f"{name}: first", f"{name.lower()}: second") as response:
        assert response.headers[name.lower()] == "first"


def test_a_repeated_content_length_of_one_value_is_kept_once() -> None:
    with headed("Content-Length: 0") as response:
        assert response.headers["content-length"] == "0"


@pytest.mark.parametrize("lines", [["Set-Cookie: a=1"], ["Set-Cookie: a=1", "set-cookie: b=2, c", "Set-Cookie: a=1"]])
def test_set_cookie_is_always_a_list(lines: list[str]) -> None:
    with headed(*lines) as response:
        assert response.headers["set-cookie"] == [line.partition(": ")[2] for line in lines]


def test_cookie_lines_are_joined_by_semicolons() -> None:
    with headed("Cookie: a=1", "Cookie: b=2") as response:
        assert response.headers["cookie"] == "a=1; b=2"


def test_all_other_duplicates_are_joined_by_commas() -> None:
    with headed("X-A: 1", "X-B: x", "x-a: 2", "X-A: ") as response:
        assert response.headers["x-a"] == "1, 2, "


def test_raw_headers_are_those_of_the_wire() -> None:
    with headed("ETag: 1", "X-b:2", "etag: 3", "Set-Cookie: c") as response:
        expected = ["ETag", "1", "X-b", "2", "etag", "3", "Set-Cookie", "c", "Content-Length", "0"]
        assert response.raw_headers == expected


def test_changing_the_headers_does_not_change_the_response() -> None:
    with headed("Set-Cookie: a") as response:
        response.headers.clear()
        response.raw_headers.clear()
        assert response.headers["set-cookie"] == ["a"]
        assert response.raw_headers[:2] == ["Set-Cookie", "a"]


def test_url_and_request() -> None:
    with Peer(echo_json) as peer:
        url = peer.url("/a/b?c=d").replace("//", "//user:secret@")
        request = ClientRequest(url).end()
        response = request.get_response(LIMIT)
        response.read()
        assert response.url == peer.url("/a/b?c=d")
        assert response.redirects == []
        assert response.request is request


def test_101_is_the_response() -> None:
    with answer(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nraw") as response:
        assert response.status_code == 101
        assert response.read() == b"raw"


# --- the body's frame -----------------------------------------------------------------------------------------------

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def test_trailers_come_with_the_end() -> None:
    last = Gate()
    trailers = b"0\r\nX-Sum: 1\r\nSet-Cookie: a\r\nx-sum: 2\r\n\r\n"
    with answer(CHUNKED + b"2\r\nok\r\n", last, trailers) as response:
        assert response.read(2) == b"ok"
        assert response.trailers == {}
        last.set()
        assert response.read() == b""
        assert response.trailers == {"x-sum": "1, 2", "set-cookie": ["a"]}


def test_complete_turns_true_with_the_last_byte() -> None:
    last = Gate()
    with answer(OK + b"Content-Length: 4\r\n\r\nab", last, b"cd") as response:
        assert response.read(2) == b"ab"
        assert not response.complete
        last.set()
        assert response.read() == b"cd"
        assert response.complete


def test_a_body_that_broke_off_is_not_complete() -> None:
    with answer(OK + b"Content-Length: 4\r\n\r\nab") as response:
        with pytest.raises(OSError, match="ERR_CONTENT_LENGTH_MISMATCH"):
            response.read()
        assert not response.complete


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_without_a_body_the_connection_serves_the_next_request(
    serve: Serve, session: Session, method: str, head: bytes
) -> None:
    def twice(conn: Conn) -> None:
        conn.read_request()
        conn.send(head)
        echo_json(conn)

    peer = serve(twice)
    response = session.request(peer.url("/"), method=method).end().get_response(LIMIT)
    assert response.read() == b""
    assert response.complete
    assert get(session, peer).get_response(LIMIT).json()["connection"] == 1


@pytest.mark.parametrize("head", [OK, b"HTTP/1.0 200 OK\r\n", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"])
def test_a_body_that_ends_with_the_connection(serve: Serve, session: Session, head: bytes) -> None:
    peer = serve(scripted(head + b"\r\nall ", b"of it"))
    response = get(session, peer).get_response(LIMIT)
    assert response.read() == b"all of it"
    assert response.complete


def test_an_empty_body_that_ends_with_the_connection(serve: Serve, session: Session) -> None:
    response = get(session, serve(scripted(OK + b"\r\n"))).get_response(LIMIT)
    assert response.read() == b""


def test_http_1_0_with_a_length(serve: Serve, session: Session) -> None:
    peer = serve(scripted(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Conn.wait_closed))
    assert get(session, peer).get_response(LIMIT).read() == b"ok"
    peer.join()  # the client has closed


@pytest.mark.parametrize(
    "pieces", [[b"1\r\na\r\n0\r\n\r\n"], [b"1", b"\r", b"\n", b"a", b"\r", b"\n0\r", b"\n\r", b"\n"]]
)
def test_chunks_may_be_cut_anywhere(serve: Serve, session: Session, pieces: list[bytes]) -> None:
    response = get(session, serve(scripted(CHUNKED, *pieces))).get_response(LIMIT)
    assert response.read() == b"a"
    assert response.complete


def test_chunk_extensions_and_leading_zeros_mean_nothing() -> None:
    with answer(CHUNKED + b'003;a=b;c="d e"\r\nabc\r\nA \r\n0123456789\r\n000\r\n\r\n') as response:
        assert response.read() == b"abc0123456789"


# --- text and JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("text/plain", "utf-8"),
        ("text/plain; charset=iso-8859-1", "latin-1"),
        ('text/plain; format=flowed; Charset="ISO-8859-15"', "iso-8859-15"),
        ("text/plain;charset=UTF-16", "utf-16"),
        ("text/plain; charset=no-such", "utf-8"),
        ("text/plain; charset=", "utf-8"),
    ],
)
def test_text_follows_the_charset(content_type: str, charset: str) -> None:
    body = "Grüße".encode(charset)
    head = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    with answer(OK + head.encode() + body) as response:
        assert response.text() == "Grüße"


def test_text_without_a_content_type_is_utf_8() -> None:
    with answer(OK + b"\r\n" + "Grüße".encode()) as response:
        assert response.text() == "Grüße"


def test_text_in_an_encoding_of_ones_own() -> None:
    with answer(OK + b"Content-Type: text/plain; charset=utf-8\r\n\r\n\xfc") as response:
        assert response.text("latin-1") == "ü"


def test_text_replaces_what_cannot_be_decoded() -> None:
    with answer(OK + b"\r\na\xffb") as response:
        assert response.text() == "a\N{REPLACEMENT CHARACTER}b"


def test_text_can_be_strict() -> None:
    with answer(OK + b"\r\na\xffb") as response, pytest.raises(UnicodeDecodeError):
        response.text(errors="strict")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json(encoding: str) -> None:
    with answer(OK + b"\r\n" + json.dumps({"a": ["ü", 1]}, ensure_ascii=False).encode(encoding)) as response:
        assert response.json() == {"a": ["ü", 1]}


@pytest.mark.parametrize("body", [b"", b"{", b"nope"])
def test_what_is_no_json_is_a_value_error(body: bytes) -> None:
    with answer(OK + b"\r\n" + body) as response, pytest.raises(ValueError, match="Expecting"):
        response.json()


# --- get_response() and wait() --------------------------------------------------------------------------------------


def test_threads_get_the_same_response(serve: Serve, session: Session) -> None:
    head = Gate()
    peer = serve(scripted(head, OK + b"Content-Length: 2\r\n\r\nok"))
    request = get(session, peer)
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(request.get_response, LIMIT) for _ in range(4)]
        head.set()
        responses = {future.result(LIMIT) for future in futures}
    assert len(responses) == 1
    assert responses.pop().read() == b"ok"


def test_a_timeout_of_get_response_leaves_the_request_running() -> None:
    head = Gate()
    with Peer(scripted(head, OK + b"Content-Length: 2\r\n\r\nok")) as peer:
        request = ClientRequest(peer.url("/")).end()
        with pytest.raises(TimeoutError):
            request.get_response(SHORT)
        head.set()
        assert request.get_response(LIMIT).read() == b"ok"


@pytest.mark.parametrize("timeout", [0, SHORT])
def test_wait_says_false_when_time_is_over(timeout: float) -> None:
    head = Gate()
    with Peer(scripted(head, OK + b"Content-Length: 2\r\n\r\nok")) as peer:
        request = ClientRequest(peer.url("/")).end()
        assert request.wait(timeout) is False
        head.set()
        assert request.wait(LIMIT) is True


def test_get_response_returns_with_the_head() -> None:
    with answer(OK + b"Content-Length: 5\r\n\r\n", Conn.hold) as response:
        assert response.status_code == 200
        assert not response.complete


def test_get_response_gives_one_object_while_it_is_held() -> None:
    with answer(OK + b"Content-Length: 2\r\n\r\nok") as response:
        assert response.request.get_response(0) is response


def test_a_response_that_was_let_go_of_can_be_asked_for_again() -> None:
    with Peer(scripted(OK + b"Content-Length: 4\r\n\r\nabcd")) as peer:
        request = ClientRequest(peer.url("/")).end()
        assert request.get_response(LIMIT).read(2) == b"ab"
        assert request.get_response(LIMIT).read() == b"cd"


# --- a body that nobody has asked for yet ---------------------------------------------------------------------------

BODY = b"0123456789abcdef" * (READ_AHEAD // 16)


def with_length(body: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


def in_chunks(body: bytes) -> bytes:
    return CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else CHUNKED + b"0\r\n\r\n"


def in_gzip(body: bytes) -> bytes:
    packed = gzip.compress(body)
    return OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed


@pytest.mark.parametrize("size", [0, 1, 1000, READ_AHEAD - 1])
@pytest.mark.parametrize("form", [with_length, in_chunks, in_gzip])
def test_a_small_body_is_fetched_at_once(
    serve: Serve, session: Session, form: Callable[[bytes], bytes], size: int
) -> None:
    answers = iter([form(BODY[:size]), form(b"next")])

    def serve_two(conn: Conn) -> None:
        for reply in answers:
            conn.read_request()
            conn.send(reply)

    peer = serve(serve_two)
    request = get(session, peer)
    assert request.wait(LIMIT)  # nobody reads, and yet it closes
    assert get(session, peer).get_response(LIMIT).read() == b"next"
    assert len(peer.connections) == 1
    assert request.get_response(0).read() == BODY[:size]


def test_a_body_of_just_the_bound_is_fetched_at_once(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(with_length(BODY), Conn.wait_closed)).url("/"))
    recorder = Recorder(request, skip=["response"])
    request.end()
    recorder.wait("close")
    assert request.get_response(0).read() == BODY


def test_a_small_body_that_ends_with_the_connection_is_fetched_at_once(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(OK + b"\r\nsmall")).url("/"))
    recorder = Recorder(request, skip=["response"])
    request.end()
    recorder.wait("close")
    assert request.get_response(0).read() == b"small"


def test_a_small_body_is_fetched_though_it_comes_late() -> None:
    rest = Gate()
    with Peer(scripted(OK + b"Content-Length: 4\r\n\r\nab", rest, b"cd", Conn.wait_closed)) as peer:
        request = ClientRequest(peer.url("/"))
        recorder = Recorder(request, skip=["response"])
        response = request.end().get_response(LIMIT)
        rest.set()
        recorder.wait("close")
        assert response.complete
        assert response.read() == b"abcd"


def test_a_larger_body_waits_for_its_reader(serve: Serve, session: Session) -> None:
    body = BODY + b"!"
    request = get(session, serve(scripted(with_length(body))))
    response = request.get_response(LIMIT)
    assert not request.wait(SHORT)
    assert response.read() == body
    assert request.wait(LIMIT)


TOO_MUCH = [
    OK + b"Content-Length: %d\r\n\r\nabc" % (READ_AHEAD + 1),
    CHUNKED + b"%x\r\n%b\r\n" % (READ_AHEAD + 1, BODY + b"!"),
    OK + b"\r\n" + BODY + b"!",
]


@pytest.mark.parametrize("start", TOO_MUCH, ids=["length", "chunked", "close"])
def test_wait_throws_a_body_away_that_nobody_took(serve: Serve, session: Session, start: bytes) -> None:
    peer = serve(scripted(start, Conn.wait_closed))
    request = get(session, peer)
    assert request.wait(LIMIT)
    peer.join()  # the client has closed
    with pytest.raises(InvalidStateError, match="discarded"):
        request.get_response(0).read()


def test_wait_throws_no_small_body_away_however_late_it_comes() -> None:
    rest = Gate()
    with Peer(scripted(OK + b"Content-Length: 4\r\n\r\nab", rest, b"cd", Conn.wait_closed)) as peer:
        request = ClientRequest(peer.url("/")).end()
        assert not request.wait(SHORT)
        rest.set()
        assert request.wait(LIMIT)
        assert request.get_response(0).read() == b"abcd"


def test_wait_for_a_small_body_that_never_comes_ends_by_the_read_timeout() -> None:
    with Peer(scripted(OK + b"Content-Length: 4\r\n\r\nab", Conn.wait_closed)) as peer:
        request = ClientRequest(peer.url("/"), timeout=Timeout(read=SHORT)).end()
        with pytest.raises(RequestTimeout, match="ERR_TIMED_OUT"):
            request.wait(LIMIT)


def test_wait_in_one_thread_does_not_throw_away_what_another_has_asked_for() -> None:
    rest = Gate()
    with Peer(scripted(OK + b"Content-Length: 10\r\n\r\nabc", rest, b"defghij")) as peer:
        request = ClientRequest(peer.url("/")).end()
        response = request.get_response(LIMIT)
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(request.wait, LIMIT)
            del response
            rest.set()
            assert request.get_response(0).read() == b"abcdefghij"
            assert waiting.result(LIMIT)


def test_wait_does_not_throw_away_what_a_listener_has_kept(serve: Serve, session: Session) -> None:
    rest, heard = Gate(), Gate()
    kept: list[IncomingMessage] = []

    def keep(response: IncomingMessage) -> None:
        kept.append(response)
        heard.set()

    request = session.request(serve(scripted(OK + b"Content-Length: 6\r\n\r\nabc", rest, b"def")).url("/"), keep)
    request.end()
    heard.wait()
    assert not request.wait(SHORT)
    rest.set()
    assert kept[0].read() == b"abcdef"
    assert request.wait(LIMIT)


def test_wait_raises_what_the_request_died_of_each_time() -> None:
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nbad line\r\n\r\n")) as peer:
        request = ClientRequest(peer.url("/")).end()
        for _ in range(2):
            with pytest.raises(OSError, match="ERR_INVALID_HTTP_RESPONSE"):
                request.wait(LIMIT)
        with pytest.raises(OSError, match="ERR_INVALID_HTTP_RESPONSE"):
            request.get_response(LIMIT)


@contextmanager
def without_collector() -> Iterator[None]:
    """Only reference counts free objects."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_a_response_that_nobody_can_read_frees_its_connection(serve: Serve, session: Session) -> None:
    peer = serve(scripted(OK + b"Content-Length: 10\r\n\r\nabc", Conn.wait_closed))
    closed = threading.Event()
    with without_collector():
        request = session.request(peer.url("/"), lambda response: None)
        request.on("close", closed.set)
        request.end()
        del request
        peer.join()
        assert closed.wait(LIMIT)


def test_a_response_is_kept_as_long_as_it_is_held(serve: Serve, session: Session) -> None:
    rest = Gate()
    with without_collector():
        kept: list[IncomingMessage] = []
        came = threading.Event()
        peer = serve(scripted(OK + b"Content-Length: 6\r\n\r\nabc", rest, b"def"))
        session.request(peer.url("/"), lambda response: (kept.append(response), came.set())).end()
        assert came.wait(LIMIT)
        rest.set()
        assert kept.pop().read() == b"abcdef"


def test_a_response_that_is_dropped_half_read_frees_its_connection(serve: Serve, session: Session) -> None:
    peer = serve(scripted(OK + b"Content-Length: 10\r\n\r\nabc", Conn.wait_closed))
    with without_collector():
        request = get(session, peer)
        response = request.get_response(LIMIT)
        assert response.read(3) == b"abc"
        del request, response
        peer.join()


def test_request_and_response_are_freed_by_reference_counts(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    with without_collector():
        request = get(session, peer)
        response = request.get_response(LIMIT)
        response.read()
        assert request.wait(LIMIT)
        gone = threading.Event()
        watcher = weakref.ref(request, lambda _: gone.set())
        del request, response
        assert gone.wait(LIMIT)
        assert watcher() is None


def test_a_small_body_nobody_reads_leaves_its_connection_usable(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    closed = threading.Event()
    request = session.request(peer.url("/"), lambda response: None)
    request.on("close", closed.set)
    request.end()
    del request
    assert closed.wait(LIMIT)
    assert get(session, peer).get_response(LIMIT).json()["connection"] == 1


def test_repr_tells_the_status_and_no_query() -> None:
    with headed() as response:
        assert repr(response).startswith("<IncomingMessage 200 OK of <ClientRequest GET http://127.0.0.1:")
        assert "y=1" not in repr(response)
