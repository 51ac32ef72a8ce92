"""lossrag report: figures by hand, real runs against their own scores, hostile names, damage, outputs."""

from __future__ import annotations

import base64
import json
import os
import random
import shlex
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score

from lossrag.errors import CheckpointError
from lossrag.experiments.record.predictions import read_predictions
from lossrag.experiments.report.outcomes import Confusion, confusions, residuals
from lossrag.experiments.report.reading import read_run
from lossrag.tasks import Task, load_suite
from lossrag.tensors import load_tensors, save_tensors
from tests.experiments.reported_runs import made_run, read_page

EVIL = "<script>document.title='hacked'</script>"


@pytest.fixture
def undrawn(monkeypatch):
    """No charts, which take most of the time."""
    for name in ("compositions_chart", "progress_chart", "residuals_chart", "trajectories_chart"):
        monkeypatch.setattr(f"lossrag.experiments.report.page.{name}", lambda *_: None)


@pytest.fixture
def three(tmp_path):
    """Two settings of a method on seeds 0 and 1, one of them on seed 2 as well; a reference on seeds 0 and 1."""
    meta = {"name": "metaweighting", "alpha": 0.1}
    for seed, own in enumerate([(0.5, 0.7), (0.6, 0.8)]):
        made_run(tmp_path / f"runs/u{seed}", dict(zip("ab", own, strict=True)), seed)
    for seed, own in enumerate([(0.6, 0.7), (0.8, 0.8), (0.9, 0.9)]):
        made_run(tmp_path / f"runs/m{seed}", dict(zip("ab", own, strict=True)), seed, weighting=meta)
    for seed, own in enumerate([(0.4, 0.5), (0.4, 0.5)]):
        made_run(tmp_path / f"runs/n{seed}", dict(zip("ab", own, strict=True)), seed, weighting={**meta, "alpha": 0.2})
    return tmp_path / "runs"


def test_figures_by_hand(three, lossrag, tmp_path, undrawn):
    result = lossrag("report", f"root={three}", "output=r.html")
    assert (result.code, "r.html: 7 runs in 3 groups" in result.out) == (0, True)
    page = read_page(tmp_path / "r.html")
    uniform, tenth, fifth = page.table("runs")
    # means .6 and .7: half 12.7062 * (.1 / sqrt 2) / sqrt 2; of three .65, .8, .9: 4.30265 * .125831 / sqrt 3
    assert uniform["test"] == "0.6500 ± 0.6353"
    assert (uniform["validation"], uniform["seeds"]) == ("0.5500 ± 0.6353", "0, 1")
    assert tenth["test"] == "0.7833 ± 0.3126"
    # pairs .05 and .1: half 12.7062 * .025
    assert (uniform["minus Uniform"], tenth["minus Uniform"]) == ("reference", "+0.0750 ± 0.3177")
    assert fifth["minus Uniform"].startswith("-0.2000")
    assert [tenth["runs"], fifth["runs"]] == ["MetaWeighting alpha=0.1", "MetaWeighting alpha=0.2"]
    # seeds 0 and 1 of both tasks: ranks 2 1.5 2 1.5, 1 1.5 1 1.5, 3 3 3 3
    assert [row["rank"] for row in (uniform, tenth, fifth)] == ["1.75", "1.25", "3.00"]
    a, b = page.table("task")
    assert (a["task"], a["Uniform"]) == ("a | accuracy", "0.5500 ± 0.6353 | 0.4500 ± 0.6353")
    assert b["MetaWeighting alpha=0.1"].startswith("0.8000 ± ")
    settings = {row["setting"]: list(row.values())[1:] for row in page.table("setting")}
    assert settings["weighting.alpha"] == ["", "0.1", "0.2"]
    assert settings.keys() == {"weighting.alpha", "weighting.name"}


def best_cells(page_path, row):
    """The columns of the table by task in which a row has its best figure."""
    text = page_path.read_text()
    line = next(line for line in text.split("<tr>") if f'<th class="left">{row}<' in line and "<small>" in line)
    return ['class="best"' in cell for cell in line.split("<td")[1:]]


def test_errors_are_better_when_lower(tmp_path, lossrag, undrawn):
    metric = {"hours": "mae", "income": "accuracy"}
    made_run(tmp_path / "runs/a", {"hours": 3.0, "income": 0.7}, metric=metric, mean=0.6)
    made_run(
        tmp_path / "runs/b", {"hours": 2.0, "income": 0.6}, metric=metric, mean=0.7, weighting={"name": "metaweighting"}
    )
    assert lossrag("report", "root=runs").code == 0
    page = read_page(tmp_path / "report.html")
    assert page.table("task")[0]["task"] == "hours | mae, less is better"
    assert best_cells(tmp_path / "report.html", "hours") == [False, True]
    assert best_cells(tmp_path / "report.html", "income") == [True, False]
    assert [row["rank"] for row in page.table("runs")] == ["1.50", "1.50"]
    assert "an error counts as 1 - error / spread" in page.text


def test_rows_of_a_plan_have_its_names(three, lossrag, tmp_path, undrawn):
    (three / "compare.json").write_text(json.dumps({"suites": [{"reference": "mine"}]}))
    lines = ["suite,method,setting,seed,run_id"]
    lines += [f"toy,{name},,{seed},{run}{seed}" for run, name in (("m", "mine"), ("u", "plain")) for seed in (0, 1)]
    lines += ["toy,mine,,2,m2", *(f"toy,other,,{seed},n{seed}" for seed in (0, 1)), "toy,failing,,0,failed"]
    (three / "runs.csv").write_text("\n".join(lines))
    assert lossrag("report", f"root={three}").code == 0
    rows = {row["runs"]: row for row in read_page(tmp_path / "report.html").table("runs")}
    assert rows.keys() == {"mine", "plain", "other"}
    assert rows["mine"]["minus mine"] == "reference"
    assert rows["plain"]["minus mine"].startswith("-0.0750")
    (three / "compare.json").write_text("[")
    result = lossrag("report", f"root={three}")
    assert (result.code, "its rows go unnamed" in result.out) == (0, True)


def test_pictures_of_very_many_runs(three, lossrag, tmp_path, monkeypatch):
    drawn = []
    for name in ("compositions_chart", "progress_chart", "residuals_chart"):
        monkeypatch.setattr(f"lossrag.experiments.report.page.{name}", lambda *_: None)
    monkeypatch.setattr("lossrag.experiments.report.page.trajectories_chart", lambda run: drawn.append(run.id))
    monkeypatch.setattr("lossrag.experiments.report.page.DRAWN", 6)
    assert lossrag("report", f"root={three}").code == 0
    assert drawn == ["u0", "u1", "m0", "m1", "n0", "n1"]
    assert f"lossrag report {three / 'm2'}" in read_page(tmp_path / "report.html").text
    monkeypatch.setattr("lossrag.experiments.report.page.DRAWN", 2)
    assert lossrag("report", f"root={three}").code == 0
    assert drawn[6:] == ["u0", "m0", "n0"]


def test_runs_of_other_problems_are_apart(three, lossrag, tmp_path, undrawn):
    made_run(three / "other", {"a": 0.5, "c": 0.6})
    assert lossrag("report", f"root={three}").code == 0
    text = read_page(tmp_path / "report.html").text
    assert "toy · mlp: a, b" in text
    assert "toy · mlp: a, c" in text


def test_test_rows_give_the_scores_of_the_run(finished):
    summary = json.loads((finished / "summary.json").read_text())
    run = read_run(finished)
    suite = load_suite("digits", seed=0)
    for task, own in zip(suite.tasks, suite.splits["test"], strict=True):
        targets, outputs = (part.numpy() for part in run.rows[task.name])
        assert np.array_equal(targets, own.targets.numpy().astype(targets.dtype)), "in the order of the split"
        if task.kind == "classification":
            assert accuracy_score(targets, outputs) == pytest.approx(summary["test_accuracy"][task.name], abs=1e-9)
        else:
            score = r2_score(targets, outputs, multioutput="variance_weighted")
            assert score == pytest.approx(summary["test_r2"][task.name], abs=1e-5)
    by_task = {matrix.task: matrix for matrix in confusions(run)}
    assert by_task.keys() == set(summary["test_accuracy"])
    assert by_task["parity"].labels == ["even", "odd"]
    for name, matrix in by_task.items():
        assert matrix.right / matrix.rows == pytest.approx(summary["test_accuracy"][name], abs=1e-9)
    assert [own.name for own in residuals(run)] == ["centre, output 1", "centre, output 2"]


def test_confusion_by_hand():
    counts = np.array([[5, 1, 0], [2, 6, 2], [0, 0, 0]])
    matrix = Confusion("t", ("a", "b", "c"), counts)
    assert (matrix.rows, matrix.right, matrix.whole) == (16, 11, True)
    assert matrix.pairs == [("b", "a", 2), ("b", "c", 2), ("a", "b", 1)]
    assert matrix.cells[1] == ("b", [(2, 0.2), (6, 0.6), (2, 0.2)])
    assert matrix.cells[2] == ("c", [(0, 0.0)] * 3)
    assert not Confusion("t", list(map(str, range(21))), np.eye(21, dtype=np.int64)).whole


def test_many_classes_are_confusions_alone(finished, lossrag, tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr("lossrag.experiments.report.outcomes.MOST_CLASSES", 5)
    assert lossrag("report", str(finished)).code == 0
    page = read_page(tmp_path / "report.html")
    digit = confusions(read_run(finished))[0]
    assert "10 classes; the most frequent confusions" in page.text
    rows = [(row["truth"], row["prediction"], int(row["rows"])) for row in page.table("truth")]
    assert rows == digit.pairs
    assert len(rows) == 20
    assert rows[0][2] == max(count for i, row in enumerate(digit.counts) for j, count in enumerate(row) if i != j)


def test_a_real_run_whole(finished, lossrag, tmp_path):
    result = lossrag("report", str(finished), "output=r.html")
    assert (result.code, result.err) == (0, "")
    text = (tmp_path / "r.html").read_text()
    page = read_page(tmp_path / "r.html")
    # nothing from elsewhere, nothing that runs
    assert "script" not in page.names
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert links
    assert all(value.startswith(("data:image/svg+xml;base64,", "#")) for value in links)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "default-src 'none'" in text
    pictures = [base64.b64decode(value.partition(",")[2]) for value in links if value.startswith("data:")]
    titles = " ".join(" ".join(ElementTree.fromstring(picture).itertext()) for picture in pictures)
    for shown in ("support loss", "validation accuracy", "task weight", "lambda", "parity", "centre, output 1"):
        assert shown in titles
    # the command is the one that made it, as a shell reads it
    config = next(text for text in page.pre if text.startswith("lossrag train"))
    said = shlex.split(config)[2:]
    assert said[:3] == ["experiment=digits", "train.epochs=2", "train.batch_size=256"]
    shown = lossrag("train", *said)
    assert (shown.code, "This run is finished" in shown.out) == (0, True)
    summary = json.loads((finished / "summary.json").read_text())
    row = page.table("task")[0]
    assert row["test"] == f"{summary['test_accuracy'][row['task']]:.4f}"
    again = lossrag("report", str(finished), "output=again.html")
    assert again.code == 0
    assert (tmp_path / "again.html").read_text().replace("again.html", "r.html") == text, "the same runs, the same file"


def test_commands_are_quoted_and_what_was_changed_is_told(tmp_path, lossrag, undrawn):
    said = ["experiment=toy", "tasks.data=my file.csv", "tasks.targets={a: {metric: f1}}", "x='$HOME`id`'"]
    made_run(tmp_path / "run", {"a": 0.5}, overrides=said)
    assert lossrag("report", "run").code == 0
    page = read_page(tmp_path / "report.html")
    assert shlex.split(page.pre[1]) == ["lossrag", "train", *said]
    assert "changed by tasks.data=my file.csv" in page.text
    config = json.loads((tmp_path / "run/config.yaml").read_text())
    config.pop("overrides")
    (tmp_path / "run/config.yaml").write_text(json.dumps(config))
    assert lossrag("report", "run").code == 0
    assert "did not keep the command" in read_page(tmp_path / "report.html").text


def test_names_are_text(tmp_path, lossrag):
    """Whatever a file calls its tasks, classes and losses; in pictures, too."""
    task = f"{EVIL}&amp;$x_1$"
    shares = {EVIL: 0.75, "mae": 0.25}
    path = made_run(
        tmp_path / "run <b>",
        {task: 0.5, "_hidden": 0.6, "with\x00zero": 0.7},
        preset=EVIL,
        compositions={task: shares},
        off={task: [EVIL]},
        reasons={task: EVIL},
    )
    event = {"step": 10, "task": task, "loss": EVIL, "what": "composed", "reason": f"{EVIL} {{{{ 7 * 7 }}}}"}
    later = {**event, "step": 20, "shares": {"mae": 1.0}}
    (path / "events.jsonl").write_text(json.dumps({**event, "shares": shares}) + "\n" + json.dumps(later) + "\n")
    points = [{"step": step, f"composition/{task}/mae": 0.5, f"composition/{task}/{EVIL}": 0.5} for step in (5, 15)]
    with (path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(point) + "\n" for point in points)
    assert lossrag("report", str(path)).code == 0
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    page = read_page(tmp_path / "report.html")
    assert page.table("task")[0]["task"] == task
    assert f"{task}: {EVIL} .75, mae .25; 1 loss off. {EVIL}" in page.texts
    first, second = page.table("step")
    assert (first["losses"], first["why"]) == (f"+ {', '.join(sorted(shares))}", f"{EVIL} {{{{ 7 * 7 }}}}")
    assert (second["losses"], second["made of"]) == (f"- {EVIL}", "mae 1.00")
    pictures = [value for _, value in page.attributes if value and value.startswith("data:image")]
    drawn = [ElementTree.fromstring(base64.b64decode(value.partition(",")[2])) for value in pictures]
    words = " ".join(" ".join(picture.itertext()) for picture in drawn)
    assert task in words
    assert "_hidden" in words
    assert not [element for picture in drawn for element in picture.iter() if element.tag.endswith("script")]


def test_many_groups_have_tasks_in_columns(tmp_path, lossrag, undrawn):
    for number in range(10):
        weighting = {"name": "metaweighting", "alpha": 0.1 * number}
        made_run(tmp_path / f"runs/{number}", {"a": 0.5, "b": 0.1 * number}, weighting=weighting)
    assert lossrag("report", "root=runs").code == 0
    tables = [table for table in read_page(tmp_path / "report.html").tables if table[0][0] == "runs"]
    assert tables[1][0] == ["runs", "a | accuracy", "b | accuracy"]
    assert len(tables[1]) == 11


def test_what_cannot_be_shown_is_told(finished, tmp_path, lossrag, undrawn):
    for name in ("empty", "foreign", "folder/of/run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "foreign/thesis.tex").write_text("all my work")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder/of/run/config.yaml").write_text("seed: 0")
    begun = made_run(tmp_path / "begun", {"a": 0.5})
    (begun / "summary.json").unlink()
    (made_run(tmp_path / "broken", {"a": 0.5}) / "summary.json").write_text('{"run_id": ')
    (made_run(tmp_path / "odd", {"a": 0.5}) / "config.yaml").write_text("- 1")
    shutil.copytree(finished, tmp_path / "twin", ignore=shutil.ignore_patterns("tensorboard"))
    paths = ["empty", "foreign", "folder", "file", "absent", "begun", "broken", "odd", str(finished), "twin"]
    result = lossrag("report", *paths, "output=r.html")
    assert result.code == 0
    why = {row["directory"]: row["why"] for row in read_page(tmp_path / "r.html").table("directory")}
    assert why.keys() == set(paths) - {str(finished)}
    for name, words in {
        "empty": "it is empty",
        "foreign": "it has no config.yaml",
        "folder": "say root=folder",
        "file": "it is a file",
        "absent": "there is no such folder",
        "begun": "has not finished (step 20)",
        "broken": "summary.json is damaged",
        "odd": "config.yaml",
        "twin": f"the same configuration as {finished}",
    }.items():
        assert words in why[name]
        assert f"left out: {name}: " in result.out
    error = lossrag("report", *paths[:8], "output=none.html").error
    assert "There is no finished run to report on: empty: it is empty; foreign: " in error
    assert not (tmp_path / "none.html").exists()
    (tmp_path / "nothing").mkdir()
    assert "no run in nothing" in lossrag("report", "root=nothing").error


def test_parts_that_are_missing_are_told(finished, tmp_path, lossrag, undrawn):
    path = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard", "checkpoints"))
    for name in ("test_predictions.safetensors", "metrics.jsonl", "model.json"):
        (path / name).unlink()
    (path / "events.jsonl").write_text('{"step": 1')
    result = lossrag("report", "run")
    assert result.code == 0
    text = read_page(tmp_path / "report.html").text
    for words in ("metrics.jsonl cannot be read (No such file", "has no model.json", "mean score"):
        assert words in text
    shutil.copy(finished / "model.json", path)
    shutil.copy(finished / "preprocessing.json", path)
    (path / "metrics.jsonl").write_text('{"step": 1, "epoch": 1}\n{"step": "2"}\n')
    (path / "events.jsonl").write_text("[]\n")
    lossrag("report", "run")
    text = read_page(tmp_path / "report.html").text
    for words in (
        "no test_predictions.safetensors, which runs of earlier versions lack",
        "metrics.jsonl: line 2 cannot be read: curves end there",
        "events.jsonl: line 1 cannot be read",
    ):
        assert f"Missing: {words}" in text


def test_test_rows_of_another_run_are_refused(finished, tmp_path):
    tasks = read_run(finished).tasks.values()
    run_id = json.loads((finished / "summary.json").read_text())["run_id"]
    assert read_predictions(tmp_path, run_id, list(tasks)) is None
    with pytest.raises(CheckpointError, match="not that of run other"):
        read_predictions(finished, "other", list(tasks))
    for task, words in (
        (Task("unknown", "classification", 2), "lacks 'targets/unknown'"),
        (Task("digit", "classification", 3), "does not fit the task digit"),
        (Task("centre", "regression", 1), "does not fit the task centre"),
    ):
        with pytest.raises(CheckpointError, match=words):
            read_predictions(finished, run_id, [task])
    tensors, meta = load_tensors(finished / "test_predictions.safetensors")
    for kind in (torch.bool, torch.bfloat16):
        changed = tensors | {"outputs/digit": tensors["outputs/digit"].to(kind)}
        save_tensors(tmp_path / "test_predictions.safetensors", changed, meta)
        with pytest.raises(CheckpointError, match="does not fit the task digit"):
            read_predictions(tmp_path, run_id, list(tasks)[:1])


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.jsonl", "model.json", "events.jsonl"])
def test_any_damage_is_a_line(finished, tmp_path, lossrag, undrawn, name):
    """Bytes turned, cut, put in: a report without the run, or with a note, or with other figures; never a traceback."""
    path = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard", "checkpoints"))
    event = {"step": 1, "task": "parity", "loss": "mae", "what": "composed", "reason": "r", "shares": {"mae": 1.0}}
    (path / "events.jsonl").write_text(3 * (json.dumps(event) + "\n"))
    whole = (path / name).read_bytes()
    chance = random.Random(name)
    parts = [b"[", b"{", b"null", b"\xff", b"\n", b'"', b"NaN", b"1e999", b"  x: ", b'"\\ud800"', b"-", b"\x00", b""]
    for _ in range(12):
        start = chance.randrange(len(whole))
        end = min(len(whole), start + chance.choice([0, 1, 1, 2, 5, 10**6]))
        (path / name).write_bytes(whole[:start] + chance.choice(parts) + whole[end:])
        result = lossrag("report", "run")
        assert result.code in (0, 2)
        assert result.code == 0 or result.error.count("\n") == 1
        if result.code == 0:
            read_page(tmp_path / "report.html")


def test_outputs_that_are_no_files(finished, tmp_path, lossrag, undrawn):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "link.html").symlink_to(tmp_path / "target.html")
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "target.html").write_text("mine")
    for output, words in {
        "report.pdf": "write a file that ends with .html, .htm",
        "/dev/null": "write a file that ends with .html, .htm",
        "absent/r.html": "absent must be a folder",
        "folder.html": "and folder.html none",
        "link.html": "link.html is a symbolic link",
        "pipe.html": "pipe.html is a named pipe",
    }.items():
        error = lossrag("report", str(finished), f"output={output}").error
        assert words in error
    assert (tmp_path / "target.html").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.glob("*.html")) == [
        "folder.html",
        "link.html",
        "pipe.html",
        "target.html",
    ]


def test_nothing_half_written(finished, tmp_path, lossrag, undrawn, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "report.html").write_text("an earlier one")
    monkeypatch.setattr("lossrag.files.os.fsync", refuse)
    assert "No space left on device" in lossrag("report", str(finished)).error
    assert (tmp_path / "report.html").read_text() == "an earlier one"
    assert not list(tmp_path.glob(".*.tmp"))


def test_mistakes_of_the_command_line(tmp_path, lossrag):
    assert "root=FOLDER" in lossrag("report", "output=a.html").error
    assert "did you mean 'output'" in lossrag("report", "runs", "outptu=a.html").error
    assert "root=absent must be a folder" in lossrag("report", "root=absent").error
    assert "lossrag report RUN_DIR" in lossrag("report").out


def test_a_directory_with_an_equals_sign(tmp_path, lossrag, undrawn):
    made_run(tmp_path / "runs/alpha=1", {"a": 0.5})
    assert lossrag("report", "runs/alpha=1").code == 0
    assert "there is no such folder" in lossrag("report", "runs/alpha").error


def test_folders_below_a_root(three, lossrag, tmp_path, undrawn):
    """Tuning runs are told apart; a run whose training never began is none."""
    (three / "tuning.csv").write_text("run_id\nn0\nn1\n")
    (three / "never").mkdir()
    (three / "never/config.yaml").write_text("seed: 0")
    result = lossrag("report", f"root={three}")
    assert "Not shown: 2 runs by which a comparison chose its settings" in result.out
    assert "5 runs in 2 groups" in result.out
