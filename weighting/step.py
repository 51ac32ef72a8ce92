"""One training step, with any weighting method, in anybody's own loop.

The data flow (Algorithm 1): support losses -> weights -> update of theta -> query losses at the new theta
-> D -> Frank-Wolfe -> next weights. What a method does not ask for is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lossrag import ConfigError
from weighting.base import HypergradientSpec, Outer, State, Weighting
from weighting.gradient_rows import GradientRows, Gradients
from weighting.inner import check_inner, inner_factors
from weighting.losses import Losses, Rows, TaskGroup
from weighting.record import StepRecord

Take = Callable[[Sequence[int], Gradients], None]
"""Receives the gradients of some tasks with respect to some parameters."""


class MultiTaskStep:
    """A step over T tasks: call it with the support losses, and the query losses if the method learns on them.

    parameters: all that the optimiser updates and that require a gradient, shared and task-specific alike.
    tasks: their number or their names (names appear in records and errors).

    Tasks with their own inputs should be given as one closure per task: T backward passes over disjoint slices
    cost what one backward over the joint batch costs, while T passes through one retained graph cost T times
    that. Each closure is called exactly once per step.

    >>> theta = torch.zeros(2, requires_grad=True)
    >>> optimizer = torch.optim.SGD([theta], lr=0.1)
    >>> step = MultiTaskStep([theta], optimizer, Weighting(), tasks=["a", "b"])
    >>> record = step([lambda: (theta[0] - 1) ** 2, lambda: (theta[1] + 1) ** 2])
    >>> record.support_losses.tolist(), theta.tolist()
    ([1.0, 1.0], [0.10000000149011612, -0.10000000149011612])
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        optimizer: torch.optim.Optimizer,
        weighting: Weighting,
        tasks: int | Sequence[str],
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        if not self.parameters:
            raise ConfigError("MultiTaskStep: none of the parameters requires a gradient, there is nothing to train.")
        updated = {p for group in optimizer.param_groups for p in group["params"]}
        if any(p not in updated for p in self.parameters):
            raise ConfigError("MultiTaskStep: some parameters are not in the optimiser: give it the same list.")
        self.tasks = tuple(map(str, range(tasks))) if isinstance(tasks, int) else tuple(tasks)
        if not self.tasks:
            raise ConfigError("MultiTaskStep: at least one task is needed, got none.")
        self.optimizer = optimizer
        self.weighting = weighting
        self.device = self.parameters[0].device
        self.state: State = weighting.init(len(self.tasks), self.device)
        self.count = 0
        self._rows = GradientRows(self.parameters, len(self.tasks))
        self._position = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        if weighting.hypergradient is not None:
            check_inner(optimizer, weighting.hypergradient)

    @property
    def task_weights(self) -> Tensor:
        """The weights (T,) of the next step."""
        return self.state["weights"]

    @property
    def nbytes(self) -> int:
        """Bytes that the step holds beyond the optimiser: the support gradient rows."""
        return self._rows.nbytes

    def __call__(self, support: Losses, query: Losses | None = None) -> StepRecord:
        """Update the parameters once, and the task weights if the method learns them.

        Raises ConfigError when the method needs query losses and there are none, or the reverse, and when
        the losses do not match the number of tasks.
        """
        spec = self.weighting.hypergradient
        if (spec is None) != (query is None):
            need = "needs query losses: pass query=..." if query is None else "takes no query losses: leave query out"
            raise ConfigError(f"MultiTaskStep: {type(self.weighting).__name__} {need}.")
        self.count += 1
        if spec is None or query is None:
            losses, weights = self._update_joint(support)
            return StepRecord(self.count, self.tasks, losses, weights, next_weights=self.task_weights)
        losses, weights = self._update_by_rows(support)
        query_losses, D = self._hypergradient(query, spec)
        self.state, outer = self.weighting.learn(self.state, D)
        return self._record(losses, weights, query_losses, D, outer)

    def _record(self, losses: Tensor, weights: Tensor, query_losses: Tensor, D: Tensor, outer: Outer) -> StepRecord:
        return StepRecord(
            step=self.count,
            tasks=self.tasks,
            support_losses=losses,
            weights=weights,
            next_weights=self.task_weights,
            query_losses=query_losses,
            hypergradient=D,
            lam=outer.lam,
            direction=outer.direction,
            gap=outer.gap,
            iterations=outer.iterations,
        )

    def _update_joint(self, support: Losses) -> tuple[Tensor, Tensor]:
        """theta <- optimiser step on (1/T) sum_t w_t L_t, with one backward pass."""
        losses = torch.stack(self._all_losses(support))
        weights = self.weighting.weights(self.state, losses.detach())
        self.optimizer.zero_grad()
        (losses * weights.to(losses.dtype)).mean().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return losses.detach(), weights

    def _update_by_rows(self, support: Losses) -> tuple[Tensor, Tensor]:
        """The same update from the T gradient rows, which the hypergradient needs afterwards (Eq. 9)."""
        losses = self._per_task(support, self._rows.write)
        weights = self.weighting.weights(self.state, losses)
        for parameter, gradient in zip(self.parameters, self._rows.combine(weights / len(weights)), strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return losses, weights

    def _hypergradient(self, query: Losses, spec: HypergradientSpec) -> tuple[Tensor, Tensor]:
        """D[t, j] = -(1/T) <factor * grad L_t^q(theta^k), grad L_j^s(theta^{k-1})> (Eq. 10), row by row."""
        factors = inner_factors(self.optimizer, self.parameters, spec)
        divisor = 1 if spec.scale == "unit" else len(self.tasks)
        D = self.parameters[0].new_zeros(len(self.tasks), len(self.tasks))

        def add_rows(tasks: Sequence[int], gradients: Gradients) -> None:
            rows = self._rows.inner(gradients, factors, shared=spec.parameters == "shared")
            D[tasks[0] : tasks[0] + len(tasks)] -= rows / divisor

        return self._per_task(query, add_rows), D

    def _per_task(self, losses: Losses, take: Take) -> Tensor:
        """The detached losses (T,), after handing the gradients of every task to ``take``."""
        if callable(losses):
            values = self._all_losses(losses)
            for task, loss in enumerate(values):
                self._take_one(task, loss, take, keep_graph=task < len(values) - 1)
            return torch.stack([loss.detach() for loss in values])
        values = []
        for entry in losses:
            if isinstance(entry, TaskGroup):
                values += self._take_group(entry, take)
            else:
                loss = self._scalar(len(values), entry())
                self._take_one(len(values), loss, take, keep_graph=False)
                values.append(loss)
        self._check_count("task losses", len(values))
        return torch.stack([loss.detach() for loss in values])

    def _take_one(self, task: int, loss: Tensor, take: Take, keep_graph: bool) -> None:
        gradients = torch.autograd.grad(loss, self.parameters, retain_graph=keep_graph, allow_unused=True)
        take([task], {i: None if g is None else g.unsqueeze(0) for i, g in enumerate(gradients)})

    def _take_group(self, group: TaskGroup, take: Take) -> list[Tensor]:
        copies = [copy.detach().requires_grad_() for copy in group.copies()]
        losses = [self._scalar(task, loss) for task, loss in zip(group.tasks, group.compute(copies), strict=True)]
        private = [parameter for parameters in group.private for parameter in parameters]
        gradients = torch.autograd.grad(torch.stack(losses).sum(), [*copies, *private], allow_unused=True)
        own = dict(zip(map(id, private), gradients[len(copies) :], strict=True))
        shared: Gradients = {i: None for i, p in enumerate(self.parameters) if id(p) not in own}
        for entry, gradient in zip(group.shared, gradients, strict=False):
            position = self._position[id(entry.table if isinstance(entry, Rows) else entry)]
            if isinstance(entry, Rows):
                self._rows.restrict(position, entry.ids)
            shared[position] = gradient
        take(group.tasks, shared)
        for task, parameters in zip(group.tasks, group.private, strict=True):
            mine = {self._position[id(p)]: own[id(p)] for p in parameters}
            take([task], {i: None if g is None else g.unsqueeze(0) for i, g in mine.items()})
        return losses

    def _all_losses(self, losses: Losses) -> list[Tensor]:
        if callable(losses):
            values = losses()
        else:
            values = []
            for entry in losses:
                values += entry.compute(entry.copies()) if isinstance(entry, TaskGroup) else [entry()]
        if isinstance(values, Tensor):
            raise ConfigError(
                f"MultiTaskStep: expected a list of {len(self.tasks)} scalar losses, got a tensor of shape "
                f"{tuple(values.shape)}: return [loss_a, loss_b, ...] without stacking them."
            )
        self._check_count("task losses", len(values))
        return [self._scalar(task, loss) for task, loss in enumerate(values)]

    def _check_count(self, what: str, count: int) -> None:
        if count != len(self.tasks):
            raise ConfigError(f"MultiTaskStep: expected {len(self.tasks)} {what}, one per task, got {count}.")

    def _scalar(self, task: int, loss: Tensor) -> Tensor:
        if loss.dim() != 0:
            raise ConfigError(
                f"MultiTaskStep: the loss of task {self.tasks[task]!r} must be a scalar, "
                f"got shape {tuple(loss.shape)}: take its mean."
            )
        if not loss.requires_grad:
            raise ConfigError(
                f"MultiTaskStep: the loss of task {self.tasks[task]!r} does not depend on any trained parameter: "
                "compute it from the model's outputs, without detach() or no_grad()."
            )
        return loss

    def state_dict(self) -> State:
        """Everything the step remembers, as tensors (the optimiser has its own state)."""
        return {**self.state, "count": torch.tensor(self.count)}

    def load_state_dict(self, state: State) -> None:
        """Continue from :meth:`state_dict`; raises ConfigError when the keys or shapes differ."""
        expected = self.state_dict()
        if state.keys() != expected.keys() or any(state[k].shape != expected[k].shape for k in expected):
            raise ConfigError(
                f"MultiTaskStep: this state is of another method or number of tasks: expected "
                f"{ {k: tuple(v.shape) for k, v in expected.items()} }, got "
                f"{ {k: tuple(v.shape) for k, v in state.items()} }."
            )
        self.count = int(state["count"])
        self.state = {key: state[key].to(value) for key, value in self.state.items()}
