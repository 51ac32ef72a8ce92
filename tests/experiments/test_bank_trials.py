"""Trials out of paired runs, and `lossrag bank add`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lossrag import ConfigError
from lossrag.experiments.bank.trials import trials_of
from lossrag.experiments.record.contexts import load_contexts
from lossrag.experiments.record.finished import load_runs
from lossrag.lossbank.experience.files import load_experience

SEEN = ["weighting=uniform", "train.query_for_baselines=support", "log.contexts=true"]
NOISE = ["tasks.corrupt={parity: {noise: symmetric, rate: 0.25}, loops: {noise: pair, rate: 0.3}}"]


def scores(run):
    summary = json.loads((run / "summary.json").read_text())
    return {**summary["test_accuracy"], **summary["test_r2"]}


def test_gains_are_differences_of_test_scores(quick):
    reference = quick(*SEEN, *NOISE)
    other = quick(*SEEN, *NOISE, "loss.tasks={parity: mae, loops: symmetric_ce, centre: l1}")
    runs, _ = load_runs([reference, other])
    records = {record.case.task: record for record in trials_of(runs)}
    assert list(records) == ["parity", "loops", "centre"]
    for task, loss in (("parity", "mae"), ("loops", "symmetric_ce"), ("centre", "l1")):
        (name, outcome), *none = records[task].outcomes.items()
        assert (name, none, outcome.repeats) == (loss, [], 1)
        assert outcome.gain == pytest.approx(scores(other)[task] - scores(reference)[task])
        assert math.isnan(outcome.error)
    case = records["parity"].case
    assert (case.source, case.encoder, case.target_kind, case.outputs) == ("digits", "mlp", "classification", 2)
    assert (case.trouble, case.strength, case.metric) == ("symmetric", 0.25, "accuracy")
    assert case.reference == pytest.approx(scores(reference)["parity"])
    assert (records["loops"].case.trouble, records["centre"].case.trouble) == ("pair", "unknown")
    seen = load_contexts(reference)
    assert records["centre"].moments.keys() == seen.moments.keys()
    assert records["centre"].moments[0.15].tolist() == seen.moments[0.15][3].tolist()
    for run in runs:  # had the score of centre been an error: in pixels, and less is better
        run.summary["lower_is_better"] = ["centre"]
    assert [record.case.task for record in trials_of(runs)] == ["parity", "loops"]


def test_a_task_is_seen_where_it_had_its_reference(quick):
    """In a Latin square no run is the reference of all tasks."""
    lines = ["{digit: mae}", "{parity: mae}"]
    both = [quick(*SEEN, f"loss.tasks={line}") for line in lines]
    runs, _ = load_runs(both)
    digit, parity = trials_of(runs, "clean")
    assert digit.outcomes["mae"].gain == pytest.approx(scores(both[0])["digit"] - scores(both[1])["digit"])
    assert parity.outcomes["mae"].gain == pytest.approx(scores(both[1])["parity"] - scores(both[0])["parity"])
    contexts = [load_contexts(run).moments[0.15] for run in both]
    assert digit.moments[0.15].tolist() == contexts[1][0].tolist() != contexts[0][0].tolist()
    assert {digit.case.trouble, parity.case.trouble} == {"clean"}


TROUBLES = {
    "{imbalance: [1, 0.1]}": ("imbalance", 10.0),
    "{imbalance: exponential}": ("imbalance", 20.0),
    "{imbalance: exponential, factor: 5, noise: symmetric, rate: 0.2}": ("both", 0.2),
    "{noise: asymmetric, rate: 0.1, transition: {0: 1}}": ("asymmetric", 0.1),
}


@pytest.mark.parametrize("corruption", TROUBLES)
def test_troubles(quick, toy, corruption):
    suite = [*SEEN, "tasks=toy", "model=textcnn", "model.kernel_sizes=[2]", f"tasks.corrupt={{two: {corruption}}}"]
    runs, _ = load_runs([quick(*suite), quick(*suite, "loss.tasks.two=mae")])
    (record,) = trials_of(runs)
    assert (record.case.trouble, record.case.strength) == (
        TROUBLES[corruption][0],
        pytest.approx(TROUBLES[corruption][1]),
    )


def test_runs_that_differ_in_more_than_losses_are_no_pair(quick):
    runs, _ = load_runs([quick(*SEEN), quick(*SEEN, "loss.tasks.parity=mae", "seed=1", "optimizer.lr=0.1")])
    with pytest.raises(ConfigError, match=r"differ in more than losses:\n  optimizer\.lr: .*\n  seed: 0 -> 1"):
        trials_of(runs)


def test_add(quick, lossrag, tmp_path):
    reference, *others = (
        quick(*SEEN, *more) for more in ([], ["loss.tasks.parity=mae"], ["loss.tasks.parity=focal_2"])
    )
    bank = tmp_path / "mine.safetensors"
    line = ["bank", "add", f"reference={reference}", f"bank={bank}"]
    for number, run in enumerate([others[0], others[0], others[1]]):
        result = lossrag(*line, f"run={run}", "trouble=photographed")
        assert result.code == 0, result
        assert "remembers 1 cases" in result.out
        # the same trial twice is one; another loss joins the case
        assert len(load_experience(bank).gain) == (1, 1, 2)[number]
    known = load_experience(bank)
    assert known.case(0).trouble == "photographed"
    gains = dict(zip([known.names["loss"][loss] for loss in known.outcome_loss], known.gain.tolist(), strict=True))
    for run, loss in zip(others, ("mae", "focal_2"), strict=True):
        assert gains[loss] == pytest.approx(scores(run)["parity"] - scores(reference)["parity"], abs=1e-6)


def test_what_cannot_be_added(quick, lossrag, tmp_path):
    plain, unseen = quick(*SEEN), quick("weighting=uniform", "train.query_for_baselines=support", "seed=3")
    other, composed = quick("loss.tasks.parity=mae", "seed=3", *SEEN), quick(*SEEN, "loss.policy=uniform")
    unfinished = Path(quick("seed=9", *SEEN))
    (unfinished / "summary.json").unlink()
    bank = f"bank={tmp_path}/mine.safetensors"

    def error(run, reference, *more):
        return lossrag("bank", "add", f"run={run}", f"reference={reference}", bank, *more).error

    assert "are the same run" in error(plain, plain)
    assert "differ in more than losses" in error(other, plain)
    assert "tell nothing" in error(composed, plain)
    assert "has not finished" in error(unfinished, plain)
    assert "recorded no contexts of its tasks" in error(other, unseen)
    assert "is no run directory" in error(other, tmp_path)
    assert "did you mean 'trouble'" in error(other, plain, "truoble=x")
    assert "needs reference=" in lossrag("bank", "add", f"run={plain}").error
    assert not (tmp_path / "mine.safetensors").exists()
