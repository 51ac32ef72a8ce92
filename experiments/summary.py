"""What a finished run leaves: summary.json for scripts and one table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.composition_summary import sentence
from experiments.config import Config
from experiments.problem import Evaluation
from experiments.rundir import RunDirectory
from experiments.score import metric_name
from experiments.theory.descent import descent_sentence
from lossrag import __version__
from lossrag.files import write_atomic
from tasks import Suite


def write_summary(
    directory: RunDirectory,
    config: Config,
    settings: Mapping[str, Any],
    suite: Suite,
    test: Evaluation,
    best_epoch: int,
    best_score: float,
    task_weights: Tensor,
    seconds: float,
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """Write summary.json: test results of the epoch that validation chose, and its mean task weights.

    ``test_accuracy`` holds the classification tasks, ``test_r2`` the regressions; ``test_score_mean`` is the mean
    over all. ``further`` is what else there is to say of some runs: ``compositions`` and ``off`` where losses are
    composed, ``theorem_1`` with an outer problem.
    """
    scores = dict(zip(suite.tasks, test.scores.tolist(), strict=True))
    accuracy = {task.name: value for task, value in scores.items() if task.kind == "classification"}
    summary: dict[str, Any] = {
        "run_id": directory.run_id,
        "directory": str(directory.path),
        "preset": settings["preset"],
        "seed": config.seed,
        "suite": suite.name,
        "edition": suite.edition,
        "weighting": config.weighting.name,
        "metric": {task.name: metric_name(task) for task in suite.tasks},
        "test_accuracy": accuracy,
        "test_accuracy_mean": sum(accuracy.values()) / len(accuracy) if accuracy else None,
        "test_r2": {task.name: value for task, value in scores.items() if task.kind == "regression"},
        "test_score_mean": float(test.scores.mean()),
        "test_loss": dict(zip(suite.task_names, test.losses.tolist(), strict=True)),
        "task_weights": dict(zip(suite.task_names, task_weights.tolist(), strict=True)),
        "best_epoch": best_epoch,
        "validation_score_mean": best_score,
        "epochs": config.train.epochs,
        "refit": config.train.refit,
        **further,
        "seconds": round(seconds, 3),
        "versions": {"lossrag": __version__, "torch": torch.__version__},
    }
    write_atomic(directory.summary, json.dumps(summary, indent=2).encode() + b"\n")
    return summary


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """The final table: per task and mean test score, and the task weights of the chosen epoch."""
    table = Table(title=f"{summary['weighting']} on {summary['suite']}: test set, best epoch {summary['best_epoch']}")
    table.add_column("task")
    for column in ("test score", "test loss", "weight"):
        table.add_column(column, justify="right")
    scores = {**summary["test_accuracy"], **summary["test_r2"]}
    for task, metric in summary["metric"].items():
        table.add_row(
            task,
            f"{scores[task]:.4f} {metric}",
            f"{summary['test_loss'][task]:.4f}",
            f"{summary['task_weights'][task]:.3f}",
        )
    table.add_section()
    if summary["test_accuracy_mean"] is not None:
        table.add_row("mean", f"{summary['test_accuracy_mean']:.4f} accuracy", "", "")
    console.print(table)
    for task, shares in summary.get("compositions", {}).items():
        console.print(sentence(task, shares, len(summary["off"][task])), highlight=False, markup=False, soft_wrap=True)
    if "theorem_1" in summary:
        console.print(descent_sentence(summary["theorem_1"]), highlight=False, soft_wrap=True)
    console.print(
        f"preset {summary['preset']}, seed {summary['seed']}, {summary['edition']}; {summary['seconds']:.0f} s\n"
        f"results   {summary['directory']}/summary.json\n"
        f"picture   {summary['directory']}/trajectories.png\n"
        + (f"losses    {summary['directory']}/compositions.png, losses.png\n" if "compositions" in summary else "")
        + f"curves    tensorboard --logdir {summary['directory']}/tensorboard",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
