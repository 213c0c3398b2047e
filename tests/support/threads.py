"""Threads that begin together."""

from __future__ import annotations

import threading
from typing import Callable

from .peer import LIMIT


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Run ``work`` with the numbers from 0 in ``count`` threads that begin together; raises what one of them raised."""
    barrier = threading.Barrier(count)
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            barrier.wait(LIMIT)
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * LIMIT)
    assert not [thread for thread in threads if thread.is_alive()]
    if failed:
        raise failed[0]
