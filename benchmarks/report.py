"""Makes the page and the pictures of a run out of what ``run.py --json`` and ``growth.py --json`` wrote.

    python benchmarks/report.py figures.json --growth growth.json --notes benchmarks/notes.md \\
        --page docs/performance.md --svg docs/performance.svg

``--notes`` puts what that file says between the summary and the figures. ``--growth`` adds how the cost grows; its
picture goes beside the other one, as growth.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple, Optional

import growth
from results import Results, Run, about, table
from workloads import BASELINE, LIMIT, OURS, WORKLOADS, Goal

COLUMNS = 3
COLOURS = {OURS: "tab:orange", BASELINE: "tab:gray", LIMIT: "lightgray"}
OTHERS = "tab:blue"


class Best(NamedTuple):
    """The best that a peer came to, and how."""

    ratio: float
    way: str


def goal_figure(name: str) -> str:
    """The figure that a workload is judged by."""
    goal = WORKLOADS[name].goal
    return "wall" if goal is None else goal.figure


def best_of_peers(name: str, results: Results) -> dict[str, Best]:
    found: dict[str, Best] = {}
    for client in results.measured():
        ratio = results.ratio(client, goal_figure(name))
        peer, _, way = client.partition(", ")
        if ratio is not None and (peer not in found or ratio > found[peer].ratio):
            found[peer] = Best(ratio, way)
    return found


# ---- the page ------------------------------------------------------------------------------------


def summary(run: Run) -> str:
    """One line a workload: ours, the goal, and who of the others is fastest; nothing where there are aborts only."""
    lines = [
        summary_line(name, best_of_peers(name, results))
        for name, results in run.results.items()
        if not WORKLOADS[name].is_abort
    ]
    if not lines:
        return ""
    head = "| work | judged by | ours | goal | best of the others | limit |"
    return "\n".join([head, "| --- | --- | ---: | ---: | --- | ---: |", *lines])


def summary_line(name: str, best: dict[str, Best]) -> str:
    workload = WORKLOADS[name]
    others = {peer: found for peer, found in best.items() if peer not in (OURS, BASELINE, LIMIT)}
    rival = max(others, key=lambda peer: others[peer].ratio, default=None)
    cells = [
        f"{name}: {workload.title}",
        "CPU time" if goal_figure(name) == "cpu" else "wall time",
        shown(best.get(OURS)),
        "-" if workload.goal is None else f"{workload.goal.ratio:g}",
        "-" if rival is None else f"{rival} {shown(others[rival])}",
        shown(best.get(LIMIT)),
    ]
    return f"| {' | '.join(cells)} |"


def shown(best: Optional[Best]) -> str:
    return "-" if best is None else f"{best.ratio:.2f}"


class Grown(NamedTuple):
    """What ``growth.py`` has measured."""

    about: str
    curves: growth.Curves

    @classmethod
    def load(cls, path: str) -> Grown:
        return cls(**json.loads(Path(path).read_text("utf-8")))


def page(run: Run, picture: str, notes: str = "", grown: Optional[Grown] = None, growth_picture: str = "") -> str:
    parts = [
        "# Speed",
        "Made by `benchmarks/report.py` of what `make bench` measured; "
        "[how it is measured](../benchmarks/README.md) says what each row is.",
        about(run),
        f"Left out: {'; '.join(run.left_out)}." if run.left_out else "",
        f"![Ratios to {BASELINE}]({picture})" if picture else "",
        f"Ratios to {BASELINE} in the same run, above 1 is faster; of each program its best way. "
        "Differences under 20 % mean nothing. The limit is bare sockets in Python.",
        summary(run),
        notes.strip(),
        growth_section(grown, growth_picture) if grown else "",
        "## All figures",
        *(table(name, results) for name, results in run.results.items()),
        *(growth.table(name, points) for name, points in (grown.curves if grown else {}).items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def growth_section(grown: Grown, picture: str) -> str:
    parts = [
        "## How the cost grows",
        f"Of clientrequest alone, client and server on whatever core is free; {grown.about}",
        f"![Time and memory against sizes and numbers]({picture})" if picture else "",
        "An exponent of 1 is linear, of 0 flat; it is that of the last three points, less the fixed part of the time. "
        "Memory is what the work takes above a first request. All points are below.",
        growth.summary(grown.curves),
    ]
    return "\n\n".join(part for part in parts if part)


# ---- the picture ---------------------------------------------------------------------------------


def plot(run: Run, path: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    bests = {name: best_of_peers(name, found) for name, found in run.results.items()}
    drawn = {name: best for name, best in bests.items() if best and not WORKLOADS[name].is_abort}
    if not drawn:
        sys.exit("There is no ratio to be drawn.")
    rows = -(-len(drawn) // COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(5 * COLUMNS, 3 * rows), squeeze=False, layout="constrained")
    places = [axis for row in axes for axis in row]
    for axis, (name, best) in zip(places, drawn.items()):
        draw(axis, name, best)
    for axis in places[len(drawn) :]:
        axis.set_visible(False)
    figure.suptitle(f"Speed as a ratio to {BASELINE} (longer is faster; dashed: the goal of {OURS})")
    figure.savefig(path)


def draw(axis: Any, name: str, best: dict[str, Best]) -> None:
    peers = sorted(best, key=lambda peer: best[peer].ratio)
    ratios = [best[peer].ratio for peer in peers]
    bars = axis.barh(peers, ratios, color=[COLOURS.get(peer, OTHERS) for peer in peers])
    axis.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=2, fontsize="small")
    axis.axvline(1, color="black", linewidth=0.8)
    draw_goal(axis, WORKLOADS[name].goal)
    axis.margins(x=0.15)
    by = "CPU" if goal_figure(name) == "cpu" else "wall"
    axis.set_title(f"{name}: {WORKLOADS[name].title} ({by} time)", fontsize="small", loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def draw_goal(axis: Any, goal: Optional[Goal]) -> None:
    if goal is not None:
        axis.axvline(goal.ratio, color=COLOURS[OURS], linestyle="--", linewidth=1.5)


# ---- the command ---------------------------------------------------------------------------------


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("figures", help="what run.py --json wrote")
    parser.add_argument("--page", metavar="FILE", help="write the Markdown there, else it is printed")
    parser.add_argument("--svg", metavar="FILE", help="draw the picture there; needs matplotlib")
    parser.add_argument("--growth", metavar="FILE", help="what growth.py --json wrote")
    parser.add_argument("--notes", metavar="FILE", help="Markdown that stands between the summary and the figures")
    options = parser.parse_args()
    run = Run.load(options.figures)
    grown = Grown.load(options.growth) if options.growth else None
    folder = os.path.dirname(options.page or "") or "."
    picture = growth_picture = ""
    if options.svg:
        plot(run, options.svg)
        picture = os.path.relpath(options.svg, folder)
        if grown:
            path = Path(options.svg).with_name("growth.svg")
            growth.plot(str(path), grown.curves)
            growth_picture = os.path.relpath(path, folder)
    notes = Path(options.notes).read_text(encoding="utf-8") if options.notes else ""
    text = page(run, picture, notes, grown, growth_picture)
    if options.page:
        Path(options.page).write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
