"""One client doing one workload, in a process of its own.

``run.py`` starts this file and reads the line of JSON it prints: the figures, or why there are none.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import time
import traceback
from typing import Any

from basis import KIB, Client, NotThereError, Peer, Site, make_file
from workloads import PEERS, WORKLOADS, Workload, clients_of

STATUS = "/proc/self/status"


def peak_memory() -> int:
    """The most memory this process has had so far, in bytes.

    Linux tells it in a file; what ``getrusage`` says there can be the peak of the process that started this one.
    """
    if os.path.exists(STATUS):
        with open(STATUS, encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIB


def scaled(amount: int, scale: float) -> int:
    return max(1, int(amount * scale))


def allow_many_files() -> None:
    """2,000 connections are more than a shell lets a process have, unless it asks."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def measure(workload: Workload, peer: Peer, client: Client, site: Site, scale: float) -> dict[str, Any]:
    amount = scaled(workload.amount, scale)
    if workload.files:
        make_file(site, workload.warm_up)
        make_file(site, amount)
    if peer.module:
        importlib.import_module(peer.module)
    memory = peak_memory()
    work = client(site)
    work(workload.warm_up)
    wall, cpu = time.perf_counter(), time.process_time()
    figures = work(amount)
    sample = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": peak_memory() - memory,
        "amount": amount,
    }
    return {**sample, **(figures or {})}


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("client")
    parser.add_argument("url")
    parser.add_argument("folder")
    parser.add_argument("--ca", default="")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--cpu", type=int, help="stay on this core")
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    allow_many_files()
    workload = WORKLOADS[options.workload]
    peer, client = clients_of(workload, list(PEERS), references=True)[options.client]
    site = Site(options.url, options.ca, options.folder)
    try:
        sample = measure(workload, peer, client, site, options.scale)
    except NotThereError as error:
        sample = {"missing": str(error)}
    except Exception as error:
        traceback.print_exc()
        sample = {"failed": f"{type(error).__name__}: {error}"}
    print(json.dumps(sample), flush=True)
    return 1 if "failed" in sample else 0


if __name__ == "__main__":
    sys.exit(main())
