"""Weights of the methods that read losses, in whole runs."""

from __future__ import annotations

import pytest

from lossrag.experiments.record.jsonl import read_points

RUN = ["train", "experiment=digits", "train.epochs=4", "train.batch_size=512", "log.every_steps=1"]
QUICK = ["log.tensorboard=false"]
METHODS = {
    "uncertainty": [],
    "dwa": [],
    "random": [],
    "fixed": ["weighting.weights=[2,1,0.5,0]"],
    "tchebycheff": ["weighting.mu=0.5"],
    "bandit_mtl": ["weighting.rho=0.05"],
    "dtp": [],
}


def weights(directory):
    """Lists of rows, one per step; the tasks in the order of the suite."""
    tasks = ("digit", "parity", "loops", "centre")
    points = read_points(directory / "metrics.jsonl")
    return [[p[f"weight/{task}"] for task in tasks] for p in points if "weight/digit" in p]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, sessions):
    """name -> directory of its run."""
    root = tmp_path_factory.mktemp("runs")
    lines = [[*RUN, *QUICK, f"weighting={name}", *METHODS[name], f"run.dir={root}/{name}"] for name in METHODS]
    assert sessions([{"arguments": line} for line in lines]) == [0] * len(lines)
    return {path.name: path for path in root.iterdir()}


@pytest.mark.parametrize("name", METHODS)
def test_weights(runs, name):
    rows = weights(runs[name])
    assert all(min(row) >= 0 for row in rows)
    if name not in ("uncertainty", "fixed"):
        assert [sum(row) for row in rows] == pytest.approx([4] * len(rows))
    assert (rows[0] != rows[-1]) == (name != "fixed")


def test_fixed_weights_belong_to_the_tasks_in_their_order(runs):
    assert weights(runs["fixed"])[0] == [2, 1, 0.5, 0]


def test_dwa_starts_with_the_third_epoch(runs):
    rows = weights(runs["dwa"])
    half = len(rows) // 2
    assert rows[:half] == [[1.0] * 4] * half
    assert rows[half] == rows[half + 1] != [1.0] * 4


def test_random_weights_follow_the_seed_of_the_run(runs, lossrag, tmp_path):
    line = [*RUN, *QUICK, "weighting=random", f"run.dir={tmp_path}/run", "train.epochs=1"]
    assert lossrag(*line, "seed=1").code == 0
    assert weights(tmp_path / "run")[0] != weights(runs["random"])[0]


@pytest.mark.parametrize("given", ["[]", "[1,2]"])
def test_a_wrong_number_of_fixed_weights_is_refused_before_training(lossrag, tmp_path, given):
    line = [*RUN, "weighting=fixed", f"weighting.weights={given}", f"run.dir={tmp_path}/run"]
    assert "weights must hold one number for each of the 4 tasks" in lossrag(*line).error
    assert not list(tmp_path.rglob("*.safetensors"))


def test_methods_on_own_inputs_with_a_regression(lossrag, toy, tmp_path):
    """R^2 is a score as well: below 0 it counts as 0."""
    line = ["train", "tasks=toy", "train.epochs=2", "model.filters=4", "train.batch_size=12", *QUICK]
    assert lossrag(*line, "weighting=dtp", f"run.dir={tmp_path}/run", "log.every_steps=1").code == 0
    points = [p for p in read_points(tmp_path / "run" / "metrics.jsonl") if "weight/value" in p]
    assert any(p["support/r2/value"] < 0 for p in points)
    assert all(0 < p["weight/value"] < 3 for p in points)
