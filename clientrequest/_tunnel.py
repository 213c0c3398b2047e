"""The tunnel through a proxy: ``CONNECT`` and what the proxy answers (RFC 9110, 9.3.6)."""

from __future__ import annotations

from typing import Any

from ._connect import READ, WRITE, Scope, patiently
from ._errors import ClientRequestError, ProtocolError, ProxyError
from ._http1 import MAX_INTERIM, HeadReader, ResponseHead, body_framing, encode_request_head, keeps_alive
from ._mapping import describe
from ._proxies import Proxy

MOST_DRAINED = 64 * 1024  # bytes of a refusal that are read, to save its connection


class AskAnewError(Exception):
    """Another login is to be tried, and this connection cannot carry it."""


def ask_for_tunnel(scope: Scope, sock: Any, proxy: Proxy, authority: str) -> None:
    """Have the proxy at the other end of ``sock`` connect to ``authority``.

    Args:
        scope: on whose behalf; it knows the logins.
        sock: connected; it may or may not block.
        proxy: what is at its other end.
        authority: host and port.

    Raises:
        AskAnewError: the scope wants the proxy to be asked again, on another connection.
        ClientRequestError: the proxy refuses, or the scope has had enough.
    """
    kept = False
    while True:
        fields = f"Host: {authority}\r\n{scope.tunnel_fields(proxy, authority)}"
        heads = HeadReader()
        try:
            _send(scope, sock, encode_request_head("CONNECT", authority, fields))
            head = _receive_head(scope, sock, heads)
        except ClientRequestError:
            raise
        except OSError as error:
            if kept:  # the proxy has closed it while somebody thought about the password
                raise AskAnewError from None
            raise ProxyError("ERR_TUNNEL_CONNECTION_FAILED", f"the proxy broke off: {describe(error)}") from error
        if 200 <= head.status < 300:
            if heads.take_rest():
                raise ProxyError("ERR_TUNNEL_CONNECTION_FAILED", "the proxy sent bytes that are not the server's")
            scope.tunnel_opened(proxy, authority, head)
            return
        kept = _clear(scope, sock, heads, head)
        scope.tunnel_refused(proxy, authority, head)
        if not kept:
            raise AskAnewError


def _receive_head(scope: Scope, sock: Any, heads: HeadReader) -> ResponseHead:
    for _ in range(MAX_INTERIM + 1):
        head = heads.next_head()
        while head is None:
            data = _receive(scope, sock)
            if not data:
                raise ConnectionResetError(0, "the connection ended without an answer")
            heads.feed(data)
            head = heads.next_head()
        if head.status >= 200:
            return head
    raise ProxyError("ERR_TUNNEL_CONNECTION_FAILED", "the proxy sent too many interim responses")


def _clear(scope: Scope, sock: Any, heads: HeadReader, head: ResponseHead) -> bool:
    """Read what a refusal has to say; whether the connection can be used for another try."""
    if head.status != 407 or not keeps_alive(head):
        return False
    try:
        framing = body_framing(head, "GET")
        if framing.ends_with_connection or (framing.length or 0) > MOST_DRAINED:
            return False
        data, drained = heads.take_rest(), 0
        while True:
            framing.feed(data)
            drained += len(data)
            if framing.complete or drained > MOST_DRAINED:
                return framing.complete and not framing.surplus
            data = _receive(scope, sock)
            if not data:
                return False
    except ProtocolError:
        return False


def _send(scope: Scope, sock: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[patiently(scope, sock, WRITE, sock.send, view) :]


def _receive(scope: Scope, sock: Any) -> bytes:
    scope.wait_connecting(sock, READ)  # first: a socket that may block would not tell when it has to wait
    data: bytes = patiently(scope, sock, READ, sock.recv, 65536)
    return data
