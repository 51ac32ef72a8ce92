"""`lossrag sweep`: one key of the configuration over several values and seeds, runs side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.record.cells import RUN_COLUMNS, csv_text, run_cells
from lossrag.experiments.studies.jobs import Job, claimed, make_job, run_jobs, why_failed
from lossrag.experiments.studies.statistics import interval
from lossrag.files import write_atomic


@dataclass(frozen=True)
class SweepOptions:
    """key: a dotted key of the configuration. values: what it is set to. seeds: of every value.

    processes: runs side by side, each with one thread. root: where the runs go, in a folder of the key's name.
    """

    key: str = ""
    values: list[Any] = dataclasses.field(default_factory=list)
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0, 1, 2])
    processes: int = 2
    root: str = "runs/sweep"

    def __post_init__(self) -> None:
        if not self.key:
            raise ConfigError("lossrag sweep needs a key, e.g. key=tasks.rho")
        for name, given in (("values", self.values), ("seeds", self.seeds)):
            if not given or len(set(map(str, given))) < len(given):
                raise ConfigError(f"{name} must be distinct, and at least one: write {name}=[...], got {given}.")
        if self.processes < 1:
            raise ConfigError(f"processes must be 1 or more, got {self.processes}.")


def sweep(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag sweep` with these arguments; the exit code, 1 when a run failed."""
    names = {field.name for field in dataclasses.fields(SweepOptions)}
    own = [argument for argument in arguments if argument.partition("=")[0] in names]
    options: SweepOptions = build(SweepOptions, plain_values(own), "sweep")
    rest = [argument for argument in arguments if argument not in own]
    folder = Path(options.root) / options.key
    jobs = {
        (str(value), seed): make_job(
            f"{options.key}={value}-s{seed}", [*rest, f"{options.key}={value}", f"seed={seed}"], folder
        )
        for value in options.values
        for seed in options.seeds
    }

    def ended(job: Job, summary: dict[str, Any] | None) -> None:
        said = f"failed: {why_failed(job, folder / 'logs')}" if summary is None else f"{summary['test_score_mean']:.4f}"
        console.print(f"{job.name}: {said}", highlight=False, markup=False, soft_wrap=True)

    with claimed(folder):
        found = run_jobs(list(jobs.values()), options.processes, folder / "logs", ended)
    write_atomic(folder / "sweep.csv", sweep_csv(options, {where: found[job] for where, job in jobs.items()}).encode())
    table = Table(title=f"{options.key}: mean test score, 95 % intervals")
    for column in ("value", "runs", "mean", "±"):
        table.add_column(column, justify="right")
    for value in map(str, options.values):
        scores = [float(run["test_score_mean"]) for seed in options.seeds if (run := found[jobs[value, seed]])]
        middle = interval(scores) if scores else None
        cells = ["", ""] if middle is None else [f"{middle.mean:.4f}", f"{middle.half:.4f}"]
        table.add_row(value, str(len(scores)), *cells)
    console.print(table)
    console.print(f"figures   lossrag figures root={folder}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"runs      {folder / 'sweep.csv'}", highlight=False, markup=False, soft_wrap=True)
    return 1 if None in found.values() else 0


def sweep_csv(options: SweepOptions, found: Mapping[tuple[str, int], Mapping[str, Any] | None]) -> str:
    """A line per run: value, seed, run id, best epoch, validation, test, every task. A failed run is None."""
    tasks = list(dict.fromkeys(task for run in found.values() if run for task in run["metric"]))
    rows = [
        [value, seed, *(["failed"] if run is None else run_cells(run, tasks))] for (value, seed), run in found.items()
    ]
    return csv_text([options.key, "seed", *RUN_COLUMNS, *tasks], rows)
