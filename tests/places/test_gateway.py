"""The gateways of the examples, in each place: bodies whole and in bounded memory, ends passed on, forks survived."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.places.places import HOST, LIMIT, Server
from tests.servers.bodies import LARGE, MEBIBYTE, Body

pytestmark = pytest.mark.places

GROWTH = 32 * MEBIBYTE  # of any process of a server, while two large bodies go through it
SOON = 10.0  # seconds until the server behind the gateway must have seen that a client is gone


@pytest.fixture
def ident() -> str:
    """By which the server behind the gateway knows the request of this test."""
    return uuid.uuid4().hex


def ask(place: Server, method: str, target: str, body: Any = None, **headers: str) -> dict[str, Any]:
    """One request on a connection of its own; the JSON of the answer."""
    with contextlib.closing(place.connect()) as connection:
        connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        text = response.read()
        assert response.status == 200, (response.status, text[:500])
        facts: dict[str, Any] = json.loads(text)
        return {**facts, "answer": response.headers}


def download(place: Server, target: str) -> tuple[int, str]:
    """The length and the SHA-256 of what comes."""
    digest, length = hashlib.sha256(), 0
    with contextlib.closing(place.connect()) as connection:
        connection.request("GET", target)
        response = connection.getresponse()
        assert response.status == 200
        while piece := response.read(MEBIBYTE):
            digest.update(piece)
            length += len(piece)
    return length, digest.hexdigest()


# --- large and small ---


def test_large_bodies_go_up_and_down_at_once(place: Server, ident: str) -> None:
    body = Body(LARGE)
    ask(place, "GET", "/echo")
    before = place.most_memory()
    with ThreadPoolExecutor(2) as pool:
        up = pool.submit(ask, place, "POST", f"/upload?id={ident}", body.pieces(), Content_Length=str(body.length))
        down = pool.submit(download, place, f"/download?size={body.length}")
        assert down.result() == (body.length, body.sha256)
        facts = up.result()
    assert (facts["length"], facts["sha256"]) == (body.length, body.sha256)
    after = place.most_memory()
    growth = {number: after[number] - most for number, most in before.items() if number in after}
    print({number: f"{most / MEBIBYTE:.1f} MiB" for number, most in growth.items()})
    assert len(growth) == len(before)  # no process was replaced
    assert max(growth.values()) < GROWTH


def test_chunked_bodies_go_up_and_down(place: Server, ident: str) -> None:
    body = Body(5 * MEBIBYTE + 17)
    assert download(place, f"/download?size={body.length}&chunked=1") == (body.length, body.sha256)
    with contextlib.closing(place.connect()) as connection:
        if place.place.chunked:
            connection.request("POST", f"/upload?id={ident}", body.pieces(), encode_chunked=True)
        else:  # the head alone: what is not read of a body that is refused may cost the client the answer
            connection.putrequest("POST", f"/upload?id={ident}")
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
        response = connection.getresponse()
        text = response.read()
    if not place.place.chunked:
        assert response.status == 400  # rather than an upload that is whole and empty
        assert place.upstream.seen(ident) == {}
        return
    assert response.status == 200
    assert (json.loads(text)["length"], json.loads(text)["sha256"]) == (body.length, body.sha256)


def test_many_small_requests_at_once_each_get_their_own_answer(place: Server) -> None:
    def work(number: int) -> None:
        for turn in range(12):
            target = f"/echo?number={number}&turn={turn}"
            assert ask(place, "POST", target, b"x" * number)["target"] == target

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_connections_are_kept(place: Server) -> None:
    """Those to the gateway, where its server does that; and those behind it, one for a process that is not busy."""
    behind: dict[str, set[int]] = {}
    with contextlib.closing(place.connect()) as connection:
        sockets = set()
        for turn in range(6):
            connection.request("POST", f"/echo?turn={turn}", b"body")
            sockets.add(connection.sock)
            response = connection.getresponse()
            facts = json.loads(response.read())
            assert facts["target"] == f"/echo?turn={turn}"
            behind.setdefault(response.headers["X-Process"], set()).add(facts["connection"])
            if not place.place.keeps:
                connection.close()  # the server closes it too, and does not say so
    assert len(sockets) == (1 if place.place.keeps else 6)
    if len(place.most_memory()) <= 2:  # one process works: it may have kept several from a busier time
        assert len(behind) == 1


def test_what_is_between_neighbours_is_not_passed_on(place: Server) -> None:
    between = {"Connection": "keep-alive, X-Between", "X-Between": "1", "Keep-Alive": "timeout=5", "TE": "trailers"}
    facts = ask(place, "GET", "/echo", **between, X_Kept="2", Via="1.0 before")
    sent = {name.lower(): value for name, value in facts["headers"]}
    assert sent["x-kept"] == "2"
    assert sent["via"] == "1.0 before, 1.1 gateway"
    assert not {"x-between", "keep-alive", "te"} & set(sent)
    answer = facts["answer"]
    assert answer.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert answer.get_all("Content-Type") == ["application/json"]
    assert answer["X-Kept"] == "3"
    assert "x-between" not in str(answer).lower()
    assert answer["Trailer"] is None


# --- ends ---


@contextlib.contextmanager
def raw(place: Server, head: str) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, place.port), timeout=LIMIT) as sock:
        sock.sendall(f"{head}\r\nHost: h\r\n\r\n".encode())
        yield sock


def leave(sock: socket.socket, how: str) -> None:
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_client_that_goes_away_in_its_upload_aborts_it(place: Server, ident: str, framing: str, how: str) -> None:
    """Never does what it has sent pass for all that it wanted to send."""
    if framing == "chunks" and not place.place.chunked:
        pytest.skip("this server does not undo chunks")
    lines = f"Content-Length: {LARGE}" if framing == "length" else "Transfer-Encoding: chunked"
    data = bytes(MEBIBYTE)
    with raw(place, f"POST /upload?id={ident} HTTP/1.1\r\n{lines}") as sock:
        sock.sendall(data if framing == "length" else b"%x\r\n%b\r\n" % (len(data), data))
        if place.place.streams:
            place.upstream.begun(ident)
        leave(sock, how)
    if not place.place.streams:  # it had not told the gateway, and does not do so now
        ask(place, "GET", "/echo")
        assert place.upstream.seen(ident) == {}
        return
    started = time.monotonic()
    facts = place.upstream.ended(ident)
    assert not facts["complete"]
    assert facts["length"] <= len(data)
    took = time.monotonic() - started
    print(f"{1000 * took:.0f} ms")
    assert took < SOON


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_that_goes_away_in_its_download_aborts_it(place: Server, ident: str, how: str) -> None:
    with raw(place, f"GET /download?id={ident}&size={16 * LARGE} HTTP/1.1") as sock:
        assert sock.recv(1024).startswith(b"HTTP/1.1 200 ")
        leave(sock, how)
    started = time.monotonic()
    facts = place.upstream.ended(ident)
    took = time.monotonic() - started
    print(f"{1000 * took:.0f} ms, {facts['sent'] / MEBIBYTE:.0f} MiB")
    assert facts["cut_by"] is not None
    assert facts["sent"] < 8 * LARGE
    assert took < SOON


def test_early_answer_reaches_the_client(place: Server) -> None:
    """In the middle of its upload; a server that keeps the body in a file first can't tell it so soon."""
    data = bytes(MEBIBYTE)
    with raw(place, f"POST /early HTTP/1.1\r\nContent-Length: {16 * MEBIBYTE}") as sock:

        def upload() -> None:
            with contextlib.suppress(OSError):
                for _ in range(16):
                    sock.sendall(data)

        thread = threading.Thread(target=upload)
        thread.start()
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while b"enough of it" not in answer and (piece := sock.recv(65536)):
                answer += piece
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"enough of it")


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_answer_that_breaks_off_is_no_whole_one(place: Server, framing: str) -> None:
    chunked = "&chunked=1" if framing == "chunks" else ""
    if framing == "chunks" and place.place.hides_cuts:
        pytest.skip("this server ends it like any other")
    with contextlib.closing(place.connect()) as connection:
        connection.request("GET", f"/download?size={2 * MEBIBYTE}&cut=1{chunked}")
        response = connection.getresponse()
        assert response.headers["Content-Length"] == (str(2 * MEBIBYTE) if framing == "length" else None)
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            response.read()


# --- particular places ---


def test_children_of_a_fork_have_their_own_connections(place: Server) -> None:
    """Where the gateway was loaded, and has made a request, before its server forked."""
    if not place.place.talks_before_fork:
        pytest.skip("it does not fork, or loads the application afterwards")
    whose: dict[int, str] = {}
    deadline = time.monotonic() + LIMIT
    with ThreadPoolExecutor(8) as pool:
        while len(set(whose.values())) < 2:
            assert time.monotonic() < deadline, "one process does all the work"
            for facts in pool.map(lambda _: ask(place, "GET", "/echo"), range(24)):
                process = facts["answer"]["X-Process"]
                assert facts["connection"] != int(facts["answer"]["X-Before"])
                assert whose.setdefault(facts["connection"], process) == process


def test_place_is_what_it_says(place: Server) -> None:
    with contextlib.closing(place.connect()) as connection:
        connection.request("GET", "/echo")
        response = connection.getresponse()
        response.read()
    assert (response.headers["X-Threads"] == "gevent") == place.place.gevent
    if place.place.talks_before_fork:
        assert response.headers["X-Loaded-By"] != response.headers["X-Process"]
        assert response.headers["X-Before"]
