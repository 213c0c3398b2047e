"""The examples run, each alone, and print what they promise; so does the demo. And their server and proxy serve."""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Optional

import pytest

from clientrequest import testing
from tests.support import Conn, Gate, Peer, refused_port, scripted
from tests.support.modules import EXAMPLES, ROOT, load_example

CERTIFICATES = EXAMPLES / "certificates"
LIMIT = 30  # seconds for one program or one answer

# What each example prints, as a regular expression for all of it.
PRINTS = {
    "abort_from_thread": r"(line \d+ of 100000\n)+net::ERR_ABORTED: the request was aborted; free after [\d.]+ ms\n",
    "asyncio_callbacks": r"line 3 of 3, line 4 of 4, line 5 of 5\nthe long one was cancelled, and with it aborted\n",
    "backpressure": r'\{"bytes": 20000000, .*\}\n'
    r"20000000 bytes sent; waited [1-9]\d* times for room; never more than 1\d{6} bytes in the queue\n",
    "client_certificate": r"the server knows ada\nit takes nobody without a certificate\n",
    "csv_json_upload": r"csv:  1742656 bytes in several chunks\n"
    r"json: 10000 numbers came back, the last is 99980001\n",
    "download_to_file": r"downloaded 20000000 of 20000000 bytes\n",
    "download_with_pause": r"(pause after about \d+ bytes\n){3}downloaded 18000000 bytes with 3 pauses\n",
    "early_answer": r"413 Content Too Large\nthe server says: more than 3000000 bytes\nstopped early: True\n",
    "form_upload": r"( *\d+% of (\d+) bytes\n)*100% of (\d+) bytes\nall of it arrived: True\n",
    "get": r"200 OK text/plain; charset=utf-8\nHello! This is the server of the examples\.\nclosed\n",
    "log_requests": r'INFO \{"method": "GET", "url": "http://127\.0\.0\.1:\d+/redirect", "status": 200, '
    r'"redirects": 1, "seconds": [\d.]+\}\n'
    r'WARNING \{"method": "GET", "url": "http://127\.0\.0\.1:9/", "error": "ERR_CONNECTION_REFUSED", '
    r'"seconds": [\d.]+\}\n',
    "login": r"a login to 'examples' is wanted; [1-9]\d* bytes are written\n"
    r"200 for 8000000 of 8000000 bytes\n200 Hello ada! This is private\.\n",
    "manual_redirect": r"302 to / is followed\nHello! This is the server of the examples\.\n"
    r"302 to elsewhere\.example is refused\nnet::ERR_ABORTED: the request was aborted\n",
    "persistent_cookies": r"a new run; cookies: 0\nThis is visit 1\.\nThis is visit 2\.\n"
    r"a new run; cookies: 1\nThis is visit 3\.\nThis is visit 4\.\n",
    "post": r"200 with 52 bytes:\nText goes out as UTF-8,\nbytes as they are\.\nThe end\.\n",
    "through_a_proxy": r"the proxy asks for a login: proxy of the examples\n"
    r"200 via 1\.1 example-proxy\n588890 of 588890 bytes went through it\n",
    "upload_folder": r"packed and sent (\d+) bytes; the server counted \1\nall of it arrived: True\n",
    "uploader": r"11427 bytes arrived\n",
}

# Those that need more packages; tests/places runs them.
IN_PLACES = {"dask_uploads", "django_gateway", "flask_gateway"}


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONIOENCODING": "utf-8",
        "no_proxy": "127.0.0.1,localhost",
    }


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python program without a terminal and without input; every warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env={**environment(), **variables},
        timeout=LIMIT,
        check=False,
    )


server = load_example("server")
proxy = load_example("proxy")


@pytest.fixture
def port() -> Iterator[int]:
    with server.running_server() as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture
def connection(port: int) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)) as connection:
        yield connection


def server_context(verify_mode: ssl.VerifyMode = ssl.CERT_NONE) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(CERTIFICATES / "ca.pem"))
    context.load_cert_chain(CERTIFICATES / "server.pem")
    context.verify_mode = verify_mode
    return context


def client_context(certificate: Optional[str] = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    if certificate is not None:
        context.load_cert_chain(CERTIFICATES / certificate)
    return context


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        self.type = response.headers["Content-Type"]
        self.closes = response.will_close

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **options: Any) -> Answer:
    connection.request(method, path, body, **options)
    return Answer(connection.getresponse())


def talk(port: int, data: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as sock:
        sock.sendall(data)
        with sock.makefile("rb") as reader:
            return reader.read()


# --- the examples ---


def test_every_example_is_known_here() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    in_windows = {"tk_download", "qt_upload"}  # see tests/gui
    assert names == {*PRINTS, *in_windows, *IN_PLACES, "demo", "proxy", "server", "test_uploader", "wsgi_gateway"}


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_example_prints_its_result(name: str) -> None:
    done = run(str(EXAMPLES / f"{name}.py"))
    assert done.stderr == ""
    assert done.returncode == 0
    assert re.fullmatch(PRINTS[name], done.stdout), done.stdout


@pytest.mark.parametrize("name", sorted({*PRINTS, *IN_PLACES}))
def test_example_is_short_and_says_what_it_shows(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text("utf-8")
    assert 15 <= len(text.splitlines()) <= (45 if name in IN_PLACES else 40)
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("name", ["login", "manual_redirect", "persistent_cookies", "post", "through_a_proxy"])
def test_example_takes_the_url_of_a_server(port: int, name: str) -> None:
    done = run(str(EXAMPLES / f"{name}.py"), f"http://127.0.0.1:{port}/")
    assert done.stderr == ""
    assert re.fullmatch(PRINTS[name], done.stdout)


def test_example_takes_the_url_of_a_server_with_tls() -> None:
    with server.running_server(tls=server_context(ssl.CERT_REQUIRED)) as url:
        done = run(str(EXAMPLES / "client_certificate.py"), url.replace("127.0.0.1", "localhost"))
    assert done.stderr == ""
    assert re.fullmatch(PRINTS["client_certificate"], done.stdout)


@pytest.mark.parametrize("name", ["client_certificate", "get", "through_a_proxy"])
def test_example_needs_no_proxy_of_the_environment(name: str) -> None:
    with refused_port() as port:
        url = f"http://127.0.0.1:{port}"
        done = run(str(EXAMPLES / f"{name}.py"), http_proxy=url, https_proxy=url, no_proxy="")
    assert done.stderr == ""
    assert re.fullmatch(PRINTS[name], done.stdout)


@pytest.mark.parametrize("name", ["backpressure", "client_certificate", "download_to_file", "get", "login"])
def test_example_without_a_server_says_so_and_fails(name: str) -> None:
    with refused_port() as port:
        done = run(str(EXAMPLES / f"{name}.py"), f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "net::ERR_CONNECTION_REFUSED" in done.stderr.splitlines()[-1]


# --- the gateway ---


def call_gateway(
    monkeypatch: pytest.MonkeyPatch, upstream: str, body: bytes = b"", announced: int = 0, **environ: Any
) -> tuple[str, dict[str, str], bytes]:
    monkeypatch.setenv("UPSTREAM", upstream)
    monkeypatch.setenv("UPSTREAM_TIMEOUT", "0.5")
    begun: list[Any] = []
    values = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/p\xc3\xa4th",
        "QUERY_STRING": "a=b",
        "wsgi.input": io.BytesIO(body),
    }
    gateway = load_example("wsgi_gateway")
    answer = gateway.application(
        {**values, "CONTENT_LENGTH": str(announced), **environ}, lambda status, headers: begun.append((status, headers))
    )
    [(status, headers)] = begun
    text = b"".join(answer)
    if hasattr(answer, "close"):
        answer.close()
    gateway.SESSION.close()
    return status, dict(headers), text


def test_gateway_is_short() -> None:
    lines = (EXAMPLES / "wsgi_gateway.py").read_text("utf-8").splitlines()
    assert len([line for line in lines if line]) < 60


def test_gateway_passes_on_what_is_not_between_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"Connection: X-Between\r\nX-Between: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 2\r\nContent-Length: 2\r\n"
    sent = {"HTTP_CONNECTION": "keep-alive, X-There", "HTTP_X_THERE": "1", "HTTP_TE": "trailers", "HTTP_X_KEPT": "2"}
    with Peer(scripted(b"HTTP/1.1 404 Not Found\r\n" + lines + b"\r\nok")) as peer:
        answer = call_gateway(monkeypatch, peer.url("/base"), b"body", 4, **sent)
        request = peer.wait_request()
    assert answer == ("404 Not Found", {"X-Kept": "2", "Content-Length": "2"}, b"ok")
    assert (request.target, request.body, request.complete) == ("/base/p%C3%A4th?a=b", b"body", True)
    assert request.header("X-Kept") == "2"
    assert [request.header(name) for name in ("X-There", "TE")] == [None, None]


def test_gateway_says_what_went_wrong_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = "http://upstream.example"
    with testing.answer_all(lambda request: 200, connections=testing.NoConnection.REFUSED):
        assert call_gateway(monkeypatch, upstream)[0] == "502 Bad Gateway"
    for reply, status in ((testing.Silence(), "504 Gateway Timeout"), (testing.Reset(), "502 Bad Gateway")):
        with testing.answer_all(lambda request, reply=reply: reply):
            assert call_gateway(monkeypatch, upstream)[0] == status


def test_gateway_passes_no_cut_body_for_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer(lambda conn: conn.read_request()) as peer:
        assert call_gateway(monkeypatch, peer.url(), b"four", 5)[0] == "400 Bad Request"
        assert not [request for request in peer.requests if request.complete]
    with refused_port() as port:  # this server gives the chunks as they are: nobody is asked
        chunked = {"HTTP_TRANSFER_ENCODING": "chunked"}
        assert call_gateway(monkeypatch, f"http://127.0.0.1:{port}", **chunked)[0] == "400 Bad Request"


# --- the demo ---


@pytest.mark.slow
def test_demo_without_a_terminal() -> None:
    done = run(str(EXAMPLES / "demo.py"))
    assert done.stderr == ""
    assert done.returncode == 0
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[-1] == "All of this was as it should be."
    assert [line for line in lines if line.endswith("% sent")] == [f"{part} % sent" for part in (25, 50, 75, 100)]
    assert [line for line in lines if line.startswith("event:")] == [
        "event: finish, all of the body is with the worker",
        "event: response, 200 OK",
        "event: end of the response",
        "event: close",
    ]
    assert [line.partition(": ")[2] for line in lines if line.startswith("after ")] == [
        f"line {number} of 8" for number in range(1, 9)
    ]
    assert "413 Content Too Large: more than 3000000 bytes" in lines
    assert "events: abort, close" in lines
    assert "\r" not in done.stdout


def test_demo_without_a_server_fails() -> None:
    with refused_port() as port:
        done = run(str(EXAMPLES / "demo.py"), f"http://127.0.0.1:{port}")
    assert done.returncode != 0
    assert "net::ERR_CONNECTION_REFUSED" in done.stderr


def test_demo_fails_when_something_is_not_as_expected() -> None:
    done = run("-c", f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import demo; demo.check(False, 'this')")
    assert done.returncode == 1
    assert done.stderr == "Not as expected: this\n"


def run_in_terminal(program: str) -> tuple[int, str]:
    pty = pytest.importorskip("pty", reason="there are no pseudo terminals here")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program], stdin=theirs, stdout=theirs, stderr=theirs, env=environment()
    )
    os.close(theirs)
    shown = bytearray()
    with os.fdopen(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # its end is an error on Linux
        while block := terminal.read(65536):
            shown += block
    return process.wait(LIMIT), shown.decode()


BAR_DEMO = f"""
import sys
sys.path.insert(0, {str(EXAMPLES)!r})
import demo, server
with server.running_server() as url:
    demo.upload(url, size=2_000_000, rate=4_000_000)
"""


def test_demo_has_a_progress_bar_in_a_terminal() -> None:
    pytest.importorskip("tqdm")
    status, shown = run_in_terminal(BAR_DEMO)
    assert status == 0, shown
    assert re.search(r"upload: 100%\|.*2\.00M/2\.00M", shown)
    assert "event: close" in shown
    assert "2000000 bytes, the right ones" in shown


def test_demo_in_a_terminal_without_tqdm() -> None:
    status, shown = run_in_terminal("import sys; sys.modules['tqdm'] = None\n" + BAR_DEMO)
    assert status == 0, shown
    assert "50 % sent" in shown


# --- the server: its routes ---


def test_server_greets_and_keeps_the_connection(connection: http.client.HTTPConnection) -> None:
    connection.connect()
    sock = connection.sock
    for _ in range(3):
        answer = ask(connection, "GET", "/")
        assert (answer.status, answer.type) == (200, "text/plain; charset=utf-8")
        assert answer.body == b"Hello! This is the server of the examples.\n"
        assert connection.sock is sock


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_server_counts_an_upload_of_known_length(connection: http.client.HTTPConnection, method: str) -> None:
    body = os.urandom(300_000)
    answer = ask(connection, method, "/upload", body)
    assert answer.json == {"bytes": 300_000, "chunks": 0, "sha256": hashlib.sha256(body).hexdigest()}
    assert not answer.closes


def test_server_counts_a_chunked_upload(connection: http.client.HTTPConnection) -> None:
    chunks = [b"a", b"b" * 100_000, b"c" * 17]
    for _ in range(2):  # and what follows on the connection is in step
        answer = ask(connection, "POST", "/upload", iter(chunks), encode_chunked=True)
        assert answer.json == {
            "bytes": 100_018,
            "chunks": 3,
            "sha256": hashlib.sha256(b"".join(chunks)).hexdigest(),
        }


def test_server_counts_an_empty_upload(connection: http.client.HTTPConnection) -> None:
    empty = {"bytes": 0, "chunks": 0, "sha256": hashlib.sha256().hexdigest()}
    assert ask(connection, "POST", "/upload").json == empty
    assert ask(connection, "POST", "/upload", iter([]), encode_chunked=True).json == empty


def test_server_reads_chunk_extensions_and_trailers(port: int) -> None:
    answer = talk(
        port,
        b"POST /upload HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"3;word=1\r\nabc\r\n0\r\nTrailer: 1\r\nOther: 2\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"bytes": 3, "chunks": 1' in answer


def test_server_throttles(connection: http.client.HTTPConnection) -> None:
    started = time.monotonic()
    answer = ask(connection, "POST", "/upload?rate=400000", bytes(100_000))
    assert answer.json["bytes"] == 100_000
    assert time.monotonic() - started >= 0.2


def test_server_answers_413_in_the_middle_and_closes(port: int) -> None:
    """More is sent than the server reads, and still the answer is not lost in a reset."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as sock, sock.makefile("rb") as reader:
        sock.sendall(b"POST /upload?limit=100000 HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
        for _ in range(8):
            sock.sendall(bytes(100_000))
        answer = reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close" in head
    assert json.loads(body)["error"] == "more than 100000 bytes"
    assert 100_000 < json.loads(body)["bytes"] <= 100_000 + server.BLOCK


def test_server_takes_just_the_limit(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "POST", "/upload?limit=5", b"12345").status == 200
    assert ask(connection, "POST", "/upload?limit=5", b"123456").status == 413


def test_server_streams_lines_as_they_are_made() -> None:
    started = time.monotonic()
    with server.running_server() as url:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as sock, sock.makefile("rb") as reader:
            sock.sendall(b"GET /stream?lines=2&pause=3600 HTTP/1.1\r\nHost: h\r\n\r\n")
            while reader.readline() != b"\r\n":
                pass
            assert reader.readline() == b"c\r\n"
            assert reader.readline() == b"line 1 of 2\n"
    # The second line is an hour away, and stopping does not wait for it.
    assert time.monotonic() - started < LIMIT


def test_server_streams_the_number_of_lines(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "GET", "/stream?lines=3&pause=0.01").body == b"line 1 of 3\nline 2 of 3\nline 3 of 3\n"
    assert ask(connection, "GET", "/stream?lines=0").body == b""
    assert ask(connection, "GET", "/stream").body.count(b"\n") == 5


@pytest.mark.parametrize("size", [0, 1, 65536, 200_001])
def test_server_gives_a_file(connection: http.client.HTTPConnection, size: int) -> None:
    answer = ask(connection, "GET", f"/file?size={size}")
    assert answer.body == (bytes(range(256)) * (size // 256 + 1))[:size]
    assert answer.type == "application/octet-stream"


def test_server_echoes(connection: http.client.HTTPConnection) -> None:
    body = os.urandom(500_000)
    answer = ask(connection, "PUT", "/echo", body, headers={"Content-Type": "image/png"})
    assert (answer.body, answer.type) == (body, "image/png")
    answer = ask(connection, "POST", "/echo", iter([body, b"more"]), encode_chunked=True)
    assert (answer.body, answer.type) == (body + b"more", "application/octet-stream")


# --- the server: logins, cookies, certificates ---

LOGIN = {"Authorization": basic("ada", "engine")}


def test_server_lets_its_user_in(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "GET", "/private", headers=LOGIN).body == b"Hello ada! This is private.\n"
    answer = ask(connection, "POST", "/private", iter([b"abc", b"de"]), headers=LOGIN, encode_chunked=True)
    assert answer.json == {"bytes": 5, "chunks": 2, "sha256": hashlib.sha256(b"abcde").hexdigest()}
    assert ask(connection, "PUT", "/private", b"abc", headers=LOGIN).json["bytes"] == 3


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic YWRhOg=",
        basic("ada", "Engine"),
        basic("ada", ""),
        basic("", "engine"),
        basic("eve", "engine"),
        LOGIN["Authorization"].replace("Basic", "Digest"),
        "Basic \xe4",
    ],
)
def test_server_lets_nobody_else_in(connection: http.client.HTTPConnection, authorization: Optional[str]) -> None:
    connection.connect()
    sock = connection.sock
    headers = {} if authorization is None else {"Authorization": authorization}
    for _ in range(2):
        answer = ask(connection, "GET", "/private", headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="examples", charset="UTF-8"'
        assert answer.json == {"error": "user and password, please"}
        assert connection.sock is sock


def test_server_wants_the_login_before_the_upload(port: int) -> None:
    """It does not wait for a body that it will not take; and its answer is not lost in a reset."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as sock, sock.makefile("rb") as reader:
        sock.sendall(b"POST /private HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
        sock.sendall(bytes(100_000))
        head, _, body = reader.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nConnection: close" in head
    assert json.loads(body)["error"]


@pytest.mark.parametrize(
    ("cookie", "visits"),
    [
        (None, 1),
        ("visits=1", 2),
        ("a=b; visits=41; c=d", 42),
        ("revisits=7", 1),
        ("visits=-1", 1),
        ("visits=1e3", 1),
        ("visits=" + "9" * 5000, 1),
    ],
)
def test_server_counts_visits(connection: http.client.HTTPConnection, cookie: Optional[str], visits: int) -> None:
    answer = ask(connection, "GET", "/visit", headers={} if cookie is None else {"Cookie": cookie})
    assert answer.body == b"This is visit %d.\n" % visits
    assert answer.headers.get_all("Set-Cookie") == [f"visits={visits}; Max-Age=86400; Path=/"]


def test_server_knows_nobody_without_tls(connection: http.client.HTTPConnection) -> None:
    assert ask(connection, "GET", "/whoami").body == b"nobody\n"


@pytest.mark.parametrize(("certificate", "name"), [(None, b"nobody\n"), ("ada.pem", b"ada\n")])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_server_knows_who_has_a_certificate(host: str, certificate: Optional[str], name: bytes) -> None:
    with server.running_server(tls=server_context(ssl.CERT_OPTIONAL)) as url:
        assert url.startswith("https://127.0.0.1:")
        port = int(url.rpartition(":")[2])
        connection = http.client.HTTPSConnection(host, port, timeout=LIMIT, context=client_context(certificate))
        with contextlib.closing(connection):
            for _ in range(2):
                assert ask(connection, "GET", "/whoami").body == name
            assert ask(connection, "GET", "/upload").closes


def test_server_that_demands_a_certificate_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    """And what it says is not lost in a reset."""
    with server.running_server(tls=server_context(ssl.CERT_REQUIRED)) as url:
        port = int(url.rpartition(":")[2])
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as plain:  # noqa: SIM117
                with pytest.raises(ssl.SSLError, match=r"certificate required|handshake failure"):
                    talk_tls(plain)
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert b"HTTP" not in plain.recv(100)
    assert capfd.readouterr().err == ""


def talk_tls(plain: socket.socket) -> bytes:
    with client_context().wrap_socket(plain, server_hostname="127.0.0.1") as sock:
        sock.sendall(b"GET /whoami HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        return sock.recv(1000)


def test_server_with_tls_closes_everything(capfd: pytest.CaptureFixture[str]) -> None:
    with server.running_server(tls=server_context()) as url:
        port = int(url.rpartition(":")[2])
        silent = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        idle = http.client.HTTPSConnection("127.0.0.1", port, timeout=LIMIT, context=client_context())
        assert ask(idle, "GET", "/").status == 200
    with silent, contextlib.closing(idle), contextlib.suppress(ConnectionResetError):
        assert silent.recv(1) == b""
    assert not [thread for thread in threading.enumerate() if "example-server" in thread.name]
    assert capfd.readouterr().err == ""


def test_the_folder_of_certificates_says_what_they_are() -> None:
    assert sorted(path.name for path in CERTIFICATES.iterdir()) == ["README.txt", "ada.pem", "ca.pem", "server.pem"]
    readme = (CERTIFICATES / "README.txt").read_text("utf-8")
    assert "for nothing else" in readme
    assert "PRIVATE" not in (CERTIFICATES / "ca.pem").read_text("utf-8")


# --- the proxy ---

PROXY_LOGIN = {"Proxy-Authorization": basic("proxy", "please")}


@pytest.fixture
def proxied() -> Iterator[http.client.HTTPConnection]:
    """A connection to a proxy."""
    with proxy.running_proxy() as url:
        proxy_port = int(url.rpartition(":")[2])
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy_port, timeout=LIMIT)) as connection:
            yield connection


def ask_through(
    connection: http.client.HTTPConnection,
    method: str,
    url: str,
    body: Any = None,
    headers: Optional[dict[str, str]] = None,
    **options: Any,
) -> Answer:
    return ask(connection, method, url, body, headers={**PROXY_LOGIN, **(headers or {})}, **options)


def test_proxy_wants_a_login_and_keeps_the_connection(proxied: http.client.HTTPConnection, port: int) -> None:
    proxied.connect()
    sock = proxied.sock
    for login in (None, basic("proxy", "Please"), basic("ada", "engine")):
        headers = {} if login is None else {"Proxy-Authorization": login}
        answer = ask(proxied, "GET", f"http://127.0.0.1:{port}/", headers=headers)
        assert answer.status == 407
        assert answer.headers["Proxy-Authenticate"] == 'Basic realm="proxy of the examples", charset="UTF-8"'
        assert answer.json == {"error": "who are you?"}
    assert ask_through(proxied, "GET", f"http://127.0.0.1:{port}/").status == 200
    assert proxied.sock is sock


def test_proxy_carries_bodies_both_ways(proxied: http.client.HTTPConnection, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    body = os.urandom(3_000_000)
    for _ in range(2):
        assert ask_through(proxied, "POST", f"{url}/echo", body, {"Content-Type": "image/png"}).body == body
        answer = ask_through(proxied, "PUT", f"{url}/echo", iter([body, b"more"]), encode_chunked=True)
        assert answer.body == body + b"more"
        assert ask_through(proxied, "GET", f"{url}/stream?lines=3").body.count(b"\n") == 3
        assert ask_through(proxied, "POST", f"{url}/upload").json["bytes"] == 0


def test_proxy_leaves_what_is_the_clients_affair(proxied: http.client.HTTPConnection, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    answer = ask_through(proxied, "GET", f"{url}/redirect?to=/file")
    assert (answer.status, answer.headers["Location"]) == (302, "/file")
    assert ask_through(proxied, "GET", f"{url}/private").headers["WWW-Authenticate"]
    assert ask_through(proxied, "GET", f"{url}/private", headers=LOGIN).body == b"Hello ada! This is private.\n"
    answer = ask_through(proxied, "GET", f"{url}/visit", headers={"Cookie": "visits=1"})
    assert answer.body == b"This is visit 2.\n"
    assert answer.headers["Set-Cookie"].startswith("visits=2;")
    assert ask_through(proxied, "GET", f"{url}/visit").body == b"This is visit 1.\n"  # it keeps no cookies itself
    answer = ask_through(proxied, "GET", f"{url}/nothing")
    assert (answer.status, answer.json["error"]) == (404, "nothing here for GET /nothing")


def test_proxy_forwards_what_is_not_between_neighbours(proxied: http.client.HTTPConnection) -> None:
    answer = (
        b"HTTP/1.1 200 Fine\r\nServer: old\r\nContent-Encoding: gzip\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"Connection: close, Secret\r\nSecret: 1\r\nKeep-Alive: timeout=5\r\nVia: 1.1 other\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    with Peer(scripted(answer)) as peer:
        received = ask_through(
            proxied,
            "POST",
            peer.url("/path?a=%20"),
            b"body",
            {
                "host": "other.example",
                "user-agent": "mine",
                "X-One": "1",
                "X-Two": "2",
                "Connection": "Keep-Alive, x-one",
                "Proxy-Connection": "Keep-Alive",
                "TE": "trailers",
            },
        )
        request = peer.wait_request()
    assert (received.status, received.body) == (200, b"abc")  # decoding is not its affair
    assert [(name.lower(), value) for name, value in received.headers.items()] == [
        ("server", "old"),
        ("content-encoding", "gzip"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("via", "1.1 other"),
        ("via", "1.1 example-proxy"),
        ("transfer-encoding", "chunked"),
    ]
    assert (request.method, request.target, request.body) == ("POST", "/path?a=%20", b"body")
    assert {name.lower(): value for name, value in request.headers} == {
        "host": peer.url("")[len("http://") :].rstrip("/"),
        "user-agent": "mine",
        "accept-encoding": "identity",  # said by http.client
        "content-length": "4",
        "connection": "keep-alive",
        "x-two": "2",
        "via": "1.1 example-proxy",
    }


def test_proxy_adds_nothing_of_its_own(port: int) -> None:
    with Peer(scripted(b"HTTP/1.1 204 No Content\r\n\r\n")) as peer, proxy.running_proxy() as url:
        head = f"OPTIONS {peer.url('/')} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
        head += f"Proxy-Authorization: {PROXY_LOGIN['Proxy-Authorization']}\r\n\r\n"
        answer = talk(int(url.rpartition(":")[2]), head.encode())
        assert answer == b"HTTP/1.1 204 No Content\r\nVia: 1.1 example-proxy\r\nConnection: close\r\n\r\n"
        assert {name.lower() for name, _ in peer.wait_request().headers} == {"host", "connection", "via"}


def test_proxy_knows_answers_without_a_body(proxied: http.client.HTTPConnection) -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
    ]
    for answer in answers:
        with Peer(scripted(answer)) as peer:
            method = "GET" if b"304" in answer else "HEAD"
            received = ask_through(proxied, method, peer.url("/"))
            assert received.body == b""
            assert received.headers["Content-Length"] == ("1000" if b"1000" in answer else None)
            assert received.headers["Transfer-Encoding"] is None


def test_proxy_passes_an_early_answer_on(port: int) -> None:
    """More is announced than is ever sent, and the answer comes before that; both with a length and in chunks."""
    with proxy.running_proxy() as url:
        for framing in ("Content-Length: 1000000000", "Transfer-Encoding: chunked"):
            proxy_port = int(url.rpartition(":")[2])
            head = f"POST http://127.0.0.1:{port}/upload?limit=100000 HTTP/1.1\r\nHost: h\r\n{framing}\r\n"
            head += f"Proxy-Authorization: {PROXY_LOGIN['Proxy-Authorization']}\r\n\r\n"
            with socket.create_connection(("127.0.0.1", proxy_port), timeout=LIMIT) as sock:
                sock.sendall(head.encode())
                answer = b""
                sock.settimeout(0.01)
                while not answer:  # a slow client; the proxy looks up at each piece
                    sock.sendall(b"4e20\r\n" + bytes(20_000) + b"\r\n")
                    with contextlib.suppress(socket.timeout):
                        answer = sock.recv(100)
            assert answer.startswith(b"HTTP/1.1 413 ")


def test_proxy_passes_no_cut_answer_for_a_whole_one(proxied: http.client.HTTPConnection) -> None:
    for framing in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"):
        with Peer(scripted(b"HTTP/1.1 200 OK\r\n" + framing)) as peer, pytest.raises(http.client.IncompleteRead):
            ask_through(proxied, "GET", peer.url("/"))
        proxied.close()


def test_proxy_passes_no_cut_upload_for_a_whole_one() -> None:
    with Peer(Conn.read_request) as peer, proxy.running_proxy() as url:
        head = f"POST {peer.url('/')} HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n"
        head += f"Proxy-Authorization: {PROXY_LOGIN['Proxy-Authorization']}\r\n\r\nabc"
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=LIMIT) as sock:
            sock.sendall(head.encode())
            request = peer.wait_request()
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        peer.join()
    assert not request.complete
    assert request.cut_by is not None


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/", 400),
        ("GET", "https://127.0.0.1/", 400),
        ("GET", "http://", 400),
        ("GET", "http://127.0.0.1:x/", 400),
        ("CONNECT", "127.0.0.1:443", 501),
    ],
)
def test_proxy_refuses(proxied: http.client.HTTPConnection, method: str, url: str, status: int) -> None:
    assert ask_through(proxied, method, url).status == status


def test_proxy_tells_what_went_wrong_behind_it(proxied: http.client.HTTPConnection) -> None:
    with refused_port() as port:
        answer = ask_through(proxied, "GET", f"http://127.0.0.1:{port}/")
    assert answer.status == 502
    assert answer.json["error"].startswith("net::ERR_CONNECTION_REFUSED: ")


def test_running_proxy_closes_everything(capfd: pytest.CaptureFixture[str]) -> None:
    asked, never = Gate(), Gate()
    with Peer(scripted(lambda conn: asked.set(), never)) as peer:
        with proxy.running_proxy() as url:
            waiting = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=LIMIT)
            waiting.request("GET", peer.url("/"), headers=PROXY_LOGIN)
            asked.wait()
        never.set()
    with contextlib.closing(waiting), contextlib.suppress(ConnectionError, http.client.HTTPException):
        waiting.getresponse().read()
    assert capfd.readouterr().err == ""


# --- the server: what goes wrong ---


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/upload", 404),
        ("POST", "/stream", 404),
        ("GET", "/file?size=-1", 400),
        ("GET", "/stream?pause=nan", 400),
        ("POST", "/upload?rate=fast", 400),
    ],
)
def test_server_refuses(connection: http.client.HTTPConnection, method: str, path: str, status: int) -> None:
    answer = ask(connection, method, path, b"with a body")
    assert answer.status == status
    assert answer.json["error"]
    assert answer.closes


def test_server_closes_after_a_body_that_nobody_read(port: int) -> None:
    answer = talk(port, b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\nabc")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close\r\n" in answer


CHUNKED = b"POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n",
        CHUNKED + b"\r\n-1\r\n",
        CHUNKED + b"\r\n1_0\r\n",
        CHUNKED + b"\r\n\r\n",
        CHUNKED + b"\r\n2\r\nabc\r\n",
        CHUNKED + b"\r\n" + b"1" * 10_000,
        b"POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc",
    ],
)
def test_server_refuses_a_body_in_no_proper_form(port: int, request_bytes: bytes) -> None:
    answer = talk(port, request_bytes)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Connection: close\r\n" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
        CHUNKED + b"\r\n5\r\nabc",
        CHUNKED + b"\r\n5\r\nabcde\r\n",
    ],
)
def test_server_outlives_a_client_that_goes_away(
    port: int, connection: http.client.HTTPConnection, request_bytes: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as sock:
        sock.sendall(request_bytes)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""  # half a body gets no answer
    assert ask(connection, "GET", "/").status == 200
    assert capfd.readouterr().err == ""


def test_server_says_continue(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as sock, sock.makefile("rb") as reader:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert reader.readline() == b"\r\n"
        sock.sendall(b"abc")
        assert reader.readline() == b"HTTP/1.1 200 OK\r\n"


def test_server_never_asks_for_more_than_it_should() -> None:
    class Source:
        def __init__(self) -> None:
            self.most = 0

        def read1(self, size: int) -> bytes:
            self.most = max(self.most, size)
            return bytes(size)

    source = Source()
    body = server.Body(source, {"Content-Length": "1000000"})
    while body.read(1000):
        pass
    assert (source.most, body.bytes, body.done) == (1000, 1_000_000, True)


# --- the server: as it is run ---


def test_running_server_closes_everything() -> None:
    with server.running_server() as url:
        port = int(url.rpartition(":")[2])
        idle = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        idle.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert idle.recv(8) == b"HTTP/1.1"
    with idle, idle.makefile("rb") as reader:
        reader.read()  # comes to an end
    assert not [thread for thread in threading.enumerate() if "example-server" in thread.name]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=LIMIT)


@pytest.mark.parametrize(("name", "status_code"), [("server", 200), ("proxy", 407)])
def test_server_and_proxy_as_programs(name: str, status_code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env=environment(),
    )
    with process:
        try:
            assert process.stdout is not None
            match = re.fullmatch(r"Listening on (http://127\.0\.0\.1:(\d+)); .*\n", process.stdout.readline())
            assert match is not None
            answer = talk(int(match[2]), b"GET /?word HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 %d " % status_code)
            assert process.stdout.readline() == f'127.0.0.1 "GET /?word HTTP/1.1" {status_code} -\n'
            status = stop(process)
            assert process.stdout.read() == ""
        finally:
            process.kill()
    if status is not None:
        assert status == 0


def stop(process: subprocess.Popen[str]) -> Optional[int]:
    """Ctrl-C, where a test can press it."""
    if sys.platform == "win32":
        process.kill()
        return None
    process.send_signal(signal.SIGINT)
    return process.wait(LIMIT)
