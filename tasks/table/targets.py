"""Targets of a table: their kind as the column tells it, their classes by name, values standardised by support rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossrag.errors import DataError, did_you_mean
from lossrag.labels import IGNORED
from lossrag.tasks.suite import Task
from lossrag.tasks.table.cells import Cell, Table, content_of, name_of, number_of
from lossrag.tasks.table.settings import Target

FEW_CLASSES = 20
"""Whole numbers of so many values at most are classes."""
MAX_CLASSES = 1000
MAX_LABELS = 50
"""Labels of a multi-label target, each of which is a task."""
HAS = ("no", "yes")
_ODD = re.compile(r"[^\w-]")
Mask = NDArray[np.bool_]
SPLIT_NUMBER = 4
"""Splits, each of which needs a label."""


@dataclass(frozen=True)
class TargetColumn:
    """A target as it is learned: ``labels`` of its classes, or the ``mean`` and ``scale`` of its values (K,), which
    stay as they are where none is told. ``member``: the label of a multi-label column that a row has or has not, cells
    that are no lists being parted at the ``separator``. ``where``: the rows that the task is about, by column the value
    that they have."""

    name: str
    columns: tuple[str, ...]
    kind: str
    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    metric: str = ""
    member: str | None = None
    separator: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The task of a suite."""
        if self.kind == "regression":
            return Task(self.name, "regression", len(self.columns), (), self.metric, self.mean, self.scale)
        return Task(self.name, "classification", len(self.labels), self.labels, self.metric)

    def encode(self, table: Table, rows: Mask | None = None) -> Tensor:
        """Targets of all rows: classes (N,), -100 where there is none, or values (N, K), NaN where there is none.

        rows: (N,), those that are the task's; the others have none.
        Raises DataError for a class that is not known, or a value that is no number.
        """
        if self.kind == "regression":
            raw = torch.from_numpy(values_of(table, self, rows))
            if not self.scale:
                return raw.float()
            mean, scale = (torch.tensor(own, dtype=torch.float64) for own in (self.mean, self.scale))
            return ((raw - mean) / scale).float()
        places = {label: i for i, label in enumerate(self.labels)}
        classes = torch.full((len(table),), IGNORED, dtype=torch.int64)
        for row, cell in enumerate(cells_of(table, self, self.columns[0], rows)):
            if cell is not None:
                label = name_of(cell)
                if label not in places:
                    raise table.error(row, self.columns[0], f"{label!r:.60} is no class that was there in training.")
                classes[row] = places[label]
        return classes

    def said(self) -> str:
        """In words, for people.

        >>> TargetColumn("paid", ("paid",), "binary", ("no", "yes")).said()
        'paid: binary, no | yes'
        """
        if self.kind == "regression":
            return f"{self.name}: regression" + (f" of {', '.join(self.columns)}" if len(self.columns) > 1 else "")
        if self.member is not None:
            return f"{self.name}: whether {self.columns[0]} has {self.member}"
        classes = " | ".join(self.labels[:6]) + (f" | ... ({len(self.labels)})" if len(self.labels) > 6 else "")
        return f"{self.name}: {self.kind}, {classes}"


def read_target(table: Table, target: Target, rows: NDArray[np.bool_]) -> TargetColumn:
    """The kind and classes of a target in its ``rows`` (N,), not yet standardised.

    Raises DataError for a target that is missing everywhere, constant, a text without end, or has a class too rarely,
    ConfigError for a metric that is not of its kind.
    """
    cells = {name: cells_of(table, target, name, rows) for name in target.columns}
    for name, column in cells.items():
        if all(cell is None for cell in column):
            raise DataError(
                f"{', '.join(table.files)}, column {name!r}: no row has a value of the target {target.name}: fill some "
                "in, or leave the target out."
            )
    kind = target.kind or _kind(table, target, cells)
    if kind == "regression":
        made = TargetColumn(
            target.name, target.columns, "regression", metric=target.metric or "", where=dict(target.where)
        )
        numbers = values_of(table, made, rows)
        for name, column in zip(target.columns, numbers.T, strict=True):
            known = column[~np.isnan(column)]
            if (known == known[0]).all():
                raise _constant(table, name, cells[name])
        if np.isnan(numbers).any(axis=1).all():
            raise DataError(f"{table.files[0]}: no row has all values of the target {target.name}.")
        return made
    (name,) = target.columns
    labels = _labels(table, target, name, cells[name], kind)
    if kind == "binary" and len(labels) != 2:
        raise table.error(
            0, name, f"a binary target has two classes, this one {len(labels)}: say kind: classification."
        )
    kind = "binary" if len(labels) == 2 else "classification"
    metric, member, separator = target.metric or "", target.member, target.separator
    where = dict(target.where)
    return TargetColumn(target.name, target.columns, kind, labels, (), (), metric, member, separator, where)


def _kind(table: Table, target: Target, cells: dict[str, list[Cell]]) -> str:
    if len(target.columns) > 1:
        return "regression"
    (name,) = target.columns
    content = content_of(table, name, cells[name])
    first = next(row for row, cell in enumerate(cells[name]) if cell is not None)
    if content in ("dates", "lists"):
        raise table.error(
            first, name, f"{content}, such as {cells[name][first]!r:.60}, are no target: make numbers or names of it."
        )
    if content == "numbers":
        numbers = {number_of(cell) for cell in cells[name] if cell is not None}
        whole = all(number is not None and number.is_integer() for number in numbers)
        return "classification" if whole and len(numbers) <= FEW_CLASSES else "regression"
    return "classification"


def _labels(table: Table, target: Target, name: str, cells: Sequence[Cell], kind: str) -> tuple[str, ...]:
    first: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for row, cell in enumerate(cells):
        if isinstance(cell, list):
            raise table.error(row, name, f"{cell!r:.60} is no class.")
        if cell is not None:
            label = name_of(cell)
            first.setdefault(label, row)
            counts[label] += 1
    if len(counts) == 1:
        raise _constant(table, name, cells)
    if len(counts) > MAX_CLASSES:
        row = next(iter(first.values()))
        raise table.error(
            row,
            name,
            f"{len(counts):,} different values, such as {cells[row]!r:.40}: a target has {MAX_CLASSES:,} "
            "classes at most; leave it out, or say kind: regression where they are numbers.",
        )
    label, times = min(counts.items(), key=lambda item: item[1])
    if times < SPLIT_NUMBER:
        raise table.error(
            first[label],
            name,
            f"the class {label!r:.60} is there {times} time{'s' * (times > 1)}, but each of the "
            f"{SPLIT_NUMBER} splits needs one: add rows, join it with another class, or empty these cells.",
        )
    numbers = [number_of(label) for label in counts]
    ordered = sorted(counts) if None in numbers else sorted(counts, key=lambda own: number_of(own) or 0.0)
    if target.positive is not None:
        if target.positive not in counts or len(ordered) != 2:
            raise table.error(
                0, name, f"positive={target.positive!r} is not one of two classes: {', '.join(ordered[:6])}."
            )
        ordered.sort(key=lambda own: own == target.positive)
    return tuple(ordered)


def _constant(table: Table, name: str, cells: Sequence[Cell]) -> DataError:
    row = next(row for row, cell in enumerate(cells) if cell is not None)
    return table.error(row, name, f"the target is {cells[row]!r:.40} in every row that has one: leave it out.")


def cells_of(table: Table, target: Target | TargetColumn, name: str, rows: Mask | None = None) -> list[Cell]:
    """The cells (N,) of a column of a target, None outside of its ``rows``; of a label of many, whether it is there."""
    cells = table.column(name, f"the target {target.name}")
    if rows is not None:
        cells = [cell if own else None for cell, own in zip(cells, rows, strict=True)]
    if target.member is None:
        return cells
    return [None if cell is None else HAS[target.member in members(cell, target.separator)] for cell in cells]


def members(cell: Cell, separator: str | None) -> list[str]:
    """The labels in a cell of a multi-label column.

    >>> members("red| green", "|"), members(["red", 3], None)
    (['red', 'green'], ['red', '3'])
    """
    if isinstance(cell, list):
        return [name_of(own) for own in cell if own is not None]
    parts = name_of(cell).split(separator) if separator else [name_of(cell)]
    return [part.strip() for part in parts if part.strip()]


def expanded(table: Table, target: Target, rows: Mask) -> list[Target]:
    """A multi-label target as one binary target for each of its labels; any other as it is.

    Raises DataError for labels that are not there, too many, or alike as names of tasks.
    """
    name = target.columns[0]
    cells = cells_of(table, target, name, rows)
    given = [cell for cell in cells if cell is not None]
    looks = target.kind is None and bool(given) and all(isinstance(cell, list) for cell in given)
    if len(target.columns) > 1 or not (target.kind == "multilabel" or looks):
        return [target]
    counts = Counter(label for cell in given for label in dict.fromkeys(members(cell, target.separator)))
    for label in target.labels or ():
        if label not in counts:
            where = f"{', '.join(table.files)}, column {name!r}"
            raise DataError(f"{where}: no row has the label {label!r}: {did_you_mean(label, counts)}")
    labels = target.labels or sorted(counts)
    first = next((row for row, cell in enumerate(cells) if cell is not None), 0)
    if len(labels) > MAX_LABELS or not labels:
        raise table.error(
            first,
            name,
            f"{len(labels):,} labels, each of which would be a task: name up to {MAX_LABELS} of them in "
            f"labels: [...]; or their separator, where the cells are texts.",
        )
    names = [f"{target.name}_{_ODD.sub('_', label)}" for label in labels]
    for own, label in zip(names, labels, strict=True):
        if names.count(own) > 1:
            raise table.error(first, name, f"several labels would be the task {own!r}, {label!r} among them.")
    return [
        replace(target, name=own, kind="binary", member=label, labels=())
        for own, label in zip(names, labels, strict=True)
    ]


def values_of(table: Table, target: TargetColumn, rows: Mask | None = None) -> NDArray[np.float64]:
    """The numbers (N, K) of a regression, NaN where there is none; raises DataError for a cell that is no number."""
    columns = []
    for name in target.columns:
        values = np.full(len(table), np.nan)
        for row, cell in enumerate(cells_of(table, target, name, rows)):
            if cell is None:
                continue
            number = number_of(cell)
            if number is None or not np.isfinite(number) or abs(number) > 1e100:
                raise table.error(row, name, f"{cell!r:.60} is no finite number, which a regression needs.")
            values[row] = number
        columns.append(values)
    return np.stack(columns, axis=1)


def standardised(table: Table, target: TargetColumn, support: Mask) -> TargetColumn:
    """The target with the mean and spread of its values in the ``support`` rows (N,) that have all of them."""
    if target.kind != "regression":
        return target
    values = values_of(table, target, support)
    values = values[~np.isnan(values).any(axis=1)]
    spread = values.std(axis=0)
    for name, column in zip(target.columns, spread, strict=True):
        if not column > 0:
            raise DataError(f"{table.files[0]}, column {name!r}: its values are all the same in the support rows.")
    return replace(target, mean=tuple(values.mean(axis=0).tolist()), scale=tuple(spread.tolist()))
