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

QUICK = ["experiment=digits", "train.batch_size=256", "log.tensorboard=false", "run.dir=run"]
ROOT = str(Path(__file__).parents[2])


def started(size, *arguments, folder):
    """`torchrun --nproc-per-node=SIZE lossrag ARGUMENTS`, or without torchrun for one process."""
    several = ["torch.distributed.run", "--standalone", f"--nproc-per-node={size}", "-m"] if size > 1 else []
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", *several, "lossrag", *arguments],
        cwd=folder,
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
    tensors, _ = load_checkpoint(folder / "run" / "checkpoints" / "last.safetensors")
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


def test_ranks_train_what_one_process_trains(tmp_path):
    # a composed run: looks, compositions and weights on top of losses, some of which relate rows
    arguments = ["train", *QUICK, "train.epochs=2", "loss.policy=gradient", "loss.evidence=one_step"]
    running = [started(size, *arguments, folder=tmp_path / str(size)) for size in (1, 2)]
    one, two = (finished(process) for process in running)
    assert two.count("test set, best epoch") == one.count("test set, best epoch") == 1
    assert two.count("epoch 1/2") == one.count("epoch 1/2") == 1
    assert "2 processes that share the rows of every batch" in two
    whole, found = (parameters(tmp_path / str(size)) for size in (1, 2))
    assert float((found - whole).norm() / whole.norm()) < 1e-5
    summaries = [json.loads((tmp_path / str(size) / "run" / "summary.json").read_text()) for size in (1, 2)]
    assert summaries[0]["run_id"] == summaries[1]["run_id"]
    assert summaries[0]["test_score_mean"] == pytest.approx(summaries[1]["test_score_mean"], abs=5e-3)
    points = [(tmp_path / str(size) / "run" / "metrics.jsonl").read_text().splitlines() for size in (1, 2)]
    assert len(points[0]) == len(points[1])
    for first, second in zip(*(map(json.loads, lines) for lines in points), strict=True):
        assert first.keys() == second.keys()
        for tag in (tag for tag in first if tag.startswith(("loss/", "accuracy/", "score/"))):
            assert first[tag] == pytest.approx(second[tag], rel=1e-3, abs=1e-3), tag


def test_a_killed_rank_ends_all_and_other_numbers_of_ranks_go_on(tmp_path):
    arguments = ["train", *QUICK, "train.epochs=12", "weighting=metaweighting", "run.checkpoint_seconds=0"]
    whole = started(1, *arguments, folder=tmp_path / "whole")
    broken = started(2, *arguments, folder=tmp_path / "broken")
    last = tmp_path / "broken" / "run" / "checkpoints" / "last.safetensors"
    wait_for(last.exists, broken)
    other = rank_of(broken, 1)
    os.kill(other, signal.SIGKILL)
    killed = time.monotonic()
    out = finished(broken, 1)
    assert time.monotonic() - killed < 10
    assert "lost the others" in out or "SIGTERM" in out
    _, meta = load_checkpoint(last)
    assert meta["epoch"] < 12

    on = started(3, *arguments, folder=tmp_path / "broken")
    out = finished(on)
    assert "resuming after step" in out
    finished(whole)
    expected, found = parameters(tmp_path / "whole"), parameters(tmp_path / "broken")
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.slow
def test_a_terminated_run_goes_on_alone(tmp_path):
    arguments = ["train", *QUICK, "train.epochs=12", "run.checkpoint_seconds=0", "weighting=gradnorm"]
    running = started(2, *arguments, folder=tmp_path)
    wait_for((tmp_path / "run" / "checkpoints" / "last.safetensors").exists, running)
    os.kill(rank_of(running, 1), signal.SIGTERM)  # one hears of it alone: all end after the same step
    out, _ = running.communicate(timeout=60)
    assert "Stopped by SIGTERM after step" in out
    assert "resuming after step" in finished(started(1, *arguments, folder=tmp_path))


def test_what_ranks_do_not_do(lossrag, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "torchrun starts lossrag train, not lossrag compare" in lossrag("compare", "experiment=digits").error
