"""Groups of runs: one problem each, within it what differs but for the seed; means, intervals, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossrag.experiments.config.overrides import written
from lossrag.experiments.record.finished import by_method, varying
from lossrag.experiments.report.reading import ReportedRun
from lossrag.experiments.studies.statistics import differences, interval, mean_ranks

Interval = Mapping[str, Any]
"""mean, and half, the half width of a 95 % interval, None for a single run."""
UNIFORM = "Uniform"


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed, by seed.

    minus: the paired difference to the reference (pairs, mean, half, p_holm); None for itself, or without a pair.
    rank: among the groups, over tasks and the seeds that all of them have; None where there is no such seed.
    """

    label: str
    runs: tuple[ReportedRun, ...]
    minus: Interval | None = None
    rank: float | None = None

    @property
    def test(self) -> Interval:
        """Mean score on the test split."""
        return interval([float(run.run.summary["test_score_mean"]) for run in self.runs])

    @property
    def validation(self) -> Interval:
        """Mean score on the validation split, at the epochs that it chose."""
        return interval([float(run.run.summary["validation_score_mean"]) for run in self.runs])

    def task_test(self, task: str) -> Interval:
        """Test score of a task."""
        return interval([run.run.score(task) for run in self.runs])

    def task_validation(self, task: str) -> Interval | None:
        """Validation score of a task, None where it was not logged."""
        values = [run.validation[task] for run in self.runs if task in run.validation]
        return interval(values) if values else None

    @property
    def seeds(self) -> str:
        return ", ".join(str(run.run.seed) for run in self.runs)


@dataclass(frozen=True)
class Problem:
    """Groups on the same tasks, data and encoder; ``reference`` is the one that others are compared with.

    settings: by dotted key in which groups differ, the value of each of them as it is written on a command line.
    """

    title: str
    metrics: Mapping[str, str]
    errors: tuple[str, ...]
    groups: tuple[Group, ...]
    reference: str
    settings: Mapping[str, tuple[str, ...]]

    @property
    def runs(self) -> list[ReportedRun]:
        return [run for group in self.groups for run in group.runs]

    def best(self, values: Sequence[Interval | None], lower: bool = False) -> float | None:
        """The best mean of several, None where there is nothing to choose from."""
        means = [value["mean"] for value in values if value is not None]
        return None if len(means) < 2 or len(set(means)) < 2 else float(min(means) if lower else max(means))


def problems_of(runs: Sequence[ReportedRun], references: Sequence[str] = ()) -> list[Problem]:
    """Runs by problem; ``references`` are the names of rows that plans compare with."""
    parts: dict[tuple[str, ...], list[ReportedRun]] = {}
    for run in runs:
        key = (" · ".join(run.run.problem), *(f"{task} {metric}" for task, metric in run.metrics.items()))
        parts.setdefault(key, []).append(run)
    titles = [key[0] for key in parts]
    return [
        _problem(key[0] if titles.count(key[0]) == 1 else f"{key[0]}: {', '.join(own[0].metrics)}", own, references)
        for key, own in sorted(parts.items())
    ]


def _problem(title: str, runs: Sequence[ReportedRun], references: Sequence[str]) -> Problem:
    of = {id(run.run): run for run in runs}
    ordered = [of[id(run)] for own in by_method(run.run for run in runs).values() for run in own]
    keys = varying([run.run for run in ordered])
    parts: dict[str, list[ReportedRun]] = {}
    for run in ordered:
        parts.setdefault(repr([run.run.deciding.get(key) for key in keys]), []).append(run)
    groups = [
        Group(label, tuple(own)) for label, own in zip(_labels(list(parts.values())), parts.values(), strict=True)
    ]
    labels = [group.label for group in groups]
    preferred = [label for label in labels if label in references] or [label for label in labels if label == UNIFORM]
    reference = (preferred or labels)[0]
    first = runs[0]
    errors = tuple(task for task in first.metrics if first.run.lower_is_better(task))
    values = {key: tuple(_value(own[0].run.deciding, key) for own in parts.values()) for key in keys}
    return Problem(title, first.metrics, errors, _compared(groups, reference, errors), reference, values)


def _value(settings: Mapping[str, Any], key: str) -> str:
    return written(settings[key]) if key in settings else ""


def _labels(parts: Sequence[Sequence[ReportedRun]]) -> list[str]:
    """The names of groups: of a plan's row, of the method, and where these are alike, of what else differs."""
    names = [own[0].name or own[0].run.method for own in parts]
    labels = []
    for name, own in zip(names, parts, strict=True):
        alike = [other[0].run for other_name, other in zip(names, parts, strict=True) if other_name == name]
        keys = varying(alike)
        said = " ".join(f"{key.rpartition('.')[2]}={_value(own[0].run.deciding, key) or 'none'}" for key in keys)
        labels.append(f"{name} {said}".strip())
    return labels


def _compared(groups: Sequence[Group], reference: str, errors: Sequence[str]) -> tuple[Group, ...]:
    scores = {
        group.label: {run.run.seed: float(run.run.summary["test_score_mean"]) for run in group.runs} for group in groups
    }
    minus = differences(scores, reference)
    shared = sorted(set.intersection(*(set(own) for own in scores.values())))
    cells = {group.label: _cells(group, shared, errors) for group in groups}
    ranks = mean_ranks(cells) if shared and len(groups) > 1 else {}
    return tuple(Group(own.label, own.runs, minus.get(own.label), ranks.get(own.label)) for own in groups)


def _cells(group: Group, seeds: Sequence[int], errors: Sequence[str]) -> list[float]:
    """Scores by seed and task, more being better."""
    by_seed = {run.run.seed: run for run in group.runs}
    return [
        -by_seed[seed].run.score(task) if task in errors else by_seed[seed].run.score(task)
        for seed in seeds
        for task in by_seed[seed].metrics
    ]
