"""Certificates as files, which server programs read: good ones, and two that a client must refuse."""

from __future__ import annotations

from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1", "::1")


class Certificates:
    """A private authority, and what it and a stranger signed, as PEM files in `folder`."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA(organization_name="server tests")
        stranger = trustme.CA(organization_name="strangers")
        self.ca = str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca)
        self.server = _write(authority.issue_cert(*NAMES), folder, "server")
        self.misnamed = _write(authority.issue_cert("other.example"), folder, "misnamed")
        self.untrusted = _write(stranger.issue_cert(*NAMES), folder, "untrusted")
        self.client = _write(authority.issue_cert("client@example.org"), folder, "client")


def _write(leaf: trustme.LeafCert, folder: Path, name: str) -> tuple[str, str]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(key))
    key.chmod(0o644)  # servers that are started as root read it after they have given that up
    return str(certificate), str(key)
