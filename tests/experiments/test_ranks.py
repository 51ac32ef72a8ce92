"""`torchrun lossrag train`: the same run over several processes, killed, and resumed on another number of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lossrag.experiments.record.checkpoint import load_checkpoint

QUICK = ["experiment=digits", "train.batch_size=256", "log.tensorboard=false"]
ROOT = str(Path(__file__).parents[2])


def started(size, *arguments):
    """`torchrun --nproc-per-node=SIZE lossrag ARGUMENTS`."""
    several = ["torch.distributed.run", "--standalone", f"--nproc-per-node={size}", "-m"]
    return subprocess.Popen(
        [sys.executable, "-m", *several, "lossrag", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process, code=0):
    out, _ = process.communicate(timeout=120)
    assert process.returncode == code, out
    return out


def parameters(folder):
    tensors, _ = load_checkpoint(folder / "checkpoints" / "last.safetensors")
    names = sorted(name for name in tensors if name.startswith(("model/", "step/weights", "composition/shares")))
    return torch.cat([tensors[name].double().flatten() for name in names])


def rank_of(process, rank):
    """The process id of a rank that torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    return None


def wait_for(seen, process, seconds=60):
    until = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < until, "it did not come"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def test_ranks_train_what_one_process_trains(tmp_path, lossrag):
    # a composed run: looks, compositions and weights on top of losses, some of which relate rows
    arguments = ["train", *QUICK, "train.epochs=2", "loss.policy=gradient", "loss.evidence=one_step"]
    running = started(2, *arguments, "run.dir=two")
    one, two = lossrag(*arguments, "run.dir=one").out, finished(running)
    assert two.count("test set, best epoch") == one.count("test set, best epoch") == 1
    assert two.count("epoch 1/2") == one.count("epoch 1/2") == 1
    assert "2 processes that share the rows of every batch" in two
    folders = [tmp_path / "one", tmp_path / "two"]
    whole, found = map(parameters, folders)
    assert float((found - whole).norm() / whole.norm()) < 1e-5
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert summaries[0]["run_id"] == summaries[1]["run_id"]
    assert summaries[0]["test_score_mean"] == pytest.approx(summaries[1]["test_score_mean"], abs=5e-3)
    points = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in folders]
    for first, second in zip(*points, strict=True):
        assert first.keys() == second.keys()
        for tag in (tag for tag in first if "loss/" in tag or "accuracy/" in tag):
            assert first[tag] == pytest.approx(second[tag], rel=1e-3, abs=1e-3), tag


def test_a_killed_rank_ends_all_and_one_process_goes_on(tmp_path, lossrag):
    arguments = ["train", *QUICK, "train.epochs=12", "weighting=metaweighting", "run.checkpoint_seconds=0"]
    broken = started(2, *arguments, "run.dir=broken")
    last = tmp_path / "broken" / "checkpoints" / "last.safetensors"
    wait_for(last.exists, broken)
    os.kill(rank_of(broken, 1), signal.SIGKILL)
    killed = time.monotonic()
    out = finished(broken, 1)
    assert time.monotonic() - killed < 10
    assert "lost the others" in out or "SIGTERM" in out
    _, meta = load_checkpoint(last)
    assert meta["epoch"] < 12
    assert "resuming after step" in lossrag(*arguments, "run.dir=broken").out
    assert lossrag(*arguments, "run.dir=whole").code == 0
    expected, found = parameters(tmp_path / "whole"), parameters(tmp_path / "broken")
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.slow
def test_a_terminated_run_goes_on_with_another_number(tmp_path, lossrag):
    arguments = ["train", *QUICK, "train.epochs=12", "run.checkpoint_seconds=0", "weighting=gradnorm"]
    running = started(2, *arguments, "run.dir=broken")
    wait_for((tmp_path / "broken" / "checkpoints" / "last.safetensors").exists, running)
    os.kill(rank_of(running, 1), signal.SIGTERM)  # one hears of it alone: all end after the same step
    out, _ = running.communicate(timeout=60)
    assert "Stopped by SIGTERM after step" in out
    assert "resuming after step" in finished(started(3, *arguments, "run.dir=broken"))
    assert lossrag(*arguments, "run.dir=whole").code == 0
    expected, found = parameters(tmp_path / "whole"), parameters(tmp_path / "broken")
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_what_ranks_do_not_do(lossrag, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "torchrun starts lossrag train, not lossrag compare" in lossrag("compare", "experiment=digits").error
