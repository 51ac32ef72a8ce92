"""Convolution and max over time in one piece, at about a third of the cost of the two apart.

    pooled[b, c] = max_l  sum_o  <W_c[:, o], words[b, l + o]>          o = -k//2 ... k//2 for a kernel of odd size k

Forward. Laid end to end, the padded documents are one matrix (rows, E), and the same matrix shifted by o rows is a
view of it. So all kernel sizes together are one product per offset o, added up in place: columns are ordered by kernel
size, the largest first, so that those which use offset o are a prefix. Documents go through in blocks whose scores
stay in the cache, and only the maxima and their positions ever leave it; on an accelerator, where a launch costs more
than a cache miss, in larger ones. (At the seams between documents a row mixes two of them; those rows lie beyond the
last position and are not looked at.)

Backward and in forward mode only the winning window of each (document, filter) counts, one position of L: 1/L of the
dense work (sums in models/winning_windows.py). Ties go to the first position; dense autograd shares the gradient among
them, which gives the same weight gradients, because windows that tie by having the same words are equal.

A second backward pass (create_graph=True) differentiates the dense formula at the winning positions instead.
:func:`dense` is the plain form: the oracle of the tests, and the path for everything this one does not cover (even
kernel sizes, tensors without data, other accelerators than CUDA).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

from lossrag.models.winning_windows import BLOCK_BYTES, DEVICE_BLOCK_BYTES, Taps, copy_gradients, margin, words_gradient
from lossrag.models.winning_windows import tangents as window_tangents

__all__ = ["covers", "dense", "margin", "max_over_time", "max_over_time_by_segment"]


def covers(words: Tensor, weights: Sequence[Tensor]) -> bool:
    """True where the fast path applies: real tensors on the CPU or on CUDA, and odd kernel sizes."""
    real = words.device.type in ("cpu", "cuda") and type(words) is Tensor and not torch.compiler.is_compiling()
    return real and words.numel() > 0 and all(weight.shape[-1] % 2 == 1 for weight in weights)


def max_over_time(words: Tensor, weights: Sequence[Tensor], precision: torch.dtype | None = None) -> Tensor:
    """Pooled scores (B, sum of filters), without bias: it is constant over time, so add it afterwards.

    words: (B, L + 2 m, E) with m = :func:`margin` rows of padding on both sides.
    weights: one (filters, E, kernel size) per size.
    precision: dtype of the scores, e.g. bfloat16; the result and all gradients stay in that of the words.
    """
    if not covers(words, weights):  # without the sizes of segments, which torch.export would take for constants
        dtype = precision or words.dtype
        return dense(words.to(dtype), [weight.to(dtype) for weight in weights]).to(words.dtype)
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
        parts = enumerate(torch.split(cast, list(sizes)))
        maxima = [dense(part, [copy[s].to(cast.dtype) for copy in copies]) for s, part in parts]
        return torch.cat(maxima).to(words.dtype)
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


def _scores(words: Tensor, taps: Taps, rows: slice, buffer: Tensor) -> Tensor:
    """Scores (n, L, C) of the documents ``rows``, written into ``buffer``; a view of it."""
    block = words[rows]
    documents, padded, width = block.shape
    flat = block.view(-1, width)
    count = len(flat) - 2 * taps.margin
    for number, (offset, matrix) in enumerate(taps.matrices):
        shifted = flat[taps.margin + offset : taps.margin + offset + count]
        target = buffer[:count, : matrix.shape[1]]
        if number:
            torch.addmm(target, shifted, matrix, out=target)
        else:
            torch.mm(shifted, matrix, out=target)
    scores = buffer[: documents * padded].view(documents, padded, -1)
    return scores[:, : padded - 2 * taps.margin]


def _blocks(words: Tensor, taps: Taps) -> tuple[list[slice], Tensor]:
    """The documents in blocks, and a buffer for the scores of one."""
    documents, padded, _ = words.shape
    most = BLOCK_BYTES if words.device.type == "cpu" else DEVICE_BLOCK_BYTES
    size = max(1, min(documents, most // (padded * taps.columns * words.element_size())))
    slices = [slice(start, min(start + size, documents)) for start in range(0, documents, size)]
    return slices, words.new_empty(size * padded, taps.columns)


class _MaxOverTime(torch.autograd.Function):
    """(words, (sizes, precision), *copies) -> pooled (B, C), positions of the maxima (B, C) int64."""

    @staticmethod
    def forward(words: Tensor, settings: tuple[tuple[int, ...], torch.dtype], *copies: Tensor) -> tuple[Tensor, Tensor]:
        dtype, words = words.dtype, words.to(settings[1])
        taps = Taps([copy[0].to(settings[1]) for copy in copies])
        slices, buffer = _blocks(words, taps)
        pooled = words.new_empty(len(words), taps.columns)
        positions = torch.empty(pooled.shape, dtype=torch.int64, device=words.device)
        for rows in slices:
            torch.max(_scores(words, taps, rows, buffer), 1, out=(pooled[rows], positions[rows]))
        return taps.from_columns(pooled).to(dtype), taps.from_columns(positions)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        words, (ctx.sizes, _), *copies = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # frozen words have no tangent, which is not a tangent of zeros
        ctx.save_for_backward(words, *copies, output[1])
        ctx.save_for_forward(words, *copies, output[1])

    @staticmethod
    def jvp(ctx: Any, words_tangent: Tensor | None, _: None, *tangents: Tensor | None) -> tuple[Tensor, None]:
        words, *copies, positions = ctx.saved_tensors
        changes = [torch.zeros_like(c) if t is None else t for c, t in zip(copies, tangents, strict=True)]
        taps = Taps([copy[0] for copy in copies])
        moved = [Taps([change[segment] for change in changes]) for segment in range(len(ctx.sizes))]
        where = taps.to_columns(positions)
        return taps.from_columns(window_tangents(words, words_tangent, ctx.sizes, taps, moved, where)), None

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        words, *copies, positions = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the result will be differentiated once more
            return _differentiable(words, copies, ctx.sizes, positions, gradient, ctx.needs_input_grad)
        taps = Taps([copy[0] for copy in copies])
        where, amount = taps.to_columns(positions), taps.to_columns(gradient)
        of_words = words_gradient(words, taps, where, amount) if ctx.needs_input_grad[0] else None
        needed = any(ctx.needs_input_grad[2:])
        gradients = copy_gradients(words, copies, ctx.sizes, taps, where, amount) if needed else [None] * len(copies)
        return of_words, None, *gradients


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
    parts = zip(torch.split(words, list(sizes)), torch.split(positions, list(sizes)), strict=True)
    for segment, (part, where) in enumerate(parts):
        scores = _dense_scores(part, [copy[segment] for copy in copies])
        pairs = zip(scores, torch.split(where, filters, dim=1), strict=True)
        pooled.append(torch.cat([score.gather(2, at.unsqueeze(2)).squeeze(2) for score, at in pairs], dim=1))
    wanted = [needed[0], *needed[2:]]
    inputs = [tensor for tensor, want in zip((words, *copies), wanted, strict=True) if want]
    result = iter(torch.autograd.grad(torch.cat(pooled), inputs, gradient, create_graph=True))
    first, *others = [next(result) if want else None for want in wanted]
    return first, None, *others
