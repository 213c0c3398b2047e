"""Callbacks on an asyncio loop: the dispatcher takes them there, and nothing blocks it."""

import asyncio
from typing import Any, Callable

from server import example_server

from clientrequest import ClientRequest, IncomingMessage


def fetch(url: str) -> asyncio.Future[bytes]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bytes] = loop.create_future()
    body = bytearray()

    def settle(how: Callable[[Any], None], value: object) -> None:
        if not future.cancelled():
            how(value)

    def answered(response: IncomingMessage) -> None:  # on the loop's thread, as every callback is
        response.on("data", body.extend)
        response.on("end", lambda: settle(future.set_result, bytes(body)))

    request = ClientRequest(url, answered, dispatcher=loop.call_soon_threadsafe)
    future.add_done_callback(lambda future: request.abort() if future.cancelled() else None)
    request.on("error", lambda error: settle(future.set_exception, error)).end()
    return future


async def main(url: str) -> None:
    pages = await asyncio.gather(*(fetch(f"{url}/stream?lines={count}&pause=0.1") for count in (3, 4, 5)))
    print(*(page.decode().splitlines()[-1] for page in pages), sep=", ")
    try:
        await asyncio.wait_for(fetch(f"{url}/stream?lines=1000&pause=0.1"), timeout=0.3)
    except asyncio.TimeoutError:
        print("the long one was cancelled, and with it aborted")


with example_server() as url:
    asyncio.run(main(url))
