"""Judge of a step's values: which tasks are there, and what is not finite, before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from lossrag.errors import DivergedError
from lossrag.weighting.base import State
from lossrag.weighting.gradients.engine import Engine
from lossrag.weighting.gradients.random_state import RandomState, random_state, set_random_state
from lossrag.weighting.gradients.rows import TaskGradients
from lossrag.weighting.parallel.group import Group
from lossrag.weighting.training.closures import Ordered, TaskGroup, Value
from lossrag.weighting.training.optimizers import Optimizers
from lossrag.weighting.training.readable import readable
from lossrag.weighting.update.finite import InputWatch, cause, finite, magnitude

OVERFLOW = "the scaled gradients overflowed, which is for the gradient scaler to answer"


class SkippedStep(Exception):  # noqa: N818  # no error: what the policy asks for
    """A step that changes nothing, and why."""


@dataclass(eq=False)
class Judge:
    """Of one step, of this number. policy: see ``MultiTaskStep(nonfinite=...)``; ``trust`` reads nothing.

    random: the state that the passes began with. group: the processes that take the step together.
    overflowed: losses of a gradient scaler left the range of numbers, which is for the scaler to answer.
    """

    policy: str
    number: int
    tasks: tuple[str, ...]
    engine: Engine
    optimizers: Optimizers
    support: Ordered
    random: RandomState
    group: Group | None = None
    overflowed: bool = False

    def reads(self, value: Tensor | None) -> bool:
        """True where a value may be read back from the device."""
        return self.policy != "trust" and value is not None and readable(value)

    @property
    def reads_device(self) -> bool:
        """True where the parameters are on a device beside the host, and its values may be read."""
        parameter = self.engine.parameters[0]
        return parameter.device.type != "cpu" and self.reads(parameter)

    def present(self, values: Sequence[Value], silent: Callable[[int], bool]) -> tuple[int, ...]:
        """The tasks that have a loss in the support batch; silent: whether a task's gradient is 0.

        Raises DivergedError, or SkippedStep, for losses that are not finite, and SkippedStep where no task is there.
        """
        there = [task for task, value in enumerate(values) if value is not None]
        if there and self.reads(values[there[0]]):
            numbers = torch.stack([value.detach().double() for value in values if value is not None]).tolist()
            bad = {task: number for task, number in zip(there, numbers, strict=True) if not math.isfinite(number)}
            absent = [task for task, number in bad.items() if math.isnan(number) and silent(task)]
            wrong = [f"{self.tasks[task]} ({number})" for task, number in bad.items() if task not in absent]
            self.overflowed = bool(wrong) and self.engine.passes.scale != 1
            if wrong and not self.overflowed:
                self.refuse(f"the support loss is not finite for {', '.join(wrong)}")
            there = [task for task in there if task not in absent]
        if not there:
            raise SkippedStep("no task had a labelled row")
        return tuple(there)

    def gradient(self, present: Sequence[int], unscaled: bool) -> float:
        """The :func:`magnitude` of the update's gradient and of the running statistics after its passes, 0 where they
        are not read; refuses what is not finite. Of a gradient that is left scaled, a scaler looks for that itself."""
        parameters, statistics = self.engine.parameters, self.engine.statistics
        scaled = self.engine.passes.scale != 1 and not unscaled
        if scaled or self.overflowed or not self.reads(parameters[0]):
            return 0.0
        gradients = [parameter.grad for parameter in parameters]
        size = magnitude([*gradients, *statistics])
        if not math.isfinite(size):
            if not finite(gradients):
                self.refuse(self.blame(present))
            broken = [name for name, own in self.engine.named_statistics.items() if not finite([own])]
            if broken:
                self.refuse(f"the running statistic {broken[0]} is not finite, though the losses are")
        return size

    def held(self) -> float:
        """The :func:`magnitude` of what an update is about to move; refuses what is not finite."""
        held = self.optimizers.moving()
        size = magnitude(held)
        if not math.isfinite(size) and not finite(held):
            self.refuse("there is no update")
        return size

    def update(self, broken: str, present: Sequence[int]) -> NoReturn:
        """Refuse an update that would leave the tensor of this name not finite."""
        large = self._tasks_with(present, lambda parts: magnitude(parts) < 1)
        if large:
            self.refuse(
                f"the gradient{self._told(large)} is finite, but too large: {broken} would not be finite after the "
                "update"
            )
        rates = ", ".join(f"{rate:g}" for rate in self.optimizers.rates())
        self.refuse(
            f"{broken} would not be finite after the update{self._told(present)}, at a learning rate of {rates}"
        )

    def weights(self, state: State, present: Sequence[int], told: Sequence[Tensor]) -> None:
        """Refuse weights, and what a method remembers, that are not finite."""
        if not self.reads(state["weights"]) or math.isfinite(magnitude(state.values())) or finite(state.values()):
            return
        broken = ", ".join(name for name, own in state.items() if not finite([own]))
        sizes = {task: abs(float(told[task])) for task in present if math.isfinite(float(told[task]))}
        at = max(sizes, key=lambda task: sizes[task], default=None)
        largest = "" if at is None else f"; the largest is that of {self.tasks[at]} ({sizes[at]:.1e})"
        self.refuse(f"what the weighting made of the losses is not finite ({broken}){largest}")

    def learned(self, state: State, D: Tensor, there: Sequence[int]) -> str | None:
        """What a method learned from D (T, T) that is not finite, if anything is."""
        if not self.reads(state["weights"]) or math.isfinite(magnitude(state.values())) or finite(state.values()):
            return None
        broken = ", ".join(name for name, own in state.items() if not finite([own]))
        sizes = D.double().abs().sum(dim=1).tolist()
        at = max(there, key=lambda task: sizes[task])
        return (
            f"what the weighting learned is not finite ({broken}); the largest hypergradient is that of "
            f"{self.tasks[at]} ({sizes[at]:.1e})"
        )

    def blame(self, present: Sequence[int]) -> str:
        """Whose gradient is not finite."""
        return f"the gradient is not finite{self._told(self._tasks_with(present, finite))}, though the losses are"

    def products(self, present: Sequence[int]) -> str:
        """Whose gradients have inner products that are not finite."""
        found = self._tasks_with(present, finite)
        if found:
            return f"the gradient is not finite{self._told(found)}, though the losses are"
        large = self._told(self._tasks_with(present, lambda parts: magnitude(parts) < 1))
        return f"the gradient{large} is finite, but too large: its inner products with others are not"

    def _told(self, tasks: Sequence[int]) -> str:
        return f" for {', '.join(self.tasks[task] for task in tasks)}" if tasks else ""

    def _tasks_with(self, present: Sequence[int], fine: Callable[[list[Tensor]], bool]) -> list[int]:
        """The tasks whose gradients are not ``fine``: where they are not held apart, they are computed once more, and
        tell by a parameter of one task alone where that gives others."""
        held = [task for task in present if not fine(self.engine.rows.of(task))]
        if self.group is not None:
            held = [task for task in present if not self.engine.rows.finite(task)]
        return held or self._seen_again(present, fine)

    def _seen_again(self, present: Sequence[int], fine: Callable[[list[Tensor]], bool]) -> list[int]:
        engine, parameters = self.engine, self.engine.parameters
        combined = [parameter.grad for parameter in parameters]
        broken: set[int] = set()
        touched: dict[int, set[int]] = {}

        def take(gradients: TaskGradients) -> None:
            for place, task in enumerate(gradients.tasks):
                parts = {position: gradient[place] for position, gradient in gradients.shared.items()}
                for positions, gradient in gradients.own:
                    lengths = [parameters[position].shape[0] for position in positions]
                    parts[positions[place]] = torch.split(gradient, lengths)[place]
                touched[task] = set(parts)
                if not fine(list(parts.values())):
                    broken.add(task)

        now = random_state(parameters)
        set_random_state(parameters, self.random)
        try:
            engine.passes.gradients(self.support, take, tapped=False)
        except Exception:  # the cause is wanted, not another error
            broken.clear()
        set_random_state(parameters, now)
        own = {
            position: tasks[0]
            for position in range(len(parameters))
            if len(tasks := [task for task in touched if position in touched[task]]) == 1
        }
        tells = {
            task
            for position, task in own.items()
            if (gradient := combined[position]) is not None and not fine([gradient])
        }
        found = torch.tensor([float(task in (broken or tells)) for task in range(len(self.tasks))])
        if self.group is not None:
            found = self.group.gather(found.to(self.group.device)).amax(0)
        return [task for task in present if found[task]]

    def refuse(self, what: str) -> NoReturn:
        """Raise DivergedError, or SkippedStep as the policy says, with the cause as far as it can be seen."""
        if self.policy == "skip":
            raise SkippedStep(what)
        engine = self.engine
        states = self.optimizers.named_states(engine.names_by_id())
        because = cause(engine.parameters, engine.names, states, self._inputs())
        raise DivergedError(
            f"Step {self.number}: {what}: {because}. Nothing was changed by this step. Lower the learning rate, or "
            "take out what is wrong; nonfinite='skip' leaves such steps out."
        )

    def _inputs(self) -> list[Tensor] | None:
        """What the model reads in the support pass, None where it has no modules or the pass cannot be repeated."""
        parameters = self.engine.parameters
        now = random_state(parameters)
        set_random_state(parameters, self.random)
        entries = [self.support] if callable(self.support) else self.support
        with InputWatch() as watch, torch.no_grad():
            try:
                for entry in entries:
                    if not isinstance(entry, TaskGroup):
                        entry()
            except Exception:  # the cause is wanted, not another error
                return None
            finally:
                set_random_state(parameters, now)
        return watch.inputs or None

    def query_present(
        self, outer: Sequence[int], values: Sequence[Value], D: Tensor
    ) -> tuple[tuple[int, ...], str | None]:
        """The tasks of the outer problem that have a query loss, and what is not finite, if anything is.

        D: (T, T), its rows those of the query losses.
        """
        there = [task for task, value in zip(outer, values, strict=True) if value is not None]
        if not there or not self.reads(D):
            return tuple(there), None
        losses = torch.stack([value.double() for value in values if value is not None])
        read = torch.stack([losses, D[there].double().abs().sum(dim=1)]).tolist()
        absent = [t for t, loss, row in zip(there, *read, strict=True) if row == 0 and math.isnan(loss)]
        # 0 * logits.sum() is how people write an absent task: its row would be the shortest, and stop all others
        zero = [t for t, loss, row in zip(there, *read, strict=True) if row == 0 and loss == 0]
        absent += zero if len(zero) + len(absent) < len(there) else []
        wrong = [
            f"{'query loss' if not math.isfinite(loss) else 'hypergradient'} is not finite for {self.tasks[task]}"
            for task, loss, row in zip(there, *read, strict=True)
            if task not in absent and not (math.isfinite(loss) and math.isfinite(row))
        ]
        left = tuple(task for task in there if task not in absent)
        if wrong and self.engine.passes.scale != 1 and all(word.startswith("hyper") for word in wrong):
            return (), OVERFLOW
        return left, f"the {', the '.join(wrong)}" if wrong else None
