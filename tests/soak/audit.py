"""Holds what the client says of its bodies against what the server says it got: none lost, none doubled, none damaged.

python -m tests.soak.audit CLIENT_LEDGER SERVER_LEDGER
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import NamedTuple

from .kinds import LOST, MAYBE, NEVER, ONCE

MOST_LOGINS = 5
MOST_SHOWN = 20


class Arrival(NamedTuple):
    """A body that the server has had whole."""

    label: str
    digest: str
    used: bool  # it came on a connection that had carried another request before


def read_arrivals(path: str) -> dict[str, list[Arrival]]:
    arrivals: dict[str, list[Arrival]] = defaultdict(list)
    with open(path) as lines:
        for line in lines:
            name, label, digest, _, used = line.split(" ")
            arrivals[name].append(Arrival(label, digest, used.strip() == "1"))
    return arrivals


def audit(client: str, server: str) -> tuple[list[str], dict[str, int]]:
    """What is wrong, and how many bodies were looked at."""
    arrivals = read_arrivals(server)
    wrong: list[str] = []
    counts = {"requests": 0, "once": 0, "maybe": 0, "never": 0, "bodies": sum(map(len, arrivals.values()))}
    with open(client) as lines:
        for line in lines:
            name, kind, expected, digest, outcome = line.rstrip("\n").split(" ", 4)
            came = arrivals.pop(name, [])
            counts["requests"] += 1
            if expected in counts:
                counts[expected] += 1
            said = f"request {name} ({kind}, {outcome})"
            if outcome == LOST and any(one.label == "early" for one in came):
                wrong.append(f"{said}: the server had answered, and that was lost")
            came = [one for one in came if one.label != "early"]
            wrong.extend(f"{said}: {what}" for what in look(expected, digest, came))
    wrong.extend(f"request {name}: nobody sent it" for name in arrivals if name)
    if arrivals.get(""):
        wrong.append(f"{len(arrivals[''])} bodies without an id")
    return wrong, counts


def look(expected: str, digest: str, came: list[Arrival]) -> list[str]:
    """What is wrong with the arrivals of one body."""
    wrong = []
    by_label = {label: [one for one in came if one.label == label] for label in {one.label for one in came}}
    good = len(by_label.get("ok", []))
    if expected == ONCE and good != 1:
        wrong.append(f"the client says that it was answered, the server has it {good} times")
    if good > 1:
        wrong.append(f"it was taken {good} times")
    if expected == NEVER and came:
        wrong.append(f"it was never ended, and the server has it whole: {came}")
    if digest != "-":
        wrong.extend(f"another body came: {one}" for one in came if one.digest != digest and expected in (ONCE, MAYBE))
    # Sent again as documented: with each login, at each redirect, and once where a used connection broke.
    for label, most in (("challenge", MOST_LOGINS + 2), ("redirect", 1), ("hold", 1)):
        count = len(by_label.get(label, []))
        if count > most:
            wrong.append(f"{label} {count} times")
    broken = by_label.get("reset", [])
    if len(broken) > 2 or (len(broken) == 2 and not broken[0].used):
        wrong.append(f"sent again after a reset without leave: {broken}")
    return wrong


def main(client: str, server: str) -> int:
    wrong, counts = audit(client, server)
    print(*wrong[:MOST_SHOWN], counts, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
