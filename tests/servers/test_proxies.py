"""Real proxies: Squid, open and with its logins, plain and over TLS; and MicroSocks."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import pytest

from clientrequest import AuthInfo, ConnectError, ProxyError, Session, TLSError
from tests.servers.bodies import LARGE, MIDDLING, SMALL, Body
from tests.servers.farm import PASSWORD, URL_LOGIN, USER, Farm, Server
from tests.servers.uploads import FRAMINGS, LIMIT, Login, check_arrived, upload

pytestmark = pytest.mark.servers

STREAMED = ("chunked", "known")
RIGHT = (USER, PASSWORD)
WRONG = (USER, "open barley")

framings = pytest.mark.parametrize("framing", FRAMINGS)
streamed = pytest.mark.parametrize("framing", STREAMED)
ports = pytest.mark.parametrize("port", ["plain", "tls"])
doors = pytest.mark.parametrize(
    ("door", "scheme"), [("basic", "basic"), ("digest", "digest"), ("both", "digest"), ("tls_basic", "basic")]
)

Through = Callable[..., Session]


@pytest.fixture
def through(farm: Farm) -> Iterator[Through]:
    """Makes a session whose requests all go through the proxy of that URL."""
    with ExitStack() as stack:

        def make(proxy: str, **options: Any) -> Session:
            proxies = {"http": proxy, "https": proxy}
            settings = {"tls": farm.certificates.ca, "timeout": LIMIT, **options}
            return stack.enter_context(Session(proxies=proxies, **settings))

        yield make


def asked_by(squid: Server, door: str, scheme: str) -> AuthInfo:
    return AuthInfo(True, scheme, "127.0.0.1", squid.port(door), squid.realm)


# A proxy that lets everybody through


@framings
@ports
@pytest.mark.parametrize("door", ["open", "tls"])
def test_large_body_goes_through(
    through: Through, squid: Server, nginx: Server, door: str, port: str, framing: str
) -> None:
    body = Body(LARGE)
    check_arrived(upload(through(squid.url("", door)), nginx.url("/upload", port), body, framing), body)


@ports
@pytest.mark.parametrize("door", ["open", "tls"])
def test_large_answer_comes_through(through: Through, squid: Server, nginx: Server, door: str, port: str) -> None:
    session = through(squid.url("", door))
    response = session.request(nginx.url("/files/large.bin", port)).end().get_response(LIMIT)
    assert sum(len(piece) for piece in response.iter_chunks()) == LARGE
    # Squid says so of what it forwards; of what is in a tunnel it knows nothing.
    assert ("via" in response.headers) == (port == "plain")


@ports
def test_connections_are_used_again(through: Through, squid: Server, nginx: Server, port: str) -> None:
    session = through(squid.url("", "open"))
    used = set()
    for _ in range(50):
        response = session.request(nginx.url("/files/text.txt", port)).end().get_response(LIMIT)
        assert response.read()
        used.add(response.headers["x-connection"])
        assert response.request.wait(LIMIT)
    assert len(used) == 1


@ports
def test_early_answer_comes_through(through: Through, squid: Server, nginx: Server, port: str) -> None:
    response = upload(through(squid.url("", "open")), nginx.url("/small/upload", port), Body(LARGE), "known")
    assert response.status_code == 413
    response.read()


def test_server_is_verified_through_the_proxy(through: Through, squid: Server, nginx: Server) -> None:
    session = through(squid.url("", "open"))
    with pytest.raises(TLSError) as caught:
        session.request(nginx.url("/files/text.txt", "misnamed")).end().get_response(LIMIT)
    assert caught.value.code == "ERR_CERT_COMMON_NAME_INVALID"


def test_proxy_is_verified(through: Through, squid: Server, nginx: Server) -> None:
    session = through(squid.url("", "tls"), tls=ssl.create_default_context())
    with pytest.raises(TLSError) as caught:
        session.request(nginx.url("/files/text.txt")).end().get_response(LIMIT)
    assert caught.value.code == "ERR_CERT_AUTHORITY_INVALID"


@ports
def test_proxy_that_is_not_there(through: Through, nginx: Server, port: str) -> None:
    session = through("http://127.0.0.1:9")
    with pytest.raises(ProxyError) as caught:
        session.request(nginx.url("/files/text.txt", port)).end().get_response(LIMIT)
    assert caught.value.code == "ERR_PROXY_CONNECTION_FAILED"


def test_server_that_is_not_there(through: Through, squid: Server) -> None:
    session = through(squid.url("", "open"))
    plain = session.request("http://127.0.0.1:9/").end().get_response(LIMIT)
    assert plain.status_code == 503
    plain.read()
    with pytest.raises(ProxyError) as caught:
        session.request("https://127.0.0.1:9/").end().get_response(LIMIT)
    assert caught.value.code == "ERR_TUNNEL_CONNECTION_FAILED"


# Which requests go through a proxy


def is_proxied(session: Session, url: str) -> bool:
    response = session.request(url).end().get_response(LIMIT)
    response.read()
    return "via" in response.headers


def test_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, farm: Farm, squid: Server, nginx: Server) -> None:
    monkeypatch.setenv("http_proxy", squid.url("", "open"))
    with Session(tls=farm.certificates.ca, timeout=LIMIT) as session:
        assert is_proxied(session, nginx.url("/files/text.txt"))


@pytest.mark.parametrize("hosts", ["127.0.0.1", "example.org,127.0.0.1", "*"])
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, farm: Farm, squid: Server, nginx: Server, hosts: str) -> None:
    monkeypatch.setenv("http_proxy", squid.url("", "open"))
    monkeypatch.setenv("no_proxy", hosts)
    with Session(tls=farm.certificates.ca, timeout=LIMIT) as session:
        assert not is_proxied(session, nginx.url("/files/text.txt"))


def test_no_proxies_at_all(monkeypatch: pytest.MonkeyPatch, squid: Server, nginx: Server) -> None:
    monkeypatch.setenv("http_proxy", squid.url("", "open"))
    with Session(proxies={}, timeout=LIMIT) as session:
        assert not is_proxied(session, nginx.url("/files/text.txt"))


def test_proxy_for_one_scheme_only(farm: Farm, squid: Server, nginx: Server) -> None:
    with Session(proxies={"https": "http://127.0.0.1:9"}, tls=farm.certificates.ca, timeout=LIMIT) as session:
        assert not is_proxied(session, nginx.url("/files/text.txt"))
        with pytest.raises(ProxyError):
            is_proxied(session, nginx.url("/files/text.txt", "tls"))


# A proxy that asks for a login


@framings
@ports
@doors
def test_body_goes_through_after_the_login(
    through: Through, squid: Server, nginx: Server, door: str, scheme: str, port: str, framing: str
) -> None:
    body, login = Body(SMALL), Login(RIGHT)
    check_arrived(upload(through(squid.url("", door)), nginx.url("/upload", port), body, framing, login=login), body)
    assert login.asked == [asked_by(squid, door, scheme)]


@ports
@doors
def test_large_buffered_body_goes_through_after_the_login(
    through: Through, squid: Server, nginx: Server, door: str, scheme: str, port: str
) -> None:
    body, login = Body(LARGE), Login(RIGHT)
    session = through(squid.url("", door))
    check_arrived(upload(session, nginx.url("/upload", port), body, "buffered", login=login), body)
    assert len(login.asked) == 1


@streamed
@doors
def test_tunnel_needs_no_replay(
    through: Through, squid: Server, nginx: Server, door: str, scheme: str, framing: str
) -> None:
    """The login is over before the tunnel is there, and the body comes after that."""
    body, login = Body(MIDDLING), Login(WRONG, RIGHT)
    session = through(squid.url("", door))
    url = nginx.url("/upload", "tls")
    check_arrived(upload(session, url, body, framing, login=login, replay_limit=0), body)


@framings
@ports
@doors
def test_login_of_the_proxy_url(
    through: Through, squid: Server, nginx: Server, door: str, scheme: str, port: str, framing: str
) -> None:
    body = Body(SMALL)
    session = through(squid.url("", door, login=URL_LOGIN))
    check_arrived(upload(session, nginx.url("/upload", port), body, framing), body)


@ports
@doors
def test_wrong_password_and_then_the_right_one(
    through: Through, squid: Server, nginx: Server, door: str, scheme: str, port: str
) -> None:
    body, login = Body(SMALL), Login(WRONG, ("nobody", "x"), RIGHT)
    session = through(squid.url("", door))
    check_arrived(upload(session, nginx.url("/upload", port), body, "buffered", login=login), body)
    assert login.asked == [asked_by(squid, door, scheme)] * 3


@ports
@doors
def test_credentials_are_kept_for_the_next_request(
    through: Through, squid: Server, nginx: Server, door: str, scheme: str, port: str
) -> None:
    session, first, second = through(squid.url("", door)), Login(RIGHT), Login()
    body = Body(SMALL)
    check_arrived(upload(session, nginx.url("/upload", port), body, "buffered", login=first), body)
    session.close_connections()  # a new tunnel needs them too
    for framing in FRAMINGS:
        check_arrived(upload(session, nginx.url("/upload", port), body, framing, login=second), body)
    assert (len(first.asked), second.asked) == (1, [])


@doors
def test_cancel(through: Through, squid: Server, nginx: Server, door: str, scheme: str) -> None:
    response = upload(through(squid.url("", door)), nginx.url("/upload"), Body(SMALL), "buffered", login=Login())
    assert response.status_code == 407
    assert b"407" in response.read() or response.headers["x-squid-error"]


@framings
@doors
def test_request_after_one_that_was_refused(
    through: Through, squid: Server, nginx: Server, door: str, scheme: str, framing: str
) -> None:
    """Squid answers in the middle of a body, says that it keeps the connection, and then does not read on."""
    session = through(squid.url("", door))
    refused = upload(session, nginx.url("/upload"), Body(SMALL), framing, login=Login())
    assert refused.status_code == 407
    assert refused.read()
    body = Body(SMALL)
    check_arrived(upload(session, nginx.url("/upload"), body, framing, login=Login(RIGHT)), body)


@pytest.mark.parametrize("answer", ["cancelled", "nobody to ask"])
@doors
def test_tunnel_without_a_login(
    through: Through, squid: Server, nginx: Server, door: str, scheme: str, answer: str
) -> None:
    login = Login() if answer == "cancelled" else None
    with pytest.raises(ProxyError) as caught:
        upload(through(squid.url("", door)), nginx.url("/upload", "tls"), Body(SMALL), "buffered", login=login)
    assert caught.value.code == "ERR_TUNNEL_CONNECTION_FAILED"


@streamed
@doors
def test_stream_within_its_replay_limit(
    through: Through, squid: Server, nginx: Server, door: str, scheme: str, framing: str
) -> None:
    body = Body(MIDDLING)
    options = {"login": Login(WRONG, RIGHT), "replay_limit": 2 * MIDDLING}
    check_arrived(upload(through(squid.url("", door)), nginx.url("/upload"), body, framing, **options), body)


@streamed
@doors
def test_stream_that_waits_for_leave_needs_no_replay(
    through: Through, squid: Server, nginx: Server, door: str, scheme: str, framing: str
) -> None:
    body = Body(MIDDLING)
    options = {"login": Login(RIGHT), "headers": {"Expect": "100-continue"}, "replay_limit": 0}
    check_arrived(upload(through(squid.url("", door)), nginx.url("/upload"), body, framing, **options), body)


@ports
def test_password_of_the_proxy_is_not_told_to_the_server(
    through: Through, squid: Server, nginx: Server, port: str
) -> None:
    body = Body(10)
    session = through(squid.url("", "basic", login=URL_LOGIN))
    answer = check_arrived(upload(session, nginx.url("/upload", port), body, "buffered"), body)
    assert not [name for name in answer["headers"] if "authorization" in name]


# SOCKS


@framings
@ports
@pytest.mark.parametrize("version", ["socks5", "socks5h"])
def test_socks(through: Through, socks: Server, nginx: Server, version: str, port: str, framing: str) -> None:
    proxy = socks.url("", login=URL_LOGIN).replace("http:", f"{version}:")
    body = Body(LARGE if version == "socks5h" else SMALL)
    check_arrived(upload(through(proxy), nginx.url("/upload", port), body, framing), body)


def test_socks_finds_the_name(through: Through, socks: Server, nginx: Server) -> None:
    proxy = socks.url("", login=URL_LOGIN).replace("http:", "socks5h:")
    body = Body(SMALL)
    check_arrived(upload(through(proxy), nginx.url("/upload", "tls", host="localhost"), body, "buffered"), body)


@pytest.mark.parametrize("login", ["", f"{USER}:wrong"], ids=["without", "wrong"])
def test_socks_with_no_good_login(through: Through, socks: Server, nginx: Server, login: str) -> None:
    proxy = socks.url("", login=login).replace("http:", "socks5h:")
    with pytest.raises(ConnectError) as caught:
        upload(through(proxy), nginx.url("/upload"), Body(SMALL), "buffered")
    assert "wrong" not in str(caught.value)
