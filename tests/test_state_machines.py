"""Request and response against small models of the contract: any calls, in any order.

Hypothesis draws the calls; a model without threads or sockets says what each has to return or raise, and what is to be
seen afterwards, at the server and in the events. `make test` tries some sequences, always the same; the environment
variable `STATE_MACHINE_EXAMPLES` says how many instead, which then differ from run to run.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import zlib
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clientrequest import (
    AbortedError,
    ClientRequestError,
    InvalidStateError,
    ProtocolError,
    Session,
    TransferError,
)
from tests.support import LIMIT, Conn, Gate, Peer, Recorder, Request, witness

EXAMPLES = int(os.environ.get("STATE_MACHINE_EXAMPLES", "0"))
STEPS = 25


def run(machine: type[RuleBasedStateMachine], examples: int) -> None:
    """Try a machine: `examples` times, always the same, or as often as the environment says."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=EXAMPLES or examples,
            stateful_step_count=STEPS,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def check_law() -> None:
    complaints = witness.take_complaints()
    assert not complaints, complaints


# --- the request ---


class Site:
    """The server of one request: it reads, waits for its cue, and then answers or leaves."""

    def __init__(self, manner: str) -> None:
        self.manner = manner
        self.cue = Gate("cue")
        self.request: Request | None = None
        self.gone = Gate("server is through")

    def serve(self, conn: Conn, request: Request) -> None:
        self.request = request
        try:
            if self.manner == "normal" and not conn.read_body(request).complete:
                return
            self.cue.wait()
            if self.manner == "closing":
                conn.close()
                return
            status = 413 if self.manner == "early" else 200
            conn.respond(status, {"Connection": "close"}, b"answer")
            conn.wait_closed()
        finally:
            self.gone.set()


class RequestMachine(RuleBasedStateMachine):
    """`ClientRequest` in the hands of one thread, before a server that does what it is told."""

    session: Session
    peer: Peer
    sites: dict[str, Site]
    numbers: Iterator[int]

    @initialize(
        mode=st.sampled_from(["buffered", "chunked", "length"]),
        length=st.integers(0, 30),
        blocking=st.booleans(),
        mark=st.sampled_from([0, 5, 1 << 20]),
        manner=st.sampled_from(["normal", "normal", "early", "closing"]),
        method=st.sampled_from(["POST", "GET"]),
    )
    def begin(self, mode: str, length: int, blocking: bool, mark: int, manner: str, method: str) -> None:
        path = f"/{next(self.numbers)}"
        self.site = self.sites[path] = Site(manner)
        self.mode, self.length, self.blocking = mode, length, blocking
        self.request = self.session.request(
            self.peer.url(path),
            method=method,
            chunked_encoding=mode == "chunked",
            blocking=blocking,
            high_water_mark=max(1, mark),
            timeout=LIMIT,
            headers={"Content-Length": str(length)} if mode == "length" else None,
        )
        self.recorder = Recorder(self.request, skip=("response", "login", "redirect"))
        # The model.
        self.headers: dict[str, str] = {}
        self.begun = self.started = self.ended = self.file_closed = self.answered = False
        self.dead: type[BaseException] | None = None
        self.taken = bytearray()
        self.corks = 0
        self.callbacks: list[list[object]] = []
        self.drain_due = False

    # What the calls say.

    def expect(self, kind: type[BaseException] | None, call: Callable[[], object]) -> Any:
        """Make a call that is to raise `kind`, or nothing."""
        if kind is None:
            return call()
        with pytest.raises(kind) as caught:
            call()
        assert (type(caught.value) is InvalidStateError) is (kind is InvalidStateError), caught.value
        return None

    @property
    def over(self) -> bool:
        return self.dead is not None or self.answered

    def refusal(self) -> type[BaseException] | None:
        """What writing or ending raises now."""
        if self.dead is not None:
            return self.dead
        return InvalidStateError if self.ended else None

    def model_write(self, size: int) -> type[BaseException] | None:
        """What a write of so many bytes raises; it counts the body as begun."""
        refusal = self.refusal()
        if refusal is not None:
            return refusal
        self.begun = True
        self.started = self.started or self.mode != "buffered"
        if self.mode == "length" and len(self.taken) + size > self.length:
            return ProtocolError
        return None

    def model_end(self) -> type[BaseException] | None:
        refusal = self.refusal()
        if refusal is not None:
            return refusal
        self.begun = self.started = True
        if self.mode == "length" and len(self.taken) < self.length and not self.answered:
            self.dead = ProtocolError
            return ProtocolError
        self.ended, self.corks = True, 0
        return None

    # What is called.

    @rule(data=st.binary(max_size=12), called_back=st.booleans(), as_text=st.booleans())
    def write(self, data: bytes, called_back: bool, as_text: bool) -> None:
        kind = self.model_write(len(data))
        calls: list[object] = []
        chunk: Any = data.hex() if as_text else data
        callback = calls.append if called_back else None
        taken = self.expect(
            kind, lambda: self.request.write(chunk, encoding="hex" if as_text else "utf-8", callback=callback)
        )
        if kind is None:
            assert taken == len(data)
            self.taken += data
            if called_back:
                self.callbacks.append(calls)
            self.drain_due = self.drain_due or self.request.writable_need_drain
        else:
            assert calls == []

    @rule(bad=st.sampled_from([3, None, ["x"], object()]))
    def write_what_cannot_be_written(self, bad: object) -> None:
        """Nothing is sent, and the request is as it was."""
        with pytest.raises(TypeError):
            self.request.write(bad)

    @rule(data=st.none() | st.binary(max_size=8), called_back=st.booleans())
    def end(self, data: bytes | None, called_back: bool) -> None:
        kind = self.refusal()
        if kind is None and data is not None:
            kind = self.model_write(len(data))
            self.started = True
            if kind is None:
                self.taken += data
        if kind is None:
            kind = self.model_end()
        calls: list[object] = []
        result = self.expect(kind, lambda: self.request.end(data, callback=calls.append if called_back else None))
        if kind is None:
            assert result is self.request
            if called_back:
                self.callbacks.append(calls)

    @rule()
    def flush(self) -> None:
        self.expect(self.dead, self.request.flush)
        streams = self.started and self.mode != "buffered" and self.blocking
        if self.dead is None and streams and not self.corks:
            assert self.request.writable_length == 0

    @rule()
    def cork(self) -> None:
        self.request.cork()
        self.corks += 1

    @rule()
    def uncork(self) -> None:
        self.request.uncork()
        self.corks = max(0, self.corks - 1)

    @rule(name=st.sampled_from(["X-A", "x-a"]), value=st.sampled_from(["1", "2"]))
    def set_header(self, name: str, value: str) -> None:
        self.expect(InvalidStateError if self.begun else None, lambda: self.request.set_header(name, value))
        if not self.begun:
            self.headers["x-a"] = value

    @rule()
    def remove_header(self) -> None:
        self.expect(InvalidStateError if self.begun else None, lambda: self.request.remove_header("X-a"))
        if not self.begun:
            self.headers.pop("x-a", None)

    @rule()
    def flush_headers(self) -> None:
        kind = self.refusal()
        if kind is None and self.mode == "buffered":
            kind = InvalidStateError
        self.expect(kind, self.request.flush_headers)
        if kind is None:
            self.begun = self.started = True

    @rule(chunks=st.lists(st.binary(max_size=5), max_size=3), more=st.sampled_from([None, 0, -1, 1]))
    def pipe_from(self, chunks: list[bytes], more: int | None) -> None:
        length = None if more is None else max(0, sum(map(len, chunks)) + more)
        kind: type[BaseException] | None = None
        written = 0
        for chunk in chunks:
            if length is not None and written + len(chunk) > length:
                kind = ProtocolError
                break
            kind = self.model_write(len(chunk))
            if kind is not None:
                break
            self.taken += chunk
            written += len(chunk)
        if kind is None and length is not None and written < length:
            kind = ProtocolError
        result = self.expect(kind, lambda: self.request.pipe_from(iter(chunks), length))
        if kind is not None:
            self.model_abort()
        else:
            assert result == written
            self.drain_due = self.drain_due or self.request.writable_need_drain

    def model_abort(self) -> None:
        if not self.over:
            self.dead = AbortedError

    @rule()
    def abort(self) -> None:
        self.request.abort()
        self.model_abort()

    @rule()
    def close(self) -> None:
        self.expect(self.model_close(), self.request.close)

    def model_close(self) -> type[BaseException] | None:
        if self.file_closed:
            return None
        self.file_closed = True
        if self.ended or self.dead is AbortedError:
            return None
        return self.model_end()

    @rule()
    def leave_with(self) -> None:
        def leave() -> None:
            with self.request:
                pass

        self.expect(self.model_close(), leave)

    @rule()
    def leave_with_by_an_exception(self) -> None:
        with pytest.raises(ZeroDivisionError), self.request:
            raise ZeroDivisionError
        self.model_abort()
        self.file_closed = True

    @rule()
    def get_response(self) -> None:
        if self.answered:
            response = self.request.get_response(0)
            assert response.status_code == (413 if self.site.manner == "early" else 200)
            assert response is self.request.get_response()
        else:
            self.expect(self.dead or TimeoutError, lambda: self.request.get_response(0))

    @rule()
    def wait(self) -> None:
        if self.dead is not None and (self.started or self.dead is AbortedError):
            with pytest.raises(self.dead):
                self.request.wait(LIMIT)
        else:
            assert self.request.wait(LIMIT if self.over else 0) is self.answered

    def may_speak(self) -> bool:
        """Whether the server has something to say that will be heard."""
        if not self.started or self.over:
            return False
        return self.ended or self.site.manner != "normal"

    @precondition(lambda self: self.may_speak())
    @rule()
    def server_speaks(self) -> None:
        if self.corks and self.site.manner == "closing" and not self.ended:
            self.uncork()
        self.site.cue.set()
        self.recorder.wait("close")
        if self.site.manner == "closing":
            self.dead = TransferError
        else:
            self.answered = True

    # What is to be seen at any time.

    @invariant()
    def shows_its_state(self) -> None:
        request = self.request
        assert request.tell() == len(self.taken)
        assert request.writable_ended is self.ended
        assert request.closed is (self.ended or self.file_closed)
        assert request.writable() is not (self.ended or self.file_closed or self.over)
        assert request.headers_sent is self.begun
        assert request.get_header("X-A") == self.headers.get("x-a")
        assert request.writable_length <= len(self.taken)
        assert not request.readable()
        if self.mode == "buffered" and not self.ended and not self.over:
            assert request.writable_length == len(self.taken)
        if self.answered:
            assert request.writable_length == 0
        if not self.ended and self.mode != "length":
            assert not request.writable_finished
        progress = request.get_upload_progress()
        assert progress.active is (self.started and not self.over and not request._exchange.over)
        assert progress.current <= len(self.taken)

    def teardown(self) -> None:
        if not hasattr(self, "recorder"):
            return
        if not self.over and not self.started and not self.begun:
            self.abort()
        if not self.over:
            self.bring_to_its_end()
        self.recorder.wait("close")
        self.check_events()
        self.check_server()
        self.site.cue.set()  # of one that was aborted
        check_law()

    def bring_to_its_end(self) -> None:
        if not self.ended:
            if self.mode == "length" and len(self.taken) < self.length:
                self.write(bytes(self.length - len(self.taken)), False, False)
            self.end(None, True)
        self.server_speaks()

    def check_events(self) -> None:
        names = self.recorder.names()
        if self.dead is AbortedError:
            assert names[-2:] == ["abort", "close"]
        elif self.dead is not None:
            assert names[-2:] == ["error", "close"]
        else:
            assert not {"abort", "error"}.intersection(names)
            if self.site.manner == "normal":
                assert names.count("finish") == 1
            if self.drain_due:
                assert "drain" in names, names
        self.recorder.check_grammar(early_answer=self.site.manner == "early")
        for calls in self.callbacks:
            assert len(calls) == 1, calls
        assert not self.request.writable_need_drain

    def check_server(self) -> None:
        """What reached the server: all that was taken, or nothing that it could take for a whole body."""
        if self.started and self.dead is None:
            self.site.gone.wait()
        seen = self.site.request
        if seen is None:
            assert self.dead is not None
            return
        assert seen.header("X-A") == self.headers.get("x-a")
        if self.site.manner != "normal":
            return
        if self.dead is None:
            assert seen.body == self.taken
        elif not self.ended and self.mode != "length":
            self.site.gone.wait()
            assert not seen.complete


def test_request_keeps_to_the_model() -> None:
    sites: dict[str, Site] = {}

    def serve(conn: Conn) -> None:
        request = conn.read_request(body=False)
        sites[request.target].serve(conn, request)

    with Session() as session, Peer(serve) as peer:

        class Machine(RequestMachine):
            pass

        Machine.session, Machine.peer, Machine.sites = session, peer, sites
        Machine.numbers = iter(range(1, sys.maxsize))
        run(Machine, 60)


# --- the response ---


class Script:
    """The server of one response: it sends what it is told, piece by piece, and ends well or not."""

    def __init__(self, framing: str, total: int) -> None:
        self.framing = framing
        self.total = total
        self.orders: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._gzip = zlib.compressobj(wbits=31)

    def serve(self, conn: Conn) -> None:
        conn.send(self._head())
        while True:
            order, data = self.orders.get(timeout=2 * LIMIT)
            if order == "send":
                conn.send(self._framed(data))
            else:
                if order == "end":
                    conn.send(self._last())
                    if self.framing != "close":
                        conn.wait_closed()
                return

    def _head(self) -> bytes:
        lines = {
            "length": b"Content-Length: %d" % self.total,
            "chunked": b"Transfer-Encoding: chunked",
            "gzip": b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip",
            "close": b"X-Ends: by closing",
        }
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + lines[self.framing] + b"\r\n\r\n"

    def _framed(self, data: bytes) -> bytes:
        if self.framing == "gzip":
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        return self._chunk(data) if self.framing in ("chunked", "gzip") else data

    def _last(self) -> bytes:
        if self.framing == "gzip":
            return self._chunk(self._gzip.flush()) + b"0\r\n\r\n"
        return b"0\r\n\r\n" if self.framing == "chunked" else b""

    @staticmethod
    def _chunk(data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data)


class ResponseMachine(RuleBasedStateMachine):
    """`IncomingMessage` in the hands of one thread, while its body comes piece by piece."""

    session: Session
    peer: Peer
    scripts: dict[str, Script]
    numbers: Iterator[int]

    @initialize(
        framing=st.sampled_from(["length", "chunked", "gzip", "close"]),
        pieces=st.lists(
            st.sampled_from([b"x", b"\n", b"ab\ncd", b"0123456789" * 20, b"line\n" * 1000]), min_size=1, max_size=6
        ),
    )
    def begin(self, framing: str, pieces: list[bytes]) -> None:
        path = f"/{next(self.numbers)}"
        self.script = self.scripts[path] = Script(framing, sum(map(len, pieces)))
        self.pieces = [bytes([65 + number]) + piece[1:] for number, piece in enumerate(pieces)]
        self.script.total = sum(map(len, self.pieces))
        self.request = self.session.request(self.peer.url(path), timeout=LIMIT)
        self.recorder = Recorder(self.request, skip=("response", "login", "redirect"))
        self.response = self.request.end().get_response(LIMIT)
        self.recorder.attach_response(self.response)
        # The model.
        self.sent = bytearray()  # by the server
        self.taken = bytearray()  # by us
        self.heard = bytearray()  # as data
        self.ending: str | None = None
        self.face: str | None = None
        self.flowing = False
        self.listens = False
        self.file_closed = False
        self.aborted = False
        self.failed = False  # a read was told of the cut
        self.closed = False  # the request

    # What the model knows.

    @property
    def rest(self) -> bytes:
        return bytes(self.sent[len(self.taken) :])

    @property
    def is_cut(self) -> bool:
        return self.ending == "cut"

    def has(self, size: int) -> bool:
        """Whether a read of so many bytes need not wait."""
        return self.ending is not None or len(self.rest) >= size

    def settle(self) -> None:
        """Wait for what is bound to come: the end of a request that nothing holds up."""
        if self.closed or self.ending is None:
            return
        is_read = self.face == "file" and (self.failed or (self.saw_the_end and not self.is_cut))
        flows = self.face == "events" and self.flowing
        if self.aborted or self.file_closed or self.face is None or flows or is_read:
            self.recorder.wait("close")
            self.closed = True

    saw_the_end = False

    # The server.

    @precondition(lambda self: self.ending is None and self.pieces and not self.aborted and not self.file_closed)
    @rule()
    def server_sends(self) -> None:
        piece = self.pieces.pop(0)
        self.sent += piece
        self.script.orders.put(("send", piece))
        if self.script.framing == "length" and len(self.sent) == self.script.total:
            self.ending = "end"
        self.hear()

    @precondition(lambda self: self.ending is None and not self.aborted and not self.file_closed)
    @rule(cut=st.booleans())
    def server_ends(self, cut: bool) -> None:
        if cut and self.script.framing != "close":
            self.ending = "cut"
        elif self.pieces:
            return
        else:
            self.ending = "end"
        self.script.orders.put((self.ending, b""))
        self.hear()

    def hear(self) -> None:
        """While data flows all that was sent comes, in order, each byte once."""
        if not self.flowing or self.aborted or self.file_closed:
            return
        self.taken += self.rest
        if self.listens:
            self.heard = bytearray(self.taken)
            deadline = LIMIT
            assert self.arrived.wait_for(lambda: len(self.data) >= len(self.heard), deadline), len(self.data)
            assert self.data == self.heard
        self.settle()

    # The event face.

    def choose(self, face: str) -> bool:
        """Whether the body can be taken so; it is then."""
        if self.face not in (None, face):
            return False
        self.face = face
        return True

    def events_can_begin(self) -> bool:
        return not (self.closed and self.face is None) and self.face != "file"

    @precondition(lambda self: not self.listens and not self.aborted and not self.file_closed)
    @rule()
    def listen_to_data(self) -> None:
        self.settle()
        self.data = bytearray()
        self.arrived = Arrivals()
        if not self.events_can_begin():
            with pytest.raises(InvalidStateError):
                self.response.on("data", self.take)
            return
        if self.taken:
            return  # what flowed before is nobody's
        self.response.on("data", self.take)
        self.choose("events")
        self.listens = True
        if not self.was_paused:
            self.flowing = True
        self.hear()

    was_paused = False

    def take(self, data: bytes) -> None:
        self.data += data
        self.arrived.tell()

    @precondition(lambda self: not self.aborted and not self.file_closed)
    @rule()
    def pause(self) -> None:
        self.settle()
        self.response.pause()
        self.flowing, self.was_paused = False, True
        assert self.response.is_paused()

    @precondition(lambda self: not self.aborted and not self.file_closed)
    @rule()
    def resume(self) -> None:
        self.settle()
        if not self.events_can_begin():
            with pytest.raises(InvalidStateError):
                self.response.resume()
            return
        self.response.resume()
        self.choose("events")
        self.flowing, self.was_paused = True, False
        self.hear()

    # The file face.

    def read_by(self, call: Callable[[], Any], least: int, all_of: Callable[[bytes], bytes | None]) -> None:
        """Make a call that reads, once it need not wait.

        Args:
            call: gives bytes.
            least: how many must be there for it to return.
            all_of: what it has to give, from what is left; `None` for any beginning of that.
        """
        refusal: type[BaseException] | None = None
        self.settle()
        if self.file_closed:
            refusal = ValueError
        elif self.aborted and not (self.closed and not self.died_aborted):
            refusal = AbortedError
        elif self.face == "events":
            refusal = InvalidStateError
        if refusal is not None:
            with pytest.raises(refusal):
                call()
            return
        if not self.has(least):
            return
        self.face = "file"
        wanted = all_of(self.rest)
        enough = len(self.rest) >= least and (wanted is None or len(wanted) <= len(self.rest))
        if self.is_cut and (self.failed or not enough or not self.rest):
            with pytest.raises(ClientRequestError):
                call()
            self.failed = True
            return
        given = call()
        if wanted is None:
            assert self.rest.startswith(given)
            assert given or not self.rest
        else:
            assert given == wanted
        self.taken += given
        if self.ending is not None and (len(given) < least or not given):
            self.saw_the_end = True

    died_aborted = False

    @rule(size=st.sampled_from([1, 3, 50, 700, 6000]))
    def read(self, size: int) -> None:
        self.read_by(lambda: self.response.read(size), size, lambda rest: rest[:size])

    @rule(size=st.sampled_from([1, 3, 50, 700, 6000]))
    def readinto(self, size: int) -> None:
        def call() -> bytes:
            target = bytearray(size)
            return bytes(target[: self.response.readinto(target)])

        self.read_by(call, size, lambda rest: rest[:size])

    @rule(size=st.sampled_from([-1, 1, 3, 700]))
    def read1(self, size: int) -> None:
        self.read_by(lambda: self.response.read1(size), 1, lambda rest: None)

    @rule()
    def readline(self) -> None:
        end = self.rest.find(b"\n") + 1
        least = end or len(self.rest) + 1
        self.read_by(self.response.readline, least, lambda rest: rest[:end] if end else rest)

    @rule(how=st.sampled_from(["read", "text", "readall"]))
    def read_all(self, how: str) -> None:
        def call() -> bytes:
            if how == "text":
                return self.response.text("latin-1").encode("latin-1")
            return self.response.read() if how == "read" else b"".join(self.response.iter_chunks(1000))

        if self.is_cut and how == "readall":
            return  # the pieces before the cut are given, then the error is raised
        self.read_by(call, len(self.rest) + 1, lambda rest: rest)

    # Its end.

    @rule()
    def close(self) -> None:
        self.settle()
        if self.flowing:
            return
        self.response.close()
        self.file_closed = True
        self.recorder.wait("close")
        self.closed = True

    @rule()
    def abort(self) -> None:
        self.settle()
        self.request.abort()
        if not self.closed:
            self.aborted = self.died_aborted = True
            self.recorder.wait("close")
            self.closed = True

    @invariant()
    def shows_its_state(self) -> None:
        response = self.response
        assert response.closed is self.file_closed
        assert response.status_code == 200
        assert response.readable()
        assert not response.writable()
        if self.is_cut or self.ending is None:
            assert not response.complete
        if self.saw_the_end and not self.is_cut:
            assert response.complete

    def teardown(self) -> None:
        if not hasattr(self, "closed"):
            return
        self.settle()
        if not self.closed:
            self.abort()
        self.script.orders.put(("cut", b""))
        names = self.recorder.names()
        assert names.count("close") == names.count("response.close") == 1
        if self.died_aborted:
            assert "abort" in names
        elif self.is_cut and not self.file_closed:
            assert "response.error" in names
        elif self.face == "events" and not self.file_closed:
            assert "response.end" in names
        else:
            assert "response.end" not in names
        if self.listens:
            assert self.sent.startswith(self.data)
            if self.flowing and not self.died_aborted:
                assert self.data == self.sent
        check_law()


class Arrivals:
    """Lets the test wait for data."""

    def __init__(self) -> None:
        self._changed = threading.Condition()

    def tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout)


def test_response_keeps_to_the_model() -> None:
    scripts: dict[str, Script] = {}

    def serve(conn: Conn) -> None:
        scripts[conn.read_request().target].serve(conn)

    with Session() as session, Peer(serve) as peer:

        class Machine(ResponseMachine):
            pass

        Machine.session, Machine.peer, Machine.scripts = session, peer, scripts
        Machine.numbers = iter(range(1, sys.maxsize))
        run(Machine, 60)
