"""Forms of losses: what a step takes, and what it says to the rest."""

from __future__ import annotations

import pytest
import torch

from lossrag.errors import ConfigError
from lossrag.weighting import Fixed, MetaWeighting, MultiTaskStep, Uniform
from tests.weighting.loops import Net, batch, flat, losses_of


def new(method=None, net=None, **options):
    net = net or Net(2)
    given = Uniform() if method is None else method
    return net, MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), given, ["a", "b"], **options)


def trained(form):
    """Parameters after a step whose losses have this form."""
    net, step = new()
    x, y = batch(0, 2)
    every = losses_of(net, x, y)
    step(form(every))
    return flat(net)


FORMS = {
    "tuple": lambda every: lambda: tuple(every()),
    "dict": lambda every: lambda: dict(zip("ba", reversed(every()), strict=True)),
    "closures": lambda every: [lambda: every()[0], lambda: every()[1]],
    "closures by name": lambda every: {"b": lambda: every()[1], "a": lambda: every()[0]},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_alike(form):
    torch.testing.assert_close(trained(FORMS[form]), trained(lambda every: every), rtol=1e-12, atol=0)


MISTAKES = {
    "losses, no closures": (lambda every: every(), "got a list of tensors: pass lambda"),
    "stacked": (lambda every: lambda: torch.stack(every()), r"tensor of shape \(2,\): return \[loss_a"),
    "stacked, no closure": (lambda every: torch.stack(every()), r"got a tensor of shape \(2,\)"),
    "one loss": (lambda every: lambda: every()[:1], "expected 2 task losses on the support side"),
    "one closure": (lambda every: [lambda: every()[0]], "expected 2 task losses on the support side, one per task"),
    "a number": (lambda every: lambda: [every()[0], every()[1].item()], "must be a scalar tensor, got float"),
    "a string": (lambda every: "losses", "got str: pass"),
    "unknown name": (lambda every: {"a": every, "bb": every}, "'bb', which is no task: did you mean 'b'"),
    "missing name": (lambda every: lambda: {"a": every()[0]}, "lack b: give None"),
    "not reduced": (lambda every: lambda: [loss.expand(3) for loss in every()], r"got shape \(3,\): take its mean"),
    "detached": (lambda every: lambda: [loss.detach() for loss in every()], "does not depend on any trained parameter"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_and_change_nothing(mistake):
    give, words = MISTAKES[mistake]
    net, step = new()
    x, y = batch(0, 2)
    before = flat(net)
    with pytest.raises(ConfigError, match=words):
        step(give(losses_of(net, x, y)))
    assert torch.equal(flat(net), before)
    assert step.count == 0
    assert all(p.grad is None for p in net.parameters())


def test_query_losses_are_checked_before_the_parameters_move():
    net, step = new(MetaWeighting())
    x, y = batch(0, 2)
    every = losses_of(net, x, y)
    before = flat(net)
    for query in ([lambda: every()[0]], {"a": every, "c": every}, every()):
        with pytest.raises(ConfigError, match="query"):
            step(every, query)
    assert torch.equal(flat(net), before)


def test_methods_by_name_class_and_object():
    for given in ("metaweighting", MetaWeighting, MetaWeighting()):
        assert isinstance(new(given)[1].weighting, MetaWeighting)
    with pytest.raises(ConfigError, match="did you mean 'metaweighting'"):
        new("metaweigthing")
    with pytest.raises(ConfigError, match="expected a weighting method"):
        new(3)


def test_optimisers_that_cannot_be_used():
    net = Net(2)
    with pytest.raises(ConfigError, match="LBFGS evaluates the losses as often as it likes"):
        MultiTaskStep(net, torch.optim.LBFGS(net.parameters()), Uniform(), 2)
    with pytest.raises(ConfigError, match="expected an optimiser"):
        MultiTaskStep(net, net, Uniform(), 2)
    both = [torch.optim.SGD(net.parameters(), 0.1), torch.optim.SGD(net.heads.parameters(), 0.1)]
    with pytest.raises(ConfigError, match="in two of the optimisers"):
        MultiTaskStep(net, both, Uniform(), 2)
    with pytest.raises(ConfigError, match="two tasks have the name a"):
        MultiTaskStep(net, both[0], Uniform(), ["a", "a"])
    with pytest.raises(ConfigError, match="the tasks are a list of names"):
        MultiTaskStep(net, both[0], Uniform(), "ab")
    with pytest.raises(ConfigError, match="expected tensors among the parameters"):
        MultiTaskStep([{"params": list(net.parameters())}], both[0], Uniform(), 2)
    assert Fixed([1.0, 2.0]).weights == [1.0, 2.0]
