"""Sessions: what requests share. Connections, TLS settings, default headers and limits."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from ._decoding import accept_encoding
from ._dispatch import Dispatcher
from ._errors import InvalidStateError
from ._exchange import Exchange
from ._options import HeaderTable, Timeout, parse_timeout
from ._version import __version__
from ._wire import Pools, make_tls_context

if TYPE_CHECKING:
    from ._request import ClientRequest
    from ._response import IncomingMessage


class Session:
    """Connections, TLS settings, default headers and limits that requests share. Safe to use from many threads.

    Args:
        tls: ``True`` for certifi's certificate authorities, the path of a file or folder of others, an
            ``ssl.SSLContext`` to be used itself, or ``False`` to verify nothing, which warns at every connection.
        client_cert: the path of a certificate with its key, or the paths of (certificate, key).
        headers: sent with every request that does not set them itself.
        timeout: for requests that do not say: seconds, or a ``Timeout``.
        dispatcher: where the callbacks run, for requests that do not say.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """

    def __init__(
        self,
        *,
        tls: Union[bool, str, ssl.SSLContext] = True,
        client_cert: Union[str, tuple[str, str], None] = None,
        headers: Optional[Mapping[str, Any]] = None,
        timeout: Union[float, Timeout, None] = None,
        dispatcher: Optional[Dispatcher] = None,
    ) -> None:
        if not isinstance(tls, (bool, str, ssl.SSLContext)):
            raise TypeError(f"tls must be True, False, a path or an ssl.SSLContext, not {type(tls).__name__}")
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
        self._pools = Pools(lambda: make_tls_context(tls, client_cert))
        self._running: set[Exchange] = set()
        self._closed = False

    @classmethod
    def from_partition(cls, name: str) -> Session:
        """The one session of that name: the same object at every call, for as long as the program runs.

        Raises:
            TypeError: the name is no ``str``.
        """
        if not isinstance(name, str):
            raise TypeError(f"partition must be a str, not {type(name).__name__}")
        with _sessions_lock:
            session = _named.get(name)
            if session is None or session._closed:
                session = _named[name] = cls()
        return session

    def request(
        self,
        options: object,
        callback: Optional[Callable[[IncomingMessage], object]] = None,
        **overrides: Any,
    ) -> ClientRequest:
        """A ``ClientRequest`` on this session. Raises as its constructor does."""
        from ._request import ClientRequest

        return ClientRequest(options, callback, session=self, **overrides)

    def close_connections(self) -> None:
        """Close the idle connections; requests that are running keep theirs."""
        self._pools.clear()

    def close(self) -> None:
        """Abort what runs, and close the idle connections. New requests are refused. Any thread; idempotent."""
        self._closed = True
        for exchange in tuple(self._running):
            exchange.abort()
        self._pools.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._running)} running, {len(self._pools.idle())} idle"
        return f"<Session {state}>"

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidStateError("the session is closed")


def _default_headers() -> HeaderTable:
    headers = HeaderTable()
    headers.set("User-Agent", f"clientrequest/{__version__}")
    headers.set("Accept-Encoding", accept_encoding())
    headers.set("Connection", "keep-alive")
    return headers


_DEFAULT = ""  # the name of the default session, which no partition can have: it has none
_named: dict[str, Session] = {}
_sessions_lock = threading.Lock()


def default_session() -> Session:
    """The session of requests that name none. Made at its first use."""
    session = _named.get(_DEFAULT)
    return Session.from_partition(_DEFAULT) if session is None or session._closed else session
