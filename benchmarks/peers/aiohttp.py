"""aiohttp: one thread, and tasks where others have threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Callable

from basis import (
    LARGE_WRITE,
    LONG_STALL,
    LONG_WAIT,
    READ_SIZE,
    SMALL,
    SMALL_SIZE,
    THREADS,
    TINY_WRITE,
    UPLOAD_WAIT,
    WAIT,
    Blocked,
    Client,
    EndlessBody,
    Peer,
    Site,
    Work,
    aborting,
    blocks,
    expect,
    importing,
    python_version,
    share_of,
)

Doing = Coroutine[Any, Any, None]


async def make_session(site: Site, connections: int) -> Any:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=connections, ssl=site.tls_context() or True)
    return aiohttp.ClientSession(connector=connector)


def on_a_loop(do: Callable[[Any, Site, int], Doing], connections: int = 1) -> Client:
    """Runs coroutines on a loop and a session that are kept."""

    def client(site: Site) -> Work:
        loop = asyncio.new_event_loop()
        session = loop.run_until_complete(make_session(site, connections))

        def work(amount: int) -> None:
            loop.run_until_complete(do(session, site, amount))

        return work

    return client


async def fetch(session: Any, site: Site, path: str) -> None:
    async with session.get(site.url + path) as response:
        expect((response.status, len(await response.read())), (200, SMALL_SIZE))


async def get(session: Any, site: Site, count: int) -> None:
    for _ in range(count):
        await fetch(session, site, SMALL)


async def get_in_tasks(session: Any, site: Site, count: int) -> None:
    await asyncio.gather(*(get(session, site, share_of(count)) for _ in range(THREADS)))


async def get_at_once(session: Any, site: Site, count: int) -> None:
    """On a session of its own, for the connections have to be new."""
    async with await make_session(site, 0) as own:
        await asyncio.gather(*(fetch(own, site, WAIT) for _ in range(count)))


def upload(size: int) -> Client:
    async def body(total: int) -> AsyncIterator[bytes]:
        for block in blocks(total, size):
            yield block

    async def do(session: Any, site: Site, total: int) -> None:
        async with session.post(f"{site.url}/upload", data=body(total)) as response:
            expect((await response.json())["bytes"], total)

    return on_a_loop(do)


async def upload_file(session: Any, site: Site, total: int) -> None:
    with open(site.file_of(total), "rb") as file:
        async with session.post(f"{site.url}/upload", data=file) as response:
            expect(await response.json(), {"bytes": total, "chunks": 0})


async def download(session: Any, site: Site, total: int) -> None:
    received = 0
    async with session.get(f"{site.url}/bytes/{total}") as response:
        async for chunk in response.content.iter_chunked(READ_SIZE):
            received += len(chunk)
    expect(received, total)


# ---- aborting: a task is cancelled from another thread ----


def blocked_task(site: Site, doing: Doing, session: Any, loop: asyncio.AbstractEventLoop, **more: Any) -> Blocked:
    task = loop.create_task(doing)

    def close() -> None:
        loop.run_until_complete(session.close())
        loop.close()

    return Blocked(
        lambda: loop.run_until_complete(task), lambda: loop.call_soon_threadsafe(task.cancel), close=close, **more
    )


def loop_and_session(site: Site) -> tuple[asyncio.AbstractEventLoop, Any]:
    loop = asyncio.new_event_loop()
    return loop, loop.run_until_complete(make_session(site, 1))


def block_waiting(site: Site) -> Blocked:
    loop, session = loop_and_session(site)

    async def wait() -> None:
        await session.get(site.url + LONG_WAIT)

    return blocked_task(site, wait(), session, loop)


def block_reading(site: Site) -> Blocked:
    loop, session = loop_and_session(site)
    response = loop.run_until_complete(session.get(site.url + LONG_STALL))
    return blocked_task(site, response.read(), session, loop)


def block_writing(site: Site) -> Blocked:
    loop, session = loop_and_session(site)
    blocks_without_end = EndlessBody()

    async def body() -> AsyncIterator[bytes]:
        for block in blocks_without_end:
            yield block

    async def write() -> None:
        await session.post(site.url + UPLOAD_WAIT, data=body())

    return blocked_task(site, write(), session, loop, progress=blocks_without_end.progress)


PEER = Peer(
    "aiohttp",
    python_version("aiohttp", "aiohttp.__version__"),
    {
        "get": {"session.get()": on_a_loop(get)},
        "threads": {"16 tasks": on_a_loop(get_in_tasks, THREADS)},
        "large writes": {"generator": upload(LARGE_WRITE)},
        "tiny writes": {"generator": upload(TINY_WRITE)},
        "file": {"data=file": on_a_loop(upload_file)},
        "download": {"iter_chunked(256 KiB)": on_a_loop(download)},
        "at once": {"tasks": on_a_loop(get_at_once)},
        "import": {"import": importing("aiohttp")},
        "abort waiting": {"cancel()": aborting(block_waiting)},
        "abort reading": {"cancel()": aborting(block_reading)},
        "abort writing": {"cancel()": aborting(block_writing)},
    },
    module="aiohttp",
)
