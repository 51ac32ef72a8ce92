"""BanditMTL: the projection on the KL ball by brute force and by its optimality conditions, the ascent by hand."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from lossrag.weighting import BanditMTL, Signals
from lossrag.weighting.methods.bandit_mtl import project_kl_ball

CPU = torch.device("cpu")


def kl_to_equal(p):
    return math.log(p.shape[-1]) - torch.special.entr(p).sum(-1)


def project(q, rho):
    return project_kl_ball(torch.tensor(q, dtype=torch.float64).log(), rho).exp()


def simplex_grid(tasks, points):
    axis = torch.linspace(0, 1, points, dtype=torch.float64)
    if tasks == 2:
        return torch.stack([axis, 1 - axis], 1)
    a, b = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([a, b, 1 - a - b], -1).reshape(-1, 3)
    return grid[grid[:, 2] >= -1e-12].clamp(min=0)


QS = [[0.9, 0.1], [0.5, 0.5], [1e-9, 1.0], [0.7, 0.2, 0.1], [0.98, 0.01, 0.01], [5.0, 4.0, 1e-6]]


def test_against_brute_force():
    for q, rho in product(QS, [0.01, 0.1, 0.4, 0.68, 2.0]):
        grid = simplex_grid(len(q), 20001 if len(q) == 2 else 1001)
        inside = grid[kl_to_equal(grid) <= rho]
        log_q = (torch.tensor(q, dtype=torch.float64) / sum(q)).log()

        def distance(p, log_q=log_q):
            return -torch.special.entr(p).sum(-1) - (p * log_q).sum(-1)

        best = inside[distance(inside).argmin()]
        found = project(q, rho)
        assert float(found.sum()) == pytest.approx(1)
        assert float(kl_to_equal(found)) <= rho + 1e-12
        assert float(distance(found)) <= float(distance(best)) + 1e-9  # no point of the grid is nearer
        assert torch.allclose(found, best, atol=1e-2)  # ... and the nearest of them is close by


def by_multiplier(log_q, rho):
    """p ~ q^(1 / (1 + lambda)) with lambda by plain bisection, in floats."""

    def shares(lam):
        powers = [math.exp((value - max(log_q)) / (1 + lam)) for value in log_q]
        return [power / sum(powers) for power in powers]

    def divergence(lam):
        return sum(p * math.log(p * len(log_q)) for p in shares(lam) if p > 0)

    low, high = 0.0, 1.0
    while divergence(high) > rho:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if divergence(middle) > rho else (low, middle)
    return shares(high)


def test_against_the_multiplier():
    for tasks, spread in product([2, 4, 8, 32], [0.1, 3.0, 100.0]):
        values = torch.randn(tasks, generator=torch.Generator().manual_seed(tasks), dtype=torch.float64) * spread
        for rho in (1e-4, 0.3, 0.99 * math.log(tasks)):
            found = project_kl_ball(values, rho).exp()
            if float(kl_to_equal(torch.softmax(values, 0))) <= rho:
                assert torch.allclose(found, torch.softmax(values, 0))
            else:
                assert found.tolist() == pytest.approx(by_multiplier(values.tolist(), rho), rel=1e-6, abs=1e-12)
                assert float(kl_to_equal(found)) == pytest.approx(rho, abs=1e-13, rel=1e-9)


def test_any_spread_of_the_losses():
    for gap in (2e-3, 1.0, 1e3, 1e30, 1e300, math.inf):
        for rho in (1e-3, 0.2, 0.8):
            p = project_kl_ball(torch.tensor([0.0, -1e-3, -gap], dtype=torch.float64), rho).exp()
            free = torch.softmax(torch.tensor([0.0, -1e-3, -gap], dtype=torch.float64), 0)
            assert float(kl_to_equal(p)) == pytest.approx(min(rho, float(kl_to_equal(free))), abs=1e-9)
            assert p[0] >= p[1] >= p[2] >= 0
            assert float(p.sum()) == pytest.approx(1)


def test_from_log_t_on_nothing_is_projected():
    assert project([0.999, 0.001], math.log(2)).tolist() == pytest.approx([0.999, 0.001])
    assert project([1.0, 0.0, 0.0], 1.2).tolist() == [1.0, 0.0, 0.0]
    assert 0.9 < project([1.0, 0.0, 0.0, 0.0], 1.2).max() < 1  # log 4 > 1.2


def test_the_ascent_by_hand():
    method = BanditMTL(rho=10.0, eta_p=0.5)
    state = method.init(3, CPU)
    total = torch.zeros(3, dtype=torch.float64)
    for losses in ([1.0, 2.0, 0.0], [3.0, 0.5, 0.1], [0.2, 0.2, 0.9]):
        weights, state = method.weigh(state, Signals(torch.tensor(losses, dtype=torch.float64)))
        assert torch.allclose(weights, 3 * torch.softmax(0.5 * total, 0))  # the update uses p of before
        total += torch.tensor(losses)
        assert torch.allclose(state["weights"], 3 * torch.softmax(0.5 * total, 0))


def test_a_scale_of_the_losses_is_one_of_the_step_size():
    losses = torch.tensor([1.0, 2.0, 0.5, 0.1], dtype=torch.float64)
    one, two = BanditMTL(0.5, 0.5), BanditMTL(0.5, 0.005)
    a, b = one.init(4, CPU), two.init(4, CPU)
    for _ in range(5):
        a, b = one.weigh(a, Signals(losses))[1], two.weigh(b, Signals(100 * losses))[1]
    assert torch.allclose(a["weights"], b["weights"])


def test_weights_stay_in_the_ball_and_come_back():
    method = BanditMTL(rho=0.3)
    state = method.init(4, CPU)
    for losses in [[9.0, 1.0, 1.0, 1.0]] * 50 + [[1.0, 1.0, 1.0, 9.0]] * 50:
        state = method.weigh(state, Signals(torch.tensor(losses)))[1]
        assert float(kl_to_equal(state["weights"] / 4)) <= 0.3 + 1e-12
    assert state["weights"].argmax() == 3
