"""Learned losses in a run: what the tasks are trained with, and the pass that prices the library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from experiments.objective import BatchObjective
from experiments.problem import Problem
from lossbank import BankRetriever, Composer, Lens, Mixture, push_forward
from lossbank.context import TaskSignals, context_vector
from models import Outputs
from weighting import StepRecord

Index = Sequence[Tensor]


class Composing:
    """A composer at work on a problem.

    by_lambda: the outer objective of the losses is sum_t lambda_t L_t^q with the lambda that MetaWeighting found, as in
        its direction d_c; else the mean over tasks. Lambda is sparse: where it is 0, the losses of that task are judged
        by what they do to other tasks through the shared parameters alone.
    """

    def __init__(self, problem: Problem, composer: Composer, total_steps: int, by_lambda: bool = False) -> None:
        self.problem, self.composer, self.total_steps, self.by_lambda = problem, composer, total_steps, by_lambda
        self.parameters = {name: p for name, p in problem.model.named_parameters() if p.requires_grad}
        # losses (T,) at the last pricing, for the rates of change in the context; not a number before the first one
        self.previous = torch.full((2, len(problem.suite.tasks)), float("nan"), device=problem.device)

    def mixtures(self) -> list[Mixture]:
        """What every task is trained with at the next step."""
        return self.composer.mixtures()

    def before(self, step: int) -> dict[str, Tensor] | None:
        """The parameters as they are before ``step``, if it is to be priced."""
        if not self.composer.due(step):
            return None
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def price(self, old: dict[str, Tensor], support: Index, query: Index, record: StepRecord) -> None:
        """Price every loss on the support batch at the ``old`` parameters, for the query batch at the present ones."""
        T = len(self.problem.suite.tasks)
        outer = self._outputs("query", query)
        objective = outer[1]
        outputs = outer[0]()
        losses = torch.stack([objective.one(t, each) for t, each in enumerate(outputs)])
        logits = [each.logits for each in outputs]
        features = [each.features for each in outputs]
        at = torch.autograd.grad(losses.sum(), [*logits, *features], retain_graph=True)
        ratio = [(at[t].norm() / at[T + t].norm().clamp(min=1e-12)).detach() for t in range(T)]
        weights = record.lam if self.by_lambda and record.lam is not None else torch.full_like(losses, 1 / T)
        total = (losses * weights.to(losses.dtype)).sum()
        found = torch.autograd.grad(total, list(self.parameters.values()), allow_unused=True)
        direction = {
            name: torch.zeros_like(p) if g is None else (g.to_dense() if g.is_sparse else g)
            for (name, p), g in zip(self.parameters.items(), found, strict=True)
        }
        compute, batch = self._outputs("support", support)
        moved = push_forward(self.problem.model, old, direction, lambda: [t for each in compute() for t in each])
        lenses = [
            Lens(*moved[2 * t], *moved[2 * t + 1], batch.targets[t], batch.mixtures[t].class_counts, ratio[t])
            for t in range(T)
        ]
        contexts = self._contexts(lenses, outputs, objective, record.support_losses, losses.detach(), record.step)
        self.composer.price(lenses, contexts, record.step)
        self.previous = torch.stack([record.support_losses.detach(), losses.detach()]).to(self.previous)

    def _outputs(self, split: str, index: Index) -> tuple[partial[list[Outputs]], BatchObjective]:
        inputs, objective = self.problem.batch(split, index)
        if self.problem.suite.shared_input:
            return partial(self.problem.model.forward_shared, inputs[0]), objective
        return partial(self.problem.model.forward_joint, inputs), objective

    def _contexts(
        self,
        lenses: Sequence[Lens],
        query: Sequence[Outputs],
        objective: BatchObjective,
        support_losses: Tensor,
        query_losses: Tensor,
        step: int,
    ) -> list[Tensor]:
        known = self.composer.pricings > 0
        return [
            context_vector(
                TaskSignals(
                    lens.logits,
                    lens.targets,
                    query[t].logits.detach(),
                    objective.targets[t],
                    task.kind,
                    support_losses[t],
                    query_losses[t],
                    lens.features,
                    self.previous[0, t] if known else None,
                    self.previous[1, t] if known else None,
                    lens.class_counts,
                    min(step / self.total_steps, 1.0),
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
        return {**self.composer.state_dict(), "previous": self.previous}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`."""
        rest = dict(state)
        self.previous = rest.pop("previous").to(self.previous)
        self.composer.load_state_dict(rest)
