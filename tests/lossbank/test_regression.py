"""Losses for real values against plain loops."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag import ConfigError
from lossrag.lossbank import LOSSES, Mixture
from tests.lossbank.oracles import assert_formula, batch_for, built_in, normal


def mean(error_loss):
    return lambda row, y: sum(error_loss(a - b) for a, b in zip(row, y, strict=True)) / len(row)


def huber(delta):
    return mean(lambda e: e * e / 2 if abs(e) <= delta else delta * (abs(e) - delta / 2))


def quantile(q):
    return mean(lambda e: -q * e if e < 0 else (1 - q) * e)


FORMULAS = {
    "squared_error": mean(lambda e: e**2),
    "l1": mean(abs),
    "huber": huber(1),
    "huber_0.5": huber(0.5),
    "huber_2": huber(2),
    "log_cosh": mean(lambda e: math.log(math.cosh(e))),
    "quantile_0.1": quantile(0.1),
    "quantile_0.25": quantile(0.25),
    "quantile_0.75": quantile(0.75),
    "quantile_0.9": quantile(0.9),
    "barron_1": mean(lambda e: math.sqrt(e * e + 1) - 1),
    "barron_0": mean(lambda e: math.log(e * e / 2 + 1)),
    "barron_-2": mean(lambda e: 2 * e * e / (e * e + 4)),
    "tukey": mean(lambda e: 4.685**2 / 6 * (1 - (1 - min(1.0, (e / 4.685) ** 2)) ** 3)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    assert_formula(name, FORMULAS[name])


def test_every_loss_has_a_formula_here():
    assert {*FORMULAS, "gaussian_profiled"} == set(built_in("regression"))


def test_gaussian_profiled():
    batch = batch_for("gaussian_profiled")
    errors = [
        [a - b for a, b in zip(row, y, strict=True)]
        for row, y in zip(batch.logits.tolist(), batch.targets.tolist(), strict=True)
    ]
    variances = [1e-6 + sum(e * e for e in column) / len(column) for column in zip(*errors, strict=True)]
    expected = [
        sum(0.5 * (e * e / v + math.log(v)) for e, v in zip(row, variances, strict=True)) / len(row) for row in errors
    ]
    assert batch.values("gaussian_profiled").tolist() == pytest.approx(expected, rel=1e-10)


def test_gaussian_profiled_does_not_care_for_the_unit():
    """Up to the constant log(1000), and to the 1e-6 in the variance."""
    batch = batch_for("gaussian_profiled")
    loss = LOSSES["gaussian_profiled"]
    large = loss(1000 * batch.logits, 1000 * batch.targets)
    torch.testing.assert_close(large - math.log(1000), batch.values("gaussian_profiled"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "delta"), [("huber", 1.0), ("huber_0.5", 0.5), ("huber_2", 2.0)])
def test_huber_is_that_of_torch_bit_for_bit(name, delta):
    errors, zeros = 2 * normal(40, 1, dtype=torch.float32), torch.zeros(40, 1)
    expected = torch.nn.functional.huber_loss(errors, zeros, reduction="none", delta=delta)
    assert LOSSES[name](errors, zeros).tolist() == expected.squeeze(1).tolist()


@pytest.mark.parametrize("name", ["log_cosh", "barron_1", "barron_0", "barron_-2", "tukey", "huber"])
@pytest.mark.parametrize("size", [1e-4, 1e-10])
def test_small_errors_cost_half_their_square_in_float32(name, size):
    """Most textbook forms return 0 or rounding noise here."""
    value = LOSSES[name](torch.tensor([[size]]), torch.zeros(1, 1))
    assert float(value) == pytest.approx(size**2 / 2, rel=1e-5)


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=30)
@given(error=st.floats(-1e4, 1e4), farther=st.floats(1, 10))
def test_non_negative_and_never_lower_farther_away(name, error, farther):
    errors = torch.tensor([[0.0], [error], [farther * error]], dtype=torch.float64)
    at_target, near, far = LOSSES[name](errors, torch.zeros(3, 1, dtype=torch.float64)).tolist()
    assert at_target == 0 <= near <= far * (1 + 1e-12)


MIXED = Mixture(tuple(LOSSES[name] for name in FORMULAS), torch.linspace(0.1, 1, len(FORMULAS)))
ENTRIES = {name: LOSSES[name] for name in built_in("regression")} | {
    "a mixture": MIXED,
    "one alone": Mixture(MIXED.losses[:1]),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_targets_in_a_column_or_not(name):
    """(B,) beside outputs (B, 1) are (B, 1): never (B, B)."""
    outputs, targets = normal(5, 1), normal(5, seed=1)
    column = ENTRIES[name](outputs, targets[:, None])
    assert torch.equal(ENTRIES[name](outputs, targets), column)
    assert column.shape == (5,)
    exact = ENTRIES[name](targets[:, None], targets)
    torch.testing.assert_close(exact, ENTRIES[name](torch.zeros(5, 1).double(), torch.zeros(5)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ((4, 1), (1, 4)),
        ((4, 1), (4, 2)),
        ((4, 2), (4, 1)),
        ((4, 2), (4,)),
        ((4, 1), (3,)),
        ((4, 2), (2,)),
        ((4, 1), ()),
    ],
)
def test_other_shapes_are_refused_by_both(name, outputs, targets):
    """Most of them would be broadcast."""
    message = re.escape(f"outputs {outputs} and targets {targets} do not fit")
    with pytest.raises(ConfigError, match=f"Loss.*'(squared_error|{name})'.*{message}"):
        ENTRIES[name](torch.zeros(outputs), torch.zeros(targets))


@pytest.mark.parametrize("outputs", [(4,), (4, 1, 1), ()])
def test_outputs_have_two_dimensions(outputs):
    with pytest.raises(ConfigError, match=re.escape(f"logits are (B, K), one row a sample, got {outputs}")):
        LOSSES["l1"](torch.zeros(outputs), torch.zeros(outputs))


def test_whole_numbers_are_values_too():
    assert LOSSES["l1"](torch.tensor([[0.5], [1.0]]), torch.tensor([2, -100])).tolist() == [1.5, 101.0]
