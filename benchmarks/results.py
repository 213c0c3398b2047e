"""Samples, and the Markdown tables made of them; as JSON between ``run.py`` and ``report.py``."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import statistics
from pathlib import Path
from typing import Any, NamedTuple, Optional

from basis import GIB, MIB
from workloads import ABORT_GOAL, BASELINE, WORKLOADS

Sample = dict[str, Any]
PYTHON_ITSELF = ("http.client", "sockets")  # peers whose version is Python's


class Results:
    """All samples of one workload, and what went wrong or was not there."""

    def __init__(self, clients: list[str]) -> None:
        self.samples: dict[str, list[Sample]] = {client: [] for client in clients}
        self.failures: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def leave_out(self, client: str, why: str) -> None:
        self.missing[client] = why
        del self.samples[client]

    def measured(self) -> list[str]:
        return [client for client, samples in self.samples.items() if samples and client not in self.failures]

    def median(self, client: str, figure: str) -> float:
        return float(statistics.median(sample[figure] for sample in self.samples[client]))

    def memory(self, client: str) -> Optional[int]:
        """The most of all rounds, in bytes; None where the client can't tell."""
        peaks = [sample["memory"] for sample in self.samples[client]]
        return None if None in peaks else max(peaks)

    def ratio(self, client: str, figure: str) -> Optional[float]:
        """How many times as fast as the first client of the baseline; None when one of them has no such figure."""
        baseline = next(iter(self.samples))
        if peer_of(baseline) != BASELINE or baseline not in self.measured():
            return None
        wanted, found = self.median(baseline, figure), self.median(client, figure)
        return wanted / found if wanted > 0 and found > 0 else None

    def milliseconds(self, client: str) -> list[float]:
        """All aborts of all rounds, in order of time taken."""
        return sorted(taken for sample in self.samples[client] for taken in sample["milliseconds"])

    def as_json(self) -> dict[str, Any]:
        return {"samples": self.samples, "failures": self.failures, "missing": self.missing}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Results:
        results = cls([])
        results.samples = content["samples"]
        results.failures = content["failures"]
        results.missing = content.get("missing", {})
        return results


class Run(NamedTuple):
    """One call of ``run.py``."""

    date: str
    machine: str
    conditions: str
    versions: dict[str, str]
    left_out: list[str]
    results: dict[str, Results]

    def save(self, path: str) -> None:
        workloads = {name: {"title": WORKLOADS[name].title, **found.as_json()} for name, found in self.results.items()}
        content = {**self._asdict(), "about": about(self)}
        del content["results"]
        Path(path).write_text(json.dumps({**content, "workloads": workloads}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str) -> Run:
        content = json.loads(Path(path).read_text("utf-8"))
        results = {name: Results.from_json(found) for name, found in content["workloads"].items()}
        return cls(**{**{field: content[field] for field in cls._fields if field != "results"}, "results": results})


def today() -> str:
    return datetime.date.today().isoformat()


def describe_machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    cores = f"{os.cpu_count()} cores, {memory:.0f} GiB of memory"
    return f"{cores}, {platform.system()} on {platform.machine()}, everything on the loopback"


def peer_of(client: str) -> str:
    return client.split(",")[0]


# ---- as Markdown ---------------------------------------------------------------------------------


def about(run: Run) -> str:
    programs = [f"{peer} {version}" for peer, version in run.versions.items() if peer not in PYTHON_ITSELF]
    return f"{run.date}; {run.machine}; {', '.join(programs)}; {run.conditions}."


def table(name: str, results: Results) -> str:
    """With a heading, and below it what is not in it."""
    workload = WORKLOADS[name]
    lines = [f"### {name}: {workload.title}", ""]
    lines += _abort_table(results) if workload.is_abort else _rate_table(results)
    notes = [f"{client} failed: {why}" for client, why in results.failures.items()]
    notes += [f"{client} is left out: {why}" for client, why in results.missing.items()]
    goal = ABORT_GOAL if workload.is_abort else workload.goal and f"{workload.goal.ratio:g} by {workload.goal.figure}"
    if goal:
        notes.insert(0, f"Goal: {goal}")
    return "\n".join([*lines, "", *(f"{note}.  " for note in notes)]).rstrip()


def _rate_table(results: Results) -> list[str]:
    lines = [
        "| client | wall s | CPU s | ratio, wall | ratio, CPU | peak memory above import, MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for client in results.measured():
        memory = results.memory(client)
        cells = [client, f"{results.median(client, 'wall'):.3f}", f"{results.median(client, 'cpu'):.3f}"]
        cells += [_decimal(results.ratio(client, figure), 2) for figure in ("wall", "cpu")]
        cells.append(_decimal(None if memory is None else memory / MIB, 1))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _abort_table(results: Results) -> list[str]:
    lines = ["| client | aborts | median ms | 95 % ms | max ms |", "| --- | ---: | ---: | ---: | ---: |"]
    for client in results.measured():
        taken = results.milliseconds(client)
        figures = (statistics.median(taken), percentile(taken, 0.95), taken[-1])
        lines.append(f"| {client} | {len(taken)} | {' | '.join(f'{figure:.2f}' for figure in figures)} |")
    return lines


def percentile(ordered: list[float], part: float) -> float:
    """The smallest one that this part of them does not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]


def _decimal(number: Optional[float], digits: int) -> str:
    return "-" if number is None else f"{number:.{digits}f}"
