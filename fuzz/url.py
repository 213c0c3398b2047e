"""URLs, Node's parts, options, the ``Location`` of redirects, proxies and ``NO_PROXY``.

Input: a byte of flags, then lines.
"""

from __future__ import annotations

import re
from typing import Any, Optional
from urllib.parse import urljoin, urlsplit

from clientrequest._errors import RedirectError
from clientrequest._http1 import ResponseHead
from clientrequest._options import HeaderTable, Target, parse_options, parse_url
from clientrequest._proxies import parse_proxies
from clientrequest._redirects import headers_after, parse_redirect, referrer_after
from fuzz.common import check_message, stretch, timed

BASE = parse_url("https://base.example/folder/file?query")
PATH = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?\[\]|]|%[0-9A-Fa-f]{2})*")
NAME = re.compile(r"[a-z0-9\-._~!$&'()*+,;=%]+")
ADDRESS = re.compile(r"[0-9a-f:.]+(?:%[a-z0-9._~\-]*)?")
POLICIES = ("", "no-referrer", "origin", "same-origin", "strict-origin", "unsafe-url", "origin-when-cross-origin")


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    flags, rest = data[0], data[1:]
    lines = _text(rest, flags).split("\n")
    _url(lines[0])
    _parts(lines)
    _location(lines[0])
    _proxy(lines[0], lines[-1])


def check_long(data: bytes) -> None:
    if len(data) < 2:
        return
    long = _text(stretch(data[1:]), data[0])
    timed(lambda: _url(long))
    timed(lambda: _parts([long]))
    timed(lambda: _parts(["", "", long]))
    timed(lambda: _parts(["", "", "", "", long]))
    timed(lambda: _location(long))
    timed(lambda: _proxy(long, long))


def _text(data: bytes, flags: int) -> str:
    return data.decode("latin-1") if flags & 1 else data.decode("utf-8", "replace")


def _url(text: str) -> None:
    try:
        target = parse_url(text)
    except ValueError as error:
        _check_message(error, text)
        return
    assert target.host == host_of(text), "another host than urllib's"
    parts = urlsplit(text)
    assert target.port == (parts.port or (443 if target.scheme == "https" else 80))
    _check_target(target)
    assert parse_options(text, {}).target == target
    for policy in POLICIES:
        told = referrer_after(policy, text, BASE)
        assert told is None or told == text or urlsplit(told).hostname


def host_of(text: str) -> Optional[str]:
    """The host to which ``urllib.parse`` says that the URL leads."""
    host = urlsplit(text).hostname
    if host is None:
        return None
    # What is behind a "%" is left as it is there.
    return (host if host.isascii() else host.encode("idna").decode("ascii")).lower()


def _check_target(target: Target) -> None:
    assert target.scheme in ("http", "https")
    assert 0 < target.port < 65536
    assert (ADDRESS if ":" in target.host else NAME).fullmatch(target.host), target.host
    assert PATH.fullmatch(target.path), target.path
    parts = urlsplit(target.url)
    assert (parts.scheme, parts.hostname) == (target.scheme, target.host)
    assert parts.username is None
    assert parts.fragment == ""
    assert parse_url(target.url) == target._replace(username=None, password=None), "not the same when read again"


def _check_message(error: Exception, text: str) -> None:
    check_message(error)
    try:
        password = urlsplit(text).password
    except ValueError:
        return
    if password and len(password) > 6 and password not in text.rpartition("@")[2]:
        assert password not in str(error), "the password is told"


def _parts(lines: list[str]) -> None:
    names = ("host", "protocol", "hostname", "port", "path", "method", "origin", "referrer_policy", "redirect")
    options: dict[str, Any] = {name: line for name, line in zip(names, lines) if line}
    try:
        parsed = parse_options(options, {})
    except (TypeError, ValueError):
        return
    _check_target(parsed.target)


def _location(text: str) -> None:
    raw = text.encode("utf-8", "replace").decode("latin-1")
    head = ResponseHead((1, 1), 302, "", [("Location", raw)])
    try:
        redirect = parse_redirect(head, "POST", BASE)
    except RedirectError as error:
        check_message(error)
        return
    target = redirect.target
    assert redirect.method == "GET"
    assert not redirect.keeps_body
    _check_target(target)
    assert target.host == host_of(urljoin(BASE.url, raw.encode("latin-1").decode("utf-8", "replace")))
    if "//" not in text and ":" not in text:
        assert target.origin == BASE.origin
    sent = HeaderTable({"Authorization": "x", "Cookie": "y", "Referer": BASE.url, "Content-Type": "z"})
    left = headers_after(sent, redirect, BASE, "")
    assert not left.has("content-type")
    if target.origin != BASE.origin:
        assert {"authorization", "cookie"}.isdisjoint(left.names()), "secrets go to another origin"


def _proxy(text: str, bypass: str) -> None:
    try:
        proxies = parse_proxies({"all": text, "no_proxy": bypass})
    except ValueError as error:
        _check_message(error, text)
        proxies = parse_proxies({"all": "http://proxy.example:3128", "no_proxy": bypass})
    proxy = proxies.find(BASE)
    if proxy is not None:
        assert 0 < proxy.port < 65536
        assert (ADDRESS if ":" in proxy.host else NAME).fullmatch(proxy.host)
        assert urlsplit(proxy.url).hostname == proxy.host
        assert proxy.password is None or len(proxy.password) < 6 or proxy.password not in repr(proxy) + proxy.url
