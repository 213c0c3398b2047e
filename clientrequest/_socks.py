"""SOCKS proxies: what is said to one. The only room that knows PySocks (``clientrequest[socks]``)."""

from __future__ import annotations

import functools
import importlib
import socket
import threading
from typing import Any

from ._connect import READ, WRITE, Scope, lookup, patiently, scopes
from ._errors import ClientRequestError, ProxyError
from ._mapping import describe
from ._proxies import Proxy


@functools.lru_cache(maxsize=1)
def _socks() -> Any:
    try:
        return importlib.import_module("socks")
    except ImportError:
        return None


def available() -> bool:
    """Whether PySocks is installed."""
    return _socks() is not None


def open_socks(scope: Scope, sock: socket.socket, proxy: Proxy, host: str, port: int) -> socket.socket:
    """Have the proxy at the other end of ``sock`` connect to ``host``.

    Args:
        scope: on whose behalf.
        sock: connected and non-blocking; in this function's hands.
        proxy: what is at the other end.
        host: a name, or an address without brackets. ``socks5`` and ``socks4`` have it looked up here, ``socks5h``
            and ``socks4a`` by the proxy.
        port: of the server.

    Returns:
        The socket, which now leads to the server.

    Raises:
        ConnectError: the name cannot be looked up.
        ProxyError: the proxy refuses, or does not speak SOCKS.
    """
    try:
        scope.step("socks")
        if not available():
            raise ProxyError("ERR_PROXY_CONNECTION_FAILED", "SOCKS needs the extra clientrequest[socks]")
        if proxy.scheme in ("socks4", "socks5"):
            host = _address(scope, host, port, only_v4=proxy.scheme == "socks4")
    except BaseException:
        sock.close()
        raise
    family, kind = sock.family, sock.type
    negotiator = _negotiator()(family, kind, 0, sock.detach())
    try:
        version = _socks().SOCKS4 if proxy.scheme.startswith("socks4") else _socks().SOCKS5
        negotiator.set_proxy(version, proxy.host, proxy.port, True, proxy.username or None, proxy.password or None)
        negotiator.connect((host, port))
        return socket.socket(family, kind, 0, negotiator.detach())
    except Exception as error:
        cause = getattr(error, "socket_err", None) or error
        if isinstance(cause, ClientRequestError):  # aborted, or out of time
            raise cause from None
        raise ProxyError("ERR_SOCKS_CONNECTION_FAILED", f"{proxy.authority}: {describe(cause)}") from error
    finally:
        negotiator.close()  # nothing is left in it after a good end


def _address(scope: Scope, host: str, port: int, only_v4: bool) -> str:
    for family, _, _, _, address in lookup(scope, host, port):
        if family == socket.AF_INET or not only_v4:
            return str(address[0])
    raise ProxyError("ERR_SOCKS_CONNECTION_FAILED", f"{host}: no IPv4 address, and SOCKS 4 knows no others")


@functools.lru_cache(maxsize=1)
def _negotiator() -> type[Any]:
    """PySocks' socket, made to talk over one that is connected already and does not block."""

    class Polled(socket.socket):
        def connect(self, address: Any) -> None:
            """It is connected."""

        def settimeout(self, seconds: Any) -> None:
            """It stays as it is: the limits are the scope's."""

        def recv_into(self, *args: Any) -> int:
            return patiently(scopes[threading.get_ident()], self, READ, super().recv_into, *args)

        def send(self, *args: Any) -> int:
            return patiently(scopes[threading.get_ident()], self, WRITE, super().send, *args)

    return type("Negotiator", (_socks().socksocket, Polled), {})
