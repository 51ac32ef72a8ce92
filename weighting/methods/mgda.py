"""MGDA: the multiple-gradient descent algorithm (Désidéri 2012; Sener and Koltun, NeurIPS 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.checks import check_choice
from lossrag.weighting.base import WEIGHTINGS, Needs, Signals, State, Weighting
from lossrag.weighting.min_norm.frank_wolfe import frank_wolfe

NORMALIZATIONS = ("none", "l2", "loss", "loss+")


@WEIGHTINGS.register("mgda")
@dataclass(frozen=True)
class MGDA(Weighting):
    """The shortest vector in the convex hull of the T task gradients, w = T lambda* (T,), as the update.

    Source: Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", Eq. 3, solved exactly instead of by
    their Algorithm 2. It concerns the shared parameters; task-specific ones get their own task's gradient unweighted.

    normalization: what each gradient is divided by before lambda is sought, as in the authors' code: ``none``, its
        length (``l2``), the task's loss (``loss``), or both (``loss+``). The update uses the gradients as they are. A
        task whose divisor is not positive stays as it is. Where the divided gradients cancel more than one lambda does
        so, with another update: which it is hangs on the order of the tasks, and on rounding.

    Raises ConfigError for an unknown normalization.

    >>> method = MGDA()
    >>> state = method.init(2, torch.device("cpu"))
    >>> B = torch.tensor([[1.0, 0.0], [0.0, 4.0]])  # orthogonal gradients weigh 1 / |g_t|^2
    >>> weights, state = method.weigh(state, Signals(torch.ones(2), B))
    >>> [round(weight, 4) for weight in weights.tolist()]
    [1.6, 0.4]
    """

    normalization: str = "none"

    def __post_init__(self) -> None:
        check_choice(self, "normalization", NORMALIZATIONS)

    @property
    def needs(self) -> Needs:
        """The Gramian of the shared parameters, which alone are weighed."""
        return Needs(gramian="shared", applies_to="shared")

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """T lambda* (T,); the state keeps the latest weights."""
        assert signals.gramian is not None
        # in the dtype of the state: divisors that differ widely would overflow that of the Gramian
        B = signals.gramian.to(state["weights"].dtype)
        losses, lengths, ones = signals.losses.to(B.dtype), B.diagonal().clamp(min=0).sqrt(), B.new_ones(len(B))
        divisors = {"none": ones, "l2": lengths, "loss": losses, "loss+": losses * lengths}[self.normalization]
        inverse = torch.where(divisors > 0, 1 / divisors, ones)
        B = inverse[:, None] * B * inverse
        weights = len(B) * frank_wolfe(B, precision=signals.gramian.dtype).weights
        return weights, {"weights": weights}
