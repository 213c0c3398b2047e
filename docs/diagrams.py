"""Draws the tables of ``clientrequest/_lifecycle.py``: ``docs/events.svg`` and ``docs/phases.svg``.

::

    .venv/bin/python docs/diagrams.py

The site draws them anew whenever it is built; a test fails while a drawing is not that of the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from clientrequest._lifecycle import (
    MOVES,
    REQUEST_ENDS,
    REQUEST_EVENTS,
    RESPONSE_ENDS,
    RESPONSE_EVENTS,
    Phase,
)

Ends = Mapping[str, frozenset[str]]

WIDTH = 760
ROW = 26
NAMES = 170  # the width of the names at the left
STEP = 180  # between two moments
MARGIN = 16

STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de }
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .small { font-size: 11px; fill: #57606a }
  .middle { text-anchor: middle }
  .often { fill: #a5c8f5 }
  .once { fill: #f5d0a0 }
  .moment { stroke: #8c959f; stroke-dasharray: 3 3 }
  .point { fill: #9a3412 }
  .phase { fill: #eaf2fd; stroke: #6e9bd8 }
  .last { fill: #f1f1f1; stroke: #8c959f }
  .move { fill: none; stroke: #57606a; marker-end: url(#tip) }
"""


class Bar(NamedTuple):
    """One event: it may come until a moment, the number of which is ``until``."""

    event: str
    until: int
    once: bool  # never a second time
    is_moment: bool  # it is what makes that moment


def moments(ends: Ends) -> list[tuple[str, ...]]:
    """The events that end others beside themselves, in the order of time; those that end the same ones together.

    Raises:
        ValueError: the table has moments of which neither comes first, which no line of time can show.
    """
    ending = sorted({others for event, others in ends.items() if others - {event}}, key=len)
    for sooner, later in zip(ending, ending[1:]):
        if not sooner < later:
            raise ValueError(f"neither ends all that the other ends: {sorted(sooner)}, {sorted(later)}")
    return [tuple(sorted(event for event in ends if ends[event] == others)) for others in ending]


def bars(events: frozenset[str], ends: Ends) -> list[Bar]:
    """All events, those that are over first at the top."""
    columns = moments(ends)
    found = []
    for event in events:
        until = next(number for number, column in enumerate(columns) if event in ends[column[0]])
        found.append(Bar(event, until, event in ends.get(event, ()), event in columns[until]))
    return sorted(found, key=lambda bar: (bar.until, bar.is_moment, bar.event))


def position(moment: int) -> int:
    """Where on the line of time a moment is."""
    return MARGIN + NAMES + STEP * (moment + 1)


def draw_chart(title: str, events: frozenset[str], ends: Ends, top: int) -> Iterator[str]:
    """The lines of one chart, ``chart_height`` high."""
    rows, columns = bars(events, ends), moments(ends)
    bottom = top + chart_height(events)
    yield f'<g class="chart" data-of="{title}">'
    yield f'<text class="title" x="{MARGIN}" y="{top + 20}">{title}</text>'
    for number, column in enumerate(columns):
        x = position(number)
        yield f'<text class="small middle" x="{x}" y="{top + 20}">{" or ".join(column)}</text>'
        yield (
            f'<line class="moment" x1="{x}" y1="{top + 28}" x2="{x}" y2="{bottom - 8}" '
            f'data-moment="{" ".join(column)}"/>'
        )
    for number, bar in enumerate(rows):
        yield from draw_bar(bar, top + 34 + ROW * number)
    yield "</g>"


def draw_bar(bar: Bar, y: int) -> Iterator[str]:
    x, width = MARGIN + NAMES, position(bar.until) - MARGIN - NAMES
    kind = "once" if bar.once else "often"
    yield f'<text x="{MARGIN}" y="{y + 13}">{bar.event}</text>'
    yield f'<rect class="{kind}" x="{x}" y="{y + 2}" width="{width}" height="14" rx="4" data-event="{bar.event}"/>'
    if bar.is_moment:
        yield f'<circle class="point" cx="{x + width}" cy="{y + 9}" r="5"/>'


def chart_height(events: frozenset[str]) -> int:
    return 44 + ROW * len(events)


def draw_events() -> str:
    """When each event may come: a bar from the beginning to the moment after which it comes no more."""
    below = MARGIN + chart_height(REQUEST_EVENTS)
    height = below + chart_height(RESPONSE_EVENTS) + 40
    lines = [
        *draw_chart("request", REQUEST_EVENTS, REQUEST_ENDS, MARGIN),
        *draw_chart("response", RESPONSE_EVENTS, RESPONSE_ENDS, below),
        f'<rect class="often" x="{MARGIN}" y="{height - 29}" width="26" height="14" rx="4"/>',
        f'<text class="small" x="{MARGIN + 34}" y="{height - 18}">any number of times</text>',
        f'<rect class="once" x="{MARGIN + 170}" y="{height - 29}" width="26" height="14" rx="4"/>',
        f'<text class="small" x="{MARGIN + 204}" y="{height - 18}">at most once</text>',
        f'<circle class="point" cx="{MARGIN + 310}" cy="{height - 22}" r="5"/>',
        f'<text class="small" x="{MARGIN + 322}" y="{height - 18}">after it, what ends here comes no more</text>',
    ]
    return as_svg(height, "Which events may come, and until when", lines)


BOX = 112  # the width of a phase
GAP = (WIDTH - 2 * MARGIN - 5 * BOX) // 4
PHASES_TOP = 96


def draw_phases() -> str:
    """The phases in a row, the one that none leaves below them all, and every move as an arrow."""
    row = [phase for phase in Phase if MOVES[phase]]
    left = {phase: MARGIN + number * (BOX + GAP) for number, phase in enumerate(row)}
    floor = PHASES_TOP + 96
    lines = []
    for phase, x in left.items():
        lines.append(f'<rect class="phase" x="{x}" y="{PHASES_TOP}" width="{BOX}" height="44" rx="6"/>')
        lines.extend(in_the_middle(phase.value, x + BOX // 2, PHASES_TOP + 26))
    for phase in Phase:
        if phase not in left:
            lines.append(
                f'<rect class="last" x="{MARGIN}" y="{floor}" width="{WIDTH - 2 * MARGIN}" height="36" rx="6"/>'
            )
            lines.extend(in_the_middle(phase.value, WIDTH // 2, floor + 22))
    for before in row:
        for after in sorted(MOVES[before], key=list(Phase).index):
            path = path_of_move(left, before, after, floor)
            lines.append(f'<path class="move" data-from="{before.name}" data-to="{after.name}" d="{path}"/>')
    return as_svg(floor + 36 + MARGIN, "The phases of a request", lines)


def path_of_move(left: Mapping[Phase, int], before: Phase, after: Phase, floor: int) -> str:
    middle = left[before] + BOX // 2
    if after not in left:
        return f"M {middle} {PHASES_TOP + 44} V {floor - 3}"
    steps = list(left).index(after) - list(left).index(before)
    if steps == 1:
        return f"M {left[before] + BOX} {PHASES_TOP + 22} H {left[after] - 3}"
    # Over the others: away from what lies on the way, and the wider the higher.
    start, end = middle + (12 if steps > 0 else -12), left[after] + BOX // 2 + (-12 if steps > 0 else 12)
    high = PHASES_TOP - 22 - 26 * abs(steps)
    return f"M {start} {PHASES_TOP} C {start} {high} {end} {high} {end} {PHASES_TOP - 3}"


def in_the_middle(text: str, x: int, y: int) -> list[str]:
    """A text that is too long for a phase takes two lines."""
    if len(text) <= 14:
        return [f'<text class="middle" x="{x}" y="{y}">{text}</text>']
    words = text.split()
    upper, lower = " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])
    return [
        f'<text class="middle" x="{x}" y="{y - 8}">{upper}</text>',
        f'<text class="middle" x="{x}" y="{y + 8}">{lower}</text>',
    ]


TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M 0 0 L 8 4 L 0 8 z" fill="#57606a"/></marker></defs>'
)


def as_svg(height: int, title: str, lines: list[str]) -> str:
    # It has a ground of its own, and so can be read on a dark page too.
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'role="img">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            TIP,
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            *lines,
            "</svg>",
            "",
        ]
    )


DRAWINGS = {"events.svg": draw_events, "phases.svg": draw_phases}


def write(folder: Path) -> None:
    """Write those that are not there, or are others."""
    for name, draw in DRAWINGS.items():
        path, drawing = folder / name, draw()
        if not path.is_file() or path.read_text("utf-8") != drawing:
            path.write_text(drawing, "utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
