"""The support gradients of T tasks, of which this process holds a slice: T d / R numbers instead of T d."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.weighting.gradients.rows import Factor
from lossrag.weighting.parallel.exchange import Exchange
from lossrag.weighting.parallel.group import Group
from lossrag.weighting.parallel.slices import Slices
from lossrag.weighting.parallel.tally import Joined


class SlicedRows:
    """Slices of the gradients of ``tasks`` tasks with respect to ``parameters``, of which the first ``told`` are
    compared; shared, private: as in :class:`lossrag.weighting.gradients.rows.GradientRows`.

    Inner products of whole gradients are sums over the processes of those of their slices, and told to all of them.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        tasks: int,
        group: Group,
        told: int,
        shared: Container[int],
        private: Container[int],
    ) -> None:
        device = parameters[0].device
        if (device.type == "cuda") != (group.device.type == "cuda"):
            raise ConfigError(
                f"MultiTaskStep: the parameters are on {device}, but the processes talk through {group.backend}: call "
                "init_process_group with 'nccl' for GPUs, after torch.cuda.set_device, and 'gloo' for CPUs."
            )
        self.tasks, self.group, self.slices = tasks, group, Slices(parameters, group)
        self.scale = 1.0
        """What all gradients are multiplied by; inner products are told without it, the combined gradient with it."""
        self._told, self._shared, self._private = told, shared, private
        self._held = self.slices.like.new_zeros(tasks, 0)
        self._present: Collection[int] = range(tasks)
        self._joined: Joined | None = None

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        if self._held.shape[1]:
            self._held.zero_()
        else:
            self._held = self.slices.like.new_zeros(self.tasks, self.slices.n)

    def exchange(self, counts: Sequence[float]) -> Exchange:
        """The rounds of a support pass, whose gradients are added to those that are held, times their counts."""
        return Exchange(self.slices, self.group.own(self.tasks), counts, self._add)

    def _add(self, task: int, piece: Tensor) -> None:
        self._held[task] += piece

    def settle(self, present: Collection[int], joined: Joined) -> None:
        """End the passes of a step: count these tasks alone; joined: what the processes have told each other."""
        self._present, self._joined = present, joined
        counts = torch.tensor(joined.counts, dtype=self._held.dtype).clamp(min=torch.finfo(self._held.dtype).tiny)
        self._held /= counts.to(self._held.device)[:, None]

    def finite(self, task: int) -> bool:
        """True where the gradient of a task is finite."""
        return self._joined is None or self._joined.finite[task]

    def of(self, task: int) -> list[Tensor]:
        """The slice of the gradient of a task."""
        return [self._held[task]]

    def restrict(self, position: int, ids: Tensor) -> None:
        """Refuse rows of a table."""
        raise ConfigError(
            "MultiTaskStep: rows of a table (TableRows) are not divided among processes: give the whole table to the "
            "TaskGroup, or leave group= out."
        )

    def table_rows(self, position: int) -> Tensor | None:
        """None: of every parameter all of it."""

    def combine(self, coefficients: Tensor, own: Tensor | None = None) -> list[Tensor | None]:
        """sum_t coefficients[t] * gradient_t per parameter, shaped like it; None where no task touches it. Sends
        (R - 1) d / R.

        own: other coefficients (T,) for the parameters that a single task touches.
        """
        piece = coefficients.to(self._held) @ self._held
        if own is not None and own is not coefficients:
            other = own.to(self._held) @ self._held
            for low, high in self.slices.ranges(self._is_own):
                piece[low:high] = other[low:high]
        parts = self.slices.joined(piece)
        return [part if self._owners(position) else None for position, part in enumerate(parts)]

    def gramian(self, own: bool = False) -> Tensor:
        """Inner products (T, T) of the gradients with respect to the parameters that several tasks touch; ``own``: and
        those that a single task touches. Sends (R - 1) T^2."""
        products = self.products(self._held, shared=not own)
        return self.told(products / self.scale / self.scale)

    def products(self, pieces: Tensor, shared: bool, factor: Factor = 1.0) -> Tensor:
        """Inner products (r, T) in float64 of the slices (r, n) of gradients, times a factor, with the rows; on this
        slice alone."""
        total = pieces.new_zeros(len(pieces), self.tasks, dtype=torch.float64)
        weighed = pieces * factor if isinstance(factor, Tensor) else pieces
        for low, high in self.slices.ranges(lambda p: p < self._told and not (shared and self._is_own(p))):
            total += weighed[:, low:high] @ self._held[:, low:high].mT
        return total if isinstance(factor, Tensor) else total * factor

    def told(self, products: Tensor) -> Tensor:
        """Inner products of whole gradients, the same in all processes, in the precision that they are known to."""
        return self.group.gather(products).sum(0).to(self._held.dtype)

    def _owners(self, position: int) -> list[int]:
        """The tasks, of those that are present, that touch a parameter."""
        assert self._joined is not None
        return [task for task in self._present if self._joined.touched[task, position]]

    def _is_own(self, position: int) -> bool:
        """True for the parameters of a single task, where there are several tasks."""
        if len(self._present) < 2 or position in self._shared:
            return False
        return position in self._private or len(self._owners(position)) == 1

    @property
    def nbytes(self) -> int:
        """Bytes held: those of T d / R numbers."""
        return self._held.nbytes
