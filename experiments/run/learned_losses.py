"""Learned losses of a run: built from its configuration, and shown its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from lossrag.errors import ConfigError, OptionError
from lossrag.experiments.config.schema import Config
from lossrag.experiments.run.contexts import SIDES, encoder_kind
from lossrag.experiments.run.evaluation import EVALUATION_ROWS
from lossrag.experiments.run.objective import BatchObjective
from lossrag.experiments.run.problem import Problem
from lossrag.files import expanded
from lossrag.lossbank import (
    POLICIES,
    Adviser,
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

Index = Sequence[Tensor]


def open_bank(name: str, exclude: Sequence[str] = ()) -> LossBank | None:
    """The bank that ``builtin`` or a file is, without these sources; None for ``none``.

    Raises BankError when it is not there or damaged.
    """
    if name == "none":
        return None
    return LossBank.builtin(exclude) if name == "builtin" else LossBank.load(expanded(name, "bank"), exclude)


def judged_by_class(config: Config) -> bool:
    """True where a run counts all classes of a task alike, in its score or in its outer loss."""
    return config.outer.metric == "macro_accuracy" or config.outer.average == "class"


def build_learned_losses(
    config: Config, problem: Problem, steps: int, bank: Adviser | None = None
) -> LearnedLosses | None:
    """The learned losses of a run of so many steps; None when every task keeps its configured one.

    bank: what is asked instead of the configured one, where the policy retrieves.
    """
    loss = config.loss
    if loss.policy == "fixed":
        return None
    by_class = judged_by_class(config)
    tasks = [
        TaskSpec(
            task.name,
            task.kind,
            mixture.losses[0].name,
            mixture.class_counts,
            by_class or task.batch_metric == "macro_accuracy",
        )
        for task, mixture in zip(problem.suite.tasks, problem.inner, strict=True)
    ]
    if bank is None and POLICIES[loss.policy].candidates == "bank":
        bank = open_bank(loss.bank, loss.bank_exclude)
    model, options = problem.model, loss.evidence_options
    evidence: Evidence | None = None
    if isinstance(options, OneStepOptions):
        evidence = OneStep(model, options)
    elif options is not None:
        evidence = LookAhead(model, [cast(nn.Linear, head) for head in model.heads], options, problem.by_class)
    try:
        return LearnedLosses(
            tasks,
            model,
            loss,
            total_steps=steps,
            bank=bank,
            encoder=encoder_kind(config),
            evidence=evidence,
            seed=config.seed,
        )
    except OptionError as error:
        raise ConfigError(error.by_key("loss.")) from None


@dataclass(frozen=True)
class StepRows:
    """Rows that learned losses may want to see at a step: those of its update, by split, or some that are drawn.

    batch: that of the query with its features kept, where the step has computed it and its gradient: then only the
    heads have to run again.
    """

    problem: Problem
    seed: int
    step: int
    index: dict[str, Index]
    batch: BatchObjective | None = None

    def __call__(self, split: str, number: int | None) -> Batch:
        """These rows of a split: so many of every task, None for those of the update."""
        if number is not None:
            return _drawn(self.problem, split, number, self.seed, self.step)
        if self.batch is not None and split == "query":
            return _kept(self.problem, self.batch)
        return _batch(self.problem, split, self.index[split])


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
    """Up to so many labelled rows of a split for every task, of a shared input rows with a label of any, drawn by
    (seed, step), in passes of a bounded size."""
    told = [problem.labelled_rows(split, t) for t in range(len(problem.suite.tasks))]
    if problem.suite.shared_input and not problem.complete:
        any_task = torch.cat([rows for rows in told if rows is not None])
        told = [torch.unique(any_task)] * len(told)
    index = []
    for t, (examples, known) in enumerate(zip(problem.suite.splits[split], told, strict=True)):
        place = (step, SIDES.index(split), 0 if problem.suite.shared_input else t)
        chance = generator(seed, Stream.CONTEXT, *place)
        drawn = torch.from_numpy(chance.permutation(len(examples) if known is None else len(known))[:rows])
        index.append(drawn if known is None else known[drawn])
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
    apart = replace(objective, keep_features=False, _scores={}, _features={})

    def loss(t: int, logits: Tensor, features: Tensor) -> Tensor:
        return apart.one(t, Outputs(logits, features))

    return Batch(outputs, objective.targets, loss, True if objective.complete else None)
