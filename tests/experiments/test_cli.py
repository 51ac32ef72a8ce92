"""The command line: help, exit codes, one message per mistake, and what a finished run leaves."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import astuple

import pytest
from matplotlib.image import imread

from lossrag import __version__
from lossrag.experiments.cli import COMMANDS, main
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.groups import CONF_DIR, experiment_names
from lossrag.experiments.help import COMMANDS_HELP, MAIN_HELP
from lossrag.experiments.train import Training
from lossrag.models import ENCODERS
from lossrag.tasks import SUITES
from lossrag.weighting import WEIGHTINGS

TASKS = {"digit", "parity", "loops", "centre"}
PLANS = {"ablate": "ablation", "compare": "compare"}
UNNAMED = {"topic_small", "noise", "imbalance", "clean"}
"""Presets of the studies."""


def test_main_help(lossrag):
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        assert astuple(lossrag(*arguments)) == (0, MAIN_HELP, "")
    assert all(f"\n  lossrag {name} " in MAIN_HELP for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_one_shape(lossrag, name):
    for arguments in (["--help"], ["experiment=digits", "-h"], [] if name != "train" else ["-h"]):  # it has a default
        assert astuple(lossrag(name, *arguments)) == (0, COMMANDS_HELP[name], "")
    usage, *rest = COMMANDS_HELP[name].splitlines()
    assert usage.startswith(f"lossrag {name} ")
    assert "" in rest
    assert all(len(line) <= 120 for line in rest)


def test_help_names_every_preset_choice_and_plan():
    named = {"train": [*experiment_names(), *SUITES, *ENCODERS, *WEIGHTINGS]}
    named |= {command: [path.stem for path in (CONF_DIR / folder).glob("*.yaml")] for command, folder in PLANS.items()}
    for command, names in named.items():
        missing = [name for name in names if not re.search(rf"\b{name}\b", COMMANDS_HELP[command])]
        assert [name for name in missing if name not in UNNAMED and not name.startswith("torchjd/")] == []


def test_help_and_typos_load_no_torch():
    """In a process of its own, as every test here has torch loaded."""
    lines = [["--help"], ["--version"], ["trian"], *([name, "--help"] for name in COMMANDS), ["bank"], ["benchmark"]]
    script = (
        f"import sys, lossrag; from lossrag.experiments.cli import run; codes = [run(line) for line in {lines}]; "
        "sys.exit('torch' in sys.modules or sum(codes) != 2)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


@pytest.mark.parametrize("module", ["lossrag", "lossrag.experiments.cli"])
def test_modules_are_the_command_too(module):
    line = [sys.executable, "-m", module]
    done = subprocess.run([*line, "trian"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.partition(":")[0]) == (2, "error")


def test_version(lossrag):
    assert lossrag("--version").out == f"lossrag {__version__}\n"


@pytest.mark.parametrize(("command", "meant"), [("trian", "train"), ("benchmrk", "benchmark"), ("Train", "train")])
def test_misspelt_command(lossrag, command, meant):
    assert f"did you mean '{meant}'?" in lossrag(command).error


def test_cfg_prints_what_composes_again(lossrag, tmp_path):
    printed = lossrag("train", "--cfg", "experiment=digits", "seed=3", "weighting=uniform")
    assert printed.code == 0
    _, settings = load_config(["experiment=digits", "seed=3", "weighting=uniform"])
    assert "seed: 3" in printed.out
    assert lossrag("train", "--cfg", "job", "experiment=digits", "seed=3", "weighting=uniform").out == printed.out

    from omegaconf import OmegaConf

    assert OmegaConf.to_container(OmegaConf.create(printed.out)) == settings
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("model=textcnn", "model=textcnn: TextCNN reads word tokens, but this suite has none: choose mlp"),
        ("machine.device=gpu", "machine.device"),
        ("machine.device=meta", "machine.device"),
        ("tasks.validation=0.999", "no sample of class"),
        ("model.hidden=[0]", "width >= 1"),
        ("model.hidden=[]", "width >= 1"),
        ("weighting=single_task", "model.sharing=none"),
        ("loss.classification=squared_error", "choose from"),
        ("trian.epochs=3", "did you mean"),
        ("tasks.rho=1.5", "rho"),
        ("seed=-1", "seed"),
    ],
)
def test_mistakes_on_digits(lossrag, override, part):
    assert part in lossrag("train", "experiment=digits", override).error


def test_adam_preconditioner_without_adam(lossrag):
    error = lossrag("train", "experiment=digits", "weighting.inner=adam", "optimizer.name=sgd").error
    assert "inner='sgd'" in error


def test_a_mistake_in_the_device_leaves_no_directory(lossrag, tmp_path):
    assert lossrag("train", "experiment=digits", "machine.device=cuda:99").code == 2
    assert not (tmp_path / "runs").exists()


def test_brackets_in_paths_are_no_markup(lossrag, tmp_path):
    folder = tmp_path / "[bold]a[/nothing]"
    result = lossrag("train", "experiment=digits", "train.epochs=1", f'run.dir="{folder}"')
    assert result.code == 0, result
    assert f"{folder}/summary.json" in result.out
    assert str(folder) in lossrag("train", "experiment=digits", "train.epochs=2", f'run.dir="{folder}"').error


def test_main_exits_with_the_code(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2
    capsys.readouterr()


def test_interrupt_has_its_code(lossrag, monkeypatch):
    step = Training._one_step

    def interrupted(self, index):
        step(self, index)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "_one_step", interrupted)
    result = lossrag("train", "experiment=digits")
    assert result.code == 130
    assert "Interrupted after step 1; the same command resumes from the checkpoint of that step." in result.err
    again = lossrag("train", "experiment=digits", "run.again=true")
    assert "with run.dir=runs/digits-" in again.err


def test_signal_handler_is_put_back(train):
    before = signal.getsignal(signal.SIGTERM)
    train("train.epochs=1")
    assert signal.getsignal(signal.SIGTERM) is before


# -- the installed command, in a process of its own


def test_console_command(command, tmp_path):
    arguments = ["train", "experiment=digits", "train.epochs=1", f"run.root={tmp_path}/runs"]
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "accuracy" in done.stdout
    assert "\x1b" not in done.stdout
    (summary,) = tmp_path.glob("runs/*/summary.json")
    assert json.loads(summary.read_text())["suite"] == "digits"


def test_a_wrong_data_folder(lossrag, tmp_path, monkeypatch):
    monkeypatch.setenv("LOSSRAG_DATA", str(tmp_path / "nowhere"))
    done = lossrag("train")
    assert done.out == ""
    assert done.error.count("\n") == 1
    assert "LOSSRAG_DATA" in done.error


# -- what a finished run leaves


def test_summary_contract(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["run_id"] == finished.name
    assert (summary["seed"], summary["suite"], summary["weighting"]) == (0, "digits", "metaweighting")
    assert summary["preset"] == "digits"
    assert "scikit-learn" in summary["edition"]
    assert summary["test_accuracy"].keys() == {"digit", "parity", "loops"}
    assert summary["test_r2"].keys() == {"centre"}
    assert summary["task_weights"].keys() == summary["test_loss"].keys() == TASKS
    assert all(0 <= value <= 1 for value in summary["test_accuracy"].values())
    assert summary["test_accuracy_mean"] == pytest.approx(sum(summary["test_accuracy"].values()) / 3)
    assert all(math.isfinite(value) for value in summary["task_weights"].values())
    assert summary["seconds"] > 0
    assert 1 <= summary["best_epoch"] <= 2


def test_files_of_a_run(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("tensorboard/")}
    assert len(events) == 4 + 1  # a file per task, and one for all
    expected = {"config.yaml", "metrics.jsonl", "summary.json", "trajectories.png"}
    expected |= {"model.json", "preprocessing.json", "SHA256SUMS", "test_predictions.safetensors"}
    assert names - events == expected | {"checkpoints/last.safetensors", "checkpoints/best.safetensors"}


def test_metrics_are_json_and_in_order(finished):
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    points = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [point["step"] for point in points] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10, 10]
    assert points[0]["weight/digit"] == 1.0
    assert "validation/loss/digit" in points[5]
    assert "test/loss/digit" in points[-1]
    assert len(points[5]["hypergradient/D"]) == 4


def test_trajectories_are_a_picture_with_every_task(finished):
    picture = imread(finished / "trajectories.png")
    assert picture.shape[0] > 400
    assert picture.shape[1] > 600
    colours = {tuple(pixel) for pixel in (picture[::2, ::2, :3] * 255).astype(int).reshape(-1, 3).tolist()}
    for colour in ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167)):
        assert any(max(abs(a - b) for a, b in zip(colour, seen, strict=True)) < 8 for seen in colours), colour


def test_the_best_epoch_is_chosen_by_validation(train):
    directory = train("train.epochs=4", "optimizer.lr=0.05", "train.batch_size=512", "log.tensorboard=false")
    points = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    scores = [point["validation/score_mean"] for point in points if "validation/score_mean" in point]
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["best_epoch"] == 1 + scores.index(max(scores))
    assert summary["validation_score_mean"] == max(scores)


def test_the_final_table(lossrag, tmp_path):
    result = lossrag("train", "experiment=digits", "train.epochs=1", f"run.root={tmp_path}")
    (path,) = tmp_path.glob("*/summary.json")
    summary = json.loads(path.read_text())
    for task, value in summary["test_accuracy"].items():
        assert task in result.out
        assert f"{value:.4f} accuracy" in result.out
    assert re.search(rf"mean score\W+{summary['test_score_mean']:.4f} accuracy, r2", result.out)
    assert "preset digits, seed 0" in result.out
    assert str(path) in result.out


def test_names_that_no_terminal_takes(lossrag):
    """As os.fsdecode gives them, of a file whose name is not UTF-8."""
    result = lossrag("check", "\udcff")
    assert result.code == 2
    assert "\\udcff" in result.error
