"""docs/methods.md: its tables of options are those of the methods. Its commands: tests/docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lossrag.experiments.config.groups import defaults_of

PAGE = (Path(__file__).parent.parent.parent / "docs" / "methods.md").read_text()
READING_LOSSES = ("uncertainty", "dwa", "random", "fixed", "tchebycheff", "bandit_mtl", "dtp")
READING_GRADIENTS = ("mgda", "mgda_ub", "gradnorm", "pareto_mtl", "epo", "multi_dds")


def section(name):
    return re.search(rf"^### {name}\n(.*?)(?=^##)", PAGE, flags=re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize("name", READING_LOSSES + READING_GRADIENTS)
def test_every_option_has_a_row(name):
    text = section(name)
    assert f"weighting={name}" in text
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) == defaults_of("weighting", name).keys() - {
        "name"
    }
