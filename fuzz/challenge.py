"""The parser of ``WWW-Authenticate`` and ``Proxy-Authenticate``, and the answers to what it found.

Input: a byte of flags, then the lines.
"""

from __future__ import annotations

import re

from clientrequest._auth import (
    MOST_CHALLENGES,
    AuthCache,
    Challenge,
    make_login,
    parse_challenges,
    parse_parameters,
    supported,
)
from fuzz.common import stretch, timed

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
ORIGIN = ("https", "example.com", 443)
PATH = "/a/b?c"


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    flags, text = data[0], data[1:]
    lines = text.decode("latin-1").split("\n")
    found = parse_challenges(lines)
    assert found == [challenge for line in lines for challenge in parse_challenges([line])]
    assert len(found) <= MOST_CHALLENGES * len(lines)
    for challenge in found:
        _check_challenge(challenge)
    told = parse_parameters(lines)
    assert all(TOKEN.fullmatch(name) and name == name.lower() for name in told)
    _answer(found, flags)


def check_long(data: bytes) -> None:
    if len(data) < 2:
        return
    line = stretch(data[1:]).decode("latin-1")
    timed(lambda: parse_challenges([line]))
    timed(lambda: parse_parameters([line]))
    timed(lambda: _answer(parse_challenges([line]), data[0]))


def _check_challenge(challenge: Challenge) -> None:
    assert TOKEN.fullmatch(challenge.scheme)
    assert challenge.scheme == challenge.scheme.lower()
    assert all(TOKEN.fullmatch(name) and name == name.lower() for name in challenge.parameters)
    assert isinstance(challenge.realm_text, str)
    assert isinstance(challenge.stale, bool)
    assert parse_challenges([write(challenge)]) == [challenge]


def write(challenge: Challenge) -> str:
    """The challenge as one line."""
    if challenge.token and not challenge.parameters:
        return f"{challenge.scheme} {challenge.token}"
    given = [f"{name}={quote(value)}" for name, value in challenge.parameters.items()]
    if challenge.token:  # parameters that came behind a token
        return ", ".join([f"{challenge.scheme} {challenge.token}", *given])
    return f"{challenge.scheme} {', '.join(given)}".strip()


def quote(value: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _answer(found: list[Challenge], flags: int) -> None:
    chosen = supported(found, body_known=bool(flags & 1), negotiate=bool(flags & 2))
    if chosen is None:
        return
    login = make_login(chosen, "us\xe9r", 'pass"word')
    value = login.header("GET", PATH, (lambda state: None) if flags & 1 else None)
    if value is not None:
        as_sent = value.encode("latin-1").decode("latin-1")
        if all(FIELD_VALUE.fullmatch(text) for text in chosen.parameters.values()):
            assert FIELD_VALUE.fullmatch(as_sent), "not to be sent"
        if chosen.scheme == "digest":
            sent = parse_parameters([value.partition(" ")[2]])
            assert sent["nonce"] == chosen.parameters["nonce"]
            assert sent["realm"] == chosen.realm
            assert sent["uri"] == PATH
        for challenge in found:
            login.renew(challenge, unasked=bool(flags & 4))
        login.note([write(challenge).partition(" ")[2] for challenge in found], value)
    for space in login.spaces(ORIGIN, PATH):
        assert space == "" or space.startswith("/")
    cache = AuthCache()
    cache.store(bool(flags & 8), ORIGIN, PATH, login)
    cache.find(bool(flags & 8), ORIGIN, PATH)
    assert cache.find(bool(flags & 8), ("https", "example.org", 443), PATH) is None
    cache.forget(login)
    assert cache.is_empty
