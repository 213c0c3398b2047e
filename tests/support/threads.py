"""Threads that begin together, and children of a process whose threads hold locks."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any, Callable

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


def fork_while_held(locks: Sequence[Any], check: Callable[[], bool], seconds: int) -> None:
    """Fork while another thread holds ``locks``; ``check`` must come true in the child within ``seconds``."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            release.wait(LIMIT)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(LIMIT)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            status = 0 if check() else 2
        finally:
            os._exit(status)
    release.set()
    holder.join(LIMIT)
    assert os.waitpid(child, 0)[1] == 0
