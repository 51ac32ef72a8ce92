"""The MultiDDS-style scorer against autograd of its expected reward, and its rewards against real cosines."""

from __future__ import annotations

import pytest
import torch

from lossrag.weighting import MultiDDS, MultiTaskStep, Signals

CPU = torch.device("cpu")


def matrix(T, seed=0):
    return torch.randn(T, T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(method, steps):
    """The last state after (B, D) of every step, and all weights."""
    T = len(steps[0][0])
    state, weights = method.init(T, CPU), []
    for B, D in steps:
        used, state = method.weigh(state, Signals(torch.ones(T), B))
        weights.append(used)
        state, outer = method.learn(state, D)
    return state, torch.stack(weights), outer


def by_autograd(psi, rewards, update, lr):
    psi = psi.clone().requires_grad_()
    p = torch.softmax(psi, 0)
    objective = (p * rewards).sum() if update == "expected" else (rewards * p.log()).sum()
    objective.backward()
    return psi.detach() + lr * psi.grad


@pytest.mark.parametrize("update", ["expected", "sum"])
@pytest.mark.parametrize("reward", ["inner", "cosine"])
def test_against_autograd(update, reward):
    method = MultiDDS(lr=0.3, reward=reward, update=update)
    steps = [(torch.diag(torch.arange(1.0, 5.0, dtype=torch.float64) ** 2), matrix(4, s)) for s in range(5)]
    state, weights, _ = run(method, steps)
    psi = torch.zeros(4, dtype=torch.float64)
    for used, (_, D) in zip(weights, steps, strict=True):
        assert torch.allclose(used, 4 * torch.softmax(psi, 0))
        rewards = -D.mean(0)
        if reward == "cosine":
            rewards = rewards / torch.arange(1.0, 5.0)
            rewards = rewards / rewards.abs().max()
        psi = by_autograd(psi, rewards, update, 0.3)
    assert torch.allclose(state["psi"], psi)
    assert torch.allclose(state["weights"], 4 * torch.softmax(psi, 0))


def test_outer_record():
    _, _, outer = run(MultiDDS(), [(torch.eye(3), matrix(3))])
    assert outer.lam.tolist() == pytest.approx([1 / 3] * 3)
    assert torch.allclose(outer.direction, matrix(3).mean(0))
    assert (float(outer.gap), int(outer.iterations)) == (0.0, 0)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_cosine_rewards_are_free_of_scale(scale):
    B, D, each = torch.eye(3).double(), matrix(3), torch.tensor([1.0, 5.0, scale], dtype=torch.float64)
    plain, _, _ = run(MultiDDS(), [(B, D)])
    scaled, _, _ = run(MultiDDS(), [(each[:, None] * B * each, D * each)])
    assert torch.allclose(plain["weights"], scaled["weights"])


def test_long_runs_stay_positive_and_keep_their_sum():
    state, _, _ = run(MultiDDS(lr=100.0, reward="inner"), [(torch.eye(4), 1e6 * matrix(4))] * 50)
    assert torch.isfinite(state["weights"]).all()
    assert float(state["weights"].sum()) == pytest.approx(4)
    assert state["weights"].min() >= 0


def make_step(trained, memory="rows", **options):
    method = MultiDDS(lr=0.5, **options)
    return MultiTaskStep(trained, torch.optim.SGD(trained, lr=0.1), method, ["a", "b", "c"], memory)


@pytest.mark.parametrize("which", ["all", "shared"])
def test_rewards_of_a_step_are_proportional_to_real_cosines(which):
    """cos(mean query gradient at the new point, support gradient at the old one), by autograd alone."""
    torch.manual_seed(0)
    theta = torch.randn(5, dtype=torch.float64, requires_grad=True)
    heads = [torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    parameters = [theta, *heads]
    compared = parameters if which == "all" else [theta]
    A = torch.randn(2, 3, 7, 5, dtype=torch.float64)

    def losses(split):
        return [lambda t=t: ((A[split, t] @ theta).tanh().sum() * heads[t] - 1).square().sum() for t in range(3)]

    def gradient(loss):
        found = torch.autograd.grad(loss, compared, allow_unused=True)
        return torch.cat([torch.zeros(len(p)) if g is None else g for g, p in zip(found, compared, strict=True)])

    old = [gradient(loss()) for loss in losses(0)]
    step = make_step(parameters, parameters=which)
    record = step(losses(0), losses(1))
    mean = torch.stack([gradient(loss()) for loss in losses(1)]).mean(0)
    cosines = torch.stack([torch.cosine_similarity(mean, g, dim=0) for g in old])
    rewards = cosines / cosines.abs().max()
    psi = by_autograd(torch.zeros(3, dtype=torch.float64), rewards, "expected", 0.5)
    assert torch.allclose(record.next_weights, 3 * torch.softmax(psi, 0))
    again = make_step(parameters, parameters=which)
    again.load_state_dict(step.state_dict())
    assert all(torch.equal(again.state[key], step.state[key]) for key in ("weights", "psi", "lengths"))
