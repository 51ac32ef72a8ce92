"""Query of a bank: the losses that a described task would get, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.config.identity import run_id
from lossrag.lossbank import CONTEXT_NAMES, LossBank
from lossrag.lossbank.experience.history import history, near_history
from lossrag.lossbank.experience.predictors import top
from lossrag.lossbank.library.contract import TARGET_KINDS

SIDES = ("support_", "query_")
BOTH = sorted({name.removeprefix(side) for name in CONTEXT_NAMES for side in SIDES if name.startswith(side)})
"""Entries that are described for both sides at once by leaving the side out."""
DESCRIBABLE = ("kind", "classes", *BOTH, *(name for name in CONTEXT_NAMES if name not in TARGET_KINDS))
NEAREST = 5
"""Remembered moments that a reason may refer to."""


def described(bank: LossBank, description: Mapping[str, Any]) -> tuple[Tensor, str]:
    """The context (C,) of ``key=value`` entries, and the target kind.

    ``kind`` and ``classes`` say what the task is; the other keys are names of CONTEXT_NAMES, or those without
    ``support_`` or ``query_`` for both. What is not said is as it was on average at the moments that the bank
    remembers of that kind. Raises ConfigError for other keys and for values that are no numbers.
    """
    for key in description:
        if key not in DESCRIBABLE:
            raise ConfigError(f"A task is not described by {key!r}: {did_you_mean(key, DESCRIBABLE)}")
    kind = str(description.get("kind", "classification"))
    if kind not in TARGET_KINDS:
        raise ConfigError(f"kind={kind} is unknown: {did_you_mean(kind, TARGET_KINDS)}")
    context = _average(bank, kind)
    for key, value in description.items():
        if key == "kind":
            continue
        number = _number(key, value)
        if key == "classes":
            if number < 1:
                raise ConfigError(f"classes={value}: a task has 1 output or more.")
            context[CONTEXT_NAMES.index("outputs")] = min(math.log2(number) / 10, 1.0)
            continue
        for name in (key,) if key in CONTEXT_NAMES else tuple(side + key for side in SIDES):
            if name in CONTEXT_NAMES:
                context[CONTEXT_NAMES.index(name)] = number
    return torch.from_numpy(context), kind


def remembered(bank: LossBank, run: Path, task: str) -> tuple[Tensor, str]:
    """The last context (C,) that ``bank`` remembers of a task of a run, and its target kind.

    Raises ConfigError when the folder holds no run, or the bank remembers no such task of it.
    """
    try:
        settings = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
        assert isinstance(settings, dict)
        name = run_id({str(key): value for key, value in settings.items()})
    except Exception:  # YAML and OmegaConf have many ways to stumble over what is no configuration
        raise ConfigError(f"run={run} is no run directory (its config.yaml cannot be read): name one.") from None
    records = bank.memory.records
    own = records.run == (records.runs.index(name) if name in records.runs else -1)
    tasks = [records.tasks[code] for code in np.unique(records.task[own])]
    if task not in tasks:
        known = did_you_mean(task, tasks) if tasks else "it remembers nothing of that run."
        raise ConfigError(f"The bank remembers no task {task!r} of the run {name}: {known}")
    rows = np.flatnonzero(own & (records.task == records.tasks.index(task)))
    context = torch.from_numpy(records.context[rows[records.step[rows].argmax()]].copy())
    return context, "classification" if context[CONTEXT_NAMES.index("classification")] > 0.5 else "regression"


def query(bank: LossBank, context: Tensor, kind: str, k: int, by: str) -> list[tuple[str, float, float, str]]:
    """Loss, predicted contribution, its uncertainty and the reason of the k losses with the highest prediction ``by``
    ``knn`` or ``towers``, best first."""
    names = [name for name, loss in bank.losses.items() if loss.target_kind == kind]
    if by not in ("knn", "towers"):
        raise ConfigError(f"by={by} is unknown: {did_you_mean(by, ('knn', 'towers'))}")
    prediction = bank.predictor("knn" if by == "knn" else "towers").predict(context, names)
    doubt = dict(zip(names, prediction.uncertainty.tolist(), strict=True))
    near = near_history(bank.memory, context.numpy(), NEAREST, names)
    tried = {name: (int(n), float(mean)) for name, n, mean in zip(names, near.counts, near.means, strict=True)}
    return [(name, mean, doubt[name], _reason(bank, name, *tried[name])) for name, mean in top(prediction, names, k)]


def nearest_moments(bank: LossBank, context: Tensor) -> list[tuple[str, str, int, float]]:
    """Task, run, step and similarity of the :data:`NEAREST` remembered moments that looked most like ``context``."""
    records = bank.memory.records
    near = bank.memory.nearest(context.numpy(), NEAREST)
    moments: dict[tuple[str, str, int], float] = {}
    for place, similarity in zip(near.positions.tolist(), near.similarities.tolist(), strict=True):
        key = (records.tasks[records.task[place]], records.runs[records.run[place]], int(records.step[place]))
        moments.setdefault(key, similarity)
    return [(*key, similarity) for key, similarity in moments.items()]


def _reason(bank: LossBank, name: str, count: int, mean: float) -> str:
    if count:
        return f"tried {count} times at the nearest moments, {mean:+.3f}"
    others = bank.neighbours(name, len(bank.names)) if len(bank.memory) else []
    past = history(bank.memory, [other for other, _ in others])
    for (other, cosine), n, its in zip(others, past.counts.tolist(), past.means.tolist(), strict=True):
        if n:
            return f"like {other} (cosine {cosine:.2f}), which made {its:+.3f} on {n} records"
    return "nothing is remembered: its geometry is all that is known"


def _average(bank: LossBank, kind: str) -> NDArray[np.float32]:
    records = bank.memory.records
    column = CONTEXT_NAMES.index(kind)
    alike = records.context[records.context[:, column] > 0.5] if len(records) else records.context
    context = alike.mean(axis=0, dtype=np.float64) if len(alike) else np.zeros(len(CONTEXT_NAMES))
    context[column] = 1.0
    return context.astype(np.float32)


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{key}={value} is no number: describe a task with numbers, e.g. {key}=0.4")
    return float(value)
