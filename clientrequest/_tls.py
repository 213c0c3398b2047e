"""TLS: contexts, handshakes that can be interrupted, and TLS inside the TLS of a proxy."""

from __future__ import annotations

import os
import ssl
import threading
from typing import Any, Optional, Union

from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.ssltransport import SSLTransport

from ._connect import READ, WRITE, Scope, patiently, scopes
from ._errors import ProtocolError
from ._mapping import reset

# ssl.OP_IGNORE_UNEXPECTED_EOF, which Python sets by itself and gives a name only since 3.10. With it a connection
# that was cut looks as if it had been ended by the peer.
_IGNORE_UNEXPECTED_EOF = 0x80
_MOST_AT_ONCE = 64 * 1024  # bytes encrypted before the first of them has to leave


class PatientSocket(ssl.SSLSocket):
    """A TLS socket whose handshake can be interrupted when it is made for a scope."""

    def getpeername(self) -> Any:
        """As the base, which ``ssl`` asks first of all. Has a socket that has lost its peer by then end here.

        ``ssl`` would try to read from it, and where that fails let go of it without closing it.
        """
        try:
            return super().getpeername()
        except OSError as error:
            if threading.get_ident() not in scopes:
                raise
            self.close()
            raise reset() from error

    def do_handshake(self, block: bool = False) -> None:
        scope = scopes.get(threading.get_ident())
        if scope is None:
            super().do_handshake(block)
            return
        scope.step("handshake")
        self.setblocking(False)
        patiently(scope, self, READ, super().do_handshake)


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
            path = _default_authorities() if tls is None or tls is True else tls
            if os.path.isdir(path):
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
    if client_cert is not None:
        certificate, key = (client_cert, None) if isinstance(client_cert, str) else client_cert
        context.load_cert_chain(certificate, key)
    if context.sslsocket_class is ssl.SSLSocket:
        context.sslsocket_class = PatientSocket
    context.options &= ~_IGNORE_UNEXPECTED_EOF
    return context


def _default_authorities() -> str:
    import certifi  # not before somebody wants https

    return certifi.where()


def make_proxy_context(tls: Union[bool, str, ssl.SSLContext, None], client_cert: Any) -> ssl.SSLContext:
    """The context for https proxies: like that of the session, but the client certificate is none of their business.

    A context that was given is used itself; with a certificate beside it, one that is like it as far as a context can
    be copied.
    """
    if client_cert is None or not isinstance(tls, ssl.SSLContext):
        return make_tls_context(tls)
    context = make_tls_context(False)
    authorities = b"".join(tls.get_ca_certs(binary_form=True))
    if authorities:
        context.load_verify_locations(cadata=authorities)
    context.minimum_version, context.maximum_version = tls.minimum_version, tls.maximum_version
    context.options, context.verify_flags = tls.options, tls.verify_flags
    context.verify_mode = tls.verify_mode
    context.check_hostname = tls.check_hostname
    return context


def refuse_http2(sock: Any) -> None:
    """urllib3 offers h2 if a program has told it so; we do not speak it."""
    selected = getattr(sock, "selected_alpn_protocol", None)
    if selected is not None and selected() == "h2":
        raise ProtocolError("ERR_ALPN_NEGOTIATION_FAILED", "the server chose HTTP/2 (urllib3.http2 is injected)")


def is_cut(error: ssl.SSLError) -> bool:
    """Whether the TLS stream ended without a close_notify. Python 3.9 has no class for it with OpenSSL 3."""
    return isinstance(error, ssl.SSLEOFError) or getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING"


def has_lost_its_number(error: ssl.SSLError) -> bool:
    """Whether this was an error of the system: before 3.12.3 Python forgets which, and calls it an end.

    OpenSSL 3 has a name for a real one.
    """
    named = getattr(error, "reason", None) is not None
    return isinstance(error, ssl.SSLEOFError) and not named and ssl.OPENSSL_VERSION_INFO >= (3,)


class Records:
    """Receives from a TLS socket all records that are there: by itself it gives one, of 16 KiB at most, each time."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock: Any = sock  # of its read() the type is half told only
        self._failure: Optional[OSError] = None  # met behind what was given

    def recv_into(self, view: memoryview, enough: int) -> int:
        """Receive, waiting for the first record if the socket waits, until ``enough`` bytes are there, or no more."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        count: int = self._sock.read(len(view), view)
        return self._go_on(view, count, enough) if 0 < count < enough else count

    def _go_on(self, view: memoryview, count: int, enough: int) -> int:
        read, size = self._sock.read, len(view)
        patience = self._sock.gettimeout()
        if patience != 0.0:
            self._sock.settimeout(0.0)
        try:
            while count < enough:
                more = read(size - count, view[count:])
                if not more:  # the end, which is told again
                    break
                count += more
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._failure = error  # told once what came before it is taken
        finally:
            if patience != 0.0:
                self._sock.settimeout(patience)
        return count


# --- TLS inside TLS ------------------------------------------------------------------------------------------------


class Waiting:
    """A TLS socket to a proxy while a handshake is made through it: urllib3 wants it to block."""

    def __init__(self, scope: Scope, sock: ssl.SSLSocket) -> None:
        self.inner = sock
        self._scope = scope

    def fileno(self) -> int:
        return self.inner.fileno()

    def recv(self, size: int) -> bytes:
        return patiently(self._scope, self.inner, READ, self.inner.recv, size)

    def send(self, data: Any) -> int:
        return patiently(self._scope, self.inner, WRITE, self.inner.send, data)

    def sendall(self, data: Any) -> None:
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += self.send(view[sent:])

    def close(self) -> None:
        self.inner.close()


class NestedTLS:
    """TLS to a server inside the TLS to its proxy, on a socket that does not block.

    urllib3's own loses ciphertext when the socket takes a part of it. Here a ``send`` whose ciphertext is not out yet
    raises ``SSLWantWriteError``, and has to be repeated with the same data, as with any TLS socket.

    Args:
        transport: whose handshake has been made.
    """

    def __init__(self, transport: SSLTransport) -> None:
        waiting: Any = transport.socket
        self.socket: ssl.SSLSocket = waiting.inner
        self.socket.suppress_ragged_eofs = False
        self._tls = transport.sslobj
        self._incoming, self._outgoing = transport.incoming, transport.outgoing
        self._unsent = b""  # ciphertext
        self._taken = 0  # bytes of the caller in there, not told to him yet

    def fileno(self) -> int:
        return self.socket.fileno()

    def gettimeout(self) -> Optional[float]:
        return self.socket.gettimeout()

    def settimeout(self, seconds: Optional[float]) -> None:
        self.socket.settimeout(seconds)

    def setblocking(self, blocking: bool) -> None:
        self.socket.setblocking(blocking)

    def pending(self) -> int:
        return self._tls.pending() + self._incoming.pending

    def selected_alpn_protocol(self) -> Optional[str]:
        return self._tls.selected_alpn_protocol()

    def send(self, data: Any) -> int:
        if not self._taken:
            self._taken = self._tls.write(memoryview(data)[:_MOST_AT_ONCE])
        self._flush()
        taken, self._taken = self._taken, 0
        return taken

    def _flush(self) -> None:
        self._unsent += self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[self.socket.send(self._unsent) :]

    def recv(self, size: int) -> bytes:
        """All that is there, up to ``size``: what stayed behind in here, no poll would tell of."""
        pieces: list[bytes] = []
        while size > 0:
            try:
                piece = self._tls.read(size)
            except ssl.SSLWantReadError:
                if pieces:
                    break
                self._feed()
                continue
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def recv_into(self, view: memoryview) -> int:
        data = self.recv(len(view))
        view[: len(data)] = data
        return len(data)

    def _feed(self) -> None:
        if self._outgoing.pending:  # an answer of TLS itself
            self._flush()
        ciphertext = self.socket.recv(_MOST_AT_ONCE)
        if ciphertext:
            self._incoming.write(ciphertext)
        else:
            self._incoming.write_eof()

    def close(self) -> None:
        self.socket.close()
