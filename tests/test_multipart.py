"""Forms with files, as two parsers that are not ours read them, and sent while they are read."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import socket
import tempfile
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import multipart
import pytest
import werkzeug.datastructures
import werkzeug.http
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder

from clientrequest import (
    AbortedError,
    ClientRequest,
    ClientRequestError,
    InvalidStateError,
    MultipartForm,
    ProtocolError,
    Session,
    request,
)
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, early_answer, echo_json, scripted

KIB, MIB = 1024, 1024 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
OCTETS = "application/octet-stream"


class Part(NamedTuple):
    name: Optional[str]
    filename: Optional[str]
    type: Optional[str]
    data: bytes


def by_multipart(content_type: str, body: bytes) -> list[Part]:
    _, options = multipart.parse_options_header(content_type)
    parts: list[Part] = []
    with multipart.PushMultipartParser(options["boundary"], strict=True) as parser:
        for event in parser.parse(body):
            if isinstance(event, multipart.MultipartSegment):
                type_of_part = event.header("Content-Type")
                parts.append(Part(event.name, event.filename, type_of_part, b""))
            elif event:
                parts[-1] = parts[-1]._replace(data=parts[-1].data + event)
    return parts


def by_werkzeug(content_type: str, body: bytes) -> list[Part]:
    _, options = werkzeug.http.parse_options_header(content_type)
    decoder = MultipartDecoder(options["boundary"].encode())
    decoder.receive_data(body)
    decoder.receive_data(None)
    parts: list[Part] = []
    while True:
        event = decoder.next_event()
        if isinstance(event, (Field, File)):
            filename = event.filename if isinstance(event, File) else None
            parts.append(Part(event.name, filename, event.headers.get("Content-Type"), b""))
        elif isinstance(event, Data):
            parts[-1] = parts[-1]._replace(data=parts[-1].data + event.data)
        elif isinstance(event, Epilogue):
            assert event.data == b""
            return parts


def written(form: MultipartForm) -> bytes:
    buffer = io.BytesIO()
    assert form.write_to(buffer) == buffer.tell()
    assert form.content_length in (None, buffer.tell())
    return buffer.getvalue()


def parsed(form: MultipartForm) -> list[Part]:
    """What both parsers find in it."""
    body = written(form)
    found = by_multipart(form.content_type, body)
    assert by_werkzeug(form.content_type, body) == found
    return found


class Pipe:
    """Readable, and nothing more."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


def packed(data: bytes) -> zipfile.ZipFile:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder/member.txt", data)
    return zipfile.ZipFile(buffer)


def post(session: Session, peer: Peer, **options: Any) -> ClientRequest:
    made: ClientRequest = session.request(peer.url("/"), method="POST", **options)
    return made


def read_one(conn: Conn) -> None:
    conn.read_request()
    conn.send(OK)


# --- what is in it ---


def test_fields_and_files() -> None:
    form = MultipartForm({"name": "Ada", "tags": ["a", "b"], "age": 36, "ratio": 0.5, "admin": True, "nobody": None})
    form.add_field("raw", b"\x00\xff", content_type=OCTETS).add_file("note", "größe", filename="note.txt")
    assert parsed(form) == [
        Part("name", None, None, b"Ada"),
        Part("tags", None, None, b"a"),
        Part("tags", None, None, b"b"),
        Part("age", None, None, b"36"),
        Part("ratio", None, None, b"0.5"),
        Part("admin", None, None, b"true"),
        Part("raw", None, OCTETS, b"\x00\xff"),
        Part("note", "note.txt", "text/plain", "größe".encode()),
    ]


def test_exact_bytes() -> None:
    form = MultipartForm(boundary="x").add_field("a", "1")
    form.add_file("f", b"2", filename="f.bin", headers={"X-One": "1", "Content-Location": "/f"})
    assert written(form) == (
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.bin"\r\n'
        b"Content-Type: application/octet-stream\r\nContent-Location: /f\r\nX-One: 1\r\n\r\n2\r\n--x--\r\n"
    )
    assert form.content_type == "multipart/form-data; boundary=x"


def test_empty_form_and_empty_contents() -> None:
    assert parsed(MultipartForm()) == []
    form = MultipartForm({"field": ""}).add_file("file", b"").add_file("pieces", []).add_file("pipe", Pipe(b""))
    assert [part.data for part in parsed(form)] == [b"", b"", b"", b""]


def test_boundary_that_has_to_be_quoted() -> None:
    form = MultipartForm({"a": "1"}, boundary="a b:c".replace(" ", "=/?"))
    assert form.content_type == 'multipart/form-data; boundary="a=/?b:c"'
    assert parsed(form) == [Part("a", None, None, b"1")]


def test_boundaries_are_never_the_same() -> None:
    assert len({MultipartForm().boundary for _ in range(100)}) == 100


letters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\%")
names = st.text(letters | st.just('"'), max_size=20)
filenames = st.text(letters | st.sampled_from('"\r\n\t'))
contents = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([b"\r", b"\n", b"--", b"-", b"x", b"\x00", b"--boundary", b"\r\n--boundary--\r\n"])).map(
        b"".join
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(names, st.none() | filenames, contents), max_size=4), st.integers(1, 33), st.booleans())
def test_any_names_and_contents(parts: list[tuple[str, Optional[str], bytes]], cut: int, known: bool) -> None:
    form = MultipartForm()
    almost = b"\r\n--" + form.boundary[:cut][:31].encode() + b"~"  # never all of it, whatever follows
    expected = []
    for name, filename, content in parts:
        content = almost + content + almost
        if filename is None:
            form.add_field(name, content)
        else:
            source: Any = io.BytesIO(content) if known else [content[:cut], content[cut:]]
            form.add_file(name, source, filename=filename, content_type=OCTETS)
        expected.append(Part(name, filename, None if filename is None else OCTETS, content))
    body = written(form)
    for parse in (by_multipart, by_werkzeug):
        found = parse(form.content_type, body)
        assert [part._replace(filename=unescaped(part.filename)) for part in found] == expected


def unescaped(filename: Optional[str]) -> Optional[str]:
    """Undoes what a parser leaves: werkzeug knows %22 only."""
    return filename and filename.replace("%0A", "\n").replace("%0D", "\r").replace("%22", '"')


@pytest.mark.parametrize(
    ("filename", "sent"),
    [
        ('say "hi".txt', "say %22hi%22.txt"),
        ("two\nlines\r.txt", "two%0Alines%0D.txt"),
        ("größe 漢字 😀.txt", "größe 漢字 😀.txt"),
        ("back\\slash%20.txt", "back\\slash%20.txt"),
        ("tab\there", "tab\there"),
        ("", ""),
    ],
)
def test_file_names_go_out_as_browsers_send_them(filename: str, sent: str) -> None:
    """WHATWG HTML, multipart/form-data encoding algorithm: quotes and line ends, and nothing else."""
    body = written(MultipartForm().add_file("f", b"", filename=filename))
    assert f'; filename="{sent}"\r\n'.encode() in body


# --- where files come from ---

DATA = bytes(range(256)) * 700  # more than is read at once


def sources(tmp_path: Path) -> dict[str, Callable[[contextlib.ExitStack], Any]]:
    (tmp_path / "content.txt").write_bytes(DATA)

    def pipe(stack: contextlib.ExitStack) -> Any:
        ours, theirs = os.pipe()

        def fill() -> None:
            with open(theirs, "wb") as end:
                end.write(DATA)

        thread = threading.Thread(target=fill)
        thread.start()
        stack.callback(thread.join)
        return stack.enter_context(open(ours, "rb"))

    def sock(stack: contextlib.ExitStack) -> Any:
        ours, theirs = socket.socketpair()

        def fill() -> None:
            with theirs:
                theirs.sendall(DATA)

        thread = threading.Thread(target=fill)
        thread.start()
        stack.callback(thread.join)
        with ours:
            return stack.enter_context(ours.makefile("rb"))

    def spooled(stack: contextlib.ExitStack) -> Any:
        file = tempfile.SpooledTemporaryFile(max_size=1000)  # noqa: SIM115
        stack.enter_context(file)
        file.write(DATA)
        file.seek(0)
        return file

    def unpacked(stack: contextlib.ExitStack) -> Any:
        with gzip.open(tmp_path / "content.gz", "wb") as file:
            file.write(DATA)
        return stack.enter_context(gzip.open(tmp_path / "content.gz", "rb"))

    return {
        "bytes": lambda stack: DATA,
        "bytearray": lambda stack: bytearray(DATA),
        "memoryview": lambda stack: memoryview(DATA),
        "BytesIO": lambda stack: io.BytesIO(DATA),
        "file": lambda stack: stack.enter_context((tmp_path / "content.txt").open("rb")),
        "raw file": lambda stack: stack.enter_context((tmp_path / "content.txt").open("rb", buffering=0)),
        "spooled": spooled,
        "gzip": unpacked,
        "zip member": lambda stack: stack.enter_context(stack.enter_context(packed(DATA)).open("folder/member.txt")),
        "pipe": pipe,
        "socket": sock,
        "readable": lambda stack: Pipe(DATA),
        "upload": lambda stack: werkzeug.datastructures.FileStorage(io.BytesIO(DATA), "up.txt", "field"),
        "list": lambda stack: [DATA[:100], bytearray(DATA[100:])],
        "generator": lambda stack: (DATA[at : at + 1000] for at in range(0, len(DATA), 1000)),
    }


NAMES = (
    *("bytes", "bytearray", "memoryview", "BytesIO", "file", "raw file", "spooled", "gzip", "zip member"),
    *("pipe", "socket", "readable", "upload", "list", "generator"),
)
SIZED = {"bytes", "bytearray", "memoryview", "BytesIO", "file", "raw file"}
ONCE = {"pipe", "socket", "readable", "generator"}
NAMED = {"file": "content.txt", "raw file": "content.txt", "gzip": "content", "zip member": "member.txt"}


@pytest.mark.parametrize("kind", NAMES)
def test_any_source(session: Session, tmp_path: Path, kind: str) -> None:
    with contextlib.ExitStack() as stack, Peer(read_one) as peer:
        made = sources(tmp_path)
        assert set(made) == set(NAMES)
        form = MultipartForm({"before": "1"}).add_file("f", made[kind](stack)).add_field("after", "2")
        assert (form.content_length is not None) is (kind in SIZED)
        assert post(session, peer).send(form).get_response(LIMIT).status_code == 200
        seen = peer.wait_request()
        assert seen.header("Content-Type") == form.content_type
        assert seen.header("Transfer-Encoding") == (None if kind in SIZED else "chunked")
        assert seen.content_length == form.content_length
        parts = by_multipart(form.content_type, seen.body)
        assert by_werkzeug(form.content_type, seen.body) == parts
        assert [part.data for part in parts] == [b"1", DATA, b"2"]
        assert parts[1].filename == ("up.txt" if kind == "upload" else NAMED.get(kind, "f"))


@pytest.mark.parametrize("kind", NAMES)
def test_used_again_or_refused(tmp_path: Path, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        form = MultipartForm().add_file("f", sources(tmp_path)[kind](stack))
        first = written(form)
        if kind in ONCE:
            with pytest.raises(InvalidStateError, match=r"file 'f' of the form can be read only once, and was"):
                written(form)
        else:
            assert written(form) == first


def test_second_use_leaves_the_request_as_it_was(session: Session) -> None:
    form = MultipartForm().add_file("f", iter([b"once"]))
    written(form)
    with Peer(read_one) as peer:
        made = post(session, peer)
        with pytest.raises(InvalidStateError, match="only once"):
            made.send(form)
        assert not made.headers_sent
        assert made.get_header("Content-Type") is None
        made.end(b"still usable")
        assert made.wait(LIMIT)
        assert peer.wait_request().body == b"still usable"


def test_from_the_position_it_was_added_at(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    with (tmp_path / "f").open("rb") as file:
        file.seek(4)
        form = MultipartForm().add_file("f", file)
        file.seek(9)
        assert parsed(form)[0].data == b"456789"


def test_the_same_file_twice_in_a_form() -> None:
    file = io.BytesIO(b"again")
    form = MultipartForm().add_file("a", file).add_file("b", file)
    assert [part.data for part in parsed(form)] == [b"again", b"again"]
    pipe = Pipe(b"once")
    with pytest.raises(ValueError, match="file 'b': this source is in the form already"):
        MultipartForm().add_file("a", pipe).add_file("b", pipe)


def test_two_threads_cannot_read_the_same_files_at_once() -> None:
    inside, go_on = Gate(), Gate()

    class Slow(io.BytesIO):
        def write(self, chunk: Any, /) -> int:
            inside.set()
            go_on.wait()
            return super().write(chunk)

    form = MultipartForm().add_file("f", io.BytesIO(b"content"))
    slow = Slow()
    thread = threading.Thread(target=form.write_to, args=(slow,))
    thread.start()
    inside.wait()
    with pytest.raises(InvalidStateError, match="being sent already"):
        form.write_to(io.BytesIO())
    go_on.set()
    thread.join(LIMIT)
    assert slow.getvalue() == written(form)


def test_a_form_of_values_may_be_written_by_many_at_once() -> None:
    form = MultipartForm({"a": "1"})
    pieces = form._pieces()
    next(pieces)
    assert parsed(form) == [Part("a", None, None, b"1")]


# --- lengths ---


@pytest.mark.parametrize("wrong_by", [-1, 1])
@pytest.mark.parametrize("source", [Pipe, lambda data: [data], lambda data: iter([data[:3], data[3:]])])
def test_a_wrong_length_aborts(session: Session, source: Callable[[bytes], Any], wrong_by: int) -> None:
    form = MultipartForm().add_file("f", source(b"content"), length=7 + wrong_by)
    assert form.content_length is not None
    with Peer(read_one) as peer:
        made = post(session, peer)
        recorder = Recorder(made)
        with pytest.raises(ProtocolError, match=r"file 'f' of the form has .* 6|7 of the 8") as caught:
            made.send(form)
        assert caught.value.code == "ERR_CONTENT_LENGTH_MISMATCH"
        assert caught.value.request is made
        recorder.wait("close")
        assert "abort" in recorder.names()
    assert not any(seen.complete for seen in peer.requests)


@pytest.mark.parametrize("wrong_by", [-1, 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_that_changes_its_size_aborts(session: Session, tmp_path: Path, wrong_by: int, chunked: bool) -> None:
    path = tmp_path / "f"
    path.write_bytes(DATA)
    with Peer(read_one) as peer, path.open("rb") as file:
        form = MultipartForm().add_file("f", file)
        with path.open("r+b") as other:
            other.truncate(len(DATA) + wrong_by)
        made = post(session, peer, chunked_encoding=chunked)
        with pytest.raises(ProtocolError, match=f"has {len(DATA) + wrong_by} bytes, and had {len(DATA)} before"):
            made.send(form)
        with pytest.raises(AbortedError):
            made.wait(LIMIT)
    assert not any(seen.complete for seen in peer.requests)


def test_length_that_the_source_cannot_have_is_refused() -> None:
    for source in (b"four", "four", io.BytesIO(b"four")):
        with pytest.raises(ValueError, match="length is 5, but the source has 4 bytes"):
            MultipartForm().add_file("f", source, length=5)
    for length in (-1, 1.5, True, "5"):
        with pytest.raises(ValueError, match="length must be a number of bytes"):
            MultipartForm().add_file("f", b"", length=length)


def test_known_by_length_it_has_a_content_length(session: Session) -> None:
    form = MultipartForm().add_file("f", Pipe(DATA), length=len(DATA))
    with Peer(read_one) as peer:
        post(session, peer).send(form).get_response(LIMIT)
        seen = peer.wait_request()
        assert seen.content_length == form.content_length
        assert by_werkzeug(form.content_type, seen.body)[0].data == DATA


# --- boundaries in contents ---


@pytest.mark.parametrize("add", ["add_field", "add_file"])
def test_content_with_the_boundary_of_the_user_is_refused(add: str) -> None:
    form = MultipartForm(boundary="cut")
    with pytest.raises(ValueError, match="'f' has the boundary of the form in it"):
        getattr(form, add)("f", b"before\r\n--cut--\r\nafter")
    getattr(form, add)("f", b"before\r\n-cut -- cut")
    assert [part.data for part in parsed(form)] == [b"before\r\n-cut -- cut"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_boundary_of_the_user_in_a_stream_aborts(session: Session, size: int) -> None:
    content = b"x" * 50 + b"\r\n--cut--\r\n" + b"y" * 50
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    with Peer(read_one) as peer:
        made = post(session, peer)
        with pytest.raises(ValueError, match="boundary of the form"):
            made.send(MultipartForm(boundary="cut").add_file("f", pieces))
        with pytest.raises(AbortedError):
            made.wait(LIMIT)
    assert not any(seen.complete for seen in peer.requests)


def test_boundary_of_the_user_in_a_file_aborts(session: Session, tmp_path: Path) -> None:
    """Though the system could have sent it, unseen."""
    (tmp_path / "f").write_bytes(b"x" * 70_000 + b"--cut")
    with Peer(read_one) as peer, (tmp_path / "f").open("rb") as file:
        made = post(session, peer)
        with pytest.raises(ValueError, match="boundary of the form"):
            made.send(MultipartForm(boundary="cut").add_file("f", file))
    assert not any(seen.complete for seen in peer.requests)


# --- what is refused ---


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda form: form.add_field(1, "x"), TypeError, "name must be a str, not int"),
        (lambda form: form.add_field("a\r\nb", "x"), ValueError, "name .* has control characters"),
        (lambda form: form.add_field("a\x00", "x"), ValueError, "name .* has control characters"),
        (lambda form: form.add_field("\ud800", "x"), ValueError, "lone surrogate"),
        (lambda form: form.add_field("a", "\ud800"), ValueError, "field 'a': a lone surrogate"),
        (lambda form: form.add_field("a", None), TypeError, "field 'a' must be a str, .* not NoneType"),
        (lambda form: form.add_field("a", {"b": 1}), TypeError, "must be a str, bytes, a number or a bool, not dict"),
        (lambda form: form.add_field("a", ["x"]), TypeError, "field 'a' must be"),
        (lambda form: form.add_field("a", io.BytesIO()), TypeError, "field 'a' must be"),
        (lambda form: form.add_field("a", "x", content_type="a\r\nb"), ValueError, "header 'Content-Type'"),
        (lambda form: form.add_field("a", "x", content_type=1), TypeError, "content_type must be a str"),
        (lambda form: form.add_field("a", "x", headers={"A": "b\r\nc"}), ValueError, "header 'A'"),
        (lambda form: form.add_field("a", "x", headers={"content-type": "b"}), ValueError, "'Content-Type'"),
        (lambda form: form.add_field("a", "x", headers={"Content-Disposition": "b"}), ValueError, "Disposition"),
        (lambda form: form.add_field("a", "x", headers=5), TypeError, "headers"),
        (lambda form: form.add_file("a", b"", filename="a\x00b"), ValueError, "filename .* control characters"),
        (lambda form: form.add_file("a", b"", filename="\ud800"), ValueError, "filename .* lone surrogate"),
        (lambda form: form.add_file("a", b"", filename=5), TypeError, "filename must be a str, not int"),
        (lambda form: form.add_file("a", None), TypeError, "file 'a': expected bytes, str, a binary file"),
        (lambda form: form.add_file("a", 5), TypeError, "file 'a': expected"),
        (lambda form: form.add_file("a", {"b": "c"}), TypeError, "file 'a': expected .* not dict"),
        (lambda form: form.add_file("a", io.StringIO("x")), TypeError, "binary mode, not StringIO"),
    ],
)
def test_bad_part_is_refused_at_once(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    form = MultipartForm({"good": "1"})
    with pytest.raises(error, match=message):
        call(form)
    assert parsed(form) == [Part("good", None, None, b"1")]


def test_file_of_a_coroutine_is_refused() -> None:
    class Upload:
        async def read(self, size: int = -1) -> bytes:
            return b""

    with pytest.raises(TypeError, match="coroutine function"):
        MultipartForm().add_file("a", Upload())


def test_closed_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with (tmp_path / "f").open("rb") as file:
        pass
    with pytest.raises(ValueError, match="file 'f': I/O operation on closed file"):
        MultipartForm().add_file("f", file)


def test_file_that_is_only_for_writing_is_refused(tmp_path: Path) -> None:
    form = MultipartForm()
    with (tmp_path / "f").open("wb") as file, pytest.raises(TypeError, match=r"file 'f': .* open for reading"):
        form.add_file("f", file)
    with pytest.raises(TypeError, match=r"file 'f': .* open for reading"):
        form.add_file("f", ClientRequest("http://h/"))


@pytest.mark.parametrize("boundary", ["", "a" * 71, "a b", "a\r\nb", "a\x00", "ä", 'a"', "a;b"])
def test_bad_boundary(boundary: str) -> None:
    with pytest.raises(ValueError, match="boundary must be 1 to 70"):
        MultipartForm(boundary=boundary)


@pytest.mark.parametrize(
    ("fields", "error"),
    [("a=1", TypeError), (5, TypeError), ([("a",)], ValueError), ({1: "a"}, TypeError), (["ab"], TypeError)],
)
def test_bad_fields(fields: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="fields"):
        MultipartForm(fields)
    with pytest.raises(TypeError, match="boundary must be a str"):
        MultipartForm(boundary=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [io.BytesIO(b"1"), io.StringIO("1")])
def test_file_with_its_name_as_requests_has_it_is_refused(content: Any) -> None:
    """It would go out as a field, and a file of another name."""
    for value in (("a.jpg", content), ("a.jpg", content, "image/jpeg")):
        with pytest.raises(TypeError, match=r"field 'photo': .* add_file\('photo', file, filename='a.jpg'\)"):
            MultipartForm({"title": "Harbour", "photo": value})


def test_value_with_read_is_a_file() -> None:
    form = MultipartForm([("f", io.BytesIO(b"1")), ("f", [io.BytesIO(b"2"), "3"])])
    assert [(part.filename, part.data) for part in parsed(form)] == [("f", b"1"), ("f", b"2"), (None, b"3")]


@pytest.mark.parametrize(
    ("filename", "expected"),
    [("a.png", "image/png"), ("a.tar.gz", "application/gzip"), ("a.json", "application/json"), ("a", OCTETS)],
)
def test_content_type_is_guessed(filename: str, expected: str) -> None:
    assert parsed(MultipartForm().add_file("f", b"", filename=filename))[0].type == expected
    assert parsed(MultipartForm().add_file("f", b"", filename=filename, content_type="a/b"))[0].type == "a/b"


@pytest.mark.parametrize(("kind", "suffix"), [("gzip", ".gz"), ("bz2", ".bz2"), ("lzma", ".xz")])
def test_file_that_is_unpacked_while_it_is_read_has_no_packed_name(tmp_path: Path, kind: str, suffix: str) -> None:
    module = pytest.importorskip(kind)
    path = tmp_path / f"log.txt{suffix}"
    path.write_bytes(module.compress(b"unpacked"))
    with module.open(path) as file:
        (part,) = parsed(MultipartForm({"f": file}))
        has_name = hasattr(file, "name")  # since Python 3.13 all of them
    assert part == Part("f", *(("log.txt", "text/plain") if has_name else ("f", OCTETS)), b"unpacked")


def test_names_that_are_none() -> None:
    class Odd:
        def __init__(self, name: Any) -> None:
            self.name = name

        def read(self, size: int = -1) -> bytes:
            return b""

    names: list[Any] = [5, None, "", "/dir/", b"/dir/\xff", "/dir/a\x01b", Path("/dir/c")]
    form = MultipartForm()
    for name in names:
        form.add_file("field", Odd(name))
    assert [part.filename for part in parsed(form)] == ["field"] * 4 + ["?", "a_b", "c"]


# --- in a request ---


@pytest.mark.parametrize("content_type", ["multipart/form-data", "application/json", "multipart/form-data; boundary=y"])
def test_content_type_of_another_boundary_is_refused(session: Session, content_type: str) -> None:
    with Peer(read_one) as peer:
        made = post(session, peer, headers={"Content-Type": content_type})
        with pytest.raises(ValueError, match="'Content-Type': has not the boundary"):
            made.send(MultipartForm(boundary="x"))
        made.end()
        assert made.wait(LIMIT)


@pytest.mark.parametrize("content_type", ["multipart/mixed; boundary=x", 'multipart/form-data; a=b; Boundary="x"'])
def test_content_type_with_the_boundary_is_kept(session: Session, content_type: str) -> None:
    with Peer(read_one) as peer:
        post(session, peer, headers={"Content-Type": content_type}).send(MultipartForm(boundary="x")).wait(LIMIT)
        assert peer.wait_request().header("Content-Type") == content_type


def test_framing_of_the_user_is_kept(session: Session) -> None:
    form = MultipartForm({"a": "1"})
    with Peer(echo_json) as peer:
        post(session, peer, chunked_encoding=True).send(form).wait(LIMIT)
        assert peer.wait_request().header("Transfer-Encoding") == "chunked"
        made = post(session, peer, headers={"Content-Length": 5})
        with pytest.raises(ProtocolError, match="5 announced"):
            made.send(form)
        with pytest.raises(AbortedError):
            made.wait(LIMIT)
        made = post(session, peer)
        with pytest.raises(ProtocolError, match="ERR_CONTENT_LENGTH_MISMATCH"):
            made.send(form, 1000)


def test_as_data_it_is_buffered(session: Session, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    with Peer(read_one) as peer, (tmp_path / "f").open("rb") as file:
        form = MultipartForm({"a": "1"}).add_file("f", file).add_file("g", iter([b"2", b"3"]))
        made = session.request(peer.url(), data=form)
        assert made.method == "POST"
        assert not peer.requests
        assert made.end().get_response(LIMIT).status_code == 200
        seen = peer.wait_request()
        assert seen.content_length == len(seen.body)
        assert [part.data for part in by_werkzeug(form.content_type, seen.body)] == [b"1", DATA, b"23"]


def test_source_that_raises_aborts(session: Session) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise ZeroDivisionError

    with Peer(read_one) as peer:
        made = post(session, peer)
        with pytest.raises(ZeroDivisionError):
            made.send(MultipartForm().add_file("f", broken()))
        with pytest.raises(AbortedError):
            made.wait(LIMIT)
    assert not any(seen.complete for seen in peer.requests)


def test_early_answer_stops_the_reading(session: Session) -> None:
    answered = Gate()
    count = 0

    def endless() -> Iterator[bytes]:
        nonlocal count
        yield b"begin"
        answered.wait()
        while made.writable():
            yield b"x"
        while True:
            count += 1
            yield b"unwanted"

    with Peer(early_answer("keep_reading")) as peer:
        made = post(session, peer)
        made.on("response", lambda response: answered.set())
        assert made.send(MultipartForm().add_file("f", endless())).get_response(LIMIT).status_code == 413
        assert count <= 1
        made.abort()


def test_sent_again_after_a_redirect(session: Session, serve: Callable[..., Peer], tmp_path: Path) -> None:
    """A file on disk needs no memory for that, however large."""
    (tmp_path / "f").write_bytes(DATA * 10)
    target = serve(read_one)
    moved = f"HTTP/1.1 307 Moved\r\nLocation: {target.url('/there')}\r\nContent-Length: 0\r\n\r\n"
    first = serve(scripted(moved.encode()))
    with (tmp_path / "f").open("rb") as file:
        form = MultipartForm({"a": "1"}).add_file("f", file)
        made = post(session, first, replay_limit=1000)
        assert made.send(form).get_response(LIMIT).status_code == 200
    assert [part.data for part in by_multipart(form.content_type, target.wait_request().body)] == [b"1", DATA * 10]


def test_progress_has_a_total(session: Session) -> None:
    form = MultipartForm().add_file("f", io.BytesIO(DATA))
    with Peer(echo_json) as peer:
        made = post(session, peer)
        recorder = Recorder(made, consume=True)
        made.send(form)
        recorder.wait("close")
        total = form.content_length
        assert recorder.find("upload-progress")[-1].args == (total, total)


def test_much_of_unknown_size_in_bounded_memory(session: Session) -> None:
    size = 64 * MIB
    digests: list[str] = []

    def parse(conn: Conn) -> None:
        seen = conn.read_request(body=False)
        _, options = multipart.parse_options_header(seen.header("Content-Type"))
        digest, length = hashlib.sha256(), 0
        with multipart.PushMultipartParser(options["boundary"], max_segment_size=size, strict=True) as parser:
            while not parser.closed:
                for event in parser.parse(conn.read_chunk()):
                    if isinstance(event, (bytes, bytearray)):
                        digest.update(event)
                        length += len(event)
        assert length == size
        digests.append(digest.hexdigest())
        conn.send(OK)
        conn.close()

    def content(digest: Any) -> Iterator[bytes]:
        for number in range(size // (256 * KIB)):
            piece = bytes([number % 256]) * (256 * KIB)
            digest.update(piece)
            yield piece

    expected = hashlib.sha256()
    with Peer(parse) as peer:
        made = post(session, peer)
        tracemalloc.start()
        try:
            assert made.send(MultipartForm().add_file("f", content(expected))).wait(LIMIT)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert digests == [expected.hexdigest()]
    assert peak < 12 * MIB


def test_it_shows_nothing_of_what_is_in_it() -> None:
    assert repr(MultipartForm({"password": "hunter2"})) == "<MultipartForm of 1 parts>"


def test_by_the_function_too() -> None:
    with Peer(read_one) as peer:
        made = request(peer.url(), method="PUT")
        assert made.send(MultipartForm({"a": "1"})).get_response(LIMIT).status_code == 200
        assert peer.wait_request().method == "PUT"


def test_errors_of_a_dead_request_come_first(session: Session) -> None:
    with Peer(read_one) as peer:
        made = post(session, peer)
        made.abort()
        with pytest.raises(ClientRequestError, match="ERR_ABORTED"):
            made.send(MultipartForm({"a": "1"}))
