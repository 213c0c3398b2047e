"""The server programs: where they are, and which versions."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import shutil
import subprocess

# Server programs live in sbin, which is not on everyone's PATH.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])

PROGRAMS = ("nginx", "apache2", "lighttpd", "squid", "microsocks", "htpasswd")
PACKAGES = ("httpbin", "gunicorn")

QUESTIONS = {
    "nginx": (["nginx", "-v"], r"nginx/(\S+)"),
    "Apache httpd": (["apache2", "-v"], r"Apache/(\S+)"),
    "lighttpd": (["lighttpd", "-v"], r"lighttpd/(\S+)"),
    "Squid": (["squid", "-v"], r"Version (\S+)"),
}


def find(name: str) -> str:
    """The path of a program.

    Raises:
        FileNotFoundError: it is not installed.
    """
    path = shutil.which(name, path=SEARCH)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed: run .ci/install-servers")
    return path


def missing() -> list[str]:
    """What the tests need and this machine does not have."""
    programs = [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]
    if "squid" not in programs and "--with-openssl" not in _output(["squid", "-v"]):
        programs.append("squid-openssl")
    return programs + [name for name in PACKAGES if not _package_version(name)]


@functools.cache
def versions() -> dict[str, str]:
    """The names of the servers and their versions, as they say themselves."""
    told = {name: _ask(*question) for name, question in QUESTIONS.items()}
    told["MicroSocks"] = _microsocks_version()
    for name in PACKAGES:
        told[name] = _package_version(name) or "missing"
    return told


def _ask(command: list[str], pattern: str) -> str:
    found = re.search(pattern, _output(command))
    return found[1] if found else "missing"


def _microsocks_version() -> str:
    """It has no option that tells; the package manager knows."""
    if shutil.which("dpkg-query") is None:
        return "unknown"
    return _output(["dpkg-query", "-W", "-f", "${Version}", "microsocks"]).partition("-")[0] or "unknown"


def _output(command: list[str]) -> str:
    program = shutil.which(command[0], path=SEARCH)
    if program is None:
        return ""
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


def _package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
