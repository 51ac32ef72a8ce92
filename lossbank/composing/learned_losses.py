"""Learned losses: what MultiTaskStep is to task weights, for the losses of the tasks, in anybody's own loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lossrag.errors import ConfigError, DivergedError, LossError
from lossrag.lossbank.composing.composer import Composer
from lossrag.lossbank.composing.evidence import Batch, Evidence, TaskMoment, TaskSpec, observed
from lossrag.lossbank.composing.policies import ComposerConfig, question_steps
from lossrag.lossbank.composing.retrieval import Adviser
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.snapshots import REFERENCES, ROWS, known, moments_of, snapshot
from lossrag.lossbank.library.mixture import Mixture
from lossrag.lossbank.library.registration import LOSSES

EVERY, FEW = 32, 128
"""Steps between two measurements of gradient sizes without evidence, and the support rows of a task that they take."""

Rows = Callable[[str, int | None], Batch]
"""Rows of all tasks of a split, ``support`` or ``query``: so many of each, or what there is; None for the update's."""


class LearnedLosses:
    """The losses of T tasks, composed from the library while a ``model`` trains.

    bank: what a policy that retrieves asks, such as a :class:`LossBank`; without one nothing is known.
    encoder: kind of the model's encoder, as the bank calls it.
    evidence: :class:`LookAhead` or :class:`OneStep` on the model, to move shares by what is seen in this training.
    total_steps: of the training, for the moments at which the bank is asked.

    Call :meth:`begin` before every update and train task t with the t-th mixture; call :meth:`end` after it. Either may
    want to see rows: ``rows("support", 256)``, say, the model on so many of every task.

    Raises ConfigError for names that are unknown or do not fit a task.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        model: nn.Module,
        config: ComposerConfig | None = None,
        *,
        total_steps: int,
        bank: Adviser | None = None,
        encoder: str = "",
        evidence: Evidence | None = None,
        seed: int = 0,
    ) -> None:
        config = config or ComposerConfig()
        self.model, self.evidence, self.total_steps = model, evidence, total_steps
        device = next(model.parameters()).device
        options = None if evidence is None else evidence.options
        self.composer = Composer(tasks, config, options, bank, encoder, seed, device)
        self.questions = question_steps(config, total_steps)[: None if bank is not None else 1]
        # a context says how far losses fell since the moment before: so all moments of the bank are looked at
        moments = [step for step in moments_of(total_steps) if step <= max(self.questions, default=-1)]
        self.looks = sorted({*self.questions, *moments})
        # contexts (M, T, C) of all looks, not numbers before they were taken and where a task is made of more than its
        # reference; losses (T, 2) at the last look
        self.contexts = torch.full((len(self.looks), len(tasks), len(CONTEXT_NAMES)), float("nan"), device=device)
        self.before = torch.full((len(tasks), 2), float("nan"), device=device)

    def due(self, step: int) -> bool:
        """True when the composition may have changed after the step of this number, from 1, or is there at last."""
        alone = self.composer.policy.candidates == "reference"
        return not alone and (step == 1 or step in self.questions or self._measures(step))

    def _measures(self, step: int) -> bool:
        """True when evidence is measured, where there is anything to compare."""
        return self.evidence is not None and self.evidence.options.due(step) and self.composer.composes

    def _sizes(self, step: int) -> bool:
        """True when gradient sizes are measured: at steps 1, 2, 4 ... and then every so many; by evidence, if any."""
        due = step & (step - 1) == 0 if step < EVERY else step % EVERY == 0
        return self.evidence is None and due and self.composer.composes

    def begin(self, step: int, rows: Rows) -> list[Mixture]:
        """Before the update of ``step`` (from 1): the mixture that every task is to be trained with."""
        if step == 1:
            self._look(0, rows)
        if self.evidence is not None:
            self.evidence.begin(step)
        return self.composer.mixtures()

    def end(
        self,
        step: int,
        rows: Rows,
        *,
        query_gradient: Sequence[Tensor | None] | None = None,
        lam: Tensor | None = None,
    ) -> None:
        """After the update of ``step``: ask the bank, measure what losses contribute, when it is time for either.

        query_gradient: that of the outer objective after the update, by parameter, where the loop has it anyway.
        lam: (T,) weights of the tasks in the outer objective, where a method found any.
        """
        evidence, composer = self.evidence, self.composer
        if evidence is not None and query_gradient is not None:
            evidence.follow(query_gradient)
        if not self._look(step, rows) and self._sizes(step):
            held_out = rows("query", FEW) if self._reads_features() else None
            seen = observed(self.model, composer.tasks, rows("support", FEW), held_out, self._reads_features())
            composer.measure(seen, step)
        if evidence is not None and self._measures(step):
            support, query = (rows(split, evidence.rows) for split in ("support", "query"))
            composer.observe(evidence.moment(composer.tasks, support, query, lam), step)

    def repair(self, step: int, rows: Rows, error: DivergedError | LossError) -> bool:
        """After an update of ``step`` that ended in this error and changed nothing: switch off, with an event, the
        losses of the compositions that raised or are no finite numbers; True where there were any, so that the update
        can be taken with ``composer.mixtures()`` as they are then.

        The reference of a task is never switched off.
        """
        composer = self.composer

        def look() -> Sequence[TaskMoment]:
            return observed(self.model, composer.tasks, rows("support", None), None)

        return composer.repair(step, error, look)

    def _look(self, step: int, rows: Rows) -> bool:
        """Take the contexts after ``step``, where one is wanted, and ask the bank; whether it was."""
        if step not in self.looks:
            return False
        composer, progress = self.composer, min(step / self.total_steps, 1.0)
        support, query = (rows(split, ROWS) for split in ("support", "query"))
        seen = observed(self.model, composer.tasks, support, query, self._reads_features())
        contexts = []
        for t, (task, own) in enumerate(zip(composer.tasks, seen, strict=True)):
            assert own.query is not None
            before = None if self.before[t].isnan().any() else self.before[t]
            shot = snapshot(LOSSES[REFERENCES[task.target_kind]], own.support, own.query, progress, before)
            self.before[t] = torch.where(shot.losses.isfinite(), shot.losses, self.before[t])
            contexts.append(known(shot.context) if composer.alone(t) else torch.full_like(shot.context, float("nan")))
        self.contexts[self.looks.index(step)] = torch.stack(contexts)
        if step in self.questions:
            composer.ask(contexts, step, progress, step == self.questions[-1])
        composer.measure(seen, step)
        return True

    def _reads_features(self) -> bool:
        """True where a loss that is active compares gradients on features."""
        return any("features" in loss.needs for mixture in self.composer.mixtures() for loss in mixture.losses)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the bank, as tensors."""
        looks = {"looks": torch.tensor(self.looks), "contexts": self.contexts, "before": self.before}
        own = {**self.composer.state_dict(), **looks}
        return own if self.evidence is None else {**own, **self.evidence.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`; raises ConfigError for one of other tasks or another library."""
        own, of_composer = self.state_dict(), self.composer.state_dict()
        self.composer.load_state_dict({name: tensor for name, tensor in state.items() if name in of_composer})
        if state.keys() != own.keys() or any(state[name].shape != own[name].shape for name in own):
            raise ConfigError("LearnedLosses: this state is of other moments, another evidence or another version.")
        self.contexts, self.before = state["contexts"].to(self.contexts), state["before"].to(self.before)
        if self.evidence is not None:
            self.evidence.load_state_dict(state)
