"""Statistics of scores: intervals, paired tests with Holm's correction, ranks."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from scipy.stats import rankdata
from scipy.stats import t as student


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """``mean`` of values, such as paired differences, and ``half``, the half width of its 95 % interval (Student's t);
    None for a single value, and where it is too large for a number.

    >>> {key: round(value, 4) for key, value in interval([0.01, 0.02, 0.03]).items()}
    {'mean': 0.02, 'half': 0.0248}
    """
    half = None
    if len(values) > 1:
        half = float(student.ppf(0.975, len(values) - 1)) * _spread(values) / math.sqrt(len(values))
    return {"mean": mean(values), "half": half if half is not None and half < math.inf else None}


def _spread(values: Sequence[float]) -> float:
    """Their standard deviation; infinity where it is too large for a number, as of R^2 of a constant."""
    try:
        return stdev(values)
    except OverflowError:
        return math.inf


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of Student's paired t test that the mean difference is 0; None for fewer than two pairs.

    Differences that are all 0 give 1, and 0 when they are all the same number but 0.

    >>> round(paired_p([1.0, 2.0, 3.0]), 4)
    0.0742
    """
    if len(differences) < 2:
        return None
    spread = _spread(differences)
    if spread == 0:
        return 1.0 if differences[0] == 0 else 0.0
    statistic = abs(mean(differences)) / (spread / math.sqrt(len(differences)))
    return float(2 * student.sf(statistic, len(differences) - 1))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """The p values of one family of tests, corrected (Holm, 1979); None stays and does not count.

    The k-th smallest of m is multiplied by m - k + 1, is at least as large as the one before it and at most 1.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    order = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    least = 0.0
    for number, (p, place) in enumerate(order):
        least = max(least, min((len(order) - number) * p, 1.0))
        corrected[place] = least
    return corrected


def differences(scores: Mapping[str, Mapping[int, float]], other: str) -> dict[str, dict[str, Any]]:
    """By row of ``scores`` (by row and seed): its paired differences to the row ``other`` over the seeds that both
    have, as pairs, mean, half, p and p_holm, the rows tested as one family; rows without a pair are left out."""
    pairs = {
        row: [_between(score, scores[other][seed]) for seed, score in own.items() if seed in scores[other]]
        for row, own in scores.items()
        if row != other
    }
    pairs = {row: values for row, values in pairs.items() if values}
    plain = [paired_p(values) for values in pairs.values()]
    return {
        row: {"pairs": len(values), **interval(values), "p": p, "p_holm": corrected}
        for (row, values), p, corrected in zip(pairs.items(), plain, holm(plain), strict=True)
    }


def _between(score: float, other: float) -> float:
    """The difference of two scores, the largest number there is where it is larger."""
    return min(max(score - other, -sys.float_info.max), sys.float_info.max)


def mean_ranks(scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """By row: its rank among all rows, 1 the best, averaged over the cells (tasks x seeds) of ``scores``.

    Equal scores share the mean of their ranks; -inf, a run that failed, ranks last.

    >>> mean_ranks({"a": [0.9, 0.5], "b": [0.8, 0.5]})
    {'a': 1.25, 'b': 1.75}
    """
    columns = [rankdata([-score for score in column]) for column in zip(*scores.values(), strict=True)]
    return {row: float(mean(float(ranks[place]) for ranks in columns)) for place, row in enumerate(scores)}
