"""Random state of the devices that a pass draws from, to repeat it with the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RandomState = list[Tensor]


def random_state(parameters: Sequence[Tensor]) -> RandomState:
    """The state on the host, and on the device of the parameters if that is another one."""
    device = parameters[0].device
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_random_state(parameters: Sequence[Tensor], states: RandomState) -> None:
    """Go on from :func:`random_state`."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], parameters[0].device)
