"""http.client of Python itself: one connection, no pool."""

from __future__ import annotations

import http.client
import json
import socket

from basis import (
    LARGE_WRITE,
    LONG_STALL,
    LONG_WAIT,
    READ_SIZE,
    SMALL_SIZE,
    TINY_WRITE,
    UPLOAD_WAIT,
    Blocked,
    Client,
    EndlessBody,
    Fetch,
    Peer,
    Site,
    Work,
    aborting,
    at_once,
    blocks,
    expect,
    importing,
    one_by_one,
    python_version,
    read_into,
    threaded,
)

CHUNKED = {"Transfer-Encoding": "chunked"}


def make_connection(site: Site, blocksize: int = 8192) -> http.client.HTTPConnection:
    if site.ca:
        return http.client.HTTPSConnection(site.netloc, context=site.tls_context(), blocksize=blocksize)
    return http.client.HTTPConnection(site.netloc, blocksize=blocksize)


def fetch_with(site: Site, threads: int) -> Fetch:
    connection = make_connection(site)

    def fetch(path: str) -> None:
        connection.request("GET", path)
        response = connection.getresponse()
        expect((response.status, len(response.read())), (200, SMALL_SIZE))

    return fetch


def upload(size: int) -> Client:
    def client(site: Site) -> Work:
        connection = make_connection(site)

        def work(total: int) -> None:
            connection.request("POST", "/upload", blocks(total, size), CHUNKED, encode_chunked=True)
            expect(json.loads(connection.getresponse().read())["bytes"], total)

        return work

    return client


def upload_file(site: Site) -> Work:
    connection = make_connection(site, READ_SIZE)

    def work(total: int) -> None:
        with open(site.file_of(total), "rb") as file:
            connection.request("POST", "/upload", file, {"Content-Length": str(total)})
            answer = json.loads(connection.getresponse().read())
        expect(answer, {"bytes": total, "chunks": 0})

    return work


def download(site: Site) -> Work:
    connection = make_connection(site)

    def work(total: int) -> None:
        connection.request("GET", f"/bytes/{total}")
        expect(read_into(connection.getresponse()), total)

    return work


# ---- aborting: its socket is shut down by another thread ----


def shut_down(connection: http.client.HTTPConnection) -> None:
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)


def block_waiting(site: Site) -> Blocked:
    connection = make_connection(site)
    connection.request("GET", LONG_WAIT)
    return Blocked(connection.getresponse, lambda: shut_down(connection), close=connection.close)


def block_reading(site: Site) -> Blocked:
    connection = make_connection(site)
    connection.request("GET", LONG_STALL)
    response = connection.getresponse()
    return Blocked(response.read, lambda: shut_down(connection), close=connection.close)


def block_writing(site: Site) -> Blocked:
    connection = make_connection(site)
    body = EndlessBody()

    def write() -> None:
        connection.request("POST", UPLOAD_WAIT, iter(body), CHUNKED, encode_chunked=True)

    return Blocked(write, lambda: shut_down(connection), body.progress, connection.close)


PEER = Peer(
    "http.client",
    python_version("http.client", "platform.python_version()"),
    {
        "get": {"request()": one_by_one(fetch_with)},
        "threads": {"a connection a thread": threaded(fetch_with, shared=False)},
        "large writes": {"generator": upload(LARGE_WRITE)},
        "tiny writes": {"generator": upload(TINY_WRITE)},
        "file": {"256 KiB blocks": upload_file},
        "download": {"readinto()": download},
        "at once": {"threads": at_once(fetch_with, shared=False)},
        "import": {"import": importing("http.client")},
        "abort waiting": {"socket.shutdown()": aborting(block_waiting)},
        "abort reading": {"socket.shutdown()": aborting(block_reading)},
        "abort writing": {"socket.shutdown()": aborting(block_writing)},
    },
    module="http.client",
)
