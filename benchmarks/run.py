"""Measures clientrequest against urllib3 in one run, and prints a Markdown table.

Every client is a process of its own, the server another one; where the system allows it, the server has one
core and the client another. The clients take turns, round by round, in changing order, so that a busy moment
of the machine does not fall on one of them alone. Figures are medians; a ratio above 1 is faster than the
first client of its workload. No machine is quiet: where wall time is far above CPU time, compare CPU.

    python benchmarks/run.py --rounds 5 --only W1,W3 --json figures.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from work import WORKLOADS, Workload, module_of

HERE = Path(__file__).resolve().parent
# What is measured is the package beside this folder, installed or not.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent)}
CLIENT_TIMEOUT = 600
SERVER_CORE, CLIENT_CORE = 0, 1
# What has to be there for a module to be measured.
NEEDED = {"urllib3": "PoolManager", "clientrequest": "ClientRequest"}

Sample = dict[str, float]


class FailedClientError(Exception):
    """A client ended without a figure; the text says why."""


# ---- the server ----------------------------------------------------------------------------------


def compile_sink(folder: Path) -> Path:
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        sys.exit("The benchmarks need a C compiler for their server: cc, gcc, clang or $CC.")
    program = folder / "sink"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-pthread"]
    subprocess.run([compiler, *flags, "-o", str(program), str(HERE / "sink.c")], check=True)
    return program


def can_pin() -> bool:
    return hasattr(os, "sched_setaffinity") and {SERVER_CORE, CLIENT_CORE} <= os.sched_getaffinity(0)


@contextlib.contextmanager
def running_sink() -> Iterator[tuple[str, int]]:
    """Gives the URL and the process id of a server that is there as long as the block."""
    with tempfile.TemporaryDirectory() as folder:
        program = compile_sink(Path(folder))
        with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            port = int(process.stdout.readline())
            try:
                yield f"http://127.0.0.1:{port}", process.pid
            finally:
                process.stdin.close()


# ---- measuring -----------------------------------------------------------------------------------


def run_python(arguments: list[str], timeout: Optional[float] = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=timeout, check=False)


def run_client(name: str, client: str, server: str, options: argparse.Namespace, pinned: bool) -> Sample:
    command = [str(HERE / "work.py"), name, client, server, "--scale", str(options.scale)]
    if pinned and not options.both_cores:
        command += ["--cpu", str(CLIENT_CORE)]
    try:
        done = run_python(command, timeout=CLIENT_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise FailedClientError(f"no end after {CLIENT_TIMEOUT} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise FailedClientError(lines[-1] if lines else f"exit status {done.returncode}")
    sample: Sample = json.loads(done.stdout)
    return sample


def chosen_clients(workload: Workload, options: argparse.Namespace, ours: bool) -> list[str]:
    names = list(workload.clients)
    if options.references:
        names += workload.references
    return [name for name in names if ours or module_of(name) != "clientrequest"]


class Results:
    """All samples of one workload, and what went wrong."""

    def __init__(self, clients: list[str]) -> None:
        self.samples: dict[str, list[Sample]] = {client: [] for client in clients}
        self.failures: dict[str, str] = {}

    def median(self, client: str, figure: str) -> float:
        return statistics.median(sample[figure] for sample in self.samples[client])

    def ratio(self, client: str, figure: str) -> Optional[float]:
        """How many times as fast as the first client; None when that one has no figure."""
        baseline = next(iter(self.samples))
        if baseline in self.failures:
            return None
        return self.median(baseline, figure) / self.median(client, figure)


def measure(name: str, clients: list[str], server: str, options: argparse.Namespace, pinned: bool) -> Results:
    results = Results(clients)
    for turn in range(options.rounds):
        for client in clients if turn % 2 == 0 else reversed(clients):
            if client in results.failures:
                continue
            try:
                results.samples[client].append(run_client(name, client, server, options, pinned))
            except FailedClientError as error:
                results.failures[client] = str(error)
        print(f"{name}: round {turn + 1} of {options.rounds}", file=sys.stderr)
    return results


# ---- the report ----------------------------------------------------------------------------------


def version_of(module: str) -> Optional[str]:
    """The version that a client would import, or None. Asked elsewhere: this process imports neither."""
    code = f"import {module}; print({module}.__version__, {module}.{NEEDED[module]})"
    done = run_python(["-c", code])
    return done.stdout.split()[0] if done.returncode == 0 else None


def describe(options: argparse.Namespace, versions: dict[str, Optional[str]], pinned: bool) -> str:
    programs = [f"Python {platform.python_version()}"]
    programs += [f"{module} {version}" for module, version in versions.items() if version]
    cores = "server and client on one core each" if pinned else "no process bound to a core"
    if pinned and options.both_cores:
        cores = "server on one core, client on all"
    scale = "" if options.scale == 1 else f", amounts times {options.scale:g}"
    return f"{', '.join(programs)}; {cores}; medians of {options.rounds} rounds{scale}."


def row(results: Results, client: str) -> str:
    if client in results.failures:
        return f"| {client} | failed: {results.failures[client]} | | | | |"
    cells = [client, f"{results.median(client, 'wall'):.3f}", f"{results.median(client, 'cpu'):.3f}"]
    for figure in ("wall", "cpu"):
        ratio = results.ratio(client, figure)
        cells.append("-" if ratio is None else f"{ratio:.2f}")
    cells.append(f"{max(sample['memory'] for sample in results.samples[client]) / 2**20:.1f}")
    return f"| {' | '.join(cells)} |"


def table(name: str, results: Results) -> str:
    lines = [
        f"### {name}: {WORKLOADS[name].title}",
        "",
        "| client | wall s | CPU s | ratio, wall | ratio, CPU | peak memory above import, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*lines, *(row(results, client) for client in results.samples)])


def save(path: str, about: str, results: dict[str, Results]) -> None:
    content: dict[str, Any] = {"about": about, "workloads": {}}
    for name, result in results.items():
        content["workloads"][name] = {"samples": result.samples, "failures": result.failures}
    Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# ---- the command ---------------------------------------------------------------------------------


def workload_names(text: str) -> list[str]:
    names = [name.strip().upper() for name in text.split(",")]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(WORKLOADS)}")
    return names


def parse_options() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=workload_names, default=list(WORKLOADS), help="for example W1,W3")
    parser.add_argument("--json", metavar="FILE", help="write every sample there")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the work; 0.05 for a quick look")
    parser.add_argument("--references", action="store_true", help="http.client and queues, too")
    parser.add_argument("--both-cores", action="store_true", help="do not bind the clients to one core")
    options = parser.parse_args()
    if options.rounds < 1 or options.scale <= 0:
        parser.error("--rounds and --scale must be above zero")
    return options


def main() -> int:
    options = parse_options()
    versions = {module: version_of(module) for module in NEEDED}
    if versions["urllib3"] is None:
        sys.exit(f"urllib3 can't be imported by {sys.executable}, and all is measured by it.")
    if versions["clientrequest"] is None:
        print("clientrequest can't be imported: only urllib3 is measured.", file=sys.stderr)
    pinned = can_pin()
    all_results = {}
    with running_sink() as (server, process_id):
        if pinned:
            os.sched_setaffinity(process_id, {SERVER_CORE})
        for name in options.only:
            clients = chosen_clients(WORKLOADS[name], options, versions["clientrequest"] is not None)
            all_results[name] = measure(name, clients, server, options, pinned)
    about = describe(options, versions, pinned)
    print(about, *(table(name, results) for name, results in all_results.items()), sep="\n\n")
    if options.json:
        save(options.json, about, all_results)
    return 1 if any(results.failures for results in all_results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
