"""Step record: all that one step reports, and the only thing that loggers, checkpoints and figures read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag.errors import DivergedError


@dataclass(frozen=True)
class StepRecord:
    """The signals and decisions of one step, detached and on the device they were made on.

    support_losses (T,) at the old point; weights (T,) used for the update; next_weights (T,) after the outer
    step. With an outer problem: query_losses (T,) at the new point, hypergradient D (T, T), lam (T,),
    direction d_c (T,), gap () relative, iterations (). On demand (``MultiTaskStep.keep_query_gradient``):
    query_gradient, the mean over the tasks of the gradients of the query losses, per parameter and in its shape.
    """

    step: int
    tasks: tuple[str, ...]
    support_losses: Tensor
    weights: Tensor
    next_weights: Tensor
    query_losses: Tensor | None = None
    hypergradient: Tensor | None = None
    lam: Tensor | None = None
    direction: Tensor | None = None
    gap: Tensor | None = None
    iterations: Tensor | None = None
    query_gradient: tuple[Tensor, ...] | None = None

    def check(self) -> None:
        """Raise DivergedError, naming the tasks, when a loss or a weight is not finite (reads the device)."""
        for what, values in (
            ("support loss", self.support_losses),
            ("query loss", self.query_losses),
            ("task weight", self.next_weights),
        ):
            if values is None:
                continue
            bad = (~torch.isfinite(values)).nonzero().flatten().tolist()
            if bad:
                named = ", ".join(f"{self.tasks[t]} ({float(values[t])})" for t in bad)
                raise DivergedError(
                    f"Step {self.step}: the {what} is not finite for {named}. Lower the learning rate or alpha, "
                    "or look for bad inputs of that task; the last good checkpoint was kept."
                )
