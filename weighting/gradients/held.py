"""Gradients held aside during a step: those that the caller had computed before, which the step adds to its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def set_aside(parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """By parameter its gradient, which is taken off."""
    held = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return held


def add_held(parameters: Sequence[Tensor], held: Sequence[Tensor | None], scale: float) -> None:
    """Add what was ``held`` to the gradients of a step, which are of losses times ``scale`` and are divided by it."""
    for parameter in parameters if scale != 1 else ():
        if parameter.grad is not None:
            parameter.grad = parameter.grad / scale
    for parameter, gradient in zip(parameters, held, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad
