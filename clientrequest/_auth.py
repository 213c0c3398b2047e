"""Logins: what a server or proxy asks for, the answer to it, and the answers that were accepted.

Basic (RFC 7617) and Digest (RFC 7616) are made here. NTLM and Negotiate are about connections, not requests: of
these, only the credentials are kept here. No I/O and no event: the exchange asks, and does what the answer says.

For each challenge: ``supported`` picks one; ``AuthCache.match`` knows a login for it or ``make_login`` makes one of
what the user gave; ``Login.header`` is sent. A login that was refused is worth another try only if ``Login.renew``
says so. One that was accepted goes to ``AuthCache.store``, and ``AuthCache.find`` gives it to later requests.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Iterable
from typing import Any, Callable, NamedTuple, Optional
from urllib.parse import quote, urljoin

from ._http1 import TOKEN
from ._options import Target, parse_url

Origin = tuple[str, str, int]
#: Feeds the whole body of a request into a hash object; see ``Login.header``.
Feed = Callable[[Any], object]

MOST_CHALLENGES = 100  # of one line that are looked at
MOST_SPACES = 32  # path prefixes remembered for one login; beyond these the oldest is forgotten

# Held for some instructions at a time, never while something is hashed or called: one lock is enough for all
# sessions, and a forked child has only this one to renew.
_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class AuthInfo(NamedTuple):
    """Who asks for credentials, and how; the first argument of the ``login`` event (Electron: ``authInfo``).

    Attributes:
        is_proxy: whether it is the proxy that asks.
        scheme: ``"basic"``, ``"digest"`` and the like, in lower case.
        host: of the server or the proxy.
        port: of the server or the proxy.
        realm: what the credentials are for, as the server puts it.
    """

    is_proxy: bool
    scheme: str
    host: str
    port: int
    realm: str

    @property
    def isProxy(self) -> bool:
        """Electron's spelling of ``is_proxy``."""
        return self.is_proxy


# --- challenges ----------------------------------------------------------------------------------------------------

# What lies between commas, a quoted string being one piece; one whose end is missing lasts until the line ends.
# No piece can be read in two ways, so all patterns here take linear time. They are compiled when they are first
# used: most programs never need them.
_QUOTED = r'"([^"\\]*(?:\\.[^"\\]*)*)\\?(?:"|\Z)'
_PIECE = rf'(?s:[^",]+|{_QUOTED}|,)'
_PARAMETER = rf'(?s:({TOKEN})[ \t]*=[ \t]*(?:{_QUOTED}|([^\s"]*)))'
_SCHEME = rf"(?s:({TOKEN})(?:[ \t]+(.*))?)"
_TOKEN68 = r"[A-Za-z0-9\-._~+/]+=*"
_ESCAPED = r"(?s:\\(.))"
_FIELD_TEXT = r"[\t\x20-\x7e\x80-\xff]*"


class Challenge(NamedTuple):
    """One way to log in that a server or proxy offers (RFC 9110, 11.3).

    Attributes:
        scheme: in lower case.
        parameters: lower-case names and their values, without quotes and escapes. Of one that is given twice,
            which RFC 9110 forbids, the first counts.
        token: the token68 that some schemes have instead of parameters, or ``""``.
    """

    scheme: str
    parameters: dict[str, str]
    token: str

    @property
    def realm(self) -> str:
        """The realm as it was sent, one character for each octet; ``""`` if there is none."""
        return self.parameters.get("realm", "")

    @property
    def realm_text(self) -> str:
        """The realm for a person to read: UTF-8 where it is that, which servers send whatever the RFCs say."""
        with contextlib.suppress(UnicodeError):
            return self.realm.encode("latin-1").decode("utf-8")
        return self.realm

    @property
    def stale(self) -> bool:
        """Whether only the nonce was refused, not the credentials (RFC 7616, 3.3)."""
        return self.parameters.get("stale", "").lower() == "true"


def parse_challenges(lines: Iterable[str]) -> list[Challenge]:
    """The challenges of all ``WWW-Authenticate`` or ``Proxy-Authenticate`` lines, in order (RFC 9110, 11.6.1).

    Raises nothing, whatever the text; what cannot be read is passed over. Each line is read for itself: a quote that
    is never closed costs no more than the rest of its line, and a parameter before any scheme belongs to nobody.
    Behind the first ``MOST_CHALLENGES`` the rest of a line is ignored.
    """
    return [challenge for line in lines for challenge in _parse_line(line)]


def _parse_line(line: str) -> list[Challenge]:
    challenges: list[Challenge] = []
    for element in _elements(line):
        if len(challenges) == MOST_CHALLENGES:
            break
        if _add_parameter(element, challenges[-1].parameters if challenges else {}):
            continue
        match = re.fullmatch(_SCHEME, element)
        if match is None:
            continue
        scheme, rest = match[1].lower(), match[2] or ""
        # Before the parameter: "abc=" is a token68, and would be a parameter without a value.
        is_token = re.fullmatch(_TOKEN68, rest) is not None
        challenges.append(Challenge(scheme, {}, rest if is_token else ""))
        if not is_token:
            _add_parameter(rest, challenges[-1].parameters)
    return challenges


def _elements(line: str) -> list[str]:
    """What stands between the commas of a list, those in quoted strings apart; without empty elements."""
    elements: list[list[str]] = [[]]
    for match in re.finditer(_PIECE, line):
        if match[0] == ",":
            elements.append([])
        else:
            elements[-1].append(match[0])
    stripped = ("".join(pieces).strip(" \t") for pieces in elements)
    return [element for element in stripped if element]


def _add_parameter(element: str, parameters: dict[str, str]) -> bool:
    """Add what ``element`` says to ``parameters``; false if it is no parameter."""
    match = re.match(_PARAMETER, element)
    if match is None:
        return False
    name, quoted, plain = match.groups()
    value = plain if quoted is None else re.sub(_ESCAPED, r"\1", quoted)
    parameters.setdefault(name.lower(), value)
    return True


def parse_parameters(lines: Iterable[str]) -> dict[str, str]:
    """The parameters of ``Authentication-Info`` lines, which name no scheme (RFC 9110, 11.6.3). Raises nothing."""
    parameters: dict[str, str] = {}
    for line in lines:
        for element in _elements(line):
            _add_parameter(element, parameters)
    return parameters


def supported(challenges: Iterable[Challenge], *, body_known: bool, negotiate: bool) -> Optional[Challenge]:
    """The strongest challenge that can be answered; of equal ones the first; ``None`` if there is none.

    Args:
        challenges: all that were offered.
        body_known: whether all of the request's body is there to be hashed, which ``auth-int`` needs.
        negotiate: whether there is something that speaks NTLM and Negotiate.
    """
    strongest, most = None, 0
    for challenge in challenges:
        strength = _strength(challenge, body_known, negotiate)
        if strength > most:
            strongest, most = challenge, strength
    return strongest


def _strength(challenge: Challenge, body_known: bool, negotiate: bool) -> int:
    """0 for what cannot be answered."""
    if challenge.scheme in PER_CONNECTION:
        return PER_CONNECTION[challenge.scheme] if negotiate else 0
    if challenge.scheme == "digest":
        terms = _read_terms(challenge)
        return 0 if terms is None or terms.qop_for(body_known) is None else _STRENGTHS[terms.hash_name]
    return 1 if challenge.scheme == "basic" else 0


#: Schemes that log in a connection, not a request, and how strong they are.
PER_CONNECTION = {"negotiate": 6, "ntlm": 5}
_STRENGTHS = {"sha512_256": 4, "sha256": 3, "md5": 2}

# --- logins --------------------------------------------------------------------------------------------------------

_CONTROL = r"[\x00-\x1f\x7f]"


def check_credentials(username: object, password: object, scheme: str) -> None:
    """Check what a user gave for a login with ``scheme``.

    Raises:
        TypeError: one of them is no ``str``.
        ValueError: a control character (RFC 7617, 2) or a lone surrogate in one of them, or a colon in the user
            name where Basic would take what follows for the password. The values themselves are never told.
    """
    for name, value in (("username", username), ("password", password)):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")
        if re.search(_CONTROL, value):
            raise ValueError(f"{name}: control characters are not allowed")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name}: a lone surrogate cannot be sent") from None
    if scheme == "basic" and ":" in str(username):
        raise ValueError("username: no colon is allowed with Basic, the server would cut the name there")


class Guarded:
    """Base of what holds a password: tells nothing of it, and goes nowhere but where it is sent."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(f"{type(self).__name__} keeps passwords: it can be neither pickled nor copied")


class Login(Guarded):
    """Credentials together with the challenge that they answer; requests of a session share it. Safe for threads.

    Attributes:
        scheme: in lower case.
        realm: as it was sent; a login is good for the realm it was made for.
        username: as the user gave it.
    """

    __slots__ = ("realm", "scheme", "username")

    def __init__(self, challenge: Challenge, username: str) -> None:
        self.scheme = challenge.scheme
        self.realm = challenge.realm
        self.username = username

    def header(self, method: str, uri: str, body: Optional[Feed] = None) -> Optional[str]:
        """The value of ``Authorization`` or ``Proxy-Authorization`` for one request.

        Args:
            method: of the request.
            uri: what stands in the request line: path and query, with a proxy the whole URL, for ``CONNECT`` host
                and port.
            body: called with a hash object, feeds it all bytes of the body by its ``update()`` (for a request
                without a body: nothing); ``None`` if the body is not known as a whole.

        Returns:
            ``None`` if this request cannot be answered for: the body is not known and the server asks for its hash.
        """
        raise NotImplementedError

    def note(self, values: list[str], sent: str) -> None:
        """Learn from the ``Authentication-Info`` lines of the answer to a request that carried ``sent``."""

    def renew(self, challenge: Challenge, unasked: bool = False) -> bool:
        """Take over what a fresh challenge for the same realm says.

        Args:
            challenge: came as the answer to a request that this login had made the header for.
            unasked: that header was sent ahead of any challenge.

        Returns:
            Whether the same credentials are worth another try, without asking anybody. The caller has to count: a
            server may say so for ever.
        """
        return False

    def spaces(self, origin: Origin, path: str) -> list[str]:
        """The beginnings of the paths at ``origin`` to which it may be sent unasked, accepted for ``path``."""
        return []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for the realm {self.realm!r}>"


class ConnectionLogin(Login):
    """The credentials for NTLM or Negotiate, from which each connection makes a login of its own.

    It is never sent unasked: a connection that is logged in must not begin again, and the others will ask.
    """

    __slots__ = ("password",)

    def __init__(self, challenge: Challenge, username: str, password: str) -> None:
        super().__init__(challenge, username)
        self.password = password

    def header(self, method: str, uri: str, body: Optional[Feed] = None) -> Optional[str]:
        """Always ``None``: the header is made by what talks to the server on its connection."""
        return None


class BasicLogin(Login):
    """Basic (RFC 7617). Always UTF-8: the only charset a server may ask for, and what browsers send unasked."""

    __slots__ = ("_header",)

    def __init__(self, challenge: Challenge, username: str, password: str) -> None:
        super().__init__(challenge, username)
        octets = f"{username}:{password}".encode()
        self._header = "Basic " + base64.b64encode(octets).decode("ascii")

    def header(self, method: str, uri: str, body: Optional[Feed] = None) -> Optional[str]:
        return self._header

    def spaces(self, origin: Origin, path: str) -> list[str]:
        """What is at or below the folder of ``path`` (RFC 7617, 2.2)."""
        return [path.partition("?")[0].rpartition("/")[0] + "/"]


def make_login(challenge: Challenge, username: str, password: str) -> Login:
    """The login that answers ``challenge``, which ``supported`` gave, with what ``check_credentials`` let pass."""
    if challenge.scheme in PER_CONNECTION:
        return ConnectionLogin(challenge, username, password)
    if challenge.scheme == "digest":
        return DigestLogin(challenge, username, password)
    return BasicLogin(challenge, username, password)


# --- Digest --------------------------------------------------------------------------------------------------------

_HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
# Beside letters and digits, what may stand unquoted in an extended parameter (RFC 8187, 3.2.1).
_EXTENDED_SAFE = "!#$&+^`|"


class _Terms(NamedTuple):
    """What a Digest challenge asks for (RFC 7616, 3.3).

    ``algorithm`` is spelled as the server spells it and ``""`` if it names none; ``qops`` are those that are known
    here, none at all for a server of RFC 2069.
    """

    realm: str
    nonce: str
    opaque: Optional[str]
    algorithm: str
    hash_name: str
    is_session: bool
    qops: tuple[str, ...]
    is_utf8: bool
    hashes_user: bool
    domain: tuple[str, ...]

    def qop_for(self, body_known: bool) -> Optional[str]:
        """``auth`` before ``auth-int``, as every client does: it needs no second look at the body.

        ``""`` where the server knows none, ``None`` where none will do.
        """
        if not self.qops:
            return ""
        if "auth" in self.qops:
            return "auth"
        return "auth-int" if body_known else None


def _read_terms(challenge: Challenge) -> Optional[_Terms]:
    """``None`` for what cannot be answered: no nonce, an unknown algorithm, no known qop."""
    given = challenge.parameters
    algorithm = given.get("algorithm", "")
    name = algorithm.upper() or "MD5"
    is_session = name.endswith("-SESS")
    hash_name = _HASHES.get(name[: -len("-SESS")] if is_session else name)
    if hash_name is None or _new_hash(hash_name) is None or not given.get("nonce"):
        return None
    offered = [qop.strip(" \t").lower() for qop in given.get("qop", "").split(",")]
    qops = tuple(qop for qop in offered if qop in ("auth", "auth-int"))
    if any(offered) and not qops:
        return None
    if not all(re.fullmatch(_FIELD_TEXT, given.get(name, "")) for name in ("realm", "nonce", "opaque")):
        return None  # it is sent back, and nothing that has come over the wire looks like that
    return _Terms(
        realm=challenge.realm,
        nonce=given["nonce"],
        opaque=given.get("opaque"),
        algorithm=algorithm,
        hash_name=hash_name,
        is_session=is_session,
        qops=qops,
        is_utf8=given.get("charset", "").upper() == "UTF-8",
        hashes_user=given.get("userhash", "").lower() == "true",
        domain=tuple(given.get("domain", "").split(None, MOST_SPACES)[:MOST_SPACES]),
    )


def _new_hash(name: str) -> Any:
    """A hash object, or ``None`` where this Python has none of that name: not every OpenSSL has them all."""
    try:
        return hashlib.new(name, usedforsecurity=False)  # otherwise a FIPS build has no MD5
    except ValueError:
        return None


def _hash(name: str, *parts: bytes) -> bytes:
    """H of RFC 7616, 3.4.1, over the parts with a colon between them, in hexadecimal digits."""
    state = _new_hash(name)
    state.update(b":".join(parts))
    digits: str = state.hexdigest()
    return digits.encode("ascii")


class _Nonce:
    """One nonce of a server, how often it was used, and the cnonce that goes with it for ``-sess``."""

    __slots__ = ("cnonce", "count", "terms")

    def __init__(self, terms: _Terms, cnonce: str) -> None:
        self.terms = terms
        self.count = 0
        self.cnonce = cnonce


class _Use(NamedTuple):
    """One use of a nonce. ``nc`` is the count in eight hexadecimal digits, ``qop`` is ``""`` for none."""

    terms: _Terms
    qop: str
    nc: str
    cnonce: str


def _make_cnonce() -> str:
    return secrets.token_hex(16)


class DigestLogin(Login):
    """Digest (RFC 7616; without qop, RFC 2069).

    What is taken from the server is hashed and sent back octet by octet; user name and password are UTF-8.

    The variants ``-sess`` hash the nonce and cnonce into the key, and servers differ in which: those that the session
    began with, as the RFC has it, or those of the request. So neither changes before the next challenge: one cnonce
    goes with a nonce, and ``nextnonce`` is not taken. Then both readings are the same.

    Args:
        challenge: one that ``supported`` gave.
        make_cnonce: gives a new, unpredictable value of our own at each call.
    """

    __slots__ = ("_current", "_make_cnonce", "_password")

    def __init__(
        self, challenge: Challenge, username: str, password: str, make_cnonce: Callable[[], str] = _make_cnonce
    ) -> None:
        super().__init__(challenge, username)
        terms = _read_terms(challenge)
        if terms is None:
            raise ValueError("this Digest challenge cannot be answered")
        self._password = password
        self._make_cnonce = make_cnonce
        self._current = _Nonce(terms, make_cnonce())

    def header(self, method: str, uri: str, body: Optional[Feed] = None) -> Optional[str]:
        use = self._count(body is not None)
        if use is None:
            return None
        terms = use.terms
        fields = [
            *self._user_fields(terms),
            f"realm={_quote(terms.realm)}",
            f"uri={_quote(uri)}",
            f"nonce={_quote(terms.nonce)}",
            f'response="{self._response(use, method, uri, body)}"',
        ]
        if terms.algorithm:
            fields.append(f"algorithm={terms.algorithm}")
        if use.qop:
            fields.append(f"qop={use.qop}")
            fields.append(f"nc={use.nc}")
        if use.qop or terms.is_session:
            fields.append(f"cnonce={_quote(use.cnonce)}")
        if terms.opaque is not None:
            fields.append(f"opaque={_quote(terms.opaque)}")
        return "Digest " + ", ".join(fields)

    def _count(self, body_known: bool) -> Optional[_Use]:
        """Use the nonce once more. Nothing is counted where nothing can be sent: servers may insist on no gaps."""
        fresh = self._make_cnonce()
        with _lock:
            current = self._current
            qop = current.terms.qop_for(body_known)
            if qop is None:
                return None
            current.count += 1
            count = current.count
        cnonce = current.cnonce if current.terms.is_session else fresh
        return _Use(current.terms, qop, f"{count:08x}", cnonce)

    def _user_fields(self, terms: _Terms) -> list[str]:
        """The user name, in one of its three forms (RFC 7616, 3.4 and 3.4.4)."""
        if terms.hashes_user:
            hashed = _hash(terms.hash_name, self.username.encode(), _octets(terms.realm))
            return [f'username="{hashed.decode()}"', "userhash=true"]
        if terms.is_utf8 and not self.username.isascii():
            return [f"username*=UTF-8''{quote(self.username, safe=_EXTENDED_SAFE)}"]
        # A server that announces no charset knows no username* either; browsers send it the octets.
        return [f"username={_quote(self.username.encode().decode('latin-1'))}"]

    def _response(self, use: _Use, method: str, uri: str, body: Optional[Feed]) -> str:
        """RFC 7616, 3.4.1 to 3.4.3; with an empty ``method`` what the server has to answer (3.5)."""
        terms = use.terms
        nonce, cnonce = _octets(terms.nonce), _octets(use.cnonce)
        key = _hash(terms.hash_name, self.username.encode(), _octets(terms.realm), self._password.encode())
        if terms.is_session:
            key = _hash(terms.hash_name, key, nonce, cnonce)
        what = [method.encode("latin-1"), uri.encode("latin-1")]
        if use.qop == "auth-int" and body is not None:
            entity = _new_hash(terms.hash_name)
            body(entity)
            what.append(entity.hexdigest().encode("ascii"))
        parts = [use.nc.encode(), cnonce, use.qop.encode()] if use.qop else []
        return _hash(terms.hash_name, key, nonce, *parts, _hash(terms.hash_name, *what)).decode("ascii")

    def note(self, values: list[str], sent: str) -> None:
        """Use ``nextnonce`` from now on (RFC 7616, 3.5).

        Not if ``rspauth`` shows that whoever sent it does not know the password: then it is not the server's. The
        response itself counts all the same, since anything on the way that rewrites URLs has this effect. Only for
        ``auth`` can it be checked: ``auth-int`` needs the body of the response, which is yet to come.
        And not if the nonce has changed since: the count of one that is in use must not begin again.
        """
        told = parse_parameters(values)
        nonce = told.get("nextnonce", "")
        if not nonce or re.fullmatch(_FIELD_TEXT, nonce) is None:
            return
        ours = parse_parameters([sent.partition(" ")[2]])
        current = self._current
        terms = current.terms
        if ours.get("nonce") != terms.nonce or nonce == terms.nonce or terms.is_session:
            return
        if "rspauth" in told and not self._is_answer(terms, ours, told["rspauth"]):
            return
        following = _Nonce(terms._replace(nonce=nonce), self._make_cnonce())
        with _lock:
            if self._current is current:
                self._current = following

    def _is_answer(self, terms: _Terms, ours: dict[str, str], rspauth: str) -> bool:
        if ours.get("qop") != "auth":
            return True
        use = _Use(terms, "auth", ours.get("nc", ""), ours.get("cnonce", ""))
        expected = self._response(use, "", ours.get("uri", ""), None)
        return secrets.compare_digest(expected.encode(), _octets(rspauth.lower()))

    def renew(self, challenge: Challenge, unasked: bool = False) -> bool:
        """True for ``stale=true``, and when sent unasked: a nonce that ran out is likelier than a new password."""
        terms = _read_terms(challenge) if challenge.scheme == "digest" else None
        if terms is None or terms.realm != self.realm:
            return False
        following = _Nonce(terms, self._make_cnonce())
        with _lock:
            if self._current.terms.nonce != terms.nonce:  # the count of one that is in use must not begin again
                self._current = following
        return challenge.stale or unasked

    def spaces(self, origin: Origin, path: str) -> list[str]:
        """The ``domain`` of the challenge, or all of the origin (RFC 7616, 3.3).

        Other origins that ``domain`` may name get nothing: whom a password is for, the user decides.
        """
        here = Target(*origin, path).url
        found = []
        for uri in self._current.terms.domain:
            with contextlib.suppress(ValueError):
                there = parse_url(urljoin(here, uri))
                if there.origin == origin:
                    found.append(there.path)
        return found or [""]


def _octets(text: str) -> bytes:
    """Header text as it was on the wire. What never was on any has no octets; it must not raise either."""
    return text.encode("latin-1", "replace")


def _quote(text: str) -> str:
    """As a quoted string (RFC 9110, 5.6.4)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- those that were accepted --------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """A login with the beginnings of the paths for which it is sent unasked."""

    login: Login
    spaces: tuple[str, ...]


class AuthCache(Guarded):
    """The logins that were accepted, for one session: one per server or proxy, realm and scheme. Safe for threads."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        # By who asked, then by realm and scheme.
        self._entries: dict[tuple[bool, Origin], dict[tuple[str, str], _Entry]] = {}

    def find(self, is_proxy: bool, origin: Origin, path: str) -> Optional[Login]:
        """The login to send with a request before anybody asks: the one accepted nearest to ``path``, if any.

        Args:
            is_proxy: whether it is for a proxy, to which every request is alike.
            origin: scheme, host and port of the server or the proxy.
            path: of the request.
        """
        if not self._entries:  # most sessions never log in; they shall not pay
            return None
        with _lock:
            entries = tuple(self._entries.get((is_proxy, origin), {}).values())
        nearest, longest = None, -1
        for entry in entries:
            for space in entry.spaces:
                if path.startswith(space) and len(space) >= longest:
                    nearest, longest = entry.login, len(space)
        return nearest

    def match(self, is_proxy: bool, origin: Origin, challenge: Challenge) -> Optional[Login]:
        """The login that was accepted for the realm of ``challenge``: it can be answered without asking the user."""
        with _lock:
            entry = self._entries.get((is_proxy, origin), {}).get((challenge.realm, challenge.scheme))
        return None if entry is None else entry.login

    def store(self, is_proxy: bool, origin: Origin, path: str, login: Login) -> None:
        """Keep a login that was accepted for ``path``; it replaces another one for the same realm and scheme."""
        added = login.spaces(origin, path)
        if is_proxy and added:
            added = [""]
        key = (login.realm, login.scheme)
        with _lock:
            entries = self._entries.setdefault((is_proxy, origin), {})
            known = entries.get(key)
            spaces = known.spaces if known is not None and known.login is login else ()
            entries[key] = _Entry(login, _joined(spaces, added))

    def forget(self, login: Login) -> None:
        """Drop a login that was refused; one that has replaced it since stays."""
        with _lock:
            for asker, entries in list(self._entries.items()):
                kept = {key: entry for key, entry in entries.items() if entry.login is not login}
                if kept:
                    self._entries[asker] = kept
                else:
                    del self._entries[asker]

    @property
    def is_empty(self) -> bool:
        """Whether nobody has logged in."""
        return not self._entries

    def clear(self) -> None:
        """Forget all."""
        with _lock:
            self._entries.clear()

    def __repr__(self) -> str:
        with _lock:
            count = sum(len(entries) for entries in self._entries.values())
        return f"<AuthCache with {count} logins>"


def _joined(spaces: tuple[str, ...], added: list[str]) -> tuple[str, ...]:
    """Both together, without what lies inside another one, and not too many: a crawler sees folders without end."""
    for space in added:
        if not space.startswith(spaces):
            spaces = (*(one for one in spaces if not one.startswith(space)), space)
    return spaces[-MOST_SPACES:]
