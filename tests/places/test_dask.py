"""The example of many machines, on a cluster of processes: what fails is tried again, and comes back as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support import Conn, Peer, Request

pytestmark = [pytest.mark.places, pytest.mark.xdist_group("dask"), pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 100.0  # seconds for the program, which starts several processes
SIZES = [1_000_000 * blocks for blocks in range(1, 9)]  # of the uploads of the example


class Storage:
    """Takes uploads. The first that comes is cut in its middle, the second refused once it is here."""

    def __init__(self) -> None:
        self.kept: list[Request] = []
        self._fates = iter(["cut", "refuse"])
        self._lock = threading.Lock()

    def serve(self, conn: Conn) -> None:
        while True:
            request = conn.read_request(body=False)
            with self._lock:
                fate = next(self._fates, "keep")
            if fate == "cut":
                conn.recv_some()
                conn.reset()
                return
            if not conn.drain_body(request).complete:
                return
            if fate == "refuse":
                conn.respond(503)
            else:
                self.kept.append(request)
                conn.respond(body=json.dumps({"bytes": request.length}).encode())


def run_example(url: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "dask_uploads.py"), url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": path, "no_proxy": "127.0.0.1"},
        timeout=LIMIT,
        check=False,
    )


def test_uploads_that_fail_are_tried_again_and_errors_come_back() -> None:
    storage = Storage()
    with Peer(storage.serve, limit=LIMIT) as peer:
        done = run_example(peer.url().rstrip("/"))
        requests, connections = list(peer.requests), len(peer.connections)
    print(done.stderr)
    assert done.returncode == 0
    total = sum(SIZES)
    assert done.stdout.splitlines() == [
        f"{total} bytes arrived, of which was told here on the way: {total}",
        "nobody is there: ERR_CONNECTION_REFUSED",
    ]
    assert sorted(request.length for request in storage.kept) == SIZES
    assert len(requests) == len(SIZES) + 2
    assert [request.complete for request in requests].count(False) == 1  # the one that was cut, and no other
    # Two processes, each with two uploads at once, and with one session for all: the two that failed took theirs along.
    assert connections <= 2 * 2 + 2
