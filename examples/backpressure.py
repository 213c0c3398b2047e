"""Write without ever blocking: with ``blocking=False`` a full queue is told, and ``drain`` says when to go on."""

import asyncio

from server import example_server

from clientrequest import ClientRequest

BLOCK = bytes(100_000)


async def upload(url: str) -> None:
    loop = asyncio.get_running_loop()
    request = ClientRequest(url, method="POST", blocking=False, dispatcher=loop.call_soon_threadsafe)
    request.chunked_encoding = True
    room = asyncio.Event()
    closed: asyncio.Future[None] = loop.create_future()
    request.on("response", lambda response: response.on("data", lambda data: print(data.decode(), end="")))
    request.on("drain", room.set)
    request.on("error", closed.set_exception)
    request.on("close", room.set)  # a request that dies will never drain; the next write raises
    request.on("close", lambda: None if closed.done() else closed.set_result(None))

    waits = most = 0
    for _ in range(200):
        request.write(BLOCK)  # always takes all of it
        most = max(most, request.writable_length)
        if request.writable_need_drain:
            waits += 1
            room.clear()
            await room.wait()  # the loop is free for others meanwhile
    request.end()
    await closed
    print(f"{request.tell()} bytes sent; waited {waits} times for room; never more than {most} bytes in the queue")


with example_server() as url:
    asyncio.run(upload(url + "/upload?rate=20000000"))
