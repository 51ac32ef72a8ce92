"""What a look far ahead sees of a run: the features of many rows as they are now, and the tasks' heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from lossrag.experiments.run.objective import BatchObjective
from lossrag.experiments.run.problem import EVALUATION_ROWS, Problem
from lossrag.lossbank import HeadView, Lens, calibrated
from lossrag.models import Outputs
from lossrag.streams import Stream, generator


@dataclass(frozen=True)
class Outlook:
    """One task: its head with its rows, the outputs for them, and its outer loss () on the query rows."""

    view: HeadView
    lens: Lens
    query: Outputs
    query_targets: Tensor
    query_loss: Tensor


def outlook(problem: Problem, rows: int, seed: int, step: int) -> list[Outlook]:
    """Every task on up to ``rows`` of its support rows, and as many query rows, drawn by (seed, step)."""
    training = problem.model.training
    problem.model.eval()
    with torch.no_grad():
        support, fit = _outputs(problem, "support", rows, seed, step)
        query, objective = _outputs(problem, "query", rows, seed, step)
    problem.model.train(training)
    return [_task(problem, t, support[t], fit, query[t], objective) for t in range(len(support))]


def _outputs(problem: Problem, split: str, rows: int, seed: int, step: int) -> tuple[list[Outputs], BatchObjective]:
    index = []
    for t, examples in enumerate(problem.suite.splits[split]):
        chance = generator(seed, Stream.LOOK_AHEAD, step, 0 if problem.suite.shared_input else t)
        index.append(torch.from_numpy(chance.permutation(len(examples.targets))[:rows]))
    inputs, objective = problem.batch(split, index)
    model = problem.model
    if problem.suite.shared_input:
        parts = [model.forward_shared(each) for each in torch.split(inputs[0], EVALUATION_ROWS)]
    else:  # a task's rows at a time: what is held does not grow with their number
        by_task = [
            [model.outputs(each, t) for each in torch.split(inputs[t], EVALUATION_ROWS)] for t in range(len(inputs))
        ]
        return [_joined(each) for each in by_task], objective
    return [_joined([part[t] for part in parts]) for t in range(len(index))], objective


def _joined(parts: list[Outputs]) -> Outputs:
    return Outputs(torch.cat([part.logits for part in parts]), torch.cat([part.features for part in parts]))


def _task(
    problem: Problem, t: int, support: Outputs, fit: BatchObjective, query: Outputs, objective: BatchObjective
) -> Outlook:
    head = cast(nn.Linear, problem.model.heads[t])
    weight, bias = head.weight.detach(), head.bias.detach()
    counts = fit.mixtures[t].class_counts
    judge = _judge(problem, t, query, objective)
    logits = query.logits.clone().requires_grad_()
    with torch.enable_grad():
        loss = objective.one(t, Outputs(logits, query.features))
    (at,) = torch.autograd.grad(loss, logits)
    ratio = at.norm() / (at @ weight).norm().clamp(min=1e-12)
    view = HeadView(weight, bias, support.features, fit.targets[t], query.features, judge, counts)
    still = [torch.zeros_like(each) for each in support]
    lens = Lens(support.logits, still[0], support.features, still[1], fit.targets[t], counts, ratio)
    return Outlook(view, lens, query, objective.targets[t], loss.detach())


def _judge(problem: Problem, t: int, query: Outputs, objective: BatchObjective) -> Callable[[Tensor], Tensor]:
    targets = objective.targets[t]
    if problem.suite.tasks[t].kind != "classification":
        return lambda logits: torch.stack([objective.one(t, Outputs(each, query.features)) for each in logits])
    weights = torch.full((len(targets),), 1 / len(targets), dtype=torch.float64, device=targets.device)
    if objective.by_class:
        counts = torch.bincount(targets)
        weights = 1 / counts[targets].double() / (counts > 0).sum()
    return partial(calibrated, targets=targets, weights=weights)
