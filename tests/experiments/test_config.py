"""Composition of a configuration: what is accepted, and that every mistake gets one message with a way out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lossrag import ConfigError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.groups import GROUPS, experiment_names
from lossrag.experiments.config.identity import run_id


@pytest.fixture
def presets_composed_once():
    """Not here: Hydra composes all of them."""


@pytest.mark.parametrize("name", experiment_names())
def test_every_preset_composes(name):
    config, settings = load_config([f"experiment={name}"])
    assert settings["preset"] == name
    uniform = name == "advmtl" or name.startswith("square/")
    assert config.weighting.name == ("uniform" if uniform else "metaweighting")


def test_the_default_preset_is_the_quick_one():
    assert {**load_config([])[1], "overrides": ["experiment=topic_quick"]} == load_config(["experiment=topic_quick"])[1]


@pytest.mark.parametrize(("name", "alpha"), [("paper/topic", 0.5), ("paper/sentiment", 0.1)])
def test_the_paper_presets_have_the_numbers_of_the_paper(name, alpha):
    _, settings = load_config([f"experiment={name}"])
    assert settings["tasks"]["dim"] == 300
    assert settings["tasks"]["rho"] == 0.1
    assert settings["model"]["kernel_sizes"] == [3, 5, 7]
    assert settings["train"] | {"epochs": 3000, "batch_size": 256} == settings["train"]
    assert settings["weighting"] | {"alpha": alpha, "scale": "paper", "constraint": "none"} == settings["weighting"]
    assert settings["optimizer"] | {"name": "adam", "lr": 1e-3} == settings["optimizer"]


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in GROUPS for name in GROUPS[group]])
def test_every_choice_composes_over_a_preset(group, name):
    """What the preset says about another choice of the group does not get in the way."""
    extra = ["model.sharing=none"] if name == "single_task" else []
    preset = "advmtl" if group == "tasks" else "topic_quick" if group == "model" else "digits"
    assert load_config([f"experiment={preset}", f"{group}={name}", *extra])[1][group]["name"] == name


def test_another_choice_starts_from_its_own_defaults():
    """The preset's alpha, filters and edition belong to the preset's own choices."""
    overrides = ["experiment=topic_quick", "tasks=digits", "tasks.rho=0.3", "model=mlp", "model.hidden=[5]", "seed=4"]
    _, settings = load_config(overrides)
    assert settings["tasks"] == {"name": "digits", "corrupt": {}, "rho": 0.3, "validation": 0.1, "seed": 4}
    sharing = {"sharing": "hard", "adversarial": 0.0, "orthogonal": 0.0, "penalty": "paper"}
    assert settings["model"] == {"name": "mlp", **sharing, "hidden": [5], "dropout": 0.0}
    assert settings["weighting"]["alpha"] == 0.02


def test_another_encoder_is_shared_as_the_preset_says():
    """AdvMTL with another encoder must not become hard sharing without a word."""
    choices = ["experiment=advmtl", "model=mlp", "optimizer.vectors=dense"]
    _, settings = load_config(choices)
    sharing = {"sharing": "shared_private", "adversarial": 0.05, "orthogonal": 0.01, "penalty": "unit"}
    assert settings["model"] == {"name": "mlp", **sharing, "hidden": [64], "dropout": 0.0}
    _, settings = load_config([*choices, "model.sharing=hard", "model.adversarial=0", "model.orthogonal=0"])
    assert (settings["model"]["sharing"], settings["model"]["adversarial"]) == ("hard", 0)


def test_seed_and_data_root_reach_the_suite():
    config, _ = load_config(["seed=7", "data.root=/somewhere"])
    assert (config.seed, config.tasks.options.seed, config.tasks.options.root) == (7, 7, "/somewhere")


SPELLING = {
    "experiment=digit": "'digits'",
    "tasks=newsgroup": "'newsgroups'",
    "model=textcn": "'textcnn'",
    "weighting=metaweigthing": "'metaweighting'",
    "weigting=uniform": "'weighting'",
    "expriment=digits": "'experiment'",
    "sed=1": "'seed'",
    "epochs=3": "'train.epochs'",
    "epoch=3": "'train.epochs'",
    "batch_sise=3": "batch_size'",
    "tasks.rhoo=0.1": "'tasks.rho'",
    "tasks.edition=raww": "'raw'",
    "model.filers=3": "'model.filters'",
    "weighting.alhpa=1": "'weighting.alpha'",
    "weighting.scale=unti": "'unit'",
    "weighting.solver=papr": "'paper'",
    "weighting.constraint=simplx": "'simplex'",
    "optimizer.lrr=1": "'optimizer.lr'",
    "optimizer.name=sdg": "'sgd'",
    "loss.classification=crossentropy": "'cross_entropy'",
    "loss.clasification=cross_entropy": "'loss.classification'",
    "outer.classification=one_minus_": "'one_minus_p'",
    "outer.batchsize=1": "'outer.batch_size'",
    "train.epohcs=1": "'train.epochs'",
    "+train.epohcs=1": "'train.epochs'",
    "++train.epohcs=1": "'train.epochs'",
    "~train.epohcs": "'train.epochs'",
    "data.rot=x": "'data.root'",
    "machine.devise=cpu": "'machine.device'",
    "run.rot=x": "'run.root'",
    "log.every_step=1": "'log.every_steps'",
}


@pytest.mark.parametrize("override", SPELLING)
def test_misspelt(override):
    with pytest.raises(ConfigError, match=r"did you mean .*") as caught:
        load_config([override])
    assert SPELLING[override] in str(caught.value).partition("did you mean")[2]


IMPOSSIBLE = {
    "tasks.rho=0": "rho",
    "tasks.rho=1": "rho",
    "tasks.rho=1.5": "rho",
    "tasks.rho=-0.1": "rho",
    "tasks.rho=nan": "rho",
    "tasks.rho=abc": "tasks.rho",
    "tasks.validation=0": "validation",
    "tasks.dim=7": "dim",
    "weighting.alpha=0": "alpha",
    "weighting.alpha=-1": "alpha",
    "weighting.alpha=nan": "alpha",
    "weighting.alpha=inf": "alpha",
    "weighting.iterations=0": "iterations",
    "train.batch_size=0": "train.batch_size",
    "train.batch_size=-3": "train.batch_size",
    "train.epochs=0": "train.epochs",
    "train.epochs=abc": "train.epochs",
    "train.epochs=1.5": "train.epochs",
    "train.epochs=": "train.epochs",
    "train.epochs=null": "train.epochs",
    "train.query_for_baselines=some": "choose from: all, support",
    "outer.batch_size=0": "outer.batch_size",
    "optimizer.lr=-1": "optimizer.lr",
    "optimizer.lr=0": "optimizer.lr",
    "optimizer.lr=nan": "optimizer.lr",
    "optimizer.momentum=1": "optimizer.momentum",
    "optimizer.weight_decay=-1": "optimizer.weight_decay",
    "optimizer.weight_decay=inf": "optimizer.weight_decay",
    "optimizer.vectors_lr_factor=0": "optimizer.vectors_lr_factor",
    "loss.classification=null": "loss.classification",
    "loss.classification=squared_error": "choose from cross_entropy",
    "loss.regression=cross_entropy": "choose from squared_error",
    "outer.regression=one_minus_p": "choose from squared_error",
    "model.dropout=1": "dropout",
    "model.sharing=soft": "choose from: hard, none, shared_private",
    "model.adversarial=0.05": "set model.sharing=shared_private, or model.adversarial=0",
    "model.orthogonal=0.01": "set model.sharing=shared_private, or model.orthogonal=0",
    "model.adversarial=-1": "model.adversarial must be 0 or more",
    "model.orthogonal=nan": "model.orthogonal must be 0 or more",
    "model.adversarial=abc": "model.adversarial",
    "model.penalty=units": "did you mean 'unit'",
    "weighting=single_task": "add model.sharing=none",
    "machine.threads=0": "machine.threads",
    "run.checkpoint_seconds=-1": "run.checkpoint_seconds",
    "run.again=maybe": "run.again",
    "log.every_steps=0": "log.every_steps",
    "log.figures_every=0": "log.figures_every",
    "seed=-1": "seed must be a whole number from 0",
    "seed=1.5": "seed",
    "seed=abc": "seed",
    "seed=null": "seed",
    "seed=true": "seed",
    f"seed={2**32}": "seed",
    "run.root=${nowhere}": "nowhere",
}


@pytest.mark.parametrize("override", IMPOSSIBLE)
def test_impossible_values(override):
    with pytest.raises(ConfigError) as caught:
        load_config([override])
    assert IMPOSSIBLE[override] in str(caught.value)


LISTS = {
    ("weighting=fixed", "weighting.weights=1"): "weighting.weights must be a list of numbers, got 1: "
    "write weighting.weights=[1]",
    ("weighting=fixed", "weighting.weights=[[1,2],3]"): "got [[1,2],3]: write weighting.weights=[1,2,3]",
    ("weighting=fixed", "weighting.weights=null"): "got null: write weighting.weights=[...]",
    ("weighting=uncertainty", "weighting.likelihood=regression"): "a list of names, got regression: "
    "write weighting.likelihood=[regression]",
    ("loss.candidates=mae",): "a list of names, got mae: write loss.candidates=[mae]",
    ("model=mlp", "model.hidden=8"): "a list of whole numbers, got 8: write model.hidden=[8]",
}


@pytest.mark.parametrize("overrides", LISTS)
def test_a_list_that_is_none(overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    assert str(caught.value).endswith(LISTS[overrides])


def test_lists_and_absent_ones_are_fine():
    config, _ = load_config(["weighting=fixed", "weighting.weights=[1,2]", "loss.candidates=null"])
    assert (config.weighting.options.weights, config.loss.candidates) == ([1, 2], None)


MALFORMED = {
    "train.epochs": "write key=value",
    "weighting.alpha=[1": "write key=value",
    "a=b=c": "write key=value",
    "--epochs": "write key=value",
    "-m": "write key=value",
    "tasks.text=a=0.1": "quote a value with special characters: 'tasks.text=\"a=0.1\"'",
    "": "write key=value",
    "=3": "write key=value",
    "seed=1,2": "names several values",
    "experiment=digits,topic_quick": "names several values",
    "experiment=[digits]": "one name",
    "experiment=null": "one name",
    "weighting=null": "one name",
    "weighting={alpha: 3}": "one name",
    "train=5": "train is a section",
    "train=null": "train is a section",
    "optimizer=sgd": "optimizer is a section",
    "~train": "cannot be deleted",
    "~seed": "cannot be deleted",
    "~train.epochs": "cannot be deleted",
    "~weighting": "cannot do without weighting",
    "+train.epochs=2": "already",
    "+nothing=1": "Unknown key 'nothing'",
    "tasks@x=digits": "tasks",
    "seed.x=1": "Unknown key",
    "hydra.run.dir=x": "Unknown key",
    "weighting.name=uniform": "weighting=NAME",
}


@pytest.mark.parametrize("override", MALFORMED)
def test_malformed_overrides(override):
    with pytest.raises(ConfigError) as caught:
        load_config([override])
    assert MALFORMED[override] in str(caught.value)


@pytest.mark.parametrize("floor", ["tasks", "models", "weighting", "lossbank", "experiments"])
def test_a_library_with_an_old_name_is_told_the_new_one(tmp_path, floor, monkeypatch):
    """On the path, as beside a checkout, the floor says so itself; elsewhere there is no such module."""
    elsewhere = [entry for entry in sys.path if not (Path(entry) / "weighting").is_dir()]
    for number, path in enumerate((tmp_path, Path(__file__).parents[2])):
        # not prepended by syspath_prepend, which in the end puts back what it found: this path, not the whole one
        monkeypatch.setattr(sys, "path", [str(path), *elsewhere])
        library = tmp_path / f"mine{number}.py"
        library.write_text(f"from {floor} import register_loss\n")
        with pytest.raises(
            ConfigError, match=rf"mine{number}.py, line 1 does not run .*from lossrag\.{floor} import"
        ) as caught:
            load_config([f"library=[{library}]"])
        assert "\n" not in str(caught.value)


def test_a_library_that_ends_the_program_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ConfigError, match="line 2: it ends the program"):
        load_config([f"library=[{tmp_path}/mine.py]"])


def test_option_of_another_method():
    with pytest.raises(ConfigError, match="weighting=uniform has no options"):
        load_config(["experiment=digits", "weighting=uniform", "weighting.alpha=0.1"])


def test_without_preset():
    _, settings = load_config(["~experiment"])
    assert settings["preset"] == "custom"


@pytest.mark.parametrize("preset", experiment_names())
def test_resolved_configuration_is_plain_and_composes_again(preset):
    """What `--cfg` prints: nothing left to resolve, and the same run when given back."""
    _, settings = load_config([f"experiment={preset}"])
    again = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(settings))))
    assert again == settings
    assert run_id(again) == run_id(settings)


@pytest.mark.parametrize("sweep", ["seed=0,1", "weighting=uniform,metaweighting", "optimizer.lr=range(1,3)"])
def test_a_run_takes_one_value(sweep):
    with pytest.raises(ConfigError, match="names several values, but a run takes one"):
        load_config([sweep])
