"""A network of three hosts for each test: a client's, where the test runs, a server's, and a proxy's.

These tests run only if asked for: by `-m network`, or by naming this folder or a file in it. They need root, the
kernel's TUN devices and the program `ip`; without, they are skipped, and say what is missing.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional

import pytest

from clientrequest import Session
from clientrequest._workers import crew
from tests.network.hosts import Host, why_not
from tests.network.names import nameservers
from tests.network.network import CLIENT, PROXY, SERVER, Network
from tests.support import Handler, Peer, ca_path, server_context
from tests.support.collecting import is_asked_for
from tests.support.proxies import HttpProxy

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(config: pytest.Config) -> Optional[bool]:
    return None if is_asked_for(config, "network", HERE) else True


class World:
    """The hosts and the network between them. The test itself is on the client's host."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        crew.send_home()  # workers are still where they began
        more = [f"addr add {address} dev lo" for address in nameservers() if not address.startswith("127.")]
        self.client = self._host(CLIENT, *more)
        self.server = self._host(SERVER)
        self.proxy = self._host(PROXY)
        self.network = stack.enter_context(Network(self.client, self.server, self.proxy))

    def _host(self, address: str, *more: str) -> Host:
        host = Host(address, *more)
        self._stack.callback(host.close)
        return host

    def serve(self, handler: Handler, tls: bool = False, **options: Any) -> Peer:
        """A server on the server's host; what its handlers die of is no matter where the network fails."""
        context: Optional[ssl.SSLContext] = server_context(SERVER) if tls else None
        return self._start(self.server, Peer(handler, context, host=SERVER, expect_errors=True, **options))

    def session(self, way: str = "straight", **options: Any) -> Session:
        """A session that trusts the servers; for `proxy`, with a proxy on the proxy's host."""
        if way == "proxy":
            proxy = HttpProxy(host=PROXY, expect_errors=True)
            self._start(self.proxy, proxy)
            options["proxies"] = {"all": proxy.address()}
        return self._stack.enter_context(Session(tls=ca_path(), **options))

    def _start(self, host: Host, peer: Peer) -> Peer:
        # All of its threads begin there, and the sockets that they make are of that host.
        with host.inside():
            return self._stack.enter_context(peer)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    if why_not():
        pytest.skip(why_not())
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with ExitStack() as stack:
        world = World(stack)
        with world.client.inside():
            yield world
        world.network.close_down()


@pytest.fixture
def network(world: World) -> Network:
    return world.network


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "tls")


@pytest.fixture(params=["straight", "proxy"])
def way(request: pytest.FixtureRequest) -> str:
    """Straight to the server, or through a proxy on a host of its own."""
    return str(request.param)
