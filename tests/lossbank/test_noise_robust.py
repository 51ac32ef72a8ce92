"""Noise-robust losses against plain loops; what makes them robust."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag.lossbank import LOSSES
from tests.lossbank.oracles import assert_formula, built_in, cross_entropy, normal, softmax

SUP = {
    "one_minus_p": 1,
    "mae": 2,
    "generalised_ce_0.3": 1 / 0.3,
    "generalised_ce_0.7": 1 / 0.7,
    "truncated_generalised_ce": (1 - 0.5**0.7) / 0.7,
    "tempered_ce_0.5": 2,
    "tempered_ce_0.8": 5,
    "taylor_ce_2": 1.5,
    "taylor_ce_6": 2.45,
    "normalised_ce": 1,
    "active_passive": 3,
    "active_passive_10_1": 12,
}
"""The bounded ones, with their least upper bound."""


def generalised_ce(q, k=0.0):
    return lambda row, y: (1 - max(softmax(row)[y], k) ** q) / q


def tempered_ce(t):
    def formula(row, y):
        p = softmax(row)
        divergence = 0.0
        for k in range(len(p)):
            true = float(k == y)
            if true:
                divergence -= true * (p[k] ** (1 - t) - 1) / (1 - t)
            divergence -= (true ** (2 - t) - p[k] ** (2 - t)) / (2 - t)
        return divergence

    return formula


def taylor_ce(terms):
    return lambda row, y: sum((1 - softmax(row)[y]) ** i / i for i in range(1, terms + 1))


def symmetric_ce(alpha, beta):
    def formula(row, y):
        log_target = [0.0 if k == y else -4.0 for k in range(len(row))]
        reverse = -sum(p * log for p, log in zip(softmax(row), log_target, strict=True))
        return alpha * cross_entropy(row, y) + beta * reverse

    return formula


def bootstrapping(beta, hard):
    def formula(row, y):
        p = softmax(row)
        belief = [float(value == max(p)) for value in p] if hard else p
        return -sum(
            (beta * (k == y) + (1 - beta) * q) * math.log(value)
            for k, (q, value) in enumerate(zip(belief, p, strict=True))
        )

    return formula


def normalised_ce(row, y):
    return cross_entropy(row, y) / sum(cross_entropy(row, k) for k in range(len(row)))


def mae(row, y):
    return sum(abs(p - (k == y)) for k, p in enumerate(softmax(row)))


FORMULAS = {
    "one_minus_p": lambda row, y: 1 - softmax(row)[y],
    "mae": mae,
    "generalised_ce_0.3": generalised_ce(0.3),
    "generalised_ce_0.7": generalised_ce(0.7),
    "truncated_generalised_ce": generalised_ce(0.7, 0.5),
    "tempered_ce_0.5": tempered_ce(0.5),
    "tempered_ce_0.8": tempered_ce(0.8),
    "taylor_ce_2": taylor_ce(2),
    "taylor_ce_6": taylor_ce(6),
    "symmetric_ce": symmetric_ce(0.1, 1),
    "symmetric_ce_6_0.1": symmetric_ce(6, 0.1),
    "bootstrapping_soft": bootstrapping(0.95, hard=False),
    "bootstrapping_hard": bootstrapping(0.8, hard=True),
    "normalised_ce": normalised_ce,
    "active_passive": lambda row, y: normalised_ce(row, y) + mae(row, y),
    "active_passive_10_1": lambda row, y: 10 * normalised_ce(row, y) + mae(row, y),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    assert_formula(name, FORMULAS[name])


def test_every_loss_has_a_formula_here():
    assert set(FORMULAS) == set(built_in("noise-robust"))


@pytest.mark.parametrize("name", SUP)
@settings(max_examples=50)
@given(row=st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6))
def test_bounded(name, row):
    value = float(LOSSES[name](torch.tensor([row], dtype=torch.float64), torch.tensor([0])))
    assert -1e-12 <= value <= SUP[name] * (1 + 1e-12)


@pytest.mark.parametrize("name", SUP)
def test_the_bound_is_reached(name):
    assert float(LOSSES[name](torch.tensor([[-1e4, 1e4]]), torch.tensor([0]))) == pytest.approx(SUP[name], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "total"), [("one_minus_p", 4), ("mae", 8), ("normalised_ce", 1), ("active_passive", 9)]
)
def test_symmetric(name, total):
    """The losses of all labels add up to a constant: symmetric noise keeps the minimiser where it is (Ghosh)."""
    logits = 3 * normal(6, 5)
    over_labels = sum(LOSSES[name](logits, torch.full((6,), label)) for label in range(5))
    torch.testing.assert_close(over_labels, torch.full((6,), float(total), dtype=torch.float64))
