"""Jobs and their workers: told to stop, beside files of a user's own with the names of ours, started by hand."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pytest

from lossrag.experiments.exits import Stopped
from lossrag.experiments.studies.jobs import Job, run_jobs
from lossrag.experiments.studies.launchers.local import LocalLauncher
from lossrag.experiments.studies.states import States


class Endless:
    """Stands in for the process of a run that goes on until it is told to stop; how it is asked, a test says."""

    told = 0

    def __init__(self, _line, **_options):
        self.stdin = io.BytesIO()

    def terminate(self):
        Endless.told += 1

    def wait(self, timeout):
        return 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_runs_are_told_to_stop(monkeypatch, tmp_path, number, code):
    jobs = [Job(name, (), tmp_path / name) for name in "abc"]
    monkeypatch.setattr(Endless, "told", 0)
    monkeypatch.setattr(Endless, "poll", lambda _: os.kill(os.getpid(), number), raising=False)
    monkeypatch.setattr("lossrag.experiments.studies.launchers.local.subprocess.Popen", Endless)
    with pytest.raises(Stopped, match="the same command goes on") as stopped:
        run_jobs(jobs, LocalLauncher(2), tmp_path / "logs", lambda job, summary: None, States(tmp_path))
    assert stopped.value.code == code
    assert Endless.told == 2
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"a.log", "b.log"}


@pytest.mark.slow  # test_wheel.py has a comparison and its worker beside more of them
def test_files_of_the_current_folder_are_not_imported(lossrag, tmp_path):
    for name in ("models", "tasks", "lossrag", "weighting", "statistics"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user')")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise SystemExit('a folder of the user')")
    line = ["experiment=digits", "train.epochs=1", "log.tensorboard=false", "key=seed", "values=[1]", "seeds=[1]"]
    done = lossrag("sweep", *line)
    assert done.code == 0, done
    assert "test 1, seed 1: test 0." in done.out


def test_started_by_hand(tmp_path):
    """Without a command it says so, and does not end in silence with its standard input."""
    path = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
    line = [sys.executable, "-m", "lossrag.experiments.studies.worker"]
    done = subprocess.run(
        line,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 2
    assert "started by lossrag compare" in done.stderr
