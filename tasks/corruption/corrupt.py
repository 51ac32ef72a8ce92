"""Seeded corruption of training labels, for research on what helps against it.

Only the support and query splits change; validation and test stay as they were given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lossrag.errors import ConfigError, did_you_mean
from lossrag.labels import IGNORED
from lossrag.streams import Stream, check_seed, generator
from lossrag.tasks.corruption.settings import DEFAULT_FACTOR, Corruption
from lossrag.tasks.suite import SPLITS, Examples, Suite, Task, select

CORRUPTED = ("support", "query")
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CorruptionReport:
    """The changes to the n rows of a task in a split, of which m were kept.

    ``kept`` (n,) and ``changed`` (m,) are masks of the rows that stayed and of those whose label is another one
    now; ``before`` and ``after`` (K,) count the labels of every class. Rows without a label stay as they are.
    """

    kept: Mask
    changed: Mask
    before: Labels
    after: Labels

    @property
    def rate(self) -> float:
        """The share of the kept labels that changed."""
        return float(self.changed.sum() / self.after.sum())


def corrupt(
    suite: Suite, corruptions: Mapping[str, Corruption], seed: int
) -> tuple[Suite, dict[str, dict[str, CorruptionReport]]]:
    """The suite with the support and query splits of the named tasks corrupted, and a report by task and split.

    A row's fate depends on the seed, the task's name, the split and the row's place in it alone: not on other
    tasks or their settings. The rows that a lower rate changes or a smaller share keeps are among those of
    the greater. Corrupt before :func:`pool_query`: a query row that it copied would get a label of its own.

    Raises ConfigError for an unknown task, one of regression, an unknown class, numbers that do not fit its
    classes, an imbalance where tasks share their rows, noise that leaves a class without a row, or a negative seed.

    >>> from lossrag.tasks import load_suite
    >>> suite, reports = corrupt(load_suite("digits"), {"parity": Corruption("pair", 1.0)}, seed=0)
    >>> reports["parity"]["query"].rate
    1.0
    """
    check_seed(seed)
    for name in corruptions:
        if name not in suite.task_names:
            known = did_you_mean(name, suite.task_names)
            raise ConfigError(f"A corruption is for {name!r}, which is no task of {suite.name!r}: {known}")
    splits = {split: list(suite.splits[split]) for split in CORRUPTED}
    reports: dict[str, dict[str, CorruptionReport]] = {}
    for place, task in enumerate(suite.tasks):
        if task.name not in corruptions:
            continue
        corruption = corruptions[task.name]
        plan = _Plan(task, corruption)
        if corruption.imbalance is not None and suite.shared_input and len(suite.tasks) > 1:
            raise plan.error(
                f"the tasks of {suite.name!r} share their rows, so an imbalance of one would drop rows of all: use "
                "noise, or a suite whose tasks have inputs of their own."
            )
        reports[task.name] = {}
        for split in CORRUPTED:
            splits[split][place], reports[task.name][split] = plan.apply(splits[split][place], split, seed)
    if not reports:
        return suite, reports
    words = "; ".join(f"{name} with {corruptions[name].describe()}" for name in reports)
    changed = {**suite.splits, **{split: tuple(examples) for split, examples in splits.items()}}
    return replace(suite, splits=changed, edition=f"{suite.edition}; training labels corrupted: {words}"), reports


class _Plan:
    """A corruption fitted to the K classes of its task.

    Raises ConfigError when it does not fit: a regression task, other numbers of classes, unknown classes.
    """

    def __init__(self, task: Task, corruption: Corruption) -> None:
        self.task, self.corruption, self.classes = task, corruption, task.outputs
        if task.kind != "classification":
            raise self.error("it is a regression task and has no classes to confuse: leave it out.")
        if self.classes < 2:
            raise self.error("it has one class, which leaves nothing to confuse: leave it out.")
        self.shares = self._shares()
        self.targets = self._targets()
        self.probabilities = self._probabilities()

    def apply(self, examples: Examples, split: str, seed: int) -> tuple[Examples, CorruptionReport]:
        """The examples of ``split`` corrupted. Raises ConfigError when the noise leaves a class without a row."""
        truth = examples.targets.numpy()
        name = int.from_bytes(hashlib.sha256(self.task.name.encode()).digest()[:8], "big")
        # Every row draws all its numbers, whatever they are used for: settings do not shift each other's.
        rng = generator(seed, Stream.CORRUPTION, SPLITS.index(split), name)
        place, flip, other = rng.random((len(truth), 3)).T
        kept = self._keep(truth, place)
        missing = truth == IGNORED
        labels = np.where(missing, IGNORED, self._label(np.where(missing, 0, truth), flip, other))[kept]
        before, after = (np.bincount(column[column != IGNORED], minlength=self.classes) for column in (truth, labels))
        if not after.all():
            lost = int(np.flatnonzero(after == 0)[0])
            raise self.error(
                f"the noise leaves class {self._name(lost)} without a row in the {split} split: lower the rate, "
                "keep more rows, or take another seed."
            )
        report = CorruptionReport(kept, labels != truth[kept], before, after)
        inputs = examples.inputs if kept.all() else select(examples.inputs, torch.from_numpy(np.flatnonzero(kept)))
        return Examples(inputs, torch.from_numpy(labels)), report

    def _keep(self, truth: Labels, place: NDArray[np.float64]) -> Mask:
        kept = np.ones(len(truth), dtype=np.bool_)
        for label, share in enumerate(self.shares or ()):
            rows = np.flatnonzero(truth == label)
            kept[rows[np.argsort(place[rows], kind="stable")[max(1, round(share * len(rows))) :]]] = False
        return kept

    def _label(self, truth: Labels, flip: NDArray[np.float64], other: NDArray[np.float64]) -> Labels:
        rate = self.corruption.rate or 0.0
        if self.probabilities is not None:
            bounds = self.probabilities.cumsum(axis=1)
            # By the last bound, as a row may sum to a little less than 1.
            chosen: Labels = (flip[:, None] >= (bounds / bounds[:, -1:])[truth]).sum(axis=1)
            return chosen
        if self.corruption.noise == "symmetric":
            # From 1: another class, never the same.
            step = 1 + np.minimum((other * (self.classes - 1)).astype(np.int64), self.classes - 2)
            wrong = (truth + step) % self.classes
        elif self.corruption.noise == "pair":
            wrong = (truth + 1) % self.classes
        else:
            wrong = self.targets[truth]
        return np.where(flip < rate, wrong, truth)

    def _shares(self) -> tuple[float, ...] | None:
        imbalance = self.corruption.imbalance
        if imbalance == "exponential":
            factor = self.corruption.factor or DEFAULT_FACTOR
            return tuple(factor ** (-label / (self.classes - 1)) for label in range(self.classes))
        if imbalance is not None and len(imbalance) != self.classes:
            raise self.error(f"the imbalance has {len(imbalance)} shares for {self.classes} classes: give each one.")
        return imbalance

    def _probabilities(self) -> NDArray[np.float64] | None:
        matrix = self.corruption.matrix
        if matrix is not None and len(matrix) != self.classes:
            raise self.error(f"the matrix has {len(matrix)} rows for {self.classes} classes: give each class one.")
        return None if matrix is None else np.array(matrix)

    def _targets(self) -> Labels:
        targets, seen = np.arange(self.classes), set()
        for pair in self.corruption.flips or ():
            old, new = (self._position(name) for name in pair)
            if old in seen or old == new:
                raise self.error(f"the transition of class {self._name(old)} comes twice or leads to itself.")
            seen.add(old)
            targets[old] = new
        return targets

    def _position(self, label: str | int) -> int:
        if isinstance(label, int):
            if not 0 <= label < self.classes:
                raise self.error(f"there is no class {label}: positions go from 0 to {self.classes - 1}.")
            return label
        if label not in self.task.labels:
            options = self.task.labels or [f"a position from 0 to {self.classes - 1}"]
            raise self.error(f"unknown class {label!r}: {did_you_mean(label, options)}")
        return self.task.labels.index(label)

    def _name(self, label: int) -> str:
        return repr(self.task.labels[label]) if self.task.labels else str(label)

    def error(self, reason: str) -> ConfigError:
        """The error of a corruption that does not fit the task."""
        return ConfigError(f"Corruption of {self.task.name}: {reason}")
