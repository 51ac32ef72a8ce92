"""One step of a run: from the rows of its batches to what it reports, a function of (seed, step) and the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lossrag.experiments.config.schema import Config
from lossrag.experiments.run.build import passes_route
from lossrag.experiments.run.learned_losses import end_step
from lossrag.experiments.run.problem import Problem
from lossrag.experiments.run.schedule import Schedule
from lossrag.lossbank import LearnedLosses
from lossrag.streams import step_seed
from lossrag.tasks import query_index
from lossrag.weighting import MultiTaskStep, StepRecord


@dataclass(frozen=True)
class StepOutcome:
    """The record of a step, and the tasks' scores (T,) on its support batch and, with an outer problem, query batch.

    terms: what an adversarial model adds to training, (T,) by the names of their series (:meth:`Adversary.measured`).
    """

    record: StepRecord
    scores: Tensor
    query_scores: Tensor | None
    terms: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchStep:
    """Feeds the batches of a run to its step, and to its learned losses if it has any."""

    config: Config
    problem: Problem
    step: MultiTaskStep
    learned: LearnedLosses | None
    schedule: Schedule | None = None

    def __call__(self, index: tuple[Tensor, ...], epoch: int) -> StepOutcome:
        """One update from the support rows ``index[t]`` (B,) of every task, in this epoch (from 0)."""
        config, problem, learned = self.config, self.problem, self.learned
        # a function of (seed, step) alone: dropout needs no generator state in a checkpoint, on any device
        torch.manual_seed(step_seed(config.seed, self.step.count))
        if self.schedule:
            self.schedule.set(self.step.count)
        route = passes_route(config)
        rows = problem.trained_rows(index) if route == "groups" else None
        mixtures = learned.begin(self.step.count + 1) if learned else None
        needs = config.weighting.options.needs
        keep = needs.representation is not None
        support, batch = problem.batch_losses(
            "support", index, route=route, rows=rows, mixtures=mixtures, keep_features=keep
        )
        size = config.outer.batch_size or config.train.batch_size
        query_rows = query_index(problem.suite, size, config.seed, self.step.count)
        query = query_batch = None
        if needs.hypergradient is not None:
            query, query_batch = problem.batch_losses(
                "query", query_rows, route=route, rows=rows, keep_features=learned is not None
            )
        record = self.step(support, query, epoch=epoch, scores=batch.scores, representation=batch.representation)
        if learned:
            end_step(learned, problem, record, index, query_rows, config.seed, query_batch)
        terms = problem.adversary.measured() if problem.adversary else {}
        return StepOutcome(record, batch.scores(), query_batch.scores() if query_batch else None, terms)
