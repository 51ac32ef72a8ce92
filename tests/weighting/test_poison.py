"""Numbers that are none at every tensor of a step: named with task or tensor and step, and nothing is poisoned."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from lossrag.errors import DivergedError
from lossrag.weighting import WEIGHTINGS, MultiTaskStep
from tests.weighting.loops import signals, take

METHODS = (
    *("uniform", "uncertainty", "dwa", "dtp", "random", "bandit_mtl", "tchebycheff", "mgda", "gradnorm"),
    *("pareto_mtl", "metaweighting", "torchjd/pcgrad"),
)
VALUES = {"nan": math.nan, "inf": math.inf, "huge": 1e30}
TASK_PLACES = ("input", "target", "loss", "gradient")
"""Places that are of one task, which is named."""
TENSOR_PLACES = {
    "parameter": "trunk.0.weight",
    "parameter of a task": "heads.1.bias",
    "first moment": "exp_avg of trunk.0.weight",
    "second moment": "exp_avg_sq of heads.1.weight",
    "statistics": "trunk.1.running_var",
    "weights": "weights",
}
"""Places that are tensors, which are named."""


class Spoiled(torch.autograd.Function):
    """The identity, with a gradient times a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.heads = nn.ModuleList(nn.Linear(8, 2) for _ in range(3))


class Loop:
    """Three tasks with inputs of their own, one closure for each."""

    def __init__(self, name, nonfinite="raise", memory="rows"):
        self.net = Net()
        optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
        self.step = MultiTaskStep(self.net, optimizer, WEIGHTINGS[name](), ["a", "b", "c"], memory, nonfinite=nonfinite)
        g = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(2, 3, 6, 5, generator=g)
        self.targets = torch.randn(2, 3, 6, 2, generator=g)
        self.factors = torch.ones(2, 2)  # of task b's loss and gradient, by side

    def losses(self, side):
        def one(t):
            logits = self.net.heads[t](self.net.trunk(self.inputs[side, t]))
            if t == 1:
                logits = Spoiled.apply(logits, float(self.factors[side, 1]))
            loss = (logits - self.targets[side, t]).square().mean()
            return loss * float(self.factors[side, 0]) if t == 1 else loss

        return [lambda t=t: one(t) for t in range(3)]

    def take(self):
        return take(self.step, self.losses(0), self.losses(1), **signals(self.step, self.step.count, 3))

    def spoil(self, place, value, side=0):
        optimizer, net = self.step.optimizer, self.net
        if place == "input":
            self.inputs[side, 1, 2, 3] = value
        elif place == "target":
            self.targets[side, 1, 2, 1] = value
        elif place in ("loss", "gradient"):
            self.factors[side, int(place == "gradient")] = value
        else:
            tensors = {
                "parameter": net.trunk[0].weight,
                "parameter of a task": net.heads[1].bias,
                "first moment": optimizer.state[net.trunk[0].weight]["exp_avg"],
                "second moment": optimizer.state[net.heads[1].weight]["exp_avg_sq"],
                "statistics": net.trunk[1].running_var,
                "weights": self.step.state["weights"],
            }
            tensors[place].data.view(-1)[1] = value

    def everything(self):
        """All that a step may change, bit for bit."""
        held = [*self.net.state_dict().values(), *self.step.state.values(), *self.step.optimizers.states()]
        return [tensor.clone() for tensor in held]

    def finite(self):
        return all(bool(tensor.isfinite().all()) for tensor in self.everything())


def same(before, after):
    return len(before) == len(after) and all(
        torch.equal(a.nan_to_num(nan=1.25), b.nan_to_num(nan=1.25)) and torch.equal(a.isnan(), b.isnan())
        for a, b in zip(before, after, strict=True)
    )


def check(name, place, kind, memory="rows"):
    """What is wrong, None where nothing is."""
    loop = Loop(name, memory=memory)
    loop.take()
    loop.spoil(place, VALUES[kind])
    before, count = loop.everything(), loop.step.count
    try:
        loop.take()
    except DivergedError as error:
        return wrong(str(error), place, kind, same(before, loop.everything()) and loop.step.count == count)
    # a method may have no use for it, as for weights that it finds anew
    return None if loop.finite() else "poisoned, in silence"


def wrong(told, place, kind, unchanged):
    """What is wrong with an error at a second step."""
    if not (unchanged or "task weights were not" in told) or not told.startswith("Step 2: "):
        return f"changed something, or another step: {told}"
    named = TENSOR_PLACES.get(place)
    others = [task for task in "ac" if f"for {task}" in told or f", {task} (" in told]
    if kind != "huge" and (named not in told if named else "for b" not in told or others):
        return f"{named or 'task b alone'} is not named: {told}"
    return None


CASES = [(name, place, kind) for name in METHODS for place in (*TASK_PLACES, *TENSOR_PLACES) for kind in VALUES]
FEW = [case for number, case in enumerate(CASES) if number % 11 == 0 or case[0] == "metaweighting"]


@pytest.mark.parametrize("case", FEW, ids="-".join)
def test_own_loop(case):
    assert check(*case) is None


@pytest.mark.slow
def test_own_loop_in_full(capsys):
    wrong = {case: why for case in CASES if (why := check(*case)) is not None}
    with capsys.disabled():
        print(f"\nnumbers that are none, own loop: {len(CASES) - len(wrong)} of {len(CASES)}")
    assert not wrong


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("place", [*TASK_PLACES, *TENSOR_PLACES])
def test_in_little_memory(place, kind):
    assert check("metaweighting", place, kind, "low") is None


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("place", TASK_PLACES)
@pytest.mark.parametrize("name", ["metaweighting", "multi_dds"])
def test_query_side(name, place, kind):
    """The update of finite gradients stays, the weights do not move."""
    loop = Loop(name)
    loop.take()
    loop.spoil(place, VALUES[kind], side=1)
    state = {key: value.clone() for key, value in loop.step.state.items()}
    told = ended(loop)
    assert loop.finite()
    if told is None:
        assert kind == "huge"
        return
    assert re.match(r"Step 2: .* (for|that of) b\b.* the task weights were not", told)
    if name == "metaweighting":  # the other draws its weights before the update
        assert all(torch.equal(loop.step.state[key], value) for key, value in state.items())


def ended(loop):
    """Word of the error that a step ends in, if any."""
    try:
        loop.take()
    except DivergedError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", METHODS)
def test_skipped_where_that_is_asked_for(name):
    loop = Loop(name, "skip")
    loop.take()
    loop.spoil("gradient", 1e22)
    before = loop.everything()
    record = loop.take()
    assert record.skipped is not None
    assert "for b is finite, but too large" in record.skipped
    assert same(before, loop.everything())
    loop.spoil("gradient", 1.0)
    loop.take()
    assert not same(before, loop.everything())
    assert loop.finite()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=10.0, momentum=0.9),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
        torch.optim.Adadelta,
        lambda p: torch.optim.AdamW(p, amsgrad=True),
        lambda p: [torch.optim.Adam(list(p)[:2]), torch.optim.SGD(list(p)[2:], lr=0.1)],
    ],
)
def test_an_update_is_taken_back_whole(make):
    """Whatever the optimiser keeps: after the error it goes on as one that never met the gradient."""
    theta = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    step = MultiTaskStep(theta, make(theta), "uniform", ["a", "b"])
    other = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    plain = MultiTaskStep(other, make(other), "uniform", ["a", "b"])

    def losses(p, factor=1.0):
        return [
            lambda: 1e-3 * sum(x.square().sum() for x in p),
            lambda: sum(Spoiled.apply(x, factor).sum() for x in p),
        ]

    for _ in range(3):
        step(losses(theta))
        plain(losses(other))
        with pytest.raises(DivergedError, match=rf"Step {step.count + 1}: .*would not be finite after the update"):
            step(losses(theta, 3e38))
    assert all(torch.equal(*pair) for pair in zip(theta, other, strict=True))
    assert all(bool(p.isfinite().all()) for p in theta)
    mine, others = step.optimizers.states(), plain.optimizers.states()
    assert len(mine) == len(others)
    assert all(torch.equal(*pair) for pair in zip(mine, others, strict=True))


def test_large_numbers_that_are_fine_are_let_through():
    theta = nn.Parameter(torch.ones(3))
    step = MultiTaskStep([theta], torch.optim.SGD([theta], lr=1e-30), "uniform", 1)
    step([lambda: (theta * 1e29).sum() * 1])
    torch.testing.assert_close(theta.detach(), torch.full((3,), 0.9))


@pytest.mark.parametrize("nonfinite", ["raise", "trust"])
def test_running_statistics(nonfinite):
    """An input whose square is none: losses and gradients are finite, the running variance would not be."""
    loop = Loop("uniform", nonfinite)
    loop.take()
    loop.spoil("input", 1e22)
    before = loop.everything()
    if nonfinite == "trust":
        loop.take()
        assert not loop.finite()
        return
    with pytest.raises(DivergedError, match=r"Step 2: .*not finite.*an input of the model is as large as 1.0e\+22"):
        loop.take()
    assert same(before, loop.everything())
