"""What tells a run from its preset, and so from other runs."""

from __future__ import annotations

import pytest

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.differences import preset_differences, run_label
from lossrag.experiments.config.groups import experiment_names


def label(*overrides):
    _, settings = load_config(overrides)
    return run_label(settings, preset_differences(settings))


@pytest.mark.parametrize("preset", [*experiment_names(), None])
def test_a_preset_does_not_differ_from_itself(preset):
    _, settings = load_config([f"experiment={preset}" if preset else "~experiment", "seed=3", "run.root=elsewhere"])
    assert preset_differences(settings) == {}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizer.lr=0.01", "train.epochs=20", "log.every_steps=2"], "lr=0.01"),
        (["loss.policy=retrieval"], "retrieval"),
        (["loss.policy=retrieval", "loss.k=3", "weighting.alpha=0.1"], "retrieval k=3 alpha=0.1"),
        # another method's own defaults are no differences
        (["weighting=gradnorm"], ""),
        (["weighting=gradnorm", "weighting.alpha=0.7"], "alpha=0.7"),
        (["tasks=newsgroups", "model=textcnn"], "model=textcnn"),
        (["loss.regression=huber", "outer.regression=l1"], "loss.regression=huber outer.regression=l1"),
        (["model.hidden=[32,16]"], "hidden=32,16"),
        (["loss.bank=/banks/my own.safetensors", "loss.policy=retrieval"], "retrieval bank=my_own"),
        (["loss.tasks={digit: focal_2}"], "digit=focal_2"),
    ],
)
def test_labels(overrides, expected):
    assert label("experiment=digits", *overrides) == expected


def test_long_labels_say_how_much_they_leave_out():
    many = [f"{key}={value}" for key, value in {"loss.k": 3, "loss.risk": 2.5, "train.epochs": 2}.items()]
    many += ["tasks.rho=0.25", "model.hidden=[128,128,64]", "weighting.alpha=0.125", "optimizer.weight_decay=0.001"]
    assert label("experiment=digits", *many) == "k=3 risk=2.5 weight_decay=0.001 epochs=2 rho=0.25 +2"


def test_the_preset_of_a_file_is_not_at_hand():
    _, settings = load_config(["experiment=digits", "preset=mine"])
    assert preset_differences(settings) is None
