"""The gate on which users' threads wait: nothing gets lost, nothing is locked, nobody waits longer than asked."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from clientrequest import _gates
from clientrequest._gates import Gate
from tests.support import LIMIT


@pytest.fixture
def nervous() -> Iterator[None]:
    """Has threads change places as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def long_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notification that gets lost is not made good for by the next slice."""
    monkeypatch.setattr(_gates, "SLICE", 2 * LIMIT)


class Waiting:
    """A thread that waits at a gate for `flag` to be filled."""

    def __init__(self, gate: Gate, flag: list[object], timeout: float | None = None) -> None:
        self.asked = threading.Event()
        self.result: bool | None = None
        self._gate, self._flag, self._timeout = gate, flag, timeout
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        self.result = self._gate.wait_for(self._condition, self._timeout)

    def _condition(self) -> bool:
        if self._gate._waiters:  # asked for the second time, so a notification finds us
            self.asked.set()
        return bool(self._flag)

    def join(self) -> None:
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


def test_condition_that_holds_is_not_waited_for() -> None:
    assert Gate().wait_for(lambda: True, timeout=0)


def test_time_over_gives_the_last_value_of_the_condition() -> None:
    assert Gate().wait_for(lambda: False, timeout=0.01) is False


def test_condition_that_becomes_true_unnoticed_counts_when_time_is_over() -> None:
    answers = iter([False, False, True])
    assert Gate().wait_for(lambda: next(answers), timeout=0) is True


@pytest.mark.usefixtures("long_slices")
def test_notify_frees_the_waiter() -> None:
    gate, flag = Gate(), []
    waiting = Waiting(gate, flag)
    assert waiting.asked.wait(LIMIT)
    flag.append(1)
    gate.notify()
    waiting.join()
    assert waiting.result is True


@pytest.mark.usefixtures("long_slices")
def test_notify_frees_all_waiters() -> None:
    gate, flag = Gate(), []
    waiting = [Waiting(gate, flag) for _ in range(8)]
    for one in waiting:
        assert one.asked.wait(LIMIT)
    flag.append(1)
    gate.notify()
    for one in waiting:
        one.join()


@pytest.mark.usefixtures("long_slices")
def test_notify_without_the_condition_leaves_the_waiter_waiting() -> None:
    gate, flag = Gate(), []
    waiting = Waiting(gate, flag)
    assert waiting.asked.wait(LIMIT)
    waiting.asked.clear()
    gate.notify()
    assert waiting.asked.wait(LIMIT), "it was not asked again"
    assert waiting.result is None
    flag.append(1)
    gate.notify()
    waiting.join()


def test_notification_that_was_missed_heals_with_the_next_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gates, "SLICE", 0.01)
    gate, flag = Gate(), []
    waiting = Waiting(gate, flag)
    assert waiting.asked.wait(LIMIT)
    flag.append(1)
    waiting.join()
    assert waiting.result is True


def test_waiters_are_forgotten_afterwards() -> None:
    gate = Gate()
    gate.wait_for(lambda: False, timeout=0.001)
    assert not gate._waiters


def test_condition_that_raises_is_heard_and_leaves_no_waiter() -> None:
    gate = Gate()
    answers = iter([False])

    with pytest.raises(StopIteration):
        gate.wait_for(lambda: next(answers), timeout=LIMIT)
    assert not gate._waiters


def test_notify_from_inside_a_condition_and_from_a_finalizer_does_not_lock() -> None:
    gate = Gate()

    class Notifies:
        def __del__(self) -> None:
            gate.notify()

    turns: list[int] = []

    def condition() -> bool:
        turns.append(1)
        thing = Notifies()
        thing.self = thing  # type: ignore[attr-defined]
        del thing
        gc.collect()
        return len(turns) > 2

    assert gate.wait_for(condition, timeout=LIMIT)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_signal_handler_that_raises_gets_through_at_once_and_breaks_nothing() -> None:
    gate, flag = Gate(), []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            gate.wait_for(lambda: bool(flag), timeout=LIMIT)
        assert time.monotonic() - started < 0.5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not gate._waiters
    waiting = Waiting(gate, flag)
    assert waiting.asked.wait(LIMIT)
    flag.append(1)
    gate.notify()
    waiting.join()


@pytest.mark.usefixtures("nervous", "long_slices")
def test_no_notification_is_lost_in_a_ping_pong() -> None:
    """Two threads hand a turn over to each other; a lost notification would stop them."""
    gate, turn = Gate(), [0]
    rounds = 2000

    def play(me: int) -> None:
        for number in range(rounds):
            assert gate.wait_for(lambda due=2 * number + me: turn[0] == due, LIMIT)  # type: ignore[misc]
            turn[0] += 1
            gate.notify()

    players = [threading.Thread(target=play, args=(me,), daemon=True) for me in (0, 1)]
    for player in players:
        player.start()
    for player in players:
        player.join(2 * LIMIT)
    assert turn[0] == 2 * rounds


@pytest.mark.usefixtures("nervous", "long_slices")
def test_many_notifiers_at_once_do_not_disturb_each_other() -> None:
    gate, done = Gate(), []
    stop = threading.Event()
    failures: list[BaseException] = []

    def notify() -> None:
        try:
            while not stop.is_set():
                gate.notify()
        except BaseException as error:
            failures.append(error)

    notifiers = [threading.Thread(target=notify, daemon=True) for _ in range(3)]
    for notifier in notifiers:
        notifier.start()
    for _ in range(60):
        flag: list[object] = []
        waiting = Waiting(gate, flag)
        flag.append(1)
        waiting.join()
        done.append(waiting.result)
    stop.set()
    for notifier in notifiers:
        notifier.join(LIMIT)
    assert not failures
    assert done == [True] * 60
