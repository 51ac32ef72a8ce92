"""Exact minimum-norm points of a batch, or off the CPU: ``frank_wolfe(solver="exact")`` without looking at the data.

The problem. Minimise f(lam) = lam^T B lam over the simplex, B = D D^T. It is optimal exactly when
(B lam)_i >= f(lam) for every i (the Frank-Wolfe gap f - min_i (B lam)_i is 0). Divide by f: x = lam / f satisfies

    x >= 0,   B x - 1 >= 0,   x^T (B x - 1) = 0,                                                          (1)

the optimality conditions of min 1/2 x^T B x - 1^T x over x >= 0, and lam = x / sum(x) takes any such x back.

Scale. Rows of D differ by many orders of magnitude, and no answer may depend on their units. With s_i = sqrt(B_ii),
z_i = s_i x_i, C_ij = B_ij / (s_i s_j) and a_i = 1 / s_i, (1) becomes C z >= a, z >= 0, z^T (C z - a) = 0, where C
has a unit diagonal: the matrix of cosines between the rows. a carries all of the scale, and only on the right.

Rank. When 0 lies in the convex hull (opposed or more than d rows) f = 0 and x runs to infinity; when rows repeat C is
singular. A ``ridge`` delta on the diagonal of C, just above the rounding of B, keeps x unique and finite. It moves the
objective by delta * sum_i (s_i lam_i)^2 at most: below what B itself is known to.

Two phases, both with a number of steps that does not grow with T:

1. Principal pivoting (Judice and Pires 1994; block rule of Kim and Park 2011). Guess the support F, solve C_FF z_F =
   a_F, and move every index that contradicts (1) to the other side: z_i < 0 leaves F, (C z)_i < a_i enters. Fully
   corrective Frank-Wolfe (Wolfe 1976) moves one index at a time and needs about T steps where this takes 3 to 5.
2. It can cycle when C is close to singular. What is not solved by then goes to Mehrotra's predictor-corrector
   interior-point method (Nocedal and Wright, Numerical Optimization, Algorithm 16.4) on u = s * lam,
   min 1/2 u^T C u subject to a^T u = 1, u >= 0, which is indifferent to rank and takes 7 to 18 steps.

A problem counts as solved only when its iterate passes the test of (1), relative to f and to rounding. All problems
take all steps, the solved ones without effect, so that host and device never wait for each other and everything traces
without data. One problem on the CPU, where looking costs nothing, has a shorter way (weighting/min_norm/active_set.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lossrag.weighting.min_norm.rounding import COPIES

PIVOTS = 12
INTERIOR = 30
MAX_ITERATIONS = PIVOTS + INTERIOR


@dataclass(frozen=True)
class Settings:
    """``ridge`` on the diagonal of C; ``tolerance`` of the optimality test, relative to f; the number of steps."""

    ridge: float
    tolerance: float
    steps: int


class Iterate(NamedTuple):
    """N problems in flight. A step maps one to the next and leaves the solved problems as they are.

    C (N, T, T) cosines plus ridge; a (N, T); z (N, T) the best point so far, up to a factor; support (N, T) bool, F
    of the next pivot; w (N, T), nu (N, 1) multipliers of phase 2; solved (N,) bool; iterations (N,) int64.
    """

    C: Tensor
    a: Tensor
    z: Tensor
    support: Tensor
    w: Tensor
    nu: Tensor
    solved: Tensor
    iterations: Tensor


def masked(B: Tensor, start: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    """lam (N, T) up to a factor, and the steps (N,) until the optimality test held, for B (N, T, T)."""
    square = B.diagonal(dim1=-2, dim2=-1)
    zero = square <= 0
    any_zero = zero.any(-1)
    s = square.masked_fill(zero, 1.0).sqrt()
    C = B / s.unsqueeze(-1) / s.unsqueeze(-2)
    C.diagonal(dim1=-2, dim2=-1).add_(settings.ridge)
    a = s.amin(-1, keepdim=True) / s
    support = torch.ones_like(zero) if start is None else start.detach().reshape(zero.shape) > 0
    iterations = torch.zeros_like(any_zero, dtype=torch.int64)
    state = Iterate(C, a, z=a, support=support, w=a, nu=a.narrow(-1, 0, 1), solved=any_zero, iterations=iterations)
    pivots = min(PIVOTS, settings.steps)
    for _ in range(pivots):
        state = _pivot(state, settings)
    if settings.steps > pivots:
        state = _interior_phase(state, settings.steps - pivots, settings)
    z = _even(C, a, state.z.clamp(min=0), settings)
    return torch.where(any_zero.unsqueeze(-1), zero, z * a), state.iterations


def _even(C: Tensor, a: Tensor, z: Tensor, settings: Settings) -> Tensor:
    """z (N, T), the weight of every row shared evenly with the copies of it (weighting/min_norm/active_set.py)."""
    near, same = COPIES * settings.ridge, 1 - COPIES * settings.ridge
    reached = torch.bmm(C, z.unsqueeze(-1)).squeeze(-1)
    f = (z * reached).sum(-1, keepdim=True) / (a * z).sum(-1, keepdim=True)
    slack = settings.tolerance * f * a + 2 * settings.ridge * z.sum(-1, keepdim=True)
    tied = (z > 0) | (reached <= f * a + slack)
    alike = (same < C) & ((a.unsqueeze(-1) - a.unsqueeze(-2)).abs() <= near * a.unsqueeze(-1))
    shares = (alike & tied.unsqueeze(-1) & tied.unsqueeze(-2)).to(z.dtype)
    count = shares.sum(-1)
    return torch.where(count > 1, torch.bmm(shares, z.unsqueeze(-1)).squeeze(-1) / count, z)


def _pivot(state: Iterate, settings: Settings) -> Iterate:
    """One step of block principal pivoting: solve on the support, then exchange all that contradicts (1)."""
    # The rows and columns outside the support become those of the identity: z is 0 there, and shapes stay fixed.
    inside = state.support.to(state.a.dtype)
    system = state.C * inside.unsqueeze(-1)
    system.mul_(inside.unsqueeze(-2)).diagonal(dim1=-2, dim2=-1).add_(1 - inside)
    # cholesky_ex reports failure in a tensor, not by an exception, hence without waiting for the device. Factor and
    # two substitutions take a third of the time of linalg.solve for a batch of small problems and at T = 256.
    factor, info = torch.linalg.cholesky_ex(system)
    half = torch.linalg.solve_triangular(factor, (state.a * inside).unsqueeze(-1), upper=False)
    column = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    z, reached = column.squeeze(-1), torch.bmm(state.C, column).squeeze(-1)
    rounding = torch.linalg.vector_norm(z, 1, -1, keepdim=True)
    needed = torch.sub(state.a * (1 - settings.tolerance), rounding, alpha=2 * settings.ridge)
    # Phrased so that the NaN of a failed solve counts as a contradiction.
    right = (z >= 0) & (reached >= needed)
    return state._replace(
        z=torch.where(state.solved.unsqueeze(-1), state.z, z),
        support=state.support == right,
        solved=state.solved | (right.all(-1) & (info == 0)),
        iterations=state.iterations + state.solved.logical_not(),
    )


def _interior_phase(state: Iterate, count: int, settings: Settings) -> Iterate:
    """Up to ``count`` interior-point steps, then two pivots from the support they found.

    An interior point leaves dust on rows whose weight is 0: the pivots sweep it off and make the answer as exact as
    that of phase 1. Where they fail the interior point stands.
    """
    # u in the middle of the simplex; w of the same size as C u.
    middle = torch.ones_like(state.a) / state.a.sum(-1, keepdim=True)
    start = state._replace(z=middle, w=middle, nu=torch.zeros_like(middle.sum(-1, keepdim=True)))
    end = start
    for _ in range(count):
        end = _interior(end, settings)
    swept = _pivot(end._replace(support=end.z > end.w, solved=state.solved), settings)
    swept = _pivot(swept, settings)
    pivoted = (swept.solved & state.solved.logical_not()).unsqueeze(-1)
    z = torch.where(state.solved.unsqueeze(-1), state.z, torch.where(pivoted, swept.z, end.z))
    return end._replace(z=z, solved=end.solved | swept.solved)


def _interior(state: Iterate, settings: Settings) -> Iterate:
    """One predictor-corrector step on u (the field z), w and nu: C u - nu a = w, a^T u = 1, u w = centre."""
    C, a, u, w, nu = state.C, state.a, state.z, state.w, state.nu
    T = a.shape[-1]
    dual = torch.bmm(C, u.unsqueeze(-1)).squeeze(-1) - nu * a - w
    primal = (a * u).sum(-1, keepdim=True) - 1
    mu = (u * w).sum(-1, keepdim=True) / T
    factor = torch.linalg.cholesky_ex(C + torch.diag_embed(w / u)).L
    along = torch.cholesky_solve(a.unsqueeze(-1), factor).squeeze(-1)
    curvature = (a * along).sum(-1, keepdim=True)

    def newton(complementarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        du = torch.cholesky_solve((complementarity / u - dual).unsqueeze(-1), factor).squeeze(-1)
        dnu = -(primal + (a * du).sum(-1, keepdim=True)) / curvature
        du = du + dnu * along
        return du, dnu, (complementarity - w * du) / u

    du, dnu, dw = newton(-u * w)
    length = _longest(u, du, w, dw)
    predicted = ((u + length * du) * (w + length * dw)).sum(-1, keepdim=True) / T
    centre = (predicted / mu) ** 3 * mu
    du, dnu, dw = newton(centre - u * w - du * dw)
    # Stay off the boundary: the next step divides by u.
    length = _longest(u, du, w, dw, share=0.995)
    u_next, w_next, nu_next = u + length * du, w + length * dw, nu + length * dnu
    # A Cholesky factor that broke down gives NaN: stand still rather than hand it on.
    sound = ((u_next > 0) & (w_next > 0) & u_next.isfinite() & w_next.isfinite()).all(-1)
    go = (sound & state.solved.logical_not()).unsqueeze(-1)
    u, w, nu = torch.where(go, u_next, u), torch.where(go, w_next, w), torch.where(go, nu_next, nu)
    # Condition (1) for a point that need not satisfy C u = f a anywhere: (B lam)_i >= f, times s_i.
    reached = torch.bmm(C, u.unsqueeze(-1)).squeeze(-1)
    f = (u * reached).sum(-1, keepdim=True) / (a * u).sum(-1, keepdim=True)
    slack = settings.tolerance * f.clamp(min=0) * a + 2 * settings.ridge * u.sum(-1, keepdim=True)
    solved = state.solved | (reached >= f * a - slack).all(-1)
    iterations = state.iterations + state.solved.logical_not()
    return state._replace(z=u, w=w, nu=nu, solved=solved, iterations=iterations)


def _longest(u: Tensor, du: Tensor, w: Tensor, dw: Tensor, share: float = 1.0) -> Tensor:
    """(N, 1): the longest step in [0, 1] that takes no u or w further than ``share`` of its way to 0."""
    shrink = torch.maximum((-du / u).amax(-1, keepdim=True), (-dw / w).amax(-1, keepdim=True))
    return share * shrink.clamp(min=share).reciprocal()
