"""GradNorm (Chen, Badrinarayanan, Lee and Rabinovich, ICML 2018): weights that even out the gradient norms.

G_t = w_t |g_t| is the norm of the weighted gradient, r_t the relative inverse training rate: L_t / L_t(first step),
divided by its mean over the tasks. The weights descend on sum_t |G_t - mean(G) r_t^alpha|, the target held constant
(Eq. 2), and are scaled back to the sum they had, T at first: a task that learns slowly gets a larger share of the
gradient.

Deviations. (1) g_t is the gradient with respect to all shared parameters, in the paper to the last shared layer alone,
which it takes for speed. (2) A weight that a step would take below 1e-6 stays there; the paper lets it turn negative.
(3) A norm that is its target up to the rounding of the Gramian has no slope: else rounding would part equal tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.checks import check_least, check_positive
from lossrag.weighting.base import WEIGHTINGS, Needs, Signals, State, Weighting
from lossrag.weighting.min_norm.rounding import COPIES, rounding

LEAST = 1e-6


@WEIGHTINGS.register("gradnorm")
@dataclass(frozen=True)
class GradNorm(Weighting):
    """Algorithm 1 of the paper; the weights multiply whole task losses, so heads are weighed like shared parameters.

    alpha: >= 0, how strongly slow tasks are favoured (paper: 1.5 on NYUv2); 0 asks for equal norms.
    lr: > 0, step size of the weights (paper: 0.025). The slope is |g_t|, so it has the unit of the losses.

    The state holds the next weights (T,) and the losses of the first step (T,), of the first positive one where that
    is 0. Raises ConfigError for options out of range.

    >>> method = GradNorm(lr=0.1)
    >>> state = method.init(2, torch.device("cpu"))
    >>> B = torch.diag(torch.tensor([1.0, 4.0]))  # norms 1 and 2, the mean is 1.5
    >>> _, state = method.weigh(state, Signals(torch.ones(2), B))
    >>> [round(weight, 4) for weight in state["weights"].tolist()]  # (1 + 0.1, 1 - 0.2), scaled to sum 2
    [1.1579, 0.8421]
    """

    needs = Needs(gramian="shared")

    alpha: float = 1.5
    lr: float = 0.025

    def __post_init__(self) -> None:
        check_least(self, 0, "alpha")
        check_positive(self, "lr")

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight 1, and no first losses yet (0)."""
        state = super().init(tasks, device)
        return {**state, "first_losses": torch.zeros_like(state["weights"])}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """The weights (T,) that the last step learned; the state holds those of the next one."""
        assert signals.gramian is not None
        weights = state["weights"]
        lengths = signals.gramian.diagonal().to(weights.dtype).clamp(min=0).sqrt()
        losses = signals.losses.to(weights.dtype)
        first = torch.where(state["first_losses"] > 0, state["first_losses"], losses)
        target = _targets(weights * lengths, losses, first, self.alpha)
        norms = weights * lengths
        known = COPIES * rounding(signals.gramian.dtype, len(weights)) * (norms + target)
        slope = torch.where((norms - target).abs() > known, lengths * torch.sign(norms - target), 0.0)
        moved = (weights - self.lr * slope).clamp(min=LEAST)
        # not to len(moved): where tasks are absent the others would gain or lose against them
        return weights, {"weights": moved * (weights.sum() / moved.sum()), "first_losses": first}


def _targets(norms: Tensor, losses: Tensor, first: Tensor, alpha: float) -> Tensor:
    """mean(norms) r^alpha (T,); a task without a positive first loss counts as not having learned yet."""
    rates = torch.where(first > 0, losses / first, 1.0).clamp(min=0)
    mean = rates.mean()
    relative = torch.where(mean > 0, rates / mean, torch.ones_like(rates))
    return norms.mean() * relative**alpha
