"""Name servers that do not answer, and names with an address that leads nowhere."""

from __future__ import annotations

import socket
import time

import pytest

from clientrequest import ConnectError, RequestTimeout, Timeout
from tests.network.conftest import World
from tests.network.names import NameServer, serving
from tests.network.network import NOBODY, SERVER, now, refuse
from tests.network.packets import HOST_UNREACHABLE
from tests.network.scenes import check_time
from tests.network.test_black_holes import SHORT, abort_in, check_at_once
from tests.support import echo_json

pytestmark = pytest.mark.network

NAME = "server.test"
OUR_NET, NOWHERE = "2001:db8:77::1/64", "2001:db8:77::99"  # the network carries no IPv6


@pytest.mark.parametrize("limit", [Timeout(connect=SHORT), Timeout(total=SHORT)], ids=["connect", "total"])
def test_name_server_is_silent(world: World, limit: Timeout) -> None:
    """The system's resolver waits for many seconds, and can't be told not to; the request does not wait for it."""
    with serving(NameServer({}, silent=True)) as server:
        start = time.monotonic()
        with pytest.raises(RequestTimeout) as caught:
            world.session().request(f"http://{NAME}/", timeout=limit).end().get_response()
        lasted = time.monotonic() - start
        assert server.asked.is_set()
    assert caught.value.code == ("ERR_CONNECTION_TIMED_OUT" if limit.total is None else "ERR_TIMED_OUT")
    check_time(lasted, SHORT)


def test_abort_while_the_name_server_is_silent(world: World) -> None:
    lasted = []
    for _ in range(3):
        with serving(NameServer({}, silent=True)) as server:
            request = world.session().request(f"http://{NAME}/")
            lasted.append(abort_in(request, lambda: request.end().get_response(), server.asked.wait))  # noqa: B023
    check_at_once(lasted)


def test_no_such_name(world: World) -> None:
    with serving(NameServer({})), pytest.raises(ConnectError) as caught:
        world.session().request(f"http://{NAME}/").end().get_response()
    assert caught.value.code == "ERR_NAME_NOT_RESOLVED"


def prefer_ipv6(world: World) -> None:
    """Give the client's host an IPv6 address: names are then looked up to IPv6 first (RFC 6724)."""
    try:
        world.client.ip(f"addr add {OUR_NET} dev card0 nodad")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


def addresses() -> list[str]:
    return [entry[4][0] for entry in socket.getaddrinfo(NAME, 80, type=socket.SOCK_STREAM)]


def test_second_address_when_the_first_says_no(world: World) -> None:
    """The first address is unreachable, and a router says so: the second one is taken."""
    peer = world.serve(echo_json)
    with serving(NameServer({NAME: [NOBODY, SERVER]})):
        world.network.at(now, refuse(HOST_UNREACHABLE, to=NOBODY))
        assert sorted(addresses()) == sorted([NOBODY, SERVER])
        response = world.session().request(f"http://{NAME}:{peer.port}/").end().get_response()
        assert response.json()["method"] == "GET"


def test_first_address_in_a_black_hole(world: World) -> None:
    """IPv6 that leads nowhere, in front of IPv4 that works: the `connect` limit is for all addresses together."""
    prefer_ipv6(world)
    peer = world.serve(echo_json)
    with serving(NameServer({NAME: [NOWHERE, SERVER]})):
        assert addresses() == [NOWHERE, SERVER]
        start = time.monotonic()
        with pytest.raises(RequestTimeout) as caught:
            world.session().request(f"http://{NAME}:{peer.port}/", timeout=Timeout(connect=SHORT)).end().get_response()
    assert caught.value.code == "ERR_CONNECTION_TIMED_OUT"
    check_time(time.monotonic() - start, SHORT)
