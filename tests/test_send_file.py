"""Files on disk as bodies: the system sends them, and what it cannot send is written like anything else."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Callable

import pytest

from clientrequest import ClientRequest, ClientRequestError, InvalidStateError, ProtocolError, Session, _file_part
from clientrequest._body import CHUNKED, Outbox
from clientrequest._file_part import FilePart, rest_of
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, early_answer, echo_json, late_reader, scripted

KIB, MIB = 1024, 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CONTENT = b"".join(number.to_bytes(4, "big") for number in range(MIB))  # 4 MiB, no two places alike

Serve = Callable[..., Peer]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def file(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        yield file


@pytest.fixture(params=["sendfile", "no-sendfile"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Once as here, once as on a system that cannot send files."""
    if request.param == "no-sendfile":
        monkeypatch.setattr(_file_part, "CAN_SEND", False)
    name: str = request.param
    return name


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def post(session: Session, peer: Peer, **options: Any) -> ClientRequest:
    made: ClientRequest = session.request(peer.url("/"), method="POST", **options)
    return made


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


# --- what arrives ---


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("framing", ["chosen", "chunked", "length"])
def test_arrives_whole(session: Session, serve: Serve, file: IO[bytes], framing: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "chosen": {},
        "chunked": {"chunked_encoding": True},
        "length": {"headers": {"Content-Length": len(CONTENT)}},
    }
    peer = serve(echo_json)
    request = post(session, peer, **options[framing])
    recorder = Recorder(request, consume=True)
    assert request.send_file(file) == len(CONTENT)
    assert request.tell() == file.tell() == len(CONTENT)
    request.end()
    recorder.wait("close")
    recorder.check_grammar()
    assert recorder.find("upload-progress")[-1].args == (len(CONTENT), len(CONTENT))
    seen = peer.wait_request()
    assert seen.sha256 == digest(CONTENT)
    assert (seen.header("Transfer-Encoding") == "chunked") is (framing == "chunked")


def test_a_length_is_announced_where_nothing_was_chosen(session: Session, file: IO[bytes]) -> None:
    with Peer(echo_json) as peer:
        request = post(session, peer)
        request.send_file(file, 1000)
        request.end()
        assert request.wait(LIMIT)
        seen = peer.wait_request()
    assert seen.sha256 == digest(CONTENT[:1000])
    assert seen.header("Content-Length") == "1000"


@pytest.mark.usefixtures("either")
def test_from_its_position_and_count_bytes(session: Session, serve: Serve, file: IO[bytes]) -> None:
    peer = serve(echo_json)
    file.seek(100_001)
    request = post(session, peer, chunked_encoding=True)
    assert request.send_file(file, 1_000_000) == 1_000_000
    assert file.tell() == 1_100_001
    assert request.send_file(file) == len(CONTENT) - 1_100_001
    request.end()
    assert request.wait(LIMIT)
    assert peer.wait_request().sha256 == digest(CONTENT[100_001:])


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("framing", ["chunked", "buffered"])
def test_between_writes(session: Session, serve: Serve, file: IO[bytes], framing: str) -> None:
    peer = serve(echo_json)
    request = post(session, peer, chunked_encoding=framing == "chunked")
    request.write(b"before")
    request.send_file(file)
    request.write(b"between")
    file.seek(-3, os.SEEK_END)
    request.send_file(file)
    request.end(b"after")
    assert request.wait(LIMIT)
    assert peer.wait_request().sha256 == digest(b"before" + CONTENT + b"between" + CONTENT[-3:] + b"after")


def test_corked_it_goes_out_with_the_rest(session: Session, file: IO[bytes]) -> None:
    with Peer(echo_json) as peer:
        request = post(session, peer, chunked_encoding=True)
        request.cork()
        request.write(b"a")
        request.send_file(file)
        request.write(b"z")
        request.end()
        assert request.wait(LIMIT)
        assert peer.wait_request().sha256 == digest(b"a" + CONTENT + b"z")


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_between_more_writes_than_the_system_takes_at_once(
    session: Session, serve: Serve, file: IO[bytes], framing: str
) -> None:
    """The buffers of one call are limited: to 1024 on Linux."""
    peer = serve(echo_json)
    before, behind = ([b"%d " % number for number in range(2000 + more)] for more in (0, 1))
    whole = b"".join([*before, CONTENT, *behind])
    framings: dict[str, dict[str, Any]] = {
        "chunked": {"chunked_encoding": True},
        "length": {"headers": {"Content-Length": len(whole)}},
    }
    request = post(session, peer, **framings[framing])
    with request:
        request.cork()
        request.writelines(before)
        request.send_file(file)
        request.writelines(behind)
    assert request.get_response().json()["sha256"] == digest(whole)


def test_an_empty_file_is_a_body(session: Session, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with Peer(echo_json) as peer, (tmp_path / "empty").open("rb") as file:
        request = post(session, peer)
        assert request.send_file(file) == 0
        request.end()
        assert request.wait(LIMIT)
        assert peer.wait_request().header("Content-Length") == "0"


def test_may_be_closed_at_once(session: Session, serve: Serve, path: Path) -> None:
    read = Gate()
    peer = serve(late_reader(read, OK))
    request = post(session, peer, blocking=False)
    with path.open("rb") as file:
        request.send_file(file)
    read.set()
    request.end()
    assert request.wait(LIMIT)
    assert peer.wait_request().sha256 == digest(CONTENT)


# --- which files ---


def test_written_and_not_flushed(session: Session) -> None:
    with Peer(echo_json) as peer, tempfile.NamedTemporaryFile() as file:
        file.write(b"not yet on disk")
        file.seek(3)
        file.write(b"#")
        file.seek(0)
        request = post(session, peer)
        request.send_file(file)
        request.end()
        assert request.wait(LIMIT)
        assert peer.wait_request().sha256 == digest(b"not#yet on disk")


def test_a_packed_file_is_sent_unpacked(session: Session, tmp_path: Path) -> None:
    """It has a descriptor too, of what is packed."""
    with gzip.open(tmp_path / "packed.gz", "wb") as packed:
        packed.write(CONTENT)
    with Peer(echo_json) as peer, gzip.open(tmp_path / "packed.gz", "rb") as file:
        request = post(session, peer, chunked_encoding=True)
        assert request.send_file(file) == len(CONTENT)
        request.end()
        assert request.wait(LIMIT)
        assert peer.wait_request().sha256 == digest(CONTENT)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_in_memory(session: Session, chunked: bool) -> None:
    with Peer(echo_json) as peer:
        request = post(session, peer, chunked_encoding=chunked)
        assert request.send_file(io.BytesIO(CONTENT), 70_000) == 70_000
        request.end()
        assert request.wait(LIMIT)
        assert peer.wait_request().sha256 == digest(CONTENT[:70_000])


def test_what_is_sent_by_the_system(tmp_path: Path, path: Path) -> None:
    """Only plain files on disk, open for reading."""
    with path.open("rb") as file, path.open("rb", buffering=0) as raw, path.open("r+b") as both:
        for each in (file, raw, both):
            part = rest_of(each)
            assert part is not None
            assert len(part) == len(CONTENT)
    with path.open("ab") as written, path.open("r") as text, gzip.open(path) as packed:
        assert [rest_of(each) for each in (written, text, packed, io.BytesIO())] == [None] * 4
    ours, theirs = os.pipe()
    with open(ours, "rb") as pipe, open(theirs, "wb"):
        assert rest_of(pipe) is None


# --- what is refused ---


@pytest.mark.parametrize("wrong", [None, "content", b"content", 3, ["content"]])
def test_not_a_file(session: Session, wrong: Any) -> None:
    request = session.request("http://127.0.0.1:9/", method="POST")
    with pytest.raises(TypeError, match="file must be readable"):
        request.send_file(wrong)
    assert request.writable()


def test_a_text_file(session: Session, path: Path) -> None:
    request = session.request("http://127.0.0.1:9/", method="POST")
    with path.open("r", encoding="latin-1") as file, pytest.raises(TypeError, match="binary mode"):
        request.send_file(file)


@pytest.mark.parametrize("count", [-1, 1.5, True, "5"])
def test_a_wrong_count(session: Session, file: IO[bytes], count: Any) -> None:
    request = session.request("http://127.0.0.1:9/", method="POST")
    with pytest.raises(ValueError, match="count must be a number of bytes"):
        request.send_file(file, count)


@pytest.mark.usefixtures("either")
def test_fewer_bytes_than_asked_for(session: Session, file: IO[bytes]) -> None:
    with Peer(echo_json) as peer:
        request = post(session, peer, chunked_encoding=True)
        file.seek(-10, os.SEEK_END)
        with pytest.raises(ProtocolError, match="10 of the 11 bytes") as caught:
            request.send_file(file, 11)
        assert caught.value.code == "ERR_CONTENT_LENGTH_MISMATCH"
        with pytest.raises(ClientRequestError):
            request.wait(LIMIT)
        assert all(not seen.complete for seen in peer.requests)


def test_more_bytes_than_announced(session: Session, file: IO[bytes]) -> None:
    with Peer(echo_json) as peer:
        request = post(session, peer, headers={"Content-Length": 100})
        with pytest.raises(ProtocolError, match="100 announced"):
            request.send_file(file)
        with pytest.raises(ClientRequestError):
            request.wait(LIMIT)
        assert all(not seen.complete for seen in peer.requests)


def test_after_end(session: Session, file: IO[bytes]) -> None:
    with Peer(echo_json) as peer:
        request = post(session, peer)
        request.end(b"all")
        with pytest.raises((InvalidStateError, ClientRequestError)):
            request.send_file(file)


def test_a_file_that_shrinks_is_an_error(session: Session, serve: Serve, path: Path) -> None:
    """And no shorter body: the server sees it cut."""
    shrunk = Gate()

    def read_late(conn: Conn) -> None:
        request = conn.read_request(body=False)
        shrunk.wait()
        conn.drain_body(request)

    path.write_bytes(CONTENT * 8)
    peer = serve(read_late)
    request = post(session, peer, blocking=False)
    with path.open("rb") as file:
        request.send_file(file)
    request.end()
    os.truncate(path, 1000)
    shrunk.set()
    with pytest.raises(ClientRequestError) as caught:
        request.wait(LIMIT)
    assert caught.value.code == "ERR_UPLOAD_FILE_CHANGED"
    assert not any(seen.complete for seen in peer.requests)


# --- sent again, aborted, answered early ---


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_sent_again_after_a_redirect(session: Session, serve: Serve, file: IO[bytes], framing: str) -> None:
    """`replay_limit` is about memory, and a file needs none."""
    target = serve(echo_json)
    moved = f"HTTP/1.1 307 Moved\r\nLocation: {target.url('/there')}\r\nContent-Length: 0\r\n\r\n"
    first = serve(scripted(moved.encode()))
    request = post(session, first, chunked_encoding=framing == "chunked", replay_limit=0)
    request.send_file(file)
    request.end()
    assert request.get_response(LIMIT).status_code == 200
    assert request.wait(LIMIT)
    assert target.wait_request().sha256 == digest(CONTENT)


def test_abort_frees_who_sends(session: Session, serve: Serve, file: IO[bytes], path: Path) -> None:
    path.write_bytes(CONTENT * 8)
    head = Gate()

    def never_read(conn: Conn) -> None:
        conn.read_request(body=False)
        head.set()
        conn.hold()

    peer = serve(never_read)
    before = open_descriptors()
    request = post(session, peer, blocking=False)
    request.send_file(file)
    head.wait()
    request.abort()
    with pytest.raises(ClientRequestError, match="ERR_ABORTED"):
        request.wait(LIMIT)
    del request
    left = {name for name in open_descriptors() - before if os.path.realpath(f"/proc/self/fd/{name}") == str(path)}
    assert not left


def test_an_early_answer_ends_it(session: Session, serve: Serve, file: IO[bytes], path: Path) -> None:
    path.write_bytes(CONTENT * 8)
    request = post(session, serve(early_answer("keep_reading")))
    assert request.send_file(file) == 8 * len(CONTENT)
    assert request.get_response(LIMIT).status_code == 413
    request.end()
    assert request.wait(LIMIT)


def test_waits_for_room(session: Session, file: IO[bytes], path: Path) -> None:
    path.write_bytes(CONTENT * 8)
    with Peer(scripted(Conn.hold, body=False)) as peer:
        request = post(session, peer, high_water_mark=64 * KIB, blocking=False)
        request.send_file(file)
        assert request.writable_need_drain
        assert request.writable_length > 64 * KIB
        request.abort()


# --- a part of a file ---


def test_parts(path: Path) -> None:
    with path.open("rb") as file:
        part = rest_of(file, 10)
    assert isinstance(part, FilePart)
    assert len(part) == 10
    assert part.read(4) == CONTENT[:4]
    assert part.after(4).read(100) == CONTENT[4:10]
    assert not part.after(10)


def test_a_known_body_is_hashed_with_its_files(path: Path) -> None:
    """Digest with ``auth-int`` wants a hash of the body before it is sent."""
    outbox = Outbox(high=MIB, keep=0)
    outbox.mode = CHUNKED
    outbox.admit()
    with path.open("rb") as file:
        part = rest_of(file)
    assert part is not None
    outbox.put(b"before")
    outbox.put_part(part)
    outbox.end()
    outbox.take()
    assert not outbox.is_known  # the first chunk is gone: nothing is kept of what is in memory
    outbox = Outbox(high=MIB, keep=100)
    outbox.mode = CHUNKED
    outbox.admit()
    outbox.put(b"before")
    outbox.put_part(part)
    outbox.end()
    outbox.take()
    assert outbox.is_known
    hashed = hashlib.sha256()
    outbox.feed(hashed.update)
    assert hashed.hexdigest() == digest(b"before" + CONTENT)
