"""Packets that vanish: nothing hangs for longer than its limit says, and `abort()` is at once."""

from __future__ import annotations

import json
import threading
import time
from typing import Callable

import pytest

from clientrequest import AbortedError, ClientRequest, ClientRequestError, ConnectError, RequestTimeout, Timeout
from tests.network.conftest import World
from tests.network.network import CLIENT, NOBODY, SERVER, after, drop, drop_from, drop_larger, now
from tests.network.scenes import (
    BEYOND,
    DEEDS,
    DOWNLOADS,
    ENDLESS,
    HEAD,
    UPLOADS,
    Deed,
    Scene,
    check_time,
    digest,
    download,
    noise,
)
from tests.support import LIMIT, Conn, Gate, echo_json, scripted

pytestmark = pytest.mark.network

SHORT = 0.5  # seconds: the limits of these tests

each_deed = pytest.mark.parametrize("deed", DEEDS, ids=str)


# Limits that are kept


@each_deed
def test_limit_of_its_own(world: World, tls: bool, way: str, deed: Deed, record_property: Callable[..., None]) -> None:
    """The `write` limit ends what sends, the `read` limit what waits; the other one would come too late."""
    if deed in DOWNLOADS and way == "proxy" and not tls:
        pytest.skip("this proxy passes an answer on once it has all of it, for which the limit may be too short")
    limits = {"connect": 20.0, "write": 20.0, "read": 20.0, deed.blocked_by: SHORT}
    scene = Scene(world, tls, way, deed, drop, timeout=Timeout(**limits))
    error = scene.run()
    record_property("lasted", scene.lasted)
    assert isinstance(error, RequestTimeout)
    assert error.code == "ERR_TIMED_OUT"
    check_time(scene.lasted, SHORT)


@each_deed
def test_total_limit(world: World, tls: bool, deed: Deed) -> None:
    scene = Scene(world, tls, "straight", deed, drop, timeout=Timeout(total=1))
    start = time.monotonic()
    error = scene.run()
    assert error.code == "ERR_TIMED_OUT"
    check_time(scene.ended_at - start, 1)


def test_one_direction_is_enough(world: World, tls: bool) -> None:
    """The bytes arrive, but no acknowledgement comes back."""
    limit = Timeout(write=SHORT, read=20)
    scene = Scene(world, tls, "straight", UPLOADS[2], drop_from(SERVER), timeout=limit)
    assert scene.run().code == "ERR_TIMED_OUT"
    check_time(scene.lasted, SHORT)


@pytest.mark.parametrize("deed", [UPLOADS[2], DOWNLOADS[0]], ids=str)
def test_large_packets_vanish(world: World, tls: bool, deed: Deed) -> None:
    """A path that carries small packets only: connecting and the heads are fine, then nothing moves."""
    size = ENDLESS
    peer = world.serve(echo_json if deed.framing else download(size), tls)
    mark = after(CLIENT, 2000) if deed.framing else after(SERVER, 6000)
    world.network.at(mark, drop_larger(1200))
    limits = {"read": 20.0, "write": 20.0, deed.blocked_by: SHORT}
    request = deed.prepare(world.session(), peer.url(), size, timeout=Timeout(**limits))
    start = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        deed.do(request, size)
    assert caught.value.code == "ERR_TIMED_OUT"
    assert SHORT <= time.monotonic() - start < SHORT + 1
    assert world.network.counts["dropped"]


def test_body_that_the_kernel_takes(world: World, tls: bool) -> None:
    """A short body is with the kernel at once, wherever its packets go: then it is the answer that is waited for."""
    peer = world.serve(echo_json, tls)
    session = world.session()
    session.request(peer.url()).end().get_response().read()
    world.network.at(now, drop)
    request = session.request(peer.url(), method="POST", timeout=Timeout(read=SHORT, write=20))
    start = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        request.end(b"x" * 10_000).get_response()
    assert caught.value.code == "ERR_TIMED_OUT"
    check_time(time.monotonic() - start, SHORT)


# Connecting


def test_nobody_answers(world: World, way: str) -> None:
    """No SYN is answered: the server's, or the proxy's."""
    session = world.session(way, timeout=Timeout(connect=SHORT))
    world.network.at(now, drop)
    start = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        session.request(f"http://{NOBODY}/").end().get_response()
    assert caught.value.code == "ERR_CONNECTION_TIMED_OUT"
    check_time(time.monotonic() - start, SHORT)


@pytest.mark.parametrize("begins", ["hello", "answer"])
def test_in_the_handshake(world: World, way: str, begins: str) -> None:
    """The hole opens in the TLS handshake, or between the proxy and the server, with the tunnel not yet made."""
    peer = world.serve(echo_json, tls=True)
    source = {"hello": CLIENT, "answer": SERVER}[begins]
    session = world.session(way, timeout=Timeout(connect=SHORT))
    world.network.at(after(source, 0), drop)
    start = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        session.request(peer.url()).end().get_response()
    assert caught.value.code == "ERR_CONNECTION_TIMED_OUT"
    check_time(time.monotonic() - start, SHORT)


def test_server_behind_the_proxy_is_silent(world: World) -> None:
    """The proxy waits for a server that never answers; we do not wait for the proxy."""
    session = world.session("proxy", timeout=Timeout(connect=SHORT, read=20))
    start = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        session.request(f"https://{NOBODY}/").end().get_response()
    assert caught.value.code == "ERR_CONNECTION_TIMED_OUT"
    check_time(time.monotonic() - start, SHORT)


# When the kernel gives up first


def test_kernel_gives_up_connecting(world: World) -> None:
    world.client.set_kernel(tcp_syn_retries=1)
    with pytest.raises(RequestTimeout) as caught:
        world.session(timeout=None).request(f"http://{NOBODY}/").end().get_response(LIMIT)
    assert caught.value.code == "ERR_CONNECTION_TIMED_OUT"


def test_kernel_gives_up_sending(world: World, tls: bool) -> None:
    world.client.set_kernel(tcp_retries2=2)
    scene = Scene(world, tls, "straight", UPLOADS[2], drop, timeout=Timeout(None, None, None))
    assert scene.run().code in gave_up(tls)


def gave_up(tls: bool) -> tuple[str, ...]:
    """OpenSSL does not always say why the connection ended, only that it did."""
    return ("ERR_TIMED_OUT", "ERR_CONNECTION_RESET") if tls else ("ERR_TIMED_OUT",)


def test_kernel_gives_up_receiving(world: World) -> None:
    """An early answer that only the end of the connection ends is not whole because the kernel gave the upload up."""
    world.client.set_kernel(tcp_retries2=2)
    send = Gate("answer")
    peer = world.serve(scripted(send, b"HTTP/1.1 200 OK\r\n\r\nhalf", Conn.hold, body=False))
    session = world.session(timeout=Timeout(None, None, None))
    request = UPLOADS[2].prepare(session, peer.url(), ENDLESS)
    request.flush_headers()
    peer.wait_request()
    fault = world.network.at(lambda packet: packet.source == CLIENT and packet.payload > 0, drop_from(CLIENT))
    request.write(b"x")  # it is never confirmed
    fault.began.wait()
    send.set()
    response = request.get_response(LIMIT)
    with pytest.raises(ClientRequestError) as caught:
        response.read()
    assert caught.value.code in gave_up(False)


# The network comes back


@pytest.mark.parametrize("how", ["hole", "link"])
@pytest.mark.parametrize("deed", [UPLOADS[1], DOWNLOADS[0], DOWNLOADS[1]], ids=str)
def test_goes_on(world: World, tls: bool, deed: Deed, how: str) -> None:
    """Half a second without a network in the middle of a body: it is whole all the same."""
    size = 1_000_000
    peer = world.serve(echo_json if deed.framing else download(size), tls)
    request = deed.prepare(world.session(timeout=Timeout(read=10, write=10)), peer.url(), size)
    gone = Gate("gone")
    fault = world.network.at(after(CLIENT if deed.framing else SERVER, BEYOND), drop)
    mender = threading.Thread(target=lambda: lose_and_find(world, how, fault.began, fault.mend, gone))
    mender.start()
    body = deed.do(request, size)
    mender.join(LIMIT)
    assert gone.is_set()
    if deed.framing:
        answer = json.loads(body)
        assert (answer["length"], answer["sha256"]) == (size, digest(noise(size)))
    else:
        assert digest(body) == digest(noise(size))


def lose_and_find(world: World, how: str, began: Gate, mend: Callable[[], None], gone: Gate) -> None:
    began.wait()
    if how == "link":
        world.client.set_link(False)
        mend()
    threading.Event().wait(0.5)  # the fault itself: nothing happens for so long
    gone.set()
    if how == "link":
        world.client.set_link(True)
    else:
        mend()


@pytest.mark.parametrize("deed", [UPLOADS[1], HEAD, DOWNLOADS[0]], ids=str)
def test_link_stays_down(world: World, tls: bool, deed: Deed) -> None:
    """The card is switched off and stays so: what is under way ends by its limit, what begins now, at once."""
    limits = {"write": 20.0, "read": 20.0, deed.blocked_by: 0.6}
    scene = Scene(world, tls, "straight", deed, drop, timeout=Timeout(**limits))
    switch = threading.Thread(target=lambda: (scene.fault.began.wait(), world.client.set_link(False)))
    switch.start()
    error = scene.run()
    switch.join(LIMIT)
    assert error.code == "ERR_TIMED_OUT"
    check_time(scene.lasted, 0.6)
    start = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        scene.session.request(f"http://{NOBODY}/").end().get_response()
    assert caught.value.code == "ERR_ADDRESS_UNREACHABLE"
    assert time.monotonic() - start < LATE_AT_ONCE


# abort()

AT_ONCE = 0.05
"""Seconds within which everybody is free after an abort."""
LATE_AT_ONCE = 0.5
"""The same on a machine that is busy: of some attempts one must be in time, and none later than this."""
ATTEMPTS = 3


def abort_in(request: ClientRequest, do: Callable[[], object], stuck: Callable[[], object]) -> float:
    """Do it on a thread of its own, abort once it is stuck: seconds until it is free and `close` is through."""
    died: list[BaseException] = []
    freed: list[float] = []

    def run() -> None:
        try:
            do()
        except BaseException as error:
            died.append(error)
        freed.append(time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    stuck()
    start = time.monotonic()
    request.abort()
    returned = time.monotonic()
    with pytest.raises(AbortedError):
        request.wait(LIMIT)
    closed = time.monotonic()
    thread.join(LIMIT)
    if not isinstance(died[0], AbortedError):
        raise died[0]
    return max(returned, closed, freed[0]) - start


def check_at_once(lasted: list[float]) -> None:
    assert min(lasted) < AT_ONCE
    assert max(lasted) < LATE_AT_ONCE


@each_deed
def test_abort(world: World, tls: bool, way: str, deed: Deed, record_property: Callable[..., None]) -> None:
    lasted = []
    for _ in range(ATTEMPTS):
        scene = Scene(world, tls, way, deed, drop)
        lasted.append(abort_in(scene.request, scene.run_to_the_end, scene.fault.began.wait))
        scene.fault.mend()
    record_property("aborted", min(lasted))
    check_at_once(lasted)


@pytest.mark.parametrize("where", ["syn", "handshake", "tunnel"])
def test_abort_while_connecting(world: World, way: str, where: str, record_property: Callable[..., None]) -> None:
    peer = world.serve(echo_json, tls=True)
    session = world.session(way)
    lasted = []
    for _ in range(ATTEMPTS):
        mark = {"syn": now, "handshake": after(CLIENT, 0), "tunnel": after(SERVER, 0)}[where]
        fault = world.network.at(mark, drop)
        request = session.request(peer.url())
        lasted.append(abort_in(request, lambda: request.end().get_response(), fault.began.wait))  # noqa: B023
        fault.mend()
    record_property("aborted", min(lasted))
    check_at_once(lasted)


def test_abort_with_the_link_down(world: World, tls: bool) -> None:
    lasted = []
    for _ in range(ATTEMPTS):
        scene = Scene(world, tls, "straight", UPLOADS[1], drop)

        def lose(scene: Scene = scene) -> None:
            scene.fault.began.wait()
            world.client.set_link(False)

        lasted.append(abort_in(scene.request, scene.run_to_the_end, lose))
        world.client.set_link(True)
        scene.fault.mend()
    check_at_once(lasted)


# Connections kept from before


def test_idle_connection_in_a_hole(world: World, tls: bool) -> None:
    """The server is gone while a connection to it is idle: the next request errs in time, and takes it along."""
    peer = world.serve(echo_json, tls)
    session = world.session(timeout=Timeout(connect=SHORT, read=SHORT, write=SHORT))
    assert session.request(peer.url()).end().get_response().json()["connection"] == 1
    fault = world.network.at(now, drop)
    start = time.monotonic()
    with pytest.raises(RequestTimeout) as caught:
        session.request(peer.url()).end().get_response()
    assert caught.value.code == "ERR_TIMED_OUT"
    check_time(time.monotonic() - start, SHORT)
    with pytest.raises(RequestTimeout) as caught:
        session.request(peer.url()).end().get_response()
    assert caught.value.code == "ERR_CONNECTION_TIMED_OUT"  # it was a new one
    fault.mend()
    assert session.request(peer.url()).end().get_response().json()["connection"] > 1
