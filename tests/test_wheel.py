"""The wheel: what it installs, and the commands out of it in a working folder that is full of a user's own modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("lossrag", "tasks", "models", "weighting", "lossbank", "experiments", "pyproject.toml", "README.md", "LICENSE")
HOSTILE = (
    *("lossrag.py", "models.py", "tasks.py", "lossbank.py", "weighting/__init__.py", "experiments/__init__.py"),
    *("random.py", "statistics.py"),  # a worker with this folder on its path would end on the standard library's names
)
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]


@dataclass(frozen=True)
class Installed:
    """A folder that the wheel was installed to, and another with ``HOSTILE`` files to work in."""

    target: Path
    work: Path

    def run(self, *command: str) -> str:
        """Standard output of a command that must end with 0; the checkout is not on its path, whatever is in ours."""
        environment = {**os.environ, "PYTHONPATH": str(self.target), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def lossrag(self, *arguments: str) -> str:
        """What ``lossrag`` prints, called as a user does."""
        return self.run(str(self.target / "bin" / "lossrag"), *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """Built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / "source" / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / "source" / part)
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*build, str(folder / "source")], check=True)
    (wheel,) = folder.glob("lossrag-*.whl")
    subprocess.run(
        [*PIP, "install", "--no-deps", "--no-index", "--no-compile", "--target", str(folder / "target"), str(wheel)],
        check=True,
    )
    for name in HOSTILE:
        path = folder / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise SystemExit('the {name} of the working folder was imported')\n")
    return Installed(folder / "target", folder / "work")


def test_one_name_is_installed(installed):
    names = {path.name for path in installed.target.iterdir()}
    (info,) = {name for name in names if name.startswith("lossrag-") and name.endswith(".dist-info")}
    assert names == {"lossrag", info, "bin"}
    floors = {path.name for path in (installed.target / "lossrag").iterdir() if path.is_dir()} - {"__pycache__"}
    assert floors == {"tasks", "models", "weighting", "lossbank", "experiments"}


def test_every_file_of_a_package_is_in_it(installed):
    """Modules and the files they read: what is missing from package-data shows only in a wheel."""
    for floor in ("lossrag", "tasks", "models", "weighting", "lossbank", "experiments"):
        inside = installed.target / ("lossrag" if floor == "lossrag" else f"lossrag/{floor}")
        files = [path.relative_to(ROOT / floor) for path in (ROOT / floor).rglob("*.*") if path.is_file()]
        missing = [str(file) for file in files if "__pycache__" not in file.parts and not (inside / file).is_file()]
        assert not missing, floor


def test_modules_are_those_of_the_wheel(installed):
    probe = installed.target.parent / "probe.py"  # on the same path as the command, whose place is target/bin
    probe.write_text("import lossrag, lossrag.tasks.suites as module; print(lossrag.__file__, module.__file__)")
    paths = installed.run(sys.executable, str(probe)).split()
    assert all(Path(path).is_relative_to(installed.target) for path in paths)


@pytest.mark.slow  # a comparison beside them is the same command, and has a worker that does this run
def test_a_run_beside_a_users_own_modules(installed):
    assert "digit" in installed.lossrag("train", "experiment=digits", "train.epochs=1", "log.tensorboard=false")


@pytest.mark.parametrize(
    "command",
    [
        ("compare", "experiment=smoke", "methods=[uniform]", "seeds=[0]", "tune=false"),
        pytest.param(
            ("sweep", "experiment=digits", "key=weighting.alpha", "values=[0.1]", "seeds=[0]", "train.epochs=1"),
            marks=pytest.mark.slow,
        ),
        pytest.param(("ablate", "smoke", "rows=[fixed]", "seeds=[0]"), marks=pytest.mark.slow),
    ],
    ids=lambda command: command[0],
)
def test_workers_beside_a_users_own_modules(installed, command):
    """They are processes of their own: the folder they start in must not be on their path."""
    installed.lossrag(*command)
