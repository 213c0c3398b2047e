"""The response as an emitter: data as it comes, pausing, text, pipes, progress; and never both faces at once."""

from __future__ import annotations

import gzip
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from clientrequest import AbortedError, ClientRequest, IncomingMessage, InvalidStateError, ListenerError, Session
from clientrequest._incoming import READ_AHEAD
from tests.support import (
    LIMIT,
    Conn,
    Gate,
    Handler,
    Peer,
    PeerTimeout,
    Recorder,
    echo_json,
    scripted,
)

Serve = Callable[..., Peer]

SHORT = 0.05
"""For waits that have to run out."""

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
UNBOUNDED = OK + b"\r\n"

MUCH = bytes(48 * 1024 * 1024)
"""More than the kernel's buffers hold."""


def sized(length: int) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n" % length


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Consumer:
    """A request whose response is taken by events, all of them recorded."""

    def __init__(self, request: ClientRequest, *, consume: bool = True, skip: tuple[str, ...] = ()) -> None:
        self.request = request
        self.recorder = Recorder(request, consume=consume, skip=skip)
        request.end()

    @property
    def response(self) -> IncomingMessage:
        self.recorder.wait("response")
        response: IncomingMessage = self.recorder.response
        return response

    def pieces(self) -> list[Any]:
        return [event.args[0] for event in self.recorder.find("data", "response")]

    def finish(self) -> None:
        self.recorder.wait("close")
        self.recorder.check_grammar()


# --- data as it comes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "frame", "last"),
    [(sized(9), bytes, b""), (CHUNKED, chunk, b"0\r\n\r\n"), (UNBOUNDED, bytes, b"")],
    ids=["length", "chunked", "close"],
)
def test_data_comes_piece_by_piece(
    serve: Serve, session: Session, head: bytes, frame: Callable[[bytes], bytes], last: bytes
) -> None:
    gates = [Gate(), Gate(), Gate()]
    peer = serve(
        scripted(head, frame(b"one"), gates[0], frame(b"two"), gates[1], frame(b"six"), gates[2], last, Conn.close)
    )
    consumer = Consumer(session.request(peer.url("/")))
    for number, gate in enumerate(gates, 1):
        consumer.recorder.wait("data", "response", count=number)  # before the rest is even sent
        gate.set()
    consumer.finish()
    assert consumer.pieces() == [b"one", b"two", b"six"]


def test_gzip_comes_piece_by_piece(serve: Serve, session: Session) -> None:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="w") as file:
        file.write(b"first")
        file.flush()
        half = len(packed.getvalue())
        file.write(b"second")
    rest = Gate()
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed.getvalue())
    peer = serve(scripted(head + packed.getvalue()[:half], rest, packed.getvalue()[half:]))
    consumer = Consumer(session.request(peer.url("/")))
    assert consumer.recorder.wait("data", "response").args == (b"first",)
    rest.set()
    consumer.finish()
    assert consumer.recorder.body == b"firstsecond"


def test_order_of_events(serve: Serve, session: Session) -> None:
    consumer = Consumer(session.request(serve(scripted(sized(2) + b"ok")).url("/")))
    consumer.finish()
    expected = ["finish", "response", "response.data", "response.end", "response.close", "close"]
    assert consumer.recorder.outline() == expected


def test_an_empty_body_has_an_end_and_no_data(serve: Serve, session: Session) -> None:
    consumer = Consumer(session.request(serve(scripted(sized(0))).url("/")))
    consumer.finish()
    assert consumer.recorder.outline() == ["finish", "response", "response.end", "response.close", "close"]


def test_a_large_body_comes_whole(serve: Serve, session: Session) -> None:
    consumer = Consumer(session.request(serve(scripted(sized(len(MUCH)), MUCH)).url("/")))
    consumer.finish()
    assert len(consumer.recorder.body) == len(MUCH)


def test_the_connection_is_back_before_end_is_told(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    seen: list[Any] = []

    def ask_again(response: IncomingMessage) -> None:
        response.on("data", lambda data: None)
        response.on("end", lambda: seen.append(session.request(peer.url("/")).end().get_response(LIMIT).json()))

    assert session.request(peer.url("/"), ask_again).end().wait(LIMIT)
    assert seen[0]["connection"] == 1


# --- pausing --------------------------------------------------------------------------------------------------------


def test_a_response_is_paused_until_it_has_a_data_listener(serve: Serve, session: Session) -> None:
    consumer = Consumer(session.request(serve(scripted(sized(2) + b"ok")).url("/")), consume=False)
    response = consumer.response
    assert response.is_paused()
    assert not consumer.request.wait(SHORT)
    pieces: list[bytes] = []
    response.on("data", pieces.append)
    assert not response.is_paused()
    consumer.finish()
    assert pieces == [b"ok"]


def test_pause_stops_data_until_resume(serve: Serve, session: Session) -> None:
    more = Gate()
    request = session.request(serve(scripted(sized(4) + b"ab", more, b"cd")).url("/"))
    request.on("response", lambda response: response.on("data", lambda data: response.pause()))
    consumer = Consumer(request)
    consumer.recorder.wait("data", "response")
    more.set()
    assert not request.wait(SHORT)
    assert consumer.pieces() == [b"ab"]
    assert consumer.response.is_paused()
    consumer.response.resume()
    consumer.recorder.wait("data", "response", count=2)
    consumer.response.resume()
    consumer.finish()
    assert consumer.pieces() == [b"ab", b"cd"]


def test_the_end_waits_for_resume_too(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(sized(2) + b"ok")).url("/"))
    request.on("response", lambda response: response.on("data", lambda data: response.pause()))
    consumer = Consumer(request)
    consumer.recorder.wait("data", "response")
    assert not request.wait(SHORT)
    assert not consumer.recorder.find("end", "response")
    consumer.response.resume()
    consumer.finish()
    assert consumer.recorder.find("end", "response")


def test_a_listener_does_not_wake_what_was_paused_by_hand(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(sized(2) + b"ok")).url("/"), lambda response: response.pause())
    consumer = Consumer(request)
    assert not request.wait(SHORT)
    assert consumer.pieces() == []
    consumer.response.resume()
    consumer.finish()
    assert consumer.pieces() == [b"ok"]


def test_pause_and_resume_give_the_response(serve: Serve, session: Session) -> None:
    response = session.request(serve(scripted(sized(READ_AHEAD * 2), MUCH[: READ_AHEAD * 2])).url("/")).end()
    message = response.get_response(LIMIT)
    assert message.pause() is message
    assert message.resume() is message
    assert response.wait(LIMIT)


class Flood:
    """A handler that sends until the client takes no more."""

    def __init__(self, head: bytes, rest: Handler) -> None:
        self.stuck = Gate("the client takes no more")
        self._head = head
        self._rest = rest

    def __call__(self, conn: Conn) -> None:
        conn.read_request()
        conn.send(self._head)
        with pytest.raises(PeerTimeout):
            conn.send(MUCH)
        self.stuck.set()
        self._rest(conn)


def pause_at_once(response: IncomingMessage) -> None:
    response.on("data", lambda data: response.pause())


@pytest.mark.parametrize("listen", [lambda response: None, pause_at_once], ids=["never resumed", "paused"])
def test_at_most_64_kib_are_read_ahead(serve: Serve, session: Session, listen: Callable[..., None]) -> None:
    flood = Flood(UNBOUNDED, Conn.hold)
    request = session.request(serve(flood, limit=0.3).url("/"), listen)
    consumer = Consumer(request, consume=False)
    response = consumer.response
    flood.stuck.wait()
    assert response._incoming.buffered == READ_AHEAD
    request.abort()


def test_a_listener_that_takes_its_time_holds_the_server_back(serve: Serve, session: Session) -> None:
    flood, go_on = Flood(UNBOUNDED, Conn.hold), Gate()
    request = session.request(serve(flood, limit=0.3).url("/"))
    request.on("response", lambda response: response.on("data", lambda data: go_on.wait()))
    consumer = Consumer(request)
    flood.stuck.wait()
    received = consumer.response._incoming.received
    request.abort()
    go_on.set()
    consumer.finish()
    assert received < len(MUCH)


# --- text -----------------------------------------------------------------------------------------------------------


def texts(serve: Serve, session: Session, encoding: str, *steps: bytes | Gate) -> list[Any]:
    """The data of a response in an encoding; the last gate is opened once the first piece is here."""
    request = session.request(serve(scripted(UNBOUNDED, *steps)).url("/"))
    request.on("response", lambda response: response.set_encoding(encoding))
    consumer = Consumer(request)
    for step in steps:
        if isinstance(step, Gate):
            consumer.recorder.wait("data", "response")
            step.set()
    consumer.finish()
    return consumer.pieces()


@pytest.mark.parametrize(
    ("encoding", "first", "second", "text"),
    [
        ("utf-8", b"Gr\xc3", b"\xbc\xc3\x9fe", "Grüße"),
        ("utf-8", b"a\xf0\x9f", b"\x98\x80", "a\N{GRINNING FACE}"),
        ("utf-16-le", b"a\x00b", b"\x00", "ab"),
        ("shift_jis", b"a\x83", b"\x65", "a\N{KATAKANA LETTER TE}"),
    ],
)
def test_characters_are_never_cut_in_two(
    serve: Serve, session: Session, encoding: str, first: bytes, second: bytes, text: str
) -> None:
    pieces = texts(serve, session, encoding, first, Gate(), second)
    assert pieces == [text[: len(pieces[0])], text[len(pieces[0]) :]]
    assert len(pieces[0]) > 0


def test_half_a_character_alone_is_no_data(serve: Serve, session: Session) -> None:
    half = Gate()
    request = session.request(serve(scripted(UNBOUNDED + b"\xc3", half, b"\xbc")).url("/"))
    request.on("response", lambda response: response.set_encoding("utf-8"))
    consumer = Consumer(request)
    assert not request.wait(SHORT)
    half.set()
    consumer.finish()
    assert consumer.pieces() == ["ü"]


def test_half_a_character_at_the_end_is_replaced(serve: Serve, session: Session) -> None:
    assert "".join(texts(serve, session, "utf-8", b"a\xc3")) == "a\N{REPLACEMENT CHARACTER}"


def test_what_is_no_text_is_replaced(serve: Serve, session: Session) -> None:
    assert "".join(texts(serve, session, "ascii", b"a\xffb")) == "a\N{REPLACEMENT CHARACTER}b"


def test_an_unknown_encoding_is_refused(serve: Serve, session: Session) -> None:
    response = session.request(serve(scripted(sized(0))).url("/")).end().get_response(LIMIT)
    with pytest.raises(LookupError, match="no-such"):
        response.set_encoding("no-such")


def test_no_encoding_gives_bytes_again(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(UNBOUNDED + b"ok")).url("/"))
    request.on("response", lambda response: response.set_encoding("utf-8").set_encoding(None))
    consumer = Consumer(request)
    consumer.finish()
    assert consumer.pieces() == [b"ok"]


# --- pipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_outside", [False, True])
def test_close_ends_the_flow(serve: Serve, session: Session, from_outside: bool) -> None:
    """The rest is thrown away: no more data, no end, and the connection is not kept."""
    gone = Gate()

    def pour(conn: Conn) -> None:
        conn.read_request()
        conn.send(UNBOUNDED)
        try:
            while True:
                conn.send(bytes(1024))
        except ConnectionError:
            gone.set()

    request = session.request(serve(pour).url())
    recorder = Recorder(request)
    flowing = Gate()

    def listen(response: IncomingMessage) -> None:
        def take(data: bytes) -> None:
            assert not response.closed or from_outside
            flowing.set()
            if not from_outside:
                response.close()

        response.on("data", take)

    request.on("response", listen)
    request.end()
    flowing.wait()
    if from_outside:
        recorder.response.close()
    recorder.wait("close")
    gone.wait()
    assert recorder.outline()[-2:] == ["response.close", "close"]
    assert not {"error", "response.error", "response.end"} & set(recorder.names())


def test_pipe_to_a_file_leaves_it_open(serve: Serve, session: Session, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    with path.open("wb") as file:
        request = session.request(serve(scripted(sized(10) + b"0123456789")).url("/"), lambda r: r.pipe(file))
        assert request.end().wait(LIMIT)
        assert not file.closed
    assert path.read_bytes() == b"0123456789"


def test_pipe_gives_what_it_writes_to(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(sized(READ_AHEAD * 4), MUCH[: READ_AHEAD * 4])).url("/")).end()
    target = request.get_response(LIMIT).pipe(io.BytesIO())
    assert request.wait(LIMIT)
    assert len(target.getvalue()) == READ_AHEAD * 4


def test_pipe_to_another_request_ends_it(serve: Serve, session: Session) -> None:
    peer = serve(echo_json)
    target = session.request(peer.url("/"), method="PUT", chunked_encoding=True)
    source = session.request(serve(scripted(sized(len(MUCH)), MUCH)).url("/"), lambda r: r.pipe(target))
    source.end()
    assert target.get_response(LIMIT).json()["length"] == len(MUCH)
    assert source.wait(LIMIT)


def test_pipe_of_an_empty_body_ends_the_other_request(serve: Serve, session: Session) -> None:
    target = session.request(serve(echo_json).url("/"), method="PUT")
    source = session.request(serve(scripted(sized(0))).url("/"), lambda r: r.pipe(target))
    source.end()
    assert target.get_response(LIMIT).json()["length"] == 0


def test_pipe_may_leave_the_other_request_open(serve: Serve, session: Session) -> None:
    target = session.request(serve(echo_json).url("/"), method="PUT")
    source = session.request(serve(scripted(sized(2) + b"ok")).url("/"), lambda r: r.pipe(target, end=False))
    assert source.end().wait(LIMIT)
    assert not target.writable_ended
    assert target.end(b"!").get_response(LIMIT).json()["length"] == 3


def broken_off(request: ClientRequest, gate: Gate) -> None:
    gate.set()


def aborted(request: ClientRequest, gate: Gate) -> None:
    request.abort()


@pytest.mark.parametrize("stop", [broken_off, aborted])
def test_half_a_body_aborts_the_request_that_it_is_piped_to(
    serve: Serve, session: Session, stop: Callable[[ClientRequest, Gate], None]
) -> None:
    rest, taken = Gate(), Gate()
    upload = serve(scripted(Conn.hold, body=True))
    target = session.request(upload.url("/"), method="PUT", chunked_encoding=True)
    source = session.request(serve(scripted(sized(10) + b"half", rest)).url("/"))
    source.on("response", lambda r: (r.pipe(target), r.on("data", lambda data: taken.set())))
    recorder = Recorder(source, skip=["response.data"])
    source.end()
    taken.wait()
    head = upload.wait_request()
    stop(source, rest)
    recorder.wait("close")
    with pytest.raises(AbortedError):
        target.wait(LIMIT)
    upload.join()
    assert not head.complete


def test_pipe_needs_something_to_write_to(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(sized(READ_AHEAD * 4), MUCH[: READ_AHEAD * 4])).url("/")).end()
    response = request.get_response(LIMIT)
    with pytest.raises(TypeError, match=r"object has no write\(\)"):
        response.pipe(object())
    assert len(response.read()) == READ_AHEAD * 4  # and no face was chosen


def test_a_pipe_that_cannot_write_fails_the_request(serve: Serve, session: Session, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (tmp_path / "file").open("rb") as file:
        request = session.request(serve(scripted(sized(2) + b"ok")).url("/"), lambda r: r.pipe(file))
        with pytest.raises(ListenerError) as caught:
            request.end().wait(LIMIT)
    assert isinstance(caught.value.__cause__, io.UnsupportedOperation)


# --- listeners that come late, or go --------------------------------------------------------------------------------


def test_a_data_listener_from_another_thread_gets_the_whole_body(serve: Serve, session: Session) -> None:
    body = MUCH[: READ_AHEAD * 4]
    request = session.request(serve(scripted(sized(len(body)), body)).url("/")).end()
    response = request.get_response(LIMIT)
    size = 0
    threads: set[int] = set()

    @response.on("data")
    def count(data: bytes) -> None:
        nonlocal size
        size += len(data)
        threads.add(threading.get_ident())

    assert request.wait(LIMIT)
    assert size == len(body)
    assert threading.get_ident() not in threads


def test_a_second_data_listener_gets_what_comes_from_then_on(serve: Serve, session: Session) -> None:
    more = Gate()
    consumer = Consumer(session.request(serve(scripted(sized(4) + b"ab", more, b"cd")).url("/")))
    consumer.recorder.wait("data", "response")
    late: list[bytes] = []
    consumer.response.on("data", late.append)
    more.set()
    consumer.finish()
    assert consumer.pieces() == [b"ab", b"cd"]
    assert late == [b"cd"]


def test_once_takes_one_piece_and_the_rest_flows_away(serve: Serve, session: Session) -> None:
    more, pieces = Gate(), []
    request = session.request(serve(scripted(sized(4) + b"ab", more, b"cd")).url("/"))
    request.on("response", lambda r: r.once("data", lambda data: (pieces.append(data), more.set())))
    consumer = Consumer(request, consume=False)
    consumer.finish()
    assert pieces == [b"ab"]
    assert consumer.recorder.find("end", "response")


def test_resume_without_a_listener_throws_the_body_away(serve: Serve, session: Session) -> None:
    def twice(conn: Conn) -> None:
        conn.read_request()
        conn.respond(body=MUCH)
        echo_json(conn)

    peer = serve(twice)
    consumer = Consumer(session.request(peer.url("/"), lambda response: response.resume()), consume=False)
    consumer.finish()
    assert consumer.recorder.outline() == ["finish", "response", "response.end", "response.close", "close"]
    assert session.request(peer.url("/")).end().get_response(LIMIT).json()["connection"] == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda response: response.on("data", print),
        lambda response: response.once("data", print),
        lambda response: response.resume(),
        lambda response: response.pipe(io.BytesIO()),
    ],
    ids=["on", "once", "resume", "pipe"],
)
def test_events_can_no_longer_be_had_after_close(serve: Serve, session: Session, use: Callable[..., object]) -> None:
    request = session.request(serve(scripted(sized(2) + b"ok")).url("/")).end()
    assert request.wait(LIMIT)
    response = request.get_response(0)
    with pytest.raises(InvalidStateError, match="is here already"):
        use(response)
    assert response.read() == b"ok"


def test_resume_after_the_end_does_nothing(serve: Serve, session: Session) -> None:
    consumer = Consumer(session.request(serve(scripted(sized(2) + b"ok")).url("/")))
    consumer.finish()
    consumer.response.resume()
    assert consumer.pieces() == [b"ok"]


# --- one face -------------------------------------------------------------------------------------------------------

EVENT_FACE: dict[str, Callable[[IncomingMessage], object]] = {
    "on": lambda response: response.on("data", lambda data: None),
    "once": lambda response: response.once("data", lambda data: None),
    "resume": lambda response: response.resume(),
    "pipe": lambda response: response.pipe(io.BytesIO()),
}
FILE_FACE: dict[str, Callable[[IncomingMessage], object]] = {
    "read": lambda response: response.read(),
    "read(n)": lambda response: response.read(1),
    "read1": lambda response: response.read1(),
    "readinto": lambda response: response.readinto(bytearray(1)),
    "readinto1": lambda response: response.readinto1(bytearray(1)),
    "readline": lambda response: response.readline(),
    "readlines": lambda response: response.readlines(),
    "next": lambda response: next(iter(response)),
    "iter_chunks": lambda response: next(response.iter_chunks()),
    "text": lambda response: response.text(),
    "json": lambda response: response.json(),
}


@pytest.fixture
def waiting(session: Session) -> Iterator[IncomingMessage]:
    """A response whose body is still on its way."""
    with Peer(scripted(sized(10) + b"abc", Conn.hold)) as peer:
        request = session.request(peer.url("/")).end()
        yield request.get_response(LIMIT)
        request.abort()


@pytest.mark.parametrize("read", FILE_FACE)
@pytest.mark.parametrize("listen", EVENT_FACE)
def test_what_is_taken_by_events_cannot_be_read(waiting: IncomingMessage, listen: str, read: str) -> None:
    EVENT_FACE[listen](waiting)
    with pytest.raises(InvalidStateError, match="taken by events already"):
        FILE_FACE[read](waiting)


@pytest.mark.parametrize("listen", EVENT_FACE)
@pytest.mark.parametrize("read", ["read(n)", "read1", "readinto", "readinto1"])
def test_what_is_read_cannot_be_taken_by_events(waiting: IncomingMessage, read: str, listen: str) -> None:
    FILE_FACE[read](waiting)
    with pytest.raises(InvalidStateError, match="read as a file already"):
        EVENT_FACE[listen](waiting)
    assert waiting.listeners("data") == waiting.listeners("end") == []


def test_pause_chooses_no_face(waiting: IncomingMessage) -> None:
    waiting.pause()
    assert waiting.read(3) == b"abc"


def test_a_response_that_is_read_has_no_data_and_no_end(serve: Serve, session: Session) -> None:
    bodies: list[bytes] = []
    request = session.request(serve(scripted(sized(2) + b"ok")).url("/"), lambda r: bodies.append(r.read()))
    consumer = Consumer(request, consume=False)
    consumer.finish()
    assert bodies == [b"ok"]
    assert consumer.recorder.outline() == ["finish", "response", "response.close", "close"]


# --- progress -------------------------------------------------------------------------------------------------------


def progress(serve: Serve, session: Session, *steps: bytes | Gate | Handler, consume: bool = True) -> list[Any]:
    """The arguments of all progress events of a response."""
    request = session.request(serve(scripted(*steps)).url("/"))
    if not consume:
        request.on("response", lambda response: response.resume())
    consumer = Consumer(request, consume=consume)
    consumer.finish()
    return [event.args for event in consumer.recorder.find("download-progress", "response")]


@pytest.mark.parametrize("consume", [True, False], ids=["data", "resume"])
def test_progress_ends_with_the_whole_length(serve: Serve, session: Session, consume: bool) -> None:
    told = progress(serve, session, sized(len(MUCH)), MUCH, consume=consume)
    assert told[-1] == (len(MUCH), len(MUCH))
    assert told == sorted(told)
    assert {total for _, total in told} == {len(MUCH)}


def test_progress_comes_at_most_ten_times_a_second(serve: Serve, session: Session) -> None:
    taken = threading.Semaphore(0)

    def one_by_one(conn: Conn) -> None:
        conn.read_request()
        conn.send(sized(300))
        for _ in range(300):
            conn.send(b"x")
            assert taken.acquire(timeout=LIMIT)

    request = session.request(serve(one_by_one).url("/"))
    request.on("response", lambda response: response.on("data", lambda data: taken.release()))
    start = time.monotonic()
    consumer = Consumer(request)
    consumer.finish()
    elapsed = time.monotonic() - start
    assert len(consumer.pieces()) == 300
    assert len(consumer.recorder.find("download-progress", "response")) <= 10 * elapsed + 2


def test_progress_of_chunks_has_no_total(serve: Serve, session: Session) -> None:
    assert progress(serve, session, CHUNKED + chunk(b"abc") + b"0\r\n\r\n")[-1] == (3, 0)


def test_progress_of_an_empty_body_is_told_once(serve: Serve, session: Session) -> None:
    assert progress(serve, session, sized(0)) == [(0, 0)]


def test_progress_counts_what_is_on_the_wire(serve: Serve, session: Session) -> None:
    packed = gzip.compress(bytes(100_000))
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    assert progress(serve, session, head + packed)[-1] == (len(packed), len(packed))


def test_progress_is_told_to_who_reads_a_file_too(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(sized(len(MUCH)), MUCH)).url("/"))
    recorder = Recorder(request)
    request.end()
    recorder.wait("response")
    assert len(recorder.response.read()) == len(MUCH)
    recorder.wait("close")
    told = recorder.find("download-progress", "response")
    assert told[-1].args == (len(MUCH), len(MUCH))


# --- the other ends -------------------------------------------------------------------------------------------------


def test_abort_gives_aborted_and_no_end(serve: Serve, session: Session) -> None:
    consumer = Consumer(session.request(serve(scripted(sized(10) + b"half", Conn.hold)).url("/")))
    consumer.recorder.wait("data", "response")
    consumer.request.abort()
    consumer.finish()
    assert consumer.recorder.outline()[-4:] == ["abort", "response.aborted", "response.close", "close"]


def test_a_body_that_breaks_off_gives_its_data_and_then_the_error(serve: Serve, session: Session) -> None:
    consumer = Consumer(session.request(serve(scripted(sized(10) + b"half")).url("/")))
    consumer.finish()
    assert consumer.recorder.outline()[-4:] == ["response.data", "response.error", "response.close", "close"]
    assert consumer.pieces() == [b"half"]
    assert consumer.recorder.find("error", "response")[0].args[0].code == "ERR_CONTENT_LENGTH_MISMATCH"


def test_a_data_listener_that_raises_fails_the_response(serve: Serve, session: Session) -> None:
    request = session.request(serve(scripted(sized(10) + b"half", Conn.wait_closed)).url("/"))
    request.on("response", lambda response: response.on("data", lambda data: 1 // 0))
    consumer = Consumer(request)
    consumer.finish()
    error = consumer.recorder.find("error", "response")[0].args[0]
    assert isinstance(error, ListenerError)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert consumer.pieces() == [b"half"]  # the other listener ran


def test_a_paused_response_that_nobody_holds_is_thrown_away(serve: Serve, session: Session) -> None:
    peer = serve(scripted(sized(10) + b"half", Conn.wait_closed))
    closed = threading.Event()
    request = session.request(peer.url("/"))
    request.on("response", lambda response: response.on("data", len).pause())
    request.on("close", closed.set)
    request.end()
    del request
    assert closed.wait(LIMIT)
    peer.join()
