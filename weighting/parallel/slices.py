"""Slices of one long vector: d numbers, one for each entry of the parameters, of which a process holds n = d / R."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lossrag.weighting.gradients.rows import Factor
from lossrag.weighting.parallel.group import Group


class Slices:
    """The entries of ``parameters`` end to end, filled up so that the R slices have the same length ``n``."""

    def __init__(self, parameters: Sequence[Tensor], group: Group) -> None:
        self.parameters, self.group = list(parameters), group
        self.lengths = [parameter.numel() for parameter in parameters]
        self.n = -(-sum(self.lengths) // group.size)
        self.start = group.rank * self.n
        dtype = torch.float32
        for parameter in parameters:
            dtype = torch.promote_types(dtype, parameter.dtype)
        self.like = torch.empty(0, dtype=dtype, device=parameters[0].device)
        self.offsets = torch.tensor([0, *self.lengths]).cumsum(0).tolist()[:-1]

    def flat(self, gradients: Iterable[tuple[int, Tensor]]) -> Tensor:
        """(R n,) from the gradients by position of their parameter; zeros for the others."""
        whole = self.like.new_zeros(self.group.size * self.n)
        for position, gradient in gradients:
            start = self.offsets[position]
            whole[start : start + self.lengths[position]] = gradient.reshape(-1)
        return whole

    def parted(self, whole: Tensor) -> list[Tensor]:
        """(R n,) as one tensor for each parameter, of its shape and type."""
        parts = torch.split(whole[: sum(self.lengths)], self.lengths)
        return [part.view_as(p).to(p.dtype) for part, p in zip(parts, self.parameters, strict=True)]

    def joined(self, piece: Tensor) -> list[Tensor]:
        """The slices (n,) of all processes, parted. Sends (R - 1) n."""
        return self.parted(self.group.gather(piece).view(-1))

    def total(self, whole: Tensor) -> list[Tensor]:
        """The sum of the vectors (R n,) of all processes, parted. Sends 2 (R - 1) n."""
        return self.joined(self.group.swap(whole.view(self.group.size, self.n)).sum(0))

    def ranges(self, wanted: Callable[[int], bool]) -> list[tuple[int, int]]:
        """Where the entries of the parameters at ``wanted`` positions lie in the slice of this process."""
        found: list[tuple[int, int]] = []
        for position, (offset, length) in enumerate(zip(self.offsets, self.lengths, strict=True)):
            low, high = max(offset - self.start, 0), min(offset + length - self.start, self.n)
            if low >= high or not wanted(position):
                continue
            if found and found[-1][1] == low:
                low = found.pop()[0]
            found.append((low, high))
        return found

    def factor(self, factors: Sequence[Factor]) -> Factor:
        """The factors of the parameters on the slice of this process: a number where they are one, else (n,)."""
        if not any(isinstance(factor, Tensor) for factor in factors) and len(set(factors)) == 1:
            return factors[0]
        piece = self.like.new_zeros(self.n)
        for position, factor in enumerate(factors):
            for low, high in self.ranges(lambda other, position=position: other == position):  # type: ignore[misc]
                first = low + self.start - self.offsets[position]
                piece[low:high] = (
                    factor.reshape(-1)[first : first + high - low] if isinstance(factor, Tensor) else factor
                )
        return piece
