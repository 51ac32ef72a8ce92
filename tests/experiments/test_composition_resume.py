"""A run that composes its losses, killed and resumed: the same series, the same events, none of them twice."""

from __future__ import annotations

import json

import pytest

from tests.experiments.banks import write_bank

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
    *("loss.policy=retrieval", "loss.review=2", "loss.k=4", f"loss.candidates=[{','.join(CANDIDATES)}]"),
    *("loss.questions=[0,0.05,0.15]", "loss.temperature=0.01"),  # after steps 0, 1 and 2 of ten
]


@pytest.mark.parametrize(
    "evidence", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "one_step")), "look_ahead"]
)
def test_killed_runs_log_like_an_undisturbed_one(sessions, tmp_path, assert_same_run, evidence):
    """Killed before the first checkpoint, before a step right after a question, and long after a checkpoint."""
    bank = write_bank(tmp_path / "bank.safetensors")
    arguments = [*ARGUMENTS, f"loss.evidence={evidence}", f"loss.bank={bank}"]
    whole, killed = ([*arguments, f"run.dir={tmp_path / name}"] for name in ("whole", "killed"))
    plan = [
        {"arguments": whole},
        {"arguments": killed, "place": "step", "number": 2},
        {"arguments": [*killed, "run.checkpoint_seconds=0"], "place": "step", "number": 3},
        {"arguments": killed, "place": "line", "number": 6},
        {"arguments": killed},
    ]
    assert sessions(plan) == [0, -9, -9, -9, 0]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    texts = [(tmp_path / name / "events.jsonl").read_text() for name in ("whole", "killed")]
    assert texts[0] == texts[1]
    events = [tuple(json.loads(line).values())[:4] for line in texts[0].splitlines()]
    assert len(set(events)) == len(events) > 4
