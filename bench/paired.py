"""Two things timed against each other in turns, and what the ratios of their times prove."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

LEVEL = 0.99
LEAST = 10  # rounds; of fewer the interval would be wide

Sample = Callable[[], float]
Round = tuple[float, float]  # seconds of A and of B


def rounds(a: Sample, b: Sample, seconds: float, least: int = LEAST) -> list[Round]:
    """Take samples as A B B A, then B A A B, and so on: what drifts hits both alike.

    Of two samples the shorter one counts: whatever else the machine does, it is rarely in both.
    """
    found, end = [], time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        first, second = (a, b) if len(found) % 2 == 0 else (b, a)
        outer, inner = [first()], [second(), second()]
        outer.append(first())
        pair = min(outer), min(inner)
        found.append(pair if first is a else pair[::-1])
    return found


def interval(values: list[float], level: float = LEVEL) -> tuple[float, float]:
    """Where the median of all such values is, with this probability: two of the values.

    Whatever their distribution, each value is below that median with probability 1/2; so how many
    are is binomial.
    """
    ordered, count = sorted(values), len(values)
    skip, misses = 0, 1 + count  # of 2**count outcomes, those with at most skip + 1 below
    while misses / 2**count <= (1 - level) / 2:
        skip += 1
        misses += math.comb(count, skip + 1)
    return ordered[skip], ordered[count - 1 - skip]


@dataclass(frozen=True)
class Verdict:
    """How long B takes, A being 1."""

    a: float  # best seconds
    b: float
    ratio: float  # median of the ratios of all rounds
    low: float
    high: float

    @classmethod
    def of(cls, taken: list[Round]) -> Verdict:
        """Sum up rounds."""
        ratios = [b / a for a, b in taken]
        best = [min(times) for times in zip(*taken, strict=True)]
        return cls(*best, statistics.median(ratios), *interval(ratios))

    def change(self, threshold: float) -> str:
        """Say "slower" or "faster" of a change by the threshold or more; "unclear"; or nothing.

        The interval of a change by just the threshold lies around it, that of none around 1; so all
        of it is to be on one side of something between them.
        """
        middle = 1 + 0.7 * threshold
        if self.low > middle:
            return "slower"
        if self.high < 1 / middle:
            return "faster"
        return "" if 1 / middle < self.low and self.high < middle else "unclear"
