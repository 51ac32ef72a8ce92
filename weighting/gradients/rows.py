"""The support gradients of T tasks as rows, and what is read off them: update, Gramian, hypergradient.

Only one T x d matrix is ever held, block by block: a task's own head is a single row, not T. The query gradients are
streamed through it, one pass at a time, and never stored.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.weighting.gradients.blocks import OwnRows, SharedBlock
from lossrag.weighting.gradients.linear_layers import LinearBlock, LinearGradient

Factor = Tensor | float


@dataclass(frozen=True)
class TaskGradients:
    """The gradients of r consecutive ``tasks``, by position of the parameter.

    shared: (r, *shape) of those that these tasks touch.
    own: for the positions of a parameter that each of the tasks owns, their gradients concatenated along dimension 0.
    linear: of a single task, gradients kept as factors; their inputs are those of all tasks.
    """

    tasks: range
    shared: dict[int, Tensor]
    own: Sequence[tuple[tuple[int, ...], Tensor]] = ()
    linear: Sequence[LinearGradient] = ()


class GradientRows:
    """Support gradients of ``tasks`` tasks with respect to ``parameters`` (all that require a gradient).

    sparse: positions of the tables whose combined gradient is to be sparse, where :meth:`restrict` names their rows.
    """

    def __init__(self, parameters: Sequence[Tensor], tasks: int, sparse: Container[int] = ()) -> None:
        self.parameters = list(parameters)
        self.tasks = tasks
        self._sparse = sparse
        self._blocks = [SharedBlock(parameter) for parameter in self.parameters]
        self._own = OwnRows(self.parameters)
        self._linear = [LinearBlock() for _ in self.parameters]

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        self._own.clear()
        for block in self._blocks:
            block.clear()
        for linear in self._linear:
            linear.clear()

    def restrict(self, position: int, ids: Tensor) -> None:
        """Hold only the rows ``ids`` (U,) of a table; the gradients of it that follow are (r, U, ...)."""
        if self._blocks[position].ids is not ids:
            self._blocks[position] = SharedBlock(self.parameters[position], ids, position in self._sparse)

    def table_rows(self, position: int) -> Tensor | None:
        """The rows (U,) that :meth:`restrict` named for the parameter at ``position``; None for all of it."""
        return self._blocks[position].ids

    def write(self, gradients: TaskGradients) -> None:
        """Store the gradients of some tasks; raises ConfigError for sparse ones."""
        for position, gradient in gradients.shared.items():
            if gradient.is_sparse:
                raise ConfigError(
                    "The gradient rows expect dense gradients, but a parameter gave a sparse one: "
                    "build its embedding with sparse=False, or name the rows of the batch in a TaskGroup (TableRows)."
                )
            self._blocks[position].write(gradients.tasks, gradient)
        for positions, gradient in gradients.own:
            self._own.write(gradients.tasks, positions, gradient)
        for factors in gradients.linear:
            self._linear[factors.position].write(gradients.tasks.start, factors)

    def combine(self, coefficients: Tensor, own: Tensor | None = None) -> list[Tensor | None]:
        """sum_t coefficients[t] * gradient_t per parameter, shaped like it (COO for a sparse table); None where no
        task touches it.

        own: other coefficients (T,) for the parameters that a single task touches.
        """
        own = coefficients if own is None else own
        mine = self._own.combine(own)
        combined: list[Tensor | None] = []
        for position, blocks in enumerate(zip(self._blocks, self._linear, strict=True)):
            held = [block for block in blocks if block.tasks]
            share = own if held and self._is_own(held[0]) else coefficients
            combined.append(held[0].combine(share) if held else mine.get(position))
        return combined

    def gramian(self, own: bool = False) -> Tensor:
        """Inner products (T, T) of the gradients with respect to the parameters that several tasks touch; ``own``: and
        those that a single task touches, which are about the diagonal."""
        total = self.parameters[0].new_zeros(self.tasks, self.tasks)
        if own:
            self._own.add_squares(total)
        for block in self._blocks:
            parts = [] if self._is_own(block) and not own else list(block.parts())
            for tasks, rows in parts:
                for others, columns in parts:
                    part = total[tasks]
                    part[:, others] += block.products(rows, columns)
                    total[tasks] = part
        for linear in self._linear:
            if linear.tasks and (own or not self._is_own(linear)):
                linear.add_gramian(total)
        return total

    def inner(self, gradients: TaskGradients, factors: Sequence[Factor], shared: bool) -> Tensor:
        """Inner products (r, T) of the gradients of r tasks, times a factor, with every row, over their parameters.

        factors: one per parameter, a number or a tensor of its shape (a diagonal preconditioner).
        shared: leave out the parameters that a single task touches.
        """
        total = self.parameters[0].new_zeros(len(gradients.tasks), self.tasks)
        for position, gradient in gradients.shared.items():
            self._add_block(total, position, gradient, factors[position], shared)
        for linear in gradients.linear:
            self._add_linear(total, linear, factors[linear.position], shared)
        if shared and self.tasks > 1:
            return total
        for positions, gradient in gradients.own:
            self._add_own(total, gradients.tasks, positions, gradient, factors)
        return total

    def _add_block(self, total: Tensor, position: int, gradient: Tensor, factor: Factor, shared: bool) -> None:
        block, stacked = self._blocks[position], self._own.row.get(position)
        skip = shared and self.tasks > 1
        if stacked is not None and not skip:  # kept beside those of other tasks, but this pass is of one task alone
            task, row = stacked
            total[:, task] += (gradient * factor).reshape(len(gradient), -1) @ row
        linear = self._linear[position]
        if linear.tasks and not (skip and self._is_own(linear)):
            linear.add_inner_formed(total, gradient * factor)
        if not block.tasks or (skip and self._is_own(block)):
            return
        if isinstance(factor, Tensor):
            gradient = gradient * (factor if block.ids is None else factor[block.ids])
        flat = block.flat(gradient)
        for tasks, rows in block.parts():
            product = block.products(flat, rows)
            # a number: scale the few products, not all of the gradient
            total[:, tasks] += product if isinstance(factor, Tensor) else product * factor

    def _add_linear(self, total: Tensor, gradient: LinearGradient, factor: Factor, shared: bool) -> None:
        linear = self._linear[gradient.position]
        if not linear.tasks or isinstance(factor, Tensor):  # the support has formed gradients, or a preconditioner
            self._add_block(total, gradient.position, gradient.formed(), factor, shared)
        elif not (shared and self._is_own(linear)):
            linear.add_inner(total, gradient, factor)

    def _add_own(
        self, total: Tensor, tasks: range, positions: tuple[int, ...], gradient: Tensor, factors: Sequence[Factor]
    ) -> None:
        flat = gradient.reshape(-1)
        scale = factors[positions[0]]
        alike = not any(isinstance(factors[position], Tensor) or factors[position] != scale for position in positions)
        products = self._own.dot(positions, flat) if alike else None
        if products is not None:
            total.diagonal(tasks.start)[: len(tasks)] += products * scale
            return
        # a preconditioner, several learning rates, or other groups of tasks than the support had
        for i, row in enumerate(torch.split(flat, self._own.lengths(positions))):
            one = row.view(1, *self.parameters[positions[i]].shape)
            self._add_block(total[i : i + 1], positions[i], one, factors[positions[i]], shared=False)

    def _is_own(self, block: SharedBlock | LinearBlock) -> bool:
        return block.tasks == 1 and self.tasks > 1

    @property
    def nbytes(self) -> int:
        """Bytes held by all rows: at most T x d entries."""
        return self._own.nbytes + sum(block.nbytes for block in self._blocks) + sum(b.nbytes for b in self._linear)
