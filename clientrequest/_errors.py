"""The errors, one tree, each with the code that Chromium's network stack gives it.

::

    ClientRequestError (OSError)   .code, .request, .__cause__
    ├─ ConnectError                no connection could be made
    │  └─ ProxyError               the proxy could not be reached, or refused the tunnel
    ├─ TLSError                    certificate or handshake
    ├─ RequestTimeout              (also a TimeoutError) a limit of ``Timeout`` ran out
    ├─ TransferError               the connection broke while in use
    ├─ ProtocolError               what was sent is not HTTP/1.1, or not what was announced
    ├─ RedirectError               a redirect that may not or cannot be followed
    ├─ StatusError                 ``raise_for_status()``: the status of the response is 400 or more
    ├─ AuthenticationError         the user cancelled a login
    ├─ ListenerError               a listener of the request raised
    └─ AbortedError                ``abort()``, or an un-ended request that was dropped
    InvalidStateError (ValueError) misuse of the object, raised where it was called

"You did it" is raised at the call; "the network did it" arrives as the ``error`` event and is
raised by the waiting calls. The codes are those of Chromium's ``net_error_list.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from ._request import ClientRequest

__all__ = [
    "AbortedError",
    "AuthenticationError",
    "ClientRequestError",
    "ConnectError",
    "InvalidStateError",
    "ListenerError",
    "ProtocolError",
    "ProxyError",
    "RedirectError",
    "RequestTimeout",
    "StatusError",
    "TLSError",
    "TransferError",
]


class ClientRequestError(OSError):
    """Base of everything that can go wrong with a request once it is under way.

    Args:
        code: Chromium's name for the error, such as ``"ERR_CONNECTION_REFUSED"``.
        detail: what happened, for a person to read; never holds a secret.

    Attributes:
        code: as above.
        request: the ``ClientRequest`` that died of it, or ``None`` (also after unpickling).
    """

    default_code = "ERR_FAILED"

    def __init__(self, code: Optional[str] = None, detail: str = "") -> None:
        self.code: str = code or self.default_code
        self.detail: str = detail
        self.request: Optional[ClientRequest] = None
        super().__init__(self._text())

    def _text(self) -> str:
        return f"net::{self.code}: {self.detail}" if self.detail else f"net::{self.code}"

    def __str__(self) -> str:
        return self._text()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code!r}, {self.detail!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The request holds sockets and locks and stays behind; errno is kept because OSError users ask for it.
        return type(self), (self.code, self.detail), {"errno": self.errno}


class ConnectError(ClientRequestError):
    """No connection to the server: name lookup, refused, unreachable."""

    default_code = "ERR_CONNECTION_FAILED"


class ProxyError(ConnectError):
    """No connection to the proxy, or the proxy refused the tunnel."""

    default_code = "ERR_PROXY_CONNECTION_FAILED"


class TLSError(ClientRequestError):
    """The certificate was not accepted, or the handshake failed."""

    default_code = "ERR_SSL_PROTOCOL_ERROR"


class RequestTimeout(ClientRequestError, TimeoutError):
    """A limit of ``Timeout`` ran out. Code ``ERR_CONNECTION_TIMED_OUT`` for ``connect``, else ``ERR_TIMED_OUT``."""

    default_code = "ERR_TIMED_OUT"


class TransferError(ClientRequestError):
    """The connection was reset or closed while the request or the answer was on its way."""

    default_code = "ERR_CONNECTION_RESET"


class ProtocolError(ClientRequestError):
    """The bytes of one side were not HTTP/1.1, or not what that side had announced."""

    default_code = "ERR_INVALID_HTTP_RESPONSE"


class RedirectError(ClientRequestError):
    """The redirect may not be followed (mode ``error``), or cannot be."""


class StatusError(ClientRequestError):
    """The response has a status of 400 or more; raised by ``IncomingMessage.raise_for_status()`` only.

    The response is ``error.request.get_response()``, its body as it was.

    Attributes:
        status_code: such as 404.
        status_message: the reason phrase, may be empty.
        url: what answered, without user name, password and query, any of which may be a secret.
    """

    default_code = "ERR_HTTP_RESPONSE_CODE_FAILURE"

    def __init__(
        self,
        code: Optional[str] = None,
        detail: str = "",
        status_code: int = 0,
        status_message: str = "",
        url: str = "",
    ) -> None:
        super().__init__(code, detail)
        self.status_code = status_code
        self.status_message = status_message
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.code, self.detail, self.status_code, self.status_message, self.url)
        return type(self), arguments, {"errno": self.errno}


class AuthenticationError(ClientRequestError):
    """The ``login`` was cancelled: the 401 or 407 is the response."""

    default_code = "ERR_INVALID_AUTH_CREDENTIALS"


class ListenerError(ClientRequestError):
    """A listener or a callback of the request raised; ``__cause__`` is what it raised."""


class AbortedError(ClientRequestError):
    """The request was aborted: by ``abort()``, or because it was dropped before ``end()``."""

    default_code = "ERR_ABORTED"


class InvalidStateError(ValueError):
    """The object was used in a way its state does not allow; raised where it was called."""
