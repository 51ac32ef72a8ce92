"""Gradient blocks of one step: one for each shared parameter, and the gradients of the parameters that tasks own.

What a pass over several tasks computed is kept as it is, in the memory order it came in: the gradients of a step are
by far the largest thing that is handled, and a copy of them costs as much as reading them twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lossrag.weighting.gradients.places import Columns, columns


class SharedBlock:
    """Gradients of one parameter by the tasks that touched it in this step, as matrices (m, k, n) with n m entries for
    each of k tasks; ``ids`` (U,): the rows of a table it is about, ``sparse``: so is their combination."""

    def __init__(self, parameter: Tensor, ids: Tensor | None = None, sparse: bool = False) -> None:
        self.parameter = parameter
        self.ids = ids
        self.sparse = sparse
        self._outer: list[int] | None = None
        self._order: list[int] = []
        self._buffer = parameter.new_empty(0, 0, 0)
        self.clear()

    def clear(self) -> None:
        """Forget the gradients of the last step; the buffer of single rows stays."""
        self._parts: list[tuple[slice, Tensor]] = []
        self._singles: list[int] = []

    def write(self, tasks: range, gradient: Tensor) -> None:
        """Keep the gradients (r, *shape) of ``tasks``, or add them to those that are there; a pass over several tasks
        is kept without a copy."""
        rows = self.flat(gradient)
        if len(tasks) > 1:
            self._write_part(slice(tasks.start, tasks.stop), rows)
            return
        if tasks.start in self._singles:
            self._buffer[:, self._singles.index(tasks.start)] += rows[:, 0]
            return
        place = len(self._singles)
        if self._buffer.shape[::2] != rows.shape[::2]:
            self._buffer = rows.new_empty(rows.shape[0], 0, rows.shape[2])
        if place == self._buffer.shape[1]:
            self._buffer = torch.cat([self._buffer, rows], dim=1)
        else:
            self._buffer[:, place] = rows[:, 0]
        self._singles.append(tasks.start)

    def _write_part(self, tasks: slice, rows: Tensor) -> None:
        for place, (own, held) in enumerate(self._parts):
            if own == tasks:
                self._parts[place] = (own, held + rows)
                return
        self._parts.append((tasks, rows))

    @property
    def tasks(self) -> list[int]:
        """The tasks that touched the parameter."""
        return [t for own, _ in self._parts for t in range(own.start, own.stop)] + self._singles

    def of(self, task: int) -> Iterator[Tensor]:
        """The gradient (m, n) of one task, if it is there."""
        for own, rows in self._parts:
            if own.start <= task < own.stop:
                yield rows[:, task - own.start]
        if task in self._singles:
            yield self._buffer[:, self._singles.index(task)]

    def parts(self) -> Iterator[tuple[Columns, Tensor]]:
        """(tasks, rows (m, k, n)) of everything that was written."""
        yield from self._parts
        if self._singles:
            yield columns(self._singles, self.parameter.device), self._buffer[:, : len(self._singles)]

    def flat(self, gradient: Tensor) -> Tensor:
        """(r, *shape) as (m, r, n), in the memory order of the first gradient of this block: a view of such ones.

        m collects the dimensions that lay outside that of the tasks, n those inside.
        """
        if self._outer is None:
            strides = gradient.stride()
            self._order = sorted(range(1, gradient.dim()), key=lambda d: -strides[d])
            self._outer = [d for d in self._order if gradient.shape[0] > 1 and strides[d] > strides[0]]
        inner = self._order[len(self._outer) :]
        held = gradient.permute(*self._outer, 0, *inner)
        return held.reshape(math.prod(held.shape[: len(self._outer)]), len(gradient), -1)

    def products(self, flat: Tensor, rows: Tensor) -> Tensor:
        """Inner products (r, k) of gradients (m, r, n) with rows (m, k, n)."""
        total = flat[0] @ rows[0].mT
        for left, right in zip(flat[1:], rows[1:], strict=True):
            total.addmm_(left, right.mT)
        return total

    def combine(self, coefficients: Tensor) -> Tensor:
        """sum_t coefficients[t] * row_t in the shape of the parameter; zero in the rows that are not held, which a
        sparse block leaves out: a coalesced COO tensor then, without anything as large as the table."""
        sums = [coefficients[tasks].to(rows.dtype) @ rows for tasks, rows in self.parts()]
        total = sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)
        order = [d - 1 for d in self._order]
        shape = self.parameter.shape if self.ids is None else (len(self.ids), *self.parameter.shape[1:])
        back = sorted(range(len(order)), key=lambda d: order[d])
        shaped = total.view([shape[d] for d in order]).permute(back).contiguous()
        if self.ids is None:
            return shaped
        if self.sparse:
            # the ids ascend and none is twice (TableRows), so there is nothing left to coalesce
            return torch.sparse_coo_tensor(
                self.ids[None], shaped, self.parameter.shape, is_coalesced=True, check_invariants=False
            )
        return torch.zeros_like(self.parameter).index_copy_(0, self.ids, shaped)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._buffer.nbytes + sum(rows.nbytes for _, rows in self._parts)


class OwnRows:
    """Gradients of parameters that a single task owns (its head), those of a pass over several tasks side by side."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self._owners: dict[tuple[int, ...], Tensor] = {}
        self.clear()

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        self._stacks: dict[tuple[int, ...], tuple[range, Tensor]] = {}
        self.row: dict[int, tuple[int, Tensor]] = {}
        """By position of a parameter: its task, and its gradient (n,)."""

    def write(self, tasks: range, positions: tuple[int, ...], gradient: Tensor) -> None:
        """Keep ``gradient``, that of parameter ``positions[i]`` of task ``tasks[i]``, end to end; or add it to the one
        that is there."""
        flat = gradient.reshape(-1)
        if positions in self._stacks:
            flat = self._stacks[positions][1] + flat
        self._stacks[positions] = (tasks, flat)
        for task, position, row in zip(tasks, positions, torch.split(flat, self.lengths(positions)), strict=True):
            self.row[position] = (task, row)

    def combine(self, coefficients: Tensor) -> dict[int, Tensor]:
        """coefficients[t] * gradient of every parameter held, by position, in its shape."""
        result: dict[int, Tensor] = {}
        for positions, (tasks, flat) in self._stacks.items():
            share = coefficients[tasks.start : tasks.stop].to(flat.dtype)
            scaled = share[self.owners(positions)] * flat
            for position, row in zip(positions, torch.split(scaled, self.lengths(positions)), strict=True):
                result[position] = row.view_as(self.parameters[position])
        return result

    def dot(self, positions: tuple[int, ...], flat: Tensor) -> Tensor | None:
        """<flat_i, gradient_i> (r,) for each parameter of the same stack; None when the stacks differ."""
        if positions not in self._stacks:
            return None
        return flat.new_zeros(len(positions)).index_add_(0, self.owners(positions), self._stacks[positions][1] * flat)

    def add_squares(self, total: Tensor, told: int) -> None:
        """Add the squared lengths of all gradients held, those of the first ``told`` parameters, to the diagonal of
        ``total`` (T, T)."""
        for positions, (tasks, flat) in self._stacks.items():
            if max(positions) >= told:
                continue
            squares = flat.new_zeros(len(positions)).index_add_(0, self.owners(positions), flat.square())
            total.diagonal()[tasks.start : tasks.stop] += squares

    def lengths(self, positions: tuple[int, ...]) -> list[int]:
        """Entries of each parameter."""
        return [self.parameters[position].numel() for position in positions]

    def owners(self, positions: tuple[int, ...]) -> Tensor:
        """(n,) int64: for every entry of a stack, which of its parameters it is of."""
        if positions not in self._owners:
            lengths = torch.tensor(self.lengths(positions))
            owners = torch.arange(len(lengths)).repeat_interleave(lengths)
            self._owners[positions] = owners.to(self.parameters[0].device, non_blocking=True)
        return self._owners[positions]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(flat.nbytes for _, flat in self._stacks.values())
