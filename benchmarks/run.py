"""Measures clientrequest against its peers in one run, and prints Markdown tables.

Every client is a process of its own, the server another one; where the system allows it, the server has one
core and the client another. The clients take turns, round by round, in changing order, so that a busy moment
of the machine does not fall on one of them alone. Figures are medians; a ratio above 1 is faster than urllib3.
No machine is quiet: where wall time is far above CPU time, compare CPU.

    python benchmarks/run.py --rounds 5 --only W1,W3 --peers requests,pycurl --json figures.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Optional

from basis import Peer, Site
from results import Results, Run, Sample, about, describe_machine, table, today
from servers import can_pin, running_nginx, running_sink, why_no_nginx
from workloads import BASELINE, OURS, PEERS, WORKLOADS, clients_of

HERE = Path(__file__).resolve().parent
CLIENT_TIMEOUT = 600
SERVER_CORE, CLIENT_CORE = 0, 1
# Nothing of this machine may come between a client and its server: no proxy, no other certificate authorities.
PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
AUTHORITIES = {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"}
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE"}
# What is measured is the package beside this folder, installed or not; compiled once, as what pip installs is.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name.upper() not in PROXIES | AUTHORITIES | NO_BYTECODE},
    "PYTHONPATH": str(HERE.parent),
}
NIQUESTS = "niquests (it puts a package of its own in the place of urllib3, which all is measured by)"


class FailedClientError(Exception):
    """A client ended without a figure; the text says why."""


class MissingClientError(Exception):
    """A client can't do this in the version that is installed."""


# ---- measuring -----------------------------------------------------------------------------------


def run_client(name: str, client: str, site: Site, options: argparse.Namespace) -> Sample:
    command = [sys.executable, str(HERE / "work.py"), name, client, site.url, site.folder]
    command += ["--ca", site.ca, "--scale", str(options.scale)]
    if options.pinned and not options.both_cores:
        command += ["--cpu", str(CLIENT_CORE)]
    try:
        done = run(command, CLIENT_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise FailedClientError(f"no end after {CLIENT_TIMEOUT} s") from None
    try:
        sample: Sample = json.loads(done.stdout)
    except ValueError:
        raise FailedClientError(f"exit status {done.returncode}: {last_line(done.stderr)}") from None
    if "missing" in sample:
        raise MissingClientError(sample["missing"])
    if "failed" in sample:
        raise FailedClientError(sample["failed"])
    return sample


def run(command: list[str], timeout: Optional[float] = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout, check=False)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def measure(name: str, site: Site, options: argparse.Namespace, peers: list[str]) -> Results:
    clients = list(clients_of(WORKLOADS[name], peers, options.references))
    results = Results(clients)
    for turn in range(options.rounds):
        for client in clients if turn % 2 == 0 else reversed(clients):
            if client in results.failures or client in results.missing:
                continue
            try:
                results.samples[client].append(run_client(name, client, site, options))
            except FailedClientError as error:
                results.failures[client] = str(error)
            except MissingClientError as error:
                results.leave_out(client, str(error))
        print(f"{name}: round {turn + 1} of {options.rounds}", file=sys.stderr)
    return results


def measure_all(options: argparse.Namespace, peers: list[str]) -> tuple[dict[str, Results], list[str]]:
    """The results, and which workloads could not be measured."""
    all_results, left_out = {}, []
    core = SERVER_CORE if options.pinned else None
    no_nginx = why_no_nginx()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain = stack.enter_context(running_sink(folder, core))
        secure = None
        for name in options.only:
            site: Optional[Site] = plain
            if WORKLOADS[name].tls:
                if no_nginx is not None:
                    left_out.append(f"{name} ({no_nginx})")
                    continue
                secure = secure or stack.enter_context(running_nginx(folder, core))
                site = secure
            assert site is not None
            all_results[name] = measure(name, site, options, peers)
    return all_results, left_out


# ---- what is there -------------------------------------------------------------------------------


def version_of(peer: Peer) -> Optional[str]:
    """The version that a client would find, or None. Asked elsewhere: this process imports no peer."""
    try:
        done = run(peer.version)
    except OSError:
        return None
    words = done.stdout.split()
    if done.returncode != 0 or not words:
        return None
    return words[1] if words[0] == peer.name else words[0].lstrip("v")


def find_peers(options: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """The versions of those asked for, and which of them are not there."""
    found, absent = {}, []
    for name, peer in PEERS.items():
        if name not in {BASELINE, *options.peers}:
            continue
        version = version_of(peer)
        if version is None:
            absent.append(f"{name} (not installed)")
        else:
            found[name] = version
    return found, absent


def conditions(options: argparse.Namespace) -> str:
    cores = "server and client on one core each" if options.pinned else "no process bound to a core"
    if options.pinned and options.both_cores:
        cores = "server on one core, client on all"
    scale = "" if options.scale == 1 else f", amounts times {options.scale:g}"
    return f"{cores}; medians of {options.rounds} rounds{scale}"


# ---- the command ---------------------------------------------------------------------------------


def workload_names(text: str) -> list[str]:
    """W7 stands for W7a and W7b, too."""
    names = []
    for wanted in (word.strip().upper() for word in text.split(",")):
        found = [name for name in WORKLOADS if wanted in (name.upper(), name.rstrip("abc"))]
        if not found:
            raise argparse.ArgumentTypeError(f"unknown: {wanted}; known: {', '.join(WORKLOADS)}")
        names += found
    return names


def peer_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(PEERS)}")
    return [OURS, *names]


def parse_options() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=workload_names, default=list(WORKLOADS), help="for example W1,W3,W9")
    parser.add_argument("--peers", type=peer_names, default=list(PEERS), help="beside ours and urllib3; else all")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the work; 0.05 for a quick look")
    parser.add_argument("--references", action="store_true", help="second ways of the peers, too; queues for instance")
    parser.add_argument("--both-cores", action="store_true", help="do not bind the clients to one core")
    options = parser.parse_args()
    if options.rounds < 1 or options.scale <= 0:
        parser.error("--rounds and --scale must be above zero")
    options.pinned = can_pin(SERVER_CORE, CLIENT_CORE)
    return options


def main() -> int:
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # and the servers with it
    versions, left_out = find_peers(options)
    if BASELINE not in versions:
        sys.exit(f"{BASELINE} can't be imported by {sys.executable}, and all is measured by it.")
    machine = describe_machine()
    results, not_measured = measure_all(options, list(versions))
    versions = {"Python": platform.python_version(), **versions}
    done = Run(today(), machine, conditions(options), versions, [*left_out, NIQUESTS, *not_measured], results)
    print(about(done), *(table(name, found) for name, found in results.items()), sep="\n\n")
    print(f"\nLeft out: {'; '.join(done.left_out)}.")
    if options.json:
        done.save(options.json)
    return 1 if any(found.failures for found in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
