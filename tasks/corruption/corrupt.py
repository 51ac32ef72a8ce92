"""Seeded corruption of training labels, for research on what helps against it.

Only the support and query splits change; validation and test stay as they were given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lossrag.errors import ConfigError, did_you_mean
from lossrag.streams import check_seed
from lossrag.tasks.corruption.one_task import Plan, SplitReport
from lossrag.tasks.corruption.settings import Corruption, parse_corruption
from lossrag.tasks.suite import Suite, is_pooled, pool_query, unpool

__all__ = ["CORRUPTED", "Corruption", "CorruptionReport", "SplitReport", "corrupt", "parse_corruption"]

CORRUPTED = ("support", "query")


@dataclass(frozen=True, eq=False)
class CorruptionReport:
    """What happened to one task, by split."""

    task: str
    splits: Mapping[str, SplitReport]

    def describe(self) -> str:
        """A line a split, for logs."""
        return "\n".join(
            f"{self.task}, {split}: {each.rate:.1%} of the labels changed, rows a class "
            f"{each.before.tolist()} -> {each.after.tolist()}"
            for split, each in self.splits.items()
        )


def corrupt(
    suite: Suite, corruptions: Mapping[str, Corruption], seed: int
) -> tuple[Suite, dict[str, CorruptionReport]]:
    """The suite with the support and query splits of the named tasks corrupted, and a report a task.

    What happens to a row depends on the seed, the task's name, the split and the row's place in it alone: not on other
    tasks or their settings. The rows that a lower rate changes or a smaller share keeps are among those of
    the greater. Corrupting before or after :func:`tasks.pool_query` gives the same.

    Raises ConfigError for an unknown task, one of regression, an unknown class, numbers that do not fit its
    classes, an imbalance where tasks share their rows, noise that leaves a class without a row, or a negative seed.

    >>> from lossrag.tasks import load_suite
    >>> suite, reports = corrupt(load_suite("digits"), {"parity": Corruption("pair", 1.0)}, seed=0)
    >>> reports["parity"].splits["query"].rate
    1.0
    """
    check_seed(seed)
    for name in corruptions:
        if name not in suite.task_names:
            known = did_you_mean(name, suite.task_names)
            raise ConfigError(f"tasks.corrupt names {name!r}, which is no task of {suite.name!r}: {known}")
    if is_pooled(suite):
        # The rows at the end of the support split are the query rows, so they keep the labels those get.
        corrupted, reports = corrupt(unpool(suite), corruptions, seed)
        return pool_query(corrupted), {name: _pool_report(report) for name, report in reports.items()}
    splits = {split: list(suite.splits[split]) for split in CORRUPTED}
    reports = {}
    for place, task in enumerate(suite.tasks):
        if task.name not in corruptions:
            continue
        corruption = corruptions[task.name]
        plan = Plan(task, corruption)
        if corruption.imbalance is not None and suite.shared_input and len(suite.tasks) > 1:
            raise ConfigError(
                f"tasks.corrupt.{task.name}: the tasks of {suite.name!r} share their rows, so an imbalance of one "
                "would drop rows of all: use noise, or a suite whose tasks have inputs of their own."
            )
        done = {}
        for split in CORRUPTED:
            splits[split][place], done[split] = plan.apply(splits[split][place], split, seed)
        reports[task.name] = CorruptionReport(task.name, done)
    if not reports:
        return suite, reports
    words = "; ".join(f"{name} with {corruptions[name].describe()}" for name in reports)
    changed = {**suite.splits, **{split: tuple(examples) for split, examples in splits.items()}}
    return replace(suite, splits=changed, edition=f"{suite.edition}; training labels corrupted: {words}"), reports


def _pool_report(report: CorruptionReport) -> CorruptionReport:
    support, query = (report.splits[split] for split in CORRUPTED)
    pooled = SplitReport(
        np.concatenate([support.kept, query.kept]),
        np.concatenate([support.changed, query.changed]),
        support.before + query.before,
        support.after + query.after,
    )
    return CorruptionReport(report.task, {"support": pooled, "query": query})
