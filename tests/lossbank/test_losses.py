"""Promises of every loss of the library: finite, differentiable twice and forwards, per sample, in every dtype."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag import ConfigError
from lossrag.lossbank import LOSSES
from tests.lossbank.oracles import batch_for, built_in, normal

NAMES = built_in()
POINTWISE = [name for name in NAMES if not LOSSES[name].relational]
FAMILIES = {
    "probabilistic",
    "noise-robust",
    "euclidean",
    "margin",
    "imbalance",
    "relational",
    "regression",
}
"""Each has its formulas in a test file of its own, but for euclidean and margin, which share one."""

NOT_OF_PROBABILITIES = {"logit_squared_error", "vector_scaling"}
STEP = 1e-5


def values_of(name, batch):
    """The loss as a function of logits and features."""
    loss = LOSSES[name]
    return lambda logits, features: loss(logits, batch.targets, features=features, class_counts=batch.class_counts)


def directions(batch):
    return normal(*batch.logits.shape, seed=7), normal(*batch.features.shape, seed=8)


def central_difference(function, batch):
    u, v = directions(batch)
    ahead = function(batch.logits + STEP * u, batch.features + STEP * v)
    return (ahead - function(batch.logits - STEP * u, batch.features - STEP * v)) / (2 * STEP)


def test_the_families():
    assert {LOSSES[name].family for name in NAMES} == FAMILIES


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_says_where_it_is_from(name):
    loss = LOSSES[name]
    assert loss.name == name
    assert loss.reference
    assert loss.formula
    assert "\n" not in loss.formula
    assert loss.function.__doc__


def gradient_of(name, batch):
    """With respect to logits and features, as one vector; zeros for what the loss does not touch."""
    inputs = batch.logits.detach().requires_grad_(), batch.features.detach().requires_grad_()
    values = values_of(name, batch)(*inputs)
    found = torch.autograd.grad(values.sum(), inputs, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in found])


def test_no_two_entries_are_the_same_up_to_a_factor():
    """But for MAE and 1 - p_y: MetaWeighting's theory speaks of one, the literature of the other."""
    gradients = {}
    for name in NAMES:
        batch = batch_for(name, samples=32)
        batch = replace(batch, class_counts=100 * batch.class_counts)  # effective numbers differ
        if LOSSES[name].target_kind == "classification":  # some samples are well within a margin
            batch = replace(batch, features=batch.features + 4 * torch.eye(7, dtype=torch.float64)[batch.targets])
        gradients[name] = gradient_of(name, batch)
    same = {
        (a, b)
        for a, b in itertools.combinations(NAMES, 2)
        if torch.cosine_similarity(gradients[a], gradients[b], dim=0) > 1 - 1e-6
    }
    assert same == {("one_minus_p", "mae")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_stay_finite(name, dtype):
    batch = batch_for(name, samples=4, outputs=2)
    targets = torch.tensor([1, 1, 0, 1]) if LOSSES[name].target_kind == "classification" else torch.zeros(4, 2)
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0], [1e4, 1e4]])
    batch = replace(batch, logits=logits, targets=targets).to(dtype)
    values = batch.values(name)
    assert values.dtype == dtype
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient_of(name, batch)).all()


OF_CLASSES = [name for name in NAMES if LOSSES[name].target_kind == "classification"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [1.0, 0.0])
@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_single_class_is_right(name, count, dtype):
    """Without a cost or a pull on the logits: there is nothing to choose from. But for a loss on the logit itself."""
    logits = torch.tensor([[0.0], [3.0], [-2.0], [50.0]], dtype=dtype, requires_grad=True)
    features = normal(4, 3, seed=1).to(dtype).requires_grad_()
    counts = torch.full((1,), count)
    values = LOSSES[name](logits, torch.zeros(4, dtype=torch.int64), features=features, class_counts=counts)
    on_logits, on_features = torch.autograd.grad(values.sum(), [logits, features], materialize_grads=True)
    assert values.isfinite().all()
    assert on_features.isfinite().all()
    if name == "logit_squared_error":
        assert values.tolist() == torch.tensor([1.0, 4.0, 9.0, 2401.0]).to(dtype).tolist()
        return
    assert not on_logits.any()
    if not LOSSES[name].relational:
        assert values.tolist() == [0.0] * 4


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize(
    "targets",
    [torch.zeros(4), torch.zeros(4, 1, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), torch.zeros(4, 3)],
)
def test_classes_of_another_form_are_refused(name, targets):
    message = re.escape(
        f"Loss {name!r}: logits (4, 3) and targets {tuple(targets.shape)} of {targets.dtype} do not fit"
    )
    with pytest.raises(ConfigError, match=message):
        LOSSES[name](torch.zeros(4, 3), targets, features=torch.zeros(4, 2), class_counts=torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.bool])
def test_classes_are_whole_numbers_of_any_size(dtype):
    logits, targets = normal(4, 2), torch.tensor([0, 1, 1, 0])
    for name in OF_CLASSES:
        given = {"features": normal(4, 3, seed=1), "class_counts": torch.tensor([3.0, 1.0])}
        found = LOSSES[name](logits, targets.to(dtype), **given)
        assert torch.equal(found, LOSSES[name](logits, targets, **given))


@pytest.mark.parametrize("name", [name for name in NAMES if "features" in LOSSES[name].needs])
@pytest.mark.parametrize("shape", [(3, 2), (4,), (4, 2, 2)])
def test_features_of_other_samples_are_refused(name, shape):
    message = re.escape(f"Loss {name!r}: features {shape} and logits (4, 3) do not fit")
    with pytest.raises(ConfigError, match=message):
        LOSSES[name](torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), features=torch.zeros(shape))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_close(name):
    batch = batch_for(name)
    torch.testing.assert_close(
        batch.to(torch.bfloat16).values(name).double(),
        batch.values(name),
        rtol=0.1,
        atol=0.1 * batch.values(name).max(),
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_not_zero(name):
    assert gradient_of(name, batch_for(name)).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_relational_says_the_truth(name):
    batch = batch_for(name)
    whole, halves = batch.values(name), torch.cat([batch[:4].values(name), batch[4:].values(name)])
    if LOSSES[name].relational:
        assert not torch.allclose(whole, halves, rtol=1e-3)
    else:
        torch.testing.assert_close(whole, halves)


@pytest.mark.parametrize("name", NAMES)
def test_permuted_samples_permute_the_values(name):
    batch = batch_for(name)
    order = torch.tensor([3, 7, 0, 5, 1, 6, 2, 4])
    torch.testing.assert_close(batch[order].values(name), batch.values(name)[order])


@pytest.mark.parametrize("name", NAMES)
def test_forward_mode(name):
    batch = batch_for(name)
    function = values_of(name, batch)
    _, tangent = torch.func.jvp(function, (batch.logits, batch.features), directions(batch))
    torch.testing.assert_close(tangent, central_difference(function, batch), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives(name):
    """Backwards twice, and forwards over backwards."""
    batch = batch_for(name)
    function = values_of(name, batch)

    def gradients(logits, features):
        logits, features = logits.detach().requires_grad_(), features.detach().requires_grad_()
        found = torch.autograd.grad(
            function(logits, features).square().sum(), (logits, features), create_graph=True, allow_unused=True
        )
        return (
            logits,
            features,
            [torch.zeros_like(x) if g is None else g for x, g in zip((logits, features), found, strict=True)],
        )

    def flat(logits, features):
        return torch.cat([g.detach().flatten() for g in gradients(logits, features)[2]])

    logits, features, found = gradients(batch.logits, batch.features)
    u, v = directions(batch)
    product = torch.autograd.grad(
        (found[0] * u).sum() + (found[1] * v).sum(), (logits, features), materialize_grads=True
    )
    expected = central_difference(flat, batch)
    torch.testing.assert_close(torch.cat([p.flatten() for p in product]), expected, rtol=1e-5, atol=1e-5)
    _, forwards = torch.func.jvp(
        torch.func.grad(lambda *x: function(*x).square().sum(), argnums=(0, 1)), (batch.logits, batch.features), (u, v)
    )
    torch.testing.assert_close(torch.cat([p.flatten() for p in forwards]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_tasks(name):
    first, second = batch_for(name), batch_for(name, seed=9)
    loss = LOSSES[name]

    def values(logits, targets, features):
        return loss(logits, targets, features=features, class_counts=first.class_counts)

    stacked = [torch.stack([getattr(b, part) for b in (first, second)]) for part in ("logits", "targets", "features")]
    expected = torch.stack([first.values(name), second.values(name)])
    torch.testing.assert_close(torch.func.vmap(values)(*stacked), expected)


@pytest.mark.parametrize(
    "name",
    [n for n in POINTWISE if LOSSES[n].target_kind == "classification" and n not in NOT_OF_PROBABILITIES],
)
@settings(max_examples=10, deadline=None)
@given(shift=st.floats(-100, 100))
def test_a_constant_added_to_the_logits_does_not_count(name, shift):
    batch = batch_for(name)
    moved = LOSSES[name](batch.logits + shift, batch.targets, class_counts=batch.class_counts)
    torch.testing.assert_close(moved, batch.values(name), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"confidence_penalty", "gaussian_profiled"}])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_non_negative(name, seed):
    assert (batch_for(name, seed=seed).values(name) >= -1e-12).all()
