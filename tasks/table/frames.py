"""Frames as tables: a pandas DataFrame or a Hugging Face data set, of which neither package is imported here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

import numpy as np

from lossrag.errors import DataError
from lossrag.tasks.table.cells import Cell, Table, known_cell, plain_cell


def is_frame(data: object) -> bool:
    """True for a pandas DataFrame (``columns``, ``isna``) or a Hugging Face Dataset (``column_names``)."""
    return hasattr(data, "isna" if hasattr(data, "columns") else "column_names") and not isinstance(data, dict)


def frame_table(data: Any, missing: Collection[str]) -> Table:
    """The table of a frame; ``missing``: texts that stand for nothing.

    Raises DataError for column names that are no texts or come twice, and for a frame without rows.
    """
    pandas = hasattr(data, "columns")
    names = list(data.columns) if pandas else list(data.column_names)
    for name in names:
        if not isinstance(name, str) or not name or names.count(name) > 1:
            raise DataError(f"The frame has a column {name!r}: columns need a name each, a text that comes once.")
    absent = frozenset([*missing, ""])
    columns: dict[str, list[Cell]] = {}
    for name in names:
        cells = list(data[name])
        gone = data[name].isna().tolist() if pandas else [False] * len(cells)
        columns[name] = [
            None if lacks else known_cell(plain_cell(cell), absent) for cell, lacks in zip(cells, gone, strict=True)
        ]
    rows = len(data)
    if not rows or not names:
        raise DataError("The frame has no rows, or no columns: there is nothing to learn from.")
    # not sorted: the order of the columns is that of the inputs
    digest = hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:12]
    return Table(columns, ("frame",), np.zeros(rows, dtype=np.int64), np.arange(1, rows + 1), digest)
