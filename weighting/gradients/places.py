"""Places of tasks as an index into tensors on a device, made without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Columns = slice | Tensor
"""Tasks as an index: a slice where they are consecutive."""


def columns(tasks: Sequence[int], device: torch.device) -> Columns:
    """An index of these tasks along one dimension.

    >>> columns([1, 2], torch.device("cpu")), columns([0, 2], torch.device("cpu"))
    (slice(1, 3, None), tensor([0, 2]))
    """
    start, end = (tasks[0], tasks[0] + len(tasks)) if tasks else (0, 0)
    return slice(start, end) if list(tasks) == list(range(start, end)) else places(tasks, device)


def places(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Numbers (n,) int64 on a device: indexing by a list, or ``torch.tensor(numbers, device=...)``, waits for it."""
    return torch.tensor(numbers, dtype=torch.int64).to(device, non_blocking=True)
