"""The places: each a WSGI server, and how it is started with the gateway.

To try them by hand:

    python -m tests.places.places          # starts all, tells where they are, and stops them at Ctrl-C
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blinker
import certifi
import urllib3

import clientrequest
from tests.servers.daemons import HOST, START_LIMIT, Daemon, free_ports, render, running
from tests.servers.programs import SEARCH, find

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
APPLICATION = "tests.places.application:application"
MODULES = Path("/usr/lib/apache2/modules")
LIMIT = 30.0  # seconds that any wait may take before the test fails


@dataclass(frozen=True)
class Place:
    """What is particular to a server.

    Attributes:
        command: with `{port}`; empty for Apache, which has a configuration.
        talks_before_fork: the module is loaded, and has made a request, before the server forks.
        streams: bodies come to the application while the client sends them; else they are kept in a file first.
        chunked: the server undoes the chunks of a request.
        keeps: connections of clients are kept.
        hides_cuts: an answer without a length that breaks off looks whole: it ends like any other.
        gevent: its threads are gevent's.
        folder: where in the repository it is started.
    """

    name: str
    command: tuple[str, ...] = ()
    talks_before_fork: bool = False
    streams: bool = True
    chunked: bool = True
    keeps: bool = True
    hides_cuts: bool = False
    gevent: bool = False
    folder: str = "."


def _gunicorn(name: str, *options: str, application: str = APPLICATION, **facts: Any) -> Place:
    common = ("--graceful-timeout", "2", "--no-control-socket", "--keep-alive", "15")
    command = (sys.executable, "-m", "gunicorn", "-b", f"{HOST}:{{port}}", *common, *options, application)
    return Place(name, command, **facts)


def _waitress(name: str, application: str = APPLICATION, **facts: Any) -> Place:
    command = (sys.executable, "-m", "waitress", "--threads", "8", "--listen", f"{HOST}:{{port}}", application)
    return Place(name, command, streams=False, **facts)


GEVENT = ("--worker-class", "gevent")
FORKS = ("--master", "--processes", "3", "--threads", "4")


def _uwsgi(name: str, *options: str, **facts: bool) -> Place:
    program = str(Path(sys.executable).with_name("pyuwsgi"))
    # A signal that comes while a worker is still being forked is lost in Python's hooks.
    mercy = ("--worker-reload-mercy", "5")
    common = ("--http-socket", f"{HOST}:{{port}}", "--need-app", "--die-on-term", *mercy, "--enable-threads")
    command = (program, *common, *options, "--module", APPLICATION)
    return Place(name, command, chunked=False, keeps=False, hides_cuts=True, **facts)


PLACES = {
    place.name: place
    for place in (
        _gunicorn("gunicorn-sync", "--workers", "4", keeps=False),
        _gunicorn("gunicorn-gthread", "--threads", "8"),
        _gunicorn("gunicorn-gevent", *GEVENT, gevent=True),
        _gunicorn("gunicorn-preload", "--preload", "--workers", "3", "--threads", "4", talks_before_fork=True),
        _gunicorn(
            "gunicorn-gevent-preload",
            "-k",
            "gevent",
            "--preload",
            "--workers",
            "2",
            gevent=True,
            talks_before_fork=True,
        ),
        _uwsgi("uwsgi-threads", "--threads", "8"),
        _uwsgi("uwsgi-fork", *FORKS, talks_before_fork=True),
        _uwsgi(
            "uwsgi-fork-hooks",
            "--master",
            "--processes",
            "3",
            "--threads",
            "4",
            "--py-call-osafterfork",
            talks_before_fork=True,
        ),
        _waitress("waitress"),
        _gunicorn("flask-gunicorn", "--threads", "8", application="flask_gateway:app", folder="examples"),
        _waitress("flask-waitress", "flask_gateway:app", folder="examples"),
        _gunicorn("django-gunicorn", "--threads", "8", application="django_gateway", folder="examples"),
        _waitress("django-waitress", "django_gateway:application", folder="examples"),
        Place("mod_wsgi-daemon", hides_cuts=True),
        Place("mod_wsgi-subinterpreter", hides_cuts=True),
        Place("mod_wsgi-embedded"),
    )
}


# How Apache runs the application: in a process of its own, there in the first interpreter or in another; or in its own.
APACHE = {
    "mod_wsgi-daemon": """
        WSGIDaemonProcess gateway threads=8 python-path=@{path}
        WSGIProcessGroup gateway
        WSGIApplicationGroup %{GLOBAL}
    """,
    "mod_wsgi-subinterpreter": """
        WSGIDaemonProcess gateway threads=8 python-path=@{path}
        WSGIProcessGroup gateway
        WSGIApplicationGroup other
    """,
    "mod_wsgi-embedded": "WSGIApplicationGroup other",
}


def missing() -> list[str]:
    """What the tests need and this machine does not have."""
    packages = ("gunicorn", "gevent", "waitress", "pyuwsgi", "flask", "django", "distributed")
    lacking = [package for package in packages if importlib.util.find_spec(package) is None]
    if shutil.which("apache2", path=SEARCH) is None:
        lacking.append("apache2")
    return lacking if (MODULES / "mod_wsgi.so").exists() else [*lacking, "libapache2-mod-wsgi-py3"]


class Upstream:
    """The server behind the gateways, in a process of its own."""

    def __enter__(self) -> Upstream:
        command = [sys.executable, "-m", "tests.places.upstream"]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate(timeout=START_LIMIT)  # the end of its input is the end of it

    def begun(self, ident: str) -> dict[str, Any]:
        """What it knows of a request whose body has begun to come; waits for that."""
        facts = self._ask("begun", ident)
        assert "begun" in facts, "the upload never reached the server behind the gateway"
        return facts

    def ended(self, ident: str) -> dict[str, Any]:
        """What it knows of a request that has ended, one way or another; waits for that."""
        facts = self._ask("ended", ident)
        assert "ended" in facts, "the request goes on and on"
        return facts

    def seen(self, ident: str) -> dict[str, Any]:
        return self._ask("seen", ident)

    def _ask(self, what: str, ident: str) -> dict[str, Any]:
        with contextlib.closing(http.client.HTTPConnection(HOST, self.port, timeout=30)) as connection:
            connection.request("GET", f"/{what}?id={ident}")
            facts: dict[str, Any] = json.loads(connection.getresponse().read())
            return facts


class Farm:
    """Starts each place when it is first asked for, and stops all in the end."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._running: dict[str, Server] = {}
        self.upstream = stack.enter_context(Upstream())

    def get(self, name: str) -> Server:
        if name not in self._running:
            daemon = self._stack.enter_context(running(lambda: self._make(PLACES[name])))
            self._running[name] = Server(PLACES[name], daemon, self.upstream)
        return self._running[name]

    def _make(self, place: Place) -> Daemon:
        port = free_ports("plain")["plain"]
        variables = {"UPSTREAM": f"http://{HOST}:{self.upstream.port}", "UPSTREAM_TIMEOUT": "30"}
        variables["TALK_BEFORE_FORK"] = "yes" if place.talks_before_fork else ""
        # What `python -m` adds to the path, the program of uWSGI does not.
        variables["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        command = [part.format(port=port) for part in place.command] or self._apache(place.name, port)
        settings = [f"{name}={value}" for name, value in variables.items()]
        logs = [self.folder / f"{place.name}-output.log", self.folder / f"{place.name}-error.log"]
        command = ["env", "-C", str(REPOSITORY / place.folder), *settings, *command]
        return Daemon(place.name, command, {"plain": port}, logs)

    def _apache(self, name: str, port: int) -> list[str]:
        values = {"folder": self.folder, "place": name, "port": port, "modules": MODULES, "path": self._python_path()}
        values["identity"] = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
        values["how"] = APACHE[name].replace("@{path}", str(values["path"]))
        config = self.folder / f"{name}.conf"
        config.write_text(render(str(HERE / "mod_wsgi.conf"), **values), "utf-8")
        return [find("apache2"), "-f", str(config), "-DFOREGROUND"]

    def _python_path(self) -> Path:
        """Where Apache finds the modules. It is built for one Python and runs as somebody who may read little."""
        path = self.folder / "python"
        if not path.exists():
            (path / "tests").mkdir(parents=True)
            for package in (clientrequest, urllib3, certifi, blinker):
                assert package.__file__ is not None
                shutil.copytree(Path(package.__file__).parent, path / package.__name__)
            shutil.copytree(REPOSITORY / "examples", path / "examples")
            shutil.copytree(HERE, path / "tests" / "places")
        return path


class Server:
    """A place that runs."""

    def __init__(self, place: Place, daemon: Daemon, upstream: Upstream) -> None:
        self.place = place
        self.daemon = daemon
        self.upstream = upstream
        self.port = daemon.ports["plain"]

    def __repr__(self) -> str:
        return repr(self.daemon)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self.port, timeout=LIMIT)

    def most_memory(self) -> dict[int, int]:
        """The most bytes of memory that each of its processes has had so far."""
        assert self.daemon._process is not None
        group = self.daemon._process.pid
        most = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(folder.name)) == group:
                    found = re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())
                    most[int(folder.name)] = int(found[1]) * 1024 if found else 0
        return most


@contextlib.contextmanager
def new_farm() -> Iterator[Farm]:
    """A farm in a folder that is removed afterwards. Not in the user's own temporary folder, which may be locked."""
    folder = Path(tempfile.mkdtemp(prefix="places-tests-", dir="/tmp"))
    folder.chmod(0o755)  # a server that is started as root becomes somebody else
    try:
        with contextlib.ExitStack() as stack:
            yield Farm(folder, stack)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    with new_farm() as farm:
        for name in PLACES:
            print(farm.get(name), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
