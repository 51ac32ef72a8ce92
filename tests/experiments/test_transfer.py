"""Transfer by a bank: half a bank, and the steps by hand."""

from __future__ import annotations

import json
import math

import pytest

from lossrag import ConfigError
from lossrag.experiments.studies.plan import Run, Warm, load_plan
from lossrag.experiments.studies.transfer import keep_tasks, transfer_rows, transfer_summary
from lossrag.lossbank import LossBank

WARM = Warm("warm", "cold", ["COMP"])


def write_run(folder, shares):
    """A run in which TALK goes from cross-entropy to MAE: the share of MAE at steps 2, 4, ..."""
    folder.mkdir()
    points = [
        {
            "step": 2 * (place + 1),
            "composition/TALK/mae": share,
            "composition/TALK/cross_entropy": 1 - share,
            "composition/COMP/mae": 1.0,
        }
        for place, share in enumerate(shares)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return folder


def test_steps_by_hand(tmp_path):
    cold = write_run(tmp_path / "cold", [0.0, 0.1, 0.3, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0])
    warm = write_run(tmp_path / "warm", [0.2, 0.7, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    (row,) = transfer_rows(WARM, {0: cold}, {0: warm})
    assert row == {
        "seed": 0,
        "task": "TALK",
        "cold steps to 0.5": 8,
        "cold steps to 0.25": 10,
        "warm steps to 0.5": 4,
        "warm steps to 0.25": 6,
    }
    found = transfer_summary([row])
    assert found["to 0.5"] == {"cold": 8, "warm": 4, "ratio": 0.5, "at most half": 1}
    assert found["to 0.25"]["ratio"] == pytest.approx(0.6)
    assert found["to 0.25"]["at most half"] == 0


def test_a_run_that_never_gets_there(tmp_path):
    cold = write_run(tmp_path / "cold", [0.0, 0.5, 1.0])
    warm = write_run(tmp_path / "warm", [0.0, 0.0, 0.1])
    (row,) = transfer_rows(WARM, {3: cold}, {3: warm})
    assert row["warm steps to 0.5"] == math.inf


def test_half_a_bank(train, tmp_path):
    run = train("loss.policy=knn", "loss.review=3", "train.epochs=1", "loss.relational=false", "log.tensorboard=false")
    target = tmp_path / "half"
    keep_tasks(run / "bank", ["digit", "parity"], target)
    kept = LossBank.load(target)
    assert set(kept.memory.records.tasks) == {"digit", "parity"}
    assert 0 < len(kept.memory) < len(LossBank.load(run / "bank").memory)
    with pytest.raises(ConfigError, match="remembers nothing of REC"):
        keep_tasks(run / "bank", ["REC"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_warm_row_starts_from_the_bank_of_another_seed(tmp_path):
    plan = load_plan("ablation", "transfer", str(tmp_path), seeds=[3, 5])
    assert (plan.teacher(3), plan.teacher(5)) == (5, 3)
    assert f"loss.bank={tmp_path}/transfer/banks/for-seed-3" in plan.command(Run("noise", "warm", (), 3))
    assert not any("loss.bank" in override for override in plan.command(Run("noise", "cold", (), 3)))
    assert load_plan("ablation", "transfer", rows=["cold"]).warm is None
