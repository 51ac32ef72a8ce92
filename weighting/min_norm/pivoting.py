"""Exact minimum-norm points of many small problems on the CPU, all at once: block principal pivoting side by side.

The problem, its scaling, its ridge and the pivoting rule are those of weighting/min_norm/masked.py. A LAPACK call on a
small matrix is mostly the price of the call, so no problem gets one of its own: arrays are (T, T, n) with the problems
last, and one NumPy call does the same elimination step in n of them. A step starts from the shortest row and the rows
that are short along it, and only problems that are not solved go on to the next.

Nothing but elementwise operations and sums over T in a fixed order touch a problem: its answer does not depend, to the
last bit, on how many neighbours it has or where it stands. The few that still cycle after ``PIVOTS`` steps are solved
one by one (weighting/min_norm/active_set.py), and so are those with rows that tie: there the solution may not be
unique, and a batch is to have the same one as its problems alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from lossrag.weighting.min_norm.active_set import TIE, ZERO, Limits, Matrix, Vector, one_problem

PIVOTS = 6
LARGEST = 16  # beyond that one problem keeps LAPACK busy by itself
NEARLY_SINGULAR = 1e-6
CHUNK = 1 << 17  # numbers of (T, T, n): a megabyte, which stays in the cache


def many_problems(B: Matrix, start: Matrix | None, limits: Limits) -> tuple[Matrix, NDArray[np.int64]]:
    """lam (N, T) up to a factor, and the number of linear solves (N,), for B (N, T, T) and start (N, T)."""
    N, T, _ = B.shape
    lam, solves = np.empty((N, T)), np.zeros(N, dtype=np.int64)
    if T == 2:
        return _segments(B), solves
    rest: Iterable[int] = range(N)
    if N > 1 and 2 < T <= LARGEST and start is None:
        size = max(1, CHUNK // T**2)
        parts = [slice(i, i + size) for i in range(0, N, size)]
        rest = [part.start + i for part in parts for i in _pivot(B[part], lam[part], solves[part], limits)]
    for i in rest:
        lam[i], solves[i] = one_problem(B[i], None if start is None else start[i], limits)
    return lam, solves


def _segments(B: Matrix) -> Matrix:
    """T = 2 in closed form, as in weighting/min_norm/active_set.py."""
    lam = np.stack((B[:, 1, 1], B[:, 0, 0]), 1)
    lam -= B[:, 0, 1:]
    np.maximum(lam, 0, out=lam)
    lam[(lam[:, 0] == 0) & (lam[:, 1] == 0)] = 1
    return lam


def _pivot(B: Matrix, lam: Matrix, solves: NDArray[np.int64], limits: Limits) -> list[int]:
    """Write the solutions of B (n, T, T) into lam (n, T), the counts into solves (n,). Returns the unsolved."""
    n, T, _ = B.shape
    square = np.diagonal(B, axis1=1, axis2=2)
    shortest = square.argmin(1)
    is_shortest = np.arange(T) == shortest[:, None]
    smallest = square[is_shortest][:, None]
    along = B[np.arange(n), shortest]
    # The shortest row alone is the answer where it is on the safe side of all others.
    vertex = (along >= smallest).all(1)
    sound = (smallest[:, 0] > 0) & ~(vertex & ((along <= smallest * (1 + TIE + 2 * limits.ridge)).sum(1) > 1))
    vertex &= sound
    lam[vertex] = is_shortest[vertex]
    go = sound & ~vertex
    rows = go.nonzero()[0]
    alone = list((~sound).nonzero()[0])
    if not len(rows):
        return alone
    support = np.ascontiguousarray(((along < smallest) | is_shortest)[rows].T)
    s = np.sqrt(np.ascontiguousarray(square[rows].T))
    C = np.ascontiguousarray(B[rows].transpose(1, 2, 0))
    C /= s[:, None]
    C /= s
    C[np.arange(T), np.arange(T)] += limits.ridge
    a = s.min(0) / s
    M = np.empty((T, T + 1, len(rows)))
    for _ in range(min(PIVOTS, limits.solves)):
        solves[rows] += 1
        z, weakest = _solve(C, a, support, M[:, :, : len(rows)])
        reached = C[:, 0] * z[0]
        for j in range(1, T):
            reached += C[:, j] * z[j]
        size = np.abs(z).sum(0)
        slack = 2 * limits.ridge * size
        # Non-finite problems never pass.
        right = (z >= 0) & (reached >= a * (1 - limits.tolerance) - slack)
        solved = right.all(0)
        unclear = (weakest < NEARLY_SINGULAR) | (slack * size > ZERO * (a * z).sum(0))
        unclear |= ((reached <= a * (1 + TIE) + slack) != support).any(0)
        alone += list(rows[solved & unclear])
        lam[rows[solved]] = (z * a)[:, solved].T
        left = (~solved).nonzero()[0]
        if not len(left):
            return alone
        rows, support = rows[left], (support == right)[:, left]
        C, a = C.take(left, 2), a[:, left]
    return alone + list(rows)


def _solve(C: Matrix, a: Matrix, support: NDArray[np.bool_], M: Matrix) -> tuple[Matrix, Vector]:
    """z (T, n) with C_FF z_F = a_F and 0 off the support F, by Gaussian elimination: C is positive definite. And the
    smallest pivot (n,), which is 1 for orthogonal rows and the ridge for dependent ones.

    M (T, T + 1, n) is room to work in. Only its upper triangle and the right-hand side in the last column are used.
    """
    T = len(a)
    inside = support.astype(np.float64)
    for i in range(T):
        # Rows and columns off the support become those of the identity.
        np.multiply(C[i, i:], inside[i:], out=M[i, i:T])
        M[i, i:T] *= inside[i]
        M[i, i] += 1 - inside[i]
    np.multiply(a, inside, out=M[:, T])
    for k in range(T - 1):
        factors = M[k, k + 1 : T] / M[k, k]
        for i in range(k + 1, T):
            M[i, i:] -= factors[i - k - 1] * M[k, i:]
    z = M[:, T].copy()
    for k in range(T - 1, -1, -1):
        for j in range(k + 1, T):
            z[k] -= M[k, j] * z[j]
        z[k] /= M[k, k]
    return z, np.diagonal(M).min(1)
