"""The life of one request: who may end it, how everybody learns of it, and how its worker waits.

Everything that can end a request goes through ``die``: the first cause wins, is kept in ``_fate``, and takes no lock,
so that ``abort`` works from any thread, signal handler and ``__del__``. The worker notices at its next step, and
unwinds.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import os
import threading
import time
import warnings
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional, Protocol

from ._body import Outbox, Receipt
from ._connect import KillHandle
from ._dispatch import Dispatcher, Strand, report
from ._errors import (
    AbortedError,
    AuthenticationError,
    ClientRequestError,
    InvalidStateError,
    ListenerError,
    RequestTimeout,
    TransferError,
)
from ._events import Emitter, SignalName, is_observed, observe
from ._gates import Gate
from ._incoming import Incoming
from ._lifecycle import CLOSED, CLOSING_EVENTS, Phase
from ._options import Target, Timeout
from ._workers import READ, WOKEN, Waiter, crew, program_has_ended

if TYPE_CHECKING:
    from ._future import ResponseFuture

# With no NullHandler: a failure that nobody heard of reaches stderr even where logging was never set up.
log = logging.getLogger("clientrequest")

ABORT_GRACE = 0.04  # seconds that a wait for the end stays after an abort, for the last events
EXIT_PERIOD = 0.05  # seconds between two looks at whether the program has ended
EXIT_GRACE = 0.5  # seconds that a dispatcher has for its callbacks once the program has ended


class Owner(Protocol):
    """What is seen of the ``ClientRequest`` from down here."""

    _emitter: Emitter

    def _response_for(self, incoming: Incoming) -> Any:
        """The ``IncomingMessage`` for users."""

    def _response_alive(self) -> bool:
        """Whether somebody holds it."""

    def _error_unseen(self, error: ClientRequestError) -> None:
        """Nobody was told of this error."""


class _Success(ClientRequestError):
    """Stands where a cause of death would stand, once nothing can go wrong any more."""


SUCCESS = _Success()


def dropped() -> AbortedError:
    return AbortedError("ERR_ABORTED", "the request was dropped before end()")


class Life:
    """What is left of a request when its way over the network is taken away.

    Args:
        owner: the request; held weakly until its body has ended, see ``hold``.
        outbox: the body.
        timeout: the limits.
        dispatcher: where callbacks run, ``None`` for the worker.
    """

    # How every request begins.
    phase = Phase.NEW
    incoming: Optional[Incoming] = None
    response_out = False  # users know of it
    closed = False
    awaited = False  # somebody waits for the end
    taken = False  # somebody asked for the response
    abandoned = False  # nobody holds the request
    error_seen = False
    timed_out = False
    deadline: Optional[float] = None  # of the whole transaction
    connect_deadline: Optional[float] = None
    target: Optional[Target] = None  # of the present hop
    login_error: Optional[AuthenticationError] = None  # the user cancelled a login: the 401 is the response
    _owner: Optional[Owner] = None
    _future: Optional[ResponseFuture] = None  # that is to be told of the response
    _waiter: Optional[Waiter] = None
    _worker_ident = 0
    _end_told = False
    _traceback: Optional[TracebackType] = None  # of the failure, from where it came

    def __init__(self, owner: Owner, outbox: Outbox, timeout: Timeout, dispatcher: Optional[Dispatcher]) -> None:
        self.outbox = outbox
        self.timeout = timeout
        self.news = Gate()  # for whoever waits for the head or for the end
        self.strand = Strand(contextvars.copy_context(), dispatcher, self.wake)
        self._debug = log.isEnabledFor(logging.DEBUG)
        self._weak_owner = weakref.ref(owner)
        self._pid = os.getpid()
        self._fate: dict[str, ClientRequestError] = {}
        self._exposed: list[KillHandle] = []
        outbox.wake = self.wake

    # --- who holds it ---

    def hold(self, owner: Owner) -> None:
        """Keep the request alive: its body has ended, so it goes on even when nobody holds it."""
        if not self.closed:
            self._owner = owner

    def let_go(self) -> None:
        """Hold it no more: from here on it lives as long as somebody can do something with it."""
        if not self.abandoned:
            self._owner = None

    def current_owner(self) -> Optional[Owner]:
        """The request; ``None`` if nobody holds it and nothing keeps it."""
        return self._owner or self._weak_owner()

    # --- its end; from any thread ---

    @property
    def failure(self) -> Optional[ClientRequestError]:
        """What the request died of; ``None`` while it lives, and after a good end."""
        if not self._fate:
            return None
        error = self._fate["cause"]
        return None if error is SUCCESS else error

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
        self.sign(error)
        self.outbox.shut()
        self._shut_exposed()
        self.rouse()
        self.outbox.room.notify()
        self.news.notify()
        return True

    def sign(self, error: ClientRequestError) -> None:
        """Say in the error whose it is."""
        owner = self.current_owner()
        if owner is not None:
            error.request = owner  # type: ignore[assignment]

    def wake(self) -> None:
        """Have the worker look at its state again."""
        waiter = self._waiter
        if waiter is not None and threading.get_ident() != self._worker_ident:
            waiter.wake()

    def rouse(self) -> None:
        """``wake`` for what the garbage collector may call: on the worker too, between its last look and its wait."""
        waiter = self._waiter
        if waiter is not None:
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
        if self.incoming is not None:  # before that the worker does not ask who waits
            self.wake()
        timeout = self.carry_here(timeout)
        over = self.news.wait_for(lambda: self.closed or isinstance(self.failure, AbortedError), timeout)
        if over and not self.closed:
            # An abort must free everybody at once; a moment is left for its events to be out first.
            self.news.wait_for(lambda: self.closed, ABORT_GRACE)
        return over

    def wait_head(self, timeout: Optional[float]) -> Optional[Incoming]:
        """The response, or ``None`` when time is over. Raises what the request died of before there was one."""
        self.taken = True
        timeout = self.carry_here(timeout)
        if self.incoming is None and not self.news.wait_for(
            lambda: self.incoming is not None or bool(self._fate), timeout
        ):
            return None
        if self.incoming is None or isinstance(self.failure, AbortedError):
            self.raise_failure()
        return self.incoming

    def carry_here(self, timeout: Optional[float]) -> Optional[float]:
        """Do on this thread, which is about to wait, what else a worker would be woken for; gives the time left."""
        return timeout

    def check_may_wait(self, what: str) -> None:
        """Raise ``InvalidStateError`` in a callback of this request, which would wait for itself."""
        if self.strand.is_current() or self._is_on_worker():
            raise InvalidStateError(f"{what} in a callback of the same request would wait for itself")

    def _is_on_worker(self) -> bool:
        return self._waiter is not None and threading.get_ident() == self._worker_ident

    # --- the response as a future ---

    def promise(self, future: ResponseFuture) -> None:
        """Tell the future what becomes of the response; ``settle`` has to follow, for it may be here already."""
        self.taken = True
        self._future = future

    def settle(self) -> None:
        """Tell the future, if there is one, as soon as there is something to tell. Any thread, without a lock.

        Of two threads that do it at once one is first: the worker looks for a future behind every change of what is
        to be told, and whoever asks for the future looks for a change behind it.
        """
        future, incoming, failure = self._future, self.incoming, self.failure
        if future is None or (incoming is None and failure is None):
            return
        owner = self.current_owner()
        try:
            if incoming is not None and owner is not None and not isinstance(failure, AbortedError):
                future.fulfil(owner._response_for(incoming))
            else:
                future.fail(failure or dropped())
        finally:
            if future.done():  # else Ctrl-C came in between, and it is still to be told
                self._future = None  # no cycle: it holds the response now, which holds the request

    def _tell_future(self) -> None:
        """``settle`` on the worker, which nothing may end."""
        if self._future is None:
            return
        try:
            self.settle()
        except BaseException as error:  # SystemExit, of a callback; others the future has logged itself
            report(error)

    def raise_failure(self) -> None:
        """Raise what the request died of, if it did."""
        error = self.failure
        if error is not None:
            self.error_seen = True
            if self._traceback is None:
                self._traceback = error.__traceback__
            # The same object every time; without this its traceback would grow with each raise.
            raise error.with_traceback(self._traceback)

    # --- Scope and Carrier, for the wire and the body ---

    def wait_connecting(self, sock: Any, events: int) -> None:
        while True:
            ready = self.wait(sock, events, self.connect_deadline, "ERR_CONNECTION_TIMED_OUT", "connecting")
            if not events or ready & events:
                return

    def wait_turn(self) -> None:
        self.wait(None, 0, None)
        self.connect_deadline = self.until(self.timeout.connect)  # it begins only now

    def expose(self, handle: KillHandle) -> None:
        self._exposed.append(handle)
        if self._fate:  # asked again: the abort may have come before it was there
            self._shut_exposed()
            self.check()

    def cover(self) -> bool:
        try:
            self._exposed.pop()
        except IndexError:
            return False
        return True

    # --- on the worker ---

    def step(self, name: str) -> None:
        """The worker has come to this point; here it notices that the request is over."""
        if self._debug:
            log.debug("request %x: %s", id(self), name)
        if self._fate:
            raise self._fate["cause"]

    def check(self) -> None:
        if self._fate:
            raise self._fate["cause"]

    def check_time(self) -> None:
        """Raise once the total timeout is over; for those who never have to wait."""
        if self.deadline is not None:
            self._time_left(None, None, "")

    def move(self, phase: Phase) -> None:
        self.phase = phase  # by ``_lifecycle.MOVES``, which the tests hold every move against

    def until(self, limit: Optional[float]) -> Optional[float]:
        return None if limit is None else time.monotonic() + limit

    def wait(self, sock: Any, events: int, until: Optional[float], code: Optional[str] = None, what: str = "") -> int:
        """Wait for ``events`` on a socket, or for ``wake``: what holds. Raises once the request is over.

        Reaching ``until`` gives 0 without a ``code``, and is the request's end with one; the total timeout always is.
        """
        waiter = self._waiter
        assert waiter is not None
        while True:
            if self._fate:
                raise self._fate["cause"]
            timeout = self._time_left(until, code, what)
            if timeout is not None and timeout <= 0:
                return 0
            if crew.closing:
                self._check_program()
                timeout = EXIT_PERIOD if timeout is None else min(timeout, EXIT_PERIOD)
            ready = waiter.wait(sock, events, timeout)
            if self._fate:
                raise self._fate["cause"]
            if ready:
                return ready
            if crew.closing:
                return WOKEN

    def await_listeners(self) -> None:
        """With a dispatcher: wait until the callbacks it was given are through.

        When the program has ended it may never run them; it gets a moment more, then the request is aborted.
        """
        until: Optional[float] = None
        while self.strand.busy():
            if crew.closing and program_has_ended():
                until = until or time.monotonic() + EXIT_GRACE
                if time.monotonic() >= until:
                    self.die(AbortedError("ERR_ABORTED", "the program ended, and its dispatcher runs nothing more"))
            self.wait(None, 0, None)

    def await_answer(self, is_given: Callable[[], bool]) -> None:
        """Wait for a decision of the user's. Once the program has ended there is nobody left to make it."""
        while not is_given():
            if crew.closing and program_has_ended():
                self.die(AbortedError("ERR_ABORTED", "the program ended without an answer"))
            self.wait(None, 0, None)

    def is_readable(self, sock: Any) -> bool:
        """Whether there is something to receive; does not wait. Raises once the request is over."""
        waiter = self._waiter
        assert waiter is not None
        ready = waiter.wait(sock, READ, 0)
        self.check()
        return bool(ready & READ)

    def _time_left(self, until: Optional[float], code: Optional[str], what: str) -> Optional[float]:
        deadline = self.deadline
        if until is None and deadline is None:
            return None
        now = time.monotonic()
        left: Optional[float] = None
        if deadline is not None:
            left = deadline - now
            if left <= 0:
                raise self._timeout_error("ERR_TIMED_OUT", f"the total timeout of {self.timeout.total} s is over")
        if until is not None:
            if now >= until:
                if code is None:
                    return 0.0
                raise self._timeout_error(code, f"timeout while {what}")
            left = until - now if left is None else min(left, until - now)
        return left

    def _timeout_error(self, code: str, detail: str) -> RequestTimeout:
        self.timed_out = True
        where = self.target.authority if self.target is not None else ""
        return RequestTimeout(code, f"{where}: {detail}")

    def _check_program(self) -> None:
        """At interpreter exit: a request that nobody is left to end cannot be waited for."""
        if self.outbox.ended or self.incoming is not None or not program_has_ended():
            return
        warnings.warn("a request was not ended when the program ended; it is aborted", ResourceWarning, stacklevel=2)
        self.die(AbortedError("ERR_ABORTED", "the program ended without end()"))
        self.check()

    # --- events; on the worker ---

    def emit(self, name: str, *args: object) -> None:
        owner = self.current_owner()
        if owner is not None and owner._emitter.has(name):
            self._post(owner._emitter, name, args)

    def emit_response(self, name: str, *args: object) -> None:
        incoming = self.incoming
        if incoming is not None and incoming.emitter.has(name):
            self._post(incoming.emitter, name, args)

    def emit_error(self, error: ClientRequestError) -> None:
        """Send ``error``, on the response if somebody listens there, else on the request."""
        incoming, owner = self.incoming, self.current_owner()
        if self.response_out and incoming is not None and incoming.emitter.has("error"):
            self.error_seen = True
            self.emit_response("error", error)
        elif owner is not None and owner._emitter.has("error"):
            self.error_seen = True
            self.emit("error", error)

    def _post(self, emitter: Emitter, name: str, args: tuple[object, ...]) -> None:
        strand, closing = self.strand, name in CLOSING_EVENTS
        strand.run(self._call_listeners, emitter, name, args, closing)
        if closing:
            return
        if strand.broken is not None:
            failure = ListenerError("ERR_FAILED", f"the dispatcher raised: {strand.broken!r}")
            failure.__cause__ = strand.broken
            self.die(failure)
        if strand.inline and self._fate:
            raise self._fate["cause"]

    def _call_listeners(self, emitter: Emitter, name: str, args: tuple[object, ...], closing: bool) -> None:
        if self._fate and self.failure is not None and not closing:
            return
        if name == "aborted" and self._end_told:
            return  # who was told of the end has all of the body
        if name == "end":
            self._end_told = True
        error = emitter.emit(name, *args)
        if error is not None:
            if closing:
                report(error)
            else:
                self._listener_raised(f"{name!r} listener", error)

    def _listener_raised(self, who: str, error: BaseException) -> None:
        failure = ListenerError("ERR_FAILED", f"a {who} raised {type(error).__name__}: {error}")
        failure.__cause__ = error
        if not self.die(failure) and error is not self.failure:  # a read in it may well raise what we died of
            report(error)

    def observe(self, name: SignalName, **details: object) -> None:
        if is_observed(name):
            owner = self.current_owner()
            if owner is not None:
                self.strand.run(functools.partial(observe, name, owner, **details))

    # --- the callbacks of write() and end(); on the worker ---

    def call_back(self, receipt: Receipt, error: Optional[ClientRequestError]) -> None:
        # Asked when it runs: with a dispatcher the request may have died meanwhile.
        self.strand.run(self._run_receipt, receipt, error)
        if self.strand.inline and error is None and self.phase is not CLOSED:
            self.check()

    def _run_receipt(self, receipt: Receipt, error: Optional[ClientRequestError]) -> None:
        error = error or self.failure
        try:
            receipt(error)
        except BaseException as raised:
            if error is None:
                self._listener_raised("write or end callback", raised)
            else:
                report(raised)

    def send_drain(self) -> bool:
        """Send ``drain`` if somebody waits for it and there is room again; whether it did."""
        due = self.outbox.need_drain and self.outbox.drain_due()
        if due:
            self.emit("drain")
        return due

    def refuse_receipts(self) -> None:
        """Tell those who wrote what will never be sent."""
        for receipt in self.outbox.all_receipts():
            error = TransferError("ERR_CONNECTION_CLOSED", "the server answered before this part of the body was sent")
            # Finished, and yet there is one: of an ``end()`` behind a body that was whole, and answered, without it.
            self.call_back(receipt, self.failure or (None if self.outbox.finished else error))
