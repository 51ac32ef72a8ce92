"""Losses that know the class counts against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from lossrag.lossbank import LOSSES
from tests.lossbank.oracles import COUNTS, assert_formula, built_in, cross_entropy, normal, softmax


def balanced(beta, gamma=0):
    raw = [(1 - beta) / (1 - beta**n) for n in COUNTS]
    weights = [w * len(raw) / sum(raw) for w in raw]
    return lambda row, y: weights[y] * (1 - softmax(row)[y]) ** gamma * cross_entropy(row, y)


def inverse(row, y):
    return cross_entropy(row, y) / COUNTS[y] * len(COUNTS) / sum(1 / n for n in COUNTS)


def adjusted(tau, gamma=0.0):
    def formula(row, y):
        shifted = [
            z * (n / max(COUNTS)) ** gamma + tau * math.log(n / sum(COUNTS)) for z, n in zip(row, COUNTS, strict=True)
        ]
        return cross_entropy(shifted, y)

    return formula


FORMULAS = {
    "class_balanced_ce_0.99": balanced(0.99),
    "class_balanced_ce_0.999": balanced(0.999),
    "class_balanced_ce_0.9999": balanced(0.9999),
    "class_balanced_focal": balanced(0.999, gamma=1),
    "inverse_frequency_ce": inverse,
    "logit_adjusted_0.5": adjusted(0.5),
    "logit_adjusted_1": adjusted(1),
    "logit_adjusted_2": adjusted(2),
    "vector_scaling": adjusted(1, gamma=0.3),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    assert_formula(name, FORMULAS[name])


def test_every_loss_has_a_formula_here():
    assert set(FORMULAS) == set(built_in("imbalance"))


@pytest.mark.parametrize("name", [name for name in FORMULAS if "focal" not in name])
def test_equal_counts_leave_cross_entropy(name):
    logits, targets = normal(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    counts = torch.full((3,), 25.0)
    value = LOSSES[name](logits, targets, class_counts=counts)
    torch.testing.assert_close(value, LOSSES["cross_entropy"](logits, targets), rtol=1e-6, atol=1e-6)


def test_integer_counts_do():
    logits, targets = normal(2, 2, dtype=torch.float32), torch.tensor([0, 1])
    for name in built_in():
        if "class_counts" in LOSSES[name].needs:
            whole = LOSSES[name](logits, targets, class_counts=torch.tensor([900, 100]))
            torch.testing.assert_close(whole, LOSSES[name](logits, targets, class_counts=torch.tensor([900.0, 100.0])))


def test_counts_of_a_million_stay_exact():
    """1 - beta^n with n (1 - beta) tiny or huge, in float32."""
    counts = [1e6, 1.0]
    raw = [-math.expm1(math.log(0.9999)) / -math.expm1(n * math.log(0.9999)) for n in counts]
    value = LOSSES["class_balanced_ce_0.9999"](
        torch.zeros(2, 2), torch.tensor([0, 1]), class_counts=torch.tensor(counts)
    )
    expected = [2 * w / sum(raw) * math.log(2) for w in raw]
    assert value.tolist() == pytest.approx(expected, rel=1e-5)
