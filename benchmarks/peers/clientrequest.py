"""What this repository is about."""

from __future__ import annotations

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
    NotThereError,
    Peer,
    Site,
    Work,
    aborting,
    add_lengths,
    blocks,
    expect,
    importing,
    one_by_one,
    python_version,
    read_into,
    threaded,
)


def make_session(site: Site) -> Any:
    from clientrequest import Session

    return Session(tls=site.ca or True)


def fetch_with_read(site: Site, threads: int) -> Fetch:
    from clientrequest import ClientRequest

    session = make_session(site)
    url = site.url

    def fetch(path: str) -> None:
        response = ClientRequest(url + path, session=session).end().get_response()
        expect((response.status_code, len(response.read())), (200, SMALL_SIZE))

    return fetch


def fetch_with_events(site: Site, threads: int) -> Fetch:
    from clientrequest import ClientRequest, IncomingMessage

    session = make_session(site)
    url = site.url

    def fetch(path: str) -> None:
        body = bytearray()

        def listen(response: IncomingMessage) -> None:
            expect(response.status_code, 200)
            response.on("data", body.extend)

        ClientRequest(url + path, listen, session=session).end().wait()
        expect(len(body), SMALL_SIZE)

    return fetch


def get_at_once(site: Site) -> Work:
    from clientrequest import ClientRequest

    def work(count: int) -> None:
        session = make_session(site)
        requests = [ClientRequest(site.url + WAIT, session=session).end() for _ in range(count)]
        for request in requests:
            response = request.get_response()
            expect((response.status_code, len(response.read())), (200, SMALL_SIZE))

    return work


def upload_with_write(size: int) -> Client:
    def client(site: Site) -> Work:
        from clientrequest import ClientRequest

        session = make_session(site)

        def work(total: int) -> None:
            request = ClientRequest(f"{site.url}/upload", method="POST", chunked_encoding=True, session=session)
            write = request.write
            for block in blocks(total, size):
                write(block)
            expect(request.end().get_response().json()["bytes"], total)

        return work

    return client


def write_file(request: Any, file: Any, total: int) -> None:
    request.set_header("Content-Length", total)
    while block := file.read(READ_SIZE):
        request.write(block)


def send_file(request: Any, file: Any, total: int) -> None:
    request.send_file(file)


def upload_file(put: Callable[[Any, Any, int], None]) -> Client:
    def client(site: Site) -> Work:
        from clientrequest import ClientRequest

        session = make_session(site)

        def work(total: int) -> None:
            request = ClientRequest(f"{site.url}/upload", method="POST", session=session)
            with open(site.file_of(total), "rb", buffering=0) as file:
                put(request, file, total)
                answer = request.end().get_response().json()
            expect(answer, {"bytes": total, "chunks": 0})

        return work

    return client


def upload_with_send_file(site: Site) -> Work:
    from clientrequest import ClientRequest

    if not hasattr(ClientRequest, "send_file"):
        raise NotThereError("this version has no send_file()")
    return upload_file(send_file)(site)


def read_chunks(source: Any) -> int:
    return add_lengths(source.iter_chunks())


def download_as_file(read: Callable[[Any], int]) -> Client:
    def client(site: Site) -> Work:
        from clientrequest import ClientRequest

        session = make_session(site)

        def work(total: int) -> None:
            response = ClientRequest(f"{site.url}/bytes/{total}", session=session).end().get_response()
            expect(read(response), total)

        return work

    return client


def download_with_events(site: Site) -> Work:
    from clientrequest import ClientRequest, IncomingMessage

    session = make_session(site)

    def work(total: int) -> None:
        received = 0

        def count(chunk: bytes) -> None:
            nonlocal received
            received += len(chunk)

        def listen(response: IncomingMessage) -> None:
            response.on("data", count)

        ClientRequest(f"{site.url}/bytes/{total}", listen, session=session).end().wait()
        expect(received, total)

    return work


def block_waiting(site: Site) -> Blocked:
    from clientrequest import ClientRequest

    session = make_session(site)
    request = ClientRequest(site.url + LONG_WAIT, session=session).end()
    return Blocked(request.get_response, request.abort, close=session.close)


def block_reading(site: Site) -> Blocked:
    from clientrequest import ClientRequest

    session = make_session(site)
    request = ClientRequest(site.url + LONG_STALL, session=session).end()
    response = request.get_response()
    return Blocked(response.read, request.abort, close=session.close)


def block_writing(site: Site) -> Blocked:
    from clientrequest import ClientRequest

    session = make_session(site)
    request = ClientRequest(site.url + UPLOAD_WAIT, method="POST", chunked_encoding=True, session=session)
    body = EndlessBody()

    def write() -> None:
        for block in body:
            request.write(block)

    return Blocked(write, request.abort, body.progress, session.close)


PEER = Peer(
    "clientrequest",
    python_version("clientrequest", "clientrequest.__version__, clientrequest.ClientRequest"),
    {
        "get": {"read()": one_by_one(fetch_with_read), "events": one_by_one(fetch_with_events)},
        "threads": {"read()": threaded(fetch_with_read), "events": threaded(fetch_with_events)},
        "large writes": {"write()": upload_with_write(LARGE_WRITE)},
        "tiny writes": {"write()": upload_with_write(TINY_WRITE)},
        "file": {"write()": upload_file(write_file), "send_file()": upload_with_send_file},
        "download": {
            "readinto()": download_as_file(read_into),
            "iter_chunks()": download_as_file(read_chunks),
            "data events": download_with_events,
        },
        "at once": {"end()": get_at_once},
        "import": {"import": importing("clientrequest")},
        "abort waiting": {"abort()": aborting(block_waiting)},
        "abort reading": {"abort()": aborting(block_reading)},
        "abort writing": {"abort()": aborting(block_writing)},
    },
    module="clientrequest",
)
