"""Problem of a run, a suite with a model and losses: closures for the step, and the evaluation of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.config.schema import LossConfig, OuterConfig
from lossrag.experiments.record.series import Evaluation
from lossrag.experiments.run.adversarial import Adversary
from lossrag.experiments.run.evaluation import evaluate_tasks
from lossrag.experiments.run.objective import BatchObjective
from lossrag.experiments.run.task_groups import joint_losses, single_losses, table_rows, task_losses
from lossrag.lossbank import LOSSES, Mixture, labelled
from lossrag.models import MultiTaskModel
from lossrag.tasks import Suite
from lossrag.weighting import Losses


@dataclass(frozen=True)
class Problem:
    """Suite, model and losses: ``inner[t]`` and ``outer[t]`` are those of task t in training and on the query batch.

    by_class: the outer loss of a task is the mean over its classes.
    adversary: adds terms to the training of the model; query losses and evaluation know nothing of it.
    """

    suite: Suite
    model: MultiTaskModel
    inner: tuple[Mixture, ...]
    outer: tuple[Mixture, ...]
    device: torch.device
    by_class: bool = False
    adversary: Adversary | None = None

    @classmethod
    def create(
        cls,
        suite: Suite,
        model: MultiTaskModel,
        loss: LossConfig,
        outer: OuterConfig,
        device: torch.device,
        adversary: Adversary | None = None,
    ) -> Problem:
        """Look the losses up by name; an outer loss that is not set is the training loss of the task's kind.

        Raises ConfigError for a loss of a task that the suite has not, or that does not fit it.
        """
        check_task_losses(suite, "loss.tasks", loss.tasks)
        check_task_losses(suite, "outer.losses", outer.losses)
        counts = [class_counts(suite, t, device) for t in range(len(suite.tasks))]
        inner = [loss.tasks.get(task.name, getattr(loss, task.kind)) for task in suite.tasks]
        query = [
            outer.losses.get(task.name) or getattr(outer, task.kind) or getattr(loss, task.kind) for task in suite.tasks
        ]
        return cls(
            suite,
            model.to(device),
            tuple(Mixture((LOSSES[name],), None, count) for name, count in zip(inner, counts, strict=True)),
            tuple(Mixture((LOSSES[name],), None, count) for name, count in zip(query, counts, strict=True)),
            device,
            outer.average == "class",
            adversary,
        )

    @cached_property
    def complete(self) -> bool:
        """True where every row of the suite has a label, so that no step has to look."""
        return all(bool(labelled(e.targets).all()) for split in self.suite.splits.values() for e in split)

    def labelled_rows(self, split: str, t: int) -> Tensor | None:
        """The rows (n,) of a split that have a label of task t; None where all of them have one."""
        return None if self.complete else labelled(self.suite.splits[split][t].targets).nonzero().flatten()

    def trained_rows(self, index: Sequence[Tensor]) -> Tensor | None:
        """The rows of a trained word table that a support batch reads; None where there is no such table."""
        if self.suite.shared_input:
            return None
        examples = self.suite.splits["support"]
        return table_rows(
            self.model, [e.inputs.gather(i).to(self.device) for e, i in zip(examples, index, strict=True)]
        )

    def batch_losses(
        self,
        split: str,
        index: Sequence[Tensor],
        *,
        route: str,
        rows: Tensor | None = None,
        mixtures: Sequence[Mixture] | None = None,
        keep_features: bool = False,
        only: Sequence[int] | None = None,
    ) -> tuple[Losses, BatchObjective]:
        """Closures of the losses on one batch, ``index[t]`` (B,) being the rows of task t, and the scores they fill in.

        route: how tasks with their own inputs go through the model: ``joint``, one pass for all; ``groups``, passes
        that keep their gradients apart; ``single``, a pass for each.
        rows: :meth:`trained_rows` of the step's support batch, for ``groups``.
        mixtures: what the tasks are trained with at this step, when it is not ``inner`` or ``outer``.
        keep_features: for :meth:`BatchObjective.representation` and :meth:`BatchObjective.features`.
        only: the tasks whose losses are wanted, each in a pass of its own; all by default.
        """
        inputs, objective = self.batch(split, index, mixtures, keep_features)
        if self.suite.shared_input:
            return partial(self._shared, objective, inputs[0], only), objective
        if only is not None:
            every = single_losses(self.model, inputs, objective)
            return [every[t] for t in only], objective
        if self.adversary is not None and split == "support":
            return self.adversary.losses(inputs, objective, joint=route == "joint"), objective
        if route == "joint":
            return joint_losses(self.model, inputs, objective), objective
        if route == "single":
            return single_losses(self.model, inputs, objective), objective
        return task_losses(self.model, inputs, objective, rows, query=split == "query"), objective

    def batch(
        self,
        split: str,
        index: Sequence[Tensor],
        mixtures: Sequence[Mixture] | None = None,
        keep_features: bool = False,
    ) -> tuple[list[Tensor], BatchObjective]:
        """The inputs of one batch on the device, a single one for tasks on a shared input, and its losses."""
        query = split == "query"
        examples = self.suite.splits[split]
        targets = [e.targets[i].to(self.device) for e, i in zip(examples, index, strict=True)]
        losses = mixtures or (self.outer if query else self.inner)
        by_class = query and self.by_class
        objective = BatchObjective(self.suite.tasks, losses, targets, by_class, keep_features, self.complete)
        read = list(zip(examples, index, strict=True))
        inputs = [e.inputs.gather(i).to(self.device) for e, i in (read[:1] if self.suite.shared_input else read)]
        return inputs, objective

    def _shared(self, objective: BatchObjective, inputs: Tensor, only: Sequence[int] | None) -> list[Tensor]:
        outputs = list(self.model.forward_shared(inputs))
        return [objective.one(t, outputs[t]) for t in (range(len(outputs)) if only is None else only)]

    def evaluate(self, split: str) -> Evaluation:
        """Mean loss and score of every task over a whole split, in evaluation mode."""
        examples = self.suite.splits[split]
        return evaluate_tasks(self.model, self.suite.tasks, self.inner, examples, self.device)


def check_task_losses(suite: Suite, option: str, losses: Mapping[str, str]) -> None:
    """Raise ConfigError, naming the option, unless every name is a task of the suite with a loss of its kind."""
    kinds = {task.name: task.kind for task in suite.tasks}
    for name, loss in losses.items():
        if name not in kinds:
            raise ConfigError(
                f"{option} has a loss for {name!r}, which is no task of {suite.name!r}: {did_you_mean(name, kinds)}"
            )
        if LOSSES[loss].target_kind != kinds[name]:
            fitting = [entry for entry, own in LOSSES.items() if own.target_kind == kinds[name]]
            raise ConfigError(
                f"{option}.{name}={loss} is a loss for {LOSSES[loss].target_kind}, but {name} is a {kinds[name]}: "
                f"choose from {', '.join(fitting)}"
            )


def class_counts(suite: Suite, t: int, device: torch.device) -> Tensor | None:
    """Support samples of every class of a classification task (K,), at least 1; None for regression."""
    task = suite.tasks[t]
    if task.kind != "classification":
        return None
    targets = suite.splits["support"][t].targets
    counts = torch.bincount(targets[labelled(targets)], minlength=task.outputs)
    return counts.clamp(min=1).to(device, torch.float32)
