"""The HTTP request you can write to: Electron's ``net.ClientRequest`` for Python.

See ``ClientRequest``; the README has the tour.
"""

from typing import Any, Callable, Optional

from . import signals
from ._auth import AuthInfo
from ._errors import (
    AbortedError,
    AuthenticationError,
    ClientRequestError,
    ConnectError,
    InvalidStateError,
    ListenerError,
    ProtocolError,
    ProxyError,
    RedirectError,
    RequestTimeout,
    TLSError,
    TransferError,
)
from ._options import Timeout
from ._request import ClientRequest, UploadProgress
from ._response import IncomingMessage
from ._session import Session, default_session
from ._version import __version__

__all__ = [
    "AbortedError",
    "AuthInfo",
    "AuthenticationError",
    "ClientRequest",
    "ClientRequestError",
    "ConnectError",
    "IncomingMessage",
    "InvalidStateError",
    "ListenerError",
    "ProtocolError",
    "ProxyError",
    "RedirectError",
    "RequestTimeout",
    "Session",
    "TLSError",
    "Timeout",
    "TransferError",
    "UploadProgress",
    "__version__",
    "default_session",
    "request",
    "signals",
]


def request(
    options: object, callback: Optional[Callable[[IncomingMessage], object]] = None, **overrides: Any
) -> ClientRequest:
    """A ``ClientRequest`` on the default session (Electron: ``net.request``). Raises as its constructor does."""
    return ClientRequest(options, callback, **overrides)


# In tracebacks and pickles the errors are called what users call them.
for _error in (ClientRequestError, InvalidStateError, *ClientRequestError.__subclasses__(), ProxyError):
    _error.__module__ = __name__
del _error
