"""The states of a request, and the law of its events. Pure.

The phases of the exchange, each with the step names that it passes through on the worker::

    NEW ── start ─▶ CONNECTING ─▶ SENDING ─▶ WAITING ─▶ READING ─▶ CLOSED
                        ▲            │          │
                        └─ next hop ─┴──────────┘          any ── end of the exchange ─▶ CLOSED

The law of events (``REQUEST_ENDS``, ``RESPONSE_ENDS``): which of them may not come any more once another has come. It
is what the documentation draws and what the tests hold every recorded sequence against.
"""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where an exchange is."""

    NEW = "new"
    CONNECTING = "connecting"
    SENDING = "sending"
    WAITING = "waiting for the response"
    READING = "reading"
    CLOSED = "closed"


# To be asked for one by its class takes several times as long.
CONNECTING, SENDING, WAITING, READING, CLOSED = list(Phase)[1:]

#: From which phase the exchange may come into which.
MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.CONNECTING, Phase.CLOSED}),
    Phase.CONNECTING: frozenset({Phase.SENDING, Phase.CLOSED}),
    Phase.SENDING: frozenset({Phase.WAITING, Phase.CONNECTING, Phase.READING, Phase.CLOSED}),
    Phase.WAITING: frozenset({Phase.CONNECTING, Phase.READING, Phase.CLOSED}),
    Phase.READING: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}

REQUEST_EVENTS = frozenset(
    {
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
    }
)
RESPONSE_EVENTS = frozenset({"data", "end", "aborted", "error", "close", "download-progress"})

#: After these, whatever a listener raises harms the request no more.
CLOSING_EVENTS = frozenset({"abort", "aborted", "error", "close"})

#: What may not come any more once an event has come, for each object.
REQUEST_ENDS: dict[str, frozenset[str]] = {
    "response": frozenset({"response", "login", "redirect", "information", "continue"}),
    "finish": frozenset({"finish"}),
    "abort": REQUEST_EVENTS - {"close"},
    "error": REQUEST_EVENTS - {"close"},
    "close": REQUEST_EVENTS,
}
RESPONSE_ENDS: dict[str, frozenset[str]] = {
    "end": frozenset({"data", "end", "aborted", "download-progress"}),
    "aborted": RESPONSE_EVENTS - {"close"},
    "error": RESPONSE_EVENTS - {"close"},
    "close": RESPONSE_EVENTS,
}


def may_move(before: Phase, after: Phase) -> bool:
    """Whether an exchange may come from one phase into another."""
    return after in MOVES[before]
