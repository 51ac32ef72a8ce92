"""Tally of a step: the losses, rows and gradients of every task in all processes, told to all of them.

What a step does about absent tasks and about values that are no numbers is decided on these numbers, by all alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.errors import ConfigError, GroupError
from lossrag.weighting.parallel.group import Group
from lossrag.weighting.training.closures import Value

Rows = float | Sequence[float] | Mapping[str, float]
"""Rows that the losses of a process are means over: one number for all tasks, or one for each, in their order or by
their names."""


@dataclass(frozen=True)
class Joined:
    """Of the T tasks over all R processes: their ``values``, mean losses over all rows, None for tasks that are absent
    everywhere; ``counts`` (T,) of their rows; ``share`` (T,) of them that is here; whether all gradients are
    ``finite``; and which parameters a task has ``touched`` (T, parameters)."""

    values: list[Value]
    counts: list[float]
    share: list[float]
    finite: list[bool]
    touched: Tensor
    scale: float


class Tally:
    """Adds up the passes of one step in this process."""

    def __init__(self, tasks: int, parameters: int) -> None:
        self._sums: Tensor | None = None
        self._tasks = tasks
        self.touched = torch.zeros(tasks, parameters, dtype=torch.uint8)

    def add(self, values: Sequence[Value], counts: Sequence[float], peaks: Tensor, touched: Tensor) -> None:
        """Add a pass: detached losses (T,), the rows that they are means over, the largest entry of their gradients.

        A loss that is no number and has no gradient is that of no row at all.
        """
        zero = peaks.new_zeros((), dtype=torch.float64)
        losses = torch.stack([zero if value is None else value.detach().to(zero) for value in values])
        there = [0.0 if value is None else count for value, count in zip(values, counts, strict=True)]
        rows = torch.tensor(there, dtype=torch.float64).to(peaks.device)
        rows = torch.where(losses.isnan() & (peaks == 0), 0.0, rows)
        sums = torch.stack(
            [torch.where(rows > 0, losses * rows, 0.0), rows, torch.where(rows > 0, peaks, 0.0).double()]
        )
        self._sums = (
            sums if self._sums is None else torch.cat([self._sums[:2] + sums[:2], self._sums[2:].maximum(sums[2:])])
        )
        self.touched |= touched

    def joined(self, group: Group, scale: float, like: Tensor) -> Joined:
        """What all processes have; losses are told in the type of ``like``. Sends (R - 1) (24 T + 8 + T parameters)
        bytes.

        scale: of a gradient scaler, where a loss was seen here; the processes must have the same.
        """
        assert self._sums is not None
        seen = bool((self._sums[1] > 0).any())
        mine = torch.cat([self._sums.flatten(), self._sums.new_tensor([scale if seen else 0.0])])
        every = group.gather(mine).cpu()
        touched = group.gather(self.touched.to(mine.device)).cpu().amax(dim=0)
        scales = {scale for scale in every[:, -1].tolist() if scale > 0}
        if len(scales) > 1:
            raise GroupError(
                f"The losses of the processes are scaled by {sorted(scales)}: give all the same scaler state."
            )
        sums, rows, peaks = every[:, :-1].view(group.size, 3, self._tasks).unbind(1)
        counts = rows.sum(0)
        means = (sums.sum(0) / counts).to(like.device, like.dtype)
        return Joined(
            [mean if count else None for mean, count in zip(means, counts.tolist(), strict=True)],
            counts.tolist(),
            (rows[group.rank] / counts.clamp(min=torch.finfo(torch.float64).tiny)).tolist(),
            peaks.isfinite().all(dim=0).tolist(),
            touched,
            scales.pop() if scales else 1.0,
        )


def rows_of(given: Rows | None, group: Group, tasks: Sequence[str], split: str) -> list[float]:
    """The rows of every task in this process; raises ConfigError where they are not given, or no such thing."""
    name = "rows" if split == "support" else "query_rows"
    if given is None and group.split == "tasks":
        return [1.0] * len(tasks)
    if given is None:
        raise ConfigError(
            f"MultiTaskStep: processes with different numbers of rows weigh by them: pass {name}=..., the number of "
            f"rows that the {split} losses of this process are means over, one for all tasks or one for each."
        )
    if isinstance(given, Mapping):
        counts = [given.get(task, 0.0) for task in tasks]
        unknown = [str(task) for task in given if task not in tasks]
    else:
        counts = [float(given)] * len(tasks) if isinstance(given, (int, float)) else list(given)
        unknown = []
    fits = all(isinstance(count, (int, float)) and 0 <= count < float("inf") for count in counts)
    if unknown or len(counts) != len(tasks) or not fits:
        raise ConfigError(
            f"MultiTaskStep: {name} must be numbers of 0 or more, one for all tasks, or one for each of "
            f"{', '.join(tasks)}, got {given!r}."
        )
    return [float(count) for count in counts]
