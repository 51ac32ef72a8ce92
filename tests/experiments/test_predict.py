"""A finished run in use: its directory alone gives its own test scores, and predictions of other rows."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.metrics import f1_score, mean_absolute_error

from lossrag import ConfigError, DataError, load_run, load_suite
from lossrag.experiments.cli import run as command
from lossrag.tasks import SUITES
from tests.experiments.tables import SMALL, people, read, same_scores, write

TARGETS = "tasks.targets={income: {metric: f1}, hours: {metric: mae}, place: {columns: [north, east]}}"


@pytest.fixture(scope="module")
def table_run(tmp_path_factory) -> Path:
    """A finished run on train.csv, whose test rows are test.csv; both files lie beside its directory ``run``."""
    folder = tmp_path_factory.mktemp("table")
    people(folder / "train.csv", 150, 0)
    people(folder / "test.csv", 40, 1)
    files = f"tasks.data={{train: {folder}/train.csv, test: {folder}/test.csv}}"
    options = [files, TARGETS, "tasks.ignore=[said]", "loss.tasks.income=ldam_1", f"run.dir={folder}/run"]
    assert command(["train", "experiment=table", *SMALL, *options]) == 0
    (folder / "train.csv").unlink()
    return folder / "run"


@pytest.fixture
def here(table_run, tmp_path) -> Path:
    """A copy of that run in the current folder, to be damaged."""
    shutil.copytree(table_run, tmp_path / "run")
    shutil.copy(table_run.parent / "test.csv", tmp_path / "test.csv")
    return tmp_path / "run"


def test_a_table_in_a_fresh_process_without_its_data(here, tmp_path):
    """Nothing but the run directory and the test rows is there."""
    line = [sys.executable, "-m", "lossrag", "evaluate", "run=run", "data=test.csv", "output=scores.json"]
    env = {key: value for key, value in os.environ.items() if key != "LOSSRAG_DATA"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert same_scores(here, scores)
    assert scores["metric"] == {"income": "f1", "hours": "mae", "place": "r2"}
    assert "metaweighting on table: test.csv" in done.stdout


def test_the_file_of_predictions_has_the_scores_of_the_run(lossrag, here, tmp_path):
    result = lossrag("predict", "run=run", "data=test.csv", "output=out.csv")
    assert result.code == 0, result
    rows, told = read(tmp_path / "test.csv"), read(tmp_path / "out.csv")
    assert list(told[0]) == ["income", "income.probability", "hours", "place.north", "place.east"]
    assert len(told) == len(rows)
    summary = json.loads((here / "summary.json").read_text())
    known = [(row["income"], own["income"]) for row, own in zip(rows, told, strict=True) if row["income"]]
    assert f1_score(*zip(*known, strict=True), pos_label=">50K") == summary["test_accuracy"]["income"]
    hours = [(float(a["hours"]), float(b["hours"])) for a, b in zip(rows, told, strict=True) if a["hours"]]
    # the targets of a run are standardised in float32
    assert mean_absolute_error(*zip(*hours, strict=True)) == pytest.approx(summary["test_r2"]["hours"], rel=1e-6)
    assert all(0.5 <= float(own["income.probability"]) <= 1 for own in told)
    lossrag("predict", "run=run", "data=test.csv", "output=out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["income"] for line in lines] == [own["income"] for own in told]
    assert [line["hours"] for line in lines] == [float(own["hours"]) for own in told]


def test_in_python_from_rows_a_file_and_a_frame(here, tmp_path):
    run = load_run(here)
    rows = read(tmp_path / "test.csv")
    found = run.predict(rows)
    assert found.columns == run.predict(tmp_path / "test.csv").columns
    assert found["income"].classes == found.columns["income"]
    assert next(iter(found.rows)) == {name: column[0] for name, column in found.columns.items()}
    assert found["place"].outputs.shape == (40, 2)
    assert np.allclose(found["income"].outputs.sum(axis=1), 1)
    with pytest.raises(ConfigError, match="no task 'incom': did you mean 'income'"):
        found["incom"]

    class Frame:
        """As pandas has it, so far as a table is read."""

        def __init__(self, rows: list[dict[str, str]]) -> None:
            self.columns = list(rows[0])
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def isna(self) -> None: ...

        def __getitem__(self, name: str) -> np.ndarray:
            class Series(list):
                def isna(self) -> np.ndarray:
                    return np.array([cell == "" for cell in self])

            return Series([row[name] for row in self.rows])

    assert run.predict(Frame(rows)).columns == found.columns


def test_loading_draws_no_random_number_and_reads_no_pickle(table_run, monkeypatch):
    for owner, name in ((torch, "load"), (__import__("pickle"), "loads"), (__import__("pickle"), "load")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("a pickle was read"))
    before = torch.get_rng_state()
    load_run(table_run)
    assert torch.equal(before, torch.get_rng_state())


def test_columns_in_another_order_more_of_them_and_unseen_categories(here, tmp_path):
    rows = read(tmp_path / "test.csv")
    run = load_run(here)
    other = [{"id": str(i), "school": row["school"], "age": row["age"]} for i, row in enumerate(rows)]
    told = run.predict(other)
    assert told.columns == run.predict(rows).columns
    assert told.notes == (
        "not read: 'id'",
        "the columns stand in another order than in training: they are found by name",
    )
    strange = [{"age": "30", "school": "abroad"}, {"age": "30", "school": "sea"}, {"age": "30", "school": ""}]
    found = run.predict(strange)
    assert found.notes == ("school: 2 rows have a category that training had not ('abroad', 'sea'): read as unknown",)
    assert len(set(found["hours"].outputs[:, 0].tolist())) == 1  # as unknown as a missing one


@pytest.fixture
def line(lossrag, here, tmp_path) -> Callable[..., str]:
    """The one line of a command that fails, which leaves no file behind."""

    def call(name: str, *options: str) -> str:
        before = {path.name for path in tmp_path.iterdir()}
        result = lossrag(name, "run=run", *options)
        assert "\n" not in result.error.strip()
        assert {path.name for path in tmp_path.iterdir()} == before
        return result.error.strip()

    return call


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"agee": "3", "school": "hs"}, "new.csv lacks 'age', of 2 input columns that the model reads: did you mean"),
        ({"x": "3"}, "new.csv lacks 'age', 'school', of 2 input columns that the model reads: give it every input"),
        ({"age": "inf", "school": "hs"}, "new.csv, line 2, column 'age': 'inf' is no finite number"),
        ({"age": "old", "school": "hs"}, "new.csv, line 2, column 'age': 'old' is no finite number"),
        ({"age": "1e300", "school": "hs"}, "new.csv, line 2, column 'age': '1e300' is out of all proportion"),
    ],
)
def test_rows_that_do_not_fit(line, tmp_path, cells, said):
    write(tmp_path / "new.csv", [cells])
    assert said in line("predict", "data=new.csv")


def test_data_that_cannot_be_evaluated(line, tmp_path):
    write(tmp_path / "new.csv", [{"age": "3", "school": "hs", "income": "rich"}])
    assert "'rich' is no class that was there in training" in line("evaluate", "data=new.csv")
    write(tmp_path / "new.csv", [{"age": "3", "school": "hs", "income": ""}])
    error = line("evaluate", "data=new.csv")
    assert "income is left out: no row has a label; hours is left out: no column 'hours'" in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "lossrag predict needs data: say data=FILE"),
        (["data=nowhere.csv"], "Cannot read the table nowhere.csv"),
        (["data=test.csv", "output=out.xml"], "output=out.xml: write a file that ends with .csv, .tsv"),
        (["data=test.csv", "output=no/out.csv"], "no must be a folder"),
        (["data=test.csv", "outptu=a.csv"], "did you mean 'output'"),
        (["data=test.npy"], "a table is a file that ends with .csv"),
        (["data=test.csv", "device=tpu"], "Unknown machine.device 'tpu'"),
    ],
)
def test_options_that_do_not_fit(line, tmp_path, options, said):
    (tmp_path / "test.npy").write_bytes(b"")
    assert said in line("predict", *options)


def test_runs_that_cannot_be_used(line, here):
    (here / "config.yaml").rename(here / "config.old")
    assert "run is no run directory: it has no config.yaml" in line("predict", "data=test.csv")
    (here / "config.old").rename(here / "config.yaml")
    summary = (here / "summary.json").read_bytes()
    (here / "summary.json").unlink()
    assert "is not finished: resume it" in line("predict", "data=test.csv")
    (here / "summary.json").write_bytes(summary)
    content = (here / "model.json").read_text()
    (here / "model.json").unlink()
    assert "run has no model.json: its run ended under a version" in line("evaluate", "data=test.csv")
    (here / "model.json").write_text(content.replace('"format": 1', '"format": 99'))
    assert "is of format 99, written by LossRAG 0.1.0; this is LossRAG 0.1.0, which reads format 1" in line("export")


@pytest.mark.parametrize("name", ["model.json", "preprocessing.json", "checkpoints/best.safetensors"])
def test_damage_is_one_line(line, here, name):
    """A byte changed, the half of a file, none."""
    content = bytearray((here / name).read_bytes())
    place = len(content) * 2 // 3
    content[place] ^= 1
    (here / name).write_bytes(content)
    assert f"run/{name} is damaged: " in line("predict", "data=test.csv")
    (here / name).write_bytes(content[:place])
    assert f"run/{name} is damaged: " in line("predict", "data=test.csv")
    (here / name).unlink()
    gone = "run has no model.json" if name == "model.json" else f"run/{name} is damaged: "
    assert gone in line("predict", "data=test.csv")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weights": "../elsewhere.safetensors"}, "names '../elsewhere.safetensors' as its weights"),
        ({"tasks": [{"name": "a", "nonsense": 1}]}, "model.json describes no model"),
        ({"tasks": 7}, "model.json describes no model"),
        ({"more": 1}, "model.json describes no model: it has 'more', which nothing is known of"),
        ({"library": "mine.py"}, "library must be a mapping, not 'mine.py'"),
        ({"library": {"mine.py": 5}}, "library.mine.py must be a text, not 5"),
        ({"epoch": -1}, "epoch must be a whole number of 0 or more, not -1"),
        ({"class_counts": [[1], None]}, "it has another number of losses or class counts than of tasks"),
        ({"input_shape": [True]}, "input_shape.0 must be a whole number of 1 or more, not True"),
        ({"precision": "\ud800"}, "precision must be a text, not '\\ud800'"),
    ],
)
def test_a_checksum_proves_no_content(line, here, changed, said):
    """A description that somebody made, with the right checksum."""
    describe(here, changed)
    assert said in line("predict", "data=test.csv")


def test_another_preprocessing(line, here):
    """Of fewer columns than the model was trained on."""
    content = json.loads((here / "preprocessing.json").read_text())
    content["columns"] = content["columns"][1:]
    (here / "preprocessing.json").write_text(json.dumps(content))
    describe(here, {"preprocessing": hashlib.sha256((here / "preprocessing.json").read_bytes()).hexdigest()})
    assert "are not as many as the model of model.json takes" in line("predict", "data=test.csv")


def describe(here, changed):
    content = json.loads((here / "model.json").read_text())
    del content["sha256"]
    content |= changed
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (here / "model.json").write_text(json.dumps({"sha256": digest, **content}))


def test_weights_of_another_epoch_are_refused(line, here):
    shutil.copy(here / "checkpoints" / "last.safetensors", here / "checkpoints" / "best.safetensors")
    assert "is not that of epoch" in line("predict", "data=test.csv")


def digits_rows() -> list[dict[str, object]]:
    """The test images as scikit-learn's own frame has them, with the targets."""
    suite = load_suite("digits")
    images, *_ = (own.inputs.values for own in suite.splits["test"])
    classes = [
        [task.labels[c] for c in own.targets]
        for task, own in zip(suite.tasks, suite.splits["test"], strict=True)
        if task.labels
    ]
    centre = suite.tasks[3]
    places = suite.splits["test"][3].targets.double() * torch.tensor(centre.scale) + torch.tensor(centre.mean)
    rows = []
    for i, image in enumerate((images * 16).tolist()):
        row: dict[str, object] = {f"pixel_{p // 8}_{p % 8}": ink for p, ink in enumerate(image)}
        row |= {task.name: own[i] for task, own in zip(suite.tasks, classes, strict=False)}
        rows.append({**row, "centre_row": float(places[i, 0]), "centre_column": float(places[i, 1])})
    return rows


@pytest.mark.parametrize("refit", [False, True])
def test_digits(lossrag, tmp_path, refit):
    result = lossrag("train", "experiment=digits", *SMALL, f"train.refit={refit}", "run.dir=run")
    assert "lossrag predict run=run data=FILE" in result.out
    run, rows = load_run("run"), digits_rows()
    found = run.evaluate(rows)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    own = {**summary["test_accuracy"], **summary["test_r2"]}
    scores = dict(zip(own, found.evaluation.scores.tolist(), strict=True))
    assert [scores[task] for task in ("digit", "parity", "loops")] == [own[t] for t in ("digit", "parity", "loops")]
    assert scores["centre"] == pytest.approx(own["centre"], abs=1e-6)  # its targets were rounded here
    told = run.predict(rows)
    hits = [row["digit"] == name for row, name in zip(rows, told["digit"].classes, strict=True)]
    assert np.mean(hits) == own["digit"]
    off = np.abs(told["centre"].outputs - [[row["centre_row"], row["centre_column"]] for row in rows])
    assert off.max() < 3  # pixels


def test_tasks_with_rows_of_their_own(lossrag, tmp_path):
    """A task is predicted for the rows that it is about; where the column of these is missing, for all."""
    rows = [*people(tmp_path / "a", 120, 0, kind="a"), *people(tmp_path / "b", 120, 1, kind="b")]
    parts = [{**row, "part": "test" if i % 3 == 0 else "train"} for i, row in enumerate(rows)]
    write(tmp_path / "my.csv", parts)
    targets = "tasks.targets={first: {column: income, where: {kind: a}}, second: {column: hours, where: {kind: b}}}"
    options = ["tasks.data=my.csv", targets, "tasks.split=part", "tasks.columns=[age,school]", "run.dir=run"]
    assert lossrag("train", "experiment=table", *SMALL, *options).code == 0
    (tmp_path / "my.csv").unlink()
    tested = [row for row in parts if row["part"] == "test"]
    write(tmp_path / "test.csv", tested)
    assert lossrag("evaluate", "run=run", "data=test.csv", "output=scores.json").code == 0
    assert same_scores(tmp_path / "run", json.loads((tmp_path / "scores.json").read_text()))
    told = load_run("run").predict(tested)
    assert [name is None for name in told.columns["first"]] == [row["kind"] == "b" for row in tested]
    assert [name is None for name in told.columns["second"]] == [row["kind"] == "a" for row in tested]
    everywhere = load_run("run").predict([{"age": row["age"], "school": row["school"]} for row in tested])
    assert all(name is not None for name in everywhere.columns["first"])
    strange = load_run("run").predict([{**tested[0], "kind": "c"}])
    assert "1 row has no task (the first: rows, row 1)" in strange.notes


def test_vectors(lossrag, tmp_path):
    chance = np.random.default_rng(0)
    for name, rows in (("train", 120), ("test", 40)):
        write(tmp_path / f"{name}.csv", people(tmp_path / name, rows, rows))
        np.save(tmp_path / f"{name}.npy", chance.normal(size=(rows, 5)))
    files = ["tasks.data={train: train.csv, test: test.csv}", "tasks.vectors_file={train: train.npy, test: test.npy}"]
    options = [*files, "tasks.targets=[income,hours]", "run.dir=run"]
    assert lossrag("train", "experiment=table", *SMALL, *options).code == 0
    (tmp_path / "train.csv").unlink()
    line = ["evaluate", "run=run", "data=test.csv", "output=scores.json"]
    assert lossrag(*line, "vectors=test.npy").code == 0
    assert same_scores(tmp_path / "run", json.loads((tmp_path / "scores.json").read_text()))
    assert lossrag("predict", "run=run", "data=test.npy").code == 0
    assert len(read(tmp_path / "predictions.csv")) == 40
    run = load_run("run")
    array = np.load(tmp_path / "test.npy")
    assert run.predict(array).columns == run.predict(torch.from_numpy(array)).columns
    assert "an array, or a .npy file, of (rows, 5) finite numbers, not NoneType" in lossrag(*line).error
    with pytest.raises(DataError, match=r"not \(40, 4\)"):
        run.predict(array[:, :4])
    array[3, 1] = np.nan
    with pytest.raises(DataError, match="Row 4 of the array"):
        run.predict(array)


def test_a_suite_of_ones_own_takes_arrays(lossrag, tmp_path, monkeypatch):
    """It says nothing of preprocessing; the model reads what the suite gave it."""
    monkeypatch.setattr(SUITES, "_entries", dict(SUITES))  # what is registered here is gone afterwards
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "from lossrag import Suite, load_suite, register_suite\n\n\n"
        "@dataclass(frozen=True)\nclass MineConfig:\n    seed: int = 0\n\n\n"
        '@register_suite("mine_predict")\ndef load(config: MineConfig) -> Suite:\n'
        '    return replace(load_suite("digits"), preprocessing=None)\n'
    )
    options = ["~experiment", "tasks=mine_predict", "model=mlp", "library=[mine.py]", "run.dir=run"]
    assert lossrag("train", *SMALL, *options).code == 0
    images = load_suite("digits").splits["test"][0].inputs.values
    told = load_run("run").predict(images)
    assert sorted(told.columns) == ["centre.0", "centre.1"] + [
        f"{name}{more}" for name in ("digit", "loops", "parity") for more in ("", ".probability")
    ]
    np.save(tmp_path / "images.npy", images.numpy())
    assert "says nothing of how other data become" in lossrag("evaluate", "run=run", "data=images.npy").error


def test_export_of_parameters(lossrag, here):
    from safetensors import safe_open

    assert lossrag("export", "run=run").code == 0
    run = load_run(here)
    with safe_open(here / "model.safetensors", framework="pt") as file:
        described = {name: json.loads(text) for name, text in file.metadata().items()}
        assert all(torch.equal(file.get_tensor(name), own) for name, own in run.model.state_dict().items())
    assert [task["labels"] for task in described["description"]["tasks"]] == [["<=50K", ">50K"], [], []]
    assert described["preprocessing"]["columns"][1]["categories"] == ["hs", "none at all", "phd"]


def test_export_of_a_program(lossrag, here, tmp_path):
    assert lossrag("export", "run=run", "format=torch_export", "output=model.pt2").code == 0
    extra = {"preprocessing": "", "description": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    run, rows = load_run(here), read(tmp_path / "test.csv")
    told = run.predict(rows)
    dense = run.preprocessing.dense(_table(run, rows))
    for outputs, task in zip(program(dense.values), told.tasks, strict=True):
        assert np.allclose(outputs.numpy(), task.outputs, rtol=1e-4, atol=1e-5)
    assert json.loads(extra["preprocessing"])["kind"] == "table"
    assert "format='onx' is unknown: did you mean 'onnx'" in lossrag("export", "run=run", "format=onx").error


def test_export_as_onnx(lossrag, here, tmp_path, monkeypatch):
    assert lossrag("export", "run=run", "format=onnx", "output=model.onnx").code == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    run, rows = load_run(here), read(tmp_path / "test.csv")
    told = run.predict(rows)
    dense = run.preprocessing.dense(_table(run, rows))
    assert [output.name for output in session.get_outputs()] == ["income", "hours", "place"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])["kind"] == "table"
    for name, task in zip(("income", "hours", "place"), told.tasks, strict=True):
        for count in (1, len(rows)):
            (values,) = session.run([name], {"inputs": dense.values[:count].numpy()})
            assert np.allclose(values, task.outputs[:count], rtol=1e-5, atol=1e-5)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    error = lossrag("export", "run=run", "format=onnx", "output=other.onnx").error
    assert error.startswith("format=onnx needs onnxscript")
    assert "[onnx]" in error
    assert not (tmp_path / "other.onnx").exists()


def _table(run, rows):
    from lossrag.tasks.table.new_rows import read_rows

    return read_rows(rows, run.preprocessing).table
