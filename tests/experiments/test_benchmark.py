"""The benchmark command: its file, its mistakes, its arithmetic. No wall-clock is asserted."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from types import SimpleNamespace

import pytest

from lossrag.experiments.benchmark.command import SUBJECTS
from lossrag.experiments.benchmark.paired import paired_ratio
from lossrag.experiments.benchmark.problems import TextOptions, metaweighting_step, uniform_step

TINY = ["batch=8", "length=12", "vectors=4", "filters=2", "words=50", "pairs=2"]


def test_step(lossrag, tmp_path):
    output = tmp_path / "out.json"
    result = lossrag("benchmark", "step", "tasks=[2]", *TINY, "shared=[[6,3,1],[4,3,2]]", "heads=3", f"output={output}")
    assert result.code == 0, result
    assert "ratio" in result.out
    assert str(output) in result.out
    rows = json.loads(output.read_text())
    assert len(rows) == 5
    for row in rows:
        assert {"subject", "case", "ratio", "spread", "unit"} <= row.keys()
        assert row["subject"] == "step"
    own, shared = rows[:3], rows[3:]
    assert [row["floor"] for row in own] == [2.0, 1.25, 1.125]
    assert [row["unit"] for row in shared] == ["x loop of T backwards"] * 2
    assert all(float(row["difference"]) < 1e-4 for row in shared)
    assert shared[0]["case"] == "T=3, shared input, width 6, 3 rows, 1 layers"


def test_trainable_vectors_and_the_default_output(lossrag, tmp_path):
    assert lossrag("benchmark", "step", "tasks=2", "trainable=true", "shared=[]", *TINY).code == 0
    assert len(json.loads((tmp_path / "benchmark.json").read_text())) == 3


def test_the_help_names_every_subject_and_option(lossrag):
    text = lossrag("benchmark", "--help").out
    assert "benchmark plot" in text
    for name, (options, _) in SUBJECTS.items():
        assert f"\n  {name} " in text
        assert all(re.search(rf"\b{option.name}=", text) for option in fields(options)), name


MISTAKES = {
    "stpe": ["did you mean 'step'"],
    "step pairz=3": ["did you mean 'pairs'"],
    "step tasts=3": ["did you mean 'tasks'"],
    "step foo": ["write key=value"],
    "step pairs=abc": ["step.pairs"],
    "step pairs=1": ["pairs", "2"],
    "step tasks=[0]": ["tasks"],
    "step tasks=[]": ["tasks"],
    "step tasks=[9] batch=8": ["batch", "9"],
    "step batch=0": ["batch"],
    "step words=1": ["words"],
    "step length=0": ["length"],
    "step threads=0": ["threads"],
    "step device=foo": ["device"],
    "step output=/nonexistent/x.json": ["output=/nonexistent/x.json"],
    "step output=.": ["output=."],
    "step shared=[[4,3]]": ["shared", "[width,rows,layers]"],
    "step shared=[[0,1,1]]": ["shared"],
    "step heads=0": ["heads"],
    "memory tasks=[9] batch=8": ["batch", "9"],
    "memory pairs=1": ["pairs"],
    "memory seconds=0": ["seconds"],
    "scaling at=70 batches=[64]": ["batches", "at=70"],
    "scaling sizes=[0]": ["sizes"],
    "scaling tasks=[]": ["tasks"],
    "devices devices=[0]": ["devices"],
    "devices rows=0": ["rows"],
    "runs pairs=1": ["pairs"],
    "runs experiments=[digit]": ["digits"],
    "runs options=[loss.polic=fixed]": ["loss.polic"],
    "scaling at=600": ["at", "batch=512"],
    "peers problems=1": ["problems", "2"],
    "peers shared=[4,3,2]": ["peers", "list"],
    "plot": ["it got no file", "lossrag benchmark plot scaling.json"],
    "plot a.json dpi=3": ["no option 'dpi'"],
    "plot a.json": ["Cannot read a.json"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(lossrag, line):
    error = lossrag("benchmark", *line.split()).error
    for part in MISTAKES[line]:
        assert part in error


def test_paired_ratio_on_a_clock_that_jumps(monkeypatch):
    """A slow spell hits both routines of a pair; the ratio does not see it."""
    now = [0.0]
    speed = iter([1, 1, 1, 1, 50, 50, 1, 1, 7, 7, 1, 1, 1, 1])
    monkeypatch.setattr("lossrag.experiments.benchmark.paired.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def routine(cost):
        def run():
            now[0] += cost * next(speed)

        return run

    result = paired_ratio(routine(3.0), routine(2.0), pairs=5, warmup=2)
    assert result.ratio == pytest.approx(1.5)
    assert result.spread == pytest.approx(0.0, abs=1e-9)
    assert result.milliseconds == pytest.approx((3000.0, 2000.0))
    assert next(speed, None) is None


def test_paired_ratio_is_the_median_of_ratios(monkeypatch):
    now = [0.0]
    costs = iter([1.0, 1.0, 4.0, 2.0, 9.0, 1.0])
    monkeypatch.setattr("lossrag.experiments.benchmark.paired.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def routine():
        now[0] += next(costs)

    result = paired_ratio(routine, routine, pairs=3, warmup=0)
    assert result.ratio == pytest.approx(2.0)
    assert result.spread == pytest.approx(8.0)


def test_routines_are_steps_of_both_methods():
    options = TextOptions(batch=8, length=12, vectors=4, filters=2, words=50)
    assert uniform_step(options, 2)().query_losses is None
    assert metaweighting_step(options, 2, 0.5)().query_losses.shape == (2,)


def test_textcnn(lossrag, tmp_path):
    output = tmp_path / "b.json"
    sizes = ["sizes=[[4,3]]", "batch=6", "length=9", "words=40", "pairs=2"]
    result = lossrag("benchmark", "textcnn", *sizes, f"output={output}")
    assert result.code == 0, result
    rows = json.loads(output.read_text())
    assert [row["precision"] for row in rows] == ["float32", "bf16"] * 2
    assert all(row["unit"] == "x dense step" for row in rows)
