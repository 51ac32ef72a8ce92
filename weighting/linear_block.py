"""Gradients of a linear layer by several tasks on one shared input, kept as factors instead of being formed.

The gradient of task t is delta_t^T a, with the layer's inputs a (B, in) and the gradient delta_t (B, out) of the loss
at its outputs. All that is read off the gradients follows from the factors:
    sum_t c_t delta_t^T a = (sum_t c_t delta_t)^T a                     one product instead of T
    <delta_q^T b, delta_s^T a> = <delta_q, (b a^T) delta_s>             (b a^T) is B x B, once for all tasks
which is less work than forming 2 T gradients when the batch has fewer rows than the layer has inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearGradient:
    """The gradient delta^T a of the weight at ``position``: ``inputs`` a (B, in), ``outputs`` delta (B, out)."""

    position: int
    inputs: Tensor
    outputs: Tensor

    def formed(self) -> Tensor:
        """(1, out, in)."""
        return (self.outputs.mT @ self.inputs)[None]


def pays_off(rows: int, inputs: int, outputs: int, tasks: int) -> bool:
    """Whether factors cost fewer multiplications than forming the support and query gradients of all tasks, and no
    more memory than the formed ones of the support: twice ``rows`` by ``outputs`` for each task.

    >>> pays_off(64, 512, 512, 16), pays_off(256, 64, 512, 16)
    (True, False)
    """
    factors = rows * rows * inputs + tasks * rows * outputs * (rows + tasks)
    return 2 * rows <= inputs and factors < tasks * inputs * outputs * (2 * rows + tasks)


class LinearBlock:
    """The factors of one layer in one step."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        self._tasks: list[int] = []
        self._outputs: list[Tensor] = []
        self._inputs: Tensor | None = None
        self._stacked: Tensor | None = None
        self._carried: tuple[Tensor, Tensor] | None = None

    @property
    def tasks(self) -> int:
        """How many tasks touched the layer."""
        return len(self._tasks)

    def write(self, task: int, gradient: LinearGradient) -> None:
        """Keep the factors; the inputs are those of all tasks."""
        self._tasks.append(task)
        self._outputs.append(gradient.outputs)
        self._inputs = gradient.inputs

    def factors(self) -> tuple[Tensor, Tensor]:
        """Inputs (B, in), and for the k tasks the gradients at the outputs (k, B, out)."""
        assert self._inputs is not None
        if self._stacked is None:
            self._stacked = torch.stack(self._outputs)
            self._outputs = list(self._stacked)  # views of the stack: held once
        return self._inputs, self._stacked

    def combine(self, coefficients: Tensor) -> Tensor:
        """sum_t coefficients[t] * gradient_t, (out, in)."""
        inputs, outputs = self.factors()
        share = coefficients[self._tasks].to(outputs.dtype)
        summed = (share @ outputs.flatten(1)).view(outputs.shape[1:])
        return summed.mT @ inputs

    def add_gramian(self, total: Tensor) -> None:
        """Add the inner products of the gradients among themselves to ``total`` (T, T)."""
        inputs, outputs = self.factors()
        for i, task in enumerate(self._tasks):
            total[task, self._tasks] += self._products(inputs, outputs[i])

    def add_inner(self, total: Tensor, gradient: LinearGradient, factor: float) -> None:
        """Add factor * <gradient, gradient_t> to ``total`` (1, T) for every task held."""
        if self.tasks == 1:  # nothing to share the (B, B) product with
            self.add_inner_formed(total, gradient.formed() * factor)
        else:
            total[0, self._tasks] += self._products(gradient.inputs, gradient.outputs) * factor

    def add_inner_formed(self, total: Tensor, gradients: Tensor) -> None:
        """Add <gradients[i], gradient_t> to ``total`` (r, T), for gradients (r, out, in)."""
        inputs, outputs = self.factors()
        seen = gradients @ inputs.mT  # (r, out, B)
        total[:, self._tasks] += seen.flatten(1) @ outputs.mT.flatten(1).mT

    def _products(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        own, deltas = self.factors()
        if self._carried is None or self._carried[0] is not inputs:
            self._carried = (inputs, ((inputs @ own.mT) @ deltas).flatten(1))
        return self._carried[1] @ outputs.reshape(-1)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        carried = 0 if self._carried is None else self._carried[1].nbytes
        return carried + sum(outputs.nbytes for outputs in self._outputs)


def stack_calls(values: Sequence[Tensor]) -> Tensor:
    """(..., n) tensors of several calls of a layer as one (rows, n)."""
    flat = [value.reshape(-1, value.shape[-1]) for value in values]
    return flat[0] if len(flat) == 1 else torch.cat(flat)
