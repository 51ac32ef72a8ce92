"""Refit: once the weights are learned, the held-out query data may train the model as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lossrag.experiments.config.schema import Choice, Config
from lossrag.experiments.run.build import build_problem, trains_on_query
from lossrag.experiments.run.problem import Problem
from lossrag.experiments.run.step import BatchStep
from lossrag.models import MultiTaskModel
from lossrag.tasks import Suite, pool_query
from lossrag.weighting import Uniform


def refit(
    config: Config,
    suite: Suite,
    trajectory: Tensor,
    device: torch.device,
    begin: Callable[[MultiTaskModel], object] | None = None,
) -> Problem:
    """A fresh model trained on support and query with the learned weights: ``trajectory`` (E, T) by epoch.

    Same initialisation, optimiser and batch size as the run; E epochs, no selection among them. begin: puts the
    parameters into the model that the run began with, None for fresh ones.
    """
    pooled = suite if trains_on_query(config) else pool_query(suite)
    plain = replace(config, weighting=Choice("uniform", Uniform()))
    problem = build_problem(plain, pooled, device)
    if begin:
        begin(problem.model)
    batch_step = BatchStep.of(plain, problem, len(trajectory))
    for epoch, weights in enumerate(trajectory):
        batch_step.step.state = {"weights": weights.to(batch_step.step.task_weights)}
        for index in batch_step.plan(epoch):
            batch_step(index, epoch)
    return batch_step.problem
