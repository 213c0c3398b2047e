"""Waiting for another thread, in a way that Ctrl-C, signal handlers and garbage collection cannot break.

``threading.Condition`` and ``threading.Event`` are left locked when a signal handler raises inside their
``with``; the other side then waits for ever. Here the waiter owns a raw lock of its own, the signaller takes
no lock at all, and every wait is cut in slices, so that whatever was missed heals within a second.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Callable, Optional

# The longest a wait lasts before it looks at its condition again, in seconds. A lock wait on Windows cannot
# be interrupted by Ctrl-C, hence the short slices there.
SLICE = 0.1 if sys.platform == "win32" else 1.0


class Gate:
    """Lets any number of threads wait until a condition of somebody else's holds.

    The condition is a function without arguments. Whoever makes it true calls ``notify()`` afterwards.
    """

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[threading.Lock] = []

    def wait_for(self, condition: Callable[[], bool], timeout: Optional[float] = None) -> bool:
        """Wait until ``condition()`` is true; give its last value once ``timeout`` seconds are over."""
        if condition():
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        turnstile = threading.Lock()
        turnstile.acquire()
        self._waiters.append(turnstile)
        try:
            # Registered first, asked again second: what became true in between was not notified to us.
            while not condition():
                left = SLICE if deadline is None else min(SLICE, deadline - time.monotonic())
                if left <= 0:
                    return condition()
                turnstile.acquire(timeout=left)
        finally:
            try:  # noqa: SIM105 (suppress costs more than the rest of this function)
                self._waiters.remove(turnstile)
            except ValueError:
                pass
        return True

    def notify(self) -> None:
        """Have every waiter ask its condition again. Takes no lock: fit for signal handlers and ``__del__``."""
        if not self._waiters:
            return
        for turnstile in tuple(self._waiters):
            if turnstile.locked():
                try:  # noqa: SIM105 (as above)
                    turnstile.release()
                except RuntimeError:
                    pass  # another notifier was faster
