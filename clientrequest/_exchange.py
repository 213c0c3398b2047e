"""The stairwell: the loop that carries one request on its worker, hop after hop, to its end.

It talks to the objects that users hold only through ``Owner``, and leaves decisions to the pure rooms. Everything that
can end a request goes through ``die``: the first cause wins, is kept in ``_fate``, and takes no lock, so that ``abort``
works from any thread, signal handler and ``__del__``. The worker notices at its next step, unwinds, and sends the last
events from ``_close``, which runs exactly once.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import sys
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Optional, Protocol

from . import signals
from ._body import BUFFERED, CHUNKED, Outbox, Receipt
from ._dispatch import Dispatcher, Strand, report
from ._errors import (
    AbortedError,
    ClientRequestError,
    InvalidStateError,
    ListenerError,
    ProtocolError,
    RequestTimeout,
    TransferError,
)
from ._events import Emitter, observe
from ._gates import Gate
from ._http1 import (
    LAST_CHUNK,
    MAX_INTERIM,
    Bytes,
    HeadReader,
    ResponseHead,
    encode_chunk_size,
    encode_request_head,
    keeps_alive,
)
from ._incoming import EVENTS, FILE, PROGRESS_PERIOD, Incoming
from ._lifecycle import CLOSING_EVENTS, Phase
from ._options import HeaderTable, Target, Timeout
from ._wire import KillHandle, Pools, Wire, map_error
from ._workers import READ, WOKEN, Waiter, Worker, crew, program_has_ended

# With no NullHandler: a failure that nobody heard of reaches stderr even where logging was never set up.
log = logging.getLogger("clientrequest")

CONTINUE_WAIT = 1.0  # seconds for which a body waits for "100 Continue"
ABORT_GRACE = 0.04  # seconds that a wait for the end stays after an abort, for the last events
EXIT_PERIOD = 0.05  # seconds between two looks at whether the program has ended


class Owner(Protocol):
    """What the exchange sees of the ``ClientRequest``."""

    _emitter: Emitter

    def _response_for(self, incoming: Incoming) -> Any:
        """The ``IncomingMessage`` for users."""

    def _response_alive(self) -> bool:
        """Whether somebody holds it."""

    def _error_unseen(self, error: ClientRequestError) -> None:
        """Nobody was told of this error."""


class Hop:
    """One round trip: what is asked of whom. The first one is made of the options, further ones of the answers."""

    __slots__ = ("headers", "method", "sends_body", "target")

    def __init__(self, method: str, target: Target, headers: HeaderTable, sends_body: bool) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.sends_body = sends_body


class _Success(ClientRequestError):
    """Stands where a cause of death would stand, once nothing can go wrong any more."""


_SUCCESS = _Success()


class Exchange:
    """One transaction, from the first hop to ``close``.

    Args:
        owner: the request; held weakly until its body has ended, see ``hold``.
        pools: where connections come from.
        outbox: the body.
        timeout: the limits.
    """

    def __init__(
        self,
        owner: Owner,
        pools: Pools,
        outbox: Outbox,
        timeout: Timeout,
        decode: bool,
        dispatcher: Optional[Dispatcher],
        registry: set[Exchange],
    ) -> None:
        self.outbox = outbox
        self.phase = Phase.NEW
        self.news = Gate()  # for whoever waits for the head or for the end
        self.incoming: Optional[Incoming] = None
        self.closed = False
        self.awaited = False  # somebody waits for the end
        self.taken = False  # somebody asked for the response
        self.error_seen = False
        self.deadline: Optional[float] = None
        self.body_started = False
        self.strand = Strand(contextvars.copy_context(), dispatcher, self.wake)
        self._debug = log.isEnabledFor(logging.DEBUG)
        self._pools = pools
        self._timeout = timeout
        self._decode = decode
        self._registry = registry
        self._weak_owner = weakref.ref(owner)
        self._owner: Optional[Owner] = None
        self._abandoned = False
        self._pid = os.getpid()
        self._fate: dict[str, ClientRequestError] = {}
        self._exposed: deque[KillHandle] = deque()
        self._unstarted = deque([True])  # taken out by the one who starts it
        self._unrefusing = deque([True])  # taken out by the one who has late callbacks called
        self._waiter: Optional[Waiter] = None
        self._worker_ident = 0
        self._hop: Optional[Hop] = None
        self._wire: Optional[Wire] = None
        self._heads = HeadReader()
        self._final: Optional[ResponseHead] = None
        self._interims = 0
        self._continued = False
        self._connect_deadline: Optional[float] = None
        self.finished = False  # the ``finish`` event was sent
        self._body_sent = False
        self._announced = False  # the ``response`` event had listeners
        self._response_out = False
        self._end_told = False
        self._upload_reported = self._download_reported = 0.0
        outbox.wake = self.wake

    # --- from any thread ---

    def start(self, hop: Hop) -> None:
        """Have a worker carry it. Raises ``ClientRequestError`` where no thread can be had."""
        self._hop = hop
        try:
            self._unstarted.pop()
        except IndexError:
            return
        if self._timeout.total is not None:
            self.deadline = time.monotonic() + self._timeout.total
        self._registry.add(self)
        _live.add(self)
        self._run_on_worker()

    def _run_on_worker(self) -> None:
        try:
            crew.run(self._run)
        except (RuntimeError, OSError, MemoryError) as error:
            failure = ClientRequestError("ERR_INSUFFICIENT_RESOURCES", f"no worker could be started: {error}")
            failure.__cause__ = error
            self.die(failure)
            self._close()
            if self.failure is failure:
                self.error_seen = True
                raise failure from error

    def hold(self, owner: Owner) -> None:
        """Keep the request alive: its body has ended, so it goes on even when nobody holds it."""
        if not self.closed:
            self._owner = owner

    def abandon(self, owner: Owner) -> None:
        """Nobody holds the request any more; called from its ``__del__``, which this survives until ``close``."""
        if self.closed:
            if self.failure is not None and not self.error_seen:
                owner._error_unseen(self.failure)
            return
        if self._unstarted:
            return
        self._abandoned = True
        self._owner = owner
        self.wake()

    @property
    def started(self) -> bool:
        return not self._unstarted

    @property
    def failure(self) -> Optional[ClientRequestError]:
        """What the request died of; ``None`` while it lives, and after a good end."""
        error = self._fate.get("cause")
        return None if error is _SUCCESS else error

    @property
    def over(self) -> bool:
        return bool(self._fate)

    def is_foreign(self) -> bool:
        """Whether this is a copy, in a forked child, of a request that belongs to the parent."""
        return self._pid != os.getpid()

    def check_process(self) -> None:
        if self.is_foreign():
            raise InvalidStateError("this request belongs to another process (it was made before a fork)")

    def die(self, error: ClientRequestError) -> bool:
        """End the request; true if this is what ended it. No lock: fit for signal handlers and ``__del__``."""
        if self._fate.setdefault("cause", error) is not error:
            return False
        owner = self._owner or self._weak_owner()
        if owner is not None:
            error.request = owner  # type: ignore[assignment]
        self.outbox.open = False
        self._shut_exposed()
        self.wake()
        self.outbox.room.notify()
        self.news.notify()
        return True

    def abort(self) -> None:
        if not self.is_foreign():
            self.fail(AbortedError("ERR_ABORTED", "the request was aborted"))

    def fail(self, error: ClientRequestError) -> None:
        """Die of ``error``, and have the last events sent even if nothing runs yet."""
        if not self.die(error):
            return
        try:
            self._unstarted.pop()
        except IndexError:
            return
        # Nothing runs yet, but listeners are owed their events.
        owner = self._weak_owner()
        if owner is not None:
            self._owner = owner
        with contextlib.suppress(ClientRequestError):  # without a worker the events went out on this thread
            self._run_on_worker()

    def wake(self) -> None:
        """Have the worker look at its state again."""
        waiter = self._waiter
        if waiter is not None and threading.get_ident() != self._worker_ident:
            waiter.wake()

    def _shut_exposed(self) -> None:
        while True:
            try:
                handle = self._exposed.pop()
            except IndexError:
                return
            handle.shut()

    # --- waiting; on the user's threads ---

    def wait_closed(self, timeout: Optional[float]) -> bool:
        self.awaited = True
        self.wake()
        over = self.news.wait_for(lambda: self.closed or isinstance(self.failure, AbortedError), timeout)
        if over and not self.closed:
            # An abort must free everybody at once; a moment is left for its events to be out first.
            self.news.wait_for(lambda: self.closed, ABORT_GRACE)
        return over

    def wait_head(self, timeout: Optional[float]) -> Optional[Incoming]:
        """The response, or ``None`` when time is over. Raises what the request died of before there was one."""
        self.taken = True
        if not self.news.wait_for(lambda: self.incoming is not None or self.over, timeout):
            return None
        if self.incoming is None or isinstance(self.failure, AbortedError):
            self.raise_failure()
        return self.incoming

    def raise_failure(self) -> None:
        """Raise what the request died of, if it did."""
        error = self.failure
        if error is not None:
            self.error_seen = True
            raise error

    # --- Scope and Carrier, for the wire and the body ---

    def wait_connecting(self, sock: Any, events: int) -> None:
        ready = self._wait(sock, events, self._connect_deadline, "ERR_CONNECTION_TIMED_OUT", "connecting")
        while events and not ready & events:
            ready = self._wait(sock, events, self._connect_deadline, "ERR_CONNECTION_TIMED_OUT", "connecting")

    def expose(self, handle: KillHandle) -> None:
        self._exposed.append(handle)
        if self._fate:  # asked again: the abort may have come before it was there
            self._shut_exposed()
            self._check()

    def cover(self) -> bool:
        try:
            self._exposed.pop()
        except IndexError:
            return False
        return True

    def step(self, name: str) -> None:
        """The worker has come to this point; here it notices that the request is over."""
        if self._debug:
            log.debug("request %x: %s", id(self), name)
        if self._fate:
            raise self._fate["cause"]

    def _check(self) -> None:
        if self._fate:
            raise self._fate["cause"]

    # --- the worker ---

    def _run(self, worker: Worker) -> None:
        self._waiter = worker.waiter
        self._worker_ident = threading.get_ident()
        try:
            if self.strand.inline:
                self.strand.context.run(self._carry)
            else:
                self._carry()
        finally:
            self._waiter = None

    def _carry(self) -> None:
        try:
            self.step("start")
            self._observe(signals.request_started)
            self._transact()
            self._attend()
            self._fate.setdefault("cause", _SUCCESS)
        except ClientRequestError as error:
            self.die(error)
        except BaseException as error:
            failure = ClientRequestError("ERR_FAILED", f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            self.die(failure)
        self._close()

    def _move(self, phase: Phase) -> None:
        self.phase = phase  # by ``_lifecycle.MOVES``, which the tests hold every move against

    def _transact(self) -> None:
        hop = self._hop
        assert hop is not None
        head = self._round_trip(hop)
        self._deliver(hop, head)

    def _round_trip(self, hop: Hop) -> ResponseHead:
        """Send the request of one hop and give back the final head."""
        try:
            return self._converse(hop, fresh=False)
        except (OSError, ValueError) as error:
            if not self._may_retry():
                mapped = map_error(error, hop.target.authority)
                raise mapped from mapped.__cause__  # "from None" would take its cause away
        # The server closed an idle connection just when it was used again (RFC 9112, 9.3.1).
        self.step("retry")
        self._drop_wire()
        try:
            return self._converse(hop, fresh=True)
        except (OSError, ValueError) as error:
            mapped = map_error(error, hop.target.authority)
            raise mapped from mapped.__cause__

    def _may_retry(self) -> bool:
        wire = self._wire
        return (
            wire is not None
            and wire.reused
            and wire.received == 0
            and not self._fate
            and not self._timed_out
            and self.outbox.rewind()
        )

    _timed_out = False

    def _converse(self, hop: Hop, fresh: bool) -> ResponseHead:
        self._move(Phase.CONNECTING)
        self._heads = HeadReader()
        self._final = None
        self._continued = self._body_sent = False
        if self._timeout.connect is not None:
            self._connect_deadline = time.monotonic() + self._timeout.connect
        self._wire = self._pools.connect(hop.target, self, fresh)
        self._move(Phase.SENDING)
        self.step("send")
        try:
            self._send_request(hop)
        except OSError as error:
            # The server may have answered before it closed; what it said counts more.
            if isinstance(error, (RequestTimeout, ProtocolError)) or self._fate or not self._find_head_after(error):
                raise
        return self._await_head()

    def _drop_wire(self) -> None:
        if self._wire is not None:
            self._wire.discard()
            self._wire = None

    # --- sending ---

    def _send_request(self, hop: Hop) -> None:
        """Send head and body; comes back early when a final head has come."""
        outbox = self.outbox
        head = encode_request_head(hop.method, hop.target.path, self._fields(hop))
        if not hop.sends_body or outbox.mode is BUFFERED:
            self._send_buffered(hop, head)
        elif self._expects_continue(hop):
            self._send([head])
            if self._await_continue():
                self._send_stream(b"")
        else:
            self._send_stream(head)

    def _fields(self, hop: Hop) -> str:
        """The header lines: Host first (RFC 9110, 7.2), the caller's in their order, the framing last."""
        headers, outbox = hop.headers, self.outbox
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
        self.step("await-continue")
        until = time.monotonic() + CONTINUE_WAIT
        while not self._continued and self._final is None:
            left = until - time.monotonic()
            if left <= 0:
                return True
            if self._wait_readable(time.monotonic() + left):
                self._receive_head()
        return self._final is None

    def _send_buffered(self, hop: Hop, head: bytes) -> None:
        if not hop.sends_body:
            self._body_taken()
            self._body_sent = self._send([head])
            return
        blocks = self.outbox.blocks()
        if self._expects_continue(hop):
            self._body_taken()
            self._send([head])
            if not self._await_continue():
                return
            batch: list[Bytes] = []
        else:
            batch = [head]
        before, size = len(head) if batch else 0, 0
        self._body_taken()
        for block in blocks:
            batch.append(block)
            size += len(block)
            if size >= 256 * 1024:
                if not self._send(batch, before, size) or self._answered():
                    return
                batch, before, size = [], 0, 0
        self._body_sent = not batch or self._send(batch, before, size)

    def _send_stream(self, head: bytes) -> None:
        """Send what is written, as it is written, until the body ends or the server has answered."""
        outbox = self.outbox
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
                buffers: list[Bytes] = [prefix, *batch] if prefix else list(batch)
                if chunked:
                    buffers.append((b"\r\n" if size else b"") + (LAST_CHUNK if last else b""))
                head = b""
                if not self._send(buffers, len(prefix), size):
                    return
                if last:
                    self._body_sent = True
                    return
                if self._answered():
                    return
            elif not self._await_writer():
                return

    def _await_writer(self) -> bool:
        """Wait for more to be written; false once the server has answered."""
        outbox = self.outbox
        try:
            while True:
                # Said anew each time: a writer on its way to wake us for the last time may have taken it back.
                outbox.starving = True
                if outbox.has_more():
                    return True
                self.step("await-writer")
                assert self._wire is not None
                ready = self._wait(self._wire.sock, READ, None)
                if ready & READ and self._receive_head():
                    return False
                self._send_drain()
        finally:
            outbox.starving = False

    def _answered(self) -> bool:
        """Whether a final head is here already; does not wait."""
        wire, waiter = self._wire, self._waiter
        assert wire is not None
        assert waiter is not None
        self._check()
        ready = waiter.wait(wire.sock, READ, 0)
        self._check()
        return bool(ready & READ) and self._receive_head()

    def _send(self, buffers: Sequence[Bytes], before: int = 0, size: int = 0) -> bool:
        """Send all of ``buffers``, of which ``size`` bytes after the first ``before`` are body.

        False, with the rest unsent, when a final head comes first.
        """
        wire = self._wire
        assert wire is not None
        pending = wire.fit([buffer for buffer in buffers if buffer])
        self.body_started = self.body_started or size > 0
        sent = counted = 0
        until: Optional[float] = None
        while pending:
            count = wire.send(pending)
            if count:
                until = None
                pending = _unsent(pending, count)
                sent += count
                body = min(max(sent - before, 0), size)
                if body > counted:
                    self._advance(body - counted)
                    counted = body
                continue
            if until is None:
                until = self._until(self._timeout.write)
                self.step("send-blocked")
            ready = self._wait(wire.sock, READ | wire.want, until, "ERR_TIMED_OUT", "sending")
            if ready & READ and self._receive_head():
                return False
        return True

    def _advance(self, count: int) -> None:
        self.outbox.advance(count)
        self._send_drain()
        self._report_upload(last=False)

    def _send_drain(self) -> None:
        if self.outbox.need_drain and self.outbox.drain_due():
            self._emit("drain")

    def _report_upload(self, last: bool) -> None:
        owner = self._current_owner()
        if owner is None or not owner._emitter.has("upload-progress"):
            return
        now = time.monotonic()
        if last or now - self._upload_reported >= PROGRESS_PERIOD:
            self._upload_reported = now
            self._emit("upload-progress", self.outbox.position, self.upload_total)

    @property
    def upload_total(self) -> int:
        """Bytes of the whole body, 0 while nobody knows."""
        outbox = self.outbox
        if outbox.length is not None:
            return outbox.length
        return outbox.taken if outbox.ended else 0

    def _call_receipts(self) -> None:
        for receipt in self.outbox.due_receipts():
            self._call_back(receipt, None)

    def _call_back(self, receipt: Receipt, error: Optional[ClientRequestError]) -> None:
        # Asked when it runs: with a dispatcher the request may have died meanwhile.
        self.strand.run(lambda: self._run_receipt(receipt, error or self.failure))
        if self.strand.inline and error is None:
            self._check()

    def _run_receipt(self, receipt: Receipt, error: Optional[ClientRequestError]) -> None:
        try:
            receipt(error)
        except BaseException as raised:
            if error is None:
                self._listener_raised("write or end callback", raised)
            else:
                report(raised)

    def _body_taken(self) -> None:
        """All of the body is with us: ``finish``, once however often it is sent."""
        if not self.finished:
            self.finished = True
            self._call_receipts_at_end()
            self._emit("finish")

    def _call_receipts_at_end(self) -> None:
        for receipt in self.outbox.all_receipts():
            self._call_back(receipt, None)

    # --- receiving the head ---

    def _await_head(self) -> ResponseHead:
        """The final head, which may be here already."""
        final = self._final
        if final is None:
            self._move(Phase.WAITING)
            self.step("await-head")
            until = self._until(self._timeout.read)
            while final is None:
                if self._wait_readable(until, "the response"):
                    self._receive_head()
                final = self._final
        return final

    def _wait_readable(self, until: Optional[float], what: str = "") -> bool:
        """Wait for bytes; without ``what``, reaching ``until`` is no error but false."""
        assert self._wire is not None
        code = "ERR_TIMED_OUT" if what else None
        return bool(self._wait(self._wire.sock, READ, until, code, f"waiting for {what}") & READ)

    def _receive_head(self) -> bool:
        """Take in what is there; true once the final head is complete."""
        wire, heads = self._wire, self._heads
        assert wire is not None
        data = wire.recv(65536)
        if data is None:
            return False
        if not data:
            self._check()
            raise heads.eof()
        heads.feed(data)
        while True:
            head = heads.next_head()
            if head is None:
                return False
            if head.status >= 200 or head.status == 101:
                self._final = head
                return True
            self._interim(head)

    def _interim(self, head: ResponseHead) -> None:
        self._interims += 1
        if self._interims > MAX_INTERIM:
            raise ProtocolError("ERR_INVALID_HTTP_RESPONSE", f"more than {MAX_INTERIM} interim responses")
        if head.status == 100:
            self._continued = True
        owner = self._current_owner()
        if owner is not None and owner._emitter.has("information"):
            headers: dict[str, list[str]] = {}
            for name, value in head.headers:
                headers.setdefault(name.lower(), []).append(value)
            self._emit("information", head.status, head.reason, headers)
        if head.status == 100:
            self._emit("continue")

    def _find_head_after(self, error: OSError) -> bool:
        """Sending failed: look for an answer that came before the connection broke."""
        try:
            while not self._receive_head():
                assert self._wire is not None
                # A broken connection is readable at once: either bytes, or the error itself.
                if not self._wait_readable(time.monotonic() + CONTINUE_WAIT):
                    return False
        except (TransferError, ProtocolError) as second:
            if isinstance(second, ProtocolError):
                raise
            return False
        except OSError:
            return False
        return True

    # --- the response ---

    def _deliver(self, hop: Hop, head: ResponseHead) -> None:
        wire = self._wire
        assert wire is not None
        if not self._body_sent:
            self._stop_upload()
        keep = self._body_sent and keeps_alive(head) and "close" not in (hop.headers.line("connection") or "").lower()
        incoming = Incoming(
            head,
            hop.method,
            hop.target.authority,
            wire,
            keep,
            self,
            self._decode,
            self._timeout.read,
            _idle_limit(head),
        )
        self._wire = None  # the body's from now on
        self._wire_of_body = wire
        self._move(Phase.READING)
        self._report_upload(last=True)
        self.outbox.forget_replay()
        owner = self._current_owner()
        if owner is not None:
            self._announced = owner._emitter.has("response")
        self.incoming = incoming
        incoming.start(self._heads.take_rest())
        self.step("response")
        self._response_out = True
        if not self._ends_at_once(owner, incoming):
            self.news.notify()
        self._announce(owner, incoming)

    _wire_of_body: Optional[Wire] = None

    def _ends_at_once(self, owner: Optional[Owner], incoming: Incoming) -> bool:
        """Whether nothing is left but to close: then whoever waits for the head is told at the end.

        Told now, it would run, and likely start its next request, before this worker is parked and can take it.
        """
        quiet = owner is None or not (self._announced or owner._emitter.has("close"))
        return quiet and incoming.done and self.strand.inline and not signals.request_closed.receivers

    def _announce(self, owner: Optional[Owner], incoming: Incoming) -> None:
        """Send ``response``; from here on the request lives only as long as somebody can do something with it."""
        if owner is not None and (self._announced or signals.response_received.receivers):
            response = owner._response_for(incoming)
            self._observe(signals.response_received, response=response)
            self._emit("response", response)
        if not self._abandoned:
            self._owner = None

    def _stop_upload(self) -> None:
        """An early answer: nobody wants the rest of the body (RFC 9112, 9.6)."""
        self.outbox.drop()
        self._refuse_receipts()

    def _refuse_receipts(self) -> None:
        """Tell those who wrote what will never be sent."""
        for receipt in self.outbox.all_receipts():
            error = TransferError("ERR_CONNECTION_CLOSED", "the server answered before this part of the body was sent")
            self._call_back(receipt, self.failure or error)

    def refuse(self) -> None:
        """Have the callbacks of dropped chunks called; after ``close`` on a worker of their own. Any thread."""
        if not self.closed:
            self.wake()
            return
        with contextlib.suppress(IndexError):
            self._unrefusing.pop()
            crew.run(self._refuse_late)

    def _refuse_late(self, worker: Worker) -> None:
        self._refuse_receipts()
        self._unrefusing.append(True)
        if self.outbox.receipts:
            self.refuse()

    def _attend(self) -> None:
        """See to the response until it is read, thrown away, or nobody can do either any more."""
        incoming = self.incoming
        assert incoming is not None
        while True:
            self.step("attend")
            if self.outbox.receipts:
                self._refuse_receipts()
            if not self.strand.inline and incoming.face is EVENTS and self.strand.busy():
                self._wait(None, 0, None)  # one ``data`` at a time, or a slow loop would fill the memory
            elif incoming.face is EVENTS and incoming.flowing:
                if not self._pump(incoming):
                    return
            elif incoming.broken is not None:
                raise incoming.broken
            elif incoming.done and (incoming.face is FILE or (incoming.face is None and not self._announced)):
                self._report_download(incoming, last=True)
                return
            elif self._nobody_reads(incoming):
                incoming.discard()
                return
            else:
                self._await_reader(incoming)

    def _pump(self, incoming: Incoming) -> bool:
        """One piece to the ``data`` listeners; false after ``end``."""
        piece = incoming.next_piece()
        if piece is None:
            until = self._until(self._timeout.read)
            assert self._wire_of_body is not None
            self._wait(self._wire_of_body.sock, READ, until, "ERR_TIMED_OUT", "waiting for the body")
        elif piece:
            self._report_download(incoming, last=False)
            data = incoming.present(piece)
            if data:  # half a character alone is no text yet
                self._emit_response("data", data)
        else:
            self._report_download(incoming, last=True)
            rest = incoming.present(b"", last=True)
            if rest:
                self._emit_response("data", rest)
            self._emit_response("end")
            return False
        return True

    def _await_reader(self, incoming: Incoming) -> None:
        """Read ahead what may be read ahead, and wait for the user's next move."""
        wants = incoming.wants_more()
        wire = self._wire_of_body
        assert wire is not None
        # Somebody waits for the end: a server that says nothing more must not keep him waiting for ever.
        until = self._until(self._timeout.read) if wants and self.awaited else None
        ready = self._wait(
            wire.sock if wants else None, READ if wants else 0, until, "ERR_TIMED_OUT", "waiting for the body"
        )
        if ready & READ:
            incoming.read_ahead()
        if incoming.face is FILE:
            self._report_download(incoming, last=False)

    def _nobody_reads(self, incoming: Incoming) -> bool:
        """Whether the body can be thrown away: no listener, nobody holds the response, nobody can ask for it."""
        if incoming.closed:
            return True
        if incoming.face is EVENTS and incoming.flowing:
            return False
        owner = self._weak_owner() if not self._abandoned else None
        if owner is None:
            return True
        if self.strand.busy() or owner._response_alive():
            return crew.closing and program_has_ended()
        if self.awaited and not self.taken and not incoming.may_fit():
            return True
        return crew.closing and program_has_ended()

    def _report_download(self, incoming: Incoming, last: bool) -> None:
        owner = self._current_owner()
        if owner is None:
            return
        if not incoming.emitter.has("download-progress"):
            return
        now = time.monotonic()
        if last or now - self._download_reported >= PROGRESS_PERIOD:
            self._download_reported = now
            self._emit_response("download-progress", incoming.received, incoming.total)

    # --- waiting; on the worker ---

    def _until(self, limit: Optional[float]) -> Optional[float]:
        return None if limit is None else time.monotonic() + limit

    def _wait(self, sock: Any, events: int, until: Optional[float], code: Optional[str] = None, what: str = "") -> int:
        """Wait for ``events`` on a socket, or for ``wake``: what holds. Raises once the request is over.

        Reaching ``until`` gives 0 without a ``code``, and is the request's end with one; the total timeout always is.
        """
        waiter = self._waiter
        assert waiter is not None
        while True:
            self._check()
            timeout = self._time_left(until, code, what)
            if timeout is not None and timeout <= 0:
                return 0
            if crew.closing:
                self._check_program()
                timeout = EXIT_PERIOD if timeout is None else min(timeout, EXIT_PERIOD)
            ready = waiter.wait(sock, events, timeout)
            if ready:
                self._check()
                return ready
            if crew.closing:
                return WOKEN

    def _time_left(self, until: Optional[float], code: Optional[str], what: str) -> Optional[float]:
        deadline = self.deadline
        if until is None and deadline is None:
            return None
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise self._timeout_error("ERR_TIMED_OUT", f"the total timeout of {self._timeout.total} s is over")
        if until is not None and now >= until:
            if code is None:
                return 0.0
            raise self._timeout_error(code, f"timeout while {what}")
        ends = [end for end in (until, deadline) if end is not None]
        return min(ends) - now

    def _timeout_error(self, code: str, detail: str) -> RequestTimeout:
        self._timed_out = True
        where = self._hop.target.authority if self._hop is not None else ""
        return RequestTimeout(code, f"{where}: {detail}")

    def _check_program(self) -> None:
        """At interpreter exit: a request that nobody is left to end cannot be waited for."""
        if self.outbox.ended or self.incoming is not None or not program_has_ended():
            return
        warnings.warn("a request was not ended when the program ended; it is aborted", ResourceWarning, stacklevel=2)
        self.die(AbortedError("ERR_ABORTED", "the program ended without end()"))
        self._check()

    # --- events; on the worker ---

    def _current_owner(self) -> Optional[Owner]:
        return self._owner or self._weak_owner()

    def _emit(self, name: str, *args: object) -> None:
        owner = self._current_owner()
        if owner is not None and owner._emitter.has(name):
            self._post(owner._emitter, name, args)

    def _emit_response(self, name: str, *args: object) -> None:
        incoming = self.incoming
        if incoming is not None and incoming.emitter.has(name):
            self._post(incoming.emitter, name, args)

    def _post(self, emitter: Emitter, name: str, args: tuple[object, ...]) -> None:
        closing = name in CLOSING_EVENTS

        def task() -> None:
            if self.failure is not None and not closing:
                return
            if name == "aborted" and self._end_told:
                return  # who was told of the end has all of the body
            self._end_told = self._end_told or name == "end"
            error = emitter.emit(name, *args)
            if error is not None:
                if closing:
                    report(error)
                else:
                    self._listener_raised(f"{name!r} listener", error)

        self.strand.run(task)
        if self.strand.broken is not None and not closing:
            failure = ListenerError("ERR_FAILED", f"the dispatcher raised: {self.strand.broken!r}")
            failure.__cause__ = self.strand.broken
            self.die(failure)
        if self.strand.inline and not closing:
            self._check()

    def _listener_raised(self, who: str, error: BaseException) -> None:
        failure = ListenerError("ERR_FAILED", f"a {who} raised {type(error).__name__}: {error}")
        failure.__cause__ = error
        if not self.die(failure):
            report(error)

    def _observe(self, signal: Any, **details: object) -> None:
        if signal.receivers:
            owner = self._current_owner()
            if owner is not None:
                self.strand.run(lambda: observe(signal, owner, **details))

    # --- the end ---

    def _close(self) -> None:
        """Let go of everything and send the last events. Once, whatever happened before."""
        self.phase = Phase.CLOSED
        self._drop_wire()
        if self.incoming is not None:
            self.incoming.close_wire()
        self.cover()
        failure = self.failure
        self._refuse_receipts()
        self.outbox.close()
        try:
            if isinstance(failure, AbortedError):
                self._observe(signals.request_aborted)
                self._emit("abort")
                if self._response_out:
                    self._emit_response("aborted")
            elif failure is not None:
                self._observe(signals.request_failed, error=failure)
                self._emit_error(failure)
            else:
                self._observe_finished()
            if self._response_out:
                self._emit_response("close")
            self._emit("close")
            self._observe(signals.request_closed)
        finally:
            self.strand.run(self._closed)

    def _observe_finished(self) -> None:
        owner, incoming = self._current_owner(), self.incoming
        if owner is not None and incoming is not None and signals.request_finished.receivers:
            self._observe(signals.request_finished, response=owner._response_for(incoming))

    def _emit_error(self, error: ClientRequestError) -> None:
        incoming, owner = self.incoming, self._current_owner()
        if self._response_out and incoming is not None and incoming.emitter.has("error"):
            self.error_seen = True
            self._emit_response("error", error)
        elif owner is not None and owner._emitter.has("error"):
            self.error_seen = True
            self._emit("error", error)

    def _closed(self) -> None:
        self.closed = True
        self._registry.discard(self)
        _live.discard(self)
        owner, self._owner = self._owner, None
        # What is left is freed as soon as nobody holds it: no cycles.
        self.outbox.wake = _nothing
        self.strand.forget()
        self._wire_of_body = None
        if self.incoming is not None:
            self.incoming.detach(self.failure)
        self.news.notify()
        if self.outbox.receipts:
            self.refuse()
        if self._abandoned and owner is not None and self.failure is not None and not self.error_seen:
            owner._error_unseen(self.failure)


def _nothing() -> None:
    pass


def _unsent(buffers: list[Bytes], sent: int) -> list[Bytes]:
    """What is left of ``buffers`` after ``sent`` bytes."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[index + 1 :]] if sent else buffers[index:]
        sent -= len(buffer)
    return []


def _idle_limit(head: ResponseHead) -> Optional[float]:
    """How long the server keeps the connection, less a second for the way (``Keep-Alive: timeout=5``)."""
    for item in head.tokens("keep-alive"):
        name, _, value = item.partition("=")
        if name.strip() == "timeout" and value.strip().isdigit():
            return max(0.0, int(value.strip()) - 1.0)
    return None


# Everything that a worker carries, for the hooks at exit and at fork.
_live: set[Exchange] = set()


def _at_exit() -> None:
    # After Ctrl-C nobody wants to wait for uploads; in an interactive session last_type belongs to an old error.
    interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")
    for exchange in tuple(_live):
        if interrupted:
            exchange.abort()
        else:
            exchange.wake()


def _after_fork_in_child() -> None:
    """The parent's requests go on in the parent; the child lets go of its copies of their descriptors."""
    for exchange in tuple(_live):
        error = AbortedError("ERR_ABORTED", "the request belongs to another process")
        exchange._fate.setdefault("cause", error)
        exchange._exposed.clear()
    _live.clear()


crew.at_exit = _at_exit
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
