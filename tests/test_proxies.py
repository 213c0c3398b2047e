"""Requests through proxies: forwarded, through tunnels, over TLS inside TLS, over SOCKS; and logins there."""

from __future__ import annotations

import gc
import hashlib
import io
import itertools
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Callable, NamedTuple, Optional, Union

import pytest

from clientrequest import (
    AbortedError,
    AuthInfo,
    ClientRequest,
    ClientRequestError,
    ConnectError,
    IncomingMessage,
    ProxyError,
    RedirectError,
    RequestTimeout,
    Session,
    Timeout,
    TLSError,
    TransferError,
    _session,
    _socks,
)
from clientrequest._proxies import parse_proxies
from tests.support import (
    LIMIT,
    Conn,
    Gate,
    Handler,
    Peer,
    Recorder,
    Request,
    blackhole,
    ca_path,
    client_certificate,
    client_context,
    demanding_context,
    early_answer,
    echo_json,
    expired_context,
    has_ipv6,
    open_sockets,
    refused_port,
    scripted,
    server_context,
    untrusted_context,
    wrong_name_context,
)
from tests.support.proxies import ESTABLISHED, Door, HttpProxy, SocksProxy, basic, wants
from tests.support.threads import in_threads
from tests.test_abort_everywhere import Trap
from tests.test_fork import in_child, untraced_threads

MEBI = 1024 * 1024
LARGE = bytes(range(256)) * (8 * MEBI // 256)
SECRET = "s3cr3t"
USER = "jane"
RIGHT = basic(USER, SECRET)
FREE = 0.5
"""Seconds within which everything is free after an abort."""

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

Through = Callable[..., Session]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine that runs the tests has a say."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def through() -> Iterator[Through]:
    """Makes a session whose requests all go through one proxy, given as its URL or as a peer."""
    with ExitStack() as stack:

        def make(proxy: Union[str, Peer], **options: Any) -> Session:
            url = proxy if isinstance(proxy, str) else proxy.url()
            return stack.enter_context(Session(**{"proxies": {"all": url}, "tls": ca_path(), **options}))

        yield make


def ask(session: Session, url: str, body: bytes = b"", **options: Any) -> ClientRequest:
    request = session.request(url, **options)
    if body:
        request.write(body)
    return request.end()


def fetch(session: Session, url: str, body: bytes = b"", **options: Any) -> Any:
    """What ``echo_json`` says of the request."""
    request = ask(session, url, body, **options)
    answer = request.get_response(LIMIT).json()
    assert request.wait(LIMIT)
    return answer


def failure(request: ClientRequest) -> ClientRequestError:
    """What the request dies of; not a word of a secret in it."""
    with pytest.raises(ClientRequestError) as raised:
        request.wait(LIMIT)
    for text in (str(raised.value), repr(raised.value), str(raised.value.__cause__), repr(request)):
        assert SECRET not in text
        assert RIGHT[6:] not in text
    return raised.value


def header(answer: Any, name: str) -> Optional[str]:
    """A header of the request that ``echo_json`` describes."""
    values = [value for key, value in answer["headers"] if key.lower() == name.lower()]
    assert len(values) <= 1
    return values[0] if values else None


def hand_over(username: str = USER, password: str = SECRET) -> Callable[..., None]:
    """A listener of ``login`` that answers at once."""
    return lambda info, callback: callback(username, password)


def hold(conn: Conn) -> None:
    conn.hold()


def hold_after_request(conn: Conn) -> None:
    conn.read_request()
    conn.hold()


def into_tunnel(then: Handler, context: Optional[ssl.SSLContext] = None) -> Handler:
    """A proxy that is also the server at the end of each tunnel; over TLS there if a context is given."""

    def handle(conn: Conn) -> None:
        conn.read_request()
        conn.send(ESTABLISHED)
        if context is not None:
            conn.start_tls(context)
        then(conn)

    return handle


# --- http through an HTTP proxy ---


class TestForwarding:
    @pytest.mark.parametrize("path", ["/", "/x?a=b&c=%20d", "//x/../y;z", "/?u=http://other.example/"])
    def test_request_line_tells_the_whole_url(self, through: Through, path: str) -> None:
        with Peer(echo_json) as origin, HttpProxy() as proxy:
            answer = fetch(through(proxy), origin.url(path))
            assert proxy.requests[0].target == origin.url(path)
            assert proxy.requests[0].header("host") == f"127.0.0.1:{origin.port}"
            assert answer["target"] == path
            assert not proxy.tunnels

    def test_name_and_default_port(self, through: Through) -> None:
        with Peer(echo_json) as proxy:
            answer = fetch(through(proxy), "http://origin.example/a?b")
            assert answer["target"] == "http://origin.example/a?b"
            assert header(answer, "host") == "origin.example"

    @needs_ipv6
    def test_ipv6(self, through: Through) -> None:
        with Peer(echo_json, host="::1") as origin, HttpProxy(host="::1") as proxy:
            fetch(through(proxy), origin.url("/x"))
            assert proxy.requests[0].target == f"http://[::1]:{origin.port}/x"
            assert proxy.requests[0].header("host") == f"[::1]:{origin.port}"

    def test_login_for_the_server_is_not_in_the_request_line(self, through: Through) -> None:
        with Peer(echo_json) as proxy:
            answer = fetch(through(proxy), f"http://{USER}:{SECRET}@origin.example/")
            assert answer["target"] == "http://origin.example/"
            assert header(answer, "authorization") is None
            assert header(answer, "host") == "origin.example"

    def test_one_connection_serves_several_origins(self, through: Through) -> None:
        with Peer(echo_json) as one, Peer(echo_json) as two, HttpProxy() as proxy:
            session = through(proxy)
            for origin in (one, two, one):
                fetch(session, origin.url("/"))
            assert len(proxy.connections) == 1
            assert [len(one.requests), len(two.requests)] == [2, 1]

    @pytest.mark.parametrize("way", ["buffered", "chunked", "known"])
    def test_body(self, through: Through, way: str) -> None:
        with Peer(echo_json) as proxy:
            answer = fetch(through(proxy), "http://origin.example/", b"body", method="POST", **framing(way, 4))
            assert (answer["length"], answer["chunks"] > 0) == (4, way == "chunked")

    @pytest.mark.parametrize("kind", ["close", "keep_reading", "stop_reading"])
    def test_early_answer(self, through: Through, kind: str) -> None:
        with Peer(early_answer(kind, after=200_000)) as proxy:
            request = through(proxy).request("http://origin.example/", method="POST", chunked_encoding=True)
            upload_until_answered(request)
            assert request.get_response(LIMIT).status_code == 413
            assert request.wait(LIMIT)

    def test_proxy_that_closes_is_connected_anew(self, through: Through) -> None:
        def handle(conn: Conn) -> None:
            conn.read_request()
            conn.respond(body=b"{}", close=True)

        with Peer(handle) as proxy:
            session = through(proxy)
            for _ in range(2):
                assert fetch(session, "http://origin.example/") == {}
            assert len(proxy.connections) == 2

    def test_idle_connection_that_dies_is_retried(self, through: Through) -> None:
        with Peer(dying_at_the_second(), expect_errors=True) as proxy:
            session = through(proxy)
            assert [fetch(session, "http://origin.example/")["connection"] for _ in range(2)] == [1, 2]

    def test_connection_of_a_direct_request_is_not_used_for_a_proxied_one(self, through: Through) -> None:
        with Peer(echo_json) as both:
            session = through(both, proxies={"http": both.url(), "no_proxy": "127.0.0.1"})
            direct, proxied = fetch(session, both.url("/")), fetch(session, "http://origin.example/")
            assert (direct["target"], direct["connection"]) == ("/", 1)
            assert (proxied["target"], proxied["connection"]) == ("http://origin.example/", 2)

    def test_login_by_hand_at_the_server_is_not_replaced(self, through: Through) -> None:
        """Not by one that is in the cache: that there is a proxy makes no difference."""
        other = basic("other", "other")
        with HttpProxy() as proxy, Peer(asking_server(RIGHT, other)) as origin:
            session = through(proxy)
            assert answer_logins(session.request(origin.url("/"))).status_code == 200
            assert ask(session, origin.url("/"), headers={"Authorization": other}).wait(LIMIT)
            assert [one.header("authorization") for one in origin.requests] == [None, RIGHT, other]


def framing(way: str, length: int) -> dict[str, Any]:
    """Options of a request whose body goes out that way."""
    if way == "chunked":
        return {"chunked_encoding": True}
    return {"headers": {"Content-Length": length}} if way == "known" else {}


def upload_until_answered(request: ClientRequest) -> None:
    """Write for as long as the server takes it."""
    piece = bytes(64 * 1024)
    for _ in range(4096):
        if not request.writable():
            break
        request.write(piece)
    else:
        raise AssertionError("256 MiB were taken, and no answer was seen")
    request.end()


def dying_at_the_second() -> Handler:
    """Answers as ``echo_json``, but the first connection ends without a word when it is used again."""

    def handle(conn: Conn) -> None:
        request = conn.read_request()
        conn.respond(body=json.dumps({"connection": conn.number, "target": request.target}).encode())
        conn.read_request()

    return handle


def asking_server(*accepted: str, realm: str = "server") -> Handler:
    """A server, not a proxy, that wants a login."""

    def handle(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.header("authorization") in accepted:
                conn.respond(body=b"welcome")
            else:
                conn.respond(401, {"WWW-Authenticate": f'Basic realm="{realm}"'}, b"who?")

    return handle


def answer_logins(request: ClientRequest, *answers: tuple[str, str]) -> IncomingMessage:
    """End the request; its logins are answered by ``answers``, one after the other, and cancelled after that."""
    left = list(answers or [(USER, SECRET)])
    request.on("login", lambda info, callback: callback(*(left.pop(0) if left else ())))
    response = request.end().get_response(LIMIT)
    response.read()
    assert request.wait(LIMIT)
    assert not left
    return response


# --- Proxy-Authorization by hand ---


BY_HAND = {"Proxy-Authorization": RIGHT}


class TestHeaderByHand:
    def test_goes_to_a_proxy_that_forwards(self, through: Through) -> None:
        with Peer(echo_json) as proxy:
            answer = fetch(through(proxy), "http://origin.example/", headers=BY_HAND)
            assert header(answer, "proxy-authorization") == RIGHT

    def test_goes_with_connect_and_not_through_the_tunnel(self, through: Through) -> None:
        with Peer(echo_json, server_context()) as origin, HttpProxy(door=wants(RIGHT)) as proxy:
            answer = fetch(through(proxy), origin.url("/"), headers=BY_HAND)
            assert header(answer, "proxy-authorization") is None
            assert len(proxy.requests) == 1

    @pytest.mark.parametrize("tls", [False, True])
    def test_does_not_go_over_socks(self, through: Through, tls: bool) -> None:
        with Peer(echo_json, server_context() if tls else None) as origin, SocksProxy() as proxy:
            answer = fetch(through(proxy.address("socks5")), origin.url("/"), headers=BY_HAND)
            assert header(answer, "proxy-authorization") is None

    def test_does_not_go_to_a_server_without_a_proxy(self, through: Through) -> None:
        with Peer(echo_json) as origin, Peer(echo_json) as proxy:
            session = through(proxy, proxies={"all": proxy.url(), "no_proxy": "127.0.0.1"}, headers=BY_HAND)
            assert header(fetch(session, origin.url("/"), headers=BY_HAND), "proxy-authorization") is None
            assert not proxy.connections

    def test_stays_with_its_proxy_when_a_redirect_leads_past_it(self, through: Through) -> None:
        with Peer(echo_json) as origin, Peer(scripted(found(origin.url("/there")))) as proxy:
            proxies = {"all": proxy.url(), "no_proxy": f"127.0.0.1:{origin.port}"}
            answer = fetch(through(proxy, proxies=proxies), "http://first.example/", headers=BY_HAND)
            assert proxy.requests[0].header("proxy-authorization") == RIGHT
            assert header(answer, "proxy-authorization") is None

    def test_is_not_asked_about_again(self, through: Through) -> None:
        """The answer to a wrong one is a login, as for any other."""
        with HttpProxy(door=wants(RIGHT)) as proxy, Peer(echo_json) as origin:
            wrong = {"Proxy-Authorization": basic("other", "other")}
            assert answer_logins(through(proxy).request(origin.url("/"), headers=wrong)).status_code == 200
            assert [one.header("proxy-authorization") for one in proxy.requests] == [*wrong.values(), RIGHT]


def found(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


# --- https through an HTTP proxy ---


class TestTunnel:
    def test_connect_and_what_goes_through_it(self, through: Through) -> None:
        with Peer(echo_json, server_context()) as origin, HttpProxy() as proxy:
            answer = fetch(through(proxy), origin.url("/x?y"), headers={"Authorization": RIGHT, "Cookie": SECRET})
            (connect,) = proxy.requests
            authority = f"127.0.0.1:{origin.port}"
            assert (connect.method, connect.target, connect.version) == ("CONNECT", authority, "HTTP/1.1")
            assert connect.header("host") == authority
            assert (connect.header("user-agent") or "").startswith("clientrequest/")
            assert SECRET.encode() not in connect.head
            assert connect.header("authorization") is None
            assert answer["target"] == "/x?y"
            assert header(answer, "host") == authority
            assert header(answer, "proxy-connection") is None

    def test_name_and_default_port(self, through: Through) -> None:
        with HttpProxy() as proxy, Peer(echo_json, server_context("origin.example")) as origin:
            proxy.routes["origin.example"] = origin.port
            answer = fetch(through(proxy), "https://origin.example/")
            assert proxy.requests[0].target == "origin.example:443"
            assert proxy.requests[0].header("host") == "origin.example:443"
            assert header(answer, "host") == "origin.example"

    @needs_ipv6
    def test_ipv6_is_in_brackets(self, through: Through) -> None:
        with Peer(echo_json, server_context(), host="::1") as origin, HttpProxy() as proxy:
            fetch(through(proxy), origin.url("/"))
            assert proxy.tunnels == [f"[::1]:{origin.port}"]
            assert proxy.requests[0].header("host") == f"[::1]:{origin.port}"

    def test_user_agent_by_hand(self, through: Through) -> None:
        with Peer(echo_json, server_context()) as origin, HttpProxy() as proxy:
            fetch(through(proxy), origin.url("/"), headers={"User-Agent": "mine"})
            assert proxy.requests[0].header("user-agent") == "mine"

    def test_user_agent_that_was_removed(self, through: Through) -> None:
        with Peer(echo_json, server_context()) as origin, HttpProxy() as proxy:
            request = through(proxy).request(origin.url("/"))
            request.remove_header("User-Agent")
            request.end().get_response(LIMIT).read()
            assert proxy.requests[0].header("user-agent") is None

    @pytest.mark.parametrize(
        ("context", "code"),
        [
            (wrong_name_context, "ERR_CERT_COMMON_NAME_INVALID"),
            (expired_context, "ERR_CERT_DATE_INVALID"),
            (untrusted_context, "ERR_CERT_AUTHORITY_INVALID"),
        ],
    )
    @pytest.mark.parametrize("proxy_tls", [False, True])
    def test_server_is_verified(
        self, through: Through, context: Callable[[], ssl.SSLContext], code: str, proxy_tls: bool
    ) -> None:
        tls = server_context() if proxy_tls else None
        with Peer(echo_json, context(), expect_errors=True) as origin, HttpProxy(tls) as proxy:
            error = failure(ask(through(proxy), origin.url("/")))
            assert (type(error), error.code) == (TLSError, code)
            assert not origin.requests

    @pytest.mark.parametrize("socks", [False, True])
    def test_error_of_the_servers_certificate_names_the_server(self, through: Through, socks: bool) -> None:
        proxy: Any = SocksProxy() if socks else HttpProxy()
        with proxy, Peer(echo_json, wrong_name_context(), expect_errors=True) as origin:
            text = str(failure(ask(through(proxy.address("socks5" if socks else "http")), origin.url("/"))))
            assert f":{origin.port}" in text
            assert f":{proxy.port}" not in text

    def test_is_used_again(self, through: Through) -> None:
        with Peer(echo_json, server_context()) as origin, HttpProxy() as proxy:
            session = through(proxy)
            assert [fetch(session, origin.url("/"))["connection"] for _ in range(3)] == [1, 1, 1]
            assert len(proxy.requests) == 1

    def test_each_origin_has_its_own(self, through: Through) -> None:
        context = server_context()
        with Peer(echo_json, context) as one, Peer(echo_json, context) as two, HttpProxy() as proxy:
            session = through(proxy)
            for origin in (one, two, one, two):
                fetch(session, origin.url("/"))
            assert proxy.tunnels == [f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}"]

    def test_stale_one_is_made_anew(self, through: Through) -> None:
        with Peer(dying_at_the_second(), server_context(), expect_errors=True) as origin, HttpProxy() as proxy:
            session = through(proxy)
            assert [fetch(session, origin.url("/"))["connection"] for _ in range(2)] == [1, 2]
            assert len(proxy.tunnels) == 2

    def test_one_that_was_closed_while_idle_is_made_anew(self, through: Through) -> None:
        with Peer(echo_json, server_context()) as origin, HttpProxy() as proxy:
            session = through(proxy)
            fetch(session, origin.url("/"))
            origin.connections[0].close()
            proxy.connections[0].finished.wait()
            assert fetch(session, origin.url("/"), b"x", method="POST", chunked_encoding=True)["connection"] == 2

    def test_client_certificate_goes_to_the_server(self, through: Through) -> None:
        with Peer(echo_json, demanding_context()) as origin, HttpProxy() as proxy:
            assert fetch(through(proxy, client_cert=tuple(client_certificate())), origin.url("/"))["target"] == "/"

    def test_writer_is_held_back(self, through: Through) -> None:
        """A server that does not read fills the buffers on the way, and not the memory here."""
        go_on = Gate("go on")

        def handle(conn: Conn) -> None:
            request = conn.read_request(body=False)
            go_on.wait()
            conn.drain_body(request)
            conn.respond(body=json.dumps({"length": request.length}).encode())

        with Peer(handle, server_context()) as origin, HttpProxy() as proxy:
            request = through(proxy).request(origin.url("/"), method="POST", chunked_encoding=True, blocking=False)
            written = fill(request)
            drained = Gate("drain")
            request.on("drain", drained.set)
            go_on.set()
            drained.wait()
            assert request.end().get_response(LIMIT).json() == {"length": written}

    @pytest.mark.parametrize("proxy_tls", [False, True])
    def test_large_write_is_no_write_timeout_while_bytes_flow(self, through: Through, proxy_tls: bool) -> None:
        pieces, size = 128, MEBI // 4

        def handle(conn: Conn) -> None:
            request, pause = conn.read_request(body=False), threading.Event()
            for _ in range(pieces):
                conn.recv_exact(size)
                pause.wait(0.01)
            conn.respond(body=request.method.encode())

        proxy = HttpProxy(server_context() if proxy_tls else None)
        with proxy, Peer(handle, server_context(), expect_errors=True) as origin:
            headers = {"Content-Length": pieces * size}
            request = through(proxy).request(
                origin.url("/"), method="POST", headers=headers, timeout=Timeout(write=0.5)
            )
            request.write(bytes(pieces * size))
            assert request.end().get_response(LIMIT).read() == b"POST"


def fill(request: ClientRequest) -> int:
    """Write until the other side takes no more; how much that was. Polls: what does not happen makes no noise."""
    written, pause, progress, since = 0, threading.Event(), 0, time.monotonic()
    while written < 256 * MEBI:
        if not request.writable_need_drain:
            written += request.write(bytes(64 * 1024))
        elif request.get_upload_progress().current != progress:
            progress, since = request.get_upload_progress().current, time.monotonic()
        elif progress and time.monotonic() - since > 0.3:
            return written
        else:
            pause.wait(0.002)
    raise AssertionError(f"{written} bytes were taken, and no end was seen")


# --- an HTTP proxy that is spoken to over TLS ---


@pytest.fixture(params=["http", "https"])
def secured(request: pytest.FixtureRequest, through: Through) -> Iterator[Callable[..., tuple[Session, Peer, str]]]:
    """Starts a server with a handler: session, server, URL. Behind a TLS proxy; for http that is the server itself."""
    with ExitStack() as stack:

        def make(handler: Handler, **options: Any) -> tuple[Session, Peer, str]:
            if request.param == "http":
                peer = stack.enter_context(Peer(handler, server_context(), **options))
                return through(peer), peer, "http://origin.example/"
            proxy = stack.enter_context(HttpProxy(server_context()))
            peer = stack.enter_context(Peer(handler, server_context(), **options))
            return through(proxy), peer, peer.url("/")

        yield make


Secured = Callable[..., tuple[Session, Peer, str]]


class TestTlsProxy:
    def test_forwards(self, through: Through) -> None:
        with Peer(echo_json) as origin, HttpProxy(server_context()) as proxy:
            session = through(proxy)
            assert [fetch(session, origin.url("/x"))["target"] for _ in range(2)] == ["/x", "/x"]
            assert proxy.requests[0].target == origin.url("/x")
            assert len(proxy.connections) == 1
            assert not proxy.tunnels

    def test_one_connection_serves_several_origins(self, through: Through) -> None:
        with Peer(echo_json) as one, Peer(echo_json) as two, HttpProxy(server_context()) as proxy:
            session = through(proxy)
            for origin in (one, two, one):
                fetch(session, origin.url("/"))
            assert len(proxy.connections) == 1

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_tunnels(self, through: Through, version: ssl.TLSVersion) -> None:
        context = server_context(tls_version=version)
        with HttpProxy(context) as proxy, Peer(echo_json, context) as origin:
            session = through(proxy)
            answers = [fetch(session, origin.url("/x"), b"abc", method="POST") for _ in range(3)]
            assert [answer["connection"] for answer in answers] == [1, 1, 1]
            assert len(proxy.tunnels) == 1

    @pytest.mark.parametrize("target", ["http://origin.example/", "https://origin.example/"])
    @pytest.mark.parametrize(
        ("context", "code"),
        [
            (wrong_name_context, "ERR_CERT_COMMON_NAME_INVALID"),
            (untrusted_context, "ERR_CERT_AUTHORITY_INVALID"),
        ],
    )
    def test_proxy_is_verified(
        self, through: Through, target: str, context: Callable[[], ssl.SSLContext], code: str
    ) -> None:
        with HttpProxy(context(), expect_errors=True) as proxy:
            error = failure(ask(through(proxy), target))
            assert isinstance(error, (TLSError, ProxyError))
            assert code in (error.code, getattr(error.__cause__, "code", code))
            assert f":{proxy.port}" in str(error)
            assert not proxy.requests

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_nothing_is_verified_where_that_was_chosen(self, through: Through) -> None:
        with Peer(echo_json, untrusted_context()) as origin, HttpProxy(untrusted_context()) as proxy:
            assert fetch(through(proxy, tls=False), origin.url("/x"))["target"] == "/x"

    @pytest.mark.parametrize("target", ["http://origin.example/", "https://origin.example/"])
    def test_own_context_is_used_itself(self, through: Through, target: str) -> None:
        """With all that it was told, and what cannot be copied: a folder of authorities, a verification of its own."""

        class Own(ssl.SSLContext):
            names: list[Any]

            def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
                self.names.append(options.get("server_hostname"))
                return super().wrap_socket(*args, **options)

        own = Own(ssl.PROTOCOL_TLS_CLIENT)
        own.load_verify_locations(ca_path())
        own.maximum_version = ssl.TLSVersion.TLSv1_2
        own.names = []
        versions: list[Any] = []

        def look(conn: Conn, request: Request) -> bool:
            versions.append(conn.tls and conn.tls.version())
            conn.respond(403)
            return False

        with HttpProxy(server_context(), door=look) as proxy:
            request = ask(through(proxy, tls=own), target)
            if target.startswith("https"):
                check_refused(failure(request))
            else:
                assert request.get_response(LIMIT).status_code == 403
            assert (versions, own.names) == (["TLSv1.2"], ["127.0.0.1"])

    @pytest.mark.parametrize("own_context", [False, True])
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_client_certificate_is_none_of_its_business(self, through: Through, own_context: bool, scheme: str) -> None:
        asking = server_context()
        asking.load_verify_locations(ca_path())
        asking.verify_mode = ssl.CERT_OPTIONAL
        shown: list[Any] = []

        def look(conn: Conn, request: Request) -> bool:
            shown.append(conn.tls and conn.tls.getpeercert())
            return True

        origin_tls = demanding_context() if scheme == "https" else None
        with Peer(echo_json, origin_tls) as origin, HttpProxy(asking, door=look) as proxy:
            tls = client_context() if own_context else ca_path()
            session = through(proxy, tls=tls, client_cert=tuple(client_certificate()))
            fetch(session, origin.url("/"))
            assert shown == [None]

    @pytest.mark.parametrize("way", ["buffered", "chunked", "known"])
    def test_large_body_goes_up(self, secured: Secured, way: str) -> None:
        session, _, url = secured(echo_json)
        request = session.request(url, method="POST", **framing(way, len(LARGE)))
        for start in range(0, len(LARGE), 100_000):
            request.write(LARGE[start : start + 100_000])
        answer = request.end().get_response(LIMIT).json()
        assert (answer["length"], answer["sha256"]) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
        assert request.wait(LIMIT)
        assert fetch(session, url)["connection"] == 1

    def test_one_large_write(self, secured: Secured) -> None:
        session, _, url = secured(echo_json)
        answer = fetch(session, url, LARGE, method="POST", chunked_encoding=True)
        assert answer["sha256"] == hashlib.sha256(LARGE).hexdigest()

    @pytest.mark.parametrize("face", ["read", "read1", "readinto", "iter_chunks", "data", "paused data"])
    @pytest.mark.parametrize("chunked", [False, True])
    def test_large_body_comes_down(self, secured: Secured, face: str, chunked: bool) -> None:
        pieces = [LARGE[start : start + 300_001] for start in range(0, len(LARGE), 300_001)]

        def handle(conn: Conn) -> None:
            while conn.read_request():
                conn.respond(body=pieces, chunked=chunked)

        session, peer, url = secured(handle)
        for _ in range(2):
            assert READERS[face](session.request(url)) == LARGE
        assert len(peer.connections) == 1

    @pytest.mark.parametrize("size", [1, 7, 1000, 16384, 70000])
    def test_small_reads(self, secured: Secured, size: int) -> None:
        body = LARGE[: 150 * size] if size < 7000 else LARGE[: 5 * size]
        session, _, url = secured(scripted(head_of(len(body)) + body))
        response = session.request(url).end().get_response(LIMIT)
        pieces = list(iter(lambda: response.read(size), b""))
        assert b"".join(pieces) == body
        assert {len(piece) for piece in pieces[:-1]} == {size}

    @pytest.mark.parametrize("face", ["read1", "data"])
    @pytest.mark.parametrize("size", [1000, 16384, 65536, 65537, 200_000])
    def test_what_is_there_is_given_though_more_is_to_come(self, secured: Secured, face: str, size: int) -> None:
        """Nothing may stay behind in a layer of TLS, where no poll would tell of it."""
        more = Gate("more")
        session, _, url = secured(scripted(head_of(size + 1) + LARGE[:size], more, b"!"))
        request = session.request(url)
        taken = io.BytesIO()
        arrived = Gate("arrived")

        def take(piece: bytes) -> None:
            taken.write(piece)
            if taken.tell() == size:
                arrived.set()

        if face == "data":
            request.on("response", lambda response: response.on("data", take))
            request.end()
        else:
            response = request.end().get_response(LIMIT)
            while taken.tell() < size:
                take(response.read1(5000))
        arrived.wait()
        assert taken.getvalue() == LARGE[:size]
        more.set()
        if face == "read1":
            assert response.read() == b"!"
        assert request.wait(LIMIT)

    def test_many_small_records(self, secured: Secured) -> None:
        def handle(conn: Conn) -> None:
            conn.read_request()
            for byte in head_of(500) + LARGE[:500]:
                conn.send(bytes([byte]))

        session, _, url = secured(handle)
        assert ask(session, url).get_response(LIMIT).read() == LARGE[:500]

    def test_reader_holds_the_server_back(self, secured: Secured) -> None:
        sent: list[int] = []
        stuck = Gate("stuck")

        def handle(conn: Conn) -> None:
            conn.read_request()
            conn.send(head_of(32 * MEBI))
            for number in range(128):
                conn.send(bytes(MEBI // 4))
                sent.append(number)

        session, _, url = secured(handle)
        request = session.request(url)
        request.on("response", lambda response: stuck.set())
        response = request.end().get_response(LIMIT)
        stuck.wait()
        assert response.read(1000) == bytes(1000)
        # The buffers of the kernel on the way hold some MiB, and no more.
        assert len(sent) < 120
        assert len(response.read()) == 32 * MEBI - 1000

    @pytest.mark.parametrize("kind", ["close", "keep_reading", "half_close", "stop_reading"])
    def test_early_answer(self, secured: Secured, kind: str) -> None:
        # The proxy does not hand on how the client left, which over TLS is an error to the server.
        session, _, url = secured(early_answer(kind, after=200_000), expect_errors=True)
        request = session.request(url, method="POST", chunked_encoding=True)
        recorder = Recorder(request, consume=True)
        upload_until_answered(request)
        recorder.wait("close")
        assert recorder.response.status_code == 413
        assert bytes(recorder.body) == b"too much\n"
        recorder.check_grammar(early_answer=True)

    def test_both_ways_at_once(self, secured: Secured) -> None:
        """Interim answers come while the body goes up."""

        def handle(conn: Conn) -> None:
            request = conn.read_request(body=False)
            length = told = 0
            while chunk := conn.read_chunk():
                length += len(chunk)
                if told < 5:
                    told += 1
                    conn.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            conn.respond(body=json.dumps({"length": length, "target": request.target}).encode())

        session, _, url = secured(handle)
        request = session.request(url, method="POST", chunked_encoding=True)
        told: list[int] = []
        request.on("information", lambda status, *_: told.append(status))
        for start in range(0, len(LARGE), 65536):
            request.write(LARGE[start : start + 65536])
        assert request.end().get_response(LIMIT).json()["length"] == len(LARGE)
        assert set(told) == {102}

    @pytest.mark.parametrize("notify", [True, False])
    def test_body_that_only_the_end_ends(self, secured: Secured, notify: bool) -> None:
        def handle(conn: Conn) -> None:
            conn.read_request()
            conn.send(b"HTTP/1.1 200 OK\r\n\r\nto the end")
            conn.close(notify=notify)

        session, _, url = secured(handle)
        response = ask(session, url).get_response(LIMIT)
        if notify:
            assert response.read() == b"to the end"
        else:
            with pytest.raises(TransferError) as raised:
                response.read()
            assert raised.value.code == "ERR_CONNECTION_CLOSED"

    def test_reset_in_the_body(self, secured: Secured) -> None:
        session, _, url = secured(scripted(head_of(9) + b"short", Conn.reset))
        with pytest.raises(ClientRequestError) as raised:
            ask(session, url).get_response(LIMIT).read()
        assert raised.value.code in ("ERR_CONNECTION_RESET", "ERR_CONTENT_LENGTH_MISMATCH", "ERR_CONNECTION_CLOSED")

    def test_stale_connection_is_made_anew(self, secured: Secured) -> None:
        session, _, url = secured(dying_at_the_second(), expect_errors=True)
        assert [fetch(session, url)["connection"] for _ in range(2)] == [1, 2]

    def test_proxy_that_does_not_speak_tls(self, through: Through) -> None:
        def handle(conn: Conn) -> None:
            conn.recv_some()
            conn.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        with Peer(handle) as proxy:
            for target in ("http://origin.example/", "https://origin.example/"):
                error = failure(ask(through(f"https://127.0.0.1:{proxy.port}"), target))
                assert isinstance(error, (TLSError, ProxyError))

    @pytest.mark.parametrize("proxy_tls", [False, True])
    def test_server_that_does_not_speak_tls(self, through: Through, proxy_tls: bool) -> None:
        handler = lambda conn: (conn.recv_some(), conn.send(b"what? " * 10))  # noqa: E731
        with HttpProxy(server_context() if proxy_tls else None) as proxy, Peer(handler) as origin:
            error = failure(ask(through(proxy), f"https://127.0.0.1:{origin.port}/"))
            assert (type(error), error.code) == (TLSError, "ERR_SSL_PROTOCOL_ERROR")

    @pytest.mark.parametrize("proxy_tls", [False, True])
    def test_tunnel_that_is_cut_in_the_handshake(self, through: Through, proxy_tls: bool) -> None:
        handler = into_tunnel(lambda conn: conn.recv_exact(10))
        with Peer(handler, server_context() if proxy_tls else None, expect_errors=True) as proxy:
            error = failure(ask(through(proxy), "https://origin.example/"))
            assert isinstance(error, (TLSError, ConnectError, TransferError))


def head_of(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length


def _read_into(request: ClientRequest) -> bytes:
    response, buffer, taken = request.end().get_response(LIMIT), bytearray(33_333), bytearray()
    while count := response.readinto(buffer):
        taken += buffer[:count]
    return finished(request, bytes(taken))


def finished(request: ClientRequest, body: bytes) -> bytes:
    assert request.wait(LIMIT)
    return body


def _by_events(request: ClientRequest) -> bytes:
    recorder = Recorder(request, consume=True)
    request.end()
    recorder.wait("close", timeout=3 * LIMIT)
    recorder.check_grammar()
    return bytes(recorder.body)


def _by_paused_events(request: ClientRequest) -> bytes:
    counter = itertools.count()

    def pause_now_and_then(response: IncomingMessage) -> None:
        @response.on("data")
        def pause(piece: bytes) -> None:
            if next(counter) % 10 == 0:
                response.pause()
                threading.Thread(target=response.resume).start()

    request.on("response", pause_now_and_then)
    return _by_events(request)


def _reading(read: Callable[[IncomingMessage], bytes]) -> Callable[[ClientRequest], bytes]:
    return lambda request: finished(request, read(request.end().get_response(LIMIT)))


READERS: dict[str, Callable[[ClientRequest], bytes]] = {
    "read": _reading(lambda response: response.read()),
    "read1": _reading(lambda response: b"".join(iter(lambda: response.read1(10_000), b""))),
    "readinto": _read_into,
    "iter_chunks": _reading(lambda response: b"".join(response.iter_chunks())),
    "data": _by_events,
    "paused data": _by_paused_events,
}


# --- SOCKS ---


class TestSocks:
    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.parametrize(
        ("scheme", "asked", "version"),
        [
            ("socks5", ("ipv4", "127.0.0.1"), 5),
            ("socks5h", ("name", "origin.example"), 5),
            ("socks4", ("ipv4", "127.0.0.1"), 4),
            ("socks4a", ("name", "origin.example"), 4),
        ],
    )
    def test_who_looks_the_name_up(
        self,
        through: Through,
        monkeypatch: pytest.MonkeyPatch,
        scheme: str,
        asked: tuple[str, str],
        version: int,
        tls: bool,
    ) -> None:
        looked_up = name_of_this_machine(monkeypatch, "origin.example")
        context = server_context("origin.example") if tls else None
        with SocksProxy() as proxy, Peer(echo_json, context) as origin:
            proxy.routes["origin.example"] = origin.port
            session = through(proxy.address(scheme))
            url = origin.url("/x", host="origin.example")
            answers = [fetch(session, url) for _ in range(2)]
            assert [answer["connection"] for answer in answers] == [1, 1]
            assert answers[0]["target"] == "/x"
            assert header(answers[0], "host") == f"origin.example:{origin.port}"
            assert proxy.asked == [(*asked, origin.port)]
            assert proxy.versions == [version]
        assert bool(looked_up) == (asked[0] != "name")

    @needs_ipv6
    @pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
    @pytest.mark.parametrize("tls", [False, True])
    def test_ipv6(self, through: Through, scheme: str, tls: bool) -> None:
        with Peer(echo_json, server_context() if tls else None, host="::1") as origin, SocksProxy() as proxy:
            assert fetch(through(proxy.address(scheme)), origin.url("/x"))["target"] == "/x"
            assert proxy.asked == [("ipv6", "::1", origin.port)]

    def test_ipv6_is_unknown_to_socks4(self, through: Through) -> None:
        with SocksProxy() as proxy:
            error = failure(ask(through(proxy.address("socks4")), "http://[::1]:9/"))
            assert isinstance(error, ProxyError)
            assert not proxy.asked

    @pytest.mark.parametrize("scheme", ["socks4a", "socks5h"])
    def test_ipv4_stays_an_address(self, through: Through, scheme: str) -> None:
        with Peer(echo_json) as origin, SocksProxy() as proxy:
            fetch(through(proxy.address(scheme)), origin.url("/"))
            assert proxy.asked == [("ipv4", "127.0.0.1", origin.port)]

    @pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
    def test_login(self, through: Through, scheme: str) -> None:
        with Peer(echo_json) as origin, SocksProxy(login=("us er", "p:w@")) as proxy:
            fetch(through(proxy.address(scheme, "us%20er:p%3Aw%40")), origin.url("/"))
            assert proxy.told == [("us er", "p:w@")]

    def test_login_that_is_not_wanted_is_not_sent(self, through: Through) -> None:
        with Peer(echo_json) as origin, SocksProxy() as proxy:
            fetch(through(proxy.address("socks5", f"{USER}:{SECRET}")), origin.url("/"))
            assert proxy.told == []
            assert 0 in proxy.offered[0]

    def test_user_name_of_socks4(self, through: Through) -> None:
        with Peer(echo_json) as origin, SocksProxy(login=(USER, "")) as proxy:
            fetch(through(proxy.address("socks4a", USER)), origin.url("/"))
            assert proxy.told == [(USER, "")]

    @pytest.mark.parametrize("login", ["", f"{USER}:wrong-{SECRET}"])
    def test_wrong_login(self, through: Through, login: str) -> None:
        with SocksProxy(login=(USER, SECRET)) as proxy:
            error = failure(ask(through(proxy.address("socks5h", login)), "http://origin.example/"))
            assert isinstance(error, ProxyError)
            assert f":{proxy.port}" in str(error)
            assert not proxy.asked

    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.parametrize(
        ("scheme", "refusal"), [*(("socks5h", code) for code in (*range(1, 9), 0x99)), ("socks4a", 0x5B)]
    )
    def test_refusal(self, through: Through, scheme: str, refusal: int, tls: bool) -> None:
        with SocksProxy(refuse=refusal) as proxy:
            url = f"{'https' if tls else 'http'}://origin.example/"
            error = failure(ask(through(proxy.address(scheme, f"{USER}:{SECRET}")), url))
            assert isinstance(error, ProxyError)
            assert error.code == "ERR_SOCKS_CONNECTION_FAILED"
            assert len(proxy.asked) == 1

    @pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
    @pytest.mark.parametrize("said", [b"", b"\x05", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100])
    def test_nonsense(self, through: Through, scheme: str, said: bytes) -> None:
        def handle(conn: Conn) -> None:
            conn.recv_some()
            conn.send(said)

        with Peer(handle) as proxy:
            error = failure(ask(through(f"{scheme}://127.0.0.1:{proxy.port}"), "http://127.0.0.1:9/"))
            assert isinstance(error, ProxyError)

    @pytest.mark.parametrize("scheme", ["socks4", "socks5"])
    def test_name_that_does_not_exist(self, through: Through, scheme: str) -> None:
        with SocksProxy() as proxy:
            error = failure(ask(through(proxy.address(scheme)), "http://nowhere.invalid/"))
            assert isinstance(error, ConnectError)
            assert error.code == "ERR_NAME_NOT_RESOLVED"
            assert "nowhere.invalid" in str(error)
            assert not proxy.asked

    @pytest.mark.parametrize("way", ["buffered", "chunked", "known"])
    @pytest.mark.parametrize("tls", [False, True])
    def test_large_body_goes_both_ways(self, through: Through, way: str, tls: bool) -> None:
        def handle(conn: Conn) -> None:
            conn.respond(body=conn.read_request().body)

        with Peer(handle, server_context() if tls else None) as origin, SocksProxy() as proxy:
            session = through(proxy.address("socks5"))
            request = session.request(origin.url("/"), method="POST", **framing(way, len(LARGE)))
            request.write(LARGE)
            assert request.end().get_response(LIMIT).read() == LARGE

    def test_407_of_the_server_is_simply_the_response(self, through: Through) -> None:
        with Peer(lambda conn: wants(RIGHT)(conn, conn.read_request())) as origin, SocksProxy() as proxy:
            check_407_is_the_response(through(proxy.address("socks5", f"{USER}:{SECRET}")), origin)

    def test_without_the_extra_a_session_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_session, "socks_available", lambda: False)
        with pytest.raises(ValueError, match=r"clientrequest\[socks\]"):
            Session(proxies={"http": "socks5://proxy"})
        Session(proxies={"http": "http://proxy"}).close()

    def test_without_the_extra_the_environment_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_socks, "_socks", lambda: None)
        with SocksProxy() as proxy, Session() as session:
            monkeypatch.setenv("all_proxy", proxy.address("socks5"))
            error = failure(ask(session, "http://origin.example/"))
            assert isinstance(error, ProxyError)
            assert "clientrequest[socks]" in str(error)


def name_of_this_machine(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Have ``name`` lead here, and tell who looks it up."""
    look_up, looked_up = socket.getaddrinfo, []

    def watched(host: Any, port: Any, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if host == name and not flags & socket.AI_NUMERICHOST:
            looked_up.append(host)
            host = "127.0.0.1"
        return look_up(host, port, family, kind, proto, flags)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    return looked_up


def check_407_is_the_response(session: Session, origin: Peer) -> None:
    request = session.request(origin.url("/"))
    asked: list[Any] = []
    request.on("login", lambda *args: asked.append(args))
    response = request.end().get_response(LIMIT)
    assert (response.status_code, response.read()) == (407, b"who?")
    assert request.wait(LIMIT)
    assert not asked
    assert all(RIGHT.encode() not in one.head for one in origin.requests)


# --- logins at a proxy ---


class Site(NamedTuple):
    """A server, and the proxy before it."""

    session: Session
    proxy: HttpProxy
    origin: Peer

    @property
    def url(self) -> str:
        return self.origin.url("/x")

    def info(self, scheme: str = "basic", realm: str = "proxy") -> AuthInfo:
        return AuthInfo(True, scheme, "127.0.0.1", self.proxy.port, realm)

    def logins(self) -> list[Optional[str]]:
        """What the proxy was told, request by request."""
        return [request.header("proxy-authorization") for request in self.proxy.requests]


MakeSite = Callable[..., Site]


@pytest.fixture(params=["forwarded", "tunnel", "tls forwarded", "tls in tls"])
def site(request: pytest.FixtureRequest, through: Through) -> Iterator[MakeSite]:
    """Starts a server behind a proxy with a door; http and https, the proxy plain and over TLS."""
    kind = request.param
    with ExitStack() as stack:

        def make(door: Door, *, login: str = "", handler: Handler = echo_json, **options: Any) -> Site:
            origin_tls = server_context() if kind in ("tunnel", "tls in tls") else None
            proxy_tls = server_context() if kind.startswith("tls") else None
            # The origin is left first: a proxy may wait for its answer.
            proxy = stack.enter_context(HttpProxy(proxy_tls, door=door))
            origin = stack.enter_context(Peer(handler, origin_tls))
            return Site(through(proxy.address("", login), **options), proxy, origin)

        yield make


def is_tunnel(site: Site) -> bool:
    return site.origin.tls is not None


class TestLogin:
    @pytest.mark.parametrize("close", [False, True])
    def test_is_asked_for_and_sent(self, site: MakeSite, close: bool) -> None:
        one = site(wants(RIGHT, close=close))
        request = one.session.request(one.url)
        recorder = Recorder(request, consume=True, skip=("login",))
        told: list[AuthInfo] = []
        request.on("login", lambda info, callback: (told.append(info), callback(USER, SECRET)))
        request.end()
        recorder.wait("close")
        recorder.check_grammar()
        assert told == [one.info()]
        assert one.logins() == [None, RIGHT]
        assert header(json.loads(bytes(recorder.body)), "proxy-authorization") is None
        assert len(one.proxy.connections) == (2 if close else 1)

    @pytest.mark.parametrize("close", [False, True])
    def test_wrong_then_right(self, site: MakeSite, close: bool) -> None:
        one = site(wants(RIGHT, close=close))
        request = one.session.request(one.url)
        assert answer_logins(request, ("a", "b"), ("c", "d"), (USER, SECRET)).status_code == 200
        assert one.logins() == [None, basic("a", "b"), basic("c", "d"), RIGHT]

    @pytest.mark.parametrize("close", [False, True])
    def test_is_asked_for_five_times_at_most(self, site: MakeSite, close: bool) -> None:
        one = site(wants(RIGHT, close=close))
        request = one.session.request(one.url)
        asked: list[Any] = []
        request.on("login", lambda info, callback: (asked.append(info), callback("a", "b")))
        request.end()
        if is_tunnel(one):
            check_refused(failure(request))
        else:
            assert request.get_response(LIMIT).status_code == 407
        assert len(asked) == 5

    @pytest.mark.parametrize("close", [False, True])
    def test_cancelled(self, site: MakeSite, close: bool) -> None:
        one = site(wants(RIGHT, close=close))
        request = one.session.request(one.url)
        recorder = Recorder(request, consume=True, skip=("login",))
        request.on("login", hand_over("", ""))
        request.end()
        recorder.wait("close")
        recorder.check_grammar()
        if is_tunnel(one):
            check_refused(failure(request))
            assert recorder.names() == ["error", "close"]
        else:
            assert recorder.response.status_code == 407
            assert bytes(recorder.body) == b"who?"
            (event,) = recorder.find("error", "response")
            assert event.args[0].code == "ERR_INVALID_AUTH_CREDENTIALS"
        assert one.logins() == [None]
        assert not one.origin.connections

    @pytest.mark.parametrize(
        ("challenges", "listens"),
        [(['Basic realm="proxy"'], False), (["Unknown x=y"], False), (["Unknown x=y"], True), ([], True)],
    )
    def test_nobody_to_ask_or_nothing_to_say(self, site: MakeSite, challenges: list[str], listens: bool) -> None:
        one = site(wants(RIGHT, challenges=challenges))
        request = one.session.request(one.url)
        if listens:
            request.on("login", lambda *_: pytest.fail("asked"))
        request.end()
        if is_tunnel(one):
            check_refused(failure(request))
        else:
            response = request.get_response(LIMIT)
            assert (response.status_code, response.read()) == (407, b"who?")
            assert request.wait(LIMIT)
            assert response.error is None
        assert not one.origin.connections

    @pytest.mark.parametrize("close", [False, True])
    def test_answered_later_from_another_thread(self, site: MakeSite, close: bool) -> None:
        one = site(wants(RIGHT, close=close))
        request = one.session.request(one.url)
        asked = Gate("asked")
        answers: list[Callable[..., None]] = []
        request.on("login", lambda info, callback: (answers.append(callback), asked.set()))
        request.end()
        asked.wait()
        assert not request.wait(0.01)
        answers.pop()(USER, SECRET)
        assert request.get_response(LIMIT).json()["target"] == "/x"
        assert one.logins() == [None, RIGHT]

    def test_url_of_the_proxy_answers_the_first_challenge(self, site: MakeSite) -> None:
        one = site(wants(RIGHT), login=f"{USER}:{SECRET}")
        request = one.session.request(one.url)
        request.on("login", lambda *_: pytest.fail("asked"))
        assert header(request.end().get_response(LIMIT).json(), "authorization") is None
        assert request.wait(LIMIT)
        assert one.logins() == [None, RIGHT]

    def test_wrong_login_in_the_url_of_the_proxy_is_asked_about(self, site: MakeSite) -> None:
        one = site(wants(RIGHT), login="a:b")
        assert answer_logins(one.session.request(one.url)).status_code == 200
        assert one.logins() == [None, basic("a", "b"), RIGHT]

    def test_accepted_one_goes_with_the_next_request_unasked(self, site: MakeSite) -> None:
        one = site(wants(RIGHT), handler=closing_json)
        assert answer_logins(one.session.request(one.url)).status_code == 200
        assert fetch(one.session, one.url)["target"] == "/x"
        assert one.logins() == [None, RIGHT, RIGHT]

    def test_cleared_one_is_asked_for_again(self, site: MakeSite) -> None:
        one = site(wants(RIGHT))
        for _ in range(2):
            assert answer_logins(one.session.request(one.url)).status_code == 200
            one.session.clear_auth_cache()
        assert one.logins() == [None, RIGHT, None, RIGHT]

    def test_of_one_proxy_does_not_go_to_another(self, through: Through) -> None:
        with ExitStack() as stack:
            one, other = (stack.enter_context(HttpProxy(door=wants(RIGHT))) for _ in range(2))
            plain, secure = (stack.enter_context(Peer(echo_json, tls)) for tls in (None, server_context()))
            session = through("", proxies={"http": one.address(), "https": other.address()})
            assert answer_logins(session.request(plain.url("/"))).status_code == 200
            check_refused(failure(ask(session, secure.url("/"))))
            assert [request.header("proxy-authorization") for request in other.requests] == [None]

    def test_both_proxy_and_server_want_one(self, site: MakeSite) -> None:
        one = site(wants(RIGHT), handler=asking_server(basic("bob", "server")))
        request = one.session.request(one.url)
        told: list[AuthInfo] = []

        @request.on("login")
        def answer(info: AuthInfo, callback: Callable[[str, str], None]) -> None:
            told.append(info)
            callback(*((USER, SECRET) if info.is_proxy else ("bob", "server")))

        assert request.end().get_response(LIMIT).read() == b"welcome"
        assert request.wait(LIMIT)
        assert told == [one.info(), AuthInfo(False, "basic", "127.0.0.1", one.origin.port, "server")]
        assert [one.header("authorization") for one in one.origin.requests] == [None, basic("bob", "server")]
        assert all(one.header("proxy-authorization") is None for one in one.origin.requests)
        assert ask(one.session, one.url).get_response(LIMIT).read() == b"welcome"

    @pytest.mark.parametrize(
        "challenges",
        [
            ["Unknown x=y", 'Basic realm="proxy"'],
            ['Unknown x=y, Basic realm="proxy"'],
            ['Basic realm="proxy"', "Digest nonce=x, algorithm=SHA-1, realm=other"],
        ],
    )
    def test_several_challenges(self, site: MakeSite, challenges: list[str]) -> None:
        one = site(wants(RIGHT, challenges=challenges))
        assert answer_logins(one.session.request(one.url)).status_code == 200
        assert one.logins() == [None, RIGHT]

    def test_credentials_omit_asks_nobody(self, site: MakeSite) -> None:
        one = site(wants(RIGHT))
        request = one.session.request(one.url, credentials="omit")
        request.on("login", lambda *_: pytest.fail("asked"))
        request.end()
        if is_tunnel(one):
            check_refused(failure(request))
        else:
            assert request.get_response(LIMIT).status_code == 407

    def test_credentials_omit_does_not_concern_the_url_of_the_proxy(self, site: MakeSite) -> None:
        one = site(wants(RIGHT), login=f"{USER}:{SECRET}")
        assert fetch(one.session, one.url, credentials="omit")["target"] == "/x"
        assert one.logins() == [None, RIGHT]

    @pytest.mark.parametrize("way", ["buffered", "chunked", "known"])
    def test_body_is_sent_again(self, site: MakeSite, way: str) -> None:
        one = site(wants(RIGHT))
        request = one.session.request(one.url, method="POST", **framing(way, 8))
        request.on("login", hand_over())
        request.write(b"some")
        answer = request.end(b"body").get_response(LIMIT).json()
        assert answer["sha256"] == hashlib.sha256(b"somebody").hexdigest()

    def test_streamed_body_beyond_the_limit(self, site: MakeSite) -> None:
        one = site(wants(RIGHT))
        request = one.session.request(one.url, method="POST", chunked_encoding=True, replay_limit=10)
        request.on("login", hand_over())
        request.end(b"more than ten bytes")
        if is_tunnel(one):
            assert request.get_response(LIMIT).json()["length"] == 19  # nothing was sent before the tunnel was there
        else:
            error = failure(request)
            assert isinstance(error, RedirectError)
            assert error.code == "ERR_UPLOAD_STREAM_REWIND_NOT_SUPPORTED"

    @pytest.mark.parametrize(("size", "connections"), [(0, 1), (20_000, 1), (200_000, 2)])
    def test_body_of_the_refusal_is_drained(self, site: MakeSite, size: int, connections: int) -> None:
        one = site(wants(RIGHT, body=bytes(size)))
        assert answer_logins(one.session.request(one.url)).status_code == 200
        assert len(one.proxy.connections) == connections

    def test_chunked_body_of_the_refusal_is_drained(self, site: MakeSite) -> None:
        def door(conn: Conn, request: Request) -> bool:
            if request.header("proxy-authorization") == RIGHT:
                return True
            conn.respond(407, {"Proxy-Authenticate": "Basic realm=proxy"}, [b"who", b"are", b"you?"], chunked=True)
            return False

        one = site(door)
        assert answer_logins(one.session.request(one.url)).status_code == 200
        assert len(one.proxy.connections) == 1

    @pytest.mark.parametrize("how", ["close", "reset"])
    def test_connection_that_ends_while_somebody_thinks(self, site: MakeSite, how: str) -> None:
        """The answer said nothing of that: a proxy need not keep what is idle."""
        one = site(wants(RIGHT))
        request = one.session.request(one.url)

        @request.on("login")
        def think(info: AuthInfo, callback: Callable[[str, str], None]) -> None:
            getattr(one.proxy.connections[0], how)()
            callback(USER, SECRET)

        assert request.end().get_response(LIMIT).json()["target"] == "/x"
        assert one.logins() == [None, RIGHT]

    def test_connection_that_ends_with_the_second_request(self, site: MakeSite) -> None:
        def door(conn: Conn, request: Request) -> bool:
            if conn.number > 1 and request.header("proxy-authorization") == RIGHT:
                return True
            if len(conn.requests) > 1:
                conn.close()
                return False
            return wants(RIGHT)(conn, request)

        one = site(door)
        assert answer_logins(one.session.request(one.url)).status_code == 200

    def test_connections_that_were_given_up_are_forgotten(self, site: MakeSite) -> None:
        """What an abort would shut is the one connection in use, never one of a try before."""
        one = site(wants(RIGHT, close=True))
        request = one.session.request(one.url)
        exposed: list[int] = []

        def look(response: IncomingMessage) -> None:
            exposed.append(len(request._exchange._exposed))

        request.on("response", look)
        assert answer_logins(request, ("a", "b"), (USER, SECRET)).status_code == 200
        assert exposed in ([0], [1])  # 0: the body was here already, and the connection is idle

    def test_name_that_basic_cannot_send_is_an_error_where_it_is_told(self, site: MakeSite) -> None:
        one = site(wants(RIGHT))
        request = one.session.request(one.url)
        raised: list[BaseException] = []

        @request.on("login")
        def answer(info: AuthInfo, callback: Callable[[str, str], None]) -> None:
            try:
                callback("a\nb", SECRET)
            except ValueError as error:
                raised.append(error)
            callback(USER, SECRET)

        assert request.end().get_response(LIMIT).json()["target"] == "/x"
        assert len(raised) == 1

    def test_time_of_thinking_is_not_time_of_connecting(self, site: MakeSite) -> None:
        one = site(wants(RIGHT), timeout=Timeout(connect=0.3))
        request = one.session.request(one.url)
        recorder = Recorder(request)
        request.end()
        callback = recorder.wait("login").args[1]
        assert not request.wait(0.4)
        callback(USER, SECRET)
        assert request.get_response(LIMIT).json()["target"] == "/x"

    def test_waiting_for_it_is_bounded_by_the_total_timeout(self, site: MakeSite) -> None:
        one = site(wants(RIGHT))
        request = one.session.request(one.url, timeout=Timeout(total=0.3))
        kept: list[Any] = []
        request.on("login", lambda *args: kept.append(args))
        error = failure(request.end())
        assert (type(error), error.code) == (RequestTimeout, "ERR_TIMED_OUT")

    def test_407_of_a_server_behind_a_tunnel_is_simply_the_response(self, through: Through) -> None:
        handler = lambda conn: wants(RIGHT)(conn, conn.read_request())  # noqa: E731
        with Peer(handler, server_context()) as origin, HttpProxy(door=wants(RIGHT)) as proxy:
            session = through(proxy.address("", f"{USER}:{SECRET}"))
            check_407_is_the_response(session, origin)

    def test_401_to_connect_asks_nobody(self, through: Through) -> None:
        def door(conn: Conn, request: Request) -> bool:
            conn.respond(401, {"WWW-Authenticate": "Basic realm=x"}, b"who?")
            return False

        with HttpProxy(door=door) as proxy:
            request = through(proxy).request("https://origin.example/")
            request.on("login", lambda *_: pytest.fail("asked"))
            check_refused(failure(request.end()))

    def test_many_threads_log_in_at_once(self, site: MakeSite) -> None:
        one = site(wants(RIGHT), login=f"{USER}:{SECRET}")
        answers: list[Any] = []
        in_threads(8, lambda _: answers.append(fetch(one.session, one.url)["target"]))
        assert answers == ["/x"] * 8


def closing_json(conn: Conn) -> None:
    """As ``echo_json``, for one request on each connection."""
    request = conn.read_request()
    answer = {"target": request.target, "headers": request.headers, "connection": conn.number}
    conn.respond(body=json.dumps(answer).encode(), close=True)


def check_refused(error: ClientRequestError) -> None:
    assert isinstance(error, ProxyError)
    assert error.code == "ERR_TUNNEL_CONNECTION_FAILED"


# --- Digest at a proxy ---


class DigestDoor:
    """Lets those pass whose response is what RFC 7616 says; reckoned here with nothing but hash functions."""

    def __init__(self, algorithm: str = "MD5", qop: str = "auth") -> None:
        self.nonce = "first"
        self.uris: list[str] = []
        self.counts: list[str] = []
        self._algorithm = algorithm
        self._qop = qop

    def __call__(self, conn: Conn, request: Request) -> bool:
        sent = request.header("proxy-authorization") or ""
        fields = dict(re.findall(r'(\w+)="?([^",]*)"?', sent.partition(" ")[2]))
        if fields.get("nonce") == self.nonce and fields.get("response") == self._expected(request, fields):
            self.uris.append(fields["uri"])
            self.counts.append(fields["nc"])
            return True
        stale = ", stale=true" if fields and fields["nonce"] != self.nonce else ""
        challenge = f'Digest realm="proxy", nonce="{self.nonce}", qop="{self._qop}", algorithm={self._algorithm}{stale}'
        conn.respond(407, {"Proxy-Authenticate": challenge}, b"who?")
        return False

    def _expected(self, request: Request, fields: dict[str, str]) -> str:
        def hashed(text: Union[str, bytes]) -> str:
            data = text.encode() if isinstance(text, str) else text
            return hashlib.new(self._algorithm.replace("-", "").lower(), data).hexdigest()

        # Over what is in the request line, not over what the client says it is.
        assert fields["uri"] == request.target
        assert fields["username"] == USER
        second = f"{request.method}:{request.target}"
        if self._qop == "auth-int":
            second += ":" + hashed(request.body)
        parts = (hashed(f"{USER}:proxy:{SECRET}"), fields["nonce"], fields["nc"], fields["cnonce"], fields["qop"])
        return hashed(":".join([*parts, hashed(second)]))


class TestDigest:
    @pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
    def test_is_about_what_is_in_the_request_line(self, site: MakeSite, algorithm: str) -> None:
        door = DigestDoor(algorithm)
        one = site(door)
        request = one.session.request(one.url + "?a=b&c")
        told: list[AuthInfo] = []
        request.on("login", lambda info, callback: (told.append(info), callback(USER, SECRET)))
        assert request.end().get_response(LIMIT).json()["target"] == "/x?a=b&c"
        assert told == [one.info("digest")]
        authority = f"127.0.0.1:{one.origin.port}"
        assert door.uris == [authority if is_tunnel(one) else f"http://{authority}/x?a=b&c"]

    def test_is_used_again_and_counts(self, site: MakeSite) -> None:
        door = DigestDoor()
        one = site(door, login=f"{USER}:{SECRET}", handler=closing_json)
        for _ in range(3):
            assert fetch(one.session, one.url)["target"] == "/x"
        assert door.counts == ["00000001", "00000002", "00000003"]

    def test_stale_nonce_is_replaced_silently(self, site: MakeSite) -> None:
        door = DigestDoor()
        one = site(door, login=f"{USER}:{SECRET}", handler=closing_json)
        for nonce in ("first", "second"):
            door.nonce = nonce
            request = one.session.request(one.url)
            request.on("login", lambda *_: pytest.fail("asked"))
            assert request.end().get_response(LIMIT).json()["target"] == "/x"
            assert request.wait(LIMIT)
        assert len(door.uris) == 2

    def test_body_is_hashed_where_that_is_asked_for(self, site: MakeSite) -> None:
        one = site(DigestDoor(qop="auth-int"), login=f"{USER}:{SECRET}")
        assert fetch(one.session, one.url, b"body", method="POST")["length"] == 4

    def test_strongest_of_several_lines(self, site: MakeSite) -> None:
        lines = ['Basic realm="weak"', 'Digest realm="strong", nonce="n", qop="auth", algorithm=SHA-256']
        one = site(wants("nothing", challenges=lines))
        request = one.session.request(one.url)
        told: list[AuthInfo] = []
        request.on("login", lambda info, callback: (told.append(info), callback("", "")))
        request.end()
        with pytest.raises(ProxyError) if is_tunnel(one) else nullcontext():
            request.wait(LIMIT)
        assert told == [one.info("digest", "strong")]


# --- what else a proxy may say to CONNECT ---


def answer_connect(said: bytes) -> Handler:
    def handle(conn: Conn) -> None:
        conn.read_request()
        conn.send(said)

    return handle


class TestAnswerToConnect:
    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.parametrize(
        ("said", "codes"),
        [
            (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!\n", "ERR_TUNNEL_CONNECTION_FAILED"),
            (b"HTTP/1.1 502 Bad Gateway\r\n\r\nno way", "ERR_TUNNEL_CONNECTION_FAILED"),
            (b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\n\r\n", "ERR_TUNNEL_CONNECTION_FAILED"),
            (b"HTTP/1.1 407 Who\r\n\r\n", "ERR_TUNNEL_CONNECTION_FAILED"),
            (b"HTTP/1.1 304 Not Modified\r\n\r\n", "ERR_TUNNEL_CONNECTION_FAILED"),
            (ESTABLISHED + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "ERR_TUNNEL_CONNECTION_FAILED"),
            (b"", "ERR_TUNNEL_CONNECTION_FAILED"),
            (b"HTTP/1.1 200 Connec", "ERR_TUNNEL_CONNECTION_FAILED ERR_RESPONSE_HEADERS_TRUNCATED"),
            (b"HTTP/1.1 100 Continue\r\n\r\n", "ERR_TUNNEL_CONNECTION_FAILED"),
            (b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, "ERR_TUNNEL_CONNECTION_FAILED"),
            (b"nonsense\r\n\r\n", "ERR_TUNNEL_CONNECTION_FAILED ERR_INVALID_HTTP_RESPONSE"),
            (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "ERR_TUNNEL_CONNECTION_FAILED ERR_INVALID_HTTP_RESPONSE"),
            (
                b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2_000_000,
                "ERR_TUNNEL_CONNECTION_FAILED ERR_RESPONSE_HEADERS_TOO_BIG",
            ),
            (b"\x15\x03\x01\x00\x02\x02\x28", "ERR_TUNNEL_CONNECTION_FAILED ERR_INVALID_HTTP_RESPONSE"),
        ],
        ids=lambda value: value[:30].decode("latin-1") if isinstance(value, bytes) else "",
    )
    def test_is_an_error_and_never_the_response(self, through: Through, said: bytes, codes: str, tls: bool) -> None:
        with Peer(answer_connect(said), server_context() if tls else None, expect_errors=True) as proxy:
            request = through(proxy).request("https://origin.example/")
            recorder = Recorder(request)
            request.end()
            recorder.wait("close")
            assert recorder.names() == ["error", "close"]
            error = failure(request)
            assert error.code in codes.split()
            assert len(proxy.connections) == 1

    def test_status_is_told(self, through: Through) -> None:
        with Peer(answer_connect(b"HTTP/1.1 403 Forbidden\r\n\r\n")) as proxy:
            error = failure(ask(through(proxy), "https://origin.example/"))
            assert isinstance(error, ProxyError)
            assert "403" in str(error)
            assert "origin.example:443" in str(error)
            assert f"127.0.0.1:{proxy.port}" in str(error)

    def test_reset(self, through: Through) -> None:
        with Peer(scripted(Conn.reset)) as proxy:
            error = failure(ask(through(proxy), "https://origin.example/"))
            assert isinstance(error, ProxyError)

    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.parametrize(
        "said",
        [
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + ESTABLISHED,
            b"HTTP/1.0 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 200\r\n\r\n",
        ],
    )
    def test_any_2xx_opens_it(self, through: Through, said: bytes, tls: bool) -> None:
        def handle(conn: Conn) -> None:
            conn.read_request()
            for start in range(0, len(said), 7):
                conn.send(said[start : start + 7])
            conn.start_tls(server_context("origin.example"))
            echo_json(conn)

        with Peer(handle, server_context() if tls else None) as proxy:
            session = through(proxy)
            assert [fetch(session, "https://origin.example/x")["target"] for _ in range(2)] == ["/x", "/x"]
            assert len(proxy.connections) == 1

    @pytest.mark.parametrize(
        ("timeout", "code"),
        [
            (Timeout(connect=0.3), "ERR_CONNECTION_TIMED_OUT"),
            (Timeout(total=0.3), "ERR_TIMED_OUT"),
            (Timeout(connect=LIMIT, total=0.3), "ERR_TIMED_OUT"),
        ],
    )
    @pytest.mark.parametrize("tls", [False, True])
    def test_drip(self, through: Through, timeout: Timeout, code: str, tls: bool) -> None:
        def drip(conn: Conn) -> None:
            conn.read_request()
            conn.send(b"HTTP/1.1 200 OK\r\nX: ")
            pause = threading.Event()
            while True:
                conn.send(b"x")
                pause.wait(0.02)

        with Peer(drip, server_context() if tls else None, expect_errors=True) as proxy:
            check_timeout(through(proxy), "https://origin.example/", timeout, code)


def check_timeout(session: Session, url: str, timeout: Timeout, code: str, within: float = 3.0) -> None:
    start = time.monotonic()
    error = failure(ask(session, url, timeout=timeout))
    assert time.monotonic() - start < within
    assert (type(error), error.code) == (RequestTimeout, code)


# --- proxies that are not there, or say nothing ---


class TestUnreachable:
    @pytest.mark.parametrize("target", ["http://127.0.0.1:9/", "https://127.0.0.1:9/"])
    @pytest.mark.parametrize("scheme", ["http", "https", "socks4", "socks4a", "socks5", "socks5h"])
    def test_refused(self, through: Through, scheme: str, target: str) -> None:
        with refused_port() as port:
            error = failure(ask(through(f"{scheme}://{USER}:{SECRET}@127.0.0.1:{port}"), target))
            assert (type(error), error.code) == (ProxyError, "ERR_PROXY_CONNECTION_FAILED")
            assert f"127.0.0.1:{port}" in str(error)
            assert isinstance(error.__cause__, OSError)

    @pytest.mark.parametrize("target", ["http://127.0.0.1:9/", "https://127.0.0.1:9/"])
    @pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
    def test_name_that_does_not_exist(self, through: Through, scheme: str, target: str) -> None:
        error = failure(ask(through(f"{scheme}://{USER}:{SECRET}@proxy.invalid:1"), target))
        assert (type(error), error.code) == (ProxyError, "ERR_PROXY_CONNECTION_FAILED")
        assert "proxy.invalid" in str(error)

    @pytest.mark.parametrize("target", ["http://127.0.0.1:9/", "https://127.0.0.1:9/"])
    def test_server_behind_it(self, through: Through, target: str) -> None:
        with HttpProxy() as proxy:
            request = ask(through(proxy), target)
            if target.startswith("https"):
                check_refused(failure(request))
            else:
                assert request.get_response(LIMIT).status_code == 502

    @pytest.mark.parametrize("scheme", ["http", "https", "socks4a", "socks5"])
    @pytest.mark.parametrize("target", ["http://127.0.0.1:9/", "https://127.0.0.1:9/"])
    def test_silent_one_runs_into_the_timeout(self, through: Through, scheme: str, target: str) -> None:
        with Peer(hold) as proxy:
            session = through(f"{scheme}://127.0.0.1:{proxy.port}")
            connected = scheme == "http" and target.startswith("http:")
            limit = Timeout(read=0.3) if connected else Timeout(connect=0.3)
            check_timeout(session, target, limit, "ERR_TIMED_OUT" if connected else "ERR_CONNECTION_TIMED_OUT")
            check_timeout(session, target, Timeout(total=0.3), "ERR_TIMED_OUT")

    def test_silent_server_behind_a_tunnel_runs_into_the_connect_timeout(self, through: Through) -> None:
        for tls in (None, server_context()):
            with Peer(into_tunnel(hold), tls) as proxy:
                limit = Timeout(connect=0.3)
                check_timeout(through(proxy), "https://origin.example/", limit, "ERR_CONNECTION_TIMED_OUT")

    def test_connection_that_is_never_made(self, through: Through) -> None:
        with blackhole() as port:
            for scheme in ("http", "https", "socks5"):
                session = through(f"{scheme}://127.0.0.1:{port}")
                limit = Timeout(connect=0.2)
                check_timeout(session, "https://origin.example/", limit, "ERR_CONNECTION_TIMED_OUT")


# --- abort ---


class Phase(NamedTuple):
    """Where a request is when it is aborted: who it talks to, and how one knows that it is there."""

    start: Callable[[ExitStack], tuple[str, Callable[[], object]]]
    """Gives the proxy's URL, and what waits until the request is there."""
    url: str = "https://origin.example/"
    method: str = "GET"


def _peer_phase(handler: Handler, tls: bool = False, scheme: str = "") -> Callable[[ExitStack], Any]:
    """Reached when the proxy has got something; the handler stays where it is then."""
    there = Gate("there")

    def start(stack: ExitStack) -> tuple[str, Callable[[], object]]:
        peer = stack.enter_context(Peer(lambda conn: handler(conn, there), server_context() if tls else None))  # type: ignore[call-arg]
        return (f"{scheme}://127.0.0.1:{peer.port}" if scheme else peer.url()), there.wait

    return start


def _stay(conn: Conn, there: Gate) -> None:
    conn._buffer += conn.recv_some()
    there.set()
    conn.hold()


def _stay_after_request(conn: Conn, there: Gate) -> None:
    conn.read_request()
    there.set()
    conn.hold()


def _stay_in_tunnel(conn: Conn, there: Gate) -> None:
    conn.read_request()
    conn.send(ESTABLISHED)
    _stay(conn, there)


def _stay_after_tunneled(*said: bytes) -> Callable[[Conn, Gate], None]:
    def handle(conn: Conn, there: Gate) -> None:
        conn.read_request()
        conn.send(ESTABLISHED)
        conn.start_tls(server_context("origin.example"))
        conn.read_request(body=False)
        for piece in said:
            conn.send(piece)
        there.set()
        conn.hold()

    return handle


def _connecting(stack: ExitStack) -> tuple[str, Callable[[], object]]:
    return f"http://127.0.0.1:{stack.enter_context(blackhole())}", lambda: None


def _socks_phase(stop_at: str, scheme: str = "socks5h") -> Callable[[ExitStack], Any]:
    def start(stack: ExitStack) -> tuple[str, Callable[[], object]]:
        proxy = stack.enter_context(SocksProxy(login=(USER, SECRET), stop_at=stop_at))
        return proxy.address(scheme, f"{USER}:{SECRET}"), proxy.stopped.wait

    return start


PHASES: dict[str, Callable[[], Phase]] = {
    "connecting to the proxy": lambda: Phase(_connecting),
    "TLS to the proxy, http": lambda: Phase(_peer_phase(_stay, scheme="https"), "http://origin.example/"),
    "TLS to the proxy, https": lambda: Phase(_peer_phase(_stay, scheme="https")),
    "CONNECT": lambda: Phase(_peer_phase(_stay_after_request)),
    "CONNECT over TLS": lambda: Phase(_peer_phase(_stay_after_request, tls=True)),
    "TLS in the tunnel": lambda: Phase(_peer_phase(_stay_in_tunnel)),
    "TLS in TLS": lambda: Phase(_peer_phase(_stay_in_tunnel, tls=True)),
    "answer, forwarded": lambda: Phase(_peer_phase(_stay_after_request), "http://origin.example/"),
    "answer, TLS in TLS": lambda: Phase(_peer_phase(_stay_after_tunneled(), tls=True)),
    "reading, tunnel": lambda: Phase(_peer_phase(_stay_after_tunneled(head_of(99), b"x"))),
    "reading, TLS in TLS": lambda: Phase(_peer_phase(_stay_after_tunneled(head_of(99), b"x"), tls=True)),
    "sending, tunnel": lambda: Phase(_peer_phase(_stay_after_tunneled()), method="POST"),
    "sending, TLS in TLS": lambda: Phase(_peer_phase(_stay_after_tunneled(), tls=True), method="POST"),
    "SOCKS greeting": lambda: Phase(_socks_phase("greeting")),
    "SOCKS login": lambda: Phase(_socks_phase("login")),
    "SOCKS request": lambda: Phase(_socks_phase("request")),
    "SOCKS 4 request": lambda: Phase(_socks_phase("request", "socks4a"), "http://origin.example/"),
}


@contextmanager
def begun(through: Through, phase: Phase) -> Iterator[tuple[ClientRequest, Recorder]]:
    """A request that is in that phase."""
    with ExitStack() as stack:
        url, wait = phase.start(stack)
        session = through(url)
        post = {"chunked_encoding": True, "blocking": False} if phase.method == "POST" else {}
        request = session.request(phase.url, method=phase.method, **post)
        recorder = Recorder(request, consume=True)
        if phase.method == "POST":
            request.write(b"x")
        else:
            request.end()
        wait()
        if phase.method == "POST":
            fill(request)
        yield request, recorder
        request.abort()
        assert recorder.wait("close")


def check_free(request: ClientRequest, recorder: Recorder, start: float) -> None:
    """Everything is free within the limit: the request, its worker, its sockets."""
    recorder.wait("close", timeout=FREE)
    assert request._exchange.news.wait_for(lambda: request._exchange.closed, FREE)
    assert time.monotonic() - start < FREE
    assert not request.session._pools.idle()
    assert not request.session._running


class TestAbort:
    @pytest.mark.parametrize("name", PHASES)
    def test_in_each_phase(self, through: Through, name: str) -> None:
        with begun(through, PHASES[name]()) as (request, recorder):
            start = time.monotonic()
            request.abort()
            check_free(request, recorder, start)
            assert recorder.names()[-1] == "close"
            assert "abort" in recorder.names()
            recorder.check_grammar()
            with pytest.raises(AbortedError):
                request.wait(LIMIT)

    @pytest.mark.parametrize("name", PHASES)
    def test_by_closing_the_session(self, through: Through, name: str) -> None:
        with begun(through, PHASES[name]()) as (request, recorder):
            start = time.monotonic()
            request.session.close()
            check_free(request, recorder, start)

    @pytest.mark.parametrize("name", PHASES)
    def test_frees_those_who_wait(self, through: Through, name: str) -> None:
        with begun(through, PHASES[name]()) as (request, _):
            freed: list[BaseException] = []

            def wait() -> None:
                try:
                    request.wait(LIMIT)
                except AbortedError as error:
                    freed.append(error)

            waiting = threading.Thread(target=wait)
            waiting.start()
            request.abort()
            waiting.join(FREE)
            assert len(freed) == 1

    def test_waiting_for_a_login(self, site: MakeSite) -> None:
        one = site(wants(RIGHT))
        request = one.session.request(one.url)
        recorder = Recorder(request)
        request.end()
        callback = recorder.wait("login").args[1]
        start = time.monotonic()
        request.abort()
        check_free(request, recorder, start)
        callback(USER, SECRET)
        assert one.logins() == [None]

    def test_looking_up_the_proxy(self, through: Through, monkeypatch: pytest.MonkeyPatch) -> None:
        asked, answer = Gate("asked"), Gate("answer")
        look_up = socket.getaddrinfo

        def hangs(host: Any, *args: Any) -> Any:
            if host != "slow.example" or args[-1] & socket.AI_NUMERICHOST:
                return look_up(host, *args)
            asked.set()
            answer.wait()
            raise socket.gaierror("too late")

        monkeypatch.setattr(socket, "getaddrinfo", hangs)
        request = through("http://slow.example:1").request("https://origin.example/")
        recorder = Recorder(request)
        request.end()
        asked.wait()
        start = time.monotonic()
        request.abort()
        check_free(request, recorder, start)
        answer.set()

    @pytest.mark.parametrize("from_outside", [False, True], ids=["from the worker", "from outside"])
    @pytest.mark.parametrize("kind", ["http", "https", "tls http", "tls https", "socks5h http", "socks5h https"])
    def test_at_every_step(self, kind: str, from_outside: bool) -> None:
        with ExitStack() as stack:
            proxy_kind, _, scheme = kind.rpartition(" ")
            if proxy_kind == "socks5h":
                proxy: Any = stack.enter_context(SocksProxy(login=(USER, SECRET), expect_errors=True))
                address = proxy.address("socks5h", f"{USER}:{SECRET}")
            else:
                tls = server_context() if proxy_kind else None
                proxy = stack.enter_context(HttpProxy(tls, door=wants(RIGHT), expect_errors=True))
                address = proxy.address("", f"{USER}:{SECRET}")
            tls = server_context() if scheme == "https" else None
            origin = stack.enter_context(Peer(echo_json, tls, expect_errors=True))
            steps = abort_at_every_step(address, origin.url("/"), from_outside)
        assert {"pool", "connect", "send", "response"} <= set(steps)
        assert ("tunnel" in steps) == (scheme == "https" and proxy_kind != "socks5h")
        assert ("socks" in steps) == (proxy_kind == "socks5h")

    def test_at_every_step_of_a_login(self) -> None:
        for tls in (None, server_context()):
            proxy = HttpProxy(server_context(), door=wants(RIGHT, close=True), expect_errors=True)
            with proxy, Peer(echo_json, tls, expect_errors=True) as origin:
                steps = abort_at_every_step(proxy.address(), origin.url("/"), True)
                assert {"login", "await-login"} <= set(steps)


def abort_at_every_step(address: str, url: str, from_outside: bool) -> list[str]:
    """Abort a request at its first step, another at its second, and so on; gives the steps of a whole one."""
    for number in itertools.count():
        assert number < 100
        with Session(proxies={"all": address}, tls=ca_path(), max_connections_per_host=1) as session:
            trap = Trap(number, from_outside)
            request = session.request(url)
            recorder = Recorder(request, consume=True, skip=("login",))
            request.on("login", hand_over())
            with trap.set_for(request):
                request.end()
                recorder.wait("close")
            recorder.check_grammar()
            after = session.request(url)
            after.on("login", hand_over())
            assert after.end().get_response(LIMIT).json()["target"] == "/"
            assert after.wait(LIMIT)
            if not trap.sprung:
                return trap.passed
            assert "abort" in recorder.names()
        gc.collect()
    raise AssertionError


# --- which proxy ---


class TestChoice:
    def test_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Peer(echo_json) as proxy, Session() as session:
            monkeypatch.setenv("http_proxy", proxy.url())
            assert fetch(session, "http://origin.example/")["target"] == "http://origin.example/"

    def test_environment_for_https(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Peer(echo_json, server_context()) as origin, HttpProxy() as proxy, Session(tls=ca_path()) as session:
            monkeypatch.setenv("HTTPS_PROXY", proxy.address("", f"{USER}:{SECRET}"))
            fetch(session, origin.url("/"))
            assert len(proxy.tunnels) == 1

    def test_no_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Peer(echo_json) as origin, Peer(echo_json) as proxy, Session() as session:
            monkeypatch.setenv("all_proxy", proxy.url())
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            assert fetch(session, origin.url("/"))["target"] == "/"
            assert fetch(session, "http://other.example/")["target"] == "http://other.example/"

    @pytest.mark.parametrize("given", [{}, {"http": None}, {"https": "http://127.0.0.1:9"}])
    def test_what_a_session_is_given_replaces_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, given: dict[str, Optional[str]]
    ) -> None:
        with Peer(echo_json) as origin, Session(proxies=given) as session:
            monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
            assert fetch(session, origin.url("/"))["target"] == "/"

    @pytest.mark.parametrize("value", [f"gopher://{USER}:{SECRET}@proxy", f"http://{USER}:{SECRET}@[::1", "http://"])
    def test_broken_environment(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("HTTP_PROXY", value)
        with Session() as session, Peer(echo_json) as origin:
            for _ in range(2):
                request = session.request(origin.url("/"))
                recorder = Recorder(request)
                request.end()
                recorder.wait("close")
                assert recorder.names() == ["error", "close"]
                error = failure(request)
                assert (type(error), error.code) == (ProxyError, "ERR_MANDATORY_PROXY_CONFIGURATION_FAILED")
                assert "HTTP_PROXY" in str(error)
            monkeypatch.delenv("HTTP_PROXY")
            assert fetch(session, origin.url("/"))["target"] == "/"

    def test_broken_environment_with_a_limit_of_connections(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Session(max_connections_per_host=1) as session, Peer(echo_json) as origin:
            monkeypatch.setenv("http_proxy", "gopher://proxy")
            for _ in range(3):
                assert isinstance(failure(ask(session, origin.url("/"))), ProxyError)
            monkeypatch.delenv("http_proxy")
            assert fetch(session, origin.url("/"))["target"] == "/"

    def test_broken_environment_behind_a_redirect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("https_proxy", "gopher://proxy")
        with Session() as session, Peer(scripted(found("https://origin.example/"))) as origin:
            error = failure(ask(session, origin.url("/")))
            assert error.code == "ERR_MANDATORY_PROXY_CONFIGURATION_FAILED"

    @pytest.mark.parametrize(
        ("proxies", "error"),
        [
            ("http://proxy", TypeError),
            ({"http": 3128}, TypeError),
            ({"ftp": "http://proxy"}, ValueError),
            ({"http": f"gopher://{USER}:{SECRET}@proxy"}, ValueError),
            ({"http": f"http://{USER}:{SECRET}@proxy/path"}, ValueError),
            ({"all": f"http://{USER}:{SECRET}@"}, ValueError),
            ({"https": f"http://{USER}:{SECRET}@proxy:port"}, ValueError),
        ],
    )
    def test_wrong_one_is_told_at_construction(self, proxies: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="prox") as raised:
            Session(proxies=proxies)
        assert SECRET not in str(raised.value)

    def test_redirect_goes_on_through_the_proxy_of_its_origin(self, through: Through) -> None:
        with ExitStack() as stack:
            tunnels, forwards = (stack.enter_context(HttpProxy()) for _ in range(2))
            second = stack.enter_context(Peer(echo_json, server_context()))
            first = stack.enter_context(Peer(scripted(found(second.url("/there"), 307))))
            session = through("", proxies={"http": forwards.address(), "https": tunnels.address()})
            answer = fetch(session, first.url("/"), b"body", method="POST")
            assert (answer["target"], answer["length"]) == ("/there", 4)
            assert [one.target for one in forwards.requests] == [first.url("/")]
            assert [one.target for one in tunnels.requests] == [f"127.0.0.1:{second.port}"]

    def test_redirect_between_origins_of_one_proxy(self, through: Through) -> None:
        with ExitStack() as stack:
            proxy = stack.enter_context(HttpProxy(door=wants(RIGHT)))
            second = stack.enter_context(Peer(echo_json, server_context()))
            first = stack.enter_context(Peer(scripted(found(second.url("/there")))))
            request = through(proxy).request(first.url("/"))
            asked: list[Any] = []
            request.on("login", lambda info, callback: (asked.append(info), callback(USER, SECRET)))
            assert request.end().get_response(LIMIT).json()["target"] == "/there"
            assert len(asked) == 1
            assert [one.header("proxy-authorization") for one in proxy.requests] == [None, RIGHT, RIGHT]


# --- secrets ---


class TestSecrets:
    def test_are_not_shown(self, site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG")
        one = site(wants(RIGHT), login=f"{USER}:{SECRET}")
        request = one.session.request(one.url)
        assert request.end().get_response(LIMIT).json()
        assert request.wait(LIMIT)
        shown = [repr(request), repr(one.session), repr(one.session._pools._way(request._exchange.target, False).proxy)]
        assert SECRET not in " ".join([*shown, caplog.text])
        assert RIGHT[6:] not in caplog.text

    @pytest.mark.parametrize("target", ["http://origin.example/", "https://origin.example/"])
    @pytest.mark.parametrize("said", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n"])
    def test_are_not_in_errors(self, through: Through, target: str, said: bytes) -> None:
        with Peer(answer_connect(said)) as proxy:
            login = f"http://{USER}:{SECRET}@127.0.0.1:{proxy.port}"
            request = ask(through(login), target, headers={"Proxy-Authorization": RIGHT})
            if target.startswith("https") or not said.startswith(b"HTTP"):
                failure(request)
            else:
                assert request.get_response(LIMIT).status_code == 407

    def test_proxy_itself_shows_none(self) -> None:
        request = ClientRequest("https://origin.example/")
        proxies = parse_proxies({"all": f"http://{USER}:{SECRET}@proxy"})
        proxy = proxies.find(request._exchange._options.target)
        assert SECRET not in f"{proxy!r} {proxy}"


# --- sockets ---


class TestSockets:
    def test_small_packets_are_not_held_back(self, site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without TCP_NODELAY the body of a small POST would wait for the proxy to acknowledge the head."""
        one = site(lambda conn, request: True)
        fetch(one.session, one.url, b"x", method="POST")
        (connection,) = one.session._pools.idle()
        sock = connection.sock if isinstance(connection.sock, socket.socket) else connection.sock.socket
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    @pytest.mark.parametrize("scheme", ["socks5", "socks4a"])
    @pytest.mark.parametrize("tls", [False, True])
    def test_nor_over_socks(self, through: Through, scheme: str, tls: bool) -> None:
        with Peer(echo_json, server_context() if tls else None) as origin, SocksProxy() as proxy:
            session = through(proxy.address(scheme))
            fetch(session, origin.url("/"), b"x", method="POST")
            (connection,) = session._pools.idle()
            assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert connection.sock.gettimeout() == 0

    def test_session_that_is_closed_closes_them(self, site: MakeSite) -> None:
        one = site(lambda conn, request: True)
        fetch(one.session, one.url)
        before = open_sockets()
        one.session.close()
        one.proxy.connections[0].finished.wait()
        after = open_sockets()
        assert not one.session._pools.idle()
        if before is not None and after is not None:
            assert len(after) < len(before)

    def test_connections_are_closed_when_asked(self, site: MakeSite) -> None:
        one = site(lambda conn, request: True)
        fetch(one.session, one.url)
        one.session.close_connections()
        one.proxy.connections[0].finished.wait()
        fetch(one.session, one.url)
        assert len(one.proxy.connections) == 2

    def test_response_that_nobody_reads_frees_its_connection(self, site: MakeSite) -> None:
        one = site(lambda conn, request: True, handler=scripted(head_of(8 * MEBI) + LARGE))
        request = one.session.request(one.url)
        recorder = Recorder(request, skip=("response",))
        request.end()
        request.wait(LIMIT)
        recorder.wait("close")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    @pytest.mark.usefixtures(untraced_threads.__name__)
    def test_forked_child_has_its_own(self, site: MakeSite) -> None:
        one = site(lambda conn, request: True)
        first = fetch(one.session, one.url)["connection"]
        assert in_child(lambda: fetch(one.session, one.url)["connection"]) != first
        fetch(one.session, one.url)
        assert len(one.proxy.connections) == 2  # the parent's and the child's: the first was used again

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    @pytest.mark.usefixtures(untraced_threads.__name__)
    def test_forked_child_disturbs_nothing_that_runs(self, secured: Secured) -> None:
        go_on = Gate("go on")
        session, _, url = secured(scripted(head_of(2 * MEBI) + LARGE[:MEBI], go_on, LARGE[MEBI : 2 * MEBI]))
        response = session.request(url).end().get_response(LIMIT)
        start = response.read(1000)
        assert in_child(lambda: "there") == "there"
        go_on.set()
        assert start + response.read() == LARGE[: 2 * MEBI]
