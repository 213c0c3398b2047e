"""Runs against an installed wheel: requests to a small server in this process, and one to nobody."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import socket
import sys
import tempfile
import threading
from typing import BinaryIO

import clientrequest
from clientrequest import ClientRequest, ConnectError, IncomingMessage, Session

MEBIBYTE = 1 << 20


class Responder:
    """A server of bare sockets: answers each request with its method and the number of body bytes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            while request_line := reader.readline():
                method = request_line.split()[0].decode("ascii")
                count = _count_body(reader, _read_headers(reader))
                body = json.dumps({"method": method, "bytes": count}).encode()
                head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                connection.sendall((head % len(body)).encode("ascii") + body)


def _read_headers(reader: BinaryIO) -> dict[str, str]:
    headers = {}
    while line := reader.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return headers


def _count_body(reader: BinaryIO, headers: dict[str, str]) -> int:
    if headers.get("transfer-encoding") != "chunked":
        return len(reader.read(int(headers.get("content-length", "0"))))
    total = 0
    while size := int(reader.readline(), 16):
        total += len(reader.read(size))
        expect(reader.read(2), b"\r\n")
    expect(reader.readline(), b"\r\n")
    return total


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise SystemExit(f"expected {wanted!r}, found {found!r}")


def check_installation() -> None:
    """What is imported must be the installed package, with its types."""
    package = importlib.resources.files(clientrequest)
    expect(str(package).startswith(sys.prefix), True)
    expect((package / "py.typed").is_file(), True)
    print("clientrequest", clientrequest.__version__, "on Python", sys.version.split()[0])


def get(url: str, session: Session) -> None:
    response = ClientRequest(url, session=session).end().get_response(timeout=10)
    expect(response.status_code, 200)
    expect(response.json(), {"method": "GET", "bytes": 0})


def upload_as_file(url: str, session: Session) -> None:
    request = ClientRequest(url, method="POST", chunked_encoding=True, session=session)
    with tempfile.TemporaryFile() as source, request:
        source.truncate(4 * MEBIBYTE)
        shutil.copyfileobj(source, request)
    expect(request.get_response(timeout=10).json(), {"method": "POST", "bytes": 4 * MEBIBYTE})
    expect(request.wait(timeout=10), True)


def events(url: str, session: Session) -> None:
    seen = []
    body = bytearray()

    def listen(response: IncomingMessage) -> None:
        seen.append("response")
        response.on("data", body.extend)
        response.on("end", lambda: seen.append("end"))

    request = ClientRequest(url, listen, method="PUT", session=session)
    request.on("finish", lambda: seen.append("finish"))
    request.on("close", lambda: seen.append("close"))
    request.write("hello")
    request.end()
    expect(request.wait(timeout=10), True)
    expect(json.loads(body), {"method": "PUT", "bytes": 5})
    expect(seen, ["finish", "response", "end", "close"])


def refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    try:
        ClientRequest(f"http://127.0.0.1:{port}/").end().get_response(timeout=10)
    except ConnectError as error:
        expect(error.code, "ERR_CONNECTION_REFUSED")
    else:
        raise SystemExit("nobody was listening, and yet there was an answer")


def main() -> None:
    check_installation()
    responder = Responder()
    with Session() as session:
        get(responder.url, session)
        upload_as_file(responder.url, session)
        events(responder.url, session)
    refused()
    print("The installed wheel works.")


if __name__ == "__main__":
    main()
