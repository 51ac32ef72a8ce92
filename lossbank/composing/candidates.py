"""What a composer chooses from, and what it starts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.lossbank.composing.policies import ComposerConfig
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.registration import LOSSES
from lossrag.lossbank.shape.geometry import geometry


@dataclass(frozen=True)
class TaskSpec:
    """A task as its losses see it: ``reference`` is the loss that gives the scale, ``class_counts`` (K,)."""

    name: str
    target_kind: str
    reference: str
    class_counts: Tensor | None = None


def library(tasks: Sequence[TaskSpec], config: ComposerConfig, candidates: str) -> list[str]:
    """The names on offer, in a stable order: those that fit a task, and every task's reference."""
    kinds = {task.target_kind for task in tasks}
    named = list(LOSSES) if config.candidates is None else list(config.candidates)
    offered = [name for name in named if LOSSES[name].target_kind in kinds]
    if not config.relational:
        offered = [name for name in offered if not LOSSES[name].relational]
    if candidates == "reference":
        offered = []
    for task in tasks:
        if LOSSES[task.reference].target_kind != task.target_kind:
            raise ConfigError(
                f"Task {task.name!r}: its loss {task.reference!r} is for {LOSSES[task.reference].target_kind}, not "
                f"{task.target_kind}."
            )
        if config.far and candidates != "reference" and LOSSES[task.reference].relational:
            raise ConfigError(
                f"Task {task.name!r}: its loss {task.reference!r} works on pairs of samples, which a look ahead "
                f"cannot compare others with. Set loss.horizon=1."
            )
    return sorted({*offered, *(task.reference for task in tasks)})


BALANCED = 2.0
"""Samples of a task's most frequent class over those of its rarest, below which its priors are taken as even."""


def suits(loss: Loss, task: TaskSpec, named: bool) -> bool:
    """Whether a loss is offered to a task: of its target kind, and no correction of priors that are even anyway.

    Where classes are about as frequent, what a loss makes of their counts is chance, which the small query split shares
    and rewards. ``named``: the losses were chosen by hand, and all of them are offered.

    >>> task = TaskSpec("TALK", "classification", "cross_entropy", torch.tensor([90.0, 100.0]))
    >>> suits(LOSSES["logit_adjusted_1"], task, named=False), suits(LOSSES["mae"], task, named=False)
    (False, True)
    """
    if loss.target_kind != task.target_kind:
        return False
    if named or task.class_counts is None or "class_counts" not in loss.needs:
        return True
    return bool(task.class_counts.max() >= BALANCED * task.class_counts.min())


def spread(first: int, fitting: Sequence[int], losses: Sequence[Loss], k: int) -> list[int]:
    """k losses that look at a task in different ways: the reference, then always the one farthest from those chosen."""
    vectors = torch.stack([geometry(losses[i]) for i in fitting])
    chosen = [list(fitting).index(first)]
    distance = (vectors - vectors[chosen[0]]).norm(dim=1)
    while len(chosen) < k:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (vectors - vectors[chosen[-1]]).norm(dim=1))
    return sorted(fitting[i] for i in chosen)
