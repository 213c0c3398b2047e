"""A response body on its way in: from the wire through framing and decoding to whoever takes it.

Three may read, never two at a time: the worker ahead of the user (at most ``READ_AHEAD`` bytes), the worker for the
``data`` event, or the user's own thread in the file face, which reads the socket itself. ``turn`` is the lock between
them. Once the file face is chosen the worker keeps its hands off the connection.
"""

from __future__ import annotations

import codecs
import io
import threading
import time
from collections import deque
from typing import Any, Callable, Optional, Protocol, TypeVar, Union

from ._decoding import Decoder, make_decoder
from ._errors import AbortedError, ClientRequestError, InvalidStateError, RequestTimeout, TransferError
from ._events import Emitter
from ._gates import SLICE
from ._http1 import BodyFraming, Headers, ResponseHead, body_framing
from ._lifecycle import RESPONSE_EVENTS
from ._mapping import map_error, raise_mapped
from ._wire import Wire

READ_AHEAD = 64 * 1024  # bytes read before anybody asks for them
# Bytes read at once where they are asked for: whole records of TLS, and less than the 128 KiB from which on C libraries
# have the system make the memory of each block anew, and take it back.
BLOCK = 7 * 16 * 1024

PROGRESS_PERIOD = 0.1  # seconds between two progress events

EVENTS, FILE = "events", "file"

ArgumentT = TypeVar("ArgumentT")


class Carrier(Protocol):
    """What a body needs of the exchange that carries it."""

    @property
    def failure(self) -> Optional[ClientRequestError]:
        """What the request died of."""

    @property
    def deadline(self) -> Optional[float]:
        """When the whole transaction must be over, on the monotonic clock."""

    def die(self, error: ClientRequestError) -> bool: ...

    def wake(self) -> None: ...


class _Ended:
    """Stands where the exchange stood, once that is over."""

    deadline: Optional[float] = None

    def __init__(self, failure: Optional[ClientRequestError]) -> None:
        self.failure = failure

    def die(self, error: ClientRequestError) -> bool:
        if self.failure is None:
            self.failure = error
        return self.failure is error

    def wake(self) -> None:
        pass


class Incoming:
    """One response: its head, and its body as far as it has come.

    Args:
        head: the final head.
        method: of the request that it answers.
        where: host and port, for messages.
        wire: the connection, in this object's hands from now on; given back when the body is whole.
        reusable: whether the connection may serve another request after this body.
        carrier: the exchange.
        decode: whether to undo ``Content-Encoding``.
        read_timeout: seconds without a byte.
        idle_limit: seconds for which the server keeps the connection afterwards, ``None`` if it does not say.
    """

    # How every response begins.
    buffered: int = 0  # bytes in ``buffer``
    received: int = 0  # bytes of the body that came off the network, before decoding
    done: bool = False  # nothing more will come off the network
    complete: bool = False  # and what came was all of it
    discarded: bool = False
    flowing: Optional[bool] = None  # None: nobody has said
    closed = False  # by the user, as a file
    settled: bool = False  # left to readers; see ``settle``
    text_decoder: Optional[codecs.IncrementalDecoder] = None
    broken: Optional[ClientRequestError] = None  # what is wrong with what was read ahead
    _progress_told = 0.0
    _lent = 0.0  # seconds for which a receive waits
    _reader: Optional[io.BufferedReader] = None

    def __init__(
        self,
        head: ResponseHead,
        method: str,
        where: str,
        wire: Wire,
        reusable: bool,
        carrier: Carrier,
        decode: bool,
        read_timeout: Optional[float],
        idle_limit: Optional[float],
    ) -> None:
        self.head = head
        self.method = method
        self.framing: BodyFraming = body_framing(head, method)
        self.buffer: deque[bytes] = deque()  # decoded, and not taken yet
        self.emitter: Emitter = Emitter(RESPONSE_EVENTS)
        self.turn: threading.Lock = threading.Lock()  # who may touch wire, framing, decoder and buffer
        self.wire = wire  # kept for what it knows when it was let go of
        self._where = where
        self._reusable = reusable
        self._carrier = carrier
        self._read_timeout = read_timeout
        self._slice: float = SLICE if read_timeout is None else min(SLICE, read_timeout)  # seconds of a first wait
        self._idle_limit = idle_limit
        self._face: dict[str, str] = {}
        self._decoder: Optional[Decoder] = make_decoder(head.tokens("content-encoding")) if decode else None

    # --- faces ---

    @property
    def face(self) -> Optional[str]:
        return self._face.get("chosen")

    def choose(self, face: str) -> None:
        """The body is taken this way from now on. Raises ``InvalidStateError`` if it is taken the other way."""
        if self._face.setdefault("chosen", face) is not face:
            if self.settled:
                self.refuse_events("this")
            taken, wanted = ("read as a file", "events") if face is EVENTS else ("taken by events", "reading")
            raise InvalidStateError(f"the response is {taken} already; {wanted} cannot be used as well")

    def settle(self) -> bool:
        """Leave the body to those who read it as a file. False if events were asked for: they must come then.

        On the worker, before it leaves: what is asked for later is refused, or nothing would ever come of it.
        """
        if not self._face and self._face.setdefault("chosen", FILE) is FILE:
            self.settled = True
        return self._face["chosen"] is FILE

    @staticmethod
    def refuse_events(what: str) -> None:
        raise InvalidStateError(
            f"{what}: the body is here already and the request is closed, so no event will come; read() it, "
            "or add listeners in a 'response' listener"
        )

    def flow(self, flowing: bool) -> None:
        """Start or stop the ``data`` events."""
        if flowing:
            self.choose(EVENTS)
        self.flowing = flowing
        self._carrier.wake()

    @property
    def trailers(self) -> Headers:
        return self.framing.trailers if self.complete else []

    @property
    def total(self) -> int:
        """The announced length of the body, 0 where there is none."""
        return self.framing.length or 0

    # --- taking from the wire; with the turn ---

    def start(self, rest: bytes) -> None:
        """Begin with what came behind the head, and with whatever else is there already."""
        try:
            with self.turn:
                self._accept(rest)
                if self.framing.complete:
                    self._fill(READ_AHEAD)
                    if self._decoder is None:
                        self._finish()
        except (OSError, ValueError) as error:
            self.broken = map_error(error, self._where)
        if not self.done:
            self.read_ahead()

    def _accept(self, data: bytes) -> None:
        """Take bytes from the network apart; what is body lands in the decoder or in the buffer."""
        count = len(data)
        if not count:
            return
        framing = self.framing
        if count <= framing.direct:  # all of it is body
            framing.advance(count)
            body = data
        else:
            pieces = framing.feed(data)
            if not pieces:
                return
            first = pieces[0]
            body = first if len(pieces) == 1 and isinstance(first, bytes) else b"".join(pieces)
        self._count(len(body))
        if self._decoder is not None:
            self._decoder.feed(body)
        else:
            self._keep(body)

    def _count(self, count: int) -> None:
        self.received += count
        if self.emitter.used and self._face.get("chosen") is FILE and self.emitter.has("download-progress"):
            now = time.monotonic()
            if now - self._progress_told >= PROGRESS_PERIOD:
                self._progress_told = now
                self._carrier.wake()  # the worker sends the event

    def _keep(self, piece: bytes) -> None:
        self.buffer.append(piece)
        self.buffered += len(piece)

    def _take(self) -> bytes:
        piece = self.buffer.popleft()
        self.buffered -= len(piece)
        return piece

    def _fill(self, size: int) -> bool:
        """Have something in the buffer; false if nothing has come yet. At the end ``done`` is set instead."""
        while not self.buffer and not self.done:
            carrier = self._carrier
            if carrier.deadline is not None:
                self._check_deadline()  # a server that never pauses is never waited for
            if carrier.failure is not None:
                raise carrier.failure  # nor does a decoder with enough to do meet the end of the connection
            if self._decoder is not None:
                piece = self._decoder.read(size)
                if piece:
                    self._keep(piece)
                    return True
            if self.framing.complete:
                self._finish()
                return True
            data = self.wire.gather(size, self.framing.direct or size)
            if data is None:
                return False
            if data:
                self._accept(data)
            else:
                self._end_of_connection()
        return True

    def _end_of_connection(self) -> None:
        if self._carrier.failure is not None:
            raise self._carrier.failure  # it was ended by an abort, not by the server
        if self.framing.ends_with_connection and self.wire.cut:
            raise TransferError(
                "ERR_CONNECTION_CLOSED", f"{self._where}: TLS was cut inside a body that only its end could have ended"
            )
        self.framing.eof()

    def _finish(self) -> None:
        """The body is whole: let the connection go before anybody is told, so that the next request finds it."""
        if self._decoder is not None:
            self._decoder.finish()
        if self._reusable and not self.framing.surplus and not self.framing.ends_with_connection:
            self.wire.release(self._idle_limit)
        else:
            self.wire.discard()
        self.complete = True
        self.done = True

    def read_ahead(self) -> None:
        """Fetch what is there already, up to the bound. On the worker."""
        # What is wrong with the body is told once the response is out: see ``broken``.
        try:
            with self.turn:
                while self.wants_more() and self._fetch():
                    pass
                if self.framing.complete and self._decoder is None and not self.done:
                    self._finish()  # a body that fills the bound exactly
        except (OSError, ValueError) as error:
            self.broken = map_error(error, self._where)

    def _fetch(self) -> bool:
        """One step of reading ahead: behind what is in the buffer already."""
        room = READ_AHEAD - self.buffered
        waiting, self.buffer = self.buffer, deque()
        try:
            return self._fill(room)
        finally:
            waiting.extend(self.buffer)
            self.buffer = waiting

    def wants_more(self) -> bool:
        """Whether the worker should read ahead."""
        return not self.done and self.broken is None and self.buffered < READ_AHEAD and self.face is not FILE

    def may_fit(self) -> bool:
        """Whether the whole body may yet turn out to be within what is read ahead."""
        return self.wants_more() and self.total <= READ_AHEAD

    def next_piece(self) -> Optional[bytes]:
        """For the ``data`` event, on the worker: the next piece, ``b""`` at the end, ``None`` if it has to wait."""
        with self.turn:
            if self.broken is not None and not self.buffer:
                raise self.broken
            try:
                filled = self._fill(BLOCK)
            except (OSError, ValueError) as error:
                raise_mapped(error, self._where)
            if not filled:
                return None
            return self._take() if self.buffer else b""

    def present(self, piece: bytes, last: bool = False) -> Union[bytes, str]:
        """A piece as the ``data`` listeners want it: text after ``set_encoding``."""
        return piece if self.text_decoder is None else self.text_decoder.decode(piece, last)

    def discard(self) -> None:
        """Nobody wants the rest. A body that is here already leaves its connection usable."""
        with self.turn:
            if not self.done:
                try:
                    self.wire.lend(0.0)  # what is not here yet is not waited for
                    self._drain()
                except (OSError, ClientRequestError):
                    pass  # it is thrown away anyway
            self.discarded = True
            self.done = True
            if not self.complete:  # else it is given back already, or kept for a login
                self.wire.discard()
            self.buffer.clear()
            self.buffered = 0

    def _drain(self) -> None:
        drained = 0
        while not self.done and drained < READ_AHEAD and self._fill(READ_AHEAD):
            while self.buffer:
                drained += len(self._take())

    def close_wire(self) -> None:
        """At the end of the exchange, whatever the end was. On the worker."""
        # The reader leaves the turn within moments: its connection has been shut. The limit is for one that was
        # killed in a way that left the lock behind.
        held = self.turn.acquire(timeout=5.0)
        try:
            self.wire.discard()
            self.done = True
        finally:
            if held:
                self.turn.release()

    def detach(self, failure: Optional[ClientRequestError]) -> None:
        """The exchange is over; what is left to read does not need it, and need not keep it alive."""
        self._carrier = _Ended(failure)

    # --- the file face; on the user's threads ---

    def reader(self) -> io.BufferedReader:
        """The body as the standard library's buffered reader."""
        if self._reader is None:
            self.choose(FILE)
            with self.turn:
                if self._reader is None:
                    self._reader = io.BufferedReader(_RawBody(self), READ_AHEAD)
        return self._reader

    def read_all(self) -> bytes:
        """The rest of the body in one piece."""
        if self._reader is not None:
            return self._reader.read()
        self.choose(FILE)
        return self.read_raw_all()

    def read_raw_all(self) -> bytes:
        pieces: list[bytes] = []
        with self.turn:
            while self._have_piece():
                pieces += self.buffer
                self.buffer.clear()
                self.buffered = 0
                if self.complete:
                    break
        self._tell()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, view: memoryview) -> int:
        """Fill bytes with what comes next; 0 at the end. Reads the socket into them where nothing is in between."""
        with self.turn:
            if not self.buffer and self._decoder is None and not self.done and self.framing.direct and view:
                count = self._blocking(self._receive, view) or 0
            elif self._have_piece():
                count = self._copy_out(view)
            else:
                count = 0
        if self.done:
            self._tell()
        return count

    def _copy_out(self, view: memoryview) -> int:
        piece = self.buffer[0]
        count = min(len(piece), len(view))
        view[:count] = piece if count == len(piece) else memoryview(piece)[:count]
        self._take()
        if count < len(piece):
            self.buffer.appendleft(piece[count:])
            self.buffered += len(piece) - count
        return count

    def _have_piece(self) -> bool:
        """Wait until a piece is in the buffer; false at the end. Raises what the request died of.

        What came before an error can still be read; after an abort nothing can.
        """
        failure = self._carrier.failure
        if isinstance(failure, AbortedError):
            raise failure
        if self.discarded:
            raise InvalidStateError("the body of this response was discarded: nobody took it in time")
        if not self.buffer and not (self.complete and self._carrier.failure is None):
            self._blocking(self._try_to_fill, BLOCK)
        return bool(self.buffer)

    def _try_to_fill(self, size: int) -> Optional[bool]:
        return self._fill(size) or None

    def _receive(self, view: memoryview) -> Optional[int]:
        """One receive of nothing but body; ``None`` if nothing has come yet."""
        framing = self.framing
        count = self.wire.recv_into(view[: framing.direct] if len(view) > framing.direct else view)
        if count is None:
            return None
        if count:
            framing.advance(count)
            self._count(count)
        else:
            self._end_of_connection()
        if framing.complete:
            self._finish()
        return count

    def _blocking(self, attempt: Callable[[ArgumentT], Optional[int]], argument: ArgumentT) -> Optional[int]:
        """Call ``attempt`` until it gives something; the socket itself waits, for a slice at a time."""
        quiet_since: Optional[float] = None
        while True:
            if self._carrier.failure is not None:
                raise self._carrier.failure
            if self.closed:
                raise ValueError("I/O operation on a closed response")
            if self.done:
                return None
            if self.broken is not None:
                raise self._failed(self.broken)
            try:
                limited = quiet_since is not None or self._carrier.deadline is not None
                pause = self._longest_pause(quiet_since) if limited else self._slice
                if pause != self._lent:
                    self.wire.lend(pause)
                    self._lent = pause
                result = attempt(argument)
            except (OSError, ValueError) as error:
                failure = self._failed(error)
                raise failure from failure.__cause__
            if result is not None:
                return result
            if quiet_since is None:
                quiet_since = time.monotonic() - pause

    def _longest_pause(self, quiet_since: Optional[float]) -> float:
        """Seconds for which a receive may wait now. Raises ``RequestTimeout`` when there are none left."""
        pause = SLICE
        if self._read_timeout is not None:
            quiet = 0.0 if quiet_since is None else time.monotonic() - quiet_since
            if quiet >= self._read_timeout:
                raise RequestTimeout("ERR_TIMED_OUT", f"{self._where}: no data for {self._read_timeout} s")
            pause = min(pause, self._read_timeout - quiet)
        if self._carrier.deadline is not None:
            self._check_deadline()
            pause = min(pause, max(0.001, self._carrier.deadline - time.monotonic()))
        return pause

    def _check_deadline(self) -> None:
        deadline = self._carrier.deadline
        if deadline is not None and time.monotonic() >= deadline:
            raise RequestTimeout("ERR_TIMED_OUT", f"{self._where}: the total timeout is over")

    def _failed(self, error: Union[OSError, ValueError]) -> ClientRequestError:
        """Have the request die of this; what comes back is what it died of in fact, the first cause."""
        self._carrier.die(map_error(error, self._where))
        failure = self._carrier.failure
        assert failure is not None
        return failure

    def _tell(self) -> None:
        """The worker has an event to send, and itself to free."""
        if self.done:
            self._carrier.wake()


class _RawBody(io.RawIOBase):
    """What ``io.BufferedReader`` reads from."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        # A view of bytes, always: nobody but the buffered reader asks.
        return self._incoming.read_into(target)

    def readall(self) -> bytes:
        return self._incoming.read_raw_all()
