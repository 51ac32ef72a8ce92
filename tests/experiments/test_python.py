"""Runs from Python are those of the command line, and leave no trace in the program that starts them."""

from __future__ import annotations

import os
import random
import signal
import threading

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from lossrag import ConfigError, LossRAGError, load_run, train
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.values import overrides_of
from lossrag.experiments.train import Training
from lossrag.experiments.trained import api

BRIEF = {
    "experiment": "digits",
    "train": {"epochs": 1, "batch_size": 256},
    "log": {"tensorboard": False},
    "quiet": True,
}


def test_the_same_run_as_on_the_command_line(quick, tmp_path, assert_same_run, capsys):
    first = quick("train.epochs=1", "weighting.alpha=0.1")
    weighting = {"name": "metaweighting", "alpha": 0.1, "scale": "unit"}
    second = train(**BRIEF, weighting=weighting, run={"root": tmp_path / "python"})
    assert second.path == tmp_path / "python" / first.name
    assert capsys.readouterr().out.count("python") == 0, "quiet"
    assert_same_run(first, second.path)
    assert second.summary["test_accuracy"].items() <= second.scores.items()
    assert second.weights == second.summary["task_weights"]
    assert load_run(second).summary["run_id"] == second.run_id == first.name
    assert train(**BRIEF, weighting=weighting, run={"dir": first}).summary["seconds"] != second.summary["seconds"]


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        (["experiment=digits", "seed=3"], {"experiment": "digits", "seed": np.int64(3)}),
        (["weighting=uniform", "train.epochs=2"], {"weighting": "uniform", "train.epochs": 2}),
        (
            ["experiment=digits", "model.hidden=[8,4]", "train.patience=null", "log.tensorboard=false"],
            {
                "experiment": "digits",
                "model": {"hidden": (8, 4)},
                "train": {"patience": None},
                "log": {"tensorboard": False},
            },
        ),
        (
            ["weighting=mgda", "loss.tasks.REC=mae", "tasks.corrupt.REC.noise=symmetric", "tasks.corrupt.REC.rate=0.4"],
            {
                "weighting": {"name": "mgda"},
                "loss": {"tasks": {"REC": "mae"}},
                "tasks": {"corrupt": {"REC": {"noise": "symmetric", "rate": np.float64(0.4)}}},
            },
        ),
        (
            ["tasks=table", "model=mlp", "tasks.data=my.csv", "tasks.targets={pay: {where: {job: boss}}}"],
            {
                "tasks": {"name": "table", "data": "my.csv", "targets": {"pay": {"where": {"job": "boss"}}}},
                "model": "mlp",
            },
        ),
    ],
)
def test_settings_are_those_of_the_command_line(line, settings):
    (config, plain), (expected, told) = load_config(overrides_of(settings)), load_config(line)
    assert config == expected
    assert {**plain, "overrides": told["overrides"]} == told
    assert load_config(plain["overrides"])[0] == expected, "what is kept of it is a command line"


def test_texts_that_the_command_line_would_have_to_quote():
    overrides = overrides_of(
        {"tasks": {"name": "table", "data": "a, b='c'.csv", "targets": {"x y": {"where": {"it is": "{a}"}}}}}
    )
    tasks = load_config(overrides)[1]["tasks"]
    assert tasks["data"] == "a, b='c'.csv"
    assert tasks["targets"] == {"x y": {"where": {"it is": "{a}"}}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"experiment": "digts"}, "did you mean 'digits'"),
        ({"weighting": "unifrom"}, "did you mean 'uniform'"),
        ({"train": {"epoch": 2}}, r"Unknown key 'train.epoch': did you mean 'train\.epochs'"),
        ({"epochs": 2}, r"did you mean 'train\.epochs'"),
        ({"train": 2}, "train is a section"),
        ({"train": {"from": [1]}}, r"train\.from"),
        ({"seed": torch.tensor(1)}, "seed cannot be a Tensor"),
        ({"experiment": None}, "experiment takes one name"),
        ({"tasks": np.zeros(3)}, r"suite_from\(frame"),
        ({"train": {"epochs": 0}}, r"train\.epochs"),
    ],
)
def test_mistakes_are_errors_with_a_way_out(settings, said):
    with pytest.raises(ConfigError, match=said):
        train(**settings)


def test_nothing_of_the_caller_changes_the_run_or_is_changed(tmp_path, assert_same_run):
    reference = train(**BRIEF, run={"dir": tmp_path / "reference"})
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = torch.get_rng_state().clone(), random.getstate(), np.random.get_state()[1].tolist()
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            run = train(**BRIEF, run={"dir": tmp_path / "run"})
            assert torch.is_inference_mode_enabled()
            assert torch.is_autocast_enabled("cpu")
            assert torch.empty(1).device.type == "meta"
        assert torch.get_num_threads() == 2
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert signal.getsignal(signal.SIGTERM) is handler
    assert_same_run(reference.path, run.path)


def in_thread(call):
    """What a call in another thread returns or raises."""
    found = []

    def run():
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_a_second_training_beside_the_first_is_refused(tmp_path, monkeypatch, assert_same_run):
    reference = train(**BRIEF, run={"dir": tmp_path / "reference"})
    arrived, go_on = threading.Event(), threading.Event()
    end_epoch = Training._end_epoch

    def waiting(self, bar):
        arrived.set()
        assert go_on.wait(60)
        end_epoch(self, bar)

    monkeypatch.setattr(Training, "_end_epoch", waiting)
    thread, found = in_thread(lambda: train(**BRIEF, run={"dir": tmp_path / "first"}))
    assert arrived.wait(60)
    with pytest.raises(ConfigError, match="another thread of this process"):
        train(**BRIEF, run={"dir": tmp_path / "second"})
    assert not (tmp_path / "second").exists()
    go_on.set()
    thread.join()
    assert_same_run(reference.path, found[0].path)
    assert_same_run(reference.path, train(**BRIEF, run={"dir": tmp_path / "second"}).path)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_ends_it_and_the_same_call_resumes(tmp_path, monkeypatch, assert_same_run, number):
    options = {**BRIEF, "train": {"epochs": 2, "batch_size": 256}}
    reference = train(**options, run={"dir": tmp_path / "reference"})
    heard = []
    previous = signal.signal(
        signal.SIGTERM, lambda *_: heard.append((tmp_path / "run/checkpoints/last.safetensors").exists())
    )
    one_step = Training._one_step

    def signalled(self, index):
        if self.step.count == 7:
            os.kill(os.getpid(), number)
        one_step(self, index)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Training, "_one_step", signalled)
            with pytest.raises(KeyboardInterrupt, match="the same command resumes"):
                train(**options, run={"dir": tmp_path / "run"})
        assert heard == ([True] if number == signal.SIGTERM else []), "the caller's own handler, after the checkpoint"
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert_same_run(reference.path, train(**options, run={"dir": tmp_path / "run"}).path)


def test_inside_a_program_of_hydras_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert load_config(["experiment=digits"])[0].tasks.name == "digits"
        with pytest.raises(ConfigError):
            load_config(["experiment=nothing"])
        assert compose("mine").a == 1
    assert load_config(["experiment=digits"])[0].tasks.name == "digits"


def test_processes_of_torchrun_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="torchrun"):
        train(**BRIEF)


def test_a_training_within_a_training_is_refused(monkeypatch):
    """As a suite of one's own might, when it is loaded."""
    monkeypatch.setattr(api, "load_config", lambda _: train(**BRIEF))
    with pytest.raises(LossRAGError, match="under way"):
        train(**BRIEF)
