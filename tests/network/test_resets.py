"""Connections that something on the way ends with RST, and connections whose server was started anew."""

from __future__ import annotations

import contextlib
import time

import pytest

from clientrequest import ConnectError, RequestTimeout, Session, TransferError
from tests.network.conftest import World
from tests.network.network import CLIENT, SERVER, after, drop, forget, now, once, reset
from tests.network.scenes import DEEDS, LATE, Deed, Scene
from tests.support import Gate, echo_json

pytestmark = pytest.mark.network


@pytest.mark.parametrize("deed", DEEDS, ids=str)
def test_in_the_middle(world: World, tls: bool, deed: Deed) -> None:
    """Between the client and the server, in the middle of a body or while the head is waited for."""
    scene = Scene(world, tls, "straight", deed, reset)
    error = scene.run()
    assert isinstance(error, TransferError)
    assert error.code == "ERR_CONNECTION_RESET"
    assert scene.lasted < LATE


@pytest.mark.parametrize("deed", DEEDS, ids=str)
def test_in_the_middle_of_a_tunnel(world: World, deed: Deed) -> None:
    scene = Scene(world, True, "proxy", deed, reset)
    assert scene.run().code in ("ERR_CONNECTION_RESET", "ERR_CONNECTION_CLOSED")
    assert scene.lasted < LATE


def test_at_the_first_packet(world: World, way: str) -> None:
    """What a firewall does with a port that it does not like, the server's or the proxy's."""
    world.network.at(now, reset)
    with pytest.raises(ConnectError) as caught:
        world.session(way).request(f"http://{SERVER}/").end().get_response()
    expected = {"straight": "ERR_CONNECTION_REFUSED", "proxy": "ERR_PROXY_CONNECTION_FAILED"}
    assert caught.value.code == expected[way]


@pytest.mark.parametrize("source", [CLIENT, SERVER], ids=["hello", "answer"])
def test_in_the_handshake(world: World, source: str) -> None:
    """What a firewall does that reads the server's name in the first packet of TLS."""
    peer = world.serve(echo_json, tls=True)
    world.network.at(after(source, 0), reset)
    with pytest.raises(TransferError) as caught:
        world.session().request(peer.url()).end().get_response()
    assert caught.value.code == "ERR_CONNECTION_RESET"


# A server that was started anew, and knows nothing of the connection that is idle here


def settle(world: World, tls: bool) -> tuple[Session, str]:
    """A session with one idle connection."""
    peer, session = world.serve(echo_json, tls), world.session()
    assert session.request(peer.url()).end().get_response().json()["connection"] == 1
    return session, peer.url()


@pytest.mark.parametrize("deed", DEEDS[:4], ids=str)
def test_sent_again_on_a_fresh_connection(world: World, tls: bool, deed: Deed) -> None:
    """A body that is still there is sent again, and arrives once."""
    session, url = settle(world, tls)
    world.network.at(now, forget())
    request = deed.prepare(session, url, 500_000)
    if deed.framing:
        request.write(b"x" * 500_000)
    answer = request.end().get_response().json()
    assert (answer["connection"], answer["length"]) == (2, 500_000 if deed.framing else 0)


@pytest.mark.parametrize("deed", DEEDS[1:3], ids=str)
def test_not_sent_again_when_part_of_it_is_gone(world: World, tls: bool, deed: Deed) -> None:
    """No packet gets through before the system has the body, so that none of it is here when the RST comes."""
    session, url = settle(world, tls)
    request = deed.prepare(session, url, 5_000, replay_limit=1_000)
    hole = world.network.at(now, drop)
    world.network.at(now, forget())
    request.write(b"x" * 5_000)
    request.flush()
    hole.mend()
    with pytest.raises(TransferError) as caught:
        request.end().get_response()
    assert caught.value.code == "ERR_CONNECTION_RESET"


def test_reset_while_idle(world: World, tls: bool) -> None:
    """The RST comes while nobody looks: the next request takes another connection at once."""
    gate = Gate("reset")
    peer, session = world.serve(echo_json, tls), world.session()
    assert session.request(peer.url()).end().get_response().json()["connection"] == 1
    fault = world.network.at(once(gate), reset)
    gate.set()
    # Any packet of the connection will do; this is one, unless another was before it, late from the first request.
    with world.server.inside(), contextlib.suppress(ConnectionResetError):
        peer.connections[0].sock.send(b"x")
    fault.began.wait()
    fault.mend()
    assert session.request(peer.url()).end().get_response().json()["connection"] == 2


def test_only_once(world: World, tls: bool) -> None:
    """The fresh connection leads into a black hole: that is the end, in time."""
    peer = world.serve(echo_json, tls)
    session = world.session(timeout=0.5)
    session.request(peer.url()).end().get_response().read()
    world.network.at(now, forget(deaf=True))
    start = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        session.request(peer.url()).end().get_response()
    assert caught.value.code == "ERR_CONNECTION_TIMED_OUT"
    assert 0.5 <= time.monotonic() - start < 0.5 + LATE
