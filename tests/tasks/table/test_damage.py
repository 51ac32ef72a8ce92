"""Fuzz: a table damaged in any way is a suite or one line of ours, never anything else."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag import LossRAGError, load_suite

ROWS = [
    {"x": i, "c": "abc"[i % 3], "text": f"word {i % 5} of {i}", "y": "uv"[i // 3 % 2], "z": i * 0.37 % 5}
    for i in range(48)
]
CELLS = st.one_of(
    st.sampled_from(
        ["", "?", "inf", "-1e400", "nan", "1e308", "2020-01-01", "u", "v", "true", '"', "'", ",", "\n", "\0"]
    ),
    st.text(max_size=5),
    st.integers(-(10**400), 10**400).map(str),
    st.floats().map(str),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
OPTIONS = st.sampled_from(
    [
        {"targets": ["y", "z"]},
        {"targets": ["y"], "columns": ["x", "c"]},
        {"targets": ["y", "z"], "text": "text", "vectors": "random", "dim": 2},
        {"targets": {"a": {"columns": ["x", "z"]}, "b": {"column": "y", "where": {"c": "a"}}}, "ignore": ["text"]},
        {"targets": {"y": {"kind": "binary", "positive": "u"}}, "categorical": ["x", "text"], "group": "c"},
        {"targets": ["z"], "split": "c"},
        {"targets": {"c": {"kind": "multilabel", "separator": "a"}, "y": None}, "columns": ["x"]},
        {"targets": ["c"], "numeric": ["x"], "ignore": ["text"]},
    ]
)
EXAMPLES = int(os.environ.get("LOSSRAG_FUZZ", "120"))


def loads(content: bytes, ending: str, options) -> None:
    """Or ends with one line that is ours."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(folder, f"t{ending}")
        path.write_bytes(content)
        try:
            suite = load_suite("table", data=str(path), **options)
        except LossRAGError as error:
            said = str(error)
        else:
            said = ""
            assert all(len(own) for split in suite.splits.values() for own in split)
            json.dumps(suite.preprocessing.plain(), allow_nan=False)
        assert len(said) < 600, said


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.lists(st.tuples(st.integers(0, 48), st.integers(0, 4), CELLS), max_size=6), OPTIONS)
def test_cells_of_a_csv(changes, options):
    lines = [list(ROWS[0]), *([str(cell) for cell in row.values()] for row in ROWS)]
    for row, column, cell in changes:
        lines[row][column] = cell
    text = "\n".join(",".join(line) for line in lines)
    loads(text.encode("utf-8", "surrogatepass"), ".csv", options)


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.lists(st.tuples(st.integers(0, 47), st.sampled_from(list(ROWS[0])), VALUES), max_size=6), OPTIONS)
def test_values_of_json_lines(changes, options):
    rows = [dict(row) for row in ROWS]
    for row, column, value in changes:
        rows[row][column] = value
    loads("\n".join(map(json.dumps, rows)).encode(), ".jsonl", options)


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.data(), st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]), OPTIONS)
def test_bytes_of_a_file(data, ending, options):
    if ending == ".parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        stream = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), stream)
        content = bytearray(stream.getvalue().to_pybytes())
    elif ending == ".jsonl":
        content = bytearray("\n".join(map(json.dumps, ROWS)).encode())
    else:
        mark = "," if ending == ".csv" else "\t"
        lines = [mark.join(map(str, line)) for line in [ROWS[0], *(row.values() for row in ROWS)]]
        content = bytearray("\n".join(lines).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.sampled_from([0, 1, 1, 1, 40]))
        content[place : place + length] = data.draw(st.binary(max_size=3))
    loads(bytes(content), ending, options)
