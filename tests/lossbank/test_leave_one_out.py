"""Hiding a loss from a bank and asking for it: on a simulated world, and on cases made by hand."""

from __future__ import annotations

import pytest
import torch

from lossrag import ConfigError
from lossrag.lossbank import LossBank
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.leave_one_out import Trial, leave_one_out
from tests.lossbank.simulated import NAMES, filled

FAMILIES = ("noise-robust", "imbalance")


def hand_made(runs=("r1", "r2")):
    """mae is right in TALK and cross-entropy in COMP, in every run."""
    bank = LossBank.create(["mae", "one_minus_p", "generalised_ce_0.7", "symmetric_ce", "cross_entropy", "focal_5"])
    worth = {"mae": 0.3, "one_minus_p": 0.29, "generalised_ce_0.7": 0.25, "symmetric_ce": 0.26}
    for run in runs:
        for step in range(12):
            for task, sign, place in (("TALK", 1.0, 3.0), ("COMP", -1.0, -3.0)):
                values = {name: sign * worth.get(name, -0.2) for name in bank.names}
                context = torch.full((len(values), len(CONTEXT_NAMES)), place) + 0.01 * step
                names = list(values)
                bank.memory.add(context.numpy(), names, list(values.values()), run=run, task=task, step=step)
    return bank


@pytest.mark.parametrize("by", ["knn", "towers"])
def test_a_loss_is_found_by_what_its_like_did_in_other_runs(by):
    trials = leave_one_out(hand_made(), ["noise-robust"], best=1, by=by)
    assert [(trial.loss, trial.task, trial.run, trial.offered) for trial in trials] == [
        ("mae", "TALK", "r1", 6),
        ("mae", "TALK", "r2", 6),
    ]
    assert all(trial.rank <= 4 for trial in trials), "before cross-entropy and focal"


def test_its_twins_are_hidden_with_it():
    """one_minus_p has the shape of mae: with it in sight there would be nothing to find out."""
    bank = hand_made()
    assert bank.neighbours("mae", 1) == [("one_minus_p", 1.0)]
    both = leave_one_out(bank, ["noise-robust"], best=2)
    ranks = {trial.loss: trial.rank for trial in both if trial.run == "r1"}
    assert abs(ranks["mae"] - ranks["one_minus_p"]) == 1, "nobody knows either of them"


def test_of_a_single_run_the_other_tasks_remain():
    (trial,) = leave_one_out(hand_made(["r1"]), ["noise-robust"], best=1)
    assert trial == Trial("mae", "r1", "TALK", trial.rank, 6)
    assert trial.rank > 2, "the only other task says the opposite"


def test_on_a_simulated_world_most_are_found():
    trials = leave_one_out(LossBank(NAMES, filled(3)), FAMILIES, best=2)
    found = sum(trial.rank <= 8 for trial in trials) / len(trials)
    assert len(trials) >= 5
    assert found >= 0.6, "by chance 8 of 50"


def test_mistakes():
    with pytest.raises(ConfigError, match="No loss of the families margin"):
        leave_one_out(hand_made(), ["margin"])
    alone = LossBank.create(["mae", "cross_entropy"])
    context = torch.zeros(2, len(CONTEXT_NAMES)).numpy()
    alone.memory.add(context, ["mae", "cross_entropy"], [0.2, -0.2], run="r", task="only", step=0)
    with pytest.raises(ConfigError, match="one task of one run"):
        leave_one_out(alone, FAMILIES)
    with pytest.raises(ConfigError, match="best must be 1"):
        leave_one_out(hand_made(), FAMILIES, best=0)
