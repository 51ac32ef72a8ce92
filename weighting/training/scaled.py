"""Scaled losses: what a gradient scaler multiplied is seen as it was before."""

from __future__ import annotations

import gc
import math

import torch
from torch import Tensor

from lossrag.weighting.training.readable import readable


class Scaling:
    """The gradient scaler, of torch.amp, that losses come through; found with the first of them."""

    def __init__(self) -> None:
        self._scaler: torch.amp.GradScaler | None = None

    def find(self, loss: Tensor) -> None:
        """Look for the scaler whose scale a loss was multiplied by, if it was."""
        factor = _factor(loss)
        if self._scaler is None and factor is not None and _is_power_of_two(factor):
            for known in gc.get_objects():
                # not isinstance, which would ask lazy objects what they are
                if issubclass(type(known), torch.amp.GradScaler) and _scale_is(known, factor):
                    self._scaler = known

    def of(self, loss: Tensor) -> float:
        """What the scaler multiplied a loss by; 1 where it did not."""
        factor = None if self._scaler is None else _factor(loss)
        scaled = self._scaler is not None and factor is not None and _scale_is(self._scaler, factor)
        return float(factor) if scaled and factor is not None else 1.0


def _factor(loss: Tensor) -> Tensor | None:
    node = loss.grad_fn
    if node is None or node.name() != "MulBackward0":
        return None
    other = getattr(node, "_saved_other", None)
    return other if isinstance(other, Tensor) and not other.dim() and not other.requires_grad else None


def _scale_is(scaler: torch.amp.GradScaler, factor: Tensor) -> bool:
    own = getattr(scaler, "_scale", None)
    return isinstance(own, Tensor) and own.data_ptr() == factor.data_ptr()


def _is_power_of_two(factor: Tensor) -> bool:
    # the search for a scaler takes some time, and no other factor is one
    if not readable(factor):
        return False
    number = float(factor)
    return number > 0 and math.log2(number).is_integer()
