"""The HTTP request you can write to: Electron's ``net.ClientRequest`` for Python.

See ``ClientRequest``; the README has the tour.
"""

import importlib
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

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
    StatusError,
    TLSError,
    TransferError,
)
from ._multipart import MultipartForm
from ._options import Timeout
from ._request import ClientRequest, UploadProgress
from ._request import make_request as _make_request
from ._response import IncomingMessage
from ._session import Session, default_session
from ._values import Data as _Data
from ._values import Pairs as _Pairs
from ._version import __version__

if TYPE_CHECKING:
    from . import signals

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
    "MultipartForm",
    "ProtocolError",
    "ProxyError",
    "RedirectError",
    "RequestTimeout",
    "Session",
    "StatusError",
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
    options: object,
    callback: Optional[Callable[[IncomingMessage], object]] = None,
    *,
    params: Optional[_Pairs] = None,
    data: Union[_Data, MultipartForm, None] = None,
    json: object = None,
    **overrides: Any,
) -> ClientRequest:
    """A ``ClientRequest`` on the default session (Electron: ``net.request``), with a body if one is given.

    The body is written and not ended, so that listeners can still be added: ``request(url, json=x).end()``. With it
    the method is POST, unless another one is given; a ``Content-Type`` that is given is kept. To stream, use ``send``.

    Args:
        options, callback, **overrides: as for ``ClientRequest``.
        params: is added to the query of the URL: a mapping or pairs. Values are ``str`` or numbers; a ``bool`` goes
            out as ``true`` or ``false``, a list or tuple as one pair for each item, ``None`` not at all.
        data: the body: a mapping or pairs, like ``params``, as ``application/x-www-form-urlencoded``; ``bytes`` or
            ``str`` as they are; or a ``MultipartForm``.
        json: the body: anything that ``json.dumps`` takes, as compact JSON in UTF-8. NaN and infinity are refused;
            ``None`` is no body.

    Raises:
        TypeError, ValueError: as the constructor of ``ClientRequest``; for both ``data`` and ``json``; for what has no
            JSON, or no place in a query or a form.
    """
    return _make_request(options, callback, overrides, params, data, json)


if not TYPE_CHECKING:  # a checker would take it for a promise of any name at all

    def __getattr__(name: str) -> Any:
        """``signals``, which comes when it is asked for, and blinker with it."""
        if name == "signals":
            return importlib.import_module(".signals", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


# In tracebacks and pickles the errors are called what users call them.
for _error in (ClientRequestError, InvalidStateError, *ClientRequestError.__subclasses__(), ProxyError):
    _error.__module__ = __name__
del _error
