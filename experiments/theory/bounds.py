"""The right-hand sides of the paper's Theorems 2 and 3, for a loss in [0, 1]; gaps are mean loss differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossrag.errors import ConfigError


def query_bound(samples: int, delta: float) -> float:
    """sqrt(log(2 / delta) / (2 m)), Theorem 3: how far the query loss of a task, on m samples that its model has not
    seen, may fall short of the expected loss with probability of at least 1 - delta (Hoeffding).

    Raises ConfigError unless m is 1 or more and delta in (0, 1).

    >>> round(query_bound(200, 0.05), 4)
    0.096
    """
    _check(delta, [samples])
    return math.sqrt(math.log(2 / delta) / (2 * samples))


def train_slack(samples: Sequence[int], delta: float, shared_input: bool = False) -> float:
    """4 sqrt(2 log(4 / delta) / (T n)) for ``samples[t]`` = n_t: the bound of Theorem 2 is 2 R plus this.

    The theorem says n for all tasks. Where they differ, one sample of task t moves the mean over tasks by 1 / (T n_t),
    and McDiarmid's inequality puts T / mean(1 / n_t) in the place of T n; for equal n_t that is T n. With
    ``shared_input`` one row is a sample of every task, moves the mean by 1 / n, and T n becomes n.

    >>> round(train_slack([1000, 1000], 0.05), 4), round(train_slack([1000, 1000], 0.05, shared_input=True), 4)
    (0.2648, 0.3745)
    """
    _check(delta, samples)
    tasks = 1 if shared_input else len(samples)
    harmonic = len(samples) / sum(1 / n for n in samples)
    return 4 * math.sqrt(2 * math.log(4 / delta) / (tasks * harmonic))


def _check(delta: float, samples: Sequence[int]) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"delta must be in (0, 1), got {delta}.")
    if not samples or min(samples) < 1:
        raise ConfigError(f"Every task needs at least one sample, got {list(samples)}.")
