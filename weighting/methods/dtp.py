"""Dynamic task prioritisation (DTP; Guo, Haque, Huang, Yeung and Fei-Fei, ECCV 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.checks import check_choice, check_least, require
from lossrag.weighting.base import WEIGHTINGS, Needs, Signals, State, Weighting

EPSILON = 1e-3
"""Distance that a performance indicator keeps from 0, where log kappa ends, and from 1, where the weight does."""


@WEIGHTINGS.register("dtp")
@dataclass(frozen=True)
class DTP(Weighting):
    """w_t = -(1 - kappa_t)^gamma log kappa_t (T,): a task that is done badly weighs more.

    Source: "Dynamic Task Prioritization for Multitask Learning", its task level. kappa_t, the key performance
    indicator, is the moving average of the scores on the support batches.

    alpha: in (0, 1], the share of the newest batch in the average; 1 keeps no average. The first batch starts it.
    gamma: >= 0; the larger, the less a task counts that is done well. One for all tasks (paper: one for each).
    scale: ``sum`` divides by the mean, so that the weights have sum T; ``paper`` leaves the formula as it is: all
        weights fall towards 0 as the tasks are learned, and the steps with them, Adam's too, whose second moments
        remember the larger gradients of before.

    Scores are clamped to [0, 1] before they enter the average, so that an R^2 below 0, worse than the mean as a
    prediction, counts as 0; kappa is kept in [0.001, 0.999], so that no weight is infinite or 0. The focal loss of
    the paper's example level is a loss, not a weighting: it is to be chosen with the losses.

    Raises ConfigError for options out of range.

    >>> method = DTP()
    >>> signals = Signals(torch.ones(2), scores=torch.tensor([0.5, 0.9]))
    >>> weights, _ = method.weigh(method.init(2, torch.device("cpu")), signals)
    >>> [round(weight, 3) for weight in weights.tolist()]  # 0.5 log 2 to 0.1 log(10 / 9)
    [1.941, 0.059]
    """

    needs = Needs(scores=True)

    alpha: float = 0.1
    gamma: float = 1.0
    scale: str = "sum"

    def __post_init__(self) -> None:
        require(0 < self.alpha <= 1, self, f"{{alpha}} must be above 0 and at most 1, got {self.alpha}.")
        check_least(self, 0, "gamma")
        check_choice(self, "scale", ("paper", "sum"))

    def init(self, tasks: int, device: torch.device) -> State:
        """Weights 1, ``kappa`` (T,) 0 and ``seen`` (T,) no batch of any task."""
        state = super().init(tasks, device)
        kappa = torch.zeros_like(state["weights"])
        return {**state, "kappa": kappa, "seen": torch.zeros_like(kappa, dtype=torch.int64)}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """The weights (T,) with this batch in the average."""
        assert signals.scores is not None
        newest = signals.scores.to(state["kappa"].dtype).clamp(0, 1)
        share = torch.where(state["seen"] > 0, self.alpha, 1.0)
        mean = state["kappa"] + share * (newest - state["kappa"])
        kappa = mean.clamp(EPSILON, 1 - EPSILON)
        # by logarithms: a large gamma would round every weight to 0, which has no mean to divide by
        log_weights = self.gamma * (-kappa).log1p() + (-kappa.log()).log()
        weights = log_weights.exp() if self.scale == "paper" else len(kappa) * torch.softmax(log_weights, dim=0)
        return weights, {"weights": weights, "kappa": mean, "seen": state["seen"] + 1}
