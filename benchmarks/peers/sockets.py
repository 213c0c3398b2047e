"""The limit: bare sockets in Python that do the same work, and nothing a library would have to do besides.

What they read of an answer is its status and its length.
"""

from __future__ import annotations

import collections
import json
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from typing import Callable

from basis import (
    LARGE_WRITE,
    LONG_STALL,
    LONG_WAIT,
    MIB,
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
    WrongAnswerError,
    aborting,
    at_once,
    blocks,
    expect,
    one_by_one,
    python_version,
    threaded,
)

HEAD_END = b"\r\n\r\n"
# More than this a writer does not leave to the thread that sends.
PENDING = MIB


def connect(site: Site) -> socket.socket:
    connection = socket.create_connection(site.address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = site.tls_context()
    return context.wrap_socket(connection, server_hostname=site.address[0]) if context else connection


def head_of(site: Site, method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {site.netloc}", *lines, "", ""]).encode()


def receive(connection: socket.socket) -> bytes:
    received = connection.recv(READ_SIZE)
    if not received:
        raise WrongAnswerError("the connection was closed")
    return received


def length_in(head: bytes) -> int:
    expect(head[:12], b"HTTP/1.1 200")
    start = head.index(b"Content-Length: ") + 16
    return int(head[start : head.index(b"\r\n", start)])


def read_head(connection: socket.socket) -> tuple[int, bytes]:
    """The length of the body, and as much of it as came along."""
    received = receive(connection)
    while HEAD_END not in received:
        received += receive(connection)
    head, _, rest = received.partition(HEAD_END)
    return length_in(head + b"\r\n"), rest


def read_answer(connection: socket.socket) -> bytes:
    length, body = read_head(connection)
    while len(body) < length:
        body += receive(connection)
    return body


def fetch_with(site: Site, threads: int) -> Fetch:
    connection = connect(site)

    def fetch(path: str) -> None:
        connection.sendall(head_of(site, "GET", path))
        expect(len(read_answer(connection)), SMALL_SIZE)

    return fetch


def get_at_once(site: Site) -> Work:
    def work(count: int) -> None:
        with selectors.DefaultSelector() as selector:
            for _ in range(count):
                connection = connect(site)
                connection.sendall(head_of(site, "GET", WAIT))
                selector.register(connection, selectors.EVENT_READ)
            left = count
            while left:
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    expect(len(read_answer(key.fileobj)), SMALL_SIZE)
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
                    left -= 1

    return work


# ---- uploads -------------------------------------------------------------------------------------


def send_whole(connection: socket.socket, parts: list[bytes]) -> None:
    """Sends several pieces in one call, without joining them."""
    sent = connection.sendmsg(parts)
    for part in parts:
        if sent < len(part):
            connection.sendall(memoryview(part)[sent:])
        sent = max(0, sent - len(part))


def send_chunk(connection: socket.socket, data: bytes) -> None:
    head = b"%x\r\n" % len(data)
    if len(data) < LARGE_WRITE:
        connection.sendall(head + data + b"\r\n")
    else:
        send_whole(connection, [head, data, b"\r\n"])


def upload(send: Callable[[socket.socket, Iterator[bytes]], None], size: int) -> Client:
    def client(site: Site) -> Work:
        connection = connect(site)

        def work(total: int) -> None:
            connection.sendall(head_of(site, "POST", "/upload", "Transfer-Encoding: chunked"))
            send(connection, blocks(total, size))
            connection.sendall(b"0\r\n\r\n")
            expect(json.loads(read_answer(connection))["bytes"], total)

        return work

    return client


def send_each(connection: socket.socket, body: Iterator[bytes]) -> None:
    for block in body:
        send_chunk(connection, block)


def send_joined(connection: socket.socket, body: Iterator[bytes]) -> None:
    """Pushed: a thread sends as one chunk whatever has gathered since its last one."""
    gathered: collections.deque[bytes] = collections.deque()
    changed = threading.Condition()
    state = {"pending": 0, "ended": False}

    def send() -> None:
        while True:
            with changed:
                changed.wait_for(lambda: gathered or state["ended"])
                data = b"".join(gathered)
                gathered.clear()
                state["pending"] = 0
                changed.notify()
            if not data:
                return
            send_chunk(connection, data)

    thread = threading.Thread(target=send)
    thread.start()
    for block in body:
        with changed:
            gathered.append(block)
            state["pending"] += len(block)
            if len(gathered) == 1:
                changed.notify()
            if state["pending"] >= PENDING:
                changed.wait_for(lambda: not gathered)
    with changed:
        state["ended"] = True
        changed.notify()
    thread.join()


def upload_file(site: Site) -> Work:
    connection = connect(site)

    def work(total: int) -> None:
        connection.sendall(head_of(site, "POST", "/upload", f"Content-Length: {total}"))
        with open(site.file_of(total), "rb", buffering=0) as file:
            left = total
            while left:
                left -= os.sendfile(connection.fileno(), file.fileno(), None, left)
        expect(json.loads(read_answer(connection)), {"bytes": total, "chunks": 0})

    return work


def download(site: Site) -> Work:
    connection = connect(site)

    def work(total: int) -> None:
        connection.sendall(head_of(site, "GET", f"/bytes/{total}"))
        length, rest = read_head(connection)
        expect(length, total)
        left = length - len(rest)
        buffer = memoryview(bytearray(READ_SIZE))
        while left:
            received = connection.recv_into(buffer[: min(left, READ_SIZE)])
            if not received:
                raise WrongAnswerError("the connection was closed")
            left -= received

    return work


# ---- aborting ------------------------------------------------------------------------------------


def blocked_socket(connection: socket.socket, call: Callable[[], object], body: EndlessBody) -> Blocked:
    return Blocked(call, lambda: connection.shutdown(socket.SHUT_RDWR), body.progress, connection.close)


def block_waiting(site: Site) -> Blocked:
    connection = connect(site)
    connection.sendall(head_of(site, "GET", LONG_WAIT))
    return blocked_socket(connection, lambda: receive(connection), EndlessBody())


def block_reading(site: Site) -> Blocked:
    connection = connect(site)
    connection.sendall(head_of(site, "GET", LONG_STALL))
    length, body = read_head(connection)

    def read() -> None:
        left = length - len(body)
        while left:
            left -= len(receive(connection))

    return blocked_socket(connection, read, EndlessBody())


def block_writing(site: Site) -> Blocked:
    connection = connect(site)
    connection.sendall(head_of(site, "POST", UPLOAD_WAIT, "Transfer-Encoding: chunked"))
    body = EndlessBody()
    return blocked_socket(connection, lambda: send_each(connection, iter(body)), body)


PEER = Peer(
    "sockets",
    python_version("socket", "platform.python_version()"),
    {
        "get": {"the limit": one_by_one(fetch_with)},
        "threads": {"the limit": threaded(fetch_with, shared=False)},
        "large writes": {"the limit": upload(send_each, LARGE_WRITE)},
        "tiny writes": {"the limit": upload(send_joined, TINY_WRITE)},
        "file": {"the limit: sendfile": upload_file},
        "download": {"the limit": download},
        "at once": {"the limit": get_at_once},
        "abort waiting": {"the limit": aborting(block_waiting)},
        "abort reading": {"the limit": aborting(block_reading)},
        "abort writing": {"the limit": aborting(block_writing)},
    },
    {
        "large writes": {"with a thread": upload(send_joined, LARGE_WRITE)},
        "tiny writes": {"one send a write": upload(send_each, TINY_WRITE)},
        "at once": {"threads": at_once(fetch_with, shared=False)},
    },
    "socket",
)
