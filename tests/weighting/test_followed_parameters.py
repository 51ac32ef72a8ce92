"""Parameters of a step: what the optimiser trains is trained, and what changes is followed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossrag.errors import ConfigError
from lossrag.weighting import MGDA, GradNorm, MetaWeighting, MultiTaskStep, Uniform
from tests.weighting.loops import Net, batch, flat, losses_of, take

METHODS = [Uniform(), MGDA(), GradNorm(), MetaWeighting(alpha=0.1, scale="unit")]


def tempered(net, tau, x, y):
    return lambda: [F.cross_entropy(z * tau, y[:, t]) for t, z in enumerate(net(x))]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_what_the_optimiser_has_more_gets_the_weighted_gradient(method):
    """A learnable temperature outside the list: by hand, tau - lr sum_t w_t dL_t/dtau / T; D is as without it."""
    net, tau = Net(3), torch.ones((), dtype=torch.float64, requires_grad=True)
    step = MultiTaskStep(list(net.parameters()), torch.optim.SGD([*net.parameters(), tau], lr=0.1), method, 3)
    x, y = batch(0, 3)
    losses = tempered(net, tau, x, y)
    slopes = [torch.autograd.grad(loss, tau)[0] for loss in losses()]
    record = take(step, losses, losses)
    expected = 1 - 0.1 * sum(float(w) * float(s) for w, s in zip(record.weights, slopes, strict=True)) / 3
    assert tau.item() == pytest.approx(expected, rel=1e-9)
    if record.hypergradient is not None:
        other = Net(3)
        alone = MultiTaskStep(other, torch.optim.SGD(other.parameters(), lr=0.1), method, 3)
        moved = tempered(other, torch.ones((), dtype=torch.float64), x, y)
        with torch.no_grad():
            after = tau.clone()
        query = tempered(other, after.detach(), x, y)
        torch.testing.assert_close(record.hypergradient, alone(moved, query).hypergradient)


def test_gradients_outside_the_list_are_not_compared():
    """MGDA: the weights are those of the listed parameters alone."""
    net = Net(2)
    heads = [p for head in net.heads for p in head.parameters()]
    x, y = batch(0, 2)
    trunk = list(net.trunk.parameters())
    every = torch.optim.SGD(net.parameters(), lr=0.1)
    listed = MultiTaskStep(trunk, every, MGDA(), 2)(losses_of(net, x, y)).weights
    fresh = Net(2)
    whole = MultiTaskStep(fresh, torch.optim.SGD(fresh.parameters(), lr=0.1), MGDA(), 2)(losses_of(fresh, x, y)).weights
    torch.testing.assert_close(listed, whole)  # heads are a single task's own, and compared by neither
    assert all(bool((p != q).any()) for p, q in zip(heads, Net(2).heads.parameters(), strict=True))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_frozen_thawed_added_and_replaced(method):
    """A loop that changes its model goes on as a fresh step over the changed model does."""
    net = Net(3)
    net.trunk.requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    step = MultiTaskStep(net, optimizer, method, 3)
    x, y = batch(0, 3)
    frozen = flat(net.trunk)
    take(step, losses_of(net, x, y), losses_of(net, x, y))
    assert torch.equal(flat(net.trunk), frozen)
    net.trunk.requires_grad_(True)
    take(step, losses_of(net, x, y), losses_of(net, x, y))
    assert not torch.equal(flat(net.trunk), frozen)
    net.heads[0] = nn.Linear(8, 3).double()
    with pytest.raises(ConfigError, match=r"not in the optimiser, of shape \(3, 8\), \(3,\): .*add_param_group"):
        take(step, losses_of(net, x, y), losses_of(net, x, y))
    optimizer.add_param_group({"params": list(net.heads[0].parameters())})
    before = flat(net.heads[0])
    take(step, losses_of(net, x, y), losses_of(net, x, y))
    assert not torch.equal(flat(net.heads[0]), before)


def test_a_parameter_twice_counts_once():
    nets = [Net(2), Net(2)]
    x, y = batch(0, 2)
    records = []
    for net, times in zip(nets, (1, 2), strict=True):
        listed = [p for p in net.parameters() for _ in range(times)]
        step = MultiTaskStep(listed, torch.optim.SGD(net.parameters(), lr=0.1), MGDA(), 2)
        records.append(step(losses_of(net, x, y)))
    assert torch.equal(records[0].weights, records[1].weights)
    assert torch.equal(flat(nets[0]), flat(nets[1]))


def test_declared_sharing():
    """A task that only one task touches counts as shared when that is declared, and a shared one as private."""
    x, y = batch(0, 2)

    def gramian_weights(**declared):
        net = Net(2)
        named = {key: getattr(net, value) for key, value in declared.items()}
        step = MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), MGDA(), 2, **named)
        return step(losses_of(net, x, y)).weights

    found = gramian_weights()
    assert torch.equal(gramian_weights(shared="trunk", private="heads"), found)
    assert not torch.equal(gramian_weights(shared="heads"), found)


def test_named_parameters_and_modules_are_understood():
    for give in (lambda net: net, lambda net: net.named_parameters(), lambda net: list(net.parameters())):
        net = Net(2)
        x, y = batch(0, 2)
        MultiTaskStep(give(net), torch.optim.SGD(net.parameters(), lr=0.1), Uniform(), 2)(losses_of(net, x, y))
        assert not torch.equal(flat(net), flat(Net(2)))
