"""Objective of one batch: its losses, and the scores that come off the same logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lossrag.experiments.run.task_groups import segment_means
from lossrag.lossbank import Mixture, joined_mixture, labelled, labelled_mean
from lossrag.lossbank.library.inputs import Labelled
from lossrag.models import Outputs
from lossrag.tasks import Task


def score(task: Task, logits: Tensor, targets: Tensor, known: Tensor | None = None) -> Tensor:
    """Accuracy in [0, 1], or R^2 in (-inf, 1]; a scalar. ``known``: (B,) booleans, the rows that have a label, None for
    all; where there is none the score is 0."""
    if task.kind == "classification":
        if task.batch_metric == "macro_accuracy":
            return macro_accuracy(logits, targets, known)
        return hits(logits, targets).mean() if known is None else labelled_mean(hits(logits, targets), known)
    if known is None:
        mean = targets.mean(dim=0)
    else:
        rows = known[:, None]
        mean = targets.masked_fill(~rows, 0).sum(dim=0) / known.sum().clamp(min=1)
        # a row without a label is right, and like the mean
        logits, targets = torch.where(rows, logits, mean), torch.where(rows, targets, mean)
    residual = (logits - targets).double().square().sum()
    spread = (targets - mean).double().square().sum()
    bounds = torch.finfo(torch.float64)
    value = (1 - residual / spread.clamp(min=bounds.tiny)).clamp(min=bounds.min)  # of a constant it is far below 0
    return value if known is None else value * known.any()


def macro_accuracy(logits: Tensor, targets: Tensor, known: Tensor | None = None) -> Tensor:
    """The mean over the classes that occur of the accuracy on each: rare classes count as much as frequent ones.

    >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> float(macro_accuracy(logits, torch.tensor([0, 0, 1, 1])))  # class 0: 1, class 1: 1/2
    0.75
    """
    counts, places = class_samples(targets, logits.shape[1], known)
    right = torch.bincount(places, weights=hits(logits, targets), minlength=logits.shape[1])
    return (right / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def class_samples(targets: Tensor, classes: int, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows (K,) of every class that have a label, and the class (B,) of each row, 0 for one that has none."""
    if known is None:
        return torch.bincount(targets, minlength=classes), targets
    places = targets.masked_fill(~known, 0)
    return torch.bincount(places, weights=known.double(), minlength=classes), places


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """1.0 where the largest logit is that of the target's class, else 0.0; (B,) in float64."""
    return (logits.argmax(dim=1) == targets).to(torch.float64)


def _of_labelled(losses: Tensor, there: Tensor) -> Tensor:
    """Losses, no numbers and without a gradient where no row had a label: such a task sits its step out."""
    return torch.where(there, losses, float("nan"))


@dataclass(frozen=True)
class BatchObjective:
    """``mixtures[t]`` of task t on ``targets[t]`` (B_t, ...); collects the tasks' scores without reading the device.

    by_class: the loss of a task is the mean over the classes of its batch of the mean of each, not that over samples.
    keep_features: remember the features with their graph, for :meth:`representation`.
    complete: all rows are known to have a label; else the losses and scores are over those that do.
    """

    tasks: Sequence[Task]
    mixtures: Sequence[Mixture]
    targets: Sequence[Tensor]
    by_class: bool = False
    keep_features: bool = False
    complete: bool = False
    _scores: dict[int, Tensor] = field(default_factory=dict)
    _features: dict[int, Tensor] = field(default_factory=dict)

    def one(self, task: int, outputs: Outputs) -> Tensor:
        """The scalar loss of a task from its outputs for B rows."""
        targets = self.targets[task]
        known = None if self.complete else labelled(targets)
        self._keep(range(task, task + 1), outputs)
        with torch.no_grad():
            self._scores[task] = score(self.tasks[task], outputs.logits, targets, known).view(1)
        return self._mean(task, self.mixtures[task](outputs.logits, targets, outputs.features, self._told), known)

    @property
    def _told(self) -> Labelled:
        return True if self.complete else None

    def _mean(self, task: int, values: Tensor, known: Tensor | None) -> Tensor:
        if not self.by_class or self.tasks[task].kind != "classification":
            return values.mean() if known is None else _of_labelled(labelled_mean(values, known), known.any())
        counts, places = class_samples(self.targets[task], self.tasks[task].outputs, known)
        share = 1 / counts.clamp(min=1)[places] / (counts > 0).sum().clamp(min=1)
        total = (values * share.to(values.dtype)).sum()
        return total if known is None else _of_labelled(total, known.any())

    def alike(self, tasks: range) -> bool:
        """True where they have the same kind and number of outputs, and losses that work row by row."""
        same = len({(self.tasks[t].kind, self.tasks[t].outputs) for t in tasks}) == 1
        return same and not self.by_class and all(self.mixtures[t].row_by_row for t in tasks)

    def many(self, tasks: range, outputs: Outputs, sizes: Sequence[int]) -> Tensor:
        """The losses (r,) of tasks that are alike, from the outputs for all their rows, task after task."""
        logits, targets = outputs.logits, torch.cat([self.targets[t] for t in tasks])
        known = None if self.complete else labelled(targets)
        self._keep(tasks, outputs)
        with torch.no_grad():
            if all(self.tasks[t].batch_metric == "accuracy" for t in tasks):
                self._scores[tasks.start] = segment_means(hits(logits, targets), sizes, known)
            else:
                parts = torch.split(logits, list(sizes))
                rows = [None] * len(parts) if known is None else torch.split(known, list(sizes))
                scores = [
                    score(self.tasks[t], part, self.targets[t], own)
                    for t, part, own in zip(tasks, parts, rows, strict=True)
                ]
                self._scores[tasks.start] = torch.stack(scores)
        lengths = torch.tensor(list(sizes)).to(logits.device, non_blocking=True)
        task = torch.arange(len(sizes), device=logits.device).repeat_interleave(lengths, output_size=len(logits))
        values = joined_mixture([self.mixtures[t] for t in tasks], logits, targets, task, self._told)
        means = segment_means(values, sizes, known)
        if known is None:
            return means
        counts = torch.zeros(len(sizes), device=logits.device).index_add_(0, task, known.float())
        return _of_labelled(means, counts > 0)

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
        """Scores (T,) in task order, no numbers for tasks whose losses were not computed."""
        parts: list[Tensor] = []
        done = 0
        for start in [*sorted(self._scores), len(self.tasks)]:
            if start > done:
                parts.append(next(iter(self._scores.values())).new_full((start - done,), float("nan")))
            if start in self._scores:
                parts.append(self._scores[start])
                done = start + len(parts[-1])
        return torch.cat(parts)
