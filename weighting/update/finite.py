"""Finiteness of a step: what is not a number is found before anything is changed, and named."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

POLICIES = ("raise", "skip", "trust")
"""For values that are not finite: raise DivergedError, leave the step out and count it, or do not look."""


def finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all entries are finite; reads one number back from each device.

    >>> finite([torch.ones(2), None]), finite([torch.tensor([1.0, float("inf")])])
    (True, False)
    """
    apart: dict[torch.device, list[Tensor]] = {}  # an optimiser may keep its counts on the host
    for t in _numbers(tensors):
        apart.setdefault(t.device, []).append(t)
    # a sum of zeros is zero, and not a number as soon as one factor is none
    return all(bool(torch.stack([(t * 0).sum().float() for t in own]).sum() == 0) for own in apart.values())


def magnitude(tensors: Iterable[Tensor | None]) -> float:
    """Largest Euclidean norm of a tensor, in units below which the squares of numbers of its type are far from the end
    of its range: the largest number to the power 3/8, 2.8e14 in float32.

    Infinite or not a number where an entry is, and where squares leave the range; reads one number for each type and
    device.

    >>> magnitude([torch.ones(2)]) < 1 < magnitude([torch.tensor(1e20)])
    True
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for t in _numbers(tensors):
        alike.setdefault((t.device, t.dtype), []).append(t)
    found = [
        float(torch.stack(torch._foreach_norm(own)).max()) / torch.finfo(dtype).max ** 0.375
        for (_, dtype), own in alike.items()
    ]
    return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)


def _numbers(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    held = [t._values() if t.is_sparse else t for t in tensors if t is not None]
    return [t.detach() for t in held if t.numel() and t.is_floating_point()]


def cause(
    parameters: Sequence[Tensor], names: Sequence[str], states: Mapping[str, Tensor], inputs: Sequence[Tensor] | None
) -> str:
    """Where values that are not finite come from, as far as a step can see: a parameter, the optimiser's state, an
    input of the model, or else a target or the loss itself.

    states: what the optimisers remember, by name. inputs: those of the model in the pass, None where it is not known.
    """
    for name, parameter in zip(names, parameters, strict=True):
        if not finite([parameter]):
            return f"the parameter {name} is not finite, it was so before this step"
    for name, state in states.items():
        if not finite([state]):
            return f"the optimiser's state is not finite ({name}), so that its next update would not be"
    if inputs is None:
        return "the parameters are finite: look at the inputs, the targets and the loss"
    if not finite(inputs):
        return "an input of the model is not finite"
    if not magnitude(inputs) < 1:
        return f"an input of the model is as large as {max(float(t.abs().max()) for t in _numbers(inputs)):.1e}"
    return "inputs and parameters are finite: look at the targets and the loss"


class InputWatch:
    """Inputs that the outermost modules get while it is entered."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self._depth = 0

    def __enter__(self) -> InputWatch:
        module = torch.nn.modules.module
        self._handles = [
            module.register_module_forward_pre_hook(self._before),
            module.register_module_forward_hook(self._after, always_call=True),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        if not self._depth:
            self.inputs += [value for value in inputs if isinstance(value, Tensor)]
        self._depth += 1

    def _after(self, module: nn.Module, inputs: object, outputs: object) -> None:
        self._depth -= 1
