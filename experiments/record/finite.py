"""Finiteness of what a run saves: a tensor with an entry that is no number is named, and not written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lossrag.errors import DivergedError
from lossrag.weighting.update.finite import finite

UNKNOWN = ("contexts/", "composition/contexts", "composition/before")
"""Entries in which what is not known is not a number."""
SHOWN = 3


def check_finite(tensors: Mapping[str, Tensor], step: int, parameters: Sequence[str] = ()) -> None:
    """Raise DivergedError for tensors with entries that are not finite after ``step``.

    parameters: names of those that ``optimizer/0/...``, ``optimizer/1/...`` belong to.
    """
    known = {
        name: tensor.masked_fill(tensor.isnan(), 0) if name.startswith(UNKNOWN) else tensor
        for name, tensor in tensors.items()
    }
    if finite(known.values()):
        return
    broken = [_called(name, parameters) for name, tensor in known.items() if not finite([tensor])]
    more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
    raise DivergedError(
        f"Step {step}: {', '.join(broken[:SHOWN])}{more} is not finite after it, and was not saved. Lower the learning "
        "rate or alpha, or look for inputs, targets or a loss that are far too large."
    )


def _called(name: str, parameters: Sequence[str]) -> str:
    kind, _, rest = name.partition("/")
    index, _, key = rest.partition("/")
    if kind == "optimizer" and index.isdigit() and int(index) < len(parameters):
        return f"the optimiser's {key} of {parameters[int(index)]}"
    return name
