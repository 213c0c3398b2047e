"""The body of a request on its way from ``write()`` to the worker, counted in bytes.

Writers append under a short lock of their own; the worker takes without it (a deque's ends are atomic), so a
writer that is interrupted can never leave the worker waiting. Each counter has one side that writes it:
``taken`` the writers, ``sent`` and ``position`` the worker.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Callable, Optional, Union

from ._errors import ProtocolError
from ._file_part import FilePart
from ._gates import Gate

MEMORY_LIMIT = 8 * 1024 * 1024  # bytes of a buffered body that stay in memory
FILE_BLOCK = 256 * 1024  # bytes of the temporary file that are read, or written, at once
MOST_CHUNKS = 16384  # chunks the worker takes at once

BUFFERED, CHUNKED, LENGTH = "buffered", "chunked", "length"

Piece = Union[bytes, FilePart]
Receipt = Callable[[Optional[BaseException]], object]


class NotOpenError(Exception):
    """The body has not begun, or is over; the request knows which."""


class Outbox:
    """A body: chunks waiting for the worker, what is kept of them for sending again, and who waits for room.

    Args:
        high: bytes that may wait before a writer has to.
        keep: bytes of a streamed body that are kept for sending again.
    """

    # How every body begins; most of it never changes in a request without one.
    mode = BUFFERED
    length: Optional[int] = None  # announced by the caller
    position = 0  # bytes that the socket took on this hop
    open = False  # between the first write and the end
    written = False  # write() was called, be it with nothing
    ended = False
    started = False  # some of it was given to the network
    finished = False  # all of it is with the worker
    reported = 0.0  # when progress was last told
    dropping = False  # nobody wants the rest
    corked = 0
    need_drain = False
    has_files = False  # parts of files were among the chunks
    _flushing = 0  # threads that wait until all of it is sent, whether there is room or not
    _handed = 0  # bytes the worker has taken, ever
    _again: Sequence[Piece] = ()  # to be sent once more before the live chunks
    _kept_size = 0
    _file: Optional[IO[bytes]] = None
    _spilled = 0  # bytes in it

    def __init__(self, high: int, keep: int) -> None:
        # What put() looks at is in the object itself, where it is found in a third of the time.
        self.taken = 0  # bytes accepted from write()
        self.sent = 0  # of these, bytes that the socket took, on whichever hop got furthest
        self.starving = False  # the worker waits for more
        self._free = -1  # put() looks at nothing else until so many bytes are taken
        self.high = high
        self.low = high // 2
        self.room = Gate()
        self.wake: Callable[[], None] = _nobody
        self.receipts: deque[tuple[int, Receipt]] = deque()  # (bytes before which it is due, callback)
        self._chunks: deque[Piece] = deque()
        self._kept: Optional[list[Piece]] = []
        self._keep = keep
        self._lock = threading.Lock()  # between writers: order and ``taken``

    # --- the writers' side ---

    def admit(self) -> None:
        """Take chunks from now on; ``mode`` and ``length`` are settled."""
        self.open = True
        self._reckon()

    def shut(self) -> None:
        """Take no more chunks."""
        self.open = False
        self._free = -1

    def _reckon(self) -> None:
        if not self.open or self.dropping:
            self._free = -1
        elif self.mode is BUFFERED:
            self._free = max(MEMORY_LIMIT, self._spilled + FILE_BLOCK - 1)
        else:
            self._free = sys.maxsize if self.length is None else self.length

    def put(self, chunk: Piece, receipt: Optional[Receipt] = None) -> bool:
        """Append a chunk; false when the writer should wait for room.

        Raises ``NotOpenError`` before the first write and after the end, ``ProtocolError`` past the announced length;
        then nothing of the chunk is taken.
        """
        size = len(chunk)
        with self._lock:
            taken = self.taken + size
            # Asked before the worker can take it: whether ``drain`` follows does not hang on how fast it is.
            crowded = taken - self.sent > self.high
            if size and receipt is None and taken <= self._free:
                self._chunks.append(chunk)
                self.taken = taken
            elif not self._put_with_care(chunk, size, receipt):
                return True
        if self.starving and not self.corked:
            self.starving = False
            self.wake()
        return not crowded or self.mode is BUFFERED or self.corked > 0

    def _put_with_care(self, chunk: Piece, size: int, receipt: Optional[Receipt]) -> bool:
        """As ``put``, where there is more to look at; false if the chunk was dropped. With the lock."""
        taken = self.taken + size
        if not self.open:
            raise NotOpenError
        if self.length is not None and taken > self.length:
            raise ProtocolError(
                "ERR_CONTENT_LENGTH_MISMATCH", f"{taken} bytes written, {self.length} announced by Content-Length"
            )
        if receipt is not None:
            self.receipts.append((taken, receipt))
        if self.dropping:
            self.taken = self.sent = taken
            return False
        if size:
            self._chunks.append(chunk)
            self.taken = taken
            if self.mode is BUFFERED and taken > MEMORY_LIMIT and taken - self._spilled >= FILE_BLOCK:
                self._spill_or_refuse(size, receipt)
                self._reckon()
        return True

    def put_part(self, part: FilePart) -> bool:
        """As ``put``, for a part of a file."""
        self.has_files = True
        return self.put(part)

    def end(self, receipt: Optional[Receipt] = None) -> None:
        """Nothing more will be written. Raises ``ProtocolError`` if more was announced, and stays open."""
        with self._lock:
            if self.length is not None and self.taken < self.length and not self.dropping:
                raise ProtocolError(
                    "ERR_CONTENT_LENGTH_MISMATCH",
                    f"the body ended after {self.taken} of the {self.length} bytes announced by Content-Length",
                )
            if receipt is not None:
                self.receipts.append((self.taken, receipt))
            self.shut()
            self.corked = 0
            self.ended = True
        self.wake()

    def await_sent(self, over: Callable[[], bool]) -> None:
        """Wait until the socket has what was written so far, or nobody will send it now."""
        goal = self.taken
        with self._lock:
            self._flushing += 1
        try:
            self.room.wait_for(lambda: self.sent >= goal or self.dropping or self.corked > 0 or over())
        finally:
            with self._lock:
                self._flushing -= 1

    @property
    def total(self) -> int:
        """Bytes of the whole body, 0 while nobody knows."""
        if self.length is not None:
            return self.length
        return self.taken if self.ended else 0

    @property
    def waiting(self) -> int:
        """Bytes written that the socket has not taken yet."""
        return 0 if self.dropping else max(0, self.taken - self.sent)

    def has_room(self) -> bool:
        return self.waiting <= self.low or self.dropping

    def _spill_or_refuse(self, size: int, receipt: Optional[Receipt]) -> None:
        """Move what is in memory to the file. Where it takes no more, the last chunk, of ``size``, was not taken."""
        try:
            self._spill()
        except BaseException:
            self._chunks.pop()
            self.taken -= size
            if receipt is not None:
                self.receipts.pop()
            raise

    def _spill(self) -> None:
        if self._file is None:
            # Unbuffered: what a buffer could not get rid of, it would try to write again.
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (closed in close())
        try:
            for block in _joined(self._in_memory()):
                rest = memoryview(block)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except BaseException:
            self._file.truncate(self._spilled)
            self._file.seek(self._spilled)
            raise
        self._spilled = self.taken
        self._chunks.clear()

    def _in_memory(self) -> Iterator[bytes]:
        """The chunks of a buffered body."""
        for chunk in self._chunks:
            assert isinstance(chunk, bytes)
            yield chunk

    # --- the worker's side ---

    def take(self) -> tuple[list[Piece], bool]:
        """All chunks that wait, in order, and whether these are the last ones of the body."""
        if self._again:
            again, self._again = list(self._again), ()
            return again, self.ended and not self._chunks
        ended = self.ended  # asked first: chunks that come later belong to a later call
        if self.corked and not ended:
            return [], False
        chunks = self._chunks
        count = min(len(chunks), MOST_CHUNKS)
        batch = [chunks.popleft() for _ in range(count)]
        size = sum(map(len, batch))
        self._handed += size
        if self._kept is not None and batch:
            self._keep_for_replay(batch, size)
        return batch, ended and not chunks

    def _keep_for_replay(self, batch: list[Piece], size: int) -> None:
        assert self._kept is not None
        if self.has_files:  # a part of a file can be read again, and needs no memory until then
            size = sum(len(piece) for piece in batch if isinstance(piece, bytes))
        self._kept_size += size
        if self._kept_size > self._keep:
            self._kept = None
        else:
            self._kept += batch

    def has_more(self) -> bool:
        """Whether ``take`` would give anything new."""
        if self.receipts and self.receipts[0][0] <= self._handed:
            return True  # of an empty chunk
        return bool(self._again) or self.ended or (bool(self._chunks) and not self.corked)

    @property
    def is_sent(self) -> bool:
        """Whether the socket has all that was announced, be it that nobody has said ``end()`` yet."""
        return self.length is not None and self.position == self.length

    def advance(self, count: int) -> None:
        """The socket took ``count`` more bytes."""
        self.position += count
        if self.position > self.sent:
            self.sent = self.position
        if self._flushing or self.has_room():
            self.room.notify()

    def drain_due(self) -> bool:
        """Whether ``drain`` shall be sent, which is then taken as done."""
        due = self.need_drain and self.has_room()
        if due:
            self.need_drain = False
        return due

    def due_receipts(self) -> Iterator[Receipt]:
        """The callbacks of the chunks that were taken, each once."""
        while self.receipts and self.receipts[0][0] <= self._handed:
            yield self.receipts.popleft()[1]

    def all_receipts(self) -> Iterator[Receipt]:
        """The callbacks that are left, each once."""
        while self.receipts:
            yield self.receipts.popleft()[1]

    def blocks(self) -> Iterator[bytes]:
        """A buffered body from its beginning, as often as it is asked for."""
        self._handed = self.taken
        if self._file is not None:
            self._file.seek(0)
            while True:
                block = self._file.read(FILE_BLOCK)
                if not block:
                    break
                yield block
        yield from self._in_memory()

    def feed(self, update: Callable[[bytes], object]) -> None:
        """Give a body that ``is_known`` to ``update``, in pieces."""
        if self.mode is BUFFERED:
            pieces: Iterable[Piece] = self.blocks()
        else:
            pieces = [*(self._kept or ()), *self._chunks]
        for piece in pieces:
            while isinstance(piece, FilePart):
                update(block := piece.read(FILE_BLOCK))
                piece = piece.after(len(block)) or b""
            update(piece)

    @property
    def is_known(self) -> bool:
        """Whether all of it is here, before any of it is sent on this hop."""
        return self.mode is BUFFERED or (self.ended and self._kept is not None)

    def rewind(self) -> bool:
        """Be ready to send the body from its beginning; false if too much of it has been let go."""
        self.position = 0
        if self.mode is BUFFERED:
            return True
        if self._kept is None:
            return False
        self._again = list(self._kept)
        return True

    def forget_replay(self) -> None:
        """Nothing will be sent again."""
        self._kept = None
        self._again = ()

    def drop(self) -> None:
        """Nobody wants the rest: let go of it, free the writers, take and drop what they still write."""
        with self._lock:
            self.dropping = True
            self._reckon()
            self._chunks.clear()
            self.sent = self.taken
        self.forget_replay()
        self.room.notify()

    def disown(self) -> None:
        """In a forked child: nothing is written any more, whatever another thread of the parent was about to do."""
        self._lock = threading.Lock()
        self.shut()

    def close(self) -> None:
        """Let go of everything; the request is over."""
        with self._lock:  # a writer may be moving the chunks to the file
            self.dropping = True
            self._reckon()
            self._chunks.clear()
            if self._file is not None:
                self._file.close()
        self.need_drain = False
        self.forget_replay()
        self.room.notify()


def _joined(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces that are worth a call of the system each."""
    batch: list[bytes] = []
    size = 0
    for chunk in chunks:
        batch.append(chunk)
        size += len(chunk)
        if size >= FILE_BLOCK:
            yield b"".join(batch)
            batch, size = [], 0
    yield b"".join(batch)


def _nobody() -> None:
    """Stands in until a worker is there to be woken."""
