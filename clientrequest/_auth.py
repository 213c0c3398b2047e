"""Logins: what a server or proxy asks for. Pure."""

from __future__ import annotations

from typing import NamedTuple


class AuthInfo(NamedTuple):
    """Who asks for credentials, and how; the first argument of the ``login`` event (Electron: ``authInfo``).

    Attributes:
        is_proxy: whether it is the proxy that asks.
        scheme: ``"basic"``, ``"digest"`` and the like, in lower case.
        host: of the server or the proxy.
        port: of the server or the proxy.
        realm: what the credentials are for, as the server puts it.
    """

    is_proxy: bool
    scheme: str
    host: str
    port: int
    realm: str

    @property
    def isProxy(self) -> bool:
        """Electron's spelling of ``is_proxy``."""
        return self.is_proxy
