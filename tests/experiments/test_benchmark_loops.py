"""`lossrag benchmark loops`: nothing that a loop hands over goes wrong here; torchjd does what the page says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from lossrag.experiments.benchmark import loops
from lossrag.experiments.benchmark.loop_nets import Ours, Theirs
from lossrag.experiments.benchmark.loops import CASES, WRAPPED, judged, markdown

DOCS = Path(__file__).parents[2] / "docs"
ROWS = {row["case"]: row for row in json.loads((DOCS / "results" / "benchmark_loops.json").read_text())}
QUICK = [name for name in CASES if name != WRAPPED]
LONG = ("four micro-batches", "a compiled trunk")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in QUICK])
def test_here(name):
    verdict, seen = judged(lambda: CASES[name][1](Ours))
    assert verdict == ROWS[name]["here"], seen
    assert verdict in ("right", "refused"), seen


@pytest.mark.skipif(importlib.util.find_spec("torchjd") is None, reason="torchjd is not installed")
@pytest.mark.parametrize("name", [name for name in QUICK if CASES[name][2] is None])
def test_there(name):
    verdict, seen = judged(lambda: CASES[name][1](Theirs))
    assert verdict == ROWS[name]["torchjd"], seen


@pytest.mark.slow
def test_two_processes():
    assert judged(lambda: CASES[WRAPPED][1](Ours))[0] == "refused"


def test_an_error_is_told_as_what_it_is():
    def fails(error):
        raise error

    assert judged(lambda: fails(ValueError("no such\n thing"))) == ("refused", "ValueError: no such thing")
    assert judged(lambda: fails(AttributeError("x" * 200)))[0] == "error"


def test_the_page_shows_the_file():
    assert list(ROWS) == list(CASES)
    assert markdown(list(ROWS.values())) in (DOCS / "own-loop.md").read_text()


@pytest.mark.skipif(importlib.util.find_spec("torchjd") is None, reason="torchjd is not installed")
def test_the_command(lossrag, tmp_path, monkeypatch):
    monkeypatch.setattr(loops, "CASES", {name: CASES[name] for name in (*QUICK[:2], WRAPPED)})
    result = lossrag("benchmark", "loops", "processes=false", f"output={tmp_path / 'loops.json'}")
    assert result.code == 0
    rows = json.loads((tmp_path / "loops.json").read_text())
    assert [row["case"] for row in rows] == QUICK[:2]
    assert markdown(rows) in result.out
