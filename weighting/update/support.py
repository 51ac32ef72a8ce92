"""Support side of a step: from the losses at the old parameters to weights, and to the gradient of the update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.weighting.base import Needs, Signals, State, Weighting, numbers
from lossrag.weighting.gradients.engine import Engine
from lossrag.weighting.gradients.features import Representation
from lossrag.weighting.gradients.places import columns, places
from lossrag.weighting.gradients.replay import Replay
from lossrag.weighting.parallel.tally import Rows
from lossrag.weighting.state.host import weigh_on_host
from lossrag.weighting.state.presence import weigh_present
from lossrag.weighting.training.closures import Ordered, Value
from lossrag.weighting.update.finite import finite
from lossrag.weighting.update.judge import OVERFLOW, Judge
from lossrag.weighting.update.micro_batches import MicroBatches

Features = Callable[[], Sequence[Tensor]]
WEIGHTS = "weights"


@dataclass(frozen=True, eq=False)
class Gathered:
    """The support side of a step: losses (T,), weights (T,), and which tasks were there; replay: to see it again."""

    losses: Tensor
    weights: Tensor
    present: tuple[int, ...]
    skipped: str | None = None
    replay: Replay | None = None


@dataclass(frozen=True)
class Inputs:
    """What a loop gives a step beside its losses; rows: the number of rows that those of a task are means over."""

    epoch: int | None
    scores: Callable[[], Tensor] | None
    representation: Features | None
    rows: Rows | None = None


class SupportSide:
    """The support side of the steps of a method over named tasks, with what it remembers between them: its ``state``
    and the number ``count`` of steps."""

    def __init__(self, weighting: Weighting, tasks: tuple[str, ...], engine: Engine, memory: str) -> None:
        self.weighting, self.tasks, self.engine, self.memory = weighting, tasks, engine, memory
        self.needs: Needs = weighting.needs
        self.state: State = weighting.init(len(tasks), engine.parameters[0].device)
        self.micro = MicroBatches(len(tasks))
        self.count = 0

    @property
    def parameters(self) -> list[Tensor]:
        """Those of the last step: first the ones that are compared, then those that are trained beside them."""
        return self.engine.parameters

    @property
    def task_weights(self) -> Tensor:
        """The weights (T,) of the next step."""
        return self.state[WEIGHTS]

    def mask(self, there: Sequence[int]) -> tuple[bool, ...]:
        """(T,) true for these tasks."""
        return tuple(task in there for task in range(len(self.tasks)))

    def route(self, learns: bool) -> Callable[[Ordered, Inputs, Judge], Gathered]:
        needs = self.needs
        if self.memory == "low" and needs.hypergradient is not None:
            return self._update_in_turn
        wanted = needs if learns else replace(needs, hypergradient=None)
        return self._update_by_rows if self.micro.any or wanted.rows else self._update_joint

    def _update_joint(self, support: Ordered, inputs: Inputs, judge: Judge) -> Gathered:
        """(1/n) sum_t w_t grad L_t over the n tasks present: one backward pass, and one more above the features for
        each task where gradients are compared there."""
        values = self.engine.passes.values(support)
        present = judge.present(values, lambda task: self.engine.is_silent(values[task]))
        representation = self._representation(inputs, values, present)
        told = self._told(values)
        weights = self.task_weights
        if not judge.overflowed:
            weights = self._weigh(told, inputs, present, judge, representation=representation)
        there = torch.stack([value for t in present if (value := values[t]) is not None])
        share = weights[columns(present, weights.device)]
        if representation is not None and self.needs.applies_to == "shared":
            representation.backward(share)
        else:
            total = (there * share.to(there.dtype)).mean() * self.engine.passes.scale
            total.backward()  # type: ignore[no-untyped-call]
        return Gathered(told, weights, present, OVERFLOW if judge.overflowed else None)

    def _update_in_turn(self, support: Ordered, inputs: Inputs, judge: Judge) -> Gathered:
        """The same update with one task's graph and gradient at a time; the weights cannot depend on the losses."""
        replay = Replay(self.parameters, support, trusted=judge.policy == "trust")
        every = tuple(range(len(self.tasks)))
        unknown = torch.full((len(self.tasks),), float("nan"), device=self.engine.parameters[0].device)
        weights = self._weigh(unknown, inputs, every, judge)
        values = self.engine.passes.accumulate(replay.recording(), weights / len(weights))
        replay.values = values
        present = judge.present(values, replay.is_silent)
        if present != every:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad *= len(every) / len(present)
        return Gathered(self._told(values), weights, present, replay=replay)

    def _update_by_rows(self, support: Ordered, inputs: Inputs, judge: Judge) -> Gathered:
        """The same update from the T gradient rows, which Gramian or hypergradient (Eq. 9) need."""
        needs, rows = self.needs, self.engine.rows
        values, present, representation = self._settled(support, inputs, judge)
        told = self._told(values)
        gramian = rows.gramian(own=needs.gramian == "all") if needs.gramian else None
        overflowed = judge.overflowed or (judge.reads(gramian) and not finite([gramian]))
        if overflowed and self.engine.passes.scale == 1:
            judge.refuse(judge.products(present))
        # an overflow is what a gradient scaler looks for: the gradient stays as it is, the weights as they were
        weights = (
            self.task_weights
            if overflowed
            else self._weigh(told, inputs, present, judge, gramian=gramian, representation=representation)
        )
        own = torch.ones_like(weights) if needs.applies_to == "shared" else weights
        if len(present) < len(self.tasks):
            there = numbers([float(task in present) for task in range(len(self.tasks))], weights)
            weighed, own = weights.where(there > 0, 0.0), own * there
        else:
            weighed = weights
        combined = rows.combine(weighed / len(present), own / len(present))
        for parameter, gradient in zip(self.parameters, combined, strict=True):
            parameter.grad = gradient
        return Gathered(told, weights, present, OVERFLOW if overflowed else None)

    def _settled(
        self, support: Ordered, inputs: Inputs, judge: Judge
    ) -> tuple[list[Value], tuple[int, ...], Representation | None]:
        """The losses, the tasks that are there, and what is compared at the features; the rows hold the gradients."""
        rows, micro = self.engine.dense_rows, self.micro
        compared: list[Representation | None] = []

        def look(values: list[Value]) -> None:
            there = judge.present(values, lambda task: self.engine.is_silent(values[task]))
            compared.append(self._representation(inputs, values, there))

        self.add_micro(support, look if self.needs.representation else None)
        values = micro.means()
        rows.scale = self.engine.passes.scale
        present = judge.present(values, rows.silent if micro.single else rows.finite)
        device = self.engine.parameters[0].device
        rows.settle(present, None if micro.single else micro.batches.to(device, non_blocking=True))
        return values, present, compared[0] if compared else None

    def add_micro(self, support: Ordered, look: Callable[[list[Value]], None] | None = None) -> None:
        engine, micro = self.engine, self.micro
        if not micro.any:
            engine.rows.clear()
        values = engine.passes.gradients(support, engine.dense_rows.write, look, tapped=micro.whole)
        micro.add(values)

    def _told(self, values: Sequence[Value]) -> Tensor:
        """The losses (T,), no numbers where a task is absent."""
        like = next(value for value in values if value is not None)
        return torch.stack([like.new_full((), float("nan")) if v is None else v.detach() for v in values])

    def _representation(self, inputs: Inputs, values: Sequence[Value], present: Sequence[int]) -> Representation | None:
        if inputs.representation is None or self.needs.representation is None:
            return None
        features = list(inputs.representation())
        if len(features) == len(self.tasks):
            features = [features[task] for task in present]
        losses = [value for task in present if (value := values[task]) is not None]
        return Representation(features, losses, [self.tasks[task] for task in present])

    def _scores(self, inputs: Inputs) -> Tensor | None:
        return inputs.scores().detach() if self.needs.scores and inputs.scores is not None else None

    def _weigh(
        self,
        losses: Tensor,
        inputs: Inputs,
        present: tuple[int, ...],
        judge: Judge,
        gramian: Tensor | None = None,
        representation: Representation | None = None,
    ) -> Tensor:
        reached = self._scores(inputs)
        if reached is not None and reached.shape != losses.shape:
            raise ConfigError(
                f"MultiTaskStep: expected {len(losses)} scores, one per task, got shape {tuple(reached.shape)}."
            )
        at_features = representation.gramian(self.needs.representation or "rows") if representation else None
        if at_features is not None and len(present) < len(losses):
            whole = at_features.new_zeros(len(losses), len(losses))
            place = places(present, whole.device)
            whole[place[:, None], place] = at_features
            at_features = whole
        signals = Signals(losses, gramian, reached, inputs.epoch or 0, self.count, at_features)
        solves = gramian is not None or at_features is not None
        weigh = weigh_on_host if solves and judge.reads_device else weigh_present
        weights, self.state = weigh(self.weighting, self.state, signals, self.mask(present))
        judge.weights({**self.state, WEIGHTS: weights}, present, losses.unbind())
        return weights
