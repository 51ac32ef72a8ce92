"""Losses computed in one call are those computed one by one; which may be is found, not guessed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag.lossbank import LOSSES, LossInputs, Mixture, Tangent, contributions, gradient_sizes, joined_mixture
from lossrag.lossbank.library.batched import loss_gradients, loss_values, stackable
from lossrag.lossbank.library.contract import Loss
from tests.lossbank.oracles import batch_for, built_in, normal

NAMES = built_in()
ONE_BY_ONE = {  # hyperparameters that a function decides by, or computes with outside torch
    "truncated_generalised_ce": {"k"},
    "taylor_ce": {"terms"},
    "barron": {"alpha"},
    "class_balanced_ce": {"beta"},
    "class_balanced_focal": {"beta"},
}


def rows_for(name):
    batch = batch_for(name)
    return LossInputs(batch.logits, batch.targets, batch.features, batch.class_counts)


def own_loss(function, name="my_own", **hyperparameters):
    return Loss(name, function, "test", "classification", "none", hyperparameters)


def siblings(name):
    """The loss with three values of every hyperparameter."""
    loss = LOSSES[name]
    factors = (1.0, 0.8, 0.95)
    return [
        replace(loss, name=f"{name} {f}", hyperparameters={n: f * v for n, v in loss.hyperparameters.items()})
        for f in factors
    ]


def one_by_one(losses, rows):
    """Values and gradients from a call and a backward pass for each loss."""
    values, on_logits, on_features = [], [], []
    for loss in losses:
        z, f = rows.logits.clone().requires_grad_(), rows.features.clone().requires_grad_()
        value = loss(z, rows.targets, features=f, class_counts=rows.class_counts)
        gradients = torch.autograd.grad(value.sum(), (z, f), materialize_grads=True)
        values.append(value.detach())
        on_logits.append(gradients[0])
        on_features.append(gradients[1])
    return torch.stack(values), torch.stack(on_logits), torch.stack(on_features)


def assert_same(losses, rows):
    values, on_logits, on_features = one_by_one(losses, rows)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(loss_values(losses, rows), values, **close)
    found = loss_gradients(losses, rows)
    torch.testing.assert_close(found[0], on_logits, **close)
    if found[1] is None:
        assert not any("features" in loss.needs for loss in losses)
    else:
        torch.testing.assert_close(found[1], on_features, **close)


@pytest.mark.parametrize("name", NAMES)
def test_variants_of_every_loss(name):
    assert_same(siblings(name), rows_for(name))


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_whole_library_at_once(kind):
    losses = [LOSSES[name] for name in NAMES if LOSSES[name].target_kind == kind]
    assert_same(losses, rows_for(losses[0].name))


@given(st.lists(st.sampled_from([n for n in NAMES if LOSSES[n].target_kind == "classification"]), min_size=1))
@settings(max_examples=40, deadline=None)
def test_any_choice_in_any_order(names):
    """Also with a loss twice."""
    assert_same([LOSSES[name] for name in names], rows_for("cross_entropy"))


@pytest.mark.parametrize("name", NAMES)
def test_which_hyperparameters_are_tensors(name):
    loss = LOSSES[name]
    assert stackable(loss) == set(loss.hyperparameters) - ONE_BY_ONE.get(loss.function.__name__, set())


def counted(function):
    calls = []

    def counting(logits, targets, *, gamma=2.0):
        calls.append(gamma)
        return function(logits, targets, gamma=gamma)

    return counting, calls


def smooth(logits, targets, *, gamma):
    return (logits.square() * gamma).sum(1)


def decides(logits, targets, *, gamma):
    return logits.square().sum(1) if gamma == 2 else (logits * gamma).sum(1)


def outside_torch(logits, targets, *, gamma):
    return logits.square().sum(1) * math.log(gamma)


def tells_numbers_apart(logits, targets, *, gamma):
    return logits.square().sum(1) * (gamma if isinstance(gamma, float) else 2 * gamma)


def wrong_gradient(logits, targets, *, gamma):
    return (logits * gamma if isinstance(gamma, float) else logits * gamma - (logits - logits.detach())).sum(1)


@pytest.mark.parametrize("function", [decides, outside_torch, tells_numbers_apart, wrong_gradient])
def test_own_losses_that_need_numbers_go_one_by_one(function):
    counting, calls = counted(function)
    losses = [own_loss(counting, f"my_{gamma}", gamma=gamma) for gamma in (1.5, 2.0, 3.0)]
    rows = rows_for("cross_entropy")
    assert stackable(losses[0]) == frozenset()
    calls.clear()
    assert_same(losses, rows)
    assert all(isinstance(gamma, float) for gamma in calls)


def test_variants_cost_one_call_and_the_check_is_made_once():
    counting, calls = counted(smooth)
    losses = [own_loss(counting, f"my_{gamma}", gamma=gamma) for gamma in (1.5, 2.0, 3.0)]
    rows = rows_for("cross_entropy")
    assert stackable(losses[0]) == {"gamma"}
    calls.clear()
    loss_values(losses, rows)
    loss_gradients(losses, rows)
    assert len(calls) == 2
    assert_same(losses, rows)


def test_what_is_found_does_not_depend_on_the_grad_mode():
    """Contributions are computed without graphs, and the first of them asks."""
    with torch.no_grad():
        assert stackable(own_loss(counted(smooth)[0], gamma=2.0)) == {"gamma"}
        on_logits = loss_gradients([LOSSES["focal_1"], LOSSES["focal_2"]], rows_for("cross_entropy"))[0]
    assert bool(on_logits.any())


def test_a_single_loss_is_called_as_it_is():
    """Nothing is gained by tensors: it is not even checked."""
    counting, calls = counted(smooth)
    values = loss_values([own_loss(counting, gamma=3.0)], rows_for("cross_entropy"))
    assert values.shape == (1, 8)
    assert calls == [3.0]


def test_many_variants_go_through_in_pieces(monkeypatch):
    monkeypatch.setattr("lossrag.lossbank.library.batched.AT_ONCE", 2 * 8 * 4)  # two variants of 8 rows with 4 logits
    counting, calls = counted(smooth)
    losses = [own_loss(counting, f"my_{gamma}", gamma=gamma) for gamma in (1.5, 2.0, 3.0, 4.0, 5.0)]
    stackable(losses[0])
    calls.clear()
    loss_values(losses, rows_for("cross_entropy"))
    assert len(calls) == 3
    assert_same(losses, rows_for("cross_entropy"))


def test_contributions_and_sizes_are_those_of_each_loss_alone():
    """Float32 outputs; losses on logits, on features, on class counts and on pairs of samples."""
    counts = torch.tensor([40.0, 10.0, 3.0, 1.0])
    z, u, f, uf = (normal(12, n, dtype=torch.float32, seed=s) for s, n in enumerate((4, 4, 7, 7)))
    inputs, half = LossInputs(z, torch.arange(12) % 4, f, counts), torch.tensor(0.5)
    tangent = Tangent(inputs, u, uf)
    losses = [LOSSES[name] for name in NAMES if LOSSES[name].target_kind == "classification"]
    alone = torch.cat([contributions(tangent, [loss]) for loss in losses])
    torch.testing.assert_close(contributions(tangent, losses), alone, rtol=1e-6, atol=1e-8)
    sizes = [gradient_sizes(inputs, [loss], half) for loss in losses]
    joint = gradient_sizes(inputs, losses, half)
    for part in (0, 1):
        torch.testing.assert_close(joint[part], torch.cat([each[part] for each in sizes]), rtol=1e-5, atol=1e-7)


def test_mixtures_are_weighted_sums_and_one_candidate_is_itself():
    rows = rows_for("cross_entropy")
    losses = tuple(LOSSES[name] for name in ("focal_1", "mae", "focal_5"))
    shares = torch.tensor([0.5, 0.2, 0.3])
    expected = sum(c * loss(rows.logits, rows.targets) for c, loss in zip(shares.double(), losses, strict=True))
    mixed, alone = Mixture(losses, shares), Mixture(losses[:1], torch.ones(1))
    torch.testing.assert_close(mixed(rows.logits, rows.targets), expected)
    itself = losses[0](rows.logits, rows.targets)
    assert torch.equal(alone(rows.logits, rows.targets), itself)
    task = torch.arange(8) // 4
    joint = joined_mixture([mixed, alone], rows.logits, rows.targets, task)
    torch.testing.assert_close(joint, torch.cat([expected[:4], itself[4:]]))
