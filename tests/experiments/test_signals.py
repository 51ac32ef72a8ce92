"""Ctrl-C and SIGTERM at any moment of a run: a checkpoint of the last step, a true word, the same bits in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from lossrag.experiments.record.checkpoint import load_checkpoint
from tests.experiments.tables import people

STEPS, EPOCHS = 3, 3
QUICK = [f"train.epochs={EPOCHS}", "log.tensorboard=false", "run.checkpoint_seconds=1e9"]
COMPOSED = ["loss.policy=gradient", "loss.evidence=one_step", "loss.candidates=[cross_entropy,mae,squared_error,l1]"]
TOY = ["~experiment", "tasks=toy", "model.filters=4", "train.batch_size=12"]
SUITES = {
    "digits": ["experiment=digits", "train.batch_size=512"],
    "table": ["experiment=table", "train.batch_size=64", "tasks.targets=[income,hours]", "tasks.ignore=[said]"],
    "composed": ["experiment=digits", "train.batch_size=512", *COMPOSED],
    "text": TOY,
    "adversarial": [*TOY, "model.sharing=shared_private", "model.adversarial=0.05", "model.dropout=0.3"],
}
MOMENTS = {
    "start-up": ("build", 1),
    "first step": ("step", 1),
    "mid epoch": ("step", STEPS + 2),
    "evaluation": ("test", 2),
    "refit": ("refit", 1),
    "end": ("summary", 1),
}
CODES = {"SIGINT": 130, "SIGTERM": 143}
SAID = {"SIGINT": "Interrupted", "SIGTERM": "Stopped by SIGTERM"}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The command line of a run of a suite in a directory."""
    table = tmp_path_factory.mktemp("table") / "people.csv"
    people(table, 250, 0)

    def of(suite, directory):
        data = [f"tasks.data={table}"] if suite == "table" else []
        data += [] if suite == "composed" else ["train.refit=true"]
        return ["train", *SUITES[suite], *QUICK, *data, f"run.dir={directory}"]

    return of


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, sessions, line):
    """By suite the directory of a run that nobody disturbed."""
    made = {}

    def of(suite):
        if suite not in made:
            directory = tmp_path_factory.mktemp("undisturbed") / suite
            assert sessions([{"arguments": line(suite, directory)}]) == [0]
            made[suite] = directory
        return made[suite]

    return of


def done(directory):
    """Steps that the last checkpoint holds; None without one."""
    path = directory / "checkpoints" / "last.safetensors"
    return int(load_checkpoint(path)[0]["step/count"]) if path.exists() else None


def steps_of(whole, moment):
    """What the checkpoint must hold: the steps of the undisturbed run until then."""
    number = done(whole)
    return {
        "start-up": None,
        "first step": 1,
        "mid epoch": STEPS + 2,
        "evaluation": 2 * (number // EPOCHS),
        "refit": number,
        "end": number,
    }[moment]


def disturb(suite, moment, name, tmp_path, sessions, line, undisturbed, assert_same_run):
    directory, whole, log = tmp_path / "run", undisturbed(suite), tmp_path / "log"
    arguments = line(suite, directory)
    # a run that composes its losses is not fitted again
    place, number = ("test", EPOCHS + 1) if (suite, moment) == ("composed", "refit") else MOMENTS[moment]
    stop = {"arguments": arguments, "place": place, "number": number, "signal": name, "log": str(log)}
    first = name.split()[0]
    assert sessions([stop]) == [CODES[first]]
    told, kept = log.read_text(), done(directory)
    assert "Traceback" not in told
    assert kept == steps_of(whole, moment)
    if kept is None:
        assert f"{SAID[first]} before the first step: there was nothing to save; " in told
    else:
        assert f"{SAID[first]} after step {kept}; the same command resumes from the checkpoint of that step." in told
    assert not (directory / "summary.json").exists()
    assert sessions([{"arguments": arguments, "log": str(log)}]) == [0]
    assert ("resuming after step" in log.read_text()) == (kept is not None)
    assert_same_run(whole, directory)
    events = [(folder / "events.jsonl") for folder in (whole, directory)]
    assert events[0].exists() == events[1].exists()
    assert not events[0].exists() or events[0].read_text() == events[1].read_text()


FEW = [
    ("digits", "start-up", "SIGINT"),
    ("composed", "first step", "SIGTERM"),
    ("digits", "mid epoch", "SIGINT"),
    ("digits", "mid epoch", "SIGINT SIGINT"),
    ("composed", "evaluation", "SIGINT"),
    ("table", "refit", "SIGINT"),
    ("digits", "end", "SIGTERM"),
]


@pytest.mark.parametrize(("suite", "moment", "name"), FEW)
def test_stopped(suite, moment, name, tmp_path, sessions, line, undisturbed, assert_same_run):
    disturb(suite, moment, name, tmp_path, sessions, line, undisturbed, assert_same_run)


@pytest.mark.slow
def test_stopped_everywhere(tmp_path, sessions, line, undisturbed, assert_same_run, capsys):
    cases = [(suite, moment, name) for suite in SUITES for moment in MOMENTS for name in CODES]
    wrong = {}
    for number, case in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            disturb(*case, folder, sessions, line, undisturbed, assert_same_run)
        except AssertionError as error:
            wrong[case] = str(error)[:500]
    with capsys.disabled():
        print(f"\nsignals: {len(cases) - len(wrong)} of {len(cases)}")
    assert not wrong


@pytest.mark.parametrize("name", CODES)
def test_a_second_signal_while_a_checkpoint_is_written(name, tmp_path, sessions, line, undisturbed, assert_same_run):
    """The first one has it written, by two files of which each has a name of its own until it is whole."""
    directory = tmp_path / "run"
    arguments = [*line("digits", directory), "run.checkpoint_seconds=0"]
    stop = {"arguments": arguments, "place": "rename", "number": 5, "signal": f"{name} {name} {name} {name}"}
    assert sessions([stop, {"arguments": arguments}]) == [CODES[name], 0]
    assert_same_run(undisturbed("digits"), directory)


@pytest.mark.parametrize(
    ("name", "number"), [("SIGTERM", 1), *(pytest.param(name, 2, marks=pytest.mark.slow) for name in CODES)]
)
def test_a_study_collects_its_runs(name, number, tmp_path):
    """Each with a checkpoint; no process is left."""
    values = "[0.1,0.2]" if number == 2 else "[0.1]"
    line = [sys.executable, "-c", "from lossrag.experiments.cli import main; main()", "sweep", "experiment=digits"]
    line += ["key=tasks.rho", f"values={values}", "seeds=[0]", "train.epochs=400", "root=runs", "log.tensorboard=false"]
    with subprocess.Popen(
        line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as study:
        until = time.monotonic() + 90
        while len(list(tmp_path.glob("runs/*/*/metrics.jsonl"))) < number and time.monotonic() < until:
            time.sleep(0.05)
        # a terminal sends Ctrl-C to all of them
        os.killpg(study.pid, getattr(signal, name)) if name == "SIGINT" else study.send_signal(signal.SIGTERM)
        told, _ = study.communicate(timeout=90)
    assert study.returncode == CODES[name], told
    assert told.splitlines()[-1] == f"{SAID[name]}; the same command goes on from here."
    assert "Traceback" not in told
    assert len(list(tmp_path.glob("runs/*/*/checkpoints/last.safetensors"))) == number
    with pytest.raises(ProcessLookupError):
        os.killpg(study.pid, 0)


@pytest.mark.parametrize("name", CODES)
def test_before_a_command_has_begun(name, monkeypatch, lossrag):
    import importlib

    def load(module):
        os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(importlib, "import_module", load)
    result = lossrag("compare", "experiment=smoke")
    assert (result.code, result.err) == (
        CODES[name],
        f"{SAID[name]} before the command began: there was nothing to save.\n",
    )
