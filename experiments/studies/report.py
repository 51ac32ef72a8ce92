"""Report of a comparison: the choice of settings, a row for each method, and the texts of its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lossrag.experiments.record.finished import Summary, lower_is_better, task_score
from lossrag.experiments.studies.plan import Plan, Setting, label
from lossrag.experiments.studies.results import Grid, Results, csv_text, interval_text, mean_text
from lossrag.experiments.studies.statistics import differences, interval, mean_ranks

Report = Mapping[str, Any]
TEST = "Student's paired t test over the seeds, two-sided, corrected by Holm over the methods"
ERROR = "error"
"""Mark of a task whose score is better when it is lower."""
Trials = Mapping[Setting, Summary | None]
"""The settings that were tried for a method, and the summaries of their runs, None for those that failed."""


def choose(trials: Trials) -> Setting | None:
    """The setting of the best validation score, the first of equal ones; None when every run failed."""
    scores = {setting: run["validation_score_mean"] for setting, run in trials.items() if run is not None}
    return max(scores, key=scores.__getitem__, default=None)


def suite_report(
    plan: Plan,
    suite: str,
    settings: Mapping[str, Setting | None],
    tuning: Mapping[str, Trials],
    results: Results,
) -> dict[str, Any]:
    """The part of compare.json on a suite: the rows in the order of the plan, and the tuning behind them.

    settings: by method, None when its tuning failed altogether. tuning: by method, empty without tuning. best: of
    the plan's rivals the one with the highest mean test score among those whose runs all finished.
    """
    best = results.best(plan.rivals)
    cells = {
        method: [_cell(results, method, seed, task) for seed in plan.seeds for task in results.tasks]
        for method in plan.rows
    }
    ranks = mean_ranks(cells) if results.tasks else {}
    others = {"reference": plan.reference, "best": best}
    minus = {what: differences(results.scores, other) for what, other in others.items() if other is not None}
    rows = []
    for method, setting in settings.items():
        scores = results.scores[method]
        row: dict[str, Any] = {
            "method": method,
            "setting": None if setting is None else list(setting),
            "runs": len(plan.seeds),
            "failed": len(plan.seeds) - len(scores),
            "scores": {str(seed): scores.get(seed) for seed in plan.seeds},
            "test": interval(list(scores.values())) if scores else None,
            "tasks": {task: interval(results.of_task(method, task)) if scores else None for task in results.tasks},
            "rank": ranks.get(method),
        }
        row |= {f"minus {what}": {"method": others[what], **by[method]} for what, by in minus.items() if method in by}
        rows.append(row)
    tried = {method: _tried(trials) for method, trials in tuning.items()}
    effort = plan.tuning and {"seed": plan.tuning.seed, "runs": plan.tuning.runs, "methods": tried}
    return {
        "suite": suite,
        "reference": plan.reference,
        "best": best,
        "lower_is_better": results.errors,
        "rows": rows,
        "tuning": effort if tried else None,
    }


def _cell(results: Results, method: str, seed: int, task: str) -> float:
    """A score of which more is better; -inf for a run that failed."""
    run = results.runs.get((method, seed))
    if run is None:
        return -math.inf
    return -task_score(run, task) if lower_is_better(run, task) else task_score(run, task)


def _tried(trials: Trials) -> list[dict[str, Any]]:
    return [
        {
            "setting": list(setting),
            "validation": run and float(run["validation_score_mean"]),
            "run_id": run and run["run_id"],
            "chosen": setting == choose(trials),
        }
        for setting, run in trials.items()
    ]


def _trials(report: Report) -> list[tuple[str, Report]]:
    """Every setting that was tried, with its method."""
    methods = report["tuning"]["methods"] if report["tuning"] else {}
    return [(method, trial) for method, trials in methods.items() for trial in trials]


def tuning_csv(reports: Sequence[Report]) -> str:
    """A line per setting of every method and suite; failed ones without a score."""
    rows = [
        [
            report["suite"],
            method,
            label(trial["setting"]),
            report["tuning"]["seed"],
            "failed" if trial["validation"] is None else f"{trial['validation']:.6f}",
            "yes" if trial["chosen"] else "",
            trial["run_id"] or "",
        ]
        for report in reports
        for method, trial in _trials(report)
    ]
    return csv_text(("suite", "method", "setting", "seed", "validation", "chosen", "run_id"), rows)


def results_grid(report: Report, tasks: bool = True) -> Grid:
    """A row for each method; without columns for the tasks where they would not fit."""
    names = list(report["rows"][0]["tasks"]) if tasks else []
    others = {"reference": report["reference"]}
    if report["best"] not in (None, report["reference"]):
        others["best"] = report["best"]
    minus = [text for other in others.values() for text in (f"minus {other}", "p")]
    rows = []
    for row in report["rows"]:
        texts = [row["method"], *(mean_text(row["tasks"][task]) for task in names), interval_text(row["test"])]
        for what in others:
            difference = row.get(f"minus {what}")
            texts += [interval_text(difference, "+"), _p(difference)]
        failed, runs = row["failed"], row["runs"]
        rank = "" if row["rank"] is None else f"{row['rank']:.2f}"
        rows.append([*texts, rank, f"failed: {failed} of {runs}" if failed else str(runs)])
    shown = [f"{name} ({ERROR})" if name in report["lower_is_better"] else name for name in names]
    return Grid(["method", *shown, "mean", *minus, "rank", "runs"], rows)


def _p(difference: Report | None) -> str:
    p = None if difference is None else difference["p_holm"]
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _tuning_grid(report: Report) -> Grid:
    rows = []
    for method, trial in _trials(report):
        score = "failed" if trial["validation"] is None else f"{trial['validation']:.4f}"
        rows.append([method, label(trial["setting"]), score, "chosen" if trial["chosen"] else ""])
    return Grid(["method", "setting", "validation", ""], rows)


def _caption(report: Report, seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        text = "Test score of one seed: no intervals, no tests. rank: mean rank over tasks, a failed run ranks last."
    else:
        text = (
            f"Mean test score over {len(seeds)} seeds with 95 % intervals (Student's t). p: {TEST}. "
            "rank: mean rank over tasks and seeds, a failed run ranks last."
        )
    if report["lower_is_better"]:
        text += f" Of a task marked {ERROR} less is better; in the mean it counts as 1 - error / spread of the values."
    return text


def _tuning_caption(report: Report) -> str:
    tuning = report["tuning"]
    if tuning is None:
        return "Not tuned: every method runs with the values of the preset."
    return (
        f"Tuning: {tuning['runs']} runs for every method, seed {tuning['seed']}, chosen by the mean validation score "
        "of the best epoch."
    )


def means_table(what: str, scores: Mapping[str, Sequence[float]], title: str) -> Table:
    """For a terminal: the mean of the scores of every row, and how many there are; ``what`` the rows are."""
    lines = []
    for row, own in scores.items():
        middle = interval(list(own)) if own else {}
        cells = ["" if value is None else f"{value:.4f}" for value in middle.values()] or ["", ""]
        lines.append([row, str(len(own)), *cells])
    return Grid([what, "runs", "mean", "±"], lines).rich(f"{title}: mean test score, 95 % intervals")


def markdown(name: str, reports: Sequence[Report], seeds: Sequence[int]) -> str:
    """table.md: a section for each suite, its table and the tuning behind it."""
    parts = [f"# Comparison {name}"]
    for report in reports:
        grid = results_grid(report)
        bold = [[f"**{row[0]}**" if row[0] == report["best"] else row[0], *row[1:]] for row in grid.rows]
        parts += [
            f"## {report['suite']}",
            _caption(report, seeds),
            Grid(grid.header, bold).markdown(),
            _tuning_caption(report),
        ]
        parts += [_tuning_grid(report).markdown()] if report["tuning"] else []
    return "\n\n".join(parts) + "\n"


def latex(reports: Sequence[Report], seeds: Sequence[int]) -> str:
    """table.tex: one table environment for each suite and for its tuning."""
    parts = []
    for report in reports:
        parts.append(results_grid(report).latex(f"{report['suite']}. {_caption(report, seeds)}"))
        if report["tuning"]:
            parts.append(_tuning_grid(report).latex(f"{report['suite']}. {_tuning_caption(report)}"))
    return "% \\usepackage{booktabs}\n" + "\n".join(parts)


def rich_table(report: Report, seeds: Sequence[int], width: int, caption: str = "") -> Table:
    """The table of a suite for a terminal of so many columns; on a narrow one without those of the tasks."""
    what = "test score of one seed"
    if len(seeds) > 1:
        what = f"mean test score over {len(seeds)} seeds, 95 % intervals, p of Holm"
    wide = width >= 100 + 9 * len(report["rows"][0]["tasks"])
    return results_grid(report, tasks=wide).rich(f"{report['suite']}: {what}", caption or None)
