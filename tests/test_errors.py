"""The tree of errors: codes, texts, copies, what the network's errors become, and that no secret is told."""

from __future__ import annotations

import copy
import errno
import inspect
import logging
import pickle
import socket
import ssl
from typing import Any, Callable

import pytest
import urllib3.exceptions
from urllib3.util.ssl_match_hostname import CertificateError

import clientrequest
from clientrequest import (
    AbortedError,
    AuthenticationError,
    ClientRequest,
    ClientRequestError,
    ConnectError,
    InvalidStateError,
    ListenerError,
    ProtocolError,
    ProxyError,
    RedirectError,
    RequestTimeout,
    Session,
    StatusError,
    Timeout,
    TLSError,
    TransferError,
)
from clientrequest._mapping import URLLIB3_ERRORS, map_error
from tests.support import (
    Conn,
    Handler,
    Peer,
    Recorder,
    blackhole,
    client_context,
    expired_context,
    refused_port,
    scripted,
    server_context,
    untrusted_context,
    wrong_name_context,
)
from tests.support.logs import wait_logged

SECRET = "hunter2"
OK = b"HTTP/1.1 200 OK\r\n"

# ------------------------------------------------------------------------------
# The tree

TREE = [
    (ConnectError, ClientRequestError, "ERR_CONNECTION_FAILED"),
    (ProxyError, ConnectError, "ERR_PROXY_CONNECTION_FAILED"),
    (TLSError, ClientRequestError, "ERR_SSL_PROTOCOL_ERROR"),
    (RequestTimeout, ClientRequestError, "ERR_TIMED_OUT"),
    (TransferError, ClientRequestError, "ERR_CONNECTION_RESET"),
    (ProtocolError, ClientRequestError, "ERR_INVALID_HTTP_RESPONSE"),
    (RedirectError, ClientRequestError, "ERR_FAILED"),
    (StatusError, ClientRequestError, "ERR_HTTP_RESPONSE_CODE_FAILURE"),
    (AuthenticationError, ClientRequestError, "ERR_INVALID_AUTH_CREDENTIALS"),
    (ListenerError, ClientRequestError, "ERR_FAILED"),
    (AbortedError, ClientRequestError, "ERR_ABORTED"),
]
KINDS = [ClientRequestError, *(row[0] for row in TREE)]
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize(("kind", "base", "code"), TREE)
def test_place_in_the_tree_and_code(kind: type[ClientRequestError], base: type[Exception], code: str) -> None:
    assert kind.__bases__[0] is base
    assert kind().code == code


def test_the_tree_is_whole() -> None:
    public = {value for value in vars(clientrequest).values() if inspect.isclass(value) and issubclass(value, OSError)}
    assert public == set(KINDS)


def test_base_of_all_is_an_os_error() -> None:
    assert ClientRequestError.__bases__ == (OSError,)


def test_timeout_is_the_timeout_of_python() -> None:
    assert issubclass(RequestTimeout, TimeoutError)
    with pytest.raises(TimeoutError):
        raise RequestTimeout("ERR_TIMED_OUT", "127.0.0.1")


def test_other_errors_are_no_timeouts() -> None:
    assert [kind for kind in KINDS if issubclass(kind, TimeoutError)] == [RequestTimeout]


def test_misuse_is_a_value_error_outside_of_the_tree() -> None:
    assert issubclass(InvalidStateError, ValueError)
    assert not issubclass(InvalidStateError, OSError)


# ------------------------------------------------------------------------------
# Texts and copies


@EVERY_KIND
def test_text(kind: type[ClientRequestError]) -> None:
    error = kind("ERR_SOME_CODE", "127.0.0.1:9: what happened")
    assert str(error) == "net::ERR_SOME_CODE: 127.0.0.1:9: what happened"
    assert repr(error) == f"{kind.__name__}('ERR_SOME_CODE', '127.0.0.1:9: what happened')"
    assert (error.code, error.detail, error.request, error.errno) == (
        "ERR_SOME_CODE",
        "127.0.0.1:9: what happened",
        None,
        None,
    )


@EVERY_KIND
def test_text_without_anything(kind: type[ClientRequestError]) -> None:
    assert str(kind()) == f"net::{kind().code}"


@EVERY_KIND
def test_pickle(kind: type[ClientRequestError]) -> None:
    error = kind("ERR_SOME_CODE", "detail")
    error.errno = errno.EPIPE
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(error, protocol)), error)


@EVERY_KIND
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copy(kind: type[ClientRequestError], duplicate: Callable[[Any], Any]) -> None:
    error = kind("ERR_SOME_CODE", "detail")
    error.errno = errno.EPIPE
    assert_same(duplicate(error), error)


def assert_same(again: ClientRequestError, error: ClientRequestError) -> None:
    assert type(again) is type(error)
    assert (again.code, again.detail, again.errno) == (error.code, error.detail, error.errno)
    assert (str(again), repr(again)) == (str(error), repr(error))


def test_error_of_a_request_can_be_pickled_without_the_request() -> None:
    error = failure_at_once()
    again = pickle.loads(pickle.dumps(error))
    assert_same(again, error)
    assert again.request is None


def test_misuse_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(InvalidStateError("write() after end()")))
    assert (type(again), str(again)) == (InvalidStateError, "write() after end()")


# ------------------------------------------------------------------------------
# Errors of the system, of TLS and of urllib3


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ECONNREFUSED, ConnectError, "ERR_CONNECTION_REFUSED"),
        (errno.EHOSTUNREACH, ConnectError, "ERR_ADDRESS_UNREACHABLE"),
        (errno.ENETUNREACH, ConnectError, "ERR_ADDRESS_UNREACHABLE"),
        (errno.ENETDOWN, ConnectError, "ERR_INTERNET_DISCONNECTED"),
        (errno.EADDRNOTAVAIL, ConnectError, "ERR_ADDRESS_INVALID"),
        (errno.EACCES, ConnectError, "ERR_NETWORK_ACCESS_DENIED"),
        (errno.EPERM, ConnectError, "ERR_NETWORK_ACCESS_DENIED"),
        (errno.EMFILE, ConnectError, "ERR_INSUFFICIENT_RESOURCES"),
        (errno.ECONNRESET, TransferError, "ERR_CONNECTION_RESET"),
        (errno.EPIPE, TransferError, "ERR_CONNECTION_RESET"),
        (errno.ECONNABORTED, TransferError, "ERR_CONNECTION_ABORTED"),
        (errno.ENOTCONN, TransferError, "ERR_CONNECTION_CLOSED"),
        (errno.ETIMEDOUT, RequestTimeout, "ERR_TIMED_OUT"),
        (errno.EIO, TransferError, "ERR_CONNECTION_CLOSED"),
    ],
)
def test_error_of_the_system(number: int, kind: type[ClientRequestError], code: str) -> None:
    cause = OSError(number, "what the system says")
    error = map_error(cause, "127.0.0.1:9")
    assert (type(error), error.code) == (kind, code)
    assert (error.errno, error.__cause__) == (number, cause)
    assert str(error) == f"net::{code}: 127.0.0.1:9: what the system says"


@pytest.mark.parametrize(
    ("cause", "kind", "code"),
    [
        (OSError(errno.ETIMEDOUT, "x"), RequestTimeout, "ERR_CONNECTION_TIMED_OUT"),
        (socket.timeout("x"), RequestTimeout, "ERR_CONNECTION_TIMED_OUT"),
        (OSError(errno.EIO, "x"), ConnectError, "ERR_CONNECTION_FAILED"),
        (OSError("no number"), ConnectError, "ERR_CONNECTION_FAILED"),
        (socket.gaierror(socket.EAI_NONAME, "x"), ConnectError, "ERR_NAME_NOT_RESOLVED"),
    ],
)
def test_error_of_the_system_while_connecting(cause: OSError, kind: type[ClientRequestError], code: str) -> None:
    error = map_error(cause, "example.com", connecting=True)
    assert (type(error), error.code) == (kind, code)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (9, "ERR_CERT_DATE_INVALID"),
        (10, "ERR_CERT_DATE_INVALID"),
        (18, "ERR_CERT_AUTHORITY_INVALID"),
        (19, "ERR_CERT_AUTHORITY_INVALID"),
        (20, "ERR_CERT_AUTHORITY_INVALID"),
        (21, "ERR_CERT_AUTHORITY_INVALID"),
        (23, "ERR_CERT_REVOKED"),
        (62, "ERR_CERT_COMMON_NAME_INVALID"),
        (64, "ERR_CERT_COMMON_NAME_INVALID"),
        (1, "ERR_CERT_INVALID"),
    ],
)
def test_error_of_a_certificate(number: int, code: str) -> None:
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_code = number
    error = map_error(cause, "example.com")
    assert (type(error), error.code) == (TLSError, code)


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (ssl.SSLError(1, "wrong version number"), "ERR_SSL_PROTOCOL_ERROR"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "ERR_SSL_PROTOCOL_ERROR"),
        (CertificateError("hostname 'a' doesn't match 'b'"), "ERR_CERT_COMMON_NAME_INVALID"),
    ],
)
def test_error_of_tls(cause: Exception, code: str) -> None:
    error = map_error(cause, "example.com")
    assert (type(error), error.code, error.__cause__) == (TLSError, code, cause)


def exceptions_of_urllib3() -> list[type[BaseException]]:
    own = [value for value in vars(urllib3.exceptions).values() if inspect.isclass(value)]
    errors = [value for value in own if issubclass(value, Exception) and not issubclass(value, Warning)]
    return [value for value in errors if value.__module__ == urllib3.exceptions.__name__]


def test_every_exception_of_urllib3_has_its_place() -> None:
    assert set(exceptions_of_urllib3()) == set(URLLIB3_ERRORS)


@pytest.mark.parametrize("cause", exceptions_of_urllib3())
def test_error_of_urllib3(cause: type[BaseException]) -> None:
    raised = cause.__new__(cause)  # their constructors want pools and connections
    vars(raised).update(partial=1, expected=2, length=b"x")  # what some of their texts are made of
    error = map_error(raised, "example.com")
    assert (type(error), error.code) == URLLIB3_ERRORS[cause]
    assert error.__cause__ is raised


def test_codes_look_like_those_of_chromium() -> None:
    assert all(code.startswith("ERR_") and code.isupper() for _, code in URLLIB3_ERRORS.values())


def test_subclass_of_an_error_of_urllib3_is_treated_like_it() -> None:
    class Special(urllib3.exceptions.ProxyError):
        pass

    error = map_error(Special("x", OSError()), "example.com")
    assert (type(error), error.code) == (ProxyError, "ERR_PROXY_CONNECTION_FAILED")


def test_error_of_our_own_stays_itself() -> None:
    error = ProtocolError("ERR_INVALID_HTTP_RESPONSE", "x")
    assert map_error(error, "example.com") is error


def test_anything_else_is_a_failure() -> None:
    error = map_error(ZeroDivisionError("division"), "example.com")
    assert (type(error), str(error)) == (ClientRequestError, "net::ERR_FAILED: example.com: division")


def test_error_without_a_text_has_its_name() -> None:
    assert str(map_error(KeyError(), "example.com")) == "net::ERR_FAILED: example.com: KeyError"


# ------------------------------------------------------------------------------
# Requests that fail


def failure(url: str, **options: Any) -> ClientRequestError:
    """What a request dies of, read to the end if it has one."""
    request = ClientRequest(url, **options)
    request.end()
    with pytest.raises(ClientRequestError) as caught:
        request.get_response().read()
    with pytest.raises(ClientRequestError) as again:
        request.wait()
    assert again.value is caught.value
    assert caught.value.request is request
    return caught.value


def failure_at_once() -> ClientRequestError:
    with refused_port() as port:
        return failure(f"http://127.0.0.1:{port}/")


def failure_with(handler: Handler, **options: Any) -> ClientRequestError:
    with Peer(handler) as peer:
        return failure(peer.url(), **options)


def test_refused_connection() -> None:
    with refused_port() as port:
        error = failure(f"http://127.0.0.1:{port}/path")
    assert (type(error), error.code, error.errno) == (ConnectError, "ERR_CONNECTION_REFUSED", errno.ECONNREFUSED)
    assert str(error).startswith(f"net::ERR_CONNECTION_REFUSED: 127.0.0.1:{port}: ")
    assert isinstance(error.__cause__, ConnectionRefusedError)


def test_name_that_does_not_exist() -> None:
    error = failure(f"http://{'a' * 64}.example/")  # too long to be asked for, so no network is needed
    assert (type(error), error.code) == (ConnectError, "ERR_NAME_NOT_RESOLVED")
    assert error.__cause__ is not None


def test_connecting_takes_too_long() -> None:
    with blackhole() as port:
        error = failure(f"http://127.0.0.1:{port}/", timeout=Timeout(connect=0.05))
    assert (type(error), error.code) == (RequestTimeout, "ERR_CONNECTION_TIMED_OUT")


@pytest.mark.parametrize("timeout", [Timeout(read=0.05), Timeout(total=0.05)])
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200", OK + b"Content-Length: 5\r\n\r\nab"])
def test_answer_takes_too_long(timeout: Timeout, start: bytes) -> None:
    error = failure_with(scripted(start, Conn.hold), timeout=timeout)
    assert (type(error), error.code) == (RequestTimeout, "ERR_TIMED_OUT")


@pytest.mark.parametrize(
    ("context", "code"),
    [
        (untrusted_context, "ERR_CERT_AUTHORITY_INVALID"),
        (expired_context, "ERR_CERT_DATE_INVALID"),
        (wrong_name_context, "ERR_CERT_COMMON_NAME_INVALID"),
    ],
)
def test_bad_certificate(context: Callable[[], ssl.SSLContext], code: str) -> None:
    with Peer(scripted(), tls=context()) as peer, Session(tls=client_context()) as session:
        error = failure(peer.url(), session=session)
    assert (type(error), error.code) == (TLSError, code)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


def test_server_that_does_not_speak_tls() -> None:
    def answer_plainly(conn: Conn) -> None:
        conn.recv_some()
        conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with Peer(answer_plainly) as peer, Session(tls=client_context()) as session:
        error = failure(peer.url().replace("http:", "https:"), session=session)
    assert (type(error), error.code) == (TLSError, "ERR_SSL_PROTOCOL_ERROR")


DAMAGED = [
    (b"", TransferError, "ERR_EMPTY_RESPONSE"),
    (b"HTTP/1.1 100 Continue\r\n\r\n", TransferError, "ERR_EMPTY_RESPONSE"),
    (b"HTTP/1.1 200 OK\r\nContent-Le", ProtocolError, "ERR_RESPONSE_HEADERS_TRUNCATED"),
    (b"<html>", ProtocolError, "ERR_INVALID_HTTP_RESPONSE"),
    (OK + b"no colon\r\n\r\n", ProtocolError, "ERR_INVALID_HTTP_RESPONSE"),
    (OK + b"A: " + b"x" * 300_000, ProtocolError, "ERR_RESPONSE_HEADERS_TOO_BIG"),
    (
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ProtocolError,
        "ERR_RESPONSE_HEADERS_MULTIPLE_CONTENT_LENGTH",
    ),
    (
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ProtocolError,
        "ERR_INVALID_HTTP_RESPONSE",
    ),
    (OK + b"Content-Length: five\r\n\r\n", ProtocolError, "ERR_INVALID_HTTP_RESPONSE"),
    (OK + b"Content-Length: 5\r\n\r\nab", ProtocolError, "ERR_CONTENT_LENGTH_MISMATCH"),
    (OK + b"Content-Length: 5\r\n\r\n", ProtocolError, "ERR_CONTENT_LENGTH_MISMATCH"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", ProtocolError, "ERR_INCOMPLETE_CHUNKED_ENCODING"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", ProtocolError, "ERR_INCOMPLETE_CHUNKED_ENCODING"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", ProtocolError, "ERR_INCOMPLETE_CHUNKED_ENCODING"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\nxy\r\n", ProtocolError, "ERR_INVALID_CHUNKED_ENCODING"),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc", ProtocolError, "ERR_INVALID_CHUNKED_ENCODING"),
    (OK + b"Transfer-Encoding: gzip\r\n\r\nab", ProtocolError, "ERR_INVALID_HTTP_RESPONSE"),
    (OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab", ProtocolError, "ERR_CONTENT_DECODING_FAILED"),
]


@pytest.mark.parametrize(("answer", "kind", "code"), DAMAGED)
def test_damaged_response_is_an_error_for_the_reader(answer: bytes, kind: type[Exception], code: str) -> None:
    error = failure_with(scripted(answer))
    assert (type(error), error.code) == (kind, code)


@pytest.mark.parametrize(("answer", "kind", "code"), DAMAGED)
def test_damaged_response_is_an_error_event(answer: bytes, kind: type[Exception], code: str) -> None:
    with Peer(scripted(answer)) as peer:
        request = ClientRequest(peer.url())
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
    (event,) = [event for event in recorder.events if event.name == "error"]
    assert (type(event.args[0]), event.args[0].code) == (kind, code)
    assert "response.end" not in recorder.names()
    recorder.check_grammar()


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200", OK + b"\r\nab", OK + b"Content-Length: 5\r\n\r\nab"])
def test_reset(start: bytes) -> None:
    error = failure_with(scripted(start, Conn.reset))
    assert (type(error), error.code) == (TransferError, "ERR_CONNECTION_RESET")


def test_tls_that_is_cut_where_only_its_end_ends_the_body() -> None:
    handler = scripted(OK + b"\r\nab", lambda conn: conn.close(notify=False))
    with Peer(handler, tls=server_context()) as peer, Session(tls=client_context()) as session:
        error = failure(peer.url(), session=session)
    assert (type(error), error.code) == (TransferError, "ERR_CONNECTION_CLOSED")


def test_abort() -> None:
    with Peer(scripted(Conn.hold)) as peer:
        request = ClientRequest(peer.url())
        request.end()
        peer.wait_request()
        request.abort()
        with pytest.raises(AbortedError) as caught:
            request.wait()
    assert (caught.value.code, caught.value.request) == ("ERR_ABORTED", request)


def test_listener_that_raises() -> None:
    cause = ZeroDivisionError("division")

    def listener(response: object) -> None:
        raise cause

    with Peer(scripted(OK + b"Content-Length: 0\r\n\r\n")) as peer:
        request = ClientRequest(peer.url(), listener)
        request.end()
        with pytest.raises(ListenerError) as caught:
            request.wait()
    assert caught.value.__cause__ is cause
    assert (caught.value.code, caught.value.request) == ("ERR_FAILED", request)


@pytest.mark.parametrize("excess", [b"1234", b""])
def test_wrong_length_is_raised_where_it_is_written(excess: bytes) -> None:
    request = ClientRequest("http://127.0.0.1:9/", method="POST", headers={"Content-Length": 3})
    with pytest.raises(ProtocolError) as caught:
        request.end(excess)
    assert caught.value.code == "ERR_CONTENT_LENGTH_MISMATCH"
    request.abort()


# ------------------------------------------------------------------------------
# Secrets


@pytest.mark.parametrize(
    "cause",
    [
        urllib3.exceptions.LocationParseError(f"http://bob:{SECRET}@example.com:x/"),
        urllib3.exceptions.LocationParseError(f"bob:{SECRET}@example.com:x"),
        urllib3.exceptions.MaxRetryError(None, f"/path?token={SECRET}"),  # type: ignore[arg-type]
        urllib3.exceptions.ProxyError(f"http://bob:{SECRET}@proxy", OSError(f"https://bob:{SECRET}@proxy:1")),
        ValueError(f"https://{SECRET}@example.com/"),
    ],
)
def test_secret_in_an_error_of_others_is_not_handed_on(cause: Exception) -> None:
    error = map_error(cause, "example.com")
    assert SECRET in str(cause) + repr(cause)
    assert SECRET not in str(error) + repr(error)


def secretive(url: str) -> ClientRequest:
    """A request that is full of secrets."""
    request = ClientRequest(url.replace("//", f"//bob:{SECRET}@", 1) + f"?token={SECRET}", method="POST")
    request.set_header("Authorization", f"Bearer {SECRET}")
    request.set_header("Cookie", f"id={SECRET}")
    return request


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: id=hunter2\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie id=hunter2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: id=hunter2\r\nContent-Length: 5\r\n\r\nab",
    ],
)
def test_error_of_a_request_tells_no_secret(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Peer(scripted(answer)) as peer:
        request = secretive(peer.url())
        request.end(SECRET)
        with pytest.raises(ClientRequestError) as caught:
            request.get_response().read()
    assert SECRET not in str(caught.value) + repr(caught.value) + caplog.text


def test_unheard_failure_is_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "clientrequest")
    with refused_port() as port:
        request = secretive(f"http://127.0.0.1:{port}/path")
        closed = Recorder(request, skip=["error"])
        request.end()
        closed.wait("close")
        del request, closed
        (record,) = wait_logged(caplog)
    assert (record.name, record.levelname) == ("clientrequest", "ERROR")
    assert "ERR_CONNECTION_REFUSED" in caplog.text
    assert SECRET not in caplog.text
