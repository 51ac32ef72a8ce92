"""Single-task learning (STL): one model per task, trained side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.weighting.base import WEIGHTINGS, Needs, Signals, State, Weighting, state_dtype


@WEIGHTINGS.register("single_task")
@dataclass(frozen=True)
class SingleTask(Weighting):
    """Every task minimises its own loss with its own parameters.

    The step minimises (1/T) sum_t w_t L_t, so w_t = T makes it sum_t L_t: on disjoint parameters that is T
    separate trainings with the same optimiser settings. The model must share nothing.

    >>> SingleTask().init(4, torch.device("cpu"))["weights"].tolist()
    [4.0, 4.0, 4.0, 4.0]
    """

    needs = Needs(shares_parameters=False)

    def init(self, tasks: int, device: torch.device) -> State:
        """Every weight T."""
        return {"weights": torch.full((tasks,), float(tasks), dtype=state_dtype(device), device=device)}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """T (T,), T being the number of tasks of this step."""
        weights = torch.full_like(state["weights"], len(state["weights"]))
        return weights, {"weights": weights}
