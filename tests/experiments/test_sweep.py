"""One key over values and seeds: a table, finished runs that are not repeated, mistakes that show early."""

from __future__ import annotations

import pytest

SWEEP = ["sweep", "experiment=digits", "key=weighting.alpha", "values=[0.01,0.1]", "seeds=[0]"]


def test_a_sweep_twice(lossrag, tmp_path):
    call = [*SWEEP, "train.epochs=1", "log.tensorboard=false", f"root={tmp_path}/sweep"]
    first = lossrag(*call)
    assert first.code == 0, first
    assert "0.01" in first.out
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("summary.json")}
    assert len(finished) == 2
    assert lossrag(*call).code == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "nothing ran again"


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
