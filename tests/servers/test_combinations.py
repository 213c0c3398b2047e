"""Redirects, logins at servers and logins at proxies, one after the other, each with bodies that are sent again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import pytest

from clientrequest import AuthInfo, Session
from tests.servers.bodies import LARGE, MEBIBYTE, MIDDLING, SMALL, Body
from tests.servers.farm import PASSWORD, USER, Farm, Server
from tests.servers.uploads import FRAMINGS, LIMIT, Login, check_arrived, upload

pytestmark = pytest.mark.servers

RIGHT = (USER, PASSWORD)
WRONG = (USER, "open barley")

PLACES = {"nginx-basic": ("nginx", "basic"), "apache-basic": ("apache", "basic"), "apache-digest": ("apache", "digest")}
BODIES = {
    "buffered": ("buffered", 10 * MEBIBYTE, {}),  # more than is kept in memory
    "chunked": ("chunked", SMALL, {}),
    "known": ("known", SMALL, {}),
    "chunked-kept": ("chunked", MIDDLING, {"replay_limit": 2 * MIDDLING}),
    "known-kept": ("known", MIDDLING, {"replay_limit": 2 * MIDDLING}),
}
LARGE_ONES = {
    "buffered-64M": ("buffered", LARGE, {}),
    "chunked-64M-kept": ("chunked", LARGE, {"replay_limit": LARGE}),
    "known-64M-kept": ("known", LARGE, {"replay_limit": LARGE}),
}
ALL_BODIES = {**BODIES, **LARGE_ONES}
WAITING = {"headers": {"Expect": "100-continue"}}

places = pytest.mark.parametrize("place", PLACES, indirect=True)
bodies = pytest.mark.parametrize("kind", BODIES)
all_bodies = pytest.mark.parametrize("kind", ALL_BODIES)
ports = pytest.mark.parametrize("port", ["plain", "tls"])
doors = pytest.mark.parametrize("door", ["basic", "digest"])

Place = tuple[Server, str]


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """A server, and the kind of login that it wants."""
    name, kind = PLACES[request.param]
    return request.getfixturevalue(name), kind


@pytest.fixture
def through(farm: Farm) -> Iterator[Callable[..., Session]]:
    with ExitStack() as stack:
        tls = farm.certificates.ca
        yield lambda **proxies: stack.enter_context(Session(proxies=proxies, tls=tls, timeout=LIMIT))


def asked(login: Login) -> list[tuple[str, str]]:
    return [("proxy" if info.is_proxy else "server", info.scheme) for info in login.asked]


def send_kind(session: Session, url: str, kind: str, login: Login) -> None:
    framing, length, options = ALL_BODIES[kind]
    body = Body(length)
    check_arrived(upload(session, url, body, framing, login=login, **options), body)


# A redirect and a login


@bodies
@ports
@places
def test_redirect_then_login(session: Session, apache: Server, place: Place, port: str, kind: str) -> None:
    server, scheme = place
    login = Login(WRONG, RIGHT)
    target = server.url(f"/{scheme}/upload", port)
    send_kind(session, apache.url(f"/redirect/307?to={target}"), kind, login)
    assert login.asked == [AuthInfo(False, scheme, "127.0.0.1", server.port(port), server.realm)] * 2


@bodies
@ports
@places
def test_login_then_redirect(session: Session, gunicorn: Server, place: Place, port: str, kind: str) -> None:
    """The server that let us in points to another one, which must not see how."""
    server, scheme = place
    login = Login(WRONG, RIGHT)
    framing, length, options = ALL_BODIES[kind]
    body = Body(length)
    url = server.url(f"/{scheme}/redirect/307?to={gunicorn.url('/upload')}", port)
    answer = check_arrived(upload(session, url, body, framing, login=login, **options), body)
    assert asked(login) == [("server", scheme)] * 2
    assert "authorization" not in answer["headers"]


@pytest.mark.parametrize("framing", FRAMINGS)
@places
def test_login_then_redirect_that_drops_the_body(session: Session, place: Place, framing: str) -> None:
    server, scheme = place
    login = Login(RIGHT)
    url = server.url(f"/{scheme}/redirect/303?to=/{scheme}/upload")
    response = upload(session, url, Body(SMALL), framing, login=login)
    check_arrived(response, Body(0), "GET")
    assert asked(login) == [("server", scheme)]


@pytest.mark.parametrize("framing", ["chunked", "known"])
@ports
def test_login_redirect_login_with_a_stream_that_waits(
    session: Session, apache: Server, port: str, framing: str
) -> None:
    """Apache says no before a byte is sent: a large stream gets past two logins and a redirect with nothing kept."""
    body, login = Body(LARGE), Login(RIGHT, RIGHT)
    url = apache.url(f"/digest/redirect/307?to={apache.url('/basic/upload', port)}", port)
    check_arrived(upload(session, url, body, framing, login=login, replay_limit=0, **WAITING), body)


@all_bodies
def test_login_redirect_login(session: Session, nginx: Server, apache: Server, kind: str) -> None:
    login = Login(RIGHT, RIGHT)
    url = nginx.url(f"/basic/redirect/307?to={apache.url('/digest/upload', 'tls')}")
    send_kind(session, url, kind, login)
    assert asked(login) == [("server", "basic"), ("server", "digest")]


# A proxy's login and a server's


@bodies
@ports
@places
@doors
def test_proxy_login_then_server_login(
    through: Callable[..., Session], squid: Server, door: str, place: Place, port: str, kind: str
) -> None:
    server, scheme = place
    proxy = squid.url("", door)
    login = Login(RIGHT, RIGHT)
    send_kind(through(http=proxy, https=proxy), server.url(f"/{scheme}/upload", port), kind, login)
    assert asked(login) == [("proxy", door), ("server", scheme)]


@bodies
@places
@doors
def test_server_login_then_proxy_login(
    through: Callable[..., Session], squid: Server, nginx: Server, door: str, place: Place, kind: str
) -> None:
    """Plain requests go straight, those over TLS through a proxy: a redirect leads from the one to the other."""
    server, scheme = place
    login = Login(RIGHT, RIGHT)
    url = server.url(f"/{scheme}/redirect/307?to={nginx.url('/upload', 'tls')}")
    send_kind(through(https=squid.url("", door)), url, kind, login)
    assert asked(login) == [("server", scheme), ("proxy", door)]


@all_bodies
@doors
def test_everything_at_once(
    through: Callable[..., Session], squid: Server, nginx: Server, apache: Server, door: str, kind: str
) -> None:
    """Proxy, server, redirect, a tunnel through the same proxy, another server: whoever can ask, does."""
    proxy = squid.url("", door)
    login = Login(RIGHT, WRONG, RIGHT, WRONG, RIGHT)
    url = nginx.url(f"/basic/redirect/307?to={apache.url('/digest/upload', 'tls')}")
    send_kind(through(http=proxy, https=proxy), url, kind, login)
    assert asked(login) == [("proxy", door)] + [("server", "basic")] * 2 + [("server", "digest")] * 2


@doors
def test_second_request_is_asked_nothing(
    through: Callable[..., Session], squid: Server, nginx: Server, apache: Server, door: str
) -> None:
    proxy = squid.url("", door)
    session, first, second = through(http=proxy, https=proxy), Login(RIGHT, RIGHT, RIGHT), Login()
    url = nginx.url(f"/basic/redirect/307?to={apache.url('/digest/upload', 'tls')}")
    for login in (first, second):
        send_kind(session, url, "chunked", login)
    assert (len(first.asked), second.asked) == (3, [])


@pytest.mark.parametrize("framing", ["chunked", "known"])
@ports
@doors
def test_large_stream_with_everything_known(
    through: Callable[..., Session], squid: Server, apache: Server, door: str, port: str, framing: str
) -> None:
    proxy = squid.url("", door)
    session = through(http=proxy, https=proxy)
    url = apache.url("/digest/upload", port)
    send_kind(session, url, "buffered", Login(RIGHT, RIGHT))
    body = Body(LARGE)
    options: dict[str, Any] = {"replay_limit": 0}
    check_arrived(upload(session, url, body, framing, **options), body)
