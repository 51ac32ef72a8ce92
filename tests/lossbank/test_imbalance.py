"""Losses that know the class counts against plain loops."""

from __future__ import annotations

import math
import re

import pytest
import torch

from lossrag import ConfigError
from lossrag.lossbank import LOSSES, Mixture
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


NEEDY = [name for name in built_in() if "class_counts" in LOSSES[name].needs]


@pytest.mark.parametrize("name", NEEDY)
def test_a_class_without_samples_counts_as_one_of_a_single_sample(name):
    """In the value, and in the gradient, also at rows of that class, which query rows may have."""
    logits, targets = normal(6, 3).requires_grad_(), torch.tensor([0, 1, 2, 0, 1, 2])
    none, one = ([50.0, 3.0, least] for least in (0.0, 1.0))
    found = LOSSES[name](logits, targets, class_counts=torch.tensor(none))
    expected = LOSSES[name](logits, targets, class_counts=torch.tensor(one))
    assert torch.equal(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NEEDY)
@pytest.mark.parametrize("counts", [(2,), (4,), (1, 3), ()])
def test_counts_of_other_classes_are_refused(name, counts):
    message = re.escape(f"Loss {name!r}: class_counts {counts} and logits (6, 3) do not fit")
    with pytest.raises(ConfigError, match=message):
        LOSSES[name](normal(6, 3), torch.tensor([0, 1, 2, 0, 1, 2]), class_counts=torch.ones(counts))


def test_a_mixture_without_the_counts_that_it_needs_is_refused_when_it_is_made():
    with pytest.raises(ConfigError, match="Mixture: losses holds 'ldam_30', which needs class_counts"):
        Mixture((LOSSES["mae"], LOSSES["ldam_30"]), torch.ones(2))
