"""Launchers: what every engine is asked, nodes that are lost, jobs that are preempted, drivers that die."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from lossrag.experiments.exits import Stopped
from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.experiments.studies import jobs as jobs_module
from lossrag.experiments.studies.jobs import ATTEMPTS, run_tasks
from lossrag.experiments.studies.launchers.base import Standing, Task
from lossrag.experiments.studies.launchers.remote import RemoteWorker, read_standing, standing_path
from lossrag.experiments.studies.states import States
from lossrag.experiments.studies.study import Study
from tests.experiments.test_multirun import same_tensors

PLAN = """
experiments: [digits]
seeds: [0, 1]
overrides: [train.epochs=1, train.batch_size=256, log.tensorboard=false]
methods: {uniform: , gradnorm: }
"""
TABLES = ("compare.json", "runs.csv", "tuning.csv", "table.md", "table.tex")


class Scripted:
    """An engine whose tasks go through these standings, one a submission."""

    slots, requeues = 1, True

    def __init__(self, *standings):
        self.standings, self.submitted, self.cancelled = list(standings), [], []

    def submit(self, task):
        self.submitted.append(task.name)
        return [Standing("waiting"), Standing("running", "ant"), self.standings.pop(0)]

    def poll(self, handle):
        return handle.pop(0)

    def cancel(self, handles):
        self.cancelled += handles


@pytest.fixture
def task(tmp_path):
    return Task("one", ("train",), tmp_path / "logs" / "one.log", tmp_path / "one")


def states(folder):
    return [tuple(row.values()) for row in csv.DictReader((folder / "states.csv").read_text().splitlines())]


LOST = Standing("lost", "ant", why="the node is gone")


@pytest.mark.parametrize("first", [LOST, Standing("ended", "ant", 143), Standing("ended", "ant", 130)])
def test_lost_or_preempted_runs_are_submitted_again(task, tmp_path, first):
    engine = Scripted(first, Standing("ended", "bee", 0))
    assert list(run_tasks([task], engine, States(tmp_path))) == [(task, Standing("ended", "bee", 0))]
    assert engine.submitted == ["one", "one"]


def test_not_for_ever(task, tmp_path):
    engine = Scripted(*[LOST] * 10)
    assert list(run_tasks([task], engine, States(tmp_path))) == [(task, LOST)]
    assert len(engine.submitted) == ATTEMPTS + 1


def test_a_mistake_is_not_repeated(task, tmp_path):
    engine = Scripted(Standing("ended", "ant", 2))
    assert list(run_tasks([task], engine, States(tmp_path))) == [(task, Standing("ended", "ant", 2))]


def test_a_driver_that_is_stopped_cancels_what_runs(task, tmp_path, monkeypatch):
    engine = Scripted(Standing("ended", "ant", 0))

    def interrupted(_):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(jobs_module.time, "sleep", interrupted)
    with pytest.raises(Stopped):
        list(run_tasks([task], engine, States(tmp_path)))
    assert len(engine.cancelled) == 1
    assert states(tmp_path) == [("one", "waiting", "", "")]


def test_the_file_of_a_worker_is_data(task):
    path = standing_path(task)
    path.parent.mkdir()
    for content in ("", "[]", "{}", '{"where": 1, "code": 0}', '{"where": "a", "code": "0"}', "x" * 100):
        path.write_text(content)
        assert read_standing(task) is None
    path.write_text('{"where": "ant", "code": null}')
    assert read_standing(task) == Standing("running", "ant")


def test_a_remote_worker_runs_a_command_line(tmp_path):
    command = ("train", "experiment=digits", "no.such.key=1")
    task = Task("bad", command, tmp_path / "bad.log", tmp_path / "bad")
    assert RemoteWorker(task, os.getcwd())("node 7") == 2
    told = read_standing(task)
    assert told.code == 2
    assert told.where.endswith(" node 7")
    assert "error: Unknown key 'no.such.key'" in task.log.read_text()


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(PLAN)
    return path


def compare(lossrag, plan, root, *options):
    done = lossrag("compare", f"experiment={plan}", f"root={root}", *options)
    assert done.code == 0, done
    return {name: (root / "tiny" / name).read_text() for name in TABLES}


def test_a_plan_that_is_edited_while_it_runs(lossrag, plan, runs_here, tmp_path, monkeypatch):
    run = Study.run
    monkeypatch.setattr(Study, "run", lambda *given: (plan.write_text(PLAN + "# other\n"), run(*given))[1])
    with runs_here():
        done = lossrag("compare", f"experiment={plan}", f"root={tmp_path}/runs", "methods=[uniform]", "seeds=[0]")
    assert done.code == 0, done
    assert "tiny.yaml has changed since: these are the results of the plan as it was" in " ".join(done.out.split())
    assert states(tmp_path / "runs" / "tiny" / "logs")[0][:2] == ("digits-uniform-s0", "finished")


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_what_would_be_submitted(lossrag, plan, command, tmp_path):
    pytest.importorskip("submitit")
    given = {"compare": [f"experiment={plan}"], "sweep": ["key=seed", "values=[1]", "seeds=[1]", "experiment=digits"]}
    options = ["launcher.dry_run=true", "launcher.gpus=1", "launcher.memory=4", "launcher.sbatch.partition=big"]
    done = lossrag(command, *given[command], "root=there", "launcher=submitit", *options, "launcher.cores=3")
    assert done.code == 0, done
    for line in ("cpus-per-task=3", "gpus-per-node=1", "mem=4096MB", "partition=big", "signal=USR2@90", "time=1440"):
        assert f"#SBATCH --{line}\n" in done.out
    assert "srun " in done.out
    assert "PYTHONSAFEPATH=1" in done.out
    assert not list(Path("there").rglob("summary.json"))


MISTAKES = {
    ("launcher=slurm",): "Unknown launcher 'slurm'",
    ("launcher=rya",): "did you mean 'ray'",
    ("launcher.cluster=lsf",): "slurm or local",
    ("launcher.cores=0",): "at least 1",
    ("launcher.memory=-1",): "above 0",
    ("launcher.nodes=3",): "nodes",
}


@pytest.mark.parametrize("options", MISTAKES, ids=" ".join)
def test_mistakes(lossrag, plan, options):
    assert MISTAKES[options] in lossrag("compare", f"experiment={plan}", *options).error


@pytest.mark.parametrize("name", ["submitit", "ray"])
def test_without_the_package(lossrag, plan, name, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    error = lossrag("compare", f"experiment={plan}", f"launcher={name}").error
    assert f"launcher={name} needs {name}" in error
    assert f"[{name}]'" in error


def test_without_slurm(lossrag, plan):
    pytest.importorskip("submitit")
    if shutil.which("srun"):
        pytest.skip("there is one")
    assert "launcher.dry_run=true" in lossrag("compare", f"experiment={plan}", "launcher=submitit").error


@pytest.mark.slow
def test_submitit_on_this_machine(lossrag, plan, runs_here, tmp_path):
    pytest.importorskip("submitit")
    some = ["methods=[uniform]", "seeds=[0]"]
    with runs_here():
        expected = compare(lossrag, plan, tmp_path / "a", *some)
    assert compare(lossrag, plan, tmp_path / "b", "launcher=submitit", "launcher.cluster=local", *some) == expected


def checkpoints(root):
    found = root.glob("tiny/digits-*/checkpoints/best.safetensors")
    return {path.parents[1].name: load_checkpoint(path)[0] for path in found}


def same_runs(one, other):
    a, b = checkpoints(one), checkpoints(other)
    return bool(a) and a.keys() == b.keys() and all(same_tensors(a[name], b[name]) for name in a)


LONG = ["seeds=[0]"]


@pytest.fixture
def long_plan(plan):
    plan.write_text(PLAN.replace("train.epochs=1,", "train.epochs=100, run.checkpoint_seconds=0.5,"))
    return plan


def begun(root, at_least=1, seconds=240.0):
    """The runs that have written a checkpoint, as soon as there are so many."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = sorted(root.glob("tiny/digits-*/checkpoints/last.safetensors"))
        if len(found) >= at_least:
            return [path.parents[1].name for path in found]
        time.sleep(0.1)
    raise AssertionError("no run began")


@pytest.mark.slow
def test_submitit_requeues_what_is_preempted(lossrag, long_plan, runs_here, tmp_path):
    """The signal that Slurm sends before it takes a node away: a checkpoint, and the job goes on from there."""
    submitit = pytest.importorskip("submitit")
    with runs_here():
        expected = compare(lossrag, long_plan, tmp_path / "a", *LONG)
    taken = []

    def preempt():
        begun(tmp_path / "b")
        for path in (tmp_path / "b" / "tiny" / "logs" / "submitit").glob("*_submitted.pkl"):
            (children,) = Path(f"/proc/{path.name.partition('_')[0]}/task").glob("*/children")
            for child in children.read_text().split():
                os.kill(int(child), submitit.local.local.LocalJobEnvironment._usr_sig())
                taken.append(child)

    thread = threading.Thread(target=preempt)
    thread.start()
    options = ["launcher=submitit", "launcher.cluster=local", *LONG]
    assert compare(lossrag, long_plan, tmp_path / "b", *options) == expected
    thread.join()
    assert taken
    assert same_runs(tmp_path / "a", tmp_path / "b")
    logs = "".join(path.read_text() for path in (tmp_path / "b" / "tiny" / "logs").glob("*.log"))
    assert "Stopped by SIGTERM" in logs
    assert "resuming after step" in logs


@pytest.mark.slow
def test_ray_finishes_what_a_lost_node_left(lossrag, long_plan, runs_here, tmp_path, monkeypatch):
    """Two nodes, one is killed in the middle: the other ends with the same tables and the same bits."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with runs_here():
        expected = compare(lossrag, long_plan, tmp_path / "a", *LONG)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    small = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        lost = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        cluster.wait_for_nodes()

        def kill():
            begun(tmp_path / "b", at_least=2)
            cluster.remove_node(lost, allow_graceful=False)

        thread = threading.Thread(target=kill)
        thread.start()
        options = ["launcher=ray", f"launcher.address={cluster.address}", *LONG]
        assert compare(lossrag, long_plan, tmp_path / "b", *options) == expected
        thread.join()
    finally:
        cluster.shutdown()
    assert same_runs(tmp_path / "a", tmp_path / "b")
    rows = states(tmp_path / "b" / "tiny" / "logs")
    assert {row[1] for row in rows} == {"finished"}
    assert len({row[2] for row in rows}) == 1  # both by the one that is left


@pytest.mark.slow
def test_ray_on_this_machine_ends_with_the_same_tables(lossrag, plan, runs_here, tmp_path):
    pytest.importorskip("ray")
    with runs_here():
        expected = compare(lossrag, plan, tmp_path / "a")
    assert compare(lossrag, plan, tmp_path / "b", "launcher=ray", "processes=2") == expected
    assert "cluster has" in lossrag("compare", f"experiment={plan}", "launcher=ray", "launcher.gpus=64").error
