"""After each test the house is clean: no worker busy, no request alive, no socket open."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Callable

import pytest
from hypothesis import HealthCheck, settings

from clientrequest import Session, _workers, default_session
from clientrequest._exchange import _live
from clientrequest._workers import Worker, crew
from tests.support import Peer, ca_path, open_sockets, server_context, witness

# On a busy machine, or where Hypothesis has yet to make its tables of letters, an input takes its time.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

LIMIT = 10.0  # seconds; a test that leaves something behind fails, it does not wait for ever


def busy_workers() -> list[str]:
    """The names of the workers that are carrying a request."""
    parked = set(crew.parked())
    workers = [thread for thread in threading.enumerate() if isinstance(thread, Worker)]
    return [worker.name for worker in workers if worker not in parked]


def wait_until_quiet() -> None:
    """Wait until no worker is busy. Polls: what it waits for has, on purpose, no event of its own."""
    deadline = time.monotonic() + LIMIT
    pause = threading.Event()
    while (_live or busy_workers()) and time.monotonic() < deadline:
        gc.collect()
        pause.wait(0.002)
    assert not _live, f"requests still alive: {_live}"
    assert not busy_workers(), f"workers still busy: {busy_workers()}"


def wait_for_lookups() -> None:
    """Wait for the threads that look names up, which nothing can interrupt, and which may have sockets of their own."""
    for thread in threading.enumerate():
        if thread.name == "clientrequest-lookup":
            thread.join(LIMIT)


def wait_until_closed(before: list[str] | None) -> list[str]:
    """Wait until nothing is open that was not before; gives what still is. A thread that has just rung the bell of a
    worker, as that of a name lookup, may hold it for a moment more than the worker lives."""
    deadline = time.monotonic() + LIMIT
    pause = threading.Event()
    while left := sorted(set(open_sockets() or []) - set(before or [])):
        if time.monotonic() >= deadline or not any("eventfd" in name for name in left):
            break
        pause.wait(0.002)
    return left


def pytest_configure() -> None:
    """A job in the background may be started with Ctrl-C ignored, which the programs under test would inherit."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    witness.install()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--half", choices=["1", "2"], help="only one half of the tests, picked by their names")
    parser.addoption("--hurried", action="store_true", help="small requests go the short way wherever they may")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Two runs on different Pythons may share the work: what one has not tried, the other has."""
    if config.option.half:
        halves: tuple[list[pytest.Item], list[pytest.Item]] = ([], [])
        for item in items:
            halves[zlib.crc32(item.nodeid.encode()) % 2].append(item)
        picked = int(config.option.half) - 1
        config.hook.pytest_deselected(items=halves[1 - picked])
        items[:] = halves[picked]


def pytest_collection_finish() -> None:
    """What the collection made stays until the end: the collector need not look at it after each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_house() -> Iterator[None]:
    """Fails the test that leaves a request, a busy worker or an open socket behind."""
    before = open_sockets()
    yield
    wait_until_quiet()
    default_session().close_connections()
    for worker in crew.send_home():
        worker.join(LIMIT)
    wait_for_lookups()
    gc.collect()
    gc.freeze()  # what pytest keeps of each test would make each collection slower than the one before
    left = wait_until_closed(before)
    assert not left, f"left open: {left}"


@pytest.fixture(autouse=True)
def lawful_events(clean_house: None) -> Iterator[None]:
    """Fails the test whose requests had events, heard or not, in an order that the contract forbids."""
    witness.take_complaints()
    yield
    wait_until_quiet()
    complaints = witness.take_complaints()
    assert not complaints, "\n".join(complaints)


@pytest.fixture(autouse=True)
def hurried(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--hurried`: as if all requests came one upon the other."""
    if request.config.getoption("--hurried"):
        monkeypatch.setattr(_workers, "HURRY", 1.0)
        monkeypatch.setattr(Worker, "hurried", True)


@pytest.fixture
def session() -> Iterator[Session]:
    """A session that trusts the servers of the tests."""
    with Session(tls=ca_path()) as session:
        yield session


@pytest.fixture(params=["plain", "tls"])
def serve(request: pytest.FixtureRequest, session: Session) -> Iterator[Callable[..., Peer]]:
    """Starts a server with a handler, which `session` trusts; once plain, once over TLS."""
    with ExitStack() as stack:
        tls = server_context() if request.param == "tls" else None
        yield lambda handler, **options: stack.enter_context(Peer(handler, tls, **options))


@pytest.fixture
def nervous() -> Iterator[None]:
    """Has threads change places as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
