"""How the outputs of a model move when its parameters move along a direction: one pass in forward mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call


class _Call(nn.Module):
    """A function that reads the model, as a module, which functional_call can lend other parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
        return function()


def push_forward(
    model: nn.Module,
    point: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    function: Callable[[], Sequence[Tensor]],
) -> list[tuple[Tensor, Tensor]]:
    """(value, tangent) of every tensor that ``function`` computes with ``model`` at the parameters ``point``.

    point, direction: by name of the parameter, those that move; the others of the model stay as they are.
    The tangent is J direction, with J the Jacobian of the value with respect to the parameters at ``point``; zeros
    where the value does not depend on them. No graph is built.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> at, along = {"weight": torch.ones(1, 2)}, {"weight": torch.tensor([[1.0, 2.0]])}
    >>> [(value, tangent)] = push_forward(layer, at, along, lambda: [layer(torch.tensor([[3.0, 4.0]]))])
    >>> value.item(), tangent.item()
    (7.0, 11.0)
    """
    with torch.no_grad(), forward_ad.dual_level():
        duals = {f"model.{name}": _dual(value, direction[name]) for name, value in point.items()}
        found = functional_call(_Call(model), duals, (function,))
        return [_parts(value) for value in found]


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = forward_ad.make_dual(value, tangent)  # type: ignore[no-untyped-call]
    return dual


def _parts(dual: Tensor) -> tuple[Tensor, Tensor]:
    value, tangent = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
    return value.clone(), torch.zeros_like(value) if tangent is None else tangent.clone()
