"""Passes: from the losses of a training loop to their values, and to the gradients of every task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lossrag.errors import ConfigError
from lossrag.weighting.closures import JointClosure, Losses, TableRows, TaskGroup, Ungrouped
from lossrag.weighting.gradients.linear_layers import LinearGradient, LinearTaps, TappedLayer, stack_calls
from lossrag.weighting.gradients.rows import TaskGradients

Take = Callable[[TaskGradients], None]
"""Receives the gradients of some tasks."""
Restrict = Callable[[int, Tensor], None]
"""Hears that of the parameter at this position only the rows ``ids`` (U,) are concerned."""
Forward = tuple[Sequence[Tensor] | Tensor, Callable[[Take], None]]
"""The losses of a forward pass with their graph, and the backward pass, which hands their gradients over."""


class Passes:
    """The forward and backward passes over ``losses`` of the named ``tasks`` with respect to ``parameters``.

    taps: the linear layers whose gradients on a shared input may be kept as factors.
    """

    def __init__(
        self, parameters: Sequence[Tensor], tasks: Sequence[str], restrict: Restrict, taps: LinearTaps
    ) -> None:
        self.parameters = parameters
        self.tasks = tasks
        self.taps = taps
        self._restrict = restrict
        self._position = {id(parameter): i for i, parameter in enumerate(parameters)}

    def values(self, losses: Losses) -> list[Tensor]:
        """The T losses with their graphs."""
        if callable(losses):
            values = losses()
        else:
            values = []
            for entry in losses:
                values += entry.compute(entry.copies(), entry.stacks()) if isinstance(entry, TaskGroup) else [entry()]
        if isinstance(values, Tensor):
            raise ConfigError(
                f"MultiTaskStep: expected a list of {len(self.tasks)} scalar losses, got a tensor of shape "
                f"{tuple(values.shape)}: return [loss_a, loss_b, ...] without stacking them."
            )
        self._check_count(len(values))
        return [self._scalar(task, loss) for task, loss in enumerate(values)]

    def gradients(self, losses: Losses, take: Take, look: Callable[[list[Tensor]], None] | None = None) -> Tensor:
        """The detached losses (T,), after handing the gradients of every task to ``take``.

        look: sees all losses with their graphs before the first backward pass, so that all are held at once for it.
        """
        parts: list[Tensor] = []
        waiting: list[Forward] = []
        for values, backward in self._forward(losses):
            parts.append((values if isinstance(values, Tensor) else torch.stack(list(values))).detach())
            if look is None:
                backward(take)
            else:
                waiting.append((values, backward))
        self._check_count(sum(map(len, parts)))
        if look is not None:
            look([value for values, _ in waiting for value in values])
        for _, backward in waiting:
            backward(take)
        return torch.cat(parts)

    def accumulate(self, losses: Ungrouped, coefficients: Tensor) -> Tensor:
        """The detached losses (T,), after adding sum_t coefficients[t] grad L_t to the parameters' ``grad``.

        Tasks with closures of their own pass one after the other, so that one graph is held at a time.
        """
        if callable(losses):
            stacked = torch.stack(self.values(losses))
            (stacked * coefficients.to(stacked.dtype)).sum().backward()  # type: ignore[no-untyped-call]
            return stacked.detach()
        values: list[Tensor] = []
        for task, closure in enumerate(losses):
            loss = self._scalar(task, closure())
            (loss * coefficients[task].to(loss.dtype)).backward()  # type: ignore[no-untyped-call]
            values.append(loss.detach())
        self._check_count(len(values))
        return torch.stack(values)

    def _forward(self, losses: Losses) -> Iterator[Forward]:
        """The forward passes, each of them when it is asked for."""
        if callable(losses):
            yield self._joint(losses)
            return
        count = 0
        for entry in losses:
            if isinstance(entry, TaskGroup):
                values, backward = self._group(entry)
            else:
                loss = self._scalar(count, entry())
                values, backward = [loss], partial(self._single, count, loss)
            yield values, backward
            count += len(values)

    def _joint(self, losses: JointClosure) -> Forward:
        with self.taps.watch() as seen:
            values = self.values(losses)
        wanted = [layer for layer in seen.values() if layer.pays_off(len(values))]
        layers = self.taps.trusted(wanted, values, self.parameters)
        return values, partial(self._joint_backward, values, layers)

    def _joint_backward(self, values: Sequence[Tensor], layers: Sequence[TappedLayer], take: Take) -> None:
        tapped = {position for layer in layers for position in (layer.weight, layer.bias)}
        formed = [(i, p) for i, p in enumerate(self.parameters) if i not in tapped]
        inputs = [stack_calls(layer.inputs) for layer in layers]
        wanted_at: list[Tensor | GradientEdge] = [
            *(p for _, p in formed),
            *(edge for layer in layers for edge in layer.edges),
        ]
        for task, loss in enumerate(values):
            keep = task < len(values) - 1
            # torch takes tensors and edges side by side, though its annotation does not say so
            gradients = torch.autograd.grad(loss, wanted_at, retain_graph=keep, allow_unused=True)  # type: ignore[arg-type]
            shared = {i: g[None] for (i, _), g in zip(formed, gradients, strict=False) if g is not None}
            rest = iter(gradients[len(formed) :])
            linear: list[LinearGradient] = []
            for layer, value in zip(layers, inputs, strict=True):
                gradient = layer.gradient(value, [next(rest) for _ in layer.edges])
                if gradient is not None:
                    linear.append(gradient)
                    if layer.bias is not None:
                        shared[layer.bias] = gradient.outputs.sum(0)[None]
            take(TaskGradients(range(task, task + 1), shared, linear=linear))

    def _single(self, task: int, loss: Tensor, take: Take) -> None:
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        take(TaskGradients(range(task, task + 1), {i: g[None] for i, g in enumerate(gradients) if g is not None}))

    def _group(self, group: TaskGroup) -> Forward:
        copies = [copy.detach().requires_grad_() for copy in group.copies()]
        stacks = [stack.detach().requires_grad_() for stack in group.stacks()]
        values = group.compute(copies, stacks)
        losses = values if isinstance(values, Tensor) else torch.stack(list(values))
        return losses, partial(self._group_backward, group, losses, copies, stacks)

    def _group_backward(
        self, group: TaskGroup, losses: Tensor, copies: Sequence[Tensor], stacks: Sequence[Tensor], take: Take
    ) -> None:
        gradients = torch.autograd.grad(losses.sum(), [*copies, *stacks], allow_unused=True)
        shared: dict[int, Tensor] = {}
        for entry, gradient in zip(group.shared, gradients, strict=False):
            position = self._position[id(entry.table if isinstance(entry, TableRows) else entry)]
            if isinstance(entry, TableRows):
                self._restrict(position, entry.ids)
            if gradient is not None:
                shared[position] = gradient
        own = [
            (tuple(self._position[id(parameter)] for parameter in parameters), gradient)
            for parameters, gradient in zip(group.own, gradients[len(copies) :], strict=True)
            if gradient is not None
        ]
        take(TaskGradients(group.tasks, shared, own))

    def _check_count(self, count: int) -> None:
        if count != len(self.tasks):
            raise ConfigError(f"MultiTaskStep: expected {len(self.tasks)} task losses, one per task, got {count}.")

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
