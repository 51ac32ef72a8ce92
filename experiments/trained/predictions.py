"""Predictions: classes by name with their probabilities, values in the units of the data; as columns, rows, a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossrag.errors import ConfigError, RunDirectoryError, did_you_mean
from lossrag.files import check_target, write_atomic
from lossrag.tasks import Task

Column = list[str | None] | list[float | None]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")


def predicted(task: Task, logits: Tensor) -> Tensor:
    """Of logits (N, K) the probabilities of the classes, or the values in the units of the data, in the same dtype."""
    if task.kind == "classification":
        return torch.softmax(logits, dim=1)
    if not task.scale:
        return logits
    return logits * torch.tensor(task.scale, dtype=logits.dtype) + torch.tensor(task.mean, dtype=logits.dtype)


@dataclass(frozen=True)
class TaskPrediction:
    """Prediction of one task for N rows, in their order.

    outputs: probabilities (N, K) of its classes, or values (N, K) in the units of the data, in float64; no numbers
    where the task is not about a row. parts: names of several values.
    """

    task: Task
    outputs: NDArray[np.float64]
    parts: tuple[str, ...] = ()

    @staticmethod
    def of(task: Task, logits: Tensor, parts: tuple[str, ...] = ()) -> TaskPrediction:
        """From the logits (N, K) of the task's head."""
        outputs = predicted(task, logits.double())
        return TaskPrediction(task, outputs.numpy(), () if task.kind == "classification" else parts)

    @property
    def classes(self) -> list[str | None]:
        """The most probable class of every row, by name, None where the task is not about it; of no regression."""
        labels = self.task.labels or tuple(map(str, range(self.task.outputs)))
        best = self.outputs.argmax(axis=1).tolist()
        return [labels[place] if about else None for place, about in zip(best, self.about, strict=True)]

    @property
    def about(self) -> list[bool]:
        """Whether the task is about a row, (N,)."""
        rows: list[bool] = (~np.isnan(self.outputs).any(axis=1)).tolist()  # type: ignore[assignment]
        return rows

    @property
    def columns(self) -> dict[str, Column]:
        """Columns by name: of a classification the class, and its probability; of a regression the value, or values."""
        name = self.task.name
        if self.task.kind == "classification":
            return {name: self.classes, f"{name}.probability": self._numbers(self.outputs.max(axis=1))}
        if self.task.outputs == 1:
            return {name: self._numbers(self.outputs[:, 0])}
        parts = self.parts or tuple(map(str, range(self.task.outputs)))
        return {f"{name}.{part}": self._numbers(self.outputs[:, i]) for i, part in enumerate(parts)}

    def _numbers(self, values: NDArray[np.float64]) -> list[float | None]:
        return [value if about else None for value, about in zip(values.tolist(), self.about, strict=True)]


@dataclass(frozen=True)
class Predictions:
    """Predictions of all tasks for N rows; ``predictions["income"]`` are those of one. ``notes``: what was found in the
    data, in lines."""

    tasks: tuple[TaskPrediction, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tasks[0].outputs)

    def __getitem__(self, name: str) -> TaskPrediction:
        """Raises ConfigError for an unknown task."""
        known = {own.task.name: own for own in self.tasks}
        if name not in known:
            raise ConfigError(f"The run has no task {name!r}: {did_you_mean(name, known)}")
        return known[name]

    @property
    def columns(self) -> dict[str, Column]:
        """Columns (N,) of all tasks by name, as ``pandas.DataFrame`` takes them."""
        return {name: column for own in self.tasks for name, column in own.columns.items()}

    @property
    def rows(self) -> Iterator[dict[str, str | float | None]]:
        """The same row by row."""
        columns = self.columns
        for cells in zip(*columns.values(), strict=True):
            yield dict(zip(columns, cells, strict=True))

    def save(self, path: Path) -> None:
        """Write .csv, .tsv or .jsonl (.ndjson), a line a row, whole or not at all.

        Raises ConfigError for another suffix, RunDirectoryError for a file that cannot be written.
        """
        check_suffix(path, SUFFIXES)
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        else:
            buffer = io.StringIO(newline="")
            writer = csv.writer(buffer, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", lineterminator="\n")
            columns = self.columns
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
            text = buffer.getvalue()
        write_result(path, text.encode())


def check_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Raise ConfigError unless the file ends with one of ``suffixes``, its folder is there, and it is a new or a plain
    file: no folder, device or link, whose place a file would take."""
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"output={path}: write a file that ends with {', '.join(suffixes)}.")
    try:
        if not path.parent.is_dir() or path.is_dir():
            raise ConfigError(f"output={path} cannot be written: {path.parent} must be a folder, and {path} none.")
        check_target(path)
    except OSError as error:
        raise ConfigError(f"output={path} cannot be written: {error}.") from None


def write_result(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises RunDirectoryError where it cannot be written."""
    try:
        write_atomic(path, content)
    except OSError as error:
        raise RunDirectoryError(f"Cannot write {path}: {error}. Choose another output=FILE.") from None
