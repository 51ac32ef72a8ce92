"""The series, events and texts of composed losses: what is logged, what a resumed run logs, what the summary says."""

from __future__ import annotations

import json

import pytest

from lossrag.errors import CheckpointError
from lossrag.experiments.bank.asked import asked_of
from lossrag.experiments.record.bank_map import asked_tasks
from lossrag.experiments.record.composition_log import _cut, _explaining
from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.record.summary import sentence
from lossrag.lossbank import LOSSES, Event
from lossrag.lossbank.experience.bank import Retrieval
from lossrag.proof import Chain
from tests.experiments.banks import SMALL_VALUE_GAINS, write_bank

pytestmark = pytest.mark.pictures

TASKS = ("digit", "parity", "loops", "centre")
CANDIDATES = (
    *("mae", "brier", "focal_2", "triplet_0.2", "ldam_30", "logit_adjusted_1", "poly1_1", "cross_entropy"),
    *("squared_error", "l1", "huber", "tukey", "quantile_0.1", "barron_0", "log_cosh"),
)
# named, as other tests register losses of their own
LEARNED = [
    *(
        "loss.policy=retrieval",
        "loss.risk=1.0",
        "loss.evidence=one_step",
        "loss.review=2",
        "loss.k=6",
        "loss.temperature=0.02",
    ),
    "loss.questions=[0,0.05,0.15]",
    f"loss.candidates=[{','.join(CANDIDATES)}]",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two epochs of five steps, with questions before them and after steps 1 and 2: the classifications are composed at
    the first, the regression, for which less is gained, at the second. Measured at every second step, reviewed at every
    fourth; the overrides and the directory."""
    from lossrag.experiments.cli import run

    root = tmp_path_factory.mktemp("learned")
    bank = f"loss.bank={write_bank(root / 'bank.safetensors', values=SMALL_VALUE_GAINS)}"
    small = ["train", "experiment=digits", "train.epochs=2", "train.batch_size=256", *LEARNED, bank]
    assert run([*small, f"run.dir={root / 'run'}"]) == 0
    return [*small, f"run.dir={root / 'run'}"], root / "run"


@pytest.fixture(scope="module")
def learned(made):
    """Its directory."""
    return made[1]


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
        assert list(shares) == [1, 2, 3, 5, 7, 9]
        assert all(0 <= share <= 1 for each in shares.values() for share in each.values())
        assert all(sum(each.values()) <= 1 + 1e-9 for each in shares.values())
        assert all(-1 <= value <= 1 for each in contributions.values() for value in each.values())
        assert all(contributions[step].keys() <= shares[step].keys() for step in contributions)
        assert all(name in LOSSES for each in shares.values() for name in each)
        counts = {p["step"]: p[f"composition_active/{task}"] for p in points if f"composition_active/{task}" in p}
        assert list(counts) == [1, 2, 3, 5, 7, 9]
        assert all(1 <= count <= 7 for count in counts.values())


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
        "loss.evidence=one_step",
        "loss.candidates=[cross_entropy,mae,l1,squared_error]",
        "log.every_steps=3",
    )
    shares = series(read_points(directory / "metrics.jsonl"), "composition", "digit")
    assert list(shares) == [3, 6, 9]
    assert all(sum(each.values()) == pytest.approx(1) for each in shares.values())


def test_few_series_begin_at_a_time(quick):
    """Fifty losses of a share of 0.02 each: the eight largest have a curve."""
    directory = quick("loss.policy=gradient", "loss.evidence=one_step", "train.epochs=1", "loss.every=99")
    first = series(read_points(directory / "metrics.jsonl"), "composition", "digit")
    assert [len(each) for each in first.values()] == [8]


def test_events_tell_what_happened_and_why(learned):
    told = events(learned)
    assert {event["task"] for event in told} == set(TASKS)
    answers = [event for event in told if event["what"] in ("composed", "kept")]
    assert [(event["step"], event["task"], event["what"]) for event in answers] == [
        *((0, task, "composed") for task in TASKS[:3]),
        *((0, "centre", "kept"), (1, "centre", "composed")),
    ]
    assert all(event["reason"] and event["loss"] in LOSSES for event in told)
    ranks = next(event for event in told if event["what"] == "ranked")
    assert ranks["reason"].startswith(f"1. {ranks['loss']} ")
    assert 1 <= len(ranks["reason"].splitlines()) <= 6
    first = answers[0]
    assert (first["what"], first["loss"]) == ("composed", "mae")
    assert f"of {Retrieval().neighbours} like it had" in first["reason"]
    assert "mae was worth +3." in first["reason"]
    assert len(first["neighbours"]) == Retrieval().neighbours
    assert first["neighbours"][0].keys() == {"source", "task", "encoder", "trouble", "distance"}
    distances = [case["distance"] for case in first["neighbours"]]
    assert distances == sorted(distances)
    for event in answers:
        assert next(iter(event["shares"])) == event["loss"]
        assert sum(event["shares"].values()) == pytest.approx(1)


def test_summary_and_table(made, lossrag):
    line, learned = made
    summary = json.loads((learned / "summary.json").read_text())
    assert summary["compositions"].keys() == summary["off"].keys() == summary["reasons"].keys() == set(TASKS)
    assert summary["bank_sources"] == ["made up"]
    for shares in summary["compositions"].values():
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
    steady = summary["steadiness"]
    assert (steady["asked_at"], steady["composed_at"]) == (0.1, 0.0)  # after the first of ten steps, and before it
    assert steady["moved"].keys() == set(TASKS)
    assert 0 < max(steady["moved"].values()) <= 1
    shown = lossrag(*line)
    assert "bank: made up answered; first composition after 0 % of the steps; from 10 % on within ." in shown.out
    for task, shares in summary["compositions"].items():
        assert f"\n{sentence(task, shares, len(summary['off'][task]), summary['reasons'][task])}\n" in shown.out
    assert "losses.png" in shown.out


def test_a_query_gives_the_answer_of_a_run_whose_shares_evidence_has_moved(learned, lossrag):
    for event in events(learned):
        if event["what"] in ("composed", "kept"):
            line = ("bank", "query", f"run={learned}", f"task={event['task']}", f"step={event['step']}")
            assert event["reason"] in " ".join(lossrag(*line).out.split())


def test_a_task_is_asked_about_until_it_is_composed(learned, lossrag):
    asked = asked_of(learned)
    assert asked.steps == [0, 1]
    for t, task in enumerate(asked.tasks):
        steps = [step for step, rows in zip(asked.steps, asked.contexts, strict=True) if bool(rows[t].isfinite().all())]
        assert steps == ([0, 1] if task == "centre" else [0])
        last = lossrag("bank", "query", f"run={learned}", f"task={task}").out
        assert f"{task} after step {steps[-1]} of" in " ".join(last.split())
    for drawn in asked_tasks(asked.tasks, "mlp", asked.contexts):
        assert drawn.progress == pytest.approx([0, 0.1] if drawn.name == "centre" else [0])
    assert (learned / "bank.png").read_bytes().startswith(b"\x89PNG")


def test_without_evidence_shares_are_logged_when_they_may_have_changed(quick, tmp_path):
    bank = write_bank(tmp_path / "bank.safetensors")
    asking = ["loss.policy=retrieval", f"loss.bank={bank}", "loss.questions=[0,0.05,0.15]"]
    directory = quick(*asking, "train.batch_size=64", "log.every_steps=2")
    points = read_points(directory / "metrics.jsonl")
    assert list(series(points, "composition", "digit")) == [2, 6]  # asked before step 1 and after steps 2 and 6 of 38
    assert series(points, "contribution", "digit") == {}


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


def test_a_reason_is_the_answer_that_composed_the_task():
    told = ("A silent", "A kept", "A composed", "B silent", "B kept", "B kept", "B silent")
    events = [Event(step, line[0], "mae", line[2:], "") for step, line in enumerate([*told, "C silent", "C silent"])]
    assert {task: event.step for task, event in _explaining(events).items()} == {"A": 2, "B": 5, "C": 8}


def test_a_run_without_composition_has_none_of_it(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert "compositions" not in summary
    assert not any(tag.startswith("composition") for point in read_points(finished / "metrics.jsonl") for tag in point)
    assert not (finished / "events.jsonl").exists()


def test_a_torn_line_of_events_is_dropped(tmp_path):
    told = {"step": 3, "task": "a", "loss": "mae", "what": "off", "reason": "r", "neighbours": [], "shares": {}}
    chain = Chain()
    lines = [chain.line({**told, "step": step}) for step in (3, 9)]
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(lines) + lines[0][:20])
    kept, cut = _cut(path, 5, "")
    assert [event.step for event in kept] == [3]
    assert path.read_bytes() == lines[0]
    assert _cut(path, 5, cut.link)[0] == kept
    assert _cut(path, 0, cut.link)[0] == [], "a run that begins anew asks anew"
    assert path.read_bytes() == b""


def test_events_that_the_checkpoint_remembers_and_are_gone(tmp_path):
    told = {"step": 3, "task": "a", "loss": "mae", "what": "off", "reason": "r", "neighbours": [], "shares": {}}
    chain = Chain()
    lines = [chain.line({**told, "step": step}) for step in (3, 4)]
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines[0])
    for _ in range(2):
        with pytest.raises(CheckpointError, match="lines are missing"):
            _cut(path, 5, chain.link)
        assert path.read_bytes() == lines[0]
    path.unlink()
    with pytest.raises(CheckpointError, match="lines are missing"):
        _cut(path, 5, chain.link)
