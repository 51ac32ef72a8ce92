"""The face: every public name, and no library until one of them is asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lossrag

LIGHT = """
import sys, lossrag
names = dir(lossrag)
heavy = {"torch", "numpy", "sklearn", "scipy", "hydra", "matplotlib", "faiss", "transformers"} & set(sys.modules)
assert not heavy, heavy
assert {"MetaWeighting", "load_suite"} <= set(names) and lossrag.__version__
from lossrag import LossRAGError
assert "torch" not in sys.modules
lossrag.MultiTaskStep
assert "torch" in sys.modules and "lossrag.experiments" not in sys.modules
"""


def test_no_library_is_imported_before_it_is_needed():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_stub_is_the_list_of_names():
    """lazy_loader reads it at run time; nothing else may be promised, and every name must be there."""
    stub = Path(lossrag.__file__).with_suffix(".pyi").read_text()
    names = re.findall(r"^from \.[\w.]+ import (\w+) as \1$", stub, flags=re.MULTILINE)
    assert len(names) == len(set(names)) == len(re.findall("^from", stub, flags=re.MULTILINE))
    assert sorted(lossrag.__all__) == sorted(names)
    assert not [name for name in names if getattr(lossrag, name, None) is None]


@pytest.mark.parametrize(
    ("module", "code", "words"),
    [
        ("lossrag", 0, f"lossrag {lossrag.__version__}"),
        ("lossrag.experiments.cli", 0, f"lossrag {lossrag.__version__}"),
        ("lossrag.experiments.train", 1, "lossrag.experiments.train is no command: python -m lossrag COMMAND"),
        ("lossrag.weighting", 1, "lossrag.weighting is no command"),
    ],
)
def test_no_module_is_run_in_silence(module, code, words):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert words in done.stdout + done.stderr
