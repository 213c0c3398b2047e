"""TLS with real servers: who is trusted, by which name, and who we are."""

from __future__ import annotations

import pytest

from clientrequest import Session, TLSError
from tests.servers.bodies import LARGE, Body
from tests.servers.farm import TEXT, Farm, Server
from tests.servers.uploads import LIMIT, check_arrived, upload

pytestmark = pytest.mark.servers


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


nginx_and_apache = pytest.mark.parametrize("server", ["nginx", "apache"], indirect=True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@nginx_and_apache
def test_server_by_name_and_by_address(session: Session, server: Server, host: str) -> None:
    response = session.request(server.url("/files/text.txt", "tls", host=host)).end().get_response(LIMIT)
    assert response.text() == TEXT


@nginx_and_apache
def test_authority_that_is_not_trusted(server: Server) -> None:
    with Session() as session, pytest.raises(TLSError) as caught:
        session.request(server.url("/files/text.txt", "tls")).end().get_response(LIMIT)
    assert caught.value.code == "ERR_CERT_AUTHORITY_INVALID"


@pytest.mark.parametrize(
    ("port", "code"), [("untrusted", "ERR_CERT_AUTHORITY_INVALID"), ("misnamed", "ERR_CERT_COMMON_NAME_INVALID")]
)
def test_certificate_that_is_no_good(session: Session, nginx: Server, port: str, code: str) -> None:
    with pytest.raises(TLSError) as caught:
        session.request(nginx.url("/files/text.txt", port)).end().get_response(LIMIT)
    assert caught.value.code == code


@pytest.mark.parametrize("port", ["untrusted", "misnamed"])
def test_not_a_byte_of_a_body_goes_to_it(session: Session, nginx: Server, port: str) -> None:
    request = session.request(nginx.url("/upload", port), method="POST", chunked_encoding=True)
    with pytest.raises(TLSError), request:
        request.pipe_from(Body(LARGE).pieces())
    assert request.get_upload_progress().current == 0


@nginx_and_apache
def test_plain_http_at_a_tls_port(session: Session, server: Server) -> None:
    url = server.url("/files/text.txt", "tls").replace("https:", "http:")
    response = session.request(url).end().get_response(LIMIT)
    assert response.status_code == 400
    response.read()


@nginx_and_apache
def test_tls_at_a_plain_port(session: Session, server: Server) -> None:
    url = server.url("/files/text.txt").replace("http:", "https:")
    with pytest.raises(TLSError) as caught:
        session.request(url).end().get_response(LIMIT)
    assert caught.value.code == "ERR_SSL_PROTOCOL_ERROR"


@pytest.mark.parametrize("framing", ["buffered", "chunked", "known"])
def test_client_with_a_certificate(farm: Farm, apache: Server, framing: str) -> None:
    body = Body(LARGE)
    with Session(tls=farm.certificates.ca, client_cert=farm.certificates.client, timeout=LIMIT) as session:
        answer = check_arrived(upload(session, apache.url("/upload", "demanding"), body, framing), body)
    assert answer["client"] == "client@example.org"


def test_client_without_a_certificate(session: Session, apache: Server) -> None:
    request = session.request(apache.url("/upload", "demanding"), method="POST")
    with pytest.raises(TLSError):
        request.end(b"x").get_response(LIMIT)
