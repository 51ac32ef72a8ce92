"""Closures of task losses: the ways in which a training loop hands its losses to the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossrag.errors import ConfigError, did_you_mean

Value = Tensor | None
"""A scalar loss; None for a task that is absent from the batch."""
Closure = Callable[[], Value]
"""One task's loss on its own input: runs its forward pass and returns a scalar, or None for an absent task."""
JointClosure = Callable[[], Sequence[Value] | Mapping[str, Value]]
"""The losses of all tasks on a shared input: runs one forward pass, and returns T scalars in order or by name."""


@dataclass(frozen=True)
class TableRows:
    """The rows ``ids`` (U,) int64, ascending and none twice, of a table (V, ...) that a step trains: those its support
    batch reads.

    Query gradients on other rows meet a support gradient of zero, so D needs them no more than the update does.
    """

    table: Tensor
    ids: Tensor


@dataclass(frozen=True)
class TaskGroup:
    """Several tasks with their own inputs that go through the model in one pass, their gradients kept apart.

    tasks: their consecutive numbers.
    shared: parameters, or rows of them, of which r = len(tasks) expanded copies (r, *shape) are handed to ``compute``.
    own: lists of r parameters, the i-th of which only task ``tasks[i]`` touches; they may differ in their first
        dimension, along which ``compute`` gets each list concatenated.
    compute: (copies, stacks) -> the r losses, (r,) or scalars; uses copy i and its part of the stacks for task i alone,
        so that one backward pass gives all r gradients.

    Worth it where tasks have few rows each: r small passes pay r times for launching the same operations.
    """

    tasks: range
    shared: Sequence[Tensor | TableRows]
    own: Sequence[Sequence[Tensor]]
    compute: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor | Sequence[Tensor]]

    def copies(self) -> list[Tensor]:
        """r expanded copies (r, *shape) of each shared parameter; they share its memory."""
        values = [entry.table[entry.ids] if isinstance(entry, TableRows) else entry for entry in self.shared]
        return [value.expand(len(self.tasks), *value.shape) for value in values]

    def stacks(self) -> list[Tensor]:
        """The parameters of every list in ``own``, one after the other along dimension 0."""
        return [torch.cat(list(parameters)) for parameters in self.own]


Entry = Closure | TaskGroup | None
Losses = JointClosure | Sequence[Entry] | Mapping[str, Entry]
"""Own inputs: closures by task, in the order of the tasks or by their names, each of which runs its own forward pass
and returns a scalar, or groups of tasks. Shared input: one closure that runs the forward pass once and returns T
scalars, in order or by name. A task that is absent from the batch has None, for its closure or for its loss. A list and
no stacked tensor: from a stack, every task's backward pass would reach the heads of all others, to fetch zeros."""
Ungrouped = Callable[[], list[Value]] | Sequence[Closure]
"""Losses of which one task's can be had at a time."""
Ordered = Callable[[], list[Value]] | Sequence[Closure | TaskGroup]
"""Losses in the order of the tasks: one closure for all, or one for each, groups among them."""


def ordered(given: Any, tasks: Sequence[str], split: str) -> Ordered:
    """The losses of a ``split``, support or query, in the order of their tasks.

    Raises ConfigError, before any of them is computed, for what is no such thing.
    """
    if callable(given) and not isinstance(given, TaskGroup):
        return lambda: values_of(given(), tasks, split)
    if isinstance(given, Mapping):
        given = _by_name(given, tasks, split)
    if not isinstance(given, (list, tuple)):
        got = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise ConfigError(
            f"MultiTaskStep: expected the {split} losses as functions that compute them, got {got}: pass "
            "lambda: [loss_a, loss_b, ...], or a list with one function for each task."
        )
    entries = [_entry(entry, split) for entry in given]
    count = sum(len(entry.tasks) if isinstance(entry, TaskGroup) else 1 for entry in entries)
    _check_count(count, tasks, split)
    return entries


def values_of(result: Any, tasks: Sequence[str], split: str) -> list[Value]:
    """The T losses that a joint closure returned, in the order of the tasks; raises ConfigError for anything else."""
    if isinstance(result, Tensor):
        raise ConfigError(
            f"MultiTaskStep: expected a list of {len(tasks)} scalar {split} losses, got a tensor of shape "
            f"{tuple(result.shape)}: return [loss_a, loss_b, ...] without stacking them."
        )
    if isinstance(result, Mapping):
        result = _by_name(result, tasks, split)
    if not isinstance(result, (list, tuple)):
        raise ConfigError(
            f"MultiTaskStep: expected a list of {len(tasks)} scalar {split} losses, got {type(result).__name__}: "
            "return [loss_a, loss_b, ...], or a dict by the names of the tasks."
        )
    _check_count(len(result), tasks, split)
    return list(result)


def _entry(entry: Any, split: str) -> Closure | TaskGroup:
    if entry is None:
        return _absent
    if isinstance(entry, Tensor):
        raise ConfigError(
            f"MultiTaskStep: expected functions that compute the {split} losses, got a list of tensors: pass "
            "lambda: [loss_a, loss_b, ...], so that the step can run the passes that it needs."
        )
    if not isinstance(entry, TaskGroup) and not callable(entry):
        raise ConfigError(
            f"MultiTaskStep: expected a function for the {split} loss of every task, got {type(entry).__name__}: pass "
            "lambda: loss, or None for a task that is absent."
        )
    found: Closure | TaskGroup = entry
    return found


def _absent() -> None:
    """The loss of a task that is absent."""


def _by_name(given: Mapping[str, Any], tasks: Sequence[str], split: str) -> list[Any]:
    for name in given:
        if name not in tasks:
            raise ConfigError(
                f"MultiTaskStep: the {split} losses have {name!r}, which is no task: {did_you_mean(str(name), tasks)}"
            )
    missing = [name for name in tasks if name not in given]
    if missing:
        raise ConfigError(
            f"MultiTaskStep: the {split} losses lack {', '.join(missing)}: give None for a task that is absent."
        )
    return [given[name] for name in tasks]


def _check_count(count: int, tasks: Sequence[str], split: str) -> None:
    if count != len(tasks):
        raise ConfigError(
            f"MultiTaskStep: expected {len(tasks)} task losses on the {split} side, one per task, got {count}: give "
            "None for a task that is absent."
        )
