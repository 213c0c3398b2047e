"""What the process takes, sampled every second, and the rule by which it counts as flat.

The resident memory goes up for a long time, ever more slowly, with each peak that is higher than all before, and with
what stays free between two things in use. So what is free goes back to the system before each sample, and the heap that
is in use is looked at as well: that shows a leak soon.

The rule. The first `WARM_UP` of the samples do not count: caches and pools fill up, the allocator takes what it needs
for the peaks. Of the rest two things are asked:

- The median of the last third may be above that of the middle third by no more than the allowance.
- The slope (Theil-Sen: the median of the slopes between pairs of samples, which no single peak can bend), over all of
  that time, may come to no more than the allowance.

Only if both say "more" it is a breach, or the slope says "three times as much": the one alone is what noise looks like,
or the end of the warm-up. The allowance is the largest of a part
of the whole, so much in any case, and four standard errors of the difference between two such medians, by how the
samples scatter. There is none for each request: what every request leaves behind, be it little, comes to more than that
in a run that is long enough.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import threading
import time
from typing import Any, NamedTuple

WARM_UP = 0.25
PAGE = os.sysconf("SC_PAGE_SIZE")
MOST_PAIRS = 300
"""Samples that the slope is made of; of longer runs every so many."""


class Sample(NamedTuple):
    """One moment of this process."""

    at: float
    requests: int
    rss: int  # bytes
    heap: int  # bytes that malloc has given out and not got back; 0 where it does not tell
    blocks: int  # of small memory that Python has handed out, a few an object
    objects: int  # that the collector knows
    descriptors: int
    threads: int


# Of each figure: the part of the middle third's median, and what is allowed in any case.
ALLOWED = {
    "rss": (0.08, 20 * 1024 * 1024),
    "heap": (0.04, 8 * 1024 * 1024),
    "blocks": (0.02, 4000),
    "objects": (0.02, 1500),
    "descriptors": (0.10, 16),
    "threads": (0.10, 12),
}


class _Mallinfo2(ctypes.Structure):
    """glibc's, since 2.33."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


_libc = ctypes.CDLL(None)
_trim: Any = getattr(_libc, "malloc_trim", None)  # not in every C library
_mallinfo: Any = getattr(_libc, "mallinfo2", None)
if _mallinfo is not None:
    _mallinfo.restype = _Mallinfo2


def heap_in_use() -> int:
    """What is in use of the heap. What is free in between does not count, which is most of what the peaks leave."""
    if _mallinfo is None:
        return 0
    told = _mallinfo()
    return int(told.uordblks + told.hblkhd)


def sample(requests: int) -> Sample:
    if _trim is not None:
        _trim(0)
    with open("/proc/self/statm") as statm:
        rss = int(statm.read().split()[1]) * PAGE
    return Sample(
        time.monotonic(),
        requests,
        rss,
        heap_in_use(),
        sys.getallocatedblocks(),
        len(gc.get_objects()),
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
    )


class Growth(NamedTuple):
    """How one figure went."""

    middle: float  # its median in the middle third
    last: float  # in the last third
    by_slope: float  # what the slope comes to, over the time that counts
    allowed: float

    @property
    def is_flat(self) -> bool:
        return min(self.last - self.middle, self.by_slope) <= self.allowed and self.by_slope <= 3 * self.allowed


def growth(samples: list[Sample], name: str) -> Growth:
    counted = samples[int(len(samples) * WARM_UP) :]
    third = len(counted) // 3
    values = [float(getattr(one, name)) for one in counted]
    # Thirds of what counts: the first of them is the beginning, which only the slope looks at.
    thirds = values[third : 2 * third], values[-third:]
    middle, last = (statistics.median(one) for one in thirds)
    # Of a median, 1.25 times that of a mean; and 1.48 times the median deviation is the standard deviation.
    scatter = statistics.mean(1.48 * deviation(one) for one in thirds)
    error = 1.25 * scatter * (2 / third) ** 0.5
    part, least = ALLOWED[name]
    return Growth(middle, last, slope(counted, values), max(part * middle, least, 4 * error))


def deviation(values: list[float]) -> float:
    middle = statistics.median(values)
    return statistics.median(abs(value - middle) for value in values)


def slope(counted: list[Sample], values: list[float]) -> float:
    step = max(1, len(values) // MOST_PAIRS)
    points = [(one.at, value) for one, value in zip(counted[::step], values[::step])]
    slopes = [
        (later[1] - sooner[1]) / (later[0] - sooner[0])
        for index, sooner in enumerate(points)
        for later in points[index + 1 :]
    ]
    return statistics.median(slopes) * (counted[-1].at - counted[0].at)


def judge(samples: list[Sample]) -> tuple[list[str], dict[str, Growth]]:
    """What grows, and how everything went; nothing of a run that is too short to tell."""
    if len(samples) < 24:
        return [], {}
    grown = {name: growth(samples, name) for name in ALLOWED}
    wrong = [
        f"{name} grows: from {one.middle:.0f} to {one.last:.0f}, by {one.by_slope:.0f} over all of the time, "
        f"and {one.allowed:.0f} are allowed"
        for name, one in grown.items()
        if not one.is_flat
    ]
    return wrong, grown
