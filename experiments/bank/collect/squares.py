"""Latin squares of runs: L runs in which every task of a suite meets each of L losses once, under its own trouble."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from lossrag.experiments.bank.collect.plan import CollectPlan, Squares, shard_path
from lossrag.experiments.bank.collect.troubles import Strengths, Trouble, drawn_trouble
from lossrag.experiments.bank.trials import trials_of
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.paths import library_override
from lossrag.experiments.record.finished import FinishedRun, load_runs
from lossrag.experiments.record.progress import say
from lossrag.experiments.run.build import build_suite
from lossrag.experiments.studies.jobs import claimed, make_job, run_jobs, task_of, why_failed
from lossrag.experiments.studies.launchers.base import Launcher
from lossrag.experiments.studies.results import csv_text
from lossrag.experiments.studies.states import States
from lossrag.lossbank import LOSSES
from lossrag.lossbank.experience.files import save_experience
from lossrag.lossbank.experience.trials import Experience
from lossrag.proof import write_proven
from lossrag.tasks import Task

Whole = NDArray[np.int64]
RUN_COLUMNS = ("part", "square", "run", "run_id", "seed", "best_epoch", "validation", "test")


def collect_squares(
    plan: CollectPlan,
    name: str,
    part: Squares,
    folder: Path,
    launcher: Launcher,
    states: States,
    shown: bool,
    console: Console,
    library: Sequence[str] = (),
) -> None:
    """Make the shards of a part that are not there, each from the runs of a square, which run the files of ``library``
    first; ``shown``: only show these."""
    runs, logs = folder / name, folder / "logs"
    with claimed(runs):
        for number in range(part.shards):
            path = shard_path(folder, name, number)
            if path.exists():
                continue
            lines = square(plan, name, part, number)
            own = library_override(library)
            jobs = [make_job(f"{name}-{number:03d}-{place}", [*own, *line], runs) for place, line in enumerate(lines)]
            if shown:
                for job in jobs:
                    print(launcher.script(task_of(job, logs)))
                continue
            summaries = run_jobs(jobs, launcher, logs, lambda job, summary: None, states)
            failed = [job for job in jobs if summaries[job] is None]
            for job in failed:
                say(console, f"failed: {job.name}: {why_failed(job, logs)}")
            if failed:
                continue
            finished, _ = load_runs([job.directory for job in jobs])
            write_proven(path.parent, {path.with_suffix(".csv").name: _table(name, number, finished).encode()})
            save_experience(path, Experience.of(trials_of(finished, trouble="clean")))
            for job in jobs:
                shutil.rmtree(job.directory / "checkpoints", ignore_errors=True)
            say(console, f"{name}: {number + 1} of {part.shards} squares")


def square(plan: CollectPlan, name: str, part: Squares, number: int) -> list[list[str]]:
    """The command lines of the runs of a square (L,); tasks of another kind than its losses are left as they are."""
    chance = plan.chance(name, number)
    fixed = [f"experiment={part.experiment}", *part.overrides, f"seed={int(chance.integers(2**31))}"]
    kind = LOSSES[part.losses[0]].target_kind
    tasks = [task for task in build_suite(load_config(fixed)[0]).tasks if task.kind == kind]
    names, weights = list(part.troubles), np.array(list(part.troubles.values()))
    strengths = Strengths((part.rates[0], part.rates[1]), (part.ratios[0], part.ratios[1]))
    troubles = {}
    for task in tasks:
        drawn = names[int(chance.choice(len(names), p=weights / weights.sum()))]
        troubles[task.name] = drawn_trouble(strengths, drawn, task.outputs, chance)
    losses = latin(len(tasks), len(part.losses), chance)
    return [
        [*fixed, f"tasks.corrupt={_corruptions(troubles)}", f"loss.tasks={_losses(tasks, row, part.losses)}"]
        for row in losses
    ]


def latin(tasks: int, losses: int, chance: np.random.Generator) -> Whole:
    """(L, T) the loss of every task in each of L runs: a task meets every loss once, and a run has them evenly.

    >>> latin(3, 2, np.random.default_rng(0)).sum(axis=0).tolist()
    [1, 1, 1]
    """
    starts = np.concatenate([chance.permutation(losses) for _ in range(-(-tasks // losses))])[:tasks]
    row: Whole = (starts + np.arange(losses)[:, None]) % losses
    return row


def _losses(tasks: Sequence[Task], row: Whole, losses: Sequence[str]) -> str:
    pairs = zip(tasks, row.tolist(), strict=True)
    return "{" + ", ".join(f"{task.name}: {losses[loss]}" for task, loss in pairs) + "}"


def _corruptions(troubles: Mapping[str, Trouble]) -> str:
    entries = []
    for task, trouble in troubles.items():
        if trouble.corruption is None:
            continue
        given = {key: value for key, value in asdict(trouble.corruption).items() if value is not None}
        entries.append(f"{task}: {{{', '.join(f'{key}: {_value(value)}' for key, value in given.items())}}}")
    return "{" + ", ".join(entries) + "}"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(name: str, number: int, finished: Sequence[FinishedRun]) -> str:
    rows: list[list[object]] = []
    for place, run in enumerate(finished):
        summary = run.summary
        scores = [f"{summary[key]:.6f}" for key in ("validation_score_mean", "test_score_mean")]
        rows.append([name, number, place, summary["run_id"], run.seed, summary["best_epoch"], *scores])
    return csv_text(RUN_COLUMNS, rows)
