"""Preference vectors of the methods that look for one chosen trade-off between the tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def preference_vector(preference: Sequence[float], like: Tensor) -> Tensor:
    """The vector (T,) in the dtype and on the device of ``like`` (T,); all ones where none is given."""
    return torch.tensor(list(preference), dtype=like.dtype, device=like.device) if preference else torch.ones_like(like)
