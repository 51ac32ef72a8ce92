"""EPO Search (Mahapatra and Rajan, ICML 2020): the Pareto point at which r_t L_t is the same for all tasks.

r = ``preference``: a LARGE entry asks for a small loss of that task (Pareto MTL's preference means the opposite). With
l_t = r_t L_t / sum_s r_s L_s, the non-uniformity mu = sum_t l_t log(T l_t) says how far away from that L is, and the
adjustments a_t = r_t (log(T l_t) - mu) point there: descending along sum_t a_t g_t lowers mu. The weights are on the
simplex and solve a linear program in B, the Gramian, with e = B a:

balance, where mu > tolerance:  max lambda . e,  (B lambda)_j >= 0 for the tasks j of the largest r_j L_j, and
    (B lambda)_j >= e_j where e_j <= 0: no task falls faster than balance asks; where no e_j > 0, all (B lambda)_j >= 0
descent, else:                  max sum_j (B lambda)_j,  all (B lambda)_j >= 0,  lambda . e >= min(0, max_j e_j)

so that in balance mode a loss may rise ("controlled ascent"), and in descent mode none does.

Deviations. (1) Formulas and modes are those of the authors' code. (2) The last constraint ("restricted" descent) can
contradict the others; that step then goes without it ("relaxed"), which always has a solution: MGDA's. (3) A share l_t
below 1e-12 counts as 1e-12, and a negative loss as 0: the logarithm asks for positive ones. (4) B is known to its
rounding only, and where gradients cancel that would rule MGDA's solution out: it is solved on the Gramian made definite
(weighting/min_norm/rounding.py).

A solution of a linear program is a corner: of copies of one gradient one may get all of the weight. Constraints of a
gradient more than 1e8 times as short as the longest are below what it resolves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lossrag.checks import check_length, check_numbers, check_positive
from lossrag.weighting.base import WEIGHTINGS, Needs, Signals, State, Weighting
from lossrag.weighting.min_norm.frank_wolfe import frank_wolfe
from lossrag.weighting.min_norm.linear_program import maximise_on_simplex
from lossrag.weighting.min_norm.rounding import definite

LEAST = 1e-12


@WEIGHTINGS.register("epo")
@dataclass(frozen=True)
class EPO(Weighting):
    """T lambda (T,), lambda of the linear program above; theta is all of the model, heads included.

    The program is solved on the CPU: a step on another device waits for the losses and the Gramian.

    preference: T positive numbers; empty: the same for all.
    tolerance: > 0, the non-uniformity below which the step descends (paper's code: 1e-4).
    relaxed: descend without the last constraint.

    Raises ConfigError for numbers out of range, and from :meth:`init` for a preference of another length than T.

    >>> method = EPO()
    >>> signals = Signals(torch.tensor([3.0, 1.0]), torch.eye(2))  # the first loss must fall alone
    >>> method.weigh(method.init(2, torch.device("cpu")), signals)[0].tolist()
    [2.0, 0.0]
    """

    needs = Needs(gramian="all")  # theta is all of the model in the paper

    preference: list[float] = field(default_factory=list)
    tolerance: float = 1e-4
    relaxed: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "preference", self.preference, zeros=False)
        check_positive(self, "tolerance")

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight 1."""
        if self.preference:
            check_length(self, "preference", self.preference, tasks)
        return super().init(tasks, device)

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """T lambda (T,); NaN when a signal is not finite, which the check of the step's record reports."""
        assert signals.gramian is not None
        B = definite(signals.gramian.cpu())
        losses = signals.losses.to("cpu", torch.float64)
        if torch.isfinite(B).all() and torch.isfinite(losses).all():
            weights = len(B) * self._solve(losses.clamp(min=0), B)
        else:
            weights = torch.full_like(losses, torch.nan)
        weights = weights.to(state["weights"])
        return weights, {"weights": weights}

    def _solve(self, losses: Tensor, B: Tensor) -> Tensor:
        B = B / B.diagonal().max().clamp(min=torch.finfo(B.dtype).tiny)
        preference = losses.new_tensor(self.preference or [1.0] * len(losses))
        mu, a = adjustments(losses, preference)
        wanted = B @ a
        if mu > self.tolerance:
            floor = torch.zeros_like(wanted)
            held = torch.ones_like(wanted, dtype=torch.bool)
            if (wanted > 0).any():
                scaled = preference * losses
                worst = scaled == scaled.max()
                held = worst | (wanted <= 0)
                floor = torch.where(worst, 0.0, wanted)
            solution = maximise_on_simplex(wanted, B[held], floor[held])
        else:
            least = wanted.max().clamp(max=0).view(1)
            restricted, none = torch.cat([B, wanted[None]]), torch.zeros_like(wanted)
            solution = None if self.relaxed else maximise_on_simplex(B.sum(0), restricted, torch.cat([none, least]))
            if solution is None:
                solution = maximise_on_simplex(B.sum(0), B, none)
        # MGDA's weights satisfy all constraints but the last of descent: only rounding can leave no other solution
        return frank_wolfe(B).weights if solution is None else solution


def adjustments(losses: Tensor, preference: Tensor) -> tuple[Tensor, Tensor]:
    """Non-uniformity mu () and adjustments a (T,) of losses (T,) >= 0 for a preference (T,) > 0.

    >>> mu, a = adjustments(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]))  # r_t L_t is 2 for both
    >>> float(mu), a.tolist()
    (0.0, [0.0, 0.0])
    """
    scaled = preference * losses
    total, tasks = scaled.sum(), len(losses)
    shares = torch.where(total > 0, scaled / total, torch.full_like(scaled, 1 / tasks)).clamp(min=LEAST)
    logs = (tasks * shares).log()
    mu = (shares * logs).sum()
    return mu, preference * (logs - mu)
