"""The statistics of the bench: median, geometric mean, ratio, spread.

Each answers None where there is nothing to say (no values, a zero, a runner
that is not installed), so that a table shows a dash and never a wrong figure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence


def median(values: Sequence[float]) -> float | None:
    """The middle value, or the mean of the two middle ones."""
    return statistics.median(values) if values else None


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """The geometric mean of the positive values; None when there are none."""
    logs = [math.log(value) for value in values if value is not None and value > 0]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """How many times `theirs` goes into `ours`."""
    if ours is None or not theirs:
        return None
    return ours / theirs


def paired_ratios(
    our_work: float, ours: Sequence[float], their_work: float, theirs: Sequence[float]
) -> list[float]:
    """How many times faster we are in each of the rounds that alternated: ratios of rates (work by time)."""
    pairs = zip(ours, theirs, strict=False)
    return [our_work / a / (their_work / b) for a, b in pairs if a and b and their_work]


def paired_ratio(
    our_work: float, ours: Sequence[float], their_work: float, theirs: Sequence[float]
) -> float | None:
    """The median over the rounds, so that a machine which is slow for some rounds does not count."""
    return median(paired_ratios(our_work, ours, their_work, theirs))


def spread(values: Sequence[float]) -> float | None:
    """The noise: the range of the middle half of the values, by their median."""
    middle = median(values)
    if not middle or len(values) < 2:
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle
