"""Run the rows of an ablation side by side, and compare what finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.ablation.plan import Plan, load_plan, plan_names
from experiments.ablation.table import as_csv, rich_table, rows_of
from experiments.ablation.transfer import keep_tasks, transfer_rows, transfer_summary
from experiments.config import load_config
from experiments.config.compose import build
from experiments.config.identity import run_id
from experiments.config.overrides import plain_values
from lossrag import ConfigError
from lossrag.files import write_atomic


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
    if not arguments or not {"-h", "--help"}.isdisjoint(arguments):
        console.print(
            "lossrag ablate NAME [seeds=[0,1]] [rows=[a,b]] [processes=2] [root=runs/ablation]\n\n"
            "Runs that are finished are not repeated, unfinished ones resume.\n"
            f"NAME is one of {', '.join(plan_names())}.",
            highlight=False,
            markup=False,
        )
        return 0
    options: AblateOptions = build(AblateOptions, plain_values(arguments[1:]), "ablate")
    plan = load_plan(arguments[0], options.seeds, options.rows)
    folder = Path(options.root) / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(row, seed) for seed in plan.seeds for row in plan.rows]
    # a mistake in a row shows before anything runs
    paths = {job: folder / run_id(load_config(plan.command(*job, folder))[1]) / "summary.json" for job in jobs}
    failed: list[str] = []

    def work(job: tuple[str, int]) -> None:
        row, seed = job
        if not paths[job].exists() and not _run(plan, row, seed, folder):
            failed.append(f"{row}, seed {seed}")
        summary = _summary(paths[job])
        if summary is not None:
            console.print(f"{row}, seed {seed}: {summary['test_score_mean']:.4f}", highlight=False, markup=False)

    warm = plan.warm
    with ThreadPoolExecutor(options.processes) as pool:
        list(pool.map(work, [job for job in jobs if warm is None or job[0] != warm.row]))
        if warm is not None:
            for seed in plan.seeds:
                filled = paths[warm.source, plan.teacher(seed)]
                if filled.exists():
                    keep_tasks(filled.parent / "bank", warm.tasks, plan.bank(seed, folder))
            list(pool.map(work, [job for job in jobs if job[0] == warm.row]))
    found = {job: summary for job in jobs if (summary := _summary(paths[job])) is not None}
    rows = rows_of(plan, found)
    report: dict[str, Any] = {"ablation": plan.name, "experiment": plan.experiment, "rows": rows, "failed": failed}
    if warm is not None:
        cold, started = (
            {s: paths[row, s].parent for row_, s in found if row_ == row} for row in (warm.source, warm.row)
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
        console.print(f"failed: {name}; see its log in {folder}/logs", highlight=False, markup=False)
    return 1 if failed else 0


def _run(plan: Plan, row: str, seed: int, folder: Path) -> bool:
    log = folder / "logs" / f"{row.replace(' ', '_')}-s{seed}.log"
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "from experiments.cli import main; main()", "train"]
    with log.open("ab") as output:
        done = subprocess.run(
            [*command, *plan.command(row, seed, folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    return done.returncode == 0


def _summary(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary
