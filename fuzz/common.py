"""What the targets share."""

from __future__ import annotations

import time
from typing import Callable

#: Seconds of this thread's own time for one stretched input. A quadratic parser needs several times as much.
SLOW = 1.5
#: To how many bytes an input is stretched.
LONG = 50_000


def stretch(data: bytes) -> bytes:
    """``data`` with its middle repeated: what takes quadratic time shows only in long inputs."""
    if len(data) < 2:
        return data
    start, size = data[0] % len(data), data[1] % 8 + 1
    unit = data[start : start + size]
    return data[2:start] + unit * (LONG // len(unit)) + data[start + size :]


def check_message(error: Exception, most: int = 1000) -> None:
    """A message is for a person to read: it must not grow with the input."""
    assert len(str(error)) < most, f"{len(str(error))} characters of message"


def timed(run: Callable[[], object]) -> None:
    """Run it, and fail if it took too long."""
    began = time.thread_time()
    run()
    took = time.thread_time() - began
    assert took < SLOW, f"took {took:.1f} s"
