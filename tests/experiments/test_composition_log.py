"""The series, events and texts of composed losses: what is logged, what a resumed run logs, what the summary says."""

from __future__ import annotations

import json

import pytest

from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.record.summary import sentence
from lossrag.lossbank import LOSSES

TASKS = ("digit", "parity", "loops", "centre")
CANDIDATES = (
    *("mae", "brier", "focal_2", "triplet_0.2", "ldam_30", "logit_adjusted_1", "poly1_1", "cross_entropy"),
    *("squared_error", "l1", "huber", "tukey", "quantile_0.1", "barron_0", "log_cosh"),
)
# named, as other tests register losses of their own
LEARNED = [
    *("loss.policy=knn", "loss.horizon=1", "loss.review=2", "loss.k=6", "loss.explore=1"),
    f"loss.candidates=[{','.join(CANDIDATES)}]",
]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Two epochs of five steps, measured at every second step, reviewed at every fourth."""
    from lossrag.experiments.cli import run

    root = tmp_path_factory.mktemp("learned")
    small = ["experiment=digits", "train.epochs=2", "train.batch_size=256"]
    assert run(["train", *small, *LEARNED, f"run.dir={root / 'run'}"]) == 0
    return root / "run"


def series(points, kind, task):
    """Values by step and loss."""
    prefix = f"{kind}/{task}/"
    return {
        point["step"]: {tag.removeprefix(prefix): value for tag, value in point.items() if tag.startswith(prefix)}
        for point in points
        if any(tag.startswith(prefix) for tag in point)
    }


def events(directory):
    return [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]


def test_shares_and_contributions_are_logged_at_measured_steps(learned):
    points = read_points(learned / "metrics.jsonl")
    for task in TASKS:
        shares, contributions = series(points, "composition", task), series(points, "contribution", task)
        assert list(shares) == [1, 3, 5, 7, 9]
        assert all(0 <= share <= 1 for each in shares.values() for share in each.values())
        assert all(sum(each.values()) <= 1 + 1e-9 for each in shares.values())
        assert all(-1 <= value <= 1 for each in contributions.values() for value in each.values())
        assert all(contributions[step].keys() <= shares[step].keys() for step in contributions)
        assert all(name in LOSSES for each in shares.values() for name in each)
        counts = {p["step"]: p[f"composition_active/{task}"] for p in points if f"composition_active/{task}" in p}
        assert list(counts) == [1, 3, 5, 7, 9]
        assert all(1 <= count <= 6 for count in counts.values())


def test_a_series_goes_on_once_it_has_begun(learned):
    points = read_points(learned / "metrics.jsonl")
    for task in TASKS:
        before: set[str] = set()
        for each in series(points, "composition", task).values():
            assert before <= each.keys()
            assert all(each[name] >= 0.01 for name in each.keys() - before)
            before = set(each)


def test_other_logged_steps_hold_the_last_measurement(quick):
    """Every third step is logged, every second one measured from the first: the logged step tells what was measured."""
    directory = quick(
        "loss.policy=gradient",
        "loss.horizon=1",
        "loss.candidates=[cross_entropy,mae,l1,squared_error]",
        "log.every_steps=3",
    )
    shares = series(read_points(directory / "metrics.jsonl"), "composition", "digit")
    assert list(shares) == [3, 6, 9]
    assert all(sum(each.values()) == pytest.approx(1) for each in shares.values())


def test_few_series_begin_at_a_time(quick):
    """Fifty losses of a share of 0.02 each: the eight largest have a curve."""
    directory = quick("loss.policy=gradient", "loss.horizon=1", "train.epochs=1", "loss.every=99")
    first = series(read_points(directory / "metrics.jsonl"), "composition", "digit")
    assert [len(each) for each in first.values()] == [8]


def test_events_tell_what_happened_and_why(learned):
    told = events(learned)
    assert {event["step"] for event in told} == {3, 7}
    assert {event["task"] for event in told} == set(TASKS)
    assert {"ranked", "retrieved"} <= {event["what"] for event in told}
    assert all(event["reason"] and event["loss"] in LOSSES for event in told)
    ranks = next(event for event in told if event["what"] == "ranked")
    assert ranks["reason"].startswith(f"1. {ranks['loss']} ")
    assert 1 <= len(ranks["reason"].splitlines()) <= 6, "those that are not switched off"


def test_summary_and_table(learned, lossrag):
    summary = json.loads((learned / "summary.json").read_text())
    assert summary["compositions"].keys() == summary["off"].keys() == set(TASKS)
    for shares in summary["compositions"].values():
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
    shown = lossrag(
        "train", "experiment=digits", "train.epochs=2", "train.batch_size=256", *LEARNED, f"run.dir={learned}"
    )
    for task, shares in summary["compositions"].items():
        assert f"\n{sentence(task, shares, len(summary['off'][task]))}\n" in shown.out
    assert "losses.png" in shown.out


@pytest.mark.parametrize(
    ("shares", "off", "text"),
    [
        ({"mae": 1.0}, 0, "A: mae 1.00"),
        ({"mae": 0.95, "brier": 0.05}, 1, "A: mae .95, 1 other .05; 1 loss off"),
        (dict.fromkeys("dcba", 0.25), 2, "A: a .25, b .25, c .25, 1 other .25; 2 losses off"),
        ({"mae": 0.999, "brier": 0.001}, 0, "A: mae 1.00"),
    ],
)
def test_sentence(shares, off, text):
    assert sentence("A", shares, off) == text


def test_a_run_without_composition_has_none_of_it(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert "compositions" not in summary
    assert not any(tag.startswith("composition") for point in read_points(finished / "metrics.jsonl") for tag in point)
    assert not (finished / "events.jsonl").exists()


def test_a_torn_line_of_events_is_dropped(tmp_path):
    from lossrag.experiments.record.composition_log import _cut

    line = json.dumps({"step": 3, "task": "a", "loss": "mae", "what": "off", "reason": "r"})
    path = tmp_path / "events.jsonl"
    path.write_text(f"{line}\n{line.replace('3', '9')}\n{line[:20]}")
    assert [event.step for event in _cut(path, 5)] == [3]
    assert path.read_text() == line + "\n"
