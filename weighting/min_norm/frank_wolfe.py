"""Frank-Wolfe weights of the common descent direction: lam* = argmin ||lam D||^2 over the simplex (Eq. 12).

Only B = D D^T (T, T) is needed, since ||lam D||^2 = lam^T B lam. Two solvers of the same problem:

``paper``: Algorithm 2 of Mao et al. (Findings of ACL 2022). From lam_0 = (1/T, ..., 1/T), step towards the vertex
e_v with v = argmin_i (B lam)_i. Along lam + gamma (e_v - lam) the objective is a parabola in gamma; with
f = lam^T B lam and q = B lam its minimum is at gamma = (f - q_v) / (f - 2 q_v + B_vv), clipped to [0, 1].
It converges like 1/N: after 100 steps it can be far off when the rows of D differ in size.

``exact``: the solution itself, to rounding, in a few linear solves (derivation in weighting/min_norm/masked.py; one
problem on the CPU goes to weighting/min_norm/active_set.py). This deviates from the letter of Algorithm 2, not from the
problem it is there to solve.

How good an answer is follows from convexity without knowing lam*: f(lam) - f(lam*) <= 2 (f - min_i (B lam)_i). The
``gap`` that is reported is (f - min_i (B lam)_i) / trace(B) (Jaggi, ICML 2013, Eq. 2, made free of scale).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lossrag.checks import one_of
from lossrag.errors import ConfigError
from lossrag.weighting.min_norm.active_set import SPARE, Limits, one_problem
from lossrag.weighting.min_norm.masked import MAX_ITERATIONS, Settings, masked
from lossrag.weighting.min_norm.rounding import COPIES, rounding

PAPER_ITERATIONS = 100


@dataclass(frozen=True)
class FrankWolfeResult:
    """Solution of every problem of the batch.

    weights: (..., T) lam on the simplex, in the dtype of ``gram``.
    gap: (...,) duality gap of these weights relative to trace(B), 0 at the optimum; not finite if ``gram`` is not.
    iterations: (...,) int64, steps taken; for ``exact`` those until the optimality test held (or the cap).
    """

    weights: Tensor
    gap: Tensor
    iterations: Tensor


def frank_wolfe(
    gram: Tensor,
    *,
    solver: str = "exact",
    max_iterations: int | None = None,
    tolerance: float = 1e-9,
    gap: float = 0.0,
    start: Tensor | None = None,
    precision: torch.dtype | None = None,
) -> FrankWolfeResult:
    """Weights (..., T) on the simplex that minimise lam^T B lam, for ``gram`` = B = D D^T of shape (..., T, T).

    gram: symmetric positive semi-definite up to rounding, any floating dtype, contiguous or not. Computed in float64
        wherever the device has it. The result carries no gradient.
    solver: ``exact``, or ``paper`` for Algorithm 2 with ``max_iterations`` plain steps (100 by default).
    max_iterations: of ``exact`` a cap on its linear solves. Most problems need 1 to 5 of them, whatever T; rank-
        deficient ones up to about T on the CPU, and 25 elsewhere. By default the cap is 42 elsewhere, and on the CPU
        what is not solved after T + 30 gets 42 more. A problem that meets the cap keeps its last point and says so
        through its gap.
    tolerance: of ``exact``: (B lam)_i may fall short of lam^T B lam by this fraction of it (and by rounding).
    gap: of ``exact`` on the CPU: stop early, as soon as the gap below is at most this. It is relative
        to trace(B), so that large rows can hide what happens to small ones: 0, to solve exactly, is the default.
    start: lam of an earlier, similar problem, (..., T). Its support is the first guess of ``exact``: a good one saves
        steps, a bad one costs some, the answer is the same. ``paper`` ignores it: it starts from 1/T.
    precision: the dtype that ``gram`` was computed in, where it has been converted since: no answer is finer than it.

    Rows of D that are zero have the optimum for themselves and share the weight equally; for B = 0 that makes 1/T.
    ``exact`` gives copies of one row the same weight. When B is singular the minimiser may otherwise not be unique: any
    one is returned, and which one may hang on rounding. A problem with NaN or infinite entries keeps finite weights on
    the simplex, but its gap is NaN or infinite: the fault is seen, and no other problem of the batch suffers.

    On the CPU the problems of a batch are solved one by one. Elsewhere all take a fixed number of masked steps side by
    side, without synchronising host and device.
    Raises ConfigError for shapes or options that cannot work.

    >>> D = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> frank_wolfe(D @ D.T).weights  # two orthogonal rows weigh 1 / |g_i|^2
    tensor([0.8000, 0.2000])
    """
    _check(gram, solver, max_iterations, tolerance, gap, start)
    T = gram.shape[-1]
    ridge = rounding(precision or gram.dtype, T)
    # A FakeTensor, or one that is being traced, has no data to look at, whatever its device.
    seen = gram.device.type == "cpu" and type(gram) is Tensor and not torch.compiler.is_compiling()
    if solver == "exact" and seen and len(gram):
        if gram.ndim == 2:
            limits = Limits(ridge, tolerance, gap, max_iterations or T + SPARE)
            return _one(gram.detach(), None if start is None else start.detach(), limits, max_iterations is not None)
        # one by one: a batch gets the answers of its problems alone
        starts = [None] * len(gram) if start is None else list(start)
        parts = [
            frank_wolfe(
                B, max_iterations=max_iterations, tolerance=tolerance, gap=gap, start=start, precision=precision
            )
            for B, start in zip(gram, starts, strict=True)
        ]
        columns = ([part.weights for part in parts], [part.gap for part in parts], [part.iterations for part in parts])
        return FrankWolfeResult(*map(torch.stack, columns))
    with torch.no_grad():
        B = gram.detach().reshape(-1, T, T).to(torch.float32 if gram.device.type == "mps" else torch.float64)
        iterations = torch.zeros(len(B), dtype=torch.int64, device=B.device)
        if solver == "paper":
            steps = PAPER_ITERATIONS if max_iterations is None else max_iterations
            lam, iterations = _algorithm_2(B, steps), iterations + steps
        elif T == 1:
            lam = torch.ones_like(B).squeeze(-1)
        elif T == 2:
            lam = _segment(B, ridge)
        else:
            lam, iterations = masked(B, start, Settings(ridge, tolerance, max_iterations or MAX_ITERATIONS))
        total = lam.sum(-1, keepdim=True)
        # False for NaN as well: only a non-finite B comes out uniform here.
        lam = torch.where((total > 0) & (total < torch.inf), lam / total, 1 / T).to(gram.dtype)
        if gram.dtype != B.dtype:
            lam = lam / lam.sum(-1, keepdim=True)
        batch, reached = gram.shape[:-2], _gap(B, lam.to(B.dtype)).to(gram.dtype)
    return FrankWolfeResult(lam.reshape(gram.shape[:-1]), reached.reshape(batch), iterations.reshape(batch))


def _one(gram: Tensor, start: Tensor | None, limits: Limits, capped: bool) -> FrankWolfeResult:
    """The exact solver for a single problem in NumPy: it is mostly calls, and PyTorch's cost three times as much.

    capped: whether the caller limited the solves; else a problem that meets their number is solved by masked.py.
    """
    B = gram.numpy() if gram.dtype is torch.float64 else gram.to(torch.float64).numpy()
    with np.errstate(all="ignore"):  # NaN and infinity are answered for by the gap
        lam, solves = one_problem(B, None if start is None else start.to(torch.float64).numpy(), limits)
        if solves >= limits.solves and not capped:
            settings = Settings(limits.ridge, limits.tolerance, MAX_ITERATIONS)
            found, steps = masked(torch.from_numpy(B)[None], None, settings)
            lam, solves = found[0].numpy(), solves + int(steps)
        total = np.add.reduce(lam)
        lam = lam / total if 0 < total < np.inf else np.full(len(lam), 1 / len(lam))
        weights = torch.from_numpy(lam)
        if gram.dtype is not torch.float64:
            weights = weights.to(gram.dtype)
            weights = weights / weights.sum()  # to 1 in this dtype
            lam = weights.to(torch.float64).numpy()
        q = B @ lam
        q -= np.minimum.reduce(q)
        gap = torch.from_numpy(np.array(lam @ q / max(np.add.reduce(B.diagonal()), np.finfo(np.float64).tiny)))
    return FrankWolfeResult(weights, gap.to(gram.dtype), torch.from_numpy(np.array(solves)))


def _algorithm_2(B: Tensor, steps: int) -> Tensor:
    """lam (N, T) after ``steps`` steps of Algorithm 2 on B (N, T, T)."""
    T = B.shape[-1]
    lam = torch.full_like(B.select(-1, 0), 1 / T)
    q = B.mean(-1)
    square = B.diagonal(dim1=-2, dim2=-1)
    for _ in range(steps):
        q_v, v = q.min(-1, keepdim=True)
        f = (lam * q).sum(-1, keepdim=True)
        denominator = f - 2 * q_v + square.gather(-1, v)
        # A flat parabola (lam = e_v already, or all rows equal) has nowhere to go.
        gamma = torch.where(denominator > 0, (f - q_v) / denominator, 0.0).clamp(0, 1)
        lam = ((1 - gamma) * lam).scatter_add(-1, v, gamma)
        column = B.gather(-1, v.unsqueeze(-1).expand(-1, T, 1)).squeeze(-1)
        q = q + gamma * (column - q)
    return lam


def _segment(B: Tensor, ridge: float) -> Tensor:
    """T = 2 in closed form: lam ~ (B_22 - B_12, B_11 - B_12), negative parts cut off; 1/2 each for copies of one row.

    The parabola of Algorithm 2 from e_2 towards e_1 and back; Sener and Koltun, NeurIPS 2018, Algorithm 1.
    """
    square = B.diagonal(dim1=-2, dim2=-1)
    lam = (square.flip(-1) - B.select(-1, 0).narrow(-1, 1, 1)).clamp(min=0)
    # Copies leave 0 / 0 or rounding; any weights will do, and 1/2 each is the one that favours no row.
    copies = lam.amax(-1, keepdim=True) <= COPIES * ridge * square.amax(-1, keepdim=True)
    return torch.where(copies, 1.0, lam)


def _gap(B: Tensor, lam: Tensor) -> Tensor:
    """(N,): sum_i lam_i ((B lam)_i - min_j (B lam)_j) / trace(B), which cannot turn negative by rounding."""
    q = torch.bmm(B, lam.unsqueeze(-1)).squeeze(-1)
    excess = (lam * (q - q.amin(-1, keepdim=True))).sum(-1)
    trace = B.diagonal(dim1=-2, dim2=-1).sum(-1)
    return excess / trace.clamp(min=torch.finfo(B.dtype).tiny)


def _check(
    gram: Tensor, solver: str, max_iterations: int | None, tolerance: float, gap: float, start: Tensor | None
) -> None:
    one_of("frank_wolfe: solver", solver, ("exact", "paper"))
    shape = tuple(gram.shape)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise ConfigError(
            f"frank_wolfe expects gram = D @ D.T of shape (..., T, T) with T >= 1, got {shape}: "
            "pass inner products of the T rows, not D itself."
        )
    if not gram.is_floating_point():
        raise ConfigError(f"frank_wolfe expects a floating gram, got {gram.dtype}: convert it with .to(torch.float64).")
    if max_iterations is not None and max_iterations < 1:
        raise ConfigError(f"frank_wolfe: max_iterations must be at least 1 or None, got {max_iterations}.")
    if not 0 < tolerance < 1:
        raise ConfigError(f"frank_wolfe: tolerance must lie between 0 and 1, got {tolerance}: 1e-9 is the default.")
    if not gap >= 0:
        raise ConfigError(f"frank_wolfe: gap must be 0 or more, got {gap}: 0 asks for the exact solution.")
    if start is not None and start.shape != gram.shape[:-1]:
        raise ConfigError(
            f"frank_wolfe expects start of shape {shape[:-1]}, one weight for each row of gram {shape}, "
            f"got {tuple(start.shape)}: pass the weights of an earlier result on as they are, or None."
        )
