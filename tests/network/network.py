"""The network between the hosts: one thread that carries every packet, or does not, as the test says.

In place of `tc netem` and a firewall: those are modules that many kernels lack, and they know no place. Here a fault
begins at a byte of the connection: `network.at(after(CLIENT, 100_000), drop)`.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import select
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Callable, Optional

from tests.support import LIMIT, Gate

from .hosts import Host
from .packets import Packet, parse, reset_back, resets, unreachable

READ_SIZE = 65536
CLIENT, SERVER, PROXY = "10.77.0.1", "10.77.0.2", "10.77.0.3"
NOBODY = "10.77.0.99"  # an address in the network that no host has

Fate = Callable[["Network", Packet], bool]
"""Called with each packet while a fault lasts; true if the packet goes on as if nothing were."""
Mark = Callable[[Packet], bool]
"""Called with each packet until it is true: there a fault begins, with that packet."""


@dataclass(frozen=True)
class Weather:
    """How well packets travel, in each direction.

    Attributes:
        delay: seconds on the way. jitter: up to so many more, by chance, so that packets overtake each other.
        loss, doubled, damaged: the share of packets, by chance. A SYN is never lost: the next would come after 1 s,
        and half of them would be lost as well; see `test_weather.test_lost_syn`.
        late: the share of packets that are held back, for `jitter` more.
        rate: bytes a second, `None` for no limit; up to `queue` bytes wait, the rest is lost.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    doubled: float = 0.0
    damaged: float = 0.0
    late: float = 0.0
    rate: Optional[float] = None
    queue: int = 60_000


FAIR = Weather()


class Fault:
    """Something that goes wrong from a mark on, until `mend()`."""

    def __init__(self, mark: Mark, fate: Fate) -> None:
        self.mark = mark
        self.fate = fate
        self.began = Gate("fault")
        self.began_at = 0.0
        self.mended = False

    def mend(self) -> None:
        self.mended = True

    def meets(self, network: Network, packet: Packet) -> bool:
        """Whether the packet goes on."""
        if self.mended:
            return True
        if not self.began.is_set():
            if not self.mark(packet):
                return True
            self.began_at = time.monotonic()
            self.began.set()
        return self.fate(network, packet)


class Network:
    """Carries packets between `hosts`; a context manager. What leads to nobody is lost without a word."""

    def __init__(self, *hosts: Host, seed: int = 1) -> None:
        self.weather = FAIR
        self.counts: Counter[str] = Counter()
        """What became of packets: `travelled` in some weather, `lost`, `overflown`, `doubled`, `damaged`, `late` there,
        `dropped` by a fault, `carried` to a host."""
        self.errors: list[BaseException] = []
        self._hosts = {host.address: host for host in hosts}
        self._random = random.Random(seed)
        self._faults: list[Fault] = []
        self._due: list[tuple[float, int, int, bytes]] = []  # when, a number for the order, card, packet
        self._numbers = itertools.count()
        self._busy_until: dict[int, float] = {}  # by card: when it will have sent what waits
        self._stopping = False

    def __enter__(self) -> Network:
        self._alarm, self._bell = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping = True
        self._bell.send(b"!")
        self._thread.join(LIMIT)
        self._alarm.close()
        self._bell.close()
        if self.errors:
            raise self.errors[0]

    # From the test's thread

    def at(self, mark: Mark, fate: Fate) -> Fault:
        """Have a fault begin at a mark."""
        fault = Fault(mark, fate)
        self._faults = [*self._faults, fault]  # a new list: the other thread may be going through the old one
        return fault

    def close_down(self) -> None:
        """The test is over: whoever still waits for a packet hears that there will be none."""
        self.weather = FAIR
        self._faults = [Fault(now, reset)]

    def send(self, packets: list[bytes]) -> None:
        """Put packets of our own on their way, past all faults and weather. The network's thread only."""
        for data in packets:
            packet = parse(data)
            assert packet is not None
            host = self._hosts.get(packet.destination)
            if host is not None:
                self._deliver(host.card, data)

    # The network's thread

    def _run(self) -> None:
        try:
            self._carry()
        except BaseException as error:
            self.errors.append(error)

    def _carry(self) -> None:
        poll = select.poll()
        poll.register(self._alarm, select.POLLIN)
        cards = [host.card for host in self._hosts.values()]
        for card in cards:
            poll.register(card, select.POLLIN)
        while not self._stopping:
            timeout = None if not self._due else max(0.0, (self._due[0][0] - time.monotonic()) * 1000)
            for card, events in poll.poll(timeout):
                if card in cards and events & select.POLLIN:
                    self._empty(card)
                elif card in cards:  # the card is off: it says so again and again
                    time.sleep(0.001)
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, card, data = heapq.heappop(self._due)
                self._deliver(card, data)

    def _empty(self, card: int) -> None:
        for _ in range(64):
            try:
                data = os.read(card, READ_SIZE)
            except OSError:  # nothing more, or the card is off
                return
            packet = parse(data)
            if packet is not None:
                self._route(packet)

    def _route(self, packet: Packet) -> None:
        for fault in self._faults:
            if not fault.meets(self, packet):
                return
        host = self._hosts.get(packet.destination)
        if host is not None:
            self._travel(host.card, packet)

    def _travel(self, card: int, packet: Packet) -> None:
        weather = self.weather
        if weather is FAIR:
            self._deliver(card, packet.data)
            return
        if not packet.connects() and self._happens("lost", weather.loss):
            return
        copies = 2 if self._happens("doubled", weather.doubled) else 1
        data = packet.data
        if self._happens("damaged", weather.damaged):
            data = self._damage(data)
        due = time.monotonic()
        if weather.rate is not None:
            begin = max(due, self._busy_until.get(card, 0.0))
            if (begin - due) * weather.rate > weather.queue:
                self.counts["overflown"] += 1
                return
            due = self._busy_until[card] = begin + len(packet) / weather.rate
        due += weather.delay + weather.jitter * self._random.random()
        if self._happens("late", weather.late):
            due += weather.jitter
        self.counts["travelled"] += 1
        for _ in range(copies):
            heapq.heappush(self._due, (due, next(self._numbers), card, data))

    def _happens(self, what: str, share: float) -> bool:
        if not share or self._random.random() >= share:
            return False
        self.counts[what] += 1
        return True

    def _damage(self, data: bytes) -> bytes:
        """One bit of it, anywhere, turned over."""
        damaged = bytearray(data)
        bit = self._random.randrange(8 * len(data))
        damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)

    def _deliver(self, card: int, data: bytes) -> None:
        self.counts["carried"] += 1
        with contextlib.suppress(OSError):  # the card is off, or does not understand what was damaged
            os.write(card, data)


# Where a fault begins


def now(packet: Packet) -> bool:
    """At the next packet, whatever it is."""
    return True


def after(source: str, count: int) -> Mark:
    """Once the host has sent so many bytes in its connections; those sent again count again."""
    seen = 0

    def reached(packet: Packet) -> bool:
        nonlocal seen
        if packet.source == source:
            seen += packet.payload
        return seen > count

    return reached


def once(gate: Gate) -> Mark:
    """At the next packet after somebody opened the gate."""
    return lambda packet: gate.is_set()


# What goes wrong


def drop(network: Network, packet: Packet) -> bool:
    """A black hole: packets vanish, all of them, in both directions."""
    network.counts["dropped"] += 1
    return False


def drop_from(source: str) -> Fate:
    """A black hole in one direction only."""

    def fate(network: Network, packet: Packet) -> bool:
        return packet.source != source or drop(network, packet)

    return fate


def drop_larger(size: int) -> Fate:
    """A link that can't carry large packets, and a router that does not say so (RFC 2923, 2.1)."""

    def fate(network: Network, packet: Packet) -> bool:
        return len(packet) <= size or drop(network, packet)

    return fate


def drop_first(count: int) -> Fate:
    """The first packets vanish."""
    left = iter(range(count))

    def fate(network: Network, packet: Packet) -> bool:
        return next(left, None) is None or drop(network, packet)

    return fate


def reset(network: Network, packet: Packet) -> bool:
    """A firewall that ends connections: each end hears it from the other."""
    if packet.is_tcp:
        network.send(resets(packet))
    return False


def forget(deaf: bool = False) -> Fate:
    """A server that was started anew: what belongs to older connections gets a RST; a deaf one takes no new ones."""
    known: set[tuple[tuple[str, int], ...]] = set()

    def fate(network: Network, packet: Packet) -> bool:
        ends = tuple(sorted(zip((packet.source, packet.destination), packet.ports)))
        if packet.connects():
            if deaf:
                return drop(network, packet)
            known.add(ends)
        if ends in known:
            return True
        if packet.source == CLIENT:
            network.send(reset_back(packet))
        return False

    return fate


def refuse(code: int, to: str = "") -> Fate:
    """A router that can't pass packets on, those to one address or all, and says why."""

    def fate(network: Network, packet: Packet) -> bool:
        if to and packet.destination != to:
            return True
        network.send(unreachable(packet, code))
        return False

    return fate
