"""Guard of an update: one that would leave a parameter, or what an optimiser remembers, not finite is taken back.

A finite gradient is not enough: the square of 1e22 is infinite in float32, as Adam's second moment would be from then
on, and its parameters would never move again. Numbers far from the end of their range do not leave it in one update,
so a copy to go back to is made only where one is large.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lossrag.weighting.training.optimizers import Optimizers
from lossrag.weighting.update.finite import finite

RATE = 1e6
"""Learning rate from which on no update is taken for small."""


class Guard:
    """Guard of the updates by some optimisers."""

    def __init__(self, optimizers: Optimizers) -> None:
        self._optimizers = optimizers

    def step(self, size: float, names: Callable[[], Mapping[int, str]]) -> str | None:
        """Update; the name of a tensor that would not be finite after it, where nothing has changed instead.

        size: :func:`magnitude` of gradients, parameters and states. names: of the parameters, by ``id``.
        """
        optimizers = self._optimizers
        if size < 1 and not self._bold():
            optimizers.step()
            return None
        before = Snapshot(optimizers)
        optimizers.step()
        if finite(optimizers.moving()):
            return None
        called = names()
        held = {called.get(id(p), "a parameter"): p for p in optimizers.parameters()} | optimizers.named_states(called)
        broken = next(name for name, tensor in held.items() if not finite([tensor]))
        before.restore()
        return broken

    def _bold(self) -> bool:
        """True where the optimisers may divide by 0, or go further than learning rates do."""
        groups = [group for optimizer in self._optimizers.every for group in optimizer.param_groups]
        rates = [group.get("lr", 0.0) for group in groups]
        # reading a tensor would wait for its device
        far = any(not isinstance(rate, Tensor) and not abs(rate) < RATE for rate in rates)
        return far or any(group.get("eps") == 0 for group in groups)


class Snapshot:
    """Snapshot of the parameters, the states and the options of optimisers, to go back to."""

    def __init__(self, optimizers: Optimizers) -> None:
        self._optimizers = optimizers
        self._parameters = [(parameter, parameter.detach().clone()) for parameter in optimizers.parameters()]
        self._states = [
            {parameter: {key: (value, _copied(value)) for key, value in own.items()} for parameter, own in kept.items()}
            for kept in (optimizer.state for optimizer in optimizers.every)
        ]
        self._options = [
            [
                {key: _copied(value) for key, value in group.items() if key != "params"}
                for group in optimizer.param_groups
            ]
            for optimizer in optimizers.every
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put all of it back, into the same tensors."""
        for parameter, value in self._parameters:
            parameter.copy_(value)
        for optimizer, states, options in zip(self._optimizers.every, self._states, self._options, strict=True):
            optimizer.state.clear()
            for key, own in states.items():
                optimizer.state[key] = {name: _back(*pair) for name, pair in own.items()}
            for group, values in zip(optimizer.param_groups, options, strict=True):
                group.update(values)


def _copied(value: object) -> object:
    return value.detach().clone() if isinstance(value, Tensor) else copy.copy(value)


def _back(value: object, before: object) -> object:
    return value.copy_(before) if isinstance(value, Tensor) and isinstance(before, Tensor) else before
