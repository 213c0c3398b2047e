"""urllib3: what all the others are measured by."""

from __future__ import annotations

import queue
import threading
from typing import Any, Optional

from basis import (
    LARGE_WRITE,
    LONG_STALL,
    READ_SIZE,
    SMALL_SIZE,
    TINY_WRITE,
    Blocked,
    Client,
    Fetch,
    Peer,
    Site,
    Work,
    aborting,
    add_lengths,
    at_once,
    blocks,
    expect,
    importing,
    one_by_one,
    python_version,
    threaded,
)


def make_pool(site: Site, **settings: Any) -> Any:
    import urllib3

    return urllib3.PoolManager(ssl_context=site.tls_context(), **settings)


def fetch_with(site: Site, threads: int) -> Fetch:
    pool = make_pool(site, maxsize=threads)
    url = site.url

    def fetch(path: str) -> None:
        response = pool.request("GET", url + path)
        expect((response.status, len(response.data)), (200, SMALL_SIZE))

    return fetch


def upload(size: int) -> Client:
    """It asks a generator for the body: nothing is pushed, no thread takes part."""

    def client(site: Site) -> Work:
        pool = make_pool(site)

        def work(total: int) -> None:
            response = pool.request("POST", f"{site.url}/upload", body=blocks(total, size))
            expect(response.json()["bytes"], total)

        return work

    return client


def upload_with_queue(size: int) -> Client:
    """What a program does that has to push and has only urllib3: a thread, and a bounded queue before it."""

    def client(site: Site) -> Work:
        pool = make_pool(site)

        def work(total: int) -> None:
            waiting: queue.Queue[bytes | None] = queue.Queue(16)
            answers: list[Any] = []

            def send() -> None:
                body = iter(waiting.get, None)
                answers.append(pool.request("POST", f"{site.url}/upload", body=body).json())

            thread = threading.Thread(target=send)
            thread.start()
            for block in blocks(total, size):
                waiting.put(block)
            waiting.put(None)
            thread.join()
            expect(answers[0]["bytes"], total)

        return work

    return client


def upload_file(**settings: int) -> Client:
    def client(site: Site) -> Work:
        pool = make_pool(site, **settings)

        def work(total: int) -> None:
            with open(site.file_of(total), "rb") as file:
                headers = {"Content-Length": str(total)}
                response = pool.request("POST", f"{site.url}/upload", body=file, headers=headers)
            expect(response.json(), {"bytes": total, "chunks": 0})

        return work

    return client


def download(size: Optional[int]) -> Client:
    def client(site: Site) -> Work:
        pool = make_pool(site)

        def work(total: int) -> None:
            response = pool.request("GET", f"{site.url}/bytes/{total}", preload_content=False)
            chunks = response.stream() if size is None else response.stream(size)
            expect(add_lengths(chunks), total)
            response.release_conn()

        return work

    return client


def block_reading(site: Site) -> Blocked:
    pool = make_pool(site)
    response = pool.request("GET", site.url + LONG_STALL, preload_content=False)
    return Blocked(response.read, response.shutdown, close=pool.clear)


PEER = Peer(
    "urllib3",
    python_version("urllib3", "urllib3.__version__"),
    {
        "get": {"request()": one_by_one(fetch_with)},
        "threads": {"request()": threaded(fetch_with)},
        "large writes": {"generator": upload(LARGE_WRITE)},
        "tiny writes": {"generator": upload(TINY_WRITE)},
        "file": {"body=file": upload_file(), "256 KiB blocks": upload_file(blocksize=READ_SIZE)},
        "download": {"stream()": download(None), "stream(256 KiB)": download(READ_SIZE)},
        "at once": {"threads": at_once(fetch_with)},
        "import": {"import": importing("urllib3")},
        "abort reading": {"response.shutdown()": aborting(block_reading)},
    },
    {
        "large writes": {"queue and thread": upload_with_queue(LARGE_WRITE)},
        "tiny writes": {"queue and thread": upload_with_queue(TINY_WRITE)},
    },
    "urllib3",
)
