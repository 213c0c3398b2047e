"""httpx, its synchronous client. It can't end a call that blocks, so it has no aborts."""

from __future__ import annotations

from typing import Any

from basis import (
    LARGE_WRITE,
    SMALL_SIZE,
    TINY_WRITE,
    Client,
    Fetch,
    Peer,
    Site,
    Work,
    add_lengths,
    at_once,
    blocks,
    expect,
    importing,
    one_by_one,
    python_version,
    threaded,
)

PATIENCE = 60.0  # seconds; its own 5 are too few for 2,000 connections at once


def make_client(site: Site, threads: int = 1) -> Any:
    import httpx

    limits = httpx.Limits(max_connections=threads, max_keepalive_connections=threads)
    # Without TLS it is not to read the certificates that it would not need.
    return httpx.Client(verify=site.tls_context() or False, limits=limits, timeout=PATIENCE)


def fetch_with(site: Site, threads: int) -> Fetch:
    client = make_client(site, threads)
    url = site.url

    def fetch(path: str) -> None:
        response = client.get(url + path)
        expect((response.status_code, len(response.content)), (200, SMALL_SIZE))

    return fetch


def upload(size: int) -> Client:
    def client(site: Site) -> Work:
        http = make_client(site)

        def work(total: int) -> None:
            response = http.post(f"{site.url}/upload", content=blocks(total, size))
            expect(response.json()["bytes"], total)

        return work

    return client


def upload_file(site: Site) -> Work:
    http = make_client(site)

    def work(total: int) -> None:
        with open(site.file_of(total), "rb") as file:
            headers = {"Content-Length": str(total)}
            response = http.post(f"{site.url}/upload", content=file, headers=headers)
        expect(response.json(), {"bytes": total, "chunks": 0})

    return work


def download(site: Site) -> Work:
    http = make_client(site)

    def work(total: int) -> None:
        with http.stream("GET", f"{site.url}/bytes/{total}") as response:
            expect(add_lengths(response.iter_bytes()), total)

    return work


PEER = Peer(
    "httpx",
    python_version("httpx", "httpx.__version__"),
    {
        "get": {"client.get()": one_by_one(fetch_with)},
        "threads": {"client.get()": threaded(fetch_with)},
        "large writes": {"generator": upload(LARGE_WRITE)},
        "tiny writes": {"generator": upload(TINY_WRITE)},
        "file": {"content=file": upload_file},
        "download": {"iter_bytes()": download},
        "at once": {"threads": at_once(fetch_with)},
        "import": {"import": importing("httpx")},
    },
    module="httpx",
)
