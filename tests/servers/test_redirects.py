"""Redirects of real servers: nginx points elsewhere at once, Apache when it has read the body."""

from __future__ import annotations

import pytest

from clientrequest import RedirectError, Session
from tests.servers.bodies import LARGE, MIDDLING, SMALL, Body
from tests.servers.farm import Server
from tests.servers.uploads import FRAMINGS, LIMIT, check_arrived, upload

pytestmark = pytest.mark.servers

STREAMED = ("chunked", "known")

framings = pytest.mark.parametrize("framing", FRAMINGS)
ports = pytest.mark.parametrize("port", ["plain", "tls"])
nginx_and_apache = pytest.mark.parametrize("server", ["nginx", "apache"], indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


@framings
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@nginx_and_apache
def test_post_goes_where_it_is_told(session: Session, server: Server, status: int, framing: str) -> None:
    body = Body(SMALL)
    response = upload(session, server.url(f"/redirect/{status}?to=/upload"), body, framing)
    if status in (307, 308):
        check_arrived(response, body)
    else:
        check_arrived(response, Body(0), "GET")
    assert response.url == server.url("/upload")


@pytest.mark.parametrize("status", [307, 308])
@ports
@nginx_and_apache
def test_large_buffered_body_is_sent_again(session: Session, server: Server, port: str, status: int) -> None:
    body = Body(LARGE)
    response = upload(session, server.url(f"/redirect/{status}?to=/upload", port), body, "buffered")
    check_arrived(response, body)
    assert len(response.redirects) == 1


@pytest.mark.parametrize("status", [301, 302])
@nginx_and_apache
def test_put_stays_put(session: Session, server: Server, status: int) -> None:
    body = Body(LARGE)
    url = server.url(f"/redirect/{status}?to=/upload")
    check_arrived(upload(session, url, body, "buffered", method="PUT"), body, "PUT")


@framings
@ports
def test_another_origin_does_not_get_the_login(
    session: Session, nginx: Server, gunicorn: Server, port: str, framing: str
) -> None:
    body = Body(SMALL)
    url = nginx.url(f"/redirect/307?to={gunicorn.url('/upload')}", port)
    headers = {"Authorization": "Basic abc", "X-Kept": "yes"}
    answer = check_arrived(upload(session, url, body, framing, headers=headers), body)
    assert "authorization" not in answer["headers"]
    assert answer["headers"]["x_kept"] == "yes"


@framings
def test_from_plain_to_tls(session: Session, nginx: Server, apache: Server, framing: str) -> None:
    body = Body(SMALL)
    url = apache.url(f"/redirect/307?to={nginx.url('/upload', 'tls')}")
    response = upload(session, url, body, framing)
    check_arrived(response, body)
    assert response.url == nginx.url("/upload", "tls")


@pytest.mark.parametrize("framing", STREAMED)
@ports
def test_stream_goes_on_at_the_new_place(session: Session, nginx: Server, port: str, framing: str) -> None:
    body = Body(MIDDLING)
    url = nginx.url("/redirect/307?to=/upload", port)
    check_arrived(upload(session, url, body, framing, replay_limit=2 * MIDDLING), body)


@pytest.mark.parametrize("framing", STREAMED)
@ports
def test_stream_beyond_its_replay_limit(session: Session, apache: Server, port: str, framing: str) -> None:
    with pytest.raises(RedirectError) as caught:
        upload(session, apache.url("/redirect/307?to=/upload", port), Body(MIDDLING), framing)
    assert caught.value.code == "ERR_UPLOAD_STREAM_REWIND_NOT_SUPPORTED"


@pytest.mark.parametrize("framing", STREAMED)
@ports
def test_stream_that_waits_for_leave_needs_no_replay(session: Session, apache: Server, port: str, framing: str) -> None:
    """Told before the first byte, it has nothing to send again."""
    body = Body(LARGE)
    url = apache.url("/redirect/307?to=/upload", port)
    check_arrived(upload(session, url, body, framing, headers={"Expect": "100-continue"}), body)


def test_manual(session: Session, nginx: Server) -> None:
    body = Body(SMALL)
    request = session.request(nginx.url("/redirect/308?to=/upload"), method="POST", redirect="manual")
    request.on("redirect", lambda *told: request.follow_redirect())
    request.pipe_from(body.pieces())
    check_arrived(request.end().get_response(LIMIT), body)


def test_chain(session: Session, gunicorn: Server) -> None:
    response = session.request(gunicorn.url("/redirect/7")).end().get_response(LIMIT)
    assert response.status_code == 200
    response.read()
    assert len(response.redirects) == 7


def test_too_many(session: Session, gunicorn: Server) -> None:
    with pytest.raises(RedirectError) as caught:
        session.request(gunicorn.url("/redirect/21")).end().get_response(LIMIT)
    assert caught.value.code == "ERR_TOO_MANY_REDIRECTS"
