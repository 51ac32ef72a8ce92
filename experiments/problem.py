"""A suite, a model and losses put together: closures for the step, and the evaluation of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from experiments.config.schema import LossConfig, OuterConfig
from experiments.objective import BatchObjective, score
from experiments.task_groups import joint_losses, single_losses, table_rows, task_losses
from lossbank import LOSSES, Loss
from models import MultiTaskModel
from tasks import Suite, ordered_batches
from weighting import Losses

EVALUATION_ROWS = 512
"""Rows per forward pass when a whole split is evaluated."""


@dataclass(frozen=True)
class Evaluation:
    """Loss and score of every task on a whole split, (T,) floats on the CPU, in float64."""

    losses: Tensor
    scores: Tensor


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
        self, split: str, index: Sequence[Tensor], *, route: str, rows: Tensor | None = None
    ) -> tuple[Losses, BatchObjective]:
        """Closures of the losses on one batch, ``index[t]`` (B,) being the rows of task t, and the scores they fill in.

        route: how tasks with their own inputs go through the model: ``joint``, one pass for all; ``groups``, passes
        that keep their gradients apart; ``single``, a pass for each.
        rows: :meth:`trained_rows` of the step's support batch, for ``groups``.
        """
        losses = self.outer if split == "query" else self.inner
        examples = self.suite.splits[split]
        targets = [e.targets[i].to(self.device) for e, i in zip(examples, index, strict=True)]
        objective = BatchObjective(self.suite.tasks, losses, targets)
        if self.suite.shared_input:
            shared = examples[0].inputs.gather(index[0]).to(self.device)
            return partial(self._shared, objective, shared), objective
        inputs = [e.inputs.gather(i).to(self.device) for e, i in zip(examples, index, strict=True)]
        if route == "joint":
            return joint_losses(self.model, inputs, objective), objective
        if route == "single":
            return single_losses(self.model, inputs, objective), objective
        return task_losses(self.model, inputs, objective, rows), objective

    def _shared(self, objective: BatchObjective, inputs: Tensor) -> list[Tensor]:
        return [objective.one(t, logits) for t, logits in enumerate(self.model.forward_shared(inputs))]

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
