"""The command: what may be said in a shell, what comes of it, and what it leaves behind whatever happens.

Where the behaviour of a process matters (signals, pipes, terminals) it is run as one; else in this one.
"""

from __future__ import annotations

import configparser
import gzip
import http
import importlib
import os
import re
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Union

import pytest

import clientrequest
from clientrequest import Timeout, _command
from clientrequest._command import Stopped, Transfer, main
from clientrequest._command_line import DONE, FAILED, LOCAL, REFUSED, USAGE, FormPart, Plan, parse_command_line
from clientrequest._command_screen import Screen, make_screen, printable, progress_text
from clientrequest._options import parse_url
from tests.support import (
    LIMIT,
    Conn,
    Gate,
    Peer,
    ca_path,
    client_certificate,
    demanding_context,
    early_answer,
    echo_json,
    refused_port,
    scripted,
    server_context,
    site,
)

if os.name == "posix":
    import pty

ROOT = Path(__file__).resolve().parent.parent
URL = "http://example.com/"
SECRET = "hunter2"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
ON_POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")


# ------------------------------------------------------------------------------
# The line


def parse(*arguments: str) -> Plan:
    return parse_command_line(arguments)


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        ([URL], "GET"),
        (["-q", URL], "GET"),
        (["delete", URL], "delete"),
        (["-d", "a=1", URL], "POST"),
        ([URL, "-d", "a=1"], "POST"),
        (["-T", "-", URL], "POST"),
        (["-F", "a=1", URL], "POST"),
        (["--json", "1", URL], "POST"),
        (["PUT", "-T", "-", URL], "PUT"),
        (["PUT", URL, "-d", ""], "PUT"),
    ],
)
def test_method(arguments: list[str], method: str) -> None:
    plan = parse(*arguments)
    assert (plan.options["method"], plan.options["url"]) == (method, URL)


@pytest.mark.parametrize(
    ("arguments", "data", "headers"),
    [
        ([], None, []),
        (["-d", ""], b"", [("Content-Type", "application/x-www-form-urlencoded")]),
        (["-d", "a=ä", "-d", "@b"], "a=ä&@b".encode(), [("Content-Type", "application/x-www-form-urlencoded")]),
        (["-d", "x", "-H", "content-type:text/plain"], b"x", [("content-type", "text/plain")]),
        (["--json", "[1e999]"], b"[1e999]", [("Content-Type", "application/json"), ("Accept", "application/json")]),
        (["-T", "-"], None, []),
        (["-T", "-", "-u", "ada"], None, [("Expect", "100-continue")]),
        (["-T", "-", "-u", "ada", "-H", "Expect:"], None, [("Expect", "")]),
        (["-F", "a=1", "-u", "ada"], None, []),
        (["-F", "a=@b", "-u", "ada"], None, [("Expect", "100-continue")]),
        (["-H", "A: 1:2 ", "-H", "a: 3"], None, [("A", "1:2"), ("a", "3")]),
        (["-d", "\udce4", "-H", "Content-Length: 1", "-H", "Content-Type: x"], b"\xe4", None),
    ],
)
def test_body_and_headers(arguments: list[str], data: Optional[bytes], headers: Any) -> None:
    plan = parse(*arguments, URL)
    assert plan.data == data
    assert headers is None or plan.options["headers"] == headers


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a=", FormPart("a", b"")),
        ("a=b=c;type=text/plain", FormPart("a", b"b=c;type=text/plain")),
        ("ä=\udce4<@", FormPart("ä", b"\xe4<@")),
        ("a=@b=c;d", FormPart("a", b"", "b=c;d")),
        ("a=@-;filename=b;c", FormPart("a", b"", "-", "b;c")),
        ("a=@b;type=text/a;charset=b;filename=c", FormPart("a", b"", "b", "c", "text/a;charset=b")),
    ],
)
def test_part_of_a_form(text: str, part: FormPart) -> None:
    assert parse("-F", "first=1", "-F", text, URL).form == (FormPart("first", b"1"), part)


@pytest.mark.parametrize(
    ("arguments", "timeout"),
    [
        ([], Timeout(30, 300, 300, None)),
        (["--timeout", "5"], Timeout(5, 5, 5, None)),
        (["--timeout", "5", "--connect-timeout", "0.5", "--max-time", "60"], Timeout(0.5, 5, 5, 60)),
    ],
)
def test_limits(arguments: list[str], timeout: Timeout) -> None:
    assert parse(*arguments, URL).options["timeout"] == timeout


@pytest.mark.parametrize(
    ("arguments", "user", "password", "asks"),
    [
        ([URL], None, None, True),
        (["-u", "ada", URL], "ada", None, True),
        (["-u", "ada:", URL], "ada", "", False),
        (["-u", "a@d/a:p:%20/@?#", "https://x:y@[::1]:8/p?q#f"], "a@d/a", "p:%20/@?#", False),
        (["-u", "ada", "http://x:y@example.com/"], "ada", None, True),
        (["http://x:y@example.com/"], "x", "y", False),
        (["http://x@example.com/"], "x", None, True),
    ],
)
def test_user(arguments: list[str], user: Optional[str], password: Optional[str], asks: bool) -> None:
    plan = parse(*arguments)
    target, without = parse_url(plan.options["url"]), parse_url(arguments[-1])
    assert (plan.user, target.password, plan.asks) == (user, password, asks)
    assert target.username == (user if password is not None else None)
    assert target.url == without.url


BAD_LINES: list[tuple[list[str], str]] = [
    ([], "a URL is missing"),
    (["-q"], "a URL is missing"),
    (["GET", URL, SECRET], "expected [METHOD] URL, got 3 arguments"),
    ([URL, f"--pass={SECRET}"], "unknown option --pass\n"),
    ([URL, f"-p{SECRET}"], "unknown option -p\n"),
    ([f"http://a:{SECRET}@b/", "POST"], "METHOD comes before URL"),
    (["GE T", URL], "METHOD: 'GE T' is not an HTTP token"),
    (["CONNECT", URL], "METHOD: CONNECT is for proxies"),
    (["example.com"], "URL: expected an absolute http or https URL, got 'example.com'"),
    ([f"ftp://a:{SECRET}@b/"], "URL: expected an absolute http or https URL"),
    (["-H", SECRET, URL], "-H/--header: expected 'Name: value'"),
    (["-H", f"X: {SECRET}\r\nY: 1", URL], "-H/--header: header 'X': the value has a character that may not be sent"),
    (["-H", f"X Y: {SECRET}", URL], "header name 'X Y' is not an HTTP token"),
    (["-H", "Content-Length: -1", URL], "header 'Content-Length': '-1' is not a number of bytes"),
    (["-H", "Transfer-Encoding: gzip", URL], "nothing but 'chunked' is supported"),
    (["-H", "Content-Length: 3", "-d", "four", URL], "Content-Length is 3, and the body has 4 bytes"),
    (["-H", "Content-Length: 3", "--chunked", "-T", "-", URL], "not allowed together with --chunked"),
    (["--chunked", URL], "--chunked needs a body"),
    (["-d", SECRET, "-T", "-", URL], "not allowed with argument"),
    (["-d", SECRET, "-F", f"a={SECRET}", URL], "-F/--form: not allowed with argument -d/--data"),
    (["-F", SECRET, URL], "-F/--form: expected NAME=VALUE or NAME=@FILE"),
    (["-F", f"={SECRET}", URL], "-F/--form: expected NAME=VALUE or NAME=@FILE"),
    (["-F", "a=@", URL], "-F/--form: expected the path of a file"),
    (["-F", "a=@b;type=", URL], "-F/--form: expected something behind ;type= and ;filename="),
    (["-F", "a=@-", "-F", "b=@-;filename=c", URL], "-F: standard input can be read only once"),
    (["-F", "a=1", "-H", "content-type: a/b", URL], "-H: Content-Type is not allowed together with -F"),
    (["-F", "a=1", "-H", "Content-Length: 1", URL], "-H: Content-Length is not allowed together with -F"),
    (["--json", "{", URL], "--json: this is no JSON: Expecting property name"),
    (["--json", "NaN", URL], "--json: this is no JSON: NaN is not allowed"),
    (["--json", "[" * 100_000, URL], "--json: this is no JSON: too deeply nested"),
    (["--json", '"\udce4"', URL], "--json: this is no JSON: the text is not UTF-8"),
    (["-u", f":{SECRET}", URL], "expected NAME or NAME:PASS,"),
    (["-u", f"ada:{SECRET}\n", URL], "without control characters"),
    (["--timeout", "0", URL], "--timeout: expected a number of seconds, more than 0"),
    (["--max-time", "nan", URL], "--max-time: expected a number of seconds, more than 0"),
    (["--connect-timeout", "soon", URL], "--connect-timeout: expected a number of seconds, more than 0"),
    (["--key", "key.pem", URL], "--key needs --cert"),
    (["-o", "", URL], "-o/--output: expected the path of a file"),
    (["-T", URL], "a URL is missing"),
    (["--verb", URL], "unknown option --verb\n"),
    (["-X", "PUT", URL], "unknown option -X; METHOD stands before URL\n"),
    (["-Lk", URL], "unknown option -L; redirects are followed anyway\n"),
    (["--insecure", URL], "unknown option --insecure; --cacert FILE says whom to trust\n"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_LINES, ids=[line[1][:40] for line in BAD_LINES])
def test_mistake_is_named_and_no_secret_with_it(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code == USAGE
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("clientrequest: ")
    assert said.err.endswith("\nTry: clientrequest --help\n")
    assert SECRET not in said.err
    assert said.out == ""


def test_help_is_fit_to_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("usage: clientrequest [OPTION ...] [METHOD] URL\n")
    assert "whose exit status cannot be seen from here" in re.sub(r"\s+", " ", text)
    codes = [int(code) for code in re.findall(r"^  (\d+)  ", text.partition("exit codes:")[2], re.M)]
    assert f"the first {_command._KEPT >> 20} MiB are kept" in text
    assert codes == [DONE, FAILED, USAGE, LOCAL, REFUSED, 130, 141]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"clientrequest {clientrequest.__version__}\n"


def test_script_is_this_command() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    (script,) = config["options.entry_points"]["console_scripts"].split("\n")[1:]
    name, _, place = script.partition(" = ")
    module, _, function = place.partition(":")
    assert name == "clientrequest"
    assert getattr(importlib.import_module(module), function) is main


# ------------------------------------------------------------------------------
# In this process


class Done(NamedTuple):
    code: Any
    out: bytes
    err: str


class Descriptor(NamedTuple):
    """All that the command wants of ``sys.stdin``."""

    number: int

    def fileno(self) -> int:
        return self.number


Command = Callable[..., Done]


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in this process, without the proxies of the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def run(*arguments: str, stdin: Union[int, None] = None) -> Done:
        capfdbinary.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", None if stdin is None else Descriptor(stdin))
            before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
            code = main(arguments)
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        out, err = capfdbinary.readouterr()
        return Done(code, out, err.decode())

    return run


@pytest.fixture
def pipe() -> Iterator[tuple[int, Callable[..., None]]]:
    """The reading end of a pipe, and a function that writes to it, or closes it when called without anything."""
    reading, writing = os.pipe()
    open_ends = {reading, writing}

    def write(data: bytes = b"") -> None:
        if data:
            os.write(writing, data)
        else:
            open_ends.discard(writing)
            os.close(writing)

    yield reading, write
    for end in open_ends:
        os.close(end)


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_body_comes_out_byte_for_byte(command: Command) -> None:
    body = bytes(range(256)) * 1000
    with Peer(lambda conn: (conn.read_request(), conn.respond(200, body=body))) as peer:
        assert command(peer.url()) == (DONE, body, "")
        request = peer.wait_request()
    assert (request.method, request.target, request.header("accept-encoding")) == ("GET", "/", None)


def test_body_comes_out_as_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    pieces = []

    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nfirst")
        assert select.select([reading], [], [], LIMIT)[0]
        pieces.append(os.read(reading, 100))
        conn.send(b"end")

    with Peer(answer) as peer, os.fdopen(reading, "rb", buffering=0), os.fdopen(writing, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["--proxy", "", peer.url()]) == DONE
        peer.join()
        pieces.append(os.read(reading, 100))
    assert pieces == [b"first", b"end"]


def test_head_comes_before_the_body(command: Command) -> None:
    with Peer(scripted(b"HTTP/1.1 203 \r\nX-A: \xe4\r\nContent-Length: 1\r\nx-a: 2\r\n\r\nb")) as peer:
        assert command("-i", peer.url()).out == b"HTTP/1.1 203\nX-A: \xe4\nContent-Length: 1\nx-a: 2\n\nb"


def test_compression_is_only_for_those_who_ask(command: Command) -> None:
    packed = gzip.compress(b"text")

    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(200, {"Content-Encoding": "gzip"}, packed)

    with Peer(answer) as peer:
        assert command(peer.url()).out == packed
        assert command("--compressed", peer.url()).out == b"text"
        assert command("-H", "Accept-Encoding: gzip", peer.url()).out == packed
        asked = [peer.wait_request(number).header("accept-encoding") for number in (1, 2, 3)]
    assert asked[0] is None
    assert "gzip" in (asked[1] or "")
    assert asked[2] == "gzip"


@pytest.mark.parametrize("chunked", [False, True])
def test_data(command: Command, chunked: bool) -> None:
    with Peer(lambda conn: (conn.read_request(), conn.send(OK))) as peer:
        assert command("-d", "a=1", "-d", "b", *["--chunked"] * chunked, peer.url()) == (DONE, b"ok", "")
        request = peer.wait_request()
    assert (request.method, request.body, request.complete) == ("POST", b"a=1&b", True)
    assert (request.content_length, request.chunked) == (None, True) if chunked else (5, False)


# --- uploads ---

OF_STANDARD_INPUT = pytest.mark.parametrize("body", [["-T", "-"], ["-F", "file=@-"]], ids=["-T", "-F"])


def read_chunks_until(conn: Conn, end: bytes) -> bytes:
    """What comes of a body in chunks, up to where it ends like that."""
    got = b""
    while not got.endswith(end):
        chunk = conn.read_chunk()
        assert chunk, f"the body ended: {got!r}"
        got += chunk
    return got


def wait_for_pumps() -> None:
    """Wait until no thread reads a body any more."""
    for thread in threading.enumerate():
        if thread.name == "clientrequest-pump":
            thread.join(LIMIT)
            assert not thread.is_alive()


def upload(command: Command, *arguments: str, stdin: Optional[int] = None) -> Any:
    """What the server saw of it."""
    with Peer(lambda conn: (conn.read_request(), conn.send(OK))) as peer:
        assert command(*arguments, peer.url(), stdin=stdin) == (DONE, b"ok", "")
        return peer.wait_request()


@pytest.mark.parametrize("size", [0, 3, 3_000_000])
def test_file_goes_with_its_length(command: Command, tmp_path: Path, size: int) -> None:
    path = tmp_path / "body"
    path.write_bytes(bytes(size))
    request = upload(command, "-T", str(path))
    assert (request.method, request.content_length, len(request.body), request.complete) == ("POST", size, size, True)
    request = upload(command, "PUT", "--chunked", "-T", str(path))
    assert (request.method, request.chunked, len(request.body), request.complete) == ("PUT", True, size, True)


def test_file_in_the_place_of_standard_input_goes_from_its_position_on(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"head\nbody")
    with path.open("rb", buffering=0) as file:
        file.read(5)
        request = upload(command, "-T", "-", stdin=file.fileno())
    assert (request.content_length, request.body) == (4, b"body")


@ON_LINUX
def test_file_that_says_it_is_empty_and_is_not(command: Command) -> None:
    request = upload(command, "-T", "/proc/self/cmdline")
    assert request.chunked
    assert request.body == Path("/proc/self/cmdline").read_bytes() != b""


def test_pipe_goes_in_chunks_while_it_comes(command: Command, pipe: Any) -> None:
    reading, write = pipe
    chunks: list[bytes] = []

    def read_chunks(conn: Conn) -> None:
        conn.read_request(body=False)
        for piece in (b"one", b"two", b""):
            write(piece)
            chunks.append(conn.read_chunk())
        conn.send(OK)

    with Peer(read_chunks) as peer:
        assert command("-T", "-", peer.url(), stdin=reading) == (DONE, b"ok", "")
    assert chunks == [b"one", b"two", b""]


@ON_POSIX
def test_pipe_that_does_not_block(command: Command, pipe: Any) -> None:
    reading, write = pipe
    os.set_blocking(reading, False)

    def answer(conn: Conn) -> None:
        request = conn.read_request(body=False)
        write(b"late")
        write()
        conn.read_body(request)
        conn.send(OK)

    with Peer(answer) as peer:
        assert command("-T", "-", peer.url(), stdin=reading) == (DONE, b"ok", "")
        assert peer.wait_request().body == b"late"


@pytest.mark.parametrize(("announced", "code"), [(4, DONE), (5, FAILED), (3, FAILED)])
def test_pipe_is_held_to_the_length_that_was_said(command: Command, pipe: Any, announced: int, code: int) -> None:
    reading, write = pipe
    write(b"four")
    write()
    with Peer(lambda conn: (conn.read_request(), conn.send(OK))) as peer:
        done = command("-T", "-", "-H", f"Content-Length: {announced}", peer.url(), stdin=reading)
        assert done.code == code
        if code == DONE:
            assert peer.wait_request().body == b"four"
        else:
            assert done.err.startswith("clientrequest: ERR_CONTENT_LENGTH_MISMATCH: ")
            assert not any(request.complete for request in peer.requests)


@ON_LINUX
@OF_STANDARD_INPUT
def test_source_that_fails_aborts_and_never_ends_the_body(command: Command, body: list[str]) -> None:
    """The far end of a terminal, of which nobody holds the near end any more: an error, and no end."""
    far, near = pty.openpty()

    def answer(conn: Conn) -> None:
        request = conn.read_request(body=False)
        read_chunks_until(conn, b"begun")
        os.close(near)
        conn.read_body(request)

    with Peer(answer) as peer:
        os.write(near, b"begun")
        done = command(*body, peer.url(), stdin=far)
        peer.join()
        os.close(far)
    assert done == (LOCAL, b"", "clientrequest: standard input: Input/output error\n")
    (request,) = peer.requests
    assert (request.body, request.complete, request.cut_by is None) == (b"", False, False)


@ON_POSIX
def test_source_that_cannot_be_opened(command: Command, tmp_path: Path) -> None:
    with Peer(echo_json) as peer:
        for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file or directory")):
            said = f"clientrequest: {path}: {reason}\n"
            assert command("-T", str(path), peer.url()) == (LOCAL, b"", said)
            assert command("-F", "a=1", "-F", f"b=@{__file__}", "-F", f"c=@{path}", peer.url()) == (LOCAL, b"", said)
        assert peer.connections == []


@OF_STANDARD_INPUT
@pytest.mark.parametrize("flags", [[], ["-f"]])
def test_early_answer_does_not_wait_for_the_pipe(
    command: Command, pipe: Any, body: list[str], flags: list[str]
) -> None:
    reading, write = pipe
    write(b"begun")
    with Peer(early_answer("close", after=5)) as peer:
        done = command(*body, *flags, peer.url(), stdin=reading)
    if flags:
        reason = http.HTTPStatus(413).phrase
        assert done == (REFUSED, b"", f"clientrequest: the answer is 413 {reason}\n")
    else:
        note = "clientrequest: 413 came before all of the body was sent; the rest was not wanted\n"
        assert done == (DONE, b"too much\n", note)
    write()  # the pump, which still waits for the pipe, is let go
    wait_for_pumps()


# --- forms ---


def form_of(request: Any, *parts: bytes) -> bytes:
    """What the body of this request should be."""
    found = re.fullmatch("multipart/form-data; boundary=([0-9a-f]{32})", request.header("content-type") or "")
    assert found is not None
    boundary = found[1].encode()
    return b"".join(b"--" + boundary + b"\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + (
        b"--" + boundary + b"--\r\n"
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_form(command: Command, tmp_path: Path, chunked: bool) -> None:
    content = os.urandom(1_000_000)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    empty = tmp_path / "empty"
    empty.touch()
    parts = ["-F", "name=ä;type=x", "-F", f"file=@{path}", "-F", f"file=@{path};type=a/b;c=d;filename=ä b"]
    request = upload(command, *parts, "-F", f"file=@{empty}", "-F", "last=", *["--chunked"] * chunked)
    body = form_of(
        request,
        'name="name"\r\n\r\nä;type=x'.encode(),
        b'name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + content,
        'name="file"; filename="ä b"\r\nContent-Type: a/b;c=d\r\n\r\n'.encode() + content,
        b'name="file"; filename="empty"\r\nContent-Type: application/octet-stream\r\n\r\n',
        b'name="last"\r\n\r\n',
    )
    assert request.body == body
    assert (request.method, request.complete, request.chunked) == ("POST", True, chunked)
    assert request.content_length == (None if chunked else len(body))


def test_pipe_in_a_form_goes_while_it_comes(command: Command, pipe: Any, tmp_path: Path) -> None:
    reading, write = pipe
    path = tmp_path / "file"
    path.write_bytes(b"behind")
    bodies = []

    def answer(conn: Conn) -> None:
        conn.read_request(body=False)
        body = b""
        for piece in (b"one", b"two"):
            write(piece)
            body += read_chunks_until(conn, piece)
        write()
        bodies.append(body + read_chunks_until(conn, b"--\r\n") + conn.read_chunk())
        conn.send(OK)

    with Peer(answer) as peer:
        done = command("-F", "tar=@-;type=a/b", "-F", f"file=@{path}", peer.url(), stdin=reading)
        assert done == (DONE, b"ok", "")
        request = peer.wait_request()
    assert bodies == [
        form_of(
            request,
            b'name="tar"; filename="tar"\r\nContent-Type: a/b\r\n\r\nonetwo',
            b'name="file"; filename="file"\r\nContent-Type: application/octet-stream\r\n\r\nbehind',
        )
    ]


def test_file_in_the_place_of_standard_input_in_a_form(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"head\nbody")
    with path.open("rb", buffering=0) as file:
        file.read(5)
        request = upload(command, "-F", "a=@-;type=a/b", stdin=file.fileno())
    assert request.body == form_of(request, b'name="a"; filename="a"\r\nContent-Type: a/b\r\n\r\nbody')
    assert request.content_length == len(request.body)


@ON_LINUX
def test_file_in_a_form_that_says_it_is_empty_and_is_not(command: Command) -> None:
    request = upload(command, "-F", "a=@/proc/self/cmdline;type=a/b")
    content = Path("/proc/self/cmdline").read_bytes()
    assert request.body == form_of(request, b'name="a"; filename="cmdline"\r\nContent-Type: a/b\r\n\r\n' + content)


class Held(Screen):
    """A screen at which the main thread is held up at a 1xx, while its pipe ends, and then hears Ctrl-C."""

    def __init__(self, end_pipe: Callable[[], None]) -> None:
        super().__init__(None)
        self._end_pipe = end_pipe
        self.transfer: Optional[Transfer] = None

    def event(self, seconds: float, name: str, details: str) -> None:
        if name != "information":
            return
        assert self.transfer is not None
        assert self.transfer._request is not None
        self._end_pipe()
        pause = threading.Event()  # a pump that waits for leave makes no noise, so this polls
        until = time.monotonic() + LIMIT
        while not {"pipe-end", "pumped"} & {message.name for message in tuple(self.transfer._inbox._messages)}:
            assert time.monotonic() < until
            pause.wait(0.002)
        self.transfer._request.flush()
        raise Stopped(signal.SIGINT)


@OF_STANDARD_INPUT
def test_end_of_a_pipe_is_not_told_before_the_main_thread_has_seen_it(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, pipe: Any, body: list[str]
) -> None:
    """Whoever takes the form apart while it comes sees the end of half a file in the next boundary."""
    reading, write = pipe
    write(b"begun")

    def answer(conn: Conn) -> None:
        request = conn.read_request(body=False)
        read_chunks_until(conn, b"begun")
        conn.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        conn.read_body(request)

    monkeypatch.setattr(sys, "stdin", Descriptor(reading))
    with Peer(answer) as peer:
        screen = Held(write)
        screen.transfer = Transfer(parse("-v", "--proxy", "", *body, peer.url()), screen)
        with pytest.raises(Stopped):
            screen.transfer.run()
        peer.join()
    (request,) = peer.requests
    assert (request.body, request.complete, request.cut_by is None) == (b"", False, False)
    wait_for_pumps()


def test_standard_input_that_is_closed(command: Command) -> None:
    with Peer(echo_json) as peer:
        assert command("-T", "-", peer.url()) == (LOCAL, b"", "clientrequest: standard input is closed\n")
        assert peer.requests == []


@ON_LINUX
def test_standard_output_that_fails(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with Peer(lambda conn: (conn.read_request(), conn.send(OK))) as peer:
        with open(writing, "wb", buffering=0) as nobody_reads:
            monkeypatch.setattr(sys, "stdout", nobody_reads)
            assert command(peer.url()) == (141, b"", "")
        with open("/dev/full", "wb", buffering=0) as full:
            monkeypatch.setattr(sys, "stdout", full)
            assert command(peer.url()).err == "clientrequest: standard output: No space left on device\n"
        monkeypatch.setattr(sys, "stdout", None)
        assert command(peer.url()) == (LOCAL, b"", "clientrequest: standard output is closed\n")


# --- downloads to a file ---


@ON_POSIX
def test_file_is_there_with_the_permissions_of_any_other(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "body"
    before = os.umask(0o027)
    try:
        with Peer(scripted(OK)) as peer:
            assert command("-o", str(path), peer.url()) == (DONE, b"", "")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"ok"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert left_in(tmp_path) == ["body"]


@ON_POSIX
def test_file_behind_a_link_is_replaced_and_the_link_stays(command: Command, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "link").symlink_to("old")
    with Peer(scripted(OK)) as peer:
        assert command("-i", "-o", str(tmp_path / "link"), peer.url()).out == OK.replace(b"\r", b"")[:-2]
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "old").read_bytes() == b"ok"


@pytest.mark.parametrize(
    ("answer", "flags", "code", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", [], FAILED, "ERR_CONTENT_LENGTH_MISMATCH: "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", [], FAILED, "ERR_INCOMPLETE_CHUNKED_ENC"),
        (b"", [], FAILED, "ERR_EMPTY_RESPONSE: "),
        (OK.replace(b"200 OK", b"404 No"), ["-f"], REFUSED, "the answer is 404 No\n"),
    ],
)
def test_file_is_as_it_was_if_anything_goes_wrong(
    command: Command, tmp_path: Path, answer: bytes, flags: list[str], code: int, message: str
) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"old")
    with Peer(scripted(answer)) as peer:
        done = command("-o", str(path), *flags, peer.url())
    assert (done.code, done.out) == (code, b"")
    assert done.err.startswith(f"clientrequest: {message}")
    assert done.err.count("\n") == 1
    assert path.read_bytes() == b"old"
    assert left_in(tmp_path) == ["body"]


def test_what_cannot_be_written_is_found_before_anything_is_sent(command: Command, tmp_path: Path) -> None:
    with Peer(echo_json) as peer:
        assert command("-o", str(tmp_path), peer.url()) == (LOCAL, b"", f"clientrequest: {tmp_path}: Is a directory\n")
        done = command("-o", str(tmp_path / "no" / "body"), peer.url())
        assert (done.code, peer.connections) == (LOCAL, [])
        assert f"there is no folder {tmp_path / 'no'}" in done.err


@ON_LINUX
def test_device_is_written_to_and_not_replaced(command: Command) -> None:
    with Peer(lambda conn: (conn.read_request(), conn.send(OK))) as peer:
        assert command("-o", "/dev/null", peer.url()) == (DONE, b"", "")
        full = command("-o", "/dev/full", peer.url())
    assert full == (LOCAL, b"", "clientrequest: /dev/full: No space left on device\n")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# --- status and errors ---


def test_status_is_a_failure_only_where_it_is_asked_for(command: Command) -> None:
    with Peer(site({"/": (404, {})})) as peer:
        assert command(peer.url()) == (DONE, b"", "")
        assert command("-f", peer.url()) == (REFUSED, b"", "clientrequest: the answer is 404 Not Found\n")
        assert command("-f", peer.url("/there")) == (DONE, b"", "")


def test_failure_is_one_line_with_its_code(command: Command) -> None:
    with refused_port() as port:
        done = command("-d", "x", f"http://ada:{SECRET}@127.0.0.1:{port}/?{SECRET}")
    assert (done.code, done.out) == (FAILED, b"")
    assert re.fullmatch(rf"clientrequest: ERR_CONNECTION_REFUSED: 127\.0\.0\.1:{port}.*\n", done.err)
    assert SECRET not in done.err


def test_limit_of_time(command: Command) -> None:
    with Peer(scripted(Conn.hold)) as peer:
        for option in ("--timeout", "--max-time"):
            done = command(option, "0.05", peer.url())
            assert (done.code, done.err.split(": ")[1]) == (FAILED, "ERR_TIMED_OUT")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cacert", "/no/such/file"], "--cacert: there is no '/no/such/file'"),
        (["--cert", "/no/such/file"], "--cert: there is no '/no/such/file'"),
        (["--proxy", f"http://ada:{SECRET}@"], "--proxy['all']: expected the URL of a proxy"),
        (["-F", f"a\n={SECRET}"], "-F: name 'a\\n' has control characters"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_sent(
    command: Command, arguments: list[str], message: str
) -> None:
    done = command(*arguments, URL)
    assert (done.code, done.out) == (USAGE, b"")
    assert message in done.err
    assert SECRET not in done.err


# --- redirects, logins, proxies, TLS ---


def test_redirect_is_followed_or_is_the_answer(command: Command) -> None:
    with Peer(site({"/": (302, {"Location": f"/there?{SECRET}"})})) as peer:
        done = command("-v", peer.url())
        assert re.search(r"^ +\d\.\d{3} redirect: 302 to GET http://.*/there$", done.err, re.M)
        assert SECRET not in done.err
        assert command("-v", "--no-follow", "-i", peer.url()).out.startswith(b"HTTP/1.1 302 Found\nLocation: /there")
        assert len(peer.requests) == 3


def wants_login(conn: Conn) -> None:
    """Says 401, before the body has come where it can, until the right user does."""
    while True:
        request = conn.read_request(body=False)
        # ada:hunter2
        if request.header("authorization") == "Basic YWRhOmh1bnRlcjI=":
            if request.header("expect"):
                conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            conn.read_body(request)
            conn.respond(200, body=b"welcome")
        else:
            if not request.header("expect"):
                conn.read_body(request)
            conn.respond(401, {"WWW-Authenticate": 'Basic realm="vault"'})


def test_user_answers_the_server_before_the_body_is_sent(command: Command, pipe: Any) -> None:
    reading, write = pipe
    write(b"body")
    write()
    with Peer(wants_login) as peer:
        done = command("-v", "-T", "-", "-u", f"ada:{SECRET}", peer.url(), stdin=reading)
        assert (done.code, done.out) == (DONE, b"welcome")
        first, second = peer.requests
    assert first.header("authorization") is None
    assert (first.length, second.body, second.complete) == (0, b"body", True)
    assert SECRET not in done.err
    assert [line.split()[1].rstrip(":") for line in done.err.splitlines()] == [
        "information",
        "finish",
        "response",
        "close",
    ]


def moves_and_wants_login(conn: Conn) -> None:
    """Takes all of the body, says 307, takes it again, says 401, takes it once more."""
    while True:
        request = conn.read_request(body=False)
        if request.header("expect"):
            conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        conn.read_body(request)
        if request.target == "/":
            conn.respond(307, {"Location": "/there"})
        elif request.header("authorization") is None:
            conn.respond(401, {"WWW-Authenticate": 'Basic realm="vault"'})
        else:
            conn.respond(200, body=b"welcome")


@pytest.fixture
def full_pipe(pipe: Any) -> Iterator[tuple[int, bytes]]:
    """The reading end of a pipe with more in it than the library keeps unasked, and what it gives."""
    reading, write = pipe
    content = os.urandom(2_000_000)
    writer = threading.Thread(target=lambda: (write(content), write()))
    writer.start()
    yield reading, content
    writer.join(LIMIT)


@pytest.mark.parametrize("login", [["-u", f"ada:{SECRET}"], []], ids=["user", "url"])
@pytest.mark.parametrize("kind", ["file", "pipe", "form", "pipe in form", "data"])
def test_body_is_sent_again_for_a_redirect_and_a_login(
    command: Command, request: pytest.FixtureRequest, tmp_path: Path, kind: str, login: list[str]
) -> None:
    stdin, content = request.getfixturevalue("full_pipe") if "pipe" in kind else (None, os.urandom(3_000_000))
    path = tmp_path / "body"
    path.write_bytes(content)
    bodies = {
        "file": ["-T", str(path)],
        "pipe": ["-T", "-"],
        "form": ["-F", "a=1", "-F", f"file=@{path};type=a/b;filename=c"],
        "pipe in form": ["-F", "a=1", "-F", "file=@-;type=a/b;filename=c"],
        "data": ["-d", "a=1"],
    }
    with Peer(moves_and_wants_login) as peer:
        url = peer.url() if login else peer.url().replace("//", f"//ada:{SECRET}@")
        assert command(*login, *bodies[kind], url, stdin=stdin) == (DONE, b"welcome", "")
        seen = list(peer.requests)
    assert [(one.method, one.target, one.complete) for one in seen] == [
        ("POST", "/", True),
        ("POST", "/there", True),
        ("POST", "/there", True),
    ]
    for one in seen:
        if "form" in kind:
            file = b'name="file"; filename="c"\r\nContent-Type: a/b\r\n\r\n' + content
            assert one.body == form_of(one, b'name="a"\r\n\r\n1', file)
        else:
            assert one.body == (b"a=1" if kind == "data" else content)


@OF_STANDARD_INPUT
@pytest.mark.parametrize("target", ["/", "/there"])
def test_more_of_a_pipe_than_is_kept_is_not_sent_again(
    command: Command, monkeypatch: pytest.MonkeyPatch, full_pipe: Any, body: list[str], target: str
) -> None:
    """Nor half of it; what is said has to mean something in a shell."""
    monkeypatch.setattr(_command, "_KEPT", 1024 * 1024)
    with Peer(moves_and_wants_login) as peer:
        done = command("-u", f"ada:{SECRET}", *body, peer.url(target), stdin=full_pipe[0])
        assert len(peer.requests) == 1
    assert (done.code, done.out) == (FAILED, b"")
    assert done.err == (
        "clientrequest: ERR_UPLOAD_STREAM_REWIND_NOT_SUPPORTED: the body has to be sent once more, and of a pipe 1 MiB "
        "are kept; use a file\n"
    )


def test_user_that_is_wrong_is_not_asked_again(command: Command) -> None:
    with Peer(wants_login) as peer:
        assert command("-f", "-u", "ada:wrong", peer.url()).code == REFUSED
        assert len(peer.requests) == 2


def test_user_is_not_told_to_another_host(command: Command) -> None:
    with Peer(wants_login) as other, Peer(site({"/": (302, {"Location": other.url()})})) as peer:
        assert command("-f", "-u", f"ada:{SECRET}", peer.url()).code == REFUSED
        assert [request.header("authorization") for request in peer.requests + other.requests] == [None, None]


def test_proxy(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer(lambda conn: (conn.read_request(), conn.send(OK))) as peer:
        assert command("--proxy", peer.url(), "http://far.example/x") == (DONE, b"ok", "")
        assert peer.wait_request().target == "http://far.example/x"
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
        assert command(peer.url()).code == FAILED
        assert command("--proxy", "", peer.url()) == (DONE, b"ok", "")


def test_authorities_and_certificate(command: Command) -> None:
    mine = client_certificate()
    with Peer(echo_json, tls=server_context()) as peer:
        assert command("--cacert", ca_path(), peer.url()).code == DONE
        refused = command(peer.url())
        assert (refused.code, refused.err.split(": ")[1]) == (FAILED, "ERR_CERT_AUTHORITY_INVALID")
    with Peer(echo_json, tls=demanding_context()) as peer:
        shown = command("--cacert", ca_path(), "--cert", mine.certificate, "--key", mine.key, peer.url())
        assert shown.code == DONE


# --- what is told ---


def test_events_are_told_with_their_times(command: Command) -> None:
    with Peer(scripted(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)) as peer:
        done = command("-v", "-d", SECRET, "-H", f"Cookie: {SECRET}", peer.url(f"/?{SECRET}"))
    lines = done.err.splitlines()
    assert [line[9:] for line in lines] == [
        "finish",
        "information: 103 Early Hints",
        "response: 200 OK, HTTP/1.1",
        "close: 2 bytes of the answer",
    ]
    times = [float(line[:8]) for line in lines]
    assert times == sorted(times)
    assert SECRET not in done.err


def test_error_is_told_once(command: Command) -> None:
    with Peer(scripted(b"")) as peer:
        lines = command("-v", peer.url()).err.splitlines()
    assert [line[9:] for line in lines[:-1]] == ["finish", "error: ERR_EMPTY_RESPONSE", "close: 0 bytes of the answer"]
    assert lines[-1].startswith("clientrequest: ERR_EMPTY_RESPONSE: ")


def test_no_server_can_steer_the_terminal() -> None:
    assert printable("a\x1b[2J\r\n\x9b ä\u202e") == "a\\x1b[2J\\r\\n\\x9b ä\\u202e"


@pytest.mark.parametrize(
    ("current", "total", "seconds", "text"),
    [
        (0, 0, 0.0, "up 0 bytes"),
        (1536, 3072, 0.0, "up 1.5 KiB of 3.0 KiB, 50 %"),
        (1 << 30, 0, 2.0, "up 1.0 GiB, 512.0 MiB/s"),
    ],
)
def test_progress_in_words(current: int, total: int, seconds: float, text: str) -> None:
    assert progress_text("up", current, total, seconds) == text


# ------------------------------------------------------------------------------
# As a process

NO_RICH = "import sys; sys.modules['rich'] = None; "
RUN = "import sys, runpy; sys.argv[0] = 'clientrequest'; runpy.run_module('clientrequest', run_name='__main__')"
# A process that begins a session has no terminal; the first one it opens is then its own.
TAKE_TERMINAL = "import os; os.close(os.open(os.ttyname(2), os.O_RDWR)); "


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        kept.pop(name, None)
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}


def test_python_m() -> None:
    with Peer(scripted(OK)) as peer:
        line = [sys.executable, "-m", "clientrequest", peer.url()]
        done = subprocess.run(line, capture_output=True, check=False, timeout=LIMIT, env=environment())
    assert (done.returncode, done.stdout) == (DONE, b"ok")


class Process:
    """The command in a process and a session of its own, so that no terminal of the tests is its."""

    def __init__(self, *arguments: str, code: str = RUN, **streams: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            env=environment(),
            start_new_session=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        )

    def wait(self) -> Done:
        out, err = self.process.communicate(timeout=LIMIT)
        return Done(self.process.returncode, out or b"", (err or b"").decode())

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def test_import_of_the_package_costs_no_command() -> None:
    code = "import sys, clientrequest; print([n for n in sys.modules if '_command' in n or n in ('argparse', 'rich')])"
    with Process(code=code) as process:
        assert process.wait() == (0, b"[]\n", "")


@ON_POSIX
@OF_STANDARD_INPUT
def test_ctrl_c_aborts_an_upload_and_never_ends_it(body: list[str]) -> None:
    """Its pipe is closed a moment after, as by a writer that hears the same Ctrl-C."""

    def answer(conn: Conn) -> None:
        request = conn.read_request(body=False)
        read_chunks_until(conn, b"begun")
        process.process.send_signal(signal.SIGINT)
        assert process.process.stdin is not None
        process.process.stdin.close()
        conn.read_body(request)

    with Peer(answer) as peer, Process(*body, peer.url(), stdin=subprocess.PIPE) as process:
        assert process.process.stdin is not None
        process.process.stdin.write(b"begun")
        process.process.stdin.flush()
        peer.wait_request()
        peer.join()
        process.process.stdin = None
        assert process.wait() == (130, b"", "")
    assert not peer.requests[0].complete
    assert peer.requests[0].cut_by is not None


def sends_half(folder: Path, stop: Callable[[], object]) -> Callable[[Conn], None]:
    """A handler that calls `stop` once what it has sent is being written in `folder`, beside a file that is there."""

    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + bytes(1_000_000))
        pause = threading.Event()  # the file makes no noise, so this polls
        until = time.monotonic() + LIMIT
        while len(left_in(folder)) < 2 and time.monotonic() < until:
            pause.wait(0.002)
        stop()
        conn.wait_closed()

    return answer


@ON_POSIX
def test_signal_leaves_no_part_of_a_download(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"old")
    answer = sends_half(tmp_path, lambda: process.process.send_signal(signal.SIGINT))
    with Peer(answer) as peer, Process("-v", "-o", str(path), peer.url()) as process:
        peer.join()
        done = process.wait()
    assert (done.code, done.out) == (130, b"")
    assert [line.split()[1].rstrip(":") for line in done.err.splitlines()] == ["finish", "response", "abort", "close"]
    assert path.read_bytes() == b"old"
    assert left_in(tmp_path) == ["body"]


@ON_POSIX
def test_other_signals_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where what follows a signal can be seen: the next one is not heard."""
    heeded = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.signal(number, signal.default_int_handler) for number in heeded}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    path = tmp_path / "body"
    path.write_bytes(b"old")
    try:
        with Peer(sends_half(tmp_path, lambda: os.kill(os.getpid(), signal.SIGTERM))) as peer:
            assert main(["--proxy", "", "-o", str(path), peer.url()]) == 143
            peer.join()
        assert [signal.getsignal(number) for number in heeded] == [signal.SIG_IGN] * 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert path.read_bytes() == b"old"
    assert left_in(tmp_path) == ["body"]


@ON_POSIX
def test_reader_that_goes_ends_it_quietly() -> None:
    gone = Gate()

    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        gone.wait()
        conn.send(b"6\r\nsecond\r\n")
        conn.wait_closed()

    with Peer(answer) as peer, Process(peer.url()) as process:
        assert process.process.stdout is not None
        assert os.read(process.process.stdout.fileno(), 100) == b"first"
        process.process.stdout.close()
        gone.set()
        peer.join()
        process.process.stdout = None
        assert process.wait() == (141, b"", "")


# --- at a terminal ---


class Terminal:
    """The other end of a terminal that a process sits at."""

    def __init__(self) -> None:
        self._end, self.number = pty.openpty()
        self.shown = ""

    def wait_for(self, text: str) -> None:
        """Wait until the process has shown that."""
        until = time.monotonic() + LIMIT
        while text not in self.shown:
            left = until - time.monotonic()
            assert left > 0, f"{text!r} is not shown: {self.shown!r}"
            if select.select([self._end], [], [], left)[0]:
                self.shown += self._read()

    def _read(self) -> str:
        try:
            return os.read(self._end, 65536).decode(errors="replace")
        except OSError:  # Linux says so when nobody is left at the terminal
            return ""

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def read_rest(self) -> None:
        while select.select([self._end], [], [], 0)[0]:
            piece = self._read()
            self.shown += piece
            if not piece:
                return

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._end)
        os.close(self.number)


@ON_POSIX
def test_login_is_asked_for_at_the_terminal_and_the_password_not_shown() -> None:
    """Standard input and output are something else, and the terminal is asked all the same."""
    with Terminal() as terminal, Peer(wants_login) as peer:
        arguments = ["-T", "-", peer.url()]
        with Process(*arguments, code=TAKE_TERMINAL + RUN, stdin=subprocess.PIPE, stderr=terminal.number) as process:
            assert process.process.stdin is not None
            process.process.stdin.write(b"body")
            process.process.stdin.close()
            process.process.stdin = None
            place = f"127.0.0.1:{peer.port} (basic, 'vault')"
            terminal.wait_for(f"User name for {place}: ")
            terminal.type("ada\n")
            terminal.wait_for(f"Password of ada for {place}: ")
            terminal.type("wrong\n")
            terminal.wait_for("User name for")
            terminal.shown = ""
            terminal.wait_for(": ")
            terminal.type("ada\n")
            terminal.wait_for("Password of ada")
            terminal.type(f"{SECRET}\n")
            done = process.wait()
        terminal.read_rest()
        assert (done.code, done.out) == (DONE, b"welcome")
        assert peer.requests[-1].body == b"body"
        assert SECRET not in terminal.shown


@ON_POSIX
def test_ctrl_c_at_the_prompt_ends_it() -> None:
    with Terminal() as terminal, Peer(wants_login) as peer:
        with Process("-u", "ada", peer.url(), code=TAKE_TERMINAL + RUN, stderr=terminal.number) as process:
            terminal.wait_for("Password of ada")
            terminal.type("\x03")
            assert process.wait().code == 130
        terminal.read_rest()
    assert "Traceback" not in terminal.shown


@ON_POSIX
@pytest.mark.parametrize("user", [["-u", "ada"], []])
def test_end_of_input_at_the_prompt_is_no_login_and_ends_its_line(user: list[str]) -> None:
    with Terminal() as terminal, Peer(wants_login) as peer:
        code = NO_RICH + TAKE_TERMINAL + RUN
        with Process(*user, "-f", peer.url(), code=code, stderr=terminal.number) as process:
            terminal.wait_for("(basic, 'vault'): ")
            terminal.type("\x04")
            assert process.wait().code == REFUSED
        terminal.read_rest()
        assert len(peer.requests) == 1
    assert re.search(r"'vault'\): \r\nclientrequest: the answer is 401 Unauthorized\r\n$", terminal.shown)


@ON_POSIX
@pytest.mark.parametrize("rich", [True, False])
def test_progress_both_ways(tmp_path: Path, rich: bool) -> None:
    """With rich and without it; it is gone in the end."""
    (tmp_path / "body").write_bytes(bytes(3 << 20))
    seen = Gate()

    def answer(conn: Conn) -> None:
        conn.drain_body(conn.read_request(body=False))
        conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (5 << 20) + bytes(2 << 20))
        seen.wait()
        conn.send(bytes(3 << 20))

    arguments = ["-T", str(tmp_path / "body"), "-o", str(tmp_path / "answer")]
    code = ("" if rich else NO_RICH) + RUN
    with Terminal() as terminal, Peer(answer) as peer:
        with Process(*arguments, peer.url(), code=code, stderr=terminal.number) as process:
            terminal.wait_for("up ")
            terminal.wait_for("3.0/3.0 MiB" if rich else "up 3.0 MiB of 3.0 MiB, 100 %")
            terminal.wait_for("down ")
            terminal.wait_for("/5.0 MiB" if rich else " of 5.0 MiB, ")
            seen.set()
            assert process.wait() == (DONE, b"", "")
        terminal.read_rest()
    assert terminal.shown.endswith("\x1b[1A\x1b[2K" if rich else " \r")  # rich: up a line, and that line is empty
    assert (tmp_path / "answer").stat().st_size == 5 << 20


@ON_POSIX
@pytest.mark.parametrize("rich", [True, False])
def test_screen(monkeypatch: pytest.MonkeyPatch, rich: bool) -> None:
    """What comes to a terminal between the progress, in lines of its own; and nothing where it is not wanted."""
    if not rich:
        monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with Terminal() as terminal, open(terminal.number, "w", closefd=False) as stream:
        screen = make_screen(stream, quiet=False)
        screen.progress("up", 512, 1024)
        screen.event(1.5, "response", "200 OK")
        screen.progress("down", 100, 0)
        screen.clear()
        screen.say("\x1b[5mthe end")
        screen.clear()
        quiet = make_screen(stream, quiet=True)
        quiet.progress("up", 777, 777)
        quiet.event(2, "finish", "")
        terminal.wait_for("2.000 finish")
        terminal.read_rest()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown)
    assert "   1.500 response: 200 OK\r\n" in plain
    assert "clientrequest: \\x1b[5mthe end\r\n" in plain
    assert "777" not in plain
    assert ("\x1b[1;31mclientrequest\x1b[0m" in terminal.shown) is rich
    assert ("\x1b" in terminal.shown) is rich
    shown = [words in plain for words in (("0.5/1.0 KiB", "100/? bytes") if rich else ("50 %", "down 100 bytes"))]
    assert shown == [True, True], plain
    assert " 0/? bytes" not in plain  # a first look at nothing would make the speed of the second one absurd


def test_screen_that_is_closed() -> None:
    screen = make_screen(None, quiet=False)
    screen.progress("up", 1, 2)
    screen.say("nobody hears")
    assert not screen.shows_progress


@ON_LINUX
def test_screen_that_takes_nothing_more() -> None:
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "w") as stream:  # raised by its close
        make_screen(stream, quiet=False).say("nobody hears")


@ON_POSIX
def test_what_is_no_text_is_kept_from_the_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(conn: Conn) -> None:
        conn.read_request()
        conn.respond(200, body=b"\0")

    with Terminal() as terminal, Peer(answer) as peer, open(terminal.number, "w", closefd=False) as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert command(peer.url()).code == LOCAL
        assert command("-o", "-", peer.url()).code == DONE
        terminal.read_rest()
        assert terminal.shown == "\0"
