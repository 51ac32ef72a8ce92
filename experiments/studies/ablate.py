"""`lossrag ablate NAME`: rows of settings by seeds, compared where all runs of a row finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from rich.console import Console

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.config.presets import split_flags
from lossrag.experiments.studies.launchers.options import with_launcher
from lossrag.experiments.studies.plan import Plan, Run, load_plan
from lossrag.experiments.studies.report import Report, rich_table, suite_report
from lossrag.experiments.studies.results import Results, interval_text, runs_csv
from lossrag.experiments.studies.statistics import differences
from lossrag.experiments.studies.study import Study, StudyOptions


@dataclass(frozen=True)
class AblateOptions(StudyOptions):
    """seeds, rows: instead of those of the plan.

    root: where the runs go, in a folder of the ablation's name; its table is written there too.
    """

    seeds: list[int] | None = None
    rows: list[str] | None = None
    root: str = "runs/ablation"


def ablate(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag ablate` with these arguments, the first a name; the exit code, 1 when a run failed."""
    words, folder = split_flags(arguments)
    if not words or "=" in words[0]:
        raise ConfigError("lossrag ablate needs a name, or a plan of your own: lossrag ablate ./plan.yaml")
    name, *words = words
    options: AblateOptions = build(AblateOptions, plain_values(with_launcher(words)), "ablate")
    plan = load_plan("ablation", name, options.root, options.rows, options.seeds, options.library, folder)
    (suite,) = plan.suites
    study = Study(plan, options, console)
    # a mistake in a row shows before anything runs
    jobs = study.jobs([Run(suite, row, (), seed) for seed in plan.seeds for row in plan.rows])
    if study.shown(jobs):
        return 0
    with study.claimed():
        summaries = study.run(jobs)
    finished = {(run.row, run.seed): summary for run, summary in summaries.items() if summary is not None}
    failed = [f"{run.row}, seed {run.seed}" for run in jobs if (run.row, run.seed) not in finished]
    results = Results(list(plan.rows), plan.seeds, finished)
    compared = suite_report(plan, suite, dict.fromkeys(plan.rows, ()), {}, results)
    rows = ablation_rows(plan, compared, results)
    report: dict[str, Any] = {"ablation": plan.name, "experiment": suite, "rows": rows, "failed": failed}
    lines = [(key, finished[key]) for key in sorted(finished)]
    texts = {
        "ablation.json": json.dumps(report, indent=2) + "\n",
        "runs.csv": runs_csv(["row", "seed"], lines, seconds=True),
    }
    also = [
        f"{row['row']} minus {row[key]['row']}: {interval_text(row[key], '+')}"
        for row in rows
        for key in row
        if key.startswith("vs row ")
    ]
    return study.end(texts, [rich_table(compared, plan.seeds, console.width, "; ".join(also))])


def ablation_rows(plan: Plan, report: Report, results: Results) -> list[dict[str, Any]]:
    """The rows of ablation.json: those with a finished run of every seed, each beside the reference, the best fixed row
    and others that the plan names."""
    complete = {row: results.scores[row] for row in results.complete}
    rows = []
    for row in report["rows"]:
        name = row["method"]
        if name not in complete:
            continue
        entry = {"row": name, "seeds": list(plan.seeds), "scores": list(row["scores"].values())}
        entry |= {"mean": row["test"]["mean"], **{task: scores["mean"] for task, scores in row["tasks"].items()}}
        pairs = {"vs reference": plan.reference, "vs best fixed": report["best"]}
        pairs |= {f"vs row {other}": other for one, other in plan.also if one == name}
        for key, other in pairs.items():
            if other in complete and other != name:
                difference = differences(complete, other)[name]
                entry[key] = {"row": other, "mean": difference["mean"], "half": difference["half"]}
        entry["seconds"] = mean(float(results.runs[name, seed]["seconds"]) for seed in plan.seeds)
        rows.append(entry)
    return rows
