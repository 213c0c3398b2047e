"""The strand: where the callbacks of one request run. One at a time, in order, with no lock of ours held.

Without a dispatcher they run on the worker, straight away. With one they are queued and the dispatcher has
them run elsewhere; even an executor with many threads then runs them one after the other.
"""

from __future__ import annotations

import contextvars
import functools
import sys
import threading
from collections import deque
from typing import Callable, Optional

Dispatcher = Callable[[Callable[[], None]], object]
Task = Callable[[], None]


class Strand:
    """Runs tasks one at a time.

    Args:
        context: the ``contextvars`` of the thread that created the request.
        dispatcher: takes a function and has it called elsewhere; ``None`` for the worker itself.
        idle: called from wherever a dispatched task ended.
    """

    broken: Optional[BaseException] = None  # what the dispatcher raised
    _tasks: Optional[deque[Task]] = None  # only with a dispatcher
    _turn: Optional[threading.Lock] = None
    _running_in: Optional[int] = None

    def __init__(
        self, context: contextvars.Context, dispatcher: Optional[Dispatcher], idle: Callable[[], None]
    ) -> None:
        self.context = context
        self.inline = dispatcher is None
        self._dispatcher = dispatcher
        self._idle = idle
        if dispatcher is not None:
            self._tasks = deque()
            self._turn = threading.Lock()

    def run(self, task: Callable[..., None], *arguments: object) -> None:
        """Run ``task`` now or, with a dispatcher, some time soon. Called on the worker; tasks do not raise."""
        if self.inline:
            self._call(task, arguments)
            return
        assert self._tasks is not None
        self._tasks.append(functools.partial(task, *arguments))
        if self.broken is None:
            try:
                assert self._dispatcher is not None
                self._dispatcher(self._drain)
                return
            except BaseException as error:
                self.broken = error
        self._drain()

    def _call(self, task: Callable[..., None], arguments: tuple[object, ...] = ()) -> None:
        before, self._running_in = self._running_in, threading.get_ident()
        try:
            task(*arguments)
        finally:
            self._running_in = before

    def _drain(self) -> None:
        turn, tasks = self._turn, self._tasks
        assert turn is not None
        assert tasks is not None
        # Asked again after the turn is given back: a task may have come in between.
        while tasks and turn.acquire(False):
            try:
                while tasks:
                    task = tasks[0]  # stays in the queue while it runs: ``busy`` counts it
                    try:
                        self.context.run(self._call, task)
                    finally:
                        tasks.popleft()
            finally:
                turn.release()
            self._idle()

    def forget(self) -> None:
        """Nobody waits for the strand any more."""
        self._idle = _nothing

    def busy(self) -> bool:
        """Whether a dispatched task has yet to end."""
        return bool(self._tasks)

    def is_current(self) -> bool:
        """Whether the caller is a callback of this strand."""
        return self._running_in == threading.get_ident()


def _nothing() -> None:
    pass


def taking_error(callback: Callable[..., object]) -> Callable[[Optional[BaseException]], object]:
    """A write or end callback as one that takes an error or ``None``, also if it takes no argument itself."""
    # Not before there is a callback: it is a third of what our own import takes. On the caller's thread, for a fork
    # while a worker imports something would leave it half imported in the child.
    import inspect

    try:
        inspect.signature(callback).bind(None)
    except TypeError:
        return lambda error: callback()
    except ValueError:  # a builtin that does not tell
        pass
    return callback


def report(error: BaseException) -> None:
    """Hand an exception that nobody can be given to ``threading.excepthook``, looked up late as it may be replaced."""
    arguments = threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
    try:
        threading.excepthook(arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())
