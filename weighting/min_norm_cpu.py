"""From tensors to the NumPy solvers of weighting/active_set.py and weighting/pivoting.py, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from weighting.active_set import Limits, Vector, one_problem
from weighting.pivoting import many_problems

Found = tuple[Tensor, Tensor, Tensor]  # weights (..., T), gap (...,), iterations (...,)
INFINITY = float("inf")
TINY = float(np.finfo(np.float64).tiny)


def one(gram: Tensor, start: Tensor | None, limits: Limits) -> Found:
    """The exact solver for a single problem in NumPy: it is mostly calls, and PyTorch's cost three times as much."""
    B = gram.numpy() if gram.dtype is torch.float64 else gram.to(torch.float64).numpy()
    with np.errstate(all="ignore"):  # NaN and infinity are answered for by the gap
        lam, solves = one_problem(B, None if start is None else start.to(torch.float64).numpy(), limits)
        total = np.add.reduce(lam)
        lam = lam / total if 0 < total < INFINITY else np.full(len(lam), 1 / len(lam))
        weights = torch.from_numpy(lam)
        if gram.dtype is not torch.float64:
            weights, lam = _rounded(weights, gram.dtype)
        q = B @ lam
        q -= np.minimum.reduce(q)
        gap = torch.from_numpy(np.array(lam @ q / max(np.add.reduce(B.diagonal()), TINY)))
    return weights, gap.to(gram.dtype), torch.from_numpy(np.array(solves))


def many(gram: Tensor, start: Tensor | None, limits: Limits) -> Found:
    """The exact solver for a batch, side by side in NumPy where that is faster than one by one."""
    batch, T = gram.shape[:-2], gram.shape[-1]
    B = gram.to(torch.float64).numpy().reshape(-1, T, T)
    with np.errstate(all="ignore"):
        guess = None if start is None else start.to(torch.float64).numpy().reshape(-1, T)
        lam, solves = many_problems(B, guess, limits)
        total = np.add.reduce(lam, 1, keepdims=True)
        lam = np.where((total > 0) & (total < INFINITY), lam / total, 1 / T)
        weights = torch.from_numpy(lam)
        if gram.dtype is not torch.float64:
            weights, lam = _rounded(weights, gram.dtype)
        q = np.einsum("nij,nj->ni", B, lam)
        q -= q.min(1, keepdims=True)
        gap = torch.from_numpy((lam * q).sum(1) / np.maximum(np.einsum("nii->n", B), TINY)).to(gram.dtype)
    return weights.view(*batch, T), gap.view(batch), torch.from_numpy(solves).view(batch)


def _rounded(weights: Tensor, dtype: torch.dtype) -> tuple[Tensor, Vector]:
    """Weights in ``dtype`` that sum to 1 in it, and their values in float64."""
    weights = weights.to(dtype)
    weights = weights / weights.sum(-1, keepdim=True)
    return weights, weights.to(torch.float64).numpy()
