"""Attention in float32 inside a bfloat16 autocast of a CPU.

PyTorch's fused attention of the CPU takes about twice as long, forward and back, in bfloat16 as in float32 (2.13 with
avx512_bf16), which costs most of what the matrix products of an encoder gain there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Float32Attention(TorchFunctionMode):
    """Calls of ``scaled_dot_product_attention`` within take their inputs in float32, and return what they were in."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        dtype = args[0].dtype
        wide = {name: _wide(value) for name, value in (kwargs or {}).items()}
        with torch.autocast(args[0].device.type, enabled=False):
            return func(*map(_wide, args), **wide).to(dtype)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def attention_for(inputs: Tensor) -> AbstractContextManager[Any]:
    """Where an encoder is to run on ``inputs``: float32 attention in a CPU's autocast, nothing special elsewhere."""
    if inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return Float32Attention()
    return nullcontext()
