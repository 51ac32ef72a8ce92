"""Learned losses in real runs: what they reduce to, what they do, and that a killed run goes on as if nothing was."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import cycle

import pytest
import torch

from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.experiments.record.composition_log import read_events
from lossrag.lossbank import LossBank
from lossrag.lossbank.experience.trials import Experience
from lossrag.tasks import SPLITS, SUITES, DenseInputs, Examples, Suite, SuiteEntry, Task
from tests.experiments.banks import CLASS_GAINS, records, write_bank


def metrics(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    kept = ("support/", "query/", "weight/", "lambda/", "frank_wolfe/", "validation/", "test/", "hypergradient/")
    return [{key: value for key, value in line.items() if key == "step" or key.startswith(kept)} for line in lines]


def last_model(directory):
    tensors, _ = load_checkpoint(next(directory.rglob("last*.safetensors")))
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("model", "optimizer", "step"))}


FEW = "loss.candidates=[cross_entropy,mae,focal_2,brier,squared_error,l1,huber]"


@pytest.fixture
def bank(tmp_path):
    """The key that names a bank, made with the encoder of the digits."""
    return f"loss.bank={write_bank(tmp_path / 'bank.safetensors')}"


@pytest.mark.parametrize(
    "weighting", [["metaweighting", "weighting.scale=unit"], pytest.param(["metaweighting"], marks=pytest.mark.slow)]
)
def test_one_candidate_is_metaweighting_itself_bit_for_bit(quick, bank, weighting, tmp_path):
    """50 steps: weights, parameters, optimiser and every metric. So it is where nothing is known, too, and where the
    bank speaks for nothing but the reference."""
    steps = ["train.epochs=3", "train.batch_size=64", f"weighting={weighting[0]}", *weighting[1:]]
    alone = ["loss.candidates=[cross_entropy,squared_error]", "loss.review=5"]
    plain = quick(*steps)
    expected = last_model(plain)
    other = write_bank(tmp_path / "other.safetensors", encoder="textcnn")
    for more in (
        [*alone, "loss.policy=gradient", "loss.evidence=one_step"],
        [*alone, "loss.policy=gradient"],
        [*alone, "loss.policy=retrieval", bank],
        [*alone, "loss.policy=retrieval", "loss.evidence=one_step", bank],
        ["loss.policy=retrieval", bank, "loss.risk=100"],
        ["loss.policy=retrieval", f"loss.bank={other}"],
        ["loss.policy=retrieval", "loss.bank=none"],
    ):
        reduced = quick(*steps, *more)
        assert metrics(plain)[-1]["step"] >= 50
        assert metrics(plain) == metrics(reduced), more
        found = last_model(reduced)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("policy", "weighting", "evidence"),
    [  # every pair of two of them that go together
        (policy, weighting, evidence)
        for policy, kinds in (
            ("uniform", ("none",)),
            ("random", ("look_ahead", "one_step", "none")),
            ("gradient", ("one_step", "look_ahead")),
            ("retrieval", ("none", "one_step", "look_ahead")),
        )
        for weighting, evidence in zip(("uniform", "mgda", "metaweighting"), cycle(kinds), strict=False)
    ],
)
def test_every_policy_runs_with_every_kind_of_weighting(quick, bank, policy, weighting, evidence):
    chosen = [f"loss.policy={policy}", f"weighting={weighting}", f"loss.evidence={evidence}", FEW, bank]
    directory = quick(*chosen, "loss.review=2", "train.epochs=1", "loss.k=3")
    summary = json.loads((directory / "summary.json").read_text())
    for shares in summary["compositions"].values():
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert len(shares) > 1 or evidence != "none"


def test_retrieved_losses_are_those_that_the_bank_speaks_for(quick, bank):
    asking = ["loss.policy=retrieval", "loss.temperature=0.01", "loss.questions=[0.05]"]
    directory = quick(*asking, bank, FEW, "train.epochs=2")
    summary = json.loads((directory / "summary.json").read_text())
    for task in ("digit", "parity", "loops"):
        assert next(iter(summary["compositions"][task])) == "mae"
        assert set(summary["compositions"][task]) == {"mae", "brier", "cross_entropy"}
        assert "mae was worth" in summary["reasons"][task]
    assert next(iter(summary["compositions"]["centre"])) == "huber"
    assert summary["bank_sources"] == ["made up"]


def test_a_source_that_is_left_out_does_not_answer(quick, bank):
    directory = quick("loss.policy=retrieval", bank, "loss.bank_exclude=[made up]", "train.epochs=1")
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["compositions"]["digit"] == {"cross_entropy": 1.0}
    assert summary["bank_sources"] == []
    assert {event.what for event in read_events(directory)} == {"silent"}


def test_an_encoder_that_the_bank_does_not_know(quick, tmp_path):
    other = write_bank(tmp_path / "other.safetensors", encoder="textcnn")
    directory = quick("loss.policy=retrieval", f"loss.bank={other}", "train.epochs=1")
    assert all("No case had the encoder mlp, only textcnn" in event.reason for event in read_events(directory))


def test_a_context_unlike_anything_known(quick, tmp_path):
    """All that this bank has seen looked nearly alike, and nothing like this."""
    cases = records("mlp", "made up", CLASS_GAINS, "classification")
    near = [replace(case, moments={at: 0.01 * context for at, context in case.moments.items()}) for case in cases]
    LossBank(Experience.of(near)).save(tmp_path / "narrow.safetensors")
    line = ["loss.policy=retrieval", f"loss.bank={tmp_path}/narrow.safetensors", "train.epochs=1"]
    told = [event for event in read_events(quick(*line)) if event.task == "digit"]
    assert {event.what for event in told} == {"silent"}
    assert all("It is unlike anything known" in event.reason for event in told)
    assert all(len(event.neighbours) == 20 for event in told), "it says what was nearest all the same"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.policy=retreival"], "loss.policy='retreival' is unknown: did you mean 'retrieval'"),
        (["loss.k=0"], "loss.k must be 1 or more"),
        (["loss.horizon=0"], "loss.horizon must be 2 or more"),
        (["loss.unit=0"], "loss.unit must be a positive number"),
        (["loss.temperature=0"], "loss.temperature must be a positive number"),
        (["loss.questions=[0.2,0.1]"], "loss.questions must be ascending shares"),
        (["loss.questions=0.05"], "loss.questions must be a list of numbers, got 0.05: write loss.questions=[0.05]"),
        (["loss.evidence=two_step"], "loss.evidence='two_step' is unknown: did you mean 'one_step'"),
        (["loss.evidence=none"], "loss.policy=gradient learns shares from evidence"),
        (["loss.policy=uniform", "loss.evidence=one_step"], "loss.policy=uniform learns no shares"),
        (["loss.smoothing=1"], "loss.smoothing must be in [0, 1)"),
        (["loss.outer=lambda"], "which only loss.evidence=one_step looks at"),
        (["loss.candidates=[crossentropy]"], "did you mean 'cross_entropy'"),
        (["loss.classification=triplet_0.2"], "'triplet_0.2' works on pairs of samples"),
        (["loss.candidates=[mae,l1,triplet_0.2]"], "'triplet_0.2' works on pairs of samples"),
        (["loss.policy=two_tower"], "loss.policy=two_tower is gone: write loss.policy=retrieval."),
        (["loss.policy=knn"], "loss.policy=knn is gone: write loss.policy=retrieval."),
        (["loss.horizon=1"], "loss.horizon=1 is gone: write loss.evidence=one_step."),
        (["loss.relational=false"], "loss.relational is gone: losses on pairs"),
        (["loss.bank=null"], "loss.bank=null is gone: write loss.bank=none for none."),
        (["loss.explore=2"], "loss.explore is gone"),
        (["loss.learn=false"], "loss.learn is gone"),
    ],
)
def test_mistakes(lossrag, overrides, message):
    settings = ["experiment=digits", "loss.policy=gradient", *overrides]
    assert message in lossrag("train", *settings).error


def test_what_does_not_go_with_learned_losses(lossrag):
    error = lossrag("train", "experiment=digits", "loss.policy=gradient", "train.refit=true").error
    assert "train.refit=false" in error
    lazy = ["tasks=newsgroups", "model=textcnn", "model.trainable_vectors=true", "optimizer.vectors=lazy"]
    one_step = ["loss.policy=gradient", "loss.evidence=one_step"]
    assert "loss.evidence=look_ahead" in lossrag("train", *lazy, *one_step).error


def test_a_bank_that_is_not_there(lossrag, tmp_path):
    call = ["train", "experiment=digits", "loss.policy=retrieval", f"run.root={tmp_path}"]
    error = lossrag(*call, f"loss.bank={tmp_path}/nowhere").error
    assert "nowhere does not exist" in error
    bank = write_bank(tmp_path / "bank.safetensors")
    assert (
        "no source 'mad up' to exclude: did you mean"
        in lossrag(*call, f"loss.bank={bank}", "loss.bank_exclude=[mad up]").error
    )


@dataclass(frozen=True)
class OddConfig:
    """A task of 40 samples beside an odd one. rho is what every suite has."""

    rows: int = 30
    classes: int = 2
    finite: bool = True
    rho: float = 0.1


def load_odd(config: OddConfig) -> Suite:
    chance = torch.Generator().manual_seed(0)

    def examples(rows: int, classes: int, finite: bool) -> Examples:
        inputs = torch.randn(rows, 5, generator=chance)
        inputs[0, 0] = inputs[0, 0] if finite else float("nan")
        return Examples(DenseInputs(inputs), torch.arange(rows) % classes)

    both = ((40, 3, True), (config.rows, config.classes, config.finite))
    splits = {split: tuple(examples(*own) for own in both) for split in SPLITS}
    tasks = (Task("usual", "classification", 3), Task("odd", "classification", config.classes))
    return Suite("odd", "made up", tasks, False, splits, input_shape=(5,))


@pytest.mark.parametrize("evidence", ["none", "look_ahead", "one_step"])
@pytest.mark.parametrize("odd", [["tasks.rows=3", "tasks.classes=3"], ["tasks.classes=1"]], ids=" ".join)
def test_odd_tasks_are_asked_about_like_others(quick, bank, monkeypatch, odd, evidence):
    """Of three samples, and of one class, in which nothing can be wrong."""
    monkeypatch.setitem(SUITES._entries, "odd", SuiteEntry(OddConfig, load_odd))
    run = quick(
        "~experiment", "tasks=odd", "model=mlp", *odd, "loss.policy=retrieval", f"loss.evidence={evidence}", bank
    )
    summary = json.loads((run / "summary.json").read_text())
    assert summary["reasons"].keys() == {"usual", "odd"}
    for shares in summary["compositions"].values():
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)


def test_features_that_are_no_numbers_are_named(lossrag, bank, monkeypatch, tmp_path):
    """Nothing is retrieved for them: a context that is not finite is not asked about."""
    monkeypatch.setitem(SUITES._entries, "odd", SuiteEntry(OddConfig, load_odd))
    line = ["train", "~experiment", "tasks=odd", "model=mlp", "tasks.finite=false", "loss.policy=retrieval", bank]
    result = lossrag(*line, f"run.root={tmp_path}/runs", "log.tensorboard=false")
    assert "loss is not finite for odd (nan)" in result.error
    (run,) = (tmp_path / "runs").iterdir()
    told = {event.task: event for event in read_events(run)}
    assert (told["odd"].what, told["odd"].neighbours) == ("silent", [])
    assert "Its context is not finite, so the bank is not asked" in told["odd"].reason
