"""Exchange of the gradients of one pass: whole rows go out, a slice of every task's row comes in.

All processes meet in the same number of rounds, whichever tasks have rows with them and whatever befalls their losses:
none waits for another that has nothing to say. In a round each gives one row away and holds no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lossrag.weighting.gradients.rows import TaskGradients
from lossrag.weighting.parallel.slices import Slices

Arrived = Callable[[int, Tensor], None]
"""Receives the slice (n,) of a task's gradient, summed over the rows of all processes."""


class Exchange:
    """Rows of T tasks on their way.

    own: the tasks that each process computes, by rank, in the order in which their gradients are written.
    counts: (T,) how many rows this process has of a task: its gradient is the mean over them.
    """

    def __init__(self, slices: Slices, own: Sequence[Sequence[int]], counts: Sequence[float], arrived: Arrived) -> None:
        self._slices, self._own, self._counts, self._arrived = slices, own, counts, arrived
        self._mine = own[slices.group.rank]
        self._rounds = max(len(tasks) for tasks in own)
        self._round = 0
        self.touched = torch.zeros(len(counts), len(slices.parameters), dtype=torch.uint8)
        """(T, parameters): which of them a task has a gradient of."""
        self.peaks = slices.like.new_zeros(len(counts))
        """(T,) largest entry of the gradient, no number where one is none."""

    def write(self, gradients: TaskGradients) -> None:
        """Give away the rows of some tasks."""
        for place, task in enumerate(gradients.tasks):
            parts = [(position, gradient[place]) for position, gradient in gradients.shared.items()]
            for positions, gradient in gradients.own:
                lengths = [self._slices.lengths[position] for position in positions]
                parts.append((positions[place], torch.split(gradient.reshape(-1), lengths)[place]))
            if not self._counts[task]:
                continue
            row = self._slices.flat(parts)
            self.touched[task, [position for position, _ in parts]] = 1
            low, high = row.aminmax()
            self.peaks[task] = torch.maximum(-low, high)
            while self._mine[self._round] != task:
                self._give(torch.zeros_like(row))
            self._give(row.mul_(self._counts[task]))

    def close(self) -> None:
        """Take part in what rounds are left."""
        while self._round < self._rounds:
            self._give(self._slices.like.new_zeros(self._slices.group.size * self._slices.n))

    def _give(self, row: Tensor) -> None:
        group = self._slices.group
        got = group.swap(row.view(group.size, self._slices.n))
        if group.split == "rows":
            self._arrived(self._mine[self._round], got.sum(0))
        else:
            for rank, tasks in enumerate(self._own):
                if self._round < len(tasks):
                    self._arrived(tasks[self._round], got[rank])
        self._round += 1
