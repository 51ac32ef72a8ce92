"""Dynamic weight average (DWA; Liu, Johns and Davison, CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.checks import check_positive
from lossrag.weighting.base import WEIGHTINGS, Needs, Signals, State, Weighting


@WEIGHTINGS.register("dwa")
@dataclass(frozen=True)
class DWA(Weighting):
    """w = T softmax(r / temperature) (T,), r_t = L_t(e - 1) / L_t(e - 2): a task whose loss falls slowly weighs more.

    Source: "End-to-End Multi-Task Learning with Attention", Eq. 7. L_t(e) is the mean of the support losses over the
    steps of epoch e; all weights are 1 in the first two epochs and change with the epoch only. Sum T. Epochs are those
    in which the task was present.

    temperature: > 0; the larger, the nearer to equal weights (paper: 2).

    Where the paper says nothing: a task gets the ratio 1 whose loss was not positive two epochs ago, or which has not
    been there for two while others have.

    Raises ConfigError for a temperature that is not positive.

    >>> method, losses = DWA(), [[1.0, 1.0], [0.5, 1.0], [0.5, 1.0]]
    >>> state = method.init(2, torch.device("cpu"))
    >>> for epoch, values in enumerate(losses):
    ...     weights, state = method.weigh(state, Signals(torch.tensor(values), epoch=epoch))
    >>> [round(weight, 3) for weight in weights.tolist()]  # ratios 1/2 and 1
    [0.876, 1.124]
    """

    needs = Needs(epoch=True)

    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_positive(self, "temperature")

    def init(self, tasks: int, device: torch.device) -> State:
        """Weights 1; ``last`` and ``before`` (T,) are the mean losses of the last two of the ``finished`` (T,) epochs,
        ``sums`` (T,) those of the ``steps`` (T,) of the current ``epoch`` (T,) added up."""
        state = super().init(tasks, device)
        ones = state["weights"]
        zero = torch.zeros_like(ones, dtype=torch.int64)
        means = {"last": ones.clone(), "before": ones.clone(), "sums": torch.zeros_like(ones)}
        return {**state, **means, "steps": zero, "epoch": zero.clone(), "finished": zero.clone()}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """The weights (T,) of this epoch; its losses are added up for those to come."""
        # tensors instead of branches: whether the epoch is new must not be read from the device
        new = (state["epoch"] != signals.epoch) & (state["steps"] > 0)
        before = torch.where(new, state["last"], state["before"])
        last = torch.where(new, state["sums"] / state["steps"].clamp(min=1), state["last"])
        finished = state["finished"] + new
        known = finished >= 2
        ratio = torch.where(known & (before > 0), last / before, 1).clamp(max=torch.finfo(last.dtype).max)
        slow = len(ratio) * torch.softmax(ratio / self.temperature, dim=0)
        weights = torch.where(known.any(), slow, torch.ones_like(slow))
        return weights, {
            "weights": weights,
            "last": last,
            "before": before,
            "sums": torch.where(new, 0, state["sums"]) + signals.losses.to(last.dtype),
            "steps": torch.where(new, 0, state["steps"]) + 1,
            "epoch": torch.full_like(state["epoch"], signals.epoch),
            "finished": finished,
        }
