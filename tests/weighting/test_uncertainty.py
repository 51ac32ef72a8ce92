"""Learned uncertainty against one optimiser that holds theta and s together, as in the reference implementations."""

from __future__ import annotations

import pytest
import torch

from lossrag.weighting import MultiTaskStep, Signals, Uncertainty

CPU = torch.device("cpu")
TARGETS = torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, 5.0]], dtype=torch.float64)


def losses(theta):
    return [lambda target=target: (theta - target).square().sum() for target in TARGETS]


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_against_a_joint_optimiser(name):
    kind, lr = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name], 0.02
    mine = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    likelihood = ["classification", "regression", "classification"]
    step = MultiTaskStep([mine], kind([mine], lr=lr), Uncertainty(likelihood, lr, name), 3)
    theta, s = (torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (2, 3))
    joint = kind([theta, s], lr=lr)
    factor = torch.tensor([1.0, 0.5, 1.0])
    for _ in range(50):
        joint.zero_grad()
        (factor * torch.exp(-s) * torch.stack([loss() for loss in losses(theta)]) + s / 2).mean().backward()
        joint.step()
        record = step(losses(mine))
    assert torch.allclose(mine, theta)
    assert torch.allclose(record.next_weights, factor * torch.exp(-s))
    assert torch.allclose(step.state["log_variance"], s)


def settle(loss, **options):
    method = Uncertainty(lr=0.05, **options)
    state = method.init(len(loss), CPU)
    for _ in range(3000):
        state = method.weigh(state, Signals(torch.tensor(loss)))[1]
    return state["weights"].tolist()


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_steady_loss_settles_at_half_its_inverse(kind, optimizer):
    assert settle([4.0, 0.25], likelihood=[kind], optimizer=optimizer) == pytest.approx([0.125, 2.0], rel=1e-3)


def test_the_likelihood_decides_where_a_weight_starts():
    assert Uncertainty().init(2, CPU)["weights"].tolist() == [1.0, 1.0]
    assert Uncertainty(["regression"]).init(2, CPU)["weights"].tolist() == [0.5, 0.5]
    assert Uncertainty(["regression", "classification"]).init(2, CPU)["weights"].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_task(optimizer):
    assert settle([2.0], optimizer=optimizer) == pytest.approx([0.25], rel=1e-3)


def test_a_loss_of_zero_lets_the_weight_grow():
    method = Uncertainty(lr=0.01)
    state = method.init(2, CPU)
    for _ in range(100):
        state = method.weigh(state, Signals(torch.zeros(2)))[1]
    assert state["weights"].tolist() == pytest.approx([2.718281828] * 2, rel=1e-5)  # exp(100 lr)
