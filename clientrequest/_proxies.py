"""Proxies: which one a request goes through, by what the session was given or by the environment. Pure.

Nothing is connected here, and no name is looked up. The proxies that an operating system or a desktop knows of are
not asked, nor are PAC files: an environment variable is the same everywhere.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import NamedTuple, Optional, Union
from urllib.parse import unquote, urlsplit

from ._options import Target, bracketed, check_host, has_control

#: Schemes of proxies, and the port each has where its URL has none.
DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}

_KEYS = ("http", "https", "all", "no_proxy")
_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]{0,15}"
# urlsplit of older Pythons ignores what follows a bracket, and takes names in brackets.
_BAD_BRACKETS = r"\][^:]|\[[^:\]]*\]"
_Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class Proxy(NamedTuple):
    """A proxy. ``host`` without brackets; user name and password decoded, ``None`` where there are none."""

    scheme: str
    host: str
    port: int
    username: Optional[str] = None
    password: Optional[str] = None

    @property
    def authority(self) -> str:
        """Host and port, always both."""
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def is_socks(self) -> bool:
        """Whether it passes bytes on, and knows nothing of HTTP."""
        return self.scheme.startswith("socks")

    @property
    def url(self) -> str:
        """The URL without user name and password."""
        return f"{self.scheme}://{self.authority}"

    def __repr__(self) -> str:
        return f"<Proxy {self.url}>"


class Bypass:
    """The hosts that are reached without a proxy: what ``NO_PROXY`` lists.

    Args:
        text: entries with commas or spaces between them, in any case: ``*`` for every host; a name, for itself and all
            names below it, with or without a dot or ``*.`` in front; an IP address, IPv6 with or without brackets; a
            network like ``10.0.0.0/8``. Names and addresses may have a port. Dots at the end do not count. What is
            none of these matches nothing: such lists are made for many programs, and others know more.
    """

    def __init__(self, text: str = "") -> None:
        self._all = False
        self._names: list[tuple[str, Optional[int]]] = []
        self._addresses: list[tuple[_Address, Optional[int]]] = []
        self._networks: list[_Network] = []
        for entry in re.split(r"[\s,]+", text.lower()):
            self._add(entry)

    def _add(self, entry: str) -> None:
        if entry == "*":
            self._all = True
            return
        network = _network(entry)
        if network is not None:
            self._networks.append(network)
            return
        host, port = _split_port(entry)
        address = _address(host)
        if address is not None:
            self._addresses.append((address, port))
            return
        name = _name(host)
        if name:
            self._names.append((name, port))

    def covers(self, target: Target) -> bool:
        """Whether ``target`` is reached without a proxy."""
        if self._all:
            return True
        host = target.host.rstrip(".")
        # Only what can be an address is tried: most hosts are names.
        address = _address(host) if ":" in host or host[-1:].isdigit() else None
        if address is not None:
            # Of another IP version: never equal, never within.
            return any(address == one and port in (None, target.port) for one, port in self._addresses) or any(
                address in network for network in self._networks
            )
        return any(
            port in (None, target.port) and (host == name or host.endswith(f".{name}")) for name, port in self._names
        )


def _network(entry: str) -> Optional[_Network]:
    if "/" not in entry:
        return None
    address, _, prefix = entry.partition("/")
    try:
        # Bits beyond the prefix do not count, as everywhere where people write networks.
        return ipaddress.ip_network(f"{address.strip('[]')}/{prefix}", strict=False)
    except ValueError:
        return None


def _split_port(entry: str) -> tuple[str, Optional[int]]:
    if entry.count(":") > 1 and not entry.startswith("["):
        return entry, None  # an IPv6 address without brackets has no port
    match = re.fullmatch(r"(.*):([0-9]{1,5})", entry)
    return (match.group(1), int(match.group(2))) if match else (entry, None)


def _address(host: str) -> Optional[_Address]:
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    # An IPv4 address in the clothes of IPv6 leads to the same host.
    return getattr(address, "ipv4_mapped", None) or address


def _name(host: str) -> str:
    """The name as it stands in a ``Target``; empty if it is none."""
    name = (host[1:] if host.startswith("*.") else host).strip(".")
    try:
        return check_host(name, "no_proxy") if name else ""
    except ValueError:
        return ""


class Proxies:
    """The proxies of a session, as it was given them.

    Args:
        chosen: the proxy by the scheme of the request, ``http`` and ``https``; ``None`` for none.
        bypass: the hosts that are reached without one.
    """

    def __init__(self, chosen: Mapping[str, Optional[Proxy]], bypass: Bypass) -> None:
        self._chosen = dict(chosen)
        self._bypass = bypass

    def find(self, target: Target) -> Optional[Proxy]:
        """The proxy for ``target``, ``None`` to go there directly."""
        proxy = self._chosen.get(target.scheme)
        return None if proxy is None or self._bypass.covers(target) else proxy

    @property
    def use_socks(self) -> bool:
        """Whether one of them speaks SOCKS."""
        return any(proxy is not None and proxy.is_socks for proxy in self._chosen.values())


class EnvironmentProxies(Proxies):
    """The proxies of the environment: ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``.

    They are looked at anew at each request. The lower-case name wins over the upper-case one, ``http_proxy`` and
    ``https_proxy`` over ``all_proxy``; one that is set to nothing wins too, and means none.
    """

    def __init__(self) -> None:
        super().__init__({}, Bypass())
        # What was read last, and what it meant: as one object, so that threads never mix two readings.
        self._last: dict[str, tuple[str, Optional[Proxy]]] = {}
        self._last_bypass = ("", self._bypass)

    def find(self, target: Target) -> Optional[Proxy]:
        """The proxy for ``target``, ``None`` to go there directly.

        Raises:
            ValueError: the variable that counts here is no URL of a proxy; it is named, its value is not shown.
        """
        name, text = _variable(target.scheme)
        if not text:
            return None
        last = self._last.get(name)
        if last is None or last[0] != text:
            last = self._last[name] = (text, _parse_proxy(text, f"environment variable {name}"))
        proxy = last[1]
        return None if proxy is None or self._read_bypass().covers(target) else proxy

    def _read_bypass(self) -> Bypass:
        text = os.environ.get("no_proxy")
        if text is None:
            text = os.environ.get("NO_PROXY", "")
        last = self._last_bypass
        if last[0] != text:
            last = self._last_bypass = (text, Bypass(text))
        return last[1]


_VARIABLES = {
    "http": ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"),
    "https": ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
}


def _variable(scheme: str) -> tuple[str, str]:
    """Name and value of the variable that says which proxy requests of this scheme take; empty if there is none."""
    for name in _VARIABLES[scheme]:
        text = os.environ.get(name)
        if text is not None and not _is_of_a_header(name):
            return name, text.strip()
    return "", ""


def _is_of_a_header(name: str) -> bool:
    """Whether the variable may have come with a request: a CGI server makes ``HTTP_PROXY`` of the header ``Proxy``."""
    # Windows does not tell the cases of a name apart.
    taken = name if os.name != "nt" else name.upper()
    return taken == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ


def parse_proxies(value: object) -> Proxies:
    """What a session was given as ``proxies``.

    Args:
        value: ``None`` for the environment; or a mapping with the keys ``http`` and ``https``, for requests of these
            schemes, ``all``, for those of both that have no key of their own, and ``no_proxy``, as the environment has
            it. Each value is a ``str`` or ``None``, which means no proxy. A mapping replaces the environment whole,
            ``NO_PROXY`` included. A URL without a scheme is an http one.

    Raises:
        TypeError, ValueError: a key or a value is not what it should be; it is named, no password is shown.
    """
    if value is None:
        return EnvironmentProxies()
    if not isinstance(value, Mapping):
        raise TypeError(f"proxies must be a mapping or None, not {type(value).__name__}")
    for key, text in value.items():
        if key not in _KEYS:
            raise ValueError(f"proxies: unknown key {_shown_key(key)}; known are {', '.join(_KEYS)}")
        if text is not None and not isinstance(text, str):
            raise TypeError(f"proxies[{key!r}] must be a str or None, not {type(text).__name__}")
    parsed = {
        key: None if text is None else _parse_proxy(text, f"proxies[{key!r}]")
        for key, text in value.items()
        if key != "no_proxy"
    }
    for_both = parsed.get("all")
    chosen = {scheme: parsed.get(scheme, for_both) for scheme in ("http", "https")}
    return Proxies(chosen, Bypass(value.get("no_proxy") or ""))


def _shown_key(key: object) -> str:
    # Somebody may have taken the URL for the key, with its password.
    return repr(key) if isinstance(key, str) and re.fullmatch(_SCHEME, key) else f"of type {type(key).__name__}"


def _parse_proxy(value: str, where: str) -> Proxy:
    """The proxy of a URL.

    Args:
        where: what it is the value of, for the error.

    Raises:
        ValueError: it is no URL of a proxy. Nothing is shown of it: in a malformed URL anything may be the password.
    """
    text = value.strip()
    if "://" not in text:
        text = f"http://{text}"
    scheme = text.partition("://")[0].lower()
    if scheme not in DEFAULT_PORTS:
        shown = f"{scheme!r}" if re.fullmatch(_SCHEME, scheme) else "what is before '://'"
        raise ValueError(f"{where}: {shown} is not a scheme of a proxy; those are {', '.join(DEFAULT_PORTS)}")
    malformed = f"{where}: expected the URL of a proxy, like 'http://user:password@host:port'"
    if " " in text or has_control(text):
        raise ValueError(f"{malformed}, without spaces and control characters")
    try:
        parts = urlsplit(text)
        if re.search(_BAD_BRACKETS, parts.netloc.rpartition("@")[2]):
            raise ValueError
        host, port = check_host(parts.hostname or "", where), parts.port
    except ValueError:
        raise ValueError(malformed) from None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{malformed}, without a path; '/', '?' and '#' in a password are %2F, %3F and %23")
    named = bool(parts.username or parts.password)
    return Proxy(
        scheme,
        host,
        port or DEFAULT_PORTS[scheme],
        unquote(parts.username or "") if named else None,
        unquote(parts.password) if named and parts.password is not None else None,
    )
