"""Every Python example of the README and the docs runs as it stands; links lead somewhere."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from lossbank import LOSSES
from weighting import WEIGHTINGS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(page: Path) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.name)
def test_examples_run(page, monkeypatch):
    # dataclasses look their module up by name
    for registry in (LOSSES, WEIGHTINGS):  # what an example registers is gone after it
        monkeypatch.setattr(registry, "_entries", dict(registry))
    module = types.ModuleType(f"example_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(examples(page), str(page), "exec"), module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert not missing


def test_readme_examples_are_short():
    """The promise is about ten lines for one's own loop."""
    block = examples(ROOT / "README.md")
    assert len([line for line in block.splitlines() if line.strip()]) <= 16
