"""Sessions: what requests share. Connections, proxies, TLS settings, cookies, logins, default headers and limits."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from ._auth import AuthCache
from ._decoding import accept_encoding
from ._dispatch import Dispatcher
from ._errors import InvalidStateError
from ._exchange import Exchange, Shared
from ._later import LateCookies, LateModule
from ._multipart import MultipartForm
from ._options import HeaderTable, Timeout, parse_timeout
from ._proxies import Proxies, parse_proxies
from ._socks import available as socks_available
from ._tls import make_proxy_context, make_tls_context
from ._values import Data, Pairs
from ._version import __version__
from ._wire import Pools

if TYPE_CHECKING:
    from http import cookiejar

    from ._cookies import Cookies
    from ._request import ClientRequest
    from ._response import IncomingMessage
else:
    cookiejar = LateModule("http.cookiejar")


StrPath = Union[str, "os.PathLike[str]"]


class Session:
    """What requests share: connections, proxies, TLS settings, cookies, logins, default headers and limits.

    Safe to use from many threads.

    Args:
        partition: a name; ``persist:`` and a name keeps the cookies in a file, from one run of the program to the
            next. ``from_partition`` gives the one session of a name.
        proxies: URLs of proxies: ``{"http": url, "https": url}`` for requests of these schemes, ``"all"`` for both,
            ``"no_proxy"`` for hosts that are reached directly; ``{}`` for none at all, ``None`` for what the
            environment says when the session first goes to a host. ``http``, ``https``, ``socks5`` (also ``socks5h``,
            ``socks4``, ``socks4a``; with ``clientrequest[socks]``). User name and password in a URL answer the
            proxy's first challenge.
        tls: ``True`` for certifi's certificate authorities, the path of a file or folder of others, an
            ``ssl.SSLContext`` to be used itself, or ``False`` to verify nothing, which warns at every connection.
        client_cert: the path of a certificate with its key, or the paths of (certificate, key).
        cookies: a jar to be used itself, by its own policy; else a new one with a strict policy. Cookies are sent and
            taken only by requests that ask for it (``use_session_cookies``, ``credentials``).
        headers: sent with every request that does not set them itself.
        timeout: for requests that do not say: seconds, or a ``Timeout``.
        dispatcher: where the callbacks run, for requests that do not say.
        max_connections_per_host: how many may be in use at once; further requests wait for their turn. ``None`` for
            no limit.
        storage: the folder for the files of ``persist:`` partitions; by default ``clientrequest`` in the user's
            folder for such data.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """

    def __init__(
        self,
        partition: Optional[str] = None,
        *,
        proxies: Optional[Mapping[str, Optional[str]]] = None,
        tls: Union[bool, str, os.PathLike[str], ssl.SSLContext] = True,
        client_cert: Union[str, os.PathLike[str], tuple[StrPath, StrPath], None] = None,
        cookies: Optional[cookiejar.CookieJar] = None,
        headers: Optional[Mapping[str, Any]] = None,
        timeout: Union[float, Timeout, None] = None,
        dispatcher: Optional[Dispatcher] = None,
        max_connections_per_host: Optional[int] = None,
        storage: Union[str, os.PathLike[str], None] = None,
    ) -> None:
        if partition is not None and not isinstance(partition, str):
            raise TypeError(f"partition must be a str or None, not {type(partition).__name__}")
        secured, certificate = _checked_tls(tls), _checked_certificate(client_cert)
        if dispatcher is not None and not callable(dispatcher):
            raise TypeError(f"dispatcher must be callable, not {type(dispatcher).__name__}")
        self._headers = _default_headers()
        own = HeaderTable(headers)
        for name in ("Content-Length", "Transfer-Encoding"):
            if own.has(name):
                raise ValueError(f"header {name!r}: says something of one body, and cannot be for all requests")
        self._headers.update(own)
        self._headers.encode_without_host()  # once here instead of with every request
        self._timeout = parse_timeout(timeout) or Timeout()
        self._dispatcher = dispatcher
        self._partition = partition
        self._cookies = LateCookies(_given_cookies(cookies, partition, storage))
        self._logins = AuthCache()
        self._pools = Pools(
            lambda: make_tls_context(secured, certificate),
            lambda: make_proxy_context(secured, certificate),
            _checked_proxies(proxies),
            _checked_limit(max_connections_per_host),
        )
        self._running: set[Exchange] = set()
        self._shared = Shared(self._pools, self._cookies, self._logins, self._running)
        self._closed = False

    @classmethod
    def from_partition(cls, name: str) -> Session:
        """The one session of that name: the same object at every call, for as long as the program runs.

        Args:
            name: with ``persist:`` before it, its cookies outlast the program.

        Raises:
            TypeError: the name is no ``str``.
        """
        if not isinstance(name, str):
            raise TypeError(f"partition must be a str, not {type(name).__name__}")
        with _sessions_lock:
            session = _named.get(name)
            if session is None or session._closed:
                session = _named[name] = cls(name or None)
        return session

    def request(
        self,
        options: object,
        callback: Optional[Callable[[IncomingMessage], object]] = None,
        *,
        params: Optional[Pairs] = None,
        data: Union[Data, MultipartForm, None] = None,
        json: object = None,
        **overrides: Any,
    ) -> ClientRequest:
        """A ``ClientRequest`` on this session.

        Args:
            options, callback, **overrides: as for ``ClientRequest``.
            params, data, json: as for ``clientrequest.request``.

        Raises:
            TypeError, ValueError: as there.
        """
        from ._request import make_request

        return make_request(options, callback, dict(session=self, **overrides), params, data, json)

    @property
    def cookies(self) -> cookiejar.CookieJar:
        """The jar itself: what is put into it by hand is sent, too."""
        return self._cookies.get().jar

    @property
    def partition(self) -> Optional[str]:
        """The name, if it has one."""
        return self._partition

    def clear_cookies(self) -> None:
        """Forget all cookies, those in the file of a ``persist:`` partition too."""
        if self._cookies.made is not None:
            self._cookies.made.clear()

    def clear_auth_cache(self) -> None:
        """Forget all logins, and close the idle connections, some of which may be logged in."""
        self._logins.clear()
        self._pools.clear()

    def close_connections(self) -> None:
        """Close the idle connections; requests that are running keep theirs."""
        self._pools.clear()

    def close(self) -> None:
        """Abort what runs, and close the idle connections. New requests are refused. Any thread; idempotent."""
        self._closed = True
        for exchange in tuple(self._running):
            exchange.abort()
        self._pools.close()
        if self._cookies.made is not None:
            self._cookies.made.save()  # what was changed by hand

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._running)} running, {len(self._pools.idle())} idle"
        return f"<Session {self._partition!r} {state}>" if self._partition else f"<Session {state}>"

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidStateError("the session is closed")


def _given_cookies(
    jar: Optional[cookiejar.CookieJar], partition: Optional[str], storage: Union[str, os.PathLike[str], None]
) -> Optional[Cookies]:
    """Those of a jar or in a file; ``None`` where there are none yet."""
    if storage is not None and not isinstance(storage, (str, os.PathLike)):
        raise TypeError(f"storage must be the path of a folder or None, not {type(storage).__name__}")
    if jar is None and (partition is None or not partition.startswith(_PERSISTENT)):
        return None
    from ._cookies import Cookies

    return Cookies(jar, _cookie_file(partition, storage))


def _cookie_file(partition: Optional[str], storage: Union[str, os.PathLike[str], None]) -> Optional[Path]:
    if partition is None or not partition.startswith(_PERSISTENT):
        return None
    from ._cookies import default_storage, partition_file

    if partition == _PERSISTENT:
        raise ValueError(f"partition: a name is missing behind {_PERSISTENT!r}")
    return partition_file(default_storage() if storage is None else Path(storage), partition[len(_PERSISTENT) :])


def _checked_proxies(proxies: Optional[Mapping[str, Optional[str]]]) -> Proxies:
    parsed = parse_proxies(proxies)
    if proxies is not None and parsed.use_socks and not socks_available():
        raise ValueError("proxies: SOCKS needs the extra clientrequest[socks]")
    return parsed


def _checked_paths(name: str, *values: object) -> list[str]:
    paths = []
    for value in values:
        if not isinstance(value, (str, os.PathLike)):
            raise TypeError(f"{name} must be a path, not {type(value).__name__}")
        paths.append(str(os.fspath(value)))
    for path in paths:
        if not os.path.exists(path):
            raise ValueError(f"{name}: there is no {path!r}")
    return paths


def _checked_tls(tls: object) -> Union[bool, str, ssl.SSLContext]:
    if isinstance(tls, (bool, ssl.SSLContext)):
        return tls
    if not isinstance(tls, (str, os.PathLike)):
        raise TypeError(f"tls must be True, False, a path or an ssl.SSLContext, not {type(tls).__name__}")
    return _checked_paths("tls", tls)[0]


def _checked_certificate(given: object) -> Union[str, tuple[str, str], None]:
    if given is None:
        return None
    if not isinstance(given, tuple):
        return _checked_paths("client_cert", given)[0]
    if len(given) != 2:
        raise ValueError("client_cert: expected the path of a certificate, or the paths of (certificate, key)")
    certificate, key = _checked_paths("client_cert", *given)
    return certificate, key


def _checked_limit(most: Optional[int]) -> Optional[int]:
    if most is None:
        return None
    if not isinstance(most, int) or isinstance(most, bool):
        raise TypeError(f"max_connections_per_host must be an int or None, not {type(most).__name__}")
    if most < 1:
        raise ValueError(f"max_connections_per_host: {most} is less than 1")
    return most


def _default_headers() -> HeaderTable:
    headers = HeaderTable()
    headers.set("User-Agent", f"clientrequest/{__version__}")
    headers.set("Accept-Encoding", accept_encoding())
    headers.set("Connection", "keep-alive")
    return headers


_PERSISTENT = "persist:"
_DEFAULT = ""  # the name of the default session, which no partition can have: it has none
_named: dict[str, Session] = {}
_sessions_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _sessions_lock
    _sessions_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def default_session() -> Session:
    """The session of requests that name none. Made at its first use."""
    session = _named.get(_DEFAULT)
    return Session.from_partition(_DEFAULT) if session is None or session._closed else session
