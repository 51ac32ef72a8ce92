"""EPO Search: its linear programs set up again for scipy, and a problem whose front is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from lossrag import DivergedError
from lossrag.weighting import EPO, MultiTaskStep, Signals
from lossrag.weighting.methods.epo import adjustments
from tests.weighting.trade_off import is_pareto, train

CPU = torch.device("cpu")


def gradients(T, seed):
    return torch.randn(T, 3 * T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weigh(method, G, losses):
    losses = torch.as_tensor(losses, dtype=torch.float64)
    weights, state = method.weigh(method.init(len(G), CPU), Signals(losses, G @ G.T))
    assert torch.equal(state["weights"], weights)
    return weights


def program(G, losses, r, tolerance=1e-4, relaxed=False):
    """Objective and constraints (c, A, b) of the step, from the gradients: max c . x with A x >= b on the simplex."""
    G, losses, r = np.asarray(G), np.asarray(losses, dtype=float), np.asarray(r, dtype=float)
    shares = r * losses / (r * losses).sum()
    mu = (shares * np.log(shares * len(r))).sum()
    balancing = (r * (np.log(shares * len(r)) - mu)) @ G  # the direction that lowers mu
    e = G @ balancing
    if mu > tolerance:
        rows, bounds = [], []
        for j in range(len(r)):
            worst = r[j] * losses[j] == (r * losses).max()
            if not (e > 0).any() or worst:
                rows.append(G @ G[j])
                bounds.append(0.0)
            elif e[j] <= 0:
                rows.append(G @ G[j])
                bounds.append(e[j])
        return e, np.stack(rows), np.array(bounds)
    A, b = G @ G.T, np.zeros(len(r))
    if not relaxed:
        A, b = np.concatenate([A, e[None]]), np.append(b, min(0.0, e.max()))
    return (G @ G.T).sum(0), A, b


def optimum(c, A, b):
    found = linprog(-c, A_ub=-A, b_ub=-b, A_eq=np.ones((1, len(c))), b_eq=[1], bounds=(0, None))
    return None if found.status == 2 else -found.fun


PREFERENCE = [1.0, 2.0, 0.5, 1.0]


def test_balance_against_scipy():
    for seed in range(20):
        G, losses = gradients(4, seed), np.random.default_rng(seed).uniform(0.1, 3, size=4)
        lam = weigh(EPO(preference=PREFERENCE), G, losses).numpy() / 4
        c, A, b = program(G, losses, PREFERENCE)
        assert lam.sum() == pytest.approx(1)
        assert lam.min() >= 0
        assert (A @ lam - b).min() >= -1e-7 * np.abs(A).max()
        assert c @ lam == pytest.approx(optimum(c, A, b), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("relaxed", [True, False])
def test_descent_against_scipy(relaxed):
    for seed in range(10):
        G = gradients(4, seed)
        losses = (1 + 1e-3 * np.random.default_rng(seed).uniform(-1, 1, size=4)) / np.array(PREFERENCE)
        lam = weigh(EPO(preference=PREFERENCE, relaxed=relaxed), G, losses).numpy() / 4
        c, A, b = program(G, losses, PREFERENCE, relaxed=relaxed)
        if optimum(c, A, b) is None:
            c, A, b = program(G, losses, PREFERENCE, relaxed=True)
        assert (A @ lam - b).min() >= -1e-7 * np.abs(A).max()
        assert c @ lam == pytest.approx(optimum(c, A, b), rel=1e-6)
        assert (G.numpy() @ G.numpy().T @ lam).min() >= -1e-7, "no loss rises"


def test_descent_whose_last_constraint_contradicts_the_others():
    """Such programs exist; the step then goes without that constraint."""
    G, rng = gradients(3, 127)[:, :3], np.random.default_rng(127)
    r = rng.uniform(0.2, 3, 3)
    losses = (1 + 1e-2 * np.random.default_rng(127).uniform(-1, 1, size=3)) / r
    assert optimum(*program(G, losses, r)) is None
    lam = weigh(EPO(preference=r.tolist()), G, losses).numpy() / 3
    c, A, b = program(G, losses, r, relaxed=True)
    assert c @ lam == pytest.approx(optimum(c, A, b), rel=1e-6)


def test_adjustments_are_the_slope_of_the_uniformity():
    """a is proportional to the derivative of mu with respect to the losses."""
    losses = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    r = torch.tensor([1.0, 0.7, 3.0], dtype=torch.float64)
    mu, a = adjustments(losses, r)
    (slope,) = torch.autograd.grad(mu, losses)
    assert torch.allclose(a / (r * losses).sum(), slope)
    assert float(mu.detach()) > 0


def test_only_the_worst_loss_counts_when_gradients_are_orthogonal():
    assert weigh(EPO(), torch.eye(3, dtype=torch.float64), [1.0, 5.0, 1.0]).tolist() == [0.0, 3.0, 0.0]


def test_a_balanced_point_descends_on_all():
    # max sum_j (B lambda)_j for orthogonal gradients: the longest
    assert weigh(EPO(), torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)), [1.0, 1.0]).tolist() == [0.0, 2.0]


def test_controlled_ascent():
    """In balance mode the small loss may rise, and no faster than balance asks."""
    G = torch.tensor([[1.0, 0.0], [-0.9, 0.5]], dtype=torch.float64)
    losses = [4.0, 1.0]
    weights = weigh(EPO(), G, losses)
    assert (G @ G.T @ weights)[1] < 0
    assert (G @ G.T @ weights)[0] > 0


@pytest.mark.parametrize(
    "preference",
    [[1.0, 1.0], [4.0, 1.0], *(pytest.param(more, marks=pytest.mark.slow) for more in ([1.0, 2.0], [1.0, 8.0]))],
)
def test_reaches_the_exact_pareto_point(preference):
    final = train(EPO(preference=preference))[-1]
    scaled = final * torch.tensor(preference, dtype=torch.float64)
    assert float(scaled.min() / scaled.max()) > 0.95
    assert is_pareto(final)


def test_what_is_not_finite_is_named():
    theta = torch.ones(2, requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.01), EPO(), ["good", "bad"])
    with pytest.raises(DivergedError, match="bad"):
        step([lambda: theta[0] ** 2, lambda: theta.sum() * float("inf")])


def test_heads_enter_the_gramian_and_are_weighed():
    """theta is all of the model: with nothing shared, the diagonal of B is that of the heads."""
    parameters = [torch.full((1,), value, requires_grad=True) for value in (1.0, 2.0)]
    step = MultiTaskStep(parameters, torch.optim.SGD(parameters, lr=0.1), EPO(), 2)
    record = step([lambda: parameters[0][0] ** 2, lambda: parameters[1][0] ** 2])
    assert record.weights.tolist() == [0.0, 2.0]
    assert [p.item() for p in parameters] == pytest.approx([1.0, 2.0 - 0.1 * 4.0])
