"""Rows without a label: absent from values, gradients, comparisons and means, for all losses and what reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from lossrag import ConfigError
from lossrag.lossbank import (
    LOSSES,
    LossInputs,
    Mixture,
    Tangent,
    contributions,
    cosines,
    gradient_sizes,
    joined_mixture,
    labelled,
    labelled_mean,
    register_loss,
)
from lossrag.lossbank.library.batched import loss_gradients, loss_values
from tests.lossbank.oracles import batch_for, built_in, normal

NAMES = built_in()
ROWS = 8
GAPS = [False, True, False, False, True, False, True, False]
"""Which rows of a batch have no label."""


def rows_for(name, gaps=GAPS, seed=0):
    """A batch with gaps, whose logits and features there are no numbers, and the same without these rows."""
    batch, gaps = batch_for(name, seed=seed), torch.tensor(gaps)
    nothing = float("nan")
    targets = batch.targets.clone()
    targets[gaps] = nothing if targets.is_floating_point() else -100
    logits, features = (part.masked_fill(gaps[:, None], nothing) for part in (batch.logits, batch.features))
    whole = LossInputs(logits, targets, features, batch.class_counts)
    kept = ~gaps
    left = LossInputs(batch.logits[kept], batch.targets[kept], batch.features[kept], batch.class_counts)
    return whole, left, kept


def differentiated(function, rows):
    """Values, and gradients of their summed squares on logits and features."""
    z, f = rows.logits.clone().requires_grad_(), rows.features.clone().requires_grad_()
    values = function(z, f)
    return values.detach(), *torch.autograd.grad(values.square().sum(), (z, f), materialize_grads=True)


def assert_absent(of, whole, left, kept):
    """What a function of rows gives for the rows that are kept is what it gives without the others; 0 for these."""
    found = differentiated(of(whole), whole)
    expected = differentiated(of(left), left)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one[kept], other, rtol=1e-10, atol=1e-12)
        assert not one[~kept].any()


def called(loss):
    return lambda rows: lambda z, f: loss(z, rows.targets, features=f, class_counts=rows.class_counts)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(gaps=st.lists(st.booleans(), min_size=ROWS, max_size=ROWS), seed=st.integers(0, 99))
def test_a_row_without_a_label_is_absent(name, gaps, seed):
    """Also where all are, or none is."""
    assert_absent(called(LOSSES[name]), *rows_for(name, gaps, seed))


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_says_the_same(name):
    whole, left, kept = rows_for(name)
    given = replace(whole, targets=batch_for(name).targets)

    def of(rows):
        known = kept if len(rows.logits) == ROWS else None
        counts = rows.class_counts
        return lambda z, f: LOSSES[name](z, rows.targets, features=f, class_counts=counts, labelled=known)

    assert_absent(of, given, left, kept)


def test_a_mask_and_labels_both_count():
    targets = torch.tensor([0, -100, 1])
    mask = torch.tensor([False, True, True])
    values = LOSSES["one_minus_p"](torch.zeros(3, 2), targets, labelled=mask)
    assert values.tolist() == [0.0, 0.0, 0.5]


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(2, dtype=torch.bool), [True, True, True], False])
def test_masks_of_another_form_are_refused(mask):
    with pytest.raises(ConfigError, match=r"Loss 'mae': labelled are booleans \(3,\), True where a row counts, got"):
        LOSSES["mae"](torch.zeros(3, 2), torch.tensor([0, 1, 0]), labelled=mask)


def test_complete_rows_are_not_looked_at():
    """Bit for bit what they are otherwise; -100 is then a class that there is no logit for."""
    batch = batch_for("focal_2")
    looked, known = (LOSSES["focal_2"](batch.logits, batch.targets, labelled=told) for told in (None, True))
    assert torch.equal(looked, known)
    with pytest.raises(ConfigError, match="Loss 'focal_2': the class -100 is not one of 4"):
        LOSSES["focal_2"](batch.logits, batch.targets - 100, labelled=True)


@pytest.mark.parametrize("wrong", [4, -1])
@pytest.mark.parametrize("name", [n for n in NAMES if LOSSES[n].target_kind == "classification"])
def test_a_class_without_a_logit_is_an_error(name, wrong):
    """Not so where samples are compared by their classes alone."""
    batch = batch_for(name)
    batch.targets[3] = wrong
    if LOSSES[name].relational:
        assert batch.values(name).isfinite().all()
        return
    with pytest.raises(ConfigError, match=f"Loss '{name}': the class {wrong} is not one of 4.*-100 says that a row"):
        batch.values(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [0, 1, 8])
def test_without_a_label_there_is_nothing(name, rows):
    whole, _, _ = rows_for(name, [True] * 8)
    few = whole.rows(0, rows)
    for values, *gradients in (differentiated(called(LOSSES[name])(few), few),):
        assert values.tolist() == [0.0] * rows
        assert not any(gradient.any() for gradient in gradients)
    assert float(labelled_mean(values, labelled(few.targets))) == 0.0


def mixture_of(kind):
    """One of all losses on single rows and of two that compare them."""
    names = [n for n in NAMES if LOSSES[n].target_kind == kind]
    losses = tuple(LOSSES[n] for n in names)
    return Mixture(losses, torch.linspace(0.1, 1, len(losses)), batch_for(names[0]).class_counts), names[0]


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_mixtures(kind):
    mixture, name = mixture_of(kind)
    assert_absent(lambda rows: lambda z, f: mixture(z, rows.targets, f), *rows_for(name))


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_mixtures_of_joined_tasks(kind):
    names = ("focal_1", "mae", "focal_5") if kind == "classification" else ("huber", "l1", "huber_2")
    losses = tuple(LOSSES[name] for name in names)
    mixtures = [Mixture(losses, torch.tensor([0.5, 0.2, 0.3])), Mixture(losses[:1])]
    whole, left, kept = rows_for(names[0])
    task = torch.arange(ROWS) // 4

    def of(rows):
        own = task if len(rows.logits) == ROWS else task[kept]
        return lambda z, f: joined_mixture(mixtures, z, rows.targets, own)

    assert_absent(of, whole, left, kept)


def test_what_a_loss_makes_of_the_rows_of_other_tasks_does_not_count():
    """Infinite at the first row, whose task is not trained with it."""
    own = replace(LOSSES["l1"], name="my_log", function=lambda logits, targets: (logits - targets).abs().log().mean(1))
    mixtures = [Mixture((LOSSES["l1"],)), Mixture((own,))]
    logits = torch.tensor([[1.0], [2.0]])
    values = joined_mixture(mixtures, logits, torch.tensor([[1.0], [1.0]]), torch.tensor([0, 1]))
    assert values.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_values_gradients_and_sizes_of_many(kind):
    losses = [LOSSES[n] for n in NAMES if LOSSES[n].target_kind == kind]
    whole, left, kept = rows_for(losses[0].name)
    torch.testing.assert_close(loss_values(losses, whole)[:, kept], loss_values(losses, left))
    for one, other in zip(loss_gradients(losses, whole), loss_gradients(losses, left), strict=True):
        if other is not None:
            torch.testing.assert_close(one[:, kept], other)
            assert not one[:, ~kept].any()
    half = torch.tensor(0.5)
    for one, other in zip(gradient_sizes(whole, losses, half), gradient_sizes(left, losses, half), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_contributions_one_step_ahead(kind):
    losses = [LOSSES[n] for n in NAMES if LOSSES[n].target_kind == kind]
    whole, left, kept = rows_for(losses[0].name)
    u, uf = normal(ROWS, 4, seed=5), normal(ROWS, 7, seed=6)
    sizes = torch.ones(len(losses), dtype=torch.float64)
    found = []
    for tangent in (Tangent(whole, u, uf), Tangent(left, u[kept], uf[kept])):
        products = contributions(tangent, losses)
        found += [products, cosines(tangent, products, sizes)]
    torch.testing.assert_close(found[0], found[2], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found[1], found[3], rtol=1e-6, atol=1e-9)


def own_centre(logits, targets, *, features):
    """Compares samples, and knows nothing of labels."""
    mates = (targets[:, None] == targets).to(features.dtype)
    return (features - mates @ features / mates.sum(1, keepdim=True)).square().sum(1)


def test_a_loss_of_ones_own_on_pairs_sees_those_with_a_label():
    with_it = register_loss(
        "my_centre", family="relational", target_kind="classification", reference="mine", relational=True
    )
    with_it(own_centre)
    try:
        assert_absent(called(LOSSES["my_centre"]), *rows_for("my_centre"))
        assert_absent(called(LOSSES["my_centre"]), *rows_for("my_centre", [True] * 8))
    finally:
        LOSSES.remove("my_centre")


def test_means_and_numbers():
    targets = torch.tensor([1, -100, 0, -100])
    values = LOSSES["squared_error"](torch.zeros(4, 1), torch.tensor([1.0, float("nan"), 3.0, float("nan")]))
    assert int(labelled(targets).sum()) == 2
    assert float(labelled_mean(values, labelled(targets))) == 5.0
    nothing = torch.zeros(4, requires_grad=True)
    mean = labelled_mean(nothing * 2, torch.zeros(4, dtype=torch.bool))
    mean.backward()
    assert (mean.item(), nothing.grad.tolist()) == (0.0, [0.0] * 4)


def test_a_mean_of_halves_does_not_leave_their_range():
    """The sum of 64 times 2000 does."""
    values = torch.full((64,), 2000.0, dtype=torch.float16)
    assert float(labelled_mean(values, torch.ones(64, dtype=torch.bool))) == 2000.0


@pytest.mark.parametrize("name", NAMES)
def test_no_value_is_read_back(name):
    """Of the library's own losses; values that nobody has cannot be read."""
    batch = batch_for(name)
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(part) for part in vars(batch).values()]
        logits, features = fake[0].requires_grad_(), fake[2].requires_grad_()
        values = LOSSES[name](logits, fake[1], features=features, class_counts=fake[3])
        assert labelled_mean(values, labelled(fake[1])).shape == ()
        values.sum().backward()
    assert values.shape == (8,)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_mixtures_follow_their_logits(kind):
    """Coefficients and class counts are on the CPU and in float64; the logits on a device without values."""
    mixture, name = mixture_of(kind)
    batch = batch_for(name).to(torch.float32)
    mixture = replace(mixture, class_counts=batch.class_counts.double())
    values = mixture(batch.logits.to("meta"), batch.targets.to("meta"), batch.features.to("meta"))
    assert (values.device.type, values.dtype, values.shape) == ("meta", torch.float32, (8,))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        small = batch.to(dtype)
        assert mixture(small.logits, small.targets, small.features).dtype == dtype
