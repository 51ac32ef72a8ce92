"""Cells of a table, and what a column of them holds: numbers, texts, lists, dates, or a mixture to be mended."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lossrag.errors import DataError, did_you_mean

Cell: TypeAlias = "str | float | bool | list[Any] | None"
"""Text, number, truth, list, or None where there is nothing."""
Content = Literal["numbers", "texts", "truths", "lists", "dates", "nothing"]
MISSING = ("?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Texts that stand for nothing beside the empty one, unless told otherwise."""
IN_MEMORY = ("frame", "rows")
"""What stands in messages for a table that is no file."""
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d{1,2}[./]\d{1,2}[./]\d{2,4}")


@dataclass(frozen=True)
class Table:
    """Columns (N,) of cells by name, and where each row came from: ``files`` by number, and its line or row in it."""

    columns: Mapping[str, list[Cell]]
    files: tuple[str, ...]
    file: NDArray[np.int64]
    line: NDArray[np.int64]
    digest: str

    def __len__(self) -> int:
        return len(self.line)

    def at(self, row: int) -> str:
        """The place of a row, for messages."""
        name = self.files[self.file[row]]
        rows = name in IN_MEMORY or name.endswith(".parquet")
        return f"{name}, {'row' if rows else 'line'} {self.line[row]}"

    def error(self, row: int, column: str, reason: str) -> DataError:
        """The error of one cell."""
        return DataError(f"{self.at(row)}, column {column!r:.60}: {reason}")

    def column(self, name: str, purpose: str) -> list[Cell]:
        """The cells (N,) of a column; raises DataError, naming the ``purpose``, when there is none of this name."""
        if name not in self.columns:
            where = ", ".join(self.files)
            raise DataError(f"{where} has no column {name!r} ({purpose}): {did_you_mean(name, self.columns)}")
        return self.columns[name]


def joined(tables: Sequence[Table], optional: Collection[str] = ()) -> Table:
    """One table of the rows of several that have the same columns, but for ``optional`` ones, which may be absent.

    Raises DataError where they differ.
    """
    first = tables[0]
    names = dict.fromkeys(name for table in tables for name in table.columns)
    for other in tables[1:]:
        absent = sorted((first.columns.keys() ^ other.columns.keys()) - set(optional))
        if absent:
            lacks, has = (first, other) if absent[0] in other.columns else (other, first)
            raise DataError(f"{lacks.files[0]} has no column {absent[0]!r}, which {has.files[0]} has: give it one.")
    starts = np.cumsum([0, *(len(table.files) for table in tables)])
    return Table(
        {name: [cell for own in tables for cell in own.columns.get(name, [None] * len(own))] for name in names},
        tuple(name for table in tables for name in table.files),
        np.concatenate([table.file + start for table, start in zip(tables, starts, strict=False)]),
        np.concatenate([table.line for table in tables]),
        "+".join(table.digest for table in tables),
    )


def known_cell(cell: Cell, missing: frozenset[str]) -> Cell:
    """The cell without white space around it; None where it stands for nothing."""
    if isinstance(cell, str):
        cell = cell.strip()
        return None if cell in missing else cell
    return None if isinstance(cell, float) and math.isnan(cell) else cell


def plain_cell(cell: Any) -> Cell:
    """A value of pyarrow's, pandas' or NumPy's as a cell: decimals are numbers, dates and the rest are texts."""
    if isinstance(cell, (np.generic, np.ndarray)):
        cell = cell.tolist()
    if cell is None or isinstance(cell, (str, bool, int, float, list)):
        return cell
    try:
        return float(cell) if hasattr(cell, "as_tuple") else str(cell)
    except (ValueError, OverflowError):
        return str(cell)


def number_of(cell: Cell) -> float | None:
    """The number that a cell is, infinite ones too; None for anything else.

    >>> [number_of(cell) for cell in ("1.5", "-2e3", 4, "1_0", "x", True, None)]
    [1.5, -2000.0, 4.0, None, None, None, None]
    """
    if isinstance(cell, bool) or cell is None or isinstance(cell, list):
        return None
    if isinstance(cell, str) and (not cell.isascii() or "_" in cell):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return math.inf if isinstance(cell, int) else None


def content_of(table: Table, name: str, cells: Sequence[Cell]) -> Content:
    """What the cells of a column hold, missing ones aside; raises DataError for kinds that do not mix, with the first
    row of the rarer kind, and for numbers that are not finite."""
    rows: dict[Content, list[int]] = {}
    for row, cell in enumerate(cells):
        if cell is None:
            continue
        number = number_of(cell)
        kind: Content = "numbers" if number is not None else "texts"
        if number is not None and not math.isfinite(number):
            raise table.error(row, name, f"{cell!r} is no finite number: leave the cell empty where it is not known.")
        if number is None and not isinstance(cell, str):
            kind = "truths" if isinstance(cell, bool) else "lists"
        rows.setdefault(kind, []).append(row)
    if not rows:
        return "nothing"
    kinds = sorted(rows, key=lambda kind: -len(rows[kind]))
    if len(kinds) > 1:
        rare, usual = kinds[-1], kinds[0]
        row = rows[rare][0]
        raise table.error(
            row,
            name,
            f"{cells[row]!r:.60} stands among {usual} ({len(rows[usual]):,} of them): mend it or leave the cell empty; "
            f"name it in categorical where the column holds names, or in missing where it stands for nothing.",
        )
    if kinds[0] == "texts" and all(_DATE.fullmatch(str(cells[row])) for row in rows["texts"]):
        return "dates"
    return kinds[0]


def name_of(cell: Cell) -> str:
    """A cell as the name of a class or category.

    >>> [name_of(cell) for cell in ("yes", True, 2.0, 2.5)]
    ['yes', 'true', '2', '2.5']
    """
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    return str(cell)
