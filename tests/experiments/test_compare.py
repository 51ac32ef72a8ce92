"""The comparison through the command line: its plans, kills on the way, failed runs, mistakes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout

import pytest

from lossrag.experiments.cli import run
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.studies.plan import Run, label, load_plan, plan_names
from lossrag.lossbank.composing.policies import POLICIES
from lossrag.weighting import WEIGHTINGS
from tests.experiments.quick_settings import check_commands

SAME = ["compare.json", "runs.csv", "tuning.csv", "table.md", "table.tex"]
"""The files of a comparison that are the same, bit for bit, however it came about."""
SMOKE = ["compare", "experiment=smoke", "methods=[tchebycheff]", "seeds=[0]"]


# -- plans


@pytest.mark.parametrize("name", plan_names("compare"))
def test_every_method_is_possible_and_gets_equal_tuning(name):
    plan = load_plan("compare", name)
    tuning = plan.tuning
    assert {len(method.settings) for method in plan.rows.values()} == {tuning.runs if tuning else 0}
    assert tuning is None or tuning.seed not in plan.seeds
    check_commands(commands_of(plan))


@pytest.mark.slow
@pytest.mark.parametrize("name", plan_names("compare"))
def test_every_method_composes(name):
    for command in commands_of(load_plan("compare", name)):
        load_config(command)


def commands_of(plan):
    """One of every method on every suite."""
    settings = {name: (method.settings or [()])[-1] for name, method in plan.rows.items()}
    runs = [Run(suite, name, setting, plan.seeds[0]) for suite in plan.suites for name, setting in settings.items()]
    return [plan.command(run) for run in runs]


def test_every_method_has_all_of_them_on_both_corpora():
    plan = load_plan("compare", "every_method")
    chosen = {override for method in plan.rows.values() for override in method.overrides}
    assert {f"weighting={name}" for name in WEIGHTINGS} <= chosen
    assert {f"loss.policy={name}" for name in POLICIES if name != "fixed"} <= chosen
    assert {"model.sharing=none", "model.sharing=shared_private"} <= chosen
    suites = {load_config([f"experiment={suite}"])[0].tasks.name for suite in plan.suites}
    assert suites == {"newsgroups", "sentiment"}


def test_topic_small_is_what_it_says():
    plan = load_plan("compare", "topic_small")
    assert (len(plan.rows), plan.seeds, plan.suites) == (9, (0, 1, 2), ("topic_small",))
    assert "model.sharing=none" in plan.rows["single_task"].overrides
    assert load_plan("compare", "topic_small", rows=["dwa"]).rows.keys() == {"uniform", "dwa"}


def test_labels_tell_learning_rates_apart():
    assert label(("optimizer.lr=0.001", "weighting.lr=0.01")) == "lr=0.001 weighting.lr=0.01"


OWN = """
experiments: [digits]
seeds: [0]
overrides: [train.epochs=1, train.batch_size=256, optimizer.name=sgd, log.tensorboard=false]
tuning: {seed: 9, runs: 2, learning_rates: [0.1], learning_rates_without_knobs: [1e38, 0.1]}
methods:
  uniform:
  fixed:
    overrides: ["weighting.weights=[1,1]"]
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("runs: 2", "runs: 3"), "every method gets tuning.runs=3 settings, but uniform has 2"),
        (("learning_rates:", "learning_rate:"), "did you mean 'learning_rates'"),
        (("  fixed:", "  fixd:"), "did you mean 'fixed'"),
        (("    overrides", "    override"), "did you mean 'overrides'"),
        (("  uniform:", "  unifrm:"), "has no method 'uniform'"),
        (("experiments: [digits]", ""), "must have experiments"),
        (("methods:", "methods: ["), "cannot be read"),
        (("experiments: [digits]", "experiments: [digit]"), "did you mean 'digits'"),
        (("  uniform:", "  single_task:\n  uniform:"), "model.sharing=none"),
        (("seeds: [0]", "seeds: 0"), "plan own.seeds must be a list of whole numbers, got 0: write seeds: [0]"),
        (
            ("    overrides:", "    suites: {digit: []}\n    overrides:"),
            "none of its experiments: did you mean 'digits'",
        ),
        (("{seed: 9, runs: 2,", "{seeds: 9, runs: 2,"), "did you mean 'seed'"),
    ],
)
def test_mistakes_in_a_plan(lossrag, tmp_path, change, message):
    (tmp_path / "own.yaml").write_text(OWN.replace(*change))
    assert message in lossrag("compare", f"experiment={tmp_path}/own.yaml").error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=topic_smal"], "did you mean 'topic_small'"),
        (["experiment=smoke", "methods=[tchebychef]"], "did you mean 'tchebycheff'"),
        (["experiment=smoke", "seeds=[1,1]"], "distinct"),
        (["experiment=smoke", "seeds=1"], "compare.seeds must be a list of whole numbers, got 1: write seeds=[1]"),
        (["experiment=smoke", "seeds=[-1]"], "from 0"),
        (["experiment=smoke", "processes=0"], "1 or more"),
        (["experiment=smoke", "process=2"], "did you mean 'processes'"),
        (["processes=2"], "experiment=NAME"),
        (["experiment=absent.yaml"], "absent.yaml is not there"),
        (["topic_small"], "key=value"),
    ],
)
def test_mistakes(lossrag, tmp_path, arguments, message):
    assert message in lossrag("compare", *arguments).error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["experiment=smoke", "-h"]])
def test_help(lossrag, arguments):
    shown = lossrag("compare", *arguments)
    assert shown.code == 0
    for name in plan_names("compare"):
        assert f"experiment={name} " in shown.out


# -- whole comparisons


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, runs_here):
    """Two methods, two settings and one seed each: six runs, and what the command said."""
    root = tmp_path_factory.mktemp("undisturbed")
    with runs_here(), redirect_stdout(io.StringIO()) as out:
        assert run([*SMOKE, f"root={root}"]) == 0
    return root / "smoke", out.getvalue()


def test_what_a_comparison_leaves(undisturbed):
    folder, out = undisturbed
    report = json.loads((folder / "compare.json").read_text())
    (suite,) = report["suites"]
    assert [row["method"] for row in suite["rows"]] == ["uniform", "tchebycheff"]
    for row in suite["rows"]:
        trials = suite["tuning"]["methods"][row["method"]]
        assert len(trials) == 2
        best = max(trials, key=lambda trial: trial["validation"])
        assert best["chosen"]
        assert row["setting"] == best["setting"]
        assert row["failed"] == 0
    assert len((folder / "runs.csv").read_text().splitlines()) == 1 + 2
    assert len((folder / "tuning.csv").read_text().splitlines()) == 1 + 4
    assert len((folder / "seconds.csv").read_text().splitlines()) == 1 + 6
    assert "(1 of 1, mean" in out
    assert "uniform" in (folder / "table.md").read_text()


def test_the_second_time_nothing_runs(undisturbed, lossrag):
    folder, _ = undisturbed
    files = [*SAME, "seconds.csv"]
    before = {name: (folder / name).read_bytes() for name in files}
    runs = {
        path: path.stat().st_mtime_ns for pattern in ("logs/*.log", "*/metrics.jsonl") for path in folder.glob(pattern)
    }
    assert len(runs) == 12
    assert lossrag(*SMOKE, f"root={folder.parent}").code == 0
    assert {path: path.stat().st_mtime_ns for path in runs} == runs
    assert {name: (folder / name).read_bytes() for name in files} == before


def test_killed_on_the_way(undisturbed, tmp_path, lossrag, runs_here):
    """The parent by SIGKILL: its run notices, and ends as after SIGTERM. What is left then is done in this process, as
    all of the undisturbed comparison."""
    killed(tmp_path, [("parent", 0)], "processes=1")
    with runs_here():
        assert lossrag(*SMOKE, f"root={tmp_path}").code == 0
    for name in SAME:
        assert (tmp_path / "smoke" / name).read_bytes() == (undisturbed[0] / name).read_bytes(), name


@pytest.mark.slow
def test_killed_thrice(undisturbed, tmp_path, lossrag, runs_here):
    """The parent alone, all of its group, the parent by SIGTERM, in the second phase."""
    killed(tmp_path, [("parent", 1), ("group", 2), ("terminate", 5)])
    assert "the same command goes on" in (tmp_path / "out").read_text()
    with runs_here():
        assert lossrag(*SMOKE, f"root={tmp_path}").code == 0
    for name in SAME:
        assert (tmp_path / "smoke" / name).read_bytes() == (undisturbed[0] / name).read_bytes(), name


def killed(root, sessions, *options):
    """Start the comparison as often as there are sessions, and end each so when so many runs have finished and the next
    has begun."""
    line = [sys.executable, "-c", "from lossrag.experiments.cli import main; main()", *SMOKE, f"root={root}", *options]
    for stop, number in sessions:
        with (root / "out").open("ab") as out:
            process = subprocess.Popen(line, stdout=out, stderr=out, start_new_session=True)
        try:
            _wait_for(root / "smoke", number, process)
            if stop == "group":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.send_signal(signal.SIGKILL if stop == "parent" else signal.SIGTERM)
            assert process.wait(timeout=60) == (143 if stop == "terminate" else -signal.SIGKILL)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        assert not (root / "smoke" / "compare.json").exists()


def _wait_for(folder, summaries, process):
    deadline = time.monotonic() + 240
    while len(list(folder.glob("*/summary.json"))) < summaries or len(list(folder.glob("*/config.yaml"))) <= summaries:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


UNTUNED = """
experiments: [digits]
seeds: [0]
overrides: [train.epochs=1, train.batch_size=256, log.tensorboard=false]
methods:
  uniform:
  fixed:
    suites: {digits: ["weighting.weights=[1,1,1,4]"]}
"""


def test_without_tuning_every_method_runs_as_it_is(tmp_path, lossrag, runs_here):
    (tmp_path / "own.yaml").write_text(UNTUNED)
    with runs_here():
        assert lossrag("compare", f"experiment={tmp_path}/own.yaml", f"root={tmp_path}").code == 0
    (suite,) = json.loads((tmp_path / "own" / "compare.json").read_text())["suites"]
    assert suite["tuning"] is None
    assert [(row["method"], row["setting"], row["failed"]) for row in suite["rows"]] == [
        ("uniform", [], 0),
        ("fixed", [], 0),
    ]
    assert "Not tuned" in (tmp_path / "own" / "table.md").read_text()
    (own,) = (tmp_path / "own").glob("digits-fixed-*/config.yaml")
    assert "- 4" in own.read_text()


def test_knobs_without_tuning(lossrag, tmp_path):
    (tmp_path / "own.yaml").write_text(UNTUNED.replace("suites: {digits", "knobs: {weighting.weights"))
    error = lossrag("compare", f"experiment={tmp_path}/own.yaml").error
    assert "fixed has knobs, but the plan has no tuning" in error


def test_failed_runs_are_reported_and_the_rest_goes_on(tmp_path, lossrag, runs_here):
    (tmp_path / "own.yaml").write_text(OWN)
    with runs_here():
        done = lossrag("compare", f"experiment={tmp_path}/own.yaml", f"root={tmp_path}")
    assert done.code == 1
    assert "failed: digits-fixed-lr=0.1-s9: " in done.out
    (suite,) = json.loads((tmp_path / "own" / "compare.json").read_text())["suites"]
    uniform, fixed = suite["rows"]
    assert (uniform["failed"], uniform["setting"]) == (0, ["optimizer.lr=0.1"])
    assert suite["tuning"]["methods"]["uniform"][0]["validation"] is None
    assert (fixed["failed"], fixed["setting"], fixed["test"]) == (1, None, None)
    assert "failed: 1 of 1" in (tmp_path / "own" / "table.md").read_text()
