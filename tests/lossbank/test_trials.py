"""Trials: cases with their moments and outcomes in columns, joined, restricted and looked up."""

import math

import numpy as np
import pytest

from lossrag.errors import ConfigError, OptionError
from lossrag.lossbank.experience.trials import Case, CaseRecord, Experience, Outcome
from tests.lossbank.experiences import SIZE, case, context, random_experience, record, same


def test_columns_hold_what_the_records_say():
    late, early = context(query_loss=2.0), context(query_loss=1.0)
    outcomes = {"mae": Outcome(0.02, 0.01, 3), "brier": Outcome(-0.01)}
    noisy = case(source="mail", trouble="symmetric", strength=0.4, clean=False, seed=7)
    known = Experience.of([CaseRecord(noisy, {0.2: late, 0.1: early}, outcomes), record({"mae": 0.5})])
    assert len(known) == 2
    assert known.texts("source").tolist() == ["mail", "news"]
    assert known.moment_case.tolist() == [0, 0, 1]
    assert known.progress.tolist() == pytest.approx([0.1, 0.2, 0.05])
    assert np.array_equal(known.contexts[:2], [early, late])
    assert known.outcome_case.tolist() == [0, 0, 1]
    assert [known.names["loss"][n] for n in known.outcome_loss] == ["brier", "mae", "mae"]
    assert known.gain.tolist() == pytest.approx([-0.01, 0.02, 0.5])
    assert known.error[1] == pytest.approx(0.01)
    assert np.isnan(known.error[[0, 2]]).all()
    assert known.repeats.tolist() == [1, 3, 1]


def test_a_case_comes_back_as_it_was():
    given = case(trouble="imbalance", strength=16.0, clean=False, seed=3, version="0.1.0", reference=0.5)
    assert Experience.of([record({"mae": 0.0}), record({"mae": 0.0}, trouble="x")]).case(1).trouble == "x"
    assert Experience.of([CaseRecord(given, {0.0: context()}, {"mae": Outcome(0.0)})]).case(0) == given


def test_a_case_without_moments_or_outcomes_is_left_out():
    known = Experience.of([record({}), record({"mae": 0.1}, {}), record({"mae": 0.1}, task="kept")])
    assert known.texts("task").tolist() == ["kept"]
    assert len(Experience.of([])) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_kind": "ranking"}, "Case: target_kind='ranking' is unknown"),
        ({"samples": 0}, "Case: samples must be from 1"),
        ({"outputs": 2**31}, "Case: outputs must be from 1"),
        ({"seed": -1}, "Case: seed must be from 0"),
        ({"reference": math.nan}, "Case: reference must be a finite score"),
        ({"task": "a\nb"}, "Case: task must be a printable text"),
        ({"source": "x" * 201}, "Case: source must be a printable text"),
    ],
)
def test_cases_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        case(**changes)


@pytest.mark.parametrize("values", [(math.nan,), (math.inf,), (0.1, -0.1), (0.1, math.inf), (0.1, 0.1, 0)])
def test_outcomes_that_nobody_knows_are_refused(values):
    with pytest.raises(ConfigError, match="Outcome"):
        Outcome(*values)


@pytest.mark.parametrize(
    "moments", [{1.5: context()}, {0.1: np.zeros(SIZE + 1, np.float32)}, {0.1: context(query_loss=math.nan)}]
)
def test_moments_that_make_no_sense_are_refused(moments):
    with pytest.raises(OptionError, match="CaseRecord: moments"):
        Experience.of([record({"mae": 0.1}, moments)])


def test_losses_have_printable_names():
    with pytest.raises(OptionError, match="CaseRecord: outcomes"):
        Experience.of([record({"ma\ne": 0.1})])


def test_where_keeps_the_moments_and_outcomes_of_its_cases():
    known = random_experience(7)
    kept = known.where(np.arange(7) % 2 == 1)
    assert len(kept) == 3
    for number, old in enumerate((1, 3, 5)):
        assert repr(kept.case(number)) == repr(known.case(old))
        assert np.array_equal(kept.contexts[kept.moment_case == number], known.contexts[known.moment_case == old])
        assert np.array_equal(kept.gain[kept.outcome_case == number], known.gain[known.outcome_case == old])


def test_without_leaves_sources_out():
    known = random_experience(9)
    assert set(known.without(["source 1"]).texts("source").tolist()) == {"source 0", "source 2"}
    assert known.without([]) is known
    assert len(known.without(["source 0", "source 1", "source 2"])) == 0
    assert len(Experience().without(["anything"])) == 0


def test_joined_has_the_cases_of_both_under_one_list_of_names():
    first = Experience.of([record({"mae": 0.1, "brier": 0.2}, source="a")])
    second = Experience.of([record({"focal_1": 0.3, "mae": 0.4}, source="b", encoder="textcnn")])
    both = first.joined(second)
    assert both.texts("source").tolist() == ["a", "b"]
    assert both.texts("encoder").tolist() == ["mlp", "textcnn"]
    gains = {
        (int(n), both.names["loss"][loss]): round(float(gain), 3)
        for n, loss, gain in zip(both.outcome_case, both.outcome_loss, both.gain, strict=True)
    }
    assert gains == {(0, "mae"): 0.1, (0, "brier"): 0.2, (1, "focal_1"): 0.3, (1, "mae"): 0.4}
    assert both.moment_case.tolist() == [0, 1]


def test_joined_counts_a_case_once_and_keeps_what_the_first_one_says():
    old, new = record({"mae": 0.1}), record({"mae": 0.9})
    more = record({"mae": 0.5}, seed=1)
    both = Experience.of([old]).joined(Experience.of([new, more]))
    assert both.gain.tolist() == pytest.approx([0.1, 0.5])
    assert same(both.joined(both), both)


def test_joined_with_nothing():
    known = random_experience(3)
    assert known.joined(Experience()) is known
    assert Experience().joined(known) is known


def test_cases_are_plain():
    assert Case.__dataclass_fields__.keys() == {*Experience().columns}
