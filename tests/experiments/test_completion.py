"""Completion in a shell: what argcomplete answers to a line, in a process of its own that loads no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lossrag.experiments.cli import COMMANDS
from lossrag.experiments.config.completion import candidates, settings

BREAKS = " \t\n\"'@><=;|&(:"
"""COMP_WORDBREAKS of a bash as it starts."""


def answers(line: str, folder: Path) -> list[str]:
    """The words that a bash gets for what is typed so far."""
    written = folder / "answer"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(written), "_ARGCOMPLETE_IFS": "\n"}
    asked |= {"_ARGCOMPLETE_COMP_WORDBREAKS": BREAKS, "_ARGCOMPLETE_SHELL": "bash"}
    script = (
        "import sys, atexit\n"
        "from lossrag.experiments import cli\n"
        "import os; end = os._exit\n"
        "os._exit = lambda code: end(9 if 'torch' in sys.modules else code)\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, **asked}, cwd=folder, check=False)
    assert done.returncode == 0
    return written.read_text().split("\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lossrag swe", ["sweep "]),
        ("lossrag train weighting=tch", ["tchebycheff "]),  # bash breaks words at =, so the key is there already
        ("lossrag train seed=1 loss.pol", ["loss.policy="]),
        ("lossrag bank vali", ["validate "]),
        ("lossrag predict data=my", ["my.csv "]),
    ],
)
def test_a_shell_is_answered_without_torch(line, expected, tmp_path):
    (tmp_path / "my.csv").touch()
    assert answers(line, tmp_path) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself(tmp_path):
    """The documented line, and what bash then offers."""
    register = Path(sys.executable).with_name("register-python-argcomplete")
    (tmp_path / "lossrag").write_text(f"#!{sys.executable}\nfrom lossrag.experiments.cli import main\nmain()\n")
    (tmp_path / "lossrag").chmod(0o755)
    script = f"""
eval "$({register} lossrag)"
COMP_WORDS=(lossrag train weighting = m) COMP_CWORD=4 COMP_LINE='lossrag train weighting=m' COMP_POINT=25 COMP_TYPE=9
COMP_WORDBREAKS=$' \\t\\n"\\'@><=;|&(:'
_python_argcomplete lossrag m =
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["metaweighting", "mgda", "mgda_ub", "multi_dds"], done.stderr


def test_candidates():
    assert candidates("train", "loss.policy=") == [
        f"loss.policy={name}" for name in ("fixed", "gradient", "random", "retrieval", "uniform")
    ]
    assert {"step", "bert", "devices"} <= {*candidates("benchmark", "")}
    assert {"list", "show", "validate", "collect"} <= {*candidates("bank", "")}
    assert "mixed" in candidates("ablate", "m")
    assert candidates("train", "optimizer.lr=") == []  # a number is the user's
    assert candidates("trian", "") == []


def test_files(tmp_path, monkeypatch):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "two").mkdir()
    monkeypatch.chdir(tmp_path)
    assert candidates("predict", "run=") == ["run=runs/"]
    assert candidates("predict", "run=runs/o") == ["run=runs/one/"]
    assert candidates("predict", f"run={tmp_path}/ru") == [f"run={tmp_path}/runs/"]
    assert candidates("predict", "run=nowhere/") == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_something_to_complete(name):
    assert settings(name)
