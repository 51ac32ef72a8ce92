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

BLOCK_BYTES = 2**20
"""Scores of one block of documents: about a second-level cache."""


def margin(kernel_sizes: Sequence[int]) -> int:
    """Padding rows that the words need on both sides."""
    return max(kernel_sizes) // 2


def covers(words: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether the fast path applies: real CPU tensors and odd kernel sizes."""
    real = words.device.type == "cpu" and type(words) is Tensor and not torch.compiler.is_compiling()
    return real and words.numel() > 0 and all(weight.shape[-1] % 2 == 1 for weight in weights)


def max_over_time(words: Tensor, weights: Sequence[Tensor], precision: torch.dtype | None = None) -> Tensor:
    """Pooled scores (B, sum of filters), without bias: it is constant over time, so add it afterwards.

    words: (B, L + 2 m, E) with m = :func:`margin` rows of padding on both sides.
    weights: one (filters, E, kernel size) per size.
    precision: dtype of the scores, e.g. bfloat16; the result and all gradients stay in that of the words.
    """
    return max_over_time_by_segment(words, [weight.unsqueeze(0) for weight in weights], [len(words)], precision)


def max_over_time_by_segment(
    words: Tensor, copies: Sequence[Tensor], sizes: Sequence[int], precision: torch.dtype | None = None
) -> Tensor:
    """The same for a batch of S segments, the s-th of ``sizes[s]`` documents, whose gradients are kept apart.

    copies: (S, filters, E, kernel size) per size, S times the same values (an expanded tensor costs nothing):
    the gradient of copy s is that of segment s alone, and one backward pass gives all of them.
    """
    if not covers(words, copies):
        cast = words.to(precision or words.dtype)
        parts = zip(torch.split(cast, list(sizes)), range(len(sizes)), strict=True)
        return torch.cat([dense(part, [copy[s].to(cast.dtype) for copy in copies]) for part, s in parts]).to(
            words.dtype
        )
    settings = (tuple(sizes), precision or words.dtype)
    pooled: Tensor = _MaxOverTime.apply(words.contiguous(), settings, *copies)[0]  # type: ignore[no-untyped-call]
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

    def to_copies(self, gradients: dict[int, Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        """Gradients (S, columns, E) per offset as gradients of the copies (S, filters, E, size).

        In memory they are (size, S, filters, E): what is written are long runs, several times faster than single
        entries.
        """
        shapes = [[copy.shape[3], *copy.shape[:3]] for copy in like]
        result = [copy.new_empty(shape).permute(1, 2, 3, 0) for copy, shape in zip(like, shapes, strict=True)]
        for offset, gradient in gradients.items():
            start = 0
            for i in self.order:
                if abs(offset) <= self.sizes[i] // 2:
                    result[i][..., offset + self.sizes[i] // 2] = gradient[:, start : start + self.filters[i]]
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
    """(words, (sizes, precision), *copies) -> pooled (B, C), positions of the maxima (B, C) int64."""

    @staticmethod
    def forward(words: Tensor, settings: tuple[tuple[int, ...], torch.dtype], *copies: Tensor) -> tuple[Tensor, Tensor]:
        dtype, words = words.dtype, words.to(settings[1])
        taps = _Taps([copy[0].to(settings[1]) for copy in copies])
        slices, buffer = _blocks(words, taps)
        pooled = words.new_empty(len(words), taps.columns)
        positions = torch.empty(pooled.shape, dtype=torch.int64)
        for rows in slices:
            torch.max(_scores(words, taps, rows, buffer, add=False), 1, out=(pooled[rows], positions[rows]))
        return taps.from_columns(pooled).to(dtype), taps.from_columns(positions)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        words, (ctx.sizes, _), *copies = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(words, *copies, output[1])
        ctx.save_for_forward(words, *copies, output[1])

    @staticmethod
    def jvp(ctx: Any, words_tangent: Tensor | None, _: None, *tangents: Tensor | None) -> tuple[Tensor, None]:
        words, *copies, positions = ctx.saved_tensors
        changes = [torch.zeros_like(c) if t is None else t for c, t in zip(copies, tangents, strict=True)]
        taps = _Taps([copy[0] for copy in copies])
        where, result = taps.to_columns(positions), words.new_empty(positions.shape)
        start = 0
        for segment, size in enumerate(ctx.sizes):
            change = _Taps([tangent[segment] for tangent in changes])
            part = slice(start, start + size)
            slices, buffer = _blocks(words[part], taps)
            for rows in slices:
                scores = _scores(words[part], change, rows, buffer, add=False)
                if words_tangent is not None:
                    scores = _scores(words_tangent[part].contiguous(), taps, rows, buffer, add=True)
                result[part][rows] = scores.gather(1, where[part][rows].unsqueeze(1)).squeeze(1)
            start += size
        return taps.from_columns(result), None

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        words, *copies, positions = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the result will be differentiated once more
            return _differentiable(words, copies, ctx.sizes, positions, gradient, ctx.needs_input_grad)
        taps = _Taps([copy[0] for copy in copies])
        where, amount = taps.to_columns(positions), taps.to_columns(gradient)
        words_gradient = _words_gradient(words, taps, where, amount) if ctx.needs_input_grad[0] else None
        needed = any(ctx.needs_input_grad[2:])
        gradients = _copy_gradients(words, copies, ctx.sizes, taps, where, amount) if needed else [None] * len(copies)
        return words_gradient, None, *gradients


def _copy_gradients(
    words: Tensor, copies: Sequence[Tensor], sizes: Sequence[int], taps: _Taps, where: Tensor, amount: Tensor
) -> list[Tensor]:
    documents, padded, width = words.shape
    # row of the flat words that each (document, column) won at; one bag per (segment, column)
    rows = where + torch.arange(documents).unsqueeze(1) * padded + taps.margin
    rows, shares = _by_segment(rows, sizes), _by_segment(amount, sizes)
    flat = words.view(-1, width)
    gradients = {}
    for offset, matrix in taps.matrices:
        used = matrix.shape[1]
        # entries that fill up a short segment point at row 0 with share 0, whatever the offset
        bags = (rows[:, :used] + offset).clamp_(min=0).reshape(len(sizes) * used, -1)
        sums = F.embedding_bag(
            bags, flat, per_sample_weights=shares[:, :used].reshape(len(sizes) * used, -1), mode="sum"
        )
        gradients[offset] = sums.view(len(sizes), used, width)
    return taps.to_copies(gradients, copies)


def _by_segment(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """(B, C) as (S, C, longest segment), short segments filled up with 0."""
    if len(set(sizes)) == 1:
        return values.view(len(sizes), sizes[0], -1).transpose(1, 2).contiguous()
    padded = torch.nn.utils.rnn.pad_sequence(list(torch.split(values, list(sizes))), batch_first=True)
    return padded.transpose(1, 2).contiguous()


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
    words: Tensor,
    copies: Sequence[Tensor],
    sizes: Sequence[int],
    positions: Tensor,
    gradient: Tensor,
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients by autograd through the dense formula at the winning positions, with a graph of their own."""
    filters = [copy.shape[1] for copy in copies]
    pooled = []
    for segment, (part, where) in enumerate(
        zip(torch.split(words, list(sizes)), torch.split(positions, list(sizes)), strict=True)
    ):
        scores = _dense_scores(part, [copy[segment] for copy in copies])
        found = zip(scores, torch.split(where, filters, dim=1), strict=True)
        pooled.append(torch.cat([score.gather(2, at.unsqueeze(2)).squeeze(2) for score, at in found], dim=1))
    wanted = [needed[0], *needed[2:]]
    inputs = [tensor for tensor, want in zip((words, *copies), wanted, strict=True) if want]
    result = iter(torch.autograd.grad(torch.cat(pooled), inputs, gradient, create_graph=True))
    first, *others = [next(result) if want else None for want in wanted]
    return first, None, *others
