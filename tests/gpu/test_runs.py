"""Runs of the command line on a GPU: trained, killed and resumed there, and gone on with on the CPU."""

from __future__ import annotations

import json

import pytest
import torch

from lossrag.experiments.cli import run
from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.tasks import SUITES, SuiteEntry
from lossrag.weighting import MultiTaskStep
from tests.experiments.conftest import ToyConfig, load_toy

SMALL = ["experiment=digits", "train.epochs=2", "train.batch_size=256", "log.tensorboard=false"]


def train(device, path, *overrides):
    line = ["train", *SMALL, f"machine.device={device}", f"run.dir={path}", *overrides]
    assert run(line) == 0
    return json.loads((path / "summary.json").read_text())


class Stop(BaseException):
    """A run is killed."""


def killed(monkeypatch, device, path, at, *overrides):
    """Stopped before a step; checkpoints are written after every one."""
    with monkeypatch.context() as patch:
        original = MultiTaskStep.__call__

        def call(self, *arguments, **options):
            if self.count == at:
                raise Stop
            return original(self, *arguments, **options)

        patch.setattr(MultiTaskStep, "__call__", call)
        with pytest.raises(Stop):
            train(device, path, "run.checkpoint_seconds=0", *overrides)


def tensors_of(path):
    return load_checkpoint(path / "checkpoints" / "last.safetensors")[0]


WEIGHTINGS = ["metaweighting", "uniform", "gradnorm", "mgda"]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_run_ends_about_where_it_does_on_the_cpu(weighting, device, tmp_path):
    found = [train(where, tmp_path / str(where), f"weighting={weighting}") for where in (device, "cpu")]
    if device.type == "cuda":
        here, there = (tensors_of(tmp_path / name) for name in (str(device), "cpu"))
        for key, value in there.items():
            if key.startswith("model/") and value.is_floating_point():
                assert (here[key] - value).norm() <= 0.02 * value.norm() + 1e-3, key
    assert found[0]["test_accuracy_mean"] == pytest.approx(found[1]["test_accuracy_mean"], abs=0.03)


@pytest.mark.parametrize("overrides", [[], ["loss.policy=gradient"], ["optimizer.name=sgd"]], ids=str)
def test_killed_and_resumed_on_the_device(overrides, device, tmp_path, monkeypatch):
    """To the bit, where the device's own sums are always taken in one order; nearly so otherwise."""
    train(device, tmp_path / "whole", *overrides)
    killed(monkeypatch, device, tmp_path / "stopped", 3, *overrides)
    train(device, tmp_path / "stopped", *overrides)
    whole, stopped = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "stopped")
    assert whole.keys() == stopped.keys()
    for key, value in whole.items():
        torch.testing.assert_close(stopped[key], value, rtol=1e-4, atol=1e-5, equal_nan=True, msg=key)
    unequal = [k for k, v in whole.items() if not torch.equal(stopped[k].nan_to_num(9), v.nan_to_num(9))]
    print("not equal to the bit:", unequal)


def test_a_checkpoint_of_the_device_goes_on_on_the_cpu(device, tmp_path, monkeypatch):
    killed(monkeypatch, device, tmp_path / "run", 4)
    assert all(value.device.type == "cpu" for value in tensors_of(tmp_path / "run").values())
    summary = train("cpu", tmp_path / "run")
    assert summary["test_accuracy_mean"] > 0.25


def test_a_checkpoint_of_the_cpu_goes_on_on_the_device(device, tmp_path, monkeypatch):
    killed(monkeypatch, "cpu", tmp_path / "run", 4)
    assert train(device, tmp_path / "run")["test_accuracy_mean"] > 0.25


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.memory=low"],
        ["train.precision=bf16"],
        ["model.trainable_vectors=true"],
        ["model.trainable_vectors=true", "optimizer.vectors=lazy"],
        ["weighting=mgda_ub"],
        ["loss.policy=gradient"],
    ],
    ids=str,
)
def test_text_with_inputs_of_its_own_for_every_task(overrides, device, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SUITES._entries, "toy", SuiteEntry(ToyConfig, load_toy))
    if device.type == "cpu" and "train.precision=bf16" in overrides:
        pytest.skip("not every CPU computes in bfloat16")
    line = ["train", "tasks=toy", "model=textcnn", "train.epochs=2", "train.batch_size=18", "log.tensorboard=false"]
    code = run([*line, f"machine.device={device}", f"run.dir={tmp_path / 'run'}", *overrides])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test_accuracy_mean"] is not None


def test_memory_and_step_benchmarks(device, tmp_path):
    small = "tasks=[2]", "batch=16", "length=8", "vectors=8", "filters=4", "words=50", "pairs=2", f"device={device}"
    shared = ["shared=[[32,8,2]]", "heads=4"]
    assert run(["benchmark", "step", *small, *shared, f"output={tmp_path / 'step.json'}"]) == 0
    rows = json.loads((tmp_path / "step.json").read_text())
    assert all(row["ratio"] > 0 for row in rows)
