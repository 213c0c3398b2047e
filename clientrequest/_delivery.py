"""From the response head to its end: who takes the body, and what when nobody can any more."""

from __future__ import annotations

import time

from ._errors import AbortedError
from ._incoming import EVENTS, FILE, PROGRESS_PERIOD, Incoming
from ._life import Life
from ._wire import Wire
from ._workers import READ, crew, program_has_ended


class Delivery:
    """Sees to one response on the worker.

    Args:
        life: of the request.
        incoming: the response.
        wire: what it comes over, to wait for.
        announced: whether a ``response`` listener was told, who may still choose how to take the body.
    """

    def __init__(self, life: Life, incoming: Incoming, wire: Wire, announced: bool) -> None:
        self._life = life
        self._incoming = incoming
        self._wire = wire
        self._announced = announced
        self._reported = 0.0

    def attend(self) -> None:
        """See to the response until it is read, thrown away, or nobody can do either any more."""
        life, incoming = self._life, self._incoming
        while True:
            life.step("attend")
            if life.outbox.receipts:
                life.refuse_receipts()
            life.send_drain()
            face = incoming.face
            if face is EVENTS and not life.strand.inline and life.strand.busy():
                life.await_listeners()  # one ``data`` at a time, or a slow loop would fill the memory
            elif face is EVENTS and incoming.flowing and not incoming.closed:
                if not self._pump(incoming):
                    return
            elif incoming.broken is not None:
                raise incoming.broken
            elif incoming.done and (face is FILE or (not self._may_listen() and incoming.settle())):
                self._report_download(incoming, last=True)
                return
            elif self._nobody_reads(incoming) and (incoming.settle() or self._nobody_reads(incoming)):
                if crew.closing and incoming.turn.locked():  # a daemon thread is reading, and cannot be waited for
                    life.die(AbortedError("ERR_ABORTED", "the program ended"))
                    life.check()
                incoming.discard()
                return
            else:
                self._await_reader(incoming)

    def _pump(self, incoming: Incoming) -> bool:
        """One piece to the ``data`` listeners; false after ``end``."""
        piece = incoming.next_piece()
        if piece is None:
            until = self._life.until(self._life.timeout.read)
            self._life.wait(self._wire.sock, READ, until, "ERR_TIMED_OUT", "waiting for the body")
        elif piece:
            self._report_download(incoming, last=False)
            data = incoming.present(piece)
            if data:  # half a character alone is no text yet
                self._life.emit_response("data", data)
        else:
            self._report_download(incoming, last=True)
            rest = incoming.present(b"", last=True)
            if rest:
                self._life.emit_response("data", rest)
            if self._life.login_error is None:
                self._life.emit_response("end")
            else:
                self._life.emit_error(self._life.login_error)
            return False
        return True

    def _await_reader(self, incoming: Incoming) -> None:
        """Read ahead what may be read ahead, and wait for the user's next move."""
        wants = incoming.wants_more()
        wire = self._wire
        # Somebody waits for the end: a server that says nothing more must not keep him waiting for ever.
        until = self._life.until(self._life.timeout.read) if wants and self._life.awaited else None
        ready = self._life.wait(
            wire.sock if wants else None, READ if wants else 0, until, "ERR_TIMED_OUT", "waiting for the body"
        )
        if ready & READ:
            incoming.read_ahead()
        if incoming.face is FILE:
            self._report_download(incoming, last=False)

    def _may_listen(self) -> bool:
        """Whether somebody was given the response by its event, and may still ask for its ``data``."""
        if not self._announced:
            return False
        owner = self._life.current_owner()
        return self._life.strand.busy() or (owner is not None and owner._response_alive())

    def _nobody_reads(self, incoming: Incoming) -> bool:
        """Whether the body can be thrown away: no listener, nobody holds the response, nobody can ask for it."""
        if incoming.closed:
            return True
        if incoming.face is EVENTS and incoming.flowing:
            return False
        owner = self._life.current_owner() if not self._life.abandoned else None
        if owner is None:
            return True
        if self._life.strand.busy() or owner._response_alive():
            return crew.closing and program_has_ended()
        if self._life.awaited and not self._life.taken and not incoming.may_fit():
            return True
        return crew.closing and program_has_ended()

    def _report_download(self, incoming: Incoming, last: bool) -> None:
        if not incoming.emitter.has("download-progress") or self._life.current_owner() is None:
            return
        now = time.monotonic()
        if last or now - self._reported >= PROGRESS_PERIOD:
            self._reported = now
            self._life.emit_response("download-progress", incoming.received, incoming.total)
