"""Results of a study: scores by row and seed as lines of a CSV file and as one table, shown in three ways."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from rich.table import Column, Table

from lossrag.experiments.record.finished import Summary, lower_is_better, task_score

RUN_COLUMNS = ("run_id", "best_epoch", "validation", "test")
"""Columns of a finished run, before one for each task."""


@dataclass(frozen=True)
class Results:
    """Finished runs of one suite, by row and seed; ``rows`` and ``seeds`` are all that there should be."""

    rows: Sequence[str]
    seeds: Sequence[int]
    runs: Mapping[tuple[str, int], Summary]

    @property
    def tasks(self) -> list[str]:
        """The names of the suite's tasks; none when no run finished."""
        return list(next(iter(self.runs.values()))["metric"]) if self.runs else []

    @property
    def errors(self) -> list[str]:
        """Those of the tasks whose score is better when it is lower."""
        return [task for task in self.tasks if lower_is_better(next(iter(self.runs.values())), task)]

    @property
    def scores(self) -> dict[str, dict[int, float]]:
        """By row and seed: the mean test score over the tasks."""
        return {
            row: {
                seed: float(self.runs[row, seed]["test_score_mean"]) for seed in self.seeds if (row, seed) in self.runs
            }
            for row in self.rows
        }

    @property
    def complete(self) -> list[str]:
        """The rows whose runs all finished."""
        return [row for row, scores in self.scores.items() if len(scores) == len(self.seeds)]

    def best(self, rows: Iterable[str]) -> str | None:
        """Of these rows the one with the highest mean among those whose runs all finished."""
        means = {row: mean(self.scores[row].values()) for row in rows if row in self.complete}
        return max(means, key=means.__getitem__, default=None)

    def of_task(self, row: str, task: str) -> list[float]:
        """The test scores of a task over the seeds."""
        return [task_score(self.runs[row, seed], task) for seed in self.scores[row]]


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV file of these rows.

    >>> csv_text(["a", "b"], [[1, "x,y"]])
    'a,b\\n1,"x,y"\\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def runs_csv(
    keys: Sequence[str], runs: Sequence[tuple[Sequence[object], Summary | None]], seconds: bool = False
) -> str:
    """A line per run: its cells under ``keys``, then run id, best epoch, validation, test, every task of any run (and
    how many seconds it took, and where a run asked a bank how far its compositions moved at most, as summary.json says
    by task); a run without a summary failed."""
    tasks = list(dict.fromkeys(task for _, run in runs if run is not None for task in run["metric"]))

    def cells(run: Summary | None) -> list[str]:
        if run is None:
            return ["failed"]
        scores = [run["validation_score_mean"], run["test_score_mean"]]
        scores += [task_score(run, task) if task in run["metric"] else None for task in tasks]
        texts = ["" if score is None else f"{score:.6f}" for score in scores]
        moved = max(run.get("steadiness", {}).get("moved", {}).values(), default=None)
        values = {"seconds": str(round(run["seconds"])), "moved": "" if moved is None else f"{moved:.6f}"}
        return [run["run_id"], str(run["best_epoch"]), *texts, *(values[name] for name in last)]

    asked = any("steadiness" in run for _, run in runs if run is not None)
    last = ["seconds", *(["moved"] if asked else [])] if seconds else []
    return csv_text([*keys, *RUN_COLUMNS, *tasks, *last], [[*key, *cells(run)] for key, run in runs])


@dataclass(frozen=True)
class Grid:
    """Texts under a header, the first column to the left: the same cells for the terminal, in Markdown and in LaTeX."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self, title: str, caption: str | None = None) -> Table:
        """For the terminal."""
        first, *others = self.header
        table = Table(first, *(Column(name, justify="right") for name in others), title=title, caption=caption)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """A table of Markdown."""
        rule = ["---", *("---:" for _ in self.header[1:])]
        return "\n".join("| " + " | ".join(line) + " |" for line in [self.header, rule, *self.rows])

    def latex(self, caption: str) -> str:
        """A table environment; it needs the package booktabs."""
        header, *lines = [" & ".join(map(_escaped, line)) + r" \\" for line in [self.header, *self.rows]]
        begin = [r"\begin{table}", rf"\caption{{{_escaped(caption)}}}"]
        begin += [rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}", r"\toprule", header, r"\midrule"]
        return "\n".join([*begin, *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _escaped(text: str) -> str:
    special = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "±": r"$\pm$", "<": "$<$"}
    return "".join(special.get(letter, letter) for letter in text)


def mean_text(value: Mapping[str, Any] | None) -> str:
    """The mean of an interval as it stands in JSON, None for nothing."""
    return "" if value is None else f"{value['mean']:.4f}"


def interval_text(value: Mapping[str, Any] | None, sign: str = "") -> str:
    """The same with its half width, which a single value has not."""
    if value is None:
        return ""
    middle = f"{value['mean']:{sign}.4f}"
    return middle if value["half"] is None else f"{middle} ± {value['half']:.4f}"
