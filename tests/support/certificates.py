"""Certificates of a private authority, made once per test run, and contexts that use them rightly or wrongly.

Contexts are made anew for every call, because TLS libraries and tests write to them.
"""

from __future__ import annotations

import atexit
import datetime
import functools
import os
import shutil
import ssl
import tempfile
import threading
from collections.abc import Hashable
from pathlib import Path
from typing import Callable, NamedTuple, TypeVar

import trustme

T = TypeVar("T")

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""What a `Peer` can be called."""


class ClientCertificate(NamedTuple):
    """Paths of a client's certificate and its key, both PEM."""

    certificate: str
    key: str


def ca_path() -> str:
    """The authority's certificate as a PEM file, for clients that take a path."""
    return _folder().file("ca.pem", _authority().cert_pem.bytes())


def client_context() -> ssl.SSLContext:
    """A client's context that trusts the authority, and nobody else."""
    return ssl.create_default_context(cafile=ca_path())


def server_context(*names: str, tls_version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A server's context with a good certificate for `names`, else this machine's; only `tls_version`."""
    context = _context_with(_leaf(names or LOCAL_NAMES))
    if tls_version is not None:
        context.minimum_version = context.maximum_version = tls_version
    return context


def expired_context(*names: str) -> ssl.SSLContext:
    """As `server_context`, with a certificate whose time is over."""
    return _context_with(_old_leaf(names or LOCAL_NAMES))


def wrong_name_context() -> ssl.SSLContext:
    """As `server_context`, with a good certificate of another host."""
    return _context_with(_leaf(("other.example",)))


def untrusted_context(*names: str) -> ssl.SSLContext:
    """As `server_context`, with a certificate of an authority that `client_context` does not know."""
    return _context_with(_stranger().issue_cert(*(names or LOCAL_NAMES)))


def demanding_context(*names: str) -> ssl.SSLContext:
    """As `server_context`, but it takes only clients with a certificate of the authority."""
    context = server_context(*names)
    context.load_verify_locations(ca_path())
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_certificate(name: str = "client@example.org") -> ClientCertificate:
    """A certificate for a client, which `demanding_context` accepts."""
    leaf = _leaf((name,))
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    return ClientCertificate(
        _folder().file(f"{name}.pem", chain),
        _folder().file(f"{name}.key", leaf.private_key_pem.bytes()),
    )


def _context_with(leaf: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


class _Folder:
    """A folder of this process, removed at its end."""

    def __init__(self) -> None:
        self._path = Path(tempfile.mkdtemp(prefix="test-certificates-"))
        self._owner = os.getpid()
        atexit.register(self._remove)

    def file(self, name: str, content: bytes) -> str:
        path = self._path / name
        if not path.exists():
            # Written aside and renamed: another thread never loads half a file.
            draft = self._path / f"{name}.{threading.get_ident()}"
            draft.write_bytes(content)
            draft.replace(path)
        return str(path)

    def _remove(self) -> None:
        # A forked child ends with the same exit functions, but the folder is its parent's.
        if os.getpid() == self._owner:
            shutil.rmtree(self._path, ignore_errors=True)


# A cache alone would let two threads make two authorities. Taken again where one thing needs another.
_making = threading.RLock()


def _once(make: Callable[..., T]) -> Callable[..., T]:
    """Have `make` called once for the same arguments, by one thread, in the whole test run."""
    kept = functools.lru_cache(maxsize=None)(make)

    @functools.wraps(make)
    def get(*args: Hashable) -> T:
        with _making:
            return kept(*args)

    return get


@_once
def _authority() -> trustme.CA:
    return trustme.CA(organization_name="tests")


@_once
def _stranger() -> trustme.CA:
    return trustme.CA(organization_name="strangers")


@_once
def _folder() -> _Folder:
    return _Folder()


@_once
def _leaf(names: tuple[str, ...]) -> trustme.LeafCert:
    return _authority().issue_cert(*names)


@_once
def _old_leaf(names: tuple[str, ...]) -> trustme.LeafCert:
    start = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
    return _authority().issue_cert(*names, not_before=start, not_after=start + datetime.timedelta(days=30))
