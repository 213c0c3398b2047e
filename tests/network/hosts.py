"""Hosts: network namespaces without a name, each with one network card whose other end is a file of ours.

A namespace lives as long as somebody has it open, and the card as long as its file. Nothing has a name, nothing is
written down: when this process ends, however it ends, the kernel takes all of it away.

A socket belongs to the host its maker was in; and a thread begins where its maker was. So a server that is started
inside of one host, and a client that is used inside of another, find themselves there with all their threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.servers.programs import SEARCH

CARD = "card0"
NETWORK = "10.77.0.0/16"

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_HERE = "/proc/thread-self/ns/net"

# Python has these from 3.12 on only.
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@contextlib.contextmanager
def _back_home() -> Iterator[None]:
    home = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        _call("setns", home, _CLONE_NEWNET)
        os.close(home)


class Host:
    """A host with an address; `card` is the file behind its network card, where packets come and go.

    Args:
        address: its IPv4 address in `NETWORK`; everything leads through the card.
        more: further commands of `ip`, such as `addr add ... dev lo`.
    """

    def __init__(self, address: str, *more: str) -> None:
        self.address = address
        with _back_home():
            _call("unshare", _CLONE_NEWNET)
            self._namespace = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
            self.card = _make_card()
            self._ip("link set lo up", f"addr add {address}/32 dev {CARD}", *more, *self._up())
        # How much a kernel buffers decides what a client notices, and when.
        self.set_kernel(tcp_wmem="4096 65536 1000000", tcp_rmem="4096 131072 1000000")

    def __repr__(self) -> str:
        return f"<Host {self.address}>"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is on this host, and so is what it makes there: sockets, threads, processes."""
        with _back_home():
            _call("setns", self._namespace, _CLONE_NEWNET)
            yield

    def close(self) -> None:
        os.close(self.card)
        os.close(self._namespace)

    def set_link(self, up: bool) -> None:
        """Switch the card on or off; off, nothing leads anywhere."""
        with self.inside():
            self._ip(*(self._up() if up else [f"link set {CARD} down"]))

    def ip(self, *commands: str) -> None:
        """Run commands of `ip` on this host."""
        with self.inside():
            self._ip(*commands)

    def set_kernel(self, **values: object) -> None:
        """Settings of this host's own kernel, below `net.ipv4`."""
        with self.inside():
            for name, value in values.items():
                Path("/proc/sys/net/ipv4", name).write_text(str(value), "ascii")

    @staticmethod
    def _up() -> list[str]:
        # Without rto_min each loss costs 0.2 s, much more than on this network it takes to be noticed.
        return [f"link set {CARD} up", f"route replace default dev {CARD} rto_min 20ms"]

    @staticmethod
    def _ip(*commands: str) -> None:
        program = shutil.which("ip", path=SEARCH)
        if program is None:
            raise FileNotFoundError("there is no program 'ip' (Debian's package iproute2)")
        done = subprocess.run([program, "-batch", "-"], input="\n".join(commands), text=True, capture_output=True)
        if done.returncode:
            raise OSError(f"ip: {done.stderr.strip()}")


def _make_card() -> int:
    """A TUN device in the host that the thread is in; the file has one packet a read and one a write."""
    card = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(card, _TUNSETIFF, struct.pack("16sH22x", CARD.encode(), _IFF_TUN | _IFF_NO_PI))
    except BaseException:
        os.close(card)
        raise
    return card


@functools.cache
def why_not() -> str:
    """Why hosts can't be made here; empty if they can."""
    try:
        Host("10.77.0.1").close()
    except (OSError, AttributeError) as error:
        hint = "" if os.geteuid() == 0 else "; only root may make network namespaces"
        return f"no hosts of our own here: {error}{hint}"
    return ""
