"""Random numbers of a method: those of the first process, whatever the passes of the others have drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from lossrag.weighting.gradients.random_state import random_state, set_random_state
from lossrag.weighting.parallel.group import Group


@contextmanager
def drawing_alike(group: Group | None, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Within, all processes draw what the first one draws; afterwards the others draw on as before. Sends the state of
    the generators, 5 KB."""
    if group is None:
        yield
        return
    own = random_state(parameters)
    set_random_state(parameters, [group.first(state.to(group.device)).to(state.device) for state in own])
    try:
        yield
    finally:
        if group.rank:
            set_random_state(parameters, own)
