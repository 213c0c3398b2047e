"""What the import leaves for later: it comes when it is first used, and then as it should.

Nothing is timed here. What an import costs is mostly the modules that it brings; that these stay away is what is held.
"""

from __future__ import annotations

import concurrent.futures
import http.cookiejar
import os
import subprocess
import sys
import textwrap
import threading
import typing
from pathlib import Path
from typing import Any, Optional

import pytest

import clientrequest
from clientrequest import ClientRequest, Session, _cookies
from clientrequest._cookies import Cookies
from clientrequest._later import LateCookies

from .support.peer import LIMIT, Peer, scripted
from .support.threads import in_threads

ROOT = Path(__file__).resolve().parent.parent
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# What is of no use to most programs, and what brings it. inspect is left for later, too, but urllib3 brings it from
# Python 3.12 on.
LATE = {
    "http.cookiejar": "clientrequest.Session().cookies",
    "clientrequest._cookies": "clientrequest.Session().cookies",
    "concurrent.futures": "clientrequest.ClientRequest('http://a.example/').future",
    "blinker": "clientrequest.ClientRequest('http://a.example/').on('close', print)",
    "clientrequest.signals": "clientrequest.signals.request_started",
    "certifi": "clientrequest._tls.make_tls_context(None)",
}


def run_program(code: str, *arguments: str, cwd: Path = ROOT) -> str:
    """Run a program of its own, and give what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_import_leaves_to_later_what_few_programs_use() -> None:
    code = f"import sys, clientrequest; print([name for name in {list(LATE)} if name in sys.modules])"
    assert run_program(code) == "[]\n"


@pytest.mark.parametrize("name", LATE)
def test_it_comes_with_its_first_use(name: str) -> None:
    code = f"import sys, clientrequest\n{LATE[name]}\nprint({name!r} in sys.modules)"
    assert run_program(code) == "True\n"


def test_plain_request_needs_nothing_more() -> None:
    """Not even what it needs may come later, where the first request would wait for it."""
    with Peer(scripted(OK)) as peer:
        code = f"""
            import sys
            from clientrequest import ClientRequest
            before = set(sys.modules)
            ClientRequest({peer.url()!r}).end().get_response().read()
            print([name for name in sorted(set(sys.modules) - before) if name.startswith("clientrequest.")])
            print([name for name in {list(LATE)} if name in sys.modules])
        """
        assert run_program(code) == "[]\n[]\n"


def test_cookies_are_imported_by_the_caller() -> None:
    """By the time that the worker takes the request up they are there."""
    code = """
        import sys
        from clientrequest import ClientRequest
        ClientRequest("http://a.example/", credentials="omit")
        print("http.cookiejar" in sys.modules)
        ClientRequest("http://a.example/", use_session_cookies=True)
        print("http.cookiejar" in sys.modules)
    """
    assert run_program(code) == "False\nTrue\n"


def test_threads_get_the_same_cookies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all of them have found that there are none yet."""
    cookies, met, got = LateCookies(None), threading.Barrier(4), []

    class Slow(Cookies):
        def __init__(self) -> None:
            met.wait(LIMIT)
            super().__init__()

    monkeypatch.setattr(_cookies, "Cookies", Slow)
    in_threads(4, lambda _: got.append(cookies.get()))
    assert len(got) == 4
    assert all(one is cookies.made for one in got)


def test_session_without_cookies_can_be_cleared_and_closed() -> None:
    with Session() as session:
        session.clear_cookies()
    assert session._cookies.made is None


@pytest.mark.parametrize(
    ("function", "name", "expected"),
    [
        (Session.__init__, "cookies", Optional[http.cookiejar.CookieJar]),
        (Session.cookies.fget, "return", http.cookiejar.CookieJar),  # type: ignore[attr-defined]
        (ClientRequest.future.fget, "return", concurrent.futures.Future[clientrequest.IncomingMessage]),  # type: ignore[attr-defined]
    ],
)
def test_annotations_can_be_looked_up_all_the_same(function: Any, name: str, expected: Any) -> None:
    assert typing.get_type_hints(function)[name] == expected


def test_annotations_can_be_looked_up_before_the_first_use() -> None:
    code = """
        import typing
        from clientrequest import Session
        print(typing.get_type_hints(Session.cookies.fget)["return"])
    """
    assert run_program(code) == "<class 'http.cookiejar.CookieJar'>\n"
