"""Absent tasks: a step without some of its tasks is the step of the others."""

from __future__ import annotations

import copy

import pytest
import torch

from lossrag.weighting import WEIGHTINGS, MetaWeighting, MultiTaskStep, Uniform
from tests.weighting.loops import Net, batch, flat, losses_of, made, signals, take

LISTS = {"fixed"}
"""Methods that have no default for any number of tasks."""
AT_FEATURES = {"mgda_ub"}
"""Methods that compare gradients at the features: tested beside the others, below."""
EVERY = sorted(set(WEIGHTINGS) - LISTS - AT_FEATURES)
OF_ALL = {"random", "torchjd/krum"}
"""Methods that are not separable: what they give a task depends on how many there are."""
MANY = 5
"""Tasks of a step that one is absent from: Krum needs four."""


def run(name, absent_support=(), absent_query=(), how="none", steps=6, tasks=3, alone=None):
    """Parameters and step after some steps; ``alone``: a step over the first tasks alone, of the same net."""
    net = Net(3)
    kept = net if alone is None else _without(net, alone)
    torch.manual_seed(7)
    _, step = made(name, alone or tasks, net=kept)
    for i in range(steps):
        (x, y), (xq, yq) = batch(2 * i, 3), batch(2 * i + 1, 3)
        support = losses_of(kept, x, y, absent_support if alone is None else (), how)
        query = losses_of(kept, xq, yq, absent_query if alone is None else (), how)
        take(step, support, query, **signals(step, i, alone or tasks))
    return kept, step


def _without(net, tasks):
    net.heads = net.heads[:tasks]
    return net


@pytest.mark.parametrize("how", ["none", "unlabelled"])
@pytest.mark.parametrize("name", sorted(set(EVERY) - OF_ALL))
def test_absent_for_ever(name, how):
    """Two of three tasks train as if there were no third, whose weight and head stay."""
    net, step = run(name, {2}, {2}, how)
    other, alone = run(name, alone=2)
    start = Net(3)
    for mine, theirs in zip(other.parameters(), [*net.trunk.parameters(), *net.heads[:2].parameters()], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
    if name != "single_task":  # whose weight is the number of tasks there are
        torch.testing.assert_close(step.task_weights[:2], alone.task_weights, rtol=1e-6, atol=1e-9)
    assert all(torch.equal(a, b) for a, b in zip(net.heads[2].parameters(), start.heads[2].parameters(), strict=True))


@pytest.mark.parametrize("where", ["support", "query", "both"])
@pytest.mark.parametrize("name", EVERY)
def test_absent_once(name, where):
    """Finite afterwards, the record tells, and what the method knows of the task has stayed."""
    net, step = made(name, MANY)
    for i in range(5):
        (x, y), (xq, yq) = batch(2 * i, MANY), batch(2 * i + 1, MANY)
        gone = {1} if i == 2 else set()
        before = copy.deepcopy(step.state)
        record = take(
            step,
            losses_of(net, x, y, gone if where != "query" else ()),
            losses_of(net, xq, yq, gone if where != "support" else ()),
            **signals(step, i, MANY),
        )
        if gone and where != "query":
            assert record.present == (True, False, True, True, True)
            assert bool(record.support_losses[1].isnan())
            assert float(step.task_weights[1]) == float(before["weights"][1])
        if gone and where != "support" and record.query_losses is not None:
            assert record.query_present == (True, False, True, True, True)
    assert bool(flat(net).isfinite().all())
    assert bool(step.task_weights.isfinite().all())


def test_nobody_is_there():
    net, step = made("metaweighting")
    x, y = batch(0, 3)
    before = flat(net)
    record = step(losses_of(net, x, y, {0, 1, 2}), losses_of(net, x, y))
    assert record.skipped == "no task had a labelled row"
    assert torch.equal(flat(net), before)
    quiet = step(losses_of(net, x, y), losses_of(net, x, y, {0, 1, 2}))
    assert quiet.query_present == (False, False, False)
    assert step.task_weights.tolist() == [1, 1, 1]


def test_query_loss_of_zero_without_gradient():
    """0 * logits.sum() is an absent task, and no shortest vector that stops the others."""
    net, step = made("metaweighting")
    x, y = batch(0, 3)

    def query():
        told = losses_of(net, x, y)()
        return [told[0], told[1], net(x)[2].sum() * 0]

    record = step(losses_of(net, x, y), query)
    assert record.query_present == (True, True, False)
    assert float(record.lam[2]) == 0
    assert record.next_weights[0] != 1


def test_task_of_its_own_input():
    """Closures by task: one that is None, and one that returns None."""
    theta = torch.zeros(3, requires_grad=True, dtype=torch.float64)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.3), Uniform(), ["a", "b", "c"])
    record = step([lambda: (theta[0] - 1) ** 2, None, lambda: None])
    assert record.present == (True, False, False)
    assert theta.tolist() == pytest.approx([0.6, 0, 0])


def test_outer_problem_over_some_of_the_tasks():
    """With the third task auxiliary, D has the rows of the first two, as if it had no query loss."""
    nets = [Net(3), Net(3)]
    steps = [
        MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), MetaWeighting(0.1, "unit"), [*"abc"], **more)
        for net, more in zip(nets, ({"outer": ["a", "b"]}, {}), strict=True)
    ]
    (x, y), (xq, yq) = batch(0, 3), batch(1, 3)
    main = steps[0](losses_of(nets[0], x, y), lambda: losses_of(nets[0], xq, yq)()[:2])
    other = steps[1](losses_of(nets[1], x, y), losses_of(nets[1], xq, yq, {2}))
    assert main.hypergradient.shape == (2, 3)
    torch.testing.assert_close(main.hypergradient, other.hypergradient[:2])
    torch.testing.assert_close(main.next_weights, other.next_weights)
    assert main.next_weights[2] != 1, "an auxiliary task has a weight as well"
