"""The series of a run: one name per number, the same in TensorBoard, metrics.jsonl and the figures.

The table of names in docs/tensorboard.md is held to this file by a test.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from lossrag.experiments.run.objective import metric_name
from lossrag.experiments.run.problem import Evaluation
from lossrag.experiments.run.step import StepOutcome
from lossrag.tasks import Task

Values = dict[str, float]
COMPOSITION = "composition/"
"""What the tags of shares begin with: composition/TASK/LOSS."""
D_TAG = "hypergradient/D"
"""The one entry that is no number: a matrix in metrics.jsonl, a picture in TensorBoard."""


def step_values(outcome: StepOutcome, tasks: Sequence[Task], optimizer: torch.optim.Optimizer) -> Values:
    """The series of one step; ``optimizer`` is as that step left it.

    One transfer from the device for all of them.
    """
    record = outcome.record
    names: list[str] = []
    tensors: list[Tensor] = []

    def put(pattern: str, values: Tensor | None) -> None:
        if values is not None:
            names.extend(pattern.format(metric=metric_name(task), task=task.name) for task in tasks)
            tensors.append(values.double().cpu() if values.device.type == "mps" else values.double())

    put("support/loss/{task}", record.support_losses)
    put("support/{metric}/{task}", outcome.scores)
    put("query/loss/{task}", record.query_losses)
    put("query/{metric}/{task}", outcome.query_scores)
    put("weight/{task}", record.weights)
    put("lambda/{task}", record.lam)
    for name, each in outcome.terms.items():
        put(f"{name}/{{task}}", each)
    if record.gap is not None and record.iterations is not None:
        names += ["frank_wolfe/gap", "frank_wolfe/iterations"]
        tensors += [record.gap.double().view(1), record.iterations.double().view(1)]
    values = dict(zip(names, torch.cat(tensors).tolist(), strict=True))
    return {**values, "optimizer/lr": float(optimizer.param_groups[0]["lr"])}


def split_values(split: str, evaluation: Evaluation, tasks: Sequence[Task]) -> Values:
    """The series of one evaluated split, with the means over tasks that the metric allows."""
    values: Values = {}
    for task, loss, score in zip(tasks, evaluation.losses.tolist(), evaluation.scores.tolist(), strict=True):
        values[f"{split}/loss/{task.name}"] = loss
        values[f"{split}/{metric_name(task)}/{task.name}"] = score
    values[f"{split}/score_mean"] = float(evaluation.scores.mean())
    return values


def layout(tasks: Sequence[Task], composed: bool, terms: Sequence[str]) -> dict[str, dict[str, list[object]]]:
    """TensorBoard's custom scalars: one chart per quantity, the added ``terms`` of an adversarial model among them, all
    tasks in it; where losses are composed one chart per task as well, all its losses in it."""

    def chart(*patterns: str) -> list[object]:
        return ["Multiline", list(patterns)]

    metrics = sorted({metric_name(task) for task in tasks})
    charts = {
        "task weights": chart(r"^weight/.*"),
        "lambda": chart(r"^lambda/.*"),
    }
    for split in ("support", "query", "validation"):
        charts[f"{split} loss"] = chart(rf"^{split}/loss/.*")
        for metric in metrics:
            charts[f"{split} {metric}"] = chart(rf"^{split}/{metric}/.*")
    charts |= {name.replace("/", " "): chart(rf"^{name}/.*") for name in terms}
    categories = {"All tasks": charts}
    if composed:
        charts["active losses"] = chart(r"^composition_active/.*")
        for title, tag in (("Composition", "composition"), ("Contributions", "contribution")):
            categories[title] = {task.name: chart(rf"^{tag}/{re.escape(task.name)}/.*") for task in tasks}
    return categories
