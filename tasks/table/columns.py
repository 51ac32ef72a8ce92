"""Columns as inputs: numbers standardised, categories as one of K, fitted by scikit-learn on support rows alone.

What was fitted is plain data, so that it can be stored and read without running anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossrag.tasks.table.cells import Cell, Table, content_of, name_of, number_of

MAX_CATEGORIES = 1000
Values = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class NumericColumn:
    """(value - mean) / scale; a missing one is the mean, and says so in a second input where support rows lack some."""

    name: str
    mean: float
    scale: float
    tells_missing: bool

    @property
    def width(self) -> int:
        return 1 + self.tells_missing

    def said(self) -> str:
        """In words, for people."""
        return f"{self.name} (number)"

    def encode(self, table: Table, cells: Sequence[Cell]) -> Values:
        """Inputs (N, width); raises DataError for a cell that is no number, or lies too far from the others."""
        values = _numbers(table, self.name, cells)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (values - self.mean) / self.scale
        far = np.flatnonzero(np.abs(scaled) > 1e30)
        if len(far):
            raise table.error(int(far[0]), self.name, f"{cells[far[0]]!r} is out of all proportion to the other rows.")
        absent = np.isnan(values)
        encoded = np.where(absent, 0.0, scaled)[:, None]
        return np.hstack([encoded, absent[:, None]]) if self.tells_missing else encoded


@dataclass(frozen=True)
class CategoryColumn:
    """One input for each category of the support rows; those not seen there, and missing ones, have none."""

    name: str
    categories: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.categories)

    def said(self) -> str:
        """In words, for people."""
        return f"{self.name} ({self.width} categories)"

    def encode(self, table: Table, cells: Sequence[Cell]) -> Values:
        """Inputs (N, width), all 0 or one 1."""
        places = {category: i for i, category in enumerate(self.categories)}
        encoded = np.zeros((len(cells), self.width))
        for row, cell in enumerate(cells):
            if isinstance(cell, list):
                raise table.error(row, self.name, "a list is no category: leave the column out (ignore).")
            place = None if cell is None else places.get(name_of(cell))
            if place is not None:
                encoded[row, place] = 1.0
        return encoded


Column = NumericColumn | CategoryColumn


def fit_column(table: Table, name: str, support: Rows, as_kind: str | None) -> Column:
    """The column ``name`` fitted on the ``support`` rows; as_kind: ``numeric``, ``categorical``, None: as it looks.

    Raises DataError for contents that are neither, with what to do.
    """
    cells = table.columns[name]
    content = "texts" if as_kind == "categorical" else content_of(table, name, cells)
    first = next((row for row, cell in enumerate(cells) if cell is not None), 0)
    if content in ("lists", "dates"):
        advice = "leave the column out (ignore), or make numbers of it" if content == "dates" else "flatten them"
        raise table.error(first, name, f"{content}, such as {cells[first]!r:.60}, are no inputs: {advice}.")
    if as_kind == "numeric" and content not in ("numbers", "nothing"):
        raise table.error(first, name, f"{cells[first]!r:.60} is no number, but numeric names the column.")
    if content == "nothing":
        raise table.error(first, name, "every row lacks a value: leave the column out (ignore).")
    chosen = [cells[row] for row in support]
    if content == "numbers":
        return _fit_numbers(table, name, chosen)
    known = {name_of(cell) for cell in chosen if cell is not None and not isinstance(cell, list)}
    if len(known) > MAX_CATEGORIES or (as_kind is None and len(known) > max(20, len(chosen) // 2)):
        raise table.error(
            first,
            name,
            f"{len(known):,} different texts, such as {cells[first]!r:.40}, are no categories: leave the column out "
            f"(ignore), or read it as text (text={name})"
            + ("." if len(known) > MAX_CATEGORIES else ", or name it in categorical."),
        )
    encoder = importlib.import_module("sklearn.preprocessing").OneHotEncoder(handle_unknown="ignore")
    fitted = encoder.fit(np.array(sorted(known), dtype=object)[:, None]) if known else None
    return CategoryColumn(name, () if fitted is None else tuple(fitted.categories_[0].tolist()))


def _fit_numbers(table: Table, name: str, cells: Sequence[Cell]) -> NumericColumn:
    values = np.array([np.nan if (n := number_of(cell)) is None else n for cell in cells])
    absent = np.isnan(values)
    if absent.all():
        return NumericColumn(name, 0.0, 1.0, True)
    scaler = importlib.import_module("sklearn.preprocessing").StandardScaler()
    with np.errstate(all="ignore"):
        mean, scale = _fitted(scaler, values)
    if not (np.isfinite(mean) and np.isfinite(scale)):
        row = int(np.nanargmax(np.abs([number_of(cell) or 0.0 for cell in table.columns[name]])))
        raise table.error(row, name, f"{table.columns[name][row]!r} is too large a number: scale the column.")
    return NumericColumn(name, mean, scale, bool(absent.any()))


def _fitted(scaler: object, values: Values) -> tuple[float, float]:
    fitted = scaler.fit(values[:, None])  # type: ignore[attr-defined]
    return float(fitted.mean_[0]), float(fitted.scale_[0])


def _numbers(table: Table, name: str, cells: Sequence[Cell]) -> Values:
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if cell is None:
            continue
        number = number_of(cell)
        if number is None or not np.isfinite(number):
            raise table.error(row, name, f"{cell!r:.60} is no finite number, as the column has in the support rows.")
        values[row] = number
    return values
