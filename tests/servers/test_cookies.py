"""Cookies of httpbin."""

from __future__ import annotations

import http.cookiejar
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clientrequest import Session
from tests.servers.bodies import LARGE, Body
from tests.servers.farm import Server
from tests.servers.uploads import LIMIT, check_arrived, upload

pytestmark = pytest.mark.servers

WITH = {"use_session_cookies": True}


def get(session: Session, url: str, **options: Any) -> dict[str, Any]:
    response = session.request(url, **{**WITH, **options}).end().get_response(LIMIT)
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


def cookies(session: Session, server: Server, **options: Any) -> dict[str, str]:
    """What httpbin got from us."""
    seen: dict[str, str] = get(session, server.url("/cookies"), **options)["cookies"]
    return seen


def test_set_with_a_redirect_and_sent(session: Session, gunicorn: Server) -> None:
    """httpbin sets them and points to where they are shown: they are sent to the very next hop."""
    assert get(session, gunicorn.url("/cookies/set?one=1&two=2"))["cookies"] == {"one": "1", "two": "2"}
    assert cookies(session, gunicorn) == {"one": "1", "two": "2"}
    assert sorted(cookie.name for cookie in session.cookies) == ["one", "two"]


def test_replaced_and_deleted(session: Session, gunicorn: Server) -> None:
    get(session, gunicorn.url("/cookies/set?one=1&two=2"))
    assert get(session, gunicorn.url("/cookies/set?one=3"))["cookies"] == {"one": "3", "two": "2"}
    assert get(session, gunicorn.url("/cookies/delete?one"))["cookies"] == {"two": "2"}


@pytest.mark.parametrize("options", [{}, {"credentials": "omit"}, {"credentials": "omit", **WITH}])
def test_neither_sent_nor_kept_unless_asked(session: Session, gunicorn: Server, options: dict[str, Any]) -> None:
    get(session, gunicorn.url("/cookies/set?one=1"))
    response = session.request(gunicorn.url("/cookies/set?two=2"), **options).end().get_response(LIMIT)
    assert response.json()["cookies"] == {}
    assert cookies(session, gunicorn) == {"one": "1"}


def test_credentials_include(session: Session, gunicorn: Server) -> None:
    response = session.request(gunicorn.url("/cookies/set?one=1"), credentials="include").end().get_response(LIMIT)
    assert response.json()["cookies"] == {"one": "1"}


def test_not_for_another_host(session: Session, gunicorn: Server) -> None:
    get(session, gunicorn.url("/cookies/set?one=1"))
    assert get(session, gunicorn.url("/cookies", host="localhost"))["cookies"] == {}


def test_of_a_path(session: Session, gunicorn: Server) -> None:
    url = gunicorn.url("/response-headers?Set-Cookie=one%3D1%3B%20Path%3D%2Fanything")
    get(session, url)
    assert cookies(session, gunicorn) == {}
    assert get(session, gunicorn.url("/anything/below"))["headers"]["Cookie"] == "one=1"


SECURE = "/response-headers?Set-Cookie=one%3D1%3B%20Path%3D%2F%3B%20Secure"


def test_secure_ones_go_to_tls_only(session: Session, nginx: Server) -> None:
    get(session, nginx.url(SECURE, "tls"))
    assert get(session, nginx.url("/cookies"))["cookies"] == {}
    assert get(session, nginx.url("/cookies", "tls"))["cookies"] == {"one": "1"}


def test_secure_ones_come_from_tls_only(session: Session, nginx: Server) -> None:
    get(session, nginx.url(SECURE))
    assert get(session, nginx.url("/cookies", "tls"))["cookies"] == {}


def test_one_set_by_hand_wins(session: Session, gunicorn: Server) -> None:
    get(session, gunicorn.url("/cookies/set?one=1"))
    assert cookies(session, gunicorn, headers={"Cookie": "two=2"}) == {"two": "2"}


@pytest.mark.parametrize("framing", ["buffered", "chunked", "known"])
def test_sent_with_a_large_body(session: Session, gunicorn: Server, framing: str) -> None:
    get(session, gunicorn.url("/cookies/set?one=1"))
    body = Body(LARGE)
    answer = check_arrived(upload(session, gunicorn.url("/upload"), body, framing, **WITH), body)
    assert answer["headers"]["cookie"] == "one=1"


def test_cleared(session: Session, gunicorn: Server) -> None:
    get(session, gunicorn.url("/cookies/set?one=1"))
    session.clear_cookies()
    assert cookies(session, gunicorn) == {}


def test_jar_of_ones_own(gunicorn: Server) -> None:
    jar = http.cookiejar.CookieJar()
    with Session(cookies=jar) as first:
        get(first, gunicorn.url("/cookies/set?one=1"))
        assert first.cookies is jar
    with Session(cookies=jar) as second:
        assert cookies(second, gunicorn) == {"one": "1"}


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[dict[str, Any]]:
    yield {"partition": "persist:server-tests", "storage": str(tmp_path)}
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or file.stat().st_mode & 0o077 == 0


LASTING = "/response-headers?Set-Cookie=one%3D1%3B%20Path%3D%2F%3B%20Max-Age%3D3600"


def test_partition_keeps_them_in_a_file(gunicorn: Server, partition: dict[str, Any]) -> None:
    with Session(**partition) as first:
        get(first, gunicorn.url(LASTING))
    with Session(**partition) as second:
        assert cookies(second, gunicorn) == {"one": "1"}
        second.clear_cookies()
    with Session(**partition) as third:
        assert cookies(third, gunicorn) == {}
