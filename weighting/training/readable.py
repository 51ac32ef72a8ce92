"""Readable tensors: those whose values may be looked at."""

from __future__ import annotations

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def readable(value: Tensor) -> bool:
    """False for tensors without data, of which only shapes are known."""
    return value.device.type != "meta" and not isinstance(value, FakeTensor)
