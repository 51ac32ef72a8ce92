"""Decides during training what every task's loss is made of, and explains what it decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.lossbank.composing.candidates import TaskSpec, library, spread, suits
from lossrag.lossbank.composing.composition import Composition, Event, Retriever
from lossrag.lossbank.composing.look_ahead import HeadView, look_ahead, savings
from lossrag.lossbank.composing.one_step import Lens, cosines, gradient_sizes, joint_contributions
from lossrag.lossbank.composing.policies import POLICIES, ComposerConfig, price_due, review_due
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.mixture import Mixture
from lossrag.lossbank.library.registration import LOSSES
from lossrag.lossbank.shape.geometry import geometry

TWIN = 0.995
"""Cosine of geometries above which two losses are one lens twice."""
ROTATION = 16
"""Gradient sizes measured at a pricing besides those of the active losses: what is measured does not grow with L."""
JUDGED = 64
"""Losses that a look ahead judges for a task at a time."""


class Composer:
    """The composition of T tasks over the library, learned and reviewed as training goes on.

    warm: the retriever remembers other runs, so candidates are retrieved right after the first pricing.

    Raises ConfigError for names that are unknown or do not fit a task, and for k larger than the library allows.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        config: ComposerConfig,
        retriever: Retriever | None,
        seed: int = 0,
        warm: bool = False,
    ) -> None:
        self.tasks, self.config, self.retriever, self.seed = tuple(tasks), config, retriever, seed
        self.warm = warm and retriever is not None
        self.policy = POLICIES[config.policy]
        if self.policy.candidates in ("knn", "two_tower") and retriever is None:
            raise ConfigError(f"loss.policy={config.policy} needs a bank to retrieve from.")
        self.names = library(self.tasks, config, self.policy.candidates)
        self.losses: list[Loss] = [LOSSES[name] for name in self.names]
        self.reference = [self.names.index(task.reference) for task in self.tasks]
        self.fitting = [
            [
                i
                for i, loss in enumerate(self.losses)
                if suits(loss, task, config.candidates is not None) or loss.name == task.reference
            ]
            for task in self.tasks
        ]
        counts = [task.class_counts for task in self.tasks if task.class_counts is not None]
        device = counts[0].device if counts else torch.device("cpu")
        self.composition = Composition.start(self._first(device))
        self.pricings = self.reviews = 0
        vectors = torch.nn.functional.normalize(torch.stack([geometry(loss) for loss in self.losses]), dim=1)
        self._likeness = vectors @ vectors.T
        self.prices = torch.zeros(len(self.tasks), len(self.names), dtype=torch.float64, device=device)
        self.events: list[Event] = []
        self._active = [self.composition.listed(t) for t in range(len(self.tasks))]

    def mixtures(self) -> list[Mixture]:
        """What every task is trained with at the next step."""
        coefficients = self.composition.coefficients(self.reference)
        return [
            Mixture(tuple(self.losses[i] for i in active), coefficients[t, active].float(), self.tasks[t].class_counts)
            for t, active in enumerate(self._active)
        ]

    def due(self, step: int) -> bool:
        """Whether the step of this number (from 1) is to be priced."""
        return price_due(self.config, step)

    def price(self, lenses: Sequence[Lens], contexts: Sequence[Tensor], step: int) -> None:
        """Price the losses of every task at ``step``, move the shares, and review the candidates when it is time.

        lenses: one per task. contexts: one vector (C,) per task.
        """
        priced = [
            [i for i in fitting if not self.losses[i].relational or i in active]
            for fitting, active in zip(self.fitting, self._active, strict=True)
        ]
        raw = joint_contributions(lenses, [[self.losses[i] for i in each] for each in priced])
        for t, lens in enumerate(lenses):
            self._measure(t, lens, priced[t])
            raw[t] = cosines(lens, raw[t], self.composition.sizes[t, priced[t]])
        self._learn(priced, raw, contexts, step)

    def judge(self, lenses: Sequence[Lens], views: Sequence[HeadView], contexts: Sequence[Tensor], step: int) -> None:
        """As :meth:`price`, by what the losses make of the tasks' heads in the long run (composing/look_ahead.py)."""
        priced = [self._to_judge(t, context) for t, context in enumerate(contexts)]
        outer = look_ahead(views, [[self.losses[i] for i in each] for each in priced], self.config.horizon)
        found = []
        for t, view in enumerate(views):
            self._measure(t, lenses[t], priced[t])
            found.append(savings(view, outer[t], priced[t].index(self.reference[t])))
        self._learn(priced, found, contexts, step)

    def _to_judge(self, t: int, context: Tensor) -> list[int]:
        """The losses that a look ahead judges: all that have something to say to a head; of a large library the
        reference, the active ones, those that are retrieved, and the rest by turns."""
        able = [i for i in self.fitting[t] if not self.losses[i].relational]
        if len(able) <= JUDGED:
            return able
        chosen = dict.fromkeys([self.reference[t], *(i for i in self._active[t] if i in able)])
        rest = [i for i in able if i not in chosen]
        if self.retriever is not None:
            mean, uncertainty = self.retriever.predict(self.tasks[t].name, context, [self.names[i] for i in rest])
            order = (mean + uncertainty).argsort(descending=True, stable=True).tolist()
            chosen.update(dict.fromkeys(rest[o] for o in order[: max(JUDGED - len(chosen), 0) // 2]))
            rest = [i for i in rest if i not in chosen]
        room = max(JUDGED - len(chosen), 0)
        start = self.pricings * room % len(rest)
        return sorted([*chosen, *(rest + rest)[start : start + min(room, len(rest))]])

    def _learn(
        self, priced: Sequence[list[int]], prices: Sequence[Tensor], contexts: Sequence[Tensor], step: int
    ) -> None:
        """From the prices (n_t,) of the losses ``priced[t]``."""
        config = self.config
        decay = config.pace.decay
        gain, unit = (decay, config.temperature) if config.far else (config.step, None)
        gain = gain if self.policy.learned and config.learn else 0.0
        for t, (losses, found) in enumerate(zip(priced, prices, strict=True)):
            self.prices[t] = 0
            self.prices[t, losses] = found
            state = self.composition
            seen = found * state.worth(t, losses) if config.far else state.centred(t, losses, found)
            self.composition = state.observe_prices(t, losses, seen, gain, decay, unit)
            if self.retriever is not None:
                names = [self.names[i] for i in losses]
                self.retriever.remember(contexts[t], names, seen, self.tasks[t].name, step)
        self.pricings += 1
        if review_due(config, self.pricings, self.warm):
            self.reviews += 1
            for t, context in enumerate(contexts):
                self._review(t, context, step)

    def _measure(self, t: int, lens: Lens, priced: list[int]) -> None:
        waiting = [i for i in priced if i not in self._active[t]]
        start = self.pricings * ROTATION % max(len(waiting), 1)
        turn = waiting if self.pricings == 0 else (waiting + waiting)[start : start + min(ROTATION, len(waiting))]
        wanted = [*self._active[t], *turn]
        sizes, coverage = gradient_sizes(lens, [self.losses[i] for i in [*wanted, self.reference[t]]])
        beside = coverage[:-1] / coverage[-1].clamp(min=1e-12)
        self.composition = self.composition.observe_sizes(t, wanted, sizes[:-1], sizes[-1], beside)

    def _review(self, t: int, context: Tensor, step: int) -> None:
        """Switch off what harms, and choose the candidates anew where they are retrieved."""
        learned = self.policy.learned and self.config.learn
        if learned:
            self._switch_off(t, step)
        if self.policy.candidates in ("knn", "two_tower"):
            self._retrieve(t, context, step)
        elif learned:
            self._retry(t, step)
        self._active[t] = self.composition.listed(t)

    def _switch_off(self, t: int, step: int) -> None:
        state = self.composition
        advantage = state.advantage[t]
        limit = advantage + self.config.confidence * state.uncertainty[t]
        harmful = [i for i in self._active[t] if float(limit[i]) < 0 and int(state.count[t, i]) > 1]
        best = max(self._active[t], key=lambda i: float(state.shares[t, i]))
        active, off = state.active.clone(), state.off_until.clone()
        for i in harmful:
            if i == best:
                continue
            active[t, i] = False
            off[t, i] = self.reviews + self.config.retry
            less, error = float(advantage[i]), float(state.uncertainty[t, i])
            self._tell(step, t, i, "off", f"price {less:+.3f} beside the mixture's, standard error {error:.3f}")
        self.composition = replace(state, active=active, off_until=off)

    def _retry(self, t: int, step: int) -> None:
        state = self.composition
        off = [i for i in self._choices(t) if not state.active[t, i]]
        back = [i for i in off if 0 < int(state.off_until[t, i]) <= self.reviews]
        for i in back:
            self._enter(t, i, float(state.mean[t, i]))
            self._tell(step, t, i, "retry", f"off for {self.config.retry} reviews")

    def _retrieve(self, t: int, context: Tensor, step: int) -> None:
        assert self.retriever is not None
        state = self.composition
        open_ = [i for i in self.fitting[t] if int(state.off_until[t, i]) <= self.reviews]
        mean, uncertainty = self.retriever.predict(self.tasks[t].name, context, [self.names[i] for i in open_])
        if self.config.far:  # what was seen n times here weighs as n against what is remembered of elsewhere
            seen = state.count[t, open_].double().cpu()
            mean = (mean + seen * state.scores[t, open_].cpu() * self.config.temperature) / (1 + seen)
        expected = dict(zip(open_, mean.tolist(), strict=True))
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
                self.composition = self.composition.switched(t, i, False)
                self._tell(step, t, i, "dropped", f"expected {expected.get(i, 0.0):+.3f}, share {shares[i]:.3f}")
        for i in [*promising, *explored]:
            if not self.composition.active[t, i]:
                self._enter(t, i, expected[i])
                why = "explored" if i in explored else "retrieved"
                self._tell(step, t, i, why, f"expected {expected[i]:+.3f} ± {doubt[i]:.3f}")

    def _tell_ranks(self, step: int, t: int, expected: dict[int, float], doubt: dict[int, float]) -> None:
        best = sorted(expected, key=lambda i: (-expected[i], self.names[i]))[: self.config.k]
        lines = [f"{r}. {self.names[i]} {expected[i]:+.3f} ± {doubt[i]:.3f}" for r, i in enumerate(best, 1)]
        if best:
            self._tell(step, t, best[0], "ranked", "\n".join(lines))

    def _unlike(self, ranked: Sequence[int], chosen: Sequence[int], count: int) -> list[int]:
        """The first ``count`` of ``ranked`` that are no near twin of one that is chosen already. A look far ahead tells
        twins apart."""
        if self.config.far:
            return list(ranked[:count])
        found: list[int] = []
        for i in ranked:
            if len(found) == count:
                break
            if all(float(self._likeness[i, j]) <= TWIN for j in [*chosen, *found]):
                found.append(i)
        return found

    def _enter(self, t: int, i: int, expected: float) -> None:
        """Let a loss in. It stands at its own score if it was priced long enough, else where one review of learning
        at its expected price would have put it."""
        state, config = self.composition, self.config
        pace = config.pace
        learned = self.policy.learned and config.learn
        if int(state.count[t, i]) >= pace.review and (learned or not config.far):
            self.composition = state.switched(t, i, True)
            return
        scores = state.scores.clone()
        if config.far:
            scores[t, i] = expected / config.temperature
            self.composition = replace(state, scores=scores).switched(t, i, True)
            return
        shares = state.shares[t]
        level = float((shares * state.scores[t]).sum())
        better = (expected - float((shares * state.mean[t]).sum())) / float(state.typical(t))
        lasting = pace.review if pace.decay == 0 else min(pace.review, 1 / pace.decay)
        gain = config.step * lasting if learned else 1.0
        scores[t, i] = level + gain * max(min(better, 2.0), -2.0)
        self.composition = replace(state, scores=scores).switched(t, i, True)

    def _first(self, device: torch.device) -> Tensor:
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
        counts = {"pricings": torch.tensor(self.pricings), "reviews": torch.tensor(self.reviews)}
        return {**self.composition.state_dict(), **counts, "prices": self.prices}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`; raises ConfigError when it is of other tasks or another library."""
        own = self.state_dict()
        if state.keys() != own.keys() or any(state[name].shape != own[name].shape for name in own):
            raise ConfigError("Composer: this state is of other tasks or another library of losses.")
        self.pricings, self.reviews = int(state["pricings"]), int(state["reviews"])
        tensors = {name: state[name].to(own[name]) for name in self.composition.state_dict()}
        self.composition, self.prices = Composition(**tensors), state["prices"].to(self.prices)
        self._active = [self.composition.listed(t) for t in range(len(self.tasks))]
