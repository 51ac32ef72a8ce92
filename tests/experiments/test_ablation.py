"""The ablation command: rows by seeds, finished runs are not repeated, and the table's arithmetic."""

from __future__ import annotations

import json
import math

import pytest

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.studies.ablate import ablation_rows
from lossrag.experiments.studies.plan import Run, load_plan, plan_names
from lossrag.experiments.studies.results import Results
from lossrag.experiments.studies.statistics import interval

TASKS = {"a": "accuracy", "b": "accuracy"}


def summary(row, seed, scores):
    return {
        "metric": TASKS,
        "test_accuracy": dict(zip(TASKS, scores, strict=True)),
        "test_r2": {},
        "test_score_mean": sum(scores) / 2,
        "validation_score_mean": 0.5,
        "best_epoch": 1,
        "run_id": f"{row}-{seed}",
        "seconds": 2.0,
    }


def test_a_plan_run_twice(lossrag, tmp_path, runs_here):
    call = ["ablate", "smoke", "seeds=[0]", f"root={tmp_path}/ablation"]
    with runs_here():
        first = lossrag(*call)
    assert first.code == 0, first
    report = json.loads((tmp_path / "ablation/smoke/ablation.json").read_text())
    assert [row["row"] for row in report["rows"]] == ["fixed", "lossrag"]
    assert report["failed"] == []
    runs = (tmp_path / "ablation/smoke/runs.csv").read_text()
    assert len(runs.splitlines()) == 1 + 2
    assert runs.startswith("row,seed,run_id,best_epoch,validation,test,digit,parity,loops,centre,seconds\n")
    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "ablation/smoke/logs").iterdir()}
    assert lossrag(*call).code == 0
    assert {path: path.stat().st_mtime_ns for path in logs} == logs, "nothing ran again"
    assert (tmp_path / "ablation/smoke/runs.csv").read_text() == runs


def test_table_by_hand():
    plan = load_plan("ablation", "smoke", seeds=[0, 1])
    found = {
        ("fixed", 0): summary("fixed", 0, (0.5, 0.6)),
        ("fixed", 1): summary("fixed", 1, (0.7, 0.8)),
        ("lossrag", 0): summary("lossrag", 0, (0.6, 0.7)),
        ("lossrag", 1): summary("lossrag", 1, (0.7, 0.9)),
    }
    fixed, learned = ablation_rows(plan, Results(list(plan.rows), plan.seeds, found))
    assert fixed["mean"] == pytest.approx(0.65)
    assert "vs reference" not in fixed
    assert learned["a"] == pytest.approx(0.65)
    # differences 0.1 and 0.05: mean 0.075, standard error 0.025, t(0.975, 1) = 12.706
    assert learned["vs reference"]["mean"] == pytest.approx(0.075)
    assert learned["vs reference"]["half"] == pytest.approx(12.706 * 0.025, rel=1e-4)
    assert learned["vs best fixed"]["row"] == "fixed"


def test_a_row_without_all_its_seeds_is_left_out():
    plan = load_plan("ablation", "smoke", seeds=[0, 1])
    found = {("fixed", 0): summary("fixed", 0, (0.5, 0.6))}
    assert ablation_rows(plan, Results(list(plan.rows), plan.seeds, found)) == []


def test_one_seed_has_no_interval():
    assert math.isinf(interval([0.1]).half)


@pytest.mark.parametrize("name", plan_names("ablation"))
def test_every_row_composes(name):
    plan = load_plan("ablation", name)
    assert plan.reference in plan.rows
    assert set(plan.fixed) <= set(plan.rows)
    for row in plan.rows:
        load_config(plan.command(Run(plan.suites[0], row, (), plan.seeds[0])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nois"], "did you mean 'noise'"),
        (["noise", "rows=[lossrug]"], "did you mean 'lossrag'"),
        (["noise", "seeds=[1,1]"], "distinct"),
        (["noise", "processes=0"], "1 or more"),
        (["noise", "process=2"], "did you mean 'processes'"),
    ],
)
def test_mistakes(lossrag, arguments, message):
    assert message in lossrag("ablate", *arguments).error


def test_help(lossrag):
    assert "noise" in lossrag("ablate", "--help").out
