"""From the summaries of finished runs to one table: means, paired differences and their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rich.table import Table

from lossrag.experiments.record.cells import RUN_COLUMNS, csv_text, run_cells, task_score
from lossrag.experiments.studies.ablation_plan import Plan
from lossrag.experiments.studies.statistics import Interval, interval

Summaries = Mapping[tuple[str, int], Mapping[str, Any]]
"""By (row, seed): the summary.json of a finished run."""


def scores(summaries: Summaries, row: str, seeds: Sequence[int]) -> list[float]:
    """Mean test score over tasks, by seed."""
    return [float(summaries[row, seed]["test_score_mean"]) for seed in seeds]


def rows_of(plan: Plan, summaries: Summaries) -> list[dict[str, Any]]:
    """A dictionary per row of the plan that has a finished run of every seed."""
    seeds = plan.seeds
    done = [row for row in plan.rows if all((row, seed) in summaries for seed in seeds)]
    of = {row: scores(summaries, row, seeds) for row in done}
    best = max((row for row in plan.fixed if row in of), key=lambda row: mean(of[row]), default=None)
    result = []
    for row in done:
        tasks: dict[str, float] = {}
        for task in summaries[row, seeds[0]]["metric"]:
            tasks[task] = mean(task_score(summaries[row, seed], task) for seed in seeds)
        entry: dict[str, Any] = {"row": row, "seeds": list(seeds), "scores": of[row], "mean": mean(of[row]), **tasks}
        also = [(f"row {other}", other) for one, other in plan.also if one == row]
        for what, other in (("reference", plan.reference), ("best fixed", best), *also):
            if other is not None and other in of and other != row:
                found = interval([a - b for a, b in zip(of[row], of[other], strict=True)])
                entry[f"vs {what}"] = {"row": other, "mean": found.mean, "half": found.half}
        entry["seconds"] = mean(float(summaries[row, seed]["seconds"]) for seed in seeds)
        result.append(entry)
    return result


def rich_table(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> Table:
    """For the terminal."""
    table = Table(title=f"ablation {plan.name}: mean test score over {len(plan.seeds)} seeds, 95 % intervals")
    fixed = {"row", "seeds", "scores", "mean", "seconds"}
    tasks = [key for key in (rows[0] if rows else ()) if key not in fixed and not key.startswith("vs ")]
    for column in ("row", *tasks, "mean", f"minus {plan.reference}", "minus best fixed"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for row in rows:
        shown = [_shown(row[key]) if key in row else "" for key in ("vs reference", "vs best fixed")]
        for key in row:
            if key.startswith("vs row "):
                table.caption = f"{table.caption or ''}{row['row']} {key.replace('row ', '')}: {_shown(row[key])}  "
        table.add_row(row["row"], *(f"{row[task]:.4f}" for task in tasks), f"{row['mean']:.4f}", *shown)
    return table


def _shown(difference: Mapping[str, Any]) -> str:
    return str(Interval(difference["mean"], difference["half"]))


def as_csv(summaries: Summaries) -> str:
    """One line per run."""
    tasks = list(next(iter(summaries.values()))["metric"]) if summaries else []
    rows = [
        [row, seed, *run_cells(summary, tasks), round(summary["seconds"])]
        for (row, seed), summary in sorted(summaries.items())
    ]
    return csv_text(["row", "seed", *RUN_COLUMNS, *tasks, "seconds"], rows)
