"""A listener that writes down all events of a request, and knows in which order they may come.

The recorder only needs `on(name, listener)`, so it can be tried on anything that emits.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple, Protocol, TypeVar

from .peer import LIMIT

T = TypeVar("T")

REQUEST_EVENTS = (
    "response",
    "login",
    "redirect",
    "finish",
    "abort",
    "error",
    "close",
    "drain",
    "upload-progress",
    "information",
    "continue",
)
RESPONSE_EVENTS = ("data", "end", "aborted", "error", "close", "download-progress")

BEFORE_THE_RESPONSE = {"login", "redirect", "information", "continue", "finish"}
PROGRESS = {"upload-progress", "download-progress", "drain"}


class Emitter(Protocol):
    """What can be listened to."""

    def on(self, name: Any, listener: Any, /) -> Any: ...


class Event(NamedTuple):
    """One call of a listener."""

    source: str
    """`request` or `response`."""
    name: str
    args: tuple[Any, ...]
    thread: int
    """The ident of the thread it was called on."""

    @property
    def label(self) -> str:
        """The name as `names()` gives it: `close` for the request's, `response.close` for the response's."""
        return self.name if self.source == "request" else f"response.{self.name}"


class GrammarError(AssertionError):
    """Events came in an order that the contract forbids."""


class Recorder:
    """Listens to all events of `request` and of its response, and keeps them in order.

    Listening is not always without effect, so events can be left out with `skip`, in the spelling of
    `names()`:
    - whoever listens to `login` must answer it, and to `redirect` in mode `manual` too, or the request waits;
    - without a listener for `response.error` the error of a response goes to the request;
    - without one for `response` the response waits for `get_response()`; see `attach_response` then.

    Args:
        request: anything with `on(name, listener)`.
        consume: also listen to the response's `data`, which chooses its event face; the bytes are in `body`.
        skip: events not to listen to.
    """

    def __init__(self, request: Emitter, *, consume: bool = False, skip: Iterable[str] = ()) -> None:
        self.consume = consume
        self.events: list[Event] = []
        self.response: Any = None
        """The response, once there is one."""
        self.body = bytearray()
        """What came as `data`."""
        self.overlaps: list[str] = []
        """What ran while another callback of the same request was running."""
        self._skip = set(skip) | (set() if consume else {"response.data"})
        self._changed = threading.Condition()  # guards all that changes, _running included
        self._running: list[str] = []
        self._attach(request, "request", REQUEST_EVENTS)

    def __repr__(self) -> str:
        return f"<Recorder {self.names()}>"

    # Listening

    def attach_response(self, response: Emitter) -> None:
        """Listen to the events of a response; done by itself when `response` is listened to."""
        self.response = response
        self._attach(response, "response", RESPONSE_EVENTS)

    def guard(self, listener: Callable[..., T]) -> Callable[..., T]:
        """`listener`, watched: what runs at the same time as it, or inside of it, shows up in `overlaps`.

        The recorder's own listeners are short, and so catch few overlaps; a guarded one may wait at a gate.
        """

        @functools.wraps(listener)
        def guarded(*args: Any, **kwargs: Any) -> T:
            with self._running_as(getattr(listener, "__name__", repr(listener))):
                return listener(*args, **kwargs)

        return guarded

    def _attach(self, emitter: Emitter, source: str, names: Iterable[str]) -> None:
        for name in names:
            if Event(source, name, (), 0).label not in self._skip:
                emitter.on(name, functools.partial(self._record, source, name))

    def _record(self, source: str, name: str, *args: Any) -> None:
        event = Event(source, name, args, threading.get_ident())
        with self._running_as(event.label):
            if event.label == "response":
                self.attach_response(args[0])
            with self._changed:
                if event.label == "response.data":
                    self.body += args[0] if isinstance(args[0], bytes) else str(args[0]).encode()
                self.events.append(event)
                self._changed.notify_all()

    @contextmanager
    def _running_as(self, label: str) -> Iterator[None]:
        with self._changed:
            if self._running:
                self.overlaps.append(f"{label} during {self._running[-1]}")
            self._running.append(label)
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(label)

    # Asking

    def names(self, source: str | None = None) -> list[str]:
        """All events in order; with a `source`, its own only, by their bare names."""
        with self._changed:
            events = list(self.events)
        if source is not None:
            return [event.name for event in events if event.source == source]
        return [event.label for event in events]

    def outline(self) -> list[str]:
        """`names()` without what depends on timing: no progress and `drain`, and runs of `data` as one."""
        outline: list[str] = []
        for label in self.names():
            is_more_data = label == "response.data" and outline[-1:] == [label]
            if label.rpartition(".")[2] not in PROGRESS and not is_more_data:
                outline.append(label)
        return outline

    def find(self, name: str, source: str = "request") -> list[Event]:
        """All events of that name so far."""
        with self._changed:
            return [event for event in self.events if (event.source, event.name) == (source, name)]

    def threads(self) -> set[int]:
        """The idents of all threads that called a listener."""
        with self._changed:
            return {event.thread for event in self.events}

    def wait(self, name: str, source: str = "request", timeout: float = LIMIT, *, count: int = 1) -> Event:
        """Wait for the `count`-th event of that name, and return it.

        Raises:
            AssertionError: it did not come in time.
        """
        with self._changed:
            if self._changed.wait_for(lambda: len(self.find(name, source)) >= count, timeout):
                return self.find(name, source)[count - 1]
        missing = f"{Event(source, name, (), 0).label!r} number {count}"
        raise AssertionError(f"{missing} did not come within {timeout:g} s, but: {self.names()}")

    # Judging

    def check_grammar(self, *, early_answer: bool = False) -> None:
        """Assert that the events of a closed request came in an order that the contract allows.

        Args:
            early_answer: the server answered before it had the body, so `finish` may be missing.

        Raises:
            GrammarError: they did not.
        """
        grammar = _Grammar(self.names(), self._skip, self.overlaps)
        grammar.check_callbacks_run_one_at_a_time()
        grammar.check_close_is_last_and_single()
        grammar.check_finish_precedes_the_response(early_answer)
        grammar.check_response_comes_once_and_after_what_precedes_it()
        grammar.check_course_of_the_response(self.consume)
        grammar.check_error_is_single_and_in_its_place()
        grammar.check_abort_ends_everything()


class _Grammar:
    """The rules, one method each, over the labels of a closed request."""

    def __init__(self, labels: list[str], unheard: set[str], overlaps: list[str]) -> None:
        self._labels = labels
        self._unheard = unheard
        self._overlaps = overlaps

    def check_callbacks_run_one_at_a_time(self) -> None:
        self._demand(not self._overlaps, f"callbacks overlap: {self._overlaps}")

    def check_close_is_last_and_single(self) -> None:
        self._demand(self._is_heard("close"), "a recorder that skips 'close' cannot judge")
        self._demand(self._count("close") == 1, "the request has exactly one 'close'")
        self._demand(self._labels[-1] == "close", "nothing follows 'close'")
        if self._count("response") and self._is_heard("response.close"):
            self._demand(self._count("response.close") == 1, "the response has exactly one 'close'")
            _, after = self._around("response.close")
            self._demand(not any(map(_is_of_response, after)), "nothing of the response follows its 'close'")

    def check_finish_precedes_the_response(self, early_answer: bool) -> None:
        self._demand(self._count("finish") <= 1, "at most one 'finish'")
        if self._count("response") and self._is_heard("finish") and not early_answer:
            self._demand(self._count("finish") == 1, "'finish' comes before 'response'")

    def check_response_comes_once_and_after_what_precedes_it(self) -> None:
        self._demand(self._count("response") <= 1, "at most one 'response'")
        if self._is_heard("response"):
            before, after = self._around("response")
            self._demand(not any(map(_is_of_response, before)), "the response is silent before 'response'")
            late = BEFORE_THE_RESPONSE.intersection(after)
            self._demand(not late, f"{sorted(late)} cannot follow 'response'")

    def check_course_of_the_response(self, consumed: bool) -> None:
        course = [label[len("response.") :] for label in self._labels if _is_of_response(label)]
        sentence = "".join(f"{name} " for name in course if name not in PROGRESS)
        # A listener of 'end' may still raise, or abort.
        pattern = r"(data )*(end (error |aborted )?|error |aborted )?(close )?"
        is_course = re.fullmatch(pattern, sentence) is not None
        self._demand(is_course, "the response goes: data*, end or error or aborted, close")
        may_hide = self._unheard & {"response.end", "response.error", "response.aborted"}
        if consumed and "close" in course and not may_hide:
            told = {"end", "error", "aborted"}.intersection(course)
            self._demand(bool(told), "a response that is read does not close without saying why")

    def check_error_is_single_and_in_its_place(self) -> None:
        self._demand(self._count("error") + self._count("response.error") <= 1, "at most one 'error'")
        if not self._count("error"):
            return
        before, after = self._around("error")
        self._demand("response" not in after, "no 'response' after 'error'")
        is_out = "response" in before and "response.close" not in before
        self._demand(
            not is_out or not self._is_heard("response.error"),
            "the error of a response fires on the response when somebody listens there",
        )

    def check_abort_ends_everything(self) -> None:
        self._demand(self._count("abort") <= 1, "at most one 'abort'")
        if not self._count("abort"):
            is_explained = not self._is_heard("abort") or not self._count("response.aborted")
            self._demand(is_explained, "no 'aborted' without 'abort'")
            return
        self._demand(not self._count("error") + self._count("response.error"), "no 'error' with 'abort'")
        before, after = self._around("abort")
        is_end = after in self._ends_after_abort(before)
        self._demand(is_end, "'abort' is followed by 'aborted' and the 'close's only")

    def _ends_after_abort(self, before: list[str]) -> list[list[str]]:
        if "response" not in before or "response.close" in before:
            return [["close"]]
        endings = [["response.aborted", "response.close", "close"]]
        if "response.end" in before:
            endings.append(["response.close", "close"])
        return [[label for label in ending if self._is_heard(label)] for ending in endings]

    def _is_heard(self, label: str) -> bool:
        return label not in self._unheard

    def _count(self, label: str) -> int:
        return self._labels.count(label)

    def _around(self, label: str) -> tuple[list[str], list[str]]:
        """What came before the first `label` and what after it; if there is none, all came before."""
        if label not in self._labels:
            return self._labels, []
        position = self._labels.index(label)
        return self._labels[:position], self._labels[position + 1 :]

    def _demand(self, holds: bool, rule: str) -> None:
        if not holds:
            raise GrammarError(f"{rule}; the events were: {self._labels}")


def _is_of_response(label: str) -> bool:
    return label.startswith("response.")
