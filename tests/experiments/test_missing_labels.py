"""Suites with missing labels: built, split, corrupted, trained on, evaluated and remembered over the labelled rows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.record.contexts import load_contexts
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.run.build import build_problem, build_suite
from lossrag.experiments.run.learned_losses import StepRows
from lossrag.tasks import SUITES, SuiteEntry
from lossrag.tasks.digits import DigitsConfig, load_digits

EVERY = {"support": 40, "query": 3, "validation": 3, "test": 2}
"""By split: of so many rows one has a label for parity and one, another one, for the centre."""


def hidden(config: DigitsConfig):
    """The digits with few labels of parity and of the centre."""
    suite = load_digits(config)
    splits = {}
    for split, (digit, parity, loops, centre) in suite.splits.items():
        row = torch.arange(len(parity))
        seldom = parity.targets.masked_fill(row % EVERY[split] > 0, -100)
        nowhere = centre.targets.masked_fill((row % EVERY[split] != 1)[:, None], float("nan"))
        splits[split] = digit, replace(parity, targets=seldom), loops, replace(centre, targets=nowhere)
    return replace(suite, splits=splits)


@pytest.fixture(autouse=True)
def _hidden(monkeypatch):
    monkeypatch.setitem(SUITES._entries, "digits", SuiteEntry(DigitsConfig, hidden))


LINE = ["experiment=digits", "train.epochs=1", "train.batch_size=16", "log.every_steps=1", "log.tensorboard=false"]


@pytest.mark.parametrize("weighting", ["metaweighting", "uniform", "mgda", "uncertainty"])
def test_a_task_that_is_seldom_labelled(lossrag, tmp_path, weighting):
    """The run ends well, and steps without a label tell no loss of the task."""
    result = lossrag("train", *LINE, f"weighting={weighting}", f"run.dir={tmp_path}/run")
    assert result.code == 0, result
    points = [p for p in read_points(tmp_path / "run" / "metrics.jsonl") if "support/loss/digit" in p]
    for task in ("parity", "centre"):
        without = [p for p in points if f"support/loss/{task}" not in p]
        assert 0 < len(without) < len(points)
        assert all(p[f"weight/{task}"] >= 0 for p in points)


def test_counts_and_scores_are_of_the_labelled_rows(lossrag, tmp_path):
    """As they come out on a suite that holds these rows alone."""
    result = lossrag("train", *LINE, f"run.dir={tmp_path}/run")
    assert result.code == 0, result
    config, _ = load_config(LINE)
    suite = build_suite(config)
    problem = build_problem(config, suite, torch.device("cpu"))
    found = problem.evaluate("test")
    problem.model.eval()
    for t, task in enumerate(suite.tasks):
        examples = suite.splits["test"][t]
        known = problem.labelled_rows("test", t)
        targets = examples.targets[known]
        logits = problem.model(examples.inputs.gather(known), t).detach()
        if task.kind == "classification":
            score = (logits.argmax(1) == targets).double().mean()
            loss = torch.nn.functional.cross_entropy(logits, targets)
            counts = torch.bincount(suite.splits["support"][t].targets.clamp(min=-1) + 1, minlength=task.outputs + 1)
            assert problem.inner[t].class_counts.tolist() == counts[1:].tolist()
        else:
            spread = (targets - targets.mean(0)).square().sum()
            score = 1 - (logits - targets).square().sum() / spread
            loss = (logits - targets).square().mean(1).mean()
        assert float(found.scores[t]) == pytest.approx(float(score), rel=1e-5, abs=1e-6)
        assert float(found.losses[t]) == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("evidence", ["none", "look_ahead", "one_step"])
def test_losses_are_learned_of_labelled_rows(lossrag, tmp_path, evidence):
    """With noise on what labels there are; the contexts that a bank would remember are numbers."""
    line = [*LINE, "loss.policy=retrieval", f"loss.evidence={evidence}", "train.batch_size=64"]
    if evidence == "none":
        line += ["log.contexts=true", "train.epochs=2", "tasks.corrupt={parity: {noise: symmetric, rate: 0.2}}"]
    result = lossrag("train", *line, f"run.dir={tmp_path}/run")
    assert result.code == 0, result
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert set(summary["compositions"]) == {"digit", "parity", "loops", "centre"}
    assert all(-10 < score <= 1 for score in (summary["test_score_mean"], *summary["test_accuracy"].values()))
    if evidence == "none":
        recorded = load_contexts(tmp_path / "run")
        support = hidden(DigitsConfig()).splits["support"][1].targets
        assert [task.samples for task in recorded.tasks][1] == int((support != -100).sum())
        assert all(context.isfinite().all() for context in recorded.moments.values())


def test_rows_that_are_drawn_have_a_label():
    """Of a shared input for some task; here every row has one of the digit."""
    config, _ = load_config(LINE)
    suite = build_suite(config)
    alone = replace(
        suite, tasks=suite.tasks[1:2], splits={split: examples[1:2] for split, examples in suite.splits.items()}
    )
    problem = build_problem(config, alone, torch.device("cpu"))
    drawn = StepRows(problem, 0, 1, {})("support", 20).targets[0]
    assert len(drawn) == 20
    assert (drawn >= 0).all()


def test_theorems_speak_of_labelled_rows(lossrag, tmp_path):
    assert lossrag("train", *LINE, f"run.dir={tmp_path}/run").code == 0
    result = lossrag("theory", f"run={tmp_path}/run", "loss=zero_one", "draws=1", "epochs=1")
    assert result.code == 0, result
    report = json.loads((tmp_path / "run" / "theory.json").read_text())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    rows = hidden(DigitsConfig()).splits["query"]
    for t, task in enumerate(("digit", "parity", "loops")):
        assert report["tasks"][task]["query_samples"] == int((rows[t].targets != -100).sum())
        assert report["tasks"][task]["test"] == pytest.approx(1 - summary["test_accuracy"][task])
