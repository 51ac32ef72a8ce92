"""Objective of a batch with rows that have no label: that of the others, in losses and scores."""

from __future__ import annotations

import pytest
import torch

from lossrag.experiments.run.objective import BatchObjective
from lossrag.lossbank import LOSSES, Mixture
from lossrag.models import Outputs
from lossrag.tasks import Task

SIZES = (9, 9, 7)
GAPS = [torch.arange(size) % 4 == t for t, size in enumerate(SIZES)]
LOSS = {"classification": "cross_entropy", "regression": "squared_error"}


def batch(kind, outputs=3):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(size, outputs, generator=generator) for size in SIZES]
    if kind == "classification":
        return rows, [torch.randint(outputs, (size,), generator=generator) for size in SIZES]
    return rows, [torch.randn(size, outputs, generator=generator) for size in SIZES]


def objective(kind, targets, **options):
    chosen = options.pop("score", "")  # of a classification
    tasks = [Task(str(t), kind, 3, score=chosen if kind == "classification" else "") for t in range(3)]
    mixtures = [Mixture((LOSSES[LOSS[kind]],))] * 3
    if options.pop("mixed", False):
        other = LOSSES["mae" if kind == "classification" else "l1"]
        mixtures[1] = Mixture((LOSSES[LOSS[kind]], other), torch.tensor([0.3, 0.7]))
    return BatchObjective(tasks, mixtures, targets, **options)


def found(objective, logits, many):
    """Losses (T,), scores (T,), and the gradients of the sum of the squared losses."""
    leaves = [part.clone().requires_grad_() for part in logits]
    if many:
        losses = objective.many(range(3), Outputs(torch.cat(leaves), torch.cat(leaves)), [len(part) for part in leaves])
    else:
        losses = torch.stack([objective.one(t, Outputs(part, part)) for t, part in enumerate(leaves)])
    gradients = torch.autograd.grad(losses.square().sum(), leaves)
    return losses.detach(), objective.scores(), gradients


CASES = [(options, many) for options in ({}, {"mixed": True}, {"score": "macro_accuracy"}) for many in (False, True)]
CASES.append(({"by_class": True}, False))
"""Classes are averaged task by task."""


@pytest.mark.parametrize(("options", "many"), CASES)
@pytest.mark.parametrize("kind", LOSS)
def test_rows_without_a_label_are_not_there(kind, options, many):
    logits, targets = batch(kind)
    nothing = -100 if kind == "classification" else float("nan")
    gaps = [
        part.masked_fill(gap if part.ndim == 1 else gap[:, None], nothing)
        for part, gap in zip(targets, GAPS, strict=True)
    ]
    whole = found(objective(kind, gaps, **options), logits, many)
    kept = [[part[~gap] for part, gap in zip(parts, GAPS, strict=True)] for parts in (logits, targets)]
    left = found(objective(kind, kept[1], complete=True, **options), kept[0], many)
    torch.testing.assert_close(whole[:2], left[:2])
    for one, other, gap in zip(whole[2], left[2], GAPS, strict=True):
        torch.testing.assert_close(one[~gap], other)
        assert not one[gap].any()


@pytest.mark.parametrize(("options", "many"), CASES)
@pytest.mark.parametrize("kind", LOSS)
def test_where_all_rows_have_one_it_makes_no_difference(kind, options, many):
    """Bit for bit."""
    logits, targets = batch(kind)
    looked, known = (found(objective(kind, targets, complete=c, **options), logits, many) for c in (False, True))
    for one, other in zip([*looked[:2], *looked[2]], [*known[:2], *known[2]], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("options", "many"), CASES)
@pytest.mark.parametrize("kind", LOSS)
def test_a_task_without_any_has_no_loss_and_no_gradient(kind, options, many):
    logits, targets = batch(kind)
    targets[1] = torch.full_like(targets[1], -100 if kind == "classification" else float("nan"))
    losses, scores, gradients = found(objective(kind, targets, **options), logits, many)
    assert bool(losses[1].isnan()), "which a step takes for absent"
    assert float(scores[1]) == 0.0
    assert not gradients[1].any()
    assert all(gradient.isfinite().all() for gradient in gradients)
