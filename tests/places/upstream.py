"""The server behind the gateway, a process of its own: it does what the path says, and tells afterwards what it saw.

POST /upload?id=I            reads the body; answers with its length and its SHA-256
GET  /download?id=I&size=N   N bytes, of a known length; `&chunked=1`: in chunks; `&cut=1`: ends after half of them
POST /early?id=I             answers 413 after the first bytes of the body, and closes the connection
GET  /echo?id=I              the head of the request, and the number of the connection; in its own head is more
GET  /begun?id=I             waits until the first byte of the body of I has come
GET  /ended?id=I             waits until I has ended, well or not; both answer with what is known of I
GET  /seen?id=I              what is known of I, at once
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.servers.bodies import Body
from tests.support.peer import Conn, Peer, Request

# Some of it between the two neighbours only, the rest for the client.
MORE = b"Connection: X-Between\r\nX-Between: 1\r\nTrailer: X-Later\r\n"
MORE += b"X-Kept: 3\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
WAIT = 15.0  # seconds that `/begun` and `/ended` wait


class Upstream:
    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()

    def serve(self, conn: Conn) -> None:
        while True:
            request = conn.read_request(body=False)
            url = urlsplit(request.target)
            query = dict(parse_qsl(url.query))
            getattr(self, f"_{url.path.strip('/')}")(conn, request, query)
            # The toolkit keeps all it saw; here that would be a lot.
            conn.requests.clear()
            conn.peer.requests.clear()
            if request.wants_close():
                return

    def _note(self, query: dict[str, str], **facts: object) -> None:
        with self._changed:
            self._known.setdefault(query.get("id", ""), {}).update(facts)
            self._changed.notify_all()

    def _wait(self, conn: Conn, query: dict[str, str], *facts: str) -> None:
        with self._changed:
            known = self._known.setdefault(query["id"], {})
            self._changed.wait_for(lambda: all(fact in known for fact in facts), WAIT)
            _answer(conn, dict(known))

    def _begun(self, conn: Conn, request: Request, query: dict[str, str]) -> None:
        self._wait(conn, query, "begun")

    def _ended(self, conn: Conn, request: Request, query: dict[str, str]) -> None:
        self._wait(conn, query, "ended")

    def _seen(self, conn: Conn, request: Request, query: dict[str, str]) -> None:
        self._wait(conn, query)

    def _echo(self, conn: Conn, request: Request, query: dict[str, str]) -> None:
        conn.read_body(request)
        _answer(conn, {"target": request.target, "headers": request.headers, "connection": conn.number}, MORE)

    def _upload(self, conn: Conn, request: Request, query: dict[str, str]) -> None:
        digest, length = hashlib.sha256(), 0
        cut_by = None
        try:
            for piece, _ in conn._body_pieces(request):
                if not length and piece:
                    self._note(query, begun=True)
                digest.update(piece)
                length += len(piece)
        except ConnectionError as error:
            cut_by = type(error).__name__
        facts = {"length": length, "sha256": digest.hexdigest(), "complete": cut_by is None, "cut_by": cut_by}
        self._note(query, **facts, ended=True)
        if cut_by is None:
            _answer(conn, facts)
        else:
            conn.close()

    def _early(self, conn: Conn, request: Request, query: dict[str, str]) -> None:
        conn.recv_some()
        text = b"enough of it"
        conn.send(
            b"HTTP/1.1 413 Content Too Large\r\nContent-Type: text/plain\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(text), text)
        )
        conn.shutdown_write()
        conn.wait_closed()
        conn.close()

    def _download(self, conn: Conn, request: Request, query: dict[str, str]) -> None:
        body, chunked = Body(int(query["size"])), "chunked" in query
        left = body.length // 2 if "cut" in query else body.length
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % body.length
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n%b\r\n\r\n" % framing)
        sent = 0
        try:
            for piece in body.pieces():
                piece = piece[: left - sent]
                conn.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked and piece else piece)
                sent += len(piece)
            if chunked and "cut" not in query:
                conn.send(b"0\r\n\r\n")
        except ConnectionError as error:
            self._note(query, sent=sent, cut_by=type(error).__name__, ended=True)
            raise
        self._note(query, sent=sent, cut_by=None, ended=True)
        if "cut" in query:
            conn.close()


def _answer(conn: Conn, facts: dict[str, Any], more: bytes = b"") -> None:
    body = json.dumps(facts).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
    conn.send(head % (len(body), more) + body)


def main() -> None:
    # A handler of the toolkit ends when its client goes; the others go on.
    with Peer(Upstream().serve, limit=60.0, expect_errors=True) as peer:
        print(peer.port, flush=True)
        sys.stdin.read()  # until whoever started this is gone


if __name__ == "__main__":
    main()
