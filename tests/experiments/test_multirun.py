"""`lossrag train -m` and Hydra's other flags: the same runs as single ones, found again, told in one table."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from lossrag.experiments.cli import run
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import run_id
from lossrag.experiments.record.checkpoint import load_checkpoint
from tests.experiments.conftest import unpictured

TINY = ["experiment=digits", "train.epochs=1", "train.batch_size=256", "log.tensorboard=false"]


def same_tensors(a, b):
    """True where two checkpoints hold the same numbers."""
    return a.keys() == b.keys() and all(torch.equal(a[key].nan_to_num(-7), b[key].nan_to_num(-7)) for key in a)


def table(root):
    (path,) = root.glob("multirun/*/runs.csv")
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two weightings, by a glob, by two seeds: where, and what was printed."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        unpictured(patch)
        assert run(["train", "--multirun", *TINY, "weighting=glob([unif*,gradn*])", "seed=range(0,2)"]) == 0
    return folder, out.getvalue()


def test_the_runs_are_those_of_single_commands(swept, lossrag, tmp_path):
    folder, _ = swept
    for weighting in ("uniform", "gradnorm"):
        overrides = [*TINY, f"weighting={weighting}", "seed=1"]
        name = run_id(load_config(overrides)[1])
        assert lossrag("train", *overrides).code == 0
        one, other = tmp_path / "runs" / name, folder / "runs" / name
        mine, theirs = (json.loads((path / "summary.json").read_text()) for path in (one, other))
        timeless = {"seconds", "sha256", "directory"}
        assert {key: mine[key] for key in mine if key not in timeless} == {
            key: theirs[key] for key in theirs if key not in timeless
        }
        for file in ("best", "last"):
            a, b = (load_checkpoint(path / "checkpoints" / f"{file}.safetensors")[0] for path in (one, other))
            assert same_tensors(a, b)


def test_one_table_with_a_line_for_what_differs(swept):
    folder, out = swept
    rows = table(folder / "runs")
    assert [(row["row"], row["seed"]) for row in rows] == [
        (f"weighting={weighting}", seed) for weighting in ("gradnorm", "uniform") for seed in "01"
    ]
    assert all(float(row["test"]) > 0 for row in rows)
    assert "multirun: mean test score" in out


def test_finished_runs_are_skipped_and_hydra_leaves_nothing_else(swept, lossrag, monkeypatch):
    folder, _ = swept
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/digits-*/*")}
    done = lossrag("train", "-m", *TINY, "weighting=uniform,gradnorm", "seed=0,1")
    assert done.code == 0, done
    assert done.out.count("This run is finished") == 4
    after = {path: path.stat().st_mtime_ns for path in folder.glob("runs/digits-*/*")}
    assert {path.name for path in after} - {"tensorboard"} == {path.name for path in before}
    assert after == before


def test_a_run_that_fails_is_named_and_the_others_go_on(lossrag, tmp_path):
    done = lossrag("train", "hydra.mode=MULTIRUN", *TINY, "optimizer.lr=1e30,0.001", "hydra.sweep.dir=mine")
    assert done.code == 1, done
    (line,) = [line for line in done.out.splitlines() if line.startswith("failed: ")]
    assert line.startswith("failed: optimizer.lr=1e")
    assert "not finite" in line
    rows = list(csv.DictReader((tmp_path / "mine" / "runs.csv").read_text().splitlines()))
    assert [row["run_id"] for row in rows].count("failed") == 1
    assert len(list((tmp_path / "mine").glob("digits-*/summary.json"))) == 1


def test_a_half_run_resumes(lossrag, tmp_path):
    overrides = [*TINY[:1], "train.epochs=2", *TINY[2:], "weighting=uniform", "run.checkpoint_seconds=0"]
    assert lossrag("train", *overrides).code == 0
    (folder,) = (tmp_path / "runs").glob("digits-*")
    whole = load_checkpoint(folder / "checkpoints" / "best.safetensors")[0]
    (folder / "summary.json").unlink()
    done = lossrag("train", "-m", *overrides, "seed=0")
    assert done.code == 0, done
    assert "resuming after step" in done.out
    assert same_tensors(load_checkpoint(folder / "checkpoints" / "best.safetensors")[0], whole)


REFUSED = {
    ("-m", "seed=0,1", "run.dir=x"): "all runs would share it",
    ("-m", "seed=0,1", "run.again=true"): "could not find its runs again",
    ("-m", "seed=0,1", "hydra.run.dir=x"): "Say hydra.sweep.dir=FOLDER",
    ("-m", "seed=0,1", "hydra.sweep.subdir=x"): "named by its settings",
    ("-m", "weighting=glob(zz*)"): "matches nothing",
    ("-m", "weighting=unifrom,mgda"): "did you mean 'uniform'",
    ("-m", "weighting=mgda,unifrom"): "did you mean 'uniform'",
    ("-m", "seed=0,1", "hydra/launcher=nobody"): "Available options in 'hydra/launcher': basic",
    ("-m", "seed=0,1", "hydra.sweep.dir=${nothing}"): "'nothing' not found",
    ("-m", "seed=0,1", "hydra.nothing=1"): "nothing",
    ("-m", "--cfg", "job"): "Only one of",
    ("seed=0,1",): "lossrag train -m seed=0,1",
    ("hydra/launcher=basic",): "add -m",
    ("hydra.sweep.dir=x",): "add -m",
    ("hydra.verbose=true",): "a single run is not Hydra's",
    ("--config-name=x",): "one primary configuration",
    ("-cd", "x"): "there is no such folder",
    ("-m", "-cd", "x", "seed=0,1"): "name the preset by its path",
    ("--experimental-rerun", "x.pickle"): "execute a pickle",
    ("--package", "train"): "goes with --cfg",
    ("--resolve",): "goes with --cfg",
    ("--cfg", "job", "-p", "trian"): "did you mean 'train'",
    ("--cfg=none",): "shows one of job, hydra, all",
    ("-sc", "install=bash"): "register-python-argcomplete lossrag",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_said_why_not(lossrag, arguments, tmp_path):
    result = lossrag("train", *arguments)
    assert REFUSED[arguments] in result.error
    assert result.error.count("\n") == 1
    assert not list(tmp_path.glob("*/digits-*"))


def test_single_runs_take_hydras_folder(lossrag, tmp_path):
    assert lossrag("train", *TINY, "hydra.run.dir=out/${seed}", "seed=3").code == 0
    assert (tmp_path / "out" / "3" / "summary.json").exists()


def test_the_configuration_as_hydra_shows_it(lossrag):
    part = lossrag("train", "-c", "job", "--resolve", "-p", "optimizer", "experiment=digits").out
    assert part.startswith("# @package optimizer\nname: adam\n")
    assert lossrag("train", "--cfg", "job", "-p", "seed", "seed=7").out == "7\n"
    shown = lossrag("train", "--cfg", "hydra", "experiment=digits", "seed=7", "-p", "hydra.sweep").out
    assert "dir: runs\nsubdir: digits-metaweighting-s7-" in shown
    whole = lossrag("train", "--cfg", "all", "experiment=digits").out
    assert "\nhydra:\n" in whole
    assert "\ntasks:\n" in whole


def test_what_it_is_made_of(lossrag):
    assert "experiment/digits" in lossrag("train", "--info", "defaults", "experiment=digits", "seed=3").out
    assert "BasicSweeper" in lossrag("train", "--info", "plugins").out
    assert "== Configuration groups ==" in lossrag("train", "--hydra-help").out


def by_plugin(plugin, *overrides):
    """The same two runs by a launcher plugin of Hydra in a process of its own; what they left."""
    line = [sys.executable, "-m", "lossrag", "train", "-m", *TINY, "weighting=uniform", "seed=0,1"]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), *sys.path]))
    env = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(
        [*line, f"hydra/launcher={plugin}", *overrides], env=env, capture_output=True, text=True, check=False
    )


PLUGINS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": [],
    "ray": ["+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"],
}


@pytest.mark.slow
@pytest.mark.parametrize("plugin", PLUGINS)
def test_launcher_plugins(plugin, swept, tmp_path, monkeypatch):
    pytest.importorskip(f"hydra_plugins.hydra_{plugin.removesuffix('_local')}_launcher")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    done = by_plugin(plugin, *PLUGINS[plugin])
    assert done.returncode == 0, done
    rows = [row for row in table(swept[0] / "runs") if row["row"] == "weighting=uniform"]
    assert [{**row, "row": ""} for row in table(tmp_path / "runs")] == [{**row, "row": ""} for row in rows]
    for row in rows:
        a, b = (
            load_checkpoint(root / "runs" / row["run_id"] / "checkpoints" / "best.safetensors")[0]
            for root in (swept[0], tmp_path)
        )
        assert same_tensors(a, b)
