"""A suite, a model and losses put together: closures for the step, and the evaluation of a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.config.schema import LossConfig, OuterConfig
from experiments.task_groups import table_rows, task_losses
from lossbank import LOSSES, Loss
from models import MultiTaskModel
from tasks import Suite, Task, ordered_batches
from weighting import Losses

EVALUATION_ROWS = 512
"""Rows per forward pass when a whole split is evaluated."""


@dataclass
class Meter:
    """Collects each task's score on one batch, without reading the device."""

    scores: dict[int, Tensor] = field(default_factory=dict)

    def stacked(self) -> Tensor:
        """Scores (T,) in task order."""
        return torch.stack([self.scores[t] for t in sorted(self.scores)])


@dataclass(frozen=True)
class Evaluation:
    """Loss and score of every task on a whole split, (T,) floats on the CPU, in float64."""

    losses: Tensor
    scores: Tensor


def metric_name(task: Task) -> str:
    """``accuracy`` for classification, ``r2`` (coefficient of determination) for regression."""
    return "accuracy" if task.kind == "classification" else "r2"


def score(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Accuracy in [0, 1], or R^2 in (-inf, 1]; a scalar."""
    if task.kind == "classification":
        return (logits.argmax(dim=1) == targets).to(torch.float64).mean()
    residual = (logits - targets).double().square().sum()
    spread = (targets - targets.mean(dim=0)).double().square().sum()
    return 1 - residual / spread.clamp(min=torch.finfo(torch.float64).tiny)


@dataclass(frozen=True)
class Problem:
    """What is trained: ``inner[t]`` and ``outer[t]`` are the losses of task t in training and on the query batch."""

    suite: Suite
    model: MultiTaskModel
    inner: tuple[Loss, ...]
    outer: tuple[Loss, ...]
    device: torch.device

    @classmethod
    def create(
        cls, suite: Suite, model: MultiTaskModel, loss: LossConfig, outer: OuterConfig, device: torch.device
    ) -> Problem:
        """Look the losses up by name; an outer loss that is not set is the training loss."""
        inner = tuple(LOSSES[getattr(loss, task.kind)] for task in suite.tasks)
        query = tuple(LOSSES[getattr(outer, task.kind) or getattr(loss, task.kind)] for task in suite.tasks)
        return cls(suite, model.to(device), inner, query, device)

    def trained_rows(self, index: Sequence[Tensor]) -> Tensor | None:
        """The rows of a trained word table that a support batch reads; None where there is no such table."""
        if self.suite.shared_input:
            return None
        examples = self.suite.splits["support"]
        return table_rows(
            self.model, [e.inputs.gather(i).to(self.device) for e, i in zip(examples, index, strict=True)]
        )

    def batch_losses(
        self, split: str, index: Sequence[Tensor], *, by_task: bool, rows: Tensor | None = None
    ) -> tuple[Losses, Meter]:
        """Closures of the losses on one batch, ``index[t]`` (B,) being the rows of task t, and a meter they fill.

        by_task: the losses of tasks with their own inputs in passes that keep their gradients apart; else one
        closure with one forward pass for all tasks.
        rows: :meth:`trained_rows` of the step's support batch, with ``by_task``.
        """
        losses = self.outer if split == "query" else self.inner
        examples = self.suite.splits[split]
        targets = [e.targets[i].to(self.device) for e, i in zip(examples, index, strict=True)]
        meter = Meter()

        def finish(t: int, logits: Tensor) -> Tensor:
            with torch.no_grad():
                meter.scores[t] = score(self.suite.tasks[t], logits, targets[t])
            return losses[t](logits, targets[t]).mean()

        if self.suite.shared_input:
            shared = examples[0].inputs.gather(index[0]).to(self.device)
            return lambda: self._all(finish, self.model.forward_shared(shared)), meter
        inputs = [e.inputs.gather(i).to(self.device) for e, i in zip(examples, index, strict=True)]
        if not by_task:
            return lambda: self._all(finish, self.model.forward_joint(inputs)), meter
        return task_losses(self.model, inputs, finish, rows), meter

    @staticmethod
    def _all(finish: Callable[[int, Tensor], Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
        return [finish(t, values) for t, values in enumerate(logits)]

    def evaluate(self, split: str) -> Evaluation:
        """Mean loss and score of every task over a whole split, in evaluation mode."""
        self.model.eval()
        with torch.no_grad():
            results = [self._evaluate_task(split, t) for t in range(len(self.suite.tasks))]
        self.model.train()
        return Evaluation(torch.stack([r[0] for r in results]), torch.stack([r[1] for r in results]))

    def _evaluate_task(self, split: str, t: int) -> tuple[Tensor, Tensor]:
        examples = self.suite.splits[split][t]
        batches = ordered_batches(examples.inputs, EVALUATION_ROWS)
        logits = torch.cat([self.model(examples.inputs.gather(rows).to(self.device), t) for rows in batches])
        targets = examples.targets[torch.cat(batches)].to(self.device)
        loss = self.inner[t](logits, targets).double().mean()
        return loss.cpu(), score(self.suite.tasks[t], logits, targets).cpu()
