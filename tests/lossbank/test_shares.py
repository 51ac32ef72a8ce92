"""The arithmetic of shares, by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag.lossbank import ShareState
from lossrag.lossbank.composing.shares import LARGEST_SCALE


def ones(count):
    return torch.ones(count, dtype=torch.float64)


def start(active):
    return ShareState.start(torch.tensor([active]))


def test_equal_shares_to_begin_with():
    assert start([True, False, True]).shares.tolist() == [[0.5, 0.0, 0.5]]


def test_a_contribution_moves_the_scores_by_what_it_is_above_the_mean():
    state = start([True, True, False])
    values = state.centred(0, [0, 1, 2], torch.tensor([0.4, 0.1, 0.1]).double())
    state = state.observe(0, [0, 1, 2], values, 2.0, 0.0)
    # .2, -.1 and -.1, in units of their root mean square
    unit = (0.06 / 3) ** 0.5
    assert state.scores[0].tolist() == pytest.approx([0.4 / unit, -0.2 / unit, -0.2 / unit])
    expected = torch.softmax(torch.tensor([0.4 / unit, -0.2 / unit]), 0)
    assert state.shares[0, :2].tolist() == pytest.approx(expected.tolist())
    assert state.shares[0, 2] == 0


def test_decay_forgets():
    state = start([True, True])
    for _ in range(200):
        state = state.observe(0, [0, 1], torch.tensor([0.2, -0.2]).double(), 0.1, 0.1)
    # the fixed point of a <- 0.9 a + 0.1: values are of typical size
    assert state.scores[0].tolist() == pytest.approx([1.0, -1.0], abs=1e-6)


def test_the_unit_of_contributions_does_not_matter():
    few, many = start([True, True, True]), start([True, True, True])
    for values in ([0.3, -0.1, -0.2], [0.1, 0.1, -0.2]):
        few = few.observe(0, [0, 1, 2], torch.tensor(values).double(), 0.15, 0.1)
        many = many.observe(0, [0, 1, 2], 20 * torch.tensor(values).double(), 0.15, 0.1)
    assert torch.allclose(few.scores, many.scores)


def test_composed_shares_are_those_that_were_given_and_evidence_moves_them():
    state = start([True, True, False]).observe(0, [0, 1], torch.tensor([0.5, -0.5]).double(), 1.0, 0.0)
    state = state.composed(0, {1: 0.25, 2: 0.75})
    odds = 0.75 / 0.25 * float((state.scores[0, 2] - state.scores[0, 1]).exp())
    assert state.shares[0].tolist() == pytest.approx([0, 1 / (1 + odds), odds / (1 + odds)])
    fresh = start([True, False, False]).composed(0, {1: 0.25, 2: 0.75})
    assert fresh.shares[0].tolist() == pytest.approx([0, 0.25, 0.75])


def test_sizes_that_are_measured_seldom_are_followed_fast():
    state = start([True])
    for size in (1.0, 0.5):
        state = state.observe_sizes(0, [0], torch.tensor([size]).double(), torch.tensor(size), ones(1), 0.5)
    assert float(state.sizes[0, 0]) == 0.75


def test_losses_enter_at_the_size_of_the_reference():
    state = start([True, True]).observe_sizes(0, [0, 1], torch.tensor([0.5, 0.1]).double(), torch.tensor(0.5), ones(2))
    assert state.coefficients([0])[0].tolist() == pytest.approx([0.5, 0.5 * 5])


def test_a_loss_without_gradient_is_not_blown_up():
    state = start([True, True]).observe_sizes(0, [0, 1], torch.tensor([0.5, 1e-9]).double(), torch.tensor(0.5), ones(2))
    assert state.coefficients([0])[0, 1] == 0.5 * LARGEST_SCALE


def test_uncertainty_by_hand():
    state = start([True, True])
    assert state.uncertainty.tolist() == [[1.0, 1.0]]
    for value in (0.2, -0.2):
        state = state.observe(0, [0, 1], torch.tensor([value, -value]).double(), 0.0, 0.0)
    # mean 0.9 * 0.2 - 0.1 * 0.2 = 0.16, mean square 0.04: variance 0.04 - 0.0256, over 2 measurements
    assert float(state.uncertainty[0, 0]) == pytest.approx((0.0144 / 2) ** 0.5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.floats(-0.5, 0.5))
def test_what_all_contributions_have_in_common_changes_nothing(values, common):
    base = torch.tensor(values, dtype=torch.float64)
    state, every = start([True] * 4), [0, 1, 2, 3]
    assert torch.allclose(state.centred(0, every, base), state.centred(0, every, base + common), atol=1e-12)
    moved = state.observe(0, every, state.centred(0, every, base), 1.0, 0.0)
    assert float(moved.shares.sum()) == pytest.approx(1)


def test_a_direction_of_next_to_nothing_is_not_followed():
    state = start([True] * 3).observe_sizes(
        0, [0, 1, 2], torch.tensor([0.5, 0.4, 0.01]).double(), torch.tensor(0.5), ones(3)
    )
    assert state.centred(0, [0, 1, 2], torch.tensor([0.1, 0.3, 0.9]).double()).tolist() == pytest.approx([-0.1, 0.1, 0])


def test_a_loss_that_acts_on_few_samples_is_not_followed():
    coverage = torch.tensor([1.0, 0.8, 0.2]).double()
    state = start([True] * 3).observe_sizes(0, [0, 1, 2], 0.5 * ones(3), torch.tensor(0.5), coverage)
    values = torch.tensor([0.1, 0.3, 0.9]).double()
    assert state.centred(0, [0, 1, 2], values).tolist() == pytest.approx([-0.1, 0.1, 0])
