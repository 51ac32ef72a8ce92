"""Transfer: runs that start from a bank that another run filled on other tasks, beside cold ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.record.series import logged_shares
from lossrag.experiments.studies.plan import Warm
from lossrag.lossbank import LOSSES, LossBank
from lossrag.lossbank.experience.embedding import EMBEDDING_VERSION
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.experience.records import take
from lossrag.lossbank.shape.geometry import geometry

LAST = 3
"""The last of so many parts of a cold run is where its composition is taken to have arrived."""
SHARES = (0.5, 0.25)
"""Shares of the way that are left when a run counts as half, and as three quarters there."""


def keep_tasks(source: Path, tasks: Sequence[str], target: Path) -> None:
    """Write the bank in ``source`` to ``target`` with its records of ``tasks`` alone, unless it is there already.

    Raises BankError when there is no bank in ``source``, ConfigError when it remembers nothing of these tasks.
    """
    if target.exists():
        return
    bank = LossBank.load(source)
    records = bank.memory.records
    rows = np.flatnonzero(np.isin(records.task, [i for i, task in enumerate(records.tasks) if task in tasks]))
    if not len(rows):
        raise ConfigError(f"The bank {source} remembers nothing of {', '.join(tasks)}.")
    memory = Memory(bank.memory.context_size, EMBEDDING_VERSION, bank.memory.capacity)
    memory.extend(take(records, rows))
    LossBank(bank.names, memory).save(target)


def transfer_rows(warm: Warm, cold: Mapping[int, Path], started: Mapping[int, Path]) -> list[dict[str, Any]]:
    """Per seed and task that the bank did not know: the steps that cold and warm runs need towards the composition that
    the cold one of that seed arrived at.

    cold, started: run directories by seed. How far a composition has come is measured by the mean geometry of its
    losses, so that it does not matter which of two twins has the share.
    """
    rows: list[dict[str, Any]] = []
    for seed in sorted(cold.keys() & started.keys()):
        paths = [_paths(directory) for directory in (cold[seed], started[seed])]
        for task in sorted(paths[0].keys() - set(warm.tasks)):
            whole = paths[0][task][1]
            goal = whole[-max(len(whole) // LAST, 1) :].mean(dim=0)
            row: dict[str, Any] = {"seed": seed, "task": task}
            for name, (steps, way) in zip(("cold", "warm"), (path[task] for path in paths), strict=True):
                left = (way - goal).norm(dim=1) / (whole[0] - goal).norm()
                for share in SHARES:
                    there = (left <= share).nonzero().flatten()
                    row[f"{name} steps to {share:g}"] = steps[int(there[0])] if len(there) else math.inf
            rows.append(row)
    return rows


def transfer_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of the steps and of their paired ratios, and how many pairs need at most half of the steps."""
    summary: dict[str, Any] = {"pairs": len(rows)}
    for share in SHARES:
        cold, warm = ([row[f"{name} steps to {share:g}"] for row in rows] for name in ("cold", "warm"))
        ratios = [w / c for w, c in zip(warm, cold, strict=True) if math.isfinite(c)]
        summary[f"to {share:g}"] = {
            "cold": median(cold),
            "warm": median(warm),
            "ratio": median(ratios),
            "at most half": mean(ratio <= 0.5 for ratio in ratios),
        }
    return summary


def _paths(directory: Path) -> dict[str, tuple[list[int], Tensor]]:
    """By task: the logged steps, and the mean geometry (n, G) of its composition at them."""
    paths: dict[str, tuple[list[int], list[Tensor]]] = {}
    shapes: dict[str, Tensor] = {}
    for point in read_points(directory / "metrics.jsonl"):
        for task, parts in logged_shares(point).items():
            for loss in parts:
                shapes.setdefault(loss, torch.nn.functional.normalize(geometry(LOSSES[loss]), dim=0))
            total = sum(parts.values())
            steps, way = paths.setdefault(task, ([], []))
            steps.append(int(point["step"]))
            way.append(torch.stack([shapes[loss] * (share / total) for loss, share in parts.items()]).sum(0))
    return {task: (steps, torch.stack(way)) for task, (steps, way) in paths.items()}
