"""The arithmetic of a comparison by hand: tests, ranks, rows, the choice of settings, and what the tables show."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from lossrag.experiments.studies.plan import Run, load_plan
from lossrag.experiments.studies.report import (
    choose,
    latex,
    markdown,
    results_grid,
    rich_table,
    suite_report,
    tuning_csv,
)
from lossrag.experiments.studies.results import Results, runs_csv
from lossrag.experiments.studies.statistics import holm, mean_ranks, paired_p
from lossrag.experiments.studies.study import Progress


def summary(name, scores, validation=0.5):
    metric = dict.fromkeys("ab", "accuracy")
    return {
        "run_id": name,
        "metric": metric,
        "test_accuracy": dict(zip(metric, scores, strict=True)),
        "test_r2": {},
        "test_score_mean": sum(scores) / 2,
        "validation_score_mean": validation,
        "best_epoch": 1,
        "seconds": 2.0,
    }


def test_holm_by_hand():
    # sorted .01 .02 .03 .2: times 4, 3, 2, 1, then never below the one before
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([None, 0.02]) == [None, 0.02]
    assert holm([]) == []


def test_paired_p_by_hand():
    # mean 2, standard error 1 / sqrt(3): t = 3.4641 with 2 degrees of freedom, 1 - t / sqrt(t^2 + 2)
    assert paired_p([1.0, 2.0, 3.0]) == pytest.approx(1 - 3.4641016 / (12 + 2) ** 0.5, rel=1e-6)
    assert paired_p([0.1]) is None
    assert paired_p([0.0, 0.0]) == 1.0
    assert paired_p([0.5, 0.5]) == 0.0


def test_ranks_by_hand():
    found = mean_ranks({"a": [0.9, 0.5, float("-inf")], "b": [0.8, 0.5, 0.1], "c": [0.7, 0.6, float("-inf")]})
    assert found == pytest.approx({"a": (1 + 2.5 + 2.5) / 3, "b": (2 + 2.5 + 1) / 3, "c": (3 + 1 + 2.5) / 3})


SCORES = {
    ("uniform", 0): (0.5, 0.6),
    ("uniform", 1): (0.7, 0.8),
    ("uniform", 2): (0.6, 0.7),
    ("tchebycheff", 0): (0.6, 0.7),
    ("tchebycheff", 1): (0.7, 0.9),
    ("tchebycheff", 2): (0.6, 0.9),
    ("metaweighting", 0): (0.4, 0.5),
    ("metaweighting", 2): (0.6, 0.9),
}
"""Seed 1 of metaweighting failed."""


@pytest.fixture
def plan():
    return load_plan("compare", "smoke", seeds=[0, 1, 2])


@pytest.fixture
def report(plan):
    tried = {name: dict.fromkeys(method.settings) for name, method in plan.rows.items()}
    tried["uniform"] = {
        setting: summary("trial", (0.5, 0.5), score)
        for setting, score in zip(plan.rows["uniform"].settings, (0.7, 0.8), strict=True)
    }
    settings = {name: method.settings[-1] for name, method in plan.rows.items()}
    runs = {key: summary("run", scores) for key, scores in SCORES.items()}
    return suite_report(plan, "digits", settings, tried, Results(list(plan.rows), plan.seeds, runs))


def test_rows_by_hand(report):
    uniform, tchebycheff, meta = report["rows"]
    assert report["best"] == "tchebycheff"
    assert uniform["test"]["mean"] == pytest.approx(0.65)
    assert uniform["test"]["half"] == pytest.approx(4.30265 * 0.1 / 3**0.5, rel=1e-5)
    assert uniform["tasks"]["a"]["mean"] == pytest.approx(0.6)
    assert "minus reference" not in uniform
    assert "minus best" not in tchebycheff
    # differences .1 .05 .1: mean 1/12, standard error 1/60, t = 5 with 2 degrees of freedom
    difference = tchebycheff["minus reference"]
    assert (difference["method"], difference["pairs"]) == ("uniform", 3)
    assert difference["mean"] == pytest.approx(1 / 12)
    assert difference["half"] == pytest.approx(4.30265 / 60, rel=1e-5)
    assert difference["p"] == pytest.approx(1 - 5 / 27**0.5, rel=1e-6)
    # metaweighting pairs seeds 0 and 2: -.1 and .1, so p is 1, and the smaller of the two is doubled
    assert meta["minus reference"]["pairs"] == 2
    assert meta["minus reference"]["p"] == pytest.approx(1.0)
    assert difference["p_holm"] == pytest.approx(2 * difference["p"])
    assert (meta["failed"], meta["runs"], meta["scores"]["1"]) == (1, 3, None)
    # cells (seed, task) 0a 0b 1a 1b 2a 2b
    assert uniform["rank"] == pytest.approx((2 + 2 + 1.5 + 2 + 2 + 3) / 6)
    assert tchebycheff["rank"] == pytest.approx((1 + 1 + 1.5 + 1 + 2 + 1.5) / 6)
    assert meta["rank"] == pytest.approx((3 + 3 + 3 + 3 + 2 + 1.5) / 6)


def test_tables_show_failures_and_tuning(plan, report):
    grid = results_grid(report)
    rows = [dict(zip(grid.header, row, strict=True)) for row in grid.rows]
    assert [row["runs"] for row in rows] == ["3", "3", "failed: 1 of 3"]
    assert rows[1]["minus uniform"].startswith("+0.0833 ± 0.0717")
    text = markdown("smoke", [report], plan.seeds)
    assert "| **tchebycheff** | 0.6333 | 0.8333 | 0.7333 ± " in text
    assert "| uniform | lr=0.003 | 0.8000 | chosen |" in text
    assert "| tchebycheff | lr=0.003 mu=0 | failed |  |" in text
    tex = latex([report], plan.seeds)
    assert r"failed: 1 of 3 \\" in tex
    assert r"95 \% intervals" in tex
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    tried = tuning_csv([report]).splitlines()
    assert tried[2] == "digits,uniform,lr=0.003,100,0.800000,yes,trial"


def test_lines_of_runs():
    one = summary("run", (0.5, 0.6))
    other = {**one, "metric": {"b": "r2", "c": "r2"}, "test_accuracy": {}, "test_r2": {"b": 0.25, "c": 0.75}}
    lines = [(("digits", 0), one), (("digits", 1), None), (("toy", 0), other)]
    assert runs_csv(["suite", "seed"], lines, seconds=True).splitlines() == [
        "suite,seed,run_id,best_epoch,validation,test,a,b,c,seconds",
        "digits,0,run,1,0.500000,0.550000,0.500000,0.600000,,2",
        "digits,1,failed",
        "toy,0,run,1,0.500000,0.550000,,0.250000,0.750000,2",
    ]
    asked = {**one, "steadiness": {"moved": {"a": 0.25, "b": 0.125}}}
    with_bank = runs_csv(["seed"], [((0,), asked), ((1,), one)], seconds=True).splitlines()
    assert [line.rsplit(",", 2)[1:] for line in with_bank] == [["seconds", "moved"], ["2", "0.250000"], ["2", ""]]


def test_one_seed_has_no_interval_and_no_test():
    plan = load_plan("compare", "smoke", seeds=[0])
    runs = {(name, 0): summary("run", (0.5, 0.6)) for name in plan.rows}
    settings = dict.fromkeys(plan.rows, ())
    report = suite_report(plan, "digits", settings, {}, Results(list(plan.rows), plan.seeds, runs))
    assert json.loads(json.dumps(report, allow_nan=False))["rows"][1]["minus reference"]["p_holm"] is None
    table = markdown("smoke", [report], plan.seeds)
    assert "±" not in table + latex([report], plan.seeds)
    assert "Test score of one seed: no intervals" in table
    assert "Not tuned" in table
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(rich_table(report, plan.seeds, width=80))
    assert "digits: test score of one seed" in console.export_text()


def test_errors_rank_the_other_way(plan):
    """Of two methods one has the lower error and the lower accuracy; what errors are worth is in the means already."""
    metric = {"a": "accuracy", "b": "mae"}

    def run(name, accuracy, error, mean, **more):
        own = {"metric": metric, "test_accuracy": {"a": accuracy}, "test_r2": {"b": error}, "test_score_mean": mean}
        return {**summary(name, (0, 0)), **own, **more}

    told = {"lower_is_better": ["b"]}
    runs = {(name, seed): run("u", 0.9, 40.0, 0.5, **told) for name in ("uniform",) for seed in (0, 1, 2)}
    runs |= {("tchebycheff", seed): run("t", 0.8, 30.0 + seed, 0.6, **told) for seed in (0, 1, 2)}
    runs |= {("metaweighting", seed): run("m", 0.7, 20.0, 0.7, **told) for seed in (0, 1)}
    settings = dict.fromkeys(plan.rows, ())
    report = suite_report(plan, "digits", settings, {}, Results(list(plan.rows), plan.seeds, runs))
    assert report["best"] == "tchebycheff", "of those whose runs all finished"
    # a: 1, 2, 3; b: 3, 2, 1, and on seed 2 a failed run ranks last: 2, 1, 3
    assert [row["rank"] for row in report["rows"]] == pytest.approx([(1 + 3 + 1 + 3 + 1 + 2) / 6, 11 / 6, 14 / 6])
    assert report["rows"][1]["minus reference"]["mean"] == pytest.approx(0.1)
    assert results_grid(report).header[:3] == ["method", "a", "b (error)"]
    text = markdown("smoke", [report], plan.seeds)
    assert "Of a task marked error less is better; in the mean it counts as 1 - error / spread of the values." in text
    for own in runs.values():  # as of a version that did not tell: known by the metric's name
        own.pop("lower_is_better")
    again = suite_report(plan, "digits", settings, {}, Results(list(plan.rows), plan.seeds, runs))
    assert again == report


def test_a_comparison_by_errors_end_to_end(lossrag, runs_here, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "experiments: [digits]\nseeds: [0]\noverrides: [outer.metric=mae, train.epochs=1, train.batch_size=256, "
        "log.tensorboard=false]\nmethods: {uniform: , metaweighting: {overrides: [optimizer.lr=0.1]}}\n"
    )
    with runs_here():
        assert lossrag("compare", "experiment=mine.yaml", "root=runs", "processes=1").code == 0
    (report,) = json.loads((tmp_path / "runs/mine/compare.json").read_text())["suites"]
    assert report["lower_is_better"] == ["centre"]
    rows = {row["method"]: row for row in report["rows"]}
    tasks = rows["uniform"]["tasks"]
    better = [rows["uniform"]["tasks"][task]["mean"] > rows["metaweighting"]["tasks"][task]["mean"] for task in tasks]
    better[-1] = not better[-1]
    assert list(tasks)[-1] == "centre"
    assert rows["uniform"]["rank"] == pytest.approx(2 - sum(better) / 4)
    assert "centre (error)" in (tmp_path / "runs/mine/table.md").read_text()


def test_a_suite_whose_runs_all_failed(plan):
    report = suite_report(plan, "digits", dict.fromkeys(plan.rows), {}, Results(list(plan.rows), plan.seeds, {}))
    assert "failed: 3 of 3" in markdown("smoke", [report], plan.seeds)


def test_choice_on_validation():
    trials = {(name,): summary("x", (0, 0), score) for name, score in (("a", -1.0), ("b", 0.3), ("c", 0.3))}
    assert choose({("failed",): None, **trials}) == ("b",)
    assert choose({("a",): trials["a",]}) == ("a",)
    assert choose({("failed",): None}) is None


def test_progress():
    screen = io.StringIO()
    progress = Progress(Console(file=screen, width=100), [("digits", "uniform")], 2, 3)
    with progress.shown():
        tried = Run("digits", "uniform", ("optimizer.lr=1",), 0)
        progress.ended(tried, "tuning", summary("x", (0.5, 0.5), 0.25))
        progress.ended(tried, "test", summary("x", (0.5, 0.6)))
        progress.ended(Run("digits", "uniform", (), 1), "test", None)
    lines = screen.getvalue().splitlines()
    assert lines[0].endswith("lr=1, seed 0: validation 0.2500  (1 of 2)")
    assert lines[2].endswith("seed 1: failed  (1 of 3, failed: 1, mean 0.5500)")
    terminal = io.StringIO()
    progress = Progress(Console(file=terminal, width=100, force_terminal=True), [("digits", "uniform")], 0, 3)
    with progress.shown():
        progress.ended(tried, "test", summary("x", (0.5, 0.6)))
    assert "1 of 3, mean 0.5500" in terminal.getvalue()
    assert "tuning" not in terminal.getvalue()
