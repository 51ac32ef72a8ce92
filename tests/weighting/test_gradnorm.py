"""GradNorm against the derivative of its own objective by autograd, and in a step against a loop written out."""

from __future__ import annotations

import pytest
import torch

from lossrag.weighting import GradNorm, MultiTaskStep, Signals

CPU = torch.device("cpu")


def gramian(T, seed=0):
    G = torch.randn(T, 2 * T, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return G @ G.T


def by_autograd(w, B, losses, first, alpha, lr):
    """The next weights, by Algorithm 1 as the paper states it."""
    w = w.clone().requires_grad_()
    norms = torch.stack([(w[t] ** 2 * B[t, t]).sqrt() for t in range(len(w))])
    rates = losses / first
    target = (norms.mean() * (rates / rates.mean()) ** alpha).detach()
    ((norms - target).abs().sum()).backward()
    moved = w.detach() - lr * w.grad
    return moved * len(w) / moved.sum()


def run(method, steps, T):
    """The weights after each (B, losses) of ``steps``, and the last state."""
    state, found = method.init(T, CPU), []
    for B, losses in steps:
        used, state = method.weigh(state, Signals(losses, B))
        found.append((used, state["weights"]))
    return found, state


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_against_autograd(alpha):
    generator = torch.Generator().manual_seed(1)
    steps = [(gramian(4, seed), 0.5 + torch.rand(4, generator=generator, dtype=torch.float64)) for seed in range(6)]
    found, state = run(GradNorm(alpha=alpha, lr=0.05), steps, 4)
    w = torch.ones(4, dtype=torch.float64)
    for (used, learned), (B, losses) in zip(found, steps, strict=True):
        assert torch.allclose(used, w)
        w = by_autograd(w, B, losses, steps[0][1], alpha, 0.05)
        assert torch.allclose(learned, w)
    assert torch.equal(state["first_losses"], steps[0][1])


def test_weights_move_towards_equal_norms():
    """With alpha 0 the fixed point is w_t |g_t| equal for all."""
    B = torch.diag(torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64))
    _, state = run(GradNorm(alpha=0, lr=1e-3), [(B, torch.ones(3, dtype=torch.float64))] * 4000, 3)
    expected = torch.tensor([1, 1 / 2, 1 / 4], dtype=torch.float64)
    assert torch.allclose(state["weights"], 3 * expected / expected.sum(), atol=0.01)


def test_a_slow_task_gains():
    B, T = torch.eye(2, dtype=torch.float64), 2
    first, later = torch.ones(2, dtype=torch.float64), torch.tensor([0.9, 0.3], dtype=torch.float64)
    _, state = run(GradNorm(), [(B, first), (B, later)], T)
    assert state["weights"][0] > 1 > state["weights"][1]


def test_a_first_loss_of_zero_is_replaced_by_the_first_positive_one():
    B = torch.eye(2)
    _, state = run(GradNorm(), [(B, torch.tensor([1.0, 0.0])), (B, torch.tensor([0.5, 3.0]))], 2)
    assert state["first_losses"].tolist() == [1.0, 3.0]
    assert torch.isfinite(state["weights"]).all()


def test_in_a_step_heads_are_weighed_and_the_state_comes_back():
    torch.manual_seed(0)
    theta = torch.randn(3, requires_grad=True, dtype=torch.float64)
    heads = [torch.randn(1, requires_grad=True, dtype=torch.float64) for _ in range(2)]
    parameters = [theta, *heads]

    def fresh():
        return MultiTaskStep(parameters, torch.optim.SGD(parameters, lr=0.1), GradNorm(lr=0.3), ["a", "b"])

    def loss(t):
        return (theta.sum() * (t + 1) - heads[t][0]) ** 2 + 1

    step = fresh()
    for _ in range(3):
        before = [loss(t) for t in range(2)]
        expected = [torch.autograd.grad(before[t], heads[t])[0] for t in range(2)]
        record = step([lambda: loss(0), lambda: loss(1)])
        for t in range(2):
            assert torch.allclose(heads[t].grad, record.weights[t] / 2 * expected[t])
    assert abs(float(record.next_weights[0]) - 1) > 0.01
    again = fresh()
    again.load_state_dict(step.state_dict())
    assert torch.equal(again.task_weights, step.task_weights)
    assert torch.equal(again.state["first_losses"], step.state["first_losses"])
