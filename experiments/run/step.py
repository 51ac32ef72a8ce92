"""Steps of a run: from the rows of its batches to what they report, a function of (seed, step) and the tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossrag.errors import DivergedError
from lossrag.experiments.config.schema import Config
from lossrag.experiments.record.series import StepOutcome
from lossrag.experiments.run.build import build_step, passes_route
from lossrag.experiments.run.learned_losses import StepRows, build_learned_losses
from lossrag.experiments.run.problem import Problem
from lossrag.experiments.run.schedule import Schedule
from lossrag.lossbank import LearnedLosses
from lossrag.streams import step_seed
from lossrag.tasks import epoch_plan, query_index
from lossrag.weighting import MultiTaskStep


@dataclass(frozen=True)
class BatchStep:
    """Feeds the batches of a run to its step, and to its learned losses if it has any."""

    config: Config
    problem: Problem
    step: MultiTaskStep
    learned: LearnedLosses | None
    schedule: Schedule | None = None

    @staticmethod
    def of(config: Config, problem: Problem, epochs: int) -> BatchStep:
        """A fresh step for so many epochs."""
        step = build_step(config, problem)
        steps = len(_plan(config, problem, 0)) * epochs
        learned = build_learned_losses(config, problem, steps)
        step.keep_query_gradient = learned is not None and learned.evidence is not None and learned.evidence.follows
        return BatchStep(config, problem, step, learned, Schedule.of(config.optimizer, step.optimizer, steps))

    def plan(self, epoch: int) -> list[tuple[Tensor, ...]]:
        """The steps of an epoch, from 0: the support rows (B,) of every task."""
        return _plan(self.config, self.problem, epoch)

    def __call__(self, index: tuple[Tensor, ...], epoch: int) -> StepOutcome:
        """One update from the support rows ``index[t]`` (B,) of every task, in this epoch (from 0)."""
        config, problem, learned = self.config, self.problem, self.learned
        # a function of (seed, step) alone: dropout needs no generator state in a checkpoint, on any device
        torch.manual_seed(step_seed(config.seed, self.step.count))
        if self.schedule:
            self.schedule.set(self.step.count)
        route = passes_route(config)
        rows = problem.trained_rows(index) if route == "groups" else None
        size = config.outer.batch_size or config.train.batch_size
        query_rows = query_index(problem.suite, size, config.seed, self.step.count)
        shown = StepRows(problem, config.seed, self.step.count, {"support": index, "query": query_rows})
        mixtures = learned.begin(self.step.count + 1, shown) if learned else None
        needs = config.weighting.options.needs
        keep = needs.representation is not None
        support, batch = problem.batch_losses(
            "support", index, route=route, rows=rows, mixtures=mixtures, keep_features=keep
        )
        query = query_batch = None
        if needs.hypergradient is not None:
            query, query_batch = problem.batch_losses(
                "query", query_rows, route=route, rows=rows, keep_features=learned is not None
            )
        try:
            record = self.step(support, query, epoch=epoch, scores=batch.scores, representation=batch.representation)
        except DivergedError as error:
            raise made_of(error, learned) from None
        # what a step that was left out has seen moves no composition; a question is asked all the same
        if learned and (record.skipped is None or record.step in learned.looks):
            kept = query_batch if record.query_gradient is not None else None
            shown = replace(shown, step=record.step, batch=kept)
            learned.end(record.step, shown, query_gradient=record.query_gradient, lam=record.lam)
        terms = problem.adversary.measured() if problem.adversary else {}
        # no query pass where the step was left out, or the outer problem is not due
        reached = query_batch.scores() if query_batch and record.query_losses is not None else None
        return StepOutcome(record, batch.scores(), reached, terms, self.step.skipped)


def made_of(error: DivergedError, learned: LearnedLosses | None) -> DivergedError:
    """The error of a step, with the losses that the tasks it names are made of, one of which it may be."""
    made = learned.composer.compositions() if learned else {}
    words = set(re.findall(r"[^\s,:;()]+", str(error)))
    mixed = [
        f"{task} was trained with {', '.join(shares)}"
        for task, shares in made.items()
        if task in words and len(shares) > 1
    ]
    return DivergedError(f"{error} {'; '.join(mixed)}." if mixed else str(error))


def _plan(config: Config, problem: Problem, epoch: int) -> list[tuple[Tensor, ...]]:
    return epoch_plan(problem.suite, "support", config.train.batch_size, config.seed, epoch)
