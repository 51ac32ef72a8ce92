"""Files of tables: what is read, and the one line that names what cannot be."""

from __future__ import annotations

import json

import pytest

from lossrag import ConfigError, DataError
from lossrag.tasks.table.cells import MISSING
from lossrag.tasks.table.files import read_table


def read(tmp_path, content, name="t.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(str(path), MISSING, **options)


def test_a_csv_with_quotes_marks_and_empty_lines(tmp_path):
    table = read(tmp_path, '\ufeffa, b\r\n1,"x, ""y""\nz"\r\n\r\n?, NA\r\n'.encode())
    assert dict(table.columns) == {"a": ["1", None], "b": ['x, "y"\nz', None]}
    assert table.line.tolist() == [2, 5]
    assert table.at(1) == f"{tmp_path}/t.csv, line 5"


def test_tsv_and_other_delimiters(tmp_path):
    assert read(tmp_path, "a\tb\n1,5\t2\n", "t.tsv").columns["a"] == ["1,5"]
    assert read(tmp_path, "a;b\n1;2\n", delimiter=";").columns["b"] == ["2"]


def test_latin_1(tmp_path):
    assert read(tmp_path, "a\ncafé\n".encode("latin-1"), encoding="latin-1").columns["a"] == ["café"]


def test_json_lines(tmp_path):
    rows = [{"a": 1, "b": "x"}, {"a": None, "c": True}, {"a": float("nan"), "b": ["x", "y"]}]
    table = read(tmp_path, "\n\n".join(map(json.dumps, rows)), "t.jsonl")
    assert dict(table.columns) == {"a": [1, None, None], "b": ["x", None, ["x", "y"]], "c": [None, True, None]}
    assert table.line.tolist() == [1, 3, 5]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"a": [1, None], "b": ["x", "?"]}), path)
    table = read_table(str(path), MISSING)
    assert dict(table.columns) == {"a": [1, None], "b": ["x", None]}
    assert table.at(1) == f"{path}, row 2"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="as a Parquet file"):
        read_table(str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n1,2,3\n", r"t.csv, line 3: 3 cells where the header has 2 columns \(the last is '3'\)"),
        ("a,b\n1\n", r"line 2: 1 cells where the header has 2 columns \('b' has none\)"),
        ("a,a\n1,2\n", r"line 1: 2 columns are called 'a'"),
        ("a,\n1,2\n", r"line 1: column 2 of 2 has no name"),
        ("", r"is empty: it holds no table"),
        ("\n\n", r"is empty: it holds no table"),
        ("a,b\n", r"has no rows below its header"),
        ('a,b\n1,"2\n', r"line 2: unexpected end of data; write a quote inside"),
        ('a,b\n"1"2,3\n', r"line 2: ',' expected after '\"'"),
        ("a;b\n1;2\n", r"line 1: one column, 'a;b': it seems to be parted by ';': set delimiter="),
        (b"a,b\n1,2\n\xe9,3\n", r"line 3: the byte 0xe9 is not of utf-8: name that of the file"),
        ("a\n1\n".encode("utf-16"), r"begins with the mark of UTF-16"),
        (b"a\n\x001\n", r"line 2: a zero byte is no text"),
        (b"PK\x03\x04", r"is a compressed file: unpack it first"),
    ],
)
def test_damaged_csv(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}\n{"a": 1', r"t.jsonl, line 2 is no JSON object"),
        ("[1]", r"line 1: a row is a JSON object of columns, not '\[1\]'"),
        ('{"a": {"b": 1}}', r"line 1, column 'a': nested values are no cells"),
        ('{"a": 1, "a": 2}', r"line 1: 2 values are called 'a'"),
        ("", r"is empty"),
    ],
)
def test_damaged_json_lines(tmp_path, content, said):
    with pytest.raises(DataError, match=said):
        read(tmp_path, content, "t.jsonl")


def test_what_is_no_table(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="Cannot read the table"):
        read_table(str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match="is a folder, no file"):
        read_table(str(tmp_path))
    with pytest.raises(ConfigError, match=r"a table is a file that ends with .csv, .tsv, .jsonl"):
        read(tmp_path, "a\n1\n", "t.xlsx")
    with pytest.raises(ConfigError, match="encoding='utf-9' cannot be used"):
        read(tmp_path, "a\n1\n", encoding="utf-9")
    with pytest.raises(ConfigError, match="delimiter='ab' cannot be used"):
        read(tmp_path, "a\n1\n", delimiter="ab")
    monkeypatch.setattr("lossrag.tasks.table.files.MAX_BYTES", 3)
    with pytest.raises(DataError, match="1 GiB of file at most"):
        read(tmp_path, "a\n1\n")
