"""The multi-task problem: tasks, their examples in every split, inputs that become batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from lossrag.errors import DataError
from lossrag.labels import labelled

SPLITS = ("support", "query", "validation", "test")
"""Support trains the model, query the task weights, validation picks the epoch, test is touched once."""


@dataclass(frozen=True)
class Task:
    """One task: its name, what it predicts, and the names of its classes.

    ``outputs`` is the number of classes, or the number of regression targets. ``score``: the name of its score among
    METRICS, "" for the usual one of its kind. ``mean``, ``scale``: of a regression's values (outputs,) before they were
    standardised, where they were.
    """

    name: str
    kind: Literal["classification", "regression"]
    outputs: int
    labels: tuple[str, ...] = ()
    score: str = ""
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def metric(self) -> str:
        """Name of its score on a whole split: ``accuracy`` or, for regression, ``r2``, unless it has another.

        >>> Task("parity", "classification", 2, score="f1").metric
        'f1'
        """
        return self.score or ("r2" if self.kind == "regression" else "accuracy")

    @property
    def batch_metric(self) -> str:
        """Name of its score on a batch, which is computed on the device: ``accuracy``, ``macro_accuracy``, ``r2``.

        >>> Task("parity", "classification", 2, score="f1").batch_metric
        'accuracy'
        """
        if self.kind == "regression":
            return "r2"
        return "macro_accuracy" if self.score == "macro_accuracy" else "accuracy"


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
    """One task's examples in one split: inputs and targets, (N,) int64 classes or (N, outputs) floats.

    A row without a label has the class -100, or a NaN among its values (:mod:`lossrag.labels`).
    """

    inputs: Inputs
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


class Preprocessing(Protocol):
    """What made a suite's inputs and targets of the data, for use on other data."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""


@dataclass(frozen=True)
class Suite:
    """Tasks with their examples: ``splits[name][t]`` are those of task ``t``.

    With ``shared_input`` all tasks of a split share one inputs object and one row order; else every task has
    its own. ``vectors`` (V, E) are the word vectors of a text suite (row 0 is padding), ``encoder`` is the folder of
    the pre-trained encoder whose word pieces it holds instead, ``input_shape`` the
    shape of one dense input. ``edition`` says in words which data this is, and is printed beside results; ``notes`` are
    lines on what was found in it, printed when a run starts. ``preprocessing`` is stored with a run.

    Raises DataError when a task has no labelled sample, lacks a class or has one too many in a split.
    """

    name: str
    edition: str
    tasks: tuple[Task, ...]
    shared_input: bool
    splits: Mapping[str, tuple[Examples, ...]]
    vectors: Tensor | None = None
    input_shape: tuple[int, ...] = ()
    encoder: Path | None = None
    notes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None

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
    targets = examples.targets[labelled(examples.targets)]
    if len(targets) == 0:
        raise DataError(
            f"{where} {len(examples)} samples in the {split} split, but a label for none of them: label some, move "
            "labelled ones there, or leave the task out."
        )
    if task.kind == "classification":
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= task.outputs:
            raise DataError(
                f"{where} the class {low if low < 0 else high} in the {split} split, but its classes go from 0 to "
                f"{task.outputs - 1}, and -100 is for a sample without a label."
            )
        absent = (torch.bincount(targets, minlength=task.outputs) == 0).nonzero().flatten().tolist()
        if absent:
            missing = [task.labels[i] if task.labels else str(i) for i in absent]
            raise DataError(
                f"{where} no sample of class {', '.join(missing)} in the {split} split: "
                "enlarge that split (rho, validation) or add samples of the class."
            )


def pool_query(suite: Suite) -> Suite:
    """The suite with its query examples added to the support split (the query split stays)."""
    support, query = suite.splits["support"], suite.splits["query"]
    shared: Inputs | None = _concatenate(support[0].inputs, query[0].inputs) if suite.shared_input else None
    pooled = tuple(
        Examples(shared or _concatenate(a.inputs, b.inputs), torch.cat([a.targets, b.targets]))
        for a, b in zip(support, query, strict=True)
    )
    return replace(suite, splits={**suite.splits, "support": pooled})


def _concatenate(first: Inputs, second: Inputs) -> Inputs:
    if isinstance(first, DenseInputs) and isinstance(second, DenseInputs):
        return DenseInputs(torch.cat([first.values, second.values]))
    if isinstance(first, TokenInputs) and isinstance(second, TokenInputs):
        offsets = torch.cat([first.offsets, second.offsets[1:] + len(first.ids)])
        return TokenInputs(torch.cat([first.ids, second.ids]), offsets, first.min_length)
    raise DataError(
        f"Inputs of {type(first).__name__} and {type(second).__name__} cannot be put together: "
        "use one kind of inputs for all splits of a suite."
    )


def select(inputs: Inputs, index: Tensor) -> Inputs:
    """The inputs at the int64 positions ``index`` (m,). Raises DataError for inputs of a kind of one's own.

    >>> select(TokenInputs(torch.tensor([5, 6, 7, 8]), torch.tensor([0, 1, 3, 4])), torch.tensor([1, 2]))
    TokenInputs(ids=tensor([6, 7, 8]), offsets=tensor([0, 2, 3]), min_length=8)
    """
    if isinstance(inputs, DenseInputs):
        return DenseInputs(inputs.values[index])
    if isinstance(inputs, TokenInputs):
        lengths = inputs.offsets.diff()[index]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        shift = torch.repeat_interleave(inputs.offsets[index] - offsets[:-1], lengths)
        return TokenInputs(inputs.ids[shift + torch.arange(len(shift))], offsets, inputs.min_length)
    raise DataError(f"Rows of {type(inputs).__name__} cannot be chosen: use DenseInputs or TokenInputs.")
