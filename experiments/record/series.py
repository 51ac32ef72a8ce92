"""Series of a run: one name per number, the same in metrics.jsonl and the figures; TensorBoard shows them under
:mod:`tags <lossrag.experiments.record.board_tags>` of its own.

The table of names in docs/tensorboard.md is held to this file by a test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lossrag.tasks import Task
from lossrag.weighting import StepRecord

Values = dict[str, float]
COMPOSITION = "composition/"
"""Beginning of the tags of shares: composition/TASK/LOSS."""
D_TAG = "hypergradient/D"
"""The one entry that is no number: a matrix in metrics.jsonl, a picture in TensorBoard."""


@dataclass(frozen=True)
class StepOutcome:
    """The record of a step, and the tasks' scores (T,) on its support batch and, with an outer problem, query batch.

    terms: what an adversarial model adds to training, (T,) by the names of their series. skipped: steps so far that
    were left out, as something in them was not finite.
    """

    record: StepRecord
    scores: Tensor
    query_scores: Tensor | None
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Loss and score of every task on a whole split, (T,) floats on the CPU, in float64, each score in its own metric.

    worths: the scores in (-1, 1], more being better (:meth:`lossrag.tasks.Metric.worth`).
    rows: of every task the targets and outputs of its n labelled rows, in the order of the split: classes (n,) int32,
        or values (n, K) float32 as they are trained on.
    """

    losses: Tensor
    scores: Tensor
    worths: Tensor
    rows: tuple[tuple[Tensor, Tensor], ...] = ()

    @property
    def score_mean(self) -> float:
        """The mean score: over all tasks, of what their scores are worth. It chooses the epoch."""
        return float(self.worths.mean())


def step_values(outcome: StepOutcome, tasks: Sequence[Task], optimizer: torch.optim.Optimizer) -> Values:
    """The series of one step; ``optimizer`` is as that step left it.

    One transfer from the device for all of them.
    """
    record = outcome.record
    names: list[str] = []
    tensors: list[Tensor] = []

    def put(pattern: str, values: Tensor | None) -> None:
        if values is not None:
            names.extend(pattern.format(metric=task.batch_metric, task=task.name) for task in tasks)
            tensors.append(values.double().cpu() if values.device.type == "mps" else values.double())

    put("support/loss/{task}", record.support_losses)
    put("support/{metric}/{task}", outcome.scores)
    put("query/loss/{task}", record.query_losses)
    put("query/{metric}/{task}", outcome.query_scores)
    put("weight/{task}", record.weights)
    put("lambda/{task}", record.lam)
    for name, term in outcome.terms.items():
        put(f"{name}/{{task}}", term)
    if record.gap is not None and record.iterations is not None:
        names += ["frank_wolfe/gap", "frank_wolfe/iterations"]
        tensors += [record.gap.double().view(1), record.iterations.double().view(1)]
    told = zip(names, torch.cat(tensors).tolist(), strict=True)
    # a task that is absent from the batch has no loss
    values = {name: value for name, value in told if not math.isnan(value)}
    if outcome.skipped:
        values["steps/skipped"] = float(outcome.skipped)
    return {**values, "optimizer/lr": float(optimizer.param_groups[0]["lr"])}


def split_values(split: str, evaluation: Evaluation, tasks: Sequence[Task]) -> Values:
    """The series of one evaluated split, with the mean score."""
    values: Values = {}
    for task, loss, score in zip(tasks, evaluation.losses.tolist(), evaluation.scores.tolist(), strict=True):
        values[f"{split}/loss/{task.name}"] = loss
        values[f"{split}/{task.metric}/{task.name}"] = score
    values[f"{split}/score_mean"] = evaluation.score_mean
    return values


def logged_shares(point: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By task the shares of its losses at one logged point."""
    shares: dict[str, dict[str, float]] = {}
    for tag, value in point.items():
        if tag.startswith(COMPOSITION):
            task, _, loss = tag.removeprefix(COMPOSITION).rpartition("/")
            shares.setdefault(task, {})[loss] = value
    return shares
