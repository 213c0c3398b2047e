"""Answers of real servers: large ones, coded ones, parts, none at all."""

from __future__ import annotations

import hashlib
import io
import threading
import tracemalloc

import pytest

from clientrequest import AbortedError, ClientRequest, IncomingMessage, Session
from tests.servers.bodies import LARGE, MEBIBYTE, Body
from tests.servers.farm import TEXT, Server
from tests.servers.uploads import LIMIT

pytestmark = pytest.mark.servers

ports = pytest.mark.parametrize("port", ["plain", "tls"])
nginx_and_apache = pytest.mark.parametrize("server", ["nginx", "apache"], indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


def get(session: Session, url: str, **options: object) -> IncomingMessage:
    return session.request(url, **options).end().get_response(LIMIT)


@ports
@nginx_and_apache
def test_large_file_is_read_in_little_memory(session: Session, server: Server, port: str) -> None:
    digest = hashlib.sha256()
    tracemalloc.start()
    try:
        response = get(session, server.url("/files/large.bin", port))
        for piece in response.iter_chunks():
            digest.update(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert digest.hexdigest() == Body(LARGE).sha256
    assert peak < 4 * MEBIBYTE


@ports
@nginx_and_apache
def test_large_file_comes_as_events(session: Session, server: Server, port: str) -> None:
    digest, closed = hashlib.sha256(), threading.Event()
    request = session.request(server.url("/files/large.bin", port))

    @request.on("response")
    def listen(response: IncomingMessage) -> None:
        response.on("data", digest.update)

    request.on("close", closed.set)
    request.end()
    assert closed.wait(LIMIT)
    assert digest.hexdigest() == Body(LARGE).sha256


@ports
@nginx_and_apache
def test_download_is_streamed_into_an_upload(session: Session, server: Server, port: str) -> None:
    response = get(session, server.url("/files/large.bin", port))
    upload = session.request(server.url("/upload", port), method="POST", chunked_encoding=True)
    response.pipe(upload)
    assert upload.get_response(LIMIT).json()["sha256"] == Body(LARGE).sha256
    assert response.request.wait(LIMIT)
    assert upload.wait(LIMIT)


@ports
@nginx_and_apache
def test_gzip_is_undone(session: Session, server: Server, port: str) -> None:
    response = get(session, server.url("/gzip/text.txt", port))
    assert response.headers["content-encoding"] == "gzip"
    assert response.text() == TEXT


@pytest.mark.parametrize(("path", "coding"), [("/gzip", "gzipped"), ("/deflate", "deflated"), ("/brotli", "brotli")])
def test_coding_is_undone(session: Session, gunicorn: Server, path: str, coding: str) -> None:
    assert get(session, gunicorn.url(path)).json()[coding] is True


@nginx_and_apache
def test_head_has_no_body(session: Session, server: Server) -> None:
    response = get(session, server.url("/files/large.bin"), method="HEAD")
    assert (response.status_code, response.headers["content-length"]) == (200, str(LARGE))
    assert response.read() == b""
    assert response.complete


@nginx_and_apache
def test_not_modified_has_no_body(session: Session, server: Server) -> None:
    first = get(session, server.url("/files/text.txt"))
    assert first.text() == TEXT
    headers = {"If-None-Match": first.headers["etag"]}
    second = get(session, server.url("/files/text.txt"), headers=headers)
    assert (second.status_code, second.read()) == (304, b"")


@nginx_and_apache
def test_part_of_a_file(session: Session, server: Server) -> None:
    response = get(session, server.url("/files/large.bin"), headers={"Range": "bytes=1048570-1048581"})
    assert response.status_code == 206
    assert response.headers["content-range"] == f"bytes 1048570-1048581/{LARGE}"
    assert response.read() == b"\0\0" + bytes(4) + b"\0\0\0\1\0\0"


@nginx_and_apache
def test_parts_of_a_file(session: Session, server: Server) -> None:
    response = get(session, server.url("/files/large.bin"), headers={"Range": "bytes=0-3,1048576-1048579"})
    assert response.status_code == 206
    assert response.headers["content-type"].startswith("multipart/byteranges")
    assert response.read().count(b"bytes ") == 2


@nginx_and_apache
def test_part_that_is_not_there(session: Session, server: Server) -> None:
    response = get(session, server.url("/files/text.txt"), headers={"Range": "bytes=9999999-"})
    assert response.status_code == 416
    response.read()


def test_trailers(session: Session, nginx: Server) -> None:
    response = get(session, nginx.url("/trailers/text.txt"))
    assert response.text() == TEXT
    assert dict(response.trailers) == {"x-checked": "GET 200"}


def test_lines_as_they_are_streamed(session: Session, gunicorn: Server) -> None:
    response = get(session, gunicorn.url("/stream/20"))
    assert len(list(io.TextIOWrapper(response))) == 20


def test_request_is_seen_as_it_was_made(session: Session, gunicorn: Server) -> None:
    """What the application saw of us is what we sent: names, values and the query as they were given."""
    response = get(session, gunicorn.url("/anything?a=%C3%A4&b=1%2B1"), headers={"X-One": "1", "Accept-Language": "de"})
    seen = response.json()
    assert seen["args"] == {"a": "ä", "b": "1+1"}
    assert (seen["headers"]["X-One"], seen["headers"]["Accept-Language"]) == ("1", "de")


@ports
def test_abort_in_the_middle_of_a_download(session: Session, nginx: Server, port: str) -> None:
    request: ClientRequest = session.request(nginx.url("/files/large.bin", port))
    assert request.end().get_response(LIMIT).read(MEBIBYTE)
    request.abort()
    with pytest.raises(AbortedError):
        request.wait(LIMIT)
    assert get(session, nginx.url("/files/text.txt", port)).text() == TEXT
