"""A table of one's own on the command line: from a file to a finished run, or one line that says what is wrong."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest

from lossrag.experiments.record.jsonl import read_points
from lossrag.experiments.report.outcomes import residuals
from lossrag.experiments.report.reading import read_run
from lossrag.tasks import METRICS
from lossrag.tasks.table.preprocessing import TablePreprocessing

TABLE = ["train", "experiment=table", "train.epochs=2", "run.root=runs", "tasks.data=my.csv"]


@pytest.fixture
def people(tmp_path):
    """A file my.csv with holes in everything, in the current folder."""
    chance = np.random.default_rng(0)
    with open(tmp_path / "my.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "school", "income", "hours", "said"])
        for _ in range(200):
            age, school = chance.integers(18, 80), chance.choice(["hs", "phd"])
            z = (age - 45) / 15 + (school == "phd") + chance.normal(0, 0.5)
            row = [age, school, ">50K" if z > 0.4 else "<=50K", round(40 + 6 * z, 1)]
            row = ["" if chance.random() < 0.2 else cell for cell in row]
            writer.writerow([*row, f"{school} and word {int(age) // 3} of them"])
    return tmp_path / "my.csv"


def finished(tmp_path):
    (path,) = (tmp_path / "runs").iterdir()
    return path, json.loads((path / "summary.json").read_text())


def test_metaweighting(lossrag, people, tmp_path):
    result = lossrag(*TABLE, "tasks.targets=[income,hours]", "tasks.ignore=[said]")
    assert result.code == 0, result
    assert "income: binary, <=50K | >50K; " in result.out
    assert "inputs: age (number), school (2 categories)" in result.out
    path, summary = finished(tmp_path)
    assert summary["metric"] == {"income": "accuracy", "hours": "r2"}
    assert "my.csv (sha256 " in summary["edition"]
    plain = json.loads((path / "preprocessing.json").read_text())
    assert [target.labels for target in TablePreprocessing.of_plain(plain).targets] == [("<=50K", ">50K"), ()]
    again = lossrag(*TABLE, "tasks.targets=[income,hours]", "tasks.ignore=[said]")
    assert "This run is finished" in again.out


def test_the_command_without_a_preset_of_tables(lossrag, people, tmp_path):
    line = ["train", "tasks=table", "tasks.data=my.csv", "tasks.targets=[income,hours]", "tasks.ignore=[said]"]
    assert lossrag(*line, "model=mlp", "train.epochs=1", f"run.dir={tmp_path}/run").code == 0


@pytest.mark.pictures
def test_lossrag_composes_losses(lossrag, people, tmp_path):
    options = ["tasks.targets={income: {positive: '<=50K'}, hours: regression}", "tasks.columns=[age,school]"]
    result = lossrag(*TABLE, *options, "loss.policy=retrieval", "loss.evidence=look_ahead")
    assert result.code == 0, result
    path, summary = finished(tmp_path)
    assert set(summary["compositions"]) == {"income", "hours"}
    assert {"compositions.png", "losses.png", "bank.png", "trajectories.png"} <= {p.name for p in path.iterdir()}


def test_a_loss_per_task(lossrag, people, tmp_path):
    options = ["loss.tasks.hours=tukey", "tasks.targets=[income,hours]", "tasks.ignore=[said]"]
    assert lossrag(*TABLE, *options).code == 0
    points = read_points(finished(tmp_path)[0] / "metrics.jsonl")
    assert all(0 <= point["support/loss/hours"] <= 1 for point in points if "support/loss/hours" in point)  # bounded


def test_texts(lossrag, people, tmp_path):
    options = [
        "model=textcnn",
        "tasks.text=said",
        "tasks.targets=[income,hours]",
        "tasks.vectors=random",
        "tasks.dim=8",
    ]
    result = lossrag(*TABLE, *options, "model.filters=4")
    assert result.code == 0, result
    assert "8-d vectors of" in result.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["tasks.targets=[incom]"], "my.csv has no column 'incom' (the target incom): did you mean 'income'?"),
        (["tasks.targets=[said]", "tasks.ignore=[said]"], "column 'said': the class 'hs and word"),
        (["tasks.targets=[income]", "tasks.data=your.csv"], "Cannot read the table your.csv"),
        (["tasks.targets=[income]", "tasks.rho=2"], "tasks.rho must be in (0, 1)"),
        (["tasks.targets=[income]", "tasks.txt=said"], "did you mean 'tasks.text'"),
        (["tasks.targets=[income]", "tasks.ignore=[said]", "model=textcnn"], "this suite has none: choose mlp"),
        (
            ["tasks.targets=[income]", "tasks.text=said", "tasks.vectors=random"],
            "this suite has word tokens: choose textcnn",
        ),
    ],
)
def test_mistakes_leave_nothing_behind(lossrag, people, tmp_path, options, said):
    result = lossrag(*TABLE, *options)
    assert said in result.error
    assert result.err.count("\n") == 1
    assert not list((tmp_path / "runs").glob("*"))


def test_a_run_that_is_there_is_not_taken_back(lossrag, people, tmp_path):
    """Another file under the same name: the run of the first one stays as it was."""
    line = [*TABLE, "tasks.targets=[income,hours]", "tasks.ignore=[said]"]
    assert lossrag(*line).code == 0
    path, _ = finished(tmp_path)
    (path / "summary.json").unlink()
    kept = shutil.copytree(path, tmp_path / "copy")
    people.write_text(people.read_text() + "30,hs,>50K,40,x\n")
    assert "sha256" in lossrag(*line).error
    assert (path / "preprocessing.json").read_bytes() == (kept / "preprocessing.json").read_bytes()


def test_metrics_of_ones_choice_and_patience(lossrag, people, tmp_path):
    """One of the package, one of one's own; the run ends when validation has not been better for so long."""
    (tmp_path / "mine.py").write_text(
        """
from lossrag import register_metric

@register_metric("within_five", kind="regression")
def within_five(targets, outputs):
    assert targets.min() > 5  # hours, not standardised ones
    return float((abs(targets - outputs) <= 5).mean())
"""
    )
    options = ["tasks.targets={income: {metric: roc_auc}, hours: {metric: within_five}}", "tasks.columns=[age,school]"]
    line = [*TABLE, *options, "library=[mine.py]", "train.epochs=60", "train.patience=3", "optimizer.lr=0.02"]
    result = lossrag(*line)
    assert result.code == 0, result
    path, summary = finished(tmp_path)
    METRICS.remove("within_five")
    assert summary["metric"] == {"income": "roc_auc", "hours": "within_five"}
    points = list(read_points(path / "metrics.jsonl"))
    means = [point["validation/score_mean"] for point in points if "validation/score_mean" in point]
    assert len(means) == summary["epochs"] == summary["best_epoch"] + 3 < 60
    assert max(means) == means[summary["best_epoch"] - 1]
    assert f"ended after epoch {len(means)}: none of the last 3 was better" in result.out
    assert any("support/accuracy/income" in point and "support/r2/hours" in point for point in points)
    last = [point for point in points if "test/within_five/hours" in point]
    assert last[0]["test/score_mean"] == pytest.approx(
        (last[0]["test/roc_auc/income"] + last[0]["test/within_five/hours"]) / 2
    )
    assert lossrag("figures", f"runs=[{path}]", "output=figures").code == 0


def test_errors_choose_an_epoch_by_what_they_are_worth(lossrag, people, tmp_path):
    options = ["tasks.targets=[income,hours]", "tasks.columns=[age,school]", "outer.metric=rmse"]
    result = lossrag(*TABLE, *options)
    path, summary = finished(tmp_path)
    assert summary["metric"] == {"income": "accuracy", "hours": "rmse"}
    assert summary["lower_is_better"] == ["hours"]
    scale = json.loads((path / "preprocessing.json").read_text())["targets"][1]["scale"][0]
    x = 1 - summary["test_r2"]["hours"] / scale
    worth = x if x >= 0 else x / (1 - x)
    (hours,) = residuals(read_run(path))  # of the rows that have a label, in hours
    assert len(hours.truth) < int(re.search(r"/ (\d+) rows", result.out)[1]), result.out
    assert ((hours.value - hours.truth) ** 2).mean() ** 0.5 == pytest.approx(summary["test_r2"]["hours"], rel=1e-5)
    assert summary["test_score_mean"] == pytest.approx((summary["test_accuracy"]["income"] + worth) / 2)


def test_a_metric_of_another_kind(lossrag, people):
    result = lossrag(*TABLE, "tasks.targets={hours: {metric: f1}}", "tasks.columns=[age,school]")
    assert (
        "tasks.targets.hours.metric: f1 is no score of hours, a regression: choose from r2, mae, rmse, spearman"
        in result.error
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_texts_in_word_pieces(lossrag, people, tiny_bert, tmp_path, frozen):
    options = [
        "model=bert",
        f"model.encoder={tiny_bert}",
        f"model.frozen={str(frozen).lower()}",
        "tasks.text=said",
        "tasks.max_tokens=24",
    ]
    result = lossrag(*TABLE, *options, "tasks.targets=[income,hours]", "train.epochs=1")
    assert result.code == 0, result
    assert "at most 24 word pieces of" in result.out
    plain = json.loads((finished(tmp_path)[0] / "preprocessing.json").read_text())
    assert (plain["text"], plain["words"]) == ("said", [])


def test_tasks_with_rows_of_their_own(lossrag, people, tmp_path):
    """A filter for each; and JSON lines, whose values have kinds of their own."""
    with open(people) as file:
        rows = list(csv.DictReader(file))
    lines = [
        json.dumps({"n": i, "of": row["school"] or None, "good": i % 3 > 0, "text": f"{i % 3} is {i % 20}"})
        for i, row in enumerate(rows)
    ]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    options = ["tasks.targets={a: {column: good, where: {of: hs}}, b: {column: good, where: {of: phd}, metric: f1}}"]
    line = [*TABLE[:-1], "tasks.data=my.jsonl", *options, "tasks.columns=[n]"]
    result = lossrag(*line)
    assert result.code == 0, result
    assert "a: binary, false | true; " in result.out
    assert finished(tmp_path)[1]["metric"] == {"a": "accuracy", "b": "f1"}


def test_a_sweep(lossrag, people, tmp_path, runs_here):
    with runs_here():
        result = lossrag(
            "sweep",
            *TABLE[1:3],
            "key=weighting.alpha",
            "values=[0.1]",
            "seeds=[0,1]",
            f"root={tmp_path}/sweep",
            "tasks.data=my.csv",
            "tasks.targets=[income,hours]",
            "tasks.ignore=[said]",
        )
    assert result.code == 0, result
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "sweep").rglob("summary.json")]
    assert {summary["seed"] for summary in summaries} == {0, 1}
    assert len({summary["edition"] for summary in summaries}) == 1  # other splits of the same rows
