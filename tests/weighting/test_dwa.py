"""Dynamic weight average against a plain loop over epochs."""

from __future__ import annotations

import math

import pytest
import torch

from lossrag.weighting import DWA, Signals

CPU = torch.device("cpu")
EPOCHS = [
    [[1.0, 2.0, 9.0], [0.8, 2.0, 8.0], [0.6, 2.0, 7.0]],
    [[0.5, 1.9, 6.0]],
    [[0.4, 1.9, 5.0], [0.4, 1.8, 4.0]],
    [[0.4, 1.0, 3.0], [0.2, 1.5, 6.0], [0.3, 1.5, 3.0]],
    [[0.1, 1.0, 1.0]],
]


def walk(method, epochs):
    state, found = method.init(len(epochs[0][0]), CPU), []
    for epoch, steps in enumerate(epochs):
        for losses in steps:
            weights, state = method.weigh(state, Signals(torch.tensor(losses, dtype=torch.float64), epoch=epoch))
            found.append(weights.tolist())
    return found


def by_hand(epochs, temperature):
    means = [[sum(column) / len(steps) for column in zip(*steps, strict=True)] for steps in epochs]
    found = []
    for epoch, steps in enumerate(epochs):
        row = [1.0] * len(means[0])
        if epoch >= 2:
            powers = [math.exp(a / b / temperature) for a, b in zip(means[epoch - 1], means[epoch - 2], strict=True)]
            row = [len(powers) * power / sum(powers) for power in powers]
        found += [row] * len(steps)
    return found


@pytest.mark.parametrize("temperature", [2.0, 0.3])
def test_against_a_loop(temperature):
    found, expected = walk(DWA(temperature), EPOCHS), by_hand(EPOCHS, temperature)
    assert found == [pytest.approx(row) for row in expected]
    assert found[0] == found[3] == [1.0] * 3  # equal in the first two epochs
    assert found[4] != found[0]


def test_the_scale_of_a_task_does_not_matter():
    scaled = [[[1e6 * a, 1e-6 * b, c] for a, b, c in steps] for steps in EPOCHS]
    assert walk(DWA(), scaled) == [pytest.approx(row) for row in walk(DWA(), EPOCHS)]


def test_the_slowly_falling_task_weighs_more():
    halving_and_steady = [[[0.5**epoch, 1.0]] for epoch in range(4)]
    fast, slow = walk(DWA(), halving_and_steady)[-1]
    assert slow / fast == pytest.approx(math.exp((1 - 0.5) / 2))


def test_a_task_that_was_at_zero_counts_as_steady():
    zero_and_steady = [[[0.0, 1.0]]] * 4
    assert walk(DWA(), zero_and_steady)[-1] == [1.0, 1.0]
    assert walk(DWA(), [[[1e-300, 1.0]], [[1e300, 1.0]], [[1.0, 1.0]]])[-1] == [2.0, 0.0]


def test_an_epoch_that_starts_late_counts_from_there():
    """A loop that numbers its epochs from 1."""
    state, method = DWA().init(2, CPU), DWA()
    for epoch, losses in enumerate([[1.0, 1.0], [0.5, 1.0], [0.5, 1.0]], start=1):
        weights, state = method.weigh(state, Signals(torch.tensor(losses), epoch=epoch))
    assert weights[1] > weights[0]
