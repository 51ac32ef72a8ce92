"""Runs that begin with the parameters of a finished one, and finished runs that are to be trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lossrag import CheckpointError, ConfigError, MultiTaskModel, Suite, Task, TextCNN, load_run
from lossrag.experiments.cli import run as command
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import run_id
from lossrag.experiments.record.description import ModelDescription
from lossrag.experiments.run.warm_start import Parent, warm_start
from lossrag.experiments.train import Training
from lossrag.tasks.table.preprocessing import TablePreprocessing
from tests.experiments.conftest import SMALL
from tests.experiments.tables import people

STILL = ["optimizer.lr=1e-30", "train.epochs=1"]
"""Nothing moves: what is tested is what was begun with."""


def summary_of(path: Path) -> dict[str, object]:
    return json.loads((path / "summary.json").read_text())


@pytest.mark.parametrize("refit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_begins_where_the_parent_was_tested(finished, quick, lossrag, refit):
    child = quick(f"train.from={finished}", *STILL, f"train.refit={refit}", "weighting=uniform", "seed=0")
    parent = summary_of(finished)
    told = summary_of(child)
    assert told["test_accuracy"] == parent["test_accuracy"]
    assert told["test_loss"] == parent["test_loss"]
    assert told["parent"] == {"run_id": finished.name, "directory": str(finished), "epoch": parent["best_epoch"]}
    first, second = (load_run(path).model.state_dict() for path in (finished, child))
    assert all(torch.equal(first[name], second[name]) for name in first)
    shown = lossrag(
        "train",
        *SMALL,
        f"run.dir={child}",
        f"train.from={finished}",
        *STILL,
        f"train.refit={refit}",
        "weighting=uniform",
    )
    assert f"began with the parameters of epoch {parent['best_epoch']} of {finished}" in shown.out


def test_a_finished_run_that_is_to_go_on_says_how(finished, tmp_path, lossrag):
    copy = shutil.copytree(finished, tmp_path / "copy")
    error = lossrag("train", *SMALL, "train.epochs=4", f"run.dir={copy}").error
    assert "train.epochs: 2 -> 4" in error
    advice = f"train.from={copy}"
    assert advice in error
    result = lossrag("train", *SMALL, "train.epochs=1", "log.tensorboard=false", advice, f"run.dir={tmp_path}/on")
    assert result.code == 0, result
    assert f"begins with the parameters of epoch {summary_of(copy)['best_epoch']} of {copy}" in result.out


def test_an_interrupted_one_ends_with_the_same_bits(finished, quick, tmp_path, monkeypatch, assert_same_run):
    options = ["train.epochs=2", "log.tensorboard=false", f"train.from={finished}"]
    reference = quick(*options)

    def interrupted(self, bar):
        raise KeyboardInterrupt

    line = ["train", *SMALL, *options, "run.dir=mine", "run.checkpoint_seconds=0"]
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_end_epoch", interrupted)
        assert command(line) == 130
    assert command(line) == 0
    assert_same_run(reference, tmp_path / "mine")


@pytest.mark.slow
def test_a_parent_that_has_changed_meanwhile(finished, tmp_path, lossrag, monkeypatch):
    parent = shutil.copytree(finished, tmp_path / "parent")
    line = [
        "train",
        *SMALL,
        "log.tensorboard=false",
        f"train.from={parent}",
        "run.dir=mine",
        "run.checkpoint_seconds=0",
    ]

    def interrupted(self, bar):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_end_epoch", interrupted)
        assert lossrag(*line).code == 130
    shutil.rmtree(parent)
    assert f"train.from={parent}: " in lossrag(*line).error
    other = ["train.epochs=1", "seed=5", "log.tensorboard=false", f"run.dir={parent}"]
    assert lossrag("train", *SMALL, *other).code == 0
    error = lossrag(*line).error
    assert "was trained on other data" in error
    assert "digits-metaweighting-s5" in error


def test_it_is_part_of_what_a_run_is():
    alone = load_config(["experiment=digits"])[1]
    born = load_config(["experiment=digits", "train.from=a"])[1]
    assert alone["train"].pop("from") is None
    assert run_id(alone) == run_id(load_config(["experiment=digits"])[1]), "as before there was such a key"
    assert run_id(born) != run_id(alone)


def test_what_does_not_fit_is_refused(finished, tmp_path, lossrag):
    def error(*options):
        told = lossrag("train", "experiment=digits", *options).error
        assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir()), "nothing is left"
        return told

    assert "model.hidden: [64] -> [7]" in error(f"train.from={finished}", "model.hidden=[7]")
    assert "model.sharing: hard -> none" in error(f"train.from={finished}", "model.sharing=none")
    assert f"train.from={tmp_path}/gone: " in error(f"train.from={tmp_path}/gone")
    half = shutil.copytree(finished, tmp_path / "half")
    (half / "summary.json").unlink()
    assert "is not finished" in error(f"train.from={half}")
    damaged = shutil.copytree(finished, tmp_path / "damaged")
    (damaged / "checkpoints" / "best.safetensors").write_bytes(b"no")
    assert "is damaged" in error(f"train.from={damaged}")
    people(tmp_path / "people.csv", 120, 0)
    table = ["experiment=table", "tasks.data=people.csv", "tasks.targets=[income]", "tasks.ignore=[said]"]
    told = lossrag("train", *table, f"train.from={finished}").error
    assert "input columns are not those of that run" in told
    assert "age" in told


def test_new_tasks_have_fresh_heads_and_are_told(lossrag, tmp_path):
    people(tmp_path / "people.csv", 150, 0)
    line = ["train", "experiment=table", "tasks.data=people.csv", "tasks.columns=[age,school]", "log.tensorboard=false"]
    assert lossrag(*line, "tasks.targets=[income,hours]", "train.epochs=2", "run.dir=parent").code == 0
    targets = "tasks.targets={north: {}, hours: {}, income: {positive: '<=50K'}}"
    result = lossrag(*line, targets, *STILL, "run.dir=child", "train.from=parent")
    assert result.code == 0, result
    assert "fresh heads, which it had not, or for other classes: north, income" in result.out
    before, after = (load_run(tmp_path / name).model.state_dict() for name in ("parent", "child"))
    assert torch.equal(after["encoders.0.layers.1.weight"], before["encoders.0.layers.1.weight"])
    assert torch.equal(after["heads.1.weight"], before["heads.1.weight"]), "hours"
    assert not torch.equal(after["heads.2.weight"], before["heads.0.weight"])


class Encoder(nn.Module):
    """A layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.features = 4


A, B, C, D = (Task(name, "classification", 2, ("no", "yes")) for name in "abcd")


def parent_of(model: MultiTaskModel, tasks, preprocessing=None, **settings) -> Parent:
    described = ModelDescription(
        "parent", 1, tasks, (), (), True, {"sharing": model.sharing, **settings}, "float32", (3,), (), "w"
    )
    return Parent(Path("runs/parent"), described, preprocessing, model.state_dict())


def suite_of(tasks, **parts) -> Suite:
    """Only what is read: its samples are not."""
    suite = Suite.__new__(Suite)
    plain = {"tasks": tasks, "input_shape": (3,), "preprocessing": None, **parts}
    for name, value in plain.items():
        object.__setattr__(suite, name, value)
    return suite


@pytest.mark.parametrize("sharing", ["hard", "none", "shared_private"])
def test_parameters_of_tasks_go_by_name(sharing):
    torch.manual_seed(0)
    old, new = (MultiTaskModel(Encoder, [2, 2, 2], sharing) for _ in range(2))
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    notes = warm_start(parent_of(old, (A, B, C)), new, suite_of((C, D, A)), {"sharing": sharing})
    before, after = old.state_dict(), new.state_dict()
    places = {0: 2, 1: None, 2: 0}  # here: there
    shared = {"hard": [0], "none": [], "shared_private": [0]}[sharing]
    offset = len(shared)
    expected = {f"encoders.{i}": f"encoders.{i}" for i in shared}
    for here, there in places.items():
        expected[f"heads.{here}"] = None if there is None else f"heads.{there}"
        if sharing != "hard":
            expected[f"encoders.{here + offset}"] = None if there is None else f"encoders.{there + offset}"
    for name, tensor in after.items():
        kind, number, rest = name.split(".", 2)
        source = expected[f"{kind}.{number}"]
        assert torch.equal(tensor, fresh[name] if source is None else before[f"{source}.{rest}"]), name
    assert notes[-1].endswith("for other classes: d")


def test_a_discriminator_is_of_its_tasks():
    old, new = (MultiTaskModel(Encoder, [2, 2], "shared_private", discriminated=True) for _ in range(2))
    fresh = {name: tensor.clone() for name, tensor in new.discriminator.state_dict().items()}
    warm_start(parent_of(old, (A, B)), new, suite_of((A, C)), {"sharing": "shared_private"})
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in new.discriminator.state_dict().items())
    warm_start(parent_of(old, (A, B)), new, suite_of((A, B)), {"sharing": "shared_private"})
    theirs = old.discriminator.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in new.discriminator.state_dict().items())


def test_nothing_in_common_is_refused():
    old, new = (MultiTaskModel(Encoder, [2], "none") for _ in range(2))
    with pytest.raises(ConfigError, match="none of the tasks of this run"):
        warm_start(parent_of(old, (A,)), new, suite_of((B,)), {"sharing": "none"})


def test_word_vectors_go_by_word():
    def model(words):
        return MultiTaskModel(lambda: TextCNN(torch.randn(1 + words, 5), [3], 2), [2])

    torch.manual_seed(0)
    old, new = model(3), model(2)
    fresh = new.encoders[0].embedding.weight.clone()
    theirs, own = (
        TablePreprocessing(text="t", words=words, max_tokens=9) for words in (("on", "the", "a"), ("a", "an"))
    )
    notes = warm_start(parent_of(old, (A,), theirs), new, suite_of((A,), preprocessing=own), {"sharing": "hard"})
    table = new.encoders[0].embedding.weight
    assert torch.equal(table[0], fresh[0])
    assert torch.equal(table[1], old.encoders[0].embedding.weight[3])
    assert torch.equal(table[2], fresh[2])
    assert notes[1] == "1 of 2 words are among its 3"


def test_another_pre_trained_encoder_is_refused():
    old = MultiTaskModel(Encoder, [2])
    theirs = TablePreprocessing(text="t", encoder="minilm", encoder_digest="abc")
    own = replace(theirs, encoder="other", encoder_digest="def")
    with pytest.raises(ConfigError, match=r"reads its texts with minilm .* this one with other"):
        warm_start(parent_of(old, (A,), theirs), old, suite_of((A,), preprocessing=own), {"sharing": "hard"})


def test_preprocessing_of_another_version(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "preprocessing.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        Parent.read(str(copy))
