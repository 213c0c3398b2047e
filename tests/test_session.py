"""Sessions: what requests share, and which of it goes along with a request.

How cookies are read, matched and filed is in `test_cookies.py`; here they go over real connections.
"""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

import clientrequest
from clientrequest import (
    AbortedError,
    ClientRequest,
    ClientRequestError,
    IncomingMessage,
    InvalidStateError,
    ProxyError,
    RequestTimeout,
    Session,
    Timeout,
    TLSError,
    default_session,
)
from clientrequest import _session as session_module
from tests.support import (
    LIMIT,
    Answer,
    Conn,
    Gate,
    Handler,
    Peer,
    Recorder,
    ca_path,
    client_certificate,
    client_context,
    demanding_context,
    echo_json,
    scripted,
    server_context,
    site,
    untrusted_context,
)
from tests.support.threads import fork_while_held, in_threads

ROOT = Path(__file__).parent.parent
SECRET = "hunter2"
WITH_COOKIES = {"use_session_cookies": True}
LASTING = "Max-Age=3600"


on_linux = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="XDG_DATA_HOME means nothing here")
posix = pytest.mark.skipif(os.name != "posix", reason="no file modes here")


# ------------------------------------------------------------------------------
# Servers and clients


def setting(*lines: str, status: int = 200, **headers: str) -> Answer:
    """An answer that sets cookies."""
    return status, [*(("Set-Cookie", line) for line in lines), *headers.items()]


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def guarded(conn: Conn) -> None:
    """Lets nobody in but Jane."""
    while True:
        request = conn.read_request()
        if request.header("authorization") == basic("jane", SECRET):
            conn.respond(200)
        else:
            conn.respond(401, {"WWW-Authenticate": 'Basic realm="here"'}, b"who are you?")


def get(session: Session, url: str, **options: Any) -> IncomingMessage:
    """The response, read to its end."""
    response = session.request(url, **options).end().get_response(LIMIT)
    response.read()
    return response


def log_in(session: Session, url: str, **options: Any) -> IncomingMessage:
    """The response to a request that Jane stands behind."""
    request = session.request(url, **options)
    request.on("login", lambda info, callback: callback("jane", SECRET))
    response = request.end().get_response(LIMIT)
    response.read()
    return response


def cookies_sent(peer: Peer) -> list[Optional[str]]:
    return [request.header("cookie") for request in peer.requests]


def names_in(jar: CookieJar) -> set[str]:
    return {cookie.name for cookie in jar}


def handmade(name: str, value: str, domain: str, *, secure: bool = False, expires: Optional[int] = None) -> Cookie:
    """A cookie as a user makes it."""
    return Cookie(
        0, name, value, None, False, domain, False, False, "/", True, secure, expires, expires is None, None, None, {}
    )


def run_program(program: str, *arguments: str, **environment: str) -> None:
    """Run a Python program of its own, in a process where any file may be made for everybody."""
    command = [sys.executable, "-c", f"import os, sys\nos.umask(0)\n{program}", *arguments]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


# ------------------------------------------------------------------------------
# Which requests have the cookies and the logins of their session

HERE, ELSEWHERE = "here", "http://elsewhere.example"

CREDENTIALS = [
    # options, whether cookies go along, whether logins do; "here" is the server's own origin
    ({}, False, True),
    ({"use_session_cookies": False}, False, True),
    ({"use_session_cookies": True}, True, True),
    ({"useSessionCookies": True}, True, True),
    ({"credentials": None, "use_session_cookies": True}, True, True),
    ({"credentials": "include"}, True, True),
    ({"credentials": "include", "use_session_cookies": False}, True, True),
    ({"credentials": "omit"}, False, False),
    ({"credentials": "omit", "use_session_cookies": True}, False, False),
    ({"credentials": "same-origin", "origin": HERE}, True, True),
    ({"credentials": "same-origin", "origin": HERE, "use_session_cookies": False}, True, True),
    ({"credentials": "same-origin", "origin": ELSEWHERE}, False, False),
    ({"credentials": "same-origin", "origin": ELSEWHERE, "use_session_cookies": True}, False, False),
    # Without `credentials`, an origin is a header and no more.
    ({"origin": ELSEWHERE}, False, True),
    ({"origin": ELSEWHERE, "use_session_cookies": True}, True, True),
]


def at(peer: Peer, options: dict[str, Any]) -> dict[str, Any]:
    own = options.get("origin") == HERE
    return {**options, "origin": f"http://127.0.0.1:{peer.port}"} if own else options


@pytest.mark.parametrize(("options", "cookies", "logins"), CREDENTIALS)
def test_who_sends_and_takes_cookies(session: Session, options: dict[str, Any], cookies: bool, logins: bool) -> None:
    with Peer(site({"/set": setting("a=1"), "/more": setting("b=2")})) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
        get(session, peer.url("/more"), **at(peer, options))
        assert cookies_sent(peer) == [None, "a=1" if cookies else None]
    assert names_in(session.cookies) == ({"a", "b"} if cookies else {"a"})


@pytest.mark.parametrize(("options", "cookies", "logins"), CREDENTIALS)
def test_who_has_the_logins_of_the_session(
    session: Session, options: dict[str, Any], cookies: bool, logins: bool
) -> None:
    with Peer(guarded) as peer:
        assert log_in(session, peer.url()).status_code == 200
        response = get(session, peer.url(), **at(peer, options))
        assert response.status_code == (200 if logins else 401)
        assert peer.requests[2].header("authorization") == (basic("jane", SECRET) if logins else None)


@pytest.mark.parametrize(("options", "cookies", "logins"), CREDENTIALS)
def test_who_may_be_asked_for_a_login(session: Session, options: dict[str, Any], cookies: bool, logins: bool) -> None:
    asked: list[object] = []
    with Peer(guarded) as peer:
        request = session.request(peer.url(), **at(peer, options))
        request.on("login", lambda info, callback: (asked.append(info), callback("jane", SECRET)))
        response = request.end().get_response(LIMIT)
        assert response.status_code == (200 if logins else 401)
        assert response.read() == (b"" if logins else b"who are you?")
    assert len(asked) == (1 if logins else 0)


@pytest.mark.parametrize(("options", "cookies", "logins"), CREDENTIALS)
def test_who_has_the_login_of_the_url(session: Session, options: dict[str, Any], cookies: bool, logins: bool) -> None:
    with Peer(guarded) as peer:
        url = peer.url().replace("//", f"//jane:{SECRET}@")
        assert get(session, url, **at(peer, options)).status_code == (200 if logins else 401)
        assert peer.requests[0].header("authorization") is None


@pytest.mark.parametrize(
    "origin", [None, "", "null", "example.org", "/", "ftp://example.org", "http://", "http://a b/"]
)
def test_same_origin_needs_a_valid_origin(session: Session, origin: Optional[str]) -> None:
    with pytest.raises(ValueError, match="origin"):
        session.request("http://127.0.0.1:9/", credentials="same-origin", origin=origin)


def test_same_origin_is_asked_again_at_every_hop(session: Session) -> None:
    """On the way out and back only the hops to the origin itself are its own."""
    with Peer(site()) as other, Peer(site()) as peer:
        out, back = other.url("/back", host="localhost"), peer.url("/end")
        other._handler = site({"/back": setting("theirs=1", status=302, Location=back)})
        peer._handler = site({"/out": setting("ours=1", status=302, Location=out)})
        response = get(session, peer.url("/out"), credentials="same-origin", origin=peer.url("/any/path"))
        assert response.url == peer.url("/end")
        assert cookies_sent(peer) == [None, "ours=1"]
        assert cookies_sent(other) == [None]
    assert names_in(session.cookies) == {"ours"}


# ------------------------------------------------------------------------------
# Cookies of the session, hop by hop


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_cookie_of_a_redirect_goes_to_the_next_hop(session: Session, status: int) -> None:
    with Peer(site({"/start": setting("a=1", status=status, Location="/there")})) as peer:
        get(session, peer.url("/start"), **WITH_COOKIES)
        assert cookies_sent(peer) == [None, "a=1"]


def test_cookies_follow_every_hop(session: Session) -> None:
    answers = {f"/{n}": setting(f"c{n}={n}", status=302, Location=f"/{n + 1}") for n in range(4)}
    answers["/2"] = setting("c2=2", "c0=gone; Max-Age=0", status=302, Location="/3")
    with Peer(site(answers)) as peer:
        get(session, peer.url("/0"), **WITH_COOKIES)
        assert cookies_sent(peer) == [None, "c0=0", "c0=0; c1=1", "c1=1; c2=2", "c1=1; c2=2; c3=3"]


@pytest.mark.parametrize("mode", ["error", "manual"])
def test_cookie_of_a_redirect_that_is_not_followed_is_kept(session: Session, mode: str) -> None:
    with Peer(site({"/start": setting("a=1", status=302, Location="/there")})) as peer:
        request = session.request(peer.url("/start"), redirect=mode, **WITH_COOKIES).end()
        if mode == "error":
            with pytest.raises(clientrequest.RedirectError):
                request.wait(LIMIT)
        assert mode == "error" or request.wait(LIMIT)
    assert names_in(session.cookies) == {"a"}


def test_cookie_of_a_challenge_goes_along_with_the_login(session: Session) -> None:
    def ask_once(conn: Conn) -> None:
        conn.read_request()
        conn.respond(401, [("Set-Cookie", "visit=7"), ("WWW-Authenticate", "Basic realm=x")])
        conn.read_request()
        conn.respond(200)

    with Peer(ask_once) as peer:
        assert log_in(session, peer.url(), **WITH_COOKIES).status_code == 200
        assert cookies_sent(peer) == [None, "visit=7"]


def test_cookies_of_interim_answers_and_trailers_do_not_count(session: Session) -> None:
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nSet-Cookie: early=1\r\n\r\nHTTP/1.1 100 Continue\r\nSet-Cookie: more=1\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nSet-Cookie: final=1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nSet-Cookie: late=1\r\n\r\n"
    )
    with Peer(scripted(answer)) as peer:
        get(session, peer.url(), **WITH_COOKIES)
    assert names_in(session.cookies) == {"final"}


def test_cookies_of_an_error_page_count(session: Session) -> None:
    with Peer(site({"/": setting("a=1", status=500)})) as peer:
        get(session, peer.url(), **WITH_COOKIES)
    assert names_in(session.cookies) == {"a"}


def test_cookies_are_there_when_the_response_is(session: Session) -> None:
    seen: list[set[str]] = []
    with Peer(site({"/": setting("a=1")})) as peer:
        request = session.request(peer.url(), lambda response: seen.append(names_in(session.cookies)), **WITH_COOKIES)
        assert request.end().wait(LIMIT)
    assert seen == [{"a"}]


def test_cookies_do_not_go_to_another_host(session: Session) -> None:
    with Peer(site({"/set": setting("a=1")})) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
        get(session, peer.url("/", host="localhost"), **WITH_COOKIES)
        assert cookies_sent(peer) == [None, None]


def test_cookies_go_to_another_port(session: Session) -> None:
    """As in browsers: ports are nothing to cookies (RFC 6265, 8.5)."""
    with Peer(site({"/set": setting("a=1")})) as peer, Peer(site()) as other:
        get(session, peer.url("/set"), **WITH_COOKIES)
        get(session, other.url("/"), **WITH_COOKIES)
        assert cookies_sent(other) == ["a=1"]


def test_cookies_do_not_go_to_another_path(session: Session) -> None:
    with Peer(site({"/set": setting("a=1; Path=/inside")})) as peer:
        for path in ("/set", "/inside", "/inside/x?y", "/insider", "/", "/Inside"):
            get(session, peer.url(path), **WITH_COOKIES)
        assert cookies_sent(peer) == [None, "a=1", "a=1", None, None, None]


def test_secure_cookies_do_not_go_over_plain_http(session: Session) -> None:
    with Peer(site({"/set": setting("a=1; Secure")}), server_context()) as peer, Peer(site()) as plain:
        get(session, peer.url("/set"), **WITH_COOKIES)
        get(session, plain.url("/"), **WITH_COOKIES)
        get(session, peer.url("/"), **WITH_COOKIES)
        assert cookies_sent(plain) == [None]
        assert cookies_sent(peer) == [None, "a=1"]


def test_plain_http_sets_no_secure_cookies(session: Session) -> None:
    with Peer(site({"/set": setting("a=1; Secure")})) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
    assert names_in(session.cookies) == set()


def test_host_header_is_nothing_to_cookies(session: Session) -> None:
    session.cookies.set_cookie(handmade("theirs", SECRET, "bank.example"))
    with Peer(site({"/": setting("mine=1", "foul=1; Domain=bank.example")})) as peer:
        get(session, peer.url(), headers={"Host": "bank.example"}, **WITH_COOKIES)
        assert cookies_sent(peer) == [None]
    assert {(cookie.name, cookie.domain) for cookie in session.cookies} == {
        ("theirs", "bank.example"),
        ("mine", "127.0.0.1"),
    }


def test_request_that_is_sent_again_has_the_cookies_too(session: Session) -> None:
    """A connection that died while it was idle costs one more try, with everything that the first had."""

    def serve(conn: Conn) -> None:
        request = conn.read_request()
        if conn.number == 1:
            conn.respond(200, setting("a=1")[1])
            conn.read_request()
            conn.reset()
        else:
            conn.respond(200, body=(request.header("cookie") or "").encode())

    with Peer(serve) as peer:
        get(session, peer.url(), **WITH_COOKIES)
        request = session.request(peer.url(), **WITH_COOKIES).end()
        assert request.get_response(LIMIT).read() == b"a=1"


# ------------------------------------------------------------------------------
# Cookies by hand


@pytest.mark.parametrize("value", ["mine=2", "a=2", ["x=1", "y=2"], ""])
def test_cookie_header_by_hand_wins_whole(session: Session, value: Any) -> None:
    """What the caller says is all that is sent; what the server sets is taken as ever."""
    sent = "; ".join(value) if isinstance(value, list) else value
    with Peer(site({"/set": setting("a=1"), "/more": setting("b=2")})) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
        get(session, peer.url("/more"), headers={"cookie": value}, **WITH_COOKIES)
        assert cookies_sent(peer) == [None, sent]
    assert names_in(session.cookies) == {"a", "b"}


def test_cookie_header_by_hand_is_sent_whatever_the_credentials(session: Session) -> None:
    with Peer(site()) as peer:
        get(session, peer.url(), headers={"Cookie": "mine=2"}, credentials="omit")
        assert cookies_sent(peer) == ["mine=2"]


def test_cookie_header_by_hand_stays_at_its_origin(session: Session) -> None:
    """At another origin the cookies of the session take its place, if they may."""
    with Peer(site({"/set": setting("theirs=1")})) as other:
        get(session, other.url("/set", host="localhost"), **WITH_COOKIES)
        there = other.url("/", host="localhost")
        with Peer(site({"/out": (302, [("Location", there)]), "/in": (302, [("Location", "/end")])})) as peer:
            headers = {"Cookie": "mine=2"}
            get(session, peer.url("/in"), headers=headers, **WITH_COOKIES)
            get(session, peer.url("/out"), headers=headers, **WITH_COOKIES)
            assert cookies_sent(peer) == ["mine=2"] * 3
        assert cookies_sent(other) == [None, "theirs=1"]


def test_cookie_header_of_the_session_wins_too() -> None:
    with Session(headers={"Cookie": "mine=2"}) as session, Peer(site({"/set": setting("a=1")})) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
        get(session, peer.url("/"), **WITH_COOKIES)
        assert cookies_sent(peer) == ["mine=2"] * 2


def test_cookie_put_into_the_jar_is_sent(session: Session) -> None:
    session.cookies.set_cookie(handmade("a", "1", "127.0.0.1"))
    session.cookies.set_cookie(handmade("b", "2", "other.example"))
    session.cookies.set_cookie(handmade("c", "3", "127.0.0.1", secure=True))
    with Peer(site()) as peer:
        get(session, peer.url(), **WITH_COOKIES)
        get(session, peer.url())
        assert cookies_sent(peer) == ["a=1", None]


def test_cookies_is_the_jar_itself(session: Session) -> None:
    assert isinstance(session.cookies, CookieJar)
    assert session.cookies is session.cookies
    with pytest.raises(AttributeError):
        session.cookies = CookieJar()  # type: ignore[misc]
    with Peer(site({"/set": setting("a=1")})) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
        (cookie,) = session.cookies
        assert (cookie.name, cookie.value, cookie.domain, cookie.path) == ("a", "1", "127.0.0.1", "/")
        session.cookies.clear("127.0.0.1", "/", "a")
        get(session, peer.url("/"), **WITH_COOKIES)
        assert cookies_sent(peer) == [None, None]


def test_jar_that_is_given_is_used_itself() -> None:
    jar = CookieJar(DefaultCookiePolicy(blocked_domains=["localhost.local"]))
    jar.set_cookie(handmade("a", "1", "127.0.0.1"))
    with Session(cookies=jar) as one, Session(cookies=jar) as two, Peer(site({"/set": setting("b=2")})) as peer:
        assert one.cookies is two.cookies is jar
        get(one, peer.url("/set"), **WITH_COOKIES)
        get(one, peer.url("/set", host="localhost"), **WITH_COOKIES)  # which its own policy does not allow
        get(two, peer.url("/"), **WITH_COOKIES)
        assert cookies_sent(peer) == ["a=1", None, "a=1; b=2"]
    assert names_in(jar) == {"a", "b"}


def test_sessions_do_not_share_cookies(session: Session) -> None:
    with Peer(site({"/set": setting("a=1")})) as peer, Session() as other:
        get(session, peer.url("/set"), **WITH_COOKIES)
        get(other, peer.url("/"), **WITH_COOKIES)
        assert cookies_sent(peer) == [None, None]


def test_clear_cookies_forgets_all(session: Session) -> None:
    session.cookies.set_cookie(handmade("b", "2", "other.example"))
    with Peer(site({"/set": setting("a=1", f"kept=1; {LASTING}")})) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
        session.clear_cookies()
        assert names_in(session.cookies) == set()
        get(session, peer.url("/"), **WITH_COOKIES)
        assert cookies_sent(peer) == [None, None]


# ------------------------------------------------------------------------------
# Partitions


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a partition that nobody else has."""
    name = f"test {uuid.uuid4()}"
    yield name
    for one in (name, f"persist:{name}"):
        if one in session_module._named:
            Session.from_partition(one).close()


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where partitions keep their files by default."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "clientrequest"


def test_partition_is_one_object_for_each_name(name: str) -> None:
    session = Session.from_partition(name)
    assert session is Session.from_partition(name)
    assert session.partition == name
    assert session is not Session.from_partition(f"{name}!")
    assert session is not default_session()
    assert default_session().partition is None
    Session.from_partition(f"{name}!").close()


def test_session_of_a_name_made_by_hand_is_another_one(name: str) -> None:
    with Session(name) as own:
        assert own.partition == name
        assert own is not Session.from_partition(name)


def test_empty_name_is_the_default_session() -> None:
    """As in Electron."""
    assert Session.from_partition("") is default_session()


@pytest.mark.usefixtures("eager_switching")
def test_threads_that_ask_at_once_get_one_partition(name: str) -> None:
    got: list[Session] = []
    in_threads(8, lambda number: got.extend(Session.from_partition(name) for _ in range(100)))
    assert len(got) == 800
    assert len(set(got)) == 1


@pytest.mark.usefixtures("eager_switching")
def test_threads_that_ask_at_once_get_one_default_session() -> None:
    default_session().close()
    got: list[Session] = []
    in_threads(8, lambda number: got.extend(default_session() for _ in range(100)))
    assert len(set(got)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_of_a_fork_can_ask_for_a_partition(name: str) -> None:
    """Though a thread of the parent was making one at that very moment."""
    fork_while_held([session_module._sessions_lock], lambda: Session.from_partition(name).partition == name, seconds=3)


def test_partition_that_was_closed_is_made_anew(name: str) -> None:
    first = Session.from_partition(name)
    first.close()
    second = Session.from_partition(name)
    assert second is not first
    assert second is Session.from_partition(name)
    with Peer(site()) as peer:
        assert get(second, peer.url()).status_code == 200


def test_default_session_that_was_closed_is_made_anew() -> None:
    first = default_session()
    first.close()
    assert default_session() is not first
    with Peer(site()) as peer:
        ClientRequest(peer.url()).end().wait(LIMIT)


def test_requests_name_their_partition(name: str) -> None:
    with Peer(site({"/set": setting("a=1")})) as peer:
        for partition, path in ((name, "/set"), (name, "/"), (None, "/")):
            request = ClientRequest(peer.url(path), partition=partition, use_session_cookies=True)
            assert request.session is (default_session() if partition is None else Session.from_partition(partition))
            assert request.end().wait(LIMIT)
        assert cookies_sent(peer) == [None, "a=1", None]


@pytest.mark.parametrize("partition", [5, b"persist:x", ["x"]])
def test_partition_must_be_a_text(partition: Any) -> None:
    for make in (Session, Session.from_partition, lambda given: ClientRequest("http://a.example/", partition=given)):
        with pytest.raises(TypeError, match="partition"):
            make(partition)


def test_from_partition_needs_a_name() -> None:
    with pytest.raises(TypeError, match="partition"):
        Session.from_partition(None)  # type: ignore[arg-type]


def test_persistent_partition_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="partition"):
        Session("persist:", storage=tmp_path)
    with pytest.raises(ValueError, match="partition"):
        Session.from_partition("persist:")
    with pytest.raises(ValueError, match="partition"):
        ClientRequest("http://a.example/", partition="persist:")


# ------------------------------------------------------------------------------
# Persistent partitions

VISIT = """
from clientrequest import Session
url, name, storage = sys.argv[1:]
session = Session(name, storage=storage) if storage else Session.from_partition(name)
session.request(url, use_session_cookies=True).end().get_response(10).read()
"""
KEEP = {"/set": setting(f"kept=1; {LASTING}", "gone=2")}


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


@pytest.mark.parametrize("by", [pytest.param("XDG_DATA_HOME", marks=on_linux), "storage"])
def test_persistent_cookies_survive_the_process(tmp_path: Path, by: str) -> None:
    folder = tmp_path / "data" / "clientrequest"
    storage = str(folder) if by == "storage" else ""
    with Peer(site(KEEP)) as peer:
        for path, name in (("/set", "persist:mine"), ("/", "persist:mine"), ("/", "persist:other"), ("/", "mine")):
            run_program(VISIT, peer.url(path), name, storage, XDG_DATA_HOME=str(tmp_path / "data"))
        assert cookies_sent(peer) == [None, "kept=1", None, None]
    if os.name == "posix":
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (only_file(folder), folder, folder.parent)]
        assert modes == [0o600, 0o700, 0o700]


def test_cookies_are_in_the_file_as_soon_as_they_are_set(tmp_path: Path) -> None:
    """Nobody has to close the session, or the program to end well."""
    with Peer(site(KEEP)) as peer:
        run_program(VISIT + "os._exit(0)", peer.url("/set"), "persist:mine", str(tmp_path))
        with Session("persist:mine", storage=tmp_path) as session:
            assert names_in(session.cookies) == {"kept"}


def test_other_partitions_have_no_file(tmp_path: Path) -> None:
    with Session("mine", storage=tmp_path) as session, Peer(site(KEEP)) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
        assert names_in(session.cookies) == {"kept", "gone"}
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_before_there_is_something_to_keep(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with Session("persist:mine", storage=folder) as session, Peer(site({"/set": setting("a=1")})) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
    assert not folder.exists()


@on_linux
def test_partition_option_keeps_cookies_too(name: str, storage: Path) -> None:
    with Peer(site(KEEP)) as peer:
        for path in ("/set", "/"):
            partition = f"persist:{name}"
            ClientRequest(peer.url(path), partition=partition, use_session_cookies=True).end().wait(LIMIT)
        assert cookies_sent(peer) == [None, "gone=2; kept=1"] or cookies_sent(peer) == [None, "kept=1; gone=2"]
    assert "kept" in only_file(storage).read_text()


@posix
def test_storage_may_be_a_path_or_a_text(tmp_path: Path) -> None:
    for storage in (tmp_path / "a", str(tmp_path / "b")):
        with Session("persist:mine", storage=storage) as session, Peer(site(KEEP)) as peer:
            get(session, peer.url("/set"), **WITH_COOKIES)
        assert "kept" in only_file(Path(storage)).read_text()


@pytest.mark.parametrize(
    "partition", ["persist:../../up", "persist:/abs", "persist:a/b\\c", "persist:\0", "persist:\ud800"]
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, partition: str) -> None:
    folder = tmp_path / "in" / "side"
    with Session(partition, storage=folder) as session, Peer(site(KEEP)) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
    assert only_file(folder).is_file()
    assert [one.name for one in tmp_path.rglob("*")] == ["in", "side", only_file(folder).name]


def test_close_saves_what_was_changed_by_hand(tmp_path: Path) -> None:
    with Session("persist:mine", storage=tmp_path) as session:
        session.cookies.set_cookie(handmade("a", "1", "a.example", expires=int(time.time()) + 3600))
    with Session("persist:mine", storage=tmp_path) as session:
        assert names_in(session.cookies) == {"a"}
        session.cookies.clear()
    with Session("persist:mine", storage=tmp_path) as session:
        assert names_in(session.cookies) == set()


def test_clear_cookies_clears_the_file(tmp_path: Path) -> None:
    with Session("persist:mine", storage=tmp_path) as session, Peer(site(KEEP)) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
        session.clear_cookies()
        assert "kept" not in only_file(tmp_path).read_text()


def test_jar_that_is_given_is_filled_from_the_file(tmp_path: Path) -> None:
    with Session("persist:mine", storage=tmp_path) as session, Peer(site(KEEP)) as peer:
        get(session, peer.url("/set"), **WITH_COOKIES)
    jar = CookieJar()
    with Session("persist:mine", storage=tmp_path, cookies=jar):
        assert names_in(jar) == {"kept"}


# ------------------------------------------------------------------------------
# What a session is made of


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"proxies": 5}, TypeError),
        ({"proxies": {"ftp": "http://a.example"}}, ValueError),
        ({"tls": 5}, TypeError),
        ({"tls": None}, TypeError),
        ({"client_cert": 5}, TypeError),
        ({"client_cert": ("only one",)}, ValueError),
        ({"client_cert": ("cert.pem", 5)}, TypeError),
        ({"cookies": {"a": "1"}}, TypeError),
        ({"headers": 5}, TypeError),
        ({"headers": {"Content-Length": "5"}}, ValueError),
        ({"headers": {"Transfer-Encoding": "chunked"}}, ValueError),
        ({"timeout": "5"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"dispatcher": 5}, TypeError),
        ({"max_connections_per_host": "5"}, TypeError),
        ({"max_connections_per_host": True}, TypeError),
        ({"max_connections_per_host": 0}, ValueError),
        ({"storage": 5}, TypeError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_bad_argument_is_told_by_its_name(options: dict[str, Any], error: type[Exception]) -> None:
    (name,) = options
    with pytest.raises(
        error, match="Content-Length|Transfer-Encoding" if error is ValueError and name == "headers" else name
    ):
        Session(**options)


def test_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="nonsense"):
        Session(nonsense=1)  # type: ignore[call-arg]


def test_request_is_one_of_the_session(session: Session) -> None:
    answers: list[IncomingMessage] = []

    def take(response: IncomingMessage) -> None:
        answers.append(response)
        response.resume()

    with Peer(echo_json) as peer:
        request = session.request({"url": peer.url("/x")}, take, method="PUT", chunked_encoding=True)
        assert isinstance(request, ClientRequest)
        assert request.session is session
        request.end(b"body")
        assert request.wait(LIMIT)
    assert [answer.request for answer in answers] == [request]
    assert (peer.requests[0].method, peer.requests[0].target) == ("PUT", "/x")


def test_request_checks_its_options_at_once(session: Session) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        session.request("http://a.example/", nonsense=1)
    with pytest.raises(ValueError, match="method"):
        session.request("http://a.example/", method="no token")


def test_headers_of_the_session_are_defaults() -> None:
    own = {"X-Both": "session", "X-Session": "yes", "User-Agent": "mine/1"}
    with Session(headers=own) as session, Peer(echo_json) as peer:
        request = session.request(peer.url(), headers={"x-both": "request"})
        assert (request.get_header("X-Session"), request.get_header("X-Both")) == ("yes", "request")
        request.remove_header("User-Agent")
        request.end().wait(LIMIT)
        get(session, peer.url())
        first, second = peer.requests
        names = ("X-Both", "X-Session", "User-Agent")
        assert [first.header(name) for name in names] == ["request", "yes", None]
        assert [second.header(name) for name in names] == ["session", "yes", "mine/1"]


def test_headers_of_the_session_are_copied() -> None:
    own = {"X-Mine": "1"}
    with Session(headers=own) as session, Peer(echo_json) as peer:
        own["X-Mine"] = "2"
        get(session, peer.url(), headers={"X-Other": "1"})
        get(session, peer.url())
        assert [request.header("X-Mine") for request in peer.requests] == ["1", "1"]
        assert peer.requests[1].header("X-Other") is None


def test_timeout_of_the_session_is_the_default() -> None:
    with Session(timeout=Timeout(read=0.05)) as session, Peer(scripted(Conn.hold)) as peer:
        with pytest.raises(RequestTimeout):
            session.request(peer.url()).end().wait(LIMIT)
        request = session.request(peer.url(), timeout=Timeout(read=LIMIT)).end()
        peer.wait_request(2)
        assert not request.wait(0.1)
        request.abort()


def test_dispatcher_of_the_session_is_the_default() -> None:
    ran: list[str] = []

    def dispatcher(of: str) -> Callable[[Callable[[], None]], None]:
        return lambda function: (ran.append(of), function())[1]

    with Session(dispatcher=dispatcher("session")) as session, Peer(echo_json) as peer:
        for options in ({}, {"dispatcher": dispatcher("request")}):
            request = session.request(peer.url(), **options)
            request.on("response", lambda response: response.resume())
            assert request.end().wait(LIMIT)
            assert set(ran) == {"request" if options else "session"}
            ran.clear()


def test_connections_to_one_host_may_be_limited() -> None:
    """Who comes second waits for his turn, and an abort frees him from that."""
    go_on = Gate()

    def serve(conn: Conn) -> None:
        conn.read_request()
        go_on.wait()
        conn.respond()
        echo_json(conn)

    with Session(max_connections_per_host=1) as session, Peer(serve) as peer:
        first = session.request(peer.url()).end()
        peer.wait_request()
        second, third = (session.request(peer.url()).end() for _ in range(2))
        assert not second.wait(0.05)
        third.abort()
        with pytest.raises(AbortedError):
            third.wait(LIMIT)
        with Peer(echo_json) as other:
            assert get(session, other.url()).status_code == 200  # another host is no matter
        go_on.set()
        assert first.wait(LIMIT)
        assert second.wait(LIMIT)
        assert len(peer.connections) == 1


def test_turn_is_given_back_by_logins_and_redirects() -> None:
    """A request that goes on to the same host has no turn of its own in its way."""

    def serve(conn: Conn) -> None:
        while True:
            request = conn.read_request()
            if request.target == "/start":
                conn.respond(302, {"Location": "/end"})
            elif request.header("authorization") is None:
                conn.respond(401, {"WWW-Authenticate": "Basic realm=x"}, close=conn.number == 1)
                if conn.number == 1:
                    return
            else:
                conn.respond(200)

    with Session(max_connections_per_host=1) as session, Peer(serve) as peer:
        for _ in range(3):
            assert log_in(session, peer.url("/start")).status_code == 200


@pytest.mark.parametrize("end", ["abort", "timeout"])
@pytest.mark.parametrize("status", [302, 401])
def test_turn_is_given_back_at_an_end_in_between(status: int, end: str) -> None:
    """The request ends while it waits for the rest of a page that nobody wants."""
    moving = Gate()

    def serve(conn: Conn) -> None:
        if conn.number == 1:
            conn.read_request()
            headers = {"Location": "/x", "WWW-Authenticate": "Basic realm=x", "Content-Length": "9"}
            conn.respond(status, headers, b"not all")
            conn.hold()
        echo_json(conn)

    with Session(max_connections_per_host=1) as session, Peer(serve) as peer:
        request = session.request(peer.url(), timeout=Timeout(total=0.4 if end == "timeout" else LIMIT))
        request.on("close", moving.set)
        request.on("redirect", lambda *_: moving.set())
        request.on("login", lambda info, callback: (callback("jane", SECRET), moving.set()))
        request.end()
        moving.wait()
        assert end == "timeout" or not request.wait(0.05)
        if end == "abort":
            request.abort()
        with pytest.raises(AbortedError if end == "abort" else RequestTimeout):
            request.wait(LIMIT)
        following = session.request(peer.url()).end()
        assert following.wait(LIMIT / 4)
    following.abort()


def test_repr_tells_no_secret(tmp_path: Path) -> None:
    jar = CookieJar()
    jar.set_cookie(handmade("a", SECRET, "a.example"))
    with (
        Session(
            "persist:mine",
            storage=tmp_path,
            cookies=jar,
            headers={"Authorization": SECRET},
            proxies={"https": f"http://jane:{SECRET}@127.0.0.1:9"},
        ) as session,
        Peer(guarded) as peer,
    ):
        log_in(session, peer.url())
        assert repr(session) == "<Session 'persist:mine' 0 running, 1 idle>"
    assert repr(session) == "<Session 'persist:mine' closed>"
    assert repr(Session()) == "<Session 0 running, 0 idle>"


# ------------------------------------------------------------------------------
# The end


def test_leaving_with_closes(session: Session) -> None:
    def leave() -> None:
        with session as same:
            assert same is session
            raise KeyError

    with pytest.raises(KeyError):
        leave()
    with pytest.raises(InvalidStateError, match="closed"):
        session.request("http://127.0.0.1:9/")
    session.close()  # once more is no matter


@pytest.mark.parametrize("chunked", [False, True])
def test_request_that_was_made_before_the_close_cannot_begin(session: Session, chunked: bool) -> None:
    with Peer(echo_json) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=chunked)
        session.close()
        for call in (lambda: request.write(b"x"), request.end):
            with pytest.raises(InvalidStateError, match="closed"):
                call()
        assert not peer.connections
    request.abort()


@pytest.mark.parametrize("phase", ["login", "redirect", "body", "upload"])
def test_close_aborts_in_every_phase(session: Session, phase: str) -> None:
    answers = {
        "login": b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n",
        "redirect": b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        "body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        "upload": b"",
    }
    with Peer(scripted(answers[phase], Conn.hold, body=False)) as peer:
        request = session.request(peer.url(), method="POST", chunked_encoding=phase == "upload", redirect="manual")
        held: list[object] = []
        there = Gate(phase)
        recorder = Recorder(request, skip=("login", "redirect"))
        request.on("login", lambda info, callback: (held.append(callback), there.set()))
        request.on("redirect", lambda *_: there.set())
        request.on("response", lambda response: there.set())
        request.write(b"x")
        if phase == "upload":
            peer.wait_request()
        else:
            request.end()
            there.wait()
        session.close()
        recorder.wait("close")
        with pytest.raises(AbortedError):
            request.wait(LIMIT)
        assert "error" not in recorder.names("request")
        assert recorder.find("abort")
    assert "closed" in repr(session)


def test_close_leaves_other_sessions_alone(session: Session) -> None:
    go_on = Gate()
    with Peer(scripted(go_on, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as peer, Session() as other:
        request = other.request(peer.url()).end()
        peer.wait_request()
        session.close()
        go_on.set()
        assert request.wait(LIMIT)


@pytest.mark.parametrize("method", ["clear_auth_cache", "close_connections", "close"])
def test_idle_connections_are_closed(serve: Callable[..., Peer], session: Session, method: str) -> None:
    peer = serve(echo_json)
    get(session, peer.url())
    getattr(session, method)()
    peer.connections[0].finished.wait()
    assert len(peer.connections) == 1


def test_clear_auth_cache_forgets_the_logins(session: Session) -> None:
    with Peer(guarded) as peer:
        log_in(session, peer.url())
        assert get(session, peer.url()).status_code == 200
        session.clear_auth_cache()
        assert get(session, peer.url()).status_code == 401
        assert peer.requests[-1].header("authorization") is None


def test_close_connections_keeps_logins_and_cookies(session: Session) -> None:
    with Peer(guarded) as peer:
        session.cookies.set_cookie(handmade("a", "1", "127.0.0.1"))
        log_in(session, peer.url())
        session.close_connections()
        assert get(session, peer.url(), **WITH_COOKIES).status_code == 200
        assert cookies_sent(peer)[-1] == "a=1"


# ------------------------------------------------------------------------------
# TLS


def test_one_tls_context_for_the_whole_session(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    make = session_module.make_tls_context
    monkeypatch.setattr(session_module, "make_tls_context", lambda *args: (made.append(args), make(*args))[1])
    with Peer(echo_json, server_context()) as one, Peer(echo_json, server_context()) as two:
        with Session(tls=ca_path()) as session:
            for peer in (one, two, one):
                get(session, peer.url())
                get(session, peer.url("/", host="localhost"), credentials="omit")
                session.close_connections()
                session.clear_auth_cache()
        assert len(one.connections) + len(two.connections) == 6
    assert len(made) == 1


@pytest.fixture
def ca_folder(tmp_path: Path) -> str:
    """The authority's certificate in a folder, where OpenSSL finds it by its hash."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl to tell the hash")
    command = [program, "x509", "-noout", "-subject_hash", "-in", ca_path()]
    name = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True).stdout.strip()
    shutil.copy(ca_path(), tmp_path / f"{name}.0")
    return str(tmp_path)


@pytest.mark.parametrize("form", ["file", "folder", "context"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_authority_of_ones_own(request: pytest.FixtureRequest, form: str, host: str) -> None:
    """It is trusted, and no other is."""
    forms: dict[str, Callable[[], Any]] = {
        "file": ca_path,
        "folder": lambda: request.getfixturevalue("ca_folder"),
        "context": client_context,
    }
    with Peer(echo_json, server_context()) as peer, Session(tls=forms[form]()) as session:
        assert get(session, peer.url(host=host)).status_code == 200
        with Peer(echo_json, untrusted_context()) as stranger, pytest.raises(TLSError, match="AUTHORITY_INVALID"):
            get(session, stranger.url(host=host))


@pytest.mark.parametrize("options", [{"tls": "/no/such/file.pem"}, {"client_cert": "/no/such/file.pem"}], ids=str)
def test_file_that_is_not_there_is_no_failure_of_the_network(options: dict[str, Any]) -> None:
    """Whether it is told at the call or by the request: it says what is missing, and claims no lost connection."""
    with Peer(echo_json, server_context()) as peer, pytest.raises((OSError, ValueError)) as caught:  # noqa: SIM117
        with Session(**options) as session:
            get(session, peer.url())
    assert not isinstance(caught.value, clientrequest.TransferError)


@pytest.mark.filterwarnings("ignore:.*nverified:Warning")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_tls_false_takes_any_certificate(host: str) -> None:
    with Peer(echo_json, untrusted_context("other.example")) as peer, Session(tls=False) as session:
        assert get(session, peer.url(host=host)).status_code == 200


def test_tls_false_warns_at_every_connection() -> None:
    with Peer(echo_json, untrusted_context()) as peer, Session(tls=False) as session:
        for _ in range(2):
            with pytest.warns(Warning, match="[Uu]nverified"):
                get(session, peer.url())
            session.close_connections()


@pytest.fixture
def certificate_with_key(tmp_path: Path) -> str:
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(Path(path).read_bytes() for path in client_certificate()))
    return str(both)


@pytest.mark.parametrize("form", ["two files", "one file", "with a context"])
def test_client_certificate(certificate_with_key: str, form: str) -> None:
    options: dict[str, Any] = {"tls": ca_path(), "client_cert": tuple(client_certificate())}
    if form == "one file":
        options["client_cert"] = certificate_with_key
    if form == "with a context":
        options["tls"] = client_context()
    with Peer(echo_json, demanding_context()) as peer, Session(**options) as session:
        assert get(session, peer.url()).status_code == 200
        tls = peer.connections[0].tls
        assert tls is not None
        assert ("email", "client@example.org") in tls.getpeercert()["subjectAltName"]  # type: ignore[index]


def test_refusal_without_a_certificate_is_told_as_such() -> None:
    """The alert comes behind the handshake, and the connection breaks right behind it: what TLS says counts."""
    with Peer(echo_json, demanding_context()) as peer, Session(tls=ca_path()) as session:
        for _ in range(30):
            with pytest.raises(TLSError) as caught:
                get(session, peer.url())
            assert caught.value.code == "ERR_BAD_SSL_CLIENT_AUTH_CERT"


FETCH = """
from clientrequest import Session
with Session(tls=sys.argv[2]) as session:
    session.request(sys.argv[1]).end().get_response(10).read()
"""


def test_keys_are_logged_where_the_environment_asks_for_it(tmp_path: Path) -> None:
    """SSLKEYLOGFILE, as browsers and curl have it: to look into one's own traffic."""
    log = tmp_path / "keys.log"
    with Peer(echo_json, server_context()) as peer:
        run_program(FETCH, peer.url(), ca_path(), SSLKEYLOGFILE=str(log))
        run_program(FETCH, peer.url(), ca_path(), SSLKEYLOGFILE="")
    assert "CLIENT_" in log.read_text()


# ------------------------------------------------------------------------------
# Connections that are logged in


@pytest.fixture
def ntlm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Handler:
    """A server that logs in connections: what comes over one that is logged in is Jane's."""
    spnego = pytest.importorskip("spnego")
    users = tmp_path / "users"
    users.write_text(f":jane:{SECRET}\n")
    monkeypatch.setenv("NTLM_USER_FILE", str(users))

    def serve(conn: Conn) -> None:
        login = spnego.server(protocol="ntlm")
        while True:
            token = conn.read_request().header("authorization")
            said = login.step(base64.b64decode(token.partition(" ")[2])) if token else None
            if login.complete:
                conn.respond(200, body=b"Jane")
            else:
                answer = base64.b64encode(said or b"").decode()
                conn.respond(401, {"WWW-Authenticate": f"NTLM {answer}".strip()})

    return serve


@pytest.mark.parametrize(
    "options",
    [{"credentials": "omit"}, {"credentials": "same-origin", "origin": ELSEWHERE}],
    ids=["omit", "same-origin"],
)
def test_connection_that_is_logged_in_is_not_used_without_credentials(
    session: Session, ntlm: Handler, options: dict[str, Any]
) -> None:
    with Peer(ntlm) as peer:
        assert log_in(session, peer.url()).status_code == 200
        assert get(session, peer.url()).status_code == 200
        assert len(peer.connections) == 1  # it is logged in, and nobody is asked again
        assert get(session, peer.url(), **options).status_code == 401
        assert len(peer.connections) == 2


def test_connection_without_credentials_is_not_logged_in_later(session: Session, ntlm: Handler) -> None:
    with Peer(ntlm) as peer:
        get(session, peer.url(), credentials="omit")
        assert log_in(session, peer.url()).status_code == 200
        assert get(session, peer.url(), credentials="omit").status_code == 401
        assert [len(conn.requests) for conn in peer.connections] == [2, 3]


def test_clear_auth_cache_ends_connections_that_are_logged_in(session: Session, ntlm: Handler) -> None:
    with Peer(ntlm) as peer:
        log_in(session, peer.url())
        session.clear_auth_cache()
        assert get(session, peer.url()).status_code == 401
        assert len(peer.connections) == 2


def test_connection_that_is_logged_in_and_in_use_is_not_kept_after_clear_auth_cache(
    session: Session, ntlm: Handler
) -> None:
    with Peer(ntlm) as peer:
        log_in(session, peer.url())
        cleared: list[object] = []

        def clear(response: IncomingMessage) -> None:
            cleared.append(session.clear_auth_cache())
            response.resume()

        assert session.request(peer.url(), clear).end().wait(LIMIT)
        assert cleared
        assert get(session, peer.url()).status_code == 401


def proxy(conn: Conn) -> None:
    """A proxy that opens tunnels for Jane, and is the server at their other end, too."""
    request = conn.read_request()
    if request.header("proxy-authorization") != basic("jane", SECRET):
        conn.respond(407, {"Proxy-Authenticate": "Basic realm=proxy"}, close=True)
        return
    conn.send(b"HTTP/1.1 200 Go on\r\nSet-Cookie: proxy=1; Domain=bank.example\r\nSet-Cookie: proxy=2\r\n\r\n")
    conn.start_tls(server_context("bank.example"))
    echo_json(conn)


@pytest.fixture
def tunnel() -> Iterator[tuple[Session, Peer]]:
    """A session that goes to the world through a proxy, which knows Jane."""
    with Peer(proxy) as peer:
        url = f"http://jane:{SECRET}@127.0.0.1:{peer.port}"
        with Session(tls=ca_path(), proxies={"https": url}) as session:
            yield session, peer


def test_tunnel_is_not_shared_with_those_without_credentials(tunnel: tuple[Session, Peer]) -> None:
    session, peer = tunnel
    get(session, "https://bank.example/1")
    get(session, "https://bank.example/2")
    get(session, "https://bank.example/3", credentials="omit")
    seen = [[request.target for request in conn.requests if request.method != "CONNECT"] for conn in peer.connections]
    assert [targets for targets in seen if targets] == [["/1", "/2"], ["/3"]]


def test_answer_of_the_proxy_to_connect_sets_no_cookies(tunnel: tuple[Session, Peer]) -> None:
    session, _ = tunnel
    get(session, "https://bank.example/", **WITH_COOKIES)
    assert names_in(session.cookies) == set()


def test_close_aborts_the_login_for_a_tunnel() -> None:
    asked = Gate()
    with Peer(proxy) as peer, Session(tls=ca_path(), proxies={"https": peer.url()}) as session:
        request = session.request("https://bank.example/")
        held: list[object] = []
        request.on("login", lambda info, callback: (held.append(callback), asked.set()))
        request.end()
        asked.wait()
        session.close()
        with pytest.raises(AbortedError):
            request.wait(LIMIT)


def test_tunnel_without_a_login_is_refused() -> None:
    with Peer(proxy) as peer, Session(proxies={"https": peer.url()}) as session, pytest.raises(ProxyError) as caught:
        get(session, "https://bank.example/", credentials="omit")
    assert caught.value.code == "ERR_TUNNEL_CONNECTION_FAILED"


# ------------------------------------------------------------------------------
# One limit for the whole


def gates_until_close(request: ClientRequest, count: int) -> list[Gate]:
    """Gates that are all open once the request is over."""
    gates = [Gate() for _ in range(count)]
    request.on("close", lambda: [gate.set() for gate in gates])
    return gates


def has_run_out(request: ClientRequest, seconds: float) -> bool:
    """Let some of the request's time pass; whether that was the last of it."""
    try:
        assert not request.wait(seconds)
    except RequestTimeout:
        return True
    return False


def fails_in_time(request: ClientRequest, started: float) -> None:
    with pytest.raises(RequestTimeout) as caught:
        request.wait(LIMIT)
    assert caught.value.code == "ERR_TIMED_OUT"
    assert "total" in str(caught.value)
    assert time.monotonic() - started < LIMIT / 2


@pytest.mark.parametrize("host", ["same", "changing"])
def test_total_timeout_spans_all_redirects(session: Session, host: str) -> None:
    """No hop takes long, but all of them together do."""
    with Peer(site()) as peer:
        urls = [peer.url("/"), peer.url("/", host="localhost" if host == "changing" else None)]
        peer._handler = lambda conn: bounce(conn, urls)
        request = session.request(peer.url(), redirect="manual", timeout=Timeout(LIMIT, LIMIT, LIMIT, 0.4))
        hops = gates_until_close(request, 21)
        count = iter(hops)
        request.on("redirect", lambda *_: next(count).set())
        started = time.monotonic()
        request.end()
        for hop in hops:
            hop.wait()
            if has_run_out(request, 0.05):
                break
            request.follow_redirect()
        fails_in_time(request, started)
        assert 1 < len(peer.requests) < 20


def bounce(conn: Conn, urls: list[str]) -> None:
    """Sends everybody from one to the other, for ever."""
    while True:
        here = conn.read_request().header("host")
        away = [url for url in urls if here not in url] or urls
        conn.respond(302, {"Location": away[0]})


def test_total_timeout_spans_all_logins(session: Session) -> None:
    with Peer(guarded) as peer:
        request = session.request(peer.url(), timeout=Timeout(LIMIT, LIMIT, LIMIT, 0.4))
        waiting: list[Any] = []
        asked = gates_until_close(request, 5)
        count = iter(asked)
        request.on("login", lambda info, callback: (waiting.append(callback), next(count).set()))
        started = time.monotonic()
        request.end()
        for one in asked:
            one.wait()
            if has_run_out(request, 0.15):
                break
            waiting.pop()("jane", "wrong")
        fails_in_time(request, started)
        assert 1 < len(peer.requests) < 5


@pytest.mark.parametrize("first", ["redirect", "login", "tunnel"])
def test_total_timeout_goes_on_at_the_last_hop(session: Session, first: str) -> None:
    """A server that never comes to an end meets the limit that began with the first hop."""

    def drip(conn: Conn) -> None:
        pause = threading.Event()
        while not pause.wait(0.01):
            conn.send(b"x")

    def serve(conn: Conn) -> None:
        request = conn.read_request()
        if request.target == "/start":
            conn.respond(302, {"Location": "/end"})
            conn.read_request()
        elif request.header("authorization") is None:
            conn.respond(401, {"WWW-Authenticate": "Basic realm=x"})
            conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nX: ")
        drip(conn)

    with Peer((lambda conn: drip(conn)) if first == "tunnel" else serve) as peer:
        url = {"redirect": peer.url("/start"), "login": peer.url("/"), "tunnel": "https://bank.example/"}[first]
        proxies = {"https": peer.url()} if first == "tunnel" else {}
        with Session(proxies=proxies) as own:
            request = own.request(url, timeout=Timeout(LIMIT, LIMIT, LIMIT, 0.2))
            request.on("login", lambda info, callback: callback("jane", SECRET))
            started = time.monotonic()
            if first == "tunnel":
                with pytest.raises(ClientRequestError):
                    request.end().wait(LIMIT)
                assert time.monotonic() - started < LIMIT / 2
            else:
                fails_in_time(request.end(), started)


# ------------------------------------------------------------------------------
# Many threads

THREADS, ROUNDS = 8, 15


def personal(conn: Conn) -> None:
    """Each has a folder, a password and a cookie of his own there; tells who somebody is and what he carried."""
    while True:
        request = conn.read_request()
        user = request.target.split("/")[1]
        if request.header("authorization") != basic(user, f"password of {user}"):
            conn.respond(401, {"WWW-Authenticate": f'Basic realm="{user}"'})
            continue
        number = request.target.rpartition("/")[2]
        cookie = request.header("cookie") or ""
        conn.respond(200, {"Set-Cookie": f"last={number}; Path=/{user}"}, f"{user}: {cookie}".encode())


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_threads_share_a_session_and_nothing_is_mixed_up(session: Session, tls: bool) -> None:
    with Peer(personal, server_context() if tls else None) as peer:

        def visit(number: int) -> None:
            user = f"user{number}"
            cookies = [""] + [f"last={n}" for n in range(ROUNDS - 1)]
            for n, cookie in enumerate(cookies):
                request = session.request(peer.url(f"/{user}/{n}"), use_session_cookies=True)
                request.on("login", lambda info, callback: callback(info.realm, f"password of {info.realm}"))
                assert request.end().get_response(LIMIT).read() == f"{user}: {cookie}".encode()

        in_threads(THREADS, visit)
        assert len(peer.requests) == THREADS * (ROUNDS + 1)  # each was asked once
        assert len(session.cookies) == THREADS


@pytest.mark.usefixtures("eager_switching")
def test_threads_share_a_session_that_is_being_cleared(tmp_path: Path) -> None:
    """Whatever is thrown away meanwhile: every request is answered, or asked anew."""
    with Session("persist:mine", storage=tmp_path) as session, Peer(personal) as peer:

        def visit(number: int) -> None:
            user = f"user{number}"
            for n in range(ROUNDS):
                assert ask_as(session, peer.url(f"/{user}/{n}"), user).startswith(f"{user}: ".encode())
                if number < 3:
                    [session.clear_cookies, session.clear_auth_cache, session.close_connections][number]()

        in_threads(THREADS, visit)


def ask_as(session: Session, url: str, user: str) -> bytes:
    request = session.request(url, use_session_cookies=True)
    request.on("login", lambda info, callback: callback(user, f"password of {user}"))
    return request.end().get_response(LIMIT).read()
