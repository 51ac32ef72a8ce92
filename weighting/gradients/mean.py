"""The sum of the tasks' gradients, taken off the passes that stream them: what others want of the query batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lossrag.weighting.gradients.rows import TaskGradients


class GradientSum:
    """sum_t grad L_t with respect to ``parameters``, O(d) whatever the number of tasks.

    table_rows: of the parameter at a position, the ids (U,) that its gradients are about; None for all of it.
    """

    def __init__(self, parameters: Sequence[Tensor], table_rows: Callable[[int], Tensor | None]) -> None:
        self.parameters = list(parameters)
        self._table_rows = table_rows
        self._sums: dict[int, Tensor] = {}

    def add(self, gradients: TaskGradients) -> None:
        """Add the gradients of some tasks."""
        for position, gradient in gradients.shared.items():
            self._add(position, gradient.sum(0) if len(gradient) > 1 else gradient[0])
        for linear in gradients.linear:
            self._add(linear.position, linear.outputs.mT @ linear.inputs)
        for positions, gradient in gradients.own:
            lengths = [self.parameters[position].numel() for position in positions]
            for position, part in zip(positions, torch.split(gradient.reshape(-1), lengths), strict=True):
                self._add(position, part.view_as(self.parameters[position]))

    def _add(self, position: int, gradient: Tensor) -> None:
        parameter, ids = self.parameters[position], self._table_rows(position)
        if gradient.shape != parameter.shape and ids is not None:
            gradient = torch.zeros_like(parameter).index_copy_(0, ids, gradient)
        held = self._sums.get(position)
        self._sums[position] = gradient if held is None else held + gradient

    def take_mean(self, tasks: int) -> tuple[Tensor, ...]:
        """The sum over ``tasks``, per parameter and in its shape, zeros where no task touched it; it starts anew."""
        sums, self._sums = self._sums, {}
        return tuple(sums[i] / tasks if i in sums else torch.zeros_like(p) for i, p in enumerate(self.parameters))
