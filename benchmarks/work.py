"""One client doing one workload, in a process of its own.

``run.py`` starts this file and reads the line of JSON it prints. A client is a function that is given the
server's URL and gives back the work: a function that does a given amount of it, checks every answer, and
keeps its connection, so that it can be called once to warm up and once to be measured.
"""

from __future__ import annotations

import argparse
import http.client
import importlib
import itertools
import json
import os
import queue
import resource
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Callable
from urllib.parse import urlsplit

Work = Callable[[int], None]
Client = Callable[[str], Work]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
READ_SIZE = 256 * KIB


class WrongAnswerError(Exception):
    """The client or the server did not do the whole work: its time means nothing."""


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongAnswerError(f"expected {wanted!r}, found {found!r}")


def blocks(total: int, size: int) -> Iterator[bytes]:
    """The body of an upload: every client is given the very same one."""
    block = bytes(size)
    yield from itertools.repeat(block, total // size)
    if total % size:
        yield bytes(total % size)


# ---- W1: small GETs, one by one ------------------------------------------------------------------


def get_with_urllib3(server: str) -> Work:
    import urllib3

    pool = urllib3.PoolManager()
    url = f"{server}/small"

    def work(count: int) -> None:
        for _ in range(count):
            response = pool.request("GET", url)
            expect((response.status, len(response.data)), (200, 100))

    return work


def get_with_http_client(server: str) -> Work:
    connection = http.client.HTTPConnection(urlsplit(server).netloc)

    def work(count: int) -> None:
        for _ in range(count):
            connection.request("GET", "/small")
            response = connection.getresponse()
            expect((response.status, len(response.read())), (200, 100))

    return work


def get_with_read(server: str) -> Work:
    from clientrequest import ClientRequest, Session

    session = Session()
    url = f"{server}/small"

    def work(count: int) -> None:
        for _ in range(count):
            response = ClientRequest(url, session=session).end().get_response()
            expect((response.status_code, len(response.read())), (200, 100))

    return work


def get_with_events(server: str) -> Work:
    from clientrequest import ClientRequest, IncomingMessage, Session

    session = Session()
    url = f"{server}/small"

    def work(count: int) -> None:
        for _ in range(count):
            body = bytearray()

            def listen(response: IncomingMessage, body: bytearray = body) -> None:
                expect(response.status_code, 200)
                response.on("data", body.extend)

            ClientRequest(url, listen, session=session).end().wait()
            expect(len(body), 100)

    return work


# ---- W3 and W4: chunked uploads, in large and in tiny writes -------------------------------------


def upload_with_urllib3(size: int) -> Client:
    """urllib3 asks a generator for the body: nothing is pushed, no thread takes part."""

    def client(server: str) -> Work:
        import urllib3

        pool = urllib3.PoolManager()

        def work(total: int) -> None:
            response = pool.request("POST", f"{server}/upload", body=blocks(total, size))
            expect(response.json()["bytes"], total)

        return work

    return client


def upload_with_queue(size: int) -> Client:
    """What a program does that has to push and has only urllib3: a thread, and a bounded queue before it."""

    def client(server: str) -> Work:
        import urllib3

        pool = urllib3.PoolManager()

        def work(total: int) -> None:
            waiting: queue.Queue[bytes | None] = queue.Queue(16)
            answers: list[Any] = []

            def send() -> None:
                body = iter(waiting.get, None)
                answers.append(pool.request("POST", f"{server}/upload", body=body).json())

            thread = threading.Thread(target=send)
            thread.start()
            for block in blocks(total, size):
                waiting.put(block)
            waiting.put(None)
            thread.join()
            expect(answers[0]["bytes"], total)

        return work

    return client


def upload_with_http_client(size: int) -> Client:
    def client(server: str) -> Work:
        connection = http.client.HTTPConnection(urlsplit(server).netloc)

        def work(total: int) -> None:
            headers = {"Transfer-Encoding": "chunked"}
            connection.request("POST", "/upload", blocks(total, size), headers, encode_chunked=True)
            expect(json.loads(connection.getresponse().read())["bytes"], total)

        return work

    return client


def upload_with_write(size: int) -> Client:
    def client(server: str) -> Work:
        from clientrequest import ClientRequest, Session

        session = Session()

        def work(total: int) -> None:
            request = ClientRequest(f"{server}/upload", method="POST", chunked_encoding=True, session=session)
            write = request.write
            for block in blocks(total, size):
                write(block)
            expect(request.end().get_response().json()["bytes"], total)

        return work

    return client


# ---- W6: one large download ----------------------------------------------------------------------


def add_lengths(chunks: Iterable[bytes]) -> int:
    total = 0
    for chunk in chunks:
        total += len(chunk)
    return total


def read_into(source: Any) -> int:
    total = 0
    buffer = memoryview(bytearray(READ_SIZE))
    while received := source.readinto(buffer):
        total += received
    return total


def read_chunks(source: Any) -> int:
    return add_lengths(source.iter_chunks())


def download_with_urllib3(size: int | None) -> Client:
    def client(server: str) -> Work:
        import urllib3

        pool = urllib3.PoolManager()

        def work(total: int) -> None:
            response = pool.request("GET", f"{server}/bytes/{total}", preload_content=False)
            chunks = response.stream() if size is None else response.stream(size)
            expect(add_lengths(chunks), total)
            response.release_conn()

        return work

    return client


def download_with_http_client(server: str) -> Work:
    connection = http.client.HTTPConnection(urlsplit(server).netloc)

    def work(total: int) -> None:
        connection.request("GET", f"/bytes/{total}")
        expect(read_into(connection.getresponse()), total)

    return work


def download_as_file(read: Callable[[Any], int]) -> Client:
    def client(server: str) -> Work:
        from clientrequest import ClientRequest, Session

        session = Session()

        def work(total: int) -> None:
            response = ClientRequest(f"{server}/bytes/{total}", session=session).end().get_response()
            expect(read(response), total)

        return work

    return client


def download_with_events(server: str) -> Work:
    from clientrequest import ClientRequest, IncomingMessage, Session

    session = Session()

    def work(total: int) -> None:
        received = 0

        def count(chunk: bytes) -> None:
            nonlocal received
            received += len(chunk)

        def listen(response: IncomingMessage) -> None:
            response.on("data", count)

        ClientRequest(f"{server}/bytes/{total}", listen, session=session).end().wait()
        expect(received, total)

    return work


# ---- the table of them all -----------------------------------------------------------------------


class Workload:
    """The first client is the one all the others are measured by; references are run when asked for."""

    def __init__(
        self,
        title: str,
        amount: int,
        warm_up: int,
        clients: dict[str, Client],
        references: dict[str, Client],
    ) -> None:
        self.title = title
        self.amount = amount
        self.warm_up = warm_up
        self.clients = clients
        self.references = references


def _uploads(title: str, total: int, size: int) -> Workload:
    return Workload(
        title,
        total,
        min(8 * MIB, 20_000 * size),
        {"urllib3, generator": upload_with_urllib3(size), "clientrequest, write()": upload_with_write(size)},
        {
            "urllib3, queue and thread": upload_with_queue(size),
            "http.client, generator": upload_with_http_client(size),
        },
    )


WORKLOADS = {
    "W1": Workload(
        "small GET, keep-alive, one by one",
        5000,
        300,
        {
            "urllib3, request()": get_with_urllib3,
            "clientrequest, read()": get_with_read,
            "clientrequest, events": get_with_events,
        },
        {"http.client": get_with_http_client},
    ),
    "W3": _uploads("1 GiB chunked upload, 64 KiB writes", GIB, 64 * KIB),
    "W4": _uploads("64 MiB chunked upload, 100-byte writes", 64 * MIB, 100),
    "W6": Workload(
        "1 GiB download, known length",
        GIB,
        8 * MIB,
        {
            "urllib3, stream()": download_with_urllib3(None),
            "urllib3, stream(256 KiB)": download_with_urllib3(READ_SIZE),
            "clientrequest, readinto()": download_as_file(read_into),
            "clientrequest, iter_chunks()": download_as_file(read_chunks),
            "clientrequest, data events": download_with_events,
        },
        {"http.client, readinto()": download_with_http_client},
    ),
}


def all_clients(workload: Workload) -> dict[str, Client]:
    return {**workload.clients, **workload.references}


def module_of(client: str) -> str:
    """The module whose bare import a client's memory is counted from: the first word of the client's name."""
    return client.split(",")[0]


def peak_memory() -> int:
    """The most memory this process has had so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB


def measure(workload: Workload, client: str, server: str, scale: float) -> dict[str, float]:
    importlib.import_module(module_of(client))
    memory = peak_memory()
    work = all_clients(workload)[client](server)
    work(workload.warm_up)
    amount = max(1, int(workload.amount * scale))
    wall, cpu = time.perf_counter(), time.process_time()
    work(amount)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": peak_memory() - memory,
        "amount": amount,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("client")
    parser.add_argument("server")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--cpu", type=int, help="stay on this core")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    workload = WORKLOADS[options.workload]
    print(json.dumps(measure(workload, options.client, options.server, options.scale)))


if __name__ == "__main__":
    main()
