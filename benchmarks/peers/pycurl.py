"""pycurl: libcurl, called from Python."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from typing import Any, Callable

from basis import (
    LARGE_WRITE,
    LONG_STALL,
    LONG_WAIT,
    READ_SIZE,
    SMALL_SIZE,
    TINY_WRITE,
    UPLOAD_WAIT,
    WAIT,
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
    threaded,
)


def make_curl(site: Site, path: str) -> Any:
    import pycurl

    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, site.url + path)
    curl.setopt(pycurl.NOSIGNAL, 1)  # there are threads
    if site.ca:
        curl.setopt(pycurl.CAINFO, site.ca)
    return curl


def fetch_with(site: Site, threads: int) -> Fetch:
    import pycurl

    curl = make_curl(site, "/")
    url = site.url

    def fetch(path: str) -> None:
        body = io.BytesIO()
        curl.setopt(pycurl.URL, url + path)
        curl.setopt(pycurl.WRITEDATA, body)
        curl.perform()
        expect((curl.getinfo(pycurl.RESPONSE_CODE), len(body.getvalue())), (200, SMALL_SIZE))

    return fetch


def get_at_once(site: Site) -> Work:
    import pycurl

    def work(count: int) -> None:
        multi = pycurl.CurlMulti()
        handles = []
        for _ in range(count):
            curl, body = make_curl(site, WAIT), io.BytesIO()
            curl.setopt(pycurl.WRITEDATA, body)
            multi.add_handle(curl)
            handles.append((curl, body))
        running = count
        while running:
            _, running = multi.perform()
            if running:
                multi.select(1.0)
        for curl, body in handles:
            expect((curl.getinfo(pycurl.RESPONSE_CODE), len(body.getvalue())), (200, SMALL_SIZE))

    return work


def make_upload(site: Site, path: str) -> tuple[Any, io.BytesIO]:
    """The handle, which lacks its READFUNCTION yet, and where the answer will be."""
    import pycurl

    curl, answer = make_curl(site, path), io.BytesIO()
    curl.setopt(pycurl.UPLOAD, 1)
    curl.setopt(pycurl.CUSTOMREQUEST, "POST")
    curl.setopt(pycurl.UPLOAD_BUFFERSIZE, READ_SIZE)
    curl.setopt(pycurl.WRITEDATA, answer)
    return curl, answer


def reader_of(body: Iterator[bytes]) -> Callable[[int], bytes]:
    """It says how much it takes at once, which is a little less than a large write."""
    rest = b""

    def read(size: int) -> bytes:
        nonlocal rest
        block = rest or next(body, b"")
        rest = block[size:]
        return block[:size] if rest else block

    return read


def upload(size: int) -> Client:
    def client(site: Site) -> Work:
        import pycurl

        curl, answer = make_upload(site, "/upload")
        curl.setopt(pycurl.HTTPHEADER, ["Transfer-Encoding: chunked", "Expect:"])

        def work(total: int) -> None:
            curl.setopt(pycurl.READFUNCTION, reader_of(blocks(total, size)))
            answer.seek(0)
            answer.truncate()
            curl.perform()
            expect(json.loads(answer.getvalue())["bytes"], total)

        return work

    return client


def upload_file(site: Site) -> Work:
    import pycurl

    def work(total: int) -> None:
        with open(site.file_of(total), "rb", buffering=0) as file:
            curl, answer = make_upload(site, "/upload")
            curl.setopt(pycurl.READFUNCTION, file.read)
            curl.setopt(pycurl.INFILESIZE_LARGE, total)
            curl.setopt(pycurl.HTTPHEADER, ["Expect:"])
            curl.perform()
        expect(json.loads(answer.getvalue()), {"bytes": total, "chunks": 0})

    return work


def download(site: Site) -> Work:
    import pycurl

    received = 0

    def count(chunk: bytes) -> None:
        nonlocal received
        received += len(chunk)

    curl = make_curl(site, "/")
    curl.setopt(pycurl.BUFFERSIZE, READ_SIZE)
    curl.setopt(pycurl.WRITEFUNCTION, count)

    def work(total: int) -> None:
        nonlocal received
        received = 0
        curl.setopt(pycurl.URL, f"{site.url}/bytes/{total}")
        curl.perform()
        expect(received, total)

    return work


# ---- aborting: its own progress callback comes but once a second, so its socket is shut down by another thread ----


def make_abortable(curl: Any) -> Callable[[], None]:
    """Gives what shuts down the socket that the handle will have opened."""
    import pycurl

    opened: list[socket.socket] = []

    def open_socket(purpose: int, address: Any) -> socket.socket:
        opened.append(socket.socket(address.family, address.socktype, address.protocol))
        return opened[-1]

    curl.setopt(pycurl.OPENSOCKETFUNCTION, open_socket)
    return lambda: opened[-1].shutdown(socket.SHUT_RDWR)


def block_getting(path: str) -> Callable[[Site], Blocked]:
    def begin(site: Site) -> Blocked:
        import pycurl

        curl = make_curl(site, path)
        curl.setopt(pycurl.WRITEDATA, io.BytesIO())
        return Blocked(curl.perform, make_abortable(curl), close=curl.close)

    return begin


def block_writing(site: Site) -> Blocked:
    import pycurl

    body = EndlessBody()
    curl, _ = make_upload(site, UPLOAD_WAIT)
    curl.setopt(pycurl.READFUNCTION, reader_of(iter(body)))
    curl.setopt(pycurl.HTTPHEADER, ["Transfer-Encoding: chunked", "Expect:"])
    return Blocked(curl.perform, make_abortable(curl), body.progress, curl.close)


PEER = Peer(
    "pycurl",
    python_version("pycurl", "pycurl.version.split()[0].partition('/')[2]"),
    {
        "get": {"perform()": one_by_one(fetch_with)},
        "threads": {"a handle a thread": threaded(fetch_with, shared=False)},
        "large writes": {"read callback": upload(LARGE_WRITE)},
        "tiny writes": {"read callback": upload(TINY_WRITE)},
        "file": {"read callback": upload_file},
        "download": {"write callback": download},
        "at once": {"multi": get_at_once},
        "import": {"import": importing("pycurl")},
        "abort waiting": {"socket.shutdown()": aborting(block_getting(LONG_WAIT))},
        "abort reading": {"socket.shutdown()": aborting(block_getting(LONG_STALL))},
        "abort writing": {"socket.shutdown()": aborting(block_writing)},
    },
    {"at once": {"threads": at_once(fetch_with, shared=False)}},
    "pycurl",
)
