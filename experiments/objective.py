"""The losses of one batch, and the scores that come off the same logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.task_groups import segment_means
from lossbank import Loss
from tasks import Task


def metric_name(task: Task) -> str:
    """``accuracy`` for classification, ``r2`` (coefficient of determination) for regression."""
    return "accuracy" if task.kind == "classification" else "r2"


def score(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Accuracy in [0, 1], or R^2 in (-inf, 1]; a scalar."""
    if task.kind == "classification":
        return _hits(logits, targets).mean()
    residual = (logits - targets).double().square().sum()
    spread = (targets - targets.mean(dim=0)).double().square().sum()
    return 1 - residual / spread.clamp(min=torch.finfo(torch.float64).tiny)


def _hits(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == targets).to(torch.float64)


@dataclass(frozen=True)
class BatchObjective:
    """``losses[t]`` of task t on ``targets[t]`` (B_t, ...); collects the tasks' scores without reading the device."""

    tasks: Sequence[Task]
    losses: Sequence[Loss]
    targets: Sequence[Tensor]
    _scores: dict[int, Tensor] = field(default_factory=dict)

    def one(self, task: int, logits: Tensor) -> Tensor:
        """The scalar loss of a task from its logits (B, C)."""
        with torch.no_grad():
            self._scores[task] = score(self.tasks[task], logits, self.targets[task]).view(1)
        return self.losses[task](logits, self.targets[task]).mean()

    def alike(self, tasks: range) -> bool:
        """Whether they have the same loss, kind and number of outputs."""
        return len({(self.losses[t].name, self.tasks[t].kind, self.tasks[t].outputs) for t in tasks}) == 1

    def many(self, tasks: range, logits: Tensor, sizes: Sequence[int]) -> Tensor:
        """The losses (r,) of tasks that are alike, from their logits (sum of sizes, C), task after task."""
        targets = torch.cat([self.targets[t] for t in tasks])
        with torch.no_grad():
            if self.tasks[tasks.start].kind == "classification":
                self._scores[tasks.start] = segment_means(_hits(logits, targets), sizes)
            else:
                parts = torch.split(logits, list(sizes))
                scores = [score(self.tasks[t], part, self.targets[t]) for t, part in zip(tasks, parts, strict=True)]
                self._scores[tasks.start] = torch.stack(scores)
        return segment_means(self.losses[tasks.start](logits, targets), sizes)

    def scores(self) -> Tensor:
        """Scores (T,) in task order."""
        return torch.cat([self._scores[start] for start in sorted(self._scores)])
