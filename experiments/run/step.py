"""Steps of a run: from the rows of its batches to what they report, a function of (seed, step) and the tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossrag.errors import DivergedError, LossError
from lossrag.experiments.config.schema import Config
from lossrag.experiments.record.series import StepOutcome
from lossrag.experiments.run.build import build_step, passes_route
from lossrag.experiments.run.learned_losses import StepRows, build_learned_losses
from lossrag.experiments.run.problem import Problem
from lossrag.experiments.run.ranks import Share, check_ranks, joined_scores, share_of, undivided
from lossrag.experiments.run.schedule import Schedule
from lossrag.lossbank import LearnedLosses, Mixture
from lossrag.streams import step_seed
from lossrag.tasks import epoch_plan, query_index
from lossrag.weighting import Group, MultiTaskStep
from lossrag.weighting.parallel.randomness import drawing_alike


@dataclass(frozen=True)
class BatchStep:
    """Feeds the batches of a run to its step, and to its learned losses if it has any."""

    config: Config
    problem: Problem
    step: MultiTaskStep
    learned: LearnedLosses | None
    schedule: Schedule | None = None
    group: Group | None = None

    @staticmethod
    def of(config: Config, problem: Problem, epochs: int, group: Group | None = None) -> BatchStep:
        """A fresh step for so many epochs, of one process or of a ``group`` that shares the rows of every batch."""
        check_ranks(config, group)
        step = build_step(config, problem, group)
        steps = len(_plan(config, problem, 0)) * epochs
        learned = build_learned_losses(config, problem, steps)
        step.keep_query_gradient = learned is not None and learned.evidence is not None and learned.evidence.follows
        return BatchStep(config, problem, step, learned, Schedule.of(config.optimizer, step.optimizer, steps), group)

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
        learns = self.step.learns_next
        route = passes_route(config, learns)
        rows = problem.trained_rows(index) if route == "groups" else None
        tasks = len(problem.suite.tasks)
        only = None if len(self.step.outer) == tasks else self.step.outer
        if rows is not None and (self.group is not None or only is not None):
            # processes that share a batch read other rows of a table each, and so do passes of some tasks alone: all of
            # it is held
            route, rows = "single", None
        size = config.outer.batch_size or config.train.batch_size
        query_rows = query_index(problem.suite, size, config.seed, self.step.count)
        shown = StepRows(problem, config.seed, self.step.count, {"support": index, "query": query_rows})
        if learned:
            learned.begin(self.step.count + 1, shown)
        while True:
            before = self.step.count
            try:
                return self._taken(index, epoch, query_rows, shown, route, rows, only)
            except (DivergedError, LossError) as error:
                # a loss of a composition that is no number is switched off, and the step taken without it
                unchanged = self.group is None and self.step.count == before
                if learned and unchanged and learned.repair(before + 1, shown, error):
                    torch.manual_seed(step_seed(config.seed, before))
                    continue
                if isinstance(error, LossError):
                    raise
                raise made_of(error, learned) from None

    def _taken(
        self,
        index: tuple[Tensor, ...],
        epoch: int,
        query_rows: Sequence[Tensor],
        shown: StepRows,
        route: str,
        rows: Tensor | None,
        only: Sequence[int] | None,
    ) -> StepOutcome:
        config, problem, learned = self.config, self.problem, self.learned
        learns = self.step.learns_next
        mixtures = learned.composer.mixtures() if learned else None
        needs = config.weighting.options.needs
        keep = needs.representation is not None
        if self.group is not None and self.group.rank:  # masks of its own, but the same looks
            torch.manual_seed(step_seed(config.seed, self.step.count) + self.group.rank)
        own = self._share("support", index, mixtures or problem.inner, needs.scores)
        support, batch = problem.batch_losses(
            "support", own.index, route=route, rows=rows, mixtures=mixtures, keep_features=keep
        )
        query = query_batch = None
        own_query = self._share("query", query_rows, problem.outer, False)
        if learns:
            query, query_batch = problem.batch_losses(
                "query", own_query.index, route=route, rows=rows, keep_features=learned is not None, only=only
            )
        query_counts = [count for task, count in enumerate(own_query.rows) if task in self.step.outer]
        record = self.step(
            support,
            query,
            epoch=epoch,
            scores=batch.scores,
            representation=batch.representation,
            rows=own.rows,
            query_rows=query_counts,
        )
        if learned and record.skipped is not None and "finite" in record.skipped and self.group is None:
            learned.repair(record.step, shown, DivergedError(record.skipped))
        # what a step that was left out has seen moves no composition; a question is asked all the same
        if learned and (record.skipped is None or record.step in learned.looks):
            whole = self.group is None and only is None
            kept = query_batch if record.query_gradient is not None and whole else None
            shown = replace(shown, step=record.step, batch=kept)
            with drawing_alike(self.group, self.step.parameters):
                learned.end(record.step, shown, query_gradient=record.query_gradient, lam=record.lam)
        terms = problem.adversary.measured() if problem.adversary else {}
        # no query pass where the step was left out, or the outer problem is not due
        reached = query_batch.scores() if query_batch and record.query_losses is not None else None
        if reached is not None:
            reached = joined_scores(self.group, reached, own_query.rows)
        return StepOutcome(
            record, joined_scores(self.group, batch.scores(), own.rows), reached, terms, self.step.skipped
        )

    def _share(self, split: str, index: Sequence[Tensor], mixtures: Sequence[Mixture], scored: bool) -> Share:
        by_class = split == "query" and self.problem.by_class
        whole = undivided(self.problem, mixtures, by_class, scored) if self.group is not None else []
        return share_of(self.group, self.problem, split, index, whole)


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
