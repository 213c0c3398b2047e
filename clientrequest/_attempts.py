"""Attempts: every time that a request goes out, told to those who trace, before its head does.

What ``signals`` tells is too little for a trace: a request is started once, but sent again for each redirect, login and
connection that was found dead, and with a dispatcher the signals come when its thread finds the time. This comes on the
worker, each time, in the ``contextvars`` of the request, and takes headers along.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Callable, Optional

from ._dispatch import report
from ._errors import ClientRequestError
from ._events import global_signal
from ._http1 import ResponseHead
from ._options import HeaderTable, Target

if TYPE_CHECKING:
    from blinker import NamedSignal


def attempt_started() -> NamedSignal:
    """The signal for those who trace."""
    return global_signal("attempt-started", "A request is about to be sent. The sender is the ``Attempt``.")


class Attempt:
    """One sending of a request to one server. On the worker only.

    Args:
        method: of the request line.
        target: where it goes.
        host: the ``Host`` header that was set by hand, if there is one.
        number: how many went before it for the same request.

    Attributes:
        headers: what goes out beside the request's own headers, and wins over them, this time only.
        peer: address and port of the other end of the connection, once there is one.
        head: the final head of the answer, once there is one.
        answered: when it came, by ``time.perf_counter_ns()``.
        error: what went wrong; ``None`` until the end, and after a good one.
        whole: whether all of the answer's body came.
    """

    __slots__ = (
        "__weakref__",
        "_endings",
        "answered",
        "error",
        "head",
        "headers",
        "host",
        "method",
        "number",
        "peer",
        "target",
        "whole",
    )

    def __init__(self, method: str, target: Target, host: Optional[str], number: int) -> None:
        self.method = method
        self.target = target
        self.host = host
        self.number = number
        self.headers = HeaderTable()
        self.peer: Optional[tuple[str, int]] = None
        self.head: Optional[ResponseHead] = None
        self.answered = 0
        self.error: Optional[ClientRequestError] = None
        self.whole = False
        self._endings: list[Callable[[Attempt], object]] = []

    def on_end(self, ending: Callable[[Attempt], object]) -> None:
        """Have ``ending`` called once, with this attempt, when it has ended; what it raises harms nobody."""
        self._endings.append(ending)

    def answer(self, head: ResponseHead) -> None:
        """Its final head has come."""
        self.head = head
        self.answered = time.perf_counter_ns()

    def end(self, error: Optional[ClientRequestError], whole: bool) -> None:
        """It is over, one way or the other. Called once."""
        self.error = error
        self.whole = whole
        for ending in self._endings:
            try:
                ending(self)
            except BaseException as raised:
                report(raised)
