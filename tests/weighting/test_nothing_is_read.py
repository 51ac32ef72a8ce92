"""No step with nonfinite="trust" reads a value back, nor mixes devices: on tensors that have no values.

Those of the device "meta" know their shape alone: a branch on a value raises, and so does a product of two devices.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossrag.weighting import MetaWeighting, MultiTaskStep, TableRows, TaskGroup
from tests.weighting.loops import take
from tests.weighting.test_properties import METHODS, T

META = torch.device("meta")


class Loop:
    """A step over tasks on one input, wide enough for factored gradients of its linear layer."""

    def __init__(self, method, norm=True, optimizer=torch.optim.SGD, **options):
        layers = [nn.Linear(64, 64), *([nn.BatchNorm1d(64)] if norm else []), nn.Tanh()]
        self.net = nn.ModuleDict(
            {"trunk": nn.Sequential(*layers), "heads": nn.ModuleList(nn.Linear(64, 3) for _ in range(T))}
        )
        self.net.to(META)
        self.optimizer = optimizer(self.net.parameters(), lr=0.1)
        self.step = MultiTaskStep(self.net, self.optimizer, method, T, **{"nonfinite": "trust", **options})
        self.x, self.y = torch.zeros(12, 64, device=META), torch.zeros(12, T, dtype=torch.int64, device=META)
        self.z = None

    def closure(self, absent=()):
        def closure():
            self.z = self.net["trunk"](self.x)
            losses = [F.cross_entropy(head(self.z), self.y[:, t]) for t, head in enumerate(self.net["heads"])]
            return [None if t in absent else loss for t, loss in enumerate(losses)]

        return closure

    def take(self, absent=(), query_absent=()):
        needs = self.step.needs
        more = {"epoch": 0} if needs.epoch else {}
        if needs.scores:
            more["scores"] = lambda: torch.zeros(T, device=META)
        if needs.representation is not None:
            more["representation"] = lambda: [self.z] * T
        return take(self.step, self.closure(absent), self.closure(query_absent), **more)

    def assert_on_the_device(self, record):
        tensors = [*self.step.state.values(), record.weights, record.next_weights, record.support_losses]
        assert all(value.device.type == "meta" for value in tensors)


@pytest.mark.parametrize("name", [name for name, promises in METHODS.items() if promises.blind and "," not in name])
def test_every_method(name):
    loop = Loop(METHODS[name].method)
    for _ in range(2):
        record = loop.take()
    loop.assert_on_the_device(record)


@pytest.mark.parametrize("name", ["uniform", "mgda", "mgda_ub", "metaweighting"])
def test_absent_tasks(name):
    loop = Loop(METHODS[name].method)
    record = loop.take((1, 3), (1,))
    loop.assert_on_the_device(record)
    assert record.present == tuple(t not in (1, 3) for t in range(T))


OPTIONS = {
    "adam inside": (MetaWeighting(inner="adam"), {"optimizer": torch.optim.Adam}),
    "low memory": (MetaWeighting(), {"memory": "low"}),
    "shared": (MetaWeighting(parameters="shared"), {}),
    "paper's solver": (MetaWeighting(solver="paper"), {}),
    "every second": (MetaWeighting(), {"every": 2}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    method, options = OPTIONS[name]
    loop = Loop(method, **options)
    for _ in range(2):
        record = loop.take()
    loop.assert_on_the_device(record)


def test_backward_learn_and_micro_batches():
    loop = Loop(MetaWeighting())
    for _ in range(2):
        loop.step.accumulate(loop.closure((1,)))
        loop.step.backward(loop.closure())
        loop.optimizer.step()
        record = loop.step.learn(loop.closure())
    loop.assert_on_the_device(record)


@pytest.mark.parametrize("name", ["mgda", "metaweighting"])
def test_groups_of_tasks(name):
    """Two tasks in one pass, beside rows of a table."""
    table = torch.zeros(20, 3, device=META, requires_grad=True)
    heads = [torch.zeros(3, device=META, requires_grad=True) for _ in range(2)]
    ids = torch.zeros(4, dtype=torch.int64, device=META)

    def compute(copies, stacks):
        return (copies[0].sum(1) * stacks[0].view(2, 3)).sum(1)

    group = [TaskGroup(range(2), [TableRows(table, ids)], [heads], compute)]
    parameters = [table, *heads]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    step = MultiTaskStep(parameters, optimizer, METHODS[name].method, 2, nonfinite="trust")
    for _ in range(2):
        record = take(step, group, group)
    assert record.next_weights.device.type == "meta"


def test_a_method_that_reads_is_noticed():
    """What these tests are made of can fail."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        Loop(METHODS["epo"].method).take()
