"""Learned losses in a run: what the tasks are trained with, and the pass that prices the library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lossrag.experiments.run.objective import BatchObjective
from lossrag.experiments.run.outlook import outlook
from lossrag.experiments.run.problem import Problem
from lossrag.lossbank import BankRetriever, Composer, Lens, Mixture, push_forward
from lossrag.lossbank.experience.context import TaskSignals, context_vector
from lossrag.models import Outputs
from lossrag.weighting import StepRecord

Index = Sequence[Tensor]


@dataclass(frozen=True)
class _Judged:
    """The query batch at the new parameters: losses (T,) with their graph; by task, logits (B, K), targets, and how
    much larger the gradient of the loss is on the logits than on the features."""

    losses: Tensor
    logits: Sequence[Tensor]
    targets: Sequence[Tensor]
    per_feature: Sequence[Tensor]


class Composing:
    """A composer at work on a problem.

    smoothing: share of the running query gradient that a new one leaves in place, in [0, 1).
    by_lambda: the outer objective of the losses is sum_t lambda_t L_t^q with the lambda that MetaWeighting found, as in
        its direction d_c; else the mean over tasks. Lambda is sparse: where it is 0, the losses of that task are judged
        by what they do to other tasks through the shared parameters alone.
    rows: of a task's support and query split that a look far ahead sees, drawn by ``seed`` and step.
    """

    def __init__(
        self,
        problem: Problem,
        composer: Composer,
        total_steps: int,
        by_lambda: bool = False,
        smoothing: float = 0.9,
        rows: int = 512,
        seed: int = 0,
    ) -> None:
        self.problem, self.composer, self.total_steps = problem, composer, total_steps
        self.by_lambda, self.smoothing = by_lambda, smoothing
        self.rows, self.seed = rows, seed
        self.parameters = {name: p for name, p in problem.model.named_parameters() if p.requires_grad}
        followed = {} if composer.config.far else self.parameters
        self.direction = {name: torch.zeros_like(parameter) for name, parameter in followed.items()}
        # losses (T,) at the last pricing, for the rates of change in the context; not a number before the first one
        self.previous = torch.full((2, len(problem.suite.tasks)), float("nan"), device=problem.device)

    def mixtures(self) -> list[Mixture]:
        """What every task is trained with at the next step."""
        return self.composer.mixtures()

    @property
    def follows(self) -> bool:
        """Whether it reads the query gradient of every step."""
        return not self.composer.config.far

    def before(self, step: int) -> dict[str, Tensor] | None:
        """The parameters as they are before ``step``, if it is to be priced from them."""
        if not self.follows or not self.composer.due(step):
            return None
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def after(
        self,
        old: dict[str, Tensor] | None,
        support: Index,
        query: Index,
        record: StepRecord,
        batch: BatchObjective | None = None,
    ) -> None:
        """Follow the query gradient; where ``old`` parameters are given, price every loss on the support batch at them.
        With a longer horizon, price them by a look ahead when it is due.

        batch: that of the query with its features kept, where the step has computed it. Then nothing of the query has
        to be computed again: the record holds its gradient.
        """
        if not self.follows:
            if self.composer.due(record.step):
                self._look_ahead(record)
            return
        given = record.query_gradient if batch is not None and not self.by_lambda else None
        if given is not None:
            self._follow(given)
        if old is None:
            return
        if given is None or batch is None:
            compute, batch = self._outputs("query", query)
            outputs = compute()
        else:
            outputs = self._heads(batch)
        judged = self._judged(batch, outputs)
        if given is None:
            weights = record.lam if self.by_lambda and record.lam is not None else torch.ones_like(judged.losses)
            total = (judged.losses * weights.to(judged.losses.dtype)).sum()
            found = torch.autograd.grad(total, list(self.parameters.values()), allow_unused=True)
            self._follow([None if g is None else (g.to_dense() if g.is_sparse else g) for g in found])
        self._price(old, support, judged, record)

    def _look_ahead(self, record: StepRecord) -> None:
        seen = outlook(self.problem, self.rows, self.seed, record.step)
        lenses = [each.lens for each in seen]
        losses = torch.stack([each.query_loss for each in seen])
        judged = _Judged(losses, [each.query.logits for each in seen], [each.query_targets for each in seen], [])
        contexts = self._contexts(lenses, judged, record)
        self.composer.judge(lenses, [each.view for each in seen], contexts, record.step)
        self.previous = torch.stack([record.support_losses.detach(), losses]).to(self.previous)

    def _follow(self, gradient: Sequence[Tensor | None]) -> None:
        """The running mean of the query gradients, up to a factor: a batch has too few rows to judge losses by, and the
        gradient on all of them moves slowly."""
        for held, new in zip(self.direction.values(), gradient, strict=True):
            held.mul_(self.smoothing)
            if new is not None:
                held.add_(new, alpha=1 - self.smoothing)

    def _heads(self, batch: BatchObjective) -> list[Outputs]:
        features = batch.features()
        assert features is not None
        leaves = [each.requires_grad_() for each in features]
        return [Outputs(head(each), each) for head, each in zip(self.problem.model.heads, leaves, strict=True)]

    def _judged(self, objective: BatchObjective, outputs: list[Outputs]) -> _Judged:
        T = len(outputs)
        objective = BatchObjective(objective.tasks, objective.mixtures, objective.targets, objective.by_class)
        losses = torch.stack([objective.one(t, each) for t, each in enumerate(outputs)])
        wanted = [each.logits for each in outputs] + [each.features for each in outputs]
        at = torch.autograd.grad(losses.sum(), wanted, retain_graph=True)
        ratio = [(at[t].norm() / at[T + t].norm().clamp(min=1e-12)).detach() for t in range(T)]
        return _Judged(losses, [each.logits.detach() for each in outputs], objective.targets, ratio)

    def _price(self, old: dict[str, Tensor], support: Index, judged: _Judged, record: StepRecord) -> None:
        compute, batch = self._outputs("support", support)
        moved = push_forward(
            self.problem.model, old, self.direction, lambda: [part for each in compute() for part in each]
        )
        lenses = [
            Lens(*moved[2 * t], *moved[2 * t + 1], batch.targets[t], batch.mixtures[t].class_counts, ratio)
            for t, ratio in enumerate(judged.per_feature)
        ]
        losses = judged.losses.detach()
        contexts = self._contexts(lenses, judged, record)
        self.composer.price(lenses, contexts, record.step)
        self.previous = torch.stack([record.support_losses.detach(), losses]).to(self.previous)

    def _outputs(self, split: str, index: Index) -> tuple[partial[list[Outputs]], BatchObjective]:
        inputs, objective = self.problem.batch(split, index)
        if self.problem.suite.shared_input:
            return partial(self.problem.model.forward_shared, inputs[0]), objective
        return partial(self.problem.model.forward_joint, inputs), objective

    def _contexts(self, lenses: Sequence[Lens], query: _Judged, record: StepRecord) -> list[Tensor]:
        known = self.composer.pricings > 0
        losses = query.losses.detach()
        return [
            context_vector(
                TaskSignals(
                    lens.logits,
                    lens.targets,
                    query.logits[t],
                    query.targets[t],
                    task.kind,
                    record.support_losses[t],
                    losses[t],
                    lens.features,
                    self.previous[0, t] if known else None,
                    self.previous[1, t] if known else None,
                    lens.class_counts,
                    min(record.step / self.total_steps, 1.0),
                )
            )
            for t, (task, lens) in enumerate(zip(self.problem.suite.tasks, lenses, strict=True))
        ]

    def save_bank(self, folder: Path) -> None:
        """Write what the run remembers, if it retrieves."""
        if isinstance(self.composer.retriever, BankRetriever):
            self.composer.retriever.save(folder)

    def resume_bank(self, folder: Path, step: int) -> None:
        """Remember what the run did up to ``step``."""
        if isinstance(self.composer.retriever, BankRetriever):
            self.composer.retriever.resume(folder, step)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the composition."""
        held = {f"direction/{name}": value for name, value in self.direction.items()}
        return {**self.composer.state_dict(), "previous": self.previous, **held}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`."""
        rest = dict(state)
        self.previous = rest.pop("previous").to(self.previous)
        for name, held in self.direction.items():
            held.copy_(rest.pop(f"direction/{name}"))
        self.composer.load_state_dict(rest)
