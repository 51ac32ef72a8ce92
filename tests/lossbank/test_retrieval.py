"""From an answer to a mixture, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossrag.lossbank import CONTEXT_NAMES, ComposerConfig, Gain, Question
from lossrag.lossbank.composing.policies import question_steps
from lossrag.lossbank.composing.retrieval import LEAST, gains, ranked, shares_of
from tests.lossbank.advisers import answer

NAMES = ("mae", "brier", "symmetric_ce", "triplet_0.2")
FOUND = {"cross_entropy": Gain(0.0, 0.0, 0), "mae": Gain(0.03, 0.01, 9), "brier": Gain(0.04, 0.03, 9)}


QUESTION = Question(np.zeros(len(CONTEXT_NAMES)), 0.05, "mlp", "classification", NAMES)


def told(**found):
    return answer(QUESTION, {name.replace("_02", "_0.2"): value for name, value in found.items()})


def test_gains_are_those_over_the_reference_of_the_bank():
    found = gains(told(mae=(0.03, 0.01, 9), brier=(-0.01, 0.02, 0)), "cross_entropy")
    assert found == {"cross_entropy": Gain(0, 0, 0), "mae": Gain(0.03, 0.01, 9), "brier": Gain(-0.01, 0.02, 0)}


def test_gains_over_another_reference_lose_what_it_gains():
    found = gains(told(mae=(0.03, 0.03, 9), brier=(0.01, 0.04, 4)), "mae")
    assert set(found) == {"mae", "brier", "cross_entropy"}
    assert (found["mae"].mean, found["mae"].error) == (0, 0)
    assert (found["brier"].mean, found["brier"].error) == pytest.approx((-0.02, 0.05))
    assert (found["cross_entropy"].mean, found["cross_entropy"].error) == pytest.approx((-0.03, 0.03))


def test_without_trials_of_the_reference_nothing_is_known():
    assert gains(told(mae=(0.03, 0.01, 9)), "brier") == {}


def test_pairs_of_samples_are_offered_where_they_were_tried():
    assert "triplet_0.2" not in gains(told(triplet_02=(0.1, 0.01, 0)), "cross_entropy")
    assert "triplet_0.2" in gains(told(triplet_02=(0.1, 0.01, 1)), "cross_entropy")


def test_bounds_by_hand():
    """.03 - .01 and .04 - .03; for a single one of nine cases errors are three times as large."""
    config = ComposerConfig(risk=1.0)
    assert ranked(FOUND, "cross_entropy", config) == pytest.approx({"mae": 0.02, "brier": 0.01})
    assert ranked(FOUND, "cross_entropy", config, cases=9) == {}
    assert ranked(FOUND, "cross_entropy", ComposerConfig(k=1, risk=1.0)) == pytest.approx({"mae": 0.02})
    bold = ranked(FOUND, "cross_entropy", ComposerConfig(risk=0.0))
    assert list(bold) == ["brier", "mae"]
    assert ranked(FOUND, "cross_entropy", ComposerConfig(risk=4.0)) == {}


def test_of_twins_the_better_one_is_taken():
    """MAE is 2 (1 - p): one loss, which would count twice."""
    found = {"mae": Gain(0.05, 0.01, 9), "one_minus_p": Gain(0.051, 0.01, 9), "brier": Gain(0.04, 0.01, 9)}
    assert list(ranked(found, "cross_entropy", ComposerConfig())) == ["one_minus_p", "brier"]


def test_shares_by_hand():
    shares = shares_of({"mae": 0.02, "brier": 0.01}, "cross_entropy", 0.01)
    total = math.e**2 + math.e + 1
    assert shares == pytest.approx({"mae": math.e**2 / total, "brier": math.e / total, "cross_entropy": 1 / total})


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.floats(1e-6, 1)), st.floats(1e-4, 10))
def test_shares_add_up_and_hold_the_reference(bounds, temperature):
    shares = shares_of(bounds, "reference", temperature)
    assert sum(shares.values()) == pytest.approx(1)
    assert "reference" in shares
    assert all(share >= LEAST for name, share in shares.items() if name != "reference")


@pytest.mark.parametrize(
    ("total", "usual", "later"),
    [(1, [0, 1], []), (10, [0, 1], [2]), (426, [0, 21], [64]), (100_000, [0, 5000], [15_000])],
)
def test_questions_come_early(total, usual, later):
    assert question_steps(ComposerConfig(), total) == usual
    assert question_steps(ComposerConfig(questions=(0.0, 0.05, 0.15)), total) == [*usual, *later]
    assert question_steps(ComposerConfig(policy="gradient"), total) == []
