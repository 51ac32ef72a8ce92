"""What all methods that read losses only must do: sums, symmetry, edges, memory, and nothing read from the device."""

from __future__ import annotations

import pytest
import torch

from lossrag.weighting import (
    DTP,
    DWA,
    WEIGHTINGS,
    BanditMTL,
    Fixed,
    MultiTaskStep,
    RandomWeights,
    Signals,
    Tchebycheff,
    Uncertainty,
)

CPU = torch.device("cpu")
SYMMETRIC = {
    "uncertainty": Uncertainty(lr=0.1),
    "uncertainty, sgd": Uncertainty(lr=0.1, optimizer="sgd"),
    "dwa": DWA(),
    "tchebycheff": Tchebycheff(),
    "tchebycheff, smooth": Tchebycheff(mu=0.5),
    "bandit_mtl": BanditMTL(),
    "bandit_mtl, small ball": BanditMTL(rho=0.1, eta_p=2.0),
    "dtp": DTP(gamma=2.0),
    "dtp, paper": DTP(scale="paper"),
}
"""Methods for which no task is special."""
FREE = ("uncertainty", "uncertainty, sgd", "dtp, paper")
SUM = {name: method for name, method in SYMMETRIC.items() if name not in FREE} | {
    "random": RandomWeights(),
    "random, dirichlet": RandomWeights("dirichlet"),
}
"""Methods whose weights have sum T."""
EVERY = {**SYMMETRIC, **SUM}


def walk(method, losses, scores=None, steps_an_epoch=2):
    """The weights (S, T) over S steps, from losses (S, T); scores fall with the losses unless they are given."""
    losses = torch.as_tensor(losses)
    scores = torch.exp(-losses) if scores is None else torch.as_tensor(scores)
    state, found = method.init(losses.shape[1], CPU), []
    for i, (row, score) in enumerate(zip(losses, scores, strict=True)):
        signals = Signals(row, scores=score, epoch=i // steps_an_epoch, step=i + 1)
        weights, state = method.weigh(state, signals)
        found.append(weights)
    return torch.stack([*found, state["weights"]])


def random_losses(steps=8, tasks=5, seed=0):
    return torch.rand(steps, tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def test_names():
    names = {"uncertainty", "dwa", "random", "fixed", "tchebycheff", "bandit_mtl", "dtp"}
    assert names <= set(WEIGHTINGS)
    assert {WEIGHTINGS[name] for name in names} == {*(type(method) for method in EVERY.values()), Fixed}
    assert all(WEIGHTINGS[name]().needs.hypergradient is None and not WEIGHTINGS[name]().needs.rows for name in names)


@pytest.mark.parametrize("name", EVERY)
def test_weights_start_at_one(name):
    state = EVERY[name].init(3, CPU)
    assert state["weights"].tolist() == [1.0] * 3
    assert state["weights"].dtype == torch.float64


@pytest.mark.parametrize("name", SUM)
def test_weights_are_shares_of_t(name):
    weights = walk(SUM[name], random_losses())
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.full((len(weights),), 5.0, dtype=torch.float64))


@pytest.mark.parametrize("name", EVERY)
def test_weights_move(name):
    assert walk(EVERY[name], random_losses())[-2:].sub(1).abs().max() > 1e-3


@pytest.mark.parametrize("name", SYMMETRIC)
def test_permutation(name):
    losses, order = random_losses(), [3, 0, 4, 1, 2]
    assert torch.allclose(walk(SYMMETRIC[name], losses[:, order]), walk(SYMMETRIC[name], losses)[:, order])


@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("value", [0.0, 0.7, 1e30], ids=["zero", "ordinary", "huge"])
def test_equal_losses_give_equal_weights(name, value):
    weights = walk(SYMMETRIC[name], torch.full((8, 3), value))
    assert torch.isfinite(weights).all()
    assert torch.allclose(weights, weights[:, :1].expand_as(weights))
    if name in SUM:
        assert torch.allclose(weights, torch.ones_like(weights))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("row", [[0.0, 0.0, 1.0], [1e30, 1.0, 0.0], [1e30, 0.5, 1e-30], [3e38, 1e38, 1.0]], ids=str)
def test_extreme_losses_give_finite_weights(name, row):
    losses = torch.tensor([row, row[::-1], row, row, row[::-1], row])
    weights = walk(EVERY[name], losses, scores=torch.tensor([[0.0, 1.0, -1e30]]).expand(6, 3))
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()


@pytest.mark.parametrize("name", SUM)
def test_one_task_weighs_one(name):
    assert torch.allclose(walk(SUM[name], random_losses(tasks=1)), torch.ones(9, 1, dtype=torch.float64))


def closures(theta):
    return [lambda: (theta - 1).square().sum(), lambda: (theta + 1).square().sum(), lambda: 3 * theta[0] ** 2]


def run(step, theta, steps):
    found = []
    for _ in range(steps):
        losses = closures(theta)
        with torch.no_grad():
            score = torch.exp(-torch.stack([loss() for loss in losses]))
        record = step(losses, epoch=step.count // 3, scores=lambda score=score: score)
        found.append(record.weights)
    return torch.stack([*found, record.next_weights])


@pytest.mark.parametrize("name", [*EVERY, "fixed"])
def test_a_stored_state_continues_alike(name):
    method = EVERY.get(name, Fixed([1.0, 2.0, 0.0]))

    def fresh(start):
        theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        return theta, MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.05), method, 3)

    theta, step = fresh([0.5, 2.0])
    run(step, theta, 7)
    saved, point = {k: v.clone() for k, v in step.state_dict().items()}, theta.tolist()
    expected = run(step, theta, 7)
    other_theta, other = fresh(point)
    other.load_state_dict(saved)
    assert torch.equal(run(other, other_theta, 7), expected)


@pytest.mark.parametrize("name", [*EVERY, "fixed"])
def test_the_state_that_came_in_is_left_as_it_was(name):
    method = EVERY.get(name, Fixed([1.0, 2.0]))
    state = method.init(2, CPU)
    before = {key: value.clone() for key, value in state.items()}
    _, after = method.weigh(state, Signals(torch.tensor([1.0, 2.0]), scores=torch.tensor([0.2, 0.4]), epoch=1))
    assert state.keys() == after.keys()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert all(after[key].shape == value.shape and after[key].dtype == value.dtype for key, value in before.items())


@pytest.mark.parametrize("name", [*EVERY, "fixed", "tchebycheff, all options"])
def test_no_read_of_the_device(name):
    """Meta tensors hold no data: any .item() or branch on a value would raise."""
    special = {"fixed": Fixed([1.0, 2.0]), "tchebycheff, all options": Tchebycheff(0.5, [1.0, 2.0], [0.1, 0.2])}
    method = special.get(name) or EVERY[name]
    losses = torch.zeros(2, device="meta")
    state = method.init(2, losses.device)
    for epoch in range(3):
        weights, state = method.weigh(state, Signals(losses, scores=losses, epoch=epoch))
    assert weights.device.type == "meta"
    assert all(value.device.type == "meta" for value in state.values())
