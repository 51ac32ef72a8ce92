"""The support gradients of T tasks as rows, and what is read off them: update, Gramian, hypergradient.

Only one T x d matrix is ever held, block by block: a task's own head is a single row, not T. The query gradients are
streamed through it, one pass at a time, and never stored.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
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
    told: how many of the parameters, the first ones, are compared; the others are combined alone. None for all.
    shared, private: positions of parameters that count as shared, or as a single task's own, whoever touches them;
        of the others those are shared that several of the tasks touch which are present.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        tasks: int,
        sparse: Container[int] = (),
        told: int | None = None,
        shared: Container[int] = (),
        private: Container[int] = (),
    ) -> None:
        self.parameters = list(parameters)
        self.tasks = tasks
        self.scale = 1.0
        """What all gradients are multiplied by; inner products are told without it, the combined gradient with it."""
        self._told = len(self.parameters) if told is None else told
        self._shared, self._private = shared, private
        self._sparse = sparse
        self._present: Collection[int] = range(tasks)
        self._parts: Tensor | None = None
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
        self.settle(range(self.tasks))

    def settle(self, present: Collection[int], batches: Tensor | None = None) -> None:
        """Count these tasks alone; batches: (T,) how many micro-batches each was in, so that rows are their means."""
        self._present = present
        self._parts = None if batches is None else 1 / batches.clamp(min=1)

    def silent(self, task: int) -> bool:
        """True where the gradient of a task is 0 or absent (reads the device)."""
        return not any(bool(row.any()) for row in self.of(task))

    def finite(self, task: int) -> bool:
        """True where the gradient of a task is finite (reads the device)."""
        return all(bool(row.isfinite().all()) for row in self.of(task))

    def of(self, task: int) -> list[Tensor]:
        """The gradient of a task, in parts."""
        return list(self._of(task))

    def _of(self, task: int) -> Iterator[Tensor]:
        for block in self._blocks:
            yield from block.of(task)
        for linear in self._linear:
            yield from linear.of(task)
        yield from (row for owner, row in self._own.row.values() if owner == task)

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
        if self._parts is not None:
            coefficients, own = coefficients * self._parts, own * self._parts
        mine = self._own.combine(own)
        combined: list[Tensor | None] = []
        for position, blocks in enumerate(zip(self._blocks, self._linear, strict=True)):
            held = [block for block in blocks if block.tasks]
            share = own if held and self._is_own(position, held[0]) else coefficients
            combined.append(held[0].combine(share) if held else mine.get(position))
        return combined

    def gramian(self, own: bool = False) -> Tensor:
        """Inner products (T, T) of the gradients with respect to the parameters that several tasks touch; ``own``: and
        those that a single task touches, which are about the diagonal."""
        total = self.parameters[0].new_zeros(self.tasks, self.tasks)
        if own:
            self._own.add_squares(total, self._told)
        for position, block in enumerate(self._blocks[: self._told]):
            parts = [] if self._is_own(position, block) and not own else list(block.parts())
            for tasks, rows in parts:
                for others, columns in parts:
                    part = total[tasks]
                    part[:, others] += block.products(rows, columns)
                    total[tasks] = part
        for position, linear in enumerate(self._linear[: self._told]):
            if linear.tasks and (own or not self._is_own(position, linear)):
                linear.add_gramian(total)
        total = total if self._parts is None else total * self._parts.to(total) * self._parts.to(total)[:, None]
        return total if self.scale == 1 else total / self.scale / self.scale

    def inner(self, gradients: TaskGradients, factors: Sequence[Factor], shared: bool) -> Tensor:
        """Inner products (r, T) of the gradients of r tasks, times a factor, with every row, over their parameters.

        factors: one per parameter, a number or a tensor of its shape (a diagonal preconditioner).
        shared: leave out the parameters that a single task touches.
        """
        total = self._inner(gradients, factors, shared)
        total = total if self._parts is None else total * self._parts.to(total)
        return total if self.scale == 1 else total / self.scale / self.scale

    def _inner(self, gradients: TaskGradients, factors: Sequence[Factor], shared: bool) -> Tensor:
        total = self.parameters[0].new_zeros(len(gradients.tasks), self.tasks)
        for position, gradient in gradients.shared.items():
            self._add_block(total, position, gradient, factors[position], shared)
        for linear in gradients.linear:
            self._add_linear(total, linear, factors[linear.position], shared)
        if shared and self._several:
            return total
        for positions, gradient in gradients.own:
            self._add_own(total, gradients.tasks, positions, gradient, factors)
        return total

    def _add_block(self, total: Tensor, position: int, gradient: Tensor, factor: Factor, shared: bool) -> None:
        if position >= self._told:
            return
        block, stacked = self._blocks[position], self._own.row.get(position)
        skip = shared and self._several
        if stacked is not None and not skip:  # kept beside those of other tasks, but this pass is of one task alone
            task, row = stacked
            total[:, task] += (gradient * factor).reshape(len(gradient), -1) @ row
        linear = self._linear[position]
        if linear.tasks and not (skip and self._is_own(position, linear)):
            linear.add_inner_formed(total, gradient * factor)
        if not block.tasks or (skip and self._is_own(position, block)):
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
        elif gradient.position < self._told and not (shared and self._is_own(gradient.position, linear)):
            linear.add_inner(total, gradient, factor)

    def _add_own(
        self, total: Tensor, tasks: range, positions: tuple[int, ...], gradient: Tensor, factors: Sequence[Factor]
    ) -> None:
        flat = gradient.reshape(-1)
        scale = factors[positions[0]]
        alike = not any(isinstance(factors[position], Tensor) or factors[position] != scale for position in positions)
        told = max(positions) < self._told
        products = self._own.dot(positions, flat) if alike and told else None
        if products is not None:
            total.diagonal(tasks.start)[: len(tasks)] += products * scale
            return
        # a preconditioner, several learning rates, or other groups of tasks than the support had
        for i, row in enumerate(torch.split(flat, self._own.lengths(positions))):
            one = row.view(1, *self.parameters[positions[i]].shape)
            self._add_block(total[i : i + 1], positions[i], one, factors[positions[i]], shared=False)

    @property
    def _several(self) -> bool:
        return len(self._present) > 1

    def _is_own(self, position: int, block: SharedBlock | LinearBlock) -> bool:
        """True for the parameters of a single task, where there are several tasks."""
        if not self._several or position in self._shared:
            return False
        return position in self._private or sum(task in self._present for task in block.tasks) == 1

    @property
    def nbytes(self) -> int:
        """Bytes held by all rows: at most T x d entries."""
        return self._own.nbytes + sum(block.nbytes for block in self._blocks) + sum(b.nbytes for b in self._linear)
