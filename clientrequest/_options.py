"""Options, URLs and headers: everything a user may get wrong, checked where he calls. Pure.

What comes out, ``Options`` and ``HeaderTable``, is trusted by everything behind it.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any, Callable, NamedTuple, Optional, Union
from urllib.parse import ParseResult, SplitResult, unquote, urlsplit

from ._http1 import TOKEN

_TOKEN = re.compile(TOKEN)
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
# What may stand in a path and query as it is (RFC 3986, 3.3 and 3.4), beside "%" of an encoded octet; the
# characters [ ] | are not in that list but servers want them unchanged, as browsers send them.
_PATH_SAFE = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@/?%\[\]|]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=%]+")

DEFAULT_PORTS = {"http": 80, "https": 443}
MOST_OF_A_NAME = 253  # characters of a host name (RFC 1035, 2.3.4)
#: Methods that usually have no body: with nothing written, nothing is said about one (RFC 9110, 8.6).
BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"})
REFERRER_POLICIES = frozenset(
    {
        "",
        "no-referrer",
        "no-referrer-when-downgrade",
        "origin",
        "origin-when-cross-origin",
        "unsafe-url",
        "same-origin",
        "strict-origin",
        "strict-origin-when-cross-origin",
    }
)
#: Electron's option names beside ours.
ELECTRON_OPTIONS = {
    "chunkedEncoding": "chunked_encoding",
    "useSessionCookies": "use_session_cookies",
    "referrerPolicy": "referrer_policy",
}
#: Electron's option names that mean nothing outside a browser.
BROWSER_ONLY = frozenset({"cache", "priority", "priorityIncremental", "bypassCustomProtocolHandlers"})
#: What ``request()`` takes beside the options, and makes a URL and a body of.
_ARGUMENTS = frozenset({"params", "data", "json"})


class Timeout(NamedTuple):
    """How long a request may take, each in seconds, ``None`` for no limit.

    Attributes:
        connect: name lookup, TCP, proxy and TLS together.
        read: without a byte from the server, while one is waited for.
        write: without the server taking a byte, while one is to be sent.
        total: the whole transaction, redirects and logins included.
    """

    connect: Optional[float] = 30.0
    read: Optional[float] = 300.0
    write: Optional[float] = 300.0
    total: Optional[float] = None


class Target(NamedTuple):
    """Where a request goes: an http or https URL taken apart. ``host`` without brackets."""

    scheme: str
    host: str
    port: int
    path: str
    username: Optional[str] = None
    password: Optional[str] = None

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port (RFC 6454)."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host and, unless it is the scheme's own, port, as in the ``Host`` header."""
        return _authority(self.scheme, self.host, self.port)

    @property
    def url(self) -> str:
        """The URL without user name and password."""
        return f"{self.scheme}://{self.authority}{self.path}"


@functools.lru_cache(maxsize=256)
def _authority(scheme: str, host: str, port: int) -> str:
    return bracketed(host) if port == DEFAULT_PORTS[scheme] else f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """A host as it stands before a port: an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


class Credentials(NamedTuple):
    """What of the session goes along with a request (Fetch, 2.2.5; Electron's ``credentials``).

    Attributes:
        mode: ``include``, ``omit``, ``same-origin``, or ``None`` for logins, and for cookies if they are asked for.
        session_cookies: whether they are.
        origin: what ``same-origin`` means the same as.
    """

    mode: Optional[str] = None
    session_cookies: bool = False
    origin: Optional[tuple[str, str, int]] = None

    def allow_login(self, target: Target) -> bool:
        """Whether ``target`` may be told who the user is."""
        if self.mode == "same-origin":
            return target.origin == self.origin
        return self.mode != "omit"

    def allow_cookies(self, target: Target) -> bool:
        """Whether cookies go to ``target``, and are taken from it."""
        return self.session_cookies if self.mode is None else self.allow_login(target)


class Options(NamedTuple):
    """The options of one request, checked and copied."""

    method: str
    target: Target
    headers: HeaderTable
    redirect: str
    session: Any
    partition: Optional[str]
    credentials: Optional[str]
    use_session_cookies: bool
    origin: Optional[str]
    referrer_policy: str
    chunked_encoding: bool
    timeout: Optional[Timeout]
    high_water_mark: int
    replay_limit: int
    blocking: bool
    decode: bool
    dispatcher: Optional[Callable[[Callable[[], None]], object]]

    def grant(self) -> Credentials:
        """What the options ``credentials``, ``use_session_cookies`` and ``origin`` come to."""
        if self.credentials is None:
            return _WITH_COOKIES if self.use_session_cookies else _WITHOUT_COOKIES
        same = parse_url(self.origin).origin if self.credentials == "same-origin" else None
        return Credentials(self.credentials, False, same)


_WITHOUT_COOKIES, _WITH_COOKIES = Credentials(), Credentials(session_cookies=True)


def parse_options(options: object, overrides: Mapping[str, object]) -> Options:
    """Check what was given to ``ClientRequest``. Raises ``TypeError`` or ``ValueError`` naming the option."""
    if type(options) is str and not overrides and "@" not in options:
        return _parse_plain_options(options)
    return _parse_all(options, overrides)


def _parse_all(options: object, overrides: Mapping[str, object]) -> Options:
    given = _collect(options, overrides)
    target = _target(given)
    for name, value in given.items():
        given[name] = _PARSERS[name](name, value)
    if given.get("credentials") == "same-origin" and given.get("origin") is None:
        raise ValueError("option 'credentials': 'same-origin' needs the option 'origin'")
    if given.get("credentials") == "same-origin":
        _check_origin(given["origin"])
    return Options(**{**_DEFAULTS, **given, "target": target})


@functools.lru_cache(maxsize=256)
def _parse_plain_options(url: str) -> Options:
    """``parse_options`` for a URL alone, without a password: programs ask for the same ones again and again."""
    return _parse_all(url, {})


def _check_origin(origin: str) -> None:
    try:
        parse_url(origin)
    except ValueError:
        raise ValueError(f"option 'origin': {_shown(origin)!r} is not an origin like 'https://example.com'") from None


def merge_options(options: object, overrides: Mapping[str, object]) -> dict[str, Any]:
    """All that was given in one mapping, unchecked. Raises ``TypeError`` where ``options`` is no such thing."""
    if isinstance(options, str):
        given: dict[Any, Any] = {"url": options}
    elif isinstance(options, Mapping):
        given = dict(options)
    elif _is_parsed_url(options):
        given = {"url": options}
    else:
        raise _wrong_type("options", options, "a URL or a mapping of options")
    given.update(overrides)
    return given


def add_query(given: dict[str, Any], query: str) -> None:
    """Add to the query of the URL, or of the path where there is none; what is neither is left to the check to come."""
    name = "path" if given.get("url") is None else "url"
    url = given.get(name)
    if _is_parsed_url(url):
        url = url.geturl() if isinstance(url, (ParseResult, SplitResult)) else str(url)
    if query and (url is None or isinstance(url, str)):
        given[name] = _with_query(url or "/", query)


def _with_query(url: str, query: str) -> str:
    url, mark, fragment = url.partition("#")
    joint = "?" if "?" not in url else "" if url.endswith(("?", "&")) else "&"
    return url + joint + query + mark + fragment


def _collect(options: object, overrides: Mapping[str, object]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, value in merge_options(options, overrides).items():
        if name in _KNOWN:
            known[name] = value
            continue
        if name in BROWSER_ONLY:
            raise ValueError(f"option {name!r} has a meaning in a browser only, none here")
        if name in _ARGUMENTS:
            raise TypeError(f"unknown option {name!r}; it is an argument of request() and Session.request()")
        if name not in ELECTRON_OPTIONS:
            raise TypeError(f"unknown option {name!r}; known are {', '.join(sorted(_KNOWN))}")
        known[ELECTRON_OPTIONS[name]] = value
    return known


def _is_parsed_url(value: object) -> bool:
    # urllib3's Url has the geturl-like __str__ and these fields; the standard library's results have geturl().
    return isinstance(value, (ParseResult, SplitResult)) or (
        isinstance(value, tuple) and hasattr(value, "scheme") and hasattr(value, "request_uri")
    )


def _wrong_type(option: str, value: object, expected: str) -> TypeError:
    return TypeError(f"option {option!r} must be {expected}, not {type(value).__name__}")


def _method(option: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_type(option, value, "a str")
    if _TOKEN.fullmatch(value) is None:
        raise ValueError(f"option {option!r}: {value!r} is not an HTTP token (RFC 9110, 9.1)")
    method = value.upper()
    if method == "CONNECT":
        raise ValueError(f"option {option!r}: CONNECT is for proxies, not for requests")
    return method


def _one_of(*allowed: Optional[str]) -> Callable[[str, object], Optional[str]]:
    names = ", ".join(repr(one) for one in allowed if one is not None)

    def parse(option: str, value: object) -> Optional[str]:
        if value is not None and not isinstance(value, str):
            raise _wrong_type(option, value, "a str")
        if value not in allowed:
            raise ValueError(f"option {option!r}: {value!r} is not one of {names}")
        return value

    return parse


def _optional_text(option: str, value: object) -> Optional[str]:
    if value is not None and not isinstance(value, str):
        raise _wrong_type(option, value, "a str")
    return value


def _dispatcher(option: str, value: object) -> object:
    if value is not None and not callable(value):
        raise _wrong_type(option, value, "a callable that takes a function")
    return value


def _flag(option: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(option, value, "True or False")
    return value


def _size(least: int) -> Callable[[str, object], int]:
    def parse(option: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong_type(option, value, "an int (bytes)")
        if value < least:
            raise ValueError(f"option {option!r}: {value} is less than {least}")
        return value

    return parse


def parse_timeout(value: object) -> Optional[Timeout]:
    """``None``, seconds (then for connect, read and write alike), or a ``Timeout``."""
    if value is None:
        return None
    if isinstance(value, Timeout):
        for name, seconds in value._asdict().items():
            _check_seconds(f"timeout.{name}", seconds)
        return value
    _check_seconds("timeout", value)
    seconds = float(value)  # type: ignore[arg-type]
    return Timeout(seconds, seconds, seconds)


def _check_seconds(option: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _wrong_type(option, value, "a number of seconds, a Timeout or None")
    if not 0 < value < float("inf"):
        raise ValueError(f"option {option!r}: {value!r} is not a positive, finite number of seconds")


# --- where to ------------------------------------------------------------------------------------------------------


def _target(given: dict[str, Any]) -> Target:
    url = given.pop("url", None)
    if url is not None:
        if not _PARTS.isdisjoint(given):
            for name in _PARTS:
                given.pop(name, None)
        return _parse_plain_url(url) if type(url) is str and "@" not in url else parse_url(url)
    parts = {name: given.pop(name, None) for name in _PARTS}
    scheme = _scheme(parts["protocol"])
    hostname, port = parts["hostname"], _port(parts["port"])
    if parts["host"] is not None:
        hostname, own_port = _split_host(parts["host"], "host")
        port = own_port or port
    elif hostname is not None and not isinstance(hostname, str):
        raise _wrong_type("hostname", hostname, "a str")
    host = check_host(hostname if hostname is not None else "localhost", "hostname")
    return Target(scheme, host, port or DEFAULT_PORTS[scheme], _path(parts["path"]))


def parse_url(value: object) -> Target:
    """An absolute http(s) URL, without its fragment. Raises ``TypeError`` or ``ValueError``."""
    if _is_parsed_url(value):
        value = value.geturl() if isinstance(value, (ParseResult, SplitResult)) else str(value)
    if not isinstance(value, str):
        raise _wrong_type("url", value, "a str or a parsed URL")
    if has_control(value):
        raise ValueError("option 'url': control characters are not allowed")
    try:
        parts = urlsplit(value)
        hostname, port = parts.hostname, parts.port
    except ValueError:
        # What urllib says may have a password in it.
        raise ValueError(f"option 'url': the host or the port is malformed in {_shown(value)!r}") from None
    if re.search(r"\][^:]|\[[^:\]]*\]", parts.netloc.rpartition("@")[2]):
        raise ValueError(f"option 'url': the host is malformed in {_shown(value)!r}")
    scheme = parts.scheme.lower()
    if scheme not in DEFAULT_PORTS or not hostname:
        raise ValueError(f"option 'url': expected an absolute http or https URL, got {_shown(value)!r}")
    for secret in (parts.username, parts.password):
        if secret is not None and has_control(unquote(secret)):
            raise ValueError("option 'url': control characters are not allowed in user name and password")
    path = parts.path or "/"
    if parts.query or value.partition("#")[0].endswith("?"):
        path += "?" + parts.query
    return Target(
        scheme,
        check_host(hostname, "url"),
        port or DEFAULT_PORTS[scheme],
        encode_path(path.replace(" ", "%20")),
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
    )


def _shown(url: str) -> str:
    """The URL for an error message: without what may be a password, and not too long."""
    # No regular expression: looking for an "@" from each place anew would take quadratic time.
    _, at, rest = url.rpartition("@")
    return (f"...@{rest}" if at else rest).partition("?")[0].partition("#")[0][:80]


def _scheme(value: object) -> str:
    if value is None:
        return "http"
    if not isinstance(value, str):
        raise _wrong_type("protocol", value, "a str")
    scheme = value[:-1].lower() if value.endswith(":") else value.lower()
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f"option 'protocol': {value!r} is neither 'http:' nor 'https:'")
    return scheme


def _port(value: object, option: str = "port") -> Optional[int]:
    """A port number; 0 and nothing mean not given."""
    if value is None:
        return None
    if isinstance(value, str):
        if re.fullmatch(r"[0-9]{1,9}", value) is None:
            raise ValueError(f"option {option!r}: the port is not a number")
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(option, value, "an int or a numeric str")
    if not 0 <= value <= 65535:
        raise ValueError(f"option {option!r}: the port {value} is not between 0 and 65535")
    return value or None


def _split_host(value: object, option: str) -> tuple[str, Optional[int]]:
    if not isinstance(value, str):
        raise _wrong_type(option, value, "a str")
    if value.count(":") > 1 and not value.startswith("["):
        return value, None  # an IPv6 address without brackets has no port
    host, colon, port = value.rpartition(":")
    if not colon or value.endswith("]"):
        return value, None
    return host, _port(port, option) if port else None


def has_control(text: str) -> bool:
    """Whether there is a control character in the text, or a lone surrogate: there are no bytes for these."""
    if _CONTROL.search(text):
        return True
    try:
        # No matter for the pattern: a set of characters so far apart takes longer to compile than all the others here.
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def check_host(value: str, option: str) -> str:
    """A host name or address in the form that goes on the wire, without brackets, in lower case."""
    host = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if not host.isascii():
        try:
            if len(host) > MOST_OF_A_NAME:  # the codec takes quadratic time, and finds out last
                raise UnicodeError
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"option {option!r}: {_shown(value)!r} is not a host name") from None
    if not (_is_ipv6(host) if ":" in host else _HOST.fullmatch(host)):
        raise ValueError(f"option {option!r}: {_shown(value)!r} is not a host name or an address")
    return host.lower()


def _is_ipv6(host: str) -> bool:
    address, mark, zone = host.partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return not mark or re.fullmatch(r"[A-Za-z0-9._~\-]+", zone) is not None


def _path(value: object) -> str:
    if value is None:
        return "/"
    if not isinstance(value, str):
        raise _wrong_type("path", value, "a str")
    if " " in value or has_control(value):
        raise ValueError(f"option 'path': {_shown(value)!r} has spaces or control characters; percent-encode them")
    path = value.partition("#")[0]
    return encode_path(path if path.startswith("/") else "/" + path)


def encode_path(path: str) -> str:
    """Percent-encode what may not stand in a path and query; what is encoded already stays as it is."""
    if _PATH_SAFE.fullmatch(path) and ("%" not in path or _ENCODED.sub("", path).find("%") < 0):
        return path
    encoded = []
    for index, character in enumerate(path):
        keep = _ENCODED.match(path, index) if character == "%" else _PATH_SAFE.fullmatch(character)
        encoded.append(character if keep else "".join(f"%{byte:02X}" for byte in character.encode("utf-8")))
    return "".join(encoded)


@functools.lru_cache(maxsize=256)
def _parse_plain_url(url: str) -> Target:
    """``parse_url`` for those without a password, remembered as by ``_parse_plain_options``."""
    return parse_url(url)


# --- headers -------------------------------------------------------------------------------------------------------

Pairs = list[tuple[str, str]]


class HeaderTable:
    """The headers of a request: insertion order, spelling as given, look-up without regard to case."""

    __slots__ = ("_encoded", "_entries")

    def __init__(self, headers: object = None) -> None:
        self._entries: dict[str, tuple[str, Any, list[str]]] = {}
        self._encoded: Optional[str] = None  # shared by copies until they are changed
        if headers is not None:
            self._add_all(headers)

    def _add_all(self, headers: object) -> None:
        if isinstance(headers, Mapping):
            for name, value in headers.items():
                self.set(name, value)
            return
        if isinstance(headers, (str, bytes)) or not isinstance(headers, Iterable):
            raise _wrong_type("headers", headers, "a mapping or pairs")
        for pair in headers:
            if isinstance(pair, (str, bytes)) or not isinstance(pair, Iterable):
                raise _wrong_type("headers", pair, "a mapping or pairs of name and value")
            items = tuple(pair)
            if len(items) != 2:
                raise ValueError(f"option 'headers': expected pairs of name and value, got {len(items)} items")
            self._append(*items)

    def _append(self, name: Any, value: Any) -> None:
        """Set, or add a line where the name came before: pairs may repeat a name."""
        key = _header_key(name)
        if key in self._entries:
            value = [*_as_list(self._entries[key][1]), *_as_list(value)]
        self.set(name, value)

    def copy(self) -> HeaderTable:
        table = HeaderTable()
        table._entries = dict(self._entries)
        table._encoded = self._encoded
        return table

    def set(self, name: Any, value: Any) -> None:
        """Set a header. Raises ``TypeError`` or ``ValueError`` naming it; then nothing has changed."""
        key = _header_key(name)
        lines = _header_lines(name, value)
        if key == "cookie" and len(lines) > 1:
            lines = ["; ".join(lines)]
        self._entries[key] = (name, value, lines)
        self._encoded = None

    def update(self, other: HeaderTable) -> None:
        """Take over every header of another table."""
        if other._entries:
            self._entries.update(other._entries)
            self._encoded = None

    def get(self, name: Any) -> Any:
        entry = self._entries.get(_header_key(name, check=False))
        return None if entry is None else entry[1]

    def line(self, name: str) -> Optional[str]:
        """What goes on the wire for ``name`` (lower case), joined as one value; ``None`` if absent."""
        entry = self._entries.get(name)
        return None if entry is None else ", ".join(entry[2])

    def remove(self, name: Any) -> None:
        self.discard(_header_key(name, check=False))

    def discard(self, key: str) -> None:
        """Take a header away if it is there; ``key`` in lower case."""
        if key in self._entries:
            del self._entries[key]
            self._encoded = None

    def __bool__(self) -> bool:
        return bool(self._entries)

    def has(self, name: Any) -> bool:
        return _header_key(name, check=False) in self._entries

    def names(self) -> list[str]:
        return list(self._entries)

    def as_dict(self) -> dict[str, Any]:
        return {key: entry[1] for key, entry in self._entries.items()}

    def encode_without_host(self) -> str:
        """The lines as they go on the wire, each with its CRLF, but for ``Host``."""
        if self._encoded is None:
            self._encoded = "".join([f"{name}: {line}\r\n" for name, line in self.pairs() if name.lower() != "host"])
        return self._encoded

    def pairs(self) -> Pairs:
        """Name and value of every line, in order."""
        return [(name, line) for name, _, lines in self._entries.values() for line in lines]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _header_key(name: Any, check: bool = True) -> str:
    if not isinstance(name, str):
        raise TypeError(f"header name must be a str, not {type(name).__name__}")
    if check and _TOKEN.fullmatch(name) is None:
        raise ValueError(f"header name {name!r} is not an HTTP token (RFC 9110, 5.1)")
    return name.lower()


def _header_lines(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [_header_line(name, value)]
    if value is None:
        raise TypeError(f"header {name!r}: the value is None; use remove_header() to take a header away")
    if isinstance(value, (list, tuple)):
        if any(item is None for item in value):
            raise TypeError(f"header {name!r}: an item of the value is None")
        return [_header_line(name, item if isinstance(item, str) else _text(item)) for item in value]
    return [_header_line(name, _text(value))]


def _text(value: Any) -> str:
    # str(b"x") is "b'x'", which nobody means.
    return value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else str(value)


def _header_line(name: str, text: str) -> str:
    if _FIELD_VALUE.fullmatch(text) is None:
        # The value is not shown: it may be a secret.
        raise ValueError(
            f"header {name!r}: the value has a character that may not be sent "
            "(CR, LF, NUL or another control but tab, or text outside Latin-1)"
        )
    return text.strip("\t ")


def check_framing_header(name: str, value: Any, chunked: bool) -> Union[int, bool, None]:
    """What setting ``Content-Length`` or ``Transfer-Encoding`` means for the body.

    Gives the announced length, ``True`` for chunked, ``None`` for any other header.
    """
    key = name.lower()
    if key == "content-length":
        if chunked:
            raise ValueError("header 'Content-Length': not allowed together with chunked encoding")
        text = str(value)
        if not (text.isascii() and text.isdigit()):
            raise ValueError(f"header 'Content-Length': {text[:40]!r} is not a number of bytes")
        return int(text)
    if key == "transfer-encoding":
        if str(value).strip().lower() != "chunked":
            raise ValueError("header 'Transfer-Encoding': nothing but 'chunked' is supported")
        return True
    return None


# --- the table of options; last, since it names what is above -------------------------------------------------------

_PARTS = frozenset({"protocol", "host", "hostname", "port", "path"})
_DEFAULTS: dict[str, Any] = {
    "method": "GET",
    "headers": HeaderTable(),  # never changed: a request's own table is made of it
    "redirect": "follow",
    "session": None,
    "partition": None,
    "credentials": None,
    "use_session_cookies": False,
    "origin": None,
    "referrer_policy": "",
    "chunked_encoding": False,
    "timeout": None,
    "high_water_mark": 1024 * 1024,
    "replay_limit": 1024 * 1024,
    "blocking": True,
    "decode": True,
    "dispatcher": None,
}
_PARSERS: dict[str, Callable[[str, Any], Any]] = {
    "method": _method,
    "headers": lambda option, value: HeaderTable(value),
    "redirect": _one_of("follow", "error", "manual"),
    "session": lambda option, value: value,
    "partition": _optional_text,
    "credentials": _one_of(None, "include", "omit", "same-origin"),
    "use_session_cookies": _flag,
    "origin": _optional_text,
    "referrer_policy": _one_of(*sorted(REFERRER_POLICIES)),
    "chunked_encoding": _flag,
    "timeout": lambda option, value: parse_timeout(value),
    "high_water_mark": _size(1),
    "replay_limit": _size(0),
    "blocking": _flag,
    "decode": _flag,
    "dispatcher": _dispatcher,
}
_KNOWN = frozenset(_PARSERS) | _PARTS | {"url"}
