"""Workers: how they wait and are woken, how they are parked, used again, and sent home."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Callable

import pytest

from clientrequest import _workers
from clientrequest._workers import CROWD, READ, WOKEN, WRITE, Bell, Crew, Waiter, Worker, make_bell, program_has_ended
from tests.support import LIMIT, Gate
from tests.support.threads import in_threads

SHORT = 0.02
"""For waits that have to run out."""


@pytest.fixture(params=["poll", "poll-sockets", "select", "select-sockets"])
def waiter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiter]:
    if "select" in request.param:
        monkeypatch.delattr(select, "poll", raising=False)
    elif not hasattr(select, "poll"):
        pytest.skip("no poll here")
    if "sockets" in request.param:
        monkeypatch.setattr(_workers, "make_bell", Bell)
    elif _workers.make_bell is Bell:
        pytest.skip("no other bell here")
    waiter = Waiter()
    yield waiter
    waiter.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def crew() -> Iterator[Crew]:
    """A crew of its own, sent home at the end."""
    crew = Crew()
    yield crew
    for worker in crew.send_home():
        worker.join(LIMIT)


class Jobs:
    """Jobs for a crew: each says on which worker it ran, and may wait at a gate."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.workers: list[Worker] = []

    def run(self, gate: Gate | None = None) -> threading.Event:
        started = threading.Event()

        def job(worker: Worker) -> None:
            self.workers.append(worker)
            started.set()
            if gate is not None:
                gate.wait()

        self.crew.run(job)
        assert started.wait(LIMIT)
        return started

    def wait_parked(self, count: int) -> None:
        """Polls: parking is silent on purpose."""
        wait_until(lambda: len(self.crew.parked()) == count)


def wait_until(condition: Callable[[], bool]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.001)


# --- the waiter ---


def test_time_over_gives_nothing(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    assert waiter.wait(pair[0], READ, SHORT) == 0


def test_time_is_not_cut_short(waiter: Waiter) -> None:
    started = time.monotonic()
    assert waiter.wait(None, 0, 0.0105) == 0
    assert time.monotonic() - started >= 0.0105


def test_readable(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].send(b"x")
    assert waiter.wait(pair[0], READ, LIMIT) == READ


def test_writable(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    assert waiter.wait(pair[0], WRITE, LIMIT) == WRITE


def test_both(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].send(b"x")
    assert waiter.wait(pair[0], READ | WRITE, LIMIT) == READ | WRITE


def test_only_what_was_asked_for_is_told(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].send(b"x")
    assert waiter.wait(pair[0], WRITE, LIMIT) == WRITE
    pair[0].recv(1)
    assert waiter.wait(pair[0], READ, SHORT) == 0


def test_end_of_the_other_side_is_readable(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].close()
    assert waiter.wait(pair[0], READ, LIMIT) == READ


def test_failed_connect_is_told_to_the_one_who_waits_for_writing(waiter: Waiter) -> None:
    with socket.socket() as taken, socket.socket() as sock:
        taken.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        sock.connect_ex(taken.getsockname())
        assert waiter.wait(sock, WRITE, LIMIT) & WRITE


def test_wake_from_another_thread(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    waker = threading.Thread(target=waiter.wake)
    waker.start()
    assert waiter.wait(pair[0], READ, LIMIT) == WOKEN
    waker.join()


def test_wake_before_the_wait_is_not_lost(waiter: Waiter) -> None:
    waiter.wake()
    assert waiter.wait(None, 0, LIMIT) == WOKEN


def test_wake_is_told_once(waiter: Waiter) -> None:
    waiter.wake()
    waiter.wait(None, 0, LIMIT)
    assert waiter.wait(None, 0, SHORT) == 0


def test_stale_wake_is_no_timeout_and_hides_nothing(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    waiter.wake()
    pair[1].send(b"x")
    assert waiter.wait(pair[0], READ, 0) == READ | WOKEN


def test_more_wakes_than_fit_are_one(waiter: Waiter) -> None:
    for _ in range(100_000):
        waiter.wake()
    assert waiter.wait(None, 0, LIMIT) == WOKEN
    assert waiter.wait(None, 0, 0) == 0


@pytest.mark.parametrize("make", dict.fromkeys([Bell, make_bell]))
def test_bell_is_there_as_long_as_somebody_holds_it(make: Callable[[], Bell]) -> None:
    waiter, bell = Waiter(), make()
    waiter._bell = bell
    number = bell.fileno()
    waiter.close()
    os.fstat(number)  # who is just ringing it holds it
    bell.ring()
    del bell
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


@pytest.mark.parametrize("make", dict.fromkeys([Bell, make_bell]))
def test_bell_that_cannot_be_had_is_only_an_error(
    make: Callable[[], Bell], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", refuse)
    monkeypatch.setattr(os, "eventfd", refuse, raising=False)
    with pytest.raises(OSError, match="Too many"):
        make()
    assert capfd.readouterr().err == ""


def test_wake_after_close_is_harmless(waiter: Waiter) -> None:
    waiter.close()
    waiter.wake()


def test_no_wait_with_time_zero(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    started = time.monotonic()
    assert waiter.wait(pair[0], READ, 0) == 0
    assert time.monotonic() - started < 0.5


def test_closed_socket_is_an_error_and_no_hang(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    with pytest.raises((OSError, ValueError)):
        waiter.wait(pair[0], READ, LIMIT)


def test_sockets_may_change_from_wait_to_wait(waiter: Waiter, pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].send(b"x")
    assert waiter.wait(pair[0], READ, LIMIT) == READ
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert waiter.wait(other, READ, SHORT) == 0


# --- the crew ---


def test_worker_is_used_again(crew: Crew) -> None:
    jobs = Jobs(crew)
    for _ in range(5):
        jobs.run()
        jobs.wait_parked(1)
    assert len(set(jobs.workers)) == 1


def test_last_in_first_out(crew: Crew) -> None:
    jobs, gates = Jobs(crew), [Gate(), Gate(), Gate()]
    for gate in gates:
        jobs.run(gate)
    for number, gate in enumerate(gates):
        gate.set()
        jobs.wait_parked(number + 1)
    jobs.run()
    assert jobs.workers[3] is jobs.workers[2]


def test_busy_worker_is_not_given_a_second_job(crew: Crew) -> None:
    jobs, gate = Jobs(crew), Gate()
    jobs.run(gate)
    jobs.run()
    gate.set()
    assert jobs.workers[0] is not jobs.workers[1]


def test_names_and_kind(crew: Crew) -> None:
    jobs = Jobs(crew)
    jobs.run()
    assert jobs.workers[0].name.startswith("clientrequest")
    assert not jobs.workers[0].daemon


def test_no_daemon_when_started_by_one(crew: Crew) -> None:
    jobs = Jobs(crew)
    starter = threading.Thread(target=jobs.run, daemon=True)
    starter.start()
    starter.join(LIMIT)
    assert not jobs.workers[0].daemon


def test_idle_worker_leaves(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "IDLE", SHORT)
    jobs = Jobs(crew)
    jobs.run()
    jobs.workers[0].join(LIMIT)
    assert not jobs.workers[0].is_alive()
    assert crew.parked() == ()
    assert jobs.workers[0].waiter._bell is None, "its bell is there"


def test_idle_worker_sleeps_until_it_is_needed(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not look up in between, as those of many that are parked would all do."""
    monkeypatch.setattr(_workers, "SLICE", SHORT / 20)
    monkeypatch.setattr(Worker, "hurried", False)
    monkeypatch.setattr(_workers, "IDLE", SHORT)
    waits: list[float] = []

    class Gate:
        def __init__(self, worker: Worker) -> None:
            self._lock = worker._gate

        def acquire(self, timeout: float = -1) -> bool:
            waits.append(timeout)
            return self._lock.acquire(timeout=timeout)

        def release(self) -> None:
            self._lock.release()

    def job(worker: Worker) -> None:
        worker._gate = Gate(worker)  # type: ignore[assignment]

    crew.run(job).join(LIMIT)
    assert waits == [SHORT]


def test_send_home(crew: Crew) -> None:
    jobs, gates = Jobs(crew), [Gate(), Gate()]
    for gate in gates:
        jobs.run(gate)
    for gate in gates:
        gate.set()
    jobs.wait_parked(2)
    leaving = crew.send_home()
    assert set(leaving) == set(jobs.workers)
    for worker in leaving:
        worker.join(LIMIT)
        assert not worker.is_alive()


def test_worker_leaves_after_its_job_when_the_program_exits(crew: Crew) -> None:
    jobs, gate = Jobs(crew), Gate()
    jobs.run(gate)
    crew.closing = True
    gate.set()
    jobs.workers[0].join(LIMIT)
    assert not jobs.workers[0].is_alive()


def test_exit_hook_frees_the_parked_and_tells_the_busy(crew: Crew) -> None:
    told = threading.Event()
    crew.at_exit = told.set
    jobs = Jobs(crew)
    jobs.run()
    jobs.wait_parked(1)
    crew._exit()
    assert told.is_set()
    jobs.workers[0].join(LIMIT)
    assert not jobs.workers[0].is_alive()


def test_hand_over_to_a_worker_that_is_just_leaving(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle time over and next job at the same moment, over and over: no job is lost, none runs twice."""
    monkeypatch.setattr(_workers, "IDLE", 0.0005)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        ran: list[int] = []
        for number in range(500):
            done = threading.Event()

            def job(worker: Worker, number: int = number, done: threading.Event = done) -> None:
                ran.append(number)
                done.set()

            crew.run(job)
            assert done.wait(LIMIT), f"job {number} was lost"
        assert ran == list(range(500))
    finally:
        sys.setswitchinterval(interval)


def test_job_for_a_worker_that_has_given_up_waiting_is_done(crew: Crew) -> None:
    """The narrow place itself: taken out of the parked ones by `run`, before it takes itself out."""
    jobs = Jobs(crew)
    jobs.run()
    jobs.wait_parked(1)
    (worker,) = crew.parked()
    crew._parked.remove(worker)
    gate = threading.Lock()
    gate.acquire()
    stays: list[bool] = []
    leaver = threading.Thread(target=lambda: stays.append(crew._stay(worker, gate)))
    leaver.start()
    gate.release()
    leaver.join(LIMIT)
    assert stays == [True]
    worker.hand(None)
    worker.join(LIMIT)


def test_thread_that_cannot_be_started_leaves_nothing_open(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Waiter] = []
    make = Waiter.__init__

    def remember(waiter: Waiter) -> None:
        make(waiter)
        made.append(waiter)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Waiter, "__init__", remember)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        crew.run(lambda worker: None)
    assert [waiter._bell for waiter in made] == [None]


def test_a_crowd_is_provided_for_once(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[int] = []
    monkeypatch.setattr(_workers, "_make_room", rooms.append)
    jobs, gate = Jobs(crew), Gate("home")
    for _ in range(CROWD):
        jobs.run(gate)
    assert rooms == []
    jobs.run(gate)
    assert rooms == [4 * 8 * CROWD]
    jobs.run(gate)
    assert len(rooms) == 1
    gate.set()
    jobs.wait_parked(CROWD + 2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of its table")
def test_room_for_descriptors() -> None:
    """In a process of its own, since a table never shrinks."""
    code = """
        import os, re, resource
        from clientrequest._workers import _make_room

        def see():
            size = int(re.search(r"FDSize:\\s+(\\d+)", open("/proc/self/status").read())[1])
            return size, len(os.listdir("/proc/self/fd"))

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
        before, descriptors = see()
        _make_room(4 * before)
        assert see() == (4 * before, descriptors), (before, descriptors, see())
        resource.setrlimit(resource.RLIMIT_NOFILE, (8 * before, most))
        _make_room(1_000_000)
        assert see() == (8 * before, descriptors), (before, descriptors, see())
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, most))
        _make_room(1_000_000)  # there is none for it: it was only a kindness
        print("done")
    """
    code = textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_child_of_a_fork_starts_with_no_workers(crew: Crew) -> None:
    jobs = Jobs(crew)
    jobs.run()
    jobs.wait_parked(1)
    (worker,) = crew.parked()
    crew.after_fork()
    assert crew.parked() == ()
    assert worker.waiter._bell is None, "a copy of the parent's bell is there"
    worker.hand(None)  # in this test there is no child: it really runs
    worker.join(LIMIT)


def test_crew_that_finds_itself_in_another_process_forgets_its_workers(crew: Crew) -> None:
    jobs = Jobs(crew)
    jobs.run()
    jobs.wait_parked(1)
    (stranger,) = crew.parked()
    crew._pid = -1
    jobs.run()
    assert jobs.workers[1] is not stranger
    stranger.hand(None)
    stranger.join(LIMIT)


def test_program_has_not_ended_while_the_main_thread_lives() -> None:
    assert not program_has_ended()


# --- reserved workers ---


@pytest.fixture
def lookout(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that looks out, and another that can be reserved; the lookout does so only when it is told."""
    monkeypatch.setattr(_workers, "HURRY", LIMIT)
    monkeypatch.setattr(_workers, "TICK", LIMIT)
    jobs = Jobs(crew)
    gate = Gate()
    jobs.run(gate)
    jobs.run()
    jobs.wait_parked(1)
    jobs.run()
    wait_until(lambda: crew.looks_out)
    gate.set()
    jobs.wait_parked(2)
    assert crew._lookout is not None
    return crew._lookout


def reserve(crew: Crew) -> tuple[_workers.Reservation, list[Worker], threading.Event]:
    ran: list[Worker] = []
    done = threading.Event()

    def job(worker: Worker) -> None:
        ran.append(worker)
        done.set()

    reservation = crew.reserve(job)
    assert reservation is not None
    return reservation, ran, done


def test_reservation_is_taken_by_one_and_settled_by_him(crew: Crew, lookout: Worker) -> None:
    reservation, ran, done = reserve(crew)
    first, second = object(), object()
    assert reservation.take(first)
    assert not reservation.take(second)
    reservation.settle(second, done=False)
    reservation.send()
    assert not done.is_set()
    assert not crew.reserved
    reservation.settle(first, done=True)
    assert reservation.worker in crew.parked()
    assert not ran


def test_reservation_sent_by_many_at_once_is_sent_once(crew: Crew, lookout: Worker, nervous: None) -> None:
    for _ in range(20):
        reservation, ran, done = reserve(crew)
        in_threads(4, lambda number: reservation.send())  # noqa: B023 (joined in the loop)
        assert done.wait(LIMIT)
        assert ran == [reservation.worker]
        wait_until(lambda: len(crew.parked()) == 2)
        if not crew.looks_out:
            crew._lookout = lookout


def test_taken_one_that_was_interrupted_does_not_stay_in_the_list(crew: Crew, lookout: Worker) -> None:
    reservation, _, done = reserve(crew)
    me = object()
    assert reservation.take(me)
    crew.reserved.add(reservation)  # as Ctrl-C may leave it
    reservation.settle(me, done=False)
    assert done.wait(LIMIT)
    reservation.send()
    assert not crew.reserved


def test_worker_let_go_takes_what_was_left_over(crew: Crew, lookout: Worker) -> None:
    reservations = [reserve(crew)[0], reserve(crew)[0]]
    me, done = object(), threading.Event()
    assert all(reservation.take(me) for reservation in reservations)
    crew.run_soon(lambda worker: done.set())
    assert not done.is_set()
    for reservation in reservations:
        reservation.settle(me, done=True)
    assert done.wait(LIMIT)


def test_lookout_that_gets_a_job_sends_the_reserved_ones(crew: Crew, lookout: Worker) -> None:
    parked = [worker for worker in crew.parked() if worker is not lookout]
    crew._parked[:] = [lookout, *parked]
    _, ran, done = reserve(crew)
    Jobs(crew).run()
    assert done.wait(LIMIT)
    assert ran == parked


def test_lookout_sends_what_is_overdue(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "HURRY", LIMIT)
    jobs = Jobs(crew)
    jobs.run()
    jobs.wait_parked(1)
    jobs.run()
    wait_until(lambda: crew.looks_out and len(crew.parked()) == 1)
    _, ran, done = reserve(crew)  # the lookout itself
    assert done.wait(LIMIT)
    assert ran == jobs.workers[:1]


def test_end_of_the_program_sends_the_reserved_ones(crew: Crew, lookout: Worker) -> None:
    _, _, done = reserve(crew)
    crew._exit()
    assert done.wait(LIMIT)
    assert crew.reserve(lambda worker: None) is None
    wait_until(lambda: not crew._workers)


def test_lookout_that_leaves_sends_what_comes_at_that_moment(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "HURRY", LIMIT)
    monkeypatch.setattr(_workers, "IDLE", 0.002)
    monkeypatch.setattr(_workers, "TICK", 0.001)
    jobs, reserved, deadline = Jobs(crew), 0, time.monotonic() + LIMIT
    while reserved < 50 and time.monotonic() < deadline:
        jobs.run()
        done = threading.Event()
        if crew.reserve(lambda worker: done.set()) is not None:  # noqa: B023 (waited for in the loop)
            assert done.wait(LIMIT)
            reserved += 1
    assert reserved
    assert not crew.reserved


def test_waiter_forgets_what_an_interrupted_wait_has_left(
    waiter: Waiter, pair: tuple[socket.socket, socket.socket]
) -> None:
    waiter.wait(pair[0], READ, 0)
    if waiter._poller is not None:
        waiter._poller.unregister(pair[0].fileno())  # where Ctrl-C came in between
    waiter.forget()
    pair[1].send(b"x")
    assert waiter.wait(pair[0], READ, LIMIT) == READ
    waiter.wake()
    assert waiter.wait(pair[0], WRITE, LIMIT) & WOKEN


def test_poll_that_belongs_to_one_thread_is_lent_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent's belongs to the loop of the thread that made it."""
    made = Waiter()
    assert made.serves_any_thread
    if hasattr(select, "poll"):
        monkeypatch.setattr(select, "poll", type("poll", (), {}))
        assert not made.serves_any_thread
    made.close()
