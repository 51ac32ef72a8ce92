"""Page of a report: one HTML file of text, tables and inlined charts, without scripts; every name in it is escaped."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lossrag import __version__
from lossrag.experiments.report.charts import compositions_chart, progress_chart, residuals_chart, trajectories_chart
from lossrag.experiments.report.decisions import MOST, decisions, sentences
from lossrag.experiments.report.groups import Interval, Problem
from lossrag.experiments.report.outcomes import confusions, residuals
from lossrag.experiments.report.reading import LeftOut, ReportedRun
from lossrag.experiments.studies.results import interval_text

OPEN = 1
"""Runs whose details are unfolded."""
DRAWN = 60
"""Runs with pictures of their own: more make a page too large to open."""
ACROSS = 8
"""Groups up to which the table by task has a column for each; above, it has a column for each task."""


@dataclass(frozen=True)
class Cell:
    """A figure of a table; best: of those that it is compared with. below: a second one, in small."""

    text: str
    best: bool = False
    below: str = ""


def html(
    problems: Sequence[Problem], left_out: Sequence[LeftOut], notes: Sequence[str], arguments: Sequence[str]
) -> str:
    """The page; ``arguments`` are those of `lossrag report`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = [run for problem in problems for run in problem.runs]
    places = {id(run): place for place, run in enumerate(runs)}
    each = max(1, DRAWN // sum(len(problem.groups) for problem in problems))
    sections = [
        {
            "problem": problem,
            "rows": _overview(problem),
            # of a single run its own table and curves say the same
            "tasks": _by_task(problem) if len(problem.runs) > 1 else None,
            "progress": progress_chart(problem) if len(problem.runs) > 1 else None,
            "runs": [
                {"place": places[id(run)], "title": group.label, **_details(run, number < each)}
                for group in problem.groups
                for number, run in enumerate(group.runs)
            ],
        }
        for problem in problems
    ]
    page = environment.get_template("page.html.jinja")
    return page.render(
        sections=sections,
        left_out=left_out,
        notes=notes,
        runs=len(runs),
        open=OPEN,
        command=_command("report", arguments),
        version=__version__,
    )


def _command(name: str, arguments: Sequence[str]) -> str:
    """A command line as a shell reads it."""
    return shlex.join(["lossrag", name, *arguments])


def _p(minus: Interval | None) -> str:
    p = None if minus is None else minus["p_holm"]
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _overview(problem: Problem) -> list[list[Cell]]:
    """A row for each group: label, seeds, validation, test, difference, p, rank."""
    best = problem.best([group.test for group in problem.groups])
    lowest = problem.best(
        [None if group.rank is None else {"mean": group.rank} for group in problem.groups], lower=True
    )
    return [
        [
            Cell(group.label),
            Cell(group.seeds),
            Cell(interval_text(group.validation)),
            Cell(interval_text(group.test), group.test["mean"] == best),
            Cell(interval_text(group.minus, "+") or ("reference" if group.label == problem.reference else "")),
            Cell(_p(group.minus)),
            Cell("" if group.rank is None else f"{group.rank:.2f}", group.rank is not None and group.rank == lowest),
        ]
        for group in problem.groups
    ]


def _by_task(problem: Problem) -> dict[str, Any]:
    """Header and rows of the table by task: test scores, below them those on validation."""
    columns = []
    for task in problem.metrics:
        lower = task in problem.errors
        tests = [group.task_test(task) for group in problem.groups]
        best = problem.best(tests, lower)
        below = [interval_text(group.task_validation(task)) for group in problem.groups]
        columns.append(
            [Cell(interval_text(test), test["mean"] == best, own) for test, own in zip(tests, below, strict=True)]
        )
    tasks = [
        (task, metric + (", less is better" if task in problem.errors else ""))
        for task, metric in problem.metrics.items()
    ]
    groups = [(group.label, "") for group in problem.groups]
    if len(problem.groups) <= ACROSS:
        return {"corner": "task", "header": groups, "rows": list(zip(tasks, columns, strict=True))}
    return {
        "corner": "runs",
        "header": tasks,
        "rows": list(zip(groups, map(list, zip(*columns, strict=True)), strict=True)),
    }


def _details(run: ReportedRun, drawn: bool) -> dict[str, Any]:
    summary = run.run.summary
    told = decisions(run)
    rest = residuals(run)
    said = run.overrides
    return {
        "run": run,
        "summary": summary,
        "path": str(run.run.path),
        "command": None if said is None else _command("train", said),
        "changed": None if said is None else [text for text in said if text.partition("=")[0] != "experiment"],
        "table": [
            (
                task,
                metric + (", less is better" if run.run.lower_is_better(task) else ""),
                f"{run.validation[task]:.4f}" if task in run.validation else "",
                f"{run.run.score(task):.4f}",
                f"{summary['test_loss'][task]:.4f}",
                f"{summary['task_weights'][task]:.3f}",
            )
            for task, metric in run.metrics.items()
        ],
        "drawn": drawn,
        "alone": _command("report", [str(run.run.path)]),
        "trajectories": trajectories_chart(run) if drawn else None,
        "compositions": compositions_chart(run) if drawn else None,
        "sentences": sentences(run),
        "decisions": told[:MOST],
        "more": max(len(told) - MOST, 0),
        "confusions": confusions(run),
        "residuals": rest,
        "scatter": residuals_chart(rest, f"Predicted against true values, {run.id}") if drawn else None,
        "notes": run.notes,
    }
