"""A loss of its own for a task, `loss.tasks.NAME=loss`, in whole runs."""

from __future__ import annotations

import json

import pytest

from lossrag import ConfigError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import run_id

CLASSES = ("digit", "parity", "loops")


def lines(directory):
    return (directory / "metrics.jsonl").read_bytes()


def test_a_loss_for_every_task_is_the_loss_of_their_kind(quick):
    """In training, validation and test; the query losses stay those of the kind."""
    by_task = quick(*(f"loss.tasks.{task}=mae" for task in CLASSES))
    by_kind = quick("loss.classification=mae", "outer.classification=cross_entropy")
    assert lines(by_task) == lines(by_kind)
    scores = [json.loads((run / "summary.json").read_text())["test_loss"] for run in (by_task, by_kind)]
    assert scores[0] == scores[1]
    assert lines(by_task) != lines(quick("loss.classification=mae"))


def test_an_outer_loss_for_every_task_is_that_of_their_kind(quick):
    by_task = quick(*(f"outer.losses.{task}=one_minus_p" for task in CLASSES))
    assert lines(by_task) == lines(quick("outer.classification=one_minus_p"))
    one = quick("outer.losses.digit=one_minus_p")
    assert lines(one) != lines(by_task)
    assert lines(one) != lines(quick())


def test_one_task_of_a_suite_whose_tasks_have_their_own_inputs(quick, toy):
    """Tasks that are alike go through a pass together, whatever their losses."""
    suite = ["tasks=toy", "model=textcnn", "model.kernel_sizes=[2]", "weighting=uniform"]
    plain, other = (quick(*suite, *more) for more in ([], ["loss.tasks={three: one_minus_p, value: l1}"]))
    losses = [json.loads((run / "summary.json").read_text())["test_loss"] for run in (plain, other)]
    assert losses[1]["three"] < 1 < losses[0]["three"]
    assert losses[0] != losses[1]


def test_it_decides_the_run():
    plain, one, same = (
        run_id(load_config(["experiment=digits", *more])[1])
        for more in ([], ["loss.tasks.parity=mae"], ["loss.tasks={parity: mae}"])
    )
    assert one == same != plain


MISTAKES = {
    "loss.tasks.paritty=mae": "no task of 'digits': did you mean 'parity'?",
    "loss.tasks.parity=maee": "Unknown loss 'maee': did you mean 'mae'?",
    "loss.tasks.centre=mae": "loss.tasks.centre=mae is a loss for classification, but centre is a regression: choose",
    "loss.tasks.digit=l1": "loss.tasks.digit=l1 is a loss for regression, but digit is a classification: choose from",
    "loss.tasks=mae": "loss.tasks",
    "outer.losses.paritty=mae": "outer.losses has a loss for 'paritty', which is no task of 'digits': did you mean",
    "outer.losses.parity=maee": "Unknown loss 'maee': did you mean 'mae'?",
    "outer.losses.centre=mae": "outer.losses.centre=mae is a loss for classification, but centre is a regression",
    "outer.losses.parity=[mae]": "outer.losses.parity must be a text, not a list",
    "loss.tasks.parity=[mae]": "loss.tasks.parity must be a text, not a list",
    "loss.tasks.parity=3": "Unknown loss '3'",
    "loss.tasks.parity=null": "loss.tasks",
    "loss.task.parity=mae": "did you mean",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_mistakes_are_found_before_anything_is_trained(lossrag, tmp_path, override):
    error = lossrag("train", "experiment=digits", override, f"run.root={tmp_path}").error
    assert MISTAKES[override] in error
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_composed_losses_leave_no_room_for_it():
    with pytest.raises(ConfigError, match=r"loss\.policy=uniform composes .* leave one of the two out"):
        load_config(["experiment=digits", "loss.tasks.parity=mae", "loss.policy=uniform"])
