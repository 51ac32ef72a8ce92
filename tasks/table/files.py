"""Files of tables: CSV, TSV, JSON lines, Parquet. A file is read once, and damage is named by line and column."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lossrag.errors import ConfigError, DataError
from lossrag.extras import load_extra
from lossrag.files import expanded, read_file
from lossrag.tasks.table.cells import Cell, Table, known_cell, plain_cell

MAX_BYTES = 2**30
"""Tables are held in memory as a whole: larger files are refused."""
MAX_CELLS = 2**28
"""Of a Parquet file, whose compression may make much of little."""
FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"PK\x03\x04", ""), (b"\x1f\x8b", ""))
Rows = tuple[list[str], list[list[Cell]], list[int]]


def read_table(
    given: str, missing: Collection[str] = (), delimiter: str | None = None, encoding: str = "utf-8"
) -> Table:
    """The table in a file, by the end of its name: .csv, .tsv, .jsonl (or .ndjson), .parquet.

    missing: texts that stand for nothing. delimiter: between the cells of a CSV file, instead of the comma.
    Raises DataError for a file that is absent, too large, damaged or empty, with the line, and ConfigError for an
    unknown format or encoding.
    """
    path = expanded(given, "data")
    content = _bytes(path)
    form = path.suffix.lower()
    if form not in FORMATS:
        raise ConfigError(f"{path}: a table is a file that ends with {', '.join(FORMATS)}, not {form or 'nothing'!r}.")
    if form == ".parquet":
        names, rows, lines = _parquet(path, content)
    else:
        text = _text(path, content, encoding)
        names, rows, lines = (
            _json_lines(path, text)
            if form in (".jsonl", ".ndjson")
            else _separated(path, text, delimiter or ("\t" if form == ".tsv" else ","))
        )
    for name, times in Counter(names).items():
        if times > 1:
            raise DataError(f"{path}, line 1: {times} columns are called {name!r}: give each a name of its own.")
        if not name:
            raise DataError(f"{path}, line 1: column {names.index('') + 1} of {len(names)} has no name: give it one.")
    if not rows:
        raise DataError(f"{path} has no rows below its header." if names else f"{path} is empty: it holds no table.")
    absent = frozenset([*missing, ""])
    cells = [[known_cell(row[i], absent) for row in rows] for i in range(len(names))]
    return Table(
        dict(zip(names, cells, strict=True)),
        (str(given),),
        np.zeros(len(rows), dtype=np.int64),
        np.array(lines, dtype=np.int64),
        hashlib.sha256(content).hexdigest()[:12],
    )


def _bytes(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"{path} has {path.stat().st_size / 2**30:.1f} GiB: tables are held in memory as a whole, 1 GiB of "
                "file at most. Take fewer rows or columns; streaming is not there."
            )
        return read_file(path, MAX_BYTES)
    except OSError as error:
        raise DataError(f"Cannot read the table {path}: {error}.") from None


def _text(path: Path, content: bytes, encoding: str) -> str:
    for mark, meant in _MARKS:
        if content.startswith(mark) and not meant:
            raise DataError(f"{path} is a compressed file: unpack it first.")
        if content.startswith(mark) and encoding.lower().replace("_", "-") not in ("utf-16", "utf16"):
            raise DataError(f"{path} begins with the mark of UTF-16: set encoding=utf-16.")
    try:
        # the mark that some programs put at the beginning of UTF-8 is no part of the first name
        text = content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: the byte 0x{content[error.start]:02x} is not of {encoding}: name that of the "
            "file, such as encoding=latin-1 or cp1252."
        ) from None
    except (LookupError, UnicodeError, ValueError) as error:
        raise ConfigError(f"encoding={encoding!r} cannot be used ({error}): name one, e.g. latin-1.") from None
    if "\0" in text:
        raise DataError(f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: a zero byte is no text.")
    return text


def _separated(path: Path, text: str, delimiter: str) -> Rows:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"delimiter={delimiter!r} cannot be used ({error}): name one character.") from None
    header: list[str] = []
    rows: list[list[Cell]] = []
    lines: list[int] = []
    before = 0
    try:
        for row in reader:
            line, before = before + 1, reader.line_num
            if not row:
                continue  # an empty line
            if not header:
                header = [name.strip() for name in row]
                _check_delimiter(path, header, delimiter)
                continue
            if len(row) != len(header):
                seen = f"the last is {row[-1]!r:.40}" if len(row) > len(header) else f"{header[len(row)]!r} has none"
                raise DataError(
                    f"{path}, line {line}: {len(row)} cells where the header has {len(header)} columns ({seen}): quote "
                    "cells that hold the delimiter, and give empty ones their place."
                )
            rows.append(list(row))
            lines.append(line)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}; write a quote inside of quotes twice, and close every quote."
        ) from None
    return header, rows, lines


def _check_delimiter(path: Path, header: Sequence[str], delimiter: str) -> None:
    for other in (",", ";", "\t", "|"):
        if len(header) == 1 and other != delimiter and other in header[0]:
            raise DataError(
                f"{path}, line 1: one column, {header[0]!r:.60}: it seems to be parted by {other!r}: set "
                f"delimiter={json.dumps(other)}."
            )


def _json_lines(path: Path, text: str) -> Rows:
    names: dict[str, int] = {}
    found: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object(path, number))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is no JSON object: {error}.") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: a row is a JSON object of columns, not {line.strip()!r:.60}.")
        for name, cell in row.items():
            if isinstance(cell, dict) or (isinstance(cell, list) and any(isinstance(e, (dict, list)) for e in cell)):
                raise DataError(f"{path}, line {number}, column {name!r}: nested values are no cells: flatten them.")
        names.update((name.strip(), len(names)) for name in row if name.strip() not in names)
        found.append({name.strip(): cell for name, cell in row.items()})
        lines.append(number)
    return list(names), [[row.get(name) for name in names] for row in found], lines


def _object(path: Path, line: int) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(name for name, _ in pairs)
        name, times = counts.most_common(1)[0] if counts else ("", 0)
        if times > 1:
            raise DataError(f"{path}, line {line}: {times} values are called {name!r}: give each a name of its own.")
        return dict(pairs)

    return made


def _parquet(path: Path, content: bytes) -> Rows:
    parquet = load_extra("pyarrow.parquet", "table", f"Reading {path.name}")
    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        about = file.metadata
        unpacked = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
        if unpacked > MAX_BYTES or about.num_rows * about.num_columns > MAX_CELLS:
            raise ValueError(f"it unpacks to {unpacked:,} bytes, {about.num_rows:,} rows: that is not held in memory")
        table = file.read()
        columns = [[plain_cell(cell) for cell in column.to_pylist()] for column in table.columns]
    except Exception as error:  # pyarrow raises its own and many of Python's
        raise DataError(f"Cannot read {path} as a Parquet file: {str(error).splitlines()[0]:.200}.") from None
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    return list(table.column_names), rows, list(range(1, len(rows) + 1))
