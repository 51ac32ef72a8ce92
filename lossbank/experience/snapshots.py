"""Snapshots of a task in training: its context under the reference loss of its kind, at set moments of the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.lossbank.experience.context import CONTEXT_NAMES, TaskSignals, context_vector
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.inputs import LossInputs

REFERENCES: Mapping[str, str] = {"classification": "cross_entropy", "regression": "squared_error"}
"""By kind of target the loss that all others are compared with."""
MOMENTS = (0.0, 0.02, 0.05, 0.15)
"""Shares of the steps after which trainings are looked at."""
ROWS = 256
"""Support rows, and query rows, that a task is looked at by, at most."""


@dataclass(frozen=True)
class Snapshot:
    """context: (C,). losses: (2,) mean reference losses on the support and on the query rows."""

    context: Tensor
    losses: Tensor


def moments_of(steps: int) -> dict[int, float]:
    """The moments of a training of so many steps, by the number of updates before them: none before moment 0, one at
    least before the others; of moments that fall on one update the earliest.

    >>> moments_of(360)
    {0: 0.0, 7: 0.02, 18: 0.05, 54: 0.15}
    >>> moments_of(20)
    {0: 0.0, 1: 0.02, 3: 0.15}
    """
    done = {max(1, round(share * steps)) if share else 0: share for share in reversed(MOMENTS)}
    return dict(sorted(done.items()))


def known(context: Tensor) -> Tensor:
    """A context (C,), no numbers where an entry is none: what is known in part is not asked with, or remembered."""
    return torch.where(context.isfinite().all(), context, float("nan"))


@torch.no_grad()
def snapshot(
    reference: Loss, support: LossInputs, query: LossInputs, progress: float, before: Tensor | None = None
) -> Snapshot:
    """The task as its rows that have a label show it in evaluation mode; ``before``: the losses of the snapshot before,
    if any. No numbers where either side has none."""
    support, query = support.present(), query.present()
    if not len(support.logits) or not len(query.logits):
        unknown = support.logits.new_full((2 + len(CONTEXT_NAMES),), float("nan"))
        return Snapshot(unknown[2:], unknown[:2])
    losses = torch.stack([reference(**vars(rows)).mean() for rows in (support, query)])
    signals = TaskSignals(
        support.logits,
        support.targets,
        query.logits,
        query.targets,
        reference.target_kind,
        losses[0],
        losses[1],
        support.features,
        query.features,
        None if before is None else before[0],
        None if before is None else before[1],
        support.class_counts,
        progress,
    )
    return Snapshot(context_vector(signals), losses)
