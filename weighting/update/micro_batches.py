"""Micro-batches of a step: the mean of each task's losses over those that it was in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lossrag.weighting.training.closures import Value


class MicroBatches:
    """Losses of T tasks, added up. batches: (T,) how many a task was in. whole: the step is of a single batch."""

    def __init__(self, tasks: int) -> None:
        self.batches = torch.zeros(tasks)
        self.clear()

    def clear(self) -> None:
        """Begin a step."""
        self.batches = torch.zeros_like(self.batches)
        self._sums: list[Value] = [None] * len(self.batches)
        self._count, self.whole = 0, True

    @property
    def any(self) -> bool:
        """True when there was one."""
        return self._count > 0

    @property
    def single(self) -> bool:
        """True when there was one alone."""
        return self._count == 1

    def add(self, values: Sequence[Value]) -> None:
        """Add the losses of a micro-batch, None where a task is absent."""
        self._count += 1
        for task, value in enumerate(values):
            if value is None:
                continue
            held = self._sums[task]
            self._sums[task] = value if held is None else held + value
            self.batches[task] += 1

    def means(self) -> list[Value]:
        """The mean loss of each task over the micro-batches that it was in."""
        if self.single:
            return self._sums
        return [None if s is None else s / n for s, n in zip(self._sums, self.batches.tolist(), strict=True)]
