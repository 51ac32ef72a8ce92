"""Optimisers of a step: one of torch's or several, each with parameters of its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossrag.errors import ConfigError

Group = dict[str, Any]


class Optimizers:
    """One optimiser or several, as one.

    Raises ConfigError for what is no optimiser, for one that calls a closure of its own (LBFGS), and for a parameter
    that two of them train.
    """

    def __init__(self, given: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> None:
        several = isinstance(given, (list, tuple))
        self.every: list[torch.optim.Optimizer] = [*given] if several else [given]  # type: ignore[list-item, misc]
        if not self.every:
            raise ConfigError("MultiTaskStep: the list of optimisers is empty, give one at least.")
        for optimizer in self.every:
            _check(optimizer)
        taken: set[Tensor] = set()
        for optimizer in self.every:
            own = {p for group in optimizer.param_groups for p in group["params"]}
            if taken & own:
                raise ConfigError(
                    "MultiTaskStep: a parameter is in two of the optimisers, which would move it twice: give it to one."
                )
            taken |= own

    def parameters(self) -> list[Tensor]:
        """All that they train, in their order; parameters may be added to them at any time."""
        return [p for optimizer in self.every for group in optimizer.param_groups for p in group["params"]]

    def places(self) -> dict[Tensor, tuple[torch.optim.Optimizer, Group]]:
        """By parameter its optimiser, and the group that it is in there."""
        return {
            parameter: (optimizer, group)
            for optimizer in self.every
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def states(self) -> list[Tensor]:
        """All tensors that they remember."""
        kept = [state for optimizer in self.every for state in optimizer.state.values()]
        return [value for state in kept for value in state.values() if isinstance(value, Tensor)]

    def moving(self) -> list[Tensor]:
        """The parameters that have a gradient, and what is remembered of them; of a table whose gradient is sparse the
        rows that it names, so that nothing as large as the table is read."""
        found: list[Tensor] = []
        for optimizer in self.every:
            for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
                own = [parameter, *(v for v in optimizer.state.get(parameter, {}).values() if isinstance(v, Tensor))]
                if parameter.grad.is_sparse:
                    ids = parameter.grad._indices()[0]
                    own = [tensor.detach()[ids] for tensor in own if tensor.shape == parameter.shape]
                found += own
        return found

    def named_states(self, names: Mapping[int, str]) -> dict[str, Tensor]:
        """The same by name, such as ``exp_avg of trunk.weight``. names: of the parameters, by ``id``."""
        kept = [pair for optimizer in self.every for pair in optimizer.state.items()]
        return {
            f"{key} of {names.get(id(parameter), 'a parameter')}": value
            for parameter, state in kept
            for key, value in state.items()
            if isinstance(value, Tensor)
        }

    def rates(self) -> list[float]:
        """Their learning rates, each once."""
        groups = [group for optimizer in self.every for group in optimizer.param_groups]
        return sorted({float(group["lr"]) for group in groups if "lr" in group})

    def step(self) -> None:
        """An update by each."""
        for optimizer in self.every:
            optimizer.step()


def _check(optimizer: object) -> None:
    if not all(hasattr(optimizer, name) for name in ("param_groups", "state", "step")):
        raise ConfigError(
            f"MultiTaskStep: expected an optimiser such as torch.optim.Adam(parameters), or a list of them, got "
            f"{type(optimizer).__name__}."
        )
    step = getattr(optimizer, "step")  # noqa: B009  # an object of unknown type
    closure = inspect.signature(step).parameters.get("closure")
    if isinstance(optimizer, torch.optim.LBFGS) or (closure and closure.default is inspect.Parameter.empty):
        raise ConfigError(
            f"MultiTaskStep: {type(optimizer).__name__} evaluates the losses as often as it likes, while a step weighs "
            "them once: use a first-order optimiser, such as torch.optim.SGD or Adam."
        )
