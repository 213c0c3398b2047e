"""Logins at real servers. nginx and lighttpd ask at once, Apache when it has read the body."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from clientrequest import AuthenticationError, AuthInfo, RedirectError, Session
from tests.servers.bodies import LARGE, MIDDLING, SMALL, Body
from tests.servers.farm import PASSWORD, URL_LOGIN, USER, Server
from tests.servers.uploads import FRAMINGS, LIMIT, Login, check_arrived, upload

pytestmark = pytest.mark.servers

STREAMED = ("chunked", "known")
RIGHT = (USER, PASSWORD)
WRONG = (USER, "open barley")
WAITING = {"Expect": "100-continue"}
HTTPBIN = ("user", "passwd")  # whom httpbin lets in is in its URLs


@dataclasses.dataclass(frozen=True)
class Gate:
    """A place behind a login."""

    server: Server
    port: str
    path: str
    scheme: str

    def url(self, *, login: str = "") -> str:
        return self.server.url(self.path, self.port, login=login)

    def asks(self) -> AuthInfo:
        """What the `login` event must say."""
        return AuthInfo(False, self.scheme, "127.0.0.1", self.server.port(self.port), self.server.realm)


GATES = {
    "nginx-basic-plain": ("nginx", "plain", "/basic/upload", "basic"),
    "nginx-basic-tls": ("nginx", "tls", "/basic/upload", "basic"),
    "apache-basic-plain": ("apache", "plain", "/basic/upload", "basic"),
    "apache-basic-tls": ("apache", "tls", "/basic/upload", "basic"),
    "apache-digest-plain": ("apache", "plain", "/digest/upload", "digest"),
    "apache-digest-tls": ("apache", "tls", "/digest/upload", "digest"),
    "lighttpd-md5-plain": ("lighttpd", "plain", "/md5/upload", "digest"),
    "lighttpd-sha-256-plain": ("lighttpd", "plain", "/sha-256/upload", "digest"),
    "lighttpd-sha-512-256-plain": ("lighttpd", "plain", "/sha-512-256/upload", "digest"),
    "lighttpd-all-plain": ("lighttpd", "plain", "/all/upload", "digest"),
}
OF_APACHE = [name for name in GATES if name.startswith("apache")]
LARGE_ENOUGH = [name for name in GATES if not name.startswith("lighttpd")] + ["lighttpd-all-plain"]

gates = pytest.mark.parametrize("gate", GATES, indirect=True)
gates_of_apache = pytest.mark.parametrize("gate", OF_APACHE, indirect=True)
framings = pytest.mark.parametrize("framing", FRAMINGS)
streamed = pytest.mark.parametrize("framing", STREAMED)


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Gate:
    server, port, path, scheme = GATES[request.param]
    return Gate(request.getfixturevalue(server), port, path, scheme)


@framings
@gates
def test_body_arrives_after_the_login(session: Session, gate: Gate, framing: str) -> None:
    body, login = Body(SMALL), Login(RIGHT)
    check_arrived(upload(session, gate.url(), body, framing, login=login), body)
    assert login.asked == [gate.asks()]


@pytest.mark.parametrize("gate", LARGE_ENOUGH, indirect=True)
def test_large_buffered_body_arrives_after_the_login(session: Session, gate: Gate) -> None:
    body, login = Body(LARGE), Login(RIGHT)
    check_arrived(upload(session, gate.url(), body, "buffered", login=login), body)
    assert login.asked == [gate.asks()]


@framings
@gates
def test_wrong_password_and_then_the_right_one(session: Session, gate: Gate, framing: str) -> None:
    body, login = Body(SMALL), Login(WRONG, ("nobody", "x"), RIGHT)
    check_arrived(upload(session, gate.url(), body, framing, login=login), body)
    assert login.asked == [gate.asks()] * 3


@gates
def test_wrong_password_five_times(session: Session, gate: Gate) -> None:
    login = Login(*[WRONG] * 9)
    response = upload(session, gate.url(), Body(SMALL), "buffered", login=login)
    assert response.status_code == 401
    assert response.read()
    assert len(login.asked) == 5


@framings
@gates
def test_cancel(session: Session, gate: Gate, framing: str) -> None:
    login = Login()
    response = upload(session, gate.url(), Body(SMALL), framing, login=login)
    assert response.status_code == 401
    assert b"401" in response.read()
    assert isinstance(response.error, AuthenticationError)
    assert login.asked == [gate.asks()]


@gates
def test_nobody_to_ask(session: Session, gate: Gate) -> None:
    response = upload(session, gate.url(), Body(SMALL), "buffered")
    assert response.status_code == 401
    assert b"401" in response.read()
    assert response.error is None


@gates
def test_credentials_are_kept_for_the_next_request(session: Session, gate: Gate) -> None:
    first, second = Login(RIGHT), Login()
    body = Body(SMALL)
    check_arrived(upload(session, gate.url(), body, "buffered", login=first), body)
    for framing in FRAMINGS:
        check_arrived(upload(session, gate.url(), body, framing, login=second), body)
    assert (len(first.asked), second.asked) == (1, [])


@gates
def test_forgotten_credentials_are_asked_for_again(session: Session, gate: Gate) -> None:
    for _ in range(2):
        body, login = Body(SMALL), Login(RIGHT)
        check_arrived(upload(session, gate.url(), body, "buffered", login=login), body)
        assert len(login.asked) == 1
        session.clear_auth_cache()


@streamed
@gates
def test_stream_of_any_length_with_kept_credentials(session: Session, gate: Gate, framing: str) -> None:
    """Asked once with a small request, nothing has to be sent twice after that."""
    body = Body(0)
    check_arrived(upload(session, gate.url(), body, "buffered", login=Login(RIGHT)), body)
    body = Body(MIDDLING)
    check_arrived(upload(session, gate.url(), body, framing), body)


@framings
@gates
def test_login_of_the_url(session: Session, gate: Gate, framing: str) -> None:
    body = Body(SMALL)
    response = upload(session, gate.url(login=URL_LOGIN), body, framing)
    check_arrived(response, body)
    assert "sesame" not in response.url


@gates
def test_answer_from_another_thread(session: Session, gate: Gate) -> None:
    body = Body(SMALL)
    request = session.request(gate.url(), method="POST")

    @request.on("login")
    def ask(info: AuthInfo, callback: object) -> None:
        threading.Thread(target=callback, args=RIGHT).start()

    request.pipe_from(body.pieces())
    check_arrived(request.end().get_response(LIMIT), body)


@streamed
@gates
def test_stream_within_its_replay_limit(session: Session, gate: Gate, framing: str) -> None:
    body, login = Body(MIDDLING), Login(WRONG, RIGHT)
    check_arrived(upload(session, gate.url(), body, framing, login=login, replay_limit=2 * MIDDLING), body)


@streamed
@gates_of_apache
def test_stream_beyond_its_replay_limit(session: Session, gate: Gate, framing: str) -> None:
    with pytest.raises(RedirectError) as caught:
        upload(session, gate.url(), Body(MIDDLING), framing, login=Login(RIGHT))
    assert caught.value.code == "ERR_UPLOAD_STREAM_REWIND_NOT_SUPPORTED"


@streamed
@gates
def test_stream_that_waits_for_leave_needs_no_replay(session: Session, gate: Gate, framing: str) -> None:
    body, login = Body(MIDDLING), Login(WRONG, RIGHT)
    check_arrived(upload(session, gate.url(), body, framing, login=login, replay_limit=0, headers=WAITING), body)


@streamed
@gates_of_apache
def test_large_stream_that_waits_for_leave(session: Session, gate: Gate, framing: str) -> None:
    body, login = Body(LARGE), Login(RIGHT)
    check_arrived(upload(session, gate.url(), body, framing, login=login, headers=WAITING), body)


@pytest.mark.parametrize("qop", ["auth", "auth-int", "both"])
@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_httpbin_digest(session: Session, gunicorn: Server, algorithm: str, qop: str) -> None:
    login = Login(WRONG, HTTPBIN)
    url = gunicorn.url(f"/digest-auth/{qop}/user/passwd/{algorithm}")
    response = upload(session, url, Body(0), "buffered", login=login, method="GET")
    assert response.status_code == 200
    assert response.json() == {"authenticated": True, "user": "user"}
    port = gunicorn.port()
    assert login.asked == [AuthInfo(False, "digest", "127.0.0.1", port, "me@kennethreitz.com")] * 2


@pytest.mark.parametrize("qop", ["auth", "auth-int"])
def test_httpbin_digest_whose_nonces_grow_stale(session: Session, gunicorn: Server, qop: str) -> None:
    """A stale nonce is replaced without asking anybody."""
    login = Login(HTTPBIN)
    url = gunicorn.url(f"/digest-auth/{qop}/user/passwd/SHA-256/2")
    for _ in range(6):
        response = upload(session, url, Body(0), "buffered", login=login, method="GET", use_session_cookies=True)
        assert response.status_code == 200
        response.read()
    assert len(login.asked) == 1


def test_httpbin_digest_of_an_unknown_algorithm(session: Session, gunicorn: Server) -> None:
    login = Login(HTTPBIN)
    url = gunicorn.url("/digest-auth/auth/user/passwd/SHA-512")
    response = upload(session, url, Body(0), "buffered", login=login, method="GET")
    assert (response.status_code, login.asked) == (401, [])
    response.read()


def test_httpbin_basic(session: Session, gunicorn: Server) -> None:
    login = Login(WRONG, HTTPBIN)
    url = gunicorn.url("/basic-auth/user/passwd")
    assert upload(session, url, Body(0), "buffered", login=login, method="GET").json()["authenticated"] is True
    assert [info.scheme for info in login.asked] == ["basic"] * 2


def test_httpbin_without_a_known_scheme(session: Session, gunicorn: Server) -> None:
    login = Login(HTTPBIN)
    response = upload(session, gunicorn.url("/bearer"), Body(0), "buffered", login=login, method="GET")
    assert (response.status_code, login.asked) == (401, [])
    response.read()
