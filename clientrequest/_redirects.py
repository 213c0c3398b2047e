"""Redirects: what a 3xx asks for, and what of the request may go there. Pure (RFC 9110, 15.4; Fetch, 4.4).

No thread, no event: the exchange asks, and does what the answer says.
"""

from __future__ import annotations

from typing import NamedTuple, Optional
from urllib.parse import urljoin, urlsplit

from ._errors import RedirectError
from ._http1 import ResponseHead
from ._options import DEFAULT_PORTS, HeaderTable, Target, parse_url

STATUSES = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 20

# What describes a body goes with the body; a new origin must not see what was meant for the old one.
_OF_A_BODY = ("origin", "transfer-encoding", "expect")
_OF_AN_ORIGIN = ("authorization", "cookie", "proxy-authorization", "host")


class Redirect(NamedTuple):
    """What a redirect asks for."""

    status: int
    method: str
    target: Target
    keeps_body: bool


def is_redirect(head: ResponseHead) -> bool:
    """Whether the head points elsewhere."""
    return head.status in STATUSES and bool(head.values("location"))


def parse_redirect(head: ResponseHead, method: str, target: Target) -> Redirect:
    """What ``head``, the answer to ``method`` on ``target``, asks for. Raises ``RedirectError``."""
    location = head.values("location")[0]
    try:
        # As browsers do: bytes outside ASCII are meant as UTF-8.
        joined = urljoin(target.url, location.encode("latin-1").decode("utf-8", "replace"))
        scheme = urlsplit(joined).scheme.lower()
    except ValueError:  # whose text may have a password in it
        raise RedirectError("ERR_INVALID_REDIRECT", f"{target.authority}: cannot read the Location") from None
    if scheme not in DEFAULT_PORTS:
        raise RedirectError("ERR_UNSAFE_REDIRECT", f"{target.authority} redirects to {scheme[:20]!r}, not to http(s)")
    try:
        there = parse_url(joined)
    except ValueError as error:
        raise RedirectError("ERR_INVALID_REDIRECT", f"{target.authority}: the Location is no URL to go to") from error
    rewritten = _method_after(head.status, method)
    return Redirect(head.status, rewritten, there, keeps_body=rewritten == method)


def _method_after(status: int, method: str) -> str:
    if status == 303 and method != "HEAD":
        return "GET"
    if status in (301, 302) and method == "POST":
        return "GET"
    return method


def headers_after(headers: HeaderTable, redirect: Redirect, here: Target, referrer_policy: str) -> HeaderTable:
    """The headers for the next hop."""
    headers = headers.copy()
    if not redirect.keeps_body:
        for key in headers.names():
            if key.startswith("content-") or key in _OF_A_BODY:
                headers.discard(key)
    if redirect.target.origin != here.origin:
        for key in _OF_AN_ORIGIN:
            headers.discard(key)
    referrer = headers.line("referer")
    if referrer is not None:
        allowed = referrer_after(referrer_policy, referrer, redirect.target)
        if allowed is None:
            headers.discard("referer")
        elif allowed != referrer:
            headers.set("Referer", allowed)
    return headers


def referrer_after(policy: str, referrer: str, target: Target) -> Optional[str]:
    """What of ``Referer`` may be told to ``target`` (Referrer Policy, 8.3); ``None`` for nothing."""
    try:
        source = parse_url(referrer)
    except ValueError:
        return None
    origin = f"{source.scheme}://{source.authority}/"
    downgrade = source.scheme == "https" and target.scheme == "http"
    same = source.origin == target.origin
    policy = policy or "strict-origin-when-cross-origin"
    if policy == "unsafe-url":
        return referrer
    if policy == "no-referrer" or (policy == "same-origin" and not same):
        return None
    if downgrade and policy in ("no-referrer-when-downgrade", "strict-origin", "strict-origin-when-cross-origin"):
        return None
    if policy in ("origin", "strict-origin"):
        return origin
    if policy in ("origin-when-cross-origin", "strict-origin-when-cross-origin") and not same:
        return origin
    return referrer
