"""The wire: connections, TLS and pools. The only room that knows urllib3, ssl and the errors of the system.

urllib3 makes, secures and keeps the connections; this room makes each step of that interruptible (name lookup,
TCP, TLS), hands the connected socket out as a ``Wire``, and turns every error into one of ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import re
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable, NoReturn, Optional, Protocol, Union

import certifi
import urllib3
from urllib3 import exceptions as urllib3_errors
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from ._errors import (
    ClientRequestError,
    ConnectError,
    ProtocolError,
    ProxyError,
    RedirectError,
    RequestTimeout,
    TLSError,
    TransferError,
)
from ._http1 import Bytes
from ._options import Target

READ, WRITE = 1, 2

MOST_IDLE = 64  # idle connections kept for one origin
IDLE_LIMIT = 60.0  # seconds an idle connection is kept where the server says nothing
_IOV_LIMIT = 64  # buffers in one sendmsg; beyond that joining is faster
_JOIN_LIMIT = 128 * 1024  # bytes up to which joining is no slower than sendmsg
_HANDSHAKE_TIMEOUT = 3600.0  # any number but 0: the real limits are the scope's

# Without TCP_NODELAY a small request behind a proxy waits 40 ms; urllib3 leaves it off there.
_SOCKET_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]

# ssl.OP_IGNORE_UNEXPECTED_EOF, which Python sets by itself and gives a name only since 3.10. With it a connection
# that was cut looks as if it had been ended by the peer.
_IGNORE_UNEXPECTED_EOF = 0x80


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


# Which scope the connecting thread works for: urllib3 and ssl make their objects without asking us.
_connecting: dict[int, Scope] = {}


# --- name lookup and TCP -------------------------------------------------------------------------------------------


def resolve(scope: Scope, host: str, port: int) -> list[Any]:
    """Addresses for ``host``. A name is looked up on a thread of its own, since nothing can interrupt that."""
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
    threading.Thread(target=look_up, name="clientrequest-lookup", daemon=True).start()
    while not answer:
        scope.wait_connecting(None, 0)
    if isinstance(answer[0], Exception):
        raise answer[0]
    addresses: list[Any] = answer[0]
    return addresses


def open_tcp(
    scope: Scope, host: str, port: int, options: Sequence[tuple[int, int, int]]
) -> tuple[socket.socket, KillHandle]:
    """Connect to the first address that answers. Raises ``ConnectError`` with the last address's failure."""
    scope.step("lookup")
    try:
        addresses = resolve(scope, host, port)
    except (socket.gaierror, UnicodeError) as error:
        raise ConnectError("ERR_NAME_NOT_RESOLVED", f"{host}: {error}") from error
    scope.step("connect")
    failure: Optional[OSError] = None
    for family, kind, protocol, _, address in addresses:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # a family this machine does not have, or no descriptor left
            failure = error
            continue
        handle: Optional[KillHandle] = None
        try:
            for option in options:
                sock.setsockopt(*option)
            sock.setblocking(False)
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


class _ConnectionMixin:
    """What our connections do differently from urllib3's."""

    # All of these are urllib3's and http.client's own.
    sock: Any
    _dns_host: str
    port: int
    socket_options: Any

    born: int  # the process it was made in
    kill_handle: Optional[KillHandle] = None
    idle_since = 0.0
    idle_limit = IDLE_LIMIT

    def _new_conn(self) -> socket.socket:
        scope = _connecting[threading.get_ident()]
        self.born = os.getpid()
        sock, self.kill_handle = open_tcp(scope, self._dns_host.strip("[]"), self.port, self.socket_options or ())
        # For whoever wraps it: ssl refuses to make a handshake on a socket that is plainly non-blocking.
        sock.settimeout(_HANDSHAKE_TIMEOUT)
        return sock

    def close(self) -> None:
        handle, self.kill_handle = self.kill_handle, None
        if handle is not None:
            handle.close()  # while it is open, closing the socket itself sends no FIN
        super().close()  # type: ignore[misc]

    @property
    def is_connected(self) -> bool:
        """Whether an idle connection can be used: not closed by the server, and nothing unexpected came."""
        try:
            # The base method looks at the raw bytes of a TLS connection too, where any at all mean trouble.
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except (OSError, TypeError):
            pass
        return False


class _HTTPConnection(_ConnectionMixin, HTTPConnection):
    pass


class _HTTPSConnection(_ConnectionMixin, HTTPSConnection):
    pass


class _IdleConnections:
    """The queue of a pool: last in, first out, without the filling-up, blocking and warnings of ``LifoQueue``."""

    def __init__(self, maxsize: int = 0) -> None:
        self._connections: deque[Any] = deque()
        self._closed = False

    def get(self, block: bool = True, timeout: Optional[float] = None) -> Any:
        while True:
            try:
                connection = self._connections.pop()
            except IndexError:
                raise queue.Empty from None
            stale = time.monotonic() - connection.idle_since > connection.idle_limit
            if connection.born == os.getpid() and not stale:
                return connection
            connection.close()

    def put(self, connection: Any, block: bool = True, timeout: Optional[float] = None) -> None:
        if connection is None:  # urllib3 fills a queue with these
            return
        connection.idle_since = time.monotonic()
        self._connections.append(connection)
        if len(self._connections) > MOST_IDLE:
            with contextlib.suppress(IndexError):
                self._connections.popleft().close()
        if self._closed:  # asked last: it came while the pool was being emptied
            self.close()

    def close(self) -> None:
        """Close what is idle, and what is put back from now on."""
        self._closed = True
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


# --- TLS -----------------------------------------------------------------------------------------------------------


class _SSLSocket(ssl.SSLSocket):
    """A TLS socket whose handshake can be interrupted when it is made for a scope."""

    def do_handshake(self, block: bool = False) -> None:
        scope = _connecting.get(threading.get_ident())
        if scope is None:
            super().do_handshake(block)
            return
        scope.step("handshake")
        self.setblocking(False)
        while True:
            try:
                super().do_handshake()
                return
            except ssl.SSLWantReadError:
                scope.wait_connecting(self, READ)
            except ssl.SSLWantWriteError:
                scope.wait_connecting(self, WRITE)


def make_tls_context(tls: Union[bool, str, ssl.SSLContext, None], client_cert: Any = None) -> ssl.SSLContext:
    """One context for a session.

    Args:
        tls: ``None`` or ``True`` for certifi's authorities, a path of others, a context to be used itself, or
            ``False`` to verify nothing.
        client_cert: path of a certificate with its key, or paths of (certificate, key).
    """
    if isinstance(tls, ssl.SSLContext):
        context = tls
    else:
        context = create_urllib3_context()
        if tls is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            path = certifi.where() if tls is None or tls is True else tls
            if os.path.isdir(path):
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
    if client_cert is not None:
        certificate, key = (client_cert, None) if isinstance(client_cert, str) else client_cert
        context.load_cert_chain(certificate, key)
    if context.sslsocket_class is ssl.SSLSocket:
        context.sslsocket_class = _SSLSocket
    context.options &= ~_IGNORE_UNEXPECTED_EOF
    return context


# --- pools ---------------------------------------------------------------------------------------------------------


class Pools:
    """The connections of one session.

    Args:
        tls_context: called once, at the first https request.
    """

    def __init__(self, tls_context: Callable[[], ssl.SSLContext]) -> None:
        self._make_context = tls_context
        self._context: Optional[ssl.SSLContext] = None
        self._lock = threading.Lock()  # one context, one manager
        self._pid = os.getpid()
        self._manager: Optional[urllib3.PoolManager] = None
        # urllib3 takes 7 to 11 µs to find a pool.
        self._found: dict[tuple[str, str, int], HTTPConnectionPool] = {}
        self._closed = False
        _all_pools.add(self)

    def connect(self, target: Target, scope: Scope, fresh: bool = False) -> Wire:
        """A connection to the target's origin: an idle one, or, and with ``fresh`` only, a new one."""
        scope.step("pool")
        while True:
            pool = self._pool(target)
            try:
                connection: Any = pool._new_conn() if fresh else pool._get_conn()
                break
            except urllib3_errors.ClosedPoolError:
                pass  # ``clear`` was faster; it has forgotten this one
        if not connection.is_closed:
            try:
                scope.expose(connection.kill_handle)
            except BaseException:
                connection.close()
                raise
            return Wire(pool, connection, scope, reused=True)
        ident = threading.get_ident()
        _connecting[ident] = scope
        try:
            connection.connect()
            pool._validate_conn(connection)
            _refuse_http2(connection.sock)
        except BaseException as error:
            scope.cover()
            connection.close()
            if isinstance(error, (OSError, ValueError, urllib3_errors.HTTPError)):
                if isinstance(error, ClientRequestError):
                    raise
                raise map_error(error, target.authority, connecting=True) from error
            raise
        finally:
            del _connecting[ident]
        connection.sock.setblocking(False)
        return Wire(pool, connection, scope, reused=False)

    def _pool(self, target: Target) -> HTTPConnectionPool:
        if self._pid != os.getpid():
            self.after_fork()
        pool = self._found.get(target.origin)
        if pool is None:
            pool = self._make_pool(target)
        return pool

    def _make_pool(self, target: Target) -> HTTPConnectionPool:
        with self._lock:
            if self._manager is None:
                self._manager = urllib3.PoolManager(num_pools=256, maxsize=MOST_IDLE, socket_options=_SOCKET_OPTIONS)
                self._manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
            settings: dict[str, Any] = {}
            if target.scheme == "https":
                if self._context is None:
                    self._context = self._make_context()
                settings = {"ssl_context": self._context, "cert_reqs": self._context.verify_mode}
            pool = self._manager.connection_from_host(target.host, target.port, target.scheme, settings)
            if len(self._found) >= 256:  # as many as the manager keeps
                self._found.clear()
            self._found[target.origin] = pool
            if self._closed:
                pool.pool.close()  # type: ignore[union-attr]
            return pool

    def idle(self) -> list[Any]:
        """The idle connections; for tests and ``repr``."""
        pools = [pool.pool for pool in list(self._found.values())]
        return [one for idle in pools if idle is not None for one in idle._connections]  # type: ignore[attr-defined]

    def clear(self) -> None:
        """Close the idle connections."""
        with self._lock:
            found, self._found = self._found, {}
            manager, self._manager = self._manager, None
        for pool in found.values():
            idle = pool.pool
            if idle is not None:
                idle.close()  # type: ignore[attr-defined]
            pool.close()
        if manager is not None:
            manager.clear()

    def close(self) -> None:
        """Close the idle connections, and take back no more of those in use."""
        self._closed = True
        self.clear()

    def after_fork(self) -> None:
        """Start afresh in the child; the inherited descriptors are closed, never shut down."""
        self._lock = threading.Lock()
        self._pid = os.getpid()
        found, self._found, self._manager = self._found, {}, None  # the manager's own lock may be held for ever
        for pool in found.values():
            idle = pool.pool
            if idle is not None:
                idle.close()  # type: ignore[attr-defined]


_all_pools: weakref.WeakSet[Pools] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """An idle connection that the parent closes is to end, though the child has a copy of its descriptor."""
    for pools in tuple(_all_pools):
        pools.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _refuse_http2(sock: Any) -> None:
    """urllib3 offers h2 if a program has told it so; we do not speak it."""
    selected = getattr(sock, "selected_alpn_protocol", None)
    if selected is not None and selected() == "h2":
        raise ProtocolError("ERR_ALPN_NEGOTIATION_FAILED", "the server chose HTTP/2 (urllib3.http2 is injected)")


class Wire:
    """A connected, non-blocking connection in the hands of one request."""

    received = 0  # bytes, on this request
    cut = False  # TLS ended without its close_notify
    want = WRITE  # what a send that took nothing waits for

    def __init__(self, pool: Any, connection: Any, scope: Scope, reused: bool) -> None:
        self._pool = pool
        self._connection = connection
        self._scope: Optional[Scope] = scope
        self.sock = connection.sock
        self.reused = reused
        self.tls = isinstance(self.sock, ssl.SSLSocket)
        if self.tls:
            self.sock.suppress_ragged_eofs = False
        self._gathers = not self.tls and hasattr(self.sock, "sendmsg")

    def send(self, buffers: Sequence[Bytes]) -> int:
        """Give the socket what it takes at once; 0 if that is nothing, ``want`` then says what to wait for."""
        try:
            if len(buffers) == 1 or not self._gathers:
                sent: int = self.sock.send(buffers[0])
            else:
                sent = self.sock.sendmsg(buffers)
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        except ssl.SSLWantReadError:
            self.want = READ
            return 0
        except ssl.SSLEOFError as error:
            raise _reset() from error
        self.want = WRITE  # gevent's TLS sockets give 0 instead of raising
        return sent

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
        except (BlockingIOError, socket.timeout, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLError as error:
            self._end_by(error)
            return b""
        self.received += len(data)
        return data

    def recv_into(self, view: memoryview) -> Optional[int]:
        """The same into a buffer: the number of bytes, 0 at the end, ``None`` if nothing is there yet."""
        try:
            count: int = self.sock.recv_into(view)
        except (BlockingIOError, socket.timeout, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLError as error:
            self._end_by(error)
            return 0
        self.received += count
        return count

    def _end_by(self, error: ssl.SSLError) -> None:
        """An error that may only say how the stream ended. Raises whatever says more."""
        if _has_lost_its_number(error):
            raise _reset() from error
        if not _is_cut(error):
            raise error
        self.cut = True

    def lend(self, seconds: float) -> None:
        """From now on a receive waits by itself, for this long at the most."""
        self.sock.settimeout(seconds)

    def release(self, idle_limit: Optional[float] = None) -> None:
        """Back to the pool, for the next request; closed instead if an abort was faster. Idempotent."""
        connection, scope = self._let_go()
        if connection is None:
            return
        if scope is None or not scope.cover():
            connection.close()
            return
        if self.sock.gettimeout() != 0.0:
            self.sock.setblocking(False)
        connection.idle_limit = IDLE_LIMIT if idle_limit is None else idle_limit
        try:
            self._pool._put_conn(connection)
        except urllib3_errors.ClosedPoolError:
            connection.close()  # the session was closed meanwhile

    def discard(self) -> None:
        """Close the connection. Idempotent."""
        connection, scope = self._let_go()
        if connection is not None:
            if scope is not None:
                scope.cover()
            connection.close()

    def _let_go(self) -> tuple[Any, Optional[Scope]]:
        """Connection and scope, for the last time; the wire itself may be kept for what it knows."""
        connection, self._connection = self._connection, None
        scope, self._scope = self._scope, None
        return connection, scope

    @property
    def held(self) -> bool:
        return self._connection is not None


def _is_cut(error: ssl.SSLError) -> bool:
    """Whether the TLS stream ended without a close_notify. Python 3.9 has no class for it with OpenSSL 3."""
    return isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING"


def _has_lost_its_number(error: ssl.SSLError) -> bool:
    """Whether this was an error of the system: before 3.12.3 Python forgets which, and calls it an end.

    OpenSSL 3 has a name for a real one.
    """
    named = getattr(error, "reason", None) is not None
    return isinstance(error, ssl.SSLEOFError) and not named and ssl.OPENSSL_VERSION_INFO >= (3,)


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


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


# --- errors --------------------------------------------------------------------------------------------------------

_Mapped = tuple[type[ClientRequestError], str]

_ERRNO: dict[int, _Mapped] = {
    errno.ECONNREFUSED: (ConnectError, "ERR_CONNECTION_REFUSED"),
    errno.EHOSTUNREACH: (ConnectError, "ERR_ADDRESS_UNREACHABLE"),
    errno.ENETUNREACH: (ConnectError, "ERR_ADDRESS_UNREACHABLE"),
    errno.ENETDOWN: (ConnectError, "ERR_INTERNET_DISCONNECTED"),
    errno.EADDRNOTAVAIL: (ConnectError, "ERR_ADDRESS_INVALID"),
    errno.EACCES: (ConnectError, "ERR_NETWORK_ACCESS_DENIED"),
    errno.EPERM: (ConnectError, "ERR_NETWORK_ACCESS_DENIED"),
    errno.EMFILE: (ConnectError, "ERR_INSUFFICIENT_RESOURCES"),
    errno.ENFILE: (ConnectError, "ERR_INSUFFICIENT_RESOURCES"),
    errno.ENOBUFS: (ConnectError, "ERR_INSUFFICIENT_RESOURCES"),
    errno.ECONNRESET: (TransferError, "ERR_CONNECTION_RESET"),
    errno.EPIPE: (TransferError, "ERR_CONNECTION_RESET"),
    errno.ECONNABORTED: (TransferError, "ERR_CONNECTION_ABORTED"),
    errno.ESHUTDOWN: (TransferError, "ERR_CONNECTION_RESET"),
    errno.ENOTCONN: (TransferError, "ERR_CONNECTION_CLOSED"),
}

# OpenSSL's X509_V_ERR_* numbers.
_CERTIFICATE_DATE = frozenset({9, 10, 13, 14})
_CERTIFICATE_NAME = frozenset({62, 63, 64})
_CERTIFICATE_AUTHORITY = frozenset({2, 18, 19, 20, 21, 24, 27, 79})

#: Every exception of urllib3, so that a test can tell when urllib3 gains one.
URLLIB3_ERRORS: dict[type[BaseException], _Mapped] = {
    urllib3_errors.HTTPError: (ClientRequestError, "ERR_FAILED"),
    urllib3_errors.PoolError: (ConnectError, "ERR_CONNECTION_FAILED"),
    urllib3_errors.RequestError: (TransferError, "ERR_CONNECTION_CLOSED"),
    urllib3_errors.SSLError: (TLSError, "ERR_SSL_PROTOCOL_ERROR"),
    urllib3_errors.ProxyError: (ProxyError, "ERR_PROXY_CONNECTION_FAILED"),
    urllib3_errors.DecodeError: (ProtocolError, "ERR_CONTENT_DECODING_FAILED"),
    urllib3_errors.ProtocolError: (ProtocolError, "ERR_INVALID_HTTP_RESPONSE"),
    urllib3_errors.MaxRetryError: (ConnectError, "ERR_CONNECTION_FAILED"),
    urllib3_errors.HostChangedError: (RedirectError, "ERR_INVALID_REDIRECT"),
    urllib3_errors.TimeoutStateError: (ClientRequestError, "ERR_FAILED"),
    urllib3_errors.TimeoutError: (RequestTimeout, "ERR_TIMED_OUT"),
    urllib3_errors.ReadTimeoutError: (RequestTimeout, "ERR_TIMED_OUT"),
    urllib3_errors.ConnectTimeoutError: (RequestTimeout, "ERR_CONNECTION_TIMED_OUT"),
    urllib3_errors.NewConnectionError: (ConnectError, "ERR_CONNECTION_FAILED"),
    urllib3_errors.NameResolutionError: (ConnectError, "ERR_NAME_NOT_RESOLVED"),
    urllib3_errors.EmptyPoolError: (ConnectError, "ERR_INSUFFICIENT_RESOURCES"),
    urllib3_errors.FullPoolError: (ConnectError, "ERR_INSUFFICIENT_RESOURCES"),
    urllib3_errors.ClosedPoolError: (ConnectError, "ERR_CONNECTION_CLOSED"),
    urllib3_errors.LocationValueError: (ConnectError, "ERR_INVALID_URL"),
    urllib3_errors.LocationParseError: (ConnectError, "ERR_INVALID_URL"),
    urllib3_errors.URLSchemeUnknown: (ConnectError, "ERR_UNKNOWN_URL_SCHEME"),
    urllib3_errors.ResponseError: (ProtocolError, "ERR_INVALID_HTTP_RESPONSE"),
    urllib3_errors.ResponseNotChunked: (ProtocolError, "ERR_INVALID_CHUNKED_ENCODING"),
    urllib3_errors.BodyNotHttplibCompatible: (ProtocolError, "ERR_INVALID_HTTP_RESPONSE"),
    urllib3_errors.IncompleteRead: (ProtocolError, "ERR_CONTENT_LENGTH_MISMATCH"),
    urllib3_errors.InvalidChunkLength: (ProtocolError, "ERR_INVALID_CHUNKED_ENCODING"),
    urllib3_errors.InvalidHeader: (ProtocolError, "ERR_INVALID_HTTP_RESPONSE"),
    urllib3_errors.ProxySchemeUnknown: (ProxyError, "ERR_PROXY_CONNECTION_FAILED"),
    urllib3_errors.ProxySchemeUnsupported: (ProxyError, "ERR_PROXY_CONNECTION_FAILED"),
    urllib3_errors.HeaderParsingError: (ProtocolError, "ERR_INVALID_HTTP_RESPONSE"),
    urllib3_errors.UnrewindableBodyError: (RedirectError, "ERR_UPLOAD_STREAM_REWIND_NOT_SUPPORTED"),
}


def map_error(error: BaseException, where: str, connecting: bool = False) -> ClientRequestError:
    """One of our errors for one of urllib3's, of ssl's or of the system's; ``where`` is host and port."""
    if isinstance(error, ClientRequestError):
        return error
    kind, code = _classify(error, connecting)
    mapped = kind(code, f"{where}: {_describe(error)}")
    mapped.__cause__ = error
    mapped.errno = getattr(error, "errno", None)
    return mapped


def raise_mapped(error: BaseException, where: str) -> NoReturn:
    """Raise ``map_error(error, where)``, with the cause that it has: "from None" would take that away."""
    mapped = map_error(error, where)
    raise mapped from mapped.__cause__


def _classify(error: BaseException, connecting: bool) -> _Mapped:
    if isinstance(error, ssl.SSLCertVerificationError):
        return TLSError, _certificate_code(error.verify_code)
    if isinstance(error, ssl.SSLError):
        return TLSError, "ERR_SSL_PROTOCOL_ERROR"
    if type(error).__name__ == "CertificateError":  # urllib3's own check of the name; no public class
        return TLSError, "ERR_CERT_COMMON_NAME_INVALID"
    for kind in type(error).__mro__:
        if kind in URLLIB3_ERRORS:
            return URLLIB3_ERRORS[kind]
    if isinstance(error, socket.gaierror):
        return ConnectError, "ERR_NAME_NOT_RESOLVED"
    if isinstance(error, OSError):
        if error.errno == errno.ETIMEDOUT or isinstance(error, (TimeoutError, socket.timeout)):
            return RequestTimeout, "ERR_CONNECTION_TIMED_OUT" if connecting else "ERR_TIMED_OUT"
        if error.errno in _ERRNO:
            return _ERRNO[error.errno]
        return (ConnectError, "ERR_CONNECTION_FAILED") if connecting else (TransferError, "ERR_CONNECTION_CLOSED")
    return ClientRequestError, "ERR_FAILED"


def _certificate_code(number: int) -> str:
    if number in _CERTIFICATE_DATE:
        return "ERR_CERT_DATE_INVALID"
    if number in _CERTIFICATE_NAME:
        return "ERR_CERT_COMMON_NAME_INVALID"
    if number in _CERTIFICATE_AUTHORITY:
        return "ERR_CERT_AUTHORITY_INVALID"
    return "ERR_CERT_REVOKED" if number == 23 else "ERR_CERT_INVALID"


# In the messages of urllib3: user name and password, and a query.
_SECRET = re.compile(r"\S*@|(?<=\?)\S+")


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return _SECRET.sub("...", str(error)) or type(error).__name__
