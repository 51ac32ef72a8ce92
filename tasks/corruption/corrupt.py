"""Seeded corruption of training labels, for research on what helps against it.

Only the support and query splits change; validation and test stay as they were given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lossrag.errors import ConfigError, did_you_mean
from lossrag.streams import check_seed
from lossrag.tasks.corruption.one_task import Plan, SplitReport
from lossrag.tasks.corruption.settings import Corruption, parse_corruption
from lossrag.tasks.suite import Suite

__all__ = ["CORRUPTED", "Corruption", "CorruptionReport", "SplitReport", "corrupt", "parse_corruption"]

CORRUPTED = ("support", "query")


@dataclass(frozen=True, eq=False)
class CorruptionReport:
    """The changes to one task, by split."""

    task: str
    splits: Mapping[str, SplitReport]

    def describe(self) -> str:
        """A line a split, for logs."""
        return "\n".join(
            f"{self.task}, {split}: {report.rate:.1%} of the labels changed, rows a class "
            f"{report.before.tolist()} -> {report.after.tolist()}"
            for split, report in self.splits.items()
        )


def corrupt(
    suite: Suite, corruptions: Mapping[str, Corruption], seed: int
) -> tuple[Suite, dict[str, CorruptionReport]]:
    """The suite with the support and query splits of the named tasks corrupted, and a report a task.

    A row's fate depends on the seed, the task's name, the split and the row's place in it alone: not on other
    tasks or their settings. The rows that a lower rate changes or a smaller share keeps are among those of
    the greater. Corrupt before :func:`pool_query`: a query row that it copied would get a label of its own.

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
            raise ConfigError(f"A corruption is for {name!r}, which is no task of {suite.name!r}: {known}")
    splits = {split: list(suite.splits[split]) for split in CORRUPTED}
    reports = {}
    for place, task in enumerate(suite.tasks):
        if task.name not in corruptions:
            continue
        corruption = corruptions[task.name]
        plan = Plan(task, corruption)
        if corruption.imbalance is not None and suite.shared_input and len(suite.tasks) > 1:
            raise plan.error(
                f"the tasks of {suite.name!r} share their rows, so an imbalance of one would drop rows of all: use "
                "noise, or a suite whose tasks have inputs of their own."
            )
        by_split = {}
        for split in CORRUPTED:
            splits[split][place], by_split[split] = plan.apply(splits[split][place], split, seed)
        reports[task.name] = CorruptionReport(task.name, by_split)
    if not reports:
        return suite, reports
    words = "; ".join(f"{name} with {corruptions[name].describe()}" for name in reports)
    changed = {**suite.splits, **{split: tuple(examples) for split, examples in splits.items()}}
    return replace(suite, splits=changed, edition=f"{suite.edition}; training labels corrupted: {words}"), reports
