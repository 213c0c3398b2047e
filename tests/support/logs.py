"""What is logged of failures that nobody saw."""

from __future__ import annotations

import gc
import logging
import threading
import time

import pytest

from .peer import LIMIT


def wait_logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The errors that were logged; waits for the first one, or until the time is over.

    A failure is logged when its request is collected. That may be on the worker, which holds it for a moment after
    `close` was heard, and makes no noise of its own: hence it is polled for.
    """
    pause, until = threading.Event(), time.monotonic() + LIMIT
    while True:
        gc.collect()
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        if errors or time.monotonic() >= until:
            return errors
        pause.wait(0.002)
