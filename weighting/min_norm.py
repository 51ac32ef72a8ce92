"""Exact minimum-norm point of a simplex: the solver behind ``frank_wolfe(solver="exact")``.

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

A problem counts as solved only when its iterate passes the test of (1), relative to f and to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

PIVOTS = 12
INTERIOR = 30


class Iterate(NamedTuple):
    """A batch of N problems in flight. Every step maps one to the next; solved problems are left as they are.

    C (N, T, T) cosines with the ridge added; a (N, T); ridge and tolerance: floats as (N, 1);
    z (N, T) >= 0, the best point so far up to a factor; support (N, T) bool, F of the next pivot;
    w (N, T) and nu (N, 1): multipliers of the interior-point method; solved (N,) bool; iterations (N,) int64.
    """

    C: Tensor
    a: Tensor
    ridge: Tensor
    tolerance: Tensor
    z: Tensor
    support: Tensor
    w: Tensor
    nu: Tensor
    solved: Tensor
    iterations: Tensor


def solve(problem: Iterate, max_iterations: int | None, early_exit: bool) -> Iterate:
    """Run both phases. ``early_exit`` looks at the data after every step and goes on with the unsolved problems
    only, which a CPU tensor allows for free; without it a fixed number of masked steps runs, unsynchronised."""
    budget = PIVOTS + INTERIOR if max_iterations is None else max_iterations
    pivots = min(PIVOTS, budget)
    state = _advance(_pivot, problem, pivots, early_exit)
    if budget > pivots:
        state = _advance(_interior_phase(budget - pivots, early_exit), state, 1, early_exit)
    return state


def _advance(step: Callable[[Iterate], Iterate], state: Iterate, count: int, early_exit: bool) -> Iterate:
    for _ in range(count):
        if not early_exit:
            state = step(state)
            continue
        rows = (~state.solved).nonzero()[:, 0]
        if len(rows) == 0:
            break
        if len(rows) == len(state.solved):
            state = step(state)
        else:
            part = step(Iterate(*(field[rows] for field in state)))
            # C, a, ridge and tolerance do not change.
            moved = (old.index_copy(0, rows, new) for old, new in zip(state[4:], part[4:], strict=True))
            state = Iterate(*state[:4], *moved)
    return state


def _pivot(state: Iterate) -> Iterate:
    """One step of block principal pivoting: solve on the support, then exchange all that contradicts (1)."""
    C, a, support = state.C, state.a, state.support
    identity = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    inside = support.unsqueeze(-1) & support.unsqueeze(-2)
    rhs = torch.where(support, a, 0.0).unsqueeze(-1)
    # solve_ex reports failure in a tensor instead of an exception, hence without waiting for the device.
    z = torch.linalg.solve_ex(torch.where(inside, C, identity), rhs).result
    reached = (C @ z).squeeze(-1)
    z = z.squeeze(-1)
    slack = state.tolerance * a + 2 * state.ridge * z.abs().sum(-1, keepdim=True)
    # Phrased so that a NaN from a singular solve counts as a contradiction.
    right = (z >= 0) & (reached >= a - slack)
    solved = right.all(-1)
    open_ = ~state.solved
    take = (open_ & solved).unsqueeze(-1)
    return state._replace(
        z=torch.where(take, z, state.z),
        support=support ^ ~right,
        solved=state.solved | solved,
        iterations=state.iterations + open_,
    )


def _interior_phase(count: int, early_exit: bool) -> Callable[[Iterate], Iterate]:
    def phase(state: Iterate) -> Iterate:
        # u in the middle of the simplex; w and nu of the same size as C u.
        u = (1 / state.a.sum(-1, keepdim=True)).expand_as(state.a)
        z = torch.where(state.solved.unsqueeze(-1), state.z, u)
        interior = _advance(_interior, state._replace(z=z, w=u, nu=torch.zeros_like(u[:, :1])), count, early_exit)
        # An interior point carries dust on rows that should have weight 0: two pivots from its support sweep it
        # off, and make the answer as exact as that of phase 1. Where they fail the interior point stands.
        guess = interior.z > interior.w
        again = interior._replace(support=guess, solved=state.solved)
        polished = _pivot(_pivot(again))
        return polished._replace(
            solved=polished.solved | interior.solved, iterations=interior.iterations
        )

    return phase


def _interior(state: Iterate) -> Iterate:
    """One predictor-corrector step on u (in ``z``), w and nu; the residuals vanish as the steps become full."""
    C, a, u, w, nu = state.C, state.a, state.z, state.w, state.nu
    T = a.shape[-1]
    Cu = (C @ u.unsqueeze(-1)).squeeze(-1)
    dual = Cu - nu * a - w
    primal = (a * u).sum(-1, keepdim=True) - 1
    mu = (u * w).sum(-1, keepdim=True) / T
    factor = torch.linalg.cholesky_ex(C + torch.diag_embed(w / u)).L
    along = torch.cholesky_solve(a.unsqueeze(-1), factor).squeeze(-1)
    curvature = (a * along).sum(-1, keepdim=True)

    def newton(complementarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rhs = (complementarity / u - dual).unsqueeze(-1)
        du = torch.cholesky_solve(rhs, factor).squeeze(-1)
        dnu = -(primal + (a * du).sum(-1, keepdim=True)) / curvature
        du = du + dnu * along
        return du, dnu, (complementarity - w * du) / u

    du, _, dw = newton(-u * w)
    length = _longest(u, du, w, dw)
    predicted = ((u + length * du) * (w + length * dw)).sum(-1, keepdim=True) / T
    centre = (predicted / mu) ** 3 * mu
    du, dnu, dw = newton(centre - u * w - du * dw)
    length = _longest(u, du, w, dw)
    # Stay off the boundary, where w / u would end.
    length = torch.where(length < 1, 0.995 * length, length)
    u_next, w_next, nu_next = u + length * du, w + length * dw, nu + length * dnu
    # A Cholesky factor that broke down gives NaN: stop moving rather than hand it on.
    sound = (u_next.isfinite() & (u_next > 0) & (w_next > 0)).all(-1)
    go = (sound & ~state.solved).unsqueeze(-1)
    u, w, nu = torch.where(go, u_next, u), torch.where(go, w_next, w), torch.where(go, nu_next, nu)
    Cu = (C @ u.unsqueeze(-1)).squeeze(-1)
    f = (u * Cu).sum(-1, keepdim=True) / (a * u).sum(-1, keepdim=True)
    slack = state.tolerance * f.clamp(min=0) * a + 2 * state.ridge * u.sum(-1, keepdim=True)
    solved = (Cu >= f * a - slack).all(-1)
    return state._replace(
        z=u, w=w, nu=nu, solved=state.solved | solved, iterations=state.iterations + ~state.solved
    )


def _longest(u: Tensor, du: Tensor, w: Tensor, dw: Tensor) -> Tensor:
    """(N, 1): the longest step in [0, 1] that keeps u and w non-negative."""
    shrink = torch.maximum((-du / u).amax(-1, keepdim=True), (-dw / w).amax(-1, keepdim=True))
    return 1 / shrink.clamp(min=1)
