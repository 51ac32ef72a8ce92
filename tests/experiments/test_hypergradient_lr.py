"""The learning rate's own derivative: against autograd through the update, in torch's optimisers and in whole runs."""

from __future__ import annotations

import json

import pytest
import torch

from lossrag import ConfigError
from lossrag.experiments.config.optimizer import OptimizerConfig
from lossrag.experiments.optim.hypergradient_lr import SGDHD, AdamHD
from lossrag.experiments.record.checkpoint import pack_optimizer, unpack_optimizer
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.run.build import build_optimizer
from lossrag.models import MLP, MultiTaskModel

BETA, LR = 1e-3, 0.05
CENTRE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def objective(theta, decay=0.0):
    return (theta - CENTRE).pow(4).sum() + (theta[0] * theta[1]).sin() + decay / 2 * theta.square().sum()


def unrolled(kind, steps, momentum=0.0, decay=0.0):
    """Parameters and learning rates, with d f(theta(lr)) / d lr of the last update by autograd."""
    theta = torch.zeros(3, dtype=torch.float64)
    lr, buffer, first, second = LR, torch.zeros(3, dtype=torch.float64), 0.0, 0.0
    update, before, trace = None, None, []
    for count in range(1, steps + 1):
        if update is not None:
            rate = torch.tensor(lr, dtype=torch.float64, requires_grad=True)
            objective(before - rate * update, decay).backward()
            lr = max(0.0, lr - BETA * float(rate.grad))
        point = theta.clone().requires_grad_()
        objective(point, decay).backward()
        g = point.grad
        if kind == "sgd":
            buffer = momentum * buffer + g if count > 1 else g.clone()
            update = buffer
        else:
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
            update = (first / (1 - 0.9**count)) / ((second / (1 - 0.999**count)).sqrt() + 1e-8)
        before, theta = theta, theta - lr * update
        trace.append((theta, lr))
    return trace


CASES = {
    "sgd": ("sgd", 0.0, 0.0),
    "momentum": ("sgd", 0.7, 0.0),
    "sgd, decay": ("sgd", 0.0, 0.3),
    "momentum, decay": ("sgd", 0.7, 0.3),
    "adam": ("adam", 0.0, 0.0),
    "adam, decay": ("adam", 0.0, 0.3),
}


def make(kind, theta, momentum, decay):
    if kind == "sgd":
        return SGDHD([theta], beta=BETA, lr=LR, momentum=momentum, weight_decay=decay)
    return AdamHD([theta], beta=BETA, lr=LR, weight_decay=decay)


@pytest.mark.parametrize("case", CASES)
def test_against_autograd_through_the_update(case):
    kind, momentum, decay = CASES[case]
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = make(kind, theta, momentum, decay)
    for expected, lr in unrolled(kind, 12, momentum, decay):
        optimizer.zero_grad()
        objective(theta).backward()
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr, rel=1e-5)
        assert torch.allclose(theta, expected, rtol=1e-4, atol=1e-6)
    assert abs(optimizer.param_groups[0]["lr"] - LR) > 1e-3


def test_the_first_step_is_that_of_the_plain_optimiser():
    for kind, plain in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)):
        ours, theirs = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        for theta, optimizer in ((ours, make(kind, ours, 0.0, 0.0)), (theirs, plain([theirs], lr=LR))):
            objective(theta).backward()
            optimizer.step()
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("case", CASES)
def test_resumes_bit_for_bit(case):
    kind, momentum, decay = CASES[case]

    def advance(theta, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            objective(theta).backward()
            optimizer.step()

    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = make(kind, theta, momentum, decay)
    advance(theta, optimizer, 4)
    tensors, groups = pack_optimizer(optimizer)
    other = theta.detach().clone().requires_grad_()
    resumed = make(kind, other, momentum, decay)
    unpack_optimizer(resumed, {k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(groups)))
    advance(theta, optimizer, 4)
    advance(other, resumed, 4)
    assert torch.equal(theta, other)
    assert optimizer.param_groups[0]["lr"] == resumed.param_groups[0]["lr"]


def test_never_negative_and_able_to_return():
    theta = torch.zeros(1, requires_grad=True)
    optimizer, rates = SGDHD([theta], beta=1.0, lr=0.1), []
    for gradient in (1.0, -1.0, -1.0):
        theta.grad = torch.full((1,), gradient)
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.1, 0.0, 1.0]


def test_groups_move_apart():
    a, b = (torch.zeros(1, requires_grad=True) for _ in range(2))
    optimizer = SGDHD([{"params": [a]}, {"params": [b], "lr": 0.2}], beta=0.1, lr=0.1)
    for _ in range(2):
        a.grad, b.grad = torch.ones(1), 2 * torch.ones(1)
        optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 + 0.1, 0.2 + 0.4])


def test_a_parameter_without_gradient_is_passed_over():
    a, b = (torch.zeros(1, requires_grad=True) for _ in range(2))
    optimizer = AdamHD([a, b], beta=0.1, lr=0.1)
    for _ in range(2):
        a.grad = torch.ones(1)
        optimizer.step()
    assert float(b.detach()) == 0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


def test_built_from_the_configuration():
    model = MultiTaskModel(lambda: MLP((4,), [3]), [2])
    for name, kind in (("sgd", SGDHD), ("adam", AdamHD)):
        optimizer = build_optimizer(OptimizerConfig(name=name, hypergradient_lr=1e-4, weight_decay=0.1), model)
        assert type(optimizer) is kind
        assert optimizer.param_groups[0]["hypergradient_lr"] == 1e-4
        assert optimizer.param_groups[0]["weight_decay"] == 0.1
        assert type(build_optimizer(OptimizerConfig(name=name), model)) is kind.__bases__[-1]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"hypergradient_lr": -1.0}, "OptimizerConfig: hypergradient_lr must be 0 or more"),
        ({"hypergradient_lr": 1e-4, "name": "adamw"}, "sgd and adam"),
        ({"hypergradient_lr": 1e-4, "vectors": "lazy"}, "set optimizer.hypergradient_lr=0"),
    ],
)
def test_bad_options(options, part):
    with pytest.raises(ConfigError, match=part):
        OptimizerConfig(**options)


@pytest.mark.parametrize("options", [["optimizer.name=sgd", "optimizer.lr=0.1"], ["optimizer.name=adam"]])
def test_a_run_logs_its_learning_rate(train, options):
    directory = train(*options, "optimizer.hypergradient_lr=1e-4", "weighting=uniform", "log.tensorboard=false")
    rates = [point["optimizer/lr"] for point in read_points(directory / "metrics.jsonl") if "optimizer/lr" in point]
    assert rates[0] == (0.1 if "optimizer.lr=0.1" in options else 1e-3)
    assert len(set(rates)) == len(rates)
