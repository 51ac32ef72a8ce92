"""Pareto MTL (Lin, Zhen, Li, Zhang and Kwong, NeurIPS 2019): a Pareto point in the region of one preference vector.

Unit preference vectors u_1 ... u_K cut the space of the losses into regions; L lies in that of u = ``preference`` when
u . L >= u_j . L for all j (Eq. 5), i.e. when of all vectors u is the one whose direction is nearest to that of L. So a
LARGE entry lets this task's loss be large; EPO's preference (weighting/methods/epo.py) means the opposite.

1. Start (Eq. 8, 9): while constraints G_j = (u_j - u) . L > 0 are violated, the update is the shortest vector in the
   convex hull of their gradients, which lowers all of them.
2. Then (Eq. 10, 13): the shortest vector in the hull of the task gradients and the gradients of the active constraints.

Every such gradient is a combination c of the task gradients, row c of a matrix C: the Gramian of all is C B C^T, and
the update sum_i lambda_i (C G)_i is the weighted sum of the task gradients with w = lambda C. A row that does not count
is replaced by the mean of those that do, which adds nothing to their hull: no branch on data.

Deviations. (1) w is divided by sum |w| / T, as in the authors' code; it may hold negative weights: to get into its
region, a task gets worse. (2) The losses and gradients are those of a batch, as in the authors' code, so that phase 2
meets violated constraints too. (3) The authors' code gives phase 1 up to two epochs, here ``start_steps``. (4) The
shortest vector is found exactly, or as exactly as the precision of the Gramian allows: near a Pareto-stationary point
the rows of C G are differences that cancel, and what is left of them is rounding (weighting/min_norm/rounding.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lossrag.checks import check_least, check_length, check_numbers, check_share, require
from lossrag.weighting.base import WEIGHTINGS, Needs, Signals, State, Weighting
from lossrag.weighting.min_norm.frank_wolfe import frank_wolfe
from lossrag.weighting.min_norm.rounding import definite

SPREAD = 5
"""Vectors that bound the regions of two tasks by default."""


@WEIGHTINGS.register("pareto_mtl")
@dataclass(frozen=True)
class ParetoMTL(Weighting):
    """Algorithm 1 of the paper for one preference vector; theta is all of the model, heads included.

    preference: T numbers >= 0, not all 0: the direction the losses are to have. Empty: the same for all.
    others: vectors of T numbers that bound its region; empty: for T = 2 five evenly spread from (1, 0) to (0, 1), else
        the T unit vectors and the uniform one. Vectors of the direction of ``preference`` itself are left out.
    margin: in [0, 1): a constraint is active from G_j / |L| >= -margin on (epsilon of Eq. 13; authors' code: 0).
    start_steps: >= 0, at most so many steps of phase 1.

    Raises ConfigError for numbers out of range, and from :meth:`init` for vectors of another length than T.

    >>> method = ParetoMTL(preference=[1.0, 1.0], others=[[1.0, 0.0], [0.0, 1.0]])
    >>> signals = Signals(torch.tensor([4.0, 1.0]), torch.eye(2))  # too far on the side of the first task
    >>> [round(weight, 4) for weight in method.weigh(method.init(2, torch.device("cpu")), signals)[0].tolist()]
    [0.5858, -1.4142]
    """

    needs = Needs(gramian="all")  # theta is all of the model in the paper

    preference: list[float] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)  # of lists of numbers: Hydra takes no 1 for a nested float
    margin: float = 0.0
    start_steps: int = 200

    def __post_init__(self) -> None:
        check_numbers(self, "preference", self.preference, zeros=True)
        for other in self.others:
            numbers = isinstance(other, list) and all(type(value) in (int, float) for value in other)
            require(numbers, self, f"{{others}} must hold lists of numbers, got {other!r}.")
            check_numbers(self, "others", other, zeros=True)
        check_share(self, "margin")
        check_least(self, 0, "start_steps")

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight 1, and the steps that phase 1 may still take: ``starting`` () int64."""
        if self.preference:
            check_length(self, "preference", self.preference, tasks)
        for other in self.others:
            check_length(self, "others", other, tasks)
        return {**super().init(tasks, device), "starting": torch.tensor(self.start_steps, device=device)}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """w (T,) with sum |w| = T; the state keeps it, and whether phase 1 goes on."""
        assert signals.gramian is not None
        B = definite(signals.gramian)
        losses = normalize(signals.losses.to(B.dtype), dim=0)
        constraints = self.constraints(state["weights"])
        slack = constraints @ losses
        violated, active = slack > 0, slack > -self.margin
        starting = (state["starting"] > 0) & violated.any()
        tasks = torch.eye(len(B), dtype=B.dtype, device=B.device)
        counts = torch.cat([~starting.expand(len(B)), torch.where(starting, violated, active)])
        C = _filled(torch.cat([tasks, constraints]), counts)
        weights = frank_wolfe(C @ B @ C.mT, precision=signals.gramian.dtype).weights @ C
        weights = weights * (len(B) / weights.abs().sum().clamp(min=torch.finfo(B.dtype).tiny))
        left = torch.where(starting, state["starting"] - 1, 0)
        return weights, {"weights": weights, "starting": left}

    def among(self, kept: Sequence[int], tasks: int) -> ParetoMTL:
        """Vectors of these tasks alone; one that is 0 on all of them says nothing about them and is left out."""
        preference = [self.preference[t] for t in kept] if self.preference else []
        others = [vector for other in self.others if any(vector := [other[t] for t in kept])]
        if self.others and not others:
            others = [preference if any(preference) else [1.0] * len(kept)]  # its own direction bounds nothing
        return replace(self, preference=preference if any(preference) else [], others=others)

    def constraints(self, like: Tensor) -> Tensor:
        """u_j - u, one row for each other vector (J, T), all of unit length before; ``like`` (T,)."""
        # on the CPU: a comparison on the device would have to be waited for
        own = normalize(torch.tensor(self.preference or [1.0] * len(like), dtype=torch.float64), dim=0)
        others = normalize(torch.tensor(self.others or _spread(len(like)), dtype=torch.float64), dim=1)
        different = [row - own for row in others.unbind() if not torch.allclose(row, own, atol=1e-6)]
        return torch.stack(different).to(like, non_blocking=True) if different else like.new_zeros(0, len(like))


def _spread(tasks: int) -> Sequence[Sequence[float]]:
    if tasks == 2:
        angles = [math.pi / 2 * i / (SPREAD - 1) for i in range(SPREAD)]
        return [[math.cos(angle), math.sin(angle)] for angle in angles]
    return [*torch.eye(tasks).tolist(), [1.0] * tasks]


def _filled(rows: Tensor, counts: Tensor) -> Tensor:
    """Rows (K, T) with the mean of those that count (K,) bool in the place of the others."""
    share = counts.to(rows.dtype) / counts.sum()
    return torch.where(counts[:, None], rows, share @ rows)
