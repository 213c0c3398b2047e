"""The places start when a test first asks for them. Asked for by `-m places`, or by naming this folder or a file in it.

Then all that they need must be there: what can't be run is no success.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.places.places import PLACES, Farm, Server, missing, new_farm
from tests.support.collecting import is_asked_for

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(config: pytest.Config) -> Optional[bool]:
    return None if is_asked_for(config, "places", HERE) else True


def pytest_sessionstart(session: pytest.Session) -> None:
    if is_asked_for(session.config, "places", HERE) and missing():
        raise pytest.UsageError(f"the tests in the places lack {', '.join(missing())}: see .ci/install-places")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The tests of one place run in one process, for it to be started once."""
    if "place" in metafunc.fixturenames:
        names = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in PLACES]
        metafunc.parametrize("place", names, indirect=True)


@pytest.fixture(scope="session")
def farm() -> Iterator[Farm]:
    """Also told to end, by SIGTERM, the tests stop their servers; they would outlive them."""
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", 128 + signal.SIGTERM))
    with new_farm() as farm:
        yield farm
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def place(request: pytest.FixtureRequest, farm: Farm) -> Server:
    """A running WSGI server with the gateway."""
    return farm.get(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """What a server complained of is shown with the test that failed."""
    report = yield
    server = item.funcargs.get("place") if isinstance(item, pytest.Function) else None
    if report.failed and isinstance(server, Server):
        report.sections.append((f"Log of {server.daemon.name}", server.daemon.log()))
    return report
