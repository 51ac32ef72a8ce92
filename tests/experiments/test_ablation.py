"""The ablation command: rows by seeds, finished runs are not repeated, and the table's arithmetic."""

from __future__ import annotations

import json

import pytest

from lossrag.experiments.config.compose import load_config
from lossrag.experiments.studies.ablate import ablation_rows
from lossrag.experiments.studies.plan import Run, load_plan, plan_names
from lossrag.experiments.studies.report import suite_report
from lossrag.experiments.studies.results import Results
from lossrag.experiments.studies.statistics import interval
from tests.experiments.quick_settings import check_commands

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


OWN = """
experiments: [digits]
reference: plain
seeds: [0, 1]
overrides: [log.tensorboard=false, train.epochs=1, train.batch_size=256, weighting=uniform]
rows:
  plain:
  faster: [optimizer.lr=0.01]
fixed: [plain]
also: [[faster, plain]]
"""


def test_a_plan_run_twice(lossrag, tmp_path, runs_here):
    (tmp_path / "own.yaml").write_text(OWN)
    call = ["ablate", "own.yaml", f"root={tmp_path}/ablation"]
    with runs_here():
        first = lossrag(*call)
    assert first.code == 0, first
    report = json.loads((tmp_path / "ablation/own/ablation.json").read_text())
    assert [row["row"] for row in report["rows"]] == ["plain", "faster"]
    assert report["rows"][1]["vs row plain"] == report["rows"][1]["vs best fixed"]
    assert "faster minus plain: " in first.out
    assert report["failed"] == []
    runs = (tmp_path / "ablation/own/runs.csv").read_text()
    assert len(runs.splitlines()) == 1 + 4
    assert runs.startswith("row,seed,run_id,best_epoch,validation,test,digit,parity,loops,centre,seconds\n")
    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "ablation/own/logs").glob("*.log")}
    assert lossrag(*call).code == 0
    assert {path: path.stat().st_mtime_ns for path in logs} == logs, "nothing ran again"
    assert (tmp_path / "ablation/own/runs.csv").read_text() == runs


def rows_of(plan, found):
    results = Results(list(plan.rows), plan.seeds, found)
    return ablation_rows(plan, suite_report(plan, "digits", dict.fromkeys(plan.rows, ()), {}, results), results)


def test_table_by_hand():
    plan = load_plan("ablation", "smoke", seeds=[0, 1])
    found = {
        ("fixed", 0): summary("fixed", 0, (0.5, 0.6)),
        ("fixed", 1): summary("fixed", 1, (0.7, 0.8)),
        ("lossrag", 0): summary("lossrag", 0, (0.6, 0.7)),
        ("lossrag", 1): summary("lossrag", 1, (0.7, 0.9)),
    }
    fixed, learned = rows_of(plan, found)
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
    assert rows_of(plan, found) == []


def test_one_seed_has_no_interval():
    assert interval([0.1]) == {"mean": 0.1, "half": None}


@pytest.mark.parametrize("name", plan_names("ablation"))
def test_every_row_is_possible(name):
    plan = load_plan("ablation", name)
    assert plan.reference in plan.rows
    assert set(plan.rivals) <= set(plan.rows)
    check_commands(plan.command(Run(plan.suites[0], row, (), plan.seeds[0])) for row in plan.rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", plan_names("ablation"))
def test_every_row_composes(name):
    plan = load_plan("ablation", name)
    for row in plan.rows:
        load_config(plan.command(Run(plan.suites[0], row, (), plan.seeds[0])))


@pytest.mark.parametrize(
    "change", [("[digits]", "[digits, noise]"), ("[[faster, plain]]", "[[faster]]"), ("fixed:", "tuning: {}\nfixed:")]
)
def test_mistakes_in_a_plan(lossrag, tmp_path, change):
    (tmp_path / "own.yaml").write_text(OWN.replace(*change))
    error = lossrag("ablate", "own.yaml").error
    assert "an ablation has one experiment, and also holds pairs" in error or "Unknown key plan own.tuning" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nois"], "did you mean 'noise'"),
        (["mixed", "rows=[lossrug]"], "did you mean 'lossrag'"),
        (["noise", "seeds=[1,1]"], "distinct"),
        (["noise", "processes=0"], "1 or more"),
        (["noise", "process=2"], "did you mean 'processes'"),
    ],
)
def test_mistakes(lossrag, arguments, message):
    assert message in lossrag("ablate", *arguments).error


def test_help(lossrag):
    assert "noise" in lossrag("ablate", "--help").out
