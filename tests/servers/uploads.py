"""The three ways to send a body, and answers to who asks for a login."""

from __future__ import annotations

from typing import Any, Callable, Optional

from clientrequest import AuthInfo, ClientRequest, IncomingMessage, Session
from tests.servers.bodies import Body

LIMIT = 30.0  # seconds that any wait may take before the test fails
FRAMINGS = ("buffered", "chunked", "known")


def prepare(session: Session, url: str, body: Body, framing: str, **options: Any) -> ClientRequest:
    """A request with nothing written yet, that will send `body` in one of the three ways."""
    request = session.request(url, **{"method": "POST", **options})
    if framing == "chunked":
        request.chunked_encoding = True
    elif framing == "known":
        request.set_header("Content-Length", body.length)
    return request


def send(request: ClientRequest, body: Body) -> IncomingMessage:
    """Write all of `body`, end, and wait for the response."""
    request.pipe_from(body.pieces())
    return request.end().get_response(LIMIT)


def upload(
    session: Session,
    url: str,
    body: Body,
    framing: str,
    *,
    login: Optional[Callable[..., object]] = None,
    **options: Any,
) -> IncomingMessage:
    request = prepare(session, url, body, framing, **options)
    if login is not None:
        request.on("login", login)
    return send(request, body)


def check_arrived(response: IncomingMessage, body: Body, method: str = "POST") -> dict[str, Any]:
    """All of `body` arrived, says the server; gives back what else it says."""
    assert response.status_code == 200, (response.status_code, response.read()[:500])
    answer: dict[str, Any] = response.json()
    assert (answer["method"], answer["length"]) == (method, body.length)
    assert answer["sha256"] == body.sha256
    assert response.request.wait(LIMIT)
    return answer


class Login:
    """A listener for `login`: gives one pair after the other, then cancels; keeps who asked."""

    def __init__(self, *credentials: tuple[str, str]) -> None:
        self.asked: list[AuthInfo] = []
        self._credentials = list(credentials)

    def __call__(self, info: AuthInfo, callback: Callable[..., object]) -> None:
        self.asked.append(info)
        callback(*(self._credentials.pop(0) if self._credentials else ()))
