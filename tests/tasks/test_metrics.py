"""Metrics: values by hand or by another way, what they are worth, one's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag import ConfigError
from lossrag.experiments.run.objective import score
from lossrag.tasks import METRICS, Task, register_metric
from lossrag.tasks.metrics import check_metric

TWO, THREE = Task("two", "classification", 2), Task("three", "classification", 3)
VALUE = Task("value", "regression", 1, mean=(10.0,), scale=(4.0,))
LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("accuracy", 0.75), ("macro_accuracy", 5 / 6), ("f1", 0.8), ("roc_auc", 1.0), ("average_precision", 1.0)],
)
def test_two_classes_by_hand(name, wanted):
    """Rows 1, 2, 3 are positive; 2 is taken for negative, but less surely so than the negative row 0."""
    assert METRICS[name].score(TWO, LOGITS, torch.tensor([0, 1, 1, 1])) == pytest.approx(wanted)


def test_three_classes_by_hand():
    logits, targets = torch.eye(3)[[0, 0, 1, 2]], torch.tensor([0, 1, 1, 2])
    assert METRICS["f1"].score(THREE, logits, targets) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert METRICS["roc_auc"].score(THREE, logits, targets) == pytest.approx((5 / 6 + 3 / 4 + 1) / 3)


def test_errors_are_in_the_units_of_the_data():
    outputs, targets = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [0.0]])
    assert METRICS["mae"].score(VALUE, outputs, targets) == pytest.approx(3.0)
    assert METRICS["rmse"].score(VALUE, outputs, targets) == pytest.approx(np.sqrt((4 + 16) / 2))
    assert METRICS["spearman"].score(VALUE, outputs, targets) == pytest.approx(-1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_as_on_a_batch(seed):
    """Where there is a form of a metric on the device, it is the same one."""
    chance = torch.Generator().manual_seed(seed)
    logits, classes = torch.randn(40, 3, generator=chance), torch.randint(3, (40,), generator=chance)
    values = torch.randn(40, 3, generator=chance)
    tasks = [(THREE, classes), (Task("m", "classification", 3, score="macro_accuracy"), classes)]
    for task, targets in [*tasks, (Task("v", "regression", 3, scale=(1.0, 2.0, 9.0), mean=(0.0,) * 3), values)]:
        assert METRICS[task.metric].score(task, logits, targets) == pytest.approx(
            float(score(task, logits, targets)), rel=1e-5, abs=1e-6
        )


@given(st.floats(-1e6, 1), st.floats(-1e6, 1))
def test_worth_is_bounded_and_keeps_the_order(one, two):
    low, high = (METRICS["r2"].worth(VALUE, value) for value in sorted((one, two)))
    assert -1 < low <= high <= 1
    assert METRICS["r2"].worth(VALUE, max(one, 0.0)) == max(one, 0.0)


def test_worth_of_errors():
    """By the spread of the values: 0 is perfect, an error as large as it is worth nothing."""
    assert [METRICS["mae"].worth(VALUE, error) for error in (0.0, 2.0, 4.0, 8.0)] == [1, 0.5, 0, -0.5]


def test_what_is_not_defined_is_nothing():
    assert METRICS["roc_auc"].score(TWO, LOGITS, torch.tensor([1, 1, 1, 1])) == 0
    assert METRICS["spearman"].score(VALUE, torch.zeros(3, 1), torch.arange(3.0)[:, None]) == 0


def test_an_error_that_is_no_number_is_not_perfect():
    @register_metric("unsaid", kind="regression", higher=False)
    def unsaid(targets, outputs):
        return float("nan")

    with pytest.raises(ConfigError, match="The metric 'unsaid' of value gives nan: an error must be a finite number"):
        METRICS["unsaid"].score(VALUE, torch.zeros(2, 1), torch.zeros(2, 1))
    METRICS.remove("unsaid")


def test_names():
    with pytest.raises(ConfigError, match="average_precision is no score of three, a classification of 3 classes"):
        check_metric("here", "average_precision", THREE)
    with pytest.raises(ConfigError, match="Unknown metric 'f2'"):
        check_metric("here", "f2", THREE)
    with pytest.raises(ConfigError, match="kind is classification or regression"):
        register_metric("mine", kind="ranking")

    @register_metric("broken", kind="regression")
    def broken(targets, outputs):
        return targets.nothing

    with pytest.raises(ConfigError, match=r"The metric 'broken' of value fails \(AttributeError"):
        METRICS["broken"].score(VALUE, torch.zeros(2, 1), torch.zeros(2, 1))
    METRICS.remove("broken")
