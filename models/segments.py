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


def embed_by_segment(ids: Tensor, table: Tensor, copies: Tensor, lookup: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows (B, L, E) of ``table`` (V, E) for ``ids`` (B, L) int64.

    The gradient goes to ``copies`` (S, U, E) of U of its rows: ``lookup`` (V,) int64 says which of them an id is, or U
    for those that take no gradient. Backward costs what the U rows cost, however long the table is.
    """
    embedded: Tensor = _Embed.apply(ids, table.detach(), copies, lookup, tuple(sizes))  # type: ignore[no-untyped-call]
    return embedded


def row_lookup(ids: Tensor, rows: int) -> Tensor:
    """The lookup (V,) of :func:`embed_by_segment` for a table of ``rows`` rows of which ``ids`` (U,) are trained."""
    lookup = torch.full((rows,), len(ids), device=ids.device)
    lookup[ids] = torch.arange(len(ids), device=ids.device)
    return lookup


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ids: Tensor, table: Tensor, copies: Tensor, lookup: Tensor, sizes: tuple[int, ...]) -> Tensor:
        return F.embedding(ids, table)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ids, _, copies, lookup, ctx.sizes = inputs
        ctx.shape = copies.shape
        ctx.save_for_backward(ids, lookup)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor, None, None]:
        ids, lookup = ctx.saved_tensors
        rows = ctx.shape[1]
        result = gradient.new_empty(ctx.shape)
        parts = zip(torch.split(lookup[ids], ctx.sizes), torch.split(gradient, ctx.sizes), strict=True)
        for segment, (local, part) in enumerate(parts):
            # one row more than there are, for the ids without gradient: as padding it takes none
            result[segment] = torch.ops.aten.embedding_dense_backward(part, local, rows + 1, rows, False)[:rows]
        return None, None, result, None, None
