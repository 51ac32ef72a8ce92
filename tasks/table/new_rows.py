"""New rows for a trained model: read as its table was, held to its columns, told where they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossrag.errors import ConfigError, DataError, did_you_mean
from lossrag.tasks.suite import DenseInputs, TokenInputs
from lossrag.tasks.table.cells import Cell, Table, known_cell, name_of, plain_cell
from lossrag.tasks.table.columns import CategoryColumn, NumericColumn
from lossrag.tasks.table.files import read_table
from lossrag.tasks.table.frames import frame_table, is_frame
from lossrag.tasks.table.preprocessing import TablePreprocessing, documents_of
from lossrag.tasks.table.targets import TargetColumn

NAMED = 5
"""Columns and categories that a line names."""


@dataclass(frozen=True)
class NewRows:
    """Rows of a ``table`` for a model with this ``preprocessing``; ``notes``: lines on what differs from training.

    Raises DataError, naming them all, for input columns that the table lacks.
    """

    table: Table
    preprocessing: TablePreprocessing

    def __post_init__(self) -> None:
        absent = [name for name in self.names if name not in self.table.columns]
        if absent:
            others = [name for name in self.table.columns if name not in self.names]
            close = did_you_mean(absent[0], others) if len(absent) == 1 and others else "give it every input column."
            raise DataError(
                f"{', '.join(self.table.files)} lacks {_listed(absent)}, of {len(self.names):,} input "
                f"column{'s' * (len(self.names) > 1)} that the model reads: {close}"
            )

    @property
    def names(self) -> list[str]:
        """The input columns."""
        own = self.preprocessing
        return [column.name for column in own.columns] if own.text is None else [own.text]

    @property
    def notes(self) -> list[str]:
        """Lines on columns and cells that training did not have."""
        told = {name for target in self.preprocessing.targets for name in (*target.columns, *target.where)}
        lines = []
        unread = [name for name in self.table.columns if name not in self.names and name not in told]
        if unread:
            lines.append(f"not read: {_listed(unread)}")
        if self.names != [name for name in self.table.columns if name in self.names]:
            lines.append("the columns stand in another order than in training: they are found by name")
        nobodys = ~np.any([self.about(target) for target in self.preprocessing.targets], axis=0)
        if nobodys.any():
            lines.append(f"{_rows(int(nobodys.sum()))} no task (the first: {self.table.at(int(nobodys.argmax()))})")
        for column in self.preprocessing.columns:
            lines += _unlike_training(column, self.table.columns[column.name])
        return lines

    def dense(self) -> DenseInputs:
        """Inputs (N, F) of numeric and categorical columns; raises DataError for cells that do not fit."""
        return self.preprocessing.dense(self.table)

    def texts(self) -> list[str]:
        """The texts, as they stand; raises DataError for a row without one."""
        return documents_of(self.table, self._text, self.preprocessing.tokeniser)[0]

    def tokens(self) -> tuple[TokenInputs, list[str]]:
        """The texts in the words of training, and a line where some have none of them."""
        tokens = self.preprocessing.tokens(documents_of(self.table, self._text, self.preprocessing.tokeniser)[1])
        unknown = (tokens.offsets.diff() == 0).nonzero().flatten().tolist()
        if not unknown:
            return tokens, []
        count = f"{len(unknown):,} text{'s have' if len(unknown) > 1 else ' has'} no word that training knew"
        return tokens, [f"{count} (the first: {self.table.at(unknown[0])}): nothing is known about it"]

    @property
    def _text(self) -> str:
        assert self.preprocessing.text is not None
        return self.preprocessing.text

    def about(self, target: TargetColumn) -> NDArray[np.bool_]:
        """The rows (N,) that a task is about: all, where the table has no column to tell them by."""
        rows = np.ones(len(self.table), dtype=np.bool_)
        for name, value in target.where.items():
            if name in self.table.columns:
                rows &= np.array([cell is not None and name_of(cell) == value for cell in self.table.columns[name]])
        return rows

    def targets(self, target: TargetColumn) -> Tensor | None:
        """Targets (N,) or (N, K) of a task, without a label where it is not about a row; None where the table lacks a
        column of them. Raises DataError for a class that training did not have, and for a table that does not say which
        rows the task is about."""
        if any(name not in self.table.columns for name in target.columns):
            return None
        for name in target.where:
            self.table.column(name, f"the rows of {target.name}")
        return target.encode(self.table, self.about(target))


def read_rows(
    data: Any, preprocessing: TablePreprocessing, delimiter: str | None = None, encoding: str | None = None
) -> NewRows:
    """The rows in a file (a Path), a pandas or Hugging Face frame, a list of texts, or one of rows by column.

    delimiter, encoding: of a CSV file, where they are others than in training.
    Raises DataError for what cannot be read or lacks an input column, ConfigError for data of another kind.
    """
    reading = preprocessing.reading or {}
    missing = reading.get("missing", ())
    if isinstance(data, Path):
        same = data.suffix.lower() == ".csv"
        delimiter = delimiter or (reading.get("delimiter") if same else None)
        table = read_table(str(data), missing, delimiter, encoding or reading.get("encoding") or "utf-8")
    elif is_frame(data):
        table = frame_table(data, missing)
    else:
        table = _of_sequence(data, missing, preprocessing.text)
    return NewRows(table, preprocessing)


def _of_sequence(data: Any, missing: Iterable[str], text: str | None) -> Table:
    kinds = "a pathlib.Path of a file, a frame, a list of rows ({column: value}), or, for a model of texts, of texts"
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Sequence):
        raise ConfigError(f"Data to predict are {kinds}, not {data!r:.60}.")
    if not len(data):
        raise DataError("There are no rows to predict.")
    rows: list[Mapping[str, Any]] = []
    for number, row in enumerate(data, start=1):
        if isinstance(row, str) and text is not None:
            row = {text: row}  # noqa: PLW2901 - a text is a row of one column
        if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
            raise DataError(f"Row {number} is {row!r:.60}: data to predict are {kinds}.")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    absent = frozenset([*missing, ""])
    columns: dict[str, list[Cell]] = {
        name: [known_cell(plain_cell(row.get(name)), absent) for row in rows] for name in names
    }
    size = len(rows)
    return Table(columns, ("rows",), np.zeros(size, dtype=np.int64), np.arange(1, size + 1), "")


def _unlike_training(column: NumericColumn | CategoryColumn, cells: Sequence[Cell]) -> list[str]:
    """Lines on cells such as the support rows had none."""
    if isinstance(column, NumericColumn):
        gone = sum(cell is None for cell in cells) if not column.tells_missing else 0
        return [f"{column.name}: {_rows(gone)} no value, which training always had: read as its mean"] if gone else []
    known = set(column.categories)
    counts: dict[str, int] = {}
    for cell in cells:
        if cell is not None and not isinstance(cell, list) and (name := name_of(cell)) not in known:
            counts[name] = counts.get(name, 0) + 1
    if not counts:
        return []
    names = _listed(sorted(counts, key=lambda name: -counts[name]))
    return [f"{column.name}: {_rows(sum(counts.values()))} a category that training had not ({names}): read as unknown"]


def _rows(count: int) -> str:
    return f"{count:,} rows have" if count > 1 else "1 row has"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(f"{name!r:.40}" for name in names[:NAMED]) + more
