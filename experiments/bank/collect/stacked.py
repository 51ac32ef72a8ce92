"""Stacked trainings: one small model a loss, all in one, from the same starts through the same batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from lossrag import __version__
from lossrag.experiments.bank.collect.cases import StackedCase, draw_case
from lossrag.experiments.bank.collect.plan import CollectPlan, Stacked
from lossrag.experiments.run.objective import macro_accuracy, score
from lossrag.lossbank import LOSSES, Loss, LossInputs
from lossrag.lossbank.experience.snapshots import REFERENCES, ROWS, Snapshot, moments_of, snapshot
from lossrag.lossbank.experience.trials import Case, CaseRecord, Outcome
from lossrag.tasks import Task


def stacked_losses(kind: str) -> list[Loss]:
    """The losses of the library that work row by row, the reference of the kind first."""
    fit = [
        loss
        for loss in LOSSES.values()
        if loss.target_kind == kind and not loss.relational and not loss.needs - {"class_counts"}
    ]
    return sorted(fit, key=lambda loss: loss.name != REFERENCES[kind])


@dataclass(frozen=True)
class Stack:
    """L models of R repeats side by side: an affine layer, and with hidden units a second one after a ReLU.

    parameters: weights (R, F, L, H) and biases (R, 1, L, H) of the first, (R, L, H, K) and (R, L, 1, K) of the second.
    """

    parameters: tuple[Tensor, ...]

    @staticmethod
    def of(inputs: int, hidden: int | None, outputs: int, losses: int, chances: Sequence[np.random.Generator]) -> Stack:
        """Starts drawn by ``chances`` (R,), the same for all losses."""

        def layer(before: int, after: int) -> Tensor:
            drawn = [chance.standard_normal((before, after), np.float32) / before**0.5 for chance in chances]
            return torch.from_numpy(np.stack(drawn)).float()

        repeats, width = len(chances), hidden or outputs
        first = layer(inputs, width)[:, :, None].repeat(1, 1, losses, 1)
        made = [first, torch.zeros(repeats, 1, losses, width)]
        if hidden is not None:
            second = layer(hidden, outputs)[:, None].repeat(1, losses, 1, 1)
            made += [second, torch.zeros(repeats, losses, 1, outputs)]
        return Stack(tuple(parameter.requires_grad_() for parameter in made))

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, L, B, K) for inputs (R, B, F), and what the last layer reads (R, L, B, H), or (R, B, F)."""
        weight, bias, *second = self.parameters
        R, F, L, H = weight.shape
        wide = (inputs @ weight.view(R, F, L * H)).view(R, -1, L, H) + bias
        first = wide.transpose(1, 2)
        if not second:
            return first, inputs
        features = first.relu()
        return features @ second[0] + second[1], features

    def finite(self) -> Tensor:
        """(L,) true for the losses whose models are finite in every repeat."""
        first, bias, *second = (parameter.detach().isfinite() for parameter in self.parameters)
        good = first.all(dim=3).all(dim=1).all(dim=0) & bias.all(dim=3).all(dim=1).all(dim=0)
        for part in second:
            good &= part.flatten(2).all(dim=2).all(dim=0)
        return good


def collect_case(plan: CollectPlan, name: str, part: Stacked, number: int) -> CaseRecord:
    """The case of this number of a part, trained with every loss."""
    case = draw_case(part, plan.chance(name, number, 0))
    losses = stacked_losses(part.kind)
    chances = [plan.chance(name, number, 1 + repeat) for repeat in range(part.repeats)]
    hidden = part.hidden if part.encoder == "mlp" else None
    stack = Stack.of(case.support[0].shape[1], hidden, case.outputs, len(losses), chances)
    moments = train(part, case, losses, stack, chances)
    scores = _scores(part.kind, case, stack)
    # what did not end in numbers has no outcome that is known
    known = stack.finite().numpy() & np.isfinite(scores).all(axis=0)
    gains = scores - scores[:, :1]
    outcomes = {
        loss.name: Outcome(float(gains[:, i].mean()), _error(gains[:, i]), part.repeats)
        for i, loss in enumerate(losses)
        if i and known[i]
    }
    metric = "r2" if part.kind == "regression" else "macro_accuracy"
    return CaseRecord(
        Case(
            source=case.pool.source,
            task=case.task,
            encoder=part.encoder,
            target_kind=part.kind,
            outputs=case.outputs,
            samples=len(case.support[0]),
            steps=part.steps,
            metric=metric,
            reference=float(scores[:, 0].mean()),
            trouble=case.trouble.kind,
            strength=case.trouble.strength,
            seed=number,
            version=__version__,
        ),
        moments,
        outcomes if known[0] else {},
    )


def train(
    part: Stacked, case: StackedCase, losses: Sequence[Loss], stack: Stack, chances: Sequence[np.random.Generator]
) -> dict[float, np.ndarray]:
    """Train every model of the stack with its own loss; the contexts (C,) of the first repeat's reference."""
    inputs, targets = case.support
    counts = case.class_counts
    optimizer = torch.optim.Adam(stack.parameters, lr=part.lr, fused=True)
    due = moments_of(part.steps)
    contexts: dict[float, np.ndarray] = {}
    before: Tensor | None = None
    size = min(part.batch_size, len(targets))
    for done in range(part.steps):
        if done in due:
            seen = _look(case, stack, chances[0], done / part.steps, before, losses[0])
            before = seen.losses
            contexts[due[done]] = seen.context.numpy()
        rows = torch.from_numpy(np.stack([chance.integers(len(targets), size=size) for chance in chances]))
        logits, _ = stack(inputs[rows])
        batch = targets[rows].flatten(0, 1)
        # losses work row by row, so that the repeats are rows of one batch
        by_loss = logits.transpose(0, 1).flatten(1, 2).unbind(0)
        values = [
            loss(own, batch, class_counts=counts, labelled=True).sum()
            for loss, own in zip(losses, by_loss, strict=True)
        ]
        optimizer.zero_grad()
        (torch.stack(values).sum() / size).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return contexts


def _look(
    case: StackedCase,
    stack: Stack,
    chance: np.random.Generator,
    progress: float,
    before: Tensor | None,
    reference: Loss,
) -> Snapshot:
    """The reference's model in the first repeat, by rows drawn anew."""
    sides: list[LossInputs] = []
    for inputs, targets in (case.support, case.query):
        rows = torch.from_numpy(chance.permutation(len(targets))[:ROWS])
        with torch.no_grad():
            logits, features = stack(inputs[rows].expand(len(stack.parameters[0]), -1, -1))
        read = features[0, 0] if features.ndim == 4 else features[0]
        sides.append(LossInputs(logits[0, 0], targets[rows], read, case.class_counts))
    return snapshot(reference, sides[0], sides[1], progress, before)


def _scores(kind: str, case: StackedCase, stack: Stack) -> np.ndarray:
    """(R, L) on the test rows. An r2 below 0, that of the mean, counts as 0: how far below says nothing."""
    inputs, targets = case.test
    with torch.no_grad():
        logits, _ = stack(inputs.expand(len(stack.parameters[0]), -1, -1))
    regression = partial(score, Task("", "regression", case.outputs))
    one = macro_accuracy if kind == "classification" else regression
    scores = np.array([[float(one(own, targets)) for own in repeat] for repeat in logits])
    return scores if kind == "classification" else scores.clip(min=0)


def _error(gains: np.ndarray) -> float:
    return float(gains.std(ddof=1) / len(gains) ** 0.5) if len(gains) > 1 else float("nan")
