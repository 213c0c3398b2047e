"""Bad but working networks: slow, lossy, out of order. Everything arrives, whole, right and once."""

from __future__ import annotations

import json
import time

import pytest

from clientrequest import Session, Timeout
from tests.network.conftest import World
from tests.network.network import Network, Weather, drop_first, now
from tests.network.scenes import DOWNLOADS, UPLOADS, Deed, digest, download, noise
from tests.support import echo_json

pytestmark = pytest.mark.network

# How the network is, how many bytes are sent through it, and what must have happened to packets, or it was no test.
WEATHERS = {
    "delay": (Weather(delay=0.05), 60_000, ["travelled"]),
    "jitter": (Weather(delay=0.01, jitter=0.03), 150_000, ["travelled"]),
    "loss-1": (Weather(delay=0.001, loss=0.01), 1_000_000, ["lost"]),
    "loss-10": (Weather(delay=0.001, loss=0.1), 300_000, ["lost"]),
    "loss-30": (Weather(delay=0.001, loss=0.3), 5_000, ["lost"]),
    "late": (Weather(delay=0.001, jitter=0.005, late=0.2), 300_000, ["late"]),
    "doubled": (Weather(delay=0.001, doubled=0.3), 1_000_000, ["doubled"]),
    "damaged": (Weather(delay=0.001, damaged=0.03), 300_000, ["damaged"]),
    "slow": (Weather(rate=250_000), 100_000, ["travelled"]),
    "storm": (
        Weather(delay=0.01, jitter=0.01, loss=0.03, doubled=0.1, damaged=0.02, late=0.1),
        60_000,
        ["lost", "doubled", "damaged", "late"],
    ),
}


@pytest.mark.parametrize("name", WEATHERS)
def test_everything_arrives(world: World, tls: bool, way: str, name: str) -> None:
    weather, size, signs = WEATHERS[name]
    if name == "loss-30" and way == "proxy":
        pytest.skip("two such networks one behind the other take minutes")
    world.network.weather = weather
    session = world.session(way, timeout=Timeout(connect=30, read=30, write=30))
    both_ways(session, world, tls, size)
    assert all(world.network.counts[sign] for sign in signs)


def both_ways(session: Session, world: World, tls: bool, size: int) -> None:
    """Uploads in two ways, and a download, one after the other."""
    sink, source = world.serve(echo_json, tls), world.serve(download(size), tls)
    for deed in UPLOADS[1:]:
        answer = json.loads(deed.do(deed.prepare(session, sink.url(), size), size))
        assert (answer["length"], answer["sha256"]) == (size, digest(noise(size)))
    for deed in DOWNLOADS[:2]:
        assert digest(deed.do(deed.prepare(session, source.url(), 0), 0)) == digest(noise(size))
    assert [len(peer.requests) for peer in (sink, source)] == [2, 2]


def test_lost_syn(world: World, network: Network, session: Session) -> None:
    """The first packet of all is lost: the kernel sends it again after a second, and nobody is told."""
    peer = world.serve(echo_json)
    network.at(now, drop_first(1))
    start = time.monotonic()
    assert session.request(peer.url(), timeout=Timeout(connect=5)).end().get_response().json()["method"] == "GET"
    assert 0.9 < time.monotonic() - start < 3
    assert len(peer.requests) == 1


@pytest.mark.parametrize(("deed", "tls"), [(UPLOADS[1], True), (UPLOADS[2], False)], ids=str)
def test_a_slow_network_is_no_silent_one(world: World, deed: Deed, tls: bool) -> None:
    """The `write` limit begins again with each byte that the server takes.

    A kernel with a large buffer takes none of ours for longer than that, while it sends what it has.
    """
    world.client.set_kernel(tcp_wmem="4096 1000000 1000000")
    world.network.weather = Weather(rate=500_000)
    peer, size = world.serve(echo_json, tls), 1_500_000
    request = deed.prepare(world.session(), peer.url(), size, timeout=Timeout(write=0.2, read=20))
    start = time.monotonic()
    answer = json.loads(deed.do(request, size))
    assert (answer["length"], answer["sha256"]) == (size, digest(noise(size)))
    assert time.monotonic() - start > 2
