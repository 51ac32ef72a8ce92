"""Half precision, gradient scalers and compiled models on a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossrag.weighting import MGDA, WEIGHTINGS, MetaWeighting, MultiTaskStep, Uniform
from tests.weighting.loops import take

T = 3
METHODS = ["uniform", "uncertainty", "gradnorm", "mgda", "metaweighting"]


class Net(nn.Module):
    """A trunk and heads in float32."""

    def __init__(self, width=32):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width))
        self.heads = nn.ModuleList(nn.Linear(width, 3) for _ in range(T))

    def forward(self, x):
        z = self.trunk(x)
        return [head(z) for head in self.heads]


def batch(number, device, rows=16):
    g = torch.Generator().manual_seed(number)
    return torch.randn(rows, 6, generator=g).to(device), torch.randint(3, (T, rows), generator=g).to(device)


def losses_of(net, x, y, dtype=None):
    def closure():
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype is not None):
            return [F.cross_entropy(z, y[t]) for t, z in enumerate(net(x))]

    return closure


def trained(device, name, dtype=None, scaled=False, steps=8):
    method = MetaWeighting(scale="unit") if name == "metaweighting" else WEIGHTINGS[name]()
    net = Net().to(device)
    step = MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.05), method, T)
    scaler = torch.amp.GradScaler(device.type, enabled=scaled)
    told = []
    for number in range(steps):
        support, query = (losses_of(net, *batch(2 * number + side, device), dtype) for side in range(2))
        if not scaled:
            told.append(take(step, support, query).support_losses)
            continue
        step.optimizer.zero_grad()
        record = step.backward(lambda own=support: [scaler.scale(loss) for loss in own()])
        scaler.unscale_(step.optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        scaler.step(step.optimizer)
        scaler.update()
        if method.needs.hypergradient is not None:
            step.learn(lambda own=query: [scaler.scale(loss) for loss in own()])
        told.append(record.support_losses)
    return torch.stack([losses.float().cpu() for losses in told]), step.task_weights.cpu(), step


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_trains_about_as_float32_does(name, dtype, device):
    """With the scaler for float16, as people write it; float32 in a plain loop beside it."""
    found, weights, step = trained(device, name, dtype, scaled=dtype == torch.float16)
    expected, plain, _ = trained(device, name)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in step.parameters)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(weights, plain, rtol=0.25, atol=0.25)


@pytest.mark.parametrize("name", METHODS)
def test_a_scaler_alone_changes_nothing(name, device):
    found, weights, _ = trained(device, name, None, scaled=True)
    expected, plain, _ = trained(device, name)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", [Uniform(), MGDA(), MetaWeighting(alpha=0.1, scale="unit")])
def test_an_overflow_is_the_scalers(method, device):
    """Half precision overflows: parameters and weights stay, and the scale falls until steps are made again."""
    net = Net().to(device)
    step = MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.05), method, T)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**40)
    losses = losses_of(net, *batch(0, device), torch.float16)
    before = [p.detach().clone() for p in net.parameters()]
    for number in range(40):
        step.optimizer.zero_grad()
        step.backward(lambda: [scaler.scale(loss) for loss in losses()])
        scaler.step(step.optimizer)
        scaler.update()
        if method.needs.hypergradient is not None:
            step.learn(lambda: [scaler.scale(loss) for loss in losses()])
        if number == 0:
            assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
            assert step.task_weights.tolist() == [1.0] * T
    assert scaler.get_scale() < 2.0**40
    assert any(not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    assert all(p.isfinite().all() for p in net.parameters())
    assert step.task_weights.isfinite().all()


@pytest.mark.parametrize("name", ["gradnorm", "mgda", "metaweighting"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_in_halves(name, dtype, device):
    """Stored in halves: the step is finite, its weights in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, T)).to(device, dtype)
    step = MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.01), WEIGHTINGS[name](), T)
    x, _ = batch(0, device)

    def losses():
        return [(z.float() - 1).square().mean() for z in net(x.to(dtype)).unbind(1)]

    for _ in range(4):
        take(step, losses, losses)
    assert all(p.dtype == dtype and p.isfinite().all() for p in net.parameters())
    assert step.task_weights.dtype == torch.float64
    assert step.task_weights.isfinite().all()


@pytest.mark.parametrize("name", ["uniform", "mgda", "metaweighting"])
def test_compiled_model(name, device):
    """The eager result; tasks that do not share a head are told apart though the compiled graph gives zeros."""
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8)).to(device)
        heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(2)).to(device)
        whole = nn.ModuleList([net, heads])
        trunk = torch.compile(net) if compiled else net
        method = MetaWeighting(scale="unit") if name == "metaweighting" else WEIGHTINGS[name]()
        step = MultiTaskStep(list(whole.parameters()), torch.optim.SGD(whole.parameters(), lr=0.1), method, 2)
        for number in range(3):
            x, y = batch(number, device)

            def losses(x=x, y=y, trunk=trunk, heads=heads):
                z = trunk(x)
                return [F.cross_entropy(head(z), y[t]) for t, head in enumerate(heads)]

            take(step, losses, losses)
        found.append([p.detach().cpu() for p in whole.parameters()] + [step.task_weights.cpu()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
