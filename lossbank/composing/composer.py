"""Composer: decides during training what every task's loss is made of, and explains what it decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from lossrag.checks import require
from lossrag.errors import ConfigError
from lossrag.lossbank.composing.evidence import EvidenceOptions, Moment, TaskMoment, TaskSpec
from lossrag.lossbank.composing.policies import POLICIES, ComposerConfig, library, spread, suits
from lossrag.lossbank.composing.shares import ShareState
from lossrag.lossbank.library.batched import gradient_sizes
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.mixture import Mixture
from lossrag.lossbank.library.registration import LOSSES
from lossrag.lossbank.shape.geometry import geometry

ROTATION = 16
"""Gradient sizes measured at a moment besides those of the active losses: what is measured does not grow with L."""


@dataclass(frozen=True)
class Event:
    """A loss that was retrieved, dropped or switched off for a task at a step, and why."""

    step: int
    task: str
    loss: str
    what: str
    reason: str


class Retriever(Protocol):
    """Predicts contributions from what is remembered."""

    def remember(self, context: Tensor, names: Sequence[str], contributions: Tensor, task: str, step: int) -> None:
        """Keep the contributions (n,) that losses made in a context (C,)."""

    def predict(self, task: str, context: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Mean and uncertainty (n,) of the contributions to expect."""


class Composer:
    """The composition of T tasks over the library, learned and reviewed as training goes on.

    evidence: options of the evidence that measures contributions; they say how far to trust it.
    warm: the retriever remembers other runs, so candidates are retrieved right after the first measurement.

    Raises ConfigError for names that are unknown or do not fit a task.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        config: ComposerConfig,
        evidence: EvidenceOptions,
        retriever: Retriever | None = None,
        seed: int = 0,
        warm: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.tasks, self.config, self.evidence, self.seed = tuple(tasks), config, evidence, seed
        self.policy = POLICIES[config.policy]
        require(
            retriever is not None or not self.policy.retrieves,
            config,
            f"{{policy}}={config.policy} retrieves losses: give it a retriever to ask.",
        )
        self.retriever, self.warm = retriever, warm and retriever is not None
        self.names = library(self.tasks, config, evidence)
        self.losses: list[Loss] = [LOSSES[name] for name in self.names]
        self.reference = [self.names.index(task.reference) for task in self.tasks]
        named = config.candidates is not None
        self.fitting = [
            [i for i, loss in enumerate(self.losses) if suits(loss, task, named) or loss.name == task.reference]
            for task in self.tasks
        ]
        self.state = ShareState.start(self._first(device))
        self.measurements = self.reviews = 0
        vectors = torch.nn.functional.normalize(torch.stack([geometry(loss) for loss in self.losses]), dim=1)
        self._likeness = vectors @ vectors.T
        self.contributions = torch.zeros(len(self.tasks), len(self.names), dtype=torch.float64, device=device)
        self.events: list[Event] = []
        self._active = [self.state.listed(t) for t in range(len(self.tasks))]

    def mixtures(self) -> list[Mixture]:
        """The mixture that every task is trained with at the next step."""
        coefficients = self.state.coefficients(self.reference)
        return [
            Mixture(tuple(self.losses[i] for i in active), coefficients[t, active].float(), self.tasks[t].class_counts)
            for t, active in enumerate(self._active)
        ]

    def compositions(self) -> dict[str, dict[str, float]]:
        """By task the shares of its active losses, largest first."""
        shares = [dict(zip(self.names, row, strict=True)) for row in self.state.shares.tolist()]
        return {
            task.name: {name: own[name] for name in sorted(own, key=lambda n: (-own[n], n)) if own[name] > 0}
            for task, own in zip(self.tasks, shares, strict=True)
        }

    def observe(self, moment: Moment, contexts: Sequence[Tensor], step: int) -> None:
        """Measure what losses contribute at ``step``, move the shares, and review the candidates when it is time.

        contexts: one vector (C,) per task.
        """
        measured = [self._to_measure(t, context) for t, context in enumerate(contexts)]
        for t, task in enumerate(moment.tasks):
            self._measure_sizes(t, task, measured[t])
        sizes = [self.state.sizes[t, losses] for t, losses in enumerate(measured)]
        contributions = moment.contributions([[self.losses[i] for i in losses] for losses in measured], sizes)
        for t, losses in enumerate(measured):
            self.contributions[t] = 0
            self.contributions[t, losses] = contributions[t]
            read = self.evidence.read(self.state, t, losses, contributions[t])
            self.state = self.evidence.moved(self.state, t, losses, read, self.learns)
            if self.retriever is not None:
                names = [self.names[i] for i in losses]
                self.retriever.remember(contexts[t], names, read, self.tasks[t].name, step)
        self.measurements += 1
        if self._review_due():
            self.reviews += 1
            for t, context in enumerate(contexts):
                self._review(t, context, step)

    @property
    def learns(self) -> bool:
        """True where contributions move the shares."""
        return self.policy.learned and self.config.learn

    def _to_measure(self, t: int, context: Tensor) -> list[int]:
        """The losses that the evidence can judge; of a large library the reference, the active ones, those that are
        retrieved, and the rest by turns."""
        able = [i for i in self.fitting[t] if self.evidence.judges(self.losses[i], i in self._active[t])]
        most = self.evidence.most
        if most is None or len(able) <= most:
            return able
        chosen = dict.fromkeys([self.reference[t], *(i for i in self._active[t] if i in able)])
        rest = [i for i in able if i not in chosen]
        if self.retriever is not None:
            mean, uncertainty = self.retriever.predict(self.tasks[t].name, context, [self.names[i] for i in rest])
            order = (mean + uncertainty).argsort(descending=True, stable=True).tolist()
            chosen.update(dict.fromkeys(rest[o] for o in order[: max(most - len(chosen), 0) // 2]))
            rest = [i for i in rest if i not in chosen]
        room = max(most - len(chosen), 0)
        start = self.measurements * room % len(rest)
        return sorted([*chosen, *(rest + rest)[start : start + min(room, len(rest))]])

    def _measure_sizes(self, t: int, task: TaskMoment, measured: list[int]) -> None:
        waiting = [i for i in measured if i not in self._active[t]]
        start = self.measurements * ROTATION % max(len(waiting), 1)
        turn = waiting if self.measurements == 0 else (waiting + waiting)[start : start + min(ROTATION, len(waiting))]
        wanted = [*self._active[t], *turn]
        losses = [self.losses[i] for i in [*wanted, self.reference[t]]]
        sizes, coverage = gradient_sizes(task.support, losses, task.per_feature)
        beside = coverage[:-1] / coverage[-1].clamp(min=1e-12)
        self.state = self.state.observe_sizes(t, wanted, sizes[:-1], sizes[-1], beside)

    def _review_due(self) -> bool:
        """After every so many measurements; in a run that begins with a guess after 4, 8 and 16 too, and after the
        first where there is a memory of other runs."""
        every, count = self.evidence.review, self.measurements
        early = 4 <= count < every and count & (count - 1) == 0
        return early or count % every == 0 or (count == 1 and self.warm)

    def _review(self, t: int, context: Tensor, step: int) -> None:
        """Switch off what harms, and choose the candidates anew where they are retrieved."""
        if self.learns:
            self._switch_off(t, step)
        if self.policy.retrieves:
            self._retrieve(t, context, step)
        elif self.learns:
            self._retry(t, step)
        self._active[t] = self.state.listed(t)

    def _switch_off(self, t: int, step: int) -> None:
        state = self.state
        advantage = state.advantage[t]
        limit = advantage + self.config.confidence * state.uncertainty[t]
        best = max(self._active[t], key=lambda i: float(state.shares[t, i]))
        harmful = [i for i in self._active[t] if i != best and float(limit[i]) < 0 and int(state.count[t, i]) > 1]
        active, off = state.active.clone(), state.off_until.clone()
        for i in harmful:
            active[t, i] = False
            off[t, i] = self.reviews + self.config.retry
            less, error = float(advantage[i]), float(state.uncertainty[t, i])
            self._tell(step, t, i, "off", f"contribution {less:+.3f} beside the mixture's, standard error {error:.3f}")
        self.state = replace(state, active=active, off_until=off)

    def _retry(self, t: int, step: int) -> None:
        state = self.state
        off = [i for i in self._choices(t) if not state.active[t, i]]
        back = [i for i in off if 0 < int(state.off_until[t, i]) <= self.reviews]
        for i in back:
            self.state = self.evidence.entered(self.state, t, i, float(state.mean[t, i]), self.learns)
            self._tell(step, t, i, "retry", f"off for {self.config.retry} reviews")

    def _retrieve(self, t: int, context: Tensor, step: int) -> None:
        assert self.retriever is not None
        state = self.state
        open_ = [i for i in self.fitting[t] if int(state.off_until[t, i]) <= self.reviews]
        mean, uncertainty = self.retriever.predict(self.tasks[t].name, context, [self.names[i] for i in open_])
        expected = dict(zip(open_, self.evidence.expected(state, t, open_, mean).tolist(), strict=True))
        doubt = dict(zip(open_, uncertainty.tolist(), strict=True))
        shares = state.shares[t].tolist()
        kept = [i for i in self._active[t] if state.active[t, i] and shares[i] >= 1 / self.config.k]
        ranked = sorted((i for i in open_ if i not in kept), key=lambda i: (-expected[i], self.names[i]))
        self._tell_ranks(step, t, expected, doubt)
        room = max(self.config.k - len(kept), 0)
        promising = self._unlike(ranked, kept, max(room - self.config.explore, 0))
        rest = sorted(set(ranked) - set(promising), key=lambda i: (-(expected[i] + doubt[i]), self.names[i]))
        explored = self._unlike(rest, [*kept, *promising], room - len(promising))
        chosen = {*kept, *promising, *explored}
        for i in self._active[t]:
            if state.active[t, i] and i not in chosen:
                self.state = self.state.switched(t, i, False)
                self._tell(step, t, i, "dropped", f"expected {expected.get(i, 0.0):+.3f}, share {shares[i]:.3f}")
        for i in [*promising, *explored]:
            if not self.state.active[t, i]:
                self.state = self.evidence.entered(self.state, t, i, expected[i], self.learns)
                why = "explored" if i in explored else "retrieved"
                self._tell(step, t, i, why, f"expected {expected[i]:+.3f} ± {doubt[i]:.3f}")

    def _tell_ranks(self, step: int, t: int, expected: dict[int, float], doubt: dict[int, float]) -> None:
        best = sorted(expected, key=lambda i: (-expected[i], self.names[i]))[: self.config.k]
        lines = [f"{r}. {self.names[i]} {expected[i]:+.3f} ± {doubt[i]:.3f}" for r, i in enumerate(best, 1)]
        if best:
            self._tell(step, t, best[0], "ranked", "\n".join(lines))

    def _unlike(self, ranked: Sequence[int], chosen: Sequence[int], count: int) -> list[int]:
        """The first ``count`` of ``ranked`` that are no near twin of one that is chosen already."""
        unlike: list[int] = []
        for i in ranked:
            if len(unlike) == count:
                break
            if all(self.evidence.tells_apart(float(self._likeness[i, j])) for j in [*chosen, *unlike]):
                unlike.append(i)
        return unlike

    def _first(self, device: torch.device | None) -> Tensor:
        active = torch.zeros(len(self.tasks), len(self.names), dtype=torch.bool, device=device)
        for t in range(len(self.tasks)):
            active[t, self._choices(t)] = True
        return active

    def _choices(self, t: int) -> list[int]:
        """The losses that a task starts with."""
        k, fitting = self.config.k, self.fitting[t]
        if self.policy.candidates == "reference":
            return [self.reference[t]]
        if self.policy.candidates == "all" or k >= len(fitting):
            return fitting
        if self.policy.candidates == "random":
            generator = torch.Generator().manual_seed((self.seed << 16) + t)
            return sorted(fitting[i] for i in torch.randperm(len(fitting), generator=generator)[:k].tolist())
        return spread(self.reference[t], fitting, self.losses, k)

    def _tell(self, step: int, t: int, i: int, what: str, reason: str) -> None:
        self.events.append(Event(step, self.tasks[t].name, self.names[i], what, reason))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything but the bank, as tensors."""
        # (names of the stored format, which checkpoints of older runs have)
        counts = {"pricings": torch.tensor(self.measurements), "reviews": torch.tensor(self.reviews)}
        return {**self.state.state_dict(), **counts, "prices": self.contributions}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`; raises ConfigError when it is of other tasks or another library."""
        own = self.state_dict()
        if state.keys() != own.keys() or any(state[name].shape != own[name].shape for name in own):
            raise ConfigError("Composer: this state is of other tasks or another library of losses.")
        self.measurements, self.reviews = int(state["pricings"]), int(state["reviews"])
        tensors = {name: state[name].to(own[name]) for name in self.state.state_dict()}
        self.state, self.contributions = ShareState(**tensors), state["prices"].to(self.contributions)
        self._active = [self.state.listed(t) for t in range(len(self.tasks))]
