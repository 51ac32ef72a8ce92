"""The paper's figures from run directories: every task named, nothing on top of another, every gap said."""

from __future__ import annotations

import copy
import csv
import json
import random
from functools import partial

import pytest
from omegaconf import OmegaConf

from lossrag import ConfigError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import run_id
from lossrag.experiments.figures.accuracy import draw_accuracy
from lossrag.experiments.figures.evolution import WINDOWS, draw_weights, weights_over_epochs
from lossrag.experiments.figures.gaps import draw_gaps, losses_at
from lossrag.experiments.figures.sweeps import draw_sweep
from lossrag.experiments.plotting import Drawing, Skipped
from lossrag.experiments.record.finished import by_method, load_runs, main_setting, run_directories
from tests.experiments.legible import assert_legible

PRODUCTS = ["books", "electronics", "dvd", "kitchen_housewares", "apparel", "camera_photo", "health_personal_care"]
PRODUCTS += ["music", "toys_games", "video", "baby", "magazines", "software", "sports_outdoors"]
TOPICS = ["COMP", "REC", "SCI", "TALK"]
METHODS = ["single_task", "uniform", "gradnorm", "mgda", "uncertainty", "bandit_mtl", "dwa", "epo", "metaweighting"]
EPOCHS, STEPS = 6, 40


@pytest.fixture(scope="module")
def settings():
    return load_config(["experiment=digits"])[1]


def write_run(settings, root, weighting="metaweighting", tasks=TOPICS, seed=0, query=True, **changes):
    """A finished run as `lossrag train` leaves it, of made-up numbers: its directory."""
    draw = random.Random(f"{weighting}{seed}{changes}")
    own = copy.deepcopy(settings)
    own["seed"] = own["tasks"]["seed"] = seed
    own["weighting"]["name"] = weighting
    own["train"]["epochs"] = EPOCHS
    own["tasks"]["name"] = "topics" if tasks is TOPICS else "products"
    for key, value in changes.items():
        section, _, option = key.partition("__")
        own[section][option] = value
    path = root / run_id(own)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(own)))
    accuracy = {task: 0.8 + 0.15 * draw.random() for task in tasks}
    summary = {
        "run_id": path.name,
        "preset": "paper",
        "seed": seed,
        "suite": own["tasks"]["name"],
        "edition": "made up",
        "weighting": weighting,
        "metric": dict.fromkeys(tasks, "accuracy"),
        "test_accuracy": accuracy,
        "test_accuracy_mean": sum(accuracy.values()) / len(tasks),
        "test_r2": {},
        "test_score_mean": sum(accuracy.values()) / len(tasks),
        "test_loss": {task: 0.5 + draw.random() for task in tasks},
        "task_weights": dict.fromkeys(tasks, 1.0),
        "best_epoch": 4,
        "epochs": EPOCHS,
        "validation_score_mean": 0.5,
        "refit": False,
        "seconds": 1.0,
        "versions": {"lossrag": "0.1.0"},
    }
    (path / "summary.json").write_text(json.dumps(summary))
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(1, EPOCHS * STEPS + 1):
            epoch = (step - 1) // STEPS + 1
            point = {"step": step, "epoch": epoch}
            for task in tasks:
                point[f"support/loss/{task}"] = 1 / epoch
                point[f"weight/{task}"] = 1 + draw.random() * step / 100
            file.write(json.dumps(point) + "\n")
            if step % STEPS == 0:
                splits = ("validation", "query") if query else ("validation",)
                ends = {f"{split}/loss/{task}": 0.3 + draw.random() for split in splits for task in tasks}
                file.write(json.dumps({"step": step, "epoch": epoch, **ends}) + "\n")
    return path


@pytest.fixture
def write(settings, tmp_path):
    """One of these in ``runs``."""
    return partial(write_run, settings, tmp_path / "runs")


@pytest.fixture(scope="module", params=[TOPICS, PRODUCTS], ids=["4 tasks", "14 tasks"])
def many(request, settings, tmp_path_factory):
    """Nine methods with three seeds each."""
    tasks, root = request.param, tmp_path_factory.mktemp("many")
    return tasks, load_runs([write_run(settings, root, method, tasks, s) for method in METHODS for s in range(3)])[0]


def test_accuracy(many):
    tasks, runs = many
    (drawing,) = draw_accuracy(runs)
    assert drawing.name == f"accuracy-{runs[0].problem[0]}-mlp"
    assert_legible(drawing, [*tasks, "mean", "STL", "Uniform", "MetaWeighting", "BanditMTL"])
    assert {axes.get_xlabel() for axes in drawing.figure.axes} == {"accuracy (%)"}
    (axes, *_) = drawing.figure.axes
    assert axes.get_title() == tasks[0]
    values = sorted(100 * run.score(tasks[0]) for run in runs if run.method == "MetaWeighting")
    clouds = [line for line in axes.get_lines() if line.get_marker() == "."]
    assert sorted(clouds[-1].get_xdata()) == pytest.approx(values)  # MetaWeighting is the last
    diamonds = [line for line in axes.get_lines() if line.get_marker() == "D"]
    assert diamonds[-1].get_xdata()[0] == pytest.approx(sum(values) / 3)
    bars = [line for line in axes.get_lines() if line.get_marker() == "None"]
    spread = (sum((value - sum(values) / 3) ** 2 for value in values) / 2 / 3) ** 0.5
    assert bars[-1].get_xdata()[1] - sum(values) / 3 == pytest.approx(4.302653 * spread, rel=1e-5)  # t, 2 degrees


def test_accuracy_of_an_error(write):
    path = write()
    summary = json.loads((path / "summary.json").read_text())
    summary |= {"metric": {**summary["metric"], "REC": "mae"}, "lower_is_better": ["REC"]}
    (path / "summary.json").write_text(json.dumps(summary))
    (drawing,) = draw_accuracy(load_runs([path])[0])
    assert_legible(drawing, [*TOPICS, "mean"])
    labels = {axes.get_title(): axes.get_xlabel() for axes in drawing.figure.axes}
    assert labels == {**dict.fromkeys(TOPICS, "accuracy (%)"), "REC": "mae, less is better", "mean": "score"}


def test_weights(many):
    tasks, runs = many
    (drawing,) = draw_weights(runs)
    assert_legible(drawing, [*tasks, "MetaWeighting", "GradNorm", "MGDA", "Uncertainty", "BanditMTL"])
    visible = [axes for axes in drawing.figure.axes if axes.get_visible()]
    assert {axes.get_ylabel() for axes in visible} == {"task weight"}
    assert {axes.get_xlabel() for axes in visible} == {"epoch"}
    assert not {"Uniform", "STL"} & {axes.get_title() for axes in visible}  # theirs do not move
    assert not any("no panel" in note for note in drawing.notes)


def test_weights_are_those_of_the_run(write):
    (run,) = load_runs([write()])[0]
    epochs, weights = weights_over_epochs(run)
    logged = [point["weight/REC"] for point in run.points if "weight/REC" in point]
    assert len(logged) == EPOCHS * STEPS > WINDOWS
    assert weights[1] == pytest.approx([(a + b) / 2 for a, b in zip(logged[::2], logged[1::2], strict=True)])
    assert epochs[-1] == pytest.approx(EPOCHS - 0.5 / STEPS)


def test_gaps(many):
    tasks, runs = many
    (drawing,) = draw_gaps(runs)
    assert_legible(drawing, [*tasks, "epoch 2", "epoch 4", "epoch 6", "chosen epoch (4)", "support", "query", "test"])
    charts = {axes.get_title().splitlines()[0]: axes for axes in drawing.figure.axes}
    for axes in charts.values():
        step = float(axes.get_title().splitlines()[1].split()[1])  # "rings 0.1 apart"
        assert list(axes.get_yticks()) == pytest.approx([step * ring for ring in range(1, len(axes.get_yticks()) + 1)])
        assert axes.get_ylim() == (0, axes.get_yticks()[-1])
        assert max(max(line.get_ydata()) for line in axes.get_lines()) <= axes.get_ylim()[1]
    assert [line.get_label() for line in charts["epoch 2"].get_lines()] == ["support", "query", "validation"]
    *_, test = charts["chosen epoch (4)"].get_lines()
    uniform = [run for run in runs if run.method == "Uniform"]
    assert test.get_label() == "test"
    assert test.get_ydata()[0] == pytest.approx(sum(run.summary["test_loss"][tasks[0]] for run in uniform) / 3)
    support = charts["epoch 4"].get_lines()[0]
    assert list(support.get_ydata()) == pytest.approx([1 / 4] * (len(tasks) + 1))
    assert "test" in losses_at(uniform[0], 4)
    assert "test" not in losses_at(uniform[0], 6)


def test_sweep(write):
    values = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4)
    paths = [
        write(seed=seed, tasks=tasks, tasks__rho=value)
        for value in values
        for seed in range(3)
        for tasks in (TOPICS, PRODUCTS)
    ]
    other = write("bandit_mtl", tasks__rho=0.33)
    runs = load_runs([*paths, other])[0]
    (drawing,) = draw_sweep("rho", runs)
    assert_legible(drawing, ["topics, mlp", "products, mlp", *map(str, values)])
    left, right = drawing.figure.axes
    assert "accuracy (%)" in left.get_ylabel()
    assert right.get_title() == "topics, mlp"
    medians = [line for line in right.get_lines() if len(set(line.get_ydata())) == 1 and line.get_linewidth() == 1.4]
    of_first = sorted(
        100 * run.summary["test_accuracy_mean"]
        for run in runs
        if run.deciding["tasks.rho"] == 0.01 and len(run.tasks) == 4
    )
    assert medians[0].get_ydata()[0] == pytest.approx(of_first[1])
    assert drawing.notes[0].endswith("runs 3 at 0.01, 3 at 0.05, 3 at 0.1, 3 at 0.2, 3 at 0.3, 3 at 0.4")


def test_sweep_of_alpha(write):
    runs = load_runs([write(weighting__alpha=value) for value in (0.02, 0.1)])[0]
    (drawing,) = draw_sweep("alpha", runs)
    assert_legible(drawing, ["topics, mlp", "α: step size of the task weights", "0.02", "0.1"])


def test_a_sweep_does_not_crowd_other_figures(write):
    paths = [write(seed=seed, weighting__alpha=alpha) for alpha in (0.1, 0.2, 0.3) for seed in range(2)]
    paths += [write(seed=seed, tasks__rho=0.2, weighting__alpha=0.2) for seed in range(2)]
    chosen, values, left_out = main_setting(load_runs(paths)[0])
    assert values == {"tasks.rho": 0.1, "weighting.alpha": 0.2}  # shared with most of the others
    assert (len(chosen), left_out) == (2, 6)
    (drawing,) = draw_accuracy(load_runs(paths)[0])
    assert "MetaWeighting is shown with tasks.rho=0.1, weighting.alpha=0.2; 6 runs with other values are left out" in (
        drawing.notes
    )


def test_what_is_missing_is_said(write):
    (gaps,) = draw_gaps(load_runs([write()])[0])
    assert gaps == Skipped(
        "gaps-topics-mlp",
        "no run with uniform weights; run `lossrag train weighting=uniform train.query_for_baselines=support`",
    )
    (gaps,) = draw_gaps(load_runs([write("uniform", query=False)])[0])
    assert "trained on their query split" in gaps.reason
    (rho,) = draw_sweep("rho", load_runs([write(seed=5)])[0])
    assert "lossrag sweep key=tasks.rho" in rho.reason
    (weights,) = draw_weights(load_runs([write("uniform", seed=1)])[0])
    assert "no run of a method that moves its weights" in weights.reason
    (weights,) = draw_weights(load_runs([write("mgda_ub")])[0])
    assert isinstance(weights, Drawing)
    assert any("no panel for Uncertainty, GradNorm, BanditMTL, MetaWeighting" in note for note in weights.notes)


def test_methods_that_share_a_weighting_are_told_apart(write):
    paths = [
        write("uniform"),
        write("uniform", model__adversarial=0.05),
        write("tchebycheff", model__adversarial=0.05),
        write("uniform", loss__policy="retrieval"),
    ]
    runs = load_runs(paths)[0]
    assert list(by_method(runs)) == ["Uniform", "AdvMTL", "TchebycheffAdv", "Uniform, retrieval losses"]


def test_tuning_runs_of_a_comparison_are_no_results(write, tmp_path):
    root = tmp_path / "runs"
    tried, tested = write(seed=90), write(seed=0)
    for name, runs in (("tuning.csv", [tried, tested]), ("runs.csv", [tested])):
        with (root / name).open("w", newline="") as file:
            csv.writer(file).writerows([["method", "run_id"], *(["metaweighting", path.name] for path in runs)])
    assert run_directories(root) == ([tested], 1)


def test_command(lossrag, write, tmp_path):
    for method in ("uniform", "metaweighting"):
        write(method)
    half = write("mgda")
    (half / "summary.json").unlink()
    result = lossrag("figures", f"root={tmp_path / 'runs'}", f"output={tmp_path / 'out'}")
    assert result.code == 0, result
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stems = ("gaps-topics-mlp", "accuracy-topics-mlp", "weights-topics-mlp")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")}
    assert f"left out: {half} is not finished" in result.out
    assert "skipped rho: " in result.out
    assert "skipped alpha: " in result.out
    for name in names:
        head = (tmp_path / "out" / name).read_bytes()[:8]
        assert head == b"\x89PNG\r\n\x1a\n" if name.endswith("png") else head.startswith(b"%PDF")


def test_command_on_a_real_run(lossrag, finished, tmp_path):
    result = lossrag("figures", f"runs=[{finished}]", f"output={tmp_path}", "only=[weights]")
    assert result.code == 0, result
    assert {path.name for path in tmp_path.glob("*.p*")} == {"weights-digits-mlp.png", "weights-digits-mlp.pdf"}
    assert "no panel for Uncertainty, GradNorm, MGDA, BanditMTL" in result.out


def test_help(lossrag):
    result = lossrag("figures", "--help")
    assert result.code == 0
    assert "accuracy    2, 3, 10, 11" in result.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["output=x"], "needs runs"),
        (["root=nowhere"], "There is no run in nowhere"),
        (["runs=[.]"], "is no run directory"),
        (["root=runs", "only=[accurcy]"], "did you mean 'accuracy'"),
        (["rot=runs"], "root"),
        (["root=runs", "only=[gaps]", "epochs=[7]"], "has epochs 1 to 6, but not 7"),
    ],
)
def test_mistakes(lossrag, write, arguments, said):
    write("uniform")
    assert said in lossrag("figures", *arguments).error


def test_nothing_finished(lossrag, write):
    (write() / "summary.json").unlink()
    assert "None of these runs is finished" in lossrag("figures", "root=runs").error


@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "metrics.jsonl"])
def test_damaged_file(lossrag, write, name):
    (write() / name).write_text("{")
    assert f"{name} is damaged" in lossrag("figures", "root=runs").error


def test_a_folder_in_which_nothing_was_begun_is_no_run(lossrag, write):
    """As one that was made before its data were found missing: a configuration, and at most an empty log."""
    abandoned = write(seed=1)
    (abandoned / "summary.json").unlink()
    (abandoned / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="There is no run"):
        run_directories(abandoned.parent)
    write()
    result = lossrag("figures", "root=runs", "only=[rho]")
    assert result.code == 0
    assert str(abandoned.name) not in result.out
    assert f"{abandoned} was never begun" in lossrag("figures", f"runs=[{abandoned}]", "root=runs", "only=[rho]").out


def test_a_run_without_a_logged_step(write):
    """With log.every_steps beyond its length a run logs its epochs alone; a log may be lost altogether."""
    runs = []
    for method in ("uniform", "metaweighting"):
        path = write(method) / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "support/loss" not in line))
        runs.append(path.parent)
    (gaps,) = draw_gaps(load_runs(runs)[0])
    chart = {axes.get_title().splitlines()[0]: axes for axes in gaps.figure.axes}["epoch 2"]
    assert [line.get_label() for line in chart.get_lines()] == ["query", "validation"]
    (weights,) = draw_weights(load_runs(runs)[0])
    assert "has logged them" in weights.reason
    (both,) = draw_weights(load_runs([*runs, write("metaweighting", seed=1)])[0])
    assert "left out: 1 of 2 runs that logged no weights" in both.notes
    for path in runs:
        (path / "metrics.jsonl").unlink()
    (gaps,), (weights,) = (draw(load_runs(runs)[0]) for draw in (draw_gaps, draw_weights))
    assert "logged nothing" in gaps.reason
    assert "has logged them" in weights.reason
    assert len(draw_accuracy(load_runs(runs)[0])) == 1
