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


def spread(values: Sequence[float]) -> float | None:
    """Largest minus smallest value, as a part of the median: the noise."""
    middle = median(values)
    if not middle:
        return None
    return (max(values) - min(values)) / middle
