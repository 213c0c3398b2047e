"""Worker threads: one carries each active request, then is parked and used again.

A worker owns a bell, so that anybody can interrupt it while it waits for the network. Workers are not
daemons: an ended request is finished before the interpreter goes. A parked one leaves after ``IDLE`` seconds,
and at once when the interpreter wants to exit.
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import math
import os
import select
import socket
import sys
import threading
import time
import types
from collections import deque
from typing import Any, Callable, Optional

from ._gates import SLICE

if sys.platform == "linux":
    import fcntl

IDLE = 5.0  # seconds a parked worker waits for its next request
CROWD = 8  # workers that there are before descriptors are provided for more
TICK = 0.005  # seconds for which a reserved worker is left alone
HURRY = 0.1  # seconds between two jobs within which the next one is likely to come as soon

MOST_LATE = 3  # slices after which a worker no longer waits for a job that Ctrl-C has lost, once the program has ended

READ, WRITE, WOKEN = 1, 2, 4
POLLIN, POLLOUT = getattr(select, "POLLIN", 0), getattr(select, "POLLOUT", 0)  # Windows has no poll
_MASKS = {READ: POLLIN, WRITE: POLLOUT, READ | WRITE: POLLIN | POLLOUT}


class Bell:
    """Something to poll, readable from ``ring`` to ``hush``.

    Nobody closes it. It goes with the last who holds it, so that none ever rings what is another's by then.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # there were none to be had
            self._receiver.close()
            self._sender.close()

    def fileno(self) -> int:
        return self._receiver.fileno()

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it was rung already
            self._sender.send(b"\0")

    def hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(self._receiver.recv(4096)) == 4096:
                pass


make_bell: Callable[[], Bell] = Bell

if sys.platform == "linux" and sys.version_info >= (3, 10) and hasattr(os, "eventfd"):

    class EventBell(Bell):
        """One of a single descriptor, and made by one call of the system."""

        def __init__(self) -> None:
            self._number = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

        def __del__(self) -> None:
            with contextlib.suppress(AttributeError):  # there was none to be had
                os.close(self._number)

        def fileno(self) -> int:
            return self._number

        def ring(self) -> None:
            with contextlib.suppress(BlockingIOError):  # rung 2**64 times, and not heard
                os.eventfd_write(self._number, 1)

        def hush(self) -> None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._number)

    make_bell = EventBell


class Waiter:
    """Waits for a socket or for ``wake()``, whichever comes first.

    ``wake`` may be called from any thread, a signal handler and ``__del__``; the rest belongs to one thread at a time.
    """

    def __init__(self) -> None:
        self._bell: Optional[Bell] = make_bell()
        self._has_poll = hasattr(select, "poll")
        self._poller: Any = None
        self._own = -1  # its own descriptor, once there is a poller
        self._watched = (-1, 0)  # what else the poller was told of, and what of it

    def wake(self) -> None:
        bell = self._bell
        if bell is not None:
            bell.ring()

    def wait(self, sock: Any, events: int, timeout: Optional[float]) -> int:
        """Which of ``events`` hold, with ``WOKEN`` where somebody woke us; 0 when ``timeout`` seconds are over."""
        bell = self._bell
        assert bell is not None
        ready, woken = (self._poll if self._has_poll else self._select)(bell, sock, events, timeout)
        if woken:
            bell.hush()
            ready |= WOKEN
        return ready

    def _poll(self, bell: Bell, sock: Any, events: int, timeout: Optional[float]) -> tuple[int, bool]:
        poller = self._poller
        if poller is None:
            self._own = bell.fileno()
            poller = self._poller = select.poll()
            poller.register(self._own, POLLIN)
        own, descriptor = self._own, -1
        if events:
            descriptor = sock.fileno()
            if descriptor < 0:
                raise OSError("the socket is closed")
        if self._watched != (descriptor, events):
            self._watch(descriptor, events)
        found = poller.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999)))
        if events == READ and found == [(descriptor, POLLIN)]:  # nearly always
            return READ, False
        ready, woken = 0, False
        for number, mask in found:
            if number == own:
                woken = True
                continue
            if mask & ~POLLOUT:  # readable, or an error that reading will tell
                ready |= READ
            if mask & ~POLLIN:
                ready |= WRITE
        return ready & events or (events if ready else 0), woken

    def _watch(self, descriptor: int, events: int) -> None:
        before = self._watched[0]
        if before >= 0 and before != descriptor:
            self._poller.unregister(before)  # it may be closed by now, and its number another's
        if events:
            self._poller.register(descriptor, _MASKS[events])
        self._watched = (descriptor, events)

    def _select(self, bell: Bell, sock: Any, events: int, timeout: Optional[float]) -> tuple[int, bool]:
        # Windows has no poll; there a failed connect shows in the third list only.
        reading: list[Any] = [bell, sock] if events & READ else [bell]
        writing = [sock] if events & WRITE else []
        readable, writable, failed = select.select(reading, writing, writing, timeout)
        ready = (READ if sock in readable else 0) | (WRITE if sock in writable or sock in failed else 0)
        return ready, bell in readable

    @property
    def serves_any_thread(self) -> bool:
        """Whether others than its own thread may wait with it, one at a time. gevent's poll is that of one thread."""
        return not self._has_poll or isinstance(select.poll, types.BuiltinFunctionType)

    def forget(self) -> None:
        """Begin afresh: a wait was interrupted, and nobody can tell what the poller knows."""
        self._poller = None
        self._watched = (-1, 0)

    def close(self) -> None:
        """Nobody waits any more."""
        self._bell = None


Job = Callable[["Worker"], None]


class Worker(threading.Thread):
    """A thread that carries one job after another."""

    hurried = False  # its last job came soon after the one before

    def __init__(self, crew: Crew, job: Job, number: int) -> None:
        # Said explicitly: the default is inherited, and the threads of some servers are daemons.
        super().__init__(name=f"clientrequest-{number}", daemon=False)
        self.waiter = Waiter()
        self._crew = crew
        self._job: Optional[Job] = job
        self._gate = threading.Lock()
        self._gate.acquire()

    def take(self, job: Job) -> None:
        """Its own next job; on the worker."""
        self._job = job

    def hand(self, job: Optional[Job]) -> None:
        """Give a parked worker its next job, or ``None`` to send it home."""
        self._job = job
        self._gate.release()

    def run(self) -> None:
        try:
            self._crew.provide()
            while self._job is not None:
                job, self._job = self._job, None
                job(self)
                del job
                if not self._crew.park(self, self._gate):
                    return
        finally:
            self._crew.left(self)


class Reservation:
    """A parked worker that is kept for a job, and not woken for it yet.

    It is taken by the first of two: a thread that waits for the job, and does it in the worker's place, or the lookout,
    which sends the worker once it was left alone for a ``TICK``.
    """

    __slots__ = ("_crew", "_holder", "_job", "since", "worker")

    def __init__(self, crew: Crew, worker: Worker, job: Job) -> None:
        self.worker = worker
        self.since = time.monotonic()
        self._crew = crew
        self._job = job
        self._holder: dict[str, object] = {}

    def take(self, holder: object) -> bool:
        """Whether it falls to ``holder``, which nobody else may use, to ``settle`` it. No lock: this is atomic."""
        taken = self._holder.setdefault("is", holder) is holder
        self._crew.reserved.discard(self)  # or else the next one does it, after Ctrl-C
        return taken

    def settle(self, holder: object, done: bool) -> None:
        """Let the worker go if the job is done, else send it; nothing if it was not ``holder`` who took it. Once."""
        if self._holder.get("is") is not holder:
            return
        if done:
            self._crew.let_go(self.worker)
        else:
            self.worker.hand(self._job)
        self._job = _no_job  # no cycle: that of a request holds it, and may be held by it

    def send(self) -> None:
        """Have the worker do it now, unless somebody has taken it."""
        me = object()
        if self.take(me):
            self.settle(me, done=False)


class Crew:
    """All workers of this process: the parked ones, and what is done at fork and at exit."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._parked: list[Worker] = []  # last in, first out: the warm ones work, the others leave
        self._left_over: deque[Job] = deque()  # for the next worker that is free
        self._numbers = itertools.count(1)
        self._hooked = False
        self._workers: set[Worker] = set()  # all of them, parked or not
        self._crowd = CROWD
        self._will_be_told = False  # of the exit, by a hook
        self.reserved: set[Reservation] = set()  # those that nobody has taken
        self._reservations = 0  # that there ever were
        self._lookout: Optional[Worker] = None  # a parked worker that looks after the reserved ones
        self.closing = False  # the interpreter wants to exit
        self.at_exit: Callable[[], None] = _nothing

    def run(self, job: Job) -> Worker:
        """Have a worker run ``job(worker)``. Raises ``RuntimeError`` where no thread can be started."""
        if self._pid != os.getpid():
            self.after_fork()
        try:
            worker = self._parked.pop()
        except IndexError:
            return self._start(job)
        worker.hand(job)
        return worker

    def reserve(self, job: Job) -> Optional[Reservation]:
        """Keep a worker for ``job`` without waking it; ``None`` if none is parked, or nobody would look after it."""
        if self._lookout is None or self._pid != os.getpid():
            return None
        try:
            worker = self._parked.pop()
        except IndexError:
            return None
        reservation = Reservation(self, worker, job)
        self.reserved.add(reservation)
        self._reservations += 1
        if not self.looks_out:  # it left before it could see this one
            reservation.send()
        return reservation

    @property
    def looks_out(self) -> bool:
        """Whether ``reserve`` makes sense."""
        return self._lookout is not None

    def let_go(self, worker: Worker) -> None:
        """A worker that was reserved is not needed."""
        if worker not in self._workers:  # it is the parent's, and this a forked child
            return
        self._parked.append(worker)
        if self._left_over:
            with contextlib.suppress(IndexError):
                self.run_soon(self._left_over.popleft())
        if self.closing:  # asked last: the others may have been sent home before it was there
            self.send_home()

    def run_soon(self, job: Job) -> None:
        """Have the next free worker run ``job``. Starts no thread and takes no lock: fit for ``__del__``."""
        try:
            worker = self._parked.pop()
        except IndexError:
            self._left_over.append(job)
        else:
            worker.hand(job)

    def run_surely(self, job: Job) -> None:
        """``run_soon`` for a job that somebody waits for: where no worker is free, one is started, by a thread of its
        own, since whoever called may be in the middle of starting one himself."""
        self.run_soon(job)
        if self._left_over:
            with contextlib.suppress(RuntimeError, MemoryError):  # the program is ending, or no thread can be had
                _thread.start_new_thread(self._start_helper, ())

    def _start_helper(self) -> None:
        with contextlib.suppress(RuntimeError, OSError, MemoryError):
            self.run(_no_job)

    def _start(self, job: Job) -> Worker:
        if not self._hooked:
            self._hooked = True
            register = getattr(threading, "_register_atexit", None)
            if register is not None:
                try:
                    register(self._exit)
                    self._will_be_told = True
                except RuntimeError:
                    self.closing = True  # already on the way out
        worker = Worker(self, job, next(self._numbers))
        self._workers.add(worker)
        try:
            worker.start()
        except BaseException:
            self.left(worker)
            raise
        return worker

    def provide(self) -> None:
        """See to it that there is room for more descriptors long before it is needed; on a new worker."""
        if len(self._workers) > self._crowd:
            self._crowd *= 4
            _make_room(8 * self._crowd)

    def left(self, worker: Worker) -> None:
        """It is no more."""
        self._workers.discard(worker)
        worker.waiter.close()

    def park(self, worker: Worker, gate: threading.Lock) -> bool:
        """Wait for the next job of ``worker``; false if it shall leave."""
        if self.closing or self._pid != os.getpid():
            return False
        if self._left_over and self._take_left_over(worker):
            return True
        self._parked.append(worker)
        # Asked again: the exit hook, or a job, may have come before we were there.
        if self._is_closing() or self._left_over:
            return self._stay(worker, gate) or (not self._is_closing() and self._take_left_over(worker))
        began = time.monotonic()
        if self._look_out(worker, gate) or self._sleep(gate):
            worker.hurried = time.monotonic() - began < HURRY
            return True
        return self._stay(worker, gate)

    def _look_out(self, worker: Worker, gate: threading.Lock) -> bool:
        """Be the lookout, if one is wanted, as long as requests come in a hurry; true once there is a job for him."""
        if not worker.hurried or self._lookout is not None or not worker.waiter.serves_any_thread:
            return False
        self._lookout = worker
        seen, quiet = self._reservations, 0.0
        called = False
        while quiet < HURRY and self._lookout is worker and not called:
            called = gate.acquire(timeout=TICK)
            self._send_reserved(since=time.monotonic() - TICK)
            quiet = quiet + TICK if seen == self._reservations else 0.0
            seen = self._reservations
        if self._lookout is worker:
            self._lookout = None
            self._send_reserved()
        return called

    def _sleep(self, gate: threading.Lock) -> bool:
        """Wait for a job, or until the worker has been idle for long enough."""
        # In slices where there is no exit hook: this is how a parked worker learns that the program ended. Else in one:
        # of a thousand that look up every second, none finds the interpreter free, and those at work wait for them.
        longest = IDLE if self._will_be_told else SLICE
        waited = 0.0
        while waited < IDLE and threading.main_thread().is_alive():
            step = min(longest, IDLE - waited)
            if gate.acquire(timeout=step):
                return True
            waited += step
        return False

    def _send_reserved(self, since: float = math.inf) -> None:
        """Send the workers for whose jobs nobody has come since then."""
        for reservation in self.reserved.copy():
            if reservation.since <= since:
                reservation.send()

    def _take_left_over(self, worker: Worker) -> bool:
        try:
            worker.take(self._left_over.popleft())
        except IndexError:
            return False
        return True

    def _is_closing(self) -> bool:
        return self.closing

    def _stay(self, worker: Worker, gate: threading.Lock) -> bool:
        """Leave the parked ones; true if a job was on its way already, which is then waited for."""
        late = 0
        while late <= MOST_LATE:
            try:
                self._parked.remove(worker)
            except ValueError:  # or it is reserved, and may be let go again
                if gate.acquire(timeout=SLICE):
                    return True
                late += self.closing
            else:
                break
        return False

    def after_fork(self) -> None:
        """In the child the parent's workers do not exist; their descriptors are copies, to be closed, never shut."""
        parked, self._parked = self._parked, []
        gone, self._workers = self._workers, set()
        self._pid = os.getpid()
        self._left_over.clear()
        self._hooked = False
        self._will_be_told = False
        self._crowd = CROWD
        self.reserved.clear()
        self._lookout = None
        self.closing = False
        for worker in parked:
            worker.waiter.close()
        for worker in gone:
            _declare_dead(worker)

    def _exit(self) -> None:
        # Runs on the main thread before it joins the others; must not wait for anybody.
        if self._pid != os.getpid():
            self.after_fork()
        self.closing = True
        self._lookout = None
        self._send_reserved()
        self.send_home()
        self.at_exit()

    def send_home(self) -> list[Worker]:
        """Have the parked workers leave; gives them, to be joined by whoever wants to."""
        leaving: list[Worker] = []
        while self._parked:
            try:
                leaving.append(self._parked.pop())
            except IndexError:
                break
            leaving[-1].hand(None)
        return leaving

    def parked(self) -> tuple[Worker, ...]:
        """The idle workers."""
        return tuple(self._parked)


def _make_room(descriptors: int) -> None:
    """Have the system's table of our descriptors grow to that many, or to as many as we may have.

    Linux doubles it whenever it is full. In a process with threads that lasts some milliseconds, in which all who want
    a descriptor wait, whoever starts requests among them: with 500 at once five times, a tenth of all their time. Grown
    ahead, by one who waits alone, it keeps nobody.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            most = min(descriptors, os.sysconf("SC_OPEN_MAX"))
            bell = make_bell()
            os.close(fcntl.fcntl(bell.fileno(), fcntl.F_DUPFD_CLOEXEC, most - 1))


def _declare_dead(thread: threading.Thread) -> None:
    """Have Python not wait at exit for a thread that a fork has left behind.

    Its own hook sees to that; but servers that fork in C, as uWSGI does, do not call it, and their processes would
    never end. There is no public way, and from Python 3.13 on none at all.
    """
    lock = getattr(thread, "_tstate_lock", None)
    if lock is not None and lock.locked():
        lock.release()


def program_has_ended() -> bool:
    """Whether nobody is left who could write, read or abort: main is gone, and so is every other user thread."""
    if threading.main_thread().is_alive():
        return False
    return not any(
        thread.is_alive() and not thread.daemon and not isinstance(thread, Worker) for thread in threading.enumerate()
    )


def _nothing() -> None:
    pass


def _no_job(worker: Worker) -> None:
    """Has a worker come, which then looks for what was left over."""


crew = Crew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=crew.after_fork)
