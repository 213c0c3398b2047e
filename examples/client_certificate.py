"""Show who you are by a certificate, and know the server by its own: both are signed by one authority."""

import ssl
from pathlib import Path

from server import example_server

from clientrequest import Session, TLSError

FOLDER = Path(__file__).parent / "certificates"
AUTHORITY = str(FOLDER / "ca.pem")  # whom both sides trust

server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=AUTHORITY)
server_side.load_cert_chain(FOLDER / "server.pem")
server_side.verify_mode = ssl.CERT_REQUIRED

# A server on the command line has to have an https URL and one of these certificates.
with example_server(tls=server_side) as url:
    with Session(tls=AUTHORITY, client_cert=str(FOLDER / "ada.pem")) as session:
        print("the server knows", session.request(url + "/whoami").end().get_response().text(), end="")

    with Session(tls=AUTHORITY) as session:
        try:
            session.request(url + "/whoami").end().get_response()
        except TLSError:
            print("it takes nobody without a certificate")
