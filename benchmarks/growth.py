"""How the cost of clientrequest grows: time and peak memory against sizes and numbers.

Every point is a process of its own, the median of some rounds. Two figures say how a cost grows. The exponent is the
slope in decades against decades over the upper half of the points: 1 is linear, 0 is no growth, 2 is square. The cost
of one more is the slope of a straight line through the same points. Memory is that above the bare import.

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
# How often a request is sent whose cost is but a little more than that of any other one.
REPEATED = 100
FEWEST_POINTS = 3


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


SIZES = [KIB, 8 * KIB, 64 * KIB, 512 * KIB, 4 * MIB, 32 * MIB, 256 * MIB, GIB, 8 * GIB]

GROWTHS = {
    "upload": Growth("chunked upload, 64 KiB writes", "bytes", SIZES, upload),
    "file": Growth("upload of a file, known length", "bytes", SIZES, upload_file),
    "download": Growth("download, known length", "bytes", SIZES, download),
    "writes": Growth("100-byte writes to one request", "writes", [10**n for n in range(7)], write_often),
    "headers": Growth(
        f"headers of a request, sent {REPEATED} times", "headers", [1, 3, 10, 30, 100, 300, 1000], send_headers
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
    return below if len(below) >= FEWEST_POINTS else growth.amounts[:FEWEST_POINTS]


def trace(name: str, site: Site, options: argparse.Namespace) -> list[dict[str, float]]:
    points = []
    for amount in amounts_of(GROWTHS[name], options.scale):
        samples = [measure(name, amount, site) for _ in range(options.rounds)]
        point: dict[str, float] = {"amount": amount}
        for figure in ("wall", "cpu", "memory"):
            point[figure] = statistics.median(sample[figure] for sample in samples)
        points.append(point)
        print(f"{name}: {amount}", file=sys.stderr)
    return points


def upper_half(points: list[dict[str, float]]) -> list[dict[str, float]]:
    return points[-max(FEWEST_POINTS, (len(points) + 1) // 2) :]


def slope(xs: list[float], ys: list[float]) -> float:
    """That of the straight line of least squares."""
    middle_x, middle_y = statistics.fmean(xs), statistics.fmean(ys)
    above = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys))
    return above / sum((x - middle_x) ** 2 for x in xs)


def exponent(points: list[dict[str, float]], figure: str) -> Optional[float]:
    """None where there is nothing to take a logarithm of: no memory was needed, or no time seen."""
    upper = upper_half(points)
    if any(point[figure] <= 0 for point in upper):
        return None
    return slope([math.log10(point["amount"]) for point in upper], [math.log10(point[figure]) for point in upper])


def cost_of_one(points: list[dict[str, float]], figure: str) -> float:
    upper = upper_half(points)
    return slope([point["amount"] for point in upper], [point[figure] for point in upper])


# ---- the report ----------------------------------------------------------------------------------


def shown(amount: float, unit: str) -> str:
    if unit != "bytes":
        return f"{amount:,.0f}"
    for name, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if amount >= size:
            return f"{amount / size:g} {name}"
    return f"{amount:g} bytes"


def table(name: str, points: list[dict[str, float]]) -> str:
    growth = GROWTHS[name]
    lines = [f"### {name}: {growth.title}", "", f"| {growth.unit} | wall s | CPU s | peak memory, MiB |"]
    lines.append("| ---: | ---: | ---: | ---: |")
    for point in points:
        cells = [shown(point["amount"], growth.unit), f"{point['wall']:.4f}", f"{point['cpu']:.4f}"]
        cells.append(f"{point['memory'] / MIB:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *fits(growth, points)])


def fits(growth: Growth, points: list[dict[str, float]]) -> list[str]:
    one = growth.unit[:-1]
    lines = []
    for figure, unit, factor in (("wall", "ns", 1e9), ("cpu", "ns", 1e9), ("memory", "bytes", 1)):
        power = exponent(points, figure)
        grows = "does not grow, or too little to be seen" if power is None else f"exponent {power:.2f}"
        lines.append(f"- {figure}: {grows}; {cost_of_one(points, figure) * factor:,.3g} {unit} for one more {one}")
    return lines


def plot(path: str, curves: dict[str, list[dict[str, float]]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(curves), figsize=(3.4 * len(curves), 6), squeeze=False, layout="constrained")
    for column, (name, points) in enumerate(curves.items()):
        growth = GROWTHS[name]
        amounts = [point["amount"] for point in points]
        top, bottom = axes[0][column], axes[1][column]
        for time_of, style in (("wall", "o-"), ("cpu", "s--")):
            top.loglog(amounts, [point[time_of] for point in points], style, label=time_of)
        bottom.semilogx(amounts, [point["memory"] / MIB for point in points], "o-", color="tab:green")
        bottom.set_ylim(bottom=0)
        top.set_title(growth.title, fontsize="medium")
        bottom.set_xlabel(growth.unit)
        for axis in (top, bottom):
            axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("seconds")
    axes[0][0].legend()
    axes[1][0].set_ylabel("peak memory, MiB")
    figure.savefig(path)


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
    print(about, *(table(name, points) for name, points in curves.items()), sep="\n\n")
    if options.json:
        content: dict[str, Any] = {"about": about, "curves": curves}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if options.svg:
        plot(options.svg, curves)


if __name__ == "__main__":
    main()
