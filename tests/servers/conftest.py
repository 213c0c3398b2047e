"""Starts the servers, each at the first test that asks for it, and once for all of them.

These tests run only if asked for: by `-m servers`, or by naming this folder or a file in it. Then every program they
need must be there: what can't be run is no success.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from clientrequest import Session
from tests.servers.farm import Farm, Server, new_farm
from tests.servers.programs import missing, versions
from tests.servers.uploads import LIMIT
from tests.support.collecting import is_asked_for

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(config: pytest.Config) -> Optional[bool]:
    return None if is_asked_for(config, "servers", HERE) else True


def pytest_report_header(config: pytest.Config) -> list[str]:
    if not is_asked_for(config, "servers", HERE):
        return []
    return ["servers: " + ", ".join(f"{name} {version}" for name, version in versions().items())]


def pytest_sessionstart(session: pytest.Session) -> None:
    if is_asked_for(session.config, "servers", HERE) and missing():
        raise pytest.UsageError(f"the tests against real servers lack {', '.join(missing())}: see .ci/install-servers")


@pytest.fixture(scope="session")
def farm() -> Iterator[Farm]:
    """Also told to end, by SIGTERM, the tests stop their servers; they would outlive them."""
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", 128 + signal.SIGTERM))
    with new_farm() as farm:
        yield farm
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def gunicorn(farm: Farm) -> Iterator[Server]:
    with farm.gunicorn() as server:
        yield server


@pytest.fixture(scope="session")
def nginx(farm: Farm, gunicorn: Server) -> Iterator[Server]:
    with farm.nginx(gunicorn) as server:
        yield server


@pytest.fixture(scope="session")
def apache(farm: Farm) -> Iterator[Server]:
    with farm.apache() as server:
        yield server


@pytest.fixture(scope="session")
def lighttpd(farm: Farm) -> Iterator[Server]:
    with farm.lighttpd() as server:
        yield server


@pytest.fixture(scope="session")
def squid(farm: Farm) -> Iterator[Server]:
    with farm.squid() as server:
        yield server


@pytest.fixture(scope="session")
def socks(farm: Farm) -> Iterator[Server]:
    with farm.socks() as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxies_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have to use a proxy; the tests go there only if they say so."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def session(farm: Farm) -> Iterator[Session]:
    """A session that trusts the servers of the tests."""
    with Session(tls=farm.certificates.ca, timeout=LIMIT) as session:
        yield session


# What the servers complain of during a test that fails is shown with it.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    item.stash[_LENGTHS] = {server: server.daemon.log_lengths() for server in _servers_of(item)}
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed and call.when == "call":
        for server, lengths in item.stash.get(_LENGTHS, {}).items():
            report.sections.append((f"Log of {server.daemon.name}", server.daemon.log(lengths)))
    return report


_LENGTHS: pytest.StashKey[dict[Server, dict[Path, int]]] = pytest.StashKey()


def _servers_of(item: pytest.Item) -> list[Server]:
    values = item.funcargs.values() if isinstance(item, pytest.Function) else ()
    return [value for value in values if isinstance(value, Server)]
