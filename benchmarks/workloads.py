"""The table: what is measured, how much of it, and what we want to reach."""

from __future__ import annotations

from typing import NamedTuple, Optional

import peers.aiohttp
import peers.clientrequest
import peers.curl
import peers.http_client
import peers.httpx
import peers.node
import peers.pycurl
import peers.requests
import peers.sockets
import peers.urllib3
from basis import GIB, LARGE_WRITE, MIB, TINY_WRITE, Client, Peer

# The first one that has a client for a workload is what the others are measured by there.
PEERS: dict[str, Peer] = {
    module.PEER.name: module.PEER
    for module in (
        peers.urllib3,
        peers.clientrequest,
        peers.requests,
        peers.httpx,
        peers.aiohttp,
        peers.pycurl,
        peers.http_client,
        peers.sockets,
        peers.node,
        peers.curl,
    )
}
OURS, BASELINE, LIMIT = "clientrequest", "urllib3", "sockets"


class Goal(NamedTuple):
    """What ours is to reach: a ratio, by wall or by CPU time."""

    ratio: float
    figure: str = "wall"


class Workload(NamedTuple):
    """The kind names the clients of the peers that do it; the amount is theirs to understand."""

    title: str
    kind: str
    amount: int
    warm_up: int
    goal: Optional[Goal] = None
    tls: bool = False
    files: bool = False  # there have to be files of the amounts

    @property
    def is_abort(self) -> bool:
        return self.kind.startswith("abort ")


# What is pushed in tiny writes takes longer than its bytes would.
TINY_WARM_UP = 20_000 * TINY_WRITE

WORKLOADS = {
    "W1": Workload("small GET, keep-alive, one by one", "get", 5000, 300, Goal(2.2)),
    "W2": Workload("small GET, 16 threads on one session", "threads", 5000, 320, Goal(3.3)),
    "W3": Workload(f"1 GiB chunked upload, {LARGE_WRITE >> 10} KiB writes", "large writes", GIB, 8 * MIB, Goal(1.5)),
    "W4": Workload(
        f"64 MiB chunked upload, {TINY_WRITE}-byte writes", "tiny writes", 64 * MIB, TINY_WARM_UP, Goal(6.0)
    ),
    "W5": Workload("1 GiB file, known length", "file", GIB, 8 * MIB, Goal(2.3), files=True),
    "W6": Workload("1 GiB download, known length", "download", GIB, 8 * MIB, Goal(1.5, "cpu")),
    "W7a": Workload("500 at once, new connections, answered after 200 ms", "at once", 500, 10, Goal(1.15)),
    "W7b": Workload("2,000 at once, new connections, answered after 200 ms", "at once", 2000, 10),
    "W8": Workload("import, less a bare interpreter", "import", 20, 1, Goal(0.9)),
    "W9a": Workload("W1 over TLS 1.3", "get", 5000, 300, Goal(2.0), tls=True),
    "W9b": Workload("W6 over TLS 1.3", "download", GIB, 8 * MIB, Goal(1.2, "cpu"), tls=True, files=True),
    "W10a": Workload("abort of a call that waits for the head", "abort waiting", 40, 1),
    "W10b": Workload("abort of a call that reads the body", "abort reading", 40, 1),
    "W10c": Workload("abort of a call that writes the body", "abort writing", 40, 1),
}
# Every abort is to have freed its call within the second of these, half of them within the first.
ABORT_GOAL = "median under 1 ms, none over 50 ms"


def clients_of(workload: Workload, names: list[str], references: bool) -> dict[str, tuple[Peer, Client]]:
    """Those of the named peers, by what they are called in the tables."""
    found = {}
    for name in names:
        peer = PEERS[name]
        ways = dict(peer.clients.get(workload.kind, {}))
        if references:
            ways.update(peer.references.get(workload.kind, {}))
        for way, client in ways.items():
            found[f"{name}, {way}"] = (peer, client)
    return found
