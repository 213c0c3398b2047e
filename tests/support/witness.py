"""A witness to every request of a test run: what its events were, heard or not, and whether the law allows it.

Listening changes what a request does: a `data` listener starts the flow, an `error` listener takes the error as seen.
So the witness does not listen. It stands where the library decides that an event is due, before it asks whether
anybody hears it, and where listeners are called:

    decided     every event, in the order in which the worker came to it; those that nobody heard as well
    delivered   those that were handed to listeners, wherever these run

When a request is closed, the decided events are held against the law of `Recorder.check_grammar()` and against the
tables of `clientrequest._lifecycle`; the delivered ones must be among the decided ones, in the same order, each once.
Only names are kept, with the request they belong to: the witness holds nothing alive.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Iterable
from typing import Any, Callable

from clientrequest import ClientRequestError, signals
from clientrequest._events import Emitter
from clientrequest._exchange import Exchange
from clientrequest._incoming import EVENTS, Incoming
from clientrequest._life import Life
from clientrequest._lifecycle import REQUEST_ENDS, RESPONSE_ENDS, Phase, may_move

from .recorder import GrammarError, _Grammar

Method = Callable[..., Any]

MOST_KEPT = 10_000  # events of one request; of an endless one the middle is not kept


def check_decided(
    labels: list[str], *, unheard: Iterable[str] = (), early_answer: bool = False, consumed: bool = False
) -> None:
    """Hold all events that came due for one closed request, as `Recorder.names()` spells them, against the law.

    Raises:
        GrammarError: they came in an order that the contract forbids.
    """
    grammar = _Grammar(labels, set(unheard), [])
    grammar.check_close_is_last_and_single()
    grammar.check_finish_precedes_the_response(early_answer)
    grammar.check_response_comes_once_and_after_what_precedes_it()
    grammar.check_course_of_the_response(consumed)
    grammar.check_error_is_single_and_in_its_place()
    grammar.check_abort_ends_everything()
    # That 'aborted' does not follow 'end' is seen to when it is delivered: only then 'end' is known to have been.
    is_told = "response.end" in labels
    _check_tables([label for label in labels if not (is_told and label == "response.aborted")])


def _check_tables(labels: list[str]) -> None:
    over: set[str] = set()
    for label in labels:
        if label in over:
            raise GrammarError(f"{label!r} cannot come any more; the events were: {labels}")
        prefix, _, name = label.rpartition(".")
        if prefix:
            over.update(f"response.{later}" for later in RESPONSE_ENDS.get(name, ()))
        else:
            over.update(REQUEST_ENDS.get(name, ()))


def check_delivered(decided: list[str], posted: list[str], delivered: list[str], succeeded: bool) -> None:
    """Hold what listeners were called with against what was due.

    Args:
        decided: all that came due.
        posted: what of it had listeners then.
        delivered: what listeners were called with.
        succeeded: whether the request ended well, so that nothing may be missing.

    Raises:
        GrammarError: something was delivered twice, out of order, or not at all.
    """
    _check_tables(delivered)
    left = iter(decided)
    for label in delivered:
        if label not in left:  # this takes from `left` all up to it
            raise GrammarError(f"delivered {delivered}, but due were {decided}")
    if succeeded and delivered != posted:
        raise GrammarError(f"delivered {delivered}, but handed out were {posted}")
    if posted[-1:] == ["close"] and delivered[-1:] != ["close"]:
        raise GrammarError(f"'close' was never delivered, but {delivered}")


class Trace:
    """The events of one request, as far as they have come."""

    def __init__(self) -> None:
        self.decided: deque[str] = deque(maxlen=MOST_KEPT)
        self.posted: deque[str] = deque(maxlen=MOST_KEPT)
        self.delivered: deque[str] = deque(maxlen=MOST_KEPT)
        self.unheard: set[str] = set()
        self.early_answer = False
        self.consumed = False
        self.over = False
        self._running: list[str] = []

    def decide(self, label: str) -> None:
        if self.over:
            complain(f"{label!r} came due after the end")
        self.decided.append(label)

    def begin(self, label: str) -> None:
        if self.over:
            complain(f"{label!r} was delivered after the end")
        if self._running:
            complain(f"{label!r} was delivered during {self._running[-1]!r}")
        self._running.append(label)
        self.delivered.append(label)

    def end(self) -> None:
        self._running.pop()

    def check_decided(self) -> None:
        labels = list(self.decided)
        if len(labels) == MOST_KEPT:
            return
        try:
            check_decided(labels, unheard=self.unheard, early_answer=self.early_answer, consumed=self.consumed)
        except GrammarError as error:
            complain(str(error))

    def check_delivered(self, succeeded: bool) -> None:
        self.over = True
        if len(self.delivered) < MOST_KEPT and len(self.decided) < MOST_KEPT:
            try:
                check_delivered(list(self.decided), list(self.posted), list(self.delivered), succeeded)
            except GrammarError as error:
                complain(str(error))


_complaints: deque[str] = deque()
watched = 0
"""How many requests were held against the law so far: a witness that sees nothing has nothing to complain of."""


def complain(what: str) -> None:
    _complaints.append(f"{what} (seen on thread {threading.current_thread().name})")


def take_complaints() -> list[str]:
    """What was seen against the law since this was last asked."""
    found = []
    while _complaints:
        found.append(_complaints.popleft())
    return found


def trace_of(exchange: Life) -> Trace:
    """The trace of a request; made when it is first asked for."""
    trace: Trace | None = exchange.__dict__.get("_trace")
    return exchange.__dict__.setdefault("_trace", Trace()) if trace is None else trace


def install() -> None:
    """Have every request of this process watched from now on."""
    _wrap(Life, "move", _move)
    _wrap(Life, "emit", _emit)
    _wrap(Life, "emit_response", _emit_response)
    _wrap(Life, "emit_error", _emit_error)
    _wrap(Life, "_post", _post)
    _wrap(Emitter, "emit", _deliver)
    _wrap(Exchange, "_announce", _announce)
    _wrap(Exchange, "_ends_at_once", _ends_at_once)
    _wrap(Exchange, "_close", _close)
    _wrap(Exchange, "_closed", _closed)


def _wrap(owner: type, name: str, watcher: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def watched(self: Any, *args: Any) -> Any:
        return watcher(original, self, *args)

    setattr(owner, name, watched)


# Each of these is called in place of the method whose name it has, with the method itself in front.


def _move(original: Method, life: Life, phase: Phase) -> None:
    if not may_move(life.phase, phase):
        complain(f"moved from {life.phase} to {phase}")
    original(life, phase)


def _emit(original: Method, life: Life, name: str, *args: object) -> None:
    trace = trace_of(life)
    if name == "response":
        trace.early_answer = life.outbox.dropping
    trace.decide(name)
    original(life, name, *args)


def _emit_response(original: Method, life: Life, name: str, *args: object) -> None:
    if life.incoming is not None:
        trace_of(life).decide(f"response.{name}")
    original(life, name, *args)


def _emit_error(original: Method, life: Life, error: ClientRequestError) -> None:
    trace, incoming = trace_of(life), life.incoming
    if incoming is not None and not incoming.emitter.has("error"):
        trace.unheard.add("response.error")
    before = len(trace.decided)
    original(life, error)
    if len(trace.decided) == before:
        trace.decide("error")


def _post(original: Method, life: Life, emitter: Emitter, name: str, args: tuple[object, ...]) -> None:
    trace, incoming = trace_of(life), life.incoming
    prefix = "response." if incoming is not None and emitter is incoming.emitter else ""
    emitter.__dict__["_witness"] = (trace, prefix)
    trace.posted.append(prefix + name)
    original(life, emitter, name, args)


def _deliver(original: Method, emitter: Emitter, name: str, *args: object) -> BaseException | None:
    witness = emitter.__dict__.get("_witness")
    if witness is None:
        return original(emitter, name, *args)
    trace, prefix = witness
    trace.begin(prefix + name)
    try:
        return original(emitter, name, *args)
    finally:
        trace.end()


def _announce(original: Method, exchange: Exchange, incoming: Incoming, announced: bool) -> None:
    before = trace_of(exchange).decided.count("response")
    owner = exchange.current_owner()
    if owner is None or not (announced or signals.response_received.receivers):
        _note_response(exchange)
    del owner  # a name here would keep it alive
    original(exchange, incoming, announced)
    if trace_of(exchange).decided.count("response") != before + 1:
        complain("the response was not announced once")


def _ends_at_once(original: Method, exchange: Exchange, owner: Any, incoming: Incoming) -> bool:
    ends: bool = original(exchange, owner, incoming)
    if ends:
        _note_response(exchange)
    return ends


def _note_response(exchange: Exchange) -> None:
    trace = trace_of(exchange)
    trace.early_answer = exchange.outbox.dropping
    trace.decide("response")


def _close(original: Method, exchange: Exchange) -> None:
    global watched
    trace, incoming = trace_of(exchange), exchange.incoming
    is_heard = exchange._is_heard()
    if incoming is not None and exchange.response_out and not (incoming.closed or incoming.discarded):
        trace.consumed = incoming.face is EVENTS and bool(incoming.flowing)
    original(exchange)
    if "close" not in trace.decided:
        if is_heard:
            complain(f"'close' never came due, but {list(trace.decided)}")
        if "response" in trace.decided:
            trace.decided.append("response.close")
        trace.decided.append("close")
    trace.check_decided()
    watched += 1


def _closed(original: Method, exchange: Exchange) -> None:
    original(exchange)
    trace_of(exchange).check_delivered(exchange.failure is None)
