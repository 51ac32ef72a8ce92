"""How well a task is done: the figure that epochs are chosen by and tables show."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks import Task


def metric_name(task: Task) -> str:
    """``accuracy`` or ``macro_accuracy`` for classification, ``r2`` (coefficient of determination) for regression."""
    if task.kind == "classification":
        return "macro_accuracy" if task.macro else "accuracy"
    return "r2"


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
    found = torch.bincount(targets, weights=hits(logits, targets), minlength=logits.shape[1])
    return (found / counts.clamp(min=1)).sum() / (counts > 0).sum()


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """1.0 where the largest logit is that of the target's class, else 0.0; (B,) in float64."""
    return (logits.argmax(dim=1) == targets).to(torch.float64)
