"""Events: blinker signals, one for each object and event, strong and in the order of adding.

This is the only room that knows blinker. A signal of its own for each object keeps threads out of each other's
way; ``emit`` calls every receiver even when one raises, which blinker's own ``send`` does not.
"""

from __future__ import annotations

import inspect
from typing import Any, Callable, Optional, TypeVar, overload

import blinker

from ._dispatch import report

ListenerT = TypeVar("ListenerT", bound=Callable[..., object])


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
        self._signals: dict[str, blinker.Signal] = {}

    def add(self, name: str, function: Callable[..., object], once: bool = False) -> None:
        self._check(name)
        if not callable(function):
            raise TypeError(f"listener of {name!r} must be callable, not {type(function).__name__}")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"listener of {name!r} is a coroutine function, which nobody would await")
        signal = self._signals.get(name)
        if signal is None:
            signal = self._signals.setdefault(name, blinker.Signal())
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


NamedSignal = blinker.NamedSignal
_namespace = blinker.Namespace()


def global_signal(name: str, doc: str) -> blinker.NamedSignal:
    """A signal for observers of the whole process."""
    return _namespace.signal(name, doc)


def observe(signal: blinker.Signal, sender: object, **details: object) -> None:
    """Tell the observers of a process-wide signal; what they raise goes to ``threading.excepthook`` only."""
    if not signal.receivers:
        return
    for receiver in list(signal.receivers_for(sender)):
        try:
            receiver(sender, **details)
        except BaseException as error:
            report(error)
