"""Algorithm 1 of the paper on a problem small enough to work out by hand.

theta = (x, y), eta = 1/2, T = 2, alpha = 1, w = (1, 1), theta^0 = (0, 0).
    support  L_1 = (x-1)^2/2 + y^2/2      L_2 = x^2/2 + (y-2)^2/2
    query    L_1 = (x-1)^2/2              L_2 = (y-1)^2/2

Step 1. grad L_1^s = (-1, 0), grad L_2^s = (0, -2); theta^1 = -(1/4)((-1, 0) + (0, -2)) = (1/4, 1/2).
    grad L_1^q(theta^1) = (-3/4, 0), grad L_2^q(theta^1) = (0, -1/2).
    D = -(1/4) [[3/4, 0], [0, 1]] = diag(-3/16, -1/4).
    lambda minimises lambda_1^2 (3/16)^2 + lambda_2^2 (1/4)^2: lambda = (16, 9)/25 = (.64, .36).
    d_c = (-.12, -.09), w = (1.12, 1.09).
Step 2. grad L_1^s = (-3/4, 1/2), grad L_2^s = (1/4, -3/2).
    theta^2 = theta^1 - (1/4)(1.12 (-.75, .5) + 1.09 (.25, -1.5)) = (.391875, .76875).
    grad L_1^q = (-.608125, 0), grad L_2^q = (0, -.23125).
    D = [[-.1140234375, .0380078125], [.02890625, -.08671875]].
    lambda_1 = <d_2, d_2 - d_1> / ||d_1 - d_2||^2, both exact fractions below.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from lossrag.weighting import MetaWeighting, MultiTaskStep, StepRecord


def run_two_steps(**options: object) -> tuple[list[StepRecord], torch.Tensor]:
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.5), MetaWeighting(alpha=1.0, **options), tasks=2)
    support = [
        lambda: ((theta[0] - 1) ** 2 + theta[1] ** 2) / 2,
        lambda: (theta[0] ** 2 + (theta[1] - 2) ** 2) / 2,
    ]
    query = [lambda: (theta[0] - 1) ** 2 / 2, lambda: (theta[1] - 1) ** 2 / 2]
    return [step(support, query), step(support, query)], theta


def second_lambda() -> tuple[Fraction, Fraction]:
    d1 = (Fraction("-0.1140234375"), Fraction("0.0380078125"))
    d2 = (Fraction("0.02890625"), Fraction("-0.08671875"))
    apart = [a - b for a, b in zip(d1, d2, strict=True)]
    first = -sum(b * c for b, c in zip(d2, apart, strict=True)) / sum(c * c for c in apart)
    direction = [first * a + (1 - first) * b for a, b in zip(d1, d2, strict=True)]
    return first, (Fraction("1.12") - direction[0], Fraction("1.09") - direction[1])  # type: ignore[return-value]


@pytest.mark.parametrize("solver", ["exact", "paper"])
def test_first_step_digit_for_digit(solver):
    (first, _), _ = run_two_steps(solver=solver, iterations=200)
    assert first.support_losses.tolist() == [0.5, 2.0]
    assert first.query_losses.tolist() == [0.28125, 0.125]
    assert first.weights.tolist() == [1.0, 1.0]
    assert first.hypergradient.tolist() == [[-0.1875, 0.0], [0.0, -0.25]]
    # with two tasks Algorithm 2's line search is exact, so its plain iterations arrive as well
    assert first.lam.tolist() == pytest.approx([0.64, 0.36], abs=1e-12)
    assert first.direction.tolist() == pytest.approx([-0.12, -0.09], abs=1e-12)
    assert first.next_weights.tolist() == pytest.approx([1.12, 1.09], abs=1e-12)


def test_second_step_digit_for_digit():
    (_, second), theta = run_two_steps()
    assert second.weights.tolist() == pytest.approx([1.12, 1.09], abs=1e-12)
    assert theta.tolist() == pytest.approx([0.391875, 0.76875], abs=1e-12)
    expected = [[-0.1140234375, 0.0380078125], [0.02890625, -0.08671875]]
    assert second.hypergradient.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]
    lam, weights = second_lambda()
    assert second.lam.tolist() == pytest.approx([float(lam), float(1 - lam)], abs=1e-12)
    assert second.next_weights.tolist() == pytest.approx([float(w) for w in weights], abs=1e-12)


def test_unit_scale_drops_eta_over_t():
    (paper, _), _ = run_two_steps()
    (unit, _), _ = run_two_steps(scale="unit")
    assert unit.hypergradient.tolist() == [[-0.75, 0.0], [0.0, -1.0]]
    assert torch.equal(unit.hypergradient * 0.25, paper.hypergradient)
    assert unit.lam.tolist() == pytest.approx([0.64, 0.36], abs=1e-12)
    assert unit.next_weights.tolist() == pytest.approx([1.48, 1.36], abs=1e-12)


def test_constraints_act_on_the_new_weights():
    (none, _), _ = run_two_steps()
    (simplex, _), _ = run_two_steps(constraint="simplex")
    # (1.12, 1.09) projected on sum 2: both lose .105
    assert simplex.next_weights.tolist() == pytest.approx([1.015, 0.985], abs=1e-12)
    (clipped, _), _ = run_two_steps(constraint="nonnegative")
    assert torch.equal(clipped.next_weights, none.next_weights)
