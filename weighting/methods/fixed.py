"""Fixed weights: given once, kept for the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from lossrag.checks import check_length, check_numbers
from lossrag.weighting.base import WEIGHTINGS, State, Weighting


@WEIGHTINGS.register("fixed")
@dataclass(frozen=True)
class Fixed(Weighting):
    """Task t weighs ``weights[t]`` >= 0 in (1/T) sum_t w_t L_t; they are used as they are, not scaled to any sum.

    Raises ConfigError for a weight that is negative or not finite, for weights that are all 0, and from :meth:`init`,
    hence before training, when there is not one for each task.

    >>> Fixed([0.5, 1.5]).init(2, torch.device("cpu"))["weights"].tolist()
    [0.5, 1.5]
    """

    weights: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_numbers(self, "weights", self.weights, zeros=True)

    def init(self, tasks: int, device: torch.device) -> State:
        """The given weights (T,)."""
        check_length(self, "weights", self.weights, tasks)
        return {"weights": super().init(tasks, device)["weights"].new_tensor(self.weights)}

    def among(self, kept: Sequence[int], tasks: int) -> Fixed:
        """The weights of these tasks; all as they are where these weigh 0, the state has the weights of a step."""
        weights = [self.weights[t] for t in kept]
        return replace(self, weights=weights) if any(weights) else self
