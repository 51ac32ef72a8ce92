"""Closures of task losses: the ways in which a training loop hands its losses to the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Closure = Callable[[], Tensor]
JointClosure = Callable[[], Sequence[Tensor]]


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


Ungrouped = JointClosure | Sequence[Closure]
"""Losses of which one task's can be had at a time."""
Losses = Ungrouped | Sequence[Closure | TaskGroup]
"""Own inputs: one closure per task, each runs its own forward pass and returns a scalar, or groups of tasks. Shared
input: one closure that runs the forward pass once and returns a list of T scalars. A list and no stacked tensor: from a
stack, every task's backward pass would reach the heads of all others, to fetch zeros."""
