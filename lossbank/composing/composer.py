"""Composer: decides during training what every task's loss is made of, and explains what it decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isnan
from typing import Any

import torch
from torch import Tensor

from lossrag.checks import require
from lossrag.errors import ConfigError, DivergedError, LossError
from lossrag.lossbank.composing.events import Event
from lossrag.lossbank.composing.evidence import EvidenceOptions, Moment, TaskMoment, TaskSpec
from lossrag.lossbank.composing.policies import POLICIES, ComposerConfig, library, spread, suits
from lossrag.lossbank.composing.retrieval import Adviser, Gain, explained, gains, ranked, shares_of
from lossrag.lossbank.composing.shares import MEMORY, ShareState
from lossrag.lossbank.experience.questions import Answer, Question
from lossrag.lossbank.experience.snapshots import REFERENCES
from lossrag.lossbank.library.batched import gradient_sizes
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.mixture import Mixture
from lossrag.lossbank.library.registration import LOSSES

SELDOM = 0.5
"""Share of the running gradient sizes that stays where they are measured on many rows and seldom: without evidence."""


class Composer:
    """The composition of T tasks over the library, decided and reviewed as training goes on.

    evidence: options of the evidence that moves the shares, which say how far to trust it; None for none.
    bank: what is asked where the policy retrieves. encoder: kind of the model's encoder, for the bank.

    A task without a label among the rows that are looked at is left as it is.

    Raises ConfigError for names that are unknown or do not fit a task, and for a policy that goes with no evidence, or
    with none at all. Whatever looks at rows raises DivergedError where a task's outputs or reference are no finite
    numbers there.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        config: ComposerConfig,
        evidence: EvidenceOptions | None = None,
        bank: Adviser | None = None,
        encoder: str = "",
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.tasks, self.config, self.evidence, self.seed = tuple(tasks), config, evidence, seed
        self.bank, self.encoder = bank, encoder
        self.policy = POLICIES[config.policy]
        text = f"{{policy}}={config.policy} learns shares from evidence: give it some, or take uniform."
        require(evidence is not None or self.policy.evidence != "must", config, text)
        text = f"{{policy}}={config.policy} learns no shares, so that evidence has nothing to move: take gradient."
        require(evidence is None or self.policy.evidence != "never", config, text)
        self.names = library(self.tasks, config, evidence)
        self.losses: list[Loss] = [LOSSES[name] for name in self.names]
        self.reference = [self.names.index(task.reference) for task in self.tasks]
        named = config.candidates is not None
        self.fitting = [
            [i for i, loss in enumerate(self.losses) if suits(loss, task, named) or loss.name == task.reference]
            for task in self.tasks
        ]
        # of every task, by number, the losses that were no finite number once
        self.broken: list[set[int]] = [set() for _ in self.tasks]
        self.state = ShareState.start(self._first(device))
        self.measurements = self.reviews = 0
        self.contributions = torch.zeros(len(self.tasks), len(self.names), dtype=torch.float64, device=device)
        self.events: list[Event] = []
        self._active = [self.state.listed(t) for t in range(len(self.tasks))]
        self._made: tuple[ShareState, list[list[int]], list[Mixture]] | None = None

    @property
    def composes(self) -> bool:
        """True where a task is made of more than its reference, or may be again."""
        return not all(self.alone(t) for t in range(len(self.tasks)))

    def alone(self, t: int) -> bool:
        """True where a task is trained with its reference alone, and nothing that evidence has switched off waits."""
        return self._concerned(t) == [self.reference[t]]

    def mixtures(self) -> list[Mixture]:
        """The mixture that every task is trained with at the next step; the same objects while nothing changes."""
        if self._made is not None and self._made[0] is self.state and self._made[1] == self._active:
            return self._made[2]
        coefficients = self.state.coefficients(self.reference)
        mixtures = []
        for t, active in enumerate(self._active):
            alone = active == [self.reference[t]]
            own = None if alone else coefficients[t, active].float()
            mixtures.append(Mixture(tuple(self.losses[i] for i in active), own, self.tasks[t].class_counts))
        self._made = self.state, list(self._active), mixtures
        return mixtures

    def compositions(self) -> dict[str, dict[str, float]]:
        """By task the shares of its active losses, largest first."""
        return {task.name: self._running(t) for t, task in enumerate(self.tasks)}

    def _running(self, t: int) -> dict[str, float]:
        own = {self.names[i]: share for i, share in enumerate(self.state.shares[t].tolist()) if share > 0}
        return {name: own[name] for name in sorted(own, key=lambda n: (-own[n], n))}

    def ask(self, contexts: Sequence[Tensor], step: int, progress: float, last: bool = True) -> None:
        """Ask the bank what every task is to be made of after ``step``, from its context (C,) at this ``progress``.

        A task that is made of more than its reference stays as it is: the contexts that the bank knows were taken
        under the reference alone, so that it would be compared with what it is not.

        last: no question follows, so that where nothing is known evidence, if any, may begin.
        """
        for t, context in enumerate(contexts):
            if not self.alone(t):
                continue
            if self.bank is None:
                self._silent(t, step, "There is no bank.", (), last)
            elif not bool(context.isfinite().all()):
                self._silent(t, step, "Its context is not finite, so the bank is not asked.", (), last)
            else:
                self._decide(t, step, self.bank.ask(self.question(t, context, progress)), last)
        self._active = [self.state.listed(t) for t in range(len(self.tasks))]

    def question(self, t: int, context: Tensor, progress: float) -> Question:
        """What a bank is asked about a task in this context (C,): all losses that fit it, but for the one that gains
        are counted from."""
        kind = self.tasks[t].target_kind
        offered = [self.names[i] for i in self.fitting[t] if self.names[i] != REFERENCES[kind]]
        return Question(context.cpu().numpy(), progress, self.encoder, kind, offered)

    def gains(self, t: int, answer: Answer) -> dict[str, Gain]:
        """What every loss that fits a task gains over its reference; nothing where the bank knows nothing alike."""
        fitting = {self.names[i] for i in self.fitting[t]}
        found = gains(answer, self.tasks[t].reference) if answer.known else {}
        return {name: gain for name, gain in found.items() if name in fitting}

    def _decide(self, t: int, step: int, answer: Answer, last: bool) -> None:
        reference = self.tasks[t].reference
        told = ("source", "task", "encoder", "trouble")
        cases = tuple(
            {**{key: getattr(near.case, key) for key in told}, "distance": round(float(near.distance), 3)}
            for near in answer.neighbours
        )
        found = self.gains(t, answer)
        if not found:
            self._silent(t, step, explained(answer, found, {}, reference), cases, last)
            return
        bounds = ranked(found, reference, self.config, len(answer.neighbours) if step == 0 else 1)
        lines = [f"{place}. {name} {found[name]}, {found[name].trials} trials" for place, name in enumerate(bounds, 1)]
        if lines:
            self._tell(step, t, next(iter(bounds)), "ranked", "\n".join(lines), cases)
        if bounds:
            new = shares_of(bounds, reference, self.config.temperature)
            self.state = self.state.composed(t, {self.names.index(name): share for name, share in new.items()})
        shown = self._running(t)
        reason = explained(answer, found, shown, reference)
        self._tell(step, t, next(iter(shown)), "composed" if bounds else "kept", reason, cases, shown)

    def _silent(self, t: int, step: int, why: str, cases: tuple[Mapping[str, Any], ...], last: bool) -> None:
        """Where nothing is known the reference stays alone; evidence gets losses that look at the task in different
        ways, the reference with half of the share."""
        what = f"{self.tasks[t].reference} stays alone."
        if last and self.evidence is not None:
            first = self.reference[t]
            others = [i for i in spread(first, self.fitting[t], self.losses, self.config.k + 1) if i != first]
            if others:
                half = 0.5 / len(others)
                self.state = self.state.composed(t, {first: 0.5, **dict.fromkeys(others, half)})
                what = f"Evidence chooses among {len(others)} losses that look at it in different ways."
        shown = self._running(t)
        self._tell(step, t, next(iter(shown)), "silent", f"{why} {what}", cases, shown)

    def measure(self, tasks: Sequence[TaskMoment], step: int) -> None:
        """Bring the losses of every task to the gradient size of its reference, seen on these rows after ``step``."""
        for t in self._present(tasks, step):
            self._measure_sizes(t, tasks[t], self._concerned(t), SELDOM, step)

    def observe(self, moment: Moment, step: int) -> None:
        """Measure what losses contribute at ``step``, move the shares, and review them when it is time."""
        assert self.evidence is not None
        present = self._present(moment.tasks, step)
        for t in present:
            self._measure_sizes(t, moment.tasks[t], self._concerned(t), MEMORY, step)
        measured: list[list[int]] = [[] for _ in self.tasks]
        for t in present:
            judged = [self.evidence.judges(self.losses[i], i in self._active[t]) for i in self._concerned(t)]
            measured[t] = [i for i, known in zip(self._concerned(t), judged, strict=True) if known]
        contributions = self._contributions(moment, measured, step)
        known = torch.split(torch.cat(contributions).isfinite(), [len(losses) for losses in measured])
        self.contributions = torch.zeros_like(self.contributions)
        for t in present:
            self._drop(t, measured[t], known[t], step)
            losses = [i for i in measured[t] if i not in self.broken[t]]
            self.contributions[t, losses] = new = contributions[t][known[t]]
            read = self.evidence.read(self.state, t, losses, new)
            self.state = self.evidence.moved(self.state, t, losses, read)
        self.measurements += 1
        if self._review_due(self.evidence.review):
            self.reviews += 1
            for t in range(len(self.tasks)):
                self._switch_off(t, step)
                self._retry(t, step)
                self._active[t] = self.state.listed(t)

    def _contributions(self, moment: Moment, measured: list[list[int]], step: int) -> list[Tensor]:
        """What the ``measured`` losses of every task contribute; those that raise are taken out, of the lists too."""

        def found(chosen: Sequence[Sequence[int]]) -> list[Tensor]:
            sizes = [self.state.sizes[t, list(losses)] for t, losses in enumerate(chosen)]
            return moment.contributions([[self.losses[i] for i in losses] for losses in chosen], sizes)

        while True:
            try:
                return found(measured)
            except LossError as error:
                raised = [
                    {i: why for i in own if (why := _raises(partial(found, self._only(measured, t, i)))) is not None}
                    for t, own in enumerate(measured)
                ]
                if not any(raised):  # not when it is asked again: those that were computed together then
                    raised = [{i: error for i in own if self.names[i] in error.losses} for own in measured]
                if not any(raised):
                    raise
                for t, losses in enumerate(raised):
                    none = torch.zeros(len(losses), dtype=torch.bool)
                    self._drop(t, list(losses), none, step, list(losses.values()))
                    measured[t] = [i for i in measured[t] if i not in losses]

    def _only(self, measured: Sequence[Sequence[int]], t: int, i: int) -> list[list[int]]:
        """One loss of a task, beside the references that everything is compared with."""
        own = [[self.reference[other]] if losses else [] for other, losses in enumerate(measured)]
        own[t] = sorted({i, self.reference[t]} & set(measured[t]))
        return own

    def repair(self, step: int, error: DivergedError | LossError, look: Callable[[], Sequence[TaskMoment]]) -> bool:
        """After an update of ``step`` that was refused: take the losses of the mixtures out that raised or were no
        finite numbers in it, or are none on the rows of a ``look``; whether there were any beside references."""
        trained = self.mixtures()
        if isinstance(error, LossError):
            names = [[loss.name for loss in mixture.losses if loss.name in error.losses] for mixture in trained]
        else:
            names = [[name for computed in mixture.last for name in computed.broken()] for mixture in trained]
        found = [[i for i in map(self.names.index, own) if i != self.reference[t]] for t, own in enumerate(names)]
        several = isinstance(error, LossError) and len(error.losses) > 1
        if isinstance(error, DivergedError) or several:
            moments = look()
            alone = [self._broken_alone(t, seen) for t, seen in enumerate(moments)]
            if several or not any(found):
                found = alone if any(alone) else found
            if isinstance(error, DivergedError):  # where the reference is none either, it is not for the losses
                found = [own if own and self._sound(t, moments[t]) else [] for t, own in enumerate(found)]
        for t, own in enumerate(found):
            why = [error if isinstance(error, LossError) else None] * len(own)
            self._drop(t, own, torch.zeros(len(own), dtype=torch.bool), step, why)
        return any(found)

    def _broken_alone(self, t: int, seen: TaskMoment) -> list[int]:
        """The losses of a task's mixture, but for its reference, that raise or are no finite numbers on these rows."""
        if not self._sound(t, seen):
            return []
        return [i for i in self._active[t] if i != self.reference[t] and self._broken(i, seen)]

    def _sound(self, t: int, seen: TaskMoment) -> bool:
        """True where a task has outputs and a reference that are finite numbers."""
        return bool(seen.finite & seen.present) and not self._broken(self.reference[t], seen)

    def _broken(self, i: int, seen: TaskMoment) -> bool:
        try:
            sizes, _ = gradient_sizes(seen.support, [self.losses[i]], seen.per_feature)
        except LossError:
            return True
        return isnan(float(sizes[0]))

    def _present(self, tasks: Sequence[TaskMoment], step: int) -> list[int]:
        """Numbers of the tasks that have labels where they were looked at, and outputs that are finite numbers; without
        these a training that has begun ends here, and one that has not in its first step."""
        seen = torch.stack([torch.stack([task.present, task.finite]) for task in tasks]).tolist()
        lost = [task.name for task, (_, finite) in zip(self.tasks, seen, strict=True) if not finite]
        if lost and step:
            made = [f"{task} with {', '.join(shares)}" for task, shares in self.compositions().items()]
            raise DivergedError(
                f"Step {step}: what the model puts out for {', '.join(lost)} is no finite number. Lower the learning "
                "rate, look for bad inputs, or for a loss that is none where others are: the tasks were trained, "
                f"{'; '.join(made)}."
            )
        return [t for t, (present, finite) in enumerate(seen) if present and finite]

    def _concerned(self, t: int) -> list[int]:
        """The losses of a task that are active, those that evidence has switched off, and the reference."""
        off = (self.state.off_until[t] > 0).nonzero().flatten().tolist()
        return sorted({*self._active[t], *off, self.reference[t]})

    def _measure_sizes(self, t: int, task: TaskMoment, wanted: list[int], memory: float, step: int) -> None:
        if wanted == [self.reference[t]]:
            return
        losses = [self.losses[i] for i in [*wanted, self.reference[t]]]
        try:
            sizes, coverage = gradient_sizes(task.support, losses, task.per_feature)
        except LossError as error:
            alone = {
                i: _raises(partial(gradient_sizes, task.support, [self.losses[i]], task.per_feature)) for i in wanted
            }
            raised = {i: why for i, why in alone.items() if why is not None}
            if not raised:  # not when it is asked again: those that were computed together then
                raised = {i: error for i in wanted if self.names[i] in error.losses}
            self._drop(t, list(raised), torch.zeros(len(raised), dtype=torch.bool), step, list(raised.values()))
            self._measure_sizes(t, task, [i for i in wanted if i not in raised], memory, step)
            return
        known = sizes[:-1].isfinite()
        self._drop(t, wanted, known, step)
        left = [i for i in wanted if i not in self.broken[t]]
        beside = coverage[:-1] / coverage[-1].clamp(min=1e-12)
        self.state = self.state.observe_sizes(t, left, sizes[:-1][known], sizes[-1], beside[known], memory)

    def _drop(
        self, t: int, losses: Sequence[int], known: Tensor, step: int, raised: Sequence[LossError | None] = ()
    ) -> None:
        """Take the losses of a task that are not ``known`` (n,), booleans, as finite numbers at a step out of it for
        good, for what they ``raised`` (n,) if anything; its reference, alone where nothing else is left, cannot be one
        of them."""
        why = dict(zip(losses, raised, strict=True)) if raised else {}
        broken = [i for i, fine in zip(losses, known.tolist(), strict=True) if not fine]
        for i in broken:
            name, task = self.names[i], self.tasks[t].name
            error = why.get(i)
            if i == self.reference[t] and error is not None:
                raise LossError([name], f"Step {step}: the reference of the task {task} fails. {error}") from error
            if i == self.reference[t]:
                raise DivergedError(
                    f"Step {step}: the loss {name} of the task {task}, its reference, or a gradient of it is no finite "
                    "number on the rows that losses are compared on. Look for bad targets of that task, or lower the "
                    "learning rate."
                )
            self.broken[t].add(i)
            self.state = self.state.removed(t, i)
            what = f"its values or gradients are no finite numbers at step {step}" if error is None else str(error)
            reason = f"{what.rstrip('.')}: it is out of this task for good"
            self._tell(step, t, i, "off", reason)
        if broken:
            self._forget_broken(t)

    def _forget_broken(self, t: int) -> None:
        self.fitting[t] = [i for i in self.fitting[t] if i not in self.broken[t]]
        if not self.state.listed(t):
            self.state = self.state.switched(t, self.reference[t], True)
        self._active[t] = self.state.listed(t)

    def _review_due(self, every: int) -> bool:
        """After every so many measurements, and after 4, 8 and 16 too: a run begins with a guess."""
        count = self.measurements
        early = 4 <= count < every and count & (count - 1) == 0
        return early or count % every == 0

    def _switch_off(self, t: int, step: int) -> None:
        """Switch off what harms; where a bank is asked the reference stays."""
        state = self.state
        advantage = state.advantage[t]
        limit = advantage + self.config.confidence * state.uncertainty[t]
        stays = {max(self._active[t], key=lambda i: float(state.shares[t, i]))}
        stays |= {self.reference[t]} if self.policy.candidates == "bank" else set()
        harmful = [i for i in self._active[t] if i not in stays and float(limit[i]) < 0 and int(state.count[t, i]) > 1]
        active, off = state.active.clone(), state.off_until.clone()
        for i in harmful:
            active[t, i] = False
            off[t, i] = self.reviews + self.config.retry
            less, error = float(advantage[i]), float(state.uncertainty[t, i])
            self._tell(step, t, i, "off", f"contribution {less:+.3f} beside the mixture's, standard error {error:.3f}")
        self.state = replace(state, active=active, off_until=off)

    def _retry(self, t: int, step: int) -> None:
        """Let back, at their own scores, what has been off for so many reviews."""
        active, until = self.state.active, self.state.off_until
        for i in self._concerned(t):
            if not active[t, i] and 0 < int(until[t, i]) <= self.reviews:
                self.state = self.state.switched(t, i, True)
                self._tell(step, t, i, "retry", f"off for {self.config.retry} reviews")

    def _first(self, device: torch.device | None) -> Tensor:
        active = torch.zeros(len(self.tasks), len(self.names), dtype=torch.bool, device=device)
        for t in range(len(self.tasks)):
            active[t, self._choices(t)] = True
        return active

    def _choices(self, t: int) -> list[int]:
        """The losses that a task starts with."""
        k, fitting = self.config.k, self.fitting[t]
        if self.policy.candidates in ("reference", "bank"):
            return [self.reference[t]]
        if self.policy.candidates == "all" or k >= len(fitting):
            return fitting
        generator = torch.Generator().manual_seed((self.seed << 16) + t)
        return sorted(fitting[i] for i in torch.randperm(len(fitting), generator=generator)[:k].tolist())

    def _tell(
        self,
        step: int,
        t: int,
        loss: int | str,
        what: str,
        reason: str,
        cases: tuple[Mapping[str, Any], ...] = (),
        shares: Mapping[str, float] | None = None,
    ) -> None:
        name = loss if isinstance(loss, str) else self.names[loss]
        self.events.append(Event(step, self.tasks[t].name, name, what, reason, cases, shares or {}))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the bank, as tensors."""
        counts = {"measurements": torch.tensor(self.measurements), "reviews": torch.tensor(self.reviews)}
        broken = torch.tensor([[i in own for i in range(len(self.names))] for own in self.broken])
        return {**self.state.state_dict(), **counts, "contributions": self.contributions, "broken": broken}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`; raises ConfigError for one of other tasks or another library."""
        own = self.state_dict()
        same = state.keys() == own.keys() and all(
            (state[name].shape, state[name].dtype) == (tensor.shape, tensor.dtype) for name, tensor in own.items()
        )
        if not same:
            raise ConfigError("Composer: this state is of other tasks, another library of losses or another version.")
        self.measurements, self.reviews = int(state["measurements"]), int(state["reviews"])
        tensors = {name: state[name].to(own[name]) for name in self.state.state_dict()}
        self.state, self.contributions = ShareState(**tensors), state["contributions"].to(self.contributions)
        self.broken = [set(own.nonzero().flatten().tolist()) for own in state["broken"]]
        for t in range(len(self.tasks)):
            self._forget_broken(t)


def _raises(call: Callable[[], object]) -> LossError | None:
    try:
        call()
    except LossError as error:
        return error
    return None
