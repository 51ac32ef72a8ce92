"""Learned losses: what MultiTaskStep is to task weights, for the losses of the tasks, in anybody's own loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lossrag.lossbank.bank import BankRetriever, LossBank
from lossrag.lossbank.composing.composer import Composer
from lossrag.lossbank.composing.evidence import Batch, Evidence, Moment, TaskSpec
from lossrag.lossbank.composing.policies import POLICIES, ComposerConfig
from lossrag.lossbank.experience.context import TaskSignals, context_vector
from lossrag.lossbank.library.mixture import Mixture


class LearnedLosses:
    """The losses of T tasks, composed from the library and learned while a model trains.

    evidence: :class:`LookAhead` or :class:`OneStep` on the model. config: what is composed, and how.
    bank: what to retrieve from, for policies that do; an empty one without. It remembers this training as ``run``.
    total_steps: of the training, for the progress in the contexts.

    Call :meth:`begin` before every update and train task t with the t-th mixture; call :meth:`end` after it.

    Raises ConfigError for names that are unknown or do not fit a task.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        evidence: Evidence,
        config: ComposerConfig | None = None,
        *,
        total_steps: int,
        bank: LossBank | None = None,
        run: str = "run",
        seed: int = 0,
    ) -> None:
        config = config or ComposerConfig()
        self.evidence, self.total_steps = evidence, total_steps
        self.retriever: BankRetriever | None = None
        if POLICIES[config.policy].retrieves:
            self.retriever = BankRetriever(bank or LossBank.create(), config.policy, run, seed)
        device = next(evidence.model.parameters()).device
        self.composer = Composer(
            tasks, config, evidence.options, self.retriever, seed, warm=bank is not None, device=device
        )
        # losses (T,) on support and query rows at the last measurement; not a number before the first one
        self.previous = torch.full((2, len(tasks)), float("nan"), device=device)

    def due(self, step: int) -> bool:
        """True when contributions are measured at the step of this number, from 1."""
        return self.composer.config.policy != "fixed" and self.evidence.options.due(step)

    def begin(self, step: int) -> list[Mixture]:
        """Before the update of ``step`` (from 1): the mixture that every task is to be trained with."""
        self.evidence.begin(step)
        return self.composer.mixtures()

    def end(
        self,
        step: int,
        support_losses: Sequence[Tensor] | Tensor,
        support: Callable[[], Batch],
        query: Callable[[], Batch],
        *,
        query_gradient: Sequence[Tensor | None] | None = None,
        lam: Tensor | None = None,
    ) -> None:
        """After the update of ``step``: measure what the losses contribute, when it is due, and move their shares.

        support_losses: (T,) of the update.
        support, query: rows of all tasks, asked for only when they are needed. One step ahead, ``support`` is the batch
            of the update; a look ahead takes as many rows as it is given (``evidence.rows`` of a task are plenty).
        query_gradient: that of the outer objective after the update, by parameter, where the loop has it anyway.
        lam: (T,) weights of the tasks in the outer objective, where a method found any.
        """
        if query_gradient is not None:
            self.evidence.follow(query_gradient)
        if not self.due(step):
            return
        moment = self.evidence.moment(self.composer.tasks, support(), query(), lam)
        before = torch.stack([loss.detach() for loss in support_losses])
        self.composer.observe(moment, self._contexts(moment, before, step), step)
        self.previous = torch.stack([before, torch.stack([task.query_loss for task in moment.tasks])]).to(self.previous)

    def _contexts(self, moment: Moment, support_losses: Tensor, step: int) -> list[Tensor]:
        known = self.composer.measurements > 0
        return [
            context_vector(
                TaskSignals(
                    seen.support.logits,
                    seen.support.targets,
                    seen.query_logits,
                    seen.query_targets,
                    task.target_kind,
                    support_losses[t],
                    seen.query_loss,
                    seen.support.features,
                    self.previous[0, t] if known else None,
                    self.previous[1, t] if known else None,
                    task.class_counts,
                    min(step / self.total_steps, 1.0),
                )
            )
            for t, (task, seen) in enumerate(zip(self.composer.tasks, moment.tasks, strict=True))
        ]

    def save_bank(self, folder: Path) -> None:
        """Write what is remembered to ``folder``, if the policy retrieves: :meth:`LossBank.save`."""
        if self.retriever is not None:
            self.retriever.bank.save(folder)

    def resume_bank(self, folder: Path, step: int) -> None:
        """Remember what this training did up to ``step``, from the bank in ``folder``, if the policy retrieves."""
        if self.retriever is not None:
            self.retriever.resume(folder, step)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the bank, as tensors."""
        return {**self.composer.state_dict(), "previous": self.previous, **self.evidence.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`; raises ConfigError when it is of other tasks or another library."""
        own = self.composer.state_dict()
        self.composer.load_state_dict({name: tensor for name, tensor in state.items() if name in own})
        self.previous = state["previous"].to(self.previous)
        self.evidence.load_state_dict(state)
