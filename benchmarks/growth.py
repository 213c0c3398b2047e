"""How the cost of clientrequest grows: time and peak memory against sizes and numbers.

Every point is a process of its own, the median of some rounds. Two figures say how a cost grows, both of the last three
points. The exponent is the slope in decades against decades: 1 is linear, 0 no growth, 2 square; of times the fixed
part is taken away first, which is the cost of the cheapest point. The cost of one more is the slope of a straight line.
Memory is that above what a first request has taken.

    python benchmarks/growth.py --only upload,requests --rounds 3 --json growth.json --svg growth.svg
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from basis import GIB, KIB, LARGE_WRITE, MIB, SMALL, SMALL_SIZE, TINY_WRITE, Site, expect, make_file, read_into
from peers import clientrequest as ours
from results import describe_machine, today
from run import CLIENT_TIMEOUT, ENVIRONMENT
from servers import running_sink
from work import allow_many_files, peak_memory

Do = Callable[[Site, int], object]
Points = list[dict[str, float]]
Curves = dict[str, Points]
# How often a request is sent whose cost is but a little more than that of any other one.
REPEATED = 100
LAST = 3  # points that are judged: where fixed costs are small, and limits are reached
LEAST_MEMORY = 5  # MiB that the picture has room for: what is flat shall look flat
FIGURES = ("wall", "cpu", "memory")
# What an exponent is called: up to this it is that. Noise takes some of it, and there is no cost below 0.
NAMES = {0.2: "flat", 0.7: "less than linear", 1.3: "linear", math.inf: "more than linear"}


# ---- what grows ----------------------------------------------------------------------------------


def send_headers(site: Site, count: int) -> None:
    from clientrequest import ClientRequest

    session = ours.make_session(site)
    headers = {f"X-Header-{number}": "a value" for number in range(count)}
    for _ in range(REPEATED):
        response = ClientRequest(site.url + SMALL, session=session, headers=headers).end().get_response()
        expect((response.status_code, len(response.read())), (200, SMALL_SIZE))


def send_requests(site: Site, count: int) -> None:
    fetch = ours.fetch_with_read(site, 1)
    for _ in range(count):
        fetch(SMALL)


def keep_sessions(site: Site, count: int) -> list[object]:
    """Each with an idle connection, all of them alive when memory is looked at."""
    fetches = [ours.fetch_with_read(site, 1) for _ in range(count)]
    for fetch in fetches:
        fetch(SMALL)
    return list(fetches)


def upload(site: Site, size: int) -> None:
    ours.upload_with_write(LARGE_WRITE)(site)(size)


def upload_file(site: Site, size: int) -> None:
    ours.upload_file(ours.write_file)(site)(size)


def write_often(site: Site, count: int) -> None:
    ours.upload_with_write(TINY_WRITE)(site)(count * TINY_WRITE)


def download(site: Site, size: int) -> None:
    ours.download_as_file(read_into)(site)(size)


class Growth(NamedTuple):
    title: str
    unit: str
    amounts: list[int]
    do: Do
    repeated: int = 1  # how often, all in one figure


SIZES = [KIB, 8 * KIB, 64 * KIB, 512 * KIB, 4 * MIB, 32 * MIB, 256 * MIB, GIB, 8 * GIB]

GROWTHS = {
    "upload": Growth("chunked upload, 64 KiB writes", "bytes", SIZES, upload),
    "file": Growth("upload of a file, known length", "bytes", SIZES, upload_file),
    "download": Growth("download, known length", "bytes", SIZES, download),
    "writes": Growth("100-byte writes to one request", "writes", [10**n for n in range(7)], write_often),
    "headers": Growth(
        f"headers of a request, sent {REPEATED} times",
        "headers",
        [1, 3, 10, 30, 100, 300, 1000],
        send_headers,
        REPEATED,
    ),
    "requests": Growth("requests on one session", "requests", [1, 10, 100, 1000, 10_000, 30_000], send_requests),
    "sessions": Growth("sessions with an idle connection", "sessions", [1, 3, 10, 30, 100, 300, 1000], keep_sessions),
}


# ---- one point, in a process of its own ----------------------------------------------------------


def measure_here(growth: Growth, amount: int, site: Site) -> dict[str, float]:
    """A first request warms up what a program pays once, on a session of its own."""
    send_requests(site, 1)
    memory = peak_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    kept = growth.do(site, amount)
    figures = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "memory": peak_memory() - memory}
    del kept
    return figures


def measure(name: str, amount: int, site: Site) -> dict[str, float]:
    if name == "file":
        make_file(site, amount)
    command = [sys.executable, __file__, "--point", name, str(amount), site.url, site.folder]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=CLIENT_TIMEOUT, check=False)
    if done.returncode != 0:
        sys.exit(f"{name}, {amount}:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


# ---- the curve -----------------------------------------------------------------------------------


def amounts_of(growth: Growth, scale: float) -> list[int]:
    """Those that are not above the scaled largest one, but never too few to see a curve."""
    most = growth.amounts[-1] * scale
    below = [amount for amount in growth.amounts if amount <= most]
    return below if len(below) >= LAST else growth.amounts[:LAST]


def trace(name: str, site: Site, options: argparse.Namespace) -> Points:
    points = []
    for amount in amounts_of(GROWTHS[name], options.scale):
        samples = [measure(name, amount, site) for _ in range(options.rounds)]
        point: dict[str, float] = {"amount": amount}
        for figure in FIGURES:
            point[figure] = statistics.median(sample[figure] for sample in samples)
        points.append(point)
        print(f"{name}: {amount}", file=sys.stderr)
    return points


def slope(xs: list[float], ys: list[float]) -> float:
    """That of the straight line of least squares."""
    middle_x, middle_y = statistics.fmean(xs), statistics.fmean(ys)
    above = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys))
    return above / sum((x - middle_x) ** 2 for x in xs)


def exponent(points: Points, figure: str) -> Optional[float]:
    """None where there is nothing to take a logarithm of."""
    fixed = 0.0 if figure == "memory" else min(point[figure] for point in points)
    growing = [(point["amount"], point[figure] - fixed) for point in points[-LAST:] if point[figure] > fixed]
    if len(growing) < LAST:
        return None
    return slope([math.log10(amount) for amount, _ in growing], [math.log10(cost) for _, cost in growing])


def cost_of_one(points: Points, figure: str) -> float:
    return slope([point["amount"] for point in points[-LAST:]], [point[figure] for point in points[-LAST:]])


# ---- the report ----------------------------------------------------------------------------------


def shown(amount: float, unit: str) -> str:
    if unit != "bytes":
        return f"{amount:,.0f}"
    for name, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if amount >= size:
            return f"{amount / size:g} {name}"
    return f"{amount:g} bytes"


def table(name: str, points: Points) -> str:
    growth = GROWTHS[name]
    lines = [f"### {name}: {growth.title}", "", f"| {growth.unit} | wall s | CPU s | peak memory, MiB |"]
    lines.append("| ---: | ---: | ---: | ---: |")
    for point in points:
        cells = [shown(point["amount"], growth.unit), f"{point['wall']:.4f}", f"{point['cpu']:.4f}"]
        cells.append(f"{point['memory'] / MIB:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *fits(growth, points)])


def fits(growth: Growth, points: Points) -> list[str]:
    return [
        f"- {figure}: {named(points, figure)}; {one_more(growth, points, figure)} for one more {growth.unit[:-1]}"
        for figure in FIGURES
    ]


def named(points: Points, figure: str) -> str:
    """How it grows, in a word, with the exponent where there is one."""
    power = exponent(points, figure)
    if power is None:
        return "flat"
    return f"{next(name for most, name in NAMES.items() if power <= most)}, exponent {power:.2f}"


def one_more(growth: Growth, points: Points, figure: str) -> str:
    cost = cost_of_one(points, figure)
    if figure == "memory":
        return f"{cost:,.0f} bytes"
    cost /= growth.repeated
    return f"{cost * 1e9:.3g} ns" if cost < 1e-6 else f"{cost * 1e6:.3g} µs"


def summary(curves: Curves) -> str:
    """One line a curve. Judged by CPU time, since the wall time has the server's in it."""
    head = "| what grows | from, to | CPU time grows | one more | peak memory grows | at most, MiB |"
    lines = [head, "| --- | --- | --- | ---: | --- | ---: |"]
    for name, points in curves.items():
        growth = GROWTHS[name]
        first, last = (shown(points[index]["amount"], growth.unit) for index in (0, -1))
        cells = [growth.title, f"{first}, {last}", named(points, "cpu"), one_more(growth, points, "cpu")]
        cells += [named(points, "memory"), f"{max(point['memory'] for point in points) / MIB:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# ---- the picture ---------------------------------------------------------------------------------


def plot(path: str, curves: Curves) -> None:
    """A row for each thing that grows, with time on the left and memory on the right."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = list(dict.fromkeys(GROWTHS[name].unit for name in curves))
    figure, axes = pyplot.subplots(len(rows), 2, figsize=(10, 2.8 * len(rows)), squeeze=False, layout="constrained")
    for (left, right), unit in zip(axes, rows):
        drawn = {name: points for name, points in curves.items() if GROWTHS[name].unit == unit}
        draw_times(left, drawn)
        draw_memory(right, drawn)
        for axis in (left, right):
            axis.set_xlabel(unit)
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
            if unit == "bytes":
                label_sizes(axis)
        left.legend(fontsize="small", frameon=False)
    axes[0][0].set_title("seconds (solid: wall, dashed: CPU, dotted: linear)", fontsize="medium")
    axes[0][1].set_title("peak memory, MiB (dotted: linear)", fontsize="medium")
    figure.savefig(path)
    pyplot.close(figure)


def draw_times(axis: Any, curves: Curves) -> None:
    for number, (name, points) in enumerate(curves.items()):
        amounts, colour = [point["amount"] for point in points], f"C{number}"
        axis.loglog(amounts, [point["wall"] for point in points], "o-", color=colour, label=GROWTHS[name].title, ms=3)
        axis.loglog(amounts, [point["cpu"] for point in points], "s--", color=colour, ms=3)
    bottom, top = axis.get_ylim()
    last = next(iter(curves.values()))[-1]
    linear = [last["cpu"] / last["amount"] * amount for amount in amounts]
    axis.loglog(amounts, linear, ":", color="gray", linewidth=1)
    axis.set_ylim(bottom, top)


def draw_memory(axis: Any, curves: Curves) -> None:
    for number, points in enumerate(curves.values()):
        memory = [point["memory"] / MIB for point in points]
        amounts = [point["amount"] for point in points]
        axis.semilogx(amounts, memory, "o-", color=f"C{number}", ms=3)
        if not named(points, "memory").startswith("flat"):  # against decades a straight line looks bent
            axis.semilogx(amounts, [memory[-1] / amounts[-1] * amount for amount in amounts], ":", color="gray")
    axis.set_ylim(0, max(LEAST_MEMORY, axis.get_ylim()[1]))


def label_sizes(axis: Any) -> None:
    axis.set_xticks(SIZES[::2], [shown(size, "bytes") for size in SIZES[::2]], fontsize="small")
    axis.minorticks_off()


# ---- the command ---------------------------------------------------------------------------------


def growth_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in GROWTHS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(GROWTHS)}")
    return names


def parse_options() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=growth_names, default=list(GROWTHS), help="for example upload,headers")
    parser.add_argument("--scale", type=float, default=1.0, help="leave out what is above this part of the largest")
    parser.add_argument("--json", metavar="FILE", help="write the points there")
    parser.add_argument("--svg", metavar="FILE", help="draw the curves there; needs matplotlib")
    parser.add_argument("--point", nargs=4, metavar=("NAME", "AMOUNT", "URL", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1 or options.scale <= 0:
        parser.error("--rounds and --scale must be above zero")
    return options


def main() -> None:
    options = parse_options()
    allow_many_files()
    if options.point:
        name, amount, url, folder = options.point
        print(json.dumps(measure_here(GROWTHS[name], int(amount), Site(url, "", folder))))
        return
    with tempfile.TemporaryDirectory() as folder, running_sink(Path(folder)) as site:
        curves = {name: trace(name, site, options) for name in options.only}
    about = f"{today()}; {describe_machine()}; medians of {options.rounds} rounds."
    print(about, summary(curves), *(table(name, points) for name, points in curves.items()), sep="\n\n")
    if options.json:
        content: dict[str, Any] = {"about": about, "curves": curves}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.svg:
        plot(options.svg, curves)


if __name__ == "__main__":
    main()
