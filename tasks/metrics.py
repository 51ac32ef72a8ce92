"""Metrics: scores of a task on a whole split, through scikit-learn and scipy; one of them chooses the epoch."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.registry import Registry
from lossrag.tasks.suite import Task

Array = NDArray[Any]
Function = Callable[[Array, Array], float]
"""(targets, outputs) -> score. Of a classification classes (n,) and probabilities (n, K); of a regression values (n, K)
of both, in the units of the data."""
Kind = Literal["classification", "regression"]


@dataclass(frozen=True)
class Metric:
    """A score of tasks of one kind. higher: more is better; else it is an error, 0 at best.

    two_classes: it is about the second of two classes, the positive one, and nothing else.
    standardised: it reads values as they were trained on, not in the units of the data.
    """

    name: str
    kind: Kind
    function: Function
    higher: bool = True
    two_classes: bool = False
    standardised: bool = False

    def fits(self, task: Task) -> bool:
        """True where the task has such a score."""
        return task.kind == self.kind and (not self.two_classes or task.outputs == 2)

    def score(self, task: Task, logits: Tensor, targets: Tensor) -> float:
        """The score of n labelled rows, from logits (n, K) and targets (n,) or (n, K); 0 where it is no number.

        Raises ConfigError for a function that fails, and for an error that is no finite number: 0 would be perfect.
        """
        logits, targets = logits.detach().double().cpu(), targets.cpu()
        if task.kind == "classification":
            truth, outputs = targets.numpy(), torch.softmax(logits, dim=1).numpy()
        else:
            mean, scale = (torch.tensor(own, dtype=torch.float64) for own in (task.mean, task.scale))
            values = targets.double(), logits
            if task.scale and not self.standardised:
                values = values[0] * scale + mean, values[1] * scale + mean
            truth, outputs = (own.numpy() for own in values)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of scores that are not defined, which are 0
                value = float(self.function(truth, outputs))
        except Exception as error:  # whatever a function of the user's own may raise
            raise ConfigError(
                f"The metric {self.name!r} of {task.name} fails ({type(error).__name__}: {error})."
            ) from error
        if not np.isfinite(value) and not self.higher:
            raise ConfigError(
                f"The metric {self.name!r} of {task.name} gives {value}: an error must be a finite number."
            )
        return value if np.isfinite(value) else 0.0

    def worth(self, task: Task, score: float) -> float:
        """The score in (-1, 1], more being better, so that none of a mean decides for all.

        An error counts as 1 - error / spread of the values; what is below 0, without bound, as x / (1 - x).

        >>> Metric("r2", "regression", lambda y, z: 0.0).worth(Task("t", "regression", 1), -299.0)
        -0.9966666666666667
        """
        spread = float(np.mean(task.scale)) if task.scale else 1.0
        value = score if self.higher else 1 - score / spread
        return value if value >= 0 else value / (1 - value)


METRICS: Registry[Metric] = Registry("metric")
"""All metrics by name; add your own with :func:`register_metric`."""


def register_metric(
    name: str, *, kind: Kind, higher: bool = True, two_classes: bool = False, standardised: bool = False
) -> Callable[[Function], Function]:
    """Decorator that puts a function ``(targets, outputs) -> float`` among METRICS; see :data:`Function`.

    >>> @register_metric("within_one", kind="regression")
    ... def within_one(targets, outputs):
    ...     return float((abs(targets - outputs) <= 1).mean())
    >>> METRICS.remove("within_one").higher
    True
    """
    if kind not in ("classification", "regression"):
        raise ConfigError(f"Metric {name!r}: kind is classification or regression, not {kind!r}.")

    def add(function: Function) -> Function:
        METRICS.add(name, Metric(name, kind, function, higher, two_classes, standardised))
        return function

    return add


def check_metric(where: str, name: str, task: Task) -> None:
    """Raise ConfigError, naming ``where`` it was said, unless the task has a score of this name."""
    if not METRICS[name].fits(task):
        fitting = ", ".join(own for own, metric in METRICS.items() if metric.fits(task))
        classes = f" of {task.outputs} classes" if task.kind == "classification" else ""
        raise ConfigError(f"{where}: {name} is no score of {task.name}, a {task.kind}{classes}: choose from {fitting}")


def _scores() -> Any:
    # imported when needed: it takes as long as importing torch
    return importlib.import_module("sklearn.metrics")


@register_metric("accuracy", kind="classification")
def accuracy(targets: Array, outputs: Array) -> float:
    """Share of the rows whose most probable class is theirs."""
    return float(_scores().accuracy_score(targets, outputs.argmax(axis=1)))


@register_metric("macro_accuracy", kind="classification")
def macro_accuracy(targets: Array, outputs: Array) -> float:
    """Mean over the classes of the accuracy on each."""
    return float(_scores().balanced_accuracy_score(targets, outputs.argmax(axis=1)))


@register_metric("f1", kind="classification")
def f1(targets: Array, outputs: Array) -> float:
    """F1 of the positive class of two, the second; of more classes the mean over them."""
    average = "binary" if outputs.shape[1] == 2 else "macro"
    return float(_scores().f1_score(targets, outputs.argmax(axis=1), average=average))


@register_metric("roc_auc", kind="classification")
def roc_auc(targets: Array, outputs: Array) -> float:
    """Area under the ROC curve; of more than two classes the mean over each against the rest."""
    if outputs.shape[1] == 2:
        return float(_scores().roc_auc_score(targets, outputs[:, 1]))
    return float(_scores().roc_auc_score(targets, outputs, multi_class="ovr", labels=np.arange(outputs.shape[1])))


@register_metric("average_precision", kind="classification", two_classes=True)
def average_precision(targets: Array, outputs: Array) -> float:
    """Average precision of the positive class, the second."""
    return float(_scores().average_precision_score(targets, outputs[:, 1]))


@register_metric("r2", kind="regression", standardised=True)
def r2(targets: Array, outputs: Array) -> float:
    """Coefficient of determination: 1 is perfect, 0 the mean; of several outputs over the squares of all."""
    return float(_scores().r2_score(targets, outputs, multioutput="variance_weighted"))


@register_metric("mae", kind="regression", higher=False)
def mae(targets: Array, outputs: Array) -> float:
    """Mean absolute error, in the units of the data."""
    return float(_scores().mean_absolute_error(targets, outputs))


@register_metric("rmse", kind="regression", higher=False)
def rmse(targets: Array, outputs: Array) -> float:
    """Root of the mean squared error, in the units of the data."""
    return float(_scores().root_mean_squared_error(targets, outputs))


@register_metric("spearman", kind="regression")
def spearman(targets: Array, outputs: Array) -> float:
    """Spearman's rank correlation; of several outputs their mean."""
    correlation = importlib.import_module("scipy.stats").spearmanr
    pairs = zip(targets.T, outputs.T, strict=True)
    return float(np.mean([correlation(truth, value).statistic for truth, value in pairs]))
