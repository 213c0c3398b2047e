"""Cookies: the store of one session around ``http.cookiejar``, and the file of a persistent one.

The jar keeps the cookies and its policy decides; a ``Set-Cookie`` line is read here, by RFC 6265 (5.2, 5.3), for any
jar. The jar's own reader comes from before that RFC: to it a bad ``Max-Age`` spoils a cookie, ``Port`` and ``Version``
mean something, and any host may delete any other's cookies. A jar that is made here has a strict policy, too; a
jar that was given keeps its own.

What cannot be done: without the list of public suffixes, single labels and the likes of ``co.uk`` are refused as
``Domain``, but not ``github.io``. ``SameSite`` has no effect: here is no page, hence no site to be the same.
"""

from __future__ import annotations

import calendar
import contextlib
import datetime
import hashlib
import json
import logging
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union
from urllib.parse import quote

from ._options import Target, bracketed, parse_url
from ._replacing import FOR_OWNER, replacement

log = logging.getLogger("clientrequest")

MOST_LINES = 100  # Set-Cookie lines of one response that are looked at
MOST_OF_A_DOMAIN = 180  # in a jar made here, as in browsers
MOST = 3000  # in a jar made here (RFC 6265, 6.1)
MOST_OF_A_COOKIE = 4096  # characters of name and value (RFC 6265bis, 5.6)
MOST_OF_AN_ATTRIBUTE = 1024  # characters (RFC 6265bis, 5.6)
LONGEST_LIFE = 400 * 24 * 3600  # seconds (RFC 6265bis, 5.5)

_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_WHITE = " \t"
_MAX_AGE = re.compile(r"-?[0-9]+")
# What http.cookiejar leaves alone in a path: a jar that was given compares with a path escaped like this.
_PATH_SAFE = "%/;:@&=+$,!~*'()"
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Under a country's domain these belong to no one: "co.uk", "com.au".
_SECOND_LEVEL = frozenset({"ac", "co", "com", "edu", "gov", "mil", "net", "org"})

_DATE_TOKEN = re.compile(r"[^\t\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]+")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?![0-9])")
_DAY = re.compile(r"([0-9]{1,2})(?![0-9])")
_YEAR = re.compile(r"([0-9]{2,4})(?![0-9])")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class Cookies:
    """The cookies of one session. Safe to use from many threads, and by several sessions with one jar.

    Args:
        jar: used itself, not copied, and by the rules of its own policy; ``None`` for a new, strict one.
        path: a file that is read now and written when a cookie with an expiry changes; ``None`` for none.

    Raises:
        TypeError: ``jar`` is no ``CookieJar``.
    """

    def __init__(self, jar: Optional[CookieJar] = None, path: Union[str, os.PathLike[str], None] = None) -> None:
        if jar is not None and not isinstance(jar, CookieJar):
            raise TypeError(f"cookies must be an http.cookiejar.CookieJar or None, not {type(jar).__name__}")
        self.jar: CookieJar = _StrictJar() if jar is None else jar
        self._file = None if path is None else _CookieFile(path)
        self._saving = threading.Lock()
        self._complained = False
        if self._file is not None:
            for cookie in self._file.load():
                self.jar.set_cookie(cookie)
        _alive.add(self)

    def header_for(self, target: Target) -> Optional[str]:
        """The value of the ``Cookie`` header for a request to ``target``; ``None`` where there is none to send."""
        with self._lock:
            if next(iter(self.jar), None) is None:
                return None
            request = _Request(target)
            self.jar.add_cookie_header(request)  # type: ignore[arg-type]
        if request.cookie is not None and _FIELD_VALUE.fullmatch(request.cookie) is None:
            # A strict jar left out such a cookie; this jar has another policy.
            log.warning("no cookies are sent to %s: one has a character that no header may have", target.host)
            return None
        return request.cookie or None

    def store(self, target: Target, lines: Sequence[str]) -> None:
        """Take what a response from ``target`` set.

        Args:
            lines: the values of its ``Set-Cookie`` headers, in order. What is malformed or not allowed is ignored.
        """
        if not lines:
            return
        request = _Request(target)
        now = int(time.time())
        with self._lock:
            for line in lines[:MOST_LINES]:
                cookie = _read_line(line, target, self._host_of(request), now)
                if cookie is not None:
                    self.jar.set_cookie_if_ok(cookie, request)  # type: ignore[arg-type]
            # One that is expired was set only to take the place of the one to be deleted.
            self.jar.clear_expired_cookies()
            if isinstance(self.jar, _StrictJar):
                self.jar.trim()
        self.save()

    def clear(self) -> None:
        """Forget all cookies; those in the file, too, whoever put them there. Failing to write it is logged."""
        with self._saving:
            with self._lock:
                self.jar.clear()
            if self._file is not None:
                self._write(self._file.clear)

    def save(self) -> None:
        """Write the file, if there is one and something of it changed. Failing to is logged, never raised."""
        if self._file is None:
            return
        # Taken before the cookies are read: else the older of two states might be written last.
        with self._saving:
            with self._lock:
                records = _records(self.jar)
            self._write(self._file.save, records)

    def _write(self, write: Callable[..., None], *args: object) -> None:
        try:
            write(*args)
            self._complained = False
        except OSError as error:
            if not self._complained:  # a full disk stays full for a while
                log.warning("cookies could not be saved: %s", error)
            self._complained = True

    @property
    def _lock(self) -> Any:
        # The jar's own: its owner may use it elsewhere, and several sessions may have it.
        return self.jar._cookies_lock  # type: ignore[attr-defined]

    def _host_of(self, request: _Request) -> str:
        """The domain of a cookie that belongs to this very host, as the jar's policy looks for it."""
        if isinstance(self.jar, _StrictJar):
            return request.target.host
        # By RFC 2965 a name without a dot gets one.
        return request.jar_host if "." in request.jar_host else f"{request.jar_host}.local"

    def after_fork(self) -> None:
        """In a forked child: the locks may be held by threads that are not here."""
        self._saving = threading.Lock()
        self.jar._cookies_lock = threading.RLock()  # type: ignore[attr-defined]


_alive: weakref.WeakSet[Cookies] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for cookies in tuple(_alive):
        cookies.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Request:
    """A request in the shape that a jar and its policy ask: ``urllib.request.Request``, as far as they may."""

    unverifiable = False  # the user asked for it; there is no page that did

    def __init__(self, target: Target) -> None:
        # A zone is of this machine only, and not every Python takes one in a URL.
        plain = target._replace(host=target.host.partition("%")[0]) if ":" in target.host else target
        self.target = target
        self.path = _escaped(target.path.partition("?")[0])
        self.type = target.scheme
        self.host = plain.authority
        self.jar_host = bracketed(plain.host)
        self.origin_req_host = self.jar_host
        self.cookie: Optional[str] = None
        self._url = plain.url

    def get_full_url(self) -> str:
        return self._url

    def has_header(self, name: str) -> bool:
        return False

    def get_header(self, name: str, default: Any = None) -> Any:
        return default

    def header_items(self) -> list[tuple[str, str]]:
        return []

    def add_unredirected_header(self, name: str, value: str) -> None:
        if name == "Cookie":  # the other one is Cookie2, which died with RFC 2965
            self.cookie = value


# --- a line of Set-Cookie ------------------------------------------------------------------------------------------


def _read_line(line: str, target: Target, host: str, now: int) -> Optional[Cookie]:
    """The cookie of a ``Set-Cookie`` value (RFC 6265, 5.2 and 5.3); ``None`` if it is none.

    Args:
        host: the ``Domain`` of a cookie for the host of ``target`` alone.
        now: seconds since the epoch. A cookie to be deleted comes back expired.
    """
    if _FIELD_VALUE.fullmatch(line) is None:
        return None
    pair, _, rest = line.partition(";")
    name, equals, value = pair.partition("=")
    name, value = name.strip(_WHITE), value.strip(_WHITE)
    if not equals or not name or len(name) + len(value) > MOST_OF_A_COOKIE:
        return None
    attributes = _attributes(rest)
    domain = _domain(attributes, target.host)
    path = attributes.get("path", "")
    return _make_cookie(
        name=name,
        value=value,
        domain=host if domain is None else f".{domain}",
        host_only=domain is None,
        path=_escaped(path) if path.startswith("/") else _default_path(target),
        path_specified=path.startswith("/"),
        secure="secure" in attributes,
        http_only="httponly" in attributes,
        same_site=attributes.get("samesite"),
        expires=_expiry(attributes, now),
    )


def _make_cookie(
    *,
    name: str,
    value: Optional[str],
    domain: str,
    host_only: bool,
    path: str,
    path_specified: bool,
    secure: bool,
    http_only: bool,
    same_site: Optional[str],
    expires: Optional[int],
) -> Cookie:
    rest: dict[str, Any] = {}
    if http_only:
        rest["HttpOnly"] = None
    if same_site is not None:
        rest["SameSite"] = same_site
    return Cookie(
        version=0,
        name=name,
        value=value,
        port=None,
        port_specified=False,
        domain=domain,
        domain_specified=not host_only,
        domain_initial_dot=domain.startswith("."),
        path=path,
        path_specified=path_specified,
        secure=secure,
        expires=expires,
        discard=expires is None,
        comment=None,
        comment_url=None,
        rest=rest,
    )


def _attributes(text: str) -> dict[str, str]:
    """By name in lower case; the last of a name counts."""
    found: dict[str, str] = {}
    for attribute in text.split(";"):
        name, _, value = attribute.partition("=")
        value = value.strip(_WHITE)
        if len(value) <= MOST_OF_AN_ATTRIBUTE:
            found[name.strip(_WHITE).lower()] = value
    return found


def _domain(attributes: dict[str, str], host: str) -> Optional[str]:
    """``Domain`` without its dot; ``None`` where the cookie is for the host alone. Whether it may: the policy says."""
    text = attributes.get("domain", "").lower()
    domain = text[1:] if text.startswith(".") else text
    if not domain or (domain == host and (_is_address(host) or _is_public_suffix(host))):
        return None
    return domain


def _default_path(target: Target) -> str:
    """The folder of the request's path (RFC 6265, 5.1.4)."""
    return _escaped(target.path.partition("?")[0].rpartition("/")[0]) or "/"


def _escaped(path: str) -> str:
    """The path in one spelling: percent-encoded where it has to be, with hexadecimal digits in upper case."""
    encoded = quote(path.encode("latin-1", "replace"), _PATH_SAFE)
    return _ESCAPE.sub(lambda escape: escape.group().upper(), encoded)


def _expiry(attributes: dict[str, str], now: int) -> Optional[int]:
    """In seconds since the epoch, 0 for long ago; ``None``: the cookie lives as long as the session."""
    max_age = attributes.get("max-age", "")
    if _MAX_AGE.fullmatch(max_age):
        if max_age.startswith("-"):
            return 0
        digits = max_age.lstrip("0")
        seconds = int(digits[:12] or "0")  # that is 30000 years already
        return now + min(seconds, LONGEST_LIFE) if seconds else 0
    date = _date(attributes.get("expires", ""))
    return None if date is None else min(date, now + LONGEST_LIFE)


def _date(text: str) -> Optional[int]:
    """A date in seconds since the epoch, however servers spell it (RFC 6265, 5.1.1); ``None`` if it is none."""
    clock = day = month = year = None
    for token in _DATE_TOKEN.findall(text):
        if clock is None and (match := _CLOCK.match(token)):
            clock = match.groups()
        elif day is None and (match := _DAY.match(token)):
            day = int(match.group(1))
        elif month is None and token[:3].lower() in _MONTHS:
            month = _MONTHS.index(token[:3].lower()) + 1
        elif year is None and (match := _YEAR.match(token)):
            year = int(match.group(1))
    if clock is None or day is None or month is None or year is None:
        return None
    if year < 100:
        year += 1900 if year >= 70 else 2000
    try:
        moment = datetime.datetime(year, month, day, int(clock[0]), int(clock[1]), int(clock[2]))
    except ValueError:
        return None
    return calendar.timegm(moment.timetuple()) if year >= 1601 else None


# --- what belongs to whom ------------------------------------------------------------------------------------------


def _domain_matches(host: str, domain: str) -> bool:
    """Whether the host is ``domain`` or below it (RFC 6265, 5.1.3); ``domain`` without a dot in front."""
    return host == domain or (host.endswith(f".{domain}") and not _is_address(host))


def _path_matches(path: str, cookie_path: str) -> bool:
    """Whether the path is ``cookie_path`` or below it (RFC 6265, 5.1.4)."""
    if not path.startswith(cookie_path):
        return False
    return len(path) == len(cookie_path) or cookie_path.endswith("/") or path[len(cookie_path)] == "/"


def _is_address(host: str) -> bool:
    """Whether the host is an IP address, in the spellings too that only the system's look-up understands."""
    return ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


def _is_public_suffix(domain: str) -> bool:
    """Whether nobody owns the domain, as far as can be told without the list of those."""
    labels = domain.strip(".").split(".")
    return len(labels) == 1 or (len(labels) == 2 and len(labels[1]) == 2 and labels[0] in _SECOND_LEVEL)


def _bare(domain: str) -> str:
    return domain[1:] if domain.startswith(".") else domain


def _is_sendable(cookie: Cookie) -> bool:
    """Whether it can be a header; who makes a cookie himself may put anything into it."""
    texts = (cookie.name, "" if cookie.value is None else cookie.value)
    return all(isinstance(text, str) and _FIELD_VALUE.fullmatch(text) for text in texts)


def _keeps_its_prefix(cookie: Cookie) -> bool:
    """Whether the cookie is what its name promises (RFC 6265bis, 4.1.3). Browsers ignore case here, so do servers."""
    name = cookie.name.lower()
    if name.startswith("__host-"):
        return cookie.secure and not cookie.domain_specified and cookie.path_specified and cookie.path == "/"
    return cookie.secure or not name.startswith("__secure-")


class _StrictPolicy(DefaultCookiePolicy):
    """RFC 6265 for a client, with the prefixes and the ``Secure`` of RFC 6265bis."""

    def set_ok(self, cookie: Cookie, request: Any) -> bool:
        if not super().set_ok(cookie, request):
            return False
        request = _seen(request)
        if not _is_sendable(cookie) or not _keeps_its_prefix(cookie):
            return False
        if cookie.secure and request.type != "https":
            return False
        if not cookie.domain_specified:
            return True
        domain = _bare(cookie.domain)
        return _domain_matches(request.target.host, domain) and not _is_public_suffix(domain)

    def return_ok(self, cookie: Cookie, request: Any) -> bool:
        return super().return_ok(cookie, request) and _is_sendable(cookie)

    def return_ok_domain(self, cookie: Cookie, request: Any) -> bool:
        host, domain = _seen(request).target.host, _bare(cookie.domain)
        if cookie.domain_specified:
            return _domain_matches(host, domain)
        # The second is what urllib makes of the first: somebody may have filled the jar from there.
        return host == domain or (host == "localhost" and domain == "localhost.local")

    def domain_return_ok(self, domain: str, request: Any) -> bool:
        # Asked for each domain of the jar, before its cookies are looked at one by one.
        host = _seen(request).target.host
        if not _domain_matches(host, _bare(domain)) and not (host == "localhost" and domain == "localhost.local"):
            return False
        return not self.is_blocked(domain) and not self.is_not_allowed(domain)

    def path_return_ok(self, path: str, request: Any) -> bool:
        return _path_matches(_seen(request).path, path)


def _seen(request: Any) -> _Request:
    """Ours as it is; one of urllib's, to which the user gave the session's jar, as ours. Raises ``ValueError``."""
    return request if isinstance(request, _Request) else _Request(parse_url(request.get_full_url()))


class _StrictJar(CookieJar):
    """A jar with the strict policy, a bound, and no cookie of plain http in the way of a ``Secure`` one."""

    _cookies: dict[str, dict[str, dict[str, Cookie]]]
    _cookies_lock: Any

    def __init__(self) -> None:
        super().__init__(_StrictPolicy())

    def __iter__(self) -> Iterator[Cookie]:
        """All cookies of this moment, whatever other threads do to them meanwhile; in the order in which they came."""
        # Python 3.9 would sort them.
        with self._cookies_lock:
            paths = [names for domain in self._cookies.values() for names in domain.values()]
            return iter([cookie for names in paths for cookie in names.values()])

    def set_cookie_if_ok(self, cookie: Cookie, request: Any) -> None:
        with self._cookies_lock:
            if _seen(request).type == "https" or not self._hides_a_secure_one(cookie):
                super().set_cookie_if_ok(cookie, request)

    def _hides_a_secure_one(self, cookie: Cookie) -> bool:
        """Whether the cookie would replace a ``Secure`` one, or be taken for it (RFC 6265bis, 5.7)."""
        domain = _bare(cookie.domain)
        return any(
            old.secure
            and old.name == cookie.name
            and (_domain_matches(domain, _bare(old.domain)) or _domain_matches(_bare(old.domain), domain))
            and _path_matches(cookie.path, old.path)
            for old in self
        )

    def clear(self, domain: Optional[str] = None, path: Optional[str] = None, name: Optional[str] = None) -> None:
        """As in the standard library; but locked, and nothing empty is left behind."""
        with self._cookies_lock:
            super().clear(domain, path, name)
            if domain is None or path is None:
                return
            if name is not None and not self._cookies[domain][path]:
                super().clear(domain, path)
            if not self._cookies[domain]:
                super().clear(domain)

    def trim(self) -> None:
        """Drop what is beyond the bounds: what ends soonest first, what ends with the session last."""
        by_domain: dict[str, list[Cookie]] = {}
        for cookie in self:
            by_domain.setdefault(cookie.domain, []).append(cookie)
        for cookies in by_domain.values():
            self._drop_beyond(MOST_OF_A_DOMAIN, cookies)
        if sum(map(len, by_domain.values())) > MOST:
            self._drop_beyond(MOST, list(self))

    def _drop_beyond(self, most: int, cookies: list[Cookie]) -> None:
        if len(cookies) <= most:
            return
        cookies.sort(key=lambda cookie: float("inf") if cookie.expires is None else cookie.expires)
        for cookie in cookies[: len(cookies) - most]:
            self.clear(cookie.domain, cookie.path, cookie.name)


# --- the file ------------------------------------------------------------------------------------------------------


class _Record(NamedTuple):
    """A cookie in the file."""

    name: str
    value: Optional[str]
    domain: str
    host_only: bool
    path: str
    path_specified: bool
    secure: bool
    http_only: bool
    same_site: Optional[str]
    expires: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells cookies apart (RFC 6265, 5.3)."""
        return self.domain, self.path, self.name


_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "value": (str, type(None)),
    "domain": (str,),
    "host_only": (bool,),
    "path": (str,),
    "path_specified": (bool,),
    "secure": (bool,),
    "http_only": (bool,),
    "same_site": (str, type(None)),
    "expires": (int,),
}

_Records = dict[tuple[str, str, str], _Record]


def _records(jar: CookieJar) -> _Records:
    """What of a jar goes into a file: what outlives the session, and is nothing of RFC 2965."""
    found: _Records = {}
    now = time.time()
    for cookie in jar:
        if cookie.expires is None or cookie.discard or cookie.is_expired(int(now)):
            continue
        record = _Record(
            name=cookie.name,
            value=cookie.value,
            domain=cookie.domain,
            host_only=not cookie.domain_specified,
            path=cookie.path,
            path_specified=bool(cookie.path_specified),
            secure=bool(cookie.secure),
            http_only=cookie.has_nonstandard_attr("HttpOnly"),
            same_site=cookie.get_nonstandard_attr("SameSite"),
            expires=cookie.expires,
        )
        # Anything may be in a cookie that somebody made himself; the file must stay one that can be read.
        if cookie.version == 0 and cookie.port is None and _is_well_formed(record._asdict()):
            found[record.key] = record
    return found


def _is_well_formed(fields: object) -> bool:
    if not isinstance(fields, dict) or fields.keys() != _TYPES.keys():
        return False
    return all(type(fields[name]) in types for name, types in _TYPES.items())


class _CookieFile:
    """Cookies with an expiry in a file of JSON: ``{"version": 1, "cookies": [{"name": ..., "value": ..., ...}]}``.

    The file is always whole: a new one is written beside it and takes its place. A process that is killed at that
    moment leaves the old one, and its new one as ``.<name>.<random>.tmp``. A damaged file is set aside as
    ``<name>.damaged``. Processes that share a file keep each other out where the system has ``flock``, and each
    writes only what it changed itself since it read the file; of one cookie the last wins. Without ``flock`` the same
    holds, but for two that write at the very same moment: then the file is that of the last.

    Not safe for threads: ``Cookies`` locks.
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        # Absolute: the program may go to another folder.
        self._path = Path(os.path.abspath(path))
        self._aside = self._path.with_name(f"{self._path.name}.damaged")
        self._known: _Records = {}  # of ours, what the file has already

    def load(self) -> list[Cookie]:
        """The cookies of the file. A file that cannot be read is logged, and gives none."""
        try:
            self._known = self._read() or {}
        except OSError as error:
            log.warning("cookies could not be loaded: %s", error)
        return [_make_cookie(**record._asdict()) for record in self._known.values()]

    def save(self, ours: _Records) -> None:
        """Make the file say ``ours``, and what other processes put there. Raises ``OSError``."""
        if ours == self._known:
            return
        _make_folder(self._path.parent)
        with _locked(self._path.parent) as folder:
            theirs = self._read()
            # Without a file there is nothing to keep: all of ours has to go there, known or not.
            merged = ours if theirs is None else _merged(theirs, self._known, ours)
            if merged != theirs:
                self._replace(_as_json(merged), folder)
        self._known = ours

    def clear(self) -> None:
        """Leave no cookie in the file, nor in one that was set aside. Raises ``OSError``."""
        # Written, not removed: without a file, other processes would write all they know.
        if self._path.exists():
            with _locked(self._path.parent) as folder:
                self._replace(_as_json({}), folder)
        self._aside.unlink(missing_ok=True)
        self._known = {}

    def _read(self) -> Optional[_Records]:
        """What is in the file and not expired; ``None`` without a file, or with one set aside. Raises ``OSError``."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _from_json(data)
        except (ValueError, RecursionError):
            os.replace(self._path, self._aside)
            log.warning("the cookies in %s are damaged; begun anew, the old file is %s", self._path, self._aside)
            return None

    def _replace(self, data: bytes, folder: Optional[int]) -> None:
        with replacement(str(self._path), FOR_OWNER) as file:
            file.write(data)
        if folder is not None:
            with contextlib.suppress(OSError):  # some file systems cannot; the file is whole all the same
                os.fsync(folder)


def _merged(theirs: _Records, known: _Records, ours: _Records) -> _Records:
    """``theirs`` with what changed between ``known`` and ``ours``."""
    now = time.time()
    # One that is ours no more because its time is over was not deleted: they may have it with a new time.
    deleted = {key for key, record in known.items() if key not in ours and record.expires > now}
    merged = {key: record for key, record in theirs.items() if key not in deleted}
    merged.update((key, record) for key, record in ours.items() if known.get(key) != record)
    return merged


def _as_json(records: _Records) -> bytes:
    cookies = [record._asdict() for record in records.values()]
    return json.dumps({"version": 1, "cookies": cookies}, indent=1).encode("ascii")


def _from_json(data: bytes) -> _Records:
    """The records that are not expired. Raises ``ValueError`` or ``RecursionError``, without any of the content."""
    try:
        content = json.loads(data)
    except ValueError:
        raise ValueError("no JSON") from None
    if not isinstance(content, dict) or content.get("version") != 1 or not isinstance(content.get("cookies"), list):
        raise ValueError("not what was written")
    if not all(map(_is_well_formed, content["cookies"])):
        raise ValueError("a cookie is not what was written")
    now = time.time()
    records = (_Record(**fields) for fields in content["cookies"])
    return {record.key: record for record in records if record.expires > now}


def _make_folder(folder: Path) -> None:
    """Make the folder, and those above it that are missing, for their owner only. Raises ``OSError``."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[Optional[int]]:
    """Keep other processes out of the folder, where the system can; gives its descriptor. Raises ``OSError``.

    The folder itself is locked: no lock file is left, and a lock dies with its process.
    """
    if sys.platform == "win32":  # a folder cannot be opened there
        yield None
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            # Closing would not do: a child that was forked just now has the descriptor, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def partition_file(storage: Path, partition: str) -> Path:
    """The file of a partition's cookies in the folder ``storage``.

    Args:
        partition: the name, any text, without ``persist:``. Different names have different files, on file systems
            that ignore case, too: a hash of the name is in the file's, beside what of it can be read.
    """
    digest = hashlib.sha256(partition.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    readable = re.sub(r"[^a-z0-9_]+", "-", partition.lower())[:40].strip("-")
    return storage / f"{readable or 'cookies'}-{digest}.json"


def default_storage() -> Path:
    """The folder for persistent sessions that name none; it need not exist.

    Raises:
        RuntimeError: this user has no home folder.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Application Support")
    else:
        base = os.environ.get("XDG_DATA_HOME", "")
        if not os.path.isabs(base):  # the specification has others ignored
            base = str(Path.home() / ".local" / "share")
    return Path(base) / "clientrequest"
