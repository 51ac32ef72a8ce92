"""Dynamic task prioritisation against a plain loop, and its treatment of scores at and beyond the ends."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from lossrag.weighting import DTP, Signals

CPU = torch.device("cpu")
SCORES = [[0.2, 0.9, 0.5], [0.3, 0.95, 0.5], [0.4, 0.97, 0.4], [0.8, 0.98, 0.45]]


def walk(method, scores, scale=1.0):
    state, found = method.init(len(scores[0]), CPU), []
    for row in scores:
        losses = torch.full((len(row),), scale)
        weights, state = method.weigh(state, Signals(losses, scores=torch.tensor(row, dtype=torch.float64)))
        found.append(weights.tolist())
    return found


def by_hand(scores, alpha, gamma):
    kappa, found = None, []
    for row in scores:
        kappa = row if kappa is None else [alpha * new + (1 - alpha) * old for new, old in zip(row, kappa, strict=True)]
        found.append([-((1 - k) ** gamma) * math.log(k) for k in kappa])
    return found


def test_against_a_loop():
    for alpha, gamma in product([0.1, 0.6, 1.0], [0.0, 1.0, 2.5]):
        expected = by_hand(SCORES, alpha, gamma)
        assert walk(DTP(alpha, gamma, "paper"), SCORES) == [pytest.approx(row) for row in expected]
        scaled = [[3 * w / sum(row) for w in row] for row in expected]
        assert walk(DTP(alpha, gamma), SCORES) == [pytest.approx(row) for row in scaled]


def test_the_losses_do_not_matter():
    assert walk(DTP(), SCORES, scale=1e6) == walk(DTP(), SCORES)


def test_the_badly_done_task_weighs_more():
    low, high, middle = walk(DTP(), SCORES)[-1]
    assert low > middle > high


def test_ends():
    (weights,) = walk(DTP(scale="paper"), [[0.0, 1.0, 0.5]])
    # kappa stops at 0.001 and 0.999
    assert weights == pytest.approx([0.999 * math.log(1000), -0.001 * math.log(0.999), 0.5 * math.log(2)])
    assert walk(DTP(), [[1.0, 1.0]]) == [pytest.approx([1.0, 1.0])]
    assert walk(DTP(gamma=1e6), [[0.5, 0.9]]) == [pytest.approx([2.0, 0.0])]


def test_a_regression_worse_than_the_mean_counts_as_zero():
    far, zero = walk(DTP(), [[-1e9, 0.5], [0.5, 0.5]]), walk(DTP(), [[0.0, 0.5], [0.5, 0.5]])
    assert far == zero
