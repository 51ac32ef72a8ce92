"""Test rows of a run: confusion matrices of classifications, residuals of regressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossrag.experiments.report.reading import ReportedRun
from lossrag.experiments.trained.predictions import predicted
from lossrag.tasks import Task

MOST_CLASSES = 20
"""Classes up to which a matrix is shown whole."""
MOST_PAIRS = 20
"""Confusions that are listed where it is not."""
MOST_POINTS = 500
"""Rows of a chart of residuals, evenly out of all."""


@dataclass(frozen=True)
class Confusion:
    """Counts (K, K) of a task's test rows, by true class and by predicted class; ``labels`` are the K classes.

    pairs: (truth, prediction, rows) of the most frequent confusions, where there are too many classes for a matrix.
    """

    task: str
    labels: Sequence[str]
    counts: NDArray[np.int64]

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def right(self) -> int:
        return int(np.trace(self.counts))

    @property
    def whole(self) -> bool:
        return len(self.labels) <= MOST_CLASSES

    @property
    def cells(self) -> list[tuple[str, list[tuple[int, float]]]]:
        """By true class: every count, and its share of the rows of that class."""
        totals = self.counts.sum(axis=1, keepdims=True).clip(min=1)
        shares = self.counts / totals
        lines = zip(self.labels, self.counts.tolist(), shares.tolist(), strict=True)
        return [(label, list(zip(counts, own, strict=True))) for label, counts, own in lines]

    @property
    def pairs(self) -> list[tuple[str, str, int]]:
        """The most frequent confusions."""
        wrong = self.counts * (1 - np.eye(len(self.labels), dtype=np.int64))
        order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
        places = [divmod(int(place), len(self.labels)) for place in order]
        return [(self.labels[i], self.labels[j], int(wrong[i, j])) for i, j in places if wrong[i, j]]


@dataclass(frozen=True)
class Residuals:
    """Predictions minus true values of a task's output on its test rows, in the units of the data."""

    name: str
    truth: NDArray[np.float64]
    value: NDArray[np.float64]

    @property
    def figures(self) -> dict[str, str]:
        """What they come to, by name."""
        residual = self.value - self.truth
        low, middle, high = np.quantile(residual, [0.05, 0.5, 0.95])
        spread = self.truth.std()
        return {
            "rows": f"{len(residual):,}",
            "bias": f"{residual.mean():+.4g}",
            "mean absolute error": f"{np.abs(residual).mean():.4g}",
            "root mean squared error": f"{np.sqrt((residual**2).mean()):.4g}",
            "spread of the true values": f"{spread:.4g}",
            "5 %, 50 %, 95 % of the residuals": f"{low:+.4g}, {middle:+.4g}, {high:+.4g}",
        }

    @property
    def shown_truth(self) -> list[float]:
        return [float(value) for value in self.truth[:: self._every]]

    @property
    def shown_value(self) -> list[float]:
        return [float(value) for value in self.value[:: self._every]]

    @property
    def _every(self) -> int:
        return -(-len(self.truth) // MOST_POINTS)


def confusions(run: ReportedRun) -> list[Confusion]:
    """Of every classification of a run whose test rows are known."""
    found = []
    for name, (targets, outputs) in run.rows.items():
        task = run.tasks[name]
        if task.kind == "classification" and len(targets):
            counts = np.zeros((task.outputs, task.outputs), dtype=np.int64)
            np.add.at(counts, (targets.numpy(), outputs.numpy()), 1)
            found.append(Confusion(name, _labels(task), counts))
    return found


def _labels(task: Task) -> list[str]:
    known = len(task.labels) == task.outputs
    return [str(label) for label in task.labels] if known else [str(place) for place in range(task.outputs)]


def residuals(run: ReportedRun) -> list[Residuals]:
    """Of every output of every regression of a run whose test rows are known."""
    found = []
    for name, (targets, outputs) in run.rows.items():
        task = run.tasks[name]
        if task.kind != "regression" or not len(targets):
            continue
        truth, value = (predicted(task, own.double()).numpy() for own in (targets, outputs))
        for place in range(task.outputs):
            whole = name if task.outputs == 1 else f"{name}, output {place + 1}"
            found.append(Residuals(whole, truth[:, place], value[:, place]))
    return found
