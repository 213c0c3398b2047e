"""A name server where this machine's resolver asks, but on a host of the tests: as slow and as odd as they like."""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.conftest import wait_for_lookups
from tests.support import LIMIT, Gate

_PORT = 53
_A, _AAAA = 1, 28
_ANSWER, _NO_SUCH_NAME = 0x8180, 0x8183


@functools.cache
def nameservers() -> list[str]:
    """Whom the system's resolver asks: a host that has these addresses itself is asked in their place."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text("utf-8", errors="replace").splitlines():
            words = line.split()
            if words[:1] == ["nameserver"] and len(words) > 1 and ":" not in words[1]:
                found.append(words[1])
    return found or ["127.0.0.1"]


class NameServer:
    """Answers from `names`, which lists the addresses of a name; what is not in it does not exist.

    A silent one answers only when the test is over, since no thread that asks can be freed in another way.
    """

    def __init__(self, names: Mapping[str, Sequence[str]], silent: bool = False) -> None:
        self.asked = Gate("question to the name server")
        self._names = names
        self._silent = silent

    def answer(self, question: bytes) -> bytes:
        name, kind, end = _parse(question)
        addresses = self._names.get(name)
        wanted = [_pack(kind, address) for address in addresses or () if (":" in address) == (kind == _AAAA)]
        flags = _NO_SUCH_NAME if addresses is None else _ANSWER
        wanted = wanted if kind in (_A, _AAAA) else []
        header = question[:2] + struct.pack("!HHHHH", flags, 1, len(wanted), 0, 0)
        return header + question[12:end] + b"".join(wanted)

    def run(self, sock: socket.socket) -> None:
        waiting = []
        while True:
            question, sender = sock.recvfrom(4096)
            if not question:  # the test's last word
                break
            self.asked.set()
            waiting.append((question, sender))
            if not self._silent:
                sock.sendto(self.answer(question), sender)
        for question, sender in waiting if self._silent else ():
            sock.sendto(self.answer(question), sender)


def _parse(question: bytes) -> tuple[str, int, int]:
    labels, place = [], 12
    while question[place]:
        labels.append(question[place + 1 : place + 1 + question[place]].decode("ascii"))
        place += 1 + question[place]
    (kind,) = struct.unpack_from("!H", question, place + 1)
    return ".".join(labels).lower(), kind, place + 5


def _pack(kind: int, address: str) -> bytes:
    data = socket.inet_pton(socket.AF_INET6 if kind == _AAAA else socket.AF_INET, address)
    return struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(data)) + data  # 0xC00C: the name of the question


@contextlib.contextmanager
def serving(server: NameServer) -> Iterator[NameServer]:
    """Have it answer on the host that the thread is on, wherever the resolver asks there."""
    with contextlib.ExitStack() as stack:
        for address in nameservers():
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((address, _PORT))
            thread = threading.Thread(target=server.run, args=(sock,), name="name-server", daemon=True)
            thread.start()
            stack.callback(thread.join, LIMIT)
            stack.callback(_stop, sock)
        yield server
    wait_for_lookups()


def _stop(sock: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
        last.sendto(b"", sock.getsockname())
