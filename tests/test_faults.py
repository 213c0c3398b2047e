"""Servers that answer wrongly, too late, half, or not at all. Nothing damaged may pass for whole."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import select
import shutil
import ssl
import threading
import time
import warnings
import zlib
from collections.abc import Sequence
from typing import Any, Callable, Union

import pytest

from clientrequest import (
    ClientRequest,
    ClientRequestError,
    ConnectError,
    IncomingMessage,
    ProtocolError,
    RequestTimeout,
    Session,
    Timeout,
    TLSError,
    TransferError,
)
from clientrequest._wire import Wire
from tests.support import (
    LIMIT,
    Conn,
    Gate,
    Handler,
    Peer,
    Recorder,
    blackhole,
    ca_path,
    client_certificate,
    demanding_context,
    echo_json,
    expired_context,
    refused_port,
    scripted,
    server_context,
    untrusted_context,
    wrong_name_context,
)

Serve = Callable[[Handler], Peer]

SHORT = 0.1
"""A timeout that has to run out."""

MUCH = bytes(32 * 1024 * 1024)
"""More than the kernel's buffers hold."""

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def sized(length: int) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % length


def fails(request: ClientRequest) -> ClientRequestError:
    """What a request dies of that never gets a response; every way to hear of it is tried."""
    recorder = Recorder(request)
    request.end()
    recorder.wait("close")
    recorder.check_grammar()
    assert "response" not in recorder.names()
    (event,) = recorder.find("error")
    error: ClientRequestError = event.args[0]
    for wait in (request.get_response, request.wait):
        with pytest.raises(ClientRequestError) as caught:
            wait(LIMIT)
        assert caught.value is error
    assert error.request is request
    assert str(error).startswith(f"net::{error.code}: ")
    return error


# --- heads ----------------------------------------------------------------------------------------------------------


def headed(*lines: bytes) -> bytes:
    return OK + b"".join(line + b"\r\n" for line in lines) + b"\r\nbody"


INVALID = "ERR_INVALID_HTTP_RESPONSE"
TOO_BIG = "ERR_RESPONSE_HEADERS_TOO_BIG"
TWO_LENGTHS = "ERR_RESPONSE_HEADERS_MULTIPLE_CONTENT_LENGTH"

BAD_HEADS: dict[str, tuple[str, bytes]] = {
    "line without colon": (INVALID, headed(b"Content-Length 4")),
    "folded line": (INVALID, headed(b"A: b", b" c", b"Content-Length: 4")),
    "line folded by a tab": (INVALID, headed(b"A: b", b"\tc", b"Content-Length: 4")),
    "folded first line": (INVALID, headed(b" A: b")),
    "space before the colon": (INVALID, headed(b"Content-Length : 4")),
    "tab before the colon": (INVALID, headed(b"Content-Length\t: 4")),
    "space in a name": (INVALID, headed(b"Content Length: 4")),
    "no name": (INVALID, headed(b": 4")),
    "umlaut in a name": (INVALID, headed(b"\xc4: 4")),
    "bare CR in a value": (INVALID, headed(b"A: b\rc")),
    "bare CR as a line end": (INVALID, headed(b"A: b\rContent-Length: 4")),
    "two CRs": (INVALID, headed(b"A: b\r")),
    "NUL in a value": (INVALID, headed(b"A: b\0c")),
    "NUL in a name": (INVALID, headed(b"A\0: b")),
    "control in a value": (INVALID, headed(b"A: b\x07c")),
    "DEL in a value": (INVALID, headed(b"A: b\x7fc")),
    "two lengths": (TWO_LENGTHS, headed(b"Content-Length: 4", b"Content-Length: 5")),
    "two lengths in one line": (TWO_LENGTHS, headed(b"Content-Length: 4, 5")),
    "length and chunked": (INVALID, headed(b"Content-Length: 4", b"Transfer-Encoding: chunked")),
    "chunked and length": (INVALID, headed(b"Transfer-Encoding: chunked", b"Content-Length: 4")),
    "length in letters": (INVALID, headed(b"Content-Length: four")),
    "length below zero": (INVALID, headed(b"Content-Length: -4")),
    "length with a plus": (INVALID, headed(b"Content-Length: +4")),
    "length with an underscore": (INVALID, headed(b"Content-Length: 1_0")),
    "length in hexadecimal": (INVALID, headed(b"Content-Length: 0x4")),
    "length in other digits": (INVALID, headed(b"Content-Length: \xb2")),
    "empty length": (INVALID, headed(b"Content-Length:")),
    "length beyond reason": (INVALID, headed(b"Content-Length: " + b"9" * 30)),
    "unknown coding": (INVALID, headed(b"Transfer-Encoding: gzip")),
    "unknown coding and chunked": (INVALID, headed(b"Transfer-Encoding: gzip, chunked")),
    "chunked twice": (INVALID, headed(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked")),
    "chunked not last": (INVALID, headed(b"Transfer-Encoding: chunked, identity")),
    "too many lines": (TOO_BIG, headed(*[b"A: b"] * 1001)),
    "too long a line": (TOO_BIG, headed(b"A: " + b"b" * 300_000)),
    "too much in all": (TOO_BIG, headed(*[b"A: " + b"b" * 6000] * 60)),
    "endless line": (TOO_BIG, OK + b"A: " + b"b" * 300_000),
    "endless lines": (TOO_BIG, OK + b"A: b\r\n" * 60_000),
    "endless interim answers": (INVALID, b"HTTP/1.1 100 Continue\r\n\r\n" * 40 + sized(0)),
    "damaged interim answer": (INVALID, b"HTTP/1.1 103 Hints\r\nLink\r\n\r\n" + sized(0)),
    "status of two digits": (INVALID, b"HTTP/1.1 20 OK\r\n\r\n"),
    "status of four digits": (INVALID, b"HTTP/1.1 2000 OK\r\n\r\n"),
    "status below 100": (INVALID, b"HTTP/1.1 099 OK\r\n\r\n"),
    "status in letters": (INVALID, b"HTTP/1.1 two OK\r\n\r\n"),
    "no status": (INVALID, b"HTTP/1.1\r\n\r\n"),
    "no status but a space": (INVALID, b"HTTP/1.1 \r\n\r\n"),
    "reason without a space": (INVALID, b"HTTP/1.1 200OK\r\n\r\n"),
    "two spaces": (INVALID, b"HTTP/1.1  200 OK\r\n\r\n"),
    "NUL in the reason": (INVALID, b"HTTP/1.1 200 O\0K\r\n\r\n"),
    "CR in the reason": (INVALID, b"HTTP/1.1 200 O\rK\r\n\r\n"),
    "small letters": (INVALID, b"http/1.1 200 OK\r\n\r\n"),
    "space first": (INVALID, b" HTTP/1.1 200 OK\r\n\r\n"),
    "blank line first": (INVALID, b"\r\nHTTP/1.1 200 OK\r\n\r\n"),
    "version of two digits": (INVALID, b"HTTP/1.10 200 OK\r\n\r\n"),
    "HTTP/2.0": (INVALID, b"HTTP/2.0 200 OK\r\n\r\n"),
    "HTTP/2": (INVALID, b"HTTP/2 200\r\n\r\n"),
    "HTTP/0.9": (INVALID, b"HTTP/0.9 200 OK\r\n\r\n"),
    "no head at all": (INVALID, b"<html></html>"),
    "another protocol": (INVALID, b"220 mail.example ESMTP\r\n"),
    "another kind of HTTP": (INVALID, b"ICY 200 OK\r\n\r\n"),
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_bad_head_is_an_error_at_once(session: Session, name: str) -> None:
    code, answer = BAD_HEADS[name]
    with Peer(scripted(answer, Conn.wait_closed)) as peer:  # and so nothing more is waited for
        error = fails(session.request(peer.url("/")))
        peer.join()
    assert type(error) is ProtocolError
    assert error.code == code


@pytest.mark.parametrize(
    "start", [b"H", b"HTTP/1.1 200", OK, OK + b"Content-Le", OK + b"Content-Length: 0\r\n", OK + b"A: b\r\n\r"]
)
def test_a_head_that_is_cut_short(serve: Serve, session: Session, start: bytes) -> None:
    error = fails(session.request(serve(scripted(start)).url("/")))
    assert type(error) is ProtocolError
    assert error.code == "ERR_RESPONSE_HEADERS_TRUNCATED"


def test_a_head_that_is_cut_behind_an_interim_answer(serve: Serve, session: Session) -> None:
    error = fails(session.request(serve(scripted(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2")).url("/")))
    assert error.code == "ERR_RESPONSE_HEADERS_TRUNCATED"


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_no_answer(serve: Serve, session: Session, start: bytes) -> None:
    error = fails(session.request(serve(scripted(start)).url("/")))
    assert type(error) is TransferError
    assert error.code == "ERR_EMPTY_RESPONSE"


class LateContext(ssl.SSLContext):
    """Begins with TLS only once the server has said something, or has gone."""

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        assert select.select([sock], [], [], LIMIT)[0]
        return super().wrap_socket(sock, *args, **options)


def test_a_reset_before_tls_leaves_no_socket_open() -> None:
    """ssl itself lets go of such a socket without closing it."""
    context = LateContext(ssl.PROTOCOL_TLS_CLIENT)
    with warnings.catch_warnings(record=True) as caught, Peer(Conn.reset) as peer, Session(tls=context) as session:
        warnings.simplefilter("always")
        request = session.request(f"https://127.0.0.1:{peer.port}/").end()
        with pytest.raises(ClientRequestError, match="ERR_CONNECTION_RESET"):
            request.get_response(LIMIT)
        del request
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nA:"], ids=["before the head", "in the head"])
def test_a_reset_before_the_response(serve: Serve, session: Session, start: bytes) -> None:
    error = fails(session.request(serve(scripted(start, Conn.reset)).url("/")))
    assert type(error) is TransferError
    assert error.code == "ERR_CONNECTION_RESET"
    assert isinstance(error.__cause__, OSError)


def test_tls_that_is_cut_before_the_response(session: Session) -> None:
    with Peer(scripted(lambda conn: conn.close(notify=False)), server_context()) as peer:
        assert fails(session.request(peer.url("/"))).code == "ERR_EMPTY_RESPONSE"


def test_a_session_goes_on_after_a_fault(serve: Serve, session: Session) -> None:
    bad = scripted(headed(b"nonsense"))
    peer = serve(lambda conn: bad(conn) if conn.number == 1 else echo_json(conn))
    fails(session.request(peer.url("/")))
    assert session.request(peer.url("/")).end().get_response(LIMIT).status_code == 200


# --- bodies ---------------------------------------------------------------------------------------------------------

MISMATCH = "ERR_CONTENT_LENGTH_MISMATCH"
INCOMPLETE = "ERR_INCOMPLETE_CHUNKED_ENCODING"
BAD_CHUNK = "ERR_INVALID_CHUNKED_ENCODING"
UNDECODABLE = "ERR_CONTENT_DECODING_FAILED"


def packed(coding: bytes, body: bytes) -> bytes:
    return OK + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n%b" % (coding, len(body), body)


def swapped(data: bytes, position: int) -> bytes:
    """`data` with one byte changed."""
    changed = bytearray(data)
    changed[position] ^= 0xFF
    return bytes(changed)


def brotli(body: bytes) -> bytes:
    return bytes(pytest.importorskip("brotli").compress(body, quality=1))


def zstd(body: bytes) -> bytes:
    module = pytest.importorskip("backports.zstd")
    return bytes(module.compress(body, options={module.CompressionParameter.checksum_flag: 1}))


GOOD = b"".join(b"%d," % number for number in range(20_000))
GZIP = gzip.compress(GOOD)
DEFLATE = zlib.compress(GOOD)

CUT_BODIES: dict[str, tuple[str, bytes]] = {
    "short body": (MISMATCH, sized(len(GOOD)) + GOOD[:1000]),
    "short by one": (MISMATCH, sized(len(GOOD)) + GOOD[:-1]),
    "no body": (MISMATCH, sized(len(GOOD))),
    "short gzip": (MISMATCH, packed(b"gzip", GZIP)[:-10]),
    "no chunk": (INCOMPLETE, CHUNKED),
    "in a chunk size": (INCOMPLETE, CHUNKED + b"a"),
    "behind a chunk size": (INCOMPLETE, CHUNKED + b"a\r"),
    "in a chunk": (INCOMPLETE, CHUNKED + b"a\r\n" + GOOD[:9]),
    "behind a chunk": (INCOMPLETE, CHUNKED + b"a\r\n" + GOOD[:10]),
    "in the CRLF behind a chunk": (INCOMPLETE, CHUNKED + b"a\r\n" + GOOD[:10] + b"\r"),
    "before the last chunk": (INCOMPLETE, CHUNKED + b"a\r\n" + GOOD[:10] + b"\r\n"),
    "in the last chunk": (INCOMPLETE, CHUNKED + b"a\r\n" + GOOD[:10] + b"\r\n0\r\n"),
    "in the last CRLF": (INCOMPLETE, CHUNKED + b"a\r\n" + GOOD[:10] + b"\r\n0\r\n\r"),
    "in the trailers": (INCOMPLETE, CHUNKED + b"0\r\nA: b\r\n"),
    "gzip without an end": (UNDECODABLE, OK + b"Content-Encoding: gzip\r\n\r\n" + GZIP[:-10]),
}

BAD_BODIES: dict[str, tuple[str, bytes]] = {
    "chunk size in letters": (BAD_CHUNK, CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n"),
    "chunk size below zero": (BAD_CHUNK, CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with a plus": (BAD_CHUNK, CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with 0x": (BAD_CHUNK, CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with an underscore": (BAD_CHUNK, CHUNKED + b"0_3\r\nabc\r\n0\r\n\r\n"),
    "chunk size behind a space": (BAD_CHUNK, CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n"),
    "chunk size beyond reason": (BAD_CHUNK, CHUNKED + b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n"),
    "empty chunk size": (BAD_CHUNK, CHUNKED + b"\r\nabc\r\n0\r\n\r\n"),
    "chunk size without CR": (BAD_CHUNK, CHUNKED + b"3\nabc\r\n0\r\n\r\n"),
    "endless chunk extension": (BAD_CHUNK, CHUNKED + b"3;" + b"a" * 10_000),
    "no CRLF behind a chunk": (BAD_CHUNK, CHUNKED + b"3\r\n0,10\r\n\r\n"),
    "LF behind a chunk": (BAD_CHUNK, CHUNKED + b"3\r\n0,1\n0\r\n\r\n"),
    "too long a chunk": (BAD_CHUNK, CHUNKED + b"3\r\n0,1,\r\n0\r\n\r\n"),
    "trailer without colon": (INVALID, CHUNKED + b"3\r\n0,1\r\n0\r\nnonsense\r\n\r\n"),
    "too many trailers": (TOO_BIG, CHUNKED + b"0\r\n" + b"A: b\r\n" * 1001 + b"\r\n"),
    "no gzip": (UNDECODABLE, packed(b"gzip", GOOD)),
    "damaged gzip": (UNDECODABLE, packed(b"gzip", swapped(GZIP, len(GZIP) // 2))),
    "gzip with a wrong sum": (UNDECODABLE, packed(b"gzip", swapped(GZIP, -6))),
    "gzip with a wrong size": (UNDECODABLE, packed(b"gzip", swapped(GZIP, -1))),
    "truncated gzip": (UNDECODABLE, packed(b"gzip", GZIP[:-10])),
    "gzip without its sum": (UNDECODABLE, packed(b"gzip", GZIP[:-8])),
    "truncated gzip header": (UNDECODABLE, packed(b"gzip", GZIP[:5])),
    "damaged deflate": (UNDECODABLE, packed(b"deflate", swapped(DEFLATE, len(DEFLATE) // 2))),
    "truncated deflate": (UNDECODABLE, packed(b"deflate", DEFLATE[:-10])),
    "no deflate": (UNDECODABLE, packed(b"deflate", b"\xff" * 100)),
    "damaged inside of two codings": (UNDECODABLE, packed(b"deflate, gzip", gzip.compress(swapped(DEFLATE, 500)))),
    "truncated inside of two codings": (UNDECODABLE, packed(b"deflate, gzip", gzip.compress(DEFLATE[:-10]))),
}

LATER_BODIES: dict[str, Callable[[], bytes]] = {
    "no br": lambda: packed(b"br", brotli(GOOD) and b"\xff" * 1000),
    "truncated br": lambda: packed(b"br", brotli(GOOD)[:-10]),
    "no zstd": lambda: packed(b"zstd", zstd(GOOD) and GOOD),
    "damaged zstd": lambda: packed(b"zstd", swapped(zstd(GOOD), 5000)),
    "truncated zstd": lambda: packed(b"zstd", zstd(GOOD)[:-10]),
}

WAYS_TO_FAIL = [*CUT_BODIES, *BAD_BODIES, *LATER_BODIES]


def damaged(name: str) -> tuple[str, Handler]:
    """The code of a damaged body, and a server for it."""
    if name in CUT_BODIES:
        code, answer = CUT_BODIES[name]
        return code, scripted(answer)
    code, answer = BAD_BODIES[name] if name in BAD_BODIES else (UNDECODABLE, LATER_BODIES[name]())
    return code, scripted(answer, Conn.wait_closed)  # nothing more is waited for


@pytest.mark.parametrize("name", WAYS_TO_FAIL)
def test_a_damaged_body_ends_with_an_error_event(session: Session, name: str) -> None:
    code, handler = damaged(name)
    with Peer(handler) as peer:
        request = session.request(peer.url("/"))
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
        recorder.check_grammar()
        peer.join()
    (event,) = recorder.find("error", "response")
    assert event.args[0].code == code
    assert not recorder.find("end", "response")
    assert not recorder.response.complete
    if name in CUT_BODIES:
        assert GOOD.startswith(recorder.body)


@pytest.mark.parametrize("name", WAYS_TO_FAIL)
def test_a_damaged_body_cannot_be_read_whole(session: Session, name: str) -> None:
    code, handler = damaged(name)
    with Peer(handler) as peer:
        request = session.request(peer.url("/")).end()
        response = request.get_response(LIMIT)
        with pytest.raises(ProtocolError) as caught:
            response.read()
        assert caught.value.code == code
        with pytest.raises(ProtocolError) as caught:
            request.wait(LIMIT)
        assert caught.value.code == code
        assert response.error is caught.value
        peer.join()


@pytest.mark.parametrize("name", WAYS_TO_FAIL)
def test_a_damaged_body_is_read_in_part(session: Session, name: str) -> None:
    code, handler = damaged(name)
    with Peer(handler) as peer:
        response = session.request(peer.url("/")).end().get_response(LIMIT)
        pieces: list[bytes] = []
        with pytest.raises(ProtocolError) as caught:
            pieces.extend(iter(response.read1, b""))
        assert caught.value.code == code
        assert not response.complete
        peer.join()


@pytest.mark.parametrize("name", ["short body", "in a chunk", "too long a chunk", "truncated gzip"])
def test_the_error_of_a_body_goes_to_the_request_where_nobody_listens_on_the_response(
    serve: Serve, session: Session, name: str
) -> None:
    code, handler = damaged(name)
    recorder = Recorder(request := session.request(serve(handler).url("/")), skip=["response.error"], consume=True)
    request.end()
    recorder.wait("close")
    recorder.check_grammar()
    assert recorder.find("error")[0].args[0].code == code
    assert recorder.names().index("response") < recorder.names().index("error")


@pytest.mark.parametrize("name", ["short body", "in a chunk", "too long a chunk", "truncated gzip"])
def test_a_fault_behind_a_good_beginning(serve: Serve, session: Session, name: str) -> None:
    rest = Gate()
    code, answer = {**CUT_BODIES, **BAD_BODIES}[name]
    cut = answer.index(b"\r\n\r\n") + 8
    recorder = Recorder(
        request := session.request(serve(scripted(answer[:cut], rest, answer[cut:])).url("/")), consume=True
    )
    request.end()
    recorder.wait("response")
    rest.set()
    recorder.wait("close")
    recorder.check_grammar()
    assert recorder.find("error", "response")[0].args[0].code == code


@pytest.mark.parametrize("head", [sized(10), CHUNKED + b"a\r\n", OK + b"\r\n"], ids=["length", "chunked", "close"])
def test_a_reset_in_the_body(serve: Serve, session: Session, head: bytes) -> None:
    came = Gate()
    request = session.request(serve(scripted(head + b"0,1", came, Conn.reset)).url("/"))
    recorder = Recorder(request, consume=True)
    request.end()
    recorder.wait("data", "response")
    came.set()
    recorder.wait("close")
    recorder.check_grammar()
    error = recorder.find("error", "response")[0].args[0]
    assert (type(error), error.code) == (TransferError, "ERR_CONNECTION_RESET")
    assert recorder.body == b"0,1"


@pytest.mark.parametrize(
    ("head", "code"),
    [(sized(10), MISMATCH), (CHUNKED + b"a\r\n", INCOMPLETE), (OK + b"\r\n", "ERR_CONNECTION_CLOSED")],
    ids=["length", "chunked", "close"],
)
@pytest.mark.parametrize("read", [True, False], ids=["read", "events"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_that_is_cut_in_the_body(
    session: Session, head: bytes, code: str, read: bool, version: ssl.TLSVersion
) -> None:
    cut = scripted(head + b"0,1", lambda conn: conn.close(notify=False))
    with Peer(cut, server_context(tls_version=version)) as peer:
        request = session.request(peer.url("/"))
        if read:
            with pytest.raises(ClientRequestError) as caught:
                request.end().get_response(LIMIT).read()
            assert caught.value.code == code
        else:
            recorder = Recorder(request, consume=True)
            request.end()
            recorder.wait("close")
            assert recorder.find("error", "response")[0].args[0].code == code


@pytest.mark.parametrize("body", [sized(3) + b"0,1", CHUNKED + b"3\r\n0,1\r\n0\r\n\r\n"], ids=["length", "chunked"])
def test_tls_that_is_cut_behind_a_whole_body_is_no_fault(session: Session, body: bytes) -> None:
    with Peer(scripted(body, lambda conn: conn.close(notify=False)), server_context()) as peer:
        assert session.request(peer.url("/")).end().get_response(LIMIT).read() == b"0,1"


@pytest.mark.parametrize(
    "answer",
    [sized(3) + b"0,1surplus", CHUNKED + b"3\r\n0,1\r\n0\r\n\r\nsurplus", b"HTTP/1.1 204 No\r\n\r\nsurplus"],
    ids=["length", "chunked", "none"],
)
def test_what_comes_behind_a_body_is_no_part_of_it(serve: Serve, session: Session, answer: bytes) -> None:
    too_long = scripted(answer, Conn.wait_closed)
    peer = serve(lambda conn: too_long(conn) if conn.number == 1 else echo_json(conn))
    assert session.request(peer.url("/")).end().get_response(LIMIT).read() in (b"0,1", b"")
    assert session.request(peer.url("/")).end().get_response(LIMIT).json()["connection"] == 2
    peer.connections[0].finished.wait()


# --- connecting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refused_connection(scheme: str) -> None:
    with refused_port() as port:
        error = fails(ClientRequest(f"{scheme}://127.0.0.1:{port}/"))
    assert type(error) is ConnectError
    assert error.code == "ERR_CONNECTION_REFUSED"
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert str(error).startswith(f"net::ERR_CONNECTION_REFUSED: 127.0.0.1:{port}")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b.invalid", "x" * 64 + ".invalid"])
def test_a_name_that_does_not_exist(host: str) -> None:
    error = fails(ClientRequest(f"http://{host}/"))
    assert type(error) is ConnectError
    assert error.code == "ERR_NAME_NOT_RESOLVED"


def within_limits(error: ClientRequestError, code: str, started: float) -> None:
    assert type(error) is RequestTimeout
    assert isinstance(error, TimeoutError)
    assert error.code == code
    assert SHORT * 0.9 < time.monotonic() - started < LIMIT / 2


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("timeout", "code"),
    [(Timeout(connect=SHORT), "ERR_CONNECTION_TIMED_OUT"), (Timeout(total=SHORT), "ERR_TIMED_OUT")],
    ids=["connect", "total"],
)
def test_a_connection_that_is_never_made(scheme: str, timeout: Timeout, code: str) -> None:
    with blackhole() as port:
        started = time.monotonic()
        within_limits(fails(ClientRequest(f"{scheme}://127.0.0.1:{port}/", timeout=timeout)), code, started)


def test_a_handshake_that_is_never_answered(session: Session) -> None:
    with Peer(Conn.hold) as peer:
        started = time.monotonic()
        error = fails(session.request(f"https://127.0.0.1:{peer.port}/", timeout=Timeout(connect=SHORT)))
        within_limits(error, "ERR_CONNECTION_TIMED_OUT", started)


def test_a_handshake_that_is_cut(session: Session) -> None:
    with Peer(lambda conn: conn.recv_some()) as peer:
        error = fails(session.request(f"https://127.0.0.1:{peer.port}/"))
    assert error.code in ("ERR_SSL_PROTOCOL_ERROR", "ERR_CONNECTION_CLOSED", "ERR_CONNECTION_RESET")


def test_https_where_http_is_spoken(session: Session) -> None:
    with Peer(
        lambda conn: (conn.recv_some(), conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), conn.wait_closed())
    ) as peer:
        error = fails(session.request(f"https://127.0.0.1:{peer.port}/"))
    assert (type(error), error.code) == (TLSError, "ERR_SSL_PROTOCOL_ERROR")


def test_http_where_https_is_spoken(session: Session) -> None:
    with Peer(echo_json, server_context()) as peer:
        error = fails(session.request(f"http://127.0.0.1:{peer.port}/"))
    assert error.code in (INVALID, "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET")


# --- certificates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_context", "host", "code"),
    [
        (untrusted_context, "localhost", "ERR_CERT_AUTHORITY_INVALID"),
        (expired_context, "localhost", "ERR_CERT_DATE_INVALID"),
        (wrong_name_context, "localhost", "ERR_CERT_COMMON_NAME_INVALID"),
        (wrong_name_context, "127.0.0.1", "ERR_CERT_COMMON_NAME_INVALID"),
        (lambda: server_context("localhost"), "127.0.0.1", "ERR_CERT_COMMON_NAME_INVALID"),
        (lambda: server_context("127.0.0.1"), "localhost", "ERR_CERT_COMMON_NAME_INVALID"),
    ],
    ids=["untrusted", "expired", "wrong name", "wrong name by address", "name only", "address only"],
)
def test_a_bad_certificate(session: Session, make_context: Callable[[], ssl.SSLContext], host: str, code: str) -> None:
    with Peer(echo_json, make_context()) as peer:
        error = fails(session.request(peer.url("/", host=host)))
        assert (type(error), error.code) == (TLSError, code)
        assert isinstance(error.__cause__, Exception)
        assert peer.requests == []  # and nothing was sent


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_good_certificate(session: Session, host: str) -> None:
    with Peer(echo_json, server_context(host)) as peer:
        assert session.request(peer.url("/", host=host)).end().get_response(LIMIT).status_code == 200


def test_a_private_authority_is_not_trusted_by_default() -> None:
    with Peer(echo_json, server_context()) as peer:
        assert fails(ClientRequest(peer.url("/"))).code == "ERR_CERT_AUTHORITY_INVALID"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_demands_a_certificate(session: Session, version: ssl.TLSVersion) -> None:
    context = demanding_context()
    context.minimum_version = context.maximum_version = version
    with Peer(echo_json, context) as peer:
        error = fails(session.request(peer.url("/")))
        assert error.code in ("ERR_SSL_PROTOCOL_ERROR", "ERR_BAD_SSL_CLIENT_AUTH_CERT", "ERR_CONNECTION_RESET")
        with Session(tls=ca_path(), client_cert=tuple(client_certificate())) as known:
            assert known.request(peer.url("/")).end().get_response(LIMIT).status_code == 200


def test_tls_false_takes_any_certificate_and_warns() -> None:
    with Peer(echo_json, untrusted_context()) as peer, Session(tls=False) as careless:
        request = careless.request(peer.url("/"))
        with pytest.warns(Warning, match="[Uu]nverified"):
            assert request.end().get_response(LIMIT).status_code == 200


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [Timeout(read=SHORT), Timeout(total=SHORT)], ids=["read", "total"])
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_head_that_never_comes(serve: Serve, session: Session, start: bytes, timeout: Timeout) -> None:
    peer = serve(scripted(start, Conn.wait_closed))
    started = time.monotonic()
    within_limits(fails(session.request(peer.url("/"), timeout=timeout)), "ERR_TIMED_OUT", started)
    peer.join()  # the client has closed


@pytest.mark.parametrize("timeout", [Timeout(read=SHORT), Timeout(total=SHORT)], ids=["read", "total"])
def test_a_body_that_never_comes(serve: Serve, session: Session, timeout: Timeout) -> None:
    peer = serve(scripted(sized(10) + b"0,1", Conn.wait_closed))
    request = session.request(peer.url("/"), timeout=timeout)
    recorder = Recorder(request, consume=True)
    started = time.monotonic()
    request.end()
    recorder.wait("close")
    recorder.check_grammar()
    within_limits(recorder.find("error", "response")[0].args[0], "ERR_TIMED_OUT", started)
    assert recorder.body == b"0,1"
    peer.join()


def test_a_timeout_in_plain_seconds_is_for_the_whole(serve: Serve, session: Session) -> None:
    started = time.monotonic()
    error = fails(session.request(serve(scripted(Conn.wait_closed)).url("/"), timeout=SHORT))
    within_limits(error, "ERR_TIMED_OUT", started)


def test_a_timeout_of_the_session(serve: Serve) -> None:
    with Session(tls=ca_path(), timeout=Timeout(read=SHORT)) as hasty:
        started = time.monotonic()
        error = fails(hasty.request(serve(scripted(Conn.wait_closed)).url("/")))
        within_limits(error, "ERR_TIMED_OUT", started)


def drip(conn: Conn) -> None:
    """A byte now and then, for ever."""
    pause = threading.Event()
    while not pause.wait(SHORT / 10):
        conn.send(b"x")


def flood(conn: Conn) -> None:
    """As much as goes, for ever."""
    while True:
        conn.send(MUCH)


class Nowhere(io.RawIOBase):
    """Takes everything."""

    def write(self, data: Any) -> int:
        return len(data)


def write_much(request: ClientRequest) -> None:
    """Write 1 GiB."""
    for _ in range(1024):
        request.write(MUCH[: 1 << 20])


def test_a_dripping_head_runs_into_the_total_timeout(serve: Serve, session: Session) -> None:
    peer = serve(scripted(OK + b"A: ", drip))
    started = time.monotonic()
    error = fails(session.request(peer.url("/"), timeout=Timeout(read=SHORT, total=3 * SHORT)))
    within_limits(error, "ERR_TIMED_OUT", started)


@pytest.mark.parametrize("pour", [drip, flood])
def test_a_body_without_end_runs_into_the_total_timeout(serve: Serve, session: Session, pour: Handler) -> None:
    peer = serve(scripted(OK + b"\r\n", pour))
    request = session.request(peer.url("/"), timeout=Timeout(read=LIMIT, total=3 * SHORT))
    recorder = Recorder(request, consume=False)
    request.on("response", lambda response: response.resume())
    started = time.monotonic()
    request.end()
    recorder.wait("close")
    within_limits(recorder.find("error", "response")[0].args[0], "ERR_TIMED_OUT", started)


@pytest.mark.parametrize("pour", [drip, flood])
def test_reading_without_end_runs_into_the_total_timeout(serve: Serve, session: Session, pour: Handler) -> None:
    peer = serve(scripted(OK + b"\r\n", pour))
    started = time.monotonic()
    response = session.request(peer.url("/"), timeout=Timeout(total=3 * SHORT)).end().get_response(LIMIT)
    with pytest.raises(RequestTimeout) as caught:
        shutil.copyfileobj(response, Nowhere())
    within_limits(caught.value, "ERR_TIMED_OUT", started)


def test_a_dripping_body_does_not_run_into_the_read_timeout(serve: Serve, session: Session) -> None:
    def dribble(conn: Conn) -> None:
        pause = threading.Event()
        for _ in range(8):
            pause.wait(SHORT / 2)
            conn.send(b"x")

    peer = serve(scripted(sized(8), dribble))
    response = session.request(peer.url("/"), timeout=Timeout(read=3 * SHORT)).end().get_response(LIMIT)
    assert response.read() == b"x" * 8


@pytest.mark.parametrize("timeout", [Timeout(write=SHORT), Timeout(total=SHORT)], ids=["write", "total"])
def test_a_server_that_takes_no_body(serve: Serve, session: Session, timeout: Timeout) -> None:
    request = session.request(serve(scripted(Conn.hold, body=False)).url("/"), method="PUT", timeout=timeout)
    recorder = Recorder(request)
    started = time.monotonic()
    request.end(MUCH)
    recorder.wait("close")
    recorder.check_grammar()
    within_limits(recorder.find("error")[0].args[0], "ERR_TIMED_OUT", started)


def test_a_server_that_takes_no_chunks_frees_its_writer(serve: Serve, session: Session) -> None:
    peer = serve(scripted(Conn.hold, body=False))
    request = session.request(peer.url("/"), method="PUT", chunked_encoding=True, timeout=Timeout(write=SHORT))
    with pytest.raises(RequestTimeout, match="ERR_TIMED_OUT"):
        write_much(request)
    with pytest.raises(RequestTimeout, match="ERR_TIMED_OUT"):
        request.end()
    assert not request.writable()


def test_a_writer_that_takes_its_time_is_no_write_timeout(serve: Serve, session: Session) -> None:
    options: dict[str, Any] = {"chunked_encoding": True, "timeout": Timeout(write=SHORT, read=SHORT)}
    request = session.request(serve(echo_json).url("/"), method="PUT", **options)
    request.write(b"one")
    assert not request.wait(3 * SHORT)
    assert request.end(b"two").get_response(LIMIT).json()["length"] == 6


def test_an_upload_that_never_waits_runs_into_the_total_timeout(
    serve: Serve, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket that always takes something is never waited for."""
    late = 0

    def take_some(wire: Wire, buffers: Sequence[Union[bytes, memoryview]]) -> int:
        nonlocal late
        deadline = request._exchange.deadline
        assert deadline is not None
        late += time.monotonic() > deadline
        return 1 if late < 5 else len(buffers[0])

    request = session.request(serve(Conn.hold).url(), method="POST", chunked_encoding=True, timeout=Timeout(total=0.2))
    monkeypatch.setattr(Wire, "send", take_some)
    with contextlib.suppress(RequestTimeout):
        request.write(bytes(100 * 1024 * 1024))
    with pytest.raises(RequestTimeout, match="total timeout"):
        request.wait(LIMIT)
    assert late <= 1


def test_a_writer_that_takes_its_time_runs_into_the_total_timeout(serve: Serve, session: Session) -> None:
    options: dict[str, Any] = {"chunked_encoding": True, "timeout": Timeout(total=SHORT)}
    request = session.request(serve(echo_json).url("/"), method="PUT", **options)
    started = time.monotonic()
    request.write(b"one")
    with pytest.raises(RequestTimeout) as caught:
        request.wait(LIMIT)
    within_limits(caught.value, "ERR_TIMED_OUT", started)
    with pytest.raises(RequestTimeout):
        request.write(b"two")


# --- uploads that break ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Conn.reset, Conn.close], ids=["reset", "close"])
def test_an_upload_that_is_cut_without_an_answer(serve: Serve, session: Session, end: Handler) -> None:
    request = session.request(serve(scripted(end, body=False)).url("/"), method="PUT", chunked_encoding=True)
    with pytest.raises(TransferError) as caught:
        write_much(request)
    assert caught.value.code in ("ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
    with pytest.raises(TransferError):
        request.wait(LIMIT)


def test_a_damaged_answer_in_the_middle_of_an_upload(serve: Serve, session: Session) -> None:
    peer = serve(scripted(b"nonsense\r\n\r\n", Conn.wait_closed, body=False))
    request = session.request(peer.url("/"), method="PUT", chunked_encoding=True)
    with pytest.raises(ProtocolError, match=INVALID):
        write_much(request)


def test_a_damaged_answer_is_no_response(session: Session) -> None:
    responses: list[IncomingMessage] = []
    with Peer(scripted(headed(b"nonsense"))) as peer:
        request = session.request(peer.url("/"), responses.append).end()
        with pytest.raises(ProtocolError):
            request.wait(LIMIT)
    assert responses == []
