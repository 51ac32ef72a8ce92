"""Presets with the settings of the paper: a run says so, and nothing stands in for the vectors without a word."""

from __future__ import annotations

import pytest

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.groups import experiment_names
from lossrag.experiments.run.paper import DURATION, paper_notes
from lossrag.tasks import SUITES, SuiteEntry


def test_every_preset_of_the_paper_has_a_duration():
    assert {*DURATION} == {name for name in experiment_names() if name.startswith("paper/")}


@pytest.mark.parametrize("name", ["paper/topic", "paper/sentiment"])
def test_the_vectors_are_those_of_the_paper_or_none(name):
    _, settings = load_config([f"experiment={name}"])
    assert (settings["tasks"]["vectors"], settings["tasks"]["dim"]) == ("glove", 300)


def test_notes():
    (note,) = paper_notes(load_config(["experiment=paper/topic", "seed=3", "log.every_steps=1"])[1])
    assert note == "paper/topic: the settings of the paper. Its 3000 epochs: 2.5 days on one CPU core."
    _, changed = paper_notes(load_config(["experiment=paper/topic", "tasks.vectors=random", "train.epochs=2"])[1])
    assert changed.startswith("another experiment than the paper's: ")
    assert "tasks.vectors: glove -> random" in changed
    assert "train.epochs: 3000 -> 2" in changed
    assert paper_notes(load_config(["experiment=digits"])[1]) == []


def test_a_run_begins_with_them(lossrag, toy_entry, monkeypatch, tmp_path):
    config = SUITES["newsgroups"].config
    monkeypatch.setitem(
        SUITES._entries, "newsgroups", SuiteEntry(config, lambda options: toy_entry.load(toy_entry.config()))
    )
    short = ["model.filters=2", "train.epochs=1", "log.tensorboard=false", f"run.dir={tmp_path}/run"]
    result = lossrag("train", "experiment=paper/topic", *short)
    assert result.code == 0, result
    assert "  paper/topic: the settings of the paper." in result.out
    assert "another experiment than the paper's: model.filters: 100 -> 2; train.epochs: 3000 -> 1" in result.out
