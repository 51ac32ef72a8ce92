"""Pareto MTL against scipy's solution of its two quadratic programs, and on a problem whose front is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lossrag.weighting import ParetoMTL, Signals
from tests.weighting.trade_off import is_pareto, train

CPU = torch.device("cpu")


def shortest(rows):
    """The shortest vector in the convex hull of rows (K, n)."""
    K = len(rows)
    found = minimize(
        lambda lam: ((lam @ rows) ** 2).sum(),
        np.full(K, 1 / K),
        jac=lambda lam: 2 * rows @ (lam @ rows),
        bounds=[(0, 1)] * K,
        constraints={"type": "eq", "fun": lambda lam: lam.sum() - 1, "jac": lambda lam: np.ones(K)},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-15},
    )
    return found.x @ rows


def gradients(T, seed):
    return torch.randn(T, 3 * T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weigh(method, G, losses, state=None):
    state = method.init(len(G), CPU) if state is None else state
    return method.weigh(state, Signals(torch.as_tensor(losses, dtype=torch.float64), G @ G.T))


def direction_by_hand(G, losses, preference, others, first_phase):
    """The paper's two quadratic programs on the gradients themselves."""
    G, losses = G.numpy(), np.asarray(losses, dtype=float)
    u = np.asarray(preference) / np.linalg.norm(preference)
    differences = [np.asarray(v) / np.linalg.norm(v) - u for v in others]
    active = [d @ G for d in differences if d @ losses > 0]
    if first_phase and active:
        return shortest(np.stack(active))
    return shortest(np.concatenate([G, np.stack(active)]) if active else G)


OTHERS = [[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0], [1.0, 1.0, 0.2]]


@pytest.mark.parametrize("start_steps", [0, 5])
def test_against_scipy(start_steps):
    for seed in range(12):
        G = gradients(3, seed)
        losses = np.random.default_rng(seed).uniform(0.1, 2, size=3)
        method = ParetoMTL(preference=[1.0, 1.0, 1.0], others=OTHERS, start_steps=start_steps)
        weights, _ = weigh(method, G, losses)
        assert float(weights.abs().sum()) == pytest.approx(3)
        found, expected = (weights @ G).numpy(), direction_by_hand(G, losses, [1, 1, 1], OTHERS, start_steps > 0)
        cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
        assert cosine == pytest.approx(1, abs=1e-4)


def test_the_hand_made_directions_differ_between_the_phases():
    """Else the test above would hold with one phase alone."""
    losses = [3.0, 1.0, 1.0]
    first, second = (direction_by_hand(gradients(3, 0), losses, [1, 1, 1], OTHERS, phase) for phase in (True, False))
    assert abs(first @ second / np.linalg.norm(first) / np.linalg.norm(second)) < 0.99


def test_phase_one_lowers_every_violated_constraint():
    G, losses = gradients(3, 4), [3.0, 1.0, 1.0]
    method = ParetoMTL(preference=[1.0, 1.0, 1.0], others=OTHERS)
    weights, state = weigh(method, G, losses)
    constraints = method.constraints(state["weights"])
    violated = constraints @ torch.tensor(losses, dtype=torch.float64) > 0
    assert violated.any()
    assert ((constraints @ G @ G.T @ weights)[violated] > 0).all()


def test_phase_one_ends_for_good():
    G = gradients(2, 0)
    method = ParetoMTL(preference=[1.0, 1.0], start_steps=3)
    _, state = weigh(method, G, [3.0, 1.0])
    assert int(state["starting"]) == 2
    _, inside = weigh(method, G, [1.0, 1.0], state)
    assert int(inside["starting"]) == 0
    _, outside_again = weigh(method, G, [3.0, 1.0], inside)
    assert int(outside_again["starting"]) == 0
    for left in (1, 0, 0):
        _, state = weigh(method, G, [3.0, 1.0], state)
        assert int(state["starting"]) == left


def test_inside_its_region_it_is_mgda():
    G = gradients(2, 1)
    weights, _ = weigh(ParetoMTL(preference=[1.0, 1.0]), G, [1.0, 1.0])
    B = G @ G.T
    lam = (B.diagonal().flip(0) - B[0, 1]).clamp(min=0)
    assert torch.allclose(weights, 2 * lam / lam.sum(), atol=1e-6)


def test_default_others():
    two = ParetoMTL(preference=[1.0, 0.0]).constraints(torch.ones(2, dtype=torch.float64))
    assert len(two) == 4  # five, without its own
    assert torch.allclose(two[-1], torch.tensor([-1.0, 1.0], dtype=torch.float64), atol=1e-12)
    three = ParetoMTL().constraints(torch.ones(3, dtype=torch.float64))
    assert torch.allclose(three, torch.eye(3, dtype=torch.float64) - 1 / math.sqrt(3))
    assert len(ParetoMTL().constraints(torch.ones(1, dtype=torch.float64))) == 0


def test_a_pareto_point_in_every_region():
    """The paper's example: the losses end nearest to their own one of five directions, on the front."""
    for degrees in (0.0, 22.5, 45.0, 67.5, 90.0):
        angle = math.radians(degrees)
        preference = [max(math.cos(angle), 0.0), math.sin(angle)]
        final = train(ParetoMTL(preference=preference))[-1]
        reached = math.degrees(math.atan2(float(final[1]), float(final[0])))
        assert abs(reached - degrees) <= 11.25
        assert is_pareto(final)
