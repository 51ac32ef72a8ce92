"""Every Python example of the README, the docs and the docstrings runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
import types
from pathlib import Path

import pytest

from tests.docs.lines import PAGES, ROOT


def examples(page: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE))


@pytest.mark.filterwarnings("ignore::FutureWarning:lightning", "ignore:.*does not have many workers")
@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.name)
def test_examples_run(page, monkeypatch, registered, tmp_path):
    monkeypatch.chdir(tmp_path)
    # dataclasses look their module up by name
    module = types.ModuleType(f"example_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(examples(page), str(page), "exec"), module.__dict__)


def modules_with_examples() -> list[str]:
    """pytest's own collection names modules by path, and would import them a second time."""
    names = []
    for floor in ("lossrag", "tasks", "models", "weighting", "lossbank", "experiments"):
        for path in sorted((ROOT / floor).rglob("*.py")):
            if ">>> " in path.read_text():
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                names.append(name if floor == "lossrag" else f"lossrag.{name}")
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples_run(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_from_a_frame_to_predictions_in_ten_lines():
    block = examples(ROOT / "docs" / "python.md")
    assert len([line for line in block.splitlines() if line.strip()]) <= 10


def test_readme_examples_are_short():
    """The promise is about ten lines for one's own loop."""
    block = examples(ROOT / "README.md")
    assert len([line for line in block.splitlines() if line.strip()]) <= 16
