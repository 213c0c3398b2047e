"""What all the peers stand on: where the server is, what a client is, and how its answers are checked."""

from __future__ import annotations

import itertools
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, NamedTuple, Optional
from urllib.parse import urlsplit

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
READ_SIZE = 256 * KIB
LARGE_WRITE, TINY_WRITE = 64 * KIB, 100
THREADS = 16
SMALL, SMALL_SIZE = "/small", 100
WAIT = "/wait/200"  # the answer of SMALL, 200 ms later


class Site(NamedTuple):
    """Where a client finds its server and its files."""

    url: str
    ca: str  # the certificate of the server's authority, "" without TLS
    folder: str  # of the files that file_of() makes

    @property
    def netloc(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def tls_context(self) -> Optional[ssl.SSLContext]:
        return ssl.create_default_context(cafile=self.ca) if self.ca else None

    def file_of(self, size: int) -> str:
        return os.path.join(self.folder, "bytes", str(size))


# What a client reports itself, if it is not what the process it runs in would measure.
Figures = dict[str, Any]
# Does a given amount of work and checks every answer.
Work = Callable[[int], Optional[Figures]]
# Given the site it makes its connection, and gives the work, which is called to warm up and then to be measured.
Client = Callable[[Site], Work]


class Peer(NamedTuple):
    """A program that is measured. Its clients are ordered by the kind of their work, then named by how they do it."""

    name: str
    version: list[str]  # the command that prints it; where it fails the peer is not there
    clients: dict[str, dict[str, Client]]
    references: Mapping[str, dict[str, Client]] = MappingProxyType({})  # second ways that are measured when asked for
    module: str = ""  # memory is counted from its bare import


def python_version(module: str, expression: str) -> list[str]:
    """The command that prints the version of a Python peer, and fails if it can't be imported."""
    return [sys.executable, "-c", f"import platform, {module}; print({expression})"]


# ---- checking ------------------------------------------------------------------------------------


class WrongAnswerError(Exception):
    """The client or the server did not do the whole work: its time means nothing."""


class NotThereError(Exception):
    """This version of a peer can't do this at all; the text says what it lacks."""


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongAnswerError(f"expected {wanted!r}, found {found!r}")


# ---- bodies --------------------------------------------------------------------------------------


def blocks(total: int, size: int) -> Iterator[bytes]:
    """The body of an upload: every client is given the very same one."""
    block = bytes(size)
    yield from itertools.repeat(block, total // size)
    if total % size:
        yield bytes(total % size)


def make_file(site: Site, size: int) -> None:
    """Makes the file of that size, and reads it once, so that no client has to wait for a disk."""
    path = Path(site.file_of(size))
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        with path.open("wb") as file:
            file.truncate(size)
    with path.open("rb", buffering=0) as file:
        expect(read_into(file), size)


def read_into(source: Any) -> int:
    total = 0
    buffer = memoryview(bytearray(READ_SIZE))
    while received := source.readinto(buffer):
        total += received
    return total


def add_lengths(chunks: Iterable[bytes]) -> int:
    total = 0
    for chunk in chunks:
        total += len(chunk)
    return total


# ---- small requests ------------------------------------------------------------------------------

# One GET of a path under the site, whose answer is checked to be the small one.
Fetch = Callable[[str], None]
# Given the site and how many threads will fetch at once.
FetchMaker = Callable[[Site, int], Fetch]


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Calls work with the numbers from 0, each in a thread of its own; raises what one of them raised."""
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def share_of(count: int) -> int:
    """How much of the work each of the threads does."""
    return max(1, count // THREADS)


def one_by_one(make: FetchMaker) -> Client:
    def client(site: Site) -> Work:
        fetch = make(site, 1)

        def work(count: int) -> None:
            for _ in range(count):
                fetch(SMALL)

        return work

    return client


def threaded(make: FetchMaker, *, shared: bool = True) -> Client:
    """Many threads, which share what is made once, or have one each."""

    def client(site: Site) -> Work:
        fetches = [make(site, THREADS)] * THREADS if shared else [make(site, 1) for _ in range(THREADS)]

        def work(count: int) -> None:
            def fetch_share(number: int) -> None:
                fetch = fetches[number]
                for _ in range(share_of(count)):
                    fetch(SMALL)

            in_threads(THREADS, fetch_share)

        return work

    return client


def at_once(make: FetchMaker, *, shared: bool = True) -> Client:
    """A thread a request, and new connections for all of them."""

    def client(site: Site) -> Work:
        def work(count: int) -> None:
            fetch = make(site, count) if shared else None
            in_threads(count, lambda number: (fetch or make(site, 1))(WAIT))

        return work

    return client


# ---- imports -------------------------------------------------------------------------------------


def importing(module: str) -> Client:
    """The time an import adds to the time of a bare interpreter, each time in a new process."""

    def client(site: Site) -> Work:
        def work(count: int) -> Figures:
            figures: Figures = {"wall": 0.0, "cpu": 0.0, "memory": None}
            for _ in range(count):
                bare_wall, bare_cpu = _time_python("pass", site.folder)
                wall, cpu = _time_python(f"import {module}", site.folder)
                figures["wall"] += wall - bare_wall
                figures["cpu"] += cpu - bare_cpu
            return figures

        return work

    return client


def _time_python(code: str, folder: str) -> tuple[float, float]:
    start, used = time.perf_counter(), children_time()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
    return time.perf_counter() - start, children_time() - used


def children_time() -> float:
    """The CPU time of all the processes that were started and waited for."""
    times = os.times()
    return times.children_user + times.children_system


# ---- aborting ------------------------------------------------------------------------------------

STILL = 0.05  # seconds without progress, after which a call counts as blocked
ABORT_LIMIT = 10.0  # seconds after which an abort counts as without effect
LONG_WAIT, LONG_STALL = "/wait/600000", "/stall/600000"
# What is not taken while the server waits is taken then: a connection does not vanish with bytes on their way.
UPLOAD_WAIT = "/wait/1000"


class Blocked(NamedTuple):
    """A call that blocks, and what sets it free."""

    call: Callable[[], object]
    abort: Callable[[], object]  # from another thread
    progress: Callable[[], int] = int  # changes as long as the call does not block
    close: Callable[[], object] = int  # afterwards, not measured


def aborting(begin: Callable[[Site], Blocked]) -> Client:
    """The milliseconds from the abort until the blocked call has ended, however it ends."""

    def client(site: Site) -> Work:
        return lambda count: {"milliseconds": [_time_abort(begin(site)) for _ in range(count)]}

    return client


def _time_abort(blocked: Blocked) -> float:
    ended: list[float] = []
    outcome: list[object] = []

    def call() -> None:
        try:
            outcome.append(blocked.call())
        except BaseException as error:
            outcome.append(error)
        ended.append(time.perf_counter())

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    _wait_until_still(blocked.progress)
    if not thread.is_alive():
        raise WrongAnswerError(f"the call did not block: {outcome!r}")
    start = time.perf_counter()
    blocked.abort()
    thread.join(ABORT_LIMIT)
    if thread.is_alive():
        raise WrongAnswerError(f"still blocked {ABORT_LIMIT:g} s after the abort")
    blocked.close()
    return (ended[0] - start) * 1000


def _wait_until_still(progress: Callable[[], int]) -> None:
    """Waits until nothing has changed for a while."""
    seen = -1
    while (now := progress()) != seen:
        seen = now
        time.sleep(STILL)


class EndlessBody:
    """Blocks without an end, counted: the count stands still when nobody takes any more of them."""

    def __init__(self, size: int = LARGE_WRITE) -> None:
        self.block = bytes(size)
        self.taken = 0

    def progress(self) -> int:
        return self.taken

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.taken += 1
            yield self.block


def program(name: str) -> str:
    """The path of a program, or the bare name, which fails when it is started."""
    return shutil.which(name) or name
