"""Exact minimum-norm point of one problem on the CPU: an active set that moves whole blocks of rows and never climbs.

The problem, its scaling and its ridge are those of weighting/min_norm/masked.py: find z >= 0 with C z >= a and equality
where z > 0, C (T, T) the cosines between the rows plus a ridge on the diagonal, a_i = s_min / s_i, s_i = |g_i|; then
lam ~ z a. It is the optimality condition of min q(z) = 1/2 z^T C z - a^T z over z >= 0.

The shortest row alone is often the answer, and the first step of Frank-Wolfe from it, towards the row that is shortest
along it, often the next best guess: both cost O(T) and no linear solve. Otherwise go on from there (or from the support
of an earlier solution). A point z that is the minimum of q on its own face, C_PP z_P = a_P and z_P > 0, has
q(z) = -a^T z / 2. Rows with (C z)_i < a_i would lower q. Then

1. block: let all rows enter whose shortfall is a third of the largest or more, solve on the wider face, drop all
   z_i < 0, solve again until none is left. Nothing says that this leads down, so it is kept only if a^T z grew.
2. single, otherwise: let the worst row enter alone and walk towards the minimum of the wider face; whenever a weight
   meets 0 on the way its row leaves (Wolfe, Mathematical Programming 1976; Lawson and Hanson 1974). This always leads
   down, and dependent rows never get onto one face. The next block is smaller.

q falls at every step, so no face comes back and the end is certain. Blocks make the number of solves 2 to 5 for
usual problems of any T; singles keep rank-deficient ones, where plain pivoting cycles, from going astray.

Where rows tie with those of the solution the weight is shared between all that tie, equally between equals; where the
rows cancel (f = 0) any weights that do will do, but copies of one row weigh the same there too.

Sums over many parameters are rounded more coarsely than their dtype says. Where the ridge does not cover that, C is not
definite and faces come back; and close to f = 0 the way down can be long. Either shows as more than T + ``SPARE``
solves, and frank_wolfe.py goes on with the interior point of masked.py, which is indifferent to both.

Why NumPy: one problem of T = 4 is 40 calls on 16 numbers. What counts is the price of a call, and NumPy's is a third of
PyTorch's. It also solves on the face itself, not on a masked (T, T) matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossrag.weighting.min_norm.rounding import COPIES

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

BLOCK = 1 / 3
SPARE = 30
SHARING, REPEATS = 1e-6, 5  # ridge that shares weight between rows that tie; a repetition takes off what else it does
TIE = 1e-9  # rows whose inner products with the solution agree to this count as tied
ZERO = 0.01  # of f: beyond this share of it rounding, ridge * (sum_i s_i lam_i)^2, says that the rows cancel


@dataclass(frozen=True)
class Limits:
    """``ridge`` on the diagonal of C; ``tolerance`` of (C z)_i >= a_i, relative; ``gap`` relative to trace(B) that is
    good enough, 0 for the exact answer; the most linear solves."""

    ridge: float
    tolerance: float
    gap: float
    solves: int


def one_problem(B: Matrix, start: Vector | None, limits: Limits) -> tuple[Vector, int]:
    """lam (T,) up to a factor, and the number of linear solves. All NaN if B (T, T) is seen not to be finite."""
    T = len(B)
    if T <= 2:
        return _segment(B[0, 0], B[0, 1], B[1, 1], limits.ridge) if T == 2 else np.ones(1), 0
    square = B.diagonal()
    first = square.argmin()
    if square[first] <= 0:
        return (square <= 0).astype(np.float64), 0
    enough = limits.gap * np.add.reduce(square) if limits.gap else 0.0
    # Is the shortest row on the safe side of all others?
    if (start is None and square[first] - np.minimum.reduce(B[first]) <= enough) and (
        limits.gap or np.count_nonzero(B[first] <= square[first] * (1 + TIE + 2 * limits.ridge)) == 1
    ):
        return _vertex(T, first, 1.0), 0
    s = np.sqrt(square)
    a = s[first] / s
    z = None
    if start is None:
        z, reached, cosine = _pair(B, s, a, first, limits.ridge)
        slack = 2 * limits.ridge * np.add.reduce(z)
        # of copies, or where the second row only all but ties with the first, z is rounding
        if cosine > 1 - COPIES * limits.ridge or np.minimum.reduce(z) < 0:
            z = None
        elif np.minimum.reduce(reached - a * (1 - limits.tolerance)) >= -slack and (
            limits.gap or np.count_nonzero(reached <= a * (1 + TIE) + slack) == 2
        ):
            return z * a, 0
    C = B / s[:, None] / s
    if not np.isfinite(np.add.reduce(C, None)):
        return np.full(T, np.nan), 0
    np.maximum(np.minimum(C, 1, out=C), -1, out=C)
    C.flat[:: T + 1] = 1 + limits.ridge
    face = Face(C, a, limits.solves)
    if start is not None and (start > 0).any():
        z = face.drop_negative(start > 0)
    elif z is None:
        z = _vertex(T, first, 1 / C[first, first])
    z = _descend(face, z, s, enough, limits)
    return (z if limits.gap else _even(face, _shared(face, z, limits), limits)) * a, limits.solves - face.left


def _shared(face: Face, z: Vector, limits: Limits) -> Vector:
    """The optimum z, or one that shares the weight with rows that tie with its own."""
    C, a = face.C, face.a
    rows = _tied(face, z, limits).nonzero()[0]
    if 2 * limits.ridge * np.add.reduce(z) ** 2 > ZERO * (a @ z) or len(rows) <= np.count_nonzero(z):
        return z
    # A ridge far above rounding shares evenly between equals. The inverse itself would be asymmetric by more than that.
    ridge = max(SHARING, limits.ridge**0.5)
    while len(rows):
        values, vectors = np.linalg.eigh(C[rows[:, None], rows])
        left = (ridge / (values + ridge))[:, None] ** np.arange(REPEATS)
        shared = vectors @ (np.add.reduce(left, 1) / (values + ridge) * (a[rows] @ vectors))
        if shared.min() >= 0:
            other = np.zeros(len(a))
            other[rows] = shared
            slack = 2 * limits.ridge * np.add.reduce(other)
            return other if (C @ other >= a * (1 - limits.tolerance) - slack).all() else z
        rows = rows[shared > 0]
    return z


def _even(face: Face, z: Vector, limits: Limits) -> Vector:
    """z, the weight of every row shared evenly with the copies of it."""
    near, same = COPIES * limits.ridge, 1 - COPIES * limits.ridge
    alike = same < face.C
    if np.count_nonzero(alike) == len(z):
        return z
    tied = _tied(face, z, limits) | (z > 0)
    alike &= (np.abs(face.a[:, None] - face.a) <= near * face.a) & (tied[:, None] == tied)
    even: Vector = alike @ z / np.add.reduce(alike, 1)
    return even


def _tied(face: Face, z: Vector, limits: Limits) -> NDArray[np.bool_]:
    """The rows (T,) bool that no other is shorter along z than."""
    tied: NDArray[np.bool_] = face.C @ z <= face.a * (1 + TIE) + 2 * limits.ridge * np.add.reduce(z)
    return tied


def _pair(B: Matrix, s: Vector, a: Vector, first: np.intp, ridge: float) -> tuple[Vector, Vector, float]:
    """z on the shortest row and the one that is shortest along it, in closed form; C z; the cosine between them."""
    along = B[first] / s / s[first]
    second = (a - along).argmax()
    cosine, one = max(along[second], -1.0), 1 + ridge
    spread = (one - cosine) * (one + cosine)
    z = _vertex(len(s), first, (one - cosine * a[second]) / spread)
    z[second] = (one * a[second] - cosine) / spread
    return z, z[first] * along + z[second] / s[second] * (B[second] / s) + ridge * z, cosine


def _descend(face: Face, z: Vector, s: Vector, enough: float, limits: Limits) -> Vector:
    """From z, the minimum of its face, to the minimum of all."""
    C, a, first = face.C, face.a, face.a.argmax()
    needed, share = a * (1 - limits.tolerance), BLOCK
    while face.left > 0:
        height, reached = a @ z, C @ z
        shortfall = needed - reached - 2 * limits.ridge * np.add.reduce(z)
        worst = shortfall.argmax()
        if shortfall[worst] <= 0:
            break
        # f = s_min^2 / a^T z and (B lam)_i = s_min s_i (C z)_i / a^T z at the minimum of a face.
        if enough and s[first] * (s[first] - (s * reached).min()) <= enough * height:
            break
        inside = z > 0
        if inside[worst]:
            break  # rounding alone holds it back
        wider = face.drop_negative(inside | (shortfall >= share * shortfall[worst]))
        if a @ wider <= height:
            share = (1 + share) / 2
            inside[worst] = True
            wider = face.walk(z, inside)
        z = wider
    return z


class Face:
    """Solves of C_PP z_P = a_P, and how many are ``left``."""

    def __init__(self, C: Matrix, a: Vector, solves: int) -> None:
        self.C, self.a, self.left = C, a, solves

    def solve(self, P: NDArray[np.bool_]) -> Vector:
        rows = P.nonzero()[0]
        self.left -= 1
        z = np.zeros(len(P))
        z[rows] = np.linalg.solve(self.C[rows[:, None], rows], self.a[rows])
        return z

    def drop_negative(self, P: NDArray[np.bool_]) -> Vector:
        """The minimum of the first face without a negative weight, dropping all of them at once."""
        z = self.solve(P)
        while z.min() < 0 and self.left > 0:
            z = self.solve(z > 0)
        return np.maximum(z, 0)

    def walk(self, z: Vector, P: NDArray[np.bool_]) -> Vector:
        """The minimum of the face that a straight walk from z towards that of P ends on, row after row leaving."""
        while self.left > 0:
            target = self.solve(P)
            blocked = P & (target <= 0)
            if not blocked.any():
                return target
            share = np.where(blocked, z / np.where(blocked, z - target, 1), np.inf)
            first = share.min()
            z = np.where(share > first, z + first * (target - z), 0)
            P = P & (share > first)
        return z


def _vertex(T: int, row: np.intp, value: float) -> Vector:
    z = np.zeros(T)
    z[row] = value
    return z


def _segment(b11: float, b12: float, b22: float, ridge: float) -> Vector:
    """T = 2, as in frank_wolfe.py: lam ~ (b22 - b12, b11 - b12), negative parts cut off; 1/2 each for copies."""
    lam = max(b22 - b12, 0.0), max(b11 - b12, 0.0)
    return np.array((1.0, 1.0) if max(lam) <= COPIES * ridge * max(b11, b22) else lam)
