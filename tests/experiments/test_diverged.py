"""A loss that is no longer finite ends the run with its task and step; the last good checkpoint stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.run.build import build_problem, build_suite
from lossrag.lossbank import LOSSES

STEPS = 3


def turn_nan(monkeypatch, name, after):
    """From its ``after``-th call on the loss is NaN."""
    calls = [0]
    loss = LOSSES[name]

    def function(logits, targets):
        calls[0] += 1
        return loss(logits, targets) * (float("nan") if calls[0] >= after else 1.0)

    monkeypatch.setitem(LOSSES._entries, name, replace(loss, function=function))


def assert_good(directory, step):
    tensors, _ = load_checkpoint(directory / "checkpoints" / "last.safetensors")
    assert int(tensors["step/count"]) == step
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    assert not (directory / "summary.json").exists()


@pytest.fixture
def small(tmp_path):
    directory = tmp_path / "run"
    overrides = [
        "experiment=digits",
        "train.epochs=2",
        "train.batch_size=512",
        "run.checkpoint_seconds=0",
        "log.tensorboard=false",
    ]
    return directory, ["train", *overrides, f"run.dir={directory}"]


# two calls a step with an outer problem (support, query), one call per evaluation
@pytest.mark.parametrize(
    ("after", "what", "step"),
    [
        (6, "query loss", 3),
        (2 * STEPS + 1, "validation loss", STEPS),
        (2 * STEPS + 2, "support loss", STEPS + 1),
    ],
)
def test_metaweighting(small, lossrag, monkeypatch, after, what, step):
    directory, line = small
    with monkeypatch.context() as patch:
        turn_nan(patch, "squared_error", after)
        error = lossrag(*line).error
    assert f"Step {step}" in error
    assert what in error
    assert "centre" in error
    assert "digit" not in error
    assert "last good checkpoint" in error
    assert_good(directory, step if "validation" in what else step - 1)


def test_uniform(small, lossrag, monkeypatch):
    directory, line = small
    line = [*line, "weighting=uniform"]
    with monkeypatch.context() as patch:
        turn_nan(patch, "squared_error", 3)
        error = lossrag(*line).error
    assert "Step 3" in error
    assert "centre" in error
    assert_good(directory, 2)
    assert lossrag(*line).code == 0


def test_several_tasks(small, lossrag, monkeypatch):
    _, line = small
    with monkeypatch.context() as patch:
        turn_nan(patch, "cross_entropy", 1)
        error = lossrag(*line).error
    assert "Step 1" in error
    assert all(name in error for name in ("digit", "parity", "loops"))
    assert "centre" not in error


@pytest.mark.parametrize(("weighting", "rate"), [("metaweighting", "1e38"), ("uniform", "1e20")])
def test_learning_rate_far_too_large(small, lossrag, weighting, rate):
    directory, line = small
    error = lossrag(*line, "optimizer.name=sgd", f"optimizer.lr={rate}", f"weighting={weighting}").error
    assert "Step " in error
    assert any(task in error for task in ("digit", "parity", "loops", "centre"))
    last = directory / "checkpoints" / "last.safetensors"
    if last.exists():
        tensors, _ = load_checkpoint(last)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_parameters_that_turn_nan_are_not_saved(small, lossrag, monkeypatch):
    """Whoever wrote them: the checkpoint of before stays, and the tensor is named."""
    from lossrag.weighting import MultiTaskStep

    directory, line = small
    original = MultiTaskStep.__call__

    def poison(self, *arguments, **signals):
        record = original(self, *arguments, **signals)
        if self.count == 2:
            with torch.no_grad():
                self.parameters[0].view(-1)[0] = float("nan")
        return record

    with monkeypatch.context() as patch:
        patch.setattr(MultiTaskStep, "__call__", poison)
        error = lossrag(*line, "weighting=uniform").error
    assert error.startswith("Step 2: model/")
    assert_good(directory, 1)


def test_seldom_read_values_are_checked_before_every_checkpoint(small, lossrag, monkeypatch):
    directory, line = small
    with monkeypatch.context() as patch:
        turn_nan(patch, "squared_error", 5)
        error = lossrag(*line, "log.every_steps=1000").error
    assert "Step 3" in error
    assert_good(directory, 2)


def test_nan_in_the_refit(small, lossrag, monkeypatch):
    _, line = small
    with monkeypatch.context() as patch:
        # two epochs of the run: two calls a step and one validation each; then the refit
        turn_nan(patch, "squared_error", 2 * (2 * STEPS + 1) + 2)
        assert "centre" in lossrag(*line, "train.refit=true").error


@pytest.mark.parametrize("weighting", ["metaweighting", "uniform"])
def test_steps_are_left_out_where_that_is_asked_for(small, lossrag, monkeypatch, weighting):
    """The run ends well, and its series say how many steps were left out."""
    directory, line = small
    calls = [0]
    loss = LOSSES["squared_error"]

    def function(logits, targets):
        calls[0] += 1
        return loss(logits, targets) * (float("nan") if calls[0] == 1 else 1.0)

    with monkeypatch.context() as patch:
        patch.setitem(LOSSES._entries, "squared_error", replace(loss, function=function))
        options = ["train.nonfinite=skip", "log.every_steps=1", f"weighting={weighting}"]
        assert lossrag(*line, *options).code == 0
    points = [point for point in read_points(directory / "metrics.jsonl") if "support/loss/digit" in point]
    assert [point["step"] for point in points] == list(range(2, 2 * STEPS + 1)), "of the first there is nothing to tell"
    assert {point["steps/skipped"] for point in points} == {1}


def test_outputs_that_are_no_numbers_are_left_to_the_loss():
    """A metric would fail on them, and hide the word of the run: its loss is not finite."""
    config, _ = load_config(["experiment=digits", "outer.metric=mae"])
    problem = build_problem(config, build_suite(config), torch.device("cpu"))
    place = problem.suite.task_names.index("centre")
    assert problem.suite.tasks[place].metric == "mae"
    with torch.no_grad():
        problem.model.heads[place].weight.fill_(float("nan"))
    found = problem.evaluate("validation")
    assert found.losses.isfinite().tolist() == [t != place for t in range(len(problem.suite.tasks))]
    assert found.scores.isfinite().tolist() == found.losses.isfinite().tolist()
