"""Presets and plans of one's own: by path, in a folder, and files that are none."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from lossrag import ConfigError, DataError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import run_id
from lossrag.experiments.config.yaml_file import read_yaml

MINE = """
defaults:
  - digits
  - override /weighting: uniform
train: {epochs: 3}
"""


@pytest.fixture
def presets_composed_once():
    """Not here: Hydra composes all of them."""


def test_a_preset_by_path_stands_on_one_of_the_package(tmp_path):
    (tmp_path / "mine é (2).yaml").write_text(MINE)
    config, settings = load_config(["experiment=./mine é (2).yaml", "seed=4"])
    assert (config.tasks.name, config.weighting.name, config.train.epochs) == ("digits", "uniform", 3)
    assert settings["weighting"] == {"name": "uniform"}, "nothing of the weighting of digits"
    assert settings["train"]["batch_size"] == load_config(["experiment=digits"])[1]["train"]["batch_size"]
    assert (settings["preset"], settings["seed"], settings["tasks"]["seed"]) == ("mine é (2)", 4, 4)


def test_a_choice_of_the_command_line_drops_what_the_preset_says_of_another(tmp_path):
    (tmp_path / "mine.yaml").write_text(MINE.replace("uniform", "metaweighting") + "weighting: {alpha: 3}\n")
    assert load_config(["experiment=mine.yaml"])[1]["weighting"]["alpha"] == 3
    assert load_config(["experiment=mine.yaml", "weighting=uniform"])[1]["weighting"] == {"name": "uniform"}


def test_a_printed_configuration_is_a_preset(lossrag, tmp_path):
    line = ["experiment=digits", "weighting=tchebycheff", "weighting.mu=0.25", "model.hidden=[5]"]
    (tmp_path / "printed.yaml").write_text(lossrag("train", "--cfg", *line).out)
    assert run_id(load_config(["experiment=printed.yaml"])[1]) == run_id(load_config(line)[1])


def test_a_folder_as_hydra_has_it(lossrag, tmp_path):
    own = tmp_path / "own é"
    for folder in ("experiment/deep", "weighting"):
        (own / folder).mkdir(parents=True)
    (own / "experiment" / "deep" / "mine.yaml").write_text(MINE)
    (own / "weighting" / "strong.yaml").write_text("name: metaweighting\nalpha: 7\n")
    for flag in (["--config-dir", str(own)], [f"--config-dir={own}"], ["-cd", "own é"]):
        settings = load_config([*flag, "experiment=deep/mine", "weighting=strong"])[1]
        assert settings["train"]["epochs"] == 3
        assert settings["weighting"] == {**settings["weighting"], "name": "metaweighting", "alpha": 7}
        assert "scale" in settings["weighting"]
    assert "did you mean 'deep/mine'" in lossrag("train", *flag, "experiment=deep/mina").error
    assert "takes a folder" in lossrag("train", "--config-dir").error
    assert "no such folder" in lossrag("train", "--config-dir", "nowhere").error
    (own / "experiment" / "digits.yaml").write_text(MINE)
    assert "is there already" in lossrag("train", *flag, "experiment=digits").error


def test_the_runs_of_a_sweep_know_preset_and_folder(lossrag, tmp_path, runs_here):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(MINE)
    line = [
        "experiment=mine",
        "--config-dir",
        "own",
        "train.epochs=1",
        "train.batch_size=1000",
        "log.tensorboard=false",
    ]
    with runs_here():
        assert lossrag("sweep", *line, "key=seed", "values=[3,5]", "root=~/swept").code == 0
    table = (tmp_path / "swept" / "seed" / "sweep.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in table[1:]] == [["3", "3"], ["5", "5"]]


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
HOSTILE = {
    "": "must hold names with values",
    "[1, 2]": "must hold names with values",
    "word": "must hold names with values",
    "a: [1": "cannot be read",
    "a: 1\na: 2": "cannot be read",
    "1: 2": "names are texts",
    "a: !!python/object:os.system ls": "cannot be read",
    "a: &a [*a]": "the alias *a stands before, or inside, what it stands for",
    BOMB: "more than 20,000 values",
    "x: " + "y" * (1 << 18): "more than the 262,144 bytes",
    "a: " + "[" * 5000: "cannot be read",
    "defaults: digits": "defaults is a list",
    "defaults: [nothing_of_this_name]": "cannot be composed",
    "defaults: [{override /model: mpl}]": "Unknown model 'mpl': did you mean 'mlp'?",
    "weighting: uniform": "defaults: [override /weighting: uniform]",
    "trian: {epochs: 3}": "Unknown key 'trian': did you mean 'train'?",
    "train: {epohcs: 3}": "Unknown key train.epohcs: did you mean 'epochs'?",
    "train: 3": "train",
    "library: {a: 1, b: 2}": "library",
    "library: 3": "library takes Python files",
    "loss: {classification: {REC: mae}}": "write loss.tasks={REC: mae}",
    "loss: {library: [a.py]}": "write library=[my.py]",
    "seed: word": "seed",
}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_files_that_are_no_preset_are_one_line(lossrag, tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    error = lossrag("train", "experiment=./mine.yaml", "run.dir=run").error
    assert HOSTILE[text] in error.replace('"', "'")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_no_file(lossrag, tmp_path):
    assert "is not there" in lossrag("train", "experiment=./nowhere.yaml").error
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "bytes.yaml", "The preset")
    (tmp_path / "folder.yaml").mkdir()
    assert "is a folder, no file" in lossrag("train", "experiment=folder.yaml").error
    assert "is not there" in lossrag("compare", "experiment=./nowhere.yaml").error
    assert "is not there" in lossrag("ablate", "./nowhere.yaml").error


PATHS = ["~/a", "中文/é", "lr=0.1,wd=0", "run#1", "run (2)", "a'b", "a: b", "x\\y", "2024", "null_"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_it_is(path):
    keys = ("run.dir", "run.root", "data.root")
    settings = load_config(["experiment=digits", *(f"{key}={path}" for key in keys)])[1]
    assert [settings[section][option] for section, option in (key.split(".") for key in keys)] == [path] * 3
    assert load_config([f"tasks.root=/{path}"])[1]["tasks"]["root"] == f"/{path}"


def test_a_tilde_is_the_home_folder(train, tmp_path, lossrag):
    line = ["experiment=digits", "train.epochs=1", "train.batch_size=1000", "log.tensorboard=false"]
    assert lossrag("train", *line, "run.dir=~/there").code == 0
    assert (tmp_path / "there" / "summary.json").exists()
    assert not (tmp_path / "~").exists()


TOO_MUCH = {
    "tasks.rho=" + "[" * 200 + "]" * 200: "",
    "model.hidden=[1000000000000]": "too large for the machine",
    "model.hidden=[100000000000000000000]": "model.hidden.0 must be a whole number, not a number beyond 64 bits",
    "machine.threads=9999999999999999999": "machine.threads must be a whole number or nothing, not a number beyond 64",
    "machine.threads=999999999999999999": "machine.threads must be from 1 to 1024",
    "data.root=~nobodyhere tasks=newsgroups": "no such user",
    "run.root=~nobodyhere/x": "run.root=~nobodyhere/x: there is no such user",
    "loss.classification={digit: focal_2}": "write loss.tasks={digit: focal_2}",
}


@pytest.mark.parametrize("line", TOO_MUCH, ids=lambda line: line[:40])
def test_values_that_nothing_can_hold_are_one_line(lossrag, line, tmp_path):
    words = line.split(" ") if line.startswith("data") else [line]
    error = lossrag("train", "experiment=digits", *words).error
    assert TOO_MUCH[line] in error
    assert error.count("\n") == 1
    assert len(error) < 500
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]


def test_yaml_of_settings_keeps_its_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text("\ufeffa: 1e-3\nb: ${c}\nc: {d: &x [1, 2], e: *x}\n", encoding="utf-8")
    read = read_yaml(tmp_path / "a.yaml", "The preset")
    assert read == {"a": 0.001, "b": "${c}", "c": {"d": [1, 2], "e": [1, 2]}}
    assert OmegaConf.create(read)


@pytest.mark.parametrize("error", [DataError("a.csv is too large: cut it"), OSError(27, "File too large")])
def test_only_numbers_that_no_memory_holds_are_too_large_for_the_machine(lossrag, monkeypatch, error):
    def build(self):
        raise error

    monkeypatch.setattr("lossrag.experiments.train.Training._build", build)
    said = lossrag("train", "experiment=digits", "run.dir=run").error
    assert "too large for the machine" not in said
    assert str(error) in said
