"""The hypergradient in O(d) memory: support gradients are computed again, one at a time, instead of being held.

    for every task j:   theta <- theta^{k-1},  s_j = grad L_j^s,  theta <- theta^k
                                        D[t, j] = -(1/T) <factor * grad L_t^q(theta^k), s_j> for all t: one query pass

It costs one more support pass and T query passes instead of one. Passes are repeated with the random numbers they had
the first time (dropout masks, say), so D is the same; what a pass changes besides (running statistics of a
normalisation, generators of one's own) is changed again by every repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.weighting.base import HypergradientSpec
from lossrag.weighting.gradients.passes import Passes
from lossrag.weighting.gradients.random_state import RandomState, random_state, set_random_state
from lossrag.weighting.gradients.rows import Factor, GradientRows, TaskGradients
from lossrag.weighting.training.closures import Ordered, TaskGroup, Ungrouped, Value

T = TypeVar("T")


class Replay:
    """The support losses of one step, ready to be differentiated again at the parameters they had.

    Raises ConfigError when a closure then gives another loss than the first time: it has drawn another batch; where
    losses are ``trusted`` they are not compared, which would read them from the device.
    """

    def __init__(self, parameters: Sequence[Tensor], losses: Ordered, trusted: bool = False) -> None:
        self.parameters = parameters
        self.trusted = trusted
        self.losses = ungrouped(losses)
        self.values: list[Value] = []
        self._states: dict[int, RandomState] = {}
        self._values = [parameter.detach().clone() for parameter in parameters]

    def recording(self) -> Ungrouped:
        """The same losses; the random state before each is remembered as they are called."""
        if callable(self.losses):
            return partial(self._record, 0, self.losses)
        return [partial(self._record, task, closure) for task, closure in enumerate(self.losses)]

    def _record(self, place: int, closure: Callable[[], T]) -> T:
        self._states[place] = random_state(self.parameters)
        return closure()

    def gradients(self, task: int, wanted: set[int] | None = None) -> TaskGradients:
        """The gradients of one task at the old parameters; parameters and random state are as before afterwards.

        wanted: positions of the parameters, None for all of them.
        """
        now = random_state(self.parameters)
        self._swap()
        set_random_state(self.parameters, self._states[0 if callable(self.losses) else task])
        loss = self.losses()[task] if callable(self.losses) else self.losses[task]()
        first = None if self.trusted or not self.values else self.values[task]
        if loss is None or (first is not None and not torch.allclose(loss.detach(), first, rtol=1e-3, equal_nan=True)):
            self._swap()
            raise ConfigError(
                "memory='low' computes the support losses twice, but a closure gave another loss the second time: let "
                "it compute the losses of one and the same batch, or use memory='rows'."
            )
        gradients = torch.autograd.grad(loss, list(self.parameters), allow_unused=True)
        self._swap()
        set_random_state(self.parameters, now)
        touched = {i: g[None] for i, g in enumerate(gradients) if g is not None and (wanted is None or i in wanted)}
        return TaskGradients(range(task, task + 1), touched)

    def is_silent(self, task: int) -> bool:
        """True where the gradient of a task is 0 or absent (reads the device)."""
        return not any(bool(gradient.any()) for gradient in self.gradients(task).shared.values())

    def _swap(self) -> None:
        for i, parameter in enumerate(self.parameters):
            parameter.data, self._values[i] = self._values[i], parameter.data


def replayed_hypergradient(
    replay: Replay,
    query: Ordered,
    passes: Passes,
    factors: Sequence[Factor],
    spec: HypergradientSpec,
    present: Sequence[int],
    rows: GradientRows,
) -> tuple[list[Value], Tensor]:
    """Query losses and D (T, T) without the factor -1/T, with one support gradient of those ``present`` held at a time,
    in ``rows``."""
    query = ungrouped(query)
    parameters = list(replay.parameters)
    wanted = _shared_only(replay, present) if spec.parameters == "shared" and len(present) > 1 else None
    products = parameters[0].new_zeros(rows.tasks, rows.tasks)
    add = partial(_add_products, products, rows, factors)
    start = random_state(parameters)
    losses: list[Value] = []
    for task in present:
        rows.clear()
        rows.write(replay.gradients(task, wanted))
        set_random_state(parameters, start)
        losses = passes.gradients(query, add)
    return losses, products


def _add_products(products: Tensor, rows: GradientRows, factors: Sequence[Factor], gradients: TaskGradients) -> None:
    products[gradients.tasks.start] += rows.inner(gradients, factors, shared=False)[0]


def _shared_only(replay: Replay, tasks: Sequence[int]) -> set[int]:
    """The positions of the parameters that more than one of the tasks touches."""
    touched = [position for task in tasks for position in replay.gradients(task).shared]
    return {position for position in touched if touched.count(position) > 1}


def ungrouped(losses: Ordered) -> Ungrouped:
    """Losses of which one can be had at a time; raises ConfigError for groups of tasks."""
    if callable(losses):
        return losses
    closures = [entry for entry in losses if not isinstance(entry, TaskGroup)]
    if len(closures) < len(losses):
        raise ConfigError("memory='low' differentiates one task at a time: give one closure per task, no TaskGroup.")
    return closures
