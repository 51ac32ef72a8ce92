"""Saved state of a step: tensors alone, among them what it is the state of."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch

from lossrag.errors import ConfigError
from lossrag.weighting.base import State, Weighting
from lossrag.weighting.state.description import describe, difference
from lossrag.weighting.state.presence import reordered

ABOUT, COUNT = "about", "count"
OWN = (ABOUT, COUNT)
"""Entries of the step's own, beside those of the method."""


def saved_state(weighting: Weighting, tasks: Sequence[str], state: State, count: int) -> State:
    """The state of a method over named tasks after so many steps; ``about`` (B,) uint8 says of what, as JSON."""
    told = json.dumps({**describe(weighting), "tasks": list(tasks)})
    return {**state, COUNT: torch.tensor(count), ABOUT: torch.tensor(list(told.encode()), dtype=torch.uint8)}


def load_state(weighting: Weighting, tasks: Sequence[str], saved: State, like: State) -> tuple[int, State]:
    """The count and the state that :func:`saved_state` gave, in the order of ``tasks`` and on the device of ``like``.

    Options that list an entry for each task are compared by the names of the tasks. Raises ConfigError for the state of
    another method, of other options or tasks, and for one that is none.
    """
    try:
        about = json.loads(bytes(saved[ABOUT].cpu().tolist()).decode())
        names, count = list(about["tasks"]), int(saved[COUNT])
        other = difference(about, describe(_in_order(weighting, tasks, names)))
    except (KeyError, ValueError, TypeError, AttributeError):
        raise ConfigError(
            "MultiTaskStep: this is no state of a step: give what state_dict() of a step of this version returned."
        ) from None
    if other:
        raise ConfigError(f"MultiTaskStep: this state is of another method than the step has: {other}.")
    if sorted(names) != sorted(tasks):
        raise ConfigError(
            f"MultiTaskStep: this state is of the tasks {', '.join(names)}, the step has {', '.join(tasks)}."
        )
    own_state = {key: value for key, value in saved.items() if key not in OWN}
    if own_state.keys() != like.keys() or any(own_state[k].shape != like[k].shape for k in like):
        got, expected = ({k: tuple(v.shape) for k, v in own.items()} for own in (own_state, like))
        raise ConfigError(f"MultiTaskStep: the state has the entries {got}, this version keeps {expected}.")
    order = [names.index(name) for name in tasks]
    moved = own_state if list(names) == list(tasks) else reordered(own_state, order)
    return count, {key: moved[key].to(value) for key, value in like.items()}


def _in_order(weighting: Weighting, tasks: Sequence[str], names: Sequence[str]) -> Weighting:
    """A method over ``tasks`` with its options in the order of ``names``, where these are the same tasks."""
    if sorted(names) != sorted(tasks):
        return weighting
    return weighting.among([list(tasks).index(name) for name in names], len(tasks))
