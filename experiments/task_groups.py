"""Losses of tasks with their own inputs: a pass of its own for each task with many rows, one for several with few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from models import MultiTaskModel, row_lookup
from weighting import Closure, Rows, TaskGroup

GROUP_ROWS = 128
"""Rows per pass that make its computation outweigh the launching of its operations (TextCNN, one core)."""


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


def task_losses(
    model: MultiTaskModel, inputs: Sequence[Tensor], loss: Callable[[int, Tensor], Tensor], rows: Tensor | None
) -> list[Closure | TaskGroup]:
    """Closures and groups over all tasks; ``loss(t, logits)`` is the scalar loss of task t.

    inputs: one batch per task. Groups are made where the model can keep the gradients of tasks apart in one pass.
    rows: :func:`table_rows` of the support batch of the step, for its query batch too.
    """
    encoder = model.segment_encoder()
    if encoder is None:
        return [partial(_alone, model, batch, t, loss) for t, batch in enumerate(inputs)]
    shared: list[Tensor | Rows] = list(encoder.shared_parameters())
    lookup = None
    if encoder.table is not None and rows is not None:
        lookup = row_lookup(rows, len(encoder.table))
        shared[0] = Rows(encoder.table, rows)
    entries: list[Closure | TaskGroup] = []
    for tasks in _consecutive([len(batch) for batch in inputs]):
        if len(tasks) == 1 and lookup is None:
            entries.append(partial(_alone, model, inputs[tasks.start], tasks.start, loss))
            continue

        def compute(copies: Sequence[Tensor], tasks: range = tasks) -> list[Tensor]:
            logits = model.forward_by_task(encoder, {t: inputs[t] for t in tasks}, copies, lookup)
            return [loss(t, values) for t, values in zip(tasks, logits, strict=True)]

        private = [list(model.heads[t].parameters()) for t in tasks]
        entries.append(TaskGroup(tasks, shared, private, compute))
    return entries


def _alone(model: MultiTaskModel, inputs: Tensor, task: int, loss: Callable[[int, Tensor], Tensor]) -> Tensor:
    return loss(task, model(inputs, task))


def _consecutive(rows: Sequence[int]) -> list[range]:
    """Consecutive tasks, each range of about GROUP_ROWS rows.

    >>> _consecutive([128, 128, 60, 60, 20])
    [range(0, 1), range(1, 2), range(2, 4), range(4, 5)]
    """
    ranges: list[range] = []
    held = GROUP_ROWS
    for task, count in enumerate(rows):
        if held + count > GROUP_ROWS:
            ranges.append(range(task, task + 1))
            held = count
        else:
            ranges[-1] = range(ranges[-1].start, task + 1)
            held += count
    return ranges
