"""Answer a login: it comes in the middle of an upload, which begins again and streams on, and it comes only once."""

from typing import Callable

from server import PASSWORD, USER, example_server

from clientrequest import AuthInfo, ClientRequest, Session

ROW = b"a row of thirty-two characters.\n"
ROWS = 250_000


def ask(session: Session, url: str, method: str) -> ClientRequest:
    # What is sent before the server asks has to be sent again: that much of the body is kept meanwhile.
    request = session.request(url + "/private", method=method, replay_limit=len(ROW) * ROWS)

    @request.on("login")
    def login(info: AuthInfo, callback: Callable[[str, str], None]) -> None:
        print(f"a login to {info.realm!r} is wanted; {request.tell()} bytes are written")
        callback(USER, PASSWORD)  # now or later, from any thread; the request waits for it

    return request


with example_server() as url, Session() as session:
    request = ask(session, url, "POST")
    request.chunked_encoding = True
    with request:
        for _ in range(ROWS):
            request.write(ROW)
    response = request.get_response()
    print(response.status_code, "for", response.json()["bytes"], "of", request.tell(), "bytes")

    response = ask(session, url, "GET").end().get_response()  # the session knows the login by now
    print(response.status_code, response.text(), end="")
