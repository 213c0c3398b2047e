"""Uploads to real servers: what arrives is what was sent, in bounded memory, and an early refusal is heard."""

from __future__ import annotations

import filecmp
import tracemalloc

import pytest

from clientrequest import Session
from tests.servers.bodies import LARGE, MEBIBYTE, SMALL, Body
from tests.servers.farm import Farm, Server
from tests.servers.uploads import FRAMINGS, LIMIT, check_arrived, prepare, send, upload

pytestmark = pytest.mark.servers

framings = pytest.mark.parametrize("framing", FRAMINGS)
ports = pytest.mark.parametrize("port", ["plain", "tls"])
places = pytest.mark.parametrize(
    ("server", "port"),
    [
        ("nginx", "plain"),
        ("nginx", "tls"),
        ("apache", "plain"),
        ("apache", "tls"),
        ("lighttpd", "plain"),
        ("gunicorn", "plain"),
    ],
    indirect=["server"],
)
nginx_and_apache = pytest.mark.parametrize("server", ["nginx", "apache"], indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


@framings
@places
def test_large_body_arrives(session: Session, server: Server, port: str, framing: str) -> None:
    body = Body(LARGE)
    check_arrived(upload(session, server.url("/upload", port), body, framing), body)


@framings
@places
def test_empty_body_arrives(session: Session, server: Server, port: str, framing: str) -> None:
    body = Body(0)
    check_arrived(upload(session, server.url("/upload", port), body, framing), body)


@framings
@ports
@nginx_and_apache
def test_file_that_was_put_is_the_same(session: Session, farm: Farm, server: Server, port: str, framing: str) -> None:
    name = f"put-{port}-{framing}.bin"
    response = upload(session, server.url(f"/dav/{name}", port), Body(LARGE), framing, method="PUT")
    response.read()
    assert response.status_code in (201, 204)
    stored = farm.path(f"{server.daemon.name}-dav") / name
    assert filecmp.cmp(stored, farm.path("files/large.bin"), shallow=False)
    stored.unlink()


@framings
@ports
def test_large_upload_takes_little_memory(session: Session, nginx: Server, port: str, framing: str) -> None:
    body = Body(LARGE)
    request = prepare(session, nginx.url("/upload", port), body, framing)
    tracemalloc.start()
    try:
        response = send(request, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    check_arrived(response, body)
    # A buffered body may have 8 MiB in memory; a streamed one what waits to be sent and what is kept to send again.
    assert peak < 14 * MEBIBYTE


@framings
@ports
@nginx_and_apache
def test_too_large_is_refused(session: Session, server: Server, port: str, framing: str) -> None:
    # A known length is refused at once, chunks only when the limit of one mebibyte is met in the middle of them.
    response = upload(session, server.url("/small/upload", port), Body(LARGE), framing)
    assert response.status_code == 413
    assert b"413" in response.read()
    assert not response.request.writable()
    assert response.request.wait(LIMIT)


@ports
@nginx_and_apache
def test_writing_goes_on_until_it_is_refused(session: Session, server: Server, port: str) -> None:
    with session.request(server.url("/small/upload", port), method="POST", chunked_encoding=True) as request:
        written = 0
        while request.writable():
            written += request.write(bytes(100_000))
            assert written < 10 * LARGE
        response = request.get_response(LIMIT)
    assert response.status_code == 413
    assert response.read()
    assert response.complete
    assert request.wait(LIMIT)


@pytest.mark.parametrize("framing", ["chunked", "known"])
@places
def test_waits_for_leave_to_send(session: Session, server: Server, port: str, framing: str) -> None:
    body = Body(SMALL)
    request = prepare(session, server.url("/upload", port), body, framing, headers={"Expect": "100-continue"})
    heard: list[int] = []
    request.on("information", lambda status, message, headers: heard.append(status))
    check_arrived(send(request, body), body)
    assert heard == [100]


@ports
@nginx_and_apache
def test_refused_before_a_byte_was_sent(session: Session, server: Server, port: str) -> None:
    body = Body(LARGE)
    url = server.url("/small/upload", port)
    response = upload(session, url, body, "known", headers={"Expect": "100-continue"})
    assert response.status_code == 413
    response.read()
    assert response.request.get_upload_progress().current == 0
    assert response.request.wait(LIMIT)
