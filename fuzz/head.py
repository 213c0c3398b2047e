"""The parser of responses: heads, 1xx, the three framings, trailers, content codings.

Input: a byte of flags, a byte from which the places to cut are taken, and what a server sends.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional, Union

from clientrequest._decoding import Decoder, make_decoder
from clientrequest._errors import ProtocolError, TransferError
from clientrequest._http1 import BodyFraming, HeadReader, ResponseHead, body_framing, keeps_alive
from fuzz.common import check_message, stretch, timed

METHODS = ("GET", "HEAD", "POST", "OPTIONS")
CODES = frozenset(
    {
        "ERR_EMPTY_RESPONSE",
        "ERR_INVALID_HTTP_RESPONSE",
        "ERR_RESPONSE_HEADERS_TOO_BIG",
        "ERR_RESPONSE_HEADERS_TRUNCATED",
        "ERR_RESPONSE_HEADERS_MULTIPLE_CONTENT_LENGTH",
        "ERR_INCOMPLETE_CHUNKED_ENCODING",
        "ERR_INVALID_CHUNKED_ENCODING",
        "ERR_CONTENT_LENGTH_MISMATCH",
        "ERR_CONTENT_DECODING_FAILED",
    }
)
MOST_DECODED = 1 << 20  # bytes that are taken out of a decoder
AT_ONCE = 4096  # and how many at once, at most
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
    ends_with_connection: bool
    reusable: bool


def parse(pieces: Iterable[bytes], method: str = "GET") -> Parsed:
    """What a connection that sends these pieces and then ends has said; raises what is wrong with it."""
    source = iter(pieces)
    reader = HeadReader()
    interim: list[tuple[int, Pairs]] = []
    head = _next_head(reader, source)
    while head.status < 200 and head.status != 101:
        interim.append((head.status, head.headers))
        head = _next_head(reader, source)
    framing = body_framing(head, method)
    body = _read_body(framing, reader.take_rest(), source)
    assert not framing.trailers or framing.complete
    return Parsed(
        interim,
        head.version,
        head.status,
        head.reason,
        head.headers,
        body,
        framing.trailers,
        framing.surplus,
        framing.ends_with_connection,
        keeps_alive(head),
    )


def _next_head(reader: HeadReader, source: Iterator[bytes]) -> ResponseHead:
    while True:
        head = reader.next_head()
        if head is not None:
            return head
        piece = next(source, b"")
        if not piece:
            raise reader.eof()
        reader.feed(piece)


def _read_body(framing: BodyFraming, rest: bytes, source: Iterator[bytes]) -> bytes:
    body: list[bytes] = []
    if rest:
        body += map(bytes, framing.feed(rest))
    while not (framing.complete and framing.surplus):
        piece = next(source, b"")
        if not piece:
            break
        parts = [bytes(part) for part in framing.feed(piece)]
        assert all(parts), "an empty piece of the body"
        body += parts
    if not framing.complete:
        framing.eof()
    assert framing.complete
    return b"".join(body)


def outcome(pieces: Iterable[bytes], method: str = "GET") -> Union[Parsed, str]:
    """The response, or the code of the error; whatever else is raised is a finding."""
    try:
        return parse(pieces, method)
    except (ProtocolError, TransferError) as error:
        check_message(error)
        return known(error.code)


def known(code: str) -> str:
    assert code in CODES, code
    return code


def cut(raw: bytes, seed: int) -> list[bytes]:
    """``raw`` in pieces: byte by byte for 0, else at some places."""
    if seed == 0:
        return [raw[index : index + 1] for index in range(len(raw))]
    places = random.Random(seed)
    edges = sorted({0, len(raw), *(places.randrange(len(raw) + 1) for _ in range(seed % 9 + 1))})
    return [raw[start:end] for start, end in zip(edges, edges[1:])]


def encode(parsed: Parsed) -> bytes:
    """The head of a parsed response, written anew."""
    lines = [f"HTTP/1.{parsed.version[1]} {parsed.status} {parsed.reason}"]
    lines += [f"{name}: {value}" for name, value in parsed.headers]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def decode(codings: list[str], pieces: Iterable[bytes]) -> Optional[Union[bytes, str]]:
    """The decoded body, or the code of the error; ``None`` where it is not decoded."""
    try:
        decoder = make_decoder(codings)
        return None if decoder is None else _decoded(decoder, pieces)
    except ProtocolError as error:
        return known(error.code)


def _decoded(decoder: Decoder, pieces: Iterable[bytes]) -> bytes:
    body = b""
    for piece in pieces:
        decoder.feed(piece)
        while len(body) < MOST_DECODED:
            part = decoder.read(AT_ONCE)
            assert len(part) <= AT_ONCE, "more than was asked for"
            if not part:
                break
            body += part
        else:
            return body[:MOST_DECODED]
    decoder.finish()
    return body


def check(data: bytes) -> None:
    if len(data) < 3:
        return
    flags, seed, raw = data[0], data[1], data[2:]
    method = METHODS[flags & 3]
    whole = outcome([raw], method)
    pieces = outcome(cut(raw, seed), method)
    # Of two mistakes either may be found first.
    assert whole == pieces or (isinstance(whole, str) and isinstance(pieces, str)), (whole, pieces)
    if isinstance(whole, str):
        return
    _check_response(whole, raw, method)
    codings = ResponseHead((1, 1), 200, "", whole.headers).tokens("content-encoding")
    if codings and whole.body:
        first, second = decode(codings, [whole.body]), decode(codings, cut(whole.body, seed))
        assert first == second or (first is not None and len(first) >= MOST_DECODED), "decoding depends on the cut"


def check_long(data: bytes) -> None:
    if len(data) < 3:
        return
    method, raw = METHODS[data[0] & 3], stretch(data[2:])
    timed(lambda: outcome([raw], method))
    timed(lambda: outcome(cut(raw, data[1] or 1), method))
    timed(lambda: [decode([coding], [raw]) for coding in ("gzip", "deflate", "br", "zstd")])


def _check_response(whole: Parsed, raw: bytes, method: str) -> None:
    assert len(whole.body) <= len(raw)
    again = outcome([encode(whole), b""], method)
    if isinstance(again, Parsed):
        assert (again.version, again.status, again.headers) == (whole.version, whole.status, whole.headers)
        assert again.reason == whole.reason
    else:
        assert again in ("ERR_CONTENT_LENGTH_MISMATCH", "ERR_INCOMPLETE_CHUNKED_ENCODING"), again
    if not whole.surplus and not whole.ends_with_connection:
        # What is cut short never passes for the whole.
        assert isinstance(outcome([raw[:-1]] if raw[:-1] else [], method), str), "cut, and yet taken"
    for text in (whole.reason, *(part for pair in [*whole.headers, *whole.trailers] for part in pair)):
        assert not set(text) & set("\r\n\0"), "a control character got through"
