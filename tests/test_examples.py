"""The examples run, each alone, and print what they promise; so does the demo. And their server serves."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import http.client
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

import pytest

from tests.support import refused_port

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
LIMIT = 30  # seconds for one program or one answer

# What each example prints, as a regular expression for all of it.
PRINTS = {
    "abort_from_thread": r"(line \d+ of 100000\n)+net::ERR_ABORTED: the request was aborted; free after [\d.]+ ms\n",
    "asyncio_callbacks": r"line 3 of 3, line 4 of 4, line 5 of 5\nthe long one was cancelled, and with it aborted\n",
    "backpressure": r'\{"bytes": 20000000, .*\}\n'
    r"20000000 bytes sent; waited [1-9]\d* times for room; never more than 1\d{6} bytes in the queue\n",
    "csv_json_upload": r"csv:  1742656 bytes in several chunks\n"
    r"json: 10000 numbers came back, the last is 99980001\n",
    "download_to_file": r"downloaded 20000000 of 20000000 bytes\n",
    "download_with_pause": r"(pause after about \d+ bytes\n){3}downloaded 18000000 bytes with 3 pauses\n",
    "early_answer": r"413 Content Too Large\nthe server says: more than 3000000 bytes\nstopped early: True\n",
    "get": r"200 OK text/plain; charset=utf-8\nHello! This is the server of the examples\.\nclosed\n",
    "post": r"200 with 52 bytes:\nText goes out as UTF-8,\nbytes as they are\.\nThe end\.\n",
    "upload_folder": r"packed and sent (\d+) bytes; the server counted \1\nall of it arrived: True\n",
}


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path), "PYTHONIOENCODING": "utf-8"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python program without a terminal and without input; every warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        timeout=LIMIT,
        check=False,
    )


def load(name: str) -> ModuleType:
    """A module from the folder of the examples, which is no package."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


server = load("server")


@pytest.fixture
def port() -> Iterator[int]:
    with server.running_server() as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture
def connection(port: int) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)) as connection:
        yield connection


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
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
    assert names == {*PRINTS, "demo", "server"}


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_example_prints_its_result(name: str) -> None:
    done = run(str(EXAMPLES / f"{name}.py"))
    assert done.stderr == ""
    assert done.returncode == 0
    assert re.fullmatch(PRINTS[name], done.stdout), done.stdout


@pytest.mark.parametrize("name", sorted(PRINTS))
def test_example_is_short_and_says_what_it_shows(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text("utf-8")
    assert 15 <= len(text.splitlines()) <= 40
    assert ast.get_docstring(ast.parse(text))


def test_example_takes_the_url_of_a_server(port: int) -> None:
    done = run(str(EXAMPLES / "post.py"), f"http://127.0.0.1:{port}/")
    assert done.stderr == ""
    assert re.fullmatch(PRINTS["post"], done.stdout)


@pytest.mark.parametrize("name", ["backpressure", "download_to_file", "get"])
def test_example_without_a_server_says_so_and_fails(name: str) -> None:
    with refused_port() as port:
        done = run(str(EXAMPLES / f"{name}.py"), f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "net::ERR_CONNECTION_REFUSED" in done.stderr.splitlines()[-1]


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


def test_server_as_a_program() -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / "server.py"), "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    with process:
        try:
            assert process.stdout is not None
            match = re.fullmatch(r"Listening on (http://127\.0\.0\.1:(\d+)); .*\n", process.stdout.readline())
            assert match is not None
            answer = talk(int(match[2]), b"GET /?word HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert process.stdout.readline() == '127.0.0.1 "GET /?word HTTP/1.1" 200 -\n'
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
