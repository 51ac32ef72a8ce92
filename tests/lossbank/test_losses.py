"""Every registered loss against its formula in a plain loop, and what registration refuses."""

from __future__ import annotations

import math

import pytest
import torch

from lossbank import LOSSES, register_loss
from lossrag import ConfigError


def probabilities(row):
    exponents = [math.exp(value - max(row)) for value in row]
    return [value / sum(exponents) for value in exponents]


FORMULAS = {
    "cross_entropy": lambda row, y: -math.log(probabilities(row)[y]),
    "one_minus_p": lambda row, y: 1 - probabilities(row)[y],
    "squared_error": lambda row, y: sum((a - b) ** 2 for a, b in zip(row, y, strict=True)) / len(row),
    "huber": lambda row, y: (
        sum((a - b) ** 2 / 2 if abs(a - b) <= 1 else abs(a - b) - 0.5 for a, b in zip(row, y, strict=True)) / len(row)
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    loss = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(8, 4, generator=generator, dtype=torch.float64)
    targets = (
        torch.randint(4, (8,), generator=generator)
        if loss.target_kind == "classification"
        else torch.randn(8, 4, generator=generator, dtype=torch.float64)
    )
    expected = [FORMULAS[name](row, y) for row, y in zip(logits.tolist(), targets.tolist(), strict=True)]
    assert loss(logits, targets).tolist() == pytest.approx(expected, rel=1e-12)


def test_every_loss_has_a_formula_here():
    assert set(FORMULAS) == {name for name, loss in LOSSES.items() if not name.startswith("my_")}


@pytest.mark.parametrize("name", FORMULAS)
def test_extreme_logits_stay_finite(name):
    loss = LOSSES[name]
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    targets = torch.tensor([1, 1]) if loss.target_kind == "classification" else torch.zeros(2, 2)
    values = loss(logits, targets)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits, targets: logits.sum(), r"one value per sample, shape \(5,\)"),
        (lambda logits, targets: logits.detach().sum(1), "gives no gradient"),
        (lambda logits, targets: logits.sum(1) / 0, "not finite"),
        (lambda logits, targets: (logits * 0).sum(1).sqrt(), "not finite"),
    ],
)
def test_registration_refuses(function, message):
    with pytest.raises(ConfigError, match=message) as caught:
        register_loss("my_bad", family="test", target_kind="classification", reference="none")(function)
    assert "my_bad" in str(caught.value)
    assert "my_bad" not in LOSSES


def test_names_and_kinds():
    with pytest.raises(ConfigError, match="is taken"):
        register_loss("huber", family="test", target_kind="regression", reference="none")(
            lambda logits, targets: (logits - targets).sum(1)
        )
    with pytest.raises(ConfigError, match="target_kind must be one of"):
        register_loss("my_kind", family="test", target_kind="ranking", reference="none")
    with pytest.raises(ConfigError, match="did you mean 'cross_entropy'"):
        LOSSES["crossentropy"]
