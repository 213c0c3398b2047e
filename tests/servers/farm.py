"""The servers of these tests: a folder with all they need, and how each is started.

All listen on loopback, at ports that were free, with files below one folder in /tmp, as whoever runs the tests; as
root, they give that up as far as each insists. To try them by hand, with curl for example:

    python -m tests.servers.farm          # starts all, tells where they are, and stops them at Ctrl-C
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from .bodies import LARGE, Body
from .certificates import Certificates
from .daemons import HOST, TEMPLATES, Daemon, free_ports, render, running
from .programs import find, versions

USER = "Aladdin"
PASSWORD = "open sesame"  # the blank is there on purpose: in a URL it has to be percent-encoded
URL_LOGIN = f"{USER}:open%20sesame"

APACHE_REALM = "Apache at work"
LIGHTTPD_REALM = "lighttpd at work"
NGINX_REALM = "nginx at work"
SQUID_REALM = "Squid at work"

TEXT = "".join(f"line {number} of a text that can be compressed\n" for number in range(2000))

TLS_PORTS = frozenset({"tls", "tls_basic", "demanding", "misnamed", "untrusted"})
REPOSITORY = Path(__file__).resolve().parents[2]


class Server:
    """A running server, and how it is called."""

    def __init__(self, daemon: Daemon, realm: str = "") -> None:
        self.daemon = daemon
        self.realm = realm

    def __repr__(self) -> str:
        return repr(self.daemon)

    def port(self, name: str = "plain") -> int:
        return self.daemon.ports[name]

    def url(self, path: str = "/", port: str = "plain", *, host: str = HOST, login: str = "") -> str:
        """The URL of `path` at one of its ports, whose name tells the scheme; `login` is `user:password`."""
        scheme = "https" if port in TLS_PORTS else "http"
        before = f"{login}@" if login else ""
        return f"{scheme}://{before}{host}:{self.port(port)}{path}"


class Farm:
    """The folder: certificates, passwords, files to serve, room for what is uploaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)  # servers that are started as root become somebody else
        self.certificates = Certificates(folder)
        self._write_files()
        self._write_passwords()
        for name in ("nginx-dav", "apache-dav", "apache-locks", "apache-cgid.d", "lighttpd-body"):
            (folder / name).mkdir()
            (folder / name).chmod(0o777)
        script = folder / "upload.cgi"
        script.write_text((TEMPLATES / "upload.cgi").read_text("utf-8"), "utf-8")
        script.chmod(0o755)

    def _write_files(self) -> None:
        files = self.folder / "files"
        files.mkdir()
        (files / "text.txt").write_text(TEXT, "utf-8")
        (self.folder / "redirect").mkdir()
        with open(files / "large.bin", "wb") as large:
            large.writelines(Body(LARGE).pieces())

    def _write_passwords(self) -> None:
        htpasswd = [find("htpasswd"), "-b", "-c", "-m", str(self.folder / "htpasswd"), USER, PASSWORD]
        subprocess.run(htpasswd, check=True, capture_output=True)
        lines = []
        for realm in (APACHE_REALM, SQUID_REALM):
            secret = hashlib.md5(f"{USER}:{realm}:{PASSWORD}".encode()).hexdigest()
            lines.append(f"{USER}:{realm}:{secret}\n")
        (self.folder / "htdigest").write_text("".join(lines), "utf-8")
        (self.folder / "plain-passwords").write_text(f"{USER}:{PASSWORD}\n", "utf-8")

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text, "utf-8")
        return str(path)

    def path(self, name: str) -> Path:
        return self.folder / name

    def _daemon(self, name: str, command: list[str], ports: dict[str, int]) -> Daemon:
        logs = [self.path(f"{name}-output.log"), self.path(f"{name}-error.log")]
        return Daemon(name, command, ports, logs)

    # The servers

    @contextlib.contextmanager
    def gunicorn(self) -> Iterator[Server]:
        """With httpbin, and `/upload`."""
        with running(self._make_gunicorn) as daemon:
            yield Server(daemon)

    def _make_gunicorn(self) -> Daemon:
        ports = free_ports("plain")
        config = self.write("gunicorn.conf.py", render("gunicorn.conf.py", repository=REPOSITORY, **ports))
        command = [sys.executable, "-m", "gunicorn", "-c", config, "tests.servers.application:application"]
        return self._daemon("gunicorn", command, ports)

    @contextlib.contextmanager
    def nginx(self, backend: Server) -> Iterator[Server]:
        with running(functools.partial(self._make_nginx, backend.port())) as daemon:
            yield Server(daemon, NGINX_REALM)

    def _make_nginx(self, backend: int) -> Daemon:
        ports = free_ports("plain", "tls", "other", "once", "hundred", "misnamed", "untrusted")
        self.write("nginx-locations.conf", render("nginx-locations.conf", folder=self.folder, backend=backend))
        values = {**ports, **self._certificate_values(), "folder": self.folder}
        for name in ("misnamed", "untrusted"):
            certificate, key = getattr(self.certificates, name)
            values.update({f"{name}_certificate": certificate, f"{name}_key": key})
        config = self.write("nginx.conf", render("nginx.conf", user=_if_root("user root;"), **values))
        error_log = str(self.path("nginx-error.log"))
        return self._daemon("nginx", [find("nginx"), "-p", str(self.folder), "-e", error_log, "-c", config], ports)

    @contextlib.contextmanager
    def apache(self) -> Iterator[Server]:
        with running(self._make_apache) as daemon:
            yield Server(daemon, APACHE_REALM)

    def _make_apache(self) -> Daemon:
        ports = free_ports("plain", "tls", "demanding", "hasty")
        values = {**ports, **self._certificate_values(), "folder": self.folder, "ca": self.certificates.ca}
        identity = _if_root("User www-data\nGroup www-data")
        config = render("apache.conf", identity=identity, modules="/usr/lib/apache2/modules", **values)
        command = [find("apache2"), "-f", self.write("apache.conf", config), "-DFOREGROUND"]
        return self._daemon("apache", command, ports)

    @contextlib.contextmanager
    def lighttpd(self) -> Iterator[Server]:
        with running(self._make_lighttpd) as daemon:
            yield Server(daemon, LIGHTTPD_REALM)

    def _make_lighttpd(self) -> Daemon:
        ports = free_ports("plain")
        config = self.write("lighttpd.conf", render("lighttpd.conf", folder=self.folder, **ports))
        return self._daemon("lighttpd", [find("lighttpd"), "-D", "-f", config], ports)

    @contextlib.contextmanager
    def squid(self) -> Iterator[Server]:
        with running(self._make_squid) as daemon:
            yield Server(daemon, SQUID_REALM)

    def _make_squid(self) -> Daemon:
        ports = free_ports("open", "basic", "digest", "both", "tls", "tls_basic")
        for name in ("squid-cache.log", "squid-access.log"):
            self.path(name).touch()
            self.path(name).chmod(0o666)
        values = {**ports, **self._certificate_values(), "folder": self.folder}
        identity = _if_root("cache_effective_user proxy")
        config = render("squid.conf", identity=identity, helpers="/usr/lib/squid", **values)
        daemon = self._daemon("squid", [find("squid"), "-N", "-f", self.write("squid.conf", config)], ports)
        daemon.logs.append(self.path("squid-cache.log"))
        return daemon

    @contextlib.contextmanager
    def socks(self) -> Iterator[Server]:
        """MicroSocks, which wants user and password."""
        with running(self._make_socks) as daemon:
            yield Server(daemon)

    def _make_socks(self) -> Daemon:
        ports = free_ports("plain")
        command = [find("microsocks"), "-i", HOST, "-p", str(ports["plain"]), "-u", USER, "-P", PASSWORD]
        return self._daemon("microsocks", command, ports)

    def _certificate_values(self) -> dict[str, object]:
        certificate, key = self.certificates.server
        return {"certificate": certificate, "key": key}


def _if_root(line: str) -> str:
    return line if os.geteuid() == 0 else ""


@contextlib.contextmanager
def new_farm() -> Iterator[Farm]:
    """A farm in a folder that is removed afterwards. Not in the user's own temporary folder, which may be locked."""
    folder = Path(tempfile.mkdtemp(prefix="server-tests-"))
    try:
        yield Farm(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    with contextlib.ExitStack() as stack:
        farm = stack.enter_context(new_farm())
        application = stack.enter_context(farm.gunicorn())
        others = [farm.nginx(application), farm.apache(), farm.lighttpd(), farm.squid(), farm.socks()]
        servers = [application, *[stack.enter_context(other) for other in others]]
        print("\n".join(f"{name} {version}" for name, version in versions().items()))
        print("folder", farm.folder)
        for server in servers:
            print(server.daemon.name, *[f"{name}={port}" for name, port in server.daemon.ports.items()], flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
