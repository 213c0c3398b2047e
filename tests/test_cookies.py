"""The cookie store: which cookies are taken and sent, and the file of a persistent session."""

from __future__ import annotations

import calendar
import http.cookiejar
import json
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from clientrequest import _cookies
from clientrequest._cookies import Cookies, default_storage, partition_file
from clientrequest._options import Target, parse_url
from tests.support import LIMIT
from tests.support.threads import fork_while_held

posix = pytest.mark.skipif(os.name != "posix", reason="modes, signals and limits of POSIX")

SECRET = "s3cr3t"
LASTING = "Max-Age=3600"


def sent(cookies: Cookies, url: str) -> Optional[str]:
    return cookies.header_for(parse_url(url))


def take(cookies: Cookies, url: str, *lines: str) -> None:
    cookies.store(parse_url(url), lines)


def after(url: str, *lines: str) -> Cookies:
    """A store that has seen these lines from there."""
    cookies = Cookies()
    take(cookies, url, *lines)
    return cookies


def make(name: str = "made", value: Any = "1", domain: str = "a.example", **changes: Any) -> http.cookiejar.Cookie:
    """A cookie as users make them."""
    fields: dict[str, Any] = {
        "version": 0,
        "name": name,
        "value": value,
        "port": None,
        "port_specified": False,
        "domain": domain,
        "domain_specified": False,
        "domain_initial_dot": False,
        "path": "/",
        "path_specified": True,
        "secure": False,
        "expires": None,
        "discard": True,
        "comment": None,
        "comment_url": None,
        "rest": {},
    }
    return http.cookiejar.Cookie(**{**fields, **changes})


def only(cookies: Cookies) -> http.cookiejar.Cookie:
    (cookie,) = cookies.jar
    return cookie


# --- whom a cookie is for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "domain", "to", "is_sent"),
    [
        # Without Domain: this host, and no other.
        ("http://example.com/", None, "http://example.com/", True),
        ("http://example.com/", None, "http://EXAMPLE.com/", True),
        ("http://example.com/", None, "http://a.example.com/", False),
        ("http://a.example.com/", None, "http://example.com/", False),
        ("http://a.example.com/", None, "http://b.example.com/", False),
        ("http://example.com/", None, "http://badexample.com/", False),
        ("http://example.com/", None, "http://example.com.evil.example/", False),
        ("http://example.com./", None, "http://example.com/", False),
        # With Domain: the host named, and those below it.
        ("http://example.com/", "example.com", "http://example.com/", True),
        ("http://example.com/", "example.com", "http://a.example.com/", True),
        ("http://example.com/", ".example.com", "http://a.b.example.com/", True),
        ("http://example.com/", "EXAMPLE.COM", "http://a.example.com/", True),
        ("http://a.example.com/", "example.com", "http://b.example.com/", True),
        ("http://a.example.com/", "example.com", "http://badexample.com/", False),
        ("http://a.b.example.com/", "b.example.com", "http://example.com/", False),
        ("http://example.com/", "", "http://example.com/", True),
        ("http://example.com/", "", "http://a.example.com/", False),
        # A Domain that is not the host's: no cookie at all.
        ("http://example.com/", "a.example.com", "http://a.example.com/", False),
        ("http://a.example.com/", "b.example.com", "http://b.example.com/", False),
        ("http://a.example.com/", "b.example.com", "http://a.example.com/", False),
        ("http://badexample.com/", "example.com", "http://example.com/", False),
        ("http://example.com/", "other.example", "http://other.example/", False),
        ("http://example.com/", "xample.com", "http://xample.com/", False),
        ("http://example.com/", "..example.com", "http://example.com/", False),
        ("http://example.com/", "example.com.", "http://example.com/", False),
        # A Domain that belongs to nobody.
        ("http://example.com/", "com", "http://example.com/", False),
        ("http://example.com/", ".com", "http://other.com/", False),
        ("http://example.com./", "com.", "http://example.com./", False),
        ("http://a.example.co.uk/", "co.uk", "http://b.example.co.uk/", False),
        ("http://a.example.co.uk/", "example.co.uk", "http://b.example.co.uk/", True),
        ("http://a.localhost/", "localhost", "http://localhost/", False),
        # … but the host itself may be called so.
        ("http://co.uk/", "co.uk", "http://co.uk/", True),
        ("http://co.uk/", "co.uk", "http://a.co.uk/", False),
        # Names without a dot.
        ("http://localhost/", None, "http://localhost/", True),
        ("http://localhost/", "localhost", "http://localhost/", True),
        ("http://localhost/", None, "http://a.localhost/", False),
        ("http://intranet/", None, "http://intranet/", True),
        ("http://intranet/", None, "http://other/", False),
        ("http://intranet/", None, "http://intranet.local/", False),
        ("http://intranet.local/", None, "http://intranet/", False),
        ("http://intranet/", "local", "http://other.local/", False),
        # Addresses: exactly these.
        ("http://127.0.0.1/", None, "http://127.0.0.1/", True),
        ("http://127.0.0.1/", "127.0.0.1", "http://127.0.0.1/", True),
        ("http://127.0.0.1/", None, "http://127.0.0.2/", False),
        ("http://127.0.0.1/", "0.0.1", "http://127.0.0.1/", False),
        ("http://127.0.0.1/", ".0.0.1", "http://126.0.0.1/", False),
        ("http://127.0.0.1/", "1", "http://127.0.0.1/", False),
        ("http://127.1/", "1", "http://128.1/", False),
        ("http://[::1]/", None, "http://[::1]/", True),
        ("http://[::1]/", "::1", "http://[::1]/", True),
        ("http://[::1]/", "[::1]", "http://[::1]/", False),
        ("http://[::1]/", None, "http://[::2]/", False),
        # No port, no scheme.
        ("http://example.com:8080/", None, "http://example.com:9090/", True),
        ("http://[::1]:8080/", None, "http://[::1]/", True),
        ("http://example.com/", None, "https://example.com/", True),
        ("https://example.com/", None, "http://example.com/", True),
    ],
)
def test_domain(source: str, domain: Optional[str], to: str, is_sent: bool) -> None:
    line = "a=1" if domain is None else f"a=1; Domain={domain}"
    assert sent(after(source, line), to) == ("a=1" if is_sent else None)


def test_zones_of_addresses_are_different_hosts() -> None:
    cookies = Cookies()
    cookies.store(Target("http", "fe80::1%eth0", 80, "/"), ["a=1"])
    assert cookies.header_for(Target("http", "fe80::1%eth0", 80, "/")) == "a=1"
    assert cookies.header_for(Target("http", "fe80::1%eth1", 80, "/")) is None


@pytest.mark.parametrize(
    ("source", "path", "to", "is_sent"),
    [
        # Without Path: the folder of the request.
        ("/", None, "/", True),
        ("/", None, "/any/thing", True),
        ("/foo", None, "/", True),
        ("/foo/", None, "/foo", True),
        ("/foo/bar", None, "/foo", True),
        ("/foo/bar", None, "/foo/", True),
        ("/foo/bar", None, "/foo/baz/qux", True),
        ("/foo/bar", None, "/foobar", False),
        ("/foo/bar", None, "/", False),
        ("/foo/bar?x=/y/z", None, "/foo", True),
        ("//", None, "/", True),
        # With Path: at borders only.
        ("/", "/foo", "/foo", True),
        ("/", "/foo", "/foo/", True),
        ("/", "/foo", "/foo/bar", True),
        ("/", "/foo", "/foo?x", True),
        ("/", "/foo", "/foobar", False),
        ("/", "/foo", "/fo", False),
        ("/", "/foo", "/Foo", False),
        ("/", "/foo", "/", False),
        ("/", "/foo/", "/foo/bar", True),
        ("/", "/foo/", "/foo", False),
        ("/", "/", "/foo", True),
        ("/foo/bar", "/other", "/other", True),
        # No path at all: as without.
        ("/foo/bar", "", "/foo/x", True),
        ("/foo/bar", "bar", "/foo/x", True),
        ("/foo/bar", '"/"', "/foo/x", True),
        ("/foo/bar", '"/"', "/", False),
        # Spelling.
        ("/", "/%c3%a9", "/%C3%A9", True),
        ("/", "/\u00c3\u00a9", "/%C3%A9", True),
        ("/", "/a b", "/a%20b", True),
        ("/[x]/y", None, "/[x]/z", True),
    ],
)
def test_path(source: str, path: Optional[str], to: str, is_sent: bool) -> None:
    line = "a=1" if path is None else f"a=1; Path={path}"
    cookies = after(f"http://a.example{source}", line)
    assert sent(cookies, f"http://a.example{to}") == ("a=1" if is_sent else None)


@pytest.mark.parametrize("line", ["a=1; Secure", "a=1; SECURE", "a=1; secure=no", "a=1;Secure;Path=/"])
def test_secure_is_for_https_only(line: str) -> None:
    cookies = after("https://a.example/", line)
    assert sent(cookies, "https://a.example/") == "a=1"
    assert sent(cookies, "http://a.example/") is None
    assert not list(after("http://a.example/", line).jar)


@pytest.mark.parametrize(
    ("url", "line", "taken"),
    [
        ("https://a.example/", "__Secure-a=1; Secure", True),
        ("https://a.example/", "__Secure-a=1; Secure; Domain=a.example", True),
        ("https://a.example/", "__Secure-a=1", False),
        ("http://a.example/", "__Secure-a=1; Secure", False),
        ("https://a.example/", "__secure-a=1", False),
        ("https://a.example/", "__Host-a=1; Secure; Path=/", True),
        ("https://a.example/", "__Host-a=1; Secure", False),
        ("https://a.example/x/y", "__Host-a=1; Secure; Path=/x", False),
        ("https://a.example/", "__Host-a=1; Path=/", False),
        ("https://a.example/", "__Host-a=1; Secure; Path=/; Domain=a.example", False),
        ("https://a.example/", "__HOST-a=1; Path=/", False),
        ("http://a.example/", "__Host-a=1; Secure; Path=/", False),
        ("http://a.example/", "__Other-a=1", True),
    ],
)
def test_prefixes_keep_their_promise(url: str, line: str, taken: bool) -> None:
    assert bool(list(after(url, line).jar)) is taken


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("a=evil", False),
        ("a=evil; Path=/login", False),
        ("a=evil; Domain=example.com", False),
        ("a=; Max-Age=0", False),
        ("b=fine", True),
    ],
)
def test_plain_http_cannot_stand_in_for_a_secure_cookie(line: str, taken: bool) -> None:
    cookies = after("https://www.example.com/", "a=good; Secure; Domain=example.com; Path=/")
    take(cookies, "http://www.example.com/", line)
    assert sent(cookies, "https://www.example.com/login") == ("a=good; b=fine" if taken else "a=good")
    take(cookies, "https://www.example.com/", "a=new; Domain=example.com; Path=/")
    assert "a=new" in (sent(cookies, "https://www.example.com/") or "")


def test_plain_http_may_set_what_a_secure_cookie_does_not_reach() -> None:
    cookies = after("https://www.example.com/", "a=good; Secure; Path=/deep")
    take(cookies, "http://www.example.com/", "a=other; Path=/")
    assert sent(cookies, "http://www.example.com/") == "a=other"


def test_same_site_has_no_effect() -> None:
    cookies = after("http://a.example/", "a=1; SameSite=Strict; HttpOnly")
    assert sent(cookies, "http://a.example/") == "a=1"
    assert only(cookies).get_nonstandard_attr("SameSite") == "Strict"
    assert only(cookies).has_nonstandard_attr("HttpOnly")


# --- how long ------------------------------------------------------------------------------------------------------

PAST = "Expires=Thu, 01 Jan 1970 00:00:00 GMT"
FUTURE = "Expires=Fri, 01 Jan 2100 00:00:00 GMT"


@pytest.mark.parametrize(
    ("attributes", "life"),
    [
        ("", None),
        ("Max-Age=60", 60),
        ("max-age = 60", 60),
        ("Max-Age=060", 60),
        (f"Max-Age=60; {PAST}", 60),
        (f"{PAST}; Max-Age=60", 60),
        (f"Max-Age=x; {FUTURE}", _cookies.LONGEST_LIFE),
        ("Max-Age=", None),
        ("Max-Age=1.5", None),
        ("Max-Age=+5", None),
        ('Max-Age="5"', None),
        ("Max-Age=5; Max-Age=60", 60),
        ("Max-Age=" + "9" * 1000, _cookies.LONGEST_LIFE),
        (FUTURE, _cookies.LONGEST_LIFE),
        ("Expires=nonsense", None),
        ("Expires=", None),
        ("Expires", None),
    ],
)
def test_life(attributes: str, life: Optional[int]) -> None:
    before = int(time.time())
    cookie = only(after("http://a.example/", f"a=1; {attributes}"))
    assert cookie.discard is (life is None)
    if life is None:
        assert cookie.expires is None
    else:
        assert cookie.expires is not None
        assert before + life <= cookie.expires <= time.time() + life


@pytest.mark.parametrize(
    "attributes",
    [
        "Max-Age=0",
        "Max-Age=-1",
        "Max-Age=00",
        f"Max-Age=0; {FUTURE}",
        f"{FUTURE}; Max-Age=-9",
        PAST,
        "Max-Age=-" + "9" * 99,
    ],
)
def test_expired_deletes(attributes: str) -> None:
    cookies = after("http://a.example/", "a=1; Max-Age=60", "b=2")
    take(cookies, "http://a.example/", f"a=gone; {attributes}")
    assert sent(cookies, "http://a.example/") == "b=2"
    assert len(list(cookies.jar)) == 1


@pytest.mark.parametrize("line", ["a=; Max-Age=0; Domain=a.example", "a=; Max-Age=0; Path=/x", "A=; Max-Age=0"])
def test_deletes_only_what_is_its_equal(line: str) -> None:
    cookies = after("http://a.example/", "a=1")
    take(cookies, "http://a.example/", line)
    assert sent(cookies, "http://a.example/") == "a=1"


@pytest.mark.parametrize("domain", ["a.example", ".a.example"])
def test_nobody_deletes_the_cookies_of_another(domain: str) -> None:
    cookies = after("http://a.example/", f"a=1; Domain={domain}")
    take(cookies, "http://b.example/", f"a=; Max-Age=0; Domain={domain}")
    assert sent(cookies, "http://a.example/") == "a=1"


def test_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cookies = after("http://a.example/", "a=1; Max-Age=60", "b=2")
    moment = time.time()
    monkeypatch.setattr(time, "time", lambda: moment + 59)
    assert sent(cookies, "http://a.example/") == "a=1; b=2"
    monkeypatch.setattr(time, "time", lambda: moment + 61)
    assert sent(cookies, "http://a.example/") == "b=2"


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", (1994, 11, 6, 8, 49, 37)),
        ("Sunday, 06-Nov-94 08:49:37 GMT", (1994, 11, 6, 8, 49, 37)),
        ("Sun Nov  6 08:49:37 1994", (1994, 11, 6, 8, 49, 37)),
        ("Sun, 06-Nov-2030 08:49:37 GMT", (2030, 11, 6, 8, 49, 37)),
        ("06 november 2030 8:9:7", (2030, 11, 6, 8, 9, 7)),
        ("08:49:37 06 Nov 2030 ignored 99:99:99", (2030, 11, 6, 8, 49, 37)),
        ("06-Nov-69 08:49:37", (2069, 11, 6, 8, 49, 37)),
        ("06-Nov-70 08:49:37", (1970, 11, 6, 8, 49, 37)),
        ("01 Jan 1601 00:00:00", (1601, 1, 1, 0, 0, 0)),
        ("29 Feb 2028 00:00:00", (2028, 2, 29, 0, 0, 0)),
        ("01 Jan 1600 00:00:00", None),
        ("29 Feb 2027 00:00:00", None),
        ("31 Apr 2027 00:00:00", None),
        ("00 Jan 2027 00:00:00", None),
        ("01 Jan 2027 24:00:00", None),
        ("01 Jan 2027 00:60:00", None),
        ("01 Jan 2027", None),
        ("Jan 2027 00:00:00", None),
        ("01 2027 00:00:00", None),
        ("01 Jan 00:00:00", None),
        ("1", None),
        ("", None),
    ],
)
def test_date(text: str, date: Optional[tuple[int, ...]]) -> None:
    assert _cookies._date(text) == (None if date is None else calendar.timegm(date))


# --- the lines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=1", "a=1"),
        (" a = 1 ", "a=1"),
        ("\ta\t=\t1\t;Path=/", "a=1"),
        ("a=", "a="),
        ("a=b=c==", "a=b=c=="),
        ('a="quoted"', 'a="quoted"'),
        ('a="open', 'a="open'),
        ('a="b;c"', 'a="b'),
        ("a=b,c d", "a=b,c d"),
        ("a=1, b=2", "a=1, b=2"),
        ("a=b\\c", "a=b\\c"),
        ("a={'x':1}", "a={'x':1}"),
        ("$x=1", "$x=1"),
        ("$Version=1; Path=/", "$Version=1"),
        ("a b=1", "a b=1"),
        ("a=\u00e9\u00ff", "a=\u00e9\u00ff"),
        ("expires=1", "expires=1"),
        ("secure=1; HttpOnly", "secure=1"),
        ("a=1;", "a=1"),
        ("a=1;;; ;=x;=", "a=1"),
        # Of RFC 2109 and 2965: without a meaning.
        ('a="1"; Version=1; Path="/"', 'a="1"'),
        ("a=1; Version=2", "a=1"),
        ("a=1; Version=x", "a=1"),
        ("a=1; Port", "a=1"),
        ('a=1; Port="1,2"', "a=1"),
        ("a=1; Discard; Comment=x; CommentURL=y", "a=1"),
        # No cookies.
        ("", None),
        (";", None),
        ("a", None),
        ("=1", None),
        (" =1", None),
        ("; a=1", None),
        ("a=1\r\nX: y", None),
        ("a=1\x00", None),
        ("a\x01=1", None),
        ("a=1; Path=/\x7f", None),
        ("a=\u20ac", None),
        ("a=1" + "x" * 4096, None),
        ("x" * 4096 + "=1", None),
    ],
)
def test_line(line: str, expected: Optional[str]) -> None:
    assert sent(after("http://a.example/", line), "http://a.example/") == expected


def test_longest_cookie() -> None:
    value = "x" * 4095
    assert sent(after("http://a.example/", f"a={value}"), "http://a.example/") == f"a={value}"


def test_attribute_that_is_too_long_does_not_count() -> None:
    cookies = after("http://a.example/x/y", "a=1; Path=/" + "y" * 1024)
    assert sent(cookies, "http://a.example/x/") == "a=1"


def test_several_lines() -> None:
    cookies = after("http://a.example/", "a=1", "nonsense", "b=2; Path=/", "a=3", "\x00", "c=4")
    assert sent(cookies, "http://a.example/") == "a=3; b=2; c=4"


def test_no_line() -> None:
    assert sent(after("http://a.example/"), "http://a.example/") is None


def test_longer_paths_go_first() -> None:
    cookies = after("http://a.example/", "a=1; Path=/", "a=2; Path=/x/y", "a=3; Path=/x", "b=4; Path=/x/y")
    assert sent(cookies, "http://a.example/x/y/z") == "a=2; b=4; a=3; a=1"


def test_a_cookie_for_the_host_and_one_for_its_domain_are_two() -> None:
    cookies = after("http://a.example/", "a=1", "a=2; Domain=a.example")
    assert sent(cookies, "http://a.example/") == "a=1; a=2"
    assert sent(cookies, "http://b.a.example/") == "a=2"


def test_replaced_in_its_place() -> None:
    cookies = after("http://a.example/", "a=1", "b=2", "a=3")
    assert sent(cookies, "http://a.example/") == "a=3; b=2"


PIECES = (
    *("=", ";", ",", '"', " ", "\t", "\x00", "a", "/", ".", "example", "9", "-", ":", "%", "1994", "\xe9", "\u20ac"),
    *("Path", "Domain", "Max-Age", "Expires", "Secure", "__Host-", "Port", "Version", "\ud800"),
)


@pytest.mark.parametrize("garbage", range(100))
def test_no_line_raises(garbage: int) -> None:
    # The same bytes at every run: what fails once must fail again.
    source = random.Random(garbage)
    lines = ["".join(source.choices(PIECES, k=source.randrange(40))) for _ in range(20)]
    cookies = after("https://a.example/x/y", *lines)
    header = sent(cookies, "https://a.example/x/y")
    assert header is None or _cookies._FIELD_VALUE.fullmatch(header)


class TestBounds:
    def test_of_one_response(self) -> None:
        lines = [f"a{number}=1" for number in range(1000)]
        assert len(list(after("http://a.example/", *lines).jar)) == _cookies.MOST_LINES

    def test_of_one_domain(self) -> None:
        cookies = after("http://a.example/", "first=1")
        for turn in range(10):
            take(cookies, "http://b.example/", *(f"a{turn}-{n}=1; Max-Age={60 + turn}" for n in range(50)))
        assert len([one for one in cookies.jar if one.domain == "b.example"]) == _cookies.MOST_OF_A_DOMAIN
        assert "a9-49=1" in (sent(cookies, "http://b.example/") or "")  # what ends soonest went first
        assert sent(cookies, "http://a.example/") == "first=1"

    def test_of_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_cookies, "MOST", 10)
        cookies = after("http://a.example/", "session=1")
        for number in range(20):
            take(cookies, f"http://host{number}.example/", f"a=1; Max-Age={60 + number}")
        assert len(list(cookies.jar)) == 10
        assert sent(cookies, "http://a.example/") == "session=1"
        assert sent(cookies, "http://host0.example/") is None
        assert sent(cookies, "http://host19.example/") == "a=1"

    def test_what_is_gone_leaves_nothing(self) -> None:
        cookies = Cookies()
        for number in range(20):
            take(cookies, f"http://a.example/{number}/", "a=1")
            take(cookies, f"http://a.example/{number}/", "a=1; Max-Age=0")
        assert cookies.jar._cookies == {}  # type: ignore[attr-defined]


def test_clear() -> None:
    cookies = after("http://a.example/", "a=1")
    cookies.clear()
    assert sent(cookies, "http://a.example/") is None
    take(cookies, "http://a.example/", "b=1")
    assert sent(cookies, "http://a.example/") == "b=1"


# --- the jar itself ------------------------------------------------------------------------------------------------


class TestOurJar:
    def test_is_a_jar_of_the_standard_library(self) -> None:
        cookies = after("http://a.example/x", "a=1; Domain=a.example; Secure", "b=2; Path=/y; HttpOnly")
        assert isinstance(cookies.jar, http.cookiejar.CookieJar)
        cookie = only(cookies)
        assert (cookie.name, cookie.value, cookie.domain, cookie.path) == ("b", "2", "a.example", "/y")
        assert (cookie.version, cookie.port, cookie.secure, cookie.domain_specified) == (0, None, False, False)

    def test_users_may_put_cookies_into_it(self) -> None:
        cookies = Cookies()
        cookies.jar.set_cookie(make())
        cookies.jar.set_cookie(make(name="below", domain=".a.example", domain_specified=True))
        cookies.jar.set_cookie(make(name="undotted", domain="a.example", domain_specified=True, path="/x"))
        assert sent(cookies, "http://a.example/x") == "undotted=1; made=1; below=1"
        assert sent(cookies, "http://b.a.example/x") == "undotted=1; below=1"

    def test_value_that_is_none_goes_out_as_the_name(self) -> None:
        cookies = Cookies()
        cookies.jar.set_cookie(make(name="none", value=None))
        assert sent(cookies, "http://a.example/") == "none"

    @pytest.mark.parametrize("domain", ["localhost", "localhost.local"])
    def test_localhost_by_both_its_names(self, domain: str) -> None:
        cookies = Cookies()
        cookies.jar.set_cookie(make(domain=domain))
        assert sent(cookies, "http://localhost/") == "made=1"

    @pytest.mark.parametrize("text", ["a\r\nX: y", "a\x00", "\u20ac", "\ud800", 5, b"x"])
    def test_cookie_that_no_header_may_have_is_left_out(self, text: Any) -> None:
        cookies = after("http://a.example/", "a=1")
        cookies.jar.set_cookie(make(value=text))
        cookies.jar.set_cookie(make(name=text))
        assert sent(cookies, "http://a.example/") == "a=1"

    def test_nothing_of_rfc_2965_is_sent(self) -> None:
        cookies = Cookies()
        cookies.jar.set_cookie(make(version=1))
        assert sent(cookies, "http://a.example/") is None

    def test_works_with_urllib(self) -> None:
        cookies = after("http://a.example/", "a=1")
        request = urllib.request.Request("http://a.example/")
        cookies.jar.add_cookie_header(request)
        assert request.get_header("Cookie") == "a=1"
        cookies.jar.set_cookie_if_ok(make(name="b"), request)
        cookies.jar.set_cookie_if_ok(make(name="c", secure=True), request)
        assert sent(cookies, "https://a.example/") == "a=1; b=1"

    def test_domains_may_be_blocked(self) -> None:
        policy = _cookies._StrictPolicy(blocked_domains=["a.example"])
        cookies = after("http://a.example/", "a=1")
        cookies.jar.set_policy(policy)
        assert sent(cookies, "http://a.example/") is None

    def test_another_session_may_have_it_too(self) -> None:
        first = after("http://intranet/", "a=1")
        assert sent(Cookies(first.jar), "http://intranet/") == "a=1"

    def test_clear_of_what_is_not_there(self) -> None:
        with pytest.raises(KeyError):
            Cookies().jar.clear("a.example")


class TestGivenJar:
    def test_is_used_itself(self) -> None:
        jar = http.cookiejar.CookieJar()
        cookies = Cookies(jar)
        assert cookies.jar is jar
        take(cookies, "http://a.example/", "a=1")
        assert [cookie.name for cookie in jar] == ["a"]
        cookies.clear()
        assert not list(jar)

    @pytest.mark.parametrize("host", ["a.example", "localhost", "127.0.0.1", "[::1]", "[fe80::1]:8080", "intranet:81"])
    @pytest.mark.parametrize("flags", [0, http.cookiejar.DefaultCookiePolicy.DomainStrict])
    def test_its_own_policy_finds_the_cookies_again(self, host: str, flags: int) -> None:
        policy = http.cookiejar.DefaultCookiePolicy(strict_ns_domain=flags)
        cookies = Cookies(http.cookiejar.CookieJar(policy))
        take(cookies, f"http://{host}/x%2fy/", "a=1")
        assert sent(cookies, f"http://{host}/x%2Fy/z") == "a=1"
        assert sent(cookies, "http://b.example/x%2Fy/") is None

    def test_cookies_of_urllib_are_sent(self) -> None:
        jar = http.cookiejar.CookieJar()
        jar.set_cookie(make(domain="localhost.local"))
        assert sent(Cookies(jar), "http://localhost:8000/") == "made=1"

    def test_its_policy_decides(self) -> None:
        class Nothing(http.cookiejar.DefaultCookiePolicy):
            def set_ok(self, cookie: http.cookiejar.Cookie, request: urllib.request.Request) -> bool:
                seen.append((cookie.name, request.get_full_url(), request.host, request.type, request.header_items()))
                return cookie.name == "good"

        seen: list[Any] = []
        cookies = Cookies(http.cookiejar.CookieJar(Nothing()))
        take(cookies, "http://a.example:81/x?y", "bad=1", "good=1")
        assert seen[0] == ("bad", "http://a.example:81/x?y", "a.example:81", "http", [])
        assert sent(cookies, "http://a.example/") == "good=1"

    def test_deleting_asks_the_policy_too(self) -> None:
        jar = http.cookiejar.CookieJar()
        cookies = Cookies(jar)
        take(cookies, "http://a.example/", "a=1")
        jar.set_policy(http.cookiejar.DefaultCookiePolicy(blocked_domains=["a.example"]))
        take(cookies, "http://a.example/", "a=; Max-Age=0")
        assert len(list(jar)) == 1

    def test_rfc_2965_if_he_wants_it(self) -> None:
        jar = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(rfc2965=True))
        jar.set_cookie(make(version=1, value="x"))
        assert sent(Cookies(jar), "http://a.example/") == '$Version=1; made=x; $Path="/"'

    def test_header_is_never_split(self, caplog: pytest.LogCaptureFixture) -> None:
        jar = http.cookiejar.CookieJar()
        jar.set_cookie(make(value=f"{SECRET}\r\nX: y"))
        assert sent(Cookies(jar), "http://a.example/") is None
        (record,) = caplog.records
        assert record.name == "clientrequest"
        assert SECRET not in caplog.text

    @pytest.mark.parametrize("wrong", [{}, "cookies.txt", [], http.cookiejar.CookieJar])
    def test_must_be_a_jar(self, wrong: Any) -> None:
        with pytest.raises(TypeError, match=r"http\.cookiejar\.CookieJar"):
            Cookies(wrong)


# --- threads -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast_switching() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_all(*tasks: Any) -> None:
    """Run them at once, a thread each. Raises what the first of them raised."""
    failures: list[BaseException] = []

    def run(task: Any) -> None:
        try:
            task()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT * 3)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


@pytest.mark.usefixtures("fast_switching")
@pytest.mark.parametrize("persistent", [False, True])
def test_many_threads_store_and_read(tmp_path: Path, persistent: bool) -> None:
    path = tmp_path / "cookies.json" if persistent else None
    cookies = Cookies(path=path)
    turns = 20 if persistent else 100

    def work(number: int) -> None:
        url = f"http://host{number % 4}.example/"
        for turn in range(turns):
            take(cookies, url, f"n{number}={turn}; {LASTING}", f"gone{number}=1", f"gone{number}=; Max-Age=0")
            header = sent(cookies, url) or ""
            assert f"n{number}={turn}" in header.split("; ")
            assert all(pair.count("=") == 1 for pair in header.split("; "))
            list(cookies.jar)

    run_all(*(lambda number=number: work(number) for number in range(8)))
    expected = [f"n{number}={turns - 1}; n{number + 4}={turns - 1}" for number in range(4)]
    for store in [cookies, Cookies(path=path)] if persistent else [cookies]:
        found = [sent(store, f"http://host{number}.example/") or "" for number in range(4)]
        assert [sorted(header.split("; ")) for header in found] == [sorted(header.split("; ")) for header in expected]


@pytest.mark.usefixtures("fast_switching")
def test_users_clear_the_jar_meanwhile() -> None:
    cookies = Cookies()
    done = threading.Event()

    def store() -> None:
        try:
            for turn in range(300):
                take(cookies, f"http://host{turn % 3}.example/{turn % 5}/", "a=1", "b=1; Max-Age=60", "a=; Max-Age=0")
                sent(cookies, f"http://host{turn % 3}.example/{turn % 5}/")
        finally:
            done.set()

    def clear() -> None:
        while not done.is_set():
            cookies.jar.clear()
            cookies.clear()
            assert all(isinstance(cookie, http.cookiejar.Cookie) for cookie in cookies.jar)

    run_all(store, clear, clear)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("given", [False, True])
def test_child_of_a_fork_does_not_wait_for_a_thread_that_it_has_not(tmp_path: Path, given: bool) -> None:
    jar = http.cookiejar.CookieJar() if given else None
    cookies = Cookies(jar, tmp_path / "cookies.json")

    def takes_one() -> bool:
        take(cookies, "http://a.example/", f"a=1; {LASTING}")
        return sent(cookies, "http://a.example/") == "a=1"

    fork_while_held([cookies._saving, cookies._lock], takes_one, seconds=int(LIMIT))


# --- the file ------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "storage" / "cookies.json"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.name == "clientrequest" for record in caplog.records)
    assert SECRET not in caplog.text
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def names_in(path: Path) -> list[str]:
    return [cookie["name"] for cookie in json.loads(path.read_bytes())["cookies"]]


class TestFile:
    def test_outlives_the_session(self, path: Path) -> None:
        lines = [
            f'quoted="x, =y"; {LASTING}',
            f"below=1; {LASTING}; Domain=example.com",
            f"deep=1; {LASTING}; Path=/x",
            f"safe=1; {LASTING}; Secure; HttpOnly; SameSite=Lax",
            f"latin=\u00e9; {LASTING}; Expires=x",
        ]
        first = Cookies(path=path)
        take(first, "https://example.com/", *lines)
        second = Cookies(path=path)
        assert sent(second, "https://example.com/x") == 'deep=1; quoted="x, =y"; safe=1; latin=\u00e9; below=1'
        assert sent(second, "http://example.com/") == 'quoted="x, =y"; latin=\u00e9; below=1'
        assert sent(second, "http://a.example.com/x") == "below=1"
        assert sorted(map(repr, first.jar)) == sorted(map(repr, second.jar))

    def test_session_cookies_are_not_kept(self, path: Path) -> None:
        take(Cookies(path=path), "http://a.example/", "a=1", f"b=2; {LASTING}")
        assert names_in(path) == ["b"]
        assert sent(Cookies(path=path), "http://a.example/") == "b=2"

    def test_a_cookie_that_becomes_one_of_the_session_is_not_kept(self, path: Path) -> None:
        cookies = Cookies(path=path)
        take(cookies, "http://a.example/", f"a=1; {LASTING}")
        take(cookies, "http://a.example/", "a=2")
        assert names_in(path) == []
        assert sent(cookies, "http://a.example/") == "a=2"

    def test_deleted_cookies_are_deleted_there_too(self, path: Path) -> None:
        take(Cookies(path=path), "http://a.example/", f"a=1; {LASTING}", f"b=2; {LASTING}")
        take(Cookies(path=path), "http://a.example/", "a=; Max-Age=0")
        assert names_in(path) == ["b"]

    def test_expired_cookies_are_not_loaded(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        take(Cookies(path=path), "http://a.example/", "a=1; Max-Age=60", "b=2; Max-Age=600")
        moment = time.time()
        monkeypatch.setattr(time, "time", lambda: moment + 100)
        cookies = Cookies(path=path)
        assert [cookie.name for cookie in cookies.jar] == ["b"]
        take(cookies, "http://a.example/", f"c=3; {LASTING}")
        assert names_in(path) == ["b", "c"]

    def test_written_only_when_something_changed(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cookies = Cookies(path=path)
        take(cookies, "http://a.example/", "a=1")
        cookies.save()
        cookies.clear()
        assert not path.parent.exists()
        moment = time.time()
        monkeypatch.setattr(time, "time", lambda: moment)
        take(cookies, "http://a.example/", f"b=2; {LASTING}")
        inode = path.stat().st_ino, path.stat().st_mtime_ns
        take(cookies, "http://a.example/", f"b=2; {LASTING}", "a=2", "nonsense")
        cookies.save()
        Cookies(path=path).save()
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == inode
        take(cookies, "http://a.example/", f"b=3; {LASTING}")
        assert (path.stat().st_ino, path.stat().st_mtime_ns) != inode

    def test_clear_empties_it(self, path: Path) -> None:
        cookies = Cookies(path=path)
        take(cookies, "http://a.example/", f"a={SECRET}; {LASTING}")
        path.with_name("cookies.json.damaged").write_text(SECRET)
        cookies.clear()
        assert names_in(path) == []
        assert [file.name for file in path.parent.iterdir()] == ["cookies.json"]
        take(cookies, "http://a.example/", f"b=1; {LASTING}")
        assert names_in(path) == ["b"]

    def test_clear_after_everything_expired(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        take(Cookies(path=path), "http://a.example/", f"a={SECRET}; Max-Age=60")
        moment = time.time()
        monkeypatch.setattr(time, "time", lambda: moment + 100)
        Cookies(path=path).clear()
        assert SECRET not in path.read_text()

    def test_is_not_moved_by_chdir(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        cookies = Cookies(path="storage/cookies.json")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        take(cookies, "http://a.example/", f"a=1; {LASTING}")
        assert (tmp_path / "storage" / "cookies.json").exists()

    def test_with_a_given_jar(self, path: Path) -> None:
        jar = http.cookiejar.CookieJar()
        jar.set_cookie(make(expires=int(time.time()) + 60, discard=False))
        Cookies(jar, path).save()
        other = http.cookiejar.CookieJar()
        assert sent(Cookies(other, path), "http://a.example/") == "made=1"
        assert len(list(other)) == 1

    def test_what_users_make_does_not_spoil_it(self, path: Path) -> None:
        cookies = Cookies(path=path)
        lasting: dict[str, Any] = {"expires": int(time.time()) + 60, "discard": False}
        cookies.jar.set_cookie(make(name="good", **lasting))
        cookies.jar.set_cookie(make(name="none", value=None, **lasting))
        cookies.jar.set_cookie(make(name="surrogate", value="\ud800", **lasting))
        cookies.jar.set_cookie(make(name="number", value=5, **lasting))
        cookies.jar.set_cookie(make(name="bytes", value=b"x", **lasting))
        cookies.jar.set_cookie(make(name="old", version=1, **lasting))
        cookies.jar.set_cookie(make(name="port", port="80", port_specified=True, **lasting))
        cookies.save()
        assert names_in(path) == ["good", "none", "surrogate"]
        assert len(list(Cookies(path=path).jar)) == 3

    def test_nothing_but_the_file_is_left(self, path: Path) -> None:
        cookies = Cookies(path=path)
        for turn in range(3):
            take(cookies, "http://a.example/", f"a={turn}; {LASTING}")
        assert [file.name for file in path.parent.iterdir()] == ["cookies.json"]

    def test_format(self, path: Path) -> None:
        take(Cookies(path=path), "https://a.example/x/y", f"a=\u00e9; {LASTING}; Secure; HttpOnly; SameSite=Lax")
        content = json.loads(path.read_bytes())
        assert content["version"] == 1
        (cookie,) = content["cookies"]
        assert abs(cookie.pop("expires") - time.time() - 3600) < LIMIT
        assert cookie == {
            "name": "a",
            "value": "\u00e9",
            "domain": "a.example",
            "host_only": True,
            "path": "/x",
            "path_specified": False,
            "secure": True,
            "http_only": True,
            "same_site": "Lax",
        }


@posix
class TestModes:
    @pytest.fixture(params=[0o000, 0o022, 0o077])
    def umask(self, request: pytest.FixtureRequest) -> Iterator[int]:
        before = os.umask(request.param)
        yield request.param
        os.umask(before)

    @pytest.mark.usefixtures("umask")
    def test_only_the_owner_may_read(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "storage" / "cookies.json"
        take(Cookies(path=path), "http://a.example/", f"a=1; {LASTING}")
        modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent, path.parent.parent)]
        assert modes == [0o600, 0o700, 0o700]

    @pytest.mark.usefixtures("umask")
    def test_the_new_file_from_its_creation(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[int] = []
        fsync = os.fsync

        def look(descriptor: int) -> None:
            seen.extend(stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir())
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", look)
        take(Cookies(path=path), "http://a.example/", f"a=1; {LASTING}")
        assert seen
        assert set(seen) == {0o600}

    def test_a_file_that_others_may_read_is_closed_to_them(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_text('{"version": 1, "cookies": []}')
        path.chmod(0o644)
        take(Cookies(path=path), "http://a.example/", f"a=1; {LASTING}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_a_damaged_file_stays_closed(self, path: Path) -> None:
        cookies = Cookies(path=path)
        take(cookies, "http://a.example/", f"a=1; {LASTING}")
        with path.open("a") as file:
            file.write("{")
        Cookies(path=path)
        assert stat.S_IMODE(path.with_name("cookies.json.damaged").stat().st_mode) == 0o600


GOOD = {
    "name": "a",
    "value": "1",
    "domain": "a.example",
    "host_only": True,
    "path": "/",
    "path_specified": False,
    "secure": False,
    "http_only": False,
    "same_site": None,
    "expires": 4_000_000_000,
}


class TestDamaged:
    def test_the_example_is_good(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_text(json.dumps({"version": 1, "cookies": [GOOD]}))
        assert sent(Cookies(path=path), "http://a.example/") == "a=1"

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x00" * 100,
            b"\xff\xfe",
            b"{",
            b'{"version": 1, "cookies": [{"name": "' + SECRET.encode(),
            b"[" * 100_000,
            b"[]",
            b"null",
            b'{"version": 1}',
            b'{"version": 2, "cookies": []}',
            b'{"version": 1, "cookies": {}}',
            b'{"version": 1, "cookies": [1]}',
            b'{"version": 1, "cookies": [{}]}',
            json.dumps({"version": 1, "cookies": [GOOD, {**GOOD, "value": 1}]}).encode(),
            json.dumps({"version": 1, "cookies": [{**GOOD, "expires": 1.5}]}).encode(),
            json.dumps({"version": 1, "cookies": [{**GOOD, "expires": True}]}).encode(),
            json.dumps({"version": 1, "cookies": [{**GOOD, "name": None, "value": SECRET}]}).encode(),
            json.dumps({"version": 1, "cookies": [{**GOOD, "more": 1}]}).encode(),
            b'{"version": 1, "cookies": [' + b"9" * 10_000 + b"]}",
        ],
        ids=range(19),
    )
    def test_is_set_aside(self, path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
        path.parent.mkdir()
        path.write_bytes(content)
        cookies = Cookies(path=path)
        aside = path.with_name("cookies.json.damaged")
        assert not list(cookies.jar)
        assert aside.read_bytes() == content
        (message,) = warnings_of(caplog)
        assert str(path) in message
        assert str(aside) in message
        take(cookies, "http://a.example/", f"b=1; {LASTING}")
        assert names_in(path) == ["b"]
        assert len(warnings_of(caplog)) == 1

    def test_while_we_run(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        cookies = Cookies(path=path)
        take(cookies, "http://a.example/", f"a=1; {LASTING}")
        path.write_text("{")
        take(cookies, "http://a.example/", f"b=2; {LASTING}")
        assert names_in(path) == ["a", "b"]
        assert len(warnings_of(caplog)) == 1

    def test_gone_while_we_run(self, path: Path) -> None:
        cookies = Cookies(path=path)
        take(cookies, "http://a.example/", f"a=1; {LASTING}")
        path.unlink()
        path.parent.rmdir()
        take(cookies, "http://a.example/", f"b=2; {LASTING}")
        assert names_in(path) == ["a", "b"]

    def test_cannot_be_read(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path.mkdir(parents=True)
        cookies = Cookies(path=path)
        take(cookies, "http://a.example/", f"a={SECRET}; {LASTING}")
        assert sent(cookies, "http://a.example/") == f"a={SECRET}"
        cookies.clear()
        assert path.is_dir()
        assert len(warnings_of(caplog)) == 2  # one about loading, one about saving


class TestFailure:
    """Writing fails: the request goes on, the old file stays, no other is left."""

    def check(self, cookies: Cookies, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        before = path.read_bytes()
        take(cookies, "http://a.example/", f"b={SECRET}; {LASTING}")
        take(cookies, "http://a.example/", f"c={SECRET}; {LASTING}")
        assert sent(cookies, "http://a.example/") == f"a=1; b={SECRET}; c={SECRET}"
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["cookies.json"]
        assert len(warnings_of(caplog)) == 1  # a full disk stays full for a while

    @pytest.mark.parametrize("name", ["replace", "fsync"])
    def test_of_a_call(
        self, path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        cookies = Cookies(path=path)
        take(cookies, "http://a.example/", f"a=1; {LASTING}")

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(os, name, fail)
            self.check(cookies, path, caplog)
        cookies.save()
        assert names_in(path) == ["a", "b", "c"]  # what was not written is not forgotten
        with monkeypatch.context() as broken:
            broken.setattr(os, name, fail)
            take(cookies, "http://a.example/", f"d=1; {LASTING}")
        assert len(warnings_of(caplog)) == 2

    @posix
    def test_of_a_full_disk(self, path: Path) -> None:
        take(Cookies(path=path), "http://a.example/", f"a=1; {LASTING}")
        before = path.read_bytes()
        with start(FULL_DISK, path, SECRET) as child:
            told = child.communicate(timeout=LIMIT)[0].splitlines()
        assert told[0].startswith("cookies could not be saved: ")
        assert told[1:] == [f"a=1; b={SECRET}"]
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["cookies.json"]

    def test_of_the_folder(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path.parent.write_text("no folder")
        cookies = Cookies(path=path)
        take(cookies, "http://a.example/", f"a=1; {LASTING}")
        assert sent(cookies, "http://a.example/") == "a=1"
        assert warnings_of(caplog)

    def test_ctrl_c_leaves_nothing(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        cookies = Cookies(path=path)
        with monkeypatch.context() as broken:
            broken.setattr(os, "replace", interrupt)
            with pytest.raises(KeyboardInterrupt):
                take(cookies, "http://a.example/", f"a=1; {LASTING}")
        assert not list(path.parent.iterdir())
        cookies.save()  # no lock is left behind
        assert names_in(path) == ["a"]

    def test_file_systems_without_locks(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fcntl = pytest.importorskip("fcntl")

        def fail(*_: object) -> None:
            raise OSError(37, "No locks available")

        monkeypatch.setattr(fcntl, "flock", fail)
        take(Cookies(path=path), "http://a.example/", f"a=1; {LASTING}")
        assert names_in(path) == ["a"]

    @posix
    def test_systems_without_locks(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "win32")
        take(Cookies(path=path), "http://a.example/", f"a=1; {LASTING}")
        assert names_in(path) == ["a"]


# --- other processes -----------------------------------------------------------------------------------------------

PRELUDE = """
import os, signal, sys
from clientrequest._cookies import Cookies
from clientrequest._options import parse_url
path, name = sys.argv[1:]
target = parse_url("http://a.example/")
"""

DIES_BEFORE = """
cookies = Cookies(path=path)
setattr(os, name, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
cookies.store(target, ["new=" + "x" * 4000 + "; Max-Age=60"])
"""

FULL_DISK = """
import logging, resource
logging.basicConfig(stream=sys.stdout, format="%(message)s")
cookies = Cookies(path=path)
# Files may not become longer than this many bytes; pipes may.
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
cookies.store(target, [f"b={name}; Max-Age=600"])
print(cookies.header_for(target))
"""

WRITES_MANY = """
cookies = Cookies(path=path)
print("ready", flush=True)
sys.stdin.readline()
for turn in range(40):
    cookies.store(target, [f"{name}{turn}=" + name * 500 + "; Max-Age=600"])
"""


def start(program: str, path: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + program, str(path), name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@posix
@pytest.mark.parametrize(
    ("call", "expected"), [("fsync", "old=1"), ("replace", "old=1"), ("unlink", "new=" + "x" * 4000 + "; old=1")]
)
def test_killed_in_the_middle_of_a_write(path: Path, call: str, expected: str) -> None:
    take(Cookies(path=path), "http://a.example/", f"old=1; {LASTING}")
    with start(DIES_BEFORE, path, call) as child:
        child.communicate(timeout=LIMIT)
        # Nothing is unlinked when all goes well: there the child lives.
        assert child.returncode == (0 if call == "unlink" else -signal.SIGKILL)
    header = sent(Cookies(path=path), "http://a.example/") or ""
    assert sorted(header.split("; ")) == sorted(expected.split("; "))
    assert not path.with_name("cookies.json.damaged").exists()


@posix
def test_killed_at_any_moment(path: Path) -> None:
    take(Cookies(path=path), "http://a.example/", f"old=1; {LASTING}")
    for turn in range(3):
        with start(WRITES_MANY, path, "abc"[turn]) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdout.readline()
            before = path.stat().st_ino
            child.stdin.write("\n")
            child.stdin.flush()
            deadline = time.monotonic() + LIMIT
            while path.stat().st_ino == before and time.monotonic() < deadline:
                pass  # polls: a file that is replaced makes no noise
            child.kill()
            child.wait(LIMIT)
        names = names_in(path)
        assert names[0] == "old"
        assert len(names) > turn


def test_two_processes_keep_each_others_cookies(path: Path) -> None:
    children = [start(WRITES_MANY, path, name) for name in "ab"]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        child.communicate(timeout=LIMIT * 3)
        assert child.returncode == 0
    cookies = json.loads(path.read_bytes())["cookies"]
    assert all(cookie["value"] == cookie["name"][0] * 500 for cookie in cookies)
    if os.name == "posix":
        assert sorted(names_in(path)) == sorted(f"{name}{turn}" for name in "ab" for turn in range(40))


class TestSharedFile:
    def both(self, path: Path) -> tuple[Cookies, Cookies]:
        take(Cookies(path=path), "http://a.example/", f"a=1; {LASTING}", f"b=1; {LASTING}")
        return Cookies(path=path), Cookies(path=path)

    def values(self, path: Path) -> dict[str, str]:
        return {cookie["name"]: cookie["value"] for cookie in json.loads(path.read_bytes())["cookies"]}

    def test_each_writes_what_it_changed(self, path: Path) -> None:
        one, other = self.both(path)
        take(one, "http://a.example/", f"a=2; {LASTING}", f"c=1; {LASTING}")
        take(other, "http://a.example/", f"b=3; {LASTING}", f"d=1; {LASTING}")
        assert self.values(path) == {"a": "2", "b": "3", "c": "1", "d": "1"}

    def test_of_one_cookie_the_last_wins(self, path: Path) -> None:
        one, other = self.both(path)
        take(one, "http://a.example/", f"a=2; {LASTING}")
        take(other, "http://a.example/", f"a=3; {LASTING}")
        assert self.values(path)["a"] == "3"

    def test_what_one_deleted_the_other_does_not_bring_back(self, path: Path) -> None:
        one, other = self.both(path)
        take(one, "http://a.example/", "a=; Max-Age=0")
        take(other, "http://a.example/", f"c=1; {LASTING}")
        assert self.values(path) == {"b": "1", "c": "1"}

    def test_what_one_cleared_the_other_does_not_bring_back(self, path: Path) -> None:
        one, other = self.both(path)
        one.clear()
        take(other, "http://a.example/", f"c=1; {LASTING}")
        assert self.values(path) == {"c": "1"}

    def test_what_expired_here_may_live_on_there(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        take(Cookies(path=path), "http://a.example/", "a=1; Max-Age=60")
        one, other = Cookies(path=path), Cookies(path=path)
        take(other, "http://a.example/", "a=2; Max-Age=600")
        moment = time.time()
        monkeypatch.setattr(time, "time", lambda: moment + 100)
        take(one, "http://a.example/", f"c=1; {LASTING}")
        assert self.values(path) == {"a": "2", "c": "1"}


# --- names of files ------------------------------------------------------------------------------------------------


NAMES: Sequence[str] = (
    *("", "a", "A", "a ", " a", "a.", ".", "..", "../a", "../../etc/passwd", "/etc/passwd", "a/b", "a\\b", "C:\\x"),
    *(
        "con",
        "NUL",
        "a\x00b",
        "a\nb",
        "caf\u00e9",
        "cafe\u0301",
        "\u212a",
        "k",
        "\U0001f36a",
        "\ud800",
        "\u0131",
        "\u0130",
    ),
    *("x" * 1000, "x" * 1001, "a:b", "a-b", "a?b", "a*b", "~", "-rf", ".hidden", "cookies"),
)


def test_partitions_have_files_of_their_own(tmp_path: Path) -> None:
    files = [partition_file(tmp_path, name) for name in NAMES]
    assert len({file.name.casefold() for file in files}) == len(NAMES)
    for file in files:
        assert file.parent == tmp_path
        assert file.name.isascii()
        assert len(file.name) < 100
        assert set(file.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-.")
        assert file.name[0] not in ".-"
        file.touch(exist_ok=False)


def test_file_of_a_partition_is_always_the_same(tmp_path: Path) -> None:
    assert partition_file(tmp_path, "Shop EU") == partition_file(tmp_path, "Shop EU")
    assert partition_file(tmp_path, "Shop EU").name.startswith("shop-eu-")


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/clientrequest"),
        ("linux", {"XDG_DATA_HOME": ""}, "/home/me/.local/share/clientrequest"),
        ("linux", {"XDG_DATA_HOME": "relative"}, "/home/me/.local/share/clientrequest"),
        ("linux", {}, "/home/me/.local/share/clientrequest"),
        ("darwin", {"XDG_DATA_HOME": "/data"}, "/home/me/Library/Application Support/clientrequest"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/clientrequest"),
        ("win32", {}, "/home/me/AppData/Local/clientrequest"),
    ],
)
@posix
def test_default_storage(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert default_storage() == Path(expected)
