"""The hypergradient in O(d) memory: support gradients are computed again, one at a time, instead of being held.

    for every task j:   theta <- theta^{k-1},  s_j = grad L_j^s,  theta <- theta^k
                                        D[t, j] = -(1/T) <factor * grad L_t^q(theta^k), s_j> for all t: one query pass

It costs one more support pass and T query passes instead of one. Passes are repeated with the random numbers they had
the first time (dropout masks, say), so D is the same; what a pass changes besides (running statistics of a
normalisation, generators of one's own) is changed again by every repetition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.weighting.base import HypergradientSpec
from lossrag.weighting.closures import Closure, Losses, TaskGroup
from lossrag.weighting.gradients.passes import Passes
from lossrag.weighting.gradients.rows import Factor, GradientRows, TaskGradients

RandomState = list[Tensor]


@dataclass
class Replay:
    """The support losses of one step, ready to be differentiated again at the parameters they had."""

    parameters: Sequence[Tensor]
    losses: Losses
    _states: dict[int, RandomState] = field(default_factory=dict)
    _values: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check(self.losses)
        self._values = [parameter.detach().clone() for parameter in self.parameters]

    def recording(self) -> Losses:
        """The same losses; the random state before each is remembered as they are called."""
        if callable(self.losses):
            joint = self.losses

            def call() -> Sequence[Tensor]:
                self._states[0] = _random_state(self.parameters)
                return joint()

            return call
        return [self._record(task, _closure(entry)) for task, entry in enumerate(self.losses)]

    def _record(self, task: int, closure: Closure) -> Closure:
        def call() -> Tensor:
            self._states[task] = _random_state(self.parameters)
            return closure()

        return call

    def gradients(self, task: int) -> TaskGradients:
        """The gradients of one task at the old parameters; parameters and random state are as before afterwards."""
        now = _random_state(self.parameters)
        self._swap()
        _set_random_state(self.parameters, self._states[0 if callable(self.losses) else task])
        loss = self.losses()[task] if callable(self.losses) else _closure(self.losses[task])()
        gradients = torch.autograd.grad(loss, list(self.parameters), allow_unused=True)
        self._swap()
        _set_random_state(self.parameters, now)
        return TaskGradients(range(task, task + 1), {i: g[None] for i, g in enumerate(gradients) if g is not None})

    def _swap(self) -> None:
        for i, parameter in enumerate(self.parameters):
            parameter.data, self._values[i] = self._values[i], parameter.data


def replayed_hypergradient(
    replay: Replay, query: Losses, passes: Passes, tasks: int, factors: Sequence[Factor], spec: HypergradientSpec
) -> tuple[Tensor, Tensor]:
    """Query losses (T,) and D (T, T) without the factor -1/T, with one support gradient held at a time."""
    _check(query)
    parameters = list(replay.parameters)
    wanted = _shared_only(replay, tasks) if spec.parameters == "shared" and tasks > 1 else None
    products = parameters[0].new_zeros(tasks, tasks)
    rows = GradientRows(parameters, tasks)
    start = _random_state(parameters)
    losses = products.new_zeros(tasks)
    for task in range(tasks):
        rows.clear()
        rows.write(_restricted(replay.gradients(task), wanted))
        _set_random_state(parameters, start)
        losses = passes.gradients(query, _adder(rows, products, factors))
    return losses, products


def _adder(rows: GradientRows, products: Tensor, factors: Sequence[Factor]) -> Callable[[TaskGradients], None]:
    def add(gradients: TaskGradients) -> None:
        products[gradients.tasks.start] += rows.inner(gradients, factors, shared=False)[0]

    return add


def _shared_only(replay: Replay, tasks: int) -> set[int]:
    """The positions of the parameters that more than one task touches."""
    touched = [position for task in range(tasks) for position in replay.gradients(task).shared]
    return {position for position in touched if touched.count(position) > 1}


def _restricted(gradients: TaskGradients, wanted: set[int] | None) -> TaskGradients:
    if wanted is None:
        return gradients
    return TaskGradients(gradients.tasks, {i: g for i, g in gradients.shared.items() if i in wanted})


def _check(losses: Losses) -> None:
    if not callable(losses) and any(isinstance(entry, TaskGroup) for entry in losses):
        raise ConfigError("memory='low' differentiates one task at a time: give one closure per task, no TaskGroup.")


def _closure(entry: Closure | TaskGroup) -> Closure:
    assert not isinstance(entry, TaskGroup)
    return entry


def _random_state(parameters: Sequence[Tensor]) -> RandomState:
    device = parameters[0].device
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(parameters: Sequence[Tensor], states: RandomState) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], parameters[0].device)
