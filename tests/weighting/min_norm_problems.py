"""Minimum-norm problems of every kind of trouble, and the certificate of a solution."""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = (
    "ordinary",
    "wide",
    "biased",
    "scaled",
    "low rank",
    "low rank, biased",
    "low rank, scaled",
    "duplicated",
    "opposed",
    "opposed, scaled",
    "zero row",
    "zero",
    "near parallel",
    "non-negative",
    "hypergradient",
)


def rows(kind: str, T: int, seed: int) -> Tensor:
    """D (T, d) float64 of one kind of trouble."""
    generator = torch.Generator().manual_seed(1000 * seed + T)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d = max(1, T // 2) if kind.startswith("low rank") else 20 * T if kind == "wide" else 2 * T
    D = normal(T, d)
    if "biased" in kind:
        D += 2 * normal(d)
    if kind == "duplicated":
        D = D[: (T + 1) // 2].repeat(2, 1)[:T]
    if kind.startswith("opposed") and T > 1:
        D[1] = -D[0]
    if "scaled" in kind:
        D *= 10 ** (12 * torch.rand(T, 1, generator=generator, dtype=torch.float64) - 6)
    if kind == "zero row":
        D[T // 2] = 0
    if kind == "zero":
        D *= 0
    if kind == "near parallel":
        D = 0.01 * D + normal(d)
    if kind == "non-negative":
        D.clamp_(min=0)
    if kind == "hypergradient":
        D = 3 * torch.eye(T, dtype=torch.float64) + normal(T, T) / 2 + normal(T, 1) * normal(T)
    return D


def gram(D: Tensor) -> Tensor:
    return D @ D.mT


def assert_on_simplex(weights: Tensor) -> None:
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))


def assert_optimal(B: Tensor, lam: Tensor) -> None:
    """(B lam)_i >= f for every i: to 1e-9 of f itself, or as closely as float64 can know (B lam)_i."""
    q = B @ lam
    s = B.diagonal().sqrt()
    f = lam @ q
    assert ((f - q) <= 1e-9 * f + 1e-12 * s * (s @ lam)).all()
