"""Random loops: what real ones do to a step, in any order, beside a plain reference."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lossrag.weighting import MGDA, MetaWeighting, MultiTaskStep, Uniform
from tests.weighting.loops import Net, batch, flat
from tests.weighting.plain_step import PlainStep

NAMES = ("a", "b", "c")
METHODS = {"uniform": Uniform(), "mgda": MGDA(), "metaweighting": MetaWeighting(alpha=0.1, scale="unit")}
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}

SOME = st.sets(st.sampled_from(NAMES))
EVENT = st.fixed_dictionaries(
    {
        "absent": SOME,
        "absent_query": SOME,
        "how": st.sampled_from(["none", "unlabelled", "missing"]),
        "spoiled": st.sampled_from([None, None, None, None, "a", "b"]),
        "spoiled_query": st.sampled_from([None, None, None, None, "a", "c"]),
        "frozen": st.sampled_from(["nothing", "nothing", "trunk", "first head"]),
        "form": st.sampled_from(["joint", "dict", "closures"]),
        "before": st.sampled_from(["nothing", "nothing", "saved", "reordered", "copied", "pickled", "parts"]),
    }
)


def losses_by_name(net, x, y, absent, how="none", spoiled=None):
    """By name the losses that a loop computes: of absent tasks None or the mean over no label."""
    told = {}
    for t, (name, z) in enumerate(zip(NAMES, net(x), strict=True)):
        labels = torch.full_like(y[:, t], -100) if name in absent else y[:, t]
        told[name] = F.cross_entropy(z, labels, ignore_index=-100)
        if name in absent and how == "none":
            told[name] = None
        if name == spoiled and told[name] is not None:
            told[name] = told[name] * float("inf")
    return told


def given_as(net, form, names, *arguments):
    """The same losses, in one of the forms that a step takes."""

    def every():
        return losses_by_name(net, *arguments)

    if form == "joint":
        return lambda: [every()[name] for name in names]
    if form == "dict":
        return every
    return {name: lambda name=name: every()[name] for name in names}


def step_over(net, method, names):
    return MultiTaskStep(net, torch.optim.SGD(net.parameters(), lr=0.1), METHODS[method], names, nonfinite="skip")


def moved(net, step, how, method):
    """The loop is stopped and goes on: from a state, in another order of the tasks, or from a copy."""
    if how in ("saved", "reordered"):
        names = NAMES if how == "saved" else ("c", "a", "b")
        fresh = step_over(net, method, names)
        fresh.load_state_dict(step.state_dict())
        return net, fresh
    if how == "copied":
        return copy.deepcopy((net, step))
    return pickle.loads(pickle.dumps((net, step))) if how == "pickled" else (net, step)


def there_of(losses, absent):
    return {name: loss for name, loss in losses.items() if name not in absent}


def play(method, events):
    """Both steps through the same events; they agree after each."""
    net, other = Net(3), Net(3)
    step, plain = step_over(net, method, NAMES), PlainStep(other, NAMES, method)
    for number, event in enumerate(events):
        net, step = moved(net, step, event["before"], method)
        for model in (net, other):
            model.trunk.requires_grad_(event["frozen"] != "trunk")
            model.heads[0].requires_grad_(event["frozen"] != "first head" and event["frozen"] != "trunk")
            if event["frozen"] == "trunk":
                model.heads[0].requires_grad_(True)
        absent = set(event["absent"])
        if event["frozen"] == "first head" and event["frozen"] != "trunk":
            absent -= {"a"}
        (x, y), (xq, yq) = batch(2 * number, 3), batch(2 * number + 1, 3)
        how = "unlabelled" if event["how"] == "missing" else event["how"]
        support = given_as(net, event["form"], step.tasks, x, y, absent, how, event["spoiled"])
        query = given_as(net, event["form"], step.tasks, xq, yq, event["absent_query"], how, event["spoiled_query"])
        step.optimizer.zero_grad()
        learns = METHODS[method].needs.hypergradient is not None
        if event["before"] == "parts":
            record = step.backward(support)
            if record.skipped is None:
                step.optimizer.step()
            if learns:
                step.learn(query)
        elif learns:
            step(support, query)
        else:
            step(support)
        seen = losses_by_name(other, x, y, (), spoiled=event["spoiled"])
        plain(
            there_of(seen, absent),
            lambda q=(xq, yq), e=event: there_of(
                losses_by_name(other, *q, (), spoiled=e["spoiled_query"]), e["absent_query"]
            ),
        )
        torch.testing.assert_close(flat(net), flat(other), rtol=1e-6, atol=1e-9, msg=lambda m, n=number: f"{n}: {m}")
        weights = dict(zip(step.tasks, step.task_weights.tolist(), strict=True))
        assert weights == pytest.approx(plain.weights, rel=1e-6), number


@settings(max_examples=60, **SETTINGS)
@given(st.sampled_from(sorted(METHODS)), st.lists(EVENT, min_size=1, max_size=6))
def test_random_loops(method, events):
    play(method, events)


@pytest.mark.slow
def test_four_and_a_half_thousand_random_loops():
    """With those of several processes (parallel/test_random_groups.py) 5,000."""
    played = 0

    @settings(max_examples=4500, **SETTINGS)
    @given(st.sampled_from(sorted(METHODS)), st.lists(EVENT, min_size=1, max_size=6))
    def drawn(method, events):
        nonlocal played
        play(method, events)
        played += 1

    drawn()
    print(f"{played} of 4500 sequences of one process equal the plain step")
    assert played >= 4500
