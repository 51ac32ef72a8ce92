"""Evidence: what losses contribute at a moment of training, whichever way it is found out.

A loss contributes what it brings the outer objective, the loss on held-out (query) rows. Two kinds of evidence say how
much: the hypergradient (composing/one_step.py) and heads trained ahead (composing/look_ahead.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from lossrag.checks import require
from lossrag.labels import labelled_mean
from lossrag.lossbank.composing.shares import ShareState
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.inputs import Labelled, LossInputs
from lossrag.lossbank.library.registration import LOSSES


@dataclass(frozen=True)
class TaskSpec:
    """A task as its losses see it: ``reference`` is the loss that gives the scale; ``class_counts`` (K,) its training
    samples per class, without which no loss that asks for them is offered.

    by_class: it is judged by the mean over its classes, as the outcomes of the bank that ships are; not over its rows.

    Raises OptionError for counts that are none, and for a reference that needs some where there are none.
    """

    name: str
    target_kind: str
    reference: str
    class_counts: Tensor | None = None
    by_class: bool = True

    def __post_init__(self) -> None:
        counts = self.class_counts
        if counts is None:
            needy = "class_counts" in LOSSES[self.reference].needs
            require(not needy, self, f"{{reference}}={self.reference} needs {{class_counts}} (K,), got none.")
            return
        require(
            counts.ndim == 1, self, f"{{class_counts}} are (K,), a number for each class, got {tuple(counts.shape)}."
        )
        if not counts.is_meta:
            fit = bool((counts.isfinite() & (counts >= 0)).all())
            require(fit, self, f"{{class_counts}} are numbers of samples, 0 or more, got {counts.tolist()}.")


@dataclass(frozen=True)
class Batch:
    """Rows of T tasks, for evidence to look at.

    outputs: runs the model on them; logits (B, K) and features (B, F), what the head reads, of every task.
    targets: (B,) classes or (B, K) values of every task; (B,) values beside one output. Rows without a label do not
        count.
    loss: outer loss () of a task, by its number, from its logits and features; the mean of its reference without one.
    labelled: (B,) booleans of every task, rows that count, where targets alone do not say so; True where all rows are
        known to have a label, so that nobody has to look.
    """

    outputs: Callable[[], Sequence[tuple[Tensor, Tensor]]]
    targets: Sequence[Tensor]
    loss: Callable[[int, Tensor, Tensor], Tensor] | None = None
    labelled: Sequence[Tensor] | Literal[True] | None = None

    def outer_loss(self, t: int, task: TaskSpec, logits: Tensor, features: Tensor) -> Tensor:
        """Outer loss () of task t on these rows."""
        if self.loss is not None:
            return self.loss(t, logits, features)
        rows = self.inputs(t, task, logits, features)
        return labelled_mean(LOSSES[task.reference](**vars(rows)), rows.present_rows())

    def inputs(self, t: int, task: TaskSpec, logits: Tensor, features: Tensor) -> LossInputs:
        """What losses of task t may read on these rows."""
        targets = self.targets[t]
        if task.target_kind == "regression" and targets.ndim == 1:
            targets = targets[:, None]
        known: Labelled = self.labelled[t] if isinstance(self.labelled, Sequence) else self.labelled
        return LossInputs(logits, targets, features, task.class_counts, known)


@dataclass(frozen=True)
class TaskMoment:
    """A task at a moment, without any graph.

    support, query: rows of it, query rows where they were looked at.
    per_feature: size of the outer loss's gradient on the logits over its size on the features, (), to convert scales.
    """

    support: LossInputs
    query: LossInputs | None
    per_feature: Tensor

    @property
    def present(self) -> Tensor:
        """True () where it has a label on every side that was looked at."""
        return torch.stack([rows.present_rows().any() for rows in self._sides]).all()

    @property
    def finite(self) -> Tensor:
        """True () where the outputs for rows with a label are finite numbers."""
        known = [rows.logits.isfinite().all(dim=1) | ~rows.present_rows() for rows in self._sides]
        return torch.stack([rows.all() for rows in known]).all()

    @property
    def _sides(self) -> list[LossInputs]:
        return [self.support] if self.query is None else [self.support, self.query]


def observed(
    model: nn.Module, tasks: Sequence[TaskSpec], support: Batch, query: Batch | None, features: bool = False
) -> list[TaskMoment]:
    """The tasks as they stand, from a pass over these rows in evaluation mode.

    features: compare gradients on the features with those on the logits, on query rows, which takes a graph; without it
        they count alike.
    """
    training = model.training
    model.eval()
    with torch.no_grad():
        moments = [
            TaskMoment(support.inputs(t, task, logits, read), None, logits.new_ones(()))
            for t, (task, (logits, read)) in enumerate(zip(tasks, support.outputs(), strict=True))
        ]
    if query is not None:
        with torch.set_grad_enabled(features):
            held_out = query.outputs()
            for t, (task, (z, f)) in enumerate(zip(tasks, held_out, strict=True)):
                ratio = moments[t].per_feature
                if features and f.requires_grad:  # what a frozen encoder gives moves with nothing
                    at = torch.autograd.grad(query.outer_loss(t, task, z, f), [z, f], materialize_grads=True)
                    ratio = at[0].norm() / at[1].norm().clamp(min=1e-12)
                rows = query.inputs(t, task, z.detach(), f.detach())
                moments[t] = replace(moments[t], query=rows, per_feature=ratio)
    model.train(training)
    return moments


@dataclass(frozen=True)
class Moment:
    """T tasks at a moment, and what losses contribute to them there.

    contributions: of the losses (L_t,) of every task, given the sizes (L_t,) of their gradients: (L_t,) in [-1, 1],
        float64, positive where a loss helps; NaN for one whose values or gradients are no finite numbers. None are
        asked of a task that is not :attr:`TaskMoment.present`.
    """

    tasks: Sequence[TaskMoment]
    contributions: Callable[[Sequence[Sequence[Loss]], Sequence[Tensor]], list[Tensor]]


class EvidenceOptions(Protocol):
    """Options of a kind of evidence: when it is due, which losses it can judge, and how it moves their shares."""

    @property
    def review(self) -> int:
        """Measurements between two reviews, at which what harms is switched off."""

    def due(self, step: int) -> bool:
        """True when contributions are measured at the step of this number, from 1."""

    def judges(self, loss: Loss, active: bool) -> bool:
        """True for a loss that it has anything to say of, be it part of the task's mixture or not."""

    def read(self, state: ShareState, task: int, losses: list[int], contributions: Tensor) -> Tensor:
        """Contributions (n,) of some losses of a task as they count for their shares."""

    def moved(self, state: ShareState, task: int, losses: list[int], read: Tensor) -> ShareState:
        """The state after contributions (n,) that were :meth:`read`."""


class Evidence(Protocol):
    """A kind of evidence at work on a model. Its calls come in this order: begin, update of the model, follow, moment.

    follows: whether it reads the query gradient of every step.
    rows: support and query rows of a task that it wants to see; None: those of the step itself.
    """

    model: nn.Module
    follows: bool
    rows: int | None

    @property
    def options(self) -> EvidenceOptions:
        """Its options."""

    def begin(self, step: int) -> None:
        """Before the update of ``step``: keep what is needed of the parameters as they are."""

    def follow(self, gradient: Sequence[Tensor | None]) -> None:
        """After an update: the gradient of the outer objective, by parameter."""

    def moment(self, tasks: Sequence[TaskSpec], support: Batch, query: Batch, lam: Tensor | None) -> Moment:
        """After the update of a step that is due: the tasks, and their losses' contributions.

        lam: (T,) weights of the tasks in the outer objective, where a method found any.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that it remembers."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`."""
