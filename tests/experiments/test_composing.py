"""Learned losses in real runs: what they reduce to, what they do, and that a killed run goes on as if nothing was."""

from __future__ import annotations

import json

import pytest
import torch

from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.lossbank import LossBank


def metrics(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    kept = ("support/", "query/", "weight/", "lambda/", "frank_wolfe/", "validation/", "test/", "hypergradient/")
    return [{key: value for key, value in line.items() if key == "step" or key.startswith(kept)} for line in lines]


def last_model(directory):
    tensors, _ = load_checkpoint(next(directory.rglob("last*.safetensors")))
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("model", "optimizer", "step"))}


FEW = "loss.candidates=[cross_entropy,mae,focal_2,brier,triplet_0.2,squared_error,l1,huber]"


@pytest.mark.parametrize("weighting", [["metaweighting"], ["metaweighting", "weighting.scale=unit"]], ids=" ".join)
def test_one_candidate_is_metaweighting_itself_bit_for_bit(quick, weighting):
    """50 steps: weights, parameters, optimiser and every metric."""
    steps = ["train.epochs=3", "train.batch_size=64", f"weighting={weighting[0]}", *weighting[1:]]
    alone = ["loss.policy=gradient", "loss.candidates=[cross_entropy,squared_error]", "loss.review=5"]
    plain = quick(*steps)
    expected = last_model(plain)
    for horizon in (1, 20):
        reduced = quick(*steps, *alone, f"loss.horizon={horizon}")
        assert metrics(plain)[-1]["step"] >= 50
        assert metrics(plain) == metrics(reduced)
        found = last_model(reduced)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("policy", "weighting", "horizon"),
    [  # every pair of two of them
        (policy, weighting, (1, 20)[(row + column) % 2])
        for row, policy in enumerate(("uniform", "random", "gradient", "knn", "two_tower"))
        for column, weighting in enumerate(("uniform", "mgda", "metaweighting"))
    ],
)
def test_every_policy_runs_with_every_kind_of_weighting(quick, policy, weighting, horizon):
    chosen = [f"loss.policy={policy}", f"weighting={weighting}", f"loss.horizon={horizon}", FEW]
    directory = quick(*chosen, "loss.review=2", "train.epochs=1", "loss.k=3", "loss.explore=1")
    summary = json.loads((directory / "summary.json").read_text())
    for shares in summary["compositions"].values():
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("horizon", "steps"), [(1, {1, 3, 5}), (20, {1, 4})])
def test_the_bank_remembers_what_was_measured(quick, horizon, steps):
    chosen = ["loss.policy=two_tower", f"loss.horizon={horizon}", "loss.review=3", "train.epochs=1"]
    records = LossBank.load(quick(*chosen, FEW, "loss.relational=false") / "bank").memory.records
    assert set(records.tasks) == {"digit", "parity", "loops", "centre"}
    assert set(records.step.tolist()) == steps
    assert set(records.losses) == {"cross_entropy", "mae", "focal_2", "brier", "squared_error", "l1", "huber"}


def test_a_warm_run_asks_the_bank_first(quick):
    chosen = ["loss.policy=knn", "train.epochs=1", FEW, "loss.k=3", "loss.explore=1"]
    cold = quick(*chosen, "loss.review=3")
    warm = quick(*chosen, "loss.review=100", f"loss.bank={cold}/bank")
    events = [json.loads(line) for line in (warm / "events.jsonl").read_text().splitlines()]
    assert {event["step"] for event in events} == {1}
    assert {event["what"] for event in events} & {"retrieved", "explored"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.policy=two_towers", "loss.policy='two_towers' is unknown: did you mean 'two_tower'"),
        ("loss.k=0", "loss.k must be 1 or more"),
        ("loss.horizon=0", "loss.horizon must be 1 or more"),
        ("loss.temperature=0", "loss.temperature must be a positive number"),
        ("loss.smoothing=1", "loss.smoothing must be in [0, 1)"),
        ("loss.outer=lambda", "Add loss.horizon=1"),
        ("loss.explore=8", "loss.explore=8 leaves none of loss.k=8"),
        ("loss.candidates=[crossentropy]", "did you mean 'cross_entropy'"),
        ("loss.classification=triplet_0.2", "look one step ahead, loss.horizon=1"),
    ],
)
def test_mistakes(lossrag, override, message):
    settings = ["experiment=digits", "loss.policy=gradient", override]
    assert message in lossrag("train", *settings).error


def test_what_does_not_go_with_learned_losses(lossrag):
    error = lossrag("train", "experiment=digits", "loss.policy=gradient", "train.refit=true").error
    assert "train.refit=false" in error
    lazy = ["tasks=newsgroups", "model=textcnn", "model.trainable_vectors=true", "optimizer.vectors=lazy"]
    assert "loss.policy=fixed" in lossrag("train", *lazy, "loss.policy=gradient").error


def test_a_bank_that_is_not_there(lossrag, tmp_path):
    error = lossrag("train", "experiment=digits", "loss.policy=knn", f"loss.bank={tmp_path}/nowhere").error
    assert "nowhere" in error
