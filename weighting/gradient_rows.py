"""The support gradients of T tasks as rows, and what is read off them: the update and the hypergradient.

Only one T x d matrix is ever held. It is kept as one block per parameter, (k, n) for a parameter of n
entries that k tasks touch: a task's own head is a single row, not T. The query gradients are streamed
through it, one task at a time, and never stored. Blocks are reused from step to step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag import ConfigError


@dataclass
class _Block:
    """Rows (k, n) of one parameter; ``tasks[i]`` is the task of row i, ``index`` the same as a tensor (k,)."""

    rows: Tensor
    tasks: list[int]
    index: Tensor

    def append(self, task: int, gradient: Tensor) -> None:
        self.tasks.append(task)
        self.rows = torch.cat([self.rows, gradient.reshape(1, -1)])
        self.index = torch.tensor(self.tasks, device=gradient.device)


class GradientRows:
    """Support gradients of ``tasks`` tasks with respect to ``parameters`` (all that require a gradient)."""

    def __init__(self, parameters: Sequence[Tensor], tasks: int) -> None:
        self.parameters = list(parameters)
        self.tasks = tasks
        self._blocks = [
            _Block(p.new_empty((0, p.numel())), [], torch.empty(0, dtype=torch.int64, device=p.device))
            for p in self.parameters
        ]

    def write(self, task: int, gradients: Sequence[Tensor | None]) -> None:
        """Store the gradients of one task, one tensor (or None: not touched) per parameter."""
        for block, gradient in zip(self._blocks, gradients, strict=True):
            if gradient is None:
                if task in block.tasks:
                    block.rows[block.tasks.index(task)].zero_()
                continue
            if gradient.is_sparse:
                raise ConfigError(
                    "The gradient rows expect dense gradients, but a parameter gave a sparse one: "
                    "build its embedding with sparse=False."
                )
            if task not in block.tasks:
                block.append(task, gradient)
            else:
                block.rows[block.tasks.index(task)].copy_(gradient.reshape(-1))

    def combine(self, coefficients: Tensor) -> list[Tensor | None]:
        """sum_t coefficients[t] * gradient_t per parameter, shaped like it; None where no task touches it."""
        return [
            (coefficients[block.index].to(block.rows.dtype) @ block.rows).view_as(parameter) if block.tasks else None
            for parameter, block in zip(self.parameters, self._blocks, strict=True)
        ]

    def inner(self, gradients: Sequence[Tensor | None], factors: Sequence[Tensor | float], shared: bool) -> Tensor:
        """Inner products (T,) of ``factor * gradient`` with every row, summed over the parameters.

        factors: one per parameter, a number or a tensor of its shape (a diagonal preconditioner).
        shared: leave out the parameters that a single task touches.
        """
        total = self.parameters[0].new_zeros(self.tasks)
        for block, gradient, factor in zip(self._blocks, gradients, factors, strict=True):
            if gradient is None or not block.tasks or (shared and len(block.tasks) == 1 and self.tasks > 1):
                continue
            product = block.rows @ (factor * gradient).reshape(-1)
            total = total.index_add(0, block.index, product)
        return total

    @property
    def nbytes(self) -> int:
        """Bytes held by all rows: at most T x d entries."""
        return sum(block.rows.nbytes for block in self._blocks)
