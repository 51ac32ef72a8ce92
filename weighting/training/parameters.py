"""Parameters of a step: those whose gradients are compared, and those that are trained beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from lossrag.errors import ConfigError
from lossrag.weighting.training.data_parallel import refuse_wrapped
from lossrag.weighting.training.optimizers import Optimizers

Given = nn.Module | Iterable[Any]
"""A module, its ``parameters()`` or ``named_parameters()``, or a list of tensors."""


def listed(given: Given, what: str = "parameters") -> list[Tensor]:
    """The parameters of a module, or of an iterable of tensors or (name, tensor) pairs, each once.

    Raises ConfigError for anything else, and for a model wrapped for data parallel training.
    """
    if isinstance(given, nn.Module):
        refuse_wrapped(given)
        return list(given.parameters())
    if isinstance(given, (Tensor, str)) or not isinstance(given, Iterable):
        raise ConfigError(
            f"MultiTaskStep: expected the {what} as a list of tensors, or a module, got {type(given).__name__}: "
            "give model.parameters() or the model."
        )
    found: dict[int, Tensor] = {}
    for entry in given:
        named = isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)
        tensor = entry[1] if named else entry
        if not isinstance(tensor, Tensor):
            raise ConfigError(
                f"MultiTaskStep: expected tensors among the {what}, got {type(tensor).__name__}: give "
                "model.parameters() or the model; the learning rates of groups belong to the optimiser."
            )
        found[id(tensor)] = tensor
    return list(found.values())


class Trained:
    """Parameters that require a gradient at a moment: first those that the step was told about, then the others that
    its optimisers train.

    told: a module, of which layers may be added or replaced, or a list.
    """

    def __init__(self, told: Given, optimizers: Optimizers) -> None:
        self._told = told if isinstance(told, nn.Module) else listed(told)
        self._optimizers = optimizers

    def now(self) -> tuple[list[Tensor], int]:
        """The parameters as they are, and how many of them the step was told about.

        Raises ConfigError when there are none, and for one that no optimiser trains.
        """
        told = [p for p in (listed(self._told) if isinstance(self._told, nn.Module) else self._told) if p.requires_grad]
        updated = self._optimizers.parameters()
        missing = {id(p) for p in told} - {id(p) for p in updated}
        if missing:
            shapes = ", ".join(str(tuple(p.shape)) for p in told if id(p) in missing)
            raise ConfigError(
                f"MultiTaskStep: some parameters are not in the optimiser, of shape {shapes}: give it the same list, "
                "add what is new with optimizer.add_param_group, or freeze it with requires_grad_(False)."
            )
        known = {id(p) for p in told}
        beside = {id(p): p for p in updated if p.requires_grad and id(p) not in known}
        if not told:
            raise ConfigError("MultiTaskStep: none of the parameters requires a gradient, there is nothing to train.")
        return [*told, *beside.values()], len(told)


def positions(parameters: Sequence[Tensor], declared: Given | None, what: str) -> frozenset[int]:
    """Places among ``parameters`` of those that a user declared; what is frozen is left out."""
    if declared is None:
        return frozenset()
    place = {id(parameter): i for i, parameter in enumerate(parameters)}
    return frozenset(place[id(p)] for p in listed(declared, what) if id(p) in place)
