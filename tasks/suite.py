"""What a multi-task problem is: tasks, their examples in every split, and how inputs are gathered into a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from lossrag import DataError

SPLITS = ("support", "query", "validation", "test")
"""Support trains the model, query trains the task weights, validation chooses the epoch, test is touched once."""


@dataclass(frozen=True)
class Task:
    """One task: its name, what it predicts, and the names of its classes.

    ``outputs`` is the number of classes, or the number of regression targets.
    """

    name: str
    kind: Literal["classification", "regression"]
    outputs: int
    labels: tuple[str, ...] = ()


class Inputs(Protocol):
    """A column of N inputs that can be gathered into a batch."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> Tensor | None:
        """(N,) int64 sizes to bucket by, or None when all inputs have one shape."""

    def gather(self, index: Tensor) -> Tensor:
        """The batch (B, ...) at the int64 positions ``index`` (B,)."""


@dataclass(frozen=True)
class DenseInputs:
    """N inputs of one shape in one tensor (N, ...)."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def lengths(self) -> Tensor | None:
        return None

    def gather(self, index: Tensor) -> Tensor:
        return self.values[index]


@dataclass(frozen=True)
class TokenInputs:
    """N token sequences, stored end to end: ``ids`` (total,), ``offsets`` (N + 1,), both int64.

    Id 0 is padding. A batch is padded on the right to its longest row, and to ``min_length`` at least, so
    that a convolution always has a full window.
    """

    ids: Tensor
    offsets: Tensor
    min_length: int = 8

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor | None:
        return self.offsets.diff()

    def gather(self, index: Tensor) -> Tensor:
        """Padded ids (B, L) int64."""
        starts = self.offsets[index]
        lengths = self.offsets[index + 1] - starts
        width = max(self.min_length, int(lengths.max())) if len(index) else self.min_length
        column = torch.arange(width)
        position = (starts[:, None] + column).clamp(max=max(len(self.ids) - 1, 0))
        inside = column < lengths[:, None]
        return torch.where(inside, self.ids[position], 0) if len(self.ids) else torch.zeros_like(position)


@dataclass(frozen=True)
class Examples:
    """The examples of one task in one split: inputs and targets, (N,) int64 classes or (N, outputs) floats."""

    inputs: Inputs
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Suite:
    """Tasks with their examples: ``splits[name][t]`` are those of task ``t``.

    With ``shared_input`` all tasks of a split share one inputs object and one row order; else every task has
    its own. ``vectors`` (V, E) are the word vectors of a text suite (row 0 is padding), ``input_shape`` the
    shape of one dense input. ``edition`` says in words which data this is, and is printed beside results.

    Raises DataError when a task has no samples or lacks a class in a split.
    """

    name: str
    edition: str
    tasks: tuple[Task, ...]
    shared_input: bool
    splits: Mapping[str, tuple[Examples, ...]]
    vectors: Tensor | None = None
    input_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for split in SPLITS:
            for task, examples in zip(self.tasks, self.splits[split], strict=True):
                _check_examples(self.name, split, task, examples)

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)


def _check_examples(suite: str, split: str, task: Task, examples: Examples) -> None:
    where = f"Suite {suite!r}: task {task.name!r} has"
    if len(examples) == 0:
        raise DataError(f"{where} no samples in the {split} split: give it more data or a larger share.")
    if task.kind == "classification":
        present = torch.bincount(examples.targets, minlength=task.outputs) > 0
        if not bool(present.all()):
            missing = [task.labels[i] if task.labels else str(i) for i in (~present).nonzero().flatten().tolist()]
            raise DataError(
                f"{where} no sample of class {', '.join(missing)} in the {split} split: "
                "enlarge that split (tasks.rho, tasks.validation) or add samples of the class."
            )
