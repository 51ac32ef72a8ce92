"""Tables as suites: inputs fitted on support rows, targets with holes, splits, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lossrag import ConfigError, DataError, load_suite
from lossrag.tasks import SPLITS
from lossrag.tasks.table.cells import MISSING
from lossrag.tasks.table.files import read_table
from lossrag.tasks.table.preprocessing import TablePreprocessing

_spec = importlib.util.spec_from_file_location("tables_of_tests", Path(__file__).with_name("conftest.py"))
assert _spec is not None
assert _spec.loader is not None
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)
rows_of, PEOPLE = tables.rows_of, tables.PEOPLE


def load(data, targets=("income", "hours"), **options):
    return load_suite("table", data=data, targets=list(targets) if isinstance(targets, tuple) else targets, **options)


def test_targets_with_holes_and_their_kinds(write):
    rows = rows_of()
    suite = load(write(rows, columns=PEOPLE))
    income, hours = suite.tasks
    assert (income.kind, income.labels, hours.kind, hours.outputs) == (
        "classification",
        ("<=50K", ">50K"),
        "regression",
        1,
    )
    known = sum(row["income"] != "" for row in rows)
    assert sum(int((suite.splits[split][0].targets != -100).sum()) for split in SPLITS) == known
    assert f"income: binary, <=50K | >50K; {known} of 160 rows have one" in suite.notes
    assert sum(len(suite.splits[split][0]) for split in SPLITS) == 160
    assert suite.shared_input
    assert all(a.inputs is b.inputs for a, b in suite.splits.values())
    values = suite.splits["support"][1].targets
    values = values[~values.isnan()]
    assert abs(float(values.mean())) < 1e-6
    assert float(values.std(unbiased=False)) == pytest.approx(1, abs=1e-6)


def test_inputs_are_those_of_scikit_learn_fitted_on_support(write):
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rows = rows_of()
    path = write(rows, columns=PEOPLE)
    suite = load(path)
    where = {float(row["gain"]): row for row in rows}
    gains = suite.preprocessing.columns[2]
    for split in SPLITS:
        inputs = suite.splits[split][0].inputs.values.double().numpy()
        found = [where[min(where, key=lambda g, x=x: abs(g - x))] for x in inputs[:, -1] * gains.scale + gains.mean]
        ages = np.array([[np.nan if row["age"] == "" else row["age"]] for row in found], dtype=float)
        gain = np.array([[row["gain"]] for row in found], dtype=float)
        school = np.array([["" if row["school"] == "" else row["school"]] for row in found], dtype=object)
        if split == "support":
            fill = SimpleImputer(strategy="mean").fit(ages)
            scale, scale_gain = StandardScaler().fit(ages), StandardScaler().fit(gain)
            one = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(school[school[:, 0] != ""])
        wanted = [
            scale.transform(fill.transform(ages)),
            np.isnan(ages),
            one.transform(school),
            scale_gain.transform(gain),
        ]
        assert np.allclose(inputs, np.hstack(wanted), atol=1e-6)


def test_preprocessing_is_plain_data(write):
    """Read back from JSON, it makes the same inputs and targets of the same rows."""
    path = write(rows_of(), columns=PEOPLE)
    suite = load(path)
    again = TablePreprocessing.of_plain(json.loads(json.dumps(suite.preprocessing.plain())))
    assert again == suite.preprocessing
    table = read_table(path, MISSING)
    inputs = again.dense(table).values
    assert len(inputs) == 160
    for split in SPLITS:
        for row in suite.splits[split][0].inputs.values:
            assert (inputs == row).all(dim=1).any()
    with pytest.raises(DataError, match="format 9"):
        TablePreprocessing.of_plain({**suite.preprocessing.plain(), "format": 9})


def test_splits_said_by_a_column_or_by_files(write):
    rows = rows_of()
    for i, row in enumerate(rows):
        row["part"] = ("train", "train", "val", "Test")[i % 4]
    suite = load(write(rows, columns=[*PEOPLE, "part"]), split="part")
    sizes = {split: len(suite.splits[split][0]) for split in SPLITS}
    assert sizes["validation"] == sizes["test"] == 40
    assert sizes["support"] + sizes["query"] == 80
    rows[5]["part"] = "later"
    with pytest.raises(DataError, match=r"my.csv, line 7, column 'part': 'later' is no split"):
        load(write(rows, columns=[*PEOPLE, "part"]), split="part")
    files = {"train": write(rows[:100], "a.csv", PEOPLE), "test": write(rows[100:], "c.csv", PEOPLE)}
    suite = load(files)
    assert len(suite.splits["test"][0]) == 60
    assert not [note for note in suite.notes if "copies" in note]
    copies = load({**files, "test": write(rows[60:], "e.csv", PEOPLE)})
    validation = len(copies.splits["validation"][0])
    assert validation == 15
    (line,) = [note for note in copies.notes if "copies" in note]
    assert 25 <= int(line.split()[0]) <= 40  # of 40 that stand in both files those that are not in validation
    assert line.endswith("test rows are copies of training rows")
    with pytest.raises(DataError, match=r"d.csv has no column 'gain', which .*a.csv has"):
        load({**files, "test": write(rows[100:], "d.csv", [own for own in PEOPLE if own != "gain"])})


def test_groups_are_disjoint(write):
    rows = rows_of()
    for i, row in enumerate(rows):
        row["family"] = i // 4
    suite = load(write(rows, columns=[*PEOPLE, "family"]), group="family", columns=["gain"])
    gains = {row["gain"]: row["family"] for row in rows}
    column = suite.preprocessing.columns[0]
    met = {}
    for split in SPLITS:
        for value in suite.splits[split][0].inputs.values[:, 0].double() * column.scale + column.mean:
            met.setdefault(gains[min(gains, key=lambda g, v=value: abs(g - float(v)))], set()).add(split)
    assert all(len(splits) == 1 for splits in met.values())


def test_a_text_column(write):
    rows = rows_of()
    rows[1]["text"] = rows[0]["text"]
    suite = load(write(rows, columns=["text", "income"]), ("income",), text="text", vectors="random", dim=8)
    assert suite.vectors.shape[1] == 8
    assert suite.preprocessing.words[:3] == ("of", "row", "words")
    assert "words of row" not in suite.preprocessing.words
    rows[3]["text"] = " "
    with pytest.raises(DataError, match=r"line 5, column 'text': no text here: fill in"):
        load(write(rows, columns=["text", "income"]), ("income",), text="text", vectors="random", dim=8)


def test_copies_of_a_text_stay_together(write):
    rows = [{"text": "word " * (8 + i % 10), "y": i % 10 // 5} for i in range(100)]
    suite = load(write(rows), ("y",), text="text", vectors="random", dim=4, min_df=1)
    met = {}
    for split in SPLITS:
        inputs = suite.splits[split][0].inputs
        for row in inputs.gather(torch.arange(len(inputs))).tolist():
            met.setdefault(tuple(row), set()).add(split)
    assert all(len(splits) == 1 for splits in met.values())


def test_rows_of_their_own(write):
    """A filter for one task, a file for another: inputs of its own for each."""
    rows = rows_of()
    for i, row in enumerate(rows):
        row["city"] = ("north", "south")[i % 2]
    path, other = write(rows, columns=[*PEOPLE, "city"]), write(rows_of(80, 1), "b.csv", PEOPLE)
    targets = {name: {"column": "income", "where": {"city": name}} for name in ("north", "south")}
    suite = load(path, targets)
    assert not suite.shared_input
    known = [sum(r["income"] != "" and r["city"] == name for r in rows) for name in ("north", "south")]
    assert [sum(len(suite.splits[s][t]) for s in SPLITS) for t in (0, 1)] == known
    targets = {
        "here": {"column": "income", "data": write(rows, "a.csv", PEOPLE)},
        "there": {"column": "hours", "data": other},
    }
    suite = load(None, targets)
    assert [task.kind for task in suite.tasks] == ["classification", "regression"]
    assert sum(len(suite.splits[s][1]) for s in SPLITS) == sum(r["hours"] != "" for r in rows_of(80, 1))
    with pytest.raises(DataError, match=r"no row of the target east has city=east"):
        load(path, {"east": {"column": "income", "where": {"city": "east"}}})


def test_vectors_of_a_file(write, tmp_path):
    path = write(rows_of(), columns=["income"])
    vectors = np.random.default_rng(0).normal(size=(160, 5))
    np.save(tmp_path / "v.npy", vectors)
    suite = load(path, ("income",), vectors_file=str(tmp_path / "v.npy"))
    assert suite.input_shape == (5,)
    np.save(tmp_path / "v.npy", vectors[:99])
    with pytest.raises(DataError, match=r"v.npy has 99 rows, but the table has 160"):
        load(path, ("income",), vectors_file=str(tmp_path / "v.npy"))
    np.save(tmp_path / "v.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="as a NumPy array"):
        load(path, ("income",), vectors_file=str(tmp_path / "v.npy"))


def test_several_outputs(write):
    suite = load(write(rows_of(), columns=PEOPLE), {"both": {"columns": ["hours", "gain"]}})
    (task,) = suite.tasks
    assert (task.kind, task.outputs) == ("regression", 2)
    assert [column.name for column in suite.preprocessing.columns] == ["age", "school", "income"]


def tagged(count=60):
    return [{"x": i, "tags": [t for t, n in (("red", 2), ("sci-fi/new", 3)) if i % n == 0]} for i in range(count)]


def test_a_multi_label_column_is_a_task_for_each_label(write, tmp_path):
    """An empty list has none of them, an empty cell is missing."""
    rows = tagged()
    rows[0]["tags"] = None
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    suite = load(str(path), ("tags",))
    assert [(task.name, task.labels) for task in suite.tasks] == [
        ("tags_red", ("no", "yes")),
        ("tags_sci-fi_new", ("no", "yes")),
    ]
    assert "tags_red: whether tags has red; 59 of 60 rows have one" in suite.notes
    column = suite.preprocessing.columns[0]
    for split in SPLITS:
        x = suite.splits[split][0].inputs.values[:, 0].double() * column.scale + column.mean
        for n, examples in zip((2, 3), suite.splits[split], strict=True):
            for value, target in zip(x.round().long().tolist(), examples.targets.tolist(), strict=True):
                assert target == (-100 if value == 0 else int(value % n == 0))
    again = TablePreprocessing.of_plain(json.loads(json.dumps(suite.preprocessing.plain())))
    assert again == suite.preprocessing
    cells = [{**row, "tags": "|".join(row["tags"] or ["nothing"])} for row in rows]
    options = {"kind": "multilabel", "separator": "|", "labels": ["red"], "metric": "f1"}
    suite = load(write(cells), {"t": {"column": "tags", **options}})
    assert [(task.name, task.metric) for task in suite.tasks] == [("t_red", "f1")]
    with pytest.raises(DataError, match=r"column 'tags': no row has the label 'rde': did you mean 'red'"):
        load(write(cells), {"t": {"column": "tags", **options, "labels": ["rde"]}})
    many = [{"x": i, "tags": f"n{i}"} for i in range(60)]
    with pytest.raises(DataError, match=r"60 labels, each of which would be a task: name up to 50"):
        load(write(many), {"tags": "multilabel"})


def test_rows_of_other_tasks_may_hold_anything(write):
    """A column means what it does in the rows of a task; in others it may be of another kind."""
    rows = [{"x": i, "of": "ab"[i % 2], "y": f"{i / 3:.2f}" if i % 2 else "uv"[i // 2 % 2]} for i in range(120)]
    suite = load(write(rows), {name: {"column": "y", "where": {"of": name}} for name in "ab"})
    assert [task.kind for task in suite.tasks] == ["classification", "regression"]
    assert suite.tasks[0].labels == ("u", "v")


def test_the_positive_class(write):
    suite = load(write(rows_of(), columns=PEOPLE), {"income": {"positive": "<=50K"}})
    assert suite.tasks[0].labels == (">50K", "<=50K")


@pytest.mark.parametrize(
    ("column", "cells", "said"),
    [
        ("y", [""] * 40, r"column 'y': no row has a value of the target y"),
        ("y", ["a"] * 40, r"line 2, column 'y': the target is 'a' in every row that has one"),
        ("y", ["2.5"] * 40, r"column 'y': the target is '2.5' in every row"),
        ("y", ["a", "b"] * 19 + ["a", "c"], r"line 41, column 'y': the class 'c' is there 1 time, but each of the 4"),
        ("y", ["a", "b"] * 19 + ["a", "7"], r"line 41, column 'y': '7' stands among texts \(39 of them\)"),
        ("y", ["1.5", "2.5"] * 19 + ["x", "2"], r"line 40, column 'y': 'x' stands among numbers"),
        ("y", ["1.5", "inf"] * 20, r"line 3, column 'y': 'inf' is no finite number"),
        ("y", ["2020-01-02", "2021-02-03"] * 20, r"line 2, column 'y': dates, such as '2020-01-02', are no target"),
        ("x", ["1", "2"] * 19 + ["1e999", "2"], r"line 40, column 'x': '1e999' is no finite number"),
        ("x", ["1", "2"] * 19 + ["one", "2"], r"line 40, column 'x': 'one' stands among numbers"),
        ("x", ["2020-01-02"] * 40, r"line 2, column 'x': dates, such as '2020-01-02', are no inputs"),
        (
            "x",
            [f"n{i}" for i in range(40)],
            r"line 2, column 'x': \d+ different texts, such as 'n0', are no categories",
        ),
        ("x", ["1e308", "-1e308"] * 20, r"column 'x': '-?1e308' is too large a number"),
        ("x", [""] * 40, r"column 'x': every row lacks a value"),
    ],
)
def test_columns_that_cannot_be_used(write, column, cells, said):
    rows = [{"x": i, "y": "ab"[i % 2]} for i in range(40)]
    for row, cell in zip(rows, cells, strict=True):
        row[column] = cell
    rows = [{**row, "z": i} for i, row in enumerate(rows)]  # an empty line of a file is no row
    with pytest.raises(DataError, match=said) as caught:
        load(write(rows), ("y",))
    assert "\n" not in str(caught.value)


def test_too_many_classes(write):
    rows = [{"x": i, "y": f"n{i}"} for i in range(1200)]
    with pytest.raises(DataError, match=r"column 'y': 1,200 different values, such as 'n0': a target has 1,000"):
        load(write(rows), ("y",))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": ["y"]}, "tasks.data names no file"),
        ({"data": "t.csv"}, "tasks.targets names no column"),
        ({"data": "t.csv", "targets": [None]}, "tasks.targets: None is no name"),
        ({"data": "t.csv", "targets": ["y", "y"]}, "names 'y' twice"),
        ({"data": "t.csv", "targets": ["a b"]}, r"my_task: {column: \"a b\"}"),
        ({"data": "t.csv", "targets": ["a.b"]}, "tasks.targets.a.b: a task is called by letters"),
        ({"data": "t.csv", "targets": {"y": {"knd": "binary"}}}, "did you mean 'kind'"),
        ({"data": "t.csv", "targets": {"y": {"kind": "binery"}}}, "tasks.targets.y.kind='binery' is unknown"),
        ({"data": {"tset": "t.csv"}, "targets": ["y"]}, "unknown part 'tset': did you mean 'test'"),
        ({"data": "t.csv", "targets": ["y"], "test": 0.6, "validation": 0.5}, "leave nothing to train on"),
        ({"data": "t.csv", "targets": ["y"], "text": "a", "vectors_file": "b"}, "are inputs of different kinds"),
    ],
)
def test_settings_that_cannot_work(options, said):
    with pytest.raises(ConfigError, match=said):
        load_suite("table", **options)


def test_cells_that_stand_for_nothing(write):
    rows = [{"x": "?" if i % 7 == 0 else i, "y": ("", "None", "a", "b")[i % 4]} for i in range(80)]
    suite = load(write(rows), ("y",))
    assert suite.tasks[0].labels == ("a", "b")
    assert suite.preprocessing.columns[0].tells_missing
    suite = load(write(rows), ("y",), missing=["?"])
    assert suite.tasks[0].labels == ("None", "a", "b")


def test_columns_called_like_keywords(write):
    """And like settings, or with marks in them, where a task takes a name of its own."""
    rows = [{"null": i, "class": "ab"[i % 2], "seed": i % 7, "a.b/c": i / 7 % 3} for i in range(80)]
    suite = load(write(rows), {"class": None, "null": {"kind": "regression"}, "abc": {"column": "a.b/c"}})
    assert suite.task_names == ("class", "null", "abc")
    assert [column.name for column in suite.preprocessing.columns] == ["seed"]


def test_inputs_that_are_targets_are_refused(write):
    path = write(rows_of(), columns=PEOPLE)
    with pytest.raises(ConfigError, match=r"tasks.columns names 'income', which is a target"):
        load(path, columns=["income", "age"])
    with pytest.raises(DataError, match=r"has no column 'agee' \(tasks.ignore\): did you mean 'age'"):
        load(path, ignore=["agee"])
