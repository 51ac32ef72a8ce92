"""Outcomes to expect: means and errors by hand, and what is borrowed from losses alike."""

import math

import numpy as np
import pytest

from lossrag.errors import OptionError
from lossrag.lossbank import LOSSES
from lossrag.lossbank.experience.outcomes import Borrowing, Outcomes, expected
from lossrag.lossbank.experience.trials import Experience
from lossrag.lossbank.shape.geometry import geometry_vectors
from tests.lossbank.experiences import record

NAN = math.nan
ALONE = Borrowing(width=1e-3, trials=1e-9, doubt=1.0)
"""Nothing is borrowed from a loss with another geometry."""


def test_gains_of_cases_by_loss():
    known = Experience.of(
        [record({"mae": 0.1, "brier": 0.2}), record({"mae": 0.3}, seed=1), record({"l1": 0.4}, seed=2)]
    )
    outcomes = Outcomes(known)
    table = dict(zip(outcomes.losses, outcomes.gains(np.array([2, 0, 1])).T, strict=True))
    assert table["mae"][1:] == pytest.approx([0.1, 0.3])
    assert np.isnan(table["mae"][0])
    assert np.isnan(table["brier"][[0, 2]]).all()
    assert table["brier"][1] == pytest.approx(0.2)
    assert table["l1"][0] == pytest.approx(0.4)


def test_what_is_usual_by_target_kind():
    known = Experience.of(
        [
            record({"mae": 0.1, "brier": 0.2}),
            record({"mae": 0.3}, seed=1),
            record({"l1": 0.5, "huber": -0.5}, seed=2, target_kind="regression"),
        ]
    )
    usual = Outcomes(known).usual
    assert usual == pytest.approx({"classification": 0.02 / 3, "regression": 0.25})


def test_means_and_errors_of_what_was_tried():
    gains = np.array([[0.1, 0.0], [0.3, NAN], [0.2, NAN]])
    answer = expected(gains, ["mae", "brier"], ["brier", "mae"], ALONE, usual=1.0)
    assert answer.trials.tolist() == [1, 3]
    assert answer.mean == pytest.approx([0.0, 0.2])
    # squares about the mean: 0.02 over 2 degrees of freedom in all, of which two more are added to each loss's own
    shared = 0.02 / 2
    assert answer.error == pytest.approx([math.sqrt(2 * shared / 2), math.sqrt((0.02 + 2 * shared) / 4 / 3)])


def test_a_single_trial_has_the_usual_error_where_nothing_else_is_known():
    answer = expected(np.array([[0.1]]), ["mae"], ["mae"], ALONE, usual=0.04)
    assert answer.error == pytest.approx([0.2])


def test_a_loss_that_nobody_tried_borrows_from_those_alike():
    names = ["mae", "generalised_ce_0.7", "logit_adjusted_1"]
    gains = np.array([[0.10, 0.06, -0.02], [0.12, 0.08, -0.04]])
    borrowing = Borrowing(width=0.2, trials=2.0, doubt=0.1)
    answer = expected(gains, names, ["taylor_ce_2"], borrowing, usual=0.01)
    shapes = geometry_vectors([LOSSES[name] for name in ["taylor_ce_2", *names]]).double().numpy()
    weights = [math.exp(-((shapes[0] - row) ** 2).sum() / 2 / 0.2**2) * 2 / (2 + 2.0) for row in shapes[1:]]
    mean = np.dot(weights, gains.mean(axis=0)) / (sum(weights) + 0.1)
    assert answer.trials.tolist() == [0]
    assert answer.mean == pytest.approx([mean])
    shared = 3 * 0.0002 / 3  # each loss: squares 2 * 0.01 ** 2, one degree of freedom
    variance = (0.0002 + 2 * shared) / 3 / 2
    spread = np.dot(weights, variance + (gains.mean(axis=0) - mean) ** 2) + 0.1 * (0.01 + mean**2)
    assert answer.error == pytest.approx([math.sqrt(spread / (sum(weights) + 0.1))])


def test_own_trials_weigh_against_what_is_borrowed():
    gains = np.array([[0.2, 0.0], [0.2, 0.0], [0.2, NAN]])
    near_twin = Borrowing(width=1.0, trials=2.0, doubt=1e-6)
    answer = expected(gains, ["mae", "one_minus_p"], ["mae", "one_minus_p"], near_twin, usual=0.01)
    assert answer.mean == pytest.approx([3 / 5 * 0.2, 2 / 4 * 0.2], abs=1e-4)


def test_nothing_known():
    answer = expected(np.empty((0, 0)), [], ["mae", "brier"], Borrowing(), usual=0.09)
    assert answer.mean.tolist() == [0, 0]
    assert answer.error == pytest.approx([0.3, 0.3])
    assert answer.trials.tolist() == [0, 0]
    untried = expected(np.array([[NAN]]), ["mae"], ["mae"], Borrowing(), usual=0.09)
    assert untried.mean.tolist() == [0]


def test_losses_that_are_not_registered_here_lend_nothing():
    gains = np.array([[0.5, 0.1]])
    names = ["somebody_s_own", "mae"]
    answer = expected(gains, names, ["mae"], Borrowing(), usual=0.01)
    assert answer.mean == expected(gains[:, 1:], ["mae"], ["mae"], Borrowing(), usual=0.01).mean


def test_the_same_losses_in_another_order():
    rng = np.random.default_rng(0)
    names = ["mae", "brier", "focal_1", "logit_adjusted_1"]
    gains = np.where(rng.random((6, 4)) < 0.3, NAN, rng.normal(scale=0.05, size=(6, 4)))
    order = [2, 0, 3, 1]
    one = expected(gains, names, names, Borrowing(), 0.01)
    two = expected(gains[::-1, order], [names[i] for i in order], names, Borrowing(), 0.01)
    assert two.mean == pytest.approx(one.mean, abs=1e-12)
    assert two.error == pytest.approx(one.error, abs=1e-12)


@pytest.mark.parametrize("changes", [{"width": 0.0}, {"trials": 0.0}, {"doubt": -1.0}, {"width": NAN}])
def test_options_out_of_range_are_refused(changes):
    with pytest.raises(OptionError, match="Borrowing"):
        Borrowing(**changes)
