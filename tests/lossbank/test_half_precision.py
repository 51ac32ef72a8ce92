"""Half precision: finite, in value and gradient, wherever float32 gives numbers that halves can hold."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag.lossbank import LOSSES, LossInputs, Mixture, gradient_sizes, joined_mixture, register_loss
from lossrag.lossbank.library.batched import loss_gradients
from tests.lossbank.oracles import batch_for, built_in

NAMES = built_in()
HALVES = [torch.float16, torch.bfloat16]
OF_CLASSES = [n for n in NAMES if LOSSES[n].target_kind == "classification"]
LEADS = [0.0, 1.0, 40.0, 700.0, 20000.0, 65000.0]


def differentiated(name, logits, targets, features, counts=None):
    z, f = logits.clone().requires_grad_(), features.clone().requires_grad_()
    counts = torch.tensor([40.0, 10.0, 3.0, 1.0])[: logits.shape[1]] if counts is None else counts
    values = LOSSES[name](z, targets, features=f, class_counts=counts)
    return values.detach(), *torch.autograd.grad(values.sum(), (z, f), materialize_grads=True)


def assert_as_in_float32(name, dtype, logits, targets, features, counts=None):
    """``logits`` and ``features`` are halves. To half a per cent: what was computed in float32 is rounded once."""
    given = targets.to(dtype) if targets.is_floating_point() else targets
    found = differentiated(name, logits.to(dtype), given, features.to(dtype), counts)
    wide = given.float() if targets.is_floating_point() else targets
    expected = differentiated(name, logits.to(dtype).float(), wide, features.to(dtype).float(), counts)
    for half, one in zip(found, expected, strict=True):
        assert half.dtype == dtype
        held = one.abs() <= torch.finfo(dtype).max
        torch.testing.assert_close(half.float()[held], one[held], rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(leads=st.lists(st.sampled_from([s * lead for lead in LEADS for s in (1, -1)]), min_size=16, max_size=16))
def test_large_leads(name, dtype, leads):
    batch = batch_for(name, samples=4)
    logits = torch.tensor(leads).reshape(4, 4)
    targets = batch.targets.float().zero_() if batch.targets.is_floating_point() else batch.targets
    assert_as_in_float32(name, dtype, logits, targets, batch.features)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 300.0])
@pytest.mark.parametrize("name", NAMES)
def test_features_of_any_size_and_rows_of_zeros(name, scale, dtype):
    batch = batch_for(name)
    features = scale * batch.features
    features[::3] = 0
    assert_as_in_float32(name, dtype, batch.logits, batch.targets, features)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", OF_CLASSES)
def test_class_counts_beyond_the_range_of_halves(name, dtype):
    batch = batch_for(name)
    counts = torch.tensor([3_000_000.0, 100_000.0, 40.0, 1.0], dtype=torch.float64)
    assert_as_in_float32(name, dtype, batch.logits, batch.targets, batch.features, counts)


@pytest.mark.parametrize("dtype", HALVES)
def test_logits_in_halves_beside_targets_and_features_in_float32(dtype):
    logits, targets = torch.tensor([[1.0], [2.0]], dtype=dtype), torch.tensor([0.5, 3.0])
    assert LOSSES["l1"](logits, targets).tolist() == [0.5, 1.0]
    assert LOSSES["l1"](logits, targets).dtype == dtype


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", NAMES)
def test_within_autocast(name, dtype):
    """A head's logits come out in halves, and the matrix products of a loss are computed in them."""
    batch = batch_for(name).to(torch.float32)
    features = batch.features.clone()
    features[0] = 0
    with torch.autocast("cpu", dtype=dtype):
        logits = (batch.logits @ torch.eye(4)).detach().requires_grad_()
        assert logits.dtype == dtype
        values = LOSSES[name](
            logits, batch.targets, features=features.requires_grad_(), class_counts=batch.class_counts
        )
    assert values.isfinite().all()
    for part in torch.autograd.grad(values.sum(), (logits, features), materialize_grads=True):
        assert part.isfinite().all()


def test_mixtures_are_added_up_in_float32():
    """0.5 * 40,000 + 8 * 30,000 - 22 * 10,000: the second term leaves the range of halves, the sum does not."""
    losses = tuple(LOSSES[name] for name in ("l1", "quantile_0.25", "quantile_0.75"))
    mixed = Mixture(losses, torch.tensor([0.5, 8.0, -22.0]))
    logits, target = torch.tensor([[40000.0]], dtype=torch.float16), torch.zeros(1)
    assert mixed(logits, target).tolist() == [40000.0]
    assert joined_mixture([mixed], logits, target, torch.zeros(1, dtype=torch.int64)).tolist() == [40000.0]


@pytest.mark.parametrize("dtype", HALVES)
def test_sizes_are_those_of_float32(dtype):
    losses = [LOSSES[name] for name in OF_CLASSES]
    batch = batch_for("mae").to(dtype)
    halves = LossInputs(batch.logits, batch.targets, batch.features, batch.class_counts)
    wide = LossInputs(batch.logits.float(), batch.targets, batch.features.float(), batch.class_counts)
    for one, other in zip(
        gradient_sizes(halves, losses, torch.ones(())), gradient_sizes(wide, losses, torch.ones(())), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert loss_gradients(losses, halves)[0].dtype == torch.float32


def test_a_loss_of_ones_own_is_computed_in_float32():
    """Its sum of squares leaves the range of halves; its root, and the gradient of that, do not."""

    @register_loss("my_norm", family="regression", target_kind="regression", reference="mine")
    def my_norm(logits, targets):
        return ((logits - targets).square().sum(1) + 1).sqrt()

    try:
        logits = torch.full((1, 4), 20000.0, dtype=torch.float16, requires_grad=True)
        value = LOSSES["my_norm"](logits, torch.zeros(1, 4, dtype=torch.float16))
        value.sum().backward()
        assert value.tolist() == [40000.0]
        assert logits.grad.tolist() == [[0.5] * 4]
    finally:
        LOSSES.remove("my_norm")


def test_huber_of_an_error_whose_square_float32_cannot_hold():
    error = torch.tensor([[2e38]], requires_grad=True)
    value = LOSSES["huber"](error, torch.zeros(1, 1))
    value.sum().backward()
    assert value.isfinite().all()
    assert error.grad.tolist() == [[1.0]]
