"""Networks that say no: no route, a card that is off, routers that send ICMP, a host that is not there."""

from __future__ import annotations

import json
import threading
import time

import pytest

from clientrequest import ClientRequestError, ConnectError, ProxyError
from tests.network.conftest import World
from tests.network.hosts import CARD
from tests.network.network import CLIENT, NOBODY, SERVER, after, now, refuse
from tests.network.packets import HOST_UNREACHABLE, NET_UNREACHABLE, PORT_UNREACHABLE, PROHIBITED
from tests.network.scenes import BEYOND, LATE, UPLOADS, digest, noise
from tests.support import LIMIT, echo_json

pytestmark = pytest.mark.network


def fail(world: World, way: str = "straight") -> ClientRequestError:
    """What a request without any limit dies of, at once."""
    session = world.session(way, timeout=None)
    start = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        session.request(f"http://{SERVER}/").end().get_response(LIMIT)
    assert time.monotonic() - start < LATE
    return caught.value


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (NET_UNREACHABLE, "ERR_ADDRESS_UNREACHABLE"),
        (HOST_UNREACHABLE, "ERR_ADDRESS_UNREACHABLE"),
        (PROHIBITED, "ERR_ADDRESS_UNREACHABLE"),
        (PORT_UNREACHABLE, "ERR_CONNECTION_REFUSED"),
    ],
    ids=["net", "host", "prohibited", "port"],
)
def test_a_router_says_so(world: World, message: int, code: str) -> None:
    world.network.at(now, refuse(message))
    assert fail(world).code == code


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("route del default", "ERR_ADDRESS_UNREACHABLE"),
        (f"link set {CARD} down", "ERR_ADDRESS_UNREACHABLE"),
        ("route replace unreachable 10.77.0.0/16", "ERR_ADDRESS_UNREACHABLE"),
        ("route replace prohibit 10.77.0.0/16", "ERR_NETWORK_ACCESS_DENIED"),
    ],
    ids=["no-route", "card-off", "unreachable", "prohibited"],
)
def test_our_own_host_says_so(world: World, command: str, code: str) -> None:
    world.client.ip(command)
    assert fail(world).code == code


def test_the_proxy_is_unreachable(world: World) -> None:
    world.network.at(now, refuse(HOST_UNREACHABLE))
    error = fail(world, "proxy")
    assert isinstance(error, ProxyError)
    assert error.code == "ERR_PROXY_CONNECTION_FAILED"


def test_the_server_is_unreachable_for_the_proxy(world: World) -> None:
    world.network.at(now, refuse(HOST_UNREACHABLE, to=NOBODY))
    with pytest.raises(ProxyError) as caught:
        world.session("proxy").request(f"https://{NOBODY}/").end().get_response()
    assert caught.value.code == "ERR_TUNNEL_CONNECTION_FAILED"


def test_complaints_in_the_middle_are_no_end(world: World, tls: bool) -> None:
    """Routes change: what routers say of a connection that is under way is no more than a hint (RFC 1122, 4.2.3.9)."""
    size, deed, peer = 1_000_000, UPLOADS[1], world.serve(echo_json, tls)
    fault = world.network.at(after(CLIENT, BEYOND), refuse(HOST_UNREACHABLE))
    request = deed.prepare(world.session(), peer.url(), size)
    mender = threading.Thread(target=lambda: (fault.began.wait(), threading.Event().wait(0.3), fault.mend()))
    mender.start()
    answer = json.loads(deed.do(request, size))
    mender.join(LIMIT)
    assert fault.began.is_set()
    assert (answer["length"], answer["sha256"]) == (size, digest(noise(size)))
