"""Theorems 2 and 3 beside what was measured, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rich.table import Column, Table

from lossrag.experiments.theory.bounds import query_bound, train_slack


def theory_report(
    tasks: Sequence[str],
    losses: Mapping[str, Sequence[float]],
    sizes: Mapping[str, Sequence[int]],
    draws: Sequence[float],
    delta: float,
    shared_input: bool,
    query_seen: bool,
) -> dict[str, Any]:
    """The content of theory.json: ``losses`` and ``sizes`` by split (support, query, test), a number per task.

    draws: :func:`estimate_complexity`. query_seen: whether the query split was trained on, so that Theorem 3 has
    nothing to say about it.
    """
    rows = {
        task: {
            **{split: losses[split][t] for split in ("support", "query", "test")},
            "test_minus_train": losses["test"][t] - losses["support"][t],
            "test_minus_query": losses["test"][t] - losses["query"][t],
            "query_samples": sizes["query"][t],
            "query_bound": query_bound(sizes["query"][t], delta),
        }
        for t, task in enumerate(tasks)
    }
    bounds = [row["query_bound"] for row in rows.values()]
    gaps = {gap: mean(row[gap] for row in rows.values()) for gap in ("test_minus_train", "test_minus_query")}
    complexity, slack = mean(draws), train_slack(sizes["support"], delta, shared_input)
    return {
        "delta": delta,
        "tasks": rows,
        "theorem_2": {
            "gap": gaps["test_minus_train"],
            "complexity_from_below": complexity,
            "draws": list(draws),
            "slack": slack,
            "bound_from_below": 2 * complexity + slack,
        },
        "theorem_3": {"applies": not query_seen, "gap": gaps["test_minus_query"], "bound": mean(bounds)},
    }


def theory_table(report: Mapping[str, Any]) -> Table:
    """The table for the terminal: a line per task and one for the mean over them."""
    names = ("train", "query", "test", "test - train", "test - query", "theorem 3")
    title = f"gaps of the chosen model, {report['loss']}; delta {report['delta']:g}"
    table = Table("task", *(Column(name, justify="right") for name in names), title=title)
    keys = ("support", "query", "test", "test_minus_train", "test_minus_query", "query_bound")
    for task, row in report["tasks"].items():
        table.add_row(task, *(f"{row[key]:.4f}" for key in keys))
    table.add_section()
    table.add_row("mean", *(f"{mean(row[key] for row in report['tasks'].values()):.4f}" for key in keys))
    return table


def theory_sentences(report: Mapping[str, Any]) -> list[str]:
    """A sentence for each theorem on this run."""
    two, three = report["theorem_2"], report["theorem_3"]
    low = two["bound_from_below"]
    lines = [
        f"theorem 2: test - train is {two['gap']:.4f}; its bound is at least 2 x {two['complexity_from_below']:.4f} + "
        f"{two['slack']:.4f} = {low:.4f}" + (", so it says nothing about a loss in [0, 1]" if low >= 1 else ""),
    ]
    if not three["applies"]:
        lines.append(
            "theorem 3 does not apply: this run trained on its query split; with "
            "train.query_for_baselines=support it would not"
        )
    else:
        relation = "within" if three["gap"] <= three["bound"] else "more than"
        lines.append(f"theorem 3: test - query is {three['gap']:.4f}, {relation} its bound of {three['bound']:.4f}")
    return lines
