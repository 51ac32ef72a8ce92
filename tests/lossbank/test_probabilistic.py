"""Cross-entropy and its relatives against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from lossrag.lossbank import LOSSES
from tests.lossbank.oracles import assert_formula, built_in, cross_entropy, normal, softmax


def label_smoothing(smoothing):
    def formula(row, y):
        targets = [(k == y) * (1 - smoothing) + smoothing / len(row) for k in range(len(row))]
        return -sum(t * math.log(p) for t, p in zip(targets, softmax(row), strict=True))

    return formula


def focal(gamma):
    return lambda row, y: (1 - softmax(row)[y]) ** gamma * cross_entropy(row, y)


def poly1(epsilon):
    return lambda row, y: cross_entropy(row, y) + epsilon * (1 - softmax(row)[y])


FORMULAS = {
    "cross_entropy": cross_entropy,
    "label_smoothing_0.05": label_smoothing(0.05),
    "label_smoothing_0.1": label_smoothing(0.1),
    "label_smoothing_0.2": label_smoothing(0.2),
    "confidence_penalty": lambda row, y: cross_entropy(row, y) + 0.1 * sum(p * math.log(p) for p in softmax(row)),
    "focal_1": focal(1),
    "focal_2": focal(2),
    "focal_5": focal(5),
    "poly1_1": poly1(1),
    "poly1_2": poly1(2),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    assert_formula(name, FORMULAS[name])


def test_every_loss_has_a_formula_here():
    assert set(FORMULAS) == set(built_in("probabilistic"))


def test_label_smoothing_is_that_of_torch():
    logits, targets = normal(5, 3), torch.tensor([0, 1, 2, 0, 1])
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(LOSSES["label_smoothing_0.1"](logits, targets), expected)


def test_focal_keeps_its_gradient_where_p_rounds_to_one():
    """1 - p_y = 1e-9 is 0 in float32 when it is computed as a difference."""
    logits = torch.tensor([[math.log(1e9), 0.0]], requires_grad=True)
    LOSSES["focal_1"](logits, torch.tensor([0])).sum().backward()
    assert logits.grad[0, 1].item() == pytest.approx(2e-18, rel=1e-3)
