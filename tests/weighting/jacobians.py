"""Gradients (T, d) of chosen rank and kind of stationarity, after the samplers of TorchJD's tests.

Stationary: some v >= 0, not 0, with v G = 0: no direction lowers all losses. Strongly: some such v > 0.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

STATIONARY = ("strong", "weak")
KINDS = ("normal", *STATIONARY, "descending", "copies", "duplicated", "zero row", "zero", "opposed", "scaled")


def normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def complement(Q: Tensor, generator: Generator) -> Tensor:
    """Orthonormal columns (T, T - k) orthogonal to those of Q (T, k)."""
    A = normal(generator, len(Q), len(Q) - Q.shape[1])
    for _ in range(2):
        A = A - Q @ (Q.mT @ A)
    return torch.linalg.qr(A)[0]


def of_rank(U: Tensor, rank: int, d: int, generator: Generator) -> Tensor:
    """U S V^T with the first columns of U."""
    V = complement(torch.zeros(d, 0, dtype=torch.float64), generator)
    return U[:, :rank] * normal(generator, rank).abs() @ V[:rank]


def sample(kind: str, tasks: int, rank: int, d: int, generator: Generator) -> Tensor:
    """G (T, d) float64, T >= 2, 1 <= rank <= T <= d."""
    positive = normal(generator, tasks).abs() + 0.01
    if kind == "strong":  # orthogonal to a positive vector
        return of_rank(complement(normalize(positive, dim=0)[:, None], generator), min(rank, tasks - 1), d, generator)
    if kind == "weak":  # orthogonal to v, and another non-negative vector is singular with a positive value
        order = torch.randperm(tasks, generator=generator)
        cut = int(torch.randint(1, tasks, (), generator=generator))
        v, other = torch.zeros(2, tasks, dtype=torch.float64)
        v[order[:cut]], other[order[cut:]] = positive[order[:cut]], positive[order[cut:]]
        Q = torch.stack([normalize(v, dim=0), normalize(other, dim=0)], dim=1)
        return of_rank(torch.cat([Q[:, 1:], complement(Q, generator)], dim=1), min(rank, tasks - 1), d, generator)
    if kind == "descending":  # a positive vector is singular with a positive value: no v >= 0 is orthogonal to it
        Q = normalize(positive, dim=0)[:, None]
        return of_rank(torch.cat([Q, complement(Q, generator)], dim=1), rank, d, generator)
    if kind in ("normal", "scaled"):
        G = of_rank(complement(torch.zeros(tasks, 0, dtype=torch.float64), generator), rank, d, generator)
        spread = 16 * torch.rand(tasks, 1, generator=generator, dtype=torch.float64) - 8
        return G if kind == "normal" else G * 10**spread
    if kind == "copies":
        return normal(generator, 1, d).repeat(tasks, 1)
    G = normal(generator, tasks, d)
    if kind == "duplicated":
        G = G[: (tasks + 1) // 2].repeat(2, 1)[:tasks]
    if kind == "zero row":
        G[tasks // 2] = 0
    if kind == "opposed":
        G[1] = -G[0]
    return G * 0 if kind == "zero" else G


def jacobian(kind: str, seed: int) -> Tensor:
    """One of a kind, of 2 to 20 tasks and of any rank."""
    generator = torch.Generator().manual_seed(seed)
    tasks = int(torch.randint(2, 21, (), generator=generator))
    rank = int(torch.randint(1, tasks + 1, (), generator=generator))
    d = int(torch.randint(tasks, 3 * tasks + 1, (), generator=generator))
    return sample(kind, tasks, rank, d, generator)


def rounded(G: Tensor, dtype: torch.dtype, units: float = 0.0, seed: int = 0) -> Tensor:
    """The Gramian in a precision, off by about so many units of its rounding, as where sums are long."""
    G = G.to(dtype)
    noise = torch.randn(2 * (len(G),), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lengths = G.double().norm(dim=1)
    off = units * torch.finfo(dtype).eps * (noise + noise.mT) / 2 * lengths * lengths[:, None]
    return ((G @ G.mT).double() + off).to(dtype)
