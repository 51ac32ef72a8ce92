"""Preference vectors of the methods that look for one chosen trade-off between the tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lossrag.errors import ConfigError


def check_numbers(owner: str, option: str, values: Sequence[float], *, zeros: bool) -> None:
    """Raise ConfigError unless all are finite and positive; ``zeros``: 0 is fine too, but not everywhere."""
    fits = all(math.isfinite(v) and (v >= 0 if zeros else v > 0) for v in values)
    if not fits or (zeros and len(values) > 0 and not any(values)):
        kind = "numbers of 0 or more, not all 0" if zeros else "positive numbers"
        raise ConfigError(f"{owner}: {option} must hold {kind}, got {list(values)}.")


def check_length(owner: str, option: str, values: Sequence[float], tasks: int) -> None:
    """Raise ConfigError unless there is one number per task."""
    if len(values) != tasks:
        raise ConfigError(
            f"{owner}: {option} must hold one number for each of the {tasks} tasks, in their order, "
            f"got {len(values)}: {list(values)}."
        )


def preference_vector(preference: Sequence[float], like: Tensor) -> Tensor:
    """The vector (T,) in the dtype and on the device of ``like`` (T,); all ones where none is given."""
    return torch.tensor(list(preference), dtype=like.dtype, device=like.device) if preference else torch.ones_like(like)
