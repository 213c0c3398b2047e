"""The wire: connections and pools. The room that knows urllib3's.

urllib3 makes, secures and keeps the connections; each step of that is made interruptible here, and the connected
socket is handed out as a ``Wire``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import select
import socket
import ssl
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable, Optional, Protocol

import urllib3
from urllib3 import exceptions as urllib3_errors
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssltransport import SSLTransport

from ._connect import READ, WRITE, KillHandle, Scope, open_tcp, scopes, unblock
from ._errors import ClientRequestError, ConnectError, ProxyError
from ._file_part import FilePart
from ._http1 import Bytes
from ._mapping import map_error, reset
from ._options import Target, bracketed
from ._proxies import Proxies, Proxy
from ._socks import open_socks
from ._tls import NestedTLS, Records, Waiting, has_lost_its_number, is_cut, refuse_http2
from ._tunnel import AskAnewError, ask_for_tunnel

MOST_IDLE = 64  # idle connections kept for one origin
IDLE_LIMIT = 60.0  # seconds an idle connection is kept where the server says nothing
MOST_POOLS = 256  # origins that are remembered
_IOV_LIMIT = 64  # buffers in one sendmsg; beyond that joining is faster
_JOIN_LIMIT = 128 * 1024  # bytes up to which joining is no slower than sendmsg
_TLS_AT_ONCE = 256 * 1024  # bytes of one send over TLS, and those received without a look at anything else
_HANDSHAKE_TIMEOUT = 3600.0  # any number but 0: the real limits are the scope's

if sys.platform == "linux":
    import fcntl

_SIOCOUTQ = 0x5411  # Linux: asks a TCP socket how much of what it sent is not acknowledged

# Without TCP_NODELAY a small request behind a proxy waits 40 ms; urllib3 leaves it off there.
_SOCKET_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


def refuse_future(version: str) -> None:
    """urllib3-future, which niquests brings along, stands in for urllib3 and is another: requests through it break off.

    Raises:
        ImportError: this is the version of one.
    """
    patch = version.split(".")[2:3]
    if patch and patch[0].isdigit() and int(patch[0]) >= 900:  # how the two are meant to be told apart
        raise ImportError(
            f"clientrequest needs urllib3, but what is installed by that name is urllib3-future {version}, which "
            "comes with niquests and replaces it; to have both, install that with URLLIB3_NO_OVERRIDE=1 in the "
            "environment and --no-binary urllib3-future, and then urllib3 again"
        )


refuse_future(urllib3.__version__)  # type: ignore[attr-defined]  # public, and left out of its __all__


# --- connections ---------------------------------------------------------------------------------------------------

Opener = Callable[[Scope, str, int, Sequence[tuple[int, int, int]]], tuple[socket.socket, KillHandle]]


class StandIn(Protocol):
    """Answers in the place of the network, in the tests of users (``testing``)."""

    def opener(self, target: Target) -> Opener:
        """What makes the connections to the target's origin, in the manner of ``open_tcp``. Raises ``ConnectError``."""


class _ConnectionMixin:
    """What our connections do differently from urllib3's."""

    # All of these are urllib3's and http.client's own.
    sock: Any
    _dns_host: str
    port: int
    socket_options: Any

    born: int  # the process it was made in
    through: Optional[Proxy] = None  # what the socket leads to
    tunnelled = False  # there is a tunnel: whatever comes next is about the server
    opener: Opener  # of the way: makes the TCP connection, or what stands in for it
    kill_handle: Optional[KillHandle] = None
    idle_since = 0.0
    idle_limit = IDLE_LIMIT
    secured = False  # by TLS
    gathers = False  # sends several buffers at once
    idle_poller: Any = None  # asks whether anything has come

    def _new_conn(self) -> socket.socket:
        scope = scopes[threading.get_ident()]
        self.born = os.getpid()
        host, port = self._dns_host.strip("[]"), self.port
        proxy = self.through
        if proxy is None:
            sock, self.kill_handle = self.opener(scope, host, port, self.socket_options or ())
        else:
            sock = self._reach(scope, proxy)
            if proxy.is_socks:
                sock = open_socks(scope, sock, proxy, host, port)
        return sock

    def _reach(self, scope: Scope, proxy: Proxy) -> socket.socket:
        try:
            sock, self.kill_handle = open_tcp(scope, proxy.host, proxy.port, self.socket_options or ())
        except ConnectError as error:
            failure = ProxyError("ERR_PROXY_CONNECTION_FAILED", error.detail)
            failure.errno = error.errno
            raise failure from error.__cause__ or error
        return sock

    def close(self) -> None:
        handle, self.kill_handle = self.kill_handle, None
        if handle is not None:
            handle.close()  # while it is open, closing the socket itself sends no FIN
        super().close()  # type: ignore[misc]

    @property
    def is_connected(self) -> bool:
        """Whether an idle connection can be used: not closed by the server, and nothing unexpected came."""
        if self.secured and self.sock.pending():  # behind the end of a body, in the same record of TLS
            return False
        if self.idle_poller is not None:
            return not self.idle_poller.poll(0)
        try:
            # The base method looks at the raw bytes of a TLS connection too, where any at all mean trouble.
            socket.socket.recv(getattr(self.sock, "socket", self.sock), 1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except (OSError, TypeError):
            pass
        return False

    def know_socket(self) -> None:
        """Find out what the socket can do, once it is connected."""
        self.secured = isinstance(self.sock, (ssl.SSLSocket, NestedTLS))
        if self.secured:
            self.sock.suppress_ragged_eofs = False
        self.gathers = not self.secured and hasattr(self.sock, "sendmsg")
        if hasattr(select, "poll"):
            self.idle_poller = select.poll()
            self.idle_poller.register(self.sock.fileno(), select.POLLIN)


class _HTTPConnection(_ConnectionMixin, HTTPConnection):
    pass


class _HTTPSConnection(_ConnectionMixin, HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        # ssl refuses to make a handshake on a socket that is plainly non-blocking.
        sock.settimeout(_HANDSHAKE_TIMEOUT)
        return sock

    def _connect_tls_proxy(self, hostname: str, sock: socket.socket) -> Any:
        secured = super()._connect_tls_proxy(hostname, sock)
        return Waiting(scopes[threading.get_ident()], secured) if self.proxy_is_tunneling else secured

    def _tunnel(self) -> None:
        """Have the proxy connect to the server (RFC 9110, 9.3.6), with as many logins as that takes."""
        assert self._tunnel_host is not None
        assert self.through is not None
        scope = scopes[threading.get_ident()]
        scope.step("tunnel")
        self.tunnelled = False
        ask_for_tunnel(scope, self.sock, self.through, f"{bracketed(self._tunnel_host)}:{self._tunnel_port}")
        self.tunnelled = True


class _IdleConnections:
    """The queue of a pool: last in, first out, without the filling-up, blocking and warnings of ``LifoQueue``."""

    def __init__(self, maxsize: int = 0) -> None:
        self._connections: deque[Any] = deque()
        self.closed = False

    def take(self) -> Any:
        """The connection used last that can be used again, ``None`` if there is none. Those that cannot are closed."""
        while self._connections:
            try:
                connection = self._connections.pop()
            except IndexError:  # another thread was faster
                break
            fresh = time.monotonic() - connection.idle_since <= connection.idle_limit
            if fresh and connection.born == os.getpid() and connection.is_connected:
                return connection
            connection.close()
        return None

    def get(self, block: bool = True, timeout: Optional[float] = None) -> Any:
        """For urllib3, which empties the queue of a pool that it closes."""
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, connection: Any, block: bool = True, timeout: Optional[float] = None) -> None:
        if connection is None:  # urllib3 fills a queue with these
            return
        connection.idle_since = time.monotonic()
        self._connections.append(connection)
        if len(self._connections) > MOST_IDLE:
            with contextlib.suppress(IndexError):
                self._connections.popleft().close()
        if self.closed:  # asked last: it came while the pool was being emptied
            self.close()

    def close(self) -> None:
        """Close what is idle, and what is put back from now on."""
        self.closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._connections.popleft().close()

    def qsize(self) -> int:
        return len(self._connections)


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection
    QueueCls = _IdleConnections  # type: ignore[assignment]


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection
    QueueCls = _IdleConnections  # type: ignore[assignment]


# --- ways and pools ------------------------------------------------------------------------------------------------


class _Turn:
    """Somebody who waits. Whoever takes out the claim decides: granted, or given up."""

    __slots__ = ("claim", "granted", "scope")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.claim = deque([True])
        self.granted = False


class _Turns:
    """Lets at most so many connections to one host be in use; the others wait, first come, first served.

    No lock: a turn may be given back in a forked child, where the thread that had the lock does not exist.
    """

    def __init__(self, most: int) -> None:
        self._free = deque([True] * most)
        self._waiting: deque[_Turn] = deque()

    def enter(self, scope: Scope) -> None:
        """Wait for a turn. Raises what the scope raises."""
        turn = _Turn(scope)
        self._waiting.append(turn)
        self._grant()
        try:
            while not turn.granted:
                scope.wait_turn()
        except BaseException:
            if not _take(turn.claim):  # it was granted at this very moment
                self.leave()
            with contextlib.suppress(ValueError):
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        self._free.append(True)
        self._grant()

    def _grant(self) -> None:
        """Give what is free to those who wait longest."""
        while self._waiting and _take(self._free):
            try:
                turn = self._waiting.popleft()
            except IndexError:  # another thread was faster
                self._free.append(True)
                continue  # and somebody may have come meanwhile
            if _take(turn.claim):
                turn.granted = True
                turn.scope.wake()
            else:
                self._free.append(True)


def _take(tokens: deque[bool]) -> bool:
    try:
        tokens.pop()
    except IndexError:
        return False
    return True


class _Way:
    """How an origin is reached: the pool of its connections, and through what."""

    __slots__ = ("forwards", "idle", "opener", "pool", "proxy", "tunnels", "turns")

    def __init__(
        self,
        pool: HTTPConnectionPool,
        proxy: Optional[Proxy],
        scheme: str,
        turns: Optional[_Turns],
        opener: Opener = open_tcp,
    ) -> None:
        over_http = proxy is not None and not proxy.is_socks
        self.pool: HTTPConnectionPool = pool
        self.idle: Any = pool.pool  # an ``_IdleConnections``
        self.proxy: Optional[Proxy] = proxy
        self.opener: Opener = opener
        self.forwards: bool = over_http and scheme == "http"  # the proxy reads the requests, and passes them on
        self.tunnels: bool = over_http and scheme == "https"
        self.turns: Optional[_Turns] = turns

    def close_idle(self) -> None:
        """Close its idle connections, and those that come back later."""
        self.idle.close()

    def leave(self) -> None:
        """A connection is in use no more."""
        if self.turns is not None:
            self.turns.leave()

    def open(self, connection: Any) -> None:
        """Connect it, and secure it."""
        connection.through = self.proxy
        connection.opener = self.opener
        if self.tunnels:
            self.pool._prepare_proxy(connection)
        else:
            connection.connect()
        self.pool._validate_conn(connection)
        if isinstance(connection.sock, SSLTransport):
            connection.sock = NestedTLS(connection.sock)
        refuse_http2(connection.sock)
        unblock(connection.sock)
        connection.know_socket()

    def map_error(self, error: BaseException, target: Target, connection: Any) -> ClientRequestError:
        """What an error while connecting means, and to whom."""
        over_http = self.forwards or self.tunnels
        of_proxy = self.proxy if over_http and not connection.tunnelled else None
        return map_error(error, (of_proxy or target).authority, connecting=True)


class Pools:
    """The connections of one session.

    Args:
        tls_context: called once, at the first https request.
        proxy_tls_context: the same for the first https proxy.
        proxies: which requests go through one.
        most: connections to one host that may be in use at once, ``None`` for no limit.
    """

    #: In the place of the network: of the class for all sessions, see ``put_up``, of an object for its session.
    stand_in: Optional[StandIn] = None

    def __init__(
        self,
        tls_context: Callable[[], ssl.SSLContext],
        proxy_tls_context: Optional[Callable[[], ssl.SSLContext]] = None,
        proxies: Optional[Proxies] = None,
        most: Optional[int] = None,
    ) -> None:
        self._make_contexts = {"server": tls_context, "proxy": proxy_tls_context or tls_context}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._proxies = proxies
        self._most = most
        self._turns: dict[tuple[str, str, int], _Turns] = {}
        self._lock = threading.Lock()  # one context, one manager, one way
        self._pid = os.getpid()
        self._managers: dict[tuple[Optional[Proxy], bool], urllib3.PoolManager] = {}
        # urllib3 takes 7 to 11 µs to find a pool.
        self._found: dict[tuple[tuple[str, str, int], bool], _Way] = {}
        self._closed = False
        _all_pools.add(self)

    def connect(self, target: Target, scope: Scope, fresh: bool = False, private: bool = False) -> Wire:
        """A connection to the target's origin: an idle one, or, and with ``fresh`` only, a new one.

        Args:
            target: where to.
            scope: on whose behalf.
            fresh: not one that was used before.
            private: not one that anybody has logged in, and nobody else may log this one in.
        """
        scope.step("pool")
        way = self._way(target, private)
        if way.turns is not None:
            way.turns.enter(scope)
        try:
            return self._connect(way, target, scope, fresh, private)
        except BaseException:
            way.leave()
            raise

    def _connect(self, way: _Way, target: Target, scope: Scope, fresh: bool, private: bool) -> Wire:
        idle = None if fresh else self._reuse(way, scope)
        if idle is not None:
            return idle
        connection: Any = way.pool._new_conn()
        ident = threading.get_ident()
        scopes[ident] = scope
        try:
            self._open(way, connection, scope)
        except BaseException as error:
            scope.cover()
            connection.close()
            if isinstance(error, (OSError, ValueError, urllib3_errors.HTTPError)):
                mapped = way.map_error(error, target, connection)
                if mapped is error:
                    raise
                raise mapped from mapped.__cause__ or error
            raise
        finally:
            del scopes[ident]
        return Wire(way, connection, scope, reused=False)

    def take_idle(self, target: Target, scope: Scope, private: bool = False) -> Optional[Wire]:
        """As ``connect``, where nothing has to be waited for; else ``None``."""
        way = self._found.get((target[:3], private)) if self._pid == os.getpid() else None
        if way is None or way.turns is not None:
            return None
        return self._reuse(way, scope)

    @staticmethod
    def _reuse(way: _Way, scope: Scope) -> Optional[Wire]:
        connection = way.idle.take()
        if connection is None:
            return None
        try:
            scope.expose(connection.kill_handle)
        except BaseException:
            connection.close()
            raise
        return Wire(way, connection, scope, reused=True)

    @staticmethod
    def _open(way: _Way, connection: Any, scope: Scope) -> None:
        while True:
            try:
                way.open(connection)
                return
            except AskAnewError:  # a login that the proxy wants on a connection of its own
                scope.cover()
                connection.close()

    def _way(self, target: Target, private: bool) -> _Way:
        if self._pid != os.getpid():
            self.after_fork()
        way = self._found.get((target[:3], private))  # its origin, without a call
        return self._find_way(target, private) if way is None else way

    def _find_way(self, target: Target, private: bool) -> _Way:
        with self._lock:
            # Asked in here: ``put_up`` clears what was found before.
            stand_in = self.stand_in
            way = self._real_way(target, private) if stand_in is None else self._way_to(stand_in, target)
            if len(self._found) >= MOST_POOLS:
                self._found.clear()
            self._found[target.origin, private] = way
            if self._closed:
                way.close_idle()
            return way

    def _real_way(self, target: Target, private: bool) -> _Way:
        try:
            proxy = None if self._proxies is None else self._proxies.find(target)
        except ValueError as error:
            raise ProxyError("ERR_MANDATORY_PROXY_CONFIGURATION_FAILED", str(error)) from error
        return _Way(self._make_pool(target, proxy, private), proxy, target.scheme, self._turns_for(target))

    def _way_to(self, stand_in: StandIn, target: Target) -> _Way:
        """Without proxy and without TLS: there is no network between."""
        opener = stand_in.opener(target)
        return _Way(_HTTPPool(target.host, target.port), None, target.scheme, self._turns_for(target), opener)

    def _turns_for(self, target: Target) -> Optional[_Turns]:
        return None if self._most is None else self._turns.setdefault(target.origin, _Turns(self._most))

    def _make_pool(self, target: Target, proxy: Optional[Proxy], private: bool) -> HTTPConnectionPool:
        manager = self._managers.get((proxy, private))
        if manager is None:
            manager = self._managers[proxy, private] = self._make_manager(proxy)
        settings: dict[str, Any] = {}
        if target.scheme == "https" or (proxy is not None and proxy.scheme == "https"):
            context = self._context("server" if target.scheme == "https" else "proxy")
            settings = {"ssl_context": context, "cert_reqs": context.verify_mode}
        return manager.connection_from_host(target.host, target.port, target.scheme, settings)

    def _make_manager(self, proxy: Optional[Proxy]) -> urllib3.PoolManager:
        settings: dict[str, Any] = {"num_pools": MOST_POOLS, "maxsize": MOST_IDLE, "socket_options": _SOCKET_OPTIONS}
        manager: urllib3.PoolManager
        if proxy is None or proxy.is_socks:
            manager = urllib3.PoolManager(**settings)
        else:
            context = self._context("proxy") if proxy.scheme == "https" else None
            manager = urllib3.ProxyManager(proxy.url, proxy_ssl_context=context, **settings)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager

    def _context(self, of: str) -> ssl.SSLContext:
        context = self._contexts.get(of)
        if context is None:
            context = self._contexts[of] = self._make_contexts[of]()
        return context

    def idle(self) -> list[Any]:
        """The idle connections; for tests and ``repr``."""
        queues = {way.idle for way in list(self._found.values())}
        return [one for idle in queues for one in idle._connections]

    def clear(self) -> None:
        """Close the idle connections, and look at the environment's proxies again."""
        with self._lock:
            found, self._found = self._found, {}
            managers, self._managers = self._managers, {}
        for way in found.values():
            way.close_idle()
            way.pool.close()
        for manager in managers.values():
            manager.clear()

    def close(self) -> None:
        """Close the idle connections, and take back no more of those in use."""
        self._closed = True
        self.clear()

    def after_fork(self) -> None:
        """Start afresh in the child; the inherited descriptors are closed, never shut down."""
        self._lock = threading.Lock()
        self._pid = os.getpid()
        found, self._found, self._managers = self._found, {}, {}  # a manager's own lock may be held for ever
        self._turns = {}
        for way in found.values():
            way.close_idle()


_all_pools: weakref.WeakSet[Pools] = weakref.WeakSet()


def put_up(stand_in: Optional[StandIn]) -> None:
    """Have all requests of the process answered by ``stand_in``, or by the network again.

    Those of sessions that have a stand-in of their own stay with it. The idle connections of the others are closed:
    nobody gets from here to there by an old one.
    """
    Pools.stand_in = stand_in
    for pools in _known_pools():
        if "stand_in" not in vars(pools):
            pools.clear()


def _known_pools() -> tuple[Pools, ...]:
    while True:
        with contextlib.suppress(RuntimeError):  # another thread has made a session meanwhile
            return tuple(_all_pools)


def _after_fork_in_child() -> None:
    """An idle connection that the parent closes is to end, though the child has a copy of its descriptor."""
    for pools in tuple(_all_pools):
        pools.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _check_alive(error: OSError) -> None:
    """Raise ``error``, of a receive that got nothing, if it says that the system gave the connection up.

    From Python 3.10 on the system's ETIMEDOUT is a ``socket.timeout`` too. It is told once only; what comes next looks
    like an end.
    """
    if error.errno == errno.ETIMEDOUT:
        raise error


class Wire:
    """A connected, non-blocking connection in the hands of one request."""

    received: int = 0  # bytes, on this request
    cut: bool = False  # TLS ended without its close_notify
    want: int = WRITE  # what a send that took nothing waits for
    pinned: bool = False  # not given back when a response is whole
    free: bool = False  # it was pinned, and would have been given back
    _room: Optional[memoryview] = None  # where records are put together

    def __init__(self, way: _Way, connection: Any, scope: Scope, reused: bool) -> None:
        self._way = way
        self.forwards: bool = way.forwards
        self.proxy: Optional[Proxy] = way.proxy
        self._connection = connection
        self._scope: Optional[Scope] = scope
        self.sock: Any = connection.sock
        self.reused = reused
        self.tls: bool = connection.secured
        self._gathers: bool = connection.gathers
        self._records = Records(self.sock) if self.tls and isinstance(self.sock, ssl.SSLSocket) else None

    def send(self, buffers: Sequence[Bytes]) -> int:
        """Give the socket what it takes at once; 0 if that is nothing, ``want`` then says what to wait for."""
        try:
            if self.tls and len(buffers[0]) > _TLS_AT_ONCE:
                # It takes all or nothing, and tells nothing of its progress meanwhile.
                sent: int = self.sock.send(memoryview(buffers[0])[:_TLS_AT_ONCE])
            elif len(buffers) == 1 or not self._gathers:
                sent = self.sock.send(buffers[0])
            else:
                sent = self.sock.sendmsg(buffers)
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        except ssl.SSLWantReadError:
            self.want = READ
            return 0
        except ssl.SSLEOFError as error:
            raise reset() from error
        self.want = WRITE  # gevent's TLS sockets give 0 instead of raising
        return sent

    def held_by_system(self) -> Optional[int]:
        """Bytes that the socket took and the server has not confirmed yet; ``None`` where the system does not tell."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                return int.from_bytes(fcntl.ioctl(self.sock.fileno(), _SIOCOUTQ, bytes(4)), sys.byteorder)
        return None

    @property
    def peer(self) -> Optional[tuple[str, int]]:
        """Address and port of the other end, a proxy's if there is one; ``None`` where the system does not tell."""
        try:
            address = self.sock.getpeername()
        except (OSError, AttributeError):  # it is gone already, or TLS is inside the TLS of a proxy
            return None
        return address[0], address[1]

    @property
    def sends_files(self) -> bool:
        """Whether the system can give parts of files to the socket: not where they have to be encrypted."""
        return not self.tls

    def send_part(self, part: FilePart) -> int:
        """As ``send``, for a part of a file."""
        self.want = WRITE
        try:
            return part.send_to(self.sock)
        except BlockingIOError:
            return 0

    def fit(self, buffers: list[Bytes]) -> list[Bytes]:
        """The same bytes in the form that goes out fastest: joined where they are small or the socket cannot gather."""
        if len(buffers) <= 1:
            return buffers
        total = sum(map(len, buffers))
        if total <= _JOIN_LIMIT or len(buffers) > _IOV_LIMIT:
            return [b"".join(buffers)]
        if not self._gathers and max(map(len, buffers)) < _JOIN_LIMIT:
            return [b"".join(buffers)]
        return buffers

    def recv(self, size: int) -> Optional[bytes]:
        """What is there, at most ``size`` bytes; ``b""`` at the end, ``None`` if nothing is there yet."""
        try:
            data: bytes = self.sock.recv(size)
        except (BlockingIOError, socket.timeout, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            _check_alive(error)
            return None
        except ssl.SSLError as error:
            self._end_by(error)
            return b""
        self.received += len(data)
        return data

    def gather(self, size: int, enough: int) -> Optional[bytes]:
        """As ``recv``, of which TLS gives one record only: here as many as are there, until they are ``enough``."""
        if self._records is None:
            return self.recv(size)
        if self._room is None or len(self._room) < size:
            self._room = memoryview(bytearray(size))
        count = self.recv_into(self._room[:size], enough)
        return None if count is None else bytes(self._room[:count])

    def recv_into(self, view: memoryview, enough: int = _TLS_AT_ONCE) -> Optional[int]:
        """The same into a buffer: the number of bytes, 0 at the end, ``None`` if nothing is there yet."""
        try:
            if self._records is None:
                count: int = self.sock.recv_into(view)
            else:
                count = self._records.recv_into(view, min(enough, len(view)))
        except (BlockingIOError, socket.timeout, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            _check_alive(error)
            return None
        except ssl.SSLError as error:
            self._end_by(error)
            return 0
        self.received += count
        return count

    def _end_by(self, error: ssl.SSLError) -> None:
        """An error that may only say how the stream ended. Raises whatever says more."""
        if has_lost_its_number(error):
            raise reset() from error
        if not is_cut(error):
            raise error
        self.cut = True

    def lend(self, seconds: float) -> None:
        """From now on a receive waits by itself, for this long at the most."""
        self.sock.settimeout(seconds)

    def release(self, idle_limit: Optional[float] = None) -> None:
        """Back to the pool, for the next request; closed instead if an abort was faster. Idempotent."""
        if self.pinned:
            self.free = True
            return
        connection, scope = self._let_go()
        if connection is None:
            return
        if scope is None or not scope.cover():
            connection.close()
            self._way.leave()
            return
        unblock(self.sock)
        connection.idle_limit = IDLE_LIMIT if idle_limit is None else idle_limit
        self._way.idle.put(connection)
        self._way.leave()

    def discard(self) -> None:
        """Close the connection. Idempotent."""
        connection, scope = self._let_go()
        if connection is not None:
            if scope is not None:
                scope.cover()
            connection.close()
            self._way.leave()

    def pin(self) -> None:
        """Keep the connection when its response is whole, for the next request of a login that goes with it."""
        self.pinned = True

    def unpin(self) -> bool:
        """Whether it was kept, and can carry the next request; else it is closed."""
        free, self.free, self.pinned = self.free, False, False
        if not free or not self.held or not self._connection.is_connected:
            self.discard()
            return False
        self.received = 0
        unblock(self.sock)
        return True

    def _let_go(self) -> tuple[Any, Optional[Scope]]:
        """Connection and scope, for the last time; the wire itself may be kept for what it knows."""
        connection, self._connection = self._connection, None
        scope, self._scope = self._scope, None
        self._records = self._room = None
        return connection, scope

    @property
    def held(self) -> bool:
        return self._connection is not None
