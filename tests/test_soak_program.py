"""The soak judges rightly: what is lost, doubled, or committed by half, and what grows."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.soak.audit import audit
from tests.soak.kinds import LOST, MAYBE, NEVER, NOTHING, ONCE

if not sys.platform.startswith("linux"):
    pytest.skip("it reads /proc", allow_module_level=True)

from tests.soak.meter import ALLOWED, Growth, Sample, judge

MIB = 1 << 20


def judged(tmp_path: Path, expected: str, *came: str, outcome: str = "good") -> list[str]:
    """What is wrong, when the client expects this of its request 1, and these lines are of the server."""
    client, server = tmp_path / "client", tmp_path / "server"
    client.write_text(f"1 kind {expected} digest {outcome}\n")
    server.write_text("".join(f"1 {line}\n" for line in came))
    return audit(str(client), str(server))[0]


OK = "ok digest 10 0"


@pytest.mark.parametrize(
    ("expected", "came"),
    [
        (ONCE, [OK]),
        (ONCE, ["challenge digest 10 0", OK]),
        (ONCE, ["redirect digest 10 0", OK]),
        (MAYBE, []),
        (MAYBE, [OK]),
        (MAYBE, ["reset digest 10 1", "reset digest 10 0"]),
        (NEVER, []),
        (NOTHING, []),
    ],
)
def test_good_body(tmp_path: Path, expected: str, came: list[str]) -> None:
    assert judged(tmp_path, expected, *came) == []


@pytest.mark.parametrize(
    ("expected", "came"),
    [
        (ONCE, []),
        (ONCE, [OK, OK]),
        (ONCE, ["ok another 10 0"]),
        (ONCE, ["challenge digest 10 0"]),
        (ONCE, ["challenge another 10 0", OK]),
        (ONCE, ["redirect digest 10 0", "redirect digest 10 0", OK]),
        (MAYBE, [OK, OK]),
        (MAYBE, ["reset digest 10 0", "reset digest 10 0"]),
        (MAYBE, ["reset digest 10 1", "reset digest 10 1", "reset digest 10 0"]),
        (NEVER, [OK]),
        (NEVER, ["hold digest 10 0"]),
    ],
)
def test_bad_body(tmp_path: Path, expected: str, came: list[str]) -> None:
    assert judged(tmp_path, expected, *came) != []


def test_body_that_nobody_sent(tmp_path: Path) -> None:
    (tmp_path / "client").write_text("")
    (tmp_path / "server").write_text(f"7 {OK}\n")
    assert audit(str(tmp_path / "client"), str(tmp_path / "server"))[0] == ["request 7: nobody sent it"]


def test_early_answer_that_was_lost(tmp_path: Path) -> None:
    assert judged(tmp_path, NEVER, "early - 0 0", outcome="close") == []
    assert judged(tmp_path, NEVER, outcome=LOST) == []
    assert judged(tmp_path, NEVER, "early - 0 0", outcome=LOST) != []


def samples(grows: str = "", by: float = 0.0, seconds: int = 120, peak: float = 0.0) -> list[Sample]:
    """A run with noise of some percent, in which one figure grows ``by`` so much a second."""
    dice = random.Random(f"{grows} {seconds}")
    still = {
        "rss": 120 * MIB,
        "heap": 30 * MIB,
        "blocks": 180_000,
        "objects": 60_000,
        "descriptors": 280,
        "threads": 135,
    }
    noise = {"rss": 0.01, "heap": 0.1, "blocks": 0.15, "objects": 0.25, "descriptors": 0.1, "threads": 0.03}
    taken = []
    for second in range(seconds):
        figures = {name: value * (1 + noise[name] * (2 * dice.random() - 1)) for name, value in still.items()}
        if grows:
            figures[grows] += by * second
        if second == seconds * 5 // 6:
            figures = {name: value * (1 + peak) for name, value in figures.items()}
        taken.append(Sample(float(second), 300 * second, **{name: int(value) for name, value in figures.items()}))
    return taken


@pytest.mark.parametrize("seconds", [60, 120, 2000])
@pytest.mark.parametrize("peak", [0.0, 1.0])
def test_noise_is_no_growth(seconds: int, peak: float) -> None:
    assert judge(samples(seconds=seconds, peak=peak))[0] == []


@pytest.mark.parametrize(
    ("name", "each"),
    [("rss", 3000), ("heap", 1000), ("blocks", 10), ("objects", 5), ("descriptors", 0.01), ("threads", 0.01)],
)
def test_what_each_request_leaves_is_growth(name: str, each: float) -> None:
    """At 300 requests a second, in two minutes."""
    assert name in ALLOWED
    assert [wrong.partition(" ")[0] for wrong in judge(samples(name, by=300 * each))[0]] == [name]


@pytest.mark.parametrize(
    ("last", "by_slope", "is_flat"),
    [(100, 0, True), (111, 9, True), (109, 29, True), (111, 11, False), (109, 31, False), (90, -20, True)],
)
def test_both_say_so_or_the_slope_says_much(last: float, by_slope: float, is_flat: bool) -> None:
    assert Growth(100, last, by_slope, allowed=10).is_flat is is_flat
