"""Trials out of finished runs that differ in the losses of their tasks alone: what every loss gained over the
reference, and the contexts in which it did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from lossrag.errors import ConfigError, RunDirectoryError
from lossrag.experiments.config.identity import differing_keys
from lossrag.experiments.record.contexts import SeenTask, load_contexts
from lossrag.experiments.record.finished import FinishedRun
from lossrag.lossbank.experience.snapshots import REFERENCES
from lossrag.lossbank.experience.trials import Case, CaseRecord, Outcome
from lossrag.tasks import Corruption, parse_corruption
from lossrag.tasks.corruption.settings import DEFAULT_FACTOR


def task_loss(run: FinishedRun, task: SeenTask) -> str | None:
    """The one loss that a run trained a task with; None where it composed several."""
    loss = run.settings["loss"]
    if loss.get("policy", "fixed") != "fixed":
        return None
    return str(loss.get("tasks", {}).get(task.name, loss.get(task.kind, REFERENCES[task.kind])))


def trials_of(runs: Sequence[FinishedRun], trouble: str = "unknown", clean: bool = True) -> list[CaseRecord]:
    """A case for every task that one of the runs trained with the reference of its kind, and others with other losses.

    A task is seen as the first run that trained it with the reference saw it. Outcomes are differences of final test
    scores, of the epochs that validation chose; what the runs did with the other tasks is left to chance. A task whose
    score is an error makes no case: its gains, in the units of the data, are not comparable with others.

    trouble: of tasks whose labels the runs did not corrupt. clean: their test labels are known to be right.

    Raises ConfigError for runs that differ in more than losses, RunDirectoryError where no contexts were recorded.
    """
    first, *others = runs
    for other in others:
        differing = differing_keys(first.settings, other.settings)
        lines = [line for line in differing if not line.startswith(("loss.", "library:"))]
        if lines:
            raise ConfigError(
                f"{first.path} and {other.path} are no pair, they differ in more than losses:\n  " + "\n  ".join(lines)
            )
    return [record for task in load_contexts(first.path).tasks for record in _records(runs, task, trouble, clean)]


def _records(runs: Sequence[FinishedRun], task: SeenTask, trouble: str, clean: bool) -> list[CaseRecord]:
    """The case of a task, if there is one."""
    scores: dict[str, list[float]] = {}
    told = REFERENCES[task.kind]
    reference: FinishedRun | None = None
    for run in runs:
        if task.name not in run.tasks:
            raise RunDirectoryError(
                f"{run.path} tells nothing of the task {task.name!r}: repeat it with run.again=true."
            )
        loss = task_loss(run, task)
        if loss is not None:
            scores.setdefault(loss, []).append(run.score(task.name))
            reference = run if loss == told and reference is None else reference
    if reference is None or len(scores) < 2 or reference.lower_is_better(task.name):
        return []
    seen = load_contexts(reference.path)
    row = seen.tasks.index(task)
    kind, strength = _trouble(reference.settings["tasks"].get("corrupt") or {}, task, trouble)
    case = Case(
        source=str(reference.summary["suite"]),
        task=task.name,
        encoder=seen.encoder,
        target_kind=task.kind,
        outputs=task.outputs,
        samples=task.samples,
        steps=seen.steps,
        metric=str(reference.summary["metric"][task.name]),
        reference=mean(scores[told]),
        trouble=kind,
        strength=strength,
        clean=clean,
        seed=reference.seed,
        version=str(reference.summary.get("versions", {}).get("lossrag", "")),
    )
    moments = {moment: contexts[row].numpy() for moment, contexts in seen.moments.items()}
    return [
        CaseRecord(case, moments, {name: _outcome(own, scores[told]) for name, own in scores.items() if name != told})
    ]


def _outcome(scores: Sequence[float], reference: Sequence[float]) -> Outcome:
    repeats = min(len(scores), len(reference))
    both = (scores, reference)
    error = math.sqrt(sum(stdev(own) ** 2 / len(own) for own in both)) if repeats > 1 else math.nan
    return Outcome(mean(scores) - mean(reference), error, repeats)


def _trouble(corrupted: Mapping[str, Any], task: SeenTask, otherwise: str) -> tuple[str, float]:
    """What the configuration did to the labels of a task, and how much of it."""
    if task.name not in corrupted:
        return otherwise, math.nan
    corruption = parse_corruption({task.name: corrupted[task.name]})[task.name]
    if corruption.noise is None:
        return "imbalance", _ratio(corruption)
    rate = math.nan if corruption.rate is None else corruption.rate
    return ("both" if corruption.imbalance is not None else corruption.noise), rate


def _ratio(corruption: Corruption) -> float:
    if isinstance(corruption.imbalance, tuple):
        return max(corruption.imbalance) / min(corruption.imbalance)
    return corruption.factor or DEFAULT_FACTOR
