"""MetaWeighting (Mao et al., Findings of ACL 2022): task weights learned on a held-out query split.

Problem 3 of the paper: choose w so that the query losses of ALL tasks fall after the step
theta^k = theta^{k-1} - (eta/T) sum_t w_t grad L_t^s(theta^{k-1}). Row t of the hypergradient D is
d L_t^q(theta^k) / d w (Eq. 10). The common descent direction d_c = lambda* D is the shortest vector in the
convex hull of the rows (Eq. 11, 12), and w moves against it (Eq. 13).

Deviations from the paper are options, all off by default: ``scale``, ``inner``, ``constraint``,
``parameters`` and ``solver`` (see docs/metaweighting.md for what each does and why the paper leaves it open).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lossrag.checks import check_choice, check_least, check_positive
from lossrag.weighting.base import WEIGHTINGS, HypergradientSpec, Needs, Outer, State, Weighting
from lossrag.weighting.min_norm.frank_wolfe import frank_wolfe


@WEIGHTINGS.register("metaweighting")
@dataclass(frozen=True)
class MetaWeighting(Weighting):
    """Algorithm 1 of the paper.

    alpha: step size of the weights, > 0 (paper: 0.1 sentiment, 0.5 topic classification).
    scale: ``paper`` keeps eta/T in D, so with Adam at 1e-3 the weights barely leave 1; ``unit`` drops it.
    inner: ``sgd`` is Eq. 10 as written; ``adam`` differentiates through Adam's preconditioner.
    constraint: ``none`` as written, ``nonnegative`` clips at 0, ``simplex`` projects on {w >= 0, sum w = T}; where
        tasks are absent the sum of the others stays.
    parameters: ``all`` as written, or ``shared`` parameters only.
    solver: ``exact`` Frank-Wolfe, or ``paper``: ``iterations`` plain steps of Algorithm 2.

    Raises ConfigError for values out of range.
    """

    outer_state: ClassVar = frozenset({"lam"})

    alpha: float = 0.1
    scale: str = "paper"
    inner: str = "sgd"
    constraint: str = "none"
    parameters: str = "all"
    solver: str = "exact"
    iterations: int = 100

    def __post_init__(self) -> None:
        check_positive(self, "alpha")
        check_least(self, 1, "iterations")
        check_choice(self, "constraint", ("none", "nonnegative", "simplex"))
        check_choice(self, "solver", ("exact", "paper"))
        HypergradientSpec(self.scale, self.inner, self.parameters)

    @property
    def needs(self) -> Needs:
        """D, and nothing else: the weights of a step are those that the last one learned."""
        return Needs(losses=False, hypergradient=HypergradientSpec(self.scale, self.inner, self.parameters))

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight 1, and lam 1/T: the solver starts from the lam of the step before."""
        state = super().init(tasks, device)
        return {**state, "lam": torch.full_like(state["weights"], 1 / tasks)}

    def learn(self, state: State, hypergradient: Tensor) -> tuple[State, Outer]:
        """One outer step (Eq. 11 to 13) from D (T, T)."""
        D = hypergradient.to(state["weights"].dtype)
        limit = self.iterations if self.solver == "paper" else None
        solution = frank_wolfe(D @ D.mT, solver=self.solver, max_iterations=limit, start=state["lam"])
        direction = solution.weights @ D
        weights = _constrain(state["weights"] - self.alpha * direction, self.constraint, state["weights"].sum())
        return {"weights": weights, "lam": solution.weights}, Outer(
            solution.weights, direction, solution.gap, solution.iterations
        )


def _constrain(weights: Tensor, constraint: str, total: Tensor) -> Tensor:
    if constraint == "nonnegative":
        return weights.clamp(min=0)
    return project_simplex(weights, total) if constraint == "simplex" else weights


def project_simplex(values: Tensor, total: float | Tensor) -> Tensor:
    """Euclidean projection of (T,) on {w >= 0, sum w = total} (Duchi et al., ICML 2008, Figure 1).

    >>> import torch
    >>> project_simplex(torch.tensor([2.0, 1.0, -1.0]), total=3.0).tolist()
    [2.0, 1.0, 0.0]
    """
    ordered = values.sort(descending=True).values
    rank = ordered.new_ones(len(values)).cumsum(0)
    threshold = (ordered.cumsum(0) - total) / rank
    # The last position where the sorted value still exceeds its threshold fixes the shift; no host branch.
    last = (ordered > threshold).sum() - 1
    return (values - threshold.gather(0, last.clamp(min=0).view(1))).clamp(min=0)
