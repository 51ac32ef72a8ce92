"""Steadiness of compositions: by hand, from events and logged points."""

from __future__ import annotations

import pytest

from lossrag.experiments.record.steadiness import steadiness, steady_sentence, variation
from lossrag.lossbank import Event


def answer(step, task, shares, what="composed"):
    return Event(step, task, next(iter(shares)), what, "why", (), shares)


def test_the_largest_distance_from_the_end_counts():
    """A: {x 1} before, {x .5, y .5} from 5 on, {x .2, y .8} from 15 on; B is composed before the first step, and is
    not asked about again.

    Distances from the end, from step 5 on: A .3, B 0. What A was before step 5 does not count.
    """
    told = [
        *(answer(0, "A", {"x": 1.0}, "kept"), answer(0, "B", {"y": 0.6, "x": 0.4})),
        answer(5, "A", {"x": 0.5, "y": 0.5}),
    ]
    points = [{"step": 15, "composition/A/y": 0.8, "composition/A/x": 0.2}]
    final = {"A": {"y": 0.8, "x": 0.2}, "B": {"y": 0.6, "x": 0.4}}
    found = steadiness(told, points, final, 100)
    assert (found["asked_at"], found["composed_at"]) == (0.05, 0.0)
    assert found["moved"] == pytest.approx({"A": 0.3, "B": 0.0})
    assert "within .30 of the last (A)" in steady_sentence(found, ["digits"])


def test_what_evidence_moves_between_questions_is_in_the_log():
    told = [answer(5, "A", {"x": 0.5, "y": 0.5})]
    points = [{"step": step, "composition/A/x": share} for step, share in ((1, 1.0), (20, 0.9), (40, 0.6))]
    found = steadiness(told, points, {"A": {"x": 0.6, "y": 0.4}}, 100)
    # at step 20 the log names x alone: .9 of it and .1 of others against .6 and .4
    assert found["moved"] == pytest.approx({"A": 0.3})


def test_runs_that_were_asked_before_the_first_step_alone_or_composed_nothing():
    early = steadiness([answer(0, "A", {"x": 1.0}, "silent")], [], {"A": {"x": 1.0}}, 10)
    assert early == {"asked_at": None, "composed_at": None, "moved": {}}
    assert steady_sentence(early, []) == "bank: no case answered; no composition"


@pytest.mark.parametrize(
    ("shares", "other", "apart"),
    [
        ({"a": 1.0}, {"a": 1.0}, 0.0),
        ({"a": 1.0}, {"b": 1.0}, 1.0),
        ({"a": 0.7, "b": 0.3}, {"a": 0.5, "c": 0.5}, 0.5),
        ({"a": 0.7}, {"a": 0.5, "c": 0.5}, 0.2),  # what is not named may be c
    ],
)
def test_variation(shares, other, apart):
    assert variation(shares, other) == pytest.approx(apart)
