"""Problems that the step and its peers solve: own inputs on TextCNN, shared input on an MLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lossrag.experiments.benchmark.problems import (
    TextOptions,
    adam,
    shared_batch,
    shared_model,
    text_batch,
    text_model,
    trained,
)
from lossrag.experiments.run.task_groups import segment_means, table_rows, task_losses
from lossrag.models import MultiTaskModel, Outputs
from lossrag.weighting import Losses as StepLosses
from lossrag.weighting import MetaWeighting, MultiTaskStep, StepRecord, Weighting

R = TypeVar("R")


@dataclass(frozen=True)
class Plain:
    """Cross-entropy and nothing else: the peers keep no scores."""

    labels: Sequence[Tensor]

    def one(self, task: int, outputs: Outputs) -> Tensor:
        """Scalar."""
        return cross_entropy(outputs.logits, self.labels[task])

    def many(self, tasks: range, outputs: Outputs, sizes: Sequence[int]) -> Tensor:
        """(r,)."""
        labels = torch.cat([self.labels[task] for task in tasks])
        return segment_means(cross_entropy(outputs.logits, labels, reduction="none"), sizes)

    def alike(self, tasks: range) -> bool:
        """All have the same number of classes."""
        return True


@dataclass(frozen=True)
class Case:
    """A problem of ``tasks`` tasks with a fixed support and query batch.

    build: the same model at every call. ours: its losses, by model and batch number, as MultiTaskStep takes them.
    joint: the features of all tasks in one tensor, and the list of losses, from one forward pass.
    alone: the loss of one task from a pass of its own; None where all tasks share one input.
    """

    name: str
    tasks: int
    build: Callable[[], MultiTaskModel]
    ours: Callable[[MultiTaskModel, int], StepLosses]
    joint: Callable[[MultiTaskModel, int], tuple[Tensor, list[Tensor]]]
    alone: Callable[[MultiTaskModel, int], Tensor] | None = None


@dataclass(frozen=True)
class Update(Generic[R]):
    """A way to do one training step of ``model``; ``run`` returns what it likes."""

    name: str
    model: MultiTaskModel
    run: Callable[[], R]

    def gradient(self) -> Tensor:
        """The gradient (d,) that one more step gives the encoder; from the same random numbers at every call."""
        torch.manual_seed(0)
        self.run()
        return torch.cat([cast(Tensor, p.grad).flatten() for p in trained(self.model.encoders)])


def own_case(options: TextOptions, tasks: int) -> Case:
    """TextCNN without dropout, whose random numbers no two ways of computing would draw alike."""
    batches = [text_batch(options, tasks, options.batch // tasks, seed) for seed in (1, 2)]

    def ours(model: MultiTaskModel, number: int) -> StepLosses:
        rows = table_rows(model, batches[0].words)
        return task_losses(model, batches[number].words, Plain(batches[number].labels), rows)

    def joint(model: MultiTaskModel, number: int) -> tuple[Tensor, list[Tensor]]:
        batch = batches[number]
        features = model.encoders[0](torch.cat(batch.words))
        parts = features.view(len(batch.words), -1, features.shape[1])
        return features, [cross_entropy(model.heads[t](part), batch.labels[t]) for t, part in enumerate(parts)]

    def alone(model: MultiTaskModel, task: int) -> Tensor:
        return cross_entropy(model(batches[0].words[task], task), batches[0].labels[task])

    return Case(f"T={tasks}, own input", tasks, partial(text_model, options, tasks, 0.0), ours, joint, alone)


def shared_case(width: int, rows: int, layers: int, heads: int, device: str = "cpu") -> Case:
    """Heads on one trunk."""
    batches = [tuple(part.to(device) for part in shared_batch(width, rows, heads, seed)) for seed in (1, 2)]

    def joint(model: MultiTaskModel, number: int) -> tuple[Tensor, list[Tensor]]:
        inputs, labels = batches[number]
        features = model.encoders[0](inputs.to(next(model.parameters()).dtype))
        return features, [cross_entropy(head(features), labels[t]) for t, head in enumerate(model.heads)]

    return Case(
        f"T={heads}, shared input, width {width}, {rows} rows, {layers} layers",
        heads,
        lambda: shared_model(width, layers, heads).to(device),
        lambda model, number: lambda: joint(model, number)[1],
        joint,
    )


def our_step(
    case: Case, method: Weighting, dtype: torch.dtype = torch.float32, watch: bool = True
) -> Update[StepRecord]:
    """MultiTaskStep with ``method``; without ``watch`` it goes through a shared graph once for every task."""
    model = case.build().to(dtype)
    watched = model if case.alone is None and watch else None
    step = MultiTaskStep(model.parameters(), adam(model), method, case.tasks, model=watched)

    def run() -> StepRecord:
        query = None if method.needs.hypergradient is None else case.ours(model, 1)
        return step(case.ours(model, 0), query)

    return Update("MultiTaskStep", model, run)


def our_hypergradient(case: Case, watch: bool = True) -> Tensor:
    """D (T, T) of the first step of MetaWeighting with scale=unit."""
    D = our_step(case, MetaWeighting(scale="unit"), watch=watch).run().hypergradient
    assert D is not None
    return D


def autograd_loop(case: Case, dtype: torch.dtype = torch.float32) -> Update[Tensor]:
    """MetaWeighting as one would first write it: T backward passes through one retained graph, twice.

    ``run`` returns the hypergradient D (T, T) of scale=unit.
    """
    model = case.build().to(dtype)
    optimizer = adam(model)
    method = MetaWeighting(scale="unit")
    state = method.init(case.tasks, next(model.parameters()).device)
    parameters = trained(model)
    sizes = [parameter.numel() for parameter in parameters]

    def rows(number: int) -> Tensor:
        gradients = [
            torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
            for loss in case.joint(model, number)[1]
        ]
        return torch.stack([torch.cat([gradient.flatten() for gradient in own]) for own in gradients])

    def run() -> Tensor:
        nonlocal state
        support = rows(0)
        combined = (state["weights"].to(dtype) / case.tasks) @ support
        for parameter, part in zip(parameters, torch.split(combined, sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        optimizer.step()
        D = -rows(1) @ support.mT
        state, _ = method.learn(state, D)
        return D

    return Update("autograd loop", model, run)
