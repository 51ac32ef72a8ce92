"""Values that are not finite: found before anything is changed, named, and left out where that is asked for."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from lossrag.errors import DivergedError
from lossrag.weighting import MGDA, MetaWeighting, MultiTaskStep, Uniform
from lossrag.weighting.update.finite import finite
from tests.weighting.loops import Net, batch, losses_of, made, take

METHODS = ["uniform", "uncertainty", "mgda", "gradnorm", "metaweighting", "torchjd/pcgrad"]


def everything(net, step):
    """All that a step may change."""
    tensors = [*net.state_dict().values(), *step.state.values(), *step.optimizers.states()]
    return [tensor.clone() for tensor in tensors]


def same(before, after):
    return len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def spoiled(net, x, y, what):
    """Losses of which the second is not finite, by its input, by the loss, or by its gradient alone."""

    def closure():
        told = losses_of(net, x, y)()
        if what == "loss":
            told[1] = told[1] * float("inf")
        if what == "gradient":
            # sqrt of 0 has the value 0 and no finite slope
            told[1] = told[1] + (net(x)[1].sum() * 0).abs().sqrt()
        return told

    if what == "input":
        x = x.clone()
        x[0, 0] = float("nan")
    return closure


@pytest.mark.parametrize("what", ["input", "loss", "gradient"])
@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_changed(name, what):
    for policy in ("raise", "skip"):
        net = Net(3, norm=True)
        net, step = made(name, net=net, nonfinite=policy)
        x, y = batch(0, 3)
        take(step, losses_of(net, x, y), losses_of(net, x, y))
        before, count = everything(net, step), step.count
        if policy == "raise":
            with pytest.raises(DivergedError, match=r"Step 2: .*not finite.*Nothing was changed by this step"):
                take(step, spoiled(net, x, y, what), losses_of(net, x, y))
            assert step.count == count
        else:
            record = take(step, spoiled(net, x, y, what), losses_of(net, x, y))
            assert "not finite" in record.skipped
            assert step.skipped == 1
        assert same(before, everything(net, step))
        take(step, losses_of(net, x, y), losses_of(net, x, y))
        assert not same(before, everything(net, step)), "the loop goes on"


def test_the_cause_is_named():
    x, y = batch(0, 2)

    def told(prepare=lambda net, step: None, what="loss", **options):
        net = Net(2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        step = MultiTaskStep(net, optimizer, Uniform(), ["a", "b"], **options)
        step(losses_of(net, x, y))
        prepare(net, step)
        with pytest.raises(DivergedError) as caught:
            step(spoiled(net, x, y, what))
        return str(caught.value)

    assert "the support loss is not finite for b (inf)" in told()
    assert "inputs and parameters are finite: look at the targets and the loss" in told()
    assert "an input of the model is not finite" in told(what="input")

    def poison(net, step):
        net.trunk[0].weight.data[0, 0] = float("nan")

    assert "the parameter trunk.0.weight is not finite" in told(poison)

    def overshoot(net, step):
        state = step.optimizer.state[net.trunk[0].weight]
        state["momentum_buffer"].fill_(float("inf"))

    assert "the optimiser's state is not finite" in told(overshoot)
    assert "the gradient is not finite for b, though the losses are" in told(what="gradient")


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_the_query_side(policy):
    """The update is made of finite gradients and stays; the weights do not move."""
    net, step = made("metaweighting", nonfinite=policy)
    x, y = batch(0, 3)
    if policy == "raise":
        with pytest.raises(DivergedError, match="the query loss is not finite for b"):
            step(losses_of(net, x, y), spoiled(net, x, y, "loss"))
    else:
        record = step(losses_of(net, x, y), spoiled(net, x, y, "loss"))
        assert record.skipped == "the query loss is not finite for b"
    assert step.task_weights.tolist() == [1, 1, 1]


def test_trust_reads_nothing_and_lets_through():
    net, step = made("uniform", nonfinite="trust")
    x, y = batch(0, 3)
    step(spoiled(net, x, y, "loss"))
    assert not all(bool(p.isfinite().all()) for p in net.parameters())


def test_query_passes_leave_running_statistics_alone():
    """Unless told otherwise; whether the model is known or only its parameters."""
    for known in (True, False):
        for moved in (False, True):
            net = Net(3, norm=True)
            listed = net if known else list(net.parameters())
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            step = MultiTaskStep(listed, optimizer, MetaWeighting(0.1, "unit"), 3, query_statistics=moved)
            reference = copy.deepcopy(net.trunk[1])
            (x, y), (xq, yq) = batch(0, 3), batch(1, 3)
            step(losses_of(net, x, y), losses_of(net, xq, yq))
            reference(Net(3, norm=True).trunk[0](x))
            same_mean = torch.allclose(net.trunk[1].running_mean, reference.running_mean)
            assert same_mean != moved, (known, moved)


def test_dropout_and_compiled_models():
    """A compiled model, whose graph gives zeros for the other tasks' heads, is weighed as the eager one."""
    x, y = torch.randn(12, 6, dtype=torch.float64), torch.randint(2, (12, 2))

    def weights(compiled, joint):
        net = Net(2)
        call = torch.compile(net, backend="aot_eager") if compiled else net
        every = lambda: [F.cross_entropy(z, y[:, t]) for t, z in enumerate(call(x))]  # noqa: E731
        losses = every if joint else [lambda t=t: every()[t] for t in range(2)]
        step = MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), MGDA(), 2)
        return step(losses).weights

    eager = weights(False, True)
    torch.testing.assert_close(weights(True, True), eager)
    torch.testing.assert_close(weights(True, False), eager)


def test_a_compiled_graph_that_can_be_walked_once():
    """After a plain backward pass its buffers are given away: the closure is called once a task, or refused."""
    x, y = torch.randn(12, 6, dtype=torch.float64), torch.randint(2, (12, 2))
    net = Net(2)
    call = torch.compile(net, backend="aot_eager")
    every = lambda: [F.cross_entropy(z, y[:, t]) for t, z in enumerate(call(x))]  # noqa: E731
    sum(every()).backward()
    eager = Net(2)
    expected = MultiTaskStep(eager, torch.optim.SGD(eager.parameters(), lr=0.1), MGDA(), 2)(
        lambda: [F.cross_entropy(z, y[:, t]) for t, z in enumerate(eager(x))]
    )
    record = MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), MGDA(), 2)(every)
    torch.testing.assert_close(record.weights, expected.weights)


def test_values_of_two_devices_are_looked_at_apart(monkeypatch):
    """Adam keeps its counts on the host, its moments on the device."""
    seen = []
    original = torch.stack

    def stack(tensors, *rest, **options):
        seen.append({t.device.type for t in tensors})
        return torch.ones(1) * float("nan") if "meta" in seen[-1] else original(tensors, *rest, **options)

    monkeypatch.setattr(torch, "stack", stack)
    assert not finite([torch.ones(2), torch.ones(2, device="meta"), torch.ones(())])
    assert seen == [{"cpu"}, {"meta"}]
