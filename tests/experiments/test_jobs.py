"""Workers: beside files of a user's own with the names of ours, and started by hand."""

from __future__ import annotations

import os
import subprocess
import sys


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
