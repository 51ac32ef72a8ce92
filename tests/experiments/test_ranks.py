"""`torchrun lossrag train`: the same run over several processes, killed, and resumed on another number of them."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lossrag import ConfigError
from lossrag.experiments.cli import run
from lossrag.experiments.config.compose import build_config, load_config
from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.experiments.run.build import build_problem, build_suite
from lossrag.experiments.run.ranks import check_ranks, share_of, undivided
from tests.experiments.conftest import unpictured
from tests.experiments.tables import SMALL, people, write
from tests.processes import forked

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


def command(rank, size, arguments, environment, port):
    """`lossrag ARGUMENTS` as torchrun starts it in each of its processes: its exit code, and what it printed."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({**environment, **{name: str(value) for name, value in places.items()}})
    unpictured(pytest.MonkeyPatch())
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = run(list(arguments))
    return code, out.getvalue()


def parameters(folder):
    tensors, _ = load_checkpoint(folder / "checkpoints" / "last.safetensors")
    names = sorted(name for name in tensors if name.startswith(("model/", "step/weights", "composition/shares")))
    return torch.cat([tensors[name].double().flatten() for name in names])


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


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
    ranks = forked(command, 2, [*arguments, "run.dir=two"], dict(os.environ), free_port(), seconds=120)
    assert [answer[0] for answer in ranks] == [0, 0], ranks
    one, two = lossrag(*arguments, "run.dir=one").out, "".join(said for _, said in ranks)
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


def test_texts_are_read_alike_by_ranks_and_one_task_at_a_time(tmp_path, lossrag):
    write(tmp_path / "mine.csv", people(tmp_path / "vectors", 120, 0))
    texts = ["tasks.data=mine.csv", "tasks.targets=[income,hours]", "tasks.text=said", "tasks.vectors=random"]
    model = ["tasks.dim=8", "model=textcnn", "model.filters=4", "model.dropout=0"]
    arguments = ["train", "experiment=table", *SMALL, *texts, *model]
    ranks = forked(command, 2, [*arguments, "run.dir=two"], dict(os.environ), free_port(), seconds=120)
    assert [answer[0] for answer in ranks] == [0, 0], ranks
    assert lossrag(*arguments, "run.dir=one").code == lossrag(*arguments, "train.memory=low", "run.dir=low").code == 0
    one, two, low = (parameters(tmp_path / name) for name in ("one", "two", "low"))
    assert float((two - one).norm() / one.norm()) < 1e-6
    assert float((low - one).norm() / one.norm()) < 1e-6


def test_a_killed_rank_ends_all_and_one_process_goes_on(tmp_path, lossrag):
    arguments = ["train", *QUICK, "train.epochs=8", "weighting=metaweighting"]
    broken = started(2, *arguments, "run.dir=broken", "run.checkpoint_seconds=0")
    last = tmp_path / "broken" / "checkpoints" / "last.safetensors"
    wait_for(last.exists, broken)
    os.kill(rank_of(broken, 1), signal.SIGKILL)
    killed = time.monotonic()
    out = finished(broken, 1)
    assert time.monotonic() - killed < 10
    assert "lost the others" in out or "SIGTERM" in out
    _, meta = load_checkpoint(last)
    assert meta["epoch"] < 8
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


REFUSED = {
    "train.memory=low": "train.memory=low",
    "tasks=sentiment model=textcnn model.trainable_vectors=true optimizer.vectors=lazy": "optimizer.vectors=lazy",
    "tasks=sentiment model=textcnn model.sharing=shared_private model.adversarial=0.05": "model.adversarial",
    "weighting=mgda_ub": "weighting=mgda_ub, which compares gradients at the features",
}


@pytest.mark.parametrize("option", REFUSED)
def test_runs_that_ranks_do_not_train(option):
    config = build_config(load_config(["experiment=digits", *option.split()])[1])
    check_ranks(config, None)
    with pytest.raises(ConfigError, match=REFUSED[option]):
        check_ranks(config, SimpleNamespace(size=2))


def test_shares_of_a_batch(tmp_path):
    config = build_config(load_config(["experiment=digits", "outer.average=class"])[1])
    problem = build_problem(config, build_suite(config), torch.device("cpu"))
    index = [torch.arange(5)] * 4
    group = SimpleNamespace(size=2, rank=1)
    assert share_of(None, problem, "support", index, ()).index == tuple(index)
    part = share_of(group, problem, "support", index, undivided(problem, problem.inner, False, False))
    assert [rows.tolist() for rows in part.index] == [[3, 4]] * 4
    assert part.rows == (2.0,) * 4
    for whole in (undivided(problem, problem.outer, True, False), undivided(problem, problem.inner, False, True)):
        assert any(whole)  # told by class, or a regression whose score is read: all rows of the one input
        assert share_of(group, problem, "query", index, whole).rows == (5.0,) * 4
    assert share_of(group, problem, "support", [rows[:1] for rows in index], [False] * 4).rows == (1.0,) * 4


def test_what_ranks_do_not_do(lossrag, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "torchrun starts lossrag train, not lossrag compare" in lossrag("compare", "experiment=digits").error
