"""Requests answered from memory, by a function of yours: for the tests of programs that use this library.

::

    from clientrequest import testing

    def handler(request):
        return {"id": 1} if request.path == "/orders" else 404

    with testing.serve(handler) as server:
        response = server.session.request("https://shop.example/orders", method="POST").end(b"tea").get_response()
        assert response.json() == {"id": 1}
        assert server.requests[0].body == b"tea"

``serve`` gives a session whose requests go to the handler; ``answer_all`` takes all requests of the process, whatever
session they are on, and refuses those that it is not for. In pytest the fixture ``answer_requests`` is ``answer_all``
for one test; it comes with the package, nothing has to be imported or switched on.

**What is real**: everything but TCP and TLS. The request, its worker, the bytes on the wire and how they are read are
those of a real request. The connection is a pair of sockets in this process, with a server of HTTP/1.1 at its other
end. No port, no network, no name lookup, no proxy; any host will do. ``https`` URLs stay ``https`` (cookies, logins,
redirects treat them so), but there is no TLS on the pair, and no certificate is looked at: ``tls`` and ``client_cert``
of a session mean nothing here. ``NoConnection.CERTIFICATE_INVALID`` is how a bad certificate ends.

**What a handler returns**: an ``Answer``, or what is short for one: ``bytes`` or ``str`` for a body, an ``int`` for a
status, a ``dict`` or ``list`` for JSON. Or a fault: ``Reset``, ``Silence``, ``Raw``; an ``Answer`` has some too
(``cut_after``, ``reset_after``, ``hold``). What keeps a connection from being made is said to the server: see
``NoConnection``. Redirects are answers with a ``Location``, logins are 401s with a ``WWW-Authenticate``.

**When it is answered**: when the body has come whole, unless ``after`` says how much of it is enough; ``then`` says
what the server does about the rest. A handler may read as much of the body as it likes before it returns.

Handlers run on threads of the server, one for each connection, several at once. What one raises reaches the test: the
client gets a 500, and ``close()``, or leaving ``with``, raises it. On a connection that was used before, a request
that dies before any byte of its answer is sent once more, if its body is still there, as always: the handler then
sees it twice.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import functools
import inspect
import itertools
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, Optional, Union

from ._answering import (
    Answer,
    ClientGone,
    ClientSocket,
    Handler,
    Line,
    Link,
    Raw,
    Reply,
    Request,
    Reset,
    Silence,
)
from ._connect import KillHandle, Scope
from ._errors import ConnectError
from ._exchange import _live
from ._options import Target, parse_url
from ._session import Session
from ._wire import Opener, put_up
from ._workers import Worker

__all__ = [
    "Answer",
    "ClientGone",
    "Handler",
    "NoConnection",
    "Raw",
    "Reply",
    "Request",
    "Reset",
    "Server",
    "Silence",
    "answer_all",
    "serve",
]

ClientGone.__module__ = __name__  # in tracebacks it is called what users call it

_LIMIT = 5.0  # seconds in which a handler has to return when its server is closed
_SETTLING = 1.0  # seconds in which what a client sent before it went has to be taken note of


class NoConnection(enum.Enum):
    """Why a connection cannot be made; the value is the ``code`` of the error that the request dies of.

    Given as ``connections`` to ``serve`` and ``answer_all``: one of these for every connection, or a list, of
    which the first connection takes the first item and so on, ``None`` for one that is made; behind its end all are.
    """

    REFUSED = "ERR_CONNECTION_REFUSED"
    NAME_NOT_RESOLVED = "ERR_NAME_NOT_RESOLVED"
    ADDRESS_UNREACHABLE = "ERR_ADDRESS_UNREACHABLE"
    #: Nothing happens until the request's own limit runs out: ``Timeout(connect=)``, or ``total`` with another code.
    TIMED_OUT = "ERR_CONNECTION_TIMED_OUT"
    #: Of https connections; one without TLS is made.
    CERTIFICATE_INVALID = "ERR_CERT_AUTHORITY_INVALID"


class _House:
    """What the connections of a server share."""

    def __init__(self, handler: Handler, keep_bodies: bool) -> None:
        self.handler = handler
        self.keep_bodies = keep_bodies
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self.lines: set[Line] = set()

    def note(self, request: Request) -> None:
        self.requests.append(request)

    def report(self, error: BaseException) -> None:
        self.errors.append(error)

    def left(self, line: Line) -> None:
        self.lines.discard(line)


class Server:
    """What answers: made by ``serve`` and ``answer_all``, in force until it is closed. ``with`` closes it.

    Safe to use from many threads.

    Attributes:
        session: a session whose requests all come here, with proxies for none; closed together with the server.
        errors: what the handler raised. ``close`` raises the first; take those out that were expected.
    """

    def __init__(
        self,
        handler: Handler,
        origins: Optional[frozenset[tuple[str, str, int]]],
        connections: Union[NoConnection, Sequence[Optional[NoConnection]]],
        keep_bodies: bool,
        options: Mapping[str, Any],
    ) -> None:
        if not callable(handler):
            raise TypeError(f"handler must be a function of a Request, not {type(handler).__name__}")
        if inspect.iscoroutinefunction(handler):
            raise TypeError("handler is a coroutine function, which nobody would await")
        if "proxies" in options:
            raise TypeError("proxies: this session reaches its server without")
        self._origins = origins
        self._faults = _checked_faults(connections)
        self._house = _House(handler, keep_bodies)
        self.errors: list[BaseException] = self._house.errors
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._closed = False
        self.session: Session = Session(proxies={}, **options)
        self.session._pools.stand_in = _Door(self)

    def __repr__(self) -> str:
        return f"<Server {'closed, ' if self._closed else ''}{len(self._house.requests)} requests>"

    @property
    def requests(self) -> list[Request]:
        """What was asked, in the order in which it came; a copy.

        Where a request was aborted or has failed it first waits, a second at most, for the server to see the end of
        it: what such a request got across is in there, and what is not whole then will never be.
        """
        own = threading.current_thread()
        if not isinstance(own, (Worker, Line)):
            _wait_until(self._is_settled)
        return list(self._house.requests)

    def _is_settled(self) -> bool:
        """Whether nothing is under way of requests that are dead."""
        if any(exchange.failure is not None for exchange in tuple(_live)):
            return False
        return not any(line.link.client_gone for line in tuple(self._house.lines))

    def close(self) -> None:
        """Abort what runs on ``session``, end all connections, and wait for the handlers. Idempotent.

        Raises:
            BaseException: the first of ``errors``, at the first call.
            RuntimeError: a handler has not returned within five seconds.
        """
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        _everywhere.take_away(self)
        self.session.close()
        lines = tuple(self._house.lines)
        for line in lines:
            line.cut_off()
        until = time.monotonic() + _LIMIT
        for line in lines:
            if not line.is_current():
                line.join(max(0.0, until - time.monotonic()))
        _wait_until(lambda: not self.session._running)
        if self.errors:
            raise self.errors[0]
        if any(line.is_alive() for line in lines if not line.is_current()):
            raise RuntimeError(f"a handler of {self!r} has not returned within {_LIMIT:g} seconds")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: object, error: Optional[BaseException], traceback: object) -> None:
        try:
            self.close()
        except BaseException:
            # What the block failed of may well have come of it: both are shown. But not in the place of a Ctrl-C.
            if error is None or isinstance(error, Exception):
                raise

    # --- for the connections ---

    def _connect(
        self, target: Target, scope: Scope, host: str, port: int, options: Sequence[tuple[int, int, int]]
    ) -> tuple[socket.socket, KillHandle]:
        """An ``Opener`` once it has a target; on a worker."""
        scope.step("connect")
        if self._faults:
            self._fail(self._next_fault(), scope, target)
        near, far = socket.socketpair()
        link = Link()
        client = ClientSocket(near, link)
        handle: Optional[KillHandle] = None
        try:
            client.setblocking(False)
            handle = KillHandle(client)
            scope.expose(handle)
            self._start_line(target, far, link)
            return client, handle
        except BaseException:
            scope.cover()
            client.close()
            if handle is not None:
                handle.close()
            far.close()
            raise

    def _start_line(self, target: Target, sock: socket.socket, link: Link) -> None:
        with self._lock:
            if self._closed:
                raise ConnectError("ERR_BLOCKED_BY_CLIENT", f"{target.authority}: the server of this test is closed")
            line = Line(self._house, next(self._numbers), target, sock, link)
            self._house.lines.add(line)
            try:
                line.start()
            except (RuntimeError, MemoryError) as error:
                self._house.left(line)
                detail = f"{target.authority}: no thread to answer: {error}"
                raise ConnectError("ERR_INSUFFICIENT_RESOURCES", detail) from error

    def _next_fault(self) -> Optional[NoConnection]:
        if isinstance(self._faults, NoConnection):
            return self._faults
        try:
            return self._faults.popleft()
        except IndexError:  # another thread was faster
            return None

    @staticmethod
    def _fail(fault: Optional[NoConnection], scope: Scope, target: Target) -> None:
        """Have the connection not be made."""
        if fault is NoConnection.REFUSED:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        if fault is NoConnection.ADDRESS_UNREACHABLE:
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        if fault is NoConnection.NAME_NOT_RESOLVED:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if fault is NoConnection.CERTIFICATE_INVALID and target.scheme == "https":
            error = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")
            error.verify_code = 18  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
            raise error
        while fault is NoConnection.TIMED_OUT:
            scope.wait_connecting(None, 0)


def _checked_faults(
    connections: Union[NoConnection, Sequence[Optional[NoConnection]]],
) -> Union[NoConnection, deque[Optional[NoConnection]]]:
    if isinstance(connections, NoConnection):
        return connections
    if not isinstance(connections, (list, tuple)):
        raise TypeError(f"connections must be a NoConnection or a list of them, not {type(connections).__name__}")
    for fault in connections:
        if fault is not None and not isinstance(fault, NoConnection):
            raise TypeError(f"connections: each must be a NoConnection or None, not {type(fault).__name__}")
    return deque(connections)


def _wait_until(condition: Callable[[], bool]) -> None:
    """Wait, ``_SETTLING`` seconds at most. Polls: what is waited for has no event of its own."""
    deadline = time.monotonic() + _SETTLING
    pause = threading.Event()
    while not condition() and time.monotonic() < deadline:
        pause.wait(0.001)


class _Door:
    """The one server of a session."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def opener(self, target: Target) -> Opener:
        return functools.partial(self._server._connect, target)


class _Everywhere:
    """All servers for the whole process; the newest is asked first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servers: list[Server] = []
        self._holders = 0  # who wants the network to be off, server or not

    def add(self, server: Server) -> None:
        with self._lock:
            self._servers.append(server)
            put_up(self)

    def take_away(self, server: Server) -> None:
        with self._lock:
            if server in self._servers:
                self._servers.remove(server)
                self._put_up()

    @contextlib.contextmanager
    def network_off(self) -> Iterator[None]:
        """For as long as this lasts, what no server answers is refused."""
        with self._lock:
            self._holders += 1
            put_up(self)
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                self._put_up()

    def _put_up(self) -> None:
        put_up(self if self._servers or self._holders else None)

    def opener(self, target: Target) -> Opener:
        for server in reversed(tuple(self._servers)):
            if not server._origins or target.origin in server._origins:
                return functools.partial(server._connect, target)
        raise ConnectError(
            "ERR_BLOCKED_BY_CLIENT", f"{target.url}: no answer_all() in force is for this origin; the network is off"
        )


_everywhere = _Everywhere()


def serve(
    handler: Handler,
    *,
    connections: Union[NoConnection, Sequence[Optional[NoConnection]]] = (),
    keep_bodies: bool = True,
    **session_options: Any,
) -> Server:
    """A server and a session, ``server.session``, whose requests go to it, whatever their URL. Nobody else's do.

    Args:
        handler: called for each request, with a ``Request``, once its head is there; see the top of this module for
            what it may return. On a thread of the server's, and on several at once where there are several
            connections.
        connections: those that cannot be made, see ``NoConnection``.
        keep_bodies: ``False``: the bodies of requests are not kept, for uploads of any size.
        session_options: of the ``Session``; all but ``proxies``.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """
    return Server(handler, None, connections, keep_bodies, session_options)


def answer_all(
    handler: Handler,
    *origins: str,
    connections: Union[NoConnection, Sequence[Optional[NoConnection]]] = (),
    keep_bodies: bool = True,
) -> Server:
    """A server for all requests of the process, on the default session or any other, from now on until it is closed.

    While there is one, no request gets out into the network: one that is for none of the ``origins`` fails with a
    ``ConnectError``, ``ERR_BLOCKED_BY_CLIENT``, that names its URL. Of several servers in force the newest that is
    for the origin answers. Sessions of ``serve`` stay with their own server. Proxies, of sessions or of the
    environment, are passed over. Connections that were kept idle are closed, before and after. Cookies and logins
    stay with the sessions that got them.

    Args:
        handler: as for ``serve``.
        origins: like ``"https://api.example.com"``; none for all.
        connections, keep_bodies: as for ``serve``.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """
    server = Server(handler, frozenset(map(_parse_origin, origins)), connections, keep_bodies, {})
    _everywhere.add(server)
    return server


def _parse_origin(origin: object) -> tuple[str, str, int]:
    if not isinstance(origin, str):
        raise TypeError(f"an origin must be a str, not {type(origin).__name__}")
    try:
        target = parse_url(origin)
    except ValueError:
        target = None
    if target is None or target.path != "/" or target.username is not None:
        raise ValueError("an origin is a scheme and a host, and a port if need be, like 'https://api.example.com'")
    return target.origin


@contextlib.contextmanager
def _answering_requests() -> Iterator[Callable[..., Server]]:
    """What the fixture ``answer_requests`` is made of: ``answer_all``, closed in the end."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_everywhere.network_off())
        yield lambda *args, **options: stack.enter_context(answer_all(*args, **options))
