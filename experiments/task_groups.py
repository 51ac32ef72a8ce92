"""Losses of tasks with their own inputs: a pass of its own for each task with many rows, one for several with few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from models import MultiTaskModel
from weighting import Closure, TaskGroup

GROUP_ROWS = 128
"""Rows per pass that make its computation outweigh the launching of its operations (TextCNN, one core)."""


def task_losses(
    model: MultiTaskModel, inputs: Sequence[Tensor], loss: Callable[[int, Tensor], Tensor]
) -> list[Closure | TaskGroup]:
    """Closures and groups over all tasks; ``loss(t, logits)`` is the scalar loss of task t.

    inputs: one batch per task. Groups are made where the model can keep the gradients of tasks apart in one pass.
    """
    encoder = model.segment_encoder()
    entries: list[Closure | TaskGroup] = []
    for tasks in _consecutive([len(batch) for batch in inputs]):
        if encoder is None or len(tasks) == 1:
            entries += [partial(_alone, model, inputs[t], t, loss) for t in tasks]
            continue

        def compute(copies: Sequence[Tensor], tasks: range = tasks) -> list[Tensor]:
            logits = model.forward_by_task(encoder, {t: inputs[t] for t in tasks}, copies)
            return [loss(t, values) for t, values in zip(tasks, logits, strict=True)]

        private = [list(model.heads[t].parameters()) for t in tasks]
        entries.append(TaskGroup(tasks, encoder.shared_parameters(), private, compute))
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
