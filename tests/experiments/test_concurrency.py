"""Commands that meet: two that write the same run, bank or tables end in a message or in what one alone makes."""

from __future__ import annotations

import os
import random
import time

import pytest

from lossrag.experiments.cli import run
from lossrag.lossbank.experience.files import load_experience
from tests.processes import forked

TRIALS = int(os.environ.get("LOSSRAG_TEST_MEETINGS", "50"))
RUN = ["train", "experiment=digits", "train.epochs=3", "train.batch_size=256", "log.tensorboard=false"]
SEEN = ["weighting=uniform", "train.query_for_baselines=support", "log.contexts=true"]
SWEEP = ["sweep", "experiment=digits", "key=tasks.rho", "values=[0.1]", "seeds=[0]", "processes=1", *RUN[2:]]
LOSSES = ("mae", "brier")


def command(rank, size, lines, wait):
    os.environ["OMP_NUM_THREADS"] = "1"
    time.sleep(wait * rank)
    return run(lines[rank])


def met(lines, wait):
    """The exit codes of two command lines, the second begun so many seconds later; None where one hung."""
    codes = forked(command, 2, lines, wait, seconds=180)
    assert 0 in codes, codes
    assert set(codes) <= {0, 2}, codes
    return codes


@pytest.mark.slow
def test_meetings(tmp_path, quick, assert_same_run, capsys):
    assert run([*RUN, f"run.dir={tmp_path / 'alone'}"]) == 0
    assert run([*SWEEP, f"root={tmp_path / 'swept'}"]) == 0
    (table,) = (path.read_bytes() for path in (tmp_path / "swept").rglob("sweep.csv"))
    reference, runs = quick(*SEEN), [quick(*SEEN, f"loss.tasks.parity={loss}") for loss in LOSSES]
    wrong = {}
    for number in range(TRIALS):
        chance, here = random.Random(number), tmp_path / str(number)
        wait, kind = chance.choice((0.0, 0.02, 0.2, 1.0)), ("run", "bank", "tables")[number % 3]
        try:
            if kind == "run":
                met([[*RUN, f"run.dir={here}"]] * 2, wait)
                assert_same_run(tmp_path / "alone", here)
            elif kind == "bank":
                call = ["bank", "add", f"reference={reference}", f"bank={here}.safetensors"]
                assert met([[*call, f"run={made}"] for made in runs], wait) == [0, 0]
                known = load_experience(here.with_suffix(".safetensors"))
                assert {known.names["loss"][loss] for loss in known.outcome_loss} == set(LOSSES)
            else:
                met([[*SWEEP, f"root={here}"]] * 2, wait)
                assert [path.read_bytes() for path in here.rglob("sweep.csv")] == [table]
        except AssertionError as error:
            wrong[number, kind, wait] = str(error)[:500]
    with capsys.disabled():
        print(f"\ncommands that meet: {TRIALS - len(wrong)} of {TRIALS}")
    assert not wrong
