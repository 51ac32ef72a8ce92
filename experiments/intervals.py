"""Means with their 95 % intervals: what tables of several seeds show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import t as student


@dataclass(frozen=True)
class Interval:
    """A mean and the half width of its 95 % interval (Student's t); infinite for a single value."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.half:.4f}"


def interval(values: Sequence[float]) -> Interval:
    """Of the mean of ``values``, such as paired differences.

    >>> print(interval([0.01, 0.02, 0.03]))
    +0.0200 ± 0.0248
    """
    if len(values) < 2:
        return Interval(mean(values), math.inf)
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Interval(mean(values), half)
