"""Step record: all that one step reports, and the only thing that loggers, checkpoints and figures read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StepRecord:
    """The signals and decisions of one step, detached and on the device they were made on.

    support_losses (T,) at the old point; weights (T,) used for the update; next_weights (T,) after the outer
    step. With an outer problem: query_losses (T,) at the new point, hypergradient D (T, T), lam (T,),
    direction d_c (T,), gap () relative, iterations (). On demand (``MultiTaskStep.keep_query_gradient``):
    query_gradient, the mean over the tasks of the gradients of the query losses, per parameter and in its shape.

    present, query_present (T,): the tasks that were in the support and in the query batch; the losses of the others are
    no numbers, their weights are those they had. skipped: why nothing was changed, None for a step that was made.
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
    present: tuple[bool, ...] = ()
    query_present: tuple[bool, ...] = ()
    skipped: str | None = None
