"""Finished runs as lines of a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RUN_COLUMNS = ("run_id", "best_epoch", "validation", "test")
"""What :func:`run_cells` begins with; a column for each task follows."""


def task_score(summary: Mapping[str, Any], task: str) -> float:
    """The test score of a task in a summary.json: accuracy, or R^2 for a regression."""
    return float({**summary["test_accuracy"], **summary["test_r2"]}[task])


def run_cells(summary: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """The cells under RUN_COLUMNS and the names of ``tasks``."""
    scores = [summary["validation_score_mean"], summary["test_score_mean"], *(task_score(summary, t) for t in tasks)]
    return [summary["run_id"], str(summary["best_epoch"]), *(f"{score:.6f}" for score in scores)]


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
