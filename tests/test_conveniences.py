"""What is said in one line: `send`, `params`, `data` and `json`, `raise_for_status`."""

from __future__ import annotations

import array
import copy
import enum
import gzip
import io
import json
import os
import pickle
import tempfile
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Callable
from urllib.parse import parse_qsl, urlsplit

import pytest
import urllib3.util
from hypothesis import given, settings
from hypothesis import strategies as st

import clientrequest
from clientrequest import (
    AbortedError,
    ClientRequest,
    ClientRequestError,
    InvalidStateError,
    MultipartForm,
    ProtocolError,
    Session,
    StatusError,
    request,
)
from clientrequest._values import urlencoded
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, early_answer, echo_json, late_reader, scripted

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
DATA = bytes(range(256)) * 1000


def read_all(conn: Conn) -> None:
    while True:
        conn.read_request()
        conn.send(OK)


def post(session: Session, peer: Peer, **options: Any) -> ClientRequest:
    made: ClientRequest = session.request(peer.url("/"), method="POST", **options)
    return made


class Readable:
    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


# --- send ---


def on_disk(data: bytes) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115  (the test closes it)
    file.write(data)
    file.seek(0)
    return file


def spooled(data: bytes) -> Any:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    file.write(data)
    file.seek(0)
    return file


SIZED: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "array": lambda data: array.array("B", data),
    "BytesIO": io.BytesIO,
    "file": on_disk,
}
UNSIZED: dict[str, Callable[[bytes], Any]] = {
    "readable": Readable,
    "spooled": spooled,
    "list": lambda data: [data[:10], memoryview(data)[10:]],
    "generator": lambda data: (data[at : at + 1000] for at in range(0, len(data), 1000)),
    "gzip": lambda data: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(data, 1))),
}
EVERY_SOURCE = pytest.mark.parametrize("source", [*SIZED.values(), *UNSIZED.values()], ids=[*SIZED, *UNSIZED])


def close(source: Any) -> None:
    getattr(source, "close", lambda: None)()


@pytest.mark.parametrize("kind", [*SIZED, *UNSIZED])
def test_size_chooses_the_framing(session: Session, kind: str) -> None:
    source = {**SIZED, **UNSIZED}[kind](DATA)
    with Peer(read_all) as peer:
        made = post(session, peer)
        assert made.send(source) is made
        assert made.get_response(LIMIT).status_code == 200
        seen = peer.wait_request()
        assert seen.body == DATA
        assert seen.content_length == (len(DATA) if kind in SIZED else None)
        assert seen.chunked is (kind in UNSIZED)
        assert made.writable_ended
    close(source)


@EVERY_SOURCE
@pytest.mark.parametrize("framing", ["chunked", "length", "buffered"])
def test_framing_that_was_chosen_is_kept(session: Session, source: Callable[[bytes], Any], framing: str) -> None:
    with Peer(read_all) as peer:
        made = post(session, peer, chunked_encoding=framing == "chunked")
        if framing == "length":
            made.set_header("Content-Length", 1 + len(DATA))
        made.write(b"!")
        body = source(DATA)
        made.send(body).wait(LIMIT)
        seen = peer.wait_request()
        assert seen.body == b"!" + DATA
        assert seen.chunked is (framing == "chunked")
    close(body)


@EVERY_SOURCE
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_empty(session: Session, source: Callable[[bytes], Any], method: str) -> None:
    with Peer(read_all) as peer:
        body = source(b"")
        assert session.request(peer.url(), method=method).send(body).get_response(LIMIT).status_code == 200
        assert peer.wait_request().body == b""
    close(body)


@EVERY_SOURCE
def test_length_may_be_given(session: Session, source: Callable[[bytes], Any]) -> None:
    with Peer(read_all) as peer:
        body = source(DATA)
        post(session, peer).send(body, len(DATA)).wait(LIMIT)
        seen = peer.wait_request()
        assert (seen.content_length, seen.body) == (len(DATA), DATA)
    close(body)


@EVERY_SOURCE
@pytest.mark.parametrize("wrong_by", [-1, 1])
def test_wrong_length_aborts(session: Session, source: Callable[[bytes], Any], wrong_by: int) -> None:
    with Peer(read_all) as peer:
        made = post(session, peer)
        recorder = Recorder(made)
        body = source(DATA)
        with pytest.raises(ProtocolError, match="the source has") as caught:
            made.send(body, len(DATA) + wrong_by)
        assert caught.value.code == "ERR_CONTENT_LENGTH_MISMATCH"
        assert caught.value.request is made
        recorder.wait("close")
        assert recorder.names()[-2:] == ["abort", "close"]
    assert not any(seen.complete for seen in peer.requests)
    close(body)


@pytest.mark.parametrize("call", ["send", "pipe_from"])
@pytest.mark.parametrize("readable", [False, True])
def test_last_piece_waits_until_the_source_is_known_to_be_at_its_end(
    session: Session, call: str, readable: bool
) -> None:
    """What is cut off at its announced length would be whole for the server: it must not have all of it before."""
    taken: list[int] = []

    class Source:
        def __init__(self, made: ClientRequest) -> None:
            self._made, self._pieces = made, [b"more", b"", b"0123456789"]

        def _next(self) -> bytes:
            taken.append(self._made.tell())
            return self._pieces.pop()

        def __iter__(self) -> Iterator[bytes]:
            while self._pieces:
                yield self._next()

    class Readable(Source):
        def read(self, size: int) -> bytes:
            if len(self._pieces) == 2:  # here, nothing is the end
                self._pieces.pop()
            return self._next()

    with Peer(read_all, expect_errors=True) as peer:
        made = post(session, peer, headers={"Content-Length": 10})
        with pytest.raises(ProtocolError, match="more than the 10 bytes"):
            getattr(made, call)((Readable if readable else Source)(made), 10)
        with pytest.raises(AbortedError):
            made.wait(LIMIT)
    assert taken == [0] * len(taken)
    assert len(taken) == (2 if readable else 3)
    assert not any(seen.complete for seen in peer.requests)


def test_text_goes_out_in_utf_8(session: Session) -> None:
    with Peer(read_all) as peer:
        post(session, peer).send("größe").wait(LIMIT)
        post(session, peer).send(["grö", "ße"]).wait(LIMIT)
        assert peer.wait_request(1).body == peer.wait_request(2).body == "größe".encode()


def test_file_goes_from_its_position_on_and_may_be_closed_at_once(session: Session) -> None:
    read = Gate()
    with Peer(late_reader(read, OK)) as peer:
        with on_disk(DATA) as file:
            file.seek(1000)
            made = post(session, peer).send(file)
            assert file.tell() == len(DATA)
        read.set()
        assert made.wait(LIMIT)
        assert peer.wait_request().body == DATA[1000:]


@pytest.mark.parametrize("source", [None, 5, object(), {"a": 1}, io.StringIO("x")])
def test_what_is_no_source_is_refused(session: Session, source: Any) -> None:
    with Peer(read_all) as peer:
        made = post(session, peer)
        with pytest.raises(TypeError, match=f"not {type(source).__name__}"):
            made.send(source)
        with pytest.raises(ValueError, match="length must be"):
            made.send(b"", -1)
        with pytest.raises(UnicodeEncodeError):
            made.send("\ud800")
        made.send(b"still usable").wait(LIMIT)
        assert peer.wait_request().body == b"still usable"


def test_second_send_is_refused_and_harms_nothing(session: Session) -> None:
    with Peer(read_all) as peer:
        made = post(session, peer).send(b"first")
        for source in (b"second", iter([b"second"]), io.BytesIO(b"second"), MultipartForm()):
            with pytest.raises(InvalidStateError, match=r"send\(\) after end\(\)"):
                made.send(source)
        assert made.get_response(LIMIT).status_code == 200
        assert peer.wait_request().body == b"first"


def test_source_that_raises_aborts_and_its_error_passes_through(session: Session) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA
        raise ZeroDivisionError

    with Peer(read_all) as peer:
        made = post(session, peer)
        recorder = Recorder(made)
        with pytest.raises(ZeroDivisionError):
            made.send(broken())
        recorder.wait("close")
        assert recorder.names()[-2:] == ["abort", "close"]
    assert not any(seen.complete for seen in peer.requests)


def test_early_answer_stops_the_reading(session: Session) -> None:
    answered = Gate()
    unwanted = 0

    def endless() -> Iterator[bytes]:
        nonlocal unwanted
        yield b"begin"
        answered.wait()
        while True:
            unwanted += not made.writable()
            yield b"more"

    with Peer(early_answer("keep_reading")) as peer:
        made = post(session, peer)
        made.on("response", lambda response: answered.set())
        assert made.send(endless()).get_response(LIMIT).text() == "too much\n"
        assert made.wait(LIMIT)
    assert unwanted <= 1


def test_answer_of_one_request_is_the_body_of_another(session: Session) -> None:
    with Peer(scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as first, Peer(read_all) as second:
        response = session.request(first.url()).end().get_response(LIMIT)
        post(session, second).send(response).wait(LIMIT)
        assert second.wait_request().body == b"hello"


def test_pipe(session: Session) -> None:
    ours, theirs = os.pipe()
    with open(theirs, "wb") as end, open(ours, "rb") as pipe, Peer(read_all) as peer:
        thread = threading.Thread(target=lambda: (end.write(DATA), end.close()))
        thread.start()
        post(session, peer).send(pipe).wait(LIMIT)
        thread.join(LIMIT)
        assert peer.wait_request().body == DATA


# --- params ---


class Colour(str, enum.Enum):
    RED = "red & blue"


VALUES: dict[str, Any] = {
    "text": "a b&c=d/ä",
    "number": 5,
    "status": HTTPStatus.OK,
    "ratio": 0.5,
    "yes": True,
    "no": False,
    "none": None,
    "list": ["x", 1, None, True],
    "tuple": (),
    "enum": Colour.RED,
    "": "",
}
QUERY = [
    ("text", "a b&c=d/ä"),
    ("number", "5"),
    ("status", "200"),
    ("ratio", "0.5"),
    ("yes", "true"),
    ("no", "false"),
    *(("list", "x"), ("list", "1"), ("list", "true")),
    ("enum", "red & blue"),
    ("", ""),
]


@pytest.mark.parametrize(
    "kind",
    [dict, lambda values: list(values.items()), lambda values: iter(values.items())],
    ids=["mapping", "pairs", "iterator"],
)
def test_params_are_the_query(session: Session, kind: Callable[[Any], Any]) -> None:
    with Peer(echo_json) as peer:
        made = session.request(peer.url("/p"), params=kind(VALUES))
        assert made.method == "GET"
        target = made.end().get_response(LIMIT).json()["target"]
        assert parse_qsl(urlsplit(target).query, keep_blank_values=True) == QUERY


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h/p", "http://h/p?a=1"),
        ("http://h", "http://h/?a=1"),
        ("http://h/p?", "http://h/p?a=1"),
        ("http://h/p?b=2", "http://h/p?b=2&a=1"),
        ("http://h/p?b=2&", "http://h/p?b=2&a=1"),
        ("http://h/p&#here?", "http://h/p&?a=1"),
        (urlsplit("http://h/p?b=2#here"), "http://h/p?b=2&a=1"),
        (urllib3.util.parse_url("http://h/p?b=2"), "http://h/p?b=2&a=1"),
        ({"url": "http://h/p?b=2"}, "http://h/p?b=2&a=1"),
        ({"host": "h", "path": "/p?b=2"}, "http://h/p?b=2&a=1"),
        ({"host": "h"}, "http://h/?a=1"),
        ({"host": "h", "path": ""}, "http://h/?a=1"),
    ],
)
def test_params_are_added_to_what_is_there(url: Any, expected: str) -> None:
    assert request(url, params={"a": 1}).url == expected


def test_nothing_is_added_where_there_is_nothing() -> None:
    for params in ({}, [], {"a": None}, {"a": []}):
        assert request("http://h/p?b=2", params=params).url == "http://h/p?b=2"


def test_overrides_still_win() -> None:
    assert request({"url": "http://a/", "method": "PUT"}, url="http://b/?c", params={"d": "e"}).url == "http://b/?c&d=e"
    with pytest.raises(ValueError, match="option 'url'"):
        request("ftp://h/", params={"a": 1})
    with pytest.raises(TypeError, match="option 'url'"):
        request({"url": 5}, params={"a": 1})


any_text = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None)
@given(st.lists(st.tuples(any_text, any_text)))
def test_any_text_comes_back(pairs: list[tuple[str, str]]) -> None:
    encoded = urlencoded("data", pairs)
    assert parse_qsl(encoded, keep_blank_values=True, encoding="utf-8") == pairs
    if pairs:
        assert request("http://h/", params=pairs).url == "http://h/?" + encoded


@pytest.mark.parametrize("name", ["params", "data"])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (5, TypeError, "must be a mapping or pairs, not int"),
        (["a"], TypeError, "must be a mapping or pairs of name and value, not of str"),
        ([5], TypeError, "not of int"),
        ([("a",)], ValueError, "expected pairs of name and value, got 1 items"),
        ({1: "a"}, TypeError, "a name must be a str, not int"),
        ({"a": b"x"}, TypeError, "'a' must be a str, a number or a bool, not bytes"),
        ({"a": {"b": "c"}}, TypeError, "'a' must be .* not dict"),
        ({"a": [["b"]]}, TypeError, "'a' must be .* not list"),
        ({"a": object()}, TypeError, "'a' must be .* not object"),
        ({"a": "\ud800"}, ValueError, "a lone surrogate cannot be sent"),
    ],
)
def test_what_has_no_place_in_a_query_or_form(name: str, given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{name}.*{message}"):
        request("http://127.0.0.1:9/", **{name: given})


def test_params_are_no_text() -> None:
    with pytest.raises(TypeError, match="params must be a mapping or pairs, not str"):
        request("http://127.0.0.1:9/", params="a=1")  # type: ignore[arg-type]


# --- data and json ---


@pytest.mark.parametrize("made_by", ["function", "session"])
@pytest.mark.parametrize(
    ("given", "body", "content_type"),
    [
        ({"data": {"a": "ä b", "c": [1, 2], "d": None}}, b"a=%C3%A4+b&c=1&c=2", "application/x-www-form-urlencoded"),
        ({"data": [("a", 1), ("a", True)]}, b"a=1&a=true", "application/x-www-form-urlencoded"),
        ({"data": {}}, b"", "application/x-www-form-urlencoded"),
        ({"data": b"\x00\xff"}, b"\x00\xff", None),
        ({"data": bytearray(b"x")}, b"x", None),
        ({"data": "ä"}, "ä".encode(), None),
        ({"json": {"a": ["ä", 1.5, None, True]}}, '{"a":["ä",1.5,null,true]}'.encode(), "application/json"),
        ({"json": []}, b"[]", "application/json"),
        ({"json": 0}, b"0", "application/json"),
        ({"json": ""}, b'""', "application/json"),
        ({"json": False}, b"false", "application/json"),
    ],
)
def test_body(session: Session, made_by: str, given: Any, body: bytes, content_type: Any) -> None:
    make = session.request if made_by == "session" else request
    with Peer(read_all) as peer:
        made = make(peer.url(), **given)
        assert made.method == "POST"
        assert not made.writable_ended
        assert not peer.requests
        heard: list[str] = []
        made.on("finish", lambda: heard.append("finish"))
        assert made.end().wait(LIMIT)
        assert heard == ["finish"]
        seen = peer.wait_request()
        assert (seen.body, seen.header("Content-Type")) == (body, content_type)
        assert seen.content_length == len(body)


def test_method_that_is_given_is_kept() -> None:
    made = [
        request("http://h/", method="PUT", json=1),
        request({"url": "http://h/", "method": "PATCH"}, json=1),
        request("http://h/", method="GET", data="x"),
        request("http://h/"),
        request("http://h/", params={"a": 1}),
    ]
    assert [each.method for each in made] == ["PUT", "PATCH", "GET", "GET", "GET"]
    for each in made:
        each.abort()
    with pytest.raises(TypeError, match="option 'method'"):
        request("http://h/", method=None, json=1)


@pytest.mark.parametrize("name", ["Content-Type", "content-type"])
def test_content_type_that_is_set_is_kept(name: str) -> None:
    made = request("http://h/", headers={name: "application/vnd.api+json"}, json={})
    with Session(headers={name: "text/x-form"}) as session:
        of_session = session.request("http://h/", data={"a": 1})
        assert of_session.get_header("Content-Type") == "text/x-form"
        of_session.abort()
    assert made.get_header("Content-Type") == "application/vnd.api+json"
    made.abort()


def test_data_and_json_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="data and json: only one"):
        request("http://h/", data={}, json=[])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")], object(), {1, 2}, {b"a": 1}, "\ud800"])
def test_what_has_no_json_is_refused_at_the_call(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        request("http://127.0.0.1:9/", json=value)


def test_circle_has_no_json() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        request("http://127.0.0.1:9/", json=circle)


def test_file_is_no_data() -> None:
    with pytest.raises(TypeError, match=r"for a file there is send\(\)"):
        request("http://127.0.0.1:9/", data=io.BytesIO())  # type: ignore[arg-type]


def test_body_longer_than_its_announcement_aborts() -> None:
    with pytest.raises(ProtocolError, match="2 bytes written, 1 announced"):
        request("http://127.0.0.1:9/", headers={"Content-Length": 1}, data=b"xy")


def test_more_may_be_written() -> None:
    with Peer(read_all) as peer:
        request(peer.url(), data="one, ").end("two").wait(LIMIT)
        assert peer.wait_request().body == b"one, two"


def test_they_are_no_options_of_the_constructor() -> None:
    for name in ("params", "data", "json"):
        message = rf"unknown option '{name}'; it is an argument of request\(\) and Session.request\(\)$"
        with pytest.raises(TypeError, match=message):
            ClientRequest("http://h/", **{name: {}})
        with pytest.raises(TypeError, match=message):
            request({"url": "http://h/", name: {}})


def test_session_is_the_one_that_was_asked(session: Session) -> None:
    made = session.request("http://h/", params={"a": 1})
    assert made.session is session
    with Session() as other, pytest.raises(TypeError, match="session"):
        session.request("http://h/", session=other)


def test_callback_hears_the_response(session: Session) -> None:
    heard: list[int] = []
    with Peer(read_all) as peer:
        session.request(peer.url(), lambda response: heard.append(response.status_code), json={}).end().wait(LIMIT)
    assert heard == [200]


# --- raise_for_status ---


def answer(status: int, reason: str = "Reason", body: bytes = b"the body") -> bytes:
    return f"HTTP/1.1 {status} {reason}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("status", [200, 204, 302, 304, 399])
def test_good_status(session: Session, status: int) -> None:
    with Peer(scripted(answer(status, body=b"") if status in (204, 304) else answer(status))) as peer:
        response = session.request(peer.url(), redirect="manual").end().get_response(LIMIT)
        assert response.raise_for_status() is response


@pytest.mark.parametrize("status", [400, 404, 451, 500, 599])
def test_bad_status(session: Session, status: int) -> None:
    with Peer(scripted(answer(status, "Oh No"))) as peer:
        url = peer.url("/path?token=hunter2", host="127.0.0.1").replace("//", "//ada:hunter2@")
        made = session.request(url, method="PUT")
        response = made.end().get_response(LIMIT)
        with pytest.raises(StatusError) as caught:
            response.raise_for_status()
        error = caught.value
        assert isinstance(error, ClientRequestError)
        assert (error.code, error.status_code, error.status_message) == (
            "ERR_HTTP_RESPONSE_CODE_FAILURE",
            status,
            "Oh No",
        )
        assert error.url == peer.url("/path")
        assert str(error) == (
            f"net::ERR_HTTP_RESPONSE_CODE_FAILURE: PUT {peer.url('/path')} was answered with {status} Oh No"
        )
        assert error.request is made
        assert made.get_response(LIMIT) is response
        assert response.read() == b"the body"  # untouched
        assert made.wait(LIMIT)
        assert response.error is None


def test_bad_status_without_a_reason_and_after_a_redirect(session: Session) -> None:
    moved = b"HTTP/1.1 303 See Other\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"

    def redirect(conn: Conn) -> None:
        conn.read_request()
        conn.send(moved)
        conn.read_request()
        conn.send(b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n")

    with Peer(redirect) as peer:
        response = session.request(peer.url("/here"), method="POST").end(b"x").get_response(LIMIT)
        with pytest.raises(StatusError, match=rf": GET {peer.url('/there')} was answered with 500$"):
            response.raise_for_status()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_status_error_is_pickled_whole(duplicate: Callable[[Any], Any]) -> None:
    error = StatusError(None, "GET http://h/ was answered with 404", 404, "Not Found", "http://h/")
    error.errno = 5
    again = duplicate(error)
    assert type(again) is StatusError
    assert vars(again) == vars(error)
    assert (str(again), again.errno, again.code) == (str(error), 5, error.code)
    assert again.__class__.__module__ == clientrequest.__name__


def test_it_waits_for_no_body(session: Session) -> None:
    with Peer(scripted(b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\nhalf", Conn.hold)) as peer:
        made = session.request(peer.url()).end()
        with pytest.raises(StatusError):
            made.get_response(LIMIT).raise_for_status()
        made.abort()
        with pytest.raises(AbortedError):
            made.wait(LIMIT)


def test_in_one_line(session: Session) -> None:
    with Peer(echo_json) as peer:
        answer = session.request(peer.url(), json={"a": 1}).end().get_response(LIMIT).raise_for_status().json()
    assert answer["length"] == len(json.dumps({"a": 1}, separators=(",", ":")))


def test_path_of_a_file(tmp_path: Path, session: Session) -> None:
    """A path is text like any other: it is not opened."""
    with Peer(read_all) as peer:
        post(session, peer).send(str(tmp_path)).wait(LIMIT)
        assert peer.wait_request().body == str(tmp_path).encode()
        made = post(session, peer)
        with pytest.raises(TypeError, match=r"(Posix|Windows)Path"):
            made.send(tmp_path)
