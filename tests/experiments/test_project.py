"""`lossrag new`: a folder that trains, tests itself, and is never written over another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_project_trains_and_passes_its_own_tests(lossrag, tmp_path):
    done = lossrag("new", "deep/my_project")
    assert done.code == 0, done
    folder = tmp_path / "deep" / "my_project"
    names = {"README.md", "data.csv", "encoder.py", "experiment.yaml", "losses.py", "test_project.py"}
    assert {path.name for path in folder.iterdir()} == names
    assert "cd deep/my_project && lossrag train experiment=./experiment.yaml" in done.out
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    told = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert "2 passed" in told.stdout, told.stdout[-3000:]


def test_what_is_there_stays(lossrag, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "not empty" in lossrag("new", "full").error
    (tmp_path / "file").write_text("mine")
    assert "not empty" in lossrag("new", "file").error
    assert "Cannot write" in lossrag("new", "file/below").error
    assert "no such user" in lossrag("new", "~nobodyhere/x").error
    for arguments in (["a", "b"], ["--force"], ["name=x"]):
        assert "takes the folder to make" in lossrag("new", *arguments).error
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]
    (tmp_path / "empty").mkdir()
    assert lossrag("new", "empty").code == 0
