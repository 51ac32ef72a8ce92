"""The small linear programs against scipy's solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from lossrag.weighting.min_norm.linear_program import maximise_on_simplex
from lossrag.weighting.min_norm.rounding import definite
from tests.weighting.jacobians import jacobian, rounded


def problem(seed):
    """Random ones of every kind: whole numbers (many ties), badly scaled rows, homogeneous, infeasible."""
    rng = np.random.default_rng(seed)
    T, M = int(rng.integers(1, 9)), int(rng.integers(1, 11))
    c, A, b = rng.normal(size=T), rng.normal(size=(M, T)), -np.abs(rng.normal(size=M)) * rng.integers(0, 2, size=M)
    if seed % 3 == 0:
        c, A, b = np.round(c), np.round(A), np.round(b)
    if seed % 5 == 0:
        A, b = A * 10.0 ** rng.integers(-6, 7, size=(M, 1)), 0 * b
    return c, A, b


@pytest.mark.parametrize("start", range(4))
def test_against_scipy(start):
    solved = 0
    for seed in range(100 * start, 100 * start + 100):
        c, A, b = problem(seed)
        x = maximise_on_simplex(torch.tensor(c), torch.tensor(A), torch.tensor(b))
        peer = linprog(-c, A_ub=-A, b_ub=-b, A_eq=np.ones((1, len(c))), b_eq=[1], bounds=(0, None))
        assert (x is None) == (peer.status == 2), seed
        if x is None:
            continue
        solved += 1
        assert float(x.sum()) == pytest.approx(1)
        assert float(x.min()) >= 0
        size = np.maximum(np.abs(A).max(axis=1), 1e-300)
        assert ((A @ x.numpy() - b) / size).min() >= -1e-8, seed
        assert c @ x.numpy() == pytest.approx(-peer.fun, rel=1e-7, abs=1e-7), seed
    assert 30 < solved < 100


def test_no_solution():
    assert maximise_on_simplex(torch.ones(2), torch.tensor([[-1.0, -1.0]]), torch.tensor([-0.5])) is None


def test_without_constraints_the_best_vertex():
    assert maximise_on_simplex(torch.tensor([1.0, 3.0, 2.0]), torch.zeros(0, 3), torch.zeros(0)).tolist() == [0, 1, 0]


def test_all_zero():
    x = maximise_on_simplex(torch.zeros(3), torch.zeros(2, 3), torch.zeros(2))
    assert float(x.sum()) == 1


def test_rows_of_gramians_that_are_all_but_singular():
    """Weights that lower all losses (EPO's descent), where hardly any do: no constraint is traded for rounding."""
    for kind in ("strong", "weak", "duplicated", "opposed", "normal"):
        for seed in (*range(15), 49, 96):
            for dtype in (torch.float32, torch.float64):
                B = definite(rounded(jacobian(kind, seed).float().double(), dtype))
                x = maximise_on_simplex(B.sum(0), B, torch.zeros(len(B)))
                assert ((B @ x) / B.abs().amax(1)).min() >= -1e-8, (kind, seed)
