"""`lossrag compare experiment=NAME`: tune every method, run it with every seed, write the table."""

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
from lossrag.experiments.studies.jobs import Job, claimed, make_job, run_jobs, why_failed
from lossrag.experiments.studies.live import LiveTable
from lossrag.experiments.studies.plan import Plan, Setting, label, load_plan, plan_names
from lossrag.experiments.studies.render import latex, markdown, rich_table
from lossrag.experiments.studies.result import TEST, SuiteRuns, runs_csv, seconds_csv, suite_report
from lossrag.experiments.studies.tuning import Trial, Tuning, choose, tuning_csv
from lossrag.files import write_atomic


@dataclass(frozen=True)
class CompareOptions:
    """experiment: name of the plan, or a file. methods, seeds: some of its methods, other seeds.

    processes: runs side by side, each with one thread. root: where the runs go, in a folder of the plan's name; its
    tables are written there too. tune: false runs every method with the preset's own values.
    """

    experiment: str
    methods: list[str] | None = None
    seeds: list[int] | None = None
    processes: int = 2
    root: str = "runs/compare"
    tune: bool = True

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ConfigError(f"processes must be 1 or more, got {self.processes}.")


@dataclass(frozen=True)
class Task:
    """What a run is for: ``tuning`` or ``test`` of a method on a suite."""

    suite: str
    method: str
    setting: Setting
    seed: int

    def job(self, plan: Plan, folder: Path) -> Job:
        overrides = plan.command(self.suite, self.method, self.setting, self.seed)
        return make_job(f"{self.suite}-{self.method}-{label(self.setting)}-s{self.seed}", overrides, folder)


def compare(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag compare` with these arguments; the exit code, 1 when a run failed."""
    values = plain_values(arguments)
    if "experiment" not in values:
        raise ConfigError(f"compare needs experiment=NAME, one of {', '.join(plan_names())}.")
    options: CompareOptions = build(CompareOptions, values, "compare")
    plan = load_plan(options.experiment, options.methods, options.seeds)
    return Comparison(plan, options, console).run()


Found = dict[Task, dict[str, Any] | None]


class Comparison:
    """One plan, from its first run to its tables."""

    def __init__(self, plan: Plan, options: CompareOptions, console: Console) -> None:
        self.plan, self.options, self.console = plan, options, console
        self.folder = Path(options.root) / plan.name
        self.logs = self.folder / "logs"
        self.failed: list[Job] = []

    def run(self) -> int:
        """Run what is not finished and write everything; 1 when a run failed, else 0."""
        plan = self.plan
        tune = self.options.tune and plan.tuning_runs > 0
        rows = [(suite, method) for suite in plan.suites for method in plan.methods]
        trials = [
            Task(*row, setting, plan.tuning_seed) for row in rows for setting in plan.methods[row[1]].settings if tune
        ]
        tests = [Task(*row, (), seed) for seed in plan.seeds for row in rows]
        jobs = self._jobs(trials if tune else tests)  # a mistake in any method shows before anything runs
        budget = plan.tuning_runs if tune else 0
        with claimed(self.folder), LiveTable(self.console, rows, budget, len(plan.seeds)) as live:
            tuned: Found = {}
            chosen: dict[tuple[str, str], Setting | None] = dict.fromkeys(rows, ())
            if tune:
                tuned = self._run(jobs, live, "tuning")
                chosen = {row: choose(_trials(tuned, *row)) for row in rows}
                tests = [
                    Task(*row, setting, seed)
                    for seed in plan.seeds
                    for row, setting in chosen.items()
                    if setting is not None
                ]
                jobs = self._jobs(tests)
            found = self._run(jobs, live, "test")
        return self._write([self._suite_runs(suite, tuned, found, chosen) for suite in plan.suites])

    def _jobs(self, tasks: Sequence[Task]) -> dict[Task, Job]:
        return {task: task.job(self.plan, self.folder) for task in tasks}

    def _run(self, jobs: Mapping[Task, Job], live: LiveTable, phase: str) -> Found:
        tasks = {job: task for task, job in jobs.items()}

        def ended(job: Job, summary: Mapping[str, Any] | None) -> None:
            task = tasks[job]
            live.ended((task.suite, task.method), phase, f"{label(task.setting)}, seed {task.seed}", summary)

        summaries = run_jobs(list(tasks), self.options.processes, self.logs, ended)
        self.failed += [job for job in tasks if summaries[job] is None]
        return {task: summaries[job] for task, job in jobs.items()}

    def _suite_runs(
        self, suite: str, tuned: Found, found: Found, chosen: Mapping[tuple[str, str], Setting | None]
    ) -> SuiteRuns:
        plan = self.plan
        tuning: Tuning = {method: _trials(tuned, suite, method) for method in plan.methods} if tuned else {}
        settings = {method: chosen[suite, method] for method in plan.methods}
        runs = {
            (task.method, task.seed): summary
            for task, summary in sorted(found.items(), key=lambda item: list(plan.methods).index(item[0].method))
            if task.suite == suite and summary is not None
        }
        return SuiteRuns(suite, tuning, settings, runs)

    def _write(self, suites: Sequence[SuiteRuns]) -> int:
        plan, seeds, folder = self.plan, self.plan.seeds, self.folder
        reports = [suite_report(plan, runs) for runs in suites]
        whole = {"comparison": plan.name, "seeds": list(seeds), "test": TEST, "suites": reports}
        texts = {
            "compare.json": json.dumps(whole, indent=2, allow_nan=False) + "\n",
            "runs.csv": runs_csv(plan, suites),
            "seconds.csv": seconds_csv(plan, suites),
            "tuning.csv": tuning_csv(plan, {runs.suite: runs.tuning for runs in suites}),
            "table.md": markdown(plan.name, reports, seeds),
            "table.tex": latex(reports, seeds),
        }
        for name, text in texts.items():
            write_atomic(folder / name, text.encode())
        for report in reports:
            self.console.print(rich_table(report, seeds))
        self._say(f"written to {folder}: {', '.join(texts)}")
        for job in self.failed:
            self._say(f"failed: {job.name}: {why_failed(job, self.logs)}")
        return 1 if self.failed else 0

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _trials(tuned: Found, suite: str, method: str) -> list[Trial]:
    return [Trial(task.setting, run) for task, run in tuned.items() if (task.suite, task.method) == (suite, method)]
