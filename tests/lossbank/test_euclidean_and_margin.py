"""Euclidean and margin losses against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from lossrag.lossbank import LOSSES
from tests.lossbank.oracles import COUNTS, assert_formula, built_in, cross_entropy, normal, softmax


def ldam(scale):
    def formula(row, y):
        raw = [1 / n**0.25 for n in COUNTS]
        margins = [0.5 * m / max(raw) for m in raw]
        return cross_entropy([scale * (z - (k == y) * margins[k]) for k, z in enumerate(row)], y)

    return formula


FORMULAS = {
    "brier": lambda row, y: sum((p - (k == y)) ** 2 for k, p in enumerate(softmax(row))),
    "spherical": lambda row, y: 1 - softmax(row)[y] / math.hypot(*softmax(row)),
    "logit_squared_error": lambda row, y: sum((z - (k == y)) ** 2 for k, z in enumerate(row)) / len(row),
    "multiclass_hinge": lambda row, y: max(0.0, *(1 + z - row[y] for k, z in enumerate(row) if k != y)),
    "weston_watkins_hinge": lambda row, y: sum(max(0.0, 1 + z - row[y]) for k, z in enumerate(row) if k != y),
    "softmax_margin": lambda row, y: math.log(sum(math.exp(z - row[y] + (k != y)) for k, z in enumerate(row))),
    "ldam_1": ldam(1),
    "ldam_30": ldam(30),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    assert_formula(name, FORMULAS[name])


def test_every_loss_has_a_formula_here():
    assert set(FORMULAS) == {*built_in("euclidean"), *built_in("margin")}


def test_hinge_is_that_of_torch():
    logits, targets = 2 * normal(7, 4), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    expected = 4 * torch.nn.functional.multi_margin_loss(logits, targets, reduction="none")
    torch.testing.assert_close(LOSSES["weston_watkins_hinge"](logits, targets), expected)


@pytest.mark.parametrize("name", ["brier", "spherical", "cross_entropy", "tempered_ce_0.5"])
def test_proper(name):
    """Expected loss is lowest at the true distribution."""
    true = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    logits = true.log().requires_grad_()
    expected = (true * LOSSES[name](logits.expand(3, 3), torch.arange(3))).sum()
    (gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, torch.zeros(3, dtype=torch.float64))
