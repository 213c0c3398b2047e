"""Errors of the system, of ssl and of urllib3, told as ours. The only room that knows their classes and numbers."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from typing import NoReturn

from urllib3 import exceptions as urllib3_errors

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

# The alerts by which a server says that it wants a certificate, or another one.
_CLIENT_CERTIFICATE_REFUSED = frozenset(
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_ACCESS_DENIED",
    }
)

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
    mapped = kind(code, f"{where}: {describe(error)}")
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
        refused = getattr(error, "reason", None) in _CLIENT_CERTIFICATE_REFUSED
        return TLSError, "ERR_BAD_SSL_CLIENT_AUTH_CERT" if refused else "ERR_SSL_PROTOCOL_ERROR"
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


def is_tls_error(error: BaseException) -> bool:
    """Whether TLS itself says what went wrong, not only the connection under it."""
    return isinstance(error, ssl.SSLError)


def _certificate_code(number: int) -> str:
    if number in _CERTIFICATE_DATE:
        return "ERR_CERT_DATE_INVALID"
    if number in _CERTIFICATE_NAME:
        return "ERR_CERT_COMMON_NAME_INVALID"
    if number in _CERTIFICATE_AUTHORITY:
        return "ERR_CERT_AUTHORITY_INVALID"
    return "ERR_CERT_REVOKED" if number == 23 else "ERR_CERT_INVALID"


# In the messages of urllib3: user name and password, and a query.
_SECRET = r"\S*@|(?<=\?)\S+"


def describe(error: BaseException) -> str:
    """What an error of somebody else says, without secrets."""
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return re.sub(_SECRET, "...", str(error)) or type(error).__name__


def reset() -> ConnectionResetError:
    """The system's own error for a connection that the peer broke."""
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
