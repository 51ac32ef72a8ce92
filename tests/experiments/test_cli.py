"""The command line: help, exit codes, one message per mistake, and what a finished run leaves."""

from __future__ import annotations

import json
import math
import signal

import pytest
from matplotlib.image import imread

from lossrag import __version__
from lossrag.experiments.cli import main
from lossrag.experiments.config.compose import load_config

TASKS = {"digit", "parity", "loops", "centre"}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_main_help(lossrag, arguments):
    result = lossrag(*arguments)
    assert result.code == 0
    assert "lossrag train" in result.out
    assert result.err == ""


@pytest.mark.parametrize("arguments", [["train", "--help"], ["train", "experiment=digits", "-h"]])
def test_train_help_names_every_preset_and_choice(lossrag, arguments):
    result = lossrag(*arguments)
    assert result.code == 0
    for word in (
        "topic_quick",
        "paper/topic",
        "digits",
        "metaweighting",
        "uniform",
        "single_task",
        "seed",
        "train.refit",
    ):
        assert word in result.out


@pytest.mark.parametrize("arguments", [["benchmark"], ["benchmark", "--help"], ["benchmark", "step", "--help"]])
def test_benchmark_help(lossrag, arguments):
    result = lossrag(*arguments)
    assert result.code == 0
    assert "benchmark SUBJECT" in result.out
    assert "pairs=9" in result.out


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
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lossrag.experiments.train.Training._one_step", interrupt)
    result = lossrag("train", "experiment=digits")
    assert result.code == 130
    assert "the same command resumes" in result.err
    again = lossrag("train", "experiment=digits", "run.again=true")
    assert "with run.dir=runs/digits-" in again.err


def test_signal_handler_is_put_back(train):
    before = signal.getsignal(signal.SIGTERM)
    train("train.epochs=1")
    assert signal.getsignal(signal.SIGTERM) is before


# -- the installed command, in processes of its own


def test_console_command(command, tmp_path):
    arguments = ["train", "experiment=digits", "train.epochs=1", f"run.root={tmp_path}/runs"]
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "accuracy" in done.stdout
    assert "\x1b" not in done.stdout
    (summary,) = tmp_path.glob("runs/*/summary.json")
    assert json.loads(summary.read_text())["suite"] == "digits"


def test_console_command_mistake(command, tmp_path):
    done = command("train", "experiment=digits", "tasks.rho=0", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: tasks.rho")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_console_command_with_a_wrong_data_folder(command, tmp_path):
    environment = {"PATH": "/nonexistent", "LOSSRAG_DATA": str(tmp_path / "nowhere"), "HOME": str(tmp_path)}
    done = command("train", cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "LOSSRAG_DATA" in done.stderr


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
    assert len(events) == 1
    expected = {"config.yaml", "metrics.jsonl", "summary.json", "trajectories.png", ".lock"}
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
    directory = train("train.epochs=4", "optimizer.lr=0.05")
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
    assert f"{summary['test_accuracy_mean']:.4f} accuracy" in result.out
    assert "preset digits, seed 0" in result.out
    assert str(path) in result.out
