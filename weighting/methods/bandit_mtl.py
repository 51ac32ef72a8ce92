"""BanditMTL: tasks as arms of an adversarial bandit (Mao et al., ACL 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.checks import check_positive
from lossrag.weighting.base import WEIGHTINGS, Signals, State, Weighting

ROUNDS, PARTS = 12, 32
"""Each round of the search keeps one of so many parts of the interval: 60 bits, more than a double tells apart."""


@WEIGHTINGS.register("bandit_mtl")
@dataclass(frozen=True)
class BanditMTL(Weighting):
    """Mirror ascent of p (T,) towards the tasks with large losses, within a KL ball around equal shares; w = T p.

    Source: Mao, Wang, Liu, Lin and Hu, "BanditMTL: Bandit-based Multi-task Learning for Text Classification": the
    descent in theta of max_p sum_t p_t L_t over {p in the simplex: KL(p || 1/T) <= rho}, which penalises the variance
    of the task losses. One step: q_t = p_t exp(eta_p L_t), then the p of the ball with the least KL(p || q).

    rho: radius of the ball, > 0. From log T on the ball is the whole simplex: with the default nothing is projected
        for T <= 3.
    eta_p: step size of p, > 0.

    The update of theta uses p from before the step; p starts at 1/T, hence w at 1. Sum T. It is log p that is kept: a
    task that has all but lost its share can gain it back. Where tasks are absent the others share what is theirs.

    Raises ConfigError for options out of range.

    >>> method = BanditMTL(eta_p=math.log(3))
    >>> _, state = method.weigh(method.init(2, torch.device("cpu")), Signals(torch.tensor([1.0, 2.0])))
    >>> [round(weight, 4) for weight in state["weights"].tolist()]  # q ~ (3, 9)
    [0.5, 1.5]
    """

    rho: float = 1.2
    eta_p: float = 0.5

    def __post_init__(self) -> None:
        check_positive(self, "rho")
        check_positive(self, "eta_p")

    def init(self, tasks: int, device: torch.device) -> State:
        """Weights 1, and ``log_p`` (T,) those of equal shares."""
        state = super().init(tasks, device)
        return {**state, "log_p": torch.full_like(state["weights"], -math.log(tasks))}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """T p (T,) of before the step; the state holds that of after it."""
        share = state["log_p"].logsumexp(0)  # of these tasks together, below 1 where others are absent: it stays
        log_p = state["log_p"] - share
        after = project_kl_ball(log_p + self.eta_p * signals.losses.to(log_p.dtype), self.rho)
        return len(log_p) * log_p.exp(), {"weights": len(after) * after.exp(), "log_p": after + share}


def project_kl_ball(log_q: Tensor, rho: float) -> Tensor:
    """log p (T,) of the p with the least KL(p || q) among those of the simplex with KL(p || 1/T) <= rho.

    ``log_q`` (T,) need not be normalised; rho > 0. With lambda the multiplier of the constraint, p ~ q^s for
    s = 1 / (1 + lambda) in (0, 1], and KL(p || 1/T) rises with s: log s is found by bisection (into 32 parts at once),
    in a fixed number of rounds that read nothing from the device. The result is in the ball, up to rounding.

    >>> p = project_kl_ball(torch.tensor([0.9, 0.1], dtype=torch.float64).log(), rho=0.1).exp()
    >>> round(float((p * (2 * p).log()).sum()), 12)
    0.1
    """
    # the clamp turns what overflows, and a q of 0, into the largest gap there is
    log_q = (log_q - log_q.max()).clamp(min=torch.finfo(log_q.dtype).min)
    if rho >= math.log(len(log_q)):
        return torch.log_softmax(log_q, dim=0)

    def divergence(log_s: Tensor) -> Tensor:
        p = torch.softmax(log_s.exp()[:, None] * log_q, dim=1)
        entropy: Tensor = torch.special.entr(p).sum(1)
        return math.log(len(log_q)) - entropy

    high = torch.zeros_like(log_q[:1])
    # KL(p || 1/T) = int_0^s t Var_t(log q) dt <= s^2 spread^2 / 8, so that this s is always inside
    inside = (math.log(8 * rho) / 2 - (-log_q.min()).log()).clamp(max=0)
    low = torch.where(divergence(high) <= rho, high, inside)
    inner = torch.linspace(0, 1, PARTS + 1, dtype=log_q.dtype, device=log_q.device)[1:-1]
    for _ in range(ROUNDS):
        cuts = low + (high - low) * inner
        within = divergence(cuts) <= rho
        low, high = torch.where(within, cuts, low).amax(0, True), torch.where(within, high, cuts).amin(0, True)
    return torch.log_softmax(low.exp() * log_q, dim=0)
