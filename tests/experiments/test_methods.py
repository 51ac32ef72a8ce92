"""Every method and option from the command line to the summary, on shared input and on own inputs."""

from __future__ import annotations

import json

import pytest

from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.experiments.record.jsonl import read_points

DIGITS = {
    "uniform": ["weighting=uniform"],
    "uniform, support only": ["weighting=uniform", "train.query_for_baselines=support"],
    "single task": ["weighting=single_task", "model.sharing=none"],
    "as written": ["weighting.scale=paper", "weighting.alpha=0.5"],
    "adam": ["weighting.inner=adam"],
    "nonnegative": ["weighting.constraint=nonnegative", "weighting.alpha=5"],
    "simplex": ["weighting.constraint=simplex"],
    "shared": ["weighting.parameters=shared"],
    "paper solver": ["weighting.solver=paper", "weighting.iterations=20"],
    "bounded outer loss": ["outer.classification=one_minus_p", "outer.regression=huber", "outer.batch_size=32"],
    "refit": ["train.refit=true"],
    "sgd": ["optimizer.name=sgd", "optimizer.lr=0.1", "optimizer.momentum=0.5"],
    "adamw": ["optimizer.name=adamw", "optimizer.weight_decay=0.1"],
    "other losses": ["loss.classification=one_minus_p", "loss.regression=huber"],
    "nothing shared": ["model.sharing=none"],
    "uncertainty": [
        "weighting=uncertainty",
        "weighting.likelihood=[classification,classification,classification,regression]",
    ],
    "dwa": ["weighting=dwa", "train.epochs=3"],
    "random": ["weighting=random"],
    "random, dirichlet": ["weighting=random", "weighting.distribution=dirichlet"],
    "fixed": ["weighting=fixed", "weighting.weights=[2,1,0.5,0]"],
    "tchebycheff": ["weighting=tchebycheff"],
    "tchebycheff, smooth": [
        "weighting=tchebycheff",
        "weighting.mu=0.5",
        "weighting.preference=[1,1,1,2]",
    ],
    "bandit_mtl": ["weighting=bandit_mtl", "weighting.rho=0.01"],
    "dtp": ["weighting=dtp"],
    "dtp, as written": ["weighting=dtp", "weighting.scale=paper"],
    "gradnorm": ["weighting=gradnorm", "weighting.alpha=0.5", "weighting.lr=0.1"],
    "mgda_ub": ["weighting=mgda_ub"],
    "mgda_ub, mean": ["weighting=mgda_ub", "weighting.align=mean", "weighting.normalization=loss+"],
    "pareto_mtl": ["weighting=pareto_mtl", "weighting.preference=[1,1,1,2]", "weighting.start_steps=3"],
    "pareto_mtl, bounded": ["weighting=pareto_mtl", "weighting.others=[[1,0,0,0],[0,1,0.5,0]]"],
    "epo": ["weighting=epo", "weighting.preference=[1,3,2,2]"],
    "multi_dds": ["weighting=multi_dds"],
    "multi_dds, inner": ["weighting=multi_dds", "weighting.reward=inner", "weighting.update=sum"],
    "hypergradient descent": ["optimizer.name=sgd", "optimizer.lr=0.1", "optimizer.hypergradient_lr=1e-3"],
    "hypergradient descent, adam": ["weighting.inner=adam", "optimizer.hypergradient_lr=1e-6"],
}


@pytest.mark.parametrize("name", DIGITS)
def test_on_digits(train, name):
    directory = train("train.epochs=1", *DIGITS[name], "log.tensorboard=false")
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["task_weights"].keys() == {"digit", "parity", "loops", "centre"}
    assert summary["refit"] == ("train.refit=true" in DIGITS[name])
    points = read_points(directory / "metrics.jsonl")
    outer = any(name in directory.name for name in ("metaweighting", "multi_dds"))
    assert ("lambda/digit" in points[0]) == outer
    if outer:
        assert sum(points[0][f"lambda/{task}"] for task in summary["task_weights"]) == pytest.approx(1)


def weights(directory):
    points = read_points(directory / "metrics.jsonl")
    return [[p[tag] for tag in sorted(p) if tag.startswith("weight/")] for p in points if "weight/digit" in p]


def test_constraints_hold(train):
    # lists of rows, one per step
    assert all(min(row) >= 0 for row in weights(train("weighting.constraint=nonnegative", "weighting.alpha=50")))
    for row in weights(train("weighting.constraint=simplex", "weighting.alpha=50")):
        assert min(row) >= 0
        assert sum(row) == pytest.approx(4)


def test_weights_start_at_one_and_move(train):
    moved = weights(train())
    assert moved[0] == [1.0] * 4
    assert moved[-1] != [1.0] * 4


def test_baselines_train_on_all_data_unless_told(train):
    """Ten per cent of the training images are query images: one step more an epoch would hold them."""
    everything = train("weighting=uniform", "train.batch_size=240")
    support = train("weighting=uniform", "train.batch_size=240", "train.query_for_baselines=support")
    last = [read_points(path / "metrics.jsonl")[-1]["step"] for path in (everything, support)]
    assert last == [2 * 6, 2 * 5]


def test_the_refit_of_a_baseline_repeats_its_run(train):
    """Nothing was held out, so the same model comes out: the query split must not enter twice."""
    plain, again = train("weighting=uniform"), train("weighting=uniform", "train.refit=true")
    one, two = (json.loads((path / "summary.json").read_text()) for path in (plain, again))
    assert one["best_epoch"] == two["best_epoch"] == 2
    assert one["test_loss"] == pytest.approx(two["test_loss"])


TOY = {
    "frozen vectors": [],
    "trainable vectors": ["model.trainable_vectors=true", "optimizer.vectors_lr_factor=3"],
    "adam through trainable vectors": [
        "model.trainable_vectors=true",
        "weighting.inner=adam",
        "weighting.scale=paper",
    ],
    "uniform": ["weighting=uniform"],
    "uniform, trainable": ["weighting=uniform", "model.trainable_vectors=true"],
    "gradnorm": ["weighting=gradnorm"],
    "mgda_ub": ["weighting=mgda_ub"],
    "mgda_ub, trainable": ["weighting=mgda_ub", "weighting.align=mean", "model.trainable_vectors=true"],
    "mgda_ub, lazy": ["weighting=mgda_ub", "model.trainable_vectors=true", "optimizer.vectors=lazy"],
    "pareto_mtl": ["weighting=pareto_mtl"],
    "epo": ["weighting=epo"],
    "multi_dds": ["weighting=multi_dds", "weighting.parameters=shared"],
    "single task": ["weighting=single_task", "model.sharing=none"],
    "shared": ["weighting.parameters=shared", "weighting.constraint=simplex"],
    "one_minus_p, refit": ["outer.classification=one_minus_p", "train.refit=true"],
    "small query batch": ["outer.batch_size=3"],
    "the paper's preset": ["experiment=paper/topic", "train.epochs=1"],
}


@pytest.mark.parametrize("name", TOY)
def test_on_own_inputs(lossrag, toy, tmp_path, name):
    overrides = [*TOY[name]]
    if not any(override.startswith("experiment") for override in overrides):
        overrides += ["model.filters=4", "train.batch_size=12"]
    line = ["train", "tasks=toy", "train.epochs=1", "log.tensorboard=false", f"run.dir={tmp_path}/run", *overrides]
    result = lossrag(*line)
    assert result.code == 0, result
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"].keys() == {"two", "three"}
    assert summary["test_r2"].keys() == {"value"}


def test_only_trainable_vectors_change(lossrag, toy, tmp_path):
    from lossrag.tasks import SUITES

    suite = SUITES["toy"].load(SUITES["toy"].config())
    for trainable in (False, True):
        folder = tmp_path / str(trainable)
        overrides = ["model.filters=4", "train.epochs=1", f"model.trainable_vectors={trainable}".lower()]
        assert lossrag("train", "tasks=toy", f"run.dir={folder}", *overrides).code == 0
        tensors, _ = load_checkpoint(folder / "checkpoints" / "last.safetensors")
        (learned,) = (tensor for name, tensor in tensors.items() if name.startswith("model/") and "embedding" in name)
        assert learned.equal(suite.vectors) == (not trainable)
        assert learned[0].equal(suite.vectors[0])


@pytest.mark.parametrize(("override", "part"), [("model=mlp", "choose textcnn"), ("train.batch_size=2", "batch")])
def test_mistakes_on_own_inputs(lossrag, toy, override, part):
    assert part in lossrag("train", "tasks=toy", override).error


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["weighting=mgda_ub", "model.sharing=none"], "set model.sharing=hard"),
        (["weighting=mgda_ub", "model.sharing=shared_private"], "set model.sharing=hard"),
        (["weighting=epo", "weighting.preference=[1,2]"], "one number for each of the 4 tasks"),
        (["weighting=pareto_mtl", "weighting.others=[[1,2]]"], "one number for each of the 4 tasks"),
        (["weighting=multi_dds", "train.memory=low"], "use memory='rows'"),
        (["weighting=mgda", "model.sharing=none"], "they share none: set model.sharing=hard or shared_private"),
        (["weighting=gradnorm", "model.sharing=none"], "they share none"),
        (["weighting=torchjd/pcd", "model.sharing=none"], "they share none"),
        (["weighting=multi_dds", "weighting.parameters=shared", "model.sharing=none"], "they share none"),
        (["weighting.parameters=shared", "model.sharing=none"], "they share none"),
    ],
)
def test_methods_that_do_not_apply(lossrag, overrides, part):
    assert part in lossrag("train", "experiment=digits", *overrides).error


def test_accuracy_is_far_above_chance(lossrag, tmp_path):
    """The digits preset as it stands."""
    assert lossrag("train", "experiment=digits", f"run.dir={tmp_path}/run", "log.tensorboard=false").code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy_mean"] > 0.9
    assert summary["test_r2"]["centre"] > 0.5


def test_bf16_needs_a_machine_that_has_it(lossrag, train, monkeypatch):
    monkeypatch.setattr("lossrag.experiments.run.machine.native_bf16", lambda _: False)
    assert "use train.precision=float32" in lossrag("train", "experiment=digits", "train.precision=bf16").error
    monkeypatch.setattr("lossrag.experiments.run.machine.native_bf16", lambda _: True)
    assert (train("train.precision=bf16") / "summary.json").exists()
