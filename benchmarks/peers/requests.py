"""requests. It can't end a call that blocks, so it has no aborts."""

from __future__ import annotations

from typing import Any

from basis import (
    LARGE_WRITE,
    READ_SIZE,
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


def make_session(site: Site, threads: int = 1) -> Any:
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.mount(site.url, HTTPAdapter(pool_maxsize=threads))
    session.verify = site.ca or True
    return session


def fetch_with(site: Site, threads: int) -> Fetch:
    session = make_session(site, threads)
    url = site.url

    def fetch(path: str) -> None:
        response = session.get(url + path)
        expect((response.status_code, len(response.content)), (200, SMALL_SIZE))

    return fetch


def upload(size: int) -> Client:
    def client(site: Site) -> Work:
        session = make_session(site)

        def work(total: int) -> None:
            response = session.post(f"{site.url}/upload", data=blocks(total, size))
            expect(response.json()["bytes"], total)

        return work

    return client


def upload_file(site: Site) -> Work:
    session = make_session(site)

    def work(total: int) -> None:
        with open(site.file_of(total), "rb") as file:
            response = session.post(f"{site.url}/upload", data=file)
        expect(response.json(), {"bytes": total, "chunks": 0})

    return work


def download(site: Site) -> Work:
    session = make_session(site)

    def work(total: int) -> None:
        with session.get(f"{site.url}/bytes/{total}", stream=True) as response:
            expect(add_lengths(response.iter_content(READ_SIZE)), total)

    return work


PEER = Peer(
    "requests",
    python_version("requests", "requests.__version__"),
    {
        "get": {"session.get()": one_by_one(fetch_with)},
        "threads": {"session.get()": threaded(fetch_with)},
        "large writes": {"generator": upload(LARGE_WRITE)},
        "tiny writes": {"generator": upload(TINY_WRITE)},
        "file": {"data=file": upload_file},
        "download": {"iter_content(256 KiB)": download},
        "at once": {"threads": at_once(fetch_with)},
        "import": {"import": importing("requests")},
    },
    module="requests",
)
