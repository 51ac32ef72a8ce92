"""Sums over winning windows: what the maximum over time passes on, one position of L for each document and filter.

With p[b, c] the position at which document b won for filter c, and words laid end to end as one matrix of rows:
    gradient of a filter   sum_b g[b, c] words[b, p[b, c] + o]        a weighted sum of rows: an embedding bag
    gradient of the words  sum_o sum_{c: p[b, c] = l - o} g[b, c] W_c[:, o], the same over the filters that won at l - o
    tangent of a maximum   sum_o <words[b, p[b, c] + o], dW_c[:, o]>  products of rows: the gradient of bag weights
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_BYTES = 2**20
"""Bytes that are worked on at once: about a second-level cache."""
DEVICE_BLOCK_BYTES = 2**28
"""The same on an accelerator."""


def margin(kernel_sizes: Sequence[int]) -> int:
    """Padding rows that the words need on both sides."""
    return max(kernel_sizes) // 2


class Taps:
    """All weights as one matrix per offset: ``matrix[i]`` (E, columns that use it), widest first."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.sizes = [weight.shape[2] for weight in weights]
        self.margin = margin(self.sizes)
        self.order = sorted(range(len(weights)), key=lambda i: -self.sizes[i])
        self.filters = [weights[i].shape[0] for i in range(len(weights))]
        self.columns = sum(self.filters)
        offsets = sorted(range(-self.margin, self.margin + 1), key=abs)
        self.matrices: list[tuple[int, Tensor]] = []
        for offset in offsets:
            using = [i for i in self.order if abs(offset) <= self.sizes[i] // 2]
            parts = [weights[i][:, :, offset + self.sizes[i] // 2] for i in using]
            self.matrices.append((offset, torch.cat(parts).t()))

    def to_columns(self, values: Tensor) -> Tensor:
        """(B, C) from the caller's order of kernel sizes to ours."""
        parts = torch.split(values, self.filters, dim=1)
        return torch.cat([parts[i] for i in self.order], dim=1)

    def from_columns(self, values: Tensor) -> Tensor:
        """The inverse of :meth:`to_columns`."""
        parts = torch.split(values, [self.filters[i] for i in self.order], dim=1)
        back = dict(zip(self.order, parts, strict=True))
        return torch.cat([back[i] for i in range(len(parts))], dim=1)

    def put(self, result: Sequence[Tensor], offset: int, gradient: Tensor) -> None:
        """Write the gradients (S, columns, E) at one offset into those of the copies (S, filters, E, size)."""
        start = 0
        for i in self.order:
            if abs(offset) <= self.sizes[i] // 2:
                result[i][..., offset + self.sizes[i] // 2] = gradient[:, start : start + self.filters[i]]
                start += self.filters[i]


def copy_gradients(
    words: Tensor, copies: Sequence[Tensor], sizes: Sequence[int], taps: Taps, where: Tensor, amount: Tensor
) -> list[Tensor]:
    documents, padded, width = words.shape
    # row of the flat words that each (document, column) won at; one bag per (segment, column)
    rows = where + torch.arange(documents, device=where.device).unsqueeze(1) * padded + taps.margin
    rows, shares = _by_segment(rows, sizes), _by_segment(amount, sizes)
    flat = words.view(-1, width)
    # in memory (size, S, filters, E): what is written are long runs, several times faster than single entries
    shapes = [[copy.shape[3], *copy.shape[:3]] for copy in copies]
    result = [copy.new_empty(shape).permute(1, 2, 3, 0) for copy, shape in zip(copies, shapes, strict=True)]
    for offset, matrix in taps.matrices:
        used = matrix.shape[1]
        # entries that fill up a short segment point at row 0 with share 0, whatever the offset
        bags = (rows[:, :used] + offset).clamp_(min=0).reshape(len(sizes) * used, -1)
        sums = F.embedding_bag(bags, flat, mode="sum", per_sample_weights=shares[:, :used].reshape(bags.shape))
        taps.put(result, offset, sums.view(len(sizes), used, width))
    return result


def _by_segment(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """(B, C) as (S, C, longest segment), short segments filled up with 0."""
    if len(set(sizes)) == 1:
        return values.view(len(sizes), sizes[0], -1).transpose(1, 2).contiguous()
    padded = torch.nn.utils.rnn.pad_sequence(list(torch.split(values, list(sizes))), batch_first=True)
    return padded.transpose(1, 2).contiguous()


def words_gradient(words: Tensor, taps: Taps, where: Tensor, amount: Tensor) -> Tensor:
    documents, padded, width = words.shape
    length, span = padded - 2 * taps.margin, 2 * taps.margin + 1
    # one table row per column: its weights at every offset, zeros where it has none
    table = words.new_zeros(taps.columns, span, width)
    for offset, matrix in taps.matrices:
        table[: matrix.shape[1], offset + taps.margin] = matrix.t()
    table = table.view(taps.columns, -1)
    # winners in order of position, and how many there are before each position: a bag per position
    ordered, columns = where.sort(dim=1)
    shares = amount.gather(1, columns)
    place = (ordered + torch.arange(documents, device=where.device).unsqueeze(1) * length).view(-1)
    # bincount would wait for the device, to learn how many there are
    winners_at = place.new_zeros(documents * length).scatter_add_(0, place, torch.ones_like(place))
    starts = F.pad(winners_at.cumsum(0), (1, 0))
    result = torch.zeros_like(words)
    most = BLOCK_BYTES if words.device.type == "cpu" else DEVICE_BLOCK_BYTES
    step = max(1, most // (length * span * width * words.element_size()))
    for first in range(0, documents, step):
        last = min(first + step, documents)  # every document has one winner for each column
        bags = starts[first * length : last * length] - starts[first * length]
        winners, weights = columns[first:last].reshape(-1), shares[first:last].reshape(-1)
        sums = F.embedding_bag(winners, table, bags, mode="sum", per_sample_weights=weights)
        sums = sums.view(last - first, length, span, width)
        for slot in range(span):
            result[first:last, slot : slot + length] += sums[:, :, slot]
    return result


def tangents(
    words: Tensor,
    words_tangent: Tensor | None,
    sizes: Sequence[int],
    taps: Taps,
    changes: Sequence[Taps],
    where: Tensor,
) -> Tensor:
    """Tangents (B, C) of the maxima at ``where`` (B, C), our column order, for filters that move by ``changes[s]``."""
    documents, padded, width = words.shape
    rows = where + torch.arange(documents, device=where.device).unsqueeze(1) * padded + taps.margin
    numbers = [number for number, size in enumerate(sizes) for _ in range(size)]
    segment = torch.tensor(numbers).to(where.device, non_blocking=True)
    total = words.new_zeros(where.shape)
    for number, (offset, matrix) in enumerate(taps.matrices):
        used = matrix.shape[1]
        at = (rows[:, :used] + offset).flatten()
        columns = torch.arange(used, device=where.device).expand(documents, used)
        moved = torch.cat([change.matrices[number][1].t() for change in changes])
        own = segment[:, None] * used + columns
        total[:, :used] += _row_products(moved, words.view(-1, width), at, own).view(documents, used)
        if words_tangent is not None:
            flat = words_tangent.reshape(-1, width)
            total[:, :used] += _row_products(matrix.t().contiguous(), flat, at, columns).view(documents, used)
    return total


def _row_products(left: Tensor, right: Tensor, at: Tensor, of: Tensor) -> Tensor:
    """<left[of[i]], right[at[i]]> (n,) for every i, without a copy of the rows."""
    start = at.new_zeros(1)
    backward = torch.ops.aten._embedding_bag_per_sample_weights_backward
    products: Tensor = backward(left, right, at, start, of.flatten(), 0)  # 0: bags that add up
    return products
