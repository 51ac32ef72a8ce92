"""Passes: from the losses of a training loop to their values, and to the gradients of every task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lossrag.errors import ConfigError
from lossrag.weighting.gradients.compiled import donates, is_compiled
from lossrag.weighting.gradients.linear_layers import LinearGradient, LinearTaps, TappedLayer, stack_calls
from lossrag.weighting.gradients.random_state import random_state, set_random_state
from lossrag.weighting.gradients.rows import TaskGradients
from lossrag.weighting.training.closures import Ordered, TableRows, TaskGroup, Ungrouped, Value
from lossrag.weighting.training.scaled import Scaling
from lossrag.weighting.training.statistics import buffers_in_graph

Take = Callable[[TaskGradients], None]
"""Receives the gradients of some tasks."""
Restrict = Callable[[int, Tensor], None]
"""Hears that of the parameter at this position only the rows ``ids`` (U,) are concerned."""
Forward = tuple[Sequence[Value], Callable[[Take], None]]
"""The losses of a forward pass with their graph, and the backward pass, which hands their gradients over."""


class Passes:
    """The forward and backward passes over losses with respect to ``parameters``.

    tasks: names of those that have losses. numbers: theirs among all tasks.
    taps: the linear layers whose gradients on a shared input may be kept as factors.

    A task whose loss is None is absent: it has no gradient, and the loss that is told of it is no number.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        tasks: Sequence[str],
        restrict: Restrict,
        taps: LinearTaps,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.parameters = parameters
        self.tasks = tasks
        self.numbers = range(len(tasks)) if numbers is None else numbers
        self.taps = taps
        self.scale = 1.0
        """Factor of the losses that are differentiated, so that half precision keeps small gradients."""
        self.first = True
        """Losses are looked at more closely: set to False after the first step."""
        self.buffers: list[Tensor] = []
        """Running statistics of the normalisations that they were computed with."""
        self._scaling = Scaling()
        self._restrict = restrict
        self._position = {id(parameter): i for i, parameter in enumerate(parameters)}

    def values(self, losses: Ordered) -> list[Value]:
        """The losses with their graphs, in the order of the tasks."""
        values: list[Value] = []
        if callable(losses):
            values = losses()
        else:
            for entry in losses:
                values += entry.compute(entry.copies(), entry.stacks()) if isinstance(entry, TaskGroup) else [entry()]
        return [self._scalar(task, loss) for task, loss in enumerate(values)]

    def gradients(
        self, losses: Ordered, take: Take, look: Callable[[list[Value]], None] | None = None, tapped: bool = True
    ) -> list[Value]:
        """The detached losses, after handing the gradients of every task that is present to ``take``.

        look: sees all losses with their graphs before the first backward pass, so that all are held at once for it.
        tapped: gradients may be handed over as factors.
        """
        told: list[Value] = []
        waiting: list[Forward] = []
        for values, backward in self._forward(losses, tapped):
            told += [None if value is None else value.detach() for value in values]
            if look is None:
                backward(take)
            else:
                waiting.append((values, backward))
        if look is not None:
            look([value for values, _ in waiting for value in values])
        for _, backward in waiting:
            backward(take)
        return told

    def accumulate(self, losses: Ungrouped, coefficients: Tensor) -> list[Value]:
        """The detached losses, after adding sum_t coefficients[t] grad L_t to the parameters' ``grad``.

        Tasks with closures of their own pass one after the other, so that one graph is held at a time.
        """
        if callable(losses):
            values = self.values(losses)
            weighted = [v * c.to(v.dtype) for v, c in zip(values, coefficients, strict=True) if v is not None]
            if weighted:
                self._scaled(torch.stack(weighted).sum()).backward()  # type: ignore[no-untyped-call]
            return [None if value is None else value.detach() for value in values]
        told: list[Value] = []
        for task, closure in enumerate(losses):
            loss = self._scalar(task, closure())
            if loss is not None:
                self._scaled(loss * coefficients[task].to(loss.dtype)).backward()  # type: ignore[no-untyped-call]
            told.append(None if loss is None else loss.detach())
        return told

    def _forward(self, losses: Ordered, tapped: bool) -> Iterator[Forward]:
        """The forward passes, each of them when it is asked for."""
        if callable(losses):
            yield self._joint(losses, tapped)
            return
        count = 0
        for entry in losses:
            if isinstance(entry, TaskGroup):
                yield self._group(entry)
                count += len(entry.tasks)
            else:
                loss = self._scalar(count, entry())
                yield [loss], partial(self._single, self.numbers[count], loss)
                count += 1

    def _joint(self, losses: Callable[[], list[Value]], tapped: bool) -> Forward:
        state = random_state(self.parameters)
        if not tapped:
            values = self.values(losses)
            return values, partial(self._joint_backward, losses, state, values, [])
        with self.taps.watch() as seen:
            values = self.values(losses)
        there = [value for value in values if value is not None]
        wanted = [layer for layer in seen.values() if layer.pays_off(len(there))]
        layers = self.taps.trusted(wanted, there, self.parameters) if there else []
        return values, partial(self._joint_backward, losses, state, values, layers)

    def _joint_backward(
        self,
        losses: Callable[[], list[Value]],
        state: list[Tensor],
        values: Sequence[Value],
        layers: Sequence[TappedLayer],
        take: Take,
    ) -> None:
        tapped = {position for layer in layers for position in (layer.weight, layer.bias)}
        formed = [(i, p) for i, p in enumerate(self.parameters) if i not in tapped]
        inputs = [stack_calls(layer.inputs) for layer in layers]
        wanted_at: list[Tensor | GradientEdge] = [
            *(p for _, p in formed),
            *(edge for layer in layers for edge in layer.edges),
        ]
        there = [(task, loss) for task, loss in enumerate(values) if loss is not None]
        compiled = is_compiled([loss for _, loss in there])
        for place, (task, loss) in enumerate(there):
            keep = place < len(there) - 1
            try:
                # torch takes tensors and edges side by side, though its annotation does not say so
                found = torch.autograd.grad(self._scaled(loss), wanted_at, retain_graph=keep, allow_unused=True)  # type: ignore[arg-type]
            except RuntimeError as error:
                if place or not donates(error):
                    raise
                self._one_at_a_time(losses, state, there, take)
                return
            touched = _touched(found, compiled)
            shared = {i: g[None] for (i, _), g in zip(formed, touched, strict=False) if g is not None}
            rest = iter(touched[len(formed) :])
            linear: list[LinearGradient] = []
            for layer, value in zip(layers, inputs, strict=True):
                gradient = layer.gradient(value, [next(rest) for _ in layer.edges])
                if gradient is not None:
                    linear.append(gradient)
                    if layer.bias is not None:
                        shared[layer.bias] = gradient.outputs.sum(0)[None]
            take(TaskGradients(_only(self.numbers[task]), shared, linear=linear))

    def _one_at_a_time(
        self,
        losses: Callable[[], list[Value]],
        state: list[Tensor],
        there: Sequence[tuple[int, Tensor]],
        take: Take,
    ) -> None:
        """The same from one forward pass a task, where a compiled graph can be walked only once."""
        after = random_state(self.parameters)
        for task, seen in there:
            set_random_state(self.parameters, state)
            loss = self.values(losses)[task]
            same = loss is not None and torch.allclose(loss.detach(), seen.detach(), rtol=1e-4, equal_nan=True)
            if loss is None or not same:
                raise ConfigError(
                    "MultiTaskStep: the compiled model's graph can be walked once, so the closure was called again, "
                    "and gave another loss: let it compute the losses of one and the same batch, or set "
                    "torch._functorch.config.donated_buffer = False before the model's first backward pass."
                )
            gradients = torch.autograd.grad(self._scaled(loss), self.parameters, allow_unused=True)
            self._hand_over(self.numbers[task], _touched(gradients, compiled=True), take)
        set_random_state(self.parameters, after)

    def _single(self, task: int, loss: Value, take: Take) -> None:
        if loss is not None:
            gradients = torch.autograd.grad(self._scaled(loss), self.parameters, allow_unused=True)
            self._hand_over(task, _touched(gradients, is_compiled([loss])), take)

    def _hand_over(self, task: int, gradients: Sequence[Value], take: Take) -> None:
        take(TaskGradients(_only(task), {i: g[None] for i, g in enumerate(gradients) if g is not None}))

    def _group(self, group: TaskGroup) -> Forward:
        copies = [copy.detach().requires_grad_() for copy in group.copies()]
        stacks = [stack.detach().requires_grad_() for stack in group.stacks()]
        values = group.compute(copies, stacks)
        losses = values if isinstance(values, Tensor) else torch.stack(list(values))
        return list(losses.unbind()), partial(self._group_backward, group, losses, copies, stacks)

    def _group_backward(
        self, group: TaskGroup, losses: Tensor, copies: Sequence[Tensor], stacks: Sequence[Tensor], take: Take
    ) -> None:
        gradients = torch.autograd.grad(self._scaled(losses.sum()), [*copies, *stacks], allow_unused=True)
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

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.scale == 1 else loss * self.scale

    def _scalar(self, task: int, loss: Value) -> Value:
        if loss is None:
            return None
        if not isinstance(loss, Tensor):
            raise ConfigError(
                f"MultiTaskStep: the loss of task {self.tasks[task]!r} must be a scalar tensor, got "
                f"{type(loss).__name__}: return what the loss function gives, without item() or float()."
            )
        if loss.dim() != 0:
            raise ConfigError(
                f"MultiTaskStep: the loss of task {self.tasks[task]!r} must be a scalar, "
                f"got shape {tuple(loss.shape)}: take its mean."
            )
        if not loss.requires_grad:
            raise ConfigError(
                f"MultiTaskStep: the loss of task {self.tasks[task]!r} does not depend on any trained parameter: "
                "compute it from the model's outputs, without detach() or no_grad(), or return None for a task that is "
                "absent."
            )
        if self.first:
            self._scaling.find(loss)
            known = {buffer.data_ptr() for buffer in self.buffers}
            self.buffers += [buffer for buffer in buffers_in_graph([loss]) if buffer.data_ptr() not in known]
        scale = self._scaling.of(loss)
        if scale == 1:
            return loss
        self.scale = scale
        return loss / scale


def _only(task: int) -> range:
    return range(task, task + 1)


def _touched(gradients: Sequence[Value], compiled: bool) -> Sequence[Value]:
    """The gradients of parameters that a loss depends on: a compiled graph gives zeros for all others it holds."""
    if not compiled:
        return gradients
    return [None if g is None or not bool(g.any()) else g for g in gradients]
