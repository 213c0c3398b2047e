"""One round trip: a request head and body out on one connection, response heads in, both at once.

The server may answer at any moment, also while the body is still being written: that answer ends the sending.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Optional, Union

from ._body import BUFFERED, CHUNKED, FILE_BLOCK
from ._errors import ProtocolError, RequestTimeout
from ._file_part import FilePart
from ._http1 import (
    LAST_CHUNK,
    MAX_INTERIM,
    Bytes,
    HeadReader,
    ResponseHead,
    encode_chunk_size,
    encode_request_head,
)
from ._incoming import PROGRESS_PERIOD
from ._life import Life
from ._lifecycle import SENDING, WAITING
from ._mapping import is_tls_error
from ._options import HeaderTable, Target
from ._wire import Wire
from ._workers import READ, WRITE

CONTINUE_WAIT = 1.0  # seconds for which a body waits for "100 Continue"
BATCH = 256 * 1024  # bytes of a buffered body sent at once
SEND_LOOKS = 10  # times within the write limit that a blocked send looks whether the server takes anything

Buffer = Union[Bytes, FilePart]


class Hop:
    """What is asked of whom. The first one is made of the options, further ones of the answers."""

    __slots__ = ("headers", "method", "sends_body", "target")

    def __init__(self, method: str, target: Target, headers: HeaderTable, sends_body: bool) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.sends_body = sends_body


class RoundTrip:
    """Carries one hop over one connection.

    Args:
        life: of the request.
        hop: what to ask.
        wire: the connection; stays with whoever made this object.
    """

    body_sent = False
    final: Optional[ResponseHead] = None
    _untold: Optional[ResponseHead] = None  # an interim one that came before there was a worker
    _interims = 0
    _continued = False
    # What ``begin`` leaves to ``run``.
    _unsent: Optional[bytes] = None
    _unsent_head = 0  # bytes of it that are no body
    _trouble: Union[OSError, ValueError, None] = None
    head_until: Optional[float] = None  # when the head must be here

    def __init__(self, life: Life, hop: Hop, wire: Wire) -> None:
        self.wire = wire
        self._life = life
        self._outbox = life.outbox
        self._hop = hop
        self._heads = HeadReader()

    def run(self) -> ResponseHead:
        """Send the request and give back the final head. Raises what went wrong, the system's errors unmapped."""
        try:
            if self._unsent is None:
                self._life.move(SENDING)
                self._life.step("send")
                self._send_request(self._hop)
            elif not self.body_sent:
                self._send_unsent(self._unsent)
        except OSError as error:
            # The server may have answered before it closed; what it said counts more.
            if isinstance(error, (RequestTimeout, ProtocolError)) or self._life.over or not self._find_head_after():
                raise
        if self.body_sent and self._hop.sends_body:
            self.report_upload(last=True)  # now: the answer may take its time
        return self._await_head()

    def begin(self) -> None:
        """Send what the network takes at once, of a body that is small. On any thread; ``run`` does the rest."""
        hop = self._hop
        self._life.move(SENDING)
        self._life.step("send")
        whole = head = self._head(hop)
        if hop.sends_body:
            whole = b"".join([head, *self._outbox.blocks()])
            self._outbox.started = len(whole) > len(head)
        self._unsent, self._unsent_head = whole, len(head)
        self._body_taken()
        try:
            sent = self.wire.send([whole])
        except (OSError, ValueError) as error:
            self._trouble = error
            return
        self._unsent, self._unsent_head = whole[sent:], max(0, len(head) - sent)
        if sent > len(head):
            self._outbox.advance(sent - len(head))
        if not self._unsent:
            self.body_sent = True
            self._start_waiting()

    def _send_unsent(self, rest: bytes) -> None:
        if self._trouble is not None:
            raise self._trouble
        self.body_sent = self._send([rest], self._unsent_head, len(rest) - self._unsent_head)

    @property
    def awaits_head(self) -> bool:
        """Whether ``receive`` may go on; after that, ``run`` has to unless there is a ``final`` head."""
        return self.body_sent and self.final is None and self._untold is None and self._trouble is None

    def receive(self) -> None:
        """Take in what is there, and tell nobody. On any thread, after ``begin``."""
        try:
            head = self._heads.next_head() if self._feed() else None
        except (OSError, ValueError) as error:
            self._trouble = error
            return
        if head is not None and head.status < 200:
            self._untold = head
        else:
            self.final = head

    def take_rest(self) -> bytes:
        """What came behind the final head."""
        return self._heads.take_rest()

    # --- sending ---

    def _send_request(self, hop: Hop) -> None:
        """Send head and body; comes back early when a final head has come."""
        outbox = self._outbox
        head = self._head(hop)
        if not hop.sends_body or outbox.mode is BUFFERED:
            self._send_buffered(hop, head)
        elif self._expects_continue(hop):
            self._send([head])
            if self._await_continue():
                self._send_stream(b"")
        else:
            self._send_stream(head)

    def _head(self, hop: Hop) -> bytes:
        # A proxy is told all of it (RFC 9112, 3.2.2).
        where = hop.target.url if self.wire.forwards else hop.target.path
        return encode_request_head(hop.method, where, self._fields(hop))

    def _fields(self, hop: Hop) -> str:
        """The header lines: Host first (RFC 9110, 7.2), the caller's in their order, the framing last."""
        headers, outbox = hop.headers, self._outbox
        host = headers.line("host")
        lines = f"Host: {hop.target.authority if host is None else host}\r\n{headers.encode_without_host()}"
        if not hop.sends_body:
            return lines
        if outbox.mode is CHUNKED and not headers.has("transfer-encoding"):
            return lines + "Transfer-Encoding: chunked\r\n"
        if outbox.mode is BUFFERED:
            return f"{lines}Content-Length: {outbox.taken}\r\n"
        return lines

    @staticmethod
    def _expects_continue(hop: Hop) -> bool:
        return (hop.headers.line("expect") or "").strip().lower() == "100-continue"

    def _await_continue(self) -> bool:
        """Wait for leave to send the body; false if there is a final answer instead (RFC 9110, 10.1.1)."""
        self._life.step("await-continue")
        until = time.monotonic() + CONTINUE_WAIT
        while not self._continued and self.final is None:
            if time.monotonic() >= until:
                return True
            if self._wait_readable(until):
                self._receive_head()
        return self.final is None

    def _send_buffered(self, hop: Hop, head: bytes) -> None:
        if not hop.sends_body:
            self._body_taken()
            self.body_sent = self._send([head])
            return
        blocks = self._outbox.blocks()
        if self._expects_continue(hop):
            self._body_taken()
            self._send([head])
            if not self._await_continue():
                return
            batch: list[Buffer] = []
        else:
            batch = [head]
        before, size = len(head) if batch else 0, 0
        self._body_taken()
        for block in blocks:
            batch.append(block)
            size += len(block)
            if size >= BATCH:
                if not self._send(batch, before, size) or self._answered():
                    return
                batch, before, size = [], 0, 0
        self.body_sent = not batch or self._send(batch, before, size)

    def _send_stream(self, head: bytes) -> None:
        """Send what is written, as it is written, until the body ends or the server has answered."""
        outbox = self._outbox
        chunked = outbox.mode is CHUNKED
        while True:
            batch, last = outbox.take()
            size = sum(map(len, batch))
            if outbox.receipts:
                self._call_receipts()
            if last:
                self._body_taken()
            if head or batch or last:
                prefix = head + encode_chunk_size(size) if chunked and size else head
                buffers: list[Buffer] = [prefix, *batch] if prefix else list(batch)
                if chunked:
                    buffers.append((b"\r\n" if size else b"") + (LAST_CHUNK if last else b""))
                head = b""
                if not self._send(buffers, len(prefix), size):
                    return
                if last:
                    self.body_sent = True
                    return
                if not outbox.is_sent and self._answered():
                    return
            elif not self._await_writer():
                if outbox.is_sent:  # no early answer: the body is whole
                    self._body_taken()
                    self.body_sent = True
                return

    def _await_writer(self) -> bool:
        """Wait for more to be written; false once the server has answered."""
        outbox = self._outbox
        try:
            while True:
                # Said anew each time: a writer on its way to wake us for the last time may have taken it back.
                outbox.starving = True
                if outbox.has_more():
                    return True
                if self._life.send_drain():  # here, and not once woken: who asks for it may have woken us earlier
                    continue  # a listener may have written
                self._life.step("await-writer")
                ready = self._life.wait(self.wire.sock, READ, None)
                if ready & READ and self._receive_head():
                    return False
        finally:
            outbox.starving = False

    def _answered(self) -> bool:
        """Whether a final head is here already; does not wait."""
        return self._life.is_readable(self.wire.sock) and self._receive_head()

    def _send(self, buffers: Sequence[Buffer], before: int = 0, size: int = 0) -> bool:
        """Send all of ``buffers``, of which ``size`` bytes after the first ``before`` are body.

        False, with the rest unsent, when a final head comes first.
        """
        wire = self.wire
        mixed = self._outbox.has_files
        whole: list[Any] = [buffer for buffer in buffers if buffer]
        pending: list[Any] = _fitted(wire, whole) if mixed else wire.fit(whole)
        self._outbox.started = self._outbox.started or size > 0
        sent = counted = 0
        until: Optional[float] = None
        while pending:
            count = self._send_some(pending) if mixed else wire.send(pending)
            if count:
                until = None
                pending = _unsent(pending, count)
                sent += count
                body = min(max(sent - before, 0), size) if size else 0
                if body > counted:
                    self._advance(body - counted)
                    counted = body
                self._life.check_time()  # a server that always takes is never waited for
                continue
            if until is None:
                until = self._life.until(self._life.timeout.write)
                self._life.step("send-blocked")
            self._life.send_drain()
            ready = self._wait_sendable(until)
            if ready & READ and self._receive_head():
                return False
            if not ready or ready & WRITE:
                until = None  # the server has taken something, be it that TLS does not say how much
        return True

    def _wait_sendable(self, until: Optional[float]) -> int:
        """Wait until the socket takes more, or there is something to receive; 0 if only the server has taken something.

        A socket that was full takes nothing before a third of what the system holds for it is gone. That can be some
        MiB, so on a slow network it can last longer than the limit, with all well.
        """
        life, wire = self._life, self.wire
        limit = life.timeout.write
        if limit is None or until is None or (held := wire.held_by_system()) is None:
            return life.wait(wire.sock, READ | wire.want, until, "ERR_TIMED_OUT", "sending")
        while True:
            look = min(until, time.monotonic() + min(limit / SEND_LOOKS, 1.0))
            ready = life.wait(wire.sock, READ | wire.want, look)
            if ready:
                return ready
            left = wire.held_by_system()
            if left is not None and left < held:
                return 0
            if look == until:
                return life.wait(wire.sock, READ | wire.want, until, "ERR_TIMED_OUT", "sending")

    def _send_some(self, pending: list[Buffer]) -> int:
        """As ``Wire.send``, where some of ``pending`` are parts of files."""
        first = pending[0]
        if isinstance(first, FilePart):
            if self.wire.sends_files:
                return self.wire.send_part(first)
            block = first.read(FILE_BLOCK)
            # Put into its place: TLS that could not send all of it wants the very same bytes again.
            pending[:1] = filter(None, [block, first.after(len(block))])
        run: list[Bytes] = []
        for buffer in pending:
            if isinstance(buffer, FilePart):
                break
            run.append(buffer)
        return self.wire.send(run)

    def _advance(self, count: int) -> None:
        self._outbox.advance(count)
        self._life.send_drain()
        self.report_upload(last=False)

    def report_upload(self, last: bool) -> None:
        owner = self._life.current_owner()
        if owner is None or not owner._emitter.has("upload-progress"):
            return
        now = time.monotonic()
        if last or now - self._outbox.reported >= PROGRESS_PERIOD:
            self._outbox.reported = now
            self._life.emit("upload-progress", self._outbox.position, self._outbox.total)

    def _call_receipts(self) -> None:
        for receipt in self._outbox.due_receipts():
            self._life.call_back(receipt, None)

    def _body_taken(self) -> None:
        """All of the body is with us: ``finish``, once however often it is sent."""
        if not self._outbox.finished and not self._outbox.dropping:
            self._outbox.finished = True
            if self._outbox.receipts:
                for receipt in self._outbox.all_receipts():
                    self._life.call_back(receipt, None)
            self._life.emit("finish")

    # --- receiving the head ---

    def _await_head(self) -> ResponseHead:
        """The final head, which may be here already."""
        if self._life.phase is not WAITING and (self.final is None or self.body_sent):
            self._start_waiting()
        if self._trouble is not None:
            raise self._trouble
        if self._untold is not None:
            self._find_final()
        while self.final is None:
            self._life.send_drain()  # a writer may ask for it only now that all is sent
            if self._wait_readable(self.head_until, "the response"):
                self._receive_head()
        return self.final

    def _start_waiting(self) -> None:
        self._life.move(WAITING)
        if self.final is None:
            self._life.step("await-head")
            self.head_until = self._life.until(self._life.timeout.read)

    def _wait_readable(self, until: Optional[float], what: str = "") -> bool:
        """Wait for bytes; without ``what``, reaching ``until`` is no error but false."""
        code = "ERR_TIMED_OUT" if what else None
        return bool(self._life.wait(self.wire.sock, READ, until, code, f"waiting for {what}") & READ)

    def _receive_head(self) -> bool:
        """Take in what is there; true once the final head is complete."""
        return self._feed() and self._find_final()

    def _feed(self) -> bool:
        """Whether there was anything to take in."""
        data = self.wire.recv(65536)
        if data is None:
            return False
        if not data:
            self._life.check()
            raise self._heads.eof()
        self._heads.feed(data)
        return True

    def _find_final(self) -> bool:
        while True:
            head, self._untold = self._untold or self._heads.next_head(), None
            if head is None:
                return False
            if head.status >= 200 or head.status == 101:
                self.final = head
                return True
            self._interim(head)

    def _interim(self, head: ResponseHead) -> None:
        self._interims += 1
        if self._interims > MAX_INTERIM:
            raise ProtocolError("ERR_INVALID_HTTP_RESPONSE", f"more than {MAX_INTERIM} interim responses")
        if head.status == 100:
            self._continued = True
        owner = self._life.current_owner()
        if owner is not None and owner._emitter.has("information"):
            self._life.emit("information", head.status, head.reason, head.folded())
        if head.status == 100:
            self._life.emit("continue")

    def _find_head_after(self) -> bool:
        """Sending failed: look for an answer that came before the connection broke."""
        try:
            while not self._receive_head():
                # A broken connection is readable at once: either bytes, or the error itself.
                if not self._wait_readable(time.monotonic() + CONTINUE_WAIT):
                    return False
        except ProtocolError:
            raise
        except OSError as error:
            if is_tls_error(error):
                raise  # an alert says more than the broken connection behind it
            return False
        return True


def _fitted(wire: Wire, buffers: list[Buffer]) -> list[Any]:
    """As ``Wire.fit``, where some of ``buffers`` are parts of files: what stands between two of them is fitted."""
    fitted: list[Any] = []
    run: list[Bytes] = []
    for buffer in buffers:
        if isinstance(buffer, FilePart):
            fitted += [*wire.fit(run), buffer]
            run = []
        else:
            run.append(buffer)
    return fitted + wire.fit(run)


def _unsent(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """What is left of ``buffers`` after ``sent`` bytes."""
    if len(buffers) == 1 and sent == len(buffers[0]):
        return []
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [_after(buffer, sent), *buffers[index + 1 :]] if sent else buffers[index:]
        sent -= len(buffer)
    return []


def _after(buffer: Buffer, sent: int) -> Buffer:
    return buffer.after(sent) if isinstance(buffer, FilePart) else memoryview(buffer)[sent:]
