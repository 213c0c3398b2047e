"""HTTP/1.1 without sockets: whatever comes in becomes the right values or an error, however it is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clientrequest import ProtocolError, TransferError
from clientrequest._http1 import (
    LAST_CHUNK,
    MAX_CHUNK_LINE,
    MAX_FIELDS,
    MAX_HEAD,
    BodyFraming,
    ChunkedFraming,
    CloseFraming,
    HeadReader,
    LengthFraming,
    ResponseHead,
    body_framing,
    encode_chunk_size,
    encode_request_head,
    keeps_alive,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
Pairs = list[tuple[str, str]]


class Parsed(NamedTuple):
    """A whole response."""

    interim: list[tuple[int, Pairs]]
    version: tuple[int, int]
    status: int
    reason: str
    headers: Pairs
    body: bytes
    trailers: Pairs
    surplus: bool


def parse(pieces: Iterable[bytes], method: str = "GET") -> Parsed:
    """What a connection that sends these pieces and then ends has said; raises what is wrong with it."""
    source = iter(pieces)
    reader = HeadReader()
    interim: list[tuple[int, Pairs]] = []
    head = next_head(reader, source)
    while head.status < 200 and head.status != 101:
        interim.append((head.status, head.headers))
        head = next_head(reader, source)
    framing = body_framing(head, method)
    body = read_body(framing, reader.take_rest(), source)
    return Parsed(
        interim, head.version, head.status, head.reason, head.headers, body, framing.trailers, framing.surplus
    )


def next_head(reader: HeadReader, source: Iterator[bytes]) -> ResponseHead:
    while True:
        head = reader.next_head()
        if head is not None:
            return head
        piece = next(source, b"")
        if not piece:
            raise reader.eof()
        reader.feed(piece)


def read_body(framing: BodyFraming, rest: bytes, source: Iterator[bytes]) -> bytes:
    body = b""
    for piece in (rest, *source):
        if piece and not (framing.complete and framing.surplus):
            parts = framing.feed(piece)
            assert all(len(part) for part in parts)
            body += b"".join(parts)
    if not framing.complete:
        framing.eof()
    assert framing.complete
    return body


def code_of(raw: bytes, method: str = "GET") -> str:
    """The code of the error that a damaged response is."""
    with pytest.raises((ProtocolError, TransferError)) as caught:
        parse([raw], method)
    return str(caught.value.code)


def cuts(raw: bytes) -> Iterator[list[bytes]]:
    """`raw` in two pieces, for every place to cut, and byte by byte."""
    for position in range(1, len(raw)):
        yield [raw[:position], raw[position:]]
    yield [raw[index : index + 1] for index in range(len(raw))]


def read_head(raw: bytes) -> ResponseHead:
    reader = HeadReader()
    reader.feed(raw)
    head = reader.next_head()
    assert head is not None
    return head


# ------------------------------------------------------------------------------
# What goes out


def test_request_head() -> None:
    head = encode_request_head("GET", "/a?b", "Host: a\r\nX: \xe9\r\n")
    assert head == b"GET /a?b HTTP/1.1\r\nHost: a\r\nX: \xe9\r\n\r\n"


@pytest.mark.parametrize(("size", "line"), [(1, b"1\r\n"), (15, b"f\r\n"), (65536, b"10000\r\n")])
def test_chunk_size_is_hexadecimal(size: int, line: bytes) -> None:
    assert encode_chunk_size(size) == line


def test_what_we_send_in_chunks_can_be_read() -> None:
    raw = encode_chunk_size(3) + b"abc\r\n" + encode_chunk_size(20) + b"x" * 20 + b"\r\n" + LAST_CHUNK
    assert parse([CHUNKED + raw]).body == b"abc" + b"x" * 20


# ------------------------------------------------------------------------------
# Status lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"HTTP/1.1 200 OK", ((1, 1), 200, "OK")),
        (b"HTTP/1.0 404 Not Found", ((1, 0), 404, "Not Found")),
        (b"HTTP/1.1 200 ", ((1, 1), 200, "")),
        (b"HTTP/1.1 200", ((1, 1), 200, "")),
        (b"HTTP/1.1 999 ?", ((1, 1), 999, "?")),
        (b"HTTP/1.1 200  two spaces\t", ((1, 1), 200, " two spaces\t")),
        (b"HTTP/1.1 200 Gr\xfc\xdfe", ((1, 1), 200, "Grüße")),
        (b"HTTP/1.7 200 OK", ((1, 7), 200, "OK")),
    ],
)
def test_status_line(line: bytes, expected: tuple[tuple[int, int], int, str]) -> None:
    head = read_head(line + b"\r\n\r\n")
    assert (head.version, head.status, head.reason) == expected
    assert head.headers == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 000 OK",
        b"HTTP/1.1 -20 OK",
        b"HTTP/1.1 abc OK",
        b"HTTP/1.1 200OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\x07K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 \xb2\xb3\xb9 OK",
        b"HTTP/1.10 200 OK",
        b"HTTP/1 200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/0.9 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"HTTPS/1.1 200 OK",
    ],
)
def test_bad_status_line(line: bytes) -> None:
    assert code_of(line + b"\r\nContent-Length: 0\r\n\r\n") == "ERR_INVALID_HTTP_RESPONSE"


@pytest.mark.parametrize("start", [b"<html>", b"SSH-2.0-OpenSSH", b"\x16\x03\x01", b"220 smtp", b"HTTP/2", b"\r"])
def test_other_protocols_are_recognised_before_their_head_ends(start: bytes) -> None:
    reader = HeadReader()
    reader.feed(start)
    with pytest.raises(ProtocolError) as caught:
        reader.next_head()
    assert caught.value.code == "ERR_INVALID_HTTP_RESPONSE"


def test_the_beginning_of_a_head_is_waited_for() -> None:
    reader = HeadReader()
    for byte in b"HTTP/1.1 200 OK\r\nA: b\r\n\r":
        reader.feed(bytes([byte]))
        assert reader.next_head() is None
    reader.feed(b"\n")
    assert reader.next_head() is not None


# ------------------------------------------------------------------------------
# Header lines


def test_headers_keep_order_spelling_and_duplicates() -> None:
    head = read_head(OK + b"b: 1\r\nA: 2\r\nB: 3\r\n\r\n")
    assert head.headers == [("b", "1"), ("A", "2"), ("B", "3")]
    assert head.values("b") == ["1", "3"]
    assert head.values("c") == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"A: b", ("A", "b")),
        (b"A:b", ("A", "b")),
        (b"A: \t b \t ", ("A", "b")),
        (b"A:", ("A", "")),
        (b"A:   ", ("A", "")),
        (b"A: b: c", ("A", "b: c")),
        (b"A: b\tc  d", ("A", "b\tc  d")),
        (b"A: caf\xe9\xa0", ("A", "café\xa0")),
        (b"!#$%&'*+-.^_`|~09azAZ: x", ("!#$%&'*+-.^_`|~09azAZ", "x")),
    ],
)
def test_header_line(line: bytes, expected: tuple[str, str]) -> None:
    assert read_head(OK + line + b"\r\n\r\n").headers == [expected]


@pytest.mark.parametrize(
    "line",
    [
        b"no colon",
        b"NoColon",
        b": no name",
        b" A: folded",
        b"\tA: folded",
        b" ",
        b"A : space before the colon",
        b"A\t: b",
        b"A b: c",
        b"A(b): c",
        b"\xc3\xa4: b",
        b"A: b\x00c",
        b"A: b\x01",
        b"A: b\x0b",
        b"A: b\x7f",
        b"A: b\rc",
        b"A: b\r",
        b"A\r: b",
        b"\x00",
    ],
)
@pytest.mark.parametrize("place", ["first", "last", "trailer"])
def test_bad_header_line(line: bytes, place: str) -> None:
    block = {
        "first": OK + line + b"\r\nContent-Length: 0\r\n\r\n",
        "last": OK + b"Content-Length: 0\r\n" + line + b"\r\n\r\n",
        "trailer": CHUNKED + b"0\r\n" + line + b"\r\n\r\n",
    }
    assert code_of(block[place]) == "ERR_INVALID_HTTP_RESPONSE"


@pytest.mark.parametrize(
    "line", [b"Set-Cookie: id=hunter2\x00", b"Set-Cookie id=hunter2", b"Set-Cookie=hunter2", b" folded=hunter2"]
)
def test_error_about_a_header_line_does_not_show_its_value(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="number 2") as caught:
        parse([OK + b"A: b\r\n" + line + b"\r\n\r\n"])
    assert "hunter2" not in str(caught.value)


def test_lines_may_end_with_lf_alone() -> None:
    parsed = parse([b"HTTP/1.1 200 OK\nA: b\nContent-Length: 1\n\nx"])
    assert (parsed.headers, parsed.body) == ([("A", "b"), ("Content-Length", "1")], b"x")


@pytest.mark.parametrize("separator", [b"\r\n\n", b"\n\r\n"])
def test_line_ends_may_be_mixed(separator: bytes) -> None:
    assert parse([b"HTTP/1.1 200 OK\r\nContent-Length: 1" + separator + b"x"]).body == b"x"


@pytest.mark.parametrize(
    ("values", "tokens"),
    [
        ([b"a"], ["a"]),
        ([b"A, b ,\tc"], ["a", "b", "c"]),
        ([b"a", b"B"], ["a", "b"]),
        ([b",, a ,"], ["a"]),
        ([b"a\xa0,\x85b"], ["a\xa0", "\x85b"]),  # white space elsewhere, not in HTTP
        ([b""], []),
        ([], []),
    ],
)
def test_tokens_of_a_header(values: list[bytes], tokens: list[str]) -> None:
    raw = OK + b"".join(b"List: " + value + b"\r\n" for value in values) + b"\r\n"
    assert read_head(raw).tokens("list") == tokens


# ------------------------------------------------------------------------------
# Limits of a head


def test_head_of_the_greatest_size() -> None:
    filler = MAX_HEAD - len(OK) - len(b"A: \r\n\r\n")
    head = read_head(OK + b"A: " + b"x" * filler + b"\r\n\r\n")
    assert len(head.headers[0][1]) == filler
    assert code_of(OK + b"A: " + b"x" * (filler + 1) + b"\r\n\r\n") == "ERR_RESPONSE_HEADERS_TOO_BIG"


def test_head_without_an_end_is_given_up() -> None:
    reader = HeadReader()
    reader.feed(OK + b"A: " + b"x" * (MAX_HEAD - 100))
    assert reader.next_head() is None
    reader.feed(b"x" * 200)
    with pytest.raises(ProtocolError) as caught:
        reader.next_head()
    assert caught.value.code == "ERR_RESPONSE_HEADERS_TOO_BIG"


def test_body_behind_a_head_does_not_count() -> None:
    raw = OK + b"Content-Length: %d\r\n\r\n" % (2 * MAX_HEAD) + b"x" * 2 * MAX_HEAD
    assert len(parse([raw]).body) == 2 * MAX_HEAD


def test_most_header_lines() -> None:
    assert len(read_head(OK + b"A: b\r\n" * MAX_FIELDS + b"\r\n").headers) == MAX_FIELDS
    assert code_of(OK + b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n") == "ERR_RESPONSE_HEADERS_TOO_BIG"


def test_most_trailer_lines() -> None:
    raw = CHUNKED + b"0\r\n"
    assert len(parse([raw + b"A: b\r\n" * MAX_FIELDS + b"\r\n"]).trailers) == MAX_FIELDS
    assert code_of(raw + b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n") == "ERR_RESPONSE_HEADERS_TOO_BIG"


def test_trailers_together_are_limited_too() -> None:
    line = b"A: " + b"x" * 60_000 + b"\r\n"
    assert len(parse([CHUNKED + b"0\r\n" + line * 4 + b"\r\n"]).trailers) == 4
    assert code_of(CHUNKED + b"0\r\n" + line * 5 + b"\r\n") == "ERR_RESPONSE_HEADERS_TOO_BIG"


# ------------------------------------------------------------------------------
# An end in the wrong place


@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 x\r\nA: b\r\n\r\n"])
def test_no_byte_of_a_response(raw: bytes) -> None:
    with pytest.raises(TransferError) as caught:
        parse([raw])
    assert caught.value.code == "ERR_EMPTY_RESPONSE"


def test_every_cut_inside_a_head_is_an_error() -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 0\r\n\r\n"
    start = raw.index(b"HTTP/1.1 200")
    for end in range(1, len(raw)):
        if end != start:
            assert code_of(raw[:end]) == "ERR_RESPONSE_HEADERS_TRUNCATED"
    assert parse([raw]).status == 200


def test_every_cut_inside_a_body_of_known_length_is_an_error() -> None:
    raw = OK + b"Content-Length: 5\r\n\r\n12345"
    for end in range(raw.index(b"1234"), len(raw)):
        assert code_of(raw[:end]) == "ERR_CONTENT_LENGTH_MISMATCH"


def test_every_cut_inside_a_chunked_body_is_an_error() -> None:
    raw = CHUNKED + b"3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    for end in range(len(CHUNKED), len(raw)):
        assert code_of(raw[:end]) == "ERR_INCOMPLETE_CHUNKED_ENCODING"
    assert parse([raw]).body == b"abc0123456789"


# ------------------------------------------------------------------------------
# Which framing


@pytest.mark.parametrize(
    ("head", "method", "kind"),
    [
        (OK + b"\r\n", "GET", CloseFraming),
        (OK + b"Content-Length: 5\r\n\r\n", "GET", LengthFraming),
        (CHUNKED, "GET", ChunkedFraming),
        (OK + b"transfer-encoding: CHUNKED\r\n\r\n", "GET", ChunkedFraming),
        (OK + b"Content-Length: 5\r\n\r\n", "HEAD", LengthFraming),
        (CHUNKED, "HEAD", LengthFraming),
        (OK + b"\r\n", "HEAD", LengthFraming),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", LengthFraming),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", LengthFraming),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", LengthFraming),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "GET", CloseFraming),
    ],
)
def test_framing(head: bytes, method: str, kind: type[BodyFraming]) -> None:
    assert type(body_framing(read_head(head), method)) is kind


@pytest.mark.parametrize(
    ("raw", "method"),
    [
        (OK + b"Content-Length: 5\r\n\r\n", "HEAD"),
        (CHUNKED, "HEAD"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "GET"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET"),
    ],
)
def test_answers_without_a_body(raw: bytes, method: str) -> None:
    assert parse([raw], method).body == b""


@pytest.mark.parametrize(
    ("value", "length"),
    [(b"0", 0), (b"5", 5), (b" 5\t", 5), (b"005", 5), (b"5, 5", 5), (b"5,5 ,5", 5), (b"5\r\nContent-Length: 5", 5)],
)
def test_content_length(value: bytes, length: int) -> None:
    framing = body_framing(read_head(OK + b"Content-Length: " + value + b"\r\n\r\n"), "GET")
    assert framing.length == length


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"five",
        b"-5",
        b"+5",
        b"5.0",
        b"5 5",
        b"0x5",
        b"1_0",
        b"\xb5",
        b"\xb2",
        b"1" * 20,
        b"1" * 5000,
        b"5\xa0,5\xa0",
    ],
)
def test_bad_content_length(value: bytes) -> None:
    assert code_of(OK + b"Content-Length: " + value + b"\r\n\r\n") == "ERR_INVALID_HTTP_RESPONSE"


@pytest.mark.parametrize(
    "value", [b"5, 6", b"5\r\nContent-Length: 6", b"5\r\nCONTENT-LENGTH: 05", b"5,", b"5, x", b"5, 5\xa0"]
)
def test_two_lengths(value: bytes) -> None:
    expected = "ERR_RESPONSE_HEADERS_MULTIPLE_CONTENT_LENGTH"
    assert code_of(OK + b"Content-Length: " + value + b"\r\n\r\n12345") == expected


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("order", [1, -1])
def test_length_and_chunked_together(method: str, order: int) -> None:
    lines = [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"][::order]
    assert code_of(OK + b"".join(lines) + b"\r\n0\r\n\r\n", method) == "ERR_INVALID_HTTP_RESPONSE"


@pytest.mark.parametrize(
    "value",
    [
        b",chunked\xa0",
        b"\x85chunked,",
        b"gzip",
        b"gzip, chunked",
        b"chunked, gzip",
        b"identity",
        b"chunked, chunked",
        b"chunked;q=1",
        b"xchunked",
    ],
)
def test_other_transfer_encodings(value: bytes) -> None:
    assert code_of(OK + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n") == "ERR_INVALID_HTTP_RESPONSE"


def test_chunked_in_two_lines() -> None:
    raw = OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert code_of(raw) == "ERR_INVALID_HTTP_RESPONSE"


# ------------------------------------------------------------------------------
# Bodies


def test_body_of_known_length_counts_down() -> None:
    framing = LengthFraming(5)
    assert (list(framing.feed(b"123")), framing.direct, framing.complete) == ([b"123"], 2, False)
    framing.advance(1)
    assert (framing.direct, framing.complete) == (1, False)
    assert (list(framing.feed(b"5")), framing.direct, framing.complete) == ([b"5"], 0, True)
    framing.eof()


def test_empty_body_is_complete_from_the_start() -> None:
    assert LengthFraming(0).complete


@pytest.mark.parametrize("raw", [OK + b"Content-Length: 2\r\n\r\nab", CHUNKED + b"2\r\nab\r\n0\r\n\r\n"])
def test_bytes_behind_the_body_are_noticed_and_not_part_of_it(raw: bytes) -> None:
    assert parse([raw]).surplus is False
    for pieces in ([raw + b"c"], [raw, b"c"]):
        parsed = parse(pieces)
        assert (parsed.body, parsed.surplus) == (b"ab", True)


def test_body_that_ends_with_the_connection() -> None:
    framing = CloseFraming()
    assert list(framing.feed(b"abc")) == [b"abc"]
    assert not framing.complete
    framing.eof()
    assert framing.complete


CHUNKED_BODY = b"3\r\nabc\r\n0A;name=value;flag\r\n0123456789\r\n001\r\n\n\r\n000;last\r\nT-One: 1\r\nt-two:\r\n\r\n"


def test_chunked_body() -> None:
    parsed = parse([CHUNKED + CHUNKED_BODY])
    assert parsed.body == b"abc0123456789\n"
    assert parsed.trailers == [("T-One", "1"), ("t-two", "")]


def test_chunked_body_in_any_two_pieces_and_byte_by_byte() -> None:
    whole = parse([CHUNKED + CHUNKED_BODY])
    for pieces in cuts(CHUNKED + CHUNKED_BODY):
        assert parse(pieces) == whole


def test_trailers_are_there_once_the_body_is_complete() -> None:
    framing = ChunkedFraming()
    framing.feed(b"0\r\nA: b\r\n")
    assert not framing.complete
    framing.feed(b"\r\n")
    assert framing.complete
    assert framing.trailers == [("A", "b")]


@pytest.mark.parametrize(
    "line",
    [b"1", b"01", b"0000000000000001", b"1 ", b"1\t ", b"1;", b"1;a", b"1 ;a=b", b'1;a="b;c"', b"1;\xe9"],
)
def test_chunk_line(line: bytes) -> None:
    assert parse([CHUNKED + line + b"\r\nx\r\n0\r\n\r\n"]).body == b"x"


@pytest.mark.parametrize("digits", [b"a", b"A"])
def test_chunk_size_may_have_either_case(digits: bytes) -> None:
    assert parse([CHUNKED + digits + b"\r\n0123456789\r\n0\r\n\r\n"]).body == b"0123456789"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"x",
        b" 1",
        b"-1",
        b"+1",
        b"0x1",
        b"1_0",
        b"1h",
        b"1 a",
        b"1,a",
        b";a",
        b"1;a\x00",
        b"1;a\x01",
        b"1\x00",
        b"1\r",
        b"\xb9",
        b"0" * 17,
        b"f" * 17,
        b"1;" + b"x" * MAX_CHUNK_LINE,
    ],
)
def test_bad_chunk_line(line: bytes) -> None:
    raw = CHUNKED + line + b"\r\nx\r\n0\r\n\r\n"
    assert code_of(raw) == "ERR_INVALID_CHUNKED_ENCODING"
    with pytest.raises(ProtocolError):
        parse([raw[index : index + 1] for index in range(len(raw))])


@pytest.mark.parametrize("raw", [b"1\nx\r\n0\r\n\r\n", b"1\r\nx\r\n0\n\r\n", b"1\r\nx\r\n0\r\n\n", b"0\r\nA: b\n\r\n"])
def test_lf_alone_ends_no_line_of_a_chunked_body(raw: bytes) -> None:
    assert code_of(CHUNKED + raw) == "ERR_INVALID_CHUNKED_ENCODING"


@pytest.mark.parametrize("end", [b"y\r\n", b"\n", b"\rx", b"\r\r\n", b"0\r\n\r\n", b"  "])
def test_chunk_must_be_followed_by_crlf(end: bytes) -> None:
    assert code_of(CHUNKED + b"1\r\nx" + end + b"0\r\n\r\n") == "ERR_INVALID_CHUNKED_ENCODING"


def test_endless_chunk_line_is_given_up() -> None:
    framing = ChunkedFraming()
    for _ in range(MAX_CHUNK_LINE):
        framing.feed(b"0")
    with pytest.raises(ProtocolError) as caught:
        framing.feed(b"0")
    assert caught.value.code == "ERR_INVALID_CHUNKED_ENCODING"


def test_greatest_chunk_is_waited_for() -> None:
    framing = ChunkedFraming()
    framing.feed(b"ffffffffffffffff\r\n")
    assert b"".join(framing.feed(b"x" * 1000)) == b"x" * 1000
    assert not framing.complete


# ------------------------------------------------------------------------------
# Interim responses and reuse


def test_interim_responses_come_one_by_one() -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + b"\r\nx"
    parsed = parse([raw])
    assert parsed.interim == [(100, []), (103, [("Link", "</a>")])]
    assert (parsed.status, parsed.body) == (200, b"x")


def test_heads_in_any_two_pieces_and_byte_by_byte() -> None:
    raw = b"HTTP/1.1 103 x\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\nab"
    whole = parse([raw])
    for pieces in cuts(raw):
        assert parse(pieces) == whole


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, CLOSE\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", False),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", False),
    ],
)
def test_reuse_of_the_connection(head: bytes, expected: bool) -> None:
    assert keeps_alive(read_head(head)) is expected


# ------------------------------------------------------------------------------
# Any split of a valid response parses the same

TOKENS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20)
# C1 controls are obs-text on the wire, and fine; what h11 strips and what we strip differs outside of space and tab.
VISIBLE = VALUES.map(lambda text: text.strip(" "))
FRAMING_NAMES = {"content-length", "transfer-encoding", "connection"}
FIELDS = st.lists(st.tuples(TOKENS.filter(lambda name: name.lower() not in FRAMING_NAMES), VISIBLE), max_size=5)
BODIES = st.binary(max_size=80)


class Response(NamedTuple):
    """A valid response, as bytes and as what it says."""

    raw: bytes
    method: str
    meaning: Parsed


def block(fields: Pairs) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1")


@st.composite
def chunks_of(draw: st.DrawFn, body: bytes) -> bytes:
    """`body` in chunks of any sizes, written in any of the ways that are allowed."""
    raw = b""
    while body:
        size = draw(st.integers(1, len(body)))
        digits = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"%08x"])) % size
        extension = draw(st.sampled_from([b"", b"", b";a", b";a=b", b';a="b"', b" "]))
        raw += digits + extension + b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    return raw + draw(st.sampled_from([b"0", b"000", b"0;x"])) + b"\r\n"


@st.composite
def responses(draw: st.DrawFn) -> Response:
    interim = draw(st.lists(st.tuples(st.sampled_from([100, 102, 103, 199]), FIELDS), max_size=2))
    raw = b"".join(b"HTTP/1.1 %d x\r\n" % status + block(fields) + b"\r\n" for status, fields in interim)
    method = draw(st.sampled_from(["GET", "GET", "POST", "HEAD"]))
    minor = draw(st.sampled_from([1, 1, 0]))
    status = draw(st.sampled_from([200, 200, 201, 204, 304, 404, 500, 999]))
    reason = draw(VALUES)
    headers, body, trailers = draw(FIELDS), draw(BODIES), []
    framing = draw(st.sampled_from(["length", "close", "chunked"] if minor else ["length", "close"]))
    if method == "HEAD" or status in (204, 304):
        body, framing = b"", "none"
    coded = body
    if framing == "length":
        headers.insert(draw(st.integers(0, len(headers))), ("Content-Length", str(len(body))))
    elif framing == "chunked":
        headers.insert(draw(st.integers(0, len(headers))), ("Transfer-Encoding", "chunked"))
        trailers = draw(FIELDS)
        coded = draw(chunks_of(body)) + block(trailers) + b"\r\n"
    raw += f"HTTP/1.{minor} {status} {reason}\r\n".encode("latin-1") + block(headers) + b"\r\n" + coded
    meaning = Parsed(interim, (1, minor), status, reason, headers, body, trailers, False)
    return Response(raw, method, meaning)


def split(raw: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted({position % (len(raw) + 1) for position in positions}), len(raw)]
    return [raw[start:end] for start, end in zip(edges, edges[1:]) if start < end]


POSITIONS = st.lists(st.integers(0, 10_000), max_size=8)


@given(responses(), POSITIONS)
@settings(deadline=None)
def test_any_split_of_a_valid_response_parses_to_what_it_says(response: Response, positions: list[int]) -> None:
    assert parse(split(response.raw, positions), response.method) == response.meaning


@given(responses())
@settings(deadline=None, max_examples=40)
def test_byte_by_byte_a_valid_response_parses_to_what_it_says(response: Response) -> None:
    assert parse([bytes([byte]) for byte in response.raw], response.method) == response.meaning


# ------------------------------------------------------------------------------
# Any bytes give a value or an error of ours


def outcome(pieces: Iterable[bytes], method: str = "GET") -> Parsed | str:
    """The response, or the code of the error. Anything else that is raised fails the test."""
    try:
        return parse(pieces, method)
    except (ProtocolError, TransferError) as error:
        return error.code


KNOWN_CODES = {
    "ERR_EMPTY_RESPONSE",
    "ERR_INVALID_HTTP_RESPONSE",
    "ERR_RESPONSE_HEADERS_TOO_BIG",
    "ERR_RESPONSE_HEADERS_TRUNCATED",
    "ERR_RESPONSE_HEADERS_MULTIPLE_CONTENT_LENGTH",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
    "ERR_INVALID_CHUNKED_ENCODING",
    "ERR_CONTENT_LENGTH_MISMATCH",
}


MISPLACED = [b"\r\n", b"\n", b"\r", b":", b" ", b"\r\n\r\n", b"0", b"-"]


@st.composite
def damaged_responses(draw: st.DrawFn) -> tuple[bytes, str]:
    """A valid response in which some bytes were changed, taken out or put in."""
    response = draw(responses())
    raw = bytearray(response.raw)
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, max(len(raw) - 1, 0)))
        removed = draw(st.integers(0, 3))
        raw[position : position + removed] = draw(st.one_of(st.binary(max_size=3), st.sampled_from(MISPLACED)))
    return bytes(raw), response.method


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_a_response_or_an_error(raw: bytes) -> None:
    result = outcome([raw] if raw else [])
    assert isinstance(result, Parsed) or result in KNOWN_CODES


@given(st.binary(max_size=100), st.sampled_from([OK + b"\r\n", CHUNKED, OK + b"Content-Length: 9\r\n\r\n"]))
@settings(deadline=None)
def test_any_bytes_behind_a_head_are_a_body_or_an_error(rest: bytes, head: bytes) -> None:
    result = outcome([head + rest])
    assert isinstance(result, Parsed) or result in KNOWN_CODES


@given(damaged_responses())
@settings(deadline=None)
def test_a_damaged_response_is_a_response_or_an_error(damaged: tuple[bytes, str]) -> None:
    result = outcome([damaged[0]] if damaged[0] else [], damaged[1])
    assert isinstance(result, Parsed) or result in KNOWN_CODES


def gist(result: Parsed | str) -> object:
    """What does not depend on where the bytes were cut: of two mistakes, either may be found first."""
    return result if isinstance(result, Parsed) else "error"


@given(damaged_responses(), POSITIONS)
@settings(deadline=None)
def test_a_damaged_response_is_the_same_however_it_is_cut(damaged: tuple[bytes, str], positions: list[int]) -> None:
    raw, method = damaged
    assert gist(outcome(split(raw, positions), method)) == gist(outcome([raw] if raw else [], method))


# ------------------------------------------------------------------------------
# h11 as an independent judge


def judge(raw: bytes, method: str = "GET") -> Optional[Parsed]:
    """What h11 reads; `None` if it refuses."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    if raw:
        connection.receive_data(b"")
    try:
        return collect(connection)
    except h11.RemoteProtocolError:
        return None


def collect(connection: h11.Connection) -> Parsed:
    interim: list[tuple[int, Pairs]] = []
    head: Optional[h11.Response] = None
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.InformationalResponse):
            interim.append((event.status_code, pairs_of(event.headers)))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage)
            assert head is not None
            break
    major, minor = bytes(head.http_version).split(b".")
    reason, trailers = bytes(head.reason).decode("latin-1"), pairs_of(event.headers)
    surplus = bool(connection.trailing_data[0])
    version = int(major), int(minor)
    return Parsed(interim, version, head.status_code, reason, pairs_of(head.headers), body, trailers, surplus)


def pairs_of(headers: h11._headers.Headers) -> Pairs:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw_items()]


@given(responses())
@settings(deadline=None)
def test_h11_reads_the_same_in_a_valid_response(response: Response) -> None:
    assert judge(response.raw, response.method) == parse([response.raw], response.method)


AGREEMENTS = [
    OK + b"Content-Length: 1, 1\r\n\r\nx",
    OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    OK + b"Content-Length: +1\r\n\r\nx",
    OK + b"Content-Length: 01\r\n\r\nx",
    OK + b"Content-Length: \r\n\r\nx",
    OK + b"Content-Length: 3\r\n\r\nab",
    OK + b"Content-Length: 3",
    OK + b"Transfer-Encoding: CHUNKED\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: identity\r\n\r\nabc",
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"\r\n" + OK + b"Content-Length: 0\r\n\r\n",
    OK + b"A : b\r\nContent-Length: 0\r\n\r\n",
    OK + b"A: b\x00\r\nContent-Length: 0\r\n\r\n",
    OK + b"A: b\rc\r\nContent-Length: 0\r\n\r\n",
    OK + b": b\r\nContent-Length: 0\r\n\r\n",
    OK + b"no colon\r\nContent-Length: 0\r\n\r\n",
    CHUNKED + b"1\r\nxyz0\r\n\r\n",
    CHUNKED + b" 1\r\nx\r\n0\r\n\r\n",
    CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n",
    CHUNKED + b"1 \r\nx\r\n0\r\n\r\n",
    CHUNKED + b"1\nx\n0\n\n",
    CHUNKED + b"5\r\nabc",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    b"",
    b"HTT",
]


@pytest.mark.parametrize("raw", AGREEMENTS)
def test_h11_says_the_same_about_what_is_doubtful(raw: bytes) -> None:
    ours = outcome([raw] if raw else [])
    theirs = judge(raw)
    assert (ours if isinstance(ours, Parsed) else None) == normal(theirs, ours)


def normal(theirs: Optional[Parsed], ours: Parsed | str) -> Optional[Parsed]:
    """h11 makes one `5` of `5, 5`; headers are compared elsewhere."""
    return theirs._replace(headers=ours.headers) if theirs is not None and isinstance(ours, Parsed) else theirs


REFUSED, TAKEN = "refused", "taken"
DISAGREEMENTS = [
    # (ours, h11's, response, why ours is right)
    (
        REFUSED,
        TAKEN,
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "length and chunked together may be an attack (RFC 9112, 6.3); the contract makes it an error",
    ),
    (
        REFUSED,
        TAKEN,
        OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        "a folded line has no colon; RFC 9112, 5.2 lets a client refuse it or replace it",
    ),
    (REFUSED, TAKEN, CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n", "the same in a trailer"),
    (REFUSED, TAKEN, CHUNKED + b"0\r\nA: b\n\r\n", "LF alone ends lines of a head (2.2), not of a chunked body"),
    (REFUSED, TAKEN, b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", "another major version is another syntax (2.3)"),
    (
        REFUSED,
        TAKEN,
        b"HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n",
        "a reason has no control characters (4)",
    ),
    (REFUSED, TAKEN, OK + b"A: \x01\r\nContent-Length: 0\r\n\r\n", "nor has a value (RFC 9110, 5.5)"),
    (
        REFUSED,
        TAKEN,
        CHUNKED + b"1;a=\x01\r\nx\r\n0\r\n\r\n",
        "nor has a chunk extension (7.1.1)",
    ),
    (
        REFUSED,
        TAKEN,
        CHUNKED + b"0" * 16 + b"1\r\nx\r\n0\r\n\r\n",
        "sixteen digits are 16 EiB; a recipient must guard against more (7.1)",
    ),
    (
        TAKEN,
        REFUSED,
        CHUNKED + b"1 ;a\r\nx\r\n0\r\n\r\n",
        "BWS before an extension must be taken (7.1.1)",
    ),
    (
        TAKEN,
        REFUSED,
        OK + b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
        "empty items of a list must be taken (RFC 9110, 5.6.1.2)",
    ),
    (
        TAKEN,
        REFUSED,
        OK + b"Transfer-Encoding:\r\nContent-Length: 3\r\n\r\nabc",
        "an empty list names no coding",
    ),
    (
        TAKEN,
        REFUSED,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nabc",
        "h11 has to be told of a proposed upgrade; what follows is the user's",
    ),
]


@pytest.mark.parametrize(("ours", "theirs", "raw", "why"), DISAGREEMENTS)
def test_judged_disagreement_with_h11(ours: str, theirs: str, raw: bytes, why: str) -> None:
    assert (TAKEN if isinstance(outcome([raw]), Parsed) else REFUSED) == ours, why
    assert (REFUSED if judge(raw) is None else TAKEN) == theirs
