"""Timings that survive a noisy machine: two routines in turn, and the median of the ratios of neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch

Times = tuple[float, float]
"""Milliseconds of either routine."""


@dataclass(frozen=True)
class Result:
    """``ratio`` in ``unit``, with the quartile distance of its paired repetitions, and further figures. Both are None
    where nothing could be timed: ``more`` then says why."""

    subject: str
    case: str
    ratio: float | None
    spread: float | None
    unit: str
    more: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The row of benchmark.json."""
        row = {"subject": self.subject, "case": self.case, "ratio": self.ratio, "spread": self.spread}
        return {**row, "unit": self.unit, **self.more}


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios A/B, the distance between their quartiles, and the median milliseconds of each."""

    ratio: float
    spread: float
    milliseconds: Times

    def result(self, subject: str, case: str, unit: str, names: tuple[str, str], **more: object) -> Result:
        """The row of these figures, with the milliseconds under these names."""
        timed = {name: round(time, 4) for name, time in zip(names, self.milliseconds, strict=True)}
        return Result(subject, case, self.ratio, self.spread, unit, {**timed, **more})


def paired_ratio(first: Callable[[], object], second: Callable[[], object], pairs: int, warmup: int = 2) -> Ratio:
    """Run A, B, A, B, ... and compare each A with the B right after it."""
    for _ in range(warmup):
        first()
        second()
    times = [(milliseconds(first), milliseconds(second)) for _ in range(pairs)]
    return _medians([a / b for a, b in times], times)


def paired_within(first: Callable[[], object], second: Callable[[], object], pairs: int, seconds: float) -> Ratio:
    """The same for routines that may be slow: after one warm-up of each, as many of ``pairs`` as fit, at least two."""
    once = milliseconds(first) + milliseconds(second)
    return paired_ratio(first, second, max(2, min(pairs, int(1e3 * seconds / once))), warmup=0)


def pooled(timings: Sequence[Ratio]) -> Ratio:
    """The same over several problems of a kind, two at least: medians over the problems."""
    return _medians([timed.ratio for timed in timings], [timed.milliseconds for timed in timings])


def _medians(ratios: Sequence[float], times: Sequence[Times]) -> Ratio:
    low, _, high = quantiles(ratios, n=4)
    return Ratio(median(ratios), high - low, (median(a for a, _ in times), median(b for _, b in times)))


def milliseconds(routine: Callable[[], object]) -> float:
    """Time of one call."""
    _finish()
    start = time.perf_counter()
    routine()
    _finish()
    return (time.perf_counter() - start) * 1e3


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
