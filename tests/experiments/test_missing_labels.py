"""Suites with missing labels: a task sits out the steps in which nobody labelled it."""

from __future__ import annotations

import pytest
import torch

import lossrag.experiments.train as training
from lossrag.experiments.record.jsonl import read_points


@pytest.mark.parametrize("weighting", ["metaweighting", "uniform", "mgda", "uncertainty"])
def test_a_task_that_is_seldom_labelled(lossrag, monkeypatch, tmp_path, weighting):
    """One row in fifty has a label for parity: the run ends well, and steps without one tell no loss of it."""
    original = training.build_suite

    def build(config):
        suite = original(config)
        targets = suite.splits["support"][1].targets
        targets[torch.arange(len(targets)) % 50 > 0] = -100
        return suite

    monkeypatch.setattr(training, "build_suite", build)
    line = ["train", "experiment=digits", "train.epochs=1", "train.batch_size=16", "log.every_steps=1"]
    result = lossrag(*line, f"weighting={weighting}", f"run.dir={tmp_path}/run", "log.tensorboard=false")
    assert result.code == 0
    points = [p for p in read_points(tmp_path / "run" / "metrics.jsonl") if "support/loss/digit" in p]
    without = [p for p in points if "support/loss/parity" not in p]
    assert 0 < len(without) < len(points)
    assert all(p["weight/parity"] >= 0 for p in points)
