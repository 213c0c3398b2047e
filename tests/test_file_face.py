"""The request as a writable binary file, and the programs that take it for one."""

from __future__ import annotations

import contextlib
import csv
import email.generator
import email.message
import email.policy
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clientrequest import ClientRequest, ClientRequestError, InvalidStateError
from tests.support import LIMIT, Conn, Peer, refused_port, scripted

KIB, MIB = 1024, 1024 * 1024
WAYS = ("buffered", "chunked")

answer = scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@contextlib.contextmanager
def uploading(name: str = "chunked", **options: Any) -> Iterator[tuple[ClientRequest, bytearray]]:
    """A POST, and what the server will have got of it; it must have been ended when this is left."""
    received = bytearray()
    with Peer(answer) as peer:
        request = ClientRequest(peer.url(), method="POST", chunked_encoding=name == "chunked", **options)
        yield request, received
        assert request.wait(LIMIT)
        assert peer.wait_request().complete
        received += peer.wait_request().body


@pytest.fixture
def unstarted() -> ClientRequest:
    return ClientRequest("http://127.0.0.1:9/", method="POST")


class TestState:
    def test_is_a_buffered_file(self, unstarted: ClientRequest) -> None:
        assert isinstance(unstarted, io.BufferedIOBase)
        assert unstarted.mode == "wb"
        assert not unstarted.isatty()

    def test_is_for_writing_only(self, unstarted: ClientRequest) -> None:
        assert unstarted.writable()
        assert not unstarted.readable()
        assert not unstarted.seekable()
        assert not unstarted.closed

    @pytest.mark.parametrize(
        ("name", "args"),
        [
            ("seek", (0,)),
            ("truncate", ()),
            ("fileno", ()),
            ("read", ()),
            ("read1", ()),
            ("readinto", (bytearray(1),)),
            ("readline", ()),
            ("readlines", ()),
            ("detach", ()),
            ("__next__", ()),
        ],
    )
    def test_what_it_cannot_do_is_unsupported(self, unstarted: ClientRequest, name: str, args: tuple[Any, ...]) -> None:
        with pytest.raises(io.UnsupportedOperation):
            getattr(unstarted, name)(*args)

    @pytest.mark.parametrize("name", WAYS)
    def test_tell_counts_what_was_taken(self, name: str) -> None:
        with uploading(name) as (request, received):
            positions = [request.tell()]
            for piece in (b"abc", "ü", b"", bytes(5)):
                request.write(piece)
                positions.append(request.tell())
            request.end(b"last")
        assert positions == [0, 3, 5, 5, 10]
        assert request.tell() == len(received) == 14

    @pytest.mark.parametrize("how", ["end", "close"])
    def test_after_the_end(self, how: str) -> None:
        with uploading() as (request, _):
            getattr(request, how)()
            assert request.closed
            assert not request.writable()
            with pytest.raises(ValueError, match="end"):
                request.write(b"late")
            with pytest.raises(ValueError, match="closed"):
                request.writelines([b"late"])

    def test_is_not_writable_after_an_abort(self, unstarted: ClientRequest) -> None:
        unstarted.abort()
        assert not unstarted.writable()

    def test_is_not_writable_after_a_failure(self) -> None:
        with refused_port() as port:
            request = ClientRequest(f"http://127.0.0.1:{port}/", method="POST", chunked_encoding=True)
            request.write(b"x")
            with pytest.raises(ClientRequestError):
                request.wait(LIMIT)
        assert not request.writable()


class TestWritelines:
    def test_writes_each(self) -> None:
        with uploading() as (request, received):
            request.writelines([b"one\n", bytearray(b"two\n"), "drei\n"])
            request.writelines(line for line in (b"four\n",))
            request.writelines([])
            request.end()
        assert received == b"one\ntwo\ndrei\nfour\n"


class TestClose:
    def test_ends_the_body(self) -> None:
        with uploading() as (request, received):
            request.write(b"body")
            request.close()
            assert request.writable_ended
        assert received == b"body"

    def test_is_idempotent(self) -> None:
        with uploading() as (request, received):
            request.write(b"body")
            for _ in range(3):
                request.close()
        request.close()
        assert received == b"body"

    def test_after_end_does_nothing(self) -> None:
        with uploading() as (request, received):
            request.end(b"body")
            request.close()
        assert received == b"body"

    def test_end_after_it_is_refused(self) -> None:
        with uploading() as (request, _):
            request.close()
            with pytest.raises(InvalidStateError):
                request.end()

    def test_of_an_aborted_request_is_silent(self, unstarted: ClientRequest) -> None:
        unstarted.write(b"body")
        unstarted.abort()
        unstarted.close()
        assert unstarted.closed

    def test_of_a_failed_request_raises_the_failure(self) -> None:
        with Peer(scripted(Conn.reset, body=False)) as peer:
            request = ClientRequest(peer.url(), method="POST", chunked_encoding=True)
            request.write(b"x")
            with pytest.raises(ClientRequestError) as caught:
                request.wait(LIMIT)
            with pytest.raises(ClientRequestError) as again:
                request.close()
            assert again.value is caught.value
            request.close()

    def test_of_nothing_written_sends_an_empty_request(self) -> None:
        with uploading("buffered") as (request, received):
            request.close()
        assert received == b""


class TestWith:
    @pytest.mark.parametrize("name", WAYS)
    def test_clean_exit_ends_the_body(self, name: str) -> None:
        with uploading(name) as (request, received):
            with request as entered:
                assert entered is request
                request.write(b"body")
            assert request.closed
        assert received == b"body"

    def test_may_be_left_ended(self) -> None:
        with uploading() as (request, received), request:
            request.end(b"body")
        assert received == b"body"

    def test_may_be_left_aborted(self, unstarted: ClientRequest) -> None:
        with unstarted:
            unstarted.write(b"body")
            unstarted.abort()
        assert unstarted.closed

    def test_leaving_it_failed_raises_the_failure(self) -> None:
        with refused_port() as port:
            request = ClientRequest(f"http://127.0.0.1:{port}/", method="POST", chunked_encoding=True)
            request.flush_headers()
            with pytest.raises(ClientRequestError, match="REFUSED"):
                request.wait(LIMIT)
            with pytest.raises(ClientRequestError, match="REFUSED"), request:
                pass


class Readable:
    """As little of a file as can be read."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._rest.read(min(size, 1000))


RECORDS = [{"id": number, "name": f"Zoë {number}", "tags": ["a", "ü"] * (number % 3)} for number in range(5000)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Some files of many sizes, in folders."""
    for number, size in enumerate((0, 1, 511, 512, 513, 70_000, MIB + 3)):
        path = tmp_path / "photos" / str(number % 2) / f"bild-ü-{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return tmp_path / "photos"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in folder.rglob("*.bin")}


@pytest.mark.parametrize("name", WAYS)
class TestConsumers:
    """Programs of the standard library that write to a file: the server can read back what they wrote."""

    def test_copyfileobj(self, name: str) -> None:
        body = os.urandom(5 * MIB + 13)
        with uploading(name) as (request, received), request:
            shutil.copyfileobj(io.BytesIO(body), request)
        assert hashlib.sha256(received).digest() == hashlib.sha256(body).digest()

    def test_copyfileobj_of_a_plain_readable(self, name: str) -> None:
        body = os.urandom(100_000)
        with uploading(name) as (request, received), request:
            shutil.copyfileobj(Readable(body), request)
        assert received == body

    @pytest.mark.parametrize("mode", ["w|", "w|gz", "w|bz2", "w|xz", "w:", "w:gz"])
    def test_tarfile(self, name: str, mode: str, folder: Path) -> None:
        with uploading(name) as (request, received), request, tarfile.open(fileobj=request, mode=mode) as tar:
            tar.add(folder, arcname="photos")
        with tarfile.open(fileobj=io.BytesIO(received)) as tar:
            members = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            assert {path: file.read() for path, file in members.items() if file} == contents(folder)

    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_zipfile(self, name: str, compression: int, folder: Path) -> None:
        with uploading(name) as (request, received), request, zipfile.ZipFile(request, "w", compression) as archive:
            for path, data in contents(folder).items():
                archive.writestr(path, data)
            with archive.open("photos/streamed.bin", "w") as member:
                member.write(b"piece by ")
                member.write(b"piece")
        with zipfile.ZipFile(io.BytesIO(received)) as archive:
            assert archive.testzip() is None
            assert archive.read("photos/streamed.bin") == b"piece by piece"
            for path, data in contents(folder).items():
                assert archive.read(path) == data

    def test_gzip(self, name: str) -> None:
        body = os.urandom(100_000) + bytes(2 * MIB)
        with uploading(name) as (request, received), request, gzip.GzipFile(fileobj=request, mode="wb") as zipped:
            zipped.write(body[:70_000])
            zipped.write(body[70_000:])
        assert gzip.decompress(received) == body

    def test_gzip_of_text(self, name: str) -> None:
        with uploading(name) as (request, received), request, gzip.open(request, "wt", encoding="utf-8") as text:
            text.writelines(f"Zeile ü {number}\n" for number in range(1000))
        assert gzip.decompress(received).decode().split() == [
            word for number in range(1000) for word in ("Zeile", "ü", str(number))
        ]

    def test_lzma(self, name: str) -> None:
        with uploading(name) as (request, received), request, lzma.open(request, "wb") as packed:
            packed.write(b"x" * 100_000)
        assert lzma.decompress(received) == b"x" * 100_000

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_pickle(self, name: str, protocol: int) -> None:
        value = {"records": RECORDS, "big": b"x" * (2 * MIB), "array": bytearray(b"y" * 200_000)}
        with uploading(name) as (request, received), request:
            pickle.dump(value, request, protocol)
        assert pickle.loads(received) == value

    def test_buffered_writer(self, name: str) -> None:
        with uploading(name) as (request, received), io.BufferedWriter(request, 1000) as buffered:  # type: ignore[arg-type]
            for number in range(5000):
                buffered.write(b"%d\n" % number)
        assert received.split() == [b"%d" % number for number in range(5000)]

    def test_print(self, name: str) -> None:
        with uploading(name) as (request, received), request:
            print("Größe", 5, sep="=", file=request)
            print("end", end="", flush=True, file=request)
        assert received == "Größe=5\nend".encode()

    def test_email(self, name: str) -> None:
        message = email.message.EmailMessage()
        message["Subject"] = "Grüße"
        message.set_content("Ein Text.\n")
        message.add_attachment(bytes(range(256)) * 100, maintype="application", subtype="octet-stream")
        with uploading(name) as (request, received), request:
            email.generator.BytesGenerator(request).flatten(message)
        again = email.message_from_bytes(bytes(received), policy=email.policy.default)
        assert again["Subject"] == "Grüße"
        assert [part.get_content() for part in again.iter_attachments()] == [bytes(range(256)) * 100]


@pytest.mark.parametrize("name", WAYS)
class TestText:
    """Through a ``TextIOWrapper``, which closes the request with itself."""

    def test_lines(self, name: str) -> None:
        with uploading(name) as (request, received), io.TextIOWrapper(request, "utf-8", newline="\r\n") as text:
            text.write("eins ü\n")
            text.write("zwei")
        assert received == "eins ü\r\nzwei".encode()

    def test_csv(self, name: str) -> None:
        rows = [[str(number), f'so "{number}", ü\n', ""] for number in range(3000)]
        with uploading(name) as (request, received), io.TextIOWrapper(request, "utf-8", newline="") as text:
            csv.writer(text).writerows(rows)
        assert list(csv.reader(io.StringIO(received.decode(), newline=""))) == rows

    def test_json(self, name: str) -> None:
        with uploading(name) as (request, received), io.TextIOWrapper(request, "utf-8") as text:
            json.dump(RECORDS, text, ensure_ascii=False)
        assert json.loads(received) == RECORDS

    def test_json_without_a_wrapper(self, name: str) -> None:
        with uploading(name) as (request, received), request:
            json.dump(RECORDS, request)  # type: ignore[arg-type]
        assert json.loads(received) == RECORDS

    def test_detached_wrapper_leaves_the_request_open(self, name: str) -> None:
        with uploading(name) as (request, received):
            text = io.TextIOWrapper(request, "utf-8")
            text.write("text, then ")
            assert text.detach() is request
            request.end(b"bytes")
        assert received == b"text, then bytes"

    def test_over_a_buffered_writer(self, name: str) -> None:
        with uploading(name) as (request, received):
            buffered = io.BufferedWriter(request)  # type: ignore[arg-type]
            with io.TextIOWrapper(buffered, "utf-16-le") as text:
                text.write("ü" * 20_000)
        assert received.decode("utf-16-le") == "ü" * 20_000


class TestTables:
    def test_pandas(self) -> None:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(RECORDS)[["id", "name"]]
        with uploading() as (request, received), request:
            frame.to_csv(request, index=False)
        assert pandas.read_csv(io.BytesIO(received)).equals(frame)

    def test_pandas_gzip(self) -> None:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(RECORDS)[["id", "name"]]
        with uploading() as (request, received), request:
            frame.to_csv(request, index=False, compression="gzip")
        assert pandas.read_csv(io.BytesIO(received), compression="gzip").equals(frame)

    def test_parquet(self) -> None:
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        table = arrow.table({"id": [record["id"] for record in RECORDS]})
        with uploading() as (request, received), request:
            parquet.write_table(table, request)
        assert parquet.read_table(io.BytesIO(received)).equals(table)

    def test_arrow_stream(self) -> None:
        arrow = pytest.importorskip("pyarrow")
        table = arrow.table({"id": [record["id"] for record in RECORDS]})
        with uploading() as (request, received), request, arrow.ipc.new_stream(request, table.schema) as writer:
            writer.write_table(table)
        assert arrow.ipc.open_stream(bytes(received)).read_all().equals(table)


class TestKnownLength:
    def test_copyfileobj_of_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "file.bin"
        path.write_bytes(os.urandom(3 * MIB + 1))
        headers = {"Content-Length": path.stat().st_size}
        with uploading("length", headers=headers) as (request, received), path.open("rb") as file, request:
            shutil.copyfileobj(file, request)
        assert received == path.read_bytes()
