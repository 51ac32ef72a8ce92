"""One key over values and seeds: a table, finished runs that are not repeated, mistakes that show early."""

from __future__ import annotations

import json

import pytest

from lossrag.experiments.studies.results import runs_csv

SWEEP = ["sweep", "experiment=digits", "key=weighting.alpha", "values=[0.01,0.1]", "seeds=[0]"]


def test_a_sweep_twice(lossrag, tmp_path, runs_here):
    call = [*SWEEP, "train.epochs=1", "log.tensorboard=false", f"root={tmp_path}/sweep"]
    with runs_here():
        first = lossrag(*call)
    assert first.code == 0, first
    assert "0.01" in first.out
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("summary.json")}
    assert len(finished) == 2
    (rows,) = [path.read_text().splitlines() for path in (tmp_path / "sweep").rglob("sweep.csv")]
    assert rows[0].startswith("weighting.alpha,seed,run_id,best_epoch,validation,test,")
    assert [row.split(",")[:2] for row in rows[1:]] == [["0.01", "0"], ["0.1", "0"]]
    scores = {run["run_id"]: run["test_score_mean"] for run in (json.loads(path.read_text()) for path in finished)}
    assert {row.split(",")[2]: float(row.split(",")[5]) for row in rows[1:]} == pytest.approx(scores, abs=1e-6)
    assert lossrag(*call).code == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "nothing ran again"


def test_a_failed_run_is_a_line():
    text = runs_csv(["weighting.alpha", "seed"], [(("1", seed), None) for seed in (0, 1)])
    assert text.splitlines()[1:] == ["1,0,failed", "1,1,failed"]


@pytest.mark.parametrize(
    ("override", "part"), [("key=weighting.alhpa", "alpha"), ("values=[-1]", "alpha must be"), ("seeds=[]", "seeds")]
)
def test_mistakes(lossrag, tmp_path, override, part):
    key = override.split("=")[0]
    call = [each for each in SWEEP if not each.startswith(f"{key}=")]
    failed = lossrag(*call, override, f"root={tmp_path}/sweep")
    assert failed.code != 0
    assert part in failed.error
    assert not list(tmp_path.rglob("metrics.jsonl"))
