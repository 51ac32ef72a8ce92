"""History of losses in a memory: how they did so far, and at moments that looked like this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.experience.records import Records


@dataclass(frozen=True, eq=False)
class History:
    """Past of losses (L): counts (L,) int64, means (L,) and population deviations (L,), 0 where unseen."""

    losses: tuple[str, ...]
    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]


def history(memory: Memory, losses: Sequence[str], task: str | None = None) -> History:
    """Past of ``losses`` (L) over all tasks, or in ``task``; a loss or task never seen has count 0.

    >>> memory = Memory(1, "v1")
    >>> memory.add([[0.0]] * 2, ["mae", "mae"], [0.5, 1.5], run="r", task="REC", step=[0, 1])
    >>> history(memory, ["mae", "brier"])  # doctest: +NORMALIZE_WHITESPACE
    History(losses=('mae', 'brier'), counts=array([2, 0]), means=array([1., 0.]),
            deviations=array([0.5, 0. ]))
    """
    records = memory.records
    rows = np.arange(len(records))
    if task is not None:
        rows = rows[records.task == (records.tasks.index(task) if task in records.tasks else -1)]
    return _summary(records, rows, np.ones(len(rows)), losses)


def near_history(memory: Memory, query: ArrayLike, k: int, losses: Sequence[str]) -> History:
    """Past of ``losses`` (L) at the k moments nearest to the context ``query`` (C,).

    Moments weigh by their similarity in (0, 1]. A loss that none of them has tried has mean 0 and count 0.

    Raises ConfigError for k < 1, or a query of another size or not finite.

    >>> memory = Memory(1, "v1")
    >>> memory.add([[0.0], [0.0]], ["mae", "mae"], [0.5, 1.5], run="r", task="REC", step=[0, 1])
    >>> near_history(memory, [0.0], 2, ["mae"]).deviations
    array([0.5])
    """
    near = memory.nearest(query, k)
    return _summary(memory.records, near.positions, near.similarities, losses)


def _summary(records: Records, rows: NDArray[np.int64], weights: NDArray[np.float64], losses: Sequence[str]) -> History:
    """Counts of ``losses`` among ``rows``, weighted means of their contributions and deviations from these."""
    code, size = records.loss[rows], len(records.losses)
    known = {name: place for place, name in enumerate(records.losses)}
    wanted = np.array([known.get(name, size) for name in losses], dtype=np.int64)  # one past the end where unseen

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.append(np.bincount(code, values, size), 0.0)[wanted]

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.divide(sums(weights * values), sums(weights), out=np.zeros(len(wanted)), where=counts > 0)

    counts = sums(np.ones(len(rows))).astype(np.int64)
    contributions = records.contribution[rows].astype(np.float64)
    means, mean_of = mean(contributions), np.zeros(size + 1)
    mean_of[wanted] = means
    return History(tuple(losses), counts, means, np.sqrt(mean((contributions - mean_of[code]) ** 2)))
