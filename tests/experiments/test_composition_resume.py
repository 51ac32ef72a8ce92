"""A run that composes its losses, killed and resumed: the same series, the same events, none of them twice."""

from __future__ import annotations

import json

import pytest

CANDIDATES = (
    "mae",
    "brier",
    "focal_2",
    "ldam_30",
    "cross_entropy",
    "squared_error",
    "l1",
    "huber",
    "tukey",
    "log_cosh",
)
ARGUMENTS = [
    *("train", "experiment=digits", "train.epochs=2", "train.batch_size=256", "log.figures_every=9"),
    *("loss.policy=knn", "loss.review=2", "loss.k=4", "loss.explore=1", f"loss.candidates=[{','.join(CANDIDATES)}]"),
]


@pytest.mark.parametrize("horizon", [1, 20])
def test_killed_runs_log_like_an_undisturbed_one(sessions, tmp_path, assert_same_run, horizon):
    """Killed before a step right after events, and before a line with a checkpoint long ago."""
    arguments = [*ARGUMENTS, f"loss.horizon={horizon}"]
    whole, killed = ([*arguments, f"run.dir={tmp_path / name}"] for name in ("whole", "killed"))
    plan = [
        {"arguments": whole},
        {"arguments": [*killed, "run.checkpoint_seconds=0"], "place": "step", "number": 4},
        {"arguments": killed, "place": "line", "number": 6},
        {"arguments": killed},
    ]
    assert sessions(plan) == [0, -9, -9, 0]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    texts = [(tmp_path / name / "events.jsonl").read_text() for name in ("whole", "killed")]
    assert texts[0] == texts[1]
    events = [tuple(json.loads(line).values())[:4] for line in texts[0].splitlines()]
    assert len(set(events)) == len(events) > 4
