"""Tchebycheff scalarisation: the worst weighted task loss, hard (Mao et al., ACL 2020) or smooth (Lin et al., 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lossrag.checks import check_least, check_length, check_numbers, require
from lossrag.weighting.base import WEIGHTINGS, Signals, State, Weighting, numbers


@WEIGHTINGS.register("tchebycheff")
@dataclass(frozen=True)
class Tchebycheff(Weighting):
    """The gradient of max_t c_t (L_t - z_t), or of mu log sum_t exp(c_t (L_t - z_t) / mu), with weights of sum T.

    Sources: Mao, Yun, Liu and Du, "Tchebycheff Procedure for Multi-task Text Classification", without the adversarial
    part, which is a model and not a weighting; Lin et al., "Smooth Tchebycheff Scalarization", ICML 2024 (STCH).

    mu: >= 0; 0 is the hard maximum, a positive one smooths it over losses that differ by about mu.
    preference: c, T positive numbers; empty for equal ones. A larger one asks for a smaller loss.
    reference: z, T numbers, the losses that are thought to be reachable; empty for 0.

    The gradient sum_t p_t c_t grad L_t has p one-hot (hard) or p = softmax(c (L - z) / mu). Here w_t = T p_t c_t /
    sum_s p_s c_s: its direction, scaled to sum T, so that the learning rate keeps its meaning. Tasks that are tied for
    the maximum share it.

    Raises ConfigError for options out of range, and from :meth:`init`, hence before training, for lists that have not
    one entry for each task.

    >>> method = Tchebycheff()
    >>> state = method.init(3, torch.device("cpu"))
    >>> method.weigh(state, Signals(torch.tensor([0.5, 2.0, 1.0])))[0].tolist()
    [0.0, 3.0, 0.0]
    """

    mu: float = 0.0
    preference: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_least(self, 0, "mu")
        check_numbers(self, "preference", self.preference, zeros=False)
        finite = all(math.isfinite(value) for value in self.reference)
        require(finite, self, f"{{reference}} must hold finite numbers, got {list(self.reference)}.")

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight 1."""
        for option in ("preference", "reference"):
            values = getattr(self, option)
            if values:
                check_length(self, option, values, tasks)
        return super().init(tasks, device)

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """The weights (T,) at these losses; the state keeps the latest."""
        losses = signals.losses.to(state["weights"].dtype)
        preference = numbers(self.preference, losses) if self.preference else torch.ones_like(losses)
        distance = losses - numbers(self.reference, losses) if self.reference else losses
        height = preference * distance
        height = height - height.max()
        share = torch.softmax(height / self.mu, dim=0) if self.mu else (height == 0).to(height.dtype)
        pull = share * preference
        weights = len(losses) * pull / pull.sum()
        return weights, {"weights": weights}
