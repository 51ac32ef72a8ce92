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

Gradients = dict[int, Tensor | None]
"""By position of a parameter: gradients (r, *shape) of r consecutive tasks, or None where they touch it not."""


@dataclass
class _Block:
    """Rows (k, n) of one parameter; ``tasks[i]`` is the task of row i, ``index`` the same as a tensor (k,).

    ``ids`` (U,): the rows of a table that are held, None for all of the parameter.
    """

    rows: Tensor
    tasks: list[int]
    index: Tensor
    ids: Tensor | None = None

    def write(self, tasks: Sequence[int], gradients: Tensor) -> None:
        """Put the rows (r, n) of ``tasks`` into their places, or append them."""
        new = [task for task in tasks if task not in self.tasks]
        if new:
            self.tasks += new
            added = gradients.new_zeros(len(new), gradients.shape[1])
            self.rows = torch.cat([self.rows, added]) if len(self.rows) else added
            self.index = torch.tensor(self.tasks, device=gradients.device)
        places = [self.tasks.index(task) for task in tasks]
        if places[-1] - places[0] == len(places) - 1:
            self.rows[places[0] : places[-1] + 1] = gradients
        else:
            self.rows[places] = gradients

    def combine(self, coefficients: Tensor, parameter: Tensor) -> Tensor:
        """sum_t coefficients[t] * row_t in the shape of ``parameter``, zeros in the rows that are not held."""
        total = coefficients[self.index].to(self.rows.dtype) @ self.rows
        if self.ids is None:
            return total.view_as(parameter)
        return torch.zeros_like(parameter).index_copy_(0, self.ids, total.view(-1, *parameter.shape[1:]))

    def clear(self, tasks: Sequence[int]) -> None:
        """Zero the rows of tasks that do not touch this parameter any more."""
        for task in set(tasks) & set(self.tasks):
            self.rows[self.tasks.index(task)].zero_()


class GradientRows:
    """Support gradients of ``tasks`` tasks with respect to ``parameters`` (all that require a gradient)."""

    def __init__(self, parameters: Sequence[Tensor], tasks: int) -> None:
        self.parameters = list(parameters)
        self.tasks = tasks
        self._blocks = [
            _Block(p.new_empty((0, p.numel())), [], torch.empty(0, dtype=torch.int64, device=p.device))
            for p in self.parameters
        ]

    def write(self, tasks: Sequence[int], gradients: Gradients) -> None:
        """Store the gradients of consecutive ``tasks`` with respect to the parameters that ``gradients`` names."""
        for position, gradient in gradients.items():
            block = self._blocks[position]
            if gradient is None:
                block.clear(tasks)
            elif gradient.is_sparse:
                raise ConfigError(
                    "The gradient rows expect dense gradients, but a parameter gave a sparse one: "
                    "build its embedding with sparse=False."
                )
            else:
                block.write(tasks, gradient.reshape(len(tasks), -1))

    def restrict(self, position: int, ids: Tensor) -> None:
        """Hold only the rows ``ids`` (U,) of a table; the gradients of it that follow are (r, U, ...)."""
        block = self._blocks[position]
        if block.ids is not ids:
            self._blocks[position] = _Block(block.rows.new_empty(0, 0), [], block.index[:0], ids)

    def combine(self, coefficients: Tensor) -> list[Tensor | None]:
        """sum_t coefficients[t] * gradient_t per parameter, shaped like it; None where no task touches it."""
        return [
            block.combine(coefficients, parameter) if block.tasks else None
            for parameter, block in zip(self.parameters, self._blocks, strict=True)
        ]

    def inner(self, gradients: Gradients, factors: Sequence[Tensor | float], shared: bool) -> Tensor:
        """Inner products (r, T) of the gradients of r tasks, times a factor, with every row, over their parameters.

        factors: one per parameter, a number or a tensor of its shape (a diagonal preconditioner).
        shared: leave out the parameters that a single task touches.
        """
        count = next((len(gradient) for gradient in gradients.values() if gradient is not None), 1)
        total = self.parameters[0].new_zeros(count, self.tasks)
        for position, gradient in gradients.items():
            block = self._blocks[position]
            if gradient is None or not block.tasks or (shared and len(block.tasks) == 1 and self.tasks > 1):
                continue
            factor = factors[position]
            if isinstance(factor, Tensor):
                scaled = gradient * (factor if block.ids is None else factor[block.ids])
                product = scaled.reshape(count, -1) @ block.rows.t()
            else:  # a number: scale the few products, not all of the gradient
                product = gradient.reshape(count, -1) @ block.rows.t() * factor
            total = total.index_add(1, block.index, product)
        return total

    @property
    def nbytes(self) -> int:
        """Bytes held by all rows: at most T x d entries."""
        return sum(block.rows.nbytes for block in self._blocks)
