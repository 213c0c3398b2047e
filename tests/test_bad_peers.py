"""Servers that send anything: the outcome is the whole, right response or one error with a code, and soon.

Hypothesis writes the answers: valid ones, valid ones with pieces of the grammar exchanged, with bytes damaged, and
noise. The parser alone is held against h11, which reads the same bytes on its own; every kind of disagreement has a
row in ``DIFFERENCES``, and one without a row fails the test. Then real requests read such answers from real sockets.

The examples are the same in each run. ``CLIENTREQUEST_EXAMPLES=50000`` makes a long run with new ones.
"""

from __future__ import annotations

import gzip
import itertools
import os
import re
import threading
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, TypeVar, Union

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clientrequest import ClientRequest, ClientRequestError, Session, Timeout
from clientrequest._http1 import MAX_CHUNK_LINE
from clientrequest._response import fold_headers
from fuzz.head import Pairs, Parsed, decode, outcome
from tests.support import LIMIT, Conn, Handler, Peer, Recorder

EXAMPLES = int(os.environ.get("CLIENTREQUEST_EXAMPLES", "0"))
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

T = TypeVar("T")


def thorough(examples: int, part: int = 1) -> settings:
    """So many examples, the same in each run; or a ``part`` of a long run, with new ones."""
    patient = [HealthCheck.too_slow]  # a machine may be busy
    if EXAMPLES:
        number = max(EXAMPLES // part, 1)
        return settings(max_examples=number, deadline=None, database=None, suppress_health_check=patient)
    return settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=patient, derandomize=True
    )


# ------------------------------------------------------------------------------
# Answers

# Of each kind the good one comes first, and is taken in nine of ten cases: most answers have a mistake or two.
LINE_ENDS = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b""]
VERSIONS = b"HTTP/1.1 HTTP/1.0 HTTP/1.2 HTTP/2.0 HTTP/11 http/1.1 ICY".split()
STATUSES = b"200 404 204 304 302 101 100 199 999 099 20 2000 +20".split()
REASONS = [b" OK", b"", b" ", b"  two", b" \xe9", b" O\x01K", b" O\x00K", b"\tOK", b" \x7f", b" O\x0bK"]
LENGTHS = [
    *(
        b"3",
        b"0",
        b"5",
        b"03",
        b" 3 ",
        b"3, 3",
        b"3,",
        b",3",
        b"3, 4",
        b"+3",
        b"-3",
        b"3.0",
        b"0x3",
        b"",
        b"3 3",
        b"3;a",
    ),
    *(b"3\xa0", b"\xa03,3", b"3\x0b", b"\xb3", b"9" * 19, b"9" * 20, b"9" * 30, b"18446744073709551619"),
]
CODINGS = [
    *(b"chunked", b"Chunked", b"chunked,", b",chunked", b"", b"gzip, chunked", b"chunked, chunked", b"identity"),
    *(b"\x0bchunked", b"chunked\xa0", b",chunked\xa0", b"chunked;a=b", b"xchunked", b"chunked, identity"),
]
LINES = [
    *(
        b"A: b",
        b"A:b",
        b"a:",
        b"B:  c\t ",
        b"C: \xe9\xa0",
        b"Connection: close",
        b"Connection: keep-alive",
        b": x",
        b"x",
    ),
    *(
        b" folded: x",
        b"\tx",
        b"A : b",
        b"A\t: b",
        b"A: b\x00",
        b"A: b\x01",
        b"A: \x7f",
        b"A\x00: b",
        b"A: b\rc",
        b"A: \x0c",
    ),
]
SIZES = [
    *(
        b"3",
        b"03",
        b"3 ",
        b"3;a",
        b"3;a=b",
        b'3;a="\\""',
        b"3 ;a",
        b"3;a\x01",
        b"3;a\rb",
        b" 3",
        b"+3",
        b"0x3",
        b"3\x0b",
    ),
    *(b"", b"4", b"2", b"g", b"3_", b"\xb3", b"3\xa0", b"-3", b"3,a", b"0" * 16 + b"3", b"0" * 1000 + b"3"),
    b"f" * 16,
]
LAST_SIZES = [b"0", b"000", b"0;a", b"0" * 17, b"0 ", b"", b"0 ;x"]
TRAILERS = [*LINES, b"Content-Length: x", b"Transfer-Encoding: gzip"]
TOKENS = [
    *(b"\r\n", b"\n", b"\r", b":", b" ", b"\t", b",", b";", b"0", b"\x00", b"\xa0", b"\r\n\r\n", b"chunked", OK),
    *(b"\xff\xfe", b"\x0b", b"3", b"A: b\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"),
]


class Answer(NamedTuple):
    """What a server sends, in pieces, and to which method."""

    raw: bytes
    pieces: list[bytes]
    method: str


class Writer:
    """Writes an answer; each byte that Hypothesis gives makes one decision, 0 the harmless one. That is fast."""

    def __init__(self, decisions: bytes) -> None:
        self._decisions = iter(decisions)

    def number(self, below: int) -> int:
        return next(self._decisions, 0) % below

    def one_of(self, values: Sequence[T]) -> T:
        return values[self.number(len(values))]

    def mostly(self, values: Sequence[T]) -> T:
        decision = next(self._decisions, 0)
        return values[0] if decision < 232 else values[decision % len(values)]

    def head(self, statuses: Sequence[bytes], framing: list[bytes]) -> bytes:
        raw = self.mostly(VERSIONS) + b" " + self.mostly(statuses) + self.mostly(REASONS) + self.mostly(LINE_ENDS)
        lines = [self.mostly(LINES) for _ in range(self.one_of([0, 1, 2]))]
        place = self.number(len(lines) + 1)
        for line in [*lines[:place], *framing, *lines[place:]]:
            raw += line + self.mostly(LINE_ENDS)
        return raw + self.mostly(LINE_ENDS)

    def grammatical(self) -> bytes:
        """An answer made of the pieces of the grammar, any of which may be a wrong one."""
        raw = b""
        for _ in range(self.one_of([0, 0, 0, 1, 2])):
            framing = [b"Content-Length: " + self.mostly(LENGTHS)] if self.number(4) == 3 else []
            raw += self.head([b"100", b"103", b"102", b"101"], framing)
        lengths, codings = self.one_of([(1, 0), (0, 1), (0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)])
        framing = [b"Content-Length: " + self.mostly(LENGTHS) for _ in range(lengths)]
        framing += [b"Transfer-Encoding: " + self.mostly(CODINGS) for _ in range(codings)]
        raw += self.head(STATUSES, framing)
        return raw + (self.chunks() if codings else self.one_of([b"abc", b"abc", b"ab", b"abcd", b""]))

    def chunks(self) -> bytes:
        raw = b""
        for _ in range(self.number(3)):
            raw += self.mostly(SIZES) + self.mostly(LINE_ENDS) + b"abc" + self.mostly(LINE_ENDS)
        raw += self.mostly(LAST_SIZES) + self.mostly(LINE_ENDS)
        for _ in range(self.one_of([0, 0, 1, 2])):
            raw += self.mostly(TRAILERS) + self.mostly(LINE_ENDS)
        return raw + self.mostly(LINE_ENDS) + self.mostly([b"", b"surplus", b"\r\n"])

    def damaged(self, raw: bytes) -> bytes:
        """Some bytes taken out, others put in."""
        place = self.number(256) * 256 + self.number(256)
        place %= len(raw) + 1
        put = self.one_of([*TOKENS, bytes([self.number(256)])])
        return raw[:place] + put + raw[place + self.one_of([0, 1, 2, 8]) :]

    def cut(self, raw: bytes) -> list[bytes]:
        """`raw` in pieces, cut at any places; sometimes byte by byte."""
        if self.number(8) == 7:
            return [raw[index : index + 1] for index in range(len(raw))]
        places = {self.number(256) * len(raw) // 256 for _ in range(self.number(6))}
        edges = sorted({0, len(raw), *places})
        return [raw[start:end] for start, end in zip(edges, edges[1:])]


def write_answer(decisions: bytes, noise: bytes) -> Answer:
    writer = Writer(decisions)
    kind = writer.number(10)
    method = writer.mostly(["GET", "HEAD", "POST", "OPTIONS"])
    raw = writer.grammatical()
    if kind == 9:
        raw = writer.one_of([b"", b"HTTP/1.1 ", OK, OK + b"\r\n", CHUNKED]) + noise
    if kind in (5, 6):
        raw = writer.damaged(raw)
    if kind == 6:
        raw = writer.damaged(raw)
    if kind in (7, 8):
        raw = raw[: writer.number(256) * len(raw) // 256]
    return Answer(raw, writer.cut(raw), method)


ANSWERS = st.builds(write_answer, st.binary(min_size=64, max_size=64), st.binary(max_size=40))


# ------------------------------------------------------------------------------
# The parser alone


@given(ANSWERS)
@thorough(400)
def test_any_answer_is_a_response_or_an_error_however_it_is_cut(answer: Answer) -> None:
    whole = outcome([answer.raw] if answer.raw else [], answer.method)  # which fails for any other exception
    pieces = outcome(answer.pieces, answer.method)
    if isinstance(whole, Parsed):
        assert pieces == whole
        assert len(whole.body) <= len(answer.raw)
    else:
        assert isinstance(pieces, str)  # of two mistakes either may be found first


@given(ANSWERS)
@thorough(400)
def test_an_answer_that_is_cut_short_never_passes_for_a_whole_one(answer: Answer) -> None:
    whole = outcome([answer.raw] if answer.raw else [], answer.method)
    if isinstance(whole, Parsed) and not whole.surplus and not whole.ends_with_connection:
        short = outcome([answer.raw[:-1]], answer.method)
        assert isinstance(short, str)


# ------------------------------------------------------------------------------
# h11 as a second opinion


def judge(raw: bytes, method: str = "GET") -> Optional[Parsed]:
    """What h11 reads; `None` if it refuses."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    if raw:
        connection.receive_data(b"")
    try:
        return _collect(connection)
    except h11.RemoteProtocolError:
        return None


def _collect(connection: h11.Connection) -> Parsed:
    interim: list[tuple[int, Pairs]] = []
    head: Any = None
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.InformationalResponse):
            interim.append((event.status_code, _pairs(event.headers)))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage), event
            break
    major, minor = bytes(head.http_version).split(b".")
    surplus = bool(connection.trailing_data[0])
    reason = bytes(head.reason).decode("latin-1")
    version = int(major), int(minor)
    trailers = _pairs(event.headers)
    return Parsed(
        interim, version, head.status_code, reason, _pairs(head.headers), body, trailers, surplus, False, False
    )


def _pairs(headers: Any) -> Pairs:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw_items()]


def gist(parsed: Optional[Union[Parsed, str]]) -> object:
    """What both have to agree on: not the lines of lengths, of which h11 keeps one, nor what h11 does not tell."""
    if not isinstance(parsed, Parsed):
        return "refused"
    interim = [(status, _without_lengths(headers)) for status, headers in parsed.interim]
    headers = _without_lengths(parsed.headers)
    return parsed._replace(interim=interim, headers=headers, ends_with_connection=False, reusable=False)


def _without_lengths(headers: Pairs) -> Pairs:
    headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
    return [(name, value.lower() if name.lower() == "transfer-encoding" else value) for name, value in headers]


REFUSED, TAKEN = "refused", "taken"


class Difference(NamedTuple):
    """A kind of answers about which we and h11 differ, and why we do what we do.

    ``sign`` is a pattern that is found in all answers of this kind, ``example`` is one of them.
    """

    name: str
    ours: str
    theirs: str
    sign: bytes
    example: bytes
    why: str


DIFFERENCES = [
    Difference(
        "a folded line",
        REFUSED,
        TAKEN,
        rb"\n[ \t]",
        OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        "RFC 9112, 5.2: obs-fold has to be replaced or refused; servers that send it are rare, and filters have been "
        "fooled by it",
    ),
    Difference(
        "control characters in a head or in trailers",
        REFUSED,
        TAKEN,
        rb"[\x01-\x08\x0e-\x1f\x7f]",
        OK + b"A: \x01\r\nContent-Length: 0\r\n\r\n",
        "RFC 9110, 5.5, and RFC 9112, 4: neither a field value nor a reason may have any but tab",
    ),
    Difference(
        "control characters in a chunk extension",
        REFUSED,
        TAKEN,
        rb"[0-9A-Fa-f]+;[^\n]*[\x00-\x08\x0b-\x1f\x7f][^\n]*\r\n",
        CHUNKED + b"1;a\x00\r\nx\r\n0\r\n\r\n",
        "RFC 9112, 7.1.1: an extension is made of tokens and quoted strings; a bare CR there hides a line from others",
    ),
    Difference(
        "length and chunked together",
        REFUSED,
        TAKEN,
        rb"(?is)(?=.*content-length:).*transfer-encoding:",
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "RFC 9112, 6.3: might be an attempt at response splitting, and ought to be handled as an error; so says the "
        "contract",
    ),
    Difference(
        "another major version",
        REFUSED,
        TAKEN,
        rb"(?:^|\n)HTTP/[02-9]\.[0-9] ",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "RFC 9110, 2.5: another major version is another syntax",
    ),
    Difference(
        "LF alone in the lines of a chunked body",
        REFUSED,
        TAKEN,
        rb"(?is)chunked.*\n\r?\n.*[^\r]\n",
        CHUNKED + b"0\r\nA: b\n\r\n",
        "RFC 9112, 2.2 lets LF alone end the lines of a head; 7.1 has no such leave, and this is where attacks begin",
    ),
    Difference(
        "more than sixteen digits of a chunk size",
        REFUSED,
        TAKEN,
        rb"\n[0-9A-Fa-f]{17,20}[;\r \t]",
        CHUNKED + b"0" * 16 + b"1\r\nx\r\n0\r\n\r\n",
        "RFC 9112, 7.1: recipients have to guard against overflow; sixteen digits are 16 EiB",
    ),
    Difference(
        "a length of more than nineteen digits",
        REFUSED,
        TAKEN,
        rb"(?i)content-length:[^\n]*[0-9]{20,}",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 18446744073709551616\r\n\r\n",
        "RFC 9110, 8.6: recipients have to guard against overflow; it is refused where there is no body, too",
    ),
    Difference(
        "a header of an interim answer, or a trailer, that would frame a body",
        TAKEN,
        REFUSED,
        rb"(?is)(?:HTTP/1\.[0-9] 1[0-9][0-9].*|chunked.*\n\r?\n.*)(?:content-length|transfer-encoding):",
        b"HTTP/1.1 103 x\r\nContent-Length: x\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
        "RFC 9112, 6.3, and RFC 9110, 6.5.1: neither frames anything, so nothing has to be understood; they are kept "
        "apart from the headers of the response",
    ),
    Difference(
        "white space before a chunk extension",
        TAKEN,
        REFUSED,
        rb"\n[0-9A-Fa-f]+[ \t]+;",
        CHUNKED + b"1 ;a\r\nx\r\n0\r\n\r\n",
        "RFC 9112, 7.1.1: BWS has to be taken",
    ),
    Difference(
        "empty items in Transfer-Encoding",
        TAKEN,
        REFUSED,
        rb"(?i)transfer-encoding:[ \t]*(?:,|\r?\n|chunked[ \t]*,)",
        OK + b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
        "RFC 9110, 5.6.1.2: empty items of a list have to be taken",
    ),
    Difference(
        "101",
        TAKEN,
        REFUSED,
        rb"HTTP/1\.[0-9] 101",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nabc",
        "RFC 9110, 15.2.2: h11 has to be told of a proposed upgrade; here it is a response, and what follows is the "
        "user's",
    ),
]


def explain(raw: bytes, ours: object, theirs: object) -> Optional[str]:
    """The kind of disagreement that this is, ``None`` for one that is not known."""
    for difference in DIFFERENCES:
        sides = (REFUSED if ours == "refused" else TAKEN, REFUSED if theirs == "refused" else TAKEN)
        if sides == (difference.ours, difference.theirs) and re.search(difference.sign, raw):
            return difference.name
    return None


@given(ANSWERS)
@thorough(600)
def test_h11_agrees_or_the_difference_is_judged(answer: Answer) -> None:
    ours = gist(outcome([answer.raw] if answer.raw else [], answer.method))
    theirs = gist(judge(answer.raw, answer.method))
    if ours != theirs:
        assert explain(answer.raw, ours, theirs) is not None, (answer.raw, answer.method, ours, theirs)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_judged_difference(difference: Difference) -> None:
    """The table is true: each row is a difference still, and no other row is needed for it."""
    ours, theirs = gist(outcome([difference.example])), gist(judge(difference.example))
    assert (REFUSED if ours == "refused" else TAKEN) == difference.ours, difference.why
    assert (REFUSED if theirs == "refused" else TAKEN) == difference.theirs
    assert re.search(difference.sign, difference.example)
    assert explain(difference.example, ours, theirs) == difference.name


# ------------------------------------------------------------------------------
# Real requests, real sockets


class Show(NamedTuple):
    """What the server does, and how the answer is taken."""

    answer: Answer
    ending: str
    face: str
    decode: bool


CODED = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"


def write_show(decisions: bytes, noise: bytes) -> Show:
    """The first bytes are for the show, the rest for the answer."""
    writer = Writer(decisions[:6])
    answer = write_answer(decisions[6:], noise)
    coded = gzip.compress(b"abc" * 9, mtime=0)
    if writer.number(8) == 7:
        coded = Writer(decisions[6:]).damaged(coded) if writer.number(2) else coded
        raw = CODED % len(coded) + coded
        answer = Answer(raw, writer.cut(raw), "GET")
    face = writer.one_of(["read", "events", "chunks", "wait"])
    return Show(answer, writer.mostly(["close", "reset"]), face, writer.number(2) == 0)


class Stage:
    """A server that plays the answers that it is told to, each for a path of its own."""

    def __init__(self) -> None:
        self.shows: dict[str, Show] = {}
        self._numbers = itertools.count()

    def add(self, show: Show) -> str:
        path = f"/{next(self._numbers)}"
        self.shows[path] = show
        return path

    def __call__(self, conn: Conn) -> None:
        show = self.shows[conn.read_request().target]
        for piece in show.answer.pieces:
            conn.send(piece)  # each on its way at once: no delay, and no waiting for more
        if show.ending == "reset":
            conn.reset()


class Seen(NamedTuple):
    """What came of it."""

    response: Any
    body: bytes
    errors: list[BaseException]


def see(request: ClientRequest, face: str) -> Seen:
    """Take the response in one of the ways in which it can be taken."""
    if face == "events":
        recorder = Recorder(request, consume=True)
        request.end()
        recorder.wait("close")
        recorder.check_grammar()
        errors = [event.args[0] for source in ("request", "response") for event in recorder.find("error", source)]
        return Seen(recorder.response, bytes(recorder.body), errors)
    body = bytearray()
    response = None
    try:
        response = request.end().get_response(LIMIT)
        if face == "read":
            body += response.read()
        elif face == "chunks":
            for piece in response.iter_chunks(2):
                body += piece
        else:
            body += response.read(1) + response.read1()
            body += response.read()
        assert request.wait(LIMIT)
    except ClientRequestError as error:
        return Seen(response, bytes(body), [error])
    return Seen(response, bytes(body), [])


def expected(show: Show) -> Union[Parsed, str]:
    """What the parser alone makes of it; that is held against h11 above."""
    parsed = outcome([show.answer.raw] if show.answer.raw else [], show.answer.method)
    if isinstance(parsed, str) or not show.decode:
        return parsed
    codings = [value.lower() for name, value in parsed.headers if name.lower() == "content-encoding"]
    body = decode(codings, [parsed.body])
    return body if isinstance(body, str) else parsed if body is None else parsed._replace(body=body)


def check_show(session: Session, peer: Peer, stage: Stage, show: Show) -> None:
    began = time.monotonic()
    url = peer.url(stage.add(show))
    request = session.request(
        url, method=show.answer.method, redirect="manual", decode=show.decode, timeout=Timeout(total=LIMIT)
    )
    seen, right = see(request, show.face), expected(show)
    assert time.monotonic() - began < LIMIT
    if seen.errors:
        with pytest.raises(ClientRequestError) as again:
            request.wait(LIMIT)
        assert again.value is seen.errors[0]
    if seen.errors:
        (error,) = seen.errors
        assert isinstance(error, ClientRequestError)
        assert error.code.startswith("ERR_")
        assert error.code != "ERR_TIMED_OUT"
        assert show.ending == "reset" or isinstance(right, str), (right, error)
        assert seen.response is None or not seen.response.complete
    else:
        assert isinstance(right, Parsed), right
        assert show.ending != "reset" or not right.ends_with_connection, "a reset passed for the end"
        response = seen.response
        assert response.complete
        assert (response.status_code, response.status_message) == (right.status, right.reason)
        assert (response.http_version_major, response.http_version_minor) == right.version
        assert response.raw_headers == [text for line in right.headers for text in line]
        assert response.trailers == fold_headers(right.trailers)
        assert seen.body == right.body


def test_any_answer_over_a_socket_is_a_response_or_one_error() -> None:
    stage = Stage()
    with Session() as session, Peer(stage, expect_errors=False) as peer:

        @given(st.builds(write_show, st.binary(min_size=70, max_size=70), st.binary(max_size=40)))
        @thorough(120, part=10)
        def run(show: Show) -> None:
            check_show(session, peer, stage, show)

        run()


# ------------------------------------------------------------------------------
# Answers without an end


def pour(start: bytes, unit: bytes) -> Handler:
    """A server that says `start`, and then `unit` again and again, as fast as it goes, until the client leaves."""

    def serve(conn: Conn) -> None:
        conn.read_request()
        conn.send(start)
        while True:
            conn.send(unit)

    return serve


def drip(start: bytes, unit: bytes) -> Handler:
    """The same, a byte now and then."""

    def serve(conn: Conn) -> None:
        conn.read_request()
        conn.send(start)
        pause = threading.Event()
        for byte in itertools.cycle(unit):
            pause.wait(0.005)
            conn.send(bytes([byte]))

    return serve


def fate(serve: Handler, timeout: Timeout) -> tuple[str, int]:
    """The code of the error, and the most memory that Python had to have meanwhile."""
    with Session() as session, Peer(serve) as peer:
        request = session.request(peer.url(), timeout=timeout)
        tracemalloc.start()
        try:
            with pytest.raises(ClientRequestError) as caught:
                for _ in request.end().get_response(LIMIT).iter_chunks():
                    pass
            return caught.value.code, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


TOO_BIG, BAD_CHUNK = "ERR_RESPONSE_HEADERS_TOO_BIG", "ERR_INVALID_CHUNKED_ENCODING"
LITTLE = 8 * 1024 * 1024
"""Bytes: some times what is read at once; in chunks of one byte each that is 43,000 objects, which take 6 MB."""
ENDLESS = {
    "reason": (b"HTTP/1.1 200 ", b"x" * 65536, TOO_BIG),
    "header lines": (OK, b"A: b\r\n" * 1000, TOO_BIG),
    "header line": (OK + b"A: ", b"x" * 65536, TOO_BIG),
    "interim answers": (b"", b"HTTP/1.1 103 x\r\n\r\n" * 1000, "ERR_INVALID_HTTP_RESPONSE"),
    "header lines of an interim answer": (b"HTTP/1.1 103 x\r\n", b"A: b\r\n" * 1000, TOO_BIG),
    "chunk extension": (CHUNKED + b"1;", b"x" * 65536, BAD_CHUNK),
    "zeros of a chunk size": (CHUNKED, b"0" * 1000, BAD_CHUNK),
    "trailers": (CHUNKED + b"0\r\n", b"A: b\r\n" * 1000, TOO_BIG),
    "trailer": (CHUNKED + b"0\r\nA: ", b"x" * 65536, BAD_CHUNK),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_to_end_is_given_up_when_it_does_not(name: str) -> None:
    start, unit, expected_code = ENDLESS[name]
    code, peak = fate(pour(start, unit), Timeout())
    assert code == expected_code
    assert peak < LITTLE


GZIPPED = OK + b"Content-Encoding: gzip\r\n\r\n"
BODIES = {
    "chunk extensions": (CHUNKED, (b"1;" + b"x" * (MAX_CHUNK_LINE - 10) + b"\r\na\r\n") * 16),
    "chunks of a byte": (CHUNKED, b"1\r\na\r\n" * 1000),
    "body": (OK + b"\r\n", b"x" * 65536),
    "empty gzip members": (GZIPPED, gzip.compress(b"", mtime=0) * 1000),
    "a bomb": (GZIPPED, gzip.compress(bytes(1 << 20), mtime=0) * 20),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_without_end_is_bounded_by_the_total_timeout_and_in_memory(name: str) -> None:
    code, peak = fate(pour(*BODIES[name]), Timeout(total=0.3))
    assert code == "ERR_TIMED_OUT"
    assert peak < LITTLE


DRIPS = {
    "head": (b"", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000),
    "interim answers": (b"", b"HTTP/1.1 103 x\r\n\r\n"),
    "chunk extension": (CHUNKED + b"1;", b"x"),
    "chunks": (CHUNKED, b"1\r\na\r\n"),
    "trailers": (CHUNKED + b"0\r\n", b"A: b\r\n"),
    "gzip": (GZIPPED, gzip.compress(b"", mtime=0)),
}


@pytest.mark.parametrize("name", DRIPS)
def test_a_byte_at_a_time_is_bounded_by_the_total_timeout(name: str) -> None:
    """It is no silence, and so the timeout of reading does not bound it."""
    assert fate(drip(*DRIPS[name]), Timeout(read=0.25, total=0.3))[0] == "ERR_TIMED_OUT"
