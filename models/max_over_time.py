"""Convolution and max over time in one piece, at about a third of the cost of the two apart.

    pooled[b, c] = max_l  sum_o  <W_c[:, o], words[b, l + o]>          o = -k//2 ... k//2 for a kernel of odd size k

Forward. Laid end to end, the padded documents are one matrix (rows, E), and the same matrix shifted by o rows is a
view of it. So all kernel sizes together are one product per offset o, added up in place: columns are ordered by kernel
size, the largest first, so that those which use offset o are a prefix. Documents go through in blocks whose scores
stay in the cache, and only the maxima and their positions ever leave it. (At the seams between documents a row mixes
two of them; those rows lie beyond the last position and are not looked at.)

Backward. Only the winning window of each (document, filter) carries gradient, one position of L. With p = argmax,
    dW_c[:, o]      = sum_b g[b, c] words[b, p[b, c] + o]              a weighted sum of rows: an embedding bag
    dwords[b, l]    = sum_o sum_{c: p[b, c] = l - o} g[b, c] W_c[:, o]   the same over the filters that won at l - o
which is 1/L of the dense work. Ties go to the first position; dense autograd shares the gradient among them, which
gives the same weight gradients, because windows that tie by having the same words are equal.

Forward mode is the forward product with the tangents, read at the winning positions. A second backward pass
(create_graph=True) differentiates the dense formula at the winning positions instead. :func:`dense` is the plain form:
the oracle of the tests, and the path for everything this one does not cover (accelerators, even kernel sizes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

BLOCK_BYTES = 2**19
"""Scores of one block of documents: half of a usual second-level cache."""


def margin(kernel_sizes: Sequence[int]) -> int:
    """Padding rows that the words need on both sides."""
    return max(kernel_sizes) // 2


def covers(words: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether the fast path applies: real CPU tensors and odd kernel sizes."""
    real = words.device.type == "cpu" and type(words) is Tensor and not torch.compiler.is_compiling()
    return real and words.numel() > 0 and all(weight.shape[2] % 2 == 1 for weight in weights)


def max_over_time(words: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Pooled scores (B, sum of filters), without bias: it is constant over time, so add it afterwards.

    words: (B, L + 2 m, E) with m = :func:`margin` rows of padding on both sides.
    weights: one (filters, E, kernel size) per size.
    """
    if not covers(words, weights):
        return dense(words, weights)
    pooled: Tensor = _MaxOverTime.apply(words.contiguous(), *weights)[0]  # type: ignore[no-untyped-call]
    return pooled


def dense(words: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The plain form of :func:`max_over_time`."""
    return torch.cat([reduce(scores, "b f l -> b f", "max") for scores in _dense_scores(words, weights)], dim=1)


def _dense_scores(words: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """(B, filters, positions) for each kernel size: as a convolution of the unpadded words with padding k // 2."""
    widest = margin([weight.shape[2] for weight in weights])
    length = words.shape[1]
    scores = []
    for weight in weights:
        cut = widest - weight.shape[2] // 2
        scores.append(F.conv1d(rearrange(words[:, cut : length - cut], "b l e -> b e l"), weight))
    return scores


class _Taps:
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

    def to_weights(self, gradients: dict[int, Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        """Gradients (columns, E) per offset as gradients of the weights (filters, E, size)."""
        result = [torch.empty_like(weight) for weight in like]
        for offset, gradient in gradients.items():
            start = 0
            for i in self.order:
                if abs(offset) <= self.sizes[i] // 2:
                    result[i][:, :, offset + self.sizes[i] // 2] = gradient[start : start + self.filters[i]]
                    start += self.filters[i]
        return result


def _scores(words: Tensor, taps: _Taps, rows: slice, buffer: Tensor, add: bool) -> Tensor:
    """Scores (n, L, C) of the documents ``rows``, written (or added) into ``buffer``; a view of it."""
    block = words[rows]
    documents, padded, width = block.shape
    flat = block.view(-1, width)
    count = len(flat) - 2 * taps.margin
    for number, (offset, matrix) in enumerate(taps.matrices):
        shifted = flat[taps.margin + offset : taps.margin + offset + count]
        target = buffer[:count, : matrix.shape[1]]
        if number or add:
            torch.addmm(target, shifted, matrix, out=target)
        else:
            torch.mm(shifted, matrix, out=target)
    scores = buffer[: documents * padded].view(documents, padded, -1)
    return scores[:, : padded - 2 * taps.margin]


def _blocks(words: Tensor, taps: _Taps) -> tuple[list[slice], Tensor]:
    """The documents in blocks, and a buffer for the scores of one."""
    documents, padded, _ = words.shape
    size = max(1, min(documents, BLOCK_BYTES // (padded * taps.columns * words.element_size())))
    slices = [slice(start, min(start + size, documents)) for start in range(0, documents, size)]
    return slices, words.new_empty(size * padded, taps.columns)


class _MaxOverTime(torch.autograd.Function):
    """(words, *weights) -> pooled (B, C), positions of the maxima (B, C) int64."""

    @staticmethod
    def forward(words: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        taps = _Taps(weights)
        slices, buffer = _blocks(words, taps)
        pooled = words.new_empty(len(words), taps.columns)
        positions = torch.empty(pooled.shape, dtype=torch.int64)
        for rows in slices:
            torch.max(_scores(words, taps, rows, buffer, add=False), 1, out=(pooled[rows], positions[rows]))
        return taps.from_columns(pooled), taps.from_columns(positions)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])
        ctx.save_for_forward(*inputs, output[1])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        words, *weights, positions = ctx.saved_tensors
        words_tangent, *weight_tangents = tangents
        changes = [torch.zeros_like(w) if t is None else t for w, t in zip(weights, weight_tangents, strict=True)]
        taps, change = _Taps(weights), _Taps(changes)
        slices, buffer = _blocks(words, taps)
        where = taps.to_columns(positions)
        result = words.new_empty(where.shape)
        for rows in slices:
            scores = _scores(words, change, rows, buffer, add=False)
            if words_tangent is not None:
                scores = _scores(words_tangent.contiguous(), taps, rows, buffer, add=True)
            result[rows] = scores.gather(1, where[rows].unsqueeze(1)).squeeze(1)
        return taps.from_columns(result), None

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        words, *weights, positions = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the result will be differentiated once more
            return _differentiable(words, weights, positions, gradient, ctx.needs_input_grad)
        taps = _Taps(weights)
        where, amount = taps.to_columns(positions), taps.to_columns(gradient)
        words_gradient = _words_gradient(words, taps, where, amount) if ctx.needs_input_grad[0] else None
        needed = any(ctx.needs_input_grad[1:])
        weight_gradients = _weight_gradients(words, weights, taps, where, amount) if needed else [None] * len(weights)
        return words_gradient, *weight_gradients


def _weight_gradients(
    words: Tensor, weights: Sequence[Tensor], taps: _Taps, where: Tensor, amount: Tensor
) -> list[Tensor]:
    documents, padded, width = words.shape
    # row of the flat words that each (column, document) won at, one bag per column
    rows = (where + torch.arange(documents).unsqueeze(1) * padded + taps.margin).t().contiguous()
    shares = amount.t().contiguous()
    flat = words.view(-1, width)
    gradients = {}
    for offset, matrix in taps.matrices:
        used = matrix.shape[1]
        gradients[offset] = F.embedding_bag(rows[:used] + offset, flat, per_sample_weights=shares[:used], mode="sum")
    return taps.to_weights(gradients, weights)


def _words_gradient(words: Tensor, taps: _Taps, where: Tensor, amount: Tensor) -> Tensor:
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
    place = ordered + torch.arange(documents).unsqueeze(1) * length
    before = torch.bincount(place.view(-1), minlength=documents * length).cumsum(0)
    starts = F.pad(before, (1, 0))
    result = torch.zeros_like(words)
    step = max(1, BLOCK_BYTES // (length * span * width * words.element_size()))
    for first in range(0, documents, step):
        last = min(first + step, documents)
        bags = starts[first * length : last * length] - starts[first * length]
        sums = F.embedding_bag(
            columns[first:last].reshape(-1),
            table,
            bags,
            per_sample_weights=shares[first:last].reshape(-1),
            mode="sum",
        ).view(last - first, length, span, width)
        for slot in range(span):
            result[first:last, slot : slot + length] += sums[:, :, slot]
    return result


def _differentiable(
    words: Tensor, weights: Sequence[Tensor], positions: Tensor, gradient: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients by autograd through the dense formula at the winning positions, with a graph of their own."""
    parts = torch.split(positions, [weight.shape[0] for weight in weights], dim=1)
    scores = _dense_scores(words, weights)
    pooled = torch.cat(
        [score.gather(2, part.unsqueeze(2)).squeeze(2) for score, part in zip(scores, parts, strict=True)], dim=1
    )
    inputs = [tensor for tensor, wanted in zip((words, *weights), needed, strict=True) if wanted]
    found = iter(torch.autograd.grad(pooled, inputs, gradient, create_graph=True))
    return tuple(next(found) if wanted else None for wanted in needed)
