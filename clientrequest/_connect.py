"""The first steps of a connection, name lookup and TCP: each can be interrupted, and keeps the time."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable, Optional, Protocol, TypeVar

from ._errors import ClientRequestError, ConnectError
from ._http1 import ResponseHead
from ._mapping import map_error
from ._proxies import Proxy

READ, WRITE = 1, 2
NONBLOCKING = getattr(socket, "SOCK_NONBLOCK", 0)  # from the first moment on, where the system can

T = TypeVar("T")


class Scope(Protocol):
    """On whose behalf a connection is made: lets every step be interrupted and keeps the time."""

    def wait_connecting(self, sock: Optional[socket.socket], events: int) -> None:
        """Wait until the socket is ready, or, without one, until ``wake``. Raises when aborted or out of time."""

    def expose(self, handle: KillHandle) -> None:
        """An abort may shut this from now on."""

    def cover(self) -> bool:
        """An abort may no more; false if one has done so already."""

    def wake(self) -> None:
        """Interrupt ``wait_connecting``; any thread."""

    def step(self, name: str) -> None:
        """The work has come to this point."""

    def wait_turn(self) -> None:
        """Wait until ``wake``, however long a connection may take to be made. Raises when aborted or out of time."""

    def tunnel_fields(self, proxy: Proxy, authority: str) -> str:
        """The header lines for ``CONNECT authority``, each with its CRLF."""

    def tunnel_opened(self, proxy: Proxy, authority: str, head: ResponseHead) -> None:
        """The proxy has opened the tunnel."""

    def tunnel_refused(self, proxy: Proxy, authority: str, head: ResponseHead) -> None:
        """The proxy has not. Returns if it shall be asked again, with other ``tunnel_fields``; else raises."""


# Which scope the connecting thread works for: urllib3 and ssl make their objects without asking us.
scopes: dict[int, Scope] = {}


class KillHandle:
    """A second descriptor of a connection's socket, to shut it down from another thread.

    A duplicate, since the socket itself may be closed, and its number given to another, at any moment. Only the base
    class's ``shutdown``: that of ``SSLSocket`` switches TLS off under whoever is sending.
    """

    def __init__(self, sock: Any) -> None:
        # Taken out by the one who uses it, so that it is never closed by one thread while another shuts it.
        self._duplicate: deque[socket.socket] = deque([socket.fromfd(sock.fileno(), sock.family, sock.type)])

    def shut(self) -> None:
        """End every transfer on the connection, in both directions, at once."""
        try:
            duplicate = self._duplicate.pop()
        except IndexError:
            return
        with contextlib.suppress(OSError):  # not connected, or gone: nothing to interrupt
            duplicate.shutdown(socket.SHUT_RDWR)
        duplicate.close()

    def close(self) -> None:
        """Let go of the descriptor only."""
        with contextlib.suppress(IndexError):
            self._duplicate.pop().close()


def unblock(sock: Any) -> None:
    """Have it wait for nothing; without a call of the system where it is so already."""
    if sock.gettimeout() != 0.0:
        sock.setblocking(False)


def _is_ipv4(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):
        return False
    return True


def resolve(scope: Scope, host: str, port: int) -> list[Any]:
    """Addresses for ``host``. A name is looked up on a thread of its own, since nothing can interrupt that."""
    if _is_ipv4(host):  # what ``getaddrinfo`` would say, without its letting the other threads go first
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
    try:
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        pass
    answer: list[Any] = []

    def look_up() -> None:
        try:
            answer.append(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except Exception as error:
            answer.append(error)
        scope.wake()

    # A daemon: it may hang for as long as the resolver likes, and the interpreter does not wait for it.
    thread = threading.Thread(target=look_up, name="clientrequest-lookup", daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        raise ConnectError("ERR_INSUFFICIENT_RESOURCES", f"{host}: no thread to look it up: {error}") from error
    while not answer:
        scope.wait_connecting(None, 0)
    if isinstance(answer[0], Exception):
        raise answer[0]
    addresses: list[Any] = answer[0]
    return addresses


def patiently(scope: Scope, sock: Any, events: int, attempt: Callable[..., T], *args: Any) -> T:
    """Call ``attempt`` until the socket lets it through; ``events`` is what it waits for, unless TLS says otherwise."""
    while True:
        try:
            return attempt(*args)
        except ssl.SSLWantReadError:
            wanted = READ
        except ssl.SSLWantWriteError:
            wanted = WRITE
        except BlockingIOError:
            wanted = events
        scope.wait_connecting(sock, wanted)


def lookup(scope: Scope, host: str, port: int) -> list[Any]:
    """``resolve`` as a step of its own. Raises ``ConnectError``."""
    scope.step("lookup")
    try:
        return resolve(scope, host, port)
    except (socket.gaierror, UnicodeError) as error:
        raise ConnectError("ERR_NAME_NOT_RESOLVED", f"{host}: {error}") from error


def open_tcp(
    scope: Scope, host: str, port: int, options: Sequence[tuple[int, int, int]]
) -> tuple[socket.socket, KillHandle]:
    """Connect to the first address that answers. Raises ``ConnectError`` with the last address's failure."""
    addresses = lookup(scope, host, port)
    scope.step("connect")
    failure: Optional[OSError] = None
    for family, kind, protocol, _, address in addresses:
        try:
            sock = socket.socket(family, kind | NONBLOCKING, protocol)
        except OSError as error:  # a family this machine does not have, or no descriptor left
            failure = error
            continue
        handle: Optional[KillHandle] = None
        try:
            for option in options:
                sock.setsockopt(*option)
            unblock(sock)
            handle = KillHandle(sock)
            scope.expose(handle)
            _connect(scope, sock, address)
            return sock, handle
        except BaseException as error:
            scope.cover()
            sock.close()
            if handle is not None:
                handle.close()
            if isinstance(error, ClientRequestError) or not isinstance(error, OSError):
                raise
            failure = error
    if failure is None:
        raise ConnectError("ERR_NAME_NOT_RESOLVED", f"{host}: no address")
    raise map_error(failure, f"{host}:{port}", connecting=True) from failure


def _connect(scope: Scope, sock: socket.socket, address: Any) -> None:
    status = sock.connect_ex(address)
    if status in (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR):
        scope.wait_connecting(sock, WRITE)
        status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if status:
        raise OSError(status, os.strerror(status))
