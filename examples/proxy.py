"""A forward proxy for plain http, made of ClientRequest: bodies stream through it in both directions.

::

    python examples/proxy.py [port]

It wants a login: user "proxy", password "please" (Basic). It has no CONNECT, hence no https.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from http import HTTPStatus

from server import ExampleServer, Handler, Refusal, knows, port_of_command_line, running, serve_until_interrupted

from clientrequest import ClientRequest, ClientRequestError, IncomingMessage, Session

USER, PASSWORD = "proxy", "please"
CHALLENGE = {"Proxy-Authenticate": 'Basic realm="proxy of the examples", charset="UTF-8"'}
# What is between two neighbours only (RFC 9110, 7.6.1), and "Expect", which has been answered by now.
DROPPED = {"connection", "expect", "host", "keep-alive", "proxy-authenticate", "proxy-authorization"}
DROPPED |= {"proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}


def forwarded(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    pairs = list(headers)
    named = ",".join(value for name, value in pairs if name.lower() == "connection").lower().split(",")
    dropped = DROPPED.union(name.strip() for name in named)
    return [*((name, value) for name, value in pairs if name.lower() not in dropped), ("Via", "1.1 example-proxy")]


class ProxyHandler(Handler):
    server: ExampleProxy

    def _serve_any(self) -> None:
        self._answer(self._forward)

    do_DELETE = do_GET = do_HEAD = do_OPTIONS = do_PATCH = do_POST = do_PUT = _serve_any

    def _forward(self) -> None:
        if not knows(self.headers.get("Proxy-Authorization"), USER, PASSWORD):
            self._send_json({"error": "who are you?"}, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, CHALLENGE)
            return
        try:
            with self._make_request() as request:
                # As long as somebody listens: the answer may come before the end of the body.
                request.pipe_from(itertools.takewhile(lambda piece: request.writable(), self._pieces()))
            response = request.get_response()
        except ClientRequestError as error:
            raise Refusal(HTTPStatus.BAD_GATEWAY, str(error)) from error
        with response:
            self._pass_on(response)

    def _make_request(self) -> ClientRequest:
        if not self.path.lower().startswith("http://"):
            raise Refusal(HTTPStatus.BAD_REQUEST, "a proxy needs a whole http URL")
        options = {"url": self.path, "method": self.command, "headers": forwarded(self.headers.items())}
        try:
            request = self.server.session.request(options, redirect="manual", decode=False)
            request.chunked_encoding = "Transfer-Encoding" in self.headers
        except ValueError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error
        for name in ("Accept-Encoding", "User-Agent"):
            if name not in self.headers:
                request.remove_header(name)  # it is the session's own
        return request

    def _pass_on(self, response: IncomingMessage) -> None:
        chunked = "content-length" not in response.headers
        chunked = chunked and self.command != "HEAD" and response.status_code not in (204, 304)
        self.log_request(response.status_code)
        self.send_response_only(response.status_code, response.status_message)
        for name, value in forwarded(zip(response.raw_headers[::2], response.raw_headers[1::2])):
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        if self.close_connection or self.body is None or not self.body.done:
            self.send_header("Connection", "close")
        self.end_headers()
        for piece in response.iter_chunks():  # if it breaks off, so do we: half a body never looks whole
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")


class ExampleProxy(ExampleServer):
    def __init__(self, port: int = 0, verbose: bool = False) -> None:
        super().__init__(port, verbose, handler=ProxyHandler)
        self.session = Session(proxies={})  # no other proxy behind this one

    def server_close(self) -> None:
        self.session.close()
        super().server_close()


@contextlib.contextmanager
def running_proxy() -> Iterator[str]:
    """A proxy in a thread of this program, for as long as the block runs; gives its URL."""
    with running(ExampleProxy()) as url:
        yield url


if __name__ == "__main__":
    serve_until_interrupted(ExampleProxy(port_of_command_line(8080), verbose=True))
