"""A run that was killed, however often and wherever, ends with the same bits as an undisturbed one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lossrag.experiments.record.checkpoint import load_checkpoint
from lossrag.experiments.record.jsonl import read_points

STEPS, EPOCHS = 3, 3
RUN = ["train", "experiment=digits", f"train.epochs={EPOCHS}", "train.batch_size=512"]
QUICK = "log.tensorboard=false"
BOARD = "log.figures_every=2"
KILLED, TERMINATED = -9, 143


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, sessions) -> Path:
    """The run that all others must equal; it writes no checkpoint before its end."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    assert sessions([{"arguments": [*RUN, f"run.dir={directory}", "run.checkpoint_seconds=1e9", BOARD]}]) == [0]
    assert len([p for p in read_points(directory / "metrics.jsonl") if "weight/digit" in p]) == STEPS * EPOCHS
    return directory


def plan(directory, stops, *overrides, board=QUICK):
    """One session per stop, then one to the end."""
    arguments = [*RUN, f"run.dir={directory}", board, *overrides]
    return [{"arguments": arguments, **stop} for stop in [*stops, {}]]


def test_identical_runs_are_equal(undisturbed, tmp_path, sessions, assert_same_run):
    assert sessions(plan(tmp_path / "run", [], "run.checkpoint_seconds=0")) == [0]
    assert_same_run(undisturbed, tmp_path / "run")


def test_killed_at_every_step(undisturbed, tmp_path, sessions, assert_same_run):
    """Every session gets one step further, so every step is a first step after a resume."""
    stops = [{"place": "step", "number": 2}] * (STEPS * EPOCHS - 1)
    codes = sessions(plan(tmp_path / "run", stops, "run.checkpoint_seconds=0"))
    assert codes == [KILLED] * len(stops) + [0]
    assert_same_run(undisturbed, tmp_path / "run")


ONCE = [
    # before the first checkpoint, the last step of an epoch, the first of the next
    *[("step", number, 0) for number in (1, STEPS + 1)],
    # with checkpoints now and then
    ("step", STEPS * EPOCHS - 1, 0.03),
    # between the two checkpoint files, before one gets its name, around the end of an epoch, at the end
    *[("save", number, 0) for number in (STEPS + 1, STEPS + 2)],
    ("rename", 9, 0),
    ("line", STEPS + 1, 0),
    ("test", EPOCHS + 1, 0),
    ("figure", 1, 1e9),
    ("summary", 1, 0),
]


def test_killed_once(undisturbed, tmp_path, sessions, assert_same_run):
    plans = []
    for number, (place, at, seconds) in enumerate(ONCE):
        stop = {"place": place, "number": at}
        plans += plan(tmp_path / str(number), [stop], f"run.checkpoint_seconds={seconds}")
    assert sessions(plans) == [KILLED, 0] * len(ONCE)
    for number in range(len(ONCE)):
        assert_same_run(undisturbed, tmp_path / str(number))
        assert not list((tmp_path / str(number)).rglob("*.tmp"))


@pytest.mark.parametrize(("place", "number", "step"), [("step", 4, 4), ("test", 3, STEPS * EPOCHS)])
def test_sigterm_writes_a_checkpoint_first(undisturbed, tmp_path, sessions, assert_same_run, place, number, step):
    directory = tmp_path / "run"
    arguments = [*RUN, f"run.dir={directory}", QUICK, "run.checkpoint_seconds=1e9"]
    stop = {"arguments": arguments, "place": place, "number": number, "signal": "SIGTERM"}
    assert sessions([stop]) == [TERMINATED]
    tensors, _ = load_checkpoint(directory / "checkpoints" / "last.safetensors")
    assert int(tensors["step/count"]) == step
    assert not (directory / "summary.json").exists()
    assert sessions([{"arguments": arguments}]) == [0]
    assert_same_run(undisturbed, directory)


def test_sigterm_after_the_last_epoch_ends_at_once(undisturbed, tmp_path, sessions, assert_same_run):
    stop = {"place": "figure", "number": 1, "signal": "SIGTERM"}
    assert sessions(plan(tmp_path / "run", [stop])) == [TERMINATED, 0]
    assert_same_run(undisturbed, tmp_path / "run")


def test_interrupt_is_answered_and_resumes(undisturbed, tmp_path, sessions, assert_same_run):
    stop = {"place": "step", "number": 8, "signal": "SIGINT"}
    assert sessions(plan(tmp_path / "run", [stop], "run.checkpoint_seconds=0")) == [130, 0]
    assert_same_run(undisturbed, tmp_path / "run")


TOY = ["~experiment", "tasks=toy", "model.filters=4", "train.epochs=2", "train.batch_size=12"]
ADVMTL = ["model.sharing=shared_private", "model.adversarial=0.05", "model.orthogonal=0.01", "model.dropout=0.3"]
LAZY = [*TOY, "model.trainable_vectors=true", "optimizer.vectors=lazy"]
SETTINGS = {
    "baseline, thinned log": ["weighting=uniform", "train.query_for_baselines=support", "log.every_steps=4"],
    "sgd with momentum, dropout": ["optimizer.name=sgd", "optimizer.momentum=0.9", "model.dropout=0.3"],
    "scheduled": ["optimizer.schedule=linear", "optimizer.warmup=0.25", "optimizer.heads_lr_factor=2"],
    "hypergradient descent": ["weighting=uniform", "optimizer.hypergradient_lr=1e-6"],
    # methods that remember something of their own
    **{name: [f"weighting={name}"] for name in ("uncertainty", "random", "dtp")},
    "dwa, which starts in the third epoch": ["weighting=dwa", "train.epochs=4"],
    "bandit_mtl": ["weighting=bandit_mtl", "weighting.rho=0.05"],
    "adversarial": [*TOY, *ADVMTL],
    "lazy vectors, adam": LAZY,
    "lazy vectors, sgd, refit": [*LAZY, "optimizer.name=sgd", "optimizer.lr=0.1", "train.refit=true"],
    "lazy vectors, uniform, adamw": [*LAZY, "weighting=uniform", "optimizer.name=adamw"],
    "lazy vectors, single task": [*LAZY, "weighting=single_task", "model.sharing=none"],
}


SELDOM = ("scheduled", "random", "dtp", "lazy vectors, uniform, adamw", "lazy vectors, single task")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SELDOM else n for n in SETTINGS])
def test_killed_in_the_last_epoch(tmp_path, sessions, assert_same_run, name):
    whole = plan(tmp_path / "whole", [], *SETTINGS[name], "run.checkpoint_seconds=1e9")
    stop = {"place": "step", "number": 9 if "dwa" in name else 4}
    broken = plan(tmp_path / "broken", [stop], *SETTINGS[name], "run.checkpoint_seconds=0")
    assert sessions(whole + broken) == [0, KILLED, 0]
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_killed_or_terminated_in_the_refit(tmp_path, sessions, assert_same_run):
    overrides = ["train.refit=true", "weighting.inner=adam"]
    stops = [{"place": "refit", "number": 1}, {"place": "refit", "number": 1, "signal": "SIGTERM"}]
    whole = plan(tmp_path / "whole", [], *overrides)
    assert sessions(whole + plan(tmp_path / "broken", stops, *overrides)) == [0, KILLED, TERMINATED, 0]
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def scalars(directory):
    """By TensorBoard's run everything that it shows."""
    shown = {}
    for place in sorted((directory / "tensorboard").iterdir()):
        board = EventAccumulator(str(place), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
        tags = board.Tags()
        series = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in tags["scalars"]}
        pictures = {tag: [e.step for e in board.Images(tag)] for tag in tags["images"]}
        texts = sorted(tags["tensors"])  # of which TensorBoard's server drops the earlier ones, this reader does not
        shown[place.name] = series, pictures, texts
    return shown


# killed before any checkpoint, within an epoch, after an epoch's values were logged and before they were saved,
# and after the test values of the last step
TWICE_LOGGED = [("step", 3, 1e9), ("step", 2 * STEPS + 1, 0), ("save", STEPS + 1, 0), ("figure", 1, 0)]


def test_tensorboard_shows_no_step_twice(undisturbed, tmp_path, sessions):
    """The names of event files sort by the second in which they were opened, hence the wait."""
    plans = []
    for number, (place, at, seconds) in enumerate(TWICE_LOGGED):
        stop = {"place": place, "number": at}
        first, second = plan(tmp_path / str(number), [stop], f"run.checkpoint_seconds={seconds}", board=BOARD)
        plans += [first, {**second, "wait": 0.8}]
    assert sessions(plans) == [KILLED, 0] * len(TWICE_LOGGED)
    expected = scalars(undisturbed)
    for number, case in enumerate(TWICE_LOGGED):
        assert scalars(tmp_path / str(number)) == expected, case
