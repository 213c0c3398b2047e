"""The response as a readable binary file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import pickle
import shutil
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Callable

import pytest

from clientrequest import (
    AbortedError,
    ClientRequest,
    IncomingMessage,
    ProtocolError,
    RequestTimeout,
    Session,
    Timeout,
)
from clientrequest._incoming import BLOCK, READ_AHEAD
from tests.support import LIMIT, Conn, Gate, Handler, Peer, Recorder, echo_json, scripted

Serve = Callable[..., Peer]
Read = Callable[[IncomingMessage], bytes]

SHORT = 0.05
"""For waits that have to run out."""

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
UNBOUNDED = OK + b"\r\n"

NUMBERS = b"".join(b"%07d\n" % number for number in range(128 * 1024))
"""1 MiB, every eight bytes of them different."""


def sized(body: bytes, more: int = 0) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n%b" % (len(body) + more, body)


def chunked(body: bytes, size: int = 5000) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def unbounded(body: bytes) -> bytes:
    return UNBOUNDED + body


def encoded(coding: str, packed: bytes) -> bytes:
    head = f"Content-Encoding: {coding}\r\nContent-Length: {len(packed)}\r\n\r\n"
    return OK + head.encode() + packed


def zipped(body: bytes) -> bytes:
    return encoded("gzip", gzip.compress(body, 1))


FORMS = [sized, chunked, unbounded, zipped]


@pytest.fixture
def fetch(serve: Serve, session: Session) -> Callable[..., IncomingMessage]:
    """Gives the response that is made of these bytes."""

    def fetch(*steps: bytes | Gate | Handler, **options: Any) -> IncomingMessage:
        request: ClientRequest = session.request(serve(scripted(*steps)).url("/"), **options)
        return request.end().get_response(LIMIT)

    return fetch


Fetch = Callable[..., IncomingMessage]


@contextmanager
def answer(*steps: bytes | Gate | Handler, **options: Any) -> Iterator[IncomingMessage]:
    """The same, without TLS, for what has nothing to do with the network."""
    with Peer(scripted(*steps)) as peer:
        request = ClientRequest(peer.url("/"), **options).end()
        yield request.get_response(LIMIT)
        request.abort()


# --- every way of reading -------------------------------------------------------------------------------------------


def by_read(response: IncomingMessage) -> bytes:
    return response.read()


def by_read_none(response: IncomingMessage) -> bytes:
    return response.read(None)


def by_pieces(response: IncomingMessage) -> bytes:
    return b"".join(iter(lambda: response.read(10_007), b""))


def by_read1(response: IncomingMessage) -> bytes:
    return b"".join(iter(response.read1, b""))


def by_small_read1(response: IncomingMessage) -> bytes:
    return b"".join(iter(lambda: response.read1(3001), b""))


def by_readinto(response: IncomingMessage) -> bytes:
    buffer, pieces = bytearray(300_000), []
    while count := response.readinto(buffer):
        pieces.append(bytes(buffer[:count]))
    assert all(len(piece) == len(buffer) for piece in pieces[:-1])  # less only at the end
    return b"".join(pieces)


def by_readinto1(response: IncomingMessage) -> bytes:
    buffer, pieces = bytearray(300_000), []
    while count := response.readinto1(buffer):
        pieces.append(bytes(buffer[:count]))
    return b"".join(pieces)


def by_lines(response: IncomingMessage) -> bytes:
    lines = list(response)
    assert all(len(line) == 8 for line in lines)
    return b"".join(lines)


def by_readlines(response: IncomingMessage) -> bytes:
    return b"".join(response.readlines())


def by_chunks(response: IncomingMessage) -> bytes:
    return b"".join(response.iter_chunks())


def by_chunks_of_a_size(response: IncomingMessage) -> bytes:
    pieces = list(response.iter_chunks(100_000))
    assert all(len(piece) == 100_000 for piece in pieces[:-1])
    return b"".join(pieces)


def by_all_in_turn(response: IncomingMessage) -> bytes:
    start = response.readline() + response.read(1000) + response.read1(5000) + next(response, b"")
    return start + next(response.iter_chunks(100_000), b"") + response.read1() + response.read()


def by_text_wrapper(response: IncomingMessage) -> bytes:
    return io.TextIOWrapper(response, "ascii", newline="").read().encode()


def by_copyfileobj(response: IncomingMessage) -> bytes:
    target = io.BytesIO()
    shutil.copyfileobj(response, target)
    return target.getvalue()


WAYS: list[Read] = [
    by_read,
    by_read_none,
    by_pieces,
    by_read1,
    by_small_read1,
    by_readinto,
    by_readinto1,
    by_lines,
    by_readlines,
    by_chunks,
    by_chunks_of_a_size,
    by_all_in_turn,
    by_text_wrapper,
    by_copyfileobj,
]


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("form", FORMS)
def test_a_body_is_read_whole(fetch: Fetch, form: Callable[[bytes], bytes], read: Read) -> None:
    response = fetch(form(NUMBERS))
    assert read(response) == NUMBERS
    assert response.complete
    if not response.closed:  # a wrapper that is let go of closes it
        assert response.read(1) == response.read() == response.read1() == response.readline() == b""


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("form", FORMS)
def test_an_empty_body_is_read(fetch: Fetch, form: Callable[[bytes], bytes], read: Read) -> None:
    assert read(fetch(form(b""))) == b""


# --- what one call gives --------------------------------------------------------------------------------------------


def test_read_waits_for_all_that_was_asked_for(fetch: Fetch) -> None:
    rest = Gate()
    response = fetch(sized(b"ab", 4), rest, b"cdef")
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(response.read, 4)
        assert not wait([reading], SHORT).done
        rest.set()
        assert reading.result(LIMIT) == b"abcd"
    assert response.read() == b"ef"


@pytest.mark.parametrize("read", [lambda r: r.read1(), lambda r: r.read1(100), lambda r: next(r.iter_chunks())])
def test_what_is_there_is_given_at_once(fetch: Fetch, read: Read) -> None:
    rest = Gate()
    response = fetch(sized(b"ab", 2), rest, b"cd")
    assert read(response) == b"ab"
    rest.set()
    assert response.read1() == b"cd"
    assert response.read1() == b""


def test_readinto1_gives_what_is_there(fetch: Fetch) -> None:
    buffer = bytearray(8)
    response = fetch(sized(b"ab", 2), Conn.hold)
    assert response.readinto1(buffer) == 2
    assert buffer[:2] == b"ab"
    response.close()


def test_a_line_is_given_when_it_is_whole(fetch: Fetch) -> None:
    rest = Gate()
    response = fetch(sized(b"one\ntw", 2), rest, b"o\n")
    assert response.readline() == b"one\n"
    rest.set()
    assert response.readline() == b"two\n"


def test_the_last_line_may_have_no_end(fetch: Fetch) -> None:
    assert list(fetch(sized(b"a\n\nb"))) == [b"a\n", b"\n", b"b"]


def test_a_line_can_be_limited() -> None:
    with answer(sized(b"abcdef\n")) as response:
        assert response.readline(4) == b"abcd"
        assert response.readline(None) == b"ef\n"


def test_nothing_can_be_asked_for() -> None:
    with answer(sized(b"ab")) as response:
        assert response.read(0) == response.read1(0) == b""
        assert response.readinto(bytearray()) == 0
        assert response.read() == b"ab"


def test_readinto_fills_any_writable_buffer() -> None:
    with answer(sized(b"abcdefgh")) as response:
        buffer = bytearray(8)
        assert response.readinto(memoryview(buffer)[2:6]) == 4
        assert buffer == b"\0\0abcd\0\0"


@pytest.mark.parametrize("size", [0, -1])
def test_chunks_need_a_size_above_zero(size: int) -> None:
    with answer(sized(b"ab")) as response, pytest.raises(ValueError, match="size"):
        next(response.iter_chunks(size))


# --- what it is -----------------------------------------------------------------------------------------------------


def test_it_is_a_readable_binary_file() -> None:
    with answer(sized(b"ab")) as response:
        assert isinstance(response, io.BufferedIOBase)
        assert (response.readable(), response.writable(), response.seekable()) == (True, False, False)
        assert response.mode == "rb"
        assert not response.closed
        assert not response.isatty()


@pytest.mark.parametrize(
    "use",
    [
        lambda response: response.write(b"x"),
        lambda response: response.seek(0),
        lambda response: response.tell(),
        lambda response: response.truncate(),
        lambda response: response.fileno(),
        lambda response: response.detach(),
    ],
    ids=["write", "seek", "tell", "truncate", "fileno", "detach"],
)
def test_what_it_cannot_do(use: Callable[[IncomingMessage], object]) -> None:
    with answer(sized(b"ab")) as response, pytest.raises(io.UnsupportedOperation):
        use(response)


# --- programs that read files ---------------------------------------------------------------------------------------


def test_text_wrapper_decodes_what_comes_in_pieces(fetch: Fetch) -> None:
    rest = Gate()
    text = io.TextIOWrapper(fetch(UNBOUNDED + b"first\r\nGr\xc3", rest, b"\xbc\xc3\x9fe\r\n"), "utf-8")
    assert text.readline() == "first\n"
    rest.set()
    assert text.read() == "Grüße\n"


def test_closing_a_text_wrapper_closes_the_response() -> None:
    with answer(sized(b"ab")) as response:
        with io.TextIOWrapper(response, "ascii"):
            pass
        assert response.closed


def test_csv(fetch: Fetch) -> None:
    response = fetch(chunked(b'a,b\r\n1,"x\r\ny"\r\n', 3))
    assert list(csv.DictReader(io.TextIOWrapper(response, newline=""))) == [{"a": "1", "b": "x\r\ny"}]


def test_json_load(fetch: Fetch) -> None:
    assert json.load(fetch(chunked(b'{"a": [1, 2]}', 3))) == {"a": [1, 2]}


def test_pickle(fetch: Fetch) -> None:
    value = {"numbers": list(range(100_000))}
    assert pickle.load(fetch(chunked(pickle.dumps(value)))) == value


@pytest.mark.parametrize("mode", ["r|", "r|gz", "r|*"])
def test_tarfile(fetch: Fetch, mode: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w" if mode == "r|" else "w:gz") as tar:
        member = tarfile.TarInfo("numbers")
        member.size = len(NUMBERS)
        tar.addfile(member, io.BytesIO(NUMBERS))
    with tarfile.open(fileobj=fetch(chunked(archive.getvalue())), mode=mode) as tar:
        (first,) = [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
    assert first == NUMBERS


def test_gzip_file(fetch: Fetch) -> None:
    with gzip.GzipFile(fileobj=fetch(sized(gzip.compress(NUMBERS, 1)))) as file:
        assert file.read() == NUMBERS


def test_zipfile_needs_a_seekable_file(fetch: Fetch) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a", b"content")
    response = fetch(sized(archive.getvalue()))
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(response)
    with zipfile.ZipFile(io.BytesIO(response.read())) as copy:
        assert copy.read("a") == b"content"


@pytest.mark.parametrize("copy", [shutil.copyfileobj, lambda source, target: target.pipe_from(source)])
def test_a_response_is_copied_into_a_request(
    fetch: Fetch, serve: Serve, session: Session, copy: Callable[[IncomingMessage, ClientRequest], object]
) -> None:
    upload = session.request(serve(echo_json).url("/"), method="PUT", chunked_encoding=True)
    with upload:
        copy(fetch(chunked(NUMBERS)), upload)
    assert upload.get_response(LIMIT).json()["sha256"] == hashlib.sha256(NUMBERS).hexdigest()


# --- where it is read -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_it_is_read_inside_a_response_listener(serve: Serve, session: Session, form: Callable[[bytes], bytes]) -> None:
    bodies: list[bytes] = []
    request = session.request(serve(scripted(form(NUMBERS))).url("/"), lambda r: bodies.append(r.read()))
    recorder = Recorder(request)
    assert request.end().wait(LIMIT)
    assert bodies == [NUMBERS]
    recorder.check_grammar()


def test_lines_are_read_inside_a_listener_as_they_come(serve: Serve, session: Session) -> None:
    gates = [Gate(), Gate()]
    peer = serve(scripted(sized(b"1\n", 4), gates[0], b"2\n", gates[1], b"3\n"))
    lines: list[bytes] = []

    def listen(response: IncomingMessage) -> None:
        for line, gate in zip(response, [*gates, Gate()]):
            lines.append(line)
            gate.set()

    assert session.request(peer.url("/"), listen).end().wait(LIMIT)
    assert lines == [b"1\n", b"2\n", b"3\n"]


@pytest.mark.parametrize("form", FORMS)
def test_threads_share_a_body_without_loss(fetch: Fetch, form: Callable[[bytes], bytes]) -> None:
    response = fetch(form(NUMBERS))

    def read_records(size: int) -> list[bytes]:
        return list(iter(lambda: response.read(size), b""))

    with ThreadPoolExecutor(4) as threads:
        parts = [part for parts in threads.map(read_records, [8, 800, 8000, 80_000]) for part in parts]
    assert sum(map(len, parts)) == len(NUMBERS)
    assert b"".join(sorted(parts)) == NUMBERS


def test_one_thread_may_read_while_another_waits_for_the_end(fetch: Fetch) -> None:
    response = fetch(sized(NUMBERS))
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(response.request.wait, LIMIT)
        assert response.read() == NUMBERS
        assert waiting.result(LIMIT) is True


def test_close_fires_when_the_body_is_off_the_network(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(sized(b"abcd"))).url("/"))
    recorder = Recorder(request)
    request.end()
    recorder.wait("response")
    assert recorder.response.read(1) == b"a"
    recorder.wait("close")
    assert recorder.response.read() == b"bcd"
    recorder.check_grammar()


# --- close() --------------------------------------------------------------------------------------------------------


def test_close_part_way_frees_the_connection(serve: Serve, session: Session) -> None:
    peer = serve(scripted(sized(b"abcd", 100), Conn.wait_closed))
    request = session.request(peer.url("/"))
    recorder = Recorder(request)
    request.end()
    recorder.wait("response")
    assert recorder.response.read(2) == b"ab"
    recorder.response.close()
    recorder.wait("close")
    recorder.check_grammar()
    assert not recorder.find("error") + recorder.find("error", "response")
    assert request.wait(LIMIT)
    peer.join()


def test_close_before_reading_frees_the_connection(serve: Serve, session: Session) -> None:
    peer = serve(scripted(sized(b"abcd", 100), Conn.wait_closed))
    request = session.request(peer.url("/")).end()
    request.get_response(LIMIT).close()
    assert request.wait(LIMIT)
    peer.join()


def test_close_of_a_body_that_is_here_keeps_the_connection(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    request = session.request(peer.url("/")).end()
    request.get_response(LIMIT).close()
    assert request.wait(LIMIT)
    assert session.request(peer.url("/")).end().get_response(LIMIT).json()["connection"] == 1


@pytest.mark.parametrize("read", [by_read, by_read1, by_lines, by_readinto, by_chunks, by_chunks_of_a_size])
def test_a_closed_response_cannot_be_read(read: Read) -> None:
    with answer(sized(b"abcd")) as response:
        response.close()
        response.close()
        assert response.closed
        with pytest.raises(ValueError, match="closed"):
            read(response)


def test_leaving_with_closes_it() -> None:
    with answer(sized(b"abcd")) as response:
        with response as entered:
            assert entered is response
            assert response.read(1) == b"a"
        assert response.closed
        assert response.status_code == 200


def test_close_inside_a_listener(serve: Serve, session: Session) -> None:
    peer = serve(scripted(sized(b"abcd", 100), Conn.wait_closed))
    assert session.request(peer.url("/"), lambda response: response.close()).end().wait(LIMIT)
    peer.join()


def test_close_from_another_thread_frees_a_reader(fetch: Fetch) -> None:
    response = fetch(sized(b"ab", 100), Conn.wait_closed)
    assert response.read(2) == b"ab"
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(response.read)
        assert not response.request.wait(SHORT)
        response.close()
        with pytest.raises(ValueError, match="closed"):
            reading.result(LIMIT)
    assert response.request.wait(LIMIT)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [by_read, by_pieces, by_read1, by_readinto, by_lines, by_chunks, by_copyfileobj])
def test_every_way_of_reading_raises_the_error(fetch: Fetch, way: Read) -> None:
    response = fetch(sized(NUMBERS[:1024], 8))
    with pytest.raises(ProtocolError, match="ERR_CONTENT_LENGTH_MISMATCH"):
        way(response)
    with pytest.raises(ProtocolError, match="ERR_CONTENT_LENGTH_MISMATCH"):
        response.read()
    assert response.error is not None
    assert response.error.code == "ERR_CONTENT_LENGTH_MISMATCH"


@pytest.mark.parametrize("read", [lambda r: r.read(6), lambda r: r.read1(), lambda r: next(r.iter_chunks())])
def test_what_came_before_the_error_is_given_first(fetch: Fetch, read: Read) -> None:
    response = fetch(sized(b"line 1", 2))
    with pytest.raises(ProtocolError):
        response.request.wait(LIMIT)
    assert read(response) == b"line 1"
    with pytest.raises(ProtocolError):
        read(response)


def test_lines_before_the_error_are_given_first(fetch: Fetch) -> None:
    response = fetch(sized(b"line 1\nline 2\nli", 2))
    assert next(response) + next(response) == b"line 1\nline 2\n"
    with pytest.raises(ProtocolError):
        next(response)


def test_an_error_read_in_a_listener_fails_the_request(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(sized(b"half", 4))).url("/"), lambda response: response.read())
    recorder = Recorder(request)
    request.end()
    recorder.wait("close")
    recorder.check_grammar()
    assert recorder.find("error", "response")[0].args[0].code == "ERR_CONTENT_LENGTH_MISMATCH"


def test_abort_frees_a_reader(fetch: Fetch) -> None:
    response = fetch(sized(b"ab", 100), Conn.wait_closed)
    assert response.read(2) == b"ab"
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(response.read)
        assert not response.request.wait(SHORT)
        response.request.abort()
        with pytest.raises(AbortedError):
            reading.result(LIMIT)


def test_after_abort_nothing_is_read(fetch: Fetch) -> None:
    response = fetch(sized(b"ab", 100), Conn.wait_closed)
    response.request.abort()
    for read in (response.read, response.read1, response.readline):
        with pytest.raises(AbortedError):
            read()


def test_a_silent_server_runs_into_the_read_timeout(fetch: Fetch) -> None:
    response = fetch(sized(b"ab", 2), Conn.wait_closed, timeout=Timeout(read=SHORT))
    assert response.read(2) == b"ab"
    with pytest.raises(RequestTimeout, match="ERR_TIMED_OUT"):
        response.read()


def drip(conn: Conn) -> None:
    """A byte each time that the last one was read, more or less, for ever."""
    pause = threading.Event()
    while not pause.wait(0.01):
        conn.send(b"x")


def test_a_dripping_server_runs_into_the_total_timeout(fetch: Fetch) -> None:
    response = fetch(UNBOUNDED, drip, timeout=Timeout(read=LIMIT, total=0.3))
    with pytest.raises(RequestTimeout, match="total"):
        response.read()


# --- content codings ------------------------------------------------------------------------------------------------


def deflate_raw(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def brotli(body: bytes) -> bytes:
    return bytes(pytest.importorskip("brotli").compress(body, quality=1))


def zstd(body: bytes) -> bytes:
    return bytes(pytest.importorskip("backports.zstd").compress(body))


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip in capitals": ("GZIP", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "gzip in members": ("gzip", lambda body: gzip.compress(body[:1000]) + gzip.compress(body[1000:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without its header": ("deflate", deflate_raw),
    "br": ("br", brotli),
    "zstd": ("zstd", zstd),
    "two": ("deflate, gzip", lambda body: gzip.compress(zlib.compress(body))),
    "identity": ("identity", bytes),
    "unknown": ("exotic", bytes),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_content_codings_are_undone(fetch: Fetch, coding: str) -> None:
    name, pack = CODINGS[coding]
    packed, rest = pack(NUMBERS), Gate()
    whole = encoded(name, packed)
    response = fetch(whole[: -len(packed) // 2], rest, whole[-len(packed) // 2 :])
    assert response.read(100) == NUMBERS[:100]
    rest.set()
    assert response.read() == NUMBERS[100:]
    assert response.headers["content-encoding"] == name


def test_decode_false_gives_what_is_on_the_wire(fetch: Fetch) -> None:
    packed = gzip.compress(NUMBERS)
    assert fetch(encoded("gzip", packed), decode=False).read() == packed


def test_an_empty_body_of_a_coding_is_empty(fetch: Fetch) -> None:
    assert fetch(encoded("gzip", b"")).read() == b""


def test_a_bomb_is_unpacked_bit_by_bit(fetch: Fetch) -> None:
    response = fetch(encoded("gzip", gzip.compress(bytes(100 * 1024 * 1024))))
    assert response._incoming.buffered <= READ_AHEAD
    assert response.read(10) == bytes(10)
    assert response._incoming.buffered <= BLOCK
    response.close()
