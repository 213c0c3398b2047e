"""NTLM and Negotiate (RFC 4559): logins that are talked through on one connection.

The only room that knows pyspnego (extra ``clientrequest[negotiate]``), which is imported when the first server asks.
Channel binding (RFC 5929) is left out: a server that insists on it refuses the login.
"""

from __future__ import annotations

import base64
import functools
import importlib
from typing import Any, Optional

from ._auth import Guarded

_SPELLINGS = {"negotiate": "Negotiate", "ntlm": "NTLM"}


@functools.lru_cache(maxsize=1)
def _spnego() -> Any:
    """pyspnego, or ``None`` where it is missing or does not start: it stands on other packages that may be broken."""
    try:
        return importlib.import_module("spnego")
    except Exception:
        return None


def available() -> bool:
    """Whether there is something that speaks NTLM and Negotiate. The first call imports it: tenths of a second."""
    return _spnego() is not None


class NegotiateError(Exception):
    """The login cannot go on: what the server said makes no sense, or there are no such credentials."""


class NegotiateLogin(Guarded):
    """One login on one connection, in as many rounds as it takes. Not for two threads at the same time.

    With Kerberos a step may talk to the servers of the domain; how long that takes is not ours to limit.

    A password that looks like two hashes of NTLM, LM and NT with a colon between them, is taken for these by pyspnego.

    Args:
        scheme: ``"negotiate"`` or ``"ntlm"``.
        host: whose service ``HTTP`` is logged in to; that of the server or the proxy, without brackets.
        username: with or without its domain, as ``DOMAIN\\user`` or ``user@domain``.
        password: as it is; the system's own credentials never stand in for it.

    Raises:
        NegotiateError: pyspnego is missing or cannot make use of these.
    """

    __slots__ = ("_begun", "_context", "scheme")

    def __init__(self, scheme: str, host: str, username: str, password: str) -> None:
        spnego = _spnego()
        if spnego is None:
            raise NegotiateError("pyspnego is not there: install clientrequest[negotiate]")
        self.scheme = scheme
        self._begun = False
        try:
            # As an object: of a plain name that is empty, pyspnego makes the system's own credentials.
            credential = spnego.Password(username, password)
            self._context = spnego.client(credential, hostname=host, service="HTTP", protocol=scheme)
        except Exception as error:
            raise NegotiateError(f"{scheme}: no login can be made: {type(error).__name__}") from error

    @property
    def complete(self) -> bool:
        """Whether nothing more is to be said, or heard, from our side.

        Servers often leave out the last word of Negotiate: a login may be accepted without ever being complete.
        """
        return bool(self._context.complete)

    def step(self, token: Optional[bytes] = None) -> bytes:
        """What to say to ``token``, the server's last word, or to begin with; ``b""`` if there is nothing more to say.

        Raises:
            NegotiateError: ``token`` is not understood, or the credentials are of no use here; or there is none, though
                it is the server's turn: it has refused them.
        """
        if self._begun and not token:
            raise NegotiateError(f"{self.scheme}: the server has refused the login")
        if self._begun and self.complete:  # pyspnego would begin anew
            raise NegotiateError(f"{self.scheme}: the server asks on, though everything is said")
        self._begun = True
        try:
            return bytes(self._context.step(token or None) or b"")
        except Exception as error:  # a damaged token may hit any of the parsers below
            raise NegotiateError(f"{self.scheme}: the login cannot go on: {type(error).__name__}") from error

    def header(self, token: str = "") -> str:
        """One step as header text: the value to send for ``Challenge.token``, ``""`` to begin.

        Raises:
            NegotiateError: as ``step`` does, and for a token that is not base64 or after which nothing is left to say.
        """
        try:
            octets = base64.b64decode(token, validate=True)
        except ValueError as error:
            raise NegotiateError(f"{self.scheme}: the server's token is not base64") from error
        answer = self.step(octets)
        if not answer:
            raise NegotiateError(f"{self.scheme}: the server asks on, though everything is said")
        return f"{_SPELLINGS[self.scheme]} {base64.b64encode(answer).decode('ascii')}"

    def __repr__(self) -> str:
        return f"<NegotiateLogin, {self.scheme}, {'complete' if self.complete else 'begun'}>"
