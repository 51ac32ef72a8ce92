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


@pytest.mark.parametrize(
    ("weighting", "horizon"),
    [("metaweighting", 20), ("metaweighting", 1), ("metaweighting weighting.scale=unit", 1)],
)
def test_one_candidate_is_metaweighting_itself_bit_for_bit(train, weighting, horizon):
    """50 steps: weights, parameters, optimiser and every metric."""
    steps = ["train.epochs=10", "train.batch_size=256", *f"weighting={weighting}".split()]
    plain = train(*steps)
    reduced = train(
        *steps,
        "loss.policy=gradient",
        "loss.candidates=[cross_entropy,squared_error]",
        "loss.review=5",
        f"loss.horizon={horizon}",
    )
    assert metrics(plain)[-1]["step"] >= 50
    assert metrics(plain) == metrics(reduced)
    expected, found = last_model(plain), last_model(reduced)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("policy", "weighting", "horizon"),
    [
        ("uniform", "metaweighting", 1),
        ("random", "uniform", 1),
        ("gradient", "mgda", 1),
        ("knn", "uniform", 1),
        ("two_tower", "metaweighting", 1),
        ("uniform", "uniform", 20),
        ("random", "mgda", 20),
        ("gradient", "metaweighting", 20),
        ("knn", "metaweighting", 20),
        ("two_tower", "uniform", 20),
    ],
)
def test_every_policy_runs_with_every_kind_of_weighting(train, policy, weighting, horizon):
    directory = train(
        f"loss.policy={policy}",
        f"weighting={weighting}",
        "loss.review=2",
        f"loss.horizon={horizon}",
        "train.epochs=1",
        "loss.k=4",
        "loss.explore=1",
    )
    summary = json.loads((directory / "summary.json").read_text())
    shares = summary["compositions"]["digit"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert summary["test_score_mean"] > -1


@pytest.mark.parametrize(("horizon", "steps"), [(1, {1, 3, 5}), (20, {1, 4})])
def test_the_bank_remembers_what_was_priced(train, horizon, steps):
    directory = train(
        "loss.policy=two_tower",
        f"loss.horizon={horizon}",
        "loss.review=3",
        "train.epochs=1",
        "loss.relational=false",
    )
    bank = LossBank.load(directory / "bank")
    records = bank.memory.records
    assert set(records.tasks) == {"digit", "parity", "loops", "centre"}
    assert set(records.step.tolist()) == steps
    assert {"cross_entropy", "mae", "huber"} <= set(records.losses)


def test_a_warm_run_asks_the_bank_first(train):
    cold = train("loss.policy=knn", "loss.review=3", "train.epochs=1", "loss.relational=false")
    warm = train(
        "loss.policy=knn", "loss.review=100", "train.epochs=1", "loss.relational=false", f"loss.bank={cold}/bank"
    )
    events = [json.loads(line) for line in (warm / "events.jsonl").read_text().splitlines()]
    assert {event["step"] for event in events} == {1}
    assert {event["what"] for event in events} >= {"retrieved"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.policy=two_towers", "did you mean 'two_tower'"),
        ("loss.k=0", "loss.k must be 1 or more"),
        ("loss.horizon=0", "loss.horizon must be 1 or more"),
        ("loss.temperature=0", "loss.temperature must be above 0"),
        ("loss.rows=0", "loss.rows must be 1 or more"),
        ("loss.outer=lambda", "Add loss.horizon=1"),
        ("loss.explore=8", "leaves none"),
        ("loss.candidates=[crossentropy]", "did you mean 'cross_entropy'"),
        ("loss.outer=max", "choose from: lambda, mean"),
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
