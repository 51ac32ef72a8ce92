"""Small problems of a device are solved on the host: the same answer, back where the state is."""

from __future__ import annotations

import pytest
import torch

from lossrag.weighting import MetaWeighting, MultiTaskStep
from lossrag.weighting.methods.mgda import MGDA
from lossrag.weighting.state import host
from lossrag.weighting.state.presence import learn_present, weigh_present
from lossrag.weighting.update.judge import Judge
from tests.weighting.loops import batch, losses_of, made, take
from tests.weighting.properties import T, make

INPUTS, EVERYONE = make(), [True] * T
MOST = [True, False, True, True, True]
CPU = torch.device("cpu")


@pytest.mark.parametrize("present", [EVERYONE, MOST], ids=["all", "one absent"])
def test_the_answer_is_that_of_the_cpu(present):
    method = MGDA()
    state = method.init(T, CPU)
    found, expected = (
        weigh(method, state, INPUTS.signals(0), present) for weigh in (host.weigh_on_host, weigh_present)
    )
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(found[1][key], value) for key, value in expected[1].items())
    outer = MetaWeighting(scale="unit")
    state = outer.init(T, CPU)
    D = INPUTS.hypergradient(0)
    found, expected = (learn(outer, state, D, present, present) for learn in (host.learn_on_host, learn_present))
    assert all(torch.equal(found[0][key], value) for key, value in expected[0].items())
    assert all(torch.equal(value, vars(expected[1])[key]) for key, value in vars(found[1]).items())


@pytest.mark.parametrize("name", ["mgda", "metaweighting", "uniform"])
@pytest.mark.parametrize("reads", [True, False])
def test_a_step_that_reads_a_device_solves_on_the_host(name, reads, monkeypatch):
    asked = []
    monkeypatch.setattr(Judge, "reads_device", property(lambda judge: reads))
    for module, what in (("update.support", "weigh_on_host"), ("step", "learn_on_host")):
        original = getattr(host, what)

        def told(*given, original=original, what=what):
            asked.append(what)
            return original(*given)

        monkeypatch.setattr(f"lossrag.weighting.{module}.{what}", told)
    net, step = made(name)
    take(step, losses_of(net, *batch(0, 3)), losses_of(net, *batch(1, 3)))
    expected = {"mgda": ["weigh_on_host"], "metaweighting": ["learn_on_host"], "uniform": []}[name]
    assert asked == (expected if reads else [])


@pytest.mark.parametrize("policy", ["raise", "skip", "trust"])
def test_tensors_without_values_are_not_read(policy):
    theta = torch.zeros(3, device="meta", requires_grad=True)
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=0.1), MetaWeighting(), 2, nonfinite=policy)
    losses = [theta.sum, lambda: theta.square().sum()]
    assert step(losses, losses).next_weights.device.type == "meta"
