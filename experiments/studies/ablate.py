"""Run the rows of an ablation side by side, and compare what finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.studies.ablation_plan import Plan, load_plan
from lossrag.experiments.studies.ablation_table import as_csv, rich_table, rows_of
from lossrag.experiments.studies.jobs import Job, claimed, make_job, run_jobs
from lossrag.experiments.studies.transfer import keep_tasks, transfer_rows, transfer_summary
from lossrag.files import write_atomic

Jobs = Mapping[tuple[str, int], Job]
"""By row and seed."""


@dataclass(frozen=True)
class AblateOptions:
    """seeds, rows: instead of those of the plan. processes: runs side by side, each with one thread.

    root: where the runs go, in a folder of the ablation's name; its table is written there too.
    """

    seeds: list[int] | None = None
    rows: list[str] | None = None
    processes: int = 2
    root: str = "runs/ablation"

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ConfigError(f"processes must be 1 or more, got {self.processes}.")


def ablate(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag ablate` with these arguments; the exit code, 1 when a run failed."""
    options: AblateOptions = build(AblateOptions, plain_values(arguments[1:]), "ablate")
    plan = load_plan(arguments[0], options.seeds, options.rows)
    folder = Path(options.root) / plan.name
    # a mistake in a row shows before anything runs
    jobs = {
        (row, seed): make_job(f"{row}-s{seed}", plan.command(row, seed, folder), folder)
        for seed in plan.seeds
        for row in plan.rows
    }
    with claimed(folder):
        return _run(plan, jobs, options.processes, folder, console)


def _run(plan: Plan, jobs: Jobs, processes: int, folder: Path, console: Console) -> int:
    keys = {job: key for key, job in jobs.items()}
    logs = folder / "logs"

    def ended(job: Job, summary: Mapping[str, Any] | None) -> None:
        if summary is not None:
            row, seed = keys[job]
            console.print(f"{row}, seed {seed}: {summary['test_score_mean']:.4f}", highlight=False, markup=False)

    warm = plan.warm
    first = [job for (row, _), job in jobs.items() if warm is None or row != warm.row]
    summaries = run_jobs(first, processes, logs, ended)
    if warm is not None:
        for seed in plan.seeds:
            filled = jobs[warm.source, plan.teacher(seed)]
            if summaries[filled] is not None:
                keep_tasks(filled.directory / "bank", warm.tasks, plan.bank(seed, folder))
        summaries |= run_jobs([jobs[warm.row, seed] for seed in plan.seeds], processes, logs, ended)
    found = {key: summary for key, job in jobs.items() if (summary := summaries[job]) is not None}
    failed = [f"{row}, seed {seed}" for row, seed in jobs if (row, seed) not in found]
    rows = rows_of(plan, found)
    report: dict[str, Any] = {"ablation": plan.name, "experiment": plan.experiment, "rows": rows, "failed": failed}
    if warm is not None:
        cold, started = (
            {s: jobs[row, s].directory for row_, s in found if row_ == row} for row in (warm.source, warm.row)
        )
        steps = transfer_rows(warm, cold, started)
        if steps:
            report |= {"steps": steps, "transfer": transfer_summary(steps)}
            console.print(json.dumps(report["transfer"], indent=1), highlight=False)
    write_atomic(folder / "ablation.json", json.dumps(report, indent=2).encode() + b"\n")
    write_atomic(folder / "runs.csv", as_csv(found).encode())
    console.print(rich_table(plan, rows))
    console.print(f"written to {folder}/ablation.json and runs.csv", highlight=False)
    for name in failed:
        console.print(f"failed: {name}; see its log in {logs}", highlight=False, markup=False)
    return 1 if failed else 0
