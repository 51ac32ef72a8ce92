"""Layers over a batch of segments whose parameters are given as one copy per segment.

A batch of S segments (say, the rows of S tasks) goes through in one pass. Parameters enter as S expanded copies of the
same values, so the gradient of copy s is that of segment s alone: one backward pass gives the gradients of all
segments, where S separate passes would pay S times for launching the same small operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def embed_by_segment(ids: Tensor, copies: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows (B, L, E) of the table for ``ids`` (B, L) int64; ``copies`` (S, V, E). Id 0 takes no gradient."""
    embedded: Tensor = _Embed.apply(ids, copies, tuple(sizes))  # type: ignore[no-untyped-call]
    return embedded


def add_by_segment(values: Tensor, copies: Tensor, sizes: Sequence[int]) -> Tensor:
    """``values`` (B, F) plus the bias of each row's segment; ``copies`` (S, F)."""
    return values + copies.repeat_interleave(torch.tensor(sizes, device=values.device), dim=0)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ids: Tensor, copies: Tensor, sizes: tuple[int, ...]) -> Tensor:
        return F.embedding(ids, copies[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ids, copies, ctx.sizes = inputs
        ctx.shape = copies.shape
        ctx.save_for_backward(ids)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        (ids,) = ctx.saved_tensors
        words = ctx.shape[1]
        result = gradient.new_empty(ctx.shape)
        parts = zip(torch.split(ids, ctx.sizes), torch.split(gradient, ctx.sizes), strict=True)
        for segment, (part, rows) in enumerate(parts):
            result[segment] = torch.ops.aten.embedding_dense_backward(rows, part, words, 0, False)
        return None, result, None
