"""Connections to real servers: used again as far as the server lets us, replaced where it does not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from clientrequest import Session
from tests.servers.bodies import Body
from tests.servers.farm import TEXT, Server
from tests.servers.uploads import LIMIT, check_arrived, upload

pytestmark = pytest.mark.servers

ROUNDS = 300


def connection_of(session: Session, url: str, method: str) -> str:
    """One small request; the number that nginx gave to its connection."""
    request = session.request(url, method=method)
    if method == "POST":
        request.write(b"x" * 1000)
    response = request.end().get_response(LIMIT)
    assert response.read()
    assert request.wait(LIMIT)
    return str(response.headers["x-connection"])


@pytest.mark.parametrize(
    ("port", "connections"),
    [("once", ROUNDS), ("hundred", ROUNDS // 100), ("plain", 1), ("tls", 1)],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/files/text.txt"), ("POST", "/upload")])
def test_as_many_connections_as_the_server_wants(
    session: Session, nginx: Server, port: str, connections: int, method: str, path: str
) -> None:
    used = [connection_of(session, nginx.url(path, port), method) for _ in range(ROUNDS)]
    assert len(set(used)) == connections


def test_connection_that_ends_when_the_next_request_comes(session: Session, apache: Server) -> None:
    """This Apache waits a millisecond for the next request: some of ours meet the end of the connection."""
    for _ in range(ROUNDS):
        response = session.request(apache.url("/files/text.txt", "hasty")).end().get_response(LIMIT)
        assert response.text() == TEXT


@pytest.mark.parametrize("framing", ["buffered", "chunked", "known"])
def test_connection_that_ends_when_the_next_body_comes(session: Session, apache: Server, framing: str) -> None:
    body = Body(10_000)
    for _ in range(ROUNDS // 3):
        check_arrived(upload(session, apache.url("/upload", "hasty"), body, framing), body)


@pytest.mark.parametrize("port", ["plain", "tls", "hundred"])
def test_many_threads_share_a_session(session: Session, nginx: Server, port: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        used = set(threads.map(lambda _: connection_of(session, nginx.url("/upload", port), "POST"), range(400)))
    assert len(used) <= (8 if port != "hundred" else 16)


def test_refused_upload_leaves_the_next_one_whole(session: Session, nginx: Server) -> None:
    for _ in range(20):
        refused = upload(session, nginx.url("/small/upload"), Body(3_000_000), "chunked")
        assert refused.status_code == 413
        refused.read()
        body = Body(10_000)
        check_arrived(upload(session, nginx.url("/upload"), body, "chunked"), body)
