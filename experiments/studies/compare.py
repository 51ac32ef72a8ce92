"""`lossrag compare experiment=NAME`: tune every method, run it with every seed, write the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.config.presets import split_flags
from lossrag.experiments.record.finished import Summary
from lossrag.experiments.studies.launchers.options import with_launcher
from lossrag.experiments.studies.plan import Plan, Run, Setting, label, load_plan, plan_names
from lossrag.experiments.studies.report import (
    TEST,
    Trials,
    choose,
    latex,
    markdown,
    rich_table,
    suite_report,
    tuning_csv,
)
from lossrag.experiments.studies.results import Results, csv_text, runs_csv
from lossrag.experiments.studies.study import Study, StudyOptions, Summaries

Chosen = dict[tuple[str, str], Setting | None]
"""By suite and method: what it runs with, None when its tuning failed altogether."""


@dataclass(frozen=True)
class CompareOptions(StudyOptions):
    """experiment: name of the plan, or a file. methods, seeds: some of its methods, other seeds.

    root: where the runs go, in a folder of the plan's name; its tables are written there too. tune: false runs every
    method with the preset's own values.
    """

    experiment: str = ""
    methods: list[str] | None = None
    seeds: list[int] | None = None
    root: str = "runs/compare"
    tune: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.experiment:
            raise ConfigError(f"compare needs experiment=NAME, one of {', '.join(plan_names('compare'))}.")


def compare(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag compare` with these arguments; the exit code, 1 when a run failed."""
    words, folder = split_flags(arguments)
    options: CompareOptions = build(CompareOptions, plain_values(with_launcher(words)), "compare")
    kept = options.methods, options.seeds
    plan = load_plan("compare", options.experiment, options.root, *kept, options.library, folder)
    if not options.tune:
        plan = replace(plan, tuning=None)
    study = Study(plan, options, console)
    rows = [(suite, method) for suite in plan.suites for method in plan.rows]
    chosen: Chosen = dict.fromkeys(rows, ())
    tried: Summaries = {}
    jobs = study.jobs(_trials(plan) or _tests(plan, chosen))  # a mistake in any method shows before anything runs
    if study.shown(jobs):
        return 0
    with study.claimed():
        if plan.tuning is not None:
            tried = study.run(jobs, "tuning")
            chosen = {row: choose(_of(tried, *row)) for row in rows}
            jobs = study.jobs(_tests(plan, chosen))
        tested = study.run(jobs)
    texts, reports = _files(plan, chosen, tried, tested)
    return study.end(texts, [rich_table(report, plan.seeds, console.width) for report in reports])


def _trials(plan: Plan) -> list[Run]:
    if plan.tuning is None:
        return []
    return [
        Run(suite, method, setting, plan.tuning.seed)
        for suite in plan.suites
        for method, row in plan.rows.items()
        for setting in row.settings
    ]


def _tests(plan: Plan, chosen: Chosen) -> list[Run]:
    kept = [(row, setting) for row, setting in chosen.items() if setting is not None]
    return [Run(*row, setting, seed) for seed in plan.seeds for row, setting in kept]


def _of(tried: Summaries, suite: str, method: str) -> Trials:
    return {run.setting: summary for run, summary in tried.items() if (run.suite, run.row) == (suite, method)}


def _files(
    plan: Plan, chosen: Chosen, tried: Summaries, tested: Summaries
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The texts of a comparison's files, and the report on each suite."""
    reports = []
    lines: list[tuple[list[object], Summary | None]] = []
    for suite in plan.suites:
        settings = {method: chosen[suite, method] for method in plan.rows}
        tuning = {method: _of(tried, suite, method) for method in plan.rows} if tried else {}
        own = {run: summary for run, summary in tested.items() if run.suite == suite}
        runs = {(run.row, run.seed): summary for run, summary in own.items() if summary is not None}
        reports.append(suite_report(plan, suite, settings, tuning, Results(list(plan.rows), plan.seeds, runs)))
        for method, setting in settings.items():
            shown = "none" if setting is None else label(setting)
            lines += [([suite, method, shown, seed], runs.get((method, seed))) for seed in plan.seeds]
    seconds = [
        [run.suite, run.row, label(run.setting), run.seed, phase, summary["seconds"]]
        for phase, summaries in (("tuning", tried), ("test", tested))
        for run, summary in summaries.items()
        if summary is not None
    ]
    whole = {"comparison": plan.name, "seeds": list(plan.seeds), "test": TEST, "suites": reports}
    keys = ["suite", "method", "setting", "seed"]
    texts = {
        "compare.json": json.dumps(whole, indent=2, allow_nan=False) + "\n",
        "runs.csv": runs_csv(keys, lines),
        "seconds.csv": csv_text([*keys, "phase", "seconds"], seconds),
        "tuning.csv": tuning_csv(reports),
        "table.md": markdown(plan.name, reports, plan.seeds),
        "table.tex": latex(reports, plan.seeds),
    }
    return texts, reports
