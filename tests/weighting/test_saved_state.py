"""State of a step: it says of what it is, is found by names, and steps can be copied."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields, replace

import pytest
import torch

from lossrag.errors import ConfigError
from lossrag.weighting import (
    EPO,
    WEIGHTINGS,
    Fixed,
    MetaWeighting,
    MultiTaskStep,
    ParetoMTL,
    Tchebycheff,
    Uncertainty,
    Uniform,
)
from tests.weighting.loops import Net, batch, flat, losses_of, made, signals, take


def trained(name, steps=4):
    net, step = made(name)
    for i in range(steps):
        x, y = batch(i, 3)
        take(step, losses_of(net, x, y), losses_of(net, x, y), **signals(step, i))
    return net, step


@pytest.mark.parametrize("name", sorted(set(WEIGHTINGS) - {"fixed", "mgda_ub", "torchjd/krum"}))
def test_tasks_are_found_by_name(name):
    """A state saved for a, b, c is that of c, a, b in another order."""
    _, step = trained(name)
    net = Net(3)
    other = MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), WEIGHTINGS[name](), ["c", "a", "b"])
    other.load_state_dict(step.state_dict())
    assert other.count == step.count
    torch.testing.assert_close(other.task_weights, step.task_weights[[2, 0, 1]])
    for key, value in step.state.items():
        if value.dim() == 1 and len(value) == 3:
            torch.testing.assert_close(other.state[key], value[[2, 0, 1]])


PREFERENCE = [1.0, 2.0, 0.5]
VECTORS = [[1.0, 0.5, 2.0], [3.0, 1.0, 0.0]]
LISTED = {
    "epo": EPO(PREFERENCE),
    "fixed": Fixed(PREFERENCE),
    "uncertainty": Uncertainty(["classification", "regression", "classification"]),
    "tchebycheff": Tchebycheff(0.5, PREFERENCE, [0.3, 0.1, 0.2]),
    "pareto_mtl": ParetoMTL(PREFERENCE, VECTORS, start_steps=3),
}


def listed(method, order):
    """The options written down in this order of tasks, by hand."""

    def moved(value):
        if not isinstance(value, list):
            return value
        nested = isinstance(value[0], list)
        return [[row[i] for i in order] for row in value] if nested else [value[i] for i in order]

    return replace(method, **{one.name: moved(getattr(method, one.name)) for one in fields(method)})


@pytest.mark.parametrize("name", LISTED)
def test_options_that_list_the_tasks_are_found_by_name(name):
    """A run that goes on with its tasks and options in another order ends where it would have."""
    names, order = ["a", "b", "c"], [2, 0, 1]
    nets = Net(3), Net(3)
    steps = [
        MultiTaskStep(nets[0], torch.optim.SGD(nets[0].parameters(), lr=0.1), LISTED[name], names),
        MultiTaskStep(
            nets[1],
            torch.optim.SGD(nets[1].parameters(), lr=0.1),
            listed(LISTED[name], order),
            [names[i] for i in order],
        ),
    ]
    for i in range(3):
        steps[0](losses_of(nets[0], *batch(i, 3)))
    nets[1].load_state_dict(nets[0].state_dict())
    steps[1].load_state_dict(steps[0].state_dict())
    for i in range(3, 6):
        steps[0](losses_of(nets[0], *batch(i, 3)))
        closure = losses_of(nets[1], *batch(i, 3))
        steps[1](lambda closure=closure: dict(zip(names, closure(), strict=True)))
    torch.testing.assert_close(steps[1].task_weights, steps[0].task_weights[order], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(flat(nets[1]), flat(nets[0]), rtol=1e-6, atol=1e-9)
    same = MultiTaskStep(nets[1], torch.optim.SGD(nets[1].parameters(), lr=0.1), LISTED[name], steps[1].tasks)
    with pytest.raises(ConfigError, match=r"is \[.*\] there, \[.*\] here"):
        same.load_state_dict(steps[0].state_dict())


def test_what_does_not_fit_is_refused():
    _, step = trained("metaweighting")
    saved = step.state_dict()
    net = Net(3)

    def into(method, tasks):
        MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), method, tasks).load_state_dict(saved)

    with pytest.raises(ConfigError, match="the method is 'metaweighting' there, 'uniform' here"):
        into(Uniform(), ["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"alpha is 0.1 there, 0.5 here"):
        into(MetaWeighting(alpha=0.5), ["a", "b", "c"])
    with pytest.raises(ConfigError, match="of the tasks a, b, c, the step has a, b, d"):
        into(MetaWeighting(), ["a", "b", "d"])
    saved["about"] = torch.tensor([1, 2], dtype=torch.uint8)
    with pytest.raises(ConfigError, match="no state of a step"):
        into(MetaWeighting(), ["a", "b", "c"])


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["uniform", "metaweighting", "gradnorm"])
def test_copies_go_on_alike(name, way):
    """A step copied with its net trains as the original does, and neither moves the other."""
    net, step = trained(name)
    both = (net, step)
    other_net, other = copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))
    for i in range(3):
        x, y = batch(20 + i, 3)
        before = flat(net)
        torch.manual_seed(i)
        take(other, losses_of(other_net, x, y), losses_of(other_net, x, y), **signals(other, i))
        assert torch.equal(flat(net), before)
        torch.manual_seed(i)
        take(step, losses_of(net, x, y), losses_of(net, x, y), **signals(step, i))
        assert torch.equal(flat(net), flat(other_net))
        assert torch.equal(step.task_weights, other.task_weights)
