"""1,000 random problems against an independent exact solver: scipy's active-set non-negative least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from lossrag.weighting.min_norm.frank_wolfe import frank_wolfe

TROUBLES = (
    "ordinary",
    "rank-deficient",
    "scaled",
    "duplicated",
    "opposed",
    "rank-deficient, scaled",
    "zero row",
    "one-sided",
)


def random_rows(trouble: str, rng: np.random.Generator) -> np.ndarray:
    """D (T, d), T from 1 to 64, rows scaled by 1e-6 to 1e6 where the name says so."""
    T = int(rng.integers(1, 65))
    D = rng.normal(size=(T, max(1, T // 3) if trouble.startswith("rank") else 2 * T + 3))
    if trouble.endswith("scaled"):
        D *= 10 ** rng.uniform(-6, 6, size=(T, 1))
    if trouble in ("duplicated", "opposed"):
        D[-1] = D[0] if trouble == "duplicated" or T == 1 else -D[0]
    if trouble == "zero row":
        D[rng.integers(T)] = 0
    return np.abs(D) if trouble == "one-sided" else D


def reference(D: np.ndarray) -> np.ndarray:
    """The shortest vector of the convex hull: lam ~ argmin_{y >= 0} ||D^T y||^2 + (1^T y - 1)^2, at the scale of D."""
    shortest = np.linalg.norm(D, axis=1).min()
    matrix = np.vstack([D.T / shortest, np.ones((1, len(D)))])
    target = np.zeros(len(matrix))
    target[-1] = 1
    solution, _ = nnls(matrix, target, maxiter=100 * len(D))
    return solution / solution.sum()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_125_random_problems(trouble):
    rng = np.random.default_rng(TROUBLES.index(trouble))
    for number in range(125):
        D = random_rows(trouble, rng)
        gram = torch.tensor(D @ D.T)
        if number % 3 == 0:  # not contiguous
            gram = torch.stack([gram, gram], dim=-1)[..., 0]
        result = frank_wolfe(gram)
        lam = result.weights.numpy()
        trace = float(gram.trace())
        products = gram.numpy() @ lam
        assert (lam >= 0).all()
        assert lam.sum() == pytest.approx(1, abs=1e-12)
        assert lam @ products - products.min() <= 1e-6 * trace
        assert float(result.gap) <= 1e-12
        if trouble == "zero row":
            assert lam @ products <= 1e-14 * trace
            continue
        expected = np.square(reference(D) @ D).sum()
        found = np.square(lam @ D).sum()
        assert found <= expected * (1 + 1e-9) + 1e-12 * np.square(D).sum(axis=1).min()
