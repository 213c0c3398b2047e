"""What clients do while the network fails: send in three ways, wait for the head, receive in three ways."""

from __future__ import annotations

import functools
import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from clientrequest import ClientRequest, ClientRequestError, Session
from tests.network.conftest import World
from tests.network.network import CLIENT, PROXY, SERVER, Fate, Fault, Mark, after, once
from tests.support import LIMIT, Conn, Gate, Handler, echo_json

EARLY = 0.2
"""Seconds by which a limit may seem to end too early: it begins with the last byte, the fault is noticed later."""
LATE = 1.0
"""Seconds by which it may end too late, on a machine that is busy."""

BEYOND = 300_000  # bytes into a body: TLS and the heads are long through, and buffers have begun to fill
ENDLESS = 4 << 20  # bytes: more than all buffers on the way can hold


@dataclass(frozen=True)
class Deed:
    """Something that a client does.

    Attributes:
        framing: in which way it sends a body; empty: it sends none.
        face: how it takes the response: `head` only, the `file` face, the `events`, or `wait()` alone.
        blocked_by: which limit ends it in a black hole.
        size, beyond: of the body, and how much of it has gone through when the fault begins.
    """

    framing: str
    face: str
    blocked_by: str
    size: int = ENDLESS
    beyond: int = BEYOND

    def __str__(self) -> str:
        return self.framing or self.face

    def prepare(self, session: Session, url: str, size: int, **options: Any) -> ClientRequest:
        request = session.request(url, method="POST" if self.framing else "GET", **options)
        if self.framing == "chunked":
            request.chunked_encoding = True
        elif self.framing == "known":
            request.set_header("Content-Length", size)
        return request

    def do(self, request: ClientRequest, size: int) -> bytes:
        """All of it; gives back the body of the response. Raises what the request died of."""
        received = bytearray()
        if self.face == "events":
            request.on("response", lambda response: response.on("data", received.extend))
        if self.framing:
            request.pipe_from(pieces(size))
        request.end()
        if self.face in ("events", "wait"):
            assert request.wait(2 * LIMIT)
            return bytes(received)
        response = request.get_response(2 * LIMIT)
        return response.read()


UPLOADS = [Deed(framing, "file", "write") for framing in ("buffered", "chunked", "known")]
HEAD = Deed("", "head", "read")
DOWNLOADS = [Deed("", face, "read") for face in ("file", "events")]
# Of a body that nobody reads only what is read ahead is fetched; the rest would be thrown away.
WAIT = Deed("", "wait", "read", size=60_000, beyond=20_000)
DEEDS = [*UPLOADS, HEAD, *DOWNLOADS, WAIT]


class Scene:
    """A request on its way into a fault.

    Args:
        world, tls, way: where it happens.
        deed: what the client does.
        fate: what becomes of packets in the middle of it.
    """

    def __init__(self, world: World, tls: bool, way: str, deed: Deed, fate: Fate, **options: Any) -> None:
        self.deed = deed
        self.answering = Gate("answering")
        self.peer = world.serve(self._handler(), tls)
        self.session = world.session(way)
        self.fault: Fault = world.network.at(self._mark(way), fate)
        self.request = deed.prepare(self.session, self.peer.url(), deed.size, **options)

    def run(self) -> ClientRequestError:
        """Do it to its end, which must be an error."""
        with pytest.raises(ClientRequestError) as caught:
            self.run_to_the_end()
        self.ended_at = time.monotonic()
        return caught.value

    def run_to_the_end(self) -> None:
        self.deed.do(self.request, self.deed.size)

    @property
    def lasted(self) -> float:
        """Seconds from the fault to the error."""
        assert self.fault.began.is_set()
        return self.ended_at - self.fault.began_at

    def _handler(self) -> Handler:
        if self.deed.framing:
            return echo_json
        if self.deed is HEAD:
            return self._answer_late
        return download(self.deed.size)

    def _answer_late(self, conn: Conn) -> None:
        conn.read_request()
        self.answering.set()
        conn.respond(body=b"too late")
        conn.wait_closed()

    def _mark(self, way: str) -> Mark:
        if self.deed is HEAD:
            return once(self.answering)
        if self.deed.framing:
            return after(CLIENT, self.deed.beyond)
        return after(PROXY if way == "proxy" else SERVER, self.deed.beyond)


def download(size: int) -> Handler:
    """A handler that gives out a body of this size, again and again."""

    body = noise(size)

    def serve(conn: Conn) -> None:
        while True:
            conn.read_request()
            conn.respond(body=body)

    return serve


@functools.cache
def noise(size: int) -> bytes:
    """Bytes of which no part is like another: what is lost, doubled or exchanged shows in the digest."""
    return random.Random(size).getrandbits(8 * size).to_bytes(size, "big") if size else b""


def pieces(size: int) -> Iterator[bytes]:
    body = memoryview(noise(size))
    for start in range(0, size, 50_000):
        yield bytes(body[start : start + 50_000])


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_time(lasted: float, limit: float) -> None:
    """The limit was kept: neither too early nor much too late."""
    assert limit - EARLY <= lasted <= limit + LATE
