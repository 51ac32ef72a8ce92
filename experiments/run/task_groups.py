"""Groups of tasks with their own inputs: a pass of its own for each task with many rows, one for several with few."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from lossrag.lossbank import labelled_mean
from lossrag.models import MultiTaskModel, Outputs, row_lookup
from lossrag.weighting import Closure, JointClosure, TableRows, TaskGroup

GROUP_ROWS = 256
"""Rows per pass that make its computation outweigh the launching of its operations (TextCNN, one core)."""
QUERY_BYTES = 8 * 2**20
"""Of the gradients that one query pass makes: they are held beside the T x d matrix of the support."""
LEAST_QUERY_BYTES = 4 * 2**20
"""Of them, however small that matrix is."""


def table_rows(model: MultiTaskModel, inputs: Sequence[Tensor]) -> Tensor | None:
    """The rows (U,) of a trained word table that these batches of token ids read; None when there is no such table."""
    encoder = model.segment_encoder()
    if encoder is None or encoder.table is None:
        return None
    used = torch.zeros(len(encoder.table), dtype=torch.bool, device=encoder.table.device)
    for batch in inputs:
        used[batch.reshape(-1)] = True
    used[0] = False  # padding
    return used.nonzero().flatten()


class Objective(Protocol):
    """The losses of tasks, one at a time or of several in one go."""

    def one(self, task: int, outputs: Outputs) -> Tensor:
        """The scalar loss of a task from its outputs for B rows."""

    def many(self, tasks: range, outputs: Outputs, sizes: Sequence[int]) -> Tensor:
        """The losses (r,) of tasks that are :meth:`alike`, from the outputs for all their rows, task after task."""

    def alike(self, tasks: range) -> bool:
        """True where they have the same number of outputs and a loss that works row by row, the same for all."""


def task_losses(
    model: MultiTaskModel,
    inputs: Sequence[Tensor],
    objective: Objective,
    rows: Tensor | None,
    *,
    query: bool = False,
) -> list[Closure | TaskGroup]:
    """Closures and groups over all tasks.

    inputs: one batch per task. Groups are made where the model can keep the gradients of tasks apart in one pass.
    rows: :func:`table_rows` of the support batch of the step, for its query batch too.
    query: whether this is the query batch, whose gradients are not kept: so few at a time are made.
    """
    encoder = model.segment_encoder()
    if encoder is None:
        return single_losses(model, inputs, objective)
    shared: list[Tensor | TableRows] = list(encoder.shared_parameters())
    size = sum(p.numel() * p.element_size() for p in encoder.shared_parameters() if p is not encoder.table)
    lookup = None
    if encoder.table is not None and rows is not None:
        lookup = row_lookup(rows, len(encoder.table))
        shared[0] = TableRows(encoder.table, rows)
        size += len(rows) * encoder.table[0].numel() * encoder.table.element_size()
    # half of the T x d matrix beside it, if that is much; few and small passes cost more than they save
    held = min(max(len(inputs) * size // 2, LEAST_QUERY_BYTES), QUERY_BYTES)
    most = max(1, held // size) if query and size else len(inputs)
    most = 1 if encoder.one_task_a_pass else most
    entries: list[Closure | TaskGroup] = []
    for tasks in _consecutive([len(batch) for batch in inputs], most):
        if len(tasks) == 1 and lookup is None:
            entries.append(partial(_alone, model, inputs[tasks.start], tasks.start, objective))
            continue

        def compute(copies: Sequence[Tensor], stacks: Sequence[Tensor], tasks: range = tasks) -> Tensor:
            batches = {t: inputs[t] for t in tasks}
            if objective.alike(tasks):
                outputs = model.forward_stacked(encoder, batches, copies, stacks, lookup)
                return objective.many(tasks, outputs, [len(batch) for batch in batches.values()])
            parts = model.forward_by_task(encoder, batches, copies, stacks, lookup)
            return torch.stack([objective.one(t, part) for t, part in zip(tasks, parts, strict=True)])

        heads = [cast(nn.Linear, model.heads[t]) for t in tasks]
        own: list[list[Tensor]] = [[head.weight for head in heads], [head.bias for head in heads]]
        entries.append(TaskGroup(tasks, shared, own, compute))
    return entries


def single_losses(model: MultiTaskModel, inputs: Sequence[Tensor], objective: Objective) -> list[Closure | TaskGroup]:
    """A closure per task, each with a pass of its own."""
    return [partial(_alone, model, batch, t, objective) for t, batch in enumerate(inputs)]


def joint_losses(model: MultiTaskModel, inputs: Sequence[Tensor], objective: Objective) -> JointClosure:
    """The losses of all tasks from one pass through a shared encoder."""
    tasks = range(len(inputs))

    def compute() -> list[Tensor]:
        if model.sharing == "hard" and objective.alike(tasks):
            outputs = model.forward_joint_stacked(inputs)
            return list(objective.many(tasks, outputs, [len(batch) for batch in inputs]).unbind())
        return [objective.one(t, outputs) for t, outputs in enumerate(model.forward_joint(inputs))]

    return compute


def segment_means(values: Tensor, sizes: Sequence[int], known: Tensor | None = None) -> Tensor:
    """Means (r,) of consecutive segments of ``values`` (sum of sizes,); of the ``known`` among them alone, booleans,
    where these are given.

    >>> segment_means(torch.tensor([1.0, 3.0, 5.0]), [2, 1]).tolist()
    [2.0, 5.0]
    """
    if known is not None:
        parts = zip(torch.split(values, list(sizes)), torch.split(known, list(sizes)), strict=True)
        return torch.stack([labelled_mean(part, rows) for part, rows in parts])
    if len(set(sizes)) == 1:
        return values.view(len(sizes), -1).mean(dim=1)
    return torch.stack([part.mean() for part in torch.split(values, list(sizes))])


def _alone(model: MultiTaskModel, inputs: Tensor, task: int, objective: Objective) -> Tensor:
    return objective.one(task, model.outputs(inputs, task))


def _consecutive(rows: Sequence[int], most: int) -> list[range]:
    """Consecutive tasks, each range of about GROUP_ROWS rows and of ``most`` tasks.

    >>> _consecutive([256, 256, 120, 120, 20], most=9)
    [range(0, 1), range(1, 2), range(2, 4), range(4, 5)]
    >>> _consecutive([1, 1, 1], most=2)
    [range(0, 2), range(2, 3)]
    """
    ranges: list[range] = []
    held = GROUP_ROWS
    for task, count in enumerate(rows):
        if held + count > GROUP_ROWS or len(ranges[-1]) == most:
            ranges.append(range(task, task + 1))
            held = count
        else:
            ranges[-1] = range(ranges[-1].start, task + 1)
            held += count
    return ranges
