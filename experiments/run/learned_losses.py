"""Learned losses of a run: built from its configuration, and told of its batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from lossrag.errors import ConfigError, OptionError
from lossrag.experiments.config.schema import Config
from lossrag.experiments.run.objective import BatchObjective
from lossrag.experiments.run.problem import EVALUATION_ROWS, Problem
from lossrag.lossbank import (
    POLICIES,
    Batch,
    Evidence,
    LearnedLosses,
    LookAhead,
    LossBank,
    OneStep,
    OneStepOptions,
    TaskSpec,
)
from lossrag.models import Outputs
from lossrag.streams import Stream, generator
from lossrag.weighting import StepRecord

Index = Sequence[Tensor]


def build_learned_losses(config: Config, problem: Problem, run: str, steps: int) -> LearnedLosses | None:
    """The learned losses of a run of so many steps; None when every task keeps its configured one."""
    loss, policy = config.loss, POLICIES[config.loss.policy]
    if loss.policy == "fixed":
        return None
    tasks = [
        TaskSpec(task.name, task.kind, mixture.losses[0].name, mixture.class_counts)
        for task, mixture in zip(problem.suite.tasks, problem.inner, strict=True)
    ]
    model, options = problem.model, loss.evidence
    if isinstance(options, OneStepOptions):
        evidence: Evidence = OneStep(model, options)
    else:
        evidence = LookAhead(model, [cast(nn.Linear, head) for head in model.heads], options, problem.by_class)
    bank = LossBank.load(Path(loss.bank)) if loss.bank is not None and policy.retrieves else None
    try:
        return LearnedLosses(tasks, evidence, loss, total_steps=steps, bank=bank, run=run, seed=config.seed)
    except OptionError as error:
        raise ConfigError(error.by_key("loss.")) from None


def end_step(
    learned: LearnedLosses,
    problem: Problem,
    record: StepRecord,
    support: Index,
    query: Index,
    seed: int,
    batch: BatchObjective | None = None,
) -> None:
    """Tell ``learned`` of an update that read these rows of every task.

    batch: that of the query with its features kept, where the step has computed it. Then nothing of the query has to be
    computed again: the record holds its gradient.
    """
    evidence, drawn = learned.evidence, learned.evidence.rows
    kept = batch if evidence.follows and record.query_gradient is not None else None
    if drawn is not None:
        rows = [partial(_drawn, problem, split, drawn, seed, record.step) for split in ("support", "query")]
    else:
        fresh = [partial(_batch, problem, split, index) for split, index in (("support", support), ("query", query))]
        rows = fresh if kept is None else [fresh[0], partial(_kept, problem, kept)]
    gradient = None if kept is None else record.query_gradient
    learned.end(record.step, record.support_losses, *rows, query_gradient=gradient, lam=record.lam)


def _batch(problem: Problem, split: str, index: Index) -> Batch:
    """These rows of a split, in one pass through the model."""
    inputs, objective = problem.batch(split, index)
    if problem.suite.shared_input:
        return _judged(objective, partial(problem.model.forward_shared, inputs[0]))
    return _judged(objective, partial(problem.model.forward_joint, inputs))


def _kept(problem: Problem, objective: BatchObjective) -> Batch:
    """The rows of a batch whose features the step has kept: only the heads run again."""

    def outputs() -> list[Outputs]:
        leaves = [features.requires_grad_() for features in objective.features() or []]
        return [Outputs(head(leaf), leaf) for head, leaf in zip(problem.model.heads, leaves, strict=True)]

    return _judged(objective, outputs)


def _drawn(problem: Problem, split: str, rows: int, seed: int, step: int) -> Batch:
    """Up to so many rows of a split for every task, drawn by (seed, step), in passes of a bounded size."""
    index = []
    for t, examples in enumerate(problem.suite.splits[split]):
        chance = generator(seed, Stream.LOOK_AHEAD, step, 0 if problem.suite.shared_input else t)
        index.append(torch.from_numpy(chance.permutation(len(examples.targets))[:rows]))
    inputs, objective = problem.batch(split, index)
    model = problem.model

    def outputs() -> list[Outputs]:
        pieces = [torch.split(batch, EVALUATION_ROWS) for batch in inputs]
        if problem.suite.shared_input:
            by_task = zip(*(model.forward_shared(piece) for piece in pieces[0]), strict=True)
            return [_joined(parts) for parts in by_task]
        # a task's rows at a time: what is held does not grow with their number
        return [_joined([model.outputs(piece, t) for piece in own]) for t, own in enumerate(pieces)]

    return _judged(objective, outputs)


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return Outputs(torch.cat([part.logits for part in parts]), torch.cat([part.features for part in parts]))


def _judged(objective: BatchObjective, outputs: Callable[[], list[Outputs]]) -> Batch:
    # the scores of the step's own batch are not to be overwritten
    apart = BatchObjective(objective.tasks, objective.mixtures, objective.targets, objective.by_class)
    return Batch(outputs, objective.targets, lambda t, logits, features: apart.one(t, Outputs(logits, features)))
