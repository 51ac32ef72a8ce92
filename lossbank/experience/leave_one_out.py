"""Leave one out: would a bank retrieve a loss that it has never seen? Hide one, and ask where it was right."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lossrag.errors import ConfigError
from lossrag.lossbank.bank import LossBank
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.experience.records import Records

TWIN = 0.995
"""Cosine of geometries above which two losses are one lens twice; hiding one of them hides nothing."""
MOMENTS = 8
"""At which a task's run is asked about, spread over its second half."""


@dataclass(frozen=True)
class Trial:
    """A loss that was among the best of a task in a run; hidden, it was predicted as the ``rank``-th of ``offered``."""

    loss: str
    run: str
    task: str
    rank: int
    offered: int


def leave_one_out(
    bank: LossBank, families: Collection[str], *, best: int = 3, by: Literal["knn", "towers"] = "knn", seed: int = 0
) -> list[Trial]:
    """A trial for every loss of ``families`` and every task of every run in which it was the right lens.

    Right are the ``best`` losses by mean contribution over the second half of the run. What predicts has seen neither
    that run nor, in any other, the loss or its twins. Where the bank is of one run, the other tasks of that run remain.

    Raises ConfigError for a bank without such losses and for best < 1.
    """
    if best < 1:
        raise ConfigError(f"best must be 1 or more, got {best}.")
    records = bank.memory.records
    wanted = [lens for lens in _right(bank, records, best) if bank.losses[lens[2]].family in families]
    if not wanted:
        raise ConfigError(
            f"No loss of the families {', '.join(sorted(families))} was among the best {best} of any task in this bank."
        )
    trials = []
    for run, task, name in sorted(wanted):
        hidden = _hidden(bank, records, run, task, name)
        if not len(hidden):
            continue
        blind = LossBank(bank.names, hidden)
        if by == "towers":
            blind.fit(seed=seed)
        predictor = blind.predictor(by)
        kind = bank.losses[name].target_kind
        offered = [other for other in bank.names if bank.losses[other].target_kind == kind and other in records.losses]
        rows = _rows(records, run, task)
        moments = np.unique(records.step[rows])
        asked = moments[np.linspace(0, len(moments) - 1, MOMENTS).round().astype(int)]
        at = [rows[records.step[rows] == step][0] for step in asked]
        means = [predictor.predict(torch.from_numpy(records.context[row]), offered).mean for row in at]
        mean = torch.stack(means).mean(0)
        order = sorted(range(len(offered)), key=lambda i: (-float(mean[i]), offered[i]))
        rank = 1 + [offered[i] for i in order].index(name)
        trials.append(Trial(name, records.runs[run], records.tasks[task], rank, len(offered)))
    if not trials:
        raise ConfigError(
            "This bank remembers one task of one run: there is nothing left to predict from. Merge more banks."
        )
    return trials


def _rows(records: Records, run: int, task: int) -> NDArray[np.int64]:
    """The records of a task in the second half of a run."""
    rows = np.flatnonzero((records.run == run) & (records.task == task))
    return rows[records.step[rows] >= np.median(records.step[rows])] if len(rows) else rows


def _right(bank: LossBank, records: Records, best: int) -> Iterator[tuple[int, int, str]]:
    for run in range(len(records.runs)):
        for task in range(len(records.tasks)):
            rows = _rows(records, run, task)
            means = {}
            for code, name in enumerate(records.losses):
                own = rows[records.loss[rows] == code]
                if len(own) and name in bank.losses:
                    means[name] = float(records.contribution[own].mean())
            for name in sorted(means, key=lambda name: (-means[name], name))[:best]:
                yield run, task, name


def _hidden(bank: LossBank, records: Records, run: int, task: int, name: str) -> Memory:
    """The memory without the loss and its twins, and without the run; of a single run, without the task."""
    twins = {name, *(other for other, cosine in bank.neighbours(name, len(bank.names) - 1) if cosine >= TWIN)}
    secret = np.isin(records.loss, [i for i, other in enumerate(records.losses) if other in twins])
    known = records.run != run if len(records.runs) > 1 else records.task != task
    return bank.memory.only(np.flatnonzero(known & ~secret))
