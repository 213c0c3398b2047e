"""Events: blinker signals, one for each object and event, strong and in the order of adding.

This is the room that knows blinker. A signal of its own for each object keeps threads out of each other's
way; ``emit`` calls every receiver even when one raises, which blinker's own ``send`` does not.

blinker, and ``inspect`` which it brings along, would be a quarter of what our import adds to that of urllib3. They come
with the first listener, so that programs without one never pay for them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, TypeVar, overload

from ._dispatch import report

if TYPE_CHECKING:
    from blinker import NamedSignal, Signal

SignalName = Literal[
    "request-started",
    "response-received",
    "request-redirected",
    "request-finished",
    "request-failed",
    "request-aborted",
    "request-closed",
    "attempt-started",
]

ListenerT = TypeVar("ListenerT", bound=Callable[..., object])


@functools.cache
def _tools() -> tuple[Callable[[object], bool], Callable[[], Signal]]:
    """What tells a coroutine function, and what makes a signal."""
    from inspect import iscoroutinefunction

    from blinker import Signal

    return iscoroutinefunction, Signal


class _Listener:
    """One registration: the same function added twice is called twice, as in Node."""

    __slots__ = ("__weakref__", "function", "once")

    def __init__(self, function: Callable[..., object], once: bool) -> None:
        self.function = function
        self.once = once

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.function(*args, **kwargs)


class Emitter:
    """The listeners of one object.

    Args:
        names: the events that exist.
    """

    used: bool = False  # whether anybody ever listened

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._signals: dict[str, Signal] = {}

    def add(self, name: str, function: Callable[..., object], once: bool = False) -> None:
        self._check(name)
        if not callable(function):
            raise TypeError(f"listener of {name!r} must be callable, not {type(function).__name__}")
        is_coroutine_function, make_signal = _tools()
        if is_coroutine_function(function):
            raise TypeError(f"listener of {name!r} is a coroutine function, which nobody would await")
        signal = self._signals.get(name)
        if signal is None:
            signal = self._signals.setdefault(name, make_signal())
        signal.connect(_Listener(function, once), weak=False)
        self.used = True

    def remove(self, name: str, function: Callable[..., object]) -> None:
        self._check(name)
        for receiver in reversed(self._receivers(name)):
            if receiver.function == function:
                self._signals[name].disconnect(receiver)
                return

    def listeners(self, name: str) -> list[Callable[..., object]]:
        self._check(name)
        return [receiver.function for receiver in self._receivers(name)]

    def has(self, name: str) -> bool:
        signal = self._signals.get(name)
        return signal is not None and bool(signal.receivers)

    def has_any(self) -> bool:
        """Whether anybody listens to anything."""
        return bool(self._signals) and any(signal.receivers for signal in list(self._signals.values()))

    def emit(self, name: str, *args: object) -> Optional[BaseException]:
        """Call every listener of an event in order; give back the first exception. Further ones are reported."""
        first: Optional[BaseException] = None
        for receiver in self._receivers(name):
            if receiver.once:
                self._signals[name].disconnect(receiver)
            try:
                receiver.function(*args)
            except BaseException as error:
                if first is None:
                    first = error
                else:
                    report(error)
        return first

    def _receivers(self, name: str) -> list[_Listener]:
        signal = self._signals.get(name)
        # In the order of adding; the signal's own way to them keeps no order, and looks for weak ones.
        receivers: list[Any] = [] if signal is None else list(signal.receivers.values())
        return receivers

    def _check(self, name: str) -> None:
        if name not in self._names:
            raise ValueError(f"unknown event {name!r}; known are {', '.join(sorted(self._names))}")


class EventTarget:
    """``on``, ``once``, ``off`` and ``listeners`` for an object that has an emitter."""

    _emitter: Emitter

    @overload
    def on(self: Any, name: str, listener: None = None) -> Callable[[ListenerT], ListenerT]: ...

    @overload
    def on(self: EventTargetT, name: str, listener: Callable[..., object]) -> EventTargetT: ...

    def on(self: Any, name: str, listener: Optional[Callable[..., object]] = None) -> Any:
        """Call ``listener`` at every event ``name``; without one, a decorator. Any thread.

        Listeners are held strongly and called in the order added, the same one as often as it was added.
        Gives the object itself, or, as a decorator, the listener.

        Raises:
            ValueError: there is no such event.
            TypeError: the listener is not callable, or a coroutine function.
        """
        return self._listen(name, listener, once=False)

    @overload
    def once(self: Any, name: str, listener: None = None) -> Callable[[ListenerT], ListenerT]: ...

    @overload
    def once(self: EventTargetT, name: str, listener: Callable[..., object]) -> EventTargetT: ...

    def once(self: Any, name: str, listener: Optional[Callable[..., object]] = None) -> Any:
        """Like ``on``, for the next event only."""
        return self._listen(name, listener, once=True)

    def _listen(self, name: str, listener: Optional[Callable[..., object]], once: bool) -> Any:
        if listener is not None:
            self._add_listener(name, listener, once)
            return self
        self._emitter.listeners(name)  # raises for an unknown event now, not when it is decorated

        def decorate(function: ListenerT) -> ListenerT:
            self._add_listener(name, function, once)
            return function

        return decorate

    def _add_listener(self, name: str, listener: Callable[..., object], once: bool) -> None:
        self._emitter.add(name, listener, once)

    def off(self: EventTargetT, name: str, listener: Callable[..., object]) -> EventTargetT:
        """Take away the listener, the one added last if it was added more than once. Any thread."""
        self._emitter.remove(name, listener)
        return self

    def listeners(self, name: str) -> list[Callable[..., object]]:
        """The listeners of an event, in the order in which they are called."""
        return self._emitter.listeners(name)


EventTargetT = TypeVar("EventTargetT", bound=EventTarget)


# Those of the whole process that somebody has asked for; nobody is connected to others.
_asked_for: dict[SignalName, NamedSignal] = {}


def global_signal(name: SignalName, doc: str) -> NamedSignal:
    """The signal for observers of the whole process, the same each time."""
    from blinker import NamedSignal

    return _asked_for.setdefault(name, NamedSignal(name, doc))


def is_observed(name: SignalName) -> bool:
    """Whether anybody is connected to a process-wide signal."""
    signal = _asked_for.get(name)
    return signal is not None and bool(signal.receivers)


def is_any_observed(*names: SignalName) -> bool:
    """Whether anybody is connected to one of these."""
    return bool(_asked_for) and any(map(is_observed, names))


def observe(name: SignalName, sender: object, **details: object) -> None:
    """Tell the observers of a process-wide signal; what they raise goes to ``threading.excepthook`` only."""
    signal = _asked_for.get(name)
    if signal is None or not signal.receivers:
        return
    for receiver in list(signal.receivers_for(sender)):
        try:
            receiver(sender, **details)
        except BaseException as error:
            report(error)
