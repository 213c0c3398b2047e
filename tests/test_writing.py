"""The three ways in which a body goes out, byte for byte; what ``write`` takes and what it says about it."""

from __future__ import annotations

import array
import ctypes
import functools
import hashlib
import os
import queue
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from clientrequest import (
    AbortedError,
    ClientRequest,
    ClientRequestError,
    InvalidStateError,
    ProtocolError,
    Session,
)
from tests.support import LIMIT, Conn, Gate, Handler, Peer, Recorder, ca_path, echo_json, scripted, server_context

KIB, MIB = 1024, 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
OK_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
WAYS = ("buffered", "chunked", "length")
STREAMED = ("chunked", "length")
BODY_METHODS = ("POST", "PUT", "PATCH")

answer = scripted(OK)


def way(name: str, length: int) -> dict[str, Any]:
    """The options of a body that is sent in one of the three ways."""
    options: dict[str, dict[str, Any]] = {
        "buffered": {},
        "chunked": {"chunked_encoding": True},
        "length": {"headers": {"Content-Length": str(length)}},
    }
    return options[name]


def post(peer: Peer, name: str = "buffered", length: int = 0, **options: Any) -> ClientRequest:
    return ClientRequest(peer.url("/x"), method="POST", **way(name, length), **options)


def tap(kept: list[bytes], ending: bytes) -> Handler:
    """Keeps head and body as they came; answers once the body ends with ``ending``, and keeps what follows too."""

    def keep(conn: Conn) -> None:
        head, body = conn.read_request(body=False).head, b""
        while not body.endswith(ending):
            body += conn.recv_some()
        conn.send(OK_CLOSE)
        while piece := conn.recv_some():
            body += piece
        kept.extend((head, body))

    return keep


def chunk_reader(chunks: queue.Queue[bytes]) -> Handler:
    """Hands each HTTP chunk over as it comes, and answers after the last one."""

    def read(conn: Conn) -> None:
        conn.read_request(body=False)
        while chunk := conn.read_chunk():
            chunks.put(chunk)
        conn.send(OK)

    return read


def framing(head: bytes) -> list[bytes]:
    """The header lines that say how long the body is."""
    lines = head.split(b"\r\n")
    return [line for line in lines if line.lower().startswith((b"content-length", b"transfer-encoding"))]


def sent_body(write: Callable[[ClientRequest], object], **options: Any) -> bytes:
    """What the server gets of a POST that ``write`` writes."""
    with Peer(answer) as peer:
        request = ClientRequest(peer.url(), method="POST", **options)
        write(request)
        request.end()
        assert request.wait(LIMIT)
        return peer.wait_request().body


def deleted_files() -> set[str]:
    """The files without a name that this process has open."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not list descriptors")
    links = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            links.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return {link for link in links if link.endswith("(deleted)")}


class TestBuffered:
    def test_nothing_is_sent_before_end(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            request.write(b"body")
            request.flush()
            assert not request.get_upload_progress().active
            assert peer.connections == []
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"body"

    def test_on_the_wire(self) -> None:
        kept: list[bytes] = []
        with Peer(tap(kept, b"defg")) as peer:
            request = post(peer)
            for piece in (b"ab", b"c", b"def"):
                request.write(piece)
            request.end(b"g")
            assert request.wait(LIMIT)
            peer.join()
        head, body = kept
        assert head.startswith(b"POST /x HTTP/1.1\r\n")
        assert framing(head) == [b"Content-Length: 7"]
        assert body == b"abcdefg"

    @pytest.mark.parametrize("size", [8 * MIB, 8 * MIB + 1, 20 * MIB + 7])
    def test_large_body_arrives_whole(self, size: int) -> None:
        body = os.urandom(MIB) * (size // MIB) + b"x" * (size % MIB)
        with Peer(echo_json) as peer:
            request = post(peer)
            for start in range(0, size, 300_000):
                request.write(body[start : start + 300_000])
            request.end()
            described = request.get_response(LIMIT).json()
            assert request.wait(LIMIT)
        assert described["length"] == size
        assert described["sha256"] == hashlib.sha256(body).hexdigest()
        assert ["Content-Length", str(size)] in described["headers"]

    @pytest.mark.parametrize("limit", ["descriptors", "bytes"])
    def test_chunk_that_no_file_takes_is_not_taken(self, limit: str) -> None:
        """The file cannot be opened, or is full in the middle of the chunk; the body goes on without it."""
        resource = pytest.importorskip("resource")
        which, most = {
            "descriptors": (resource.RLIMIT_NOFILE, 3),
            "bytes": (resource.RLIMIT_FSIZE, 9 * MIB),
        }[limit]
        taken = [os.urandom(8 * MIB), os.urandom(MIB // 2)]
        called: list[object] = []
        with Peer(echo_json) as peer:
            request = post(peer)
            request.write(taken[0])
            if limit == "bytes":
                request.write(taken[1])  # it is in the file before that is full
            soft, hard = resource.getrlimit(which)
            resource.setrlimit(which, (most, hard))
            try:
                for size in (MIB, 2 * MIB):
                    before = request.tell()
                    with pytest.raises(OSError):  # noqa: PT011  (the system's own)
                        request.write(bytes(size), callback=called.append)
                    assert request.tell() == before
            finally:
                resource.setrlimit(which, (soft, hard))
            if limit == "descriptors":
                request.write(taken[1])
            taken += [b"x" * MIB, b"y"]
            request.write(taken[2])
            request.write(taken[3], callback=called.append)
            described = request.end().get_response(LIMIT).json()
            assert request.wait(LIMIT)
        assert described["length"] == sum(map(len, taken))
        assert described["sha256"] == hashlib.sha256(b"".join(taken)).hexdigest()
        assert called == [None]

    def test_order_is_kept_across_the_temporary_file(self) -> None:
        pieces = [b"first", b"m" * (8 * MIB), b"after", b"n" * 100, b"last"]
        with Peer(echo_json) as peer:
            request = post(peer)
            request.writelines(pieces)
            request.end()
            described = request.get_response(LIMIT).json()
            assert request.wait(LIMIT)
        assert described["sha256"] == hashlib.sha256(b"".join(pieces)).hexdigest()

    def test_memory_is_bounded(self) -> None:
        with Peer(echo_json) as peer:
            tracemalloc.start()
            try:
                request = post(peer)
                for number in range(64):
                    request.write(bytes([number]) * MIB)
                request.end()
                described = request.get_response(LIMIT).json()
                assert request.wait(LIMIT)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert described["length"] == 64 * MIB
        assert peak < 16 * MIB

    @pytest.mark.parametrize("leave", ["close", "abort"])
    def test_temporary_file_is_let_go(self, leave: str) -> None:
        before = deleted_files()
        with Peer(answer) as peer:
            request = post(peer)
            request.write(b"x" * (9 * MIB))
            assert deleted_files() - before
            if leave == "abort":
                request.abort()
                with pytest.raises(AbortedError):
                    request.wait(LIMIT)
                # wait() may come back before the worker has let go of everything.
                assert request._exchange.news.wait_for(lambda: request._exchange.closed, LIMIT)
            else:
                request.end()
                assert request.wait(LIMIT)
        assert deleted_files() == before


class TestChunked:
    def test_on_the_wire(self) -> None:
        kept: list[bytes] = []
        with Peer(tap(kept, b"0\r\n\r\n")) as peer:
            request = post(peer, "chunked")
            request.cork()
            request.write(b"hello ")
            request.write(b"you")
            request.end(b"!")
            assert request.wait(LIMIT)
            peer.join()
        head, body = kept
        assert framing(head) == [b"Transfer-Encoding: chunked"]
        assert body in (b"a\r\nhello you!\r\n0\r\n\r\n", b"A\r\nhello you!\r\n0\r\n\r\n")

    def test_head_goes_out_with_the_first_write(self) -> None:
        with Peer(answer) as peer:
            request = post(peer, "chunked")
            request.write(b"x")
            assert peer.wait_request().chunked
            request.end()
            assert request.wait(LIMIT)

    def test_each_chunk_goes_out_as_it_comes(self) -> None:
        chunks: queue.Queue[bytes] = queue.Queue()
        with Peer(chunk_reader(chunks)) as peer:
            request = post(peer, "chunked")
            for piece in (b"one", b"2", b"x" * 100_000):
                request.write(piece)
                assert chunks.get(timeout=LIMIT) == piece
            request.end()
            assert request.wait(LIMIT)
        assert chunks.empty()

    def test_empty_chunk_is_not_sent(self) -> None:
        with Peer(answer) as peer:
            request = post(peer, "chunked")
            for piece in (b"", b"a", b"", "", b"b", bytearray()):
                request.write(piece)
            request.end(b"")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"ab"
            assert all(peer.wait_request().chunks)

    def test_may_be_switched_on_until_the_first_write(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            request.chunked_encoding = True
            request.write(b"x")
            with pytest.raises(InvalidStateError):
                request.chunked_encoding = False
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().chunked


class TestKnownLength:
    def test_on_the_wire(self) -> None:
        kept: list[bytes] = []
        with Peer(tap(kept, b"hello you!")) as peer:
            request = post(peer, "length", 10)
            request.write(b"hello ")
            request.write(b"you")
            request.end(b"!")
            assert request.wait(LIMIT)
            peer.join()
        head, body = kept
        assert framing(head) == [b"Content-Length: 10"]
        assert body == b"hello you!"

    def test_is_streamed_at_once(self) -> None:
        pieces: queue.Queue[bytes] = queue.Queue()

        def read(conn: Conn) -> None:
            conn.read_request(body=False)
            for size in (3, 1, 4):
                pieces.put(conn.recv_exact(size))
            conn.send(OK)

        with Peer(read) as peer:
            request = post(peer, "length", 8)
            for piece in (b"one", b"2", b"four"):
                request.write(piece)
                assert pieces.get(timeout=LIMIT) == piece
            request.end()
            assert request.wait(LIMIT)

    def test_end_that_comes_after_all_was_sent_is_no_early_answer(self) -> None:
        gates = [Gate(), Gate()]

        def answer_when_told(conn: Conn) -> None:
            for gate in gates:
                conn.read_request()
                gate.wait()
                conn.send(OK)

        with Peer(answer_when_told) as peer:
            for gate in gates:
                request = post(peer, "length", 5)
                recorder = Recorder(request, consume=True)
                request.write(b"whole")
                request.flush()
                request.end()
                recorder.wait("finish")
                gate.set()
                recorder.wait("close")
                recorder.check_grammar()
            assert len(peer.connections) == 1  # it could be used again

    @pytest.mark.parametrize("first", [True, False])
    def test_excess_is_refused_and_the_request_goes_on(self, first: bool) -> None:
        with Peer(answer) as peer:
            request = post(peer, "length", 5)
            if not first:
                request.write(b"ab")
            taken = request.tell()
            with pytest.raises(ProtocolError) as caught:
                request.write(b"xxxxxx")
            assert caught.value.code == "ERR_CONTENT_LENGTH_MISMATCH"
            assert request.tell() == taken
            request.write(b"abcde"[taken:])
            with pytest.raises(ProtocolError):
                request.write(b"!")
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"abcde"

    def test_excess_in_end_is_refused_and_the_request_goes_on(self) -> None:
        with Peer(answer) as peer:
            request = post(peer, "length", 5)
            with pytest.raises(ProtocolError):
                request.end(b"abcdef")
            assert not request.writable_ended
            request.end(b"abcde")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"abcde"

    @pytest.mark.parametrize("method", ["write", "end"])
    def test_body_is_streamed_after_an_excess_at_the_very_start(self, method: str) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, "length", 8 * MIB, high_water_mark=64 * KIB)
            with pytest.raises(ProtocolError):
                getattr(request, method)(b"x" * (8 * MIB + 1))
            for _ in range(8):
                request.write(b"x" * MIB)  # needs a worker that takes it
            request.end()
            assert request.get_response(LIMIT).json()["length"] == 8 * MIB
            assert request.wait(LIMIT)

    @pytest.mark.parametrize("written", [0, 1, 4])
    def test_shortfall_aborts(self, written: int) -> None:
        with Peer(answer) as peer:
            request = post(peer, "length", 5)
            recorder = Recorder(request)
            if written:
                request.write(b"abcd"[:written])
                peer.wait_request()
            with pytest.raises(ProtocolError) as caught:
                request.end()
            assert caught.value.code == "ERR_CONTENT_LENGTH_MISMATCH"
            assert caught.value.request is request
            recorder.wait("close")
            with pytest.raises(ProtocolError) as again:
                request.wait(LIMIT)
            assert again.value is caught.value
            assert recorder.find("response") == []
            if written:
                peer.join()
                assert not peer.wait_request().complete
            else:
                assert peer.requests == []

    def test_of_nothing(self) -> None:
        kept: list[bytes] = []
        with Peer(tap(kept, b"")) as peer:
            request = post(peer, "length", 0)
            request.end()
            assert request.wait(LIMIT)
            peer.join()
        assert framing(kept[0]) == [b"Content-Length: 0"]
        assert kept[1] == b""


class TestNothingWritten:
    """What is said about a body that nobody wrote."""

    @staticmethod
    def wire(method: str, name: str, *, empty_write: bool = False, ending: bytes = b"") -> list[bytes]:
        kept: list[bytes] = []
        with Peer(tap(kept, ending)) as peer:
            request = ClientRequest(peer.url(), method=method, **way(name, 0))
            if empty_write:
                assert request.write(b"") == 0
            request.end()
            assert request.wait(LIMIT)
            peer.join()
        return kept

    @pytest.mark.parametrize("name", ["buffered", "chunked"])
    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    def test_says_nothing(self, method: str, name: str) -> None:
        head, body = self.wire(method, name)
        assert framing(head) == []
        assert body == b""

    @pytest.mark.parametrize("method", BODY_METHODS)
    def test_buffered_is_an_empty_body(self, method: str) -> None:
        head, body = self.wire(method, "buffered")
        assert framing(head) == [b"Content-Length: 0"]
        assert body == b""

    @pytest.mark.parametrize("method", [*BODY_METHODS, "OPTIONS"])
    def test_chunked_is_an_empty_body(self, method: str) -> None:
        head, body = self.wire(method, "chunked", ending=b"0\r\n\r\n")
        assert framing(head) == [b"Transfer-Encoding: chunked"]
        assert body == b"0\r\n\r\n"

    @pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
    def test_empty_write_is_an_empty_body(self, method: str) -> None:
        head, body = self.wire(method, "buffered", empty_write=True)
        assert framing(head) == [b"Content-Length: 0"]
        assert body == b""

    @pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
    def test_empty_chunked_write_is_an_empty_body(self, method: str) -> None:
        head, body = self.wire(method, "chunked", empty_write=True, ending=b"0\r\n\r\n")
        assert framing(head) == [b"Transfer-Encoding: chunked"]
        assert body == b"0\r\n\r\n"

    def test_empty_write_is_the_first_write(self) -> None:
        with Peer(answer) as peer:
            request = post(peer, "chunked")
            request.write(b"")
            assert request.headers_sent
            with pytest.raises(InvalidStateError):
                request.set_header("X-Late", "1")
            assert peer.wait_request().chunked
            request.end()
            assert request.wait(LIMIT)

    @pytest.mark.parametrize("name", ["buffered", "chunked"])
    def test_get_with_a_body(self, name: str) -> None:
        with Peer(answer) as peer:
            request = ClientRequest(peer.url(), **way(name, 0))
            request.end(b"query")
            assert request.wait(LIMIT)
            assert peer.wait_request().method == "GET"
            assert peer.wait_request().body == b"query"


class Table(ctypes.Structure):
    _fields_ = (("left", ctypes.c_uint16), ("right", ctypes.c_uint16))


class Text(str):
    pass


class Octets(bytes):
    pass


SHORTS = array.array("H", [1, 2, 3])


class TestChunks:
    """What may be written, and what comes of it."""

    @pytest.mark.parametrize(
        ("chunk", "expected"),
        [
            pytest.param(b"bytes", b"bytes", id="bytes"),
            pytest.param(Octets(b"sub"), b"sub", id="subclass of bytes"),
            pytest.param(bytearray(b"array"), b"array", id="bytearray"),
            pytest.param(memoryview(b"view"), b"view", id="memoryview"),
            pytest.param(memoryview(b"0123456789")[2:8:2], b"246", id="memoryview with steps"),
            pytest.param(SHORTS, SHORTS.tobytes(), id="array"),
            pytest.param(memoryview(SHORTS), SHORTS.tobytes(), id="memoryview of shorts"),
            pytest.param(memoryview(bytes(12)).cast("B", (3, 4)), bytes(12), id="memoryview of two dimensions"),
            pytest.param(Table(0x4141, 0x4242), b"AABB", id="structure"),
            pytest.param("text ü", "text ü".encode(), id="str"),
            pytest.param(Text("sub"), b"sub", id="subclass of str"),
        ],
    )
    @pytest.mark.parametrize("method", ["write", "end"])
    def test_is_taken(self, method: str, chunk: Any, expected: bytes) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            if method == "write":
                assert request.write(chunk) == len(expected)
                assert request.tell() == len(expected)
                request.end()
            else:
                assert request.end(chunk) is request
            assert request.wait(LIMIT)
            assert peer.wait_request().body == expected

    @pytest.mark.parametrize(
        ("text", "encoding", "expected"),
        [
            ("ü", "utf-8", b"\xc3\xbc"),
            ("ü", "latin-1", b"\xfc"),
            ("ü", "binary", b"\xfc"),
            ("ü", "utf-16-le", b"\xfc\x00"),
            ("ü", "ucs2", b"\xfc\x00"),
            ("a", "ascii", b"a"),
            ("00ff7F", "hex", b"\x00\xff\x7f"),
            ("AP9/", "base64", b"\x00\xff\x7f"),
            ("AP9/", "BASE64", b"\x00\xff\x7f"),
            ("", "hex", b""),
        ],
    )
    @pytest.mark.parametrize("method", ["write", "end"])
    def test_text_is_encoded(self, method: str, text: str, encoding: str, expected: bytes) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            given = getattr(request, method)(text, encoding)
            assert given in (len(expected), request)
            if method == "write":
                request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().body == expected

    @pytest.mark.parametrize("name", WAYS)
    def test_buffer_may_change_afterwards(self, name: str) -> None:
        with Peer(answer) as peer:
            request = post(peer, name, 8)
            request.cork()
            buffer = bytearray(b"same")
            request.write(buffer)
            buffer[:] = b"else"
            request.write(memoryview(buffer))
            buffer[:] = b"xxxx"
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"sameelse"

    def test_bytes_are_not_copied(self) -> None:
        with Peer(echo_json) as peer:
            big = bytes(32 * MIB)
            tracemalloc.start()
            try:
                request = post(peer, "chunked")
                request.write(big)
                request.end()
                assert request.wait(LIMIT)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert peak < 16 * MIB

    @pytest.mark.parametrize("chunk", [None, 5, 1.5, True, ["a"], object(), {"a": 1}])
    def test_wrong_type_is_refused(self, chunk: Any) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            with pytest.raises(TypeError, match=type(chunk).__name__):
                request.write(chunk)
            assert not request.headers_sent
            assert request.tell() == 0
            request.end(b"still usable")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"still usable"

    @pytest.mark.parametrize("name", WAYS)
    def test_wrong_type_in_the_middle_does_no_harm(self, name: str) -> None:
        with Peer(answer) as peer:
            request = post(peer, name, 4)
            request.write(b"ab")
            for method in (request.write, request.end):
                with pytest.raises(TypeError):
                    method(12)
            assert request.tell() == 2
            request.end(b"cd")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"abcd"

    @pytest.mark.parametrize(
        ("chunk", "encoding", "error"),
        [
            ("ü", "ascii", ValueError),
            ("\ud800", "utf-8", ValueError),
            ("a", "no-such-encoding", ValueError),
            ("abc", "hex", ValueError),
            ("a", "base64", ValueError),
            ("a", "rot13", ValueError),
            ("a", 5, TypeError),
            ("a", None, TypeError),
        ],
    )
    def test_text_that_cannot_be_encoded_is_refused(self, chunk: str, encoding: Any, error: type[Exception]) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            with pytest.raises(error):
                request.write(chunk, encoding)
            request.end(b"usable")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"usable"

    def test_callback_must_be_callable(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            with pytest.raises(TypeError, match="callback"):
                request.write(b"a", "utf-8", "no function")  # type: ignore[arg-type]
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b""


class TestOverTls:
    @pytest.mark.parametrize("name", WAYS)
    def test_body_arrives_whole(self, name: str) -> None:
        pieces = [os.urandom(size) for size in (1, 16 * KIB, 100, 300 * KIB, 3 * MIB, 7)]
        body = b"".join(pieces)
        with Peer(echo_json, tls=server_context()) as peer, Session(tls=ca_path()) as session:
            request = post(peer, name, len(body), session=session)
            request.writelines(pieces)
            request.end()
            described = request.get_response(LIMIT).json()
            assert request.wait(LIMIT)
        assert described["sha256"] == hashlib.sha256(body).hexdigest()


class TestEnd:
    def test_gives_the_request_back(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            assert request.end() is request
            assert request.wait(LIMIT)

    @pytest.mark.parametrize("name", WAYS)
    def test_twice_is_refused(self, name: str) -> None:
        with Peer(answer) as peer:
            request = post(peer, name, 1)
            request.end(b"x")
            for _ in range(2):
                with pytest.raises(InvalidStateError, match="end"):
                    request.end()
                with pytest.raises(InvalidStateError, match="end"):
                    request.end(b"more")
            assert request.wait(LIMIT)
            with pytest.raises(InvalidStateError):
                request.end()
            assert peer.wait_request().body == b"x"

    @pytest.mark.parametrize("name", WAYS)
    def test_write_after_it_is_refused(self, name: str) -> None:
        with Peer(answer) as peer:
            request = post(peer, name, 1)
            request.end(b"x")
            with pytest.raises(ValueError, match="after end"):
                request.write(b"late")
            assert request.wait(LIMIT)
            with pytest.raises(InvalidStateError):
                request.write(b"later")
            assert peer.wait_request().body == b"x"

    @pytest.mark.parametrize("method", ["write", "end"])
    def test_after_an_abort_the_abort_is_raised(self, method: str) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            request.abort()
            with pytest.raises(AbortedError):
                getattr(request, method)(b"x")

    @pytest.mark.parametrize("method", ["write", "end"])
    def test_after_a_failure_the_failure_is_raised(self, method: str) -> None:
        with Peer(scripted(Conn.reset, body=False)) as peer:
            request = post(peer, "chunked")
            request.write(b"x")
            with pytest.raises(ClientRequestError) as caught:
                request.wait(LIMIT)
            with pytest.raises(ClientRequestError) as again:
                getattr(request, method)(b"x")
            assert again.value is caught.value

    def test_state(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            assert not request.writable_ended
            assert not request.writable_finished
            request.end()
            assert request.writable_ended
            assert request.wait(LIMIT)
            assert request.writable_finished


class Calls:
    """Writes down the callbacks of one request."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.threads: set[int] = set()

    def expect(self, name: str) -> Callable[[Any], None]:
        def callback(error: Any) -> None:
            self.calls.append((name, error))
            self.threads.add(threading.get_ident())

        return callback

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    @property
    def errors(self) -> list[Any]:
        return [error for _, error in self.calls]


class TestCallbacks:
    @pytest.mark.parametrize("name", WAYS)
    def test_each_once_in_order_on_the_event_thread(self, name: str) -> None:
        calls = Calls()
        with Peer(answer) as peer:
            request = post(peer, name, 60)
            recorder = Recorder(request, consume=True)
            for number in range(20):
                request.write(b"xyz", "utf-8", calls.expect(f"write {number}"))
            request.end(callback=calls.expect("end"))
            recorder.wait("close")
        assert calls.names == [*(f"write {number}" for number in range(20)), "end"]
        assert calls.errors == [None] * 21
        assert calls.threads == recorder.threads()
        assert threading.get_ident() not in calls.threads

    def test_before_finish(self) -> None:
        order: list[str] = []
        with Peer(answer) as peer:
            request = post(peer, "chunked")
            request.on("finish", lambda: order.append("finish"))
            request.write(b"x", callback=lambda: order.append("write"))
            request.end(b"y", callback=lambda: order.append("end"))
            assert request.wait(LIMIT)
        assert order == ["write", "end", "finish"]

    @pytest.mark.parametrize("name", STREAMED)
    def test_comes_before_the_next_write(self, name: str) -> None:
        called = Gate()
        with Peer(answer) as peer:
            request = post(peer, name, 2)
            request.write(b"a", "utf-8", called.set)
            called.wait()
            request.end(b"b")
            assert request.wait(LIMIT)

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("name", STREAMED)
    def test_of_an_empty_write_needs_no_further_write(self, name: str, first: bool) -> None:
        called = Gate()
        with Peer(answer) as peer:
            request = post(peer, name, 2)
            if not first:
                request.write(b"a")
                request.flush()
            request.write(b"", "utf-8", called.set)
            called.wait()
            request.end(b"b" if not first else b"ab")
            assert request.wait(LIMIT)

    def test_not_before_end_when_buffered(self) -> None:
        calls = Calls()
        with Peer(answer) as peer:
            request = post(peer)
            request.write(b"x", "utf-8", calls.expect("write"))
            assert calls.names == []
            request.end()
            assert request.wait(LIMIT)
        assert calls.names == ["write"]

    def test_with_a_parameter_and_without(self) -> None:
        given: list[tuple[Any, ...]] = []
        with Peer(answer) as peer:
            request = post(peer)
            request.write(b"a", "utf-8", lambda: given.append(()))
            request.write(b"b", "utf-8", lambda error: given.append((error,)))
            request.write(b"c", "utf-8", lambda error="unset": given.append((error,)))
            request.write(b"d", "utf-8", lambda *errors: given.append(errors))
            request.write(b"e", "utf-8", functools.partial(given.append))
            request.end()
            assert request.wait(LIMIT)
        assert given == [(), (None,), (None,), (None,), None]

    def test_in_place_of_the_encoding(self) -> None:
        calls = Calls()
        with Peer(answer) as peer:
            request = post(peer)
            request.write("a", calls.expect("write"))
            request.end("b", calls.expect("end"))
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"ab"
        assert calls.names == ["write", "end"]

    def test_in_place_of_the_last_chunk(self) -> None:
        calls = Calls()
        with Peer(answer) as peer:
            request = post(peer)
            request.end(calls.expect("end"))
            assert request.wait(LIMIT)
        assert calls.names == ["end"]

    def test_not_for_a_write_that_raised(self) -> None:
        calls = Calls()
        with Peer(answer) as peer:
            request = post(peer, "length", 1)
            with pytest.raises(ProtocolError):
                request.write(b"xx", "utf-8", calls.expect("excess"))
            with pytest.raises(TypeError):
                request.write(5, "utf-8", calls.expect("wrong"))
            request.end(b"x", "utf-8", calls.expect("end"))
            assert request.wait(LIMIT)
        assert calls.names == ["end"]

    def test_abort_before_end_gives_them_the_error(self) -> None:
        calls = Calls()
        with Peer(answer) as peer:
            request = post(peer)
            closed = Recorder(request)
            request.write(b"a", "utf-8", calls.expect("first"))
            request.write(b"b", "utf-8", calls.expect("second"))
            request.abort()
            closed.wait("close")
        assert calls.names == ["first", "second"]
        assert all(isinstance(error, AbortedError) for error in calls.errors)

    def test_connection_that_cannot_be_made_gives_them_the_error(self) -> None:
        calls = Calls()
        with Peer(answer) as peer:
            port = peer.port
        request = ClientRequest(f"http://127.0.0.1:{port}/", method="POST", chunked_encoding=True)
        recorder = Recorder(request)
        request.write(b"a", "utf-8", calls.expect("write"))
        with_error = recorder.wait("error").args[0]
        recorder.wait("close")
        assert calls.calls == [("write", with_error)]

    def test_early_answer_gives_them_the_error(self) -> None:
        calls = Calls()
        with Peer(scripted(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", Conn.hold, body=False)) as peer:
            request = post(peer, "chunked")
            recorder = Recorder(request, skip=["response.data"])
            request.cork()
            request.write(b"a", "utf-8", calls.expect("before"))
            recorder.wait("response")
            request.write(b"b", "utf-8", calls.expect("after"))
            request.end(b"c", "utf-8", calls.expect("end"))
            recorder.response.resume()
            recorder.wait("close")
        assert calls.names == ["before", "after", "end"]
        assert all(isinstance(error, ClientRequestError) for error in calls.errors)

    def test_after_an_early_answer_was_read_they_get_the_error(self) -> None:
        calls, last = Calls(), Gate()
        with Peer(scripted(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", Conn.hold, body=False)) as peer:
            request = post(peer, "chunked")
            request.write(b"a")
            assert request.wait(LIMIT)
            for number in range(50):
                request.write(b"b", "utf-8", calls.expect(f"write {number}"))
            request.end(b"c", "utf-8", lambda error: (calls.expect("end")(error), last.set()))
            last.wait()
        assert calls.names == [*(f"write {number}" for number in range(50)), "end"]
        assert all(isinstance(error, ClientRequestError) for error in calls.errors)
        assert threading.get_ident() not in calls.threads


class TestCork:
    def test_holds_back_until_uncork(self) -> None:
        chunks: queue.Queue[bytes] = queue.Queue()
        with Peer(chunk_reader(chunks)) as peer:
            request = post(peer, "chunked")
            request.write(b"open")
            assert chunks.get(timeout=LIMIT) == b"open"
            request.flush()
            request.cork()
            request.write(b"a")
            request.write(b"b")
            assert request.writable_length == 2
            request.uncork()
            assert chunks.get(timeout=LIMIT) == b"ab"
            request.end()
            assert request.wait(LIMIT)
        assert chunks.empty()

    def test_nests(self) -> None:
        chunks: queue.Queue[bytes] = queue.Queue()
        with Peer(chunk_reader(chunks)) as peer:
            request = post(peer, "chunked")
            request.cork()
            request.cork()
            request.write(b"a")
            request.uncork()
            request.write(b"b")
            peer.wait_request()
            assert request.writable_length == 2
            request.uncork()
            assert chunks.get(timeout=LIMIT) == b"ab"
            request.end()
            assert request.wait(LIMIT)

    def test_end_sends_what_is_held_back(self) -> None:
        with Peer(answer) as peer:
            request = post(peer, "chunked")
            request.cork()
            request.write(b"a")
            request.end(b"b")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"ab"

    def test_uncork_without_cork_does_no_harm(self) -> None:
        with Peer(answer) as peer:
            request = post(peer, "chunked")
            request.uncork()
            request.cork()
            request.write(b"a")
            peer.wait_request()
            assert request.writable_length == 1
            request.end()
            assert request.wait(LIMIT)

    def test_write_does_not_wait_for_room(self) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, "chunked", high_water_mark=1)
            request.cork()
            for _ in range(10):
                request.write(b"x" * 1000)
            request.end()
            assert request.get_response(LIMIT).json()["length"] == 10_000
            assert request.wait(LIMIT)


class TestFlush:
    @pytest.mark.parametrize("name", STREAMED)
    def test_waits_until_all_is_handed_over(self, name: str) -> None:
        with Peer(echo_json) as peer:
            request = post(peer, name, 8 * MIB, high_water_mark=16 * MIB)
            request.write(b"x" * (8 * MIB))
            request.flush()
            assert request.writable_length == 0
            assert request.get_upload_progress().current == 8 * MIB
            request.end()
            assert request.wait(LIMIT)

    def test_returns_at_once_where_there_is_nothing_to_wait_for(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            request.flush()
            request.write(b"x")
            request.flush()
            corked = post(peer, "chunked")
            corked.cork()
            corked.write(b"x")
            corked.flush()
            assert (request.writable_length, corked.writable_length) == (1, 1)
            for one in (request, corked):
                one.abort()
                with pytest.raises(AbortedError):
                    one.flush()

    def test_is_freed_by_abort(self) -> None:
        taken = Gate()
        with Peer(Conn.hold) as peer:
            request = post(peer, "chunked", high_water_mark=64 * MIB)
            request.write(b"x" * (32 * MIB), "utf-8", taken.set)
            taken.wait()
            timer = threading.Thread(target=request.abort)
            timer.start()
            with pytest.raises(AbortedError):
                request.flush()
            timer.join()

    def test_in_a_callback_does_not_wait(self) -> None:
        flushed: list[int] = []
        with Peer(answer) as peer:
            request = post(peer, "chunked")

            def write_and_flush() -> None:
                request.write(b"more")
                request.flush()
                flushed.append(request.writable_length)

            request.write(b"x", "utf-8", write_and_flush)
            peer.wait_request()
            request.flush()
            request.end()
            assert request.wait(LIMIT)
        assert flushed == [5]


class TestFlushHeaders:
    @pytest.mark.parametrize("name", STREAMED)
    def test_sends_the_head_alone(self, name: str) -> None:
        with Peer(answer) as peer:
            request = post(peer, name, 1)
            request.flush_headers()
            assert peer.wait_request().length == 0
            assert request.headers_sent
            assert request.tell() == 0
            request.end(b"x")
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"x"

    def test_may_be_repeated(self) -> None:
        with Peer(answer) as peer:
            request = post(peer, "chunked")
            request.flush_headers()
            request.flush_headers()
            request.write(b"a")
            request.flush_headers()
            request.end()
            assert request.wait(LIMIT)
            assert len(peer.connections) == 1
            assert peer.wait_request().body == b"a"

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_then_nothing_is_an_empty_body(self, method: str) -> None:
        with Peer(answer) as peer:
            request = ClientRequest(peer.url(), method=method, chunked_encoding=True)
            request.flush_headers()
            assert peer.wait_request().chunked
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().complete

    def test_needs_a_streamed_body(self) -> None:
        with Peer(answer) as peer:
            request = post(peer)
            with pytest.raises(InvalidStateError, match="chunked_encoding"):
                request.flush_headers()
            request.set_header("X-Still", "free")
            request.end()
            assert request.wait(LIMIT)

    def test_after_end_is_refused(self) -> None:
        with Peer(answer) as peer:
            request = post(peer, "chunked")
            request.end()
            with pytest.raises(InvalidStateError):
                request.flush_headers()
            assert request.wait(LIMIT)


class TestJoining:
    def test_many_small_writes_make_few_chunks(self) -> None:
        piece = bytes(range(100))
        with Peer(echo_json) as peer:
            request = post(peer, "chunked")
            for _ in range(20_000):
                request.write(piece)
            request.end()
            described = request.get_response(LIMIT).json()
            assert request.wait(LIMIT)
        assert described["sha256"] == hashlib.sha256(piece * 20_000).hexdigest()
        assert described["chunks"] < 1_000

    @pytest.mark.parametrize("tls", [False, True])
    def test_lone_small_writes_are_not_delayed(self, tls: bool) -> None:
        chunks: queue.Queue[bytes] = queue.Queue()
        context = server_context() if tls else None
        with Peer(chunk_reader(chunks), tls=context) as peer, Session(tls=ca_path()) as session:
            request = post(peer, "chunked", session=session)
            request.write(b"!")
            chunks.get(timeout=LIMIT)
            start = time.monotonic()
            for number in range(100):
                request.write(bytes([number]))
                assert chunks.get(timeout=LIMIT) == bytes([number])
            took = time.monotonic() - start
            request.end()
            assert request.wait(LIMIT)
        assert took < 2.0  # Nagle's algorithm alone would make it 4 s

    def test_writing_goes_on_while_the_server_does_not_read(self) -> None:
        go_on = Gate()

        def read_late(conn: Conn) -> None:
            request = conn.read_request(body=False)
            go_on.wait()
            conn.drain_body(request)
            conn.send(OK)

        with Peer(read_late) as peer:
            request = post(peer, "chunked", high_water_mark=64 * MIB)
            for _ in range(32):
                request.write(bytes(MIB))
            assert request.writable_length > 0  # more than the system takes
            go_on.set()
            request.end()
            assert request.wait(LIMIT)
            assert peer.wait_request().length == 32 * MIB


class TestManyWriters:
    RECORD = 37

    def records(self, writer: int) -> Iterator[bytes]:
        for number in range(400):
            yield (f"<{writer}:{number}:".encode()).ljust(self.RECORD - 1, b"-") + b">"

    @pytest.mark.parametrize("name", WAYS)
    def test_each_chunk_stays_whole_and_in_its_writers_order(self, name: str) -> None:
        everything = [list(self.records(writer)) for writer in range(8)]
        with Peer(answer) as peer:
            request = post(peer, name, sum(map(len, everything)) * self.RECORD, high_water_mark=4 * KIB)
            together = threading.Barrier(8)

            def write(records: list[bytes]) -> None:
                together.wait(LIMIT)
                for record in records:
                    request.write(record)

            writers = [threading.Thread(target=write, args=(records,)) for records in everything]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join(LIMIT)
            assert request.tell() == 8 * 400 * self.RECORD
            request.end()
            assert request.wait(LIMIT)
            body = peer.wait_request().body
        found = [body[start : start + self.RECORD] for start in range(0, len(body), self.RECORD)]
        for writer, records in enumerate(everything):
            assert [record for record in found if record.startswith(b"<%d:" % writer)] == records

    def test_one_request_goes_out_when_many_write_first(self) -> None:
        with Peer(answer) as peer:
            request = post(peer, "chunked")
            together = threading.Barrier(8)

            def write() -> None:
                together.wait(LIMIT)
                request.write(b"x")

            writers = [threading.Thread(target=write) for _ in range(8)]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join(LIMIT)
            request.end()
            assert request.wait(LIMIT)
            assert len(peer.connections) == 1
            assert peer.wait_request().body == b"x" * 8

    def test_one_end_of_many_wins(self) -> None:
        outcomes: list[str] = []
        with Peer(answer) as peer:
            request = post(peer)
            together = threading.Barrier(8)

            def end() -> None:
                together.wait(LIMIT)
                try:
                    request.end(b"x")
                    outcomes.append("ended")
                except InvalidStateError:
                    outcomes.append("refused")

            enders = [threading.Thread(target=end) for _ in range(8)]
            for ender in enders:
                ender.start()
            for ender in enders:
                ender.join(LIMIT)
            assert request.wait(LIMIT)
            assert peer.wait_request().body == b"x"
        assert sorted(outcomes) == ["ended"] + ["refused"] * 7


class TestProperties:
    def test_lengths(self) -> None:
        with Peer(answer) as peer:
            request = post(peer, high_water_mark=100)
            assert request.writable_high_water_mark == 100
            assert request.writable_length == 0
            request.write(b"abc")
            request.write("ü")
            assert request.writable_length == 5
            request.end()
            assert request.wait(LIMIT)
            assert request.writable_length == 0

    def test_mark_is_one_mebibyte(self) -> None:
        assert ClientRequest("http://localhost/").writable_high_water_mark == MIB

    def test_finished_once_the_last_chunk_is_taken(self) -> None:
        hold = Gate()
        with Peer(scripted(hold, OK)) as peer:
            request = post(peer, "chunked")
            recorder = Recorder(request, consume=True)
            request.write(b"x")
            assert not request.writable_finished
            request.end()
            recorder.wait("finish")
            assert request.writable_finished
            hold.set()
            assert request.wait(LIMIT)
