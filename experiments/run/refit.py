"""Refit: once the weights are learned, the held-out query data may train the model as well."""

from __future__ import annotations

import torch
from torch import Tensor

from lossrag.experiments.config.schema import Config
from lossrag.experiments.run.build import build_optimizer, build_problem, trains_on_query
from lossrag.experiments.run.problem import Problem
from lossrag.experiments.run.schedule import Schedule
from lossrag.streams import step_seed
from lossrag.tasks import Suite, epoch_plan, pool_query
from lossrag.weighting import MultiTaskStep, Uniform


def refit(config: Config, suite: Suite, trajectory: Tensor, device: torch.device) -> Problem:
    """A fresh model trained on support and query with the learned weights: ``trajectory`` (E, T) by epoch.

    Same initialisation, optimiser and batch size as the run; E epochs, no selection among them.
    """
    pooled = suite if trains_on_query(config) else pool_query(suite)
    problem = build_problem(config, pooled, device)
    optimizer = build_optimizer(config.optimizer, problem.model)
    if problem.adversary is not None:
        problem.adversary.attach(optimizer)
    step = MultiTaskStep(problem.model.parameters(), optimizer, Uniform(), suite.task_names)
    size = config.train.batch_size
    steps = len(epoch_plan(problem.suite, "support", size, config.seed, 0)) * len(trajectory)
    schedule = Schedule.of(config.optimizer, optimizer, steps)
    for epoch, weights in enumerate(trajectory):
        step.state = {"weights": weights.to(step.task_weights)}
        for index in epoch_plan(problem.suite, "support", size, config.seed, epoch):
            schedule.set(step.count)
            torch.manual_seed(step_seed(config.seed, step.count))
            step(problem.batch_losses("support", index, route="joint")[0]).check()
    return problem
