"""From the runs of a suite to one row for each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossrag.experiments.record.cells import RUN_COLUMNS, csv_text, run_cells, task_score
from lossrag.experiments.studies.plan import Plan, Setting, label
from lossrag.experiments.studies.statistics import holm, interval, mean_ranks, paired_p
from lossrag.experiments.studies.tuning import Tuning, tuning_report

Summary = Mapping[str, Any]
TEST = "Student's paired t test over the seeds, two-sided, corrected by Holm over the methods"


@dataclass(frozen=True)
class SuiteRuns:
    """All of one suite. settings: what each method runs with, None when its tuning failed altogether. runs: by method
    and seed, without those that failed."""

    suite: str
    tuning: Tuning
    settings: Mapping[str, Setting | None]
    runs: Mapping[tuple[str, int], Summary]

    @property
    def tasks(self) -> list[str]:
        """The names of the suite's tasks; none when no run finished."""
        return list(next(iter(self.runs.values()))["metric"]) if self.runs else []

    def scores(self, method: str) -> dict[int, float]:
        """By seed: the mean test score over the tasks."""
        return {seed: float(run["test_score_mean"]) for (name, seed), run in self.runs.items() if name == method}


def suite_report(plan: Plan, runs: SuiteRuns) -> dict[str, Any]:
    """The rows of a suite in the order of the plan, and the tuning behind them.

    best: the method of the highest mean test score among those whose runs all finished.
    """
    scores = {method: runs.scores(method) for method in plan.methods}
    complete = [method for method in plan.methods if len(scores[method]) == len(plan.seeds)]
    means = {method: interval(list(scores[method].values())).mean for method in complete}
    best = max(complete, key=lambda method: means[method], default=None)
    cells = {
        method: [_cell(runs, method, seed, task) for seed in plan.seeds for task in runs.tasks]
        for method in plan.methods
    }
    ranks = mean_ranks(cells) if runs.tasks else {}
    others = {"reference": plan.reference, "best": best}
    differences = {what: _differences(scores, other) for what, other in others.items() if other is not None}
    rows = []
    for method in plan.methods:
        setting, finished = runs.settings[method], scores[method]
        row: dict[str, Any] = {
            "method": method,
            "setting": None if setting is None else list(setting),
            "runs": len(plan.seeds),
            "failed": len(plan.seeds) - len(finished),
            "scores": {str(seed): finished.get(seed) for seed in plan.seeds},
            "test": _interval(list(finished.values())),
            "tasks": {task: _task_mean(runs, method, task) for task in runs.tasks},
            "rank": ranks.get(method),
        }
        row |= {f"minus {what}": found[method] for what, found in differences.items() if method in found}
        rows.append(row)
    return {
        "suite": runs.suite,
        "reference": plan.reference,
        "best": best,
        "rows": rows,
        "tuning": tuning_report(plan, runs.tuning),
    }


def _cell(runs: SuiteRuns, method: str, seed: int, task: str) -> float:
    run = runs.runs.get((method, seed))
    return -math.inf if run is None else task_score(run, task)


def _task_mean(runs: SuiteRuns, method: str, task: str) -> dict[str, float | None] | None:
    return _interval([task_score(run, task) for (name, _), run in runs.runs.items() if name == method])


def _interval(values: Sequence[float]) -> dict[str, float | None] | None:
    """JSON knows no infinity: the half width of a single value is null."""
    if not values:
        return None
    found = interval(values)
    return {"mean": found.mean, "half": found.half if math.isfinite(found.half) else None}


def _differences(scores: Mapping[str, Mapping[int, float]], other: str) -> dict[str, dict[str, Any]]:
    """By method: its differences to ``other`` over the seeds that both finished, tested as one family."""
    pairs = {
        method: [score - scores[other][seed] for seed, score in mine.items() if seed in scores[other]]
        for method, mine in scores.items()
        if method != other
    }
    pairs = {method: values for method, values in pairs.items() if values}
    plain = [paired_p(values) for values in pairs.values()]
    return {
        method: {"method": other, "pairs": len(values), **(_interval(values) or {}), "p": p, "p_holm": corrected}
        for (method, values), p, corrected in zip(pairs.items(), plain, holm(plain), strict=True)
    }


def runs_csv(plan: Plan, suites: Sequence[SuiteRuns]) -> str:
    """One line per run of every suite, those of tuning apart; a column for each task of any suite."""
    tasks = list(dict.fromkeys(task for runs in suites for task in runs.tasks))
    rows = []
    for runs in suites:
        for method in plan.methods:
            setting = runs.settings[method]
            shown = "none" if setting is None else label(setting)
            for seed in plan.seeds:
                run = runs.runs.get((method, seed))
                cells = ["failed"] if run is None else _run_cells(run, tasks)
                rows.append([runs.suite, method, shown, seed, *cells])
    return csv_text(["suite", "method", "setting", "seed", *RUN_COLUMNS, *tasks], rows)


def _run_cells(run: Summary, tasks: Sequence[str]) -> list[str]:
    own = list(run["metric"])
    cells = run_cells(run, own)
    scores = dict(zip(own, cells[len(RUN_COLUMNS) :], strict=True))
    return [*cells[: len(RUN_COLUMNS)], *(scores.get(task, "") for task in tasks)]


def seconds_csv(plan: Plan, suites: Sequence[SuiteRuns]) -> str:
    """How long the runs took: the one file of a comparison that is not the same the next time."""
    rows: list[list[object]] = []
    for runs in suites:
        for method, trials in runs.tuning.items():
            done = [(trial.setting, trial.summary) for trial in trials if trial.summary is not None]
            rows += [[runs.suite, method, label(one), plan.tuning_seed, "tuning", run["seconds"]] for one, run in done]
        for (method, seed), run in runs.runs.items():
            rows.append([runs.suite, method, label(runs.settings[method] or ()), seed, "test", run["seconds"]])
    return csv_text(["suite", "method", "setting", "seed", "phase", "seconds"], rows)
