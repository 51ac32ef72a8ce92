"""Objective of one batch: its losses, and the scores that come off the same logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lossrag.experiments.run.task_groups import segment_means
from lossrag.lossbank import Mixture, joined_mixture
from lossrag.models import Outputs
from lossrag.tasks import Task


def score(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    """Accuracy in [0, 1], or R^2 in (-inf, 1]; a scalar."""
    if task.kind == "classification":
        return macro_accuracy(logits, targets) if task.macro else hits(logits, targets).mean()
    residual = (logits - targets).double().square().sum()
    spread = (targets - targets.mean(dim=0)).double().square().sum()
    return 1 - residual / spread.clamp(min=torch.finfo(torch.float64).tiny)


def macro_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over the classes that occur of the accuracy on each: rare classes count as much as frequent ones.

    >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> float(macro_accuracy(logits, torch.tensor([0, 0, 1, 1])))  # class 0: 1, class 1: 1/2
    0.75
    """
    counts = torch.bincount(targets, minlength=logits.shape[1])
    right = torch.bincount(targets, weights=hits(logits, targets), minlength=logits.shape[1])
    return (right / counts.clamp(min=1)).sum() / (counts > 0).sum()


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """1.0 where the largest logit is that of the target's class, else 0.0; (B,) in float64."""
    return (logits.argmax(dim=1) == targets).to(torch.float64)


@dataclass(frozen=True)
class BatchObjective:
    """``mixtures[t]`` of task t on ``targets[t]`` (B_t, ...); collects the tasks' scores without reading the device.

    by_class: the loss of a task is the mean over the classes of its batch of the mean of each, not that over samples.
    keep_features: remember the features with their graph, for :meth:`representation`.
    """

    tasks: Sequence[Task]
    mixtures: Sequence[Mixture]
    targets: Sequence[Tensor]
    by_class: bool = False
    keep_features: bool = False
    _scores: dict[int, Tensor] = field(default_factory=dict)
    _features: dict[int, Tensor] = field(default_factory=dict)

    def one(self, task: int, outputs: Outputs) -> Tensor:
        """The scalar loss of a task from its outputs for B rows."""
        targets = self.targets[task]
        self._keep(range(task, task + 1), outputs)
        with torch.no_grad():
            self._scores[task] = score(self.tasks[task], outputs.logits, targets).view(1)
        return self._mean(task, self.mixtures[task](outputs.logits, targets, outputs.features))

    def _mean(self, task: int, values: Tensor) -> Tensor:
        if not self.by_class or self.tasks[task].kind != "classification":
            return values.mean()
        counts = torch.bincount(self.targets[task], minlength=self.tasks[task].outputs)
        share = 1 / counts.clamp(min=1)[self.targets[task]] / (counts > 0).sum()
        return (values * share.to(values.dtype)).sum()

    def alike(self, tasks: range) -> bool:
        """True where they have the same kind and number of outputs, and losses that work row by row."""
        same = len({(self.tasks[t].kind, self.tasks[t].outputs) for t in tasks}) == 1
        return same and not self.by_class and all(self.mixtures[t].row_by_row for t in tasks)

    def many(self, tasks: range, outputs: Outputs, sizes: Sequence[int]) -> Tensor:
        """The losses (r,) of tasks that are alike, from the outputs for all their rows, task after task."""
        logits, targets = outputs.logits, torch.cat([self.targets[t] for t in tasks])
        self._keep(tasks, outputs)
        with torch.no_grad():
            if all(self.tasks[t].metric == "accuracy" for t in tasks):
                self._scores[tasks.start] = segment_means(hits(logits, targets), sizes)
            else:
                parts = torch.split(logits, list(sizes))
                scores = [score(self.tasks[t], part, self.targets[t]) for t, part in zip(tasks, parts, strict=True)]
                self._scores[tasks.start] = torch.stack(scores)
        lengths = torch.tensor(list(sizes), device=logits.device)
        task = torch.arange(len(sizes), device=logits.device).repeat_interleave(lengths, output_size=len(logits))
        values = joined_mixture([self.mixtures[t] for t in tasks], logits, targets, task)
        return segment_means(values, sizes)

    def _keep(self, tasks: range, outputs: Outputs) -> None:
        if self.keep_features:
            self._features.update(dict.fromkeys(tasks, outputs.features))

    def representation(self) -> list[Tensor]:
        """The features that each task's head read, with ``keep_features``: (B, F) of its own rows or of all of them,
        the same tensor for tasks whose losses came from one."""
        return [self._features[task] for task in sorted(self._features)]

    def features(self) -> list[Tensor] | None:
        """With ``keep_features``: what the head of each task read for its own rows (B_t, F), without a graph; None
        before the losses of all tasks were computed."""
        if len(self._features) < len(self.tasks):
            return None
        parts: list[Tensor] = []
        start = 0
        for t, targets in enumerate(self.targets):
            joined = self._features[t].detach()
            start = start if t and self._features[t] is self._features[t - 1] and len(joined) > len(targets) else 0
            parts.append(joined[start : start + len(targets)])
            start += len(targets)
        return parts

    def scores(self) -> Tensor:
        """Scores (T,) in task order."""
        return torch.cat([self._scores[start] for start in sorted(self._scores)])
