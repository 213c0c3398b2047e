"""Security: secrets go where they are meant for and are told to nobody else, and nothing can be slipped in.

One rule a test. Sites of any name are had through a proxy of the tests' own (`Web`), which is all of them.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import gc
import ipaddress
import logging
import os
import pickle
import re
import ssl
import stat
import traceback
import warnings
from collections.abc import Iterator
from http.cookiejar import Cookie, CookieJar
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clientrequest import (
    AbortedError,
    ClientRequest,
    ClientRequestError,
    IncomingMessage,
    ProxyError,
    RedirectError,
    Session,
    Timeout,
    TLSError,
)
from tests.support import (
    LIMIT,
    Answer,
    Conn,
    Handler,
    Peer,
    Recorder,
    Request,
    ca_path,
    client_certificate,
    expired_context,
    refused_port,
    scripted,
    server_context,
    site,
    untrusted_context,
    wrong_name_context,
)
from tests.support.logs import wait_logged

WITH_COOKIES = {"use_session_cookies": True}
USER, PASSWORD = "bob", "password-5ecret"
TOKEN, COOKIE, QUERY, PROXY_PASSWORD = "token-5ecret", "cookie-5ecret", "query-5ecret", "proxy-5ecret"


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


# What must not be seen, in the forms in which it goes about.
SECRETS = (
    "5ecret",
    *(basic(user, word).split()[1] for user, word in ((USER, PASSWORD), (USER, PROXY_PASSWORD))),
)


def get(session: Session, url: str, **options: Any) -> IncomingMessage:
    """The response, read to its end."""
    response = session.request(url, **options).end().get_response(LIMIT)
    response.read()
    return response


def log_in(session: Session, url: str, password: str = PASSWORD, **options: Any) -> list[Any]:
    """Have the user answer whoever asks; gives who did."""
    asked: list[Any] = []
    request = session.request(url, **options)
    request.on("login", lambda info, callback: (asked.append(info), callback(USER, password)))
    assert request.end().wait(LIMIT)
    return asked


def redirect_to(url: str, status: int = 307, *more: tuple[str, str]) -> Answer:
    return status, [("Location", url), *more]


class Web:
    """All the sites of the world, behind one proxy.

    Attributes:
        asked: the URLs that sites were asked for, with the requests, in order.
        connects: the requests for tunnels.
        answers: by URL; what has none is answered with 200.
        password: what the proxy wants to hear from its user, if anything.
        make_context: makes the TLS context of a site.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, Request]] = []
        self.connects: list[Request] = []
        self.answers: dict[str, Answer] = {}
        self.password: Optional[str] = None
        self.make_context: Callable[[str], ssl.SSLContext] = server_context
        self.peer = Peer(self._serve)

    def session(self, password: Optional[str] = None, **options: Any) -> Session:
        """A session that goes everywhere through the proxy."""
        user = "" if password is None else f"{USER}:{password}@"
        proxies = {"all": f"http://{user}127.0.0.1:{self.peer.port}", "no_proxy": "127.0.0.1,localhost"}
        return Session(tls=ca_path(), proxies=proxies, **options)

    def sent(self, name: str) -> list[tuple[str, Optional[str]]]:
        """What of that header reached whom."""
        return [(url, request.header(name)) for url, request in self.asked]

    def _serve(self, conn: Conn) -> None:
        request = conn.read_request()
        while not self._lets_in(conn, request):
            request = conn.read_request()
        prefix = ""
        if request.method == "CONNECT":
            self.connects.append(request)
            prefix = self._open_tunnel(conn, request.target)
            request = conn.read_request()
        while True:
            if prefix or self._lets_in(conn, request):
                self._answer(conn, prefix + request.target, request)
            request = conn.read_request()

    def _lets_in(self, conn: Conn, request: Request) -> bool:
        if self.password is None or request.header("proxy-authorization") == basic(USER, self.password):
            return True
        if request.method == "CONNECT":
            self.connects.append(request)
        conn.respond(407, {"Proxy-Authenticate": 'Basic realm="proxy"'})
        return False

    def _open_tunnel(self, conn: Conn, authority: str) -> str:
        conn.send(b"HTTP/1.1 200 Go on\r\n\r\n")
        host, _, port = authority.rpartition(":")
        conn.start_tls(self.make_context(host))
        return f"https://{host}" if port == "443" else f"https://{authority}"

    def _answer(self, conn: Conn, url: str, request: Request) -> None:
        self.asked.append((url, request))
        status, headers = self.answers.get(url, (200, ()))
        conn.respond(status, headers)


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    with web.peer:
        yield web


# ------------------------------------------------------------------------------
# No secret goes to another origin by a redirect


class Move(NamedTuple):
    """A redirect from `/start` on one server to `there` on another."""

    peer: Peer
    start: str
    other: Peer
    there: str

    @property
    def arrived(self) -> list[Request]:
        """What came to the other origin."""
        return [request for request in self.other.requests if request.target.startswith("/there")]


@pytest.fixture(params=["another host", "another port", "to https", "to http"])
def move(request: pytest.FixtureRequest) -> Iterator[Move]:
    first = server_context() if request.param == "to http" else None
    second = server_context() if request.param == "to https" else None
    with Peer(site(), first) as peer, Peer(site(), second) as away:
        other = peer if request.param == "another host" else away
        there = other.url("/there", host="localhost" if other is peer else None)
        peer._handler = site({"/start": redirect_to(there)})
        yield Move(peer, peer.url("/start"), other, there)


BY_HAND = ["Authorization", "Cookie", "Proxy-Authorization", "Host"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("name", BY_HAND)
def test_header_by_hand_does_not_reach_another_origin(session: Session, move: Move, name: str, status: int) -> None:
    move.peer._handler = site({"/start": redirect_to(move.there, status)})
    get(session, move.start, method="POST", headers={name: "5ecret", "X-Kept": "yes"})
    (arrived,) = move.arrived
    assert arrived.header(name) != "5ecret"
    assert b"5ecret" not in arrived.head
    assert arrived.header("X-Kept") == "yes"


@pytest.mark.parametrize("name", BY_HAND)
def test_header_of_the_session_does_not_reach_another_origin(move: Move, name: str) -> None:
    with Session(tls=ca_path(), headers={name: "5ecret"}) as session:
        get(session, move.start)
    (arrived,) = move.arrived
    assert b"5ecret" not in arrived.head


@pytest.mark.parametrize("name", ["Authorization", "Cookie"])
def test_header_that_was_dropped_does_not_come_back(session: Session, move: Move, name: str) -> None:
    """Who was elsewhere in between may have made up the way back."""
    back = move.start.replace("/start", "/back")
    move.other._handler = site({"/start": redirect_to(move.there), "/there": redirect_to(back)})
    get(session, move.start, headers={name: "5ecret"})
    assert [request.header(name) for request in move.peer.requests if request.target == "/start"] == ["5ecret"]
    assert [request.header(name) for request in move.peer.requests if request.target == "/back"] == [None]


def test_header_by_hand_stays_with_decisions_by_hand(session: Session, move: Move) -> None:
    request = session.request(move.start, redirect="manual", headers={"Authorization": "5ecret"})
    request.on("redirect", lambda *_: request.follow_redirect())
    assert request.end().wait(LIMIT)
    assert b"5ecret" not in move.arrived[0].head


CHALLENGES = {
    "basic": 'Basic realm="one"',
    "digest": 'Digest realm="one", nonce="n", qop="auth", algorithm=SHA-256',
}


def guarded(challenge: str, answers: dict[str, Answer]) -> Handler:
    """Asks everybody without credentials for some, and takes any."""

    def serve(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.header("authorization") is None:
                conn.respond(401, {"WWW-Authenticate": challenge})
            else:
                conn.respond(*answers.get(request.target, (200, ())))

    return serve


@pytest.mark.parametrize("scheme", CHALLENGES)
def test_login_of_the_url_does_not_reach_another_origin(session: Session, move: Move, scheme: str) -> None:
    """Nor does it answer what another origin asks, though that names the same realm."""
    move.peer._handler = guarded(CHALLENGES[scheme], {"/start": redirect_to(move.there)})
    move.other._handler = guarded(CHALLENGES[scheme], {"/start": redirect_to(move.there)})
    response = get(session, move.start.replace("//", f"//{USER}:{PASSWORD}@"))
    assert (response.url, response.status_code) == (move.there, 401)
    assert [request.header("authorization") for request in move.arrived] == [None]


@pytest.mark.parametrize("scheme", CHALLENGES)
def test_login_that_was_accepted_does_not_reach_another_origin(session: Session, move: Move, scheme: str) -> None:
    """Neither at once nor in the next request: the user is asked again, and told by whom."""
    move.peer._handler = guarded(CHALLENGES[scheme], {"/start": redirect_to(move.there)})
    move.other._handler = move.peer._handler
    asked = log_in(session, move.start)
    assert [info.realm for info in asked] == ["one", "one"]
    assert (asked[0].host, asked[0].port) != (asked[1].host, asked[1].port)
    assert [request.header("authorization") is None for request in move.arrived] == [True, False]
    session.clear_auth_cache()
    log_in(session, move.start.replace("/start", "/other"))
    assert get(session, move.there).status_code == 401
    assert move.arrived[-1].header("authorization") is None


def test_login_by_hand_and_login_of_the_session_are_not_mixed_up(session: Session, move: Move) -> None:
    """A login that is known for the other origin does go there: it is the other's own."""
    move.peer._handler = guarded(CHALLENGES["basic"], {"/start": redirect_to(move.there)})
    move.other._handler = move.peer._handler
    log_in(session, move.there, "of the other")
    get(session, move.start, headers={"Authorization": "Bearer 5ecret"})
    assert move.arrived[-1].header("authorization") == basic(USER, "of the other")


@pytest.mark.parametrize("where", ["user:pass@", "user@"])
def test_login_in_a_location_is_not_sent_unasked(session: Session, where: str) -> None:
    with Peer(site()) as peer:
        there = peer.url("/there").replace("//", f"//{where}")
        peer._handler = site({"/start": redirect_to(there)})
        response = get(session, peer.url("/start"))
        assert response.url == peer.url("/there")
        assert [request.header("authorization") for request in peer.requests] == [None, None]


def handmade(name: str, value: str, domain: str, secure: bool = False) -> Cookie:
    """A cookie as a user makes it."""
    return Cookie(0, name, value, None, False, domain, False, False, "/", True, secure, None, True, None, None, {})


def test_session_cookies_of_one_host_do_not_reach_another(web: Web) -> None:
    start, there = "https://bank.example/", "https://evil.example/?bank.example"
    web.answers[start] = redirect_to(there, 302, ("Set-Cookie", "new=1"))
    with web.session() as session:
        session.cookies.set_cookie(handmade("a", COOKIE, "bank.example"))
        session.cookies.set_cookie(handmade("b", "2", "evil.example"))
        get(session, start, **WITH_COOKIES)
    assert web.sent("cookie") == [(start, f"a={COOKIE}"), (there, "b=2")]


def test_secure_cookies_do_not_go_down_to_http(web: Web) -> None:
    web.answers["https://bank.example/"] = redirect_to("http://bank.example/", 302, ("Set-Cookie", "c=3; Secure"))
    with web.session() as session:
        session.cookies.set_cookie(handmade("a", COOKIE, "bank.example", secure=True))
        session.cookies.set_cookie(handmade("b", "2", "bank.example"))
        get(session, "https://bank.example/", **WITH_COOKIES)
        get(session, "https://bank.example/again", **WITH_COOKIES)
    assert [cookie for _, cookie in web.sent("cookie")] == [f"a={COOKIE}; b=2", "b=2", f"a={COOKIE}; b=2; c=3"]


PAGE = f"https://bank.example/page?{QUERY}"


@pytest.mark.parametrize(
    ("policy", "to", "told"),
    [
        ("", "http://bank.example/", None),
        ("", "https://evil.example/", "https://bank.example/"),
        ("", "https://bank.example/next", PAGE),
        ("no-referrer-when-downgrade", "http://bank.example/", None),
        ("no-referrer", "https://bank.example/next", None),
        ("same-origin", "https://evil.example/", None),
        ("same-origin", "http://bank.example/", None),
        ("strict-origin", "http://evil.example/", None),
        ("strict-origin-when-cross-origin", "http://evil.example/", None),
        ("origin", "http://evil.example/", "https://bank.example/"),
        ("origin-when-cross-origin", "http://bank.example/", "https://bank.example/"),
        ("unsafe-url", "http://evil.example/", PAGE),
    ],
)
def test_redirect_tells_of_the_referrer_what_the_policy_allows(
    web: Web, policy: str, to: str, told: Optional[str]
) -> None:
    web.answers["https://bank.example/"] = redirect_to(to)
    with web.session() as session:
        get(session, "https://bank.example/", headers={"Referer": PAGE}, referrer_policy=policy)
    assert web.sent("referer") == [("https://bank.example/", PAGE), (to, told)]


# ------------------------------------------------------------------------------
# Servers and proxies hear only what is theirs


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_authorization_by_hand_does_not_go_to_a_server(session: Session, scheme: str) -> None:
    with Peer(site(), server_context() if scheme == "https" else None) as peer:
        get(session, peer.url(), headers={"Proxy-Authorization": basic(USER, PROXY_PASSWORD)})
        assert peer.requests[0].header("proxy-authorization") is None


@pytest.mark.parametrize("how", ["by hand", "of the URL", "by login"])
def test_proxy_authorization_stays_outside_of_the_tunnel(web: Web, how: str) -> None:
    web.password = PROXY_PASSWORD
    headers = {"Proxy-Authorization": basic(USER, PROXY_PASSWORD)} if how == "by hand" else {}
    with web.session(PROXY_PASSWORD if how == "of the URL" else None) as session:
        for path in ("", "again"):
            log_in(session, f"https://bank.example/{path}", PROXY_PASSWORD, headers=headers)
    assert web.sent("proxy-authorization") == [("https://bank.example/", None), ("https://bank.example/again", None)]
    assert web.connects[-1].header("proxy-authorization") == basic(USER, PROXY_PASSWORD)


def test_connect_has_nothing_that_is_for_the_server(web: Web) -> None:
    """Neither by hand nor by login, nor a header that nobody has said is for the proxy."""
    web.answers["https://bank.example/"] = (401, [("WWW-Authenticate", "Basic realm=x"), ("Connection", "close")])
    headers = {"X-Token": TOKEN, "Referer": f"https://bank.example/?{QUERY}", "User-Agent": "mine"}
    with web.session() as session:
        session.cookies.set_cookie(handmade("a", COOKIE, "bank.example"))
        log_in(session, f"https://bank.example/?{QUERY}", headers=headers, **WITH_COOKIES)
        get(session, "https://bank.example/", headers={"Authorization": TOKEN, "Cookie": COOKIE})
        log_in(session, "https://bank.example/", headers=headers)
    assert len(web.connects) > 1
    for connect in web.connects:
        assert not any(secret.encode() in connect.head for secret in SECRETS)
        assert {name.lower() for name, _ in connect.headers} <= {"host", "user-agent", "proxy-connection"}


def test_forwarded_request_has_both(web: Web) -> None:
    """Over plain http the proxy passes on what is for the server."""
    web.password = PROXY_PASSWORD
    with web.session(PROXY_PASSWORD) as session:
        get(session, "http://bank.example/", headers={"Authorization": TOKEN})
    assert web.sent("authorization") == [("http://bank.example/", TOKEN)]
    assert web.sent("proxy-authorization") == [("http://bank.example/", basic(USER, PROXY_PASSWORD))]


def test_login_for_the_proxy_does_not_go_to_hosts_without_one(web: Web) -> None:
    """By redirect, or by the next request."""
    web.password = PROXY_PASSWORD
    with Peer(site()) as peer, web.session(PROXY_PASSWORD) as session:
        web.answers["http://bank.example/"] = redirect_to(peer.url())
        get(session, "http://bank.example/", headers={"Proxy-Authorization": basic(USER, PROXY_PASSWORD)})
        get(session, "http://bank.example/")
        get(session, peer.url())
        assert [request.header("proxy-authorization") for request in peer.requests] == [None] * 3


@pytest.mark.parametrize("way", ["direct", "tunnel"])
@pytest.mark.parametrize("credentials", ["of the proxy", "of the user"])
def test_407_of_a_server_gets_no_credentials(web: Web, way: str, credentials: str) -> None:
    """It is simply the response."""
    no_proxy = (407, [("Proxy-Authenticate", 'Basic realm="proxy"'), ("WWW-Authenticate", "Basic realm=x")])
    web.password = PROXY_PASSWORD if credentials == "of the proxy" else None
    with Peer(site({"/": no_proxy})) as peer, web.session(web.password) as session:
        url = peer.url() if way == "direct" else "https://bank.example/"
        web.answers[url] = no_proxy
        get(session, "http://first.example/")  # the proxy knows us by now
        request = session.request(url)
        asked: list[object] = []
        request.on("login", lambda info, callback: (asked.append(info), callback(USER, PASSWORD)))
        assert request.end().get_response(LIMIT).status_code == 407
        assert request.wait(LIMIT)
        heard = [request for _, request in web.asked[1:]] + peer.requests
    assert asked == []
    assert len(heard) == 1
    assert (heard[0].header("proxy-authorization"), heard[0].header("authorization")) == (None, None)


def test_401_of_a_proxy_gets_no_credentials_of_the_server() -> None:
    """Nor is it the response of the https URL: anybody on the way could have sent it."""

    def serve(conn: Conn) -> None:
        conn.read_request()
        conn.respond(401, [("WWW-Authenticate", "Basic realm=x"), ("Set-Cookie", "a=1")], b"evil")

    with Peer(serve) as peer, Session(proxies={"https": peer.url()}) as session:
        request = session.request(f"https://{USER}:{PASSWORD}@bank.example/", **WITH_COOKIES)
        asked: list[object] = []
        request.on("login", lambda info, callback: (asked.append(info), callback(USER, PASSWORD)))
        with pytest.raises(ProxyError) as caught:
            request.end().wait(LIMIT)
        assert caught.value.code == "ERR_TUNNEL_CONNECTION_FAILED"
        assert asked == []
        assert len(peer.requests) == 1
        assert len(session.cookies) == 0


@pytest.mark.parametrize("status", [200, 302, 407, 502])
def test_refusal_of_a_proxy_is_never_the_response(status: int) -> None:
    """A page of the proxy would be taken for one of the site: its redirect is not followed, its cookies not kept."""
    answer = (
        b"HTTP/1.1 %d Any\r\nLocation: http://evil.example/\r\nSet-Cookie: a=1\r\nContent-Length: 4\r\n\r\nevil"
        % status
    )
    with Peer(scripted(answer, Conn.hold)) as peer, Session(proxies={"https": peer.url()}) as session:
        request = session.request("https://bank.example/", timeout=Timeout(total=LIMIT), **WITH_COOKIES)
        with pytest.raises(ProxyError):
            request.end().get_response(LIMIT)
        assert len(session.cookies) == 0


def test_certificate_of_the_client_is_not_shown_to_a_proxy() -> None:
    shown: list[object] = []
    context = server_context()
    context.load_verify_locations(ca_path())
    context.verify_mode = ssl.CERT_OPTIONAL

    def serve(conn: Conn) -> None:
        assert conn.tls is not None
        shown.append(conn.tls.getpeercert())
        if conn.read_request().method == "CONNECT":
            conn.send(b"HTTP/1.1 200 Go on\r\n\r\n")
            conn.start_tls(context)
            shown.append(conn.tls.getpeercert())
            conn.read_request()
        conn.respond(200)

    with Peer(serve, context) as peer:
        options = {"tls": ca_path(), "client_cert": tuple(client_certificate()), "proxies": {"all": peer.url()}}
        with Session(**options) as session:
            get(session, "https://localhost/")
            get(session, "http://localhost/")
        peer.join()
    assert [bool(certificate) for certificate in shown] == [False, True, False]


def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    """Credentials come from the program alone."""
    for name in (".netrc", "_netrc"):
        (tmp_path / name).write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with Peer(site({"/": (401, [("WWW-Authenticate", "Basic realm=x")])})) as peer:
        get(session, peer.url())
        assert [request.header("authorization") for request in peer.requests] == [None]


# ------------------------------------------------------------------------------
# No secret is told in errors, logs and warnings


class Scene(NamedTuple):
    """What goes wrong with a request.

    Attributes:
        steps: what the server does once it has read the request.
        make_context: makes the TLS context of the server, if it has one.
        trusts: whether the client trusts the servers of the tests.
        options: of the request.
    """

    steps: tuple[Any, ...] = ()
    make_context: Optional[Callable[[], ssl.SSLContext]] = None
    trusts: bool = True
    options: Optional[dict[str, Any]] = None


def answering(text: str, **options: Any) -> Scene:
    return Scene((text.encode(),), options=options)


def redirecting(location: str, **options: Any) -> Scene:
    head = f"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\nLocation: {location}\r\n\r\n"
    return answering(head, **options)


OK = "HTTP/1.1 200 OK\r\n"
BODY = f'{{"a": "", "access_token": "{TOKEN}"}}\r\n'
UNREADABLE = f"http://{USER}:{PASSWORD}@exa\u2100mple.com/"  # urllib tells all of it in its error
SCENES = {
    "no answer": Scene(),
    "body in the place of a head": answering(f"{BODY}\r\n"),
    "line without colon": answering(f"{OK}Set-Cookie a={COOKIE}\r\n\r\n"),
    "cookie with a control": answering(f"{OK}Set-Cookie: a={COOKIE}\0\r\n\r\n"),
    "folded line": answering(f"{OK}A: b\r\n {TOKEN}\r\n\r\n"),
    "cut head": answering(f"{OK}Set-Cookie: {COOKIE}"),
    "short body": answering(f"{OK}Content-Length: 99\r\n\r\n{BODY}"),
    "two lengths": answering(f"{OK}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    "chunks that are none": answering(f"{OK}Transfer-Encoding: chunked\r\n\r\n{BODY}"),
    "bad gzip": answering(f"{OK}Content-Encoding: gzip\r\nContent-Length: 12\r\n\r\n{BODY}"),
    "unknown authority": Scene((), server_context, trusts=False),
    "wrong name": Scene((), wrong_name_context),
    "timeout": Scene((OK.encode(), Conn.hold), options={"timeout": Timeout(total=0.2)}),
    "redirect to ftp": redirecting(f"ftp://{USER}:{PASSWORD}@a/?{QUERY}"),
    "redirect to nowhere": redirecting(f"http://{USER}:{PASSWORD}@[/?{QUERY}"),
    "redirect to no host": redirecting(UNREADABLE),
    "redirect to no port": redirecting(f"http://{USER}:{PASSWORD}@a:x/?{QUERY}"),
    "redirect by mistake": redirecting(f"/?{QUERY}", redirect="error"),
    "redirect without end": redirecting(f"?{QUERY}"),
}


def secretive(session: Session, url: str, **options: Any) -> ClientRequest:
    """A request that is full of secrets."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Proxy-Authorization": basic(USER, PROXY_PASSWORD)}
    headers["X-Api-Key"] = TOKEN
    url = url.replace("//", f"//{USER}:{PASSWORD}@", 1) + f"?{QUERY}#{QUERY}"
    return session.request(url, method="POST", headers=headers, use_session_cookies=True, **options)


def told_by(error: BaseException) -> str:
    """All that an error says, to whomever."""
    copy = pickle.loads(pickle.dumps(error))
    shown = [str(error), repr(error), repr(error.args), str(copy), repr(copy), repr(vars(copy))]
    shown.append(pickle.dumps(error, 0).decode("latin-1"))
    shown += [repr(getattr(error, "request", None))]
    return "\n".join([*shown, *traceback.format_exception(type(error), error, error.__traceback__)])


def check(text: str) -> None:
    found = [secret for secret in SECRETS if secret in text]
    assert not found, text


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """All that is logged, by us and by urllib3."""
    for name in ("clientrequest", "urllib3"):
        caplog.set_level(logging.DEBUG, name)
    return caplog


def failure_of(request: ClientRequest) -> ClientRequestError:
    """What becomes of it, be that at once or in the body."""
    with pytest.raises(ClientRequestError) as caught:
        request.end(TOKEN).get_response(LIMIT).read()
    return caught.value


def repeat(answer: bytes) -> Handler:
    """Gives everybody the same answer."""

    def serve(conn: Conn) -> None:
        while True:
            conn.read_request()
            conn.send(answer)

    return serve


@pytest.mark.parametrize("name", SCENES)
def test_failure_tells_no_secret(logged: pytest.LogCaptureFixture, name: str) -> None:
    scene = SCENES[name]
    context = None if scene.make_context is None else scene.make_context()
    trusted = ca_path() if scene.trusts else True
    with Peer(scripted(*scene.steps), context) as peer, Session(tls=trusted) as session:
        session.cookies.set_cookie(handmade("a", COOKIE, "127.0.0.1"))
        check(told_by(failure_of(secretive(session, peer.url("/path"), **(scene.options or {})))))
    assert logged.records
    check(logged.text)


@pytest.mark.parametrize("where", ["port", "name"])
def test_failure_to_connect_tells_no_secret(logged: pytest.LogCaptureFixture, where: str) -> None:
    with refused_port() as port, Session() as session:
        host = f"127.0.0.1:{port}" if where == "port" else "nobody.invalid"
        check(told_by(failure_of(secretive(session, f"http://{host}/path"))))
    check(logged.text)


@pytest.mark.parametrize("kind", ["refused", "no answer", "403", "407", "bad answer", "socks", "socks closed"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_failure_at_a_proxy_tells_no_secret(logged: pytest.LogCaptureFixture, kind: str, scheme: str) -> None:
    """Of a plain request that is forwarded, 403 and 407 are responses."""
    if kind.startswith("socks"):
        pytest.importorskip("socks")
    answers = {
        "403": b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n",
        "407": b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n",
        "bad answer": b'{"a": "", "password": "%s"}\r\n\r\n' % PROXY_PASSWORD.encode(),
    }

    def serve(conn: Conn) -> None:
        if kind == "socks":  # no user may come in (RFC 1928, RFC 1929)
            conn.recv_some()
            conn.send(b"\x05\x02")
            conn.recv_some()
            conn.send(b"\x01\x01")
        elif kind in answers:
            repeat(answers[kind])(conn)

    with contextlib.ExitStack() as stack:
        port = stack.enter_context(refused_port() if kind == "refused" else opened(serve))
        proxy = f"{'socks5' if kind.startswith('socks') else 'http'}://{USER}:{PROXY_PASSWORD}@127.0.0.1:{port}"
        session = stack.enter_context(Session(proxies={"all": proxy}))
        check(repr(session))
        request = secretive(session, f"{scheme}://bank.example/path")
        if scheme == "http" and kind in ("403", "407"):
            assert request.end().get_response(LIMIT).status_code == int(kind)
        else:
            check(told_by(failure_of(request)))
    check(logged.text)


@contextlib.contextmanager
def opened(handler: Handler) -> Iterator[int]:
    with Peer(handler) as peer:
        yield peer.port


@pytest.mark.parametrize(
    "value",
    [
        f"http://{USER}:{PROXY_PASSWORD}@a:x",
        f"http://{USER}:{PROXY_PASSWORD}@a b",
        f"ftp://{USER}:{PROXY_PASSWORD}@a",
        f"http://{USER}:{PROXY_PASSWORD}/@a",
        f"http://{USER}:{PROXY_PASSWORD}@exa\u2100mple.com",
    ],
)
def test_bad_proxy_tells_no_secret(
    logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    with pytest.raises(ValueError, match="proxies") as caught:
        Session(proxies={"http": value})
    check(told_by(caught.value))
    monkeypatch.setenv("http_proxy", value)
    monkeypatch.setenv("no_proxy", "")
    with Session() as session:
        check(told_by(failure_of(session.request("http://bank.example/"))))
    check(logged.text)


@pytest.mark.parametrize("how", ["cancelled", "wrong", "impossible", "kept waiting"])
def test_login_that_fails_tells_no_secret(logged: pytest.LogCaptureFixture, how: str) -> None:
    challenge = (401, [("WWW-Authenticate", CHALLENGES["digest"]), ("WWW-Authenticate", CHALLENGES["basic"])])
    held: list[object] = []

    def answer(info: object, callback: Callable[..., None]) -> None:
        held.append(callback)
        check(repr(info) + repr(callback))
        if how == "impossible":
            callback(USER, f"{PASSWORD}\r\n")
        elif how != "kept waiting":
            callback(USER if how == "wrong" else "", PASSWORD)

    with Peer(site({f"/?{QUERY}": challenge})) as peer, Session() as session:
        request = session.request(
            peer.url(f"/?{QUERY}"), timeout=Timeout(total=0.3 if how == "kept waiting" else LIMIT)
        )
        request.on("login", answer)
        if how == "wrong":
            assert request.end().get_response(LIMIT).status_code == 401
        elif how == "cancelled":
            response = request.end().get_response(LIMIT)
            response.read()
            check(told_by(response.error))
        else:
            check(told_by(failure_of(request)))
        check(repr(request) + repr(session))
    check(logged.text)


def test_abort_tells_no_secret(logged: pytest.LogCaptureFixture) -> None:
    with Peer(scripted(Conn.hold)) as peer, Session() as session:
        request = secretive(session, peer.url("/path")).end()
        peer.wait_request()
        request.abort()
        with pytest.raises(AbortedError) as caught:
            request.wait(LIMIT)
        check(told_by(caught.value) + repr(request))
    check(logged.text)


def test_response_shows_no_secret(logged: pytest.LogCaptureFixture) -> None:
    with Peer(site({f"/path?{QUERY}": (200, [("Set-Cookie", f"a={COOKIE}")])})) as peer, Session() as session:
        request = secretive(session, peer.url("/path"))
        response = request.end().get_response(LIMIT)
        assert response.headers["set-cookie"] == [f"a={COOKIE}"]
        check(repr(request) + repr(response) + repr(session))
    check(logged.text)


def test_request_that_was_forgotten_tells_no_secret(logged: pytest.LogCaptureFixture) -> None:
    """In the warning about it, too."""
    with Peer(scripted(Conn.wait_closed, body=False)) as peer, Session() as session:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            request = secretive(session, peer.url("/path"), chunked_encoding=True)
            request.write(TOKEN)
            peer.wait_request()
            del request
            gc.collect()
        peer.join()
    assert caught
    check("".join(str(warning.message) for warning in caught) + logged.text)


def test_failure_that_nobody_hears_of_is_logged_without_secrets(logged: pytest.LogCaptureFixture) -> None:
    with Peer(scripted(*SCENES["redirect to no host"].steps)) as peer, Session() as session:
        request = secretive(session, peer.url("/path"))
        recorder = Recorder(request, skip=["error"])
        request.end()
        recorder.wait("close")
        del request, recorder
        wait_logged(logged)
    assert "nobody listened" in logged.text
    check(logged.text)


@pytest.mark.parametrize(
    "options",
    [
        {"url": f"ftp://{USER}:{PASSWORD}@a/?{QUERY}"},
        {"url": f"ftp://a/#{TOKEN}"},
        {"url": f"http://{USER}:{PASSWORD}@a:x/?{QUERY}"},
        {"url": f"http://{USER}:{PASSWORD}@[a/?{QUERY}"},
        {"url": UNREADABLE},
        {"url": f"http://{USER}:{PASSWORD}\n@a/"},
        {"url": f"http://a/?{QUERY}\n"},
        {"host": f"{USER}:{PASSWORD}@a"},
        {"path": f"/?{QUERY} "},
        {"path": f"/?{QUERY}\r\n"},
        {"url": "http://a/", "headers": {"Authorization": f"{TOKEN}\n"}},
        {"url": "http://a/", "headers": {"Cookie": f"{COOKIE}\u20ac"}},
        {"url": "http://a/", "headers": {"Cookie": [COOKIE, None]}},
        {"url": "http://a/", "origin": f"{USER}:{PASSWORD}@a", "credentials": "same-origin"},
        {"url": "http://a/", "origin": f"http://a\n{TOKEN}"},
    ],
    ids=lambda options: ascii(options),
)
def test_bad_option_tells_no_secret(session: Session, options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        session.request(options)
    check(told_by(caught.value))


# ------------------------------------------------------------------------------
# Nothing can be slipped in

EVIL = [
    "a\r\nX-Evil: 1",
    "a\nX-Evil: 1",
    "a\rX-Evil: 1",
    "a\r\n X-Evil: 1",
    "a\0b",
    "a\x0bb",
    "\r\n\r\nGET /evil HTTP/1.1",
]


def is_untouched(peer: Peer) -> bool:
    """Whether nothing that was slipped in has come to the server, whose reading is strict."""
    return not any(request.header("x-evil") or "evil" in request.target for request in peer.requests)


@pytest.mark.parametrize("evil", EVIL)
def test_header_with_a_line_end_is_refused(session: Session, evil: str) -> None:
    request = session.request("http://127.0.0.1:9/")
    for name, value in (("X-Name", evil), (evil, "value"), ("Cookie", ["a=1", evil]), ("X-Bytes", evil.encode())):
        with pytest.raises(ValueError, match="header"):
            request.set_header(name, value)
        with pytest.raises(ValueError, match="header"):
            session.request("http://127.0.0.1:9/", headers={name: value})
        with pytest.raises(ValueError, match="header"):
            Session(headers={name: value})


class Sneaky:
    """Shows another face at each look."""

    def __init__(self) -> None:
        self.looks = 0

    def __str__(self) -> str:
        self.looks += 1
        return "good" if self.looks == 1 else "a\r\nX-Evil: 1"


def test_value_is_looked_at_once(session: Session) -> None:
    with Peer(site()) as peer:
        get(session, peer.url(), headers={"X-Name": Sneaky()})
        assert peer.requests[0].header("X-Name") == "good"
        assert is_untouched(peer)


@pytest.mark.parametrize("evil", [*EVIL, "a b", "a\tb"])
@pytest.mark.parametrize("option", ["method", "path", "host", "hostname", "protocol", "port"])
def test_option_with_a_line_end_is_refused(session: Session, option: str, evil: str) -> None:
    with pytest.raises(ValueError, match="option"):
        session.request({option: evil})


@pytest.mark.parametrize("evil", EVIL)
def test_origin_with_a_line_end_is_refused(session: Session, evil: str) -> None:
    for options in ({}, {"credentials": "same-origin"}):
        with pytest.raises(ValueError, match=r"[Oo]rigin"):
            session.request("http://127.0.0.1:9/", origin=f"http://a.example{evil}", **options)


@pytest.mark.parametrize("evil", EVIL)
def test_url_with_a_line_end_is_refused(session: Session, evil: str) -> None:
    for url in (f"http://127.0.0.1:9/{evil}", f"http://127.0.0.1:9/?{evil}", f"http://{evil}/", f"http://u:{evil}@a/"):
        with pytest.raises(ValueError, match="url"):
            session.request(url)


@pytest.mark.parametrize(
    "path", ["/a%0d%0aX-Evil:%201", "/a?b=%0D%0A", "/%00", "//evil.example/x", "/\u2028", "/a#\u010d\u010a"]
)
def test_path_goes_out_as_one_line(session: Session, path: str) -> None:
    with Peer(site()) as peer:
        options = {"host": f"127.0.0.1:{peer.port}", "path": path}
        session.request(options).end().wait(LIMIT)
        (request,) = peer.requests
        assert request.target.isascii()
        assert request.header("x-evil") is None
        assert request.header("host") == f"127.0.0.1:{peer.port}"


@pytest.mark.parametrize("evil", ["%0d%0aX-Evil:1", "a%0d%0a", "%00"])
def test_user_of_a_url_with_a_line_end_is_refused(session: Session, evil: str) -> None:
    for url in (f"http://{evil}:x@127.0.0.1:9/", f"http://x:{evil}@127.0.0.1:9/"):
        with pytest.raises(ValueError, match="url"):
            session.request(url)


def test_user_of_a_proxy_with_a_line_end_is_not_sent() -> None:
    challenge = b'HTTP/1.1 407 No\r\nProxy-Authenticate: Digest realm="x", nonce="n"\r\nContent-Length: 0\r\n\r\n'
    for user in ("a%0d%0aX-Evil:%201:x", "x:a%0d%0aX-Evil:%201"):
        with Peer(repeat(challenge)) as peer:
            with Session(proxies={"http": peer.url().replace("//", f"//{user}@")}) as session:
                assert get(session, "http://a.example/").status_code == 407
            assert is_untouched(peer)
            assert len(peer.requests) == 1


@pytest.mark.parametrize(
    "evil",
    [
        b"a=1\r\n X-Evil: 1",
        b"a=1\rX-Evil: 1",
        b"a=1\0",
        b"a=1\x0b2",
        b"a\x01=1",
        b"a=1; Path=/\x7f",
        b"a=1\n X-Evil: 1",
    ],
)
def test_cookie_with_a_control_is_not_sent_back(session: Session, evil: bytes) -> None:
    answer = OK.encode() + b"Set-Cookie: " + evil + b"\r\nContent-Length: 0\r\n\r\n"
    with Peer(repeat(answer)) as peer:
        for _ in range(2):
            with contextlib.suppress(ClientRequestError):
                get(session, peer.url(), **WITH_COOKIES)
        assert [request.header("cookie") for request in peer.requests] == [None, None]
        assert is_untouched(peer)


@pytest.mark.parametrize(
    "line", [b"\xff\xfe=\x80; x", b'a="; X-Evil: 1"', b"a=b,c=d", b"X-Evil: 1=2", b"a=%0d%0aX-Evil:1"]
)
def test_odd_cookie_goes_back_as_one_value(session: Session, line: bytes) -> None:
    answer = OK.encode() + b"Set-Cookie: " + line + b"\r\nContent-Length: 0\r\n\r\n"
    with Peer(repeat(answer)) as peer:
        for _ in range(2):
            get(session, peer.url(), **WITH_COOKIES)
        sent = peer.requests[1].header("cookie")
        assert sent is None or sent.encode("latin-1") == line.partition(b";")[0].strip()
        assert is_untouched(peer)


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("given", [False, True], ids=["our jar", "given jar"])
def test_cookie_by_hand_with_a_line_end_is_not_sent(evil: str, given: bool, caplog: pytest.LogCaptureFixture) -> None:
    with Session(cookies=CookieJar() if given else None) as session, Peer(site()) as peer:
        session.cookies.set_cookie(handmade("a", evil, "127.0.0.1"))
        session.cookies.set_cookie(handmade(evil, "b", "127.0.0.1"))
        get(session, peer.url(), **WITH_COOKIES)
        assert [request.header("cookie") for request in peer.requests] == [None]
        assert is_untouched(peer)
    assert "X-Evil" not in caplog.text


@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
@pytest.mark.parametrize("evil", [b"a\rX-Evil: 1", b"a\r\n X-Evil: 1", b"a\nX-Evil: 1", b"a\0b", b"a\x7fb", b"a\x0bb"])
def test_realm_with_a_line_end_gets_no_answer(session: Session, scheme: str, evil: bytes) -> None:
    """It is no HTTP, and the request ends there; or its end is a line of its own, and the realm is cut."""
    lines = b'WWW-Authenticate: %s realm="%s", nonce="%s", qop="auth"\r\n' % (scheme.encode(), evil, evil)
    with Peer(repeat(b"HTTP/1.1 401 No\r\n" + lines + b"Content-Length: 0\r\n\r\n")) as peer:
        with contextlib.suppress(ClientRequestError):
            log_in(session, peer.url())
        assert is_untouched(peer)
        answers = [request.header("authorization") or "" for request in peer.requests]
        assert not any("\r" in answer or "\n" in answer or "\0" in answer for answer in answers)


def unquoted(header: str) -> dict[str, str]:
    """The parameters of a Digest answer, read strictly: anything that does not fit is an error."""
    one = r'([a-z*]+)=("(?:[^"\\]|\\.)*"|[A-Za-z0-9\-]+)'
    assert re.fullmatch(rf"Digest {one}(, {one})*", header), header
    return {name: re.sub(r"\\(.)", r"\1", value.strip('"')) for name, value in re.findall(one, header)}


@pytest.mark.parametrize("odd", ['a\\"b', 'a\\", uri=\\"/evil', "a\\\\", "a, username=\\'evil\\'", "a;b=c"])
def test_quotes_of_a_challenge_stay_quoted_in_the_answer(session: Session, odd: str) -> None:
    """A server cannot add parameters to what is sent."""
    challenge = f'Digest realm="{odd}", nonce="{odd}", opaque="{odd}", qop="auth"'
    meant = re.sub(r"\\(.)", r"\1", odd)
    with Peer(guarded(challenge, {})) as peer:
        (info,) = log_in(session, peer.url("/x"))
        header = peer.requests[1].header("authorization")
        assert header is not None
        answer = unquoted(header)
        assert (info.realm, answer["realm"], answer["nonce"], answer["opaque"]) == (meant,) * 4
        assert (answer["uri"], answer["username"]) == ("/x", USER)


@pytest.mark.parametrize("user", ['a", uri="/evil', "a\\", 'a\\"b', "a=b, c"])
def test_quotes_of_a_user_stay_quoted(session: Session, user: str) -> None:
    with Peer(guarded(CHALLENGES["digest"], {})) as peer:
        request = session.request(peer.url("/x"))
        request.on("login", lambda info, callback: callback(user, PASSWORD))
        assert request.end().wait(LIMIT)
        header = peer.requests[1].header("authorization")
        assert header is not None
        answer = unquoted(header)
        assert (answer["username"], answer["uri"]) == (user, "/x")


@pytest.mark.parametrize("evil", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "a\ud800b"])
@pytest.mark.parametrize("scheme", CHALLENGES)
def test_user_or_password_with_a_line_end_is_refused(session: Session, scheme: str, evil: str) -> None:
    """At the call, and the answer may still be given."""
    refused: list[str] = []

    def answer(info: object, callback: Callable[..., None]) -> None:
        for given in ((evil, PASSWORD), (USER, evil)):
            try:
                callback(*given)
            except ValueError as error:
                refused.append(str(error))
        callback(USER, PASSWORD)

    with Peer(guarded(CHALLENGES[scheme], {})) as peer:
        request = session.request(peer.url())
        request.on("login", answer)
        assert request.end().get_response(LIMIT).status_code == 200
        assert is_untouched(peer)
    assert len(refused) == 2
    assert "evil" not in "".join(refused).lower()


@pytest.mark.parametrize(
    "location",
    [
        b"/a\r\n X-Evil: 1",
        b"/a\rX-Evil: 1",
        b"/a\0b",
        b"/a\x0bb",
        b"/a\x7fb",
        b"http://127.0.0.1\r:1/",
        b"/a\x01",
    ],
)
def test_location_with_a_control_is_not_followed(session: Session, location: bytes) -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
    with Peer(repeat(answer)) as peer:
        with pytest.raises(ClientRequestError):
            get(session, peer.url("/start"))
        assert [request.target for request in peer.requests] == ["/start"]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/a%0d%0aX-Evil:%201", "/a%0d%0aX-Evil:%201"),
        ("/a%00b", "/a%00b"),
        ("/a b", "/a%20b"),
        ("/a HTTP/1.1", "/a%20HTTP/1.1"),
        ("/a\tb", "/ab"),
        ("/\x85\xa0", "/%EF%BF%BD%EF%BF%BD"),
        ("/\xe2\x80\xa8", "/%E2%80%A8"),
        ("/\xc4\x8d\xc4\x8a", "/%C4%8D%C4%8A"),
        ('/"<>^`{}\\', "/%22%3C%3E%5E%60%7B%7D%5C"),
    ],
)
def test_location_goes_out_as_one_line(session: Session, location: str, target: str) -> None:
    with Peer(site({"/start": redirect_to(location)})) as peer:
        assert get(session, peer.url("/start")).url == peer.url(target)
        assert peer.requests[1].target == target
        assert peer.requests[1].header("x-evil") is None


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "file:/etc/passwd",
        "file:etc",
        "data:text/html,<b>x",
        "javascript:alert(1)",
        "java\tscript:alert(1)",
        " javascript:alert(1)",
        "ftp://127.0.0.1/",
        "blob:http://127.0.0.1/x",
        "about:blank",
        "ws://127.0.0.1/",
        "gopher://127.0.0.1:25/_HELO",
        "view-source:http://127.0.0.1/",
        "unix:/run/docker.sock",
        "mailto:a@b",
    ],
)
@pytest.mark.parametrize("mode", ["follow", "manual"])
def test_redirect_to_anything_but_http_is_refused(session: Session, location: str, mode: str) -> None:
    with Peer(site({"/start": redirect_to(location, 302)})) as peer:
        request = session.request(peer.url("/start"), redirect=mode)
        told: list[object] = []
        request.on("redirect", lambda *args: (told.append(args), request.follow_redirect()))
        with pytest.raises(RedirectError) as caught:
            request.end().get_response(LIMIT)
        assert caught.value.code == "ERR_UNSAFE_REDIRECT"
        assert told == []
        assert len(peer.requests) == 1


# ------------------------------------------------------------------------------
# Certificates are checked


def self_signed_context() -> ssl.SSLContext:
    """A certificate for this machine that nobody but itself speaks for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    certificate = builder.add_extension(x509.SubjectAlternativeName(names), False).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    written = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    both = trustme.Blob(certificate.public_bytes(pem) + written)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with both.tempfile() as path:
        context.load_cert_chain(path)
    return context


def refuses(session: Session, url: str, code: str) -> None:
    request = session.request(f"{url}?{QUERY}", method="POST", headers={"Authorization": TOKEN})
    with pytest.raises(TLSError) as caught:
        request.end(TOKEN).get_response(LIMIT)
    assert caught.value.code == code


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_unknown_authority_is_refused_by_default(host: str) -> None:
    """Only those of certifi are trusted, whatever the host is called; and nothing is sent before."""
    with Peer(site(), server_context()) as peer, Session() as session:
        refuses(session, peer.url(host=host), "ERR_CERT_AUTHORITY_INVALID")
        assert peer.requests == []


CERTIFICATES: list[tuple[Callable[[], ssl.SSLContext], str, str]] = [
    (untrusted_context, "localhost", "ERR_CERT_AUTHORITY_INVALID"),
    (untrusted_context, "127.0.0.1", "ERR_CERT_AUTHORITY_INVALID"),
    (self_signed_context, "localhost", "ERR_CERT_AUTHORITY_INVALID"),
    (self_signed_context, "127.0.0.1", "ERR_CERT_AUTHORITY_INVALID"),
    (expired_context, "localhost", "ERR_CERT_DATE_INVALID"),
    (expired_context, "127.0.0.1", "ERR_CERT_DATE_INVALID"),
    (wrong_name_context, "localhost", "ERR_CERT_COMMON_NAME_INVALID"),
    (wrong_name_context, "127.0.0.1", "ERR_CERT_COMMON_NAME_INVALID"),
    (lambda: server_context("localhost"), "127.0.0.1", "ERR_CERT_COMMON_NAME_INVALID"),
    (lambda: server_context("127.0.0.1"), "localhost", "ERR_CERT_COMMON_NAME_INVALID"),
    (lambda: server_context("*.localhost"), "localhost", "ERR_CERT_COMMON_NAME_INVALID"),
    (lambda: server_context("127.0.0.2"), "127.0.0.1", "ERR_CERT_COMMON_NAME_INVALID"),
]


@pytest.mark.parametrize(("make_context", "host", "code"), CERTIFICATES)
def test_bad_certificate_is_refused(
    session: Session, make_context: Callable[[], ssl.SSLContext], host: str, code: str
) -> None:
    with Peer(site(), make_context()) as peer:
        refuses(session, peer.url(host=host), code)
        assert peer.requests == []


@pytest.mark.parametrize(("make_context", "host", "code"), CERTIFICATES)
def test_bad_certificate_is_refused_behind_a_redirect(
    session: Session, make_context: Callable[[], ssl.SSLContext], host: str, code: str
) -> None:
    with Peer(site(), make_context()) as there, Peer(site({f"/?{QUERY}": redirect_to(there.url(host=host))})) as peer:
        refuses(session, peer.url(), code)
        assert there.requests == []


@pytest.mark.parametrize(
    ("make_context", "code"),
    [
        (untrusted_context, "ERR_CERT_AUTHORITY_INVALID"),
        (expired_context, "ERR_CERT_DATE_INVALID"),
        (lambda host: wrong_name_context(), "ERR_CERT_COMMON_NAME_INVALID"),
        (lambda host: server_context("127.0.0.1"), "ERR_CERT_COMMON_NAME_INVALID"),  # good for the proxy
    ],
)
@pytest.mark.parametrize("host", ["bank.example", "10.1.2.3"])
def test_bad_certificate_is_refused_in_a_tunnel(
    web: Web, make_context: Callable[[str], ssl.SSLContext], code: str, host: str
) -> None:
    web.make_context = make_context
    web.peer.expect_errors = True  # that the handshake failed is what the test wants
    with web.session() as session:
        refuses(session, f"https://{host}/", code)
    assert web.asked == []


def test_bad_certificate_of_a_proxy_is_refused() -> None:
    with Peer(site(), untrusted_context()) as peer:
        for scheme in ("http", "https"):
            with Session(tls=ca_path(), proxies={"all": peer.url()}) as session:
                refuses(session, f"{scheme}://bank.example/", "ERR_CERT_AUTHORITY_INVALID")
        assert peer.requests == []


@pytest.mark.filterwarnings("ignore:.*nverified:Warning")
def test_carelessness_is_not_catching() -> None:
    """What one session may do without, others still ask for."""
    with Peer(site(), untrusted_context()) as peer, Session(tls=False) as careless, Session(tls=ca_path()) as session:
        assert get(careless, peer.url()).status_code == 200
        refuses(session, peer.url(), "ERR_CERT_AUTHORITY_INVALID")
        refuses(session, peer.url(host="localhost"), "ERR_CERT_AUTHORITY_INVALID")


def test_other_variables_of_the_environment_do_not_change_whom_to_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(variable, ca_path())
    monkeypatch.setenv("PYTHONHTTPSVERIFY", "0")
    with Peer(site(), server_context()) as peer, Session() as session:
        refuses(session, peer.url(), "ERR_CERT_AUTHORITY_INVALID")


# ------------------------------------------------------------------------------
# Cookies stay in their domain and path

A = "http://a.site.example"

COOKIES = [
    # set at, line, gets it, does not get it
    (
        f"{A}/",
        "c=1",
        [f"{A}/x", f"{A}:8080/", "https://a.site.example/"],
        ["http://site.example/", f"{A}.evil.example/"],
    ),
    (f"{A}/", "c=1", [], ["http://b.a.site.example/", "http://b.site.example/", "http://aa.site.example/"]),
    (f"{A}/", "c=1; Domain=", [f"{A}/"], ["http://site.example/"]),
    (f"{A}/", "c=1; Domain=site.example", [f"{A}/", "http://site.example/", "http://b.site.example/"], []),
    (f"{A}/", "c=1; Domain=.site.example", ["http://site.example/", "http://x.y.site.example/"], []),
    (f"{A}/", "c=1; Domain=SITE.Example", ["http://site.example/"], []),
    (f"{A}/", "c=1; Domain=site.example", [], ["http://notsite.example/", "http://site.example.evil.example/"]),
    (f"{A}/", "c=1; Domain=b.site.example", [], [f"{A}/", "http://b.site.example/"]),
    (f"{A}/", "c=1; Domain=b.a.site.example", [], [f"{A}/", "http://b.a.site.example/"]),
    (f"{A}/", "c=1; Domain=bank.example", [], [f"{A}/", "http://bank.example/"]),
    (f"{A}/", "c=1; Domain=ite.example", [], [f"{A}/", "http://ite.example/"]),
    (f"{A}/", "c=1; Domain=example", [], [f"{A}/", "http://bank.example/"]),
    (f"{A}/", "c=1; Domain=.", [], ["http://bank.example/"]),
    ("http://shop.co.uk/", "c=1; Domain=co.uk", [], ["http://shop.co.uk/", "http://bank.co.uk/"]),
    ("http://10.0.0.1/", "c=1", ["http://10.0.0.1/"], ["http://110.0.0.1/", "http://10.0.0.11/"]),
    ("http://10.0.0.1/", "c=1; Domain=10.0.0.1", ["http://10.0.0.1/"], ["http://1.10.0.0.1/"]),
    ("http://10.0.0.1/", "c=1; Domain=0.0.1", [], ["http://10.0.0.1/", "http://20.0.0.1/"]),
    ("http://[::1]/", "c=1", ["http://[::1]/"], ["http://[::11]/"]),
    # Paths
    (
        f"{A}/d/e",
        "c=1",
        [f"{A}/d", f"{A}/d/", f"{A}/d/f?g", f"{A}/d/e/f"],
        [f"{A}/", f"{A}/dd", f"{A}/D/", f"{A}/x/d/"],
    ),
    (f"{A}/d", "c=1", [f"{A}/", f"{A}/x"], []),
    (f"{A}/d/e", "c=1; Path=/", [f"{A}/"], []),
    (f"{A}/", "c=1; Path=/d", [f"{A}/d", f"{A}/d/e", f"{A}/d?e"], [f"{A}/", f"{A}/de", f"{A}/?/d"]),
    (f"{A}/", "c=1; Path=/d/", [f"{A}/d/", f"{A}/d/e"], [f"{A}/d"]),
    (f"{A}/d/e", "c=1; Path=f", [f"{A}/d/x"], [f"{A}/f"]),
    (f"{A}/", "c=1; Path=/other", [f"{A}/other"], [f"{A}/"]),
    # What else decides
    ("https://a.site.example/", "c=1; Secure", ["https://a.site.example/"], [f"{A}/"]),
    (f"{A}/", "c=1; Secure", [], [f"{A}/", "https://a.site.example/"]),
    ("https://a.site.example/", "__Host-c=1; Secure; Path=/", ["https://a.site.example/"], ["https://b.site.example/"]),
    ("https://a.site.example/", "__Host-c=1; Secure; Path=/; Domain=site.example", [], ["https://a.site.example/"]),
    (f"{A}/", "__Secure-c=1", [], [f"{A}/"]),
    (f"{A}/", "c=1; HttpOnly; SameSite=Strict", [f"{A}/"], []),
    (f"{A}/", "c=1; Max-Age=0", [], [f"{A}/"]),
    (f"{A}/", "c=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", [], [f"{A}/"]),
    (f"{A}/", 'c="1; 2"; Path=/', [f"{A}/"], []),
]


@pytest.mark.parametrize(("at", "line", "for_these", "not_for_these"), COOKIES)
def test_cookie_stays_in_its_domain_and_path(
    web: Web, at: str, line: str, for_these: list[str], not_for_these: list[str]
) -> None:
    """RFC 6265, 5.1.3, 5.1.4, 5.3 and 5.4, over real requests."""
    with web.session() as session:
        web.answers[at] = (200, [("Set-Cookie", line)])
        get(session, at, **WITH_COOKIES)
        web.answers.clear()
        for url in (*for_these, *not_for_these):
            get(session, url, **WITH_COOKIES)
    pair = line.partition(";")[0]
    assert web.sent("cookie")[1:] == [(url, pair) for url in for_these] + [(url, None) for url in not_for_these]


def test_plain_site_cannot_replace_a_secure_cookie(web: Web) -> None:
    """Whoever is on the way to the plain one could log the user in as somebody else (RFC 6265bis, 5.7)."""
    web.answers["https://bank.example/"] = (200, [("Set-Cookie", "c=good; Secure")])
    for url in ("http://bank.example/", "http://evil.bank.example/"):
        web.answers[url] = (200, [("Set-Cookie", "c=evil; Domain=bank.example"), ("Set-Cookie", "c=evil")])
    with web.session() as session:
        for url in web.answers:
            get(session, url, **WITH_COOKIES)
        get(session, "https://bank.example/again", **WITH_COOKIES)
    assert web.sent("cookie")[-1] == ("https://bank.example/again", "c=good")


def test_site_cannot_delete_the_cookies_of_another(web: Web) -> None:
    web.answers["http://bank.example/"] = (200, [("Set-Cookie", "c=1")])
    for domain in ("bank.example", ".bank.example", "example", ""):
        line = f"c=; Max-Age=0; Domain={domain}; Path=/"
        web.answers[f"http://evil.example/{domain}"] = (200, [("Set-Cookie", line)])
    with web.session() as session:
        for url in list(web.answers):
            get(session, url, **WITH_COOKIES)
        get(session, "http://bank.example/again", **WITH_COOKIES)
    assert web.sent("cookie")[-1] == ("http://bank.example/again", "c=1")


@pytest.mark.skipif(os.name != "posix", reason="no file modes here")
def test_file_of_cookies_is_for_its_owner_only(tmp_path: Path, web: Web) -> None:
    """From its creation and whatever the umask; one that others could read is closed to them."""
    web.answers["http://bank.example/"] = (200, [("Set-Cookie", f"c={COOKIE}; Max-Age=3600")])
    folder = tmp_path / "storage"
    before = os.umask(0)
    try:
        for _ in range(2):
            with web.session(partition="persist:mine", storage=folder) as session:
                get(session, "http://bank.example/", **WITH_COOKIES)
            (file,) = folder.iterdir()
            assert COOKIE in file.read_text()
            assert [stat.S_IMODE(path.stat().st_mode) for path in (file, folder)] == [0o600, 0o700]
            file.chmod(0o666)
            file.write_text(file.read_text().replace("3600", "3601"))
            web.answers["http://bank.example/"] = (200, [("Set-Cookie", f"d={COOKIE}; Max-Age=3600")])
    finally:
        os.umask(before)
