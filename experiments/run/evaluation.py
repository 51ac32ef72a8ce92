"""Evaluation of a model: loss and score of its tasks over whole splits, in batches that depend on the rows alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossrag.experiments.record.series import Evaluation
from lossrag.experiments.run.objective import score
from lossrag.labels import labelled, labelled_mean
from lossrag.lossbank import Mixture
from lossrag.models import MultiTaskModel
from lossrag.tasks import METRICS, Examples, Inputs, Task, ordered_batches

EVALUATION_ROWS = 512
"""Rows per forward pass when a whole split is evaluated."""


def evaluate_tasks(
    model: MultiTaskModel,
    tasks: Sequence[Task],
    losses: Sequence[Mixture],
    examples: Sequence[Examples],
    device: torch.device,
    heads: Sequence[int] | None = None,
) -> Evaluation:
    """Mean loss and score of every task over its labelled rows, in evaluation mode; training mode is left behind.

    heads: the tasks of the model that these are, None for all.
    """
    heads = range(len(tasks)) if heads is None else heads
    model.eval()
    with torch.no_grad():
        results = [
            _evaluate_task(model, t, task, loss, own, device)
            for t, task, loss, own in zip(heads, tasks, losses, examples, strict=True)
        ]
    model.train()
    means, scores = torch.stack([result[0] for result in results]), torch.stack([result[1] for result in results])
    worths = [METRICS[task.metric].worth(task, value) for task, value in zip(tasks, scores.tolist(), strict=True)]
    rows = tuple(result[2] for result in results)
    return Evaluation(means, scores, torch.tensor(worths, dtype=torch.float64), rows)


def _evaluate_task(
    model: MultiTaskModel, t: int, task: Task, loss: Mixture, examples: Examples, device: torch.device
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    batches = ordered_batches(examples.inputs, EVALUATION_ROWS)
    parts = [model.outputs(examples.inputs.gather(rows).to(device), t) for rows in batches]
    logits, features = torch.cat([part.logits for part in parts]), torch.cat([part.features for part in parts])
    targets = examples.targets[torch.cat(batches)].to(device)
    told = labelled(targets)
    known = None if told.all() else told
    values = loss(logits, targets, features, True if known is None else None).double()
    mean = values.mean() if known is None else labelled_mean(values, known)
    order = torch.cat(batches).argsort().to(device)
    told_in_order = order[told[order]]
    rows = _rows(task, targets[told_in_order], logits[told_in_order])
    if task.metric == task.batch_metric:
        return mean.cpu(), score(task, logits, targets, known).cpu(), rows
    if not mean.isfinite():  # that ends a run with its own words; metrics fail on such outputs
        return mean.cpu(), torch.tensor(float("nan"), dtype=torch.float64), rows
    value = METRICS[task.metric].score(task, logits[told], targets[told])
    return mean.cpu(), torch.tensor(value, dtype=torch.float64), rows


def _rows(task: Task, targets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    if task.kind == "classification":
        return targets.int().cpu(), logits.argmax(dim=1).int().cpu()
    return targets.float().cpu(), logits.float().cpu()


def predict_tasks(model: MultiTaskModel, heads: Sequence[int], inputs: Inputs, device: torch.device) -> list[Tensor]:
    """Logits (N, K) of the tasks ``heads`` for the same inputs, on the CPU and in their order; training mode is left
    behind.

    The batches are those of an evaluation of these rows, so the logits are as well.
    """
    model.eval()
    batches = ordered_batches(inputs, EVALUATION_ROWS)
    parts = []
    with torch.no_grad():
        for rows in batches:
            batch = inputs.gather(rows).to(device)
            outputs = {heads[0]: model.outputs(batch, heads[0])} if len(heads) == 1 else model.forward_shared(batch)
            parts.append([outputs[t].logits.cpu() for t in heads])
    model.train()
    order = torch.cat(batches)
    joined = [torch.cat(own) for own in zip(*parts, strict=True)]
    return [torch.empty_like(own).index_copy_(0, order, own) for own in joined]
