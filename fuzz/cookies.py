"""The cookie store: lines of ``Set-Cookie`` from one URL, the ``Cookie`` header for another, and the file.

Input: a byte of flags, then lines: a URL that sets, a URL that asks, and the lines that are set; or a file.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path

from clientrequest._cookies import LONGEST_LIFE, MOST_OF_A_COOKIE, MOST_OF_A_DOMAIN, Cookies, _as_json, _from_json
from clientrequest._cookies import _records as records_of
from clientrequest._options import Target, parse_url
from fuzz.common import check_message, stretch, timed

FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
PLACES = [
    parse_url(url)
    for url in (
        "http://example.com/",
        "https://www.example.com/a/b",
        "https://example.org/",
        "http://localhost/",
        "http://127.0.0.1/",
        "https://[::1]/",
        "https://a.b.co.uk/x",
        "https://b.co.uk/x/",
    )
]


def check(data: bytes) -> None:
    if len(data) < 3:
        return
    flags, rest = data[0], data[1:]
    if flags & 0xF0 == 0xE0:
        _check_file(rest)
    else:
        _check_store(rest, flags)


def _place(line: str, number: int) -> Target:
    try:
        return parse_url(line)
    except ValueError:
        return PLACES[number % len(PLACES)]


def _check_store(rest: bytes, flags: int) -> None:
    first, _, rest_of_text = rest.decode("latin-1").partition("\n")
    second, _, rest_of_text = rest_of_text.partition("\n")
    lines = rest_of_text.split("\n")
    here, there = _place(first, flags & 7), _place(second, flags >> 3 & 7)
    cookies = Cookies()
    now = int(time.time())
    cookies.store(here, lines)
    for cookie in cookies.jar:
        assert cookie.value is not None
        assert len(cookie.name) + len(cookie.value) <= MOST_OF_A_COOKIE
        assert not cookie.secure or here.scheme == "https", "Secure, from plain http"
        assert belongs(here.host, cookie.domain, cookie.domain_specified), "set for somebody else"
        assert cookie.expires is None or now - 1 <= cookie.expires <= now + LONGEST_LIFE + 5
        if cookie.name.lower().startswith("__host-"):
            assert cookie.secure
            assert cookie.path == "/"
            assert not cookie.domain_specified
        if cookie.name.lower().startswith("__secure-"):
            assert cookie.secure
    assert len(list(cookies.jar)) <= MOST_OF_A_DOMAIN * 2
    for target in (here, there):
        _check_header(cookies, target)
    if not related(here.host, there.host):
        assert cookies.header_for(there) is None, "a cookie for a foreign domain"
    records = records_of(cookies.jar)
    assert _from_json(_as_json(records)) == records


def _check_header(cookies: Cookies, target: Target) -> None:
    header = cookies.header_for(target)
    if header is None:
        return
    assert header
    assert FIELD_VALUE.fullmatch(header)
    may = [
        f"{cookie.name}={cookie.value}"
        for cookie in cookies.jar
        if belongs(target.host, cookie.domain, cookie.domain_specified)
        and (not cookie.secure or target.scheme == "https")
    ]
    assert len(header) <= len("; ".join(may)), "more than is there for it"
    assert all(pair in "; ".join(may) for pair in header.split("; "))


def belongs(host: str, domain: str, domain_specified: bool) -> bool:
    """Whether a cookie with this domain is the host's; said anew, by RFC 6265, 5.1.3."""
    if not domain_specified:
        return domain == host
    bare = domain[1:] if domain.startswith(".") else domain
    if is_address(host) or len([label for label in bare.split(".") if label]) < 2:
        return False
    return host == bare or host.endswith("." + bare)


def is_address(host: str) -> bool:
    last = host.rstrip(".").rpartition(".")[2]
    return ":" in host or last.isdigit() or re.fullmatch("0x[0-9a-f]*", last) is not None


def related(one: str, other: str) -> bool:
    """Whether the two may have a cookie in common."""
    if one == other:
        return True
    if is_address(one) or is_address(other):
        return False
    common = 0
    for left, right in zip(reversed(one.split(".")), reversed(other.split("."))):
        if left != right:
            break
        common += left != ""
    return common >= 2


def _check_file(content: bytes) -> None:
    try:
        records = _from_json(content)
    except (ValueError, RecursionError) as error:
        check_message(error, 200)
        records = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cookies.json")
        path.write_bytes(content)
        cookies = Cookies(path=path)
        assert (records is None) == os.path.exists(f"{path}.damaged")
        for target in PLACES:
            header = cookies.header_for(target)
            assert header is None or FIELD_VALUE.fullmatch(header)
        cookies.store(PLACES[1], ["a=b; Max-Age=1000"])
        assert "a=b" in (cookies.header_for(PLACES[1]) or "")
        kept = [(cookie.name, cookie.domain, cookie.path) for cookie in cookies.jar]
        if records is not None:
            again = Cookies(path=path)
            assert [(cookie.name, cookie.domain, cookie.path) for cookie in again.jar] == kept or len(kept) > 180


def check_long(data: bytes) -> None:
    if len(data) < 3:
        return
    lines = stretch(data[1:]).decode("latin-1").split("\n")
    cookies = Cookies()
    here = PLACES[data[0] & 7]
    timed(lambda: cookies.store(here, lines))
    timed(lambda: cookies.header_for(here))
