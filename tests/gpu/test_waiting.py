"""Steps with nonfinite="trust" never wait for the device: torch refuses every operation that would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lossrag.lossbank import LOSSES
from lossrag.weighting import MetaWeighting, MultiTaskStep
from tests.gpu.test_steps import Loop
from tests.lossbank.oracles import batch_for, built_in
from tests.weighting import problems
from tests.weighting.loops import take
from tests.weighting.test_properties import METHODS

FIVE = 5  # tasks of the methods' options
READS = "solves on the CPU, or looks at how large losses are"


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Operations that synchronise host and device raise RuntimeError."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_waiting_is_noticed(device):
    if device.type != "cuda":
        pytest.skip("a CPU is never waited for")
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting(device):
        torch.zeros((), device=device).item()


class Five(Loop):
    """Of five tasks."""

    def __init__(self, method, device, **options):
        self.device, self.dtype, self.own_features = device, torch.float32, None
        torch.manual_seed(0)
        self.net = nn.Module()
        self.net.trunk = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.net.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(FIVE))
        self.net.to(device)
        options.setdefault("nonfinite", "trust")
        made = options.pop("optimizer", torch.optim.SGD)
        self.step = MultiTaskStep(self.net, made(self.net.parameters(), lr=0.01), method, FIVE, **options)
        self.x = torch.randn(12, 6).to(device)
        self.y = torch.randint(3, (12, FIVE)).to(device)
        self.scores = torch.full((FIVE,), 0.5, device=device)

    def closure(self, number, absent=(), how="none"):
        def closure():
            z = self.net.trunk(self.x)
            self.own_features = [z] * FIVE
            losses = [F.cross_entropy(head(z), self.y[:, t]) for t, head in enumerate(self.net.heads)]
            return [None if t in absent else loss for t, loss in enumerate(losses)]

        return closure

    def more(self, number):
        needs = self.step.needs
        told = {"epoch": number // 2} if needs.epoch else {}
        if needs.scores:
            told["scores"] = lambda: self.scores
        if needs.representation is not None:
            told["representation"] = lambda: self.own_features
        return told


def take_unwatched_then_watched(loop, device, **absent):
    """What is looked at once, in the first steps, may be waited for."""
    for number in range(2):
        loop.take(number, **absent)
    with no_waiting(device):
        for number in range(2, 4):
            loop.take(number, **absent)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("absent", [(), (1, 3)], ids=["all", "two absent"])
def test_every_method(name, absent, device):
    promises = METHODS[name]
    if not promises.blind and not name.startswith("mgda"):
        pytest.skip(READS)
    take_unwatched_then_watched(Five(promises.method, device), device, absent=absent, query_absent=absent[:1])


OPTIONS = {
    "adam inside": (MetaWeighting(inner="adam"), {"optimizer": torch.optim.Adam}),
    "fused adam inside": (
        MetaWeighting(inner="adam"),
        {"optimizer": lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True)},
    ),
    "low memory": (MetaWeighting(), {"memory": "low"}),
    "shared": (MetaWeighting(parameters="shared"), {}),
    "paper's solver": (MetaWeighting(solver="paper"), {}),
    "every second": (MetaWeighting(), {"every": 2}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, device):
    method, options = OPTIONS[name]
    take_unwatched_then_watched(Five(method, device, **options), device)


@pytest.mark.parametrize("name", ["uniform", "mgda", "metaweighting"])
@pytest.mark.parametrize("kind", problems.KINDS)
def test_routes_of_losses(kind, name, device, monkeypatch):
    """As runs hand them over: own inputs, groups, joint passes. Support and query losses, and the scores."""
    model, inputs = problems.make(kind)
    model = model.to(device)
    monkeypatch.setattr(problems, "LABELS", problems.LABELS.to(device))
    inputs = [part.to(device) for part in inputs]
    parameters = problems.trained(model)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    method = METHODS[name].method
    step = MultiTaskStep(parameters, optimizer, method, problems.T, model=model, nonfinite="trust")

    def once():
        support, query = (problems.losses_of(kind, model, inputs) for _ in range(2))
        take(step, support[0], query[0])
        support[1].scores()

    for _ in range(2):
        once()
    with no_waiting(device):
        once()


def test_micro_batches(device):
    loop = Five(MetaWeighting(), device)
    for number in range(2):
        with no_waiting(torch.device("cpu") if number == 0 else device):
            loop.step.optimizer.zero_grad()
            loop.step.accumulate(loop.closure(0, absent=(1,)))
            loop.step.backward(loop.closure(0))
            loop.step.optimizer.step()
            loop.step.learn(loop.closure(0))


@pytest.mark.parametrize("name", built_in())
def test_every_loss(name, device):
    """With all labels known to be there; counts on the device, where a run has them."""
    batch = batch_for(name).to(torch.float32)
    z, f = batch.logits.to(device).requires_grad_(), batch.features.to(device).requires_grad_()
    targets, counts = batch.targets.to(device), batch.class_counts.to(device)
    for number in range(2):
        with no_waiting(torch.device("cpu") if number == 0 else device):
            values = LOSSES[name](z, targets, features=f, class_counts=counts, labelled=True)
            torch.autograd.grad(values.sum(), (z, f), materialize_grads=True)


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_policies_that_look_wait(policy, device):
    """The contrary: losses and one number are read."""
    if device.type != "cuda":
        pytest.skip("a CPU is never waited for")
    loop = Five(MetaWeighting(), device, nonfinite=policy)
    loop.take(0)
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting(device):
        loop.take(1)
