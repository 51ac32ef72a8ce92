"""Judge of a step's values: which tasks are there, and what is not finite, before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from lossrag.errors import DivergedError
from lossrag.weighting.gradients.engine import Engine
from lossrag.weighting.gradients.random_state import random_state, set_random_state
from lossrag.weighting.training.closures import Ordered, TaskGroup, Value
from lossrag.weighting.training.optimizers import Optimizers
from lossrag.weighting.training.readable import readable
from lossrag.weighting.update.finite import InputWatch, cause, finite

OVERFLOW = "the scaled gradients overflowed, which is for the gradient scaler to answer"


class SkippedStep(Exception):  # noqa: N818  # no error: what the policy asks for
    """A step that changes nothing, and why."""


@dataclass(eq=False)
class Judge:
    """Of one step, of this number. policy: see ``MultiTaskStep(nonfinite=...)``; ``trust`` reads nothing.

    overflowed: losses of a gradient scaler left the range of numbers, which is for the scaler to answer.
    """

    policy: str
    number: int
    tasks: tuple[str, ...]
    engine: Engine
    optimizers: Optimizers
    support: Ordered
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

    def gradient(self, present: Sequence[int]) -> None:
        """Refuse an update that is not finite; a gradient scaler looks for that itself."""
        parameters = self.engine.parameters
        if self.engine.passes.scale != 1 or not self.reads(parameters[0]):
            return
        if not finite(parameter.grad for parameter in parameters):
            self.refuse(self.blame(present))

    def blame(self, present: Sequence[int]) -> str:
        """Whose gradient is not finite, where gradients are held apart."""
        named = ", ".join(self.tasks[task] for task in present if not self.engine.rows.finite(task))
        return f"the gradient is not finite{f' for {named}' if named else ''}, though the losses are"

    def refuse(self, what: str) -> NoReturn:
        """Raise DivergedError, or SkippedStep as the policy says, with the cause as far as it can be seen."""
        if self.policy == "skip":
            raise SkippedStep(what)
        because = cause(self.engine.parameters, self.engine.names, self.optimizers.states(), self._inputs())
        raise DivergedError(
            f"Step {self.number}: {what}: {because}. Nothing was changed by this step. Lower the learning rate, or "
            "take out what is wrong; nonfinite='skip' leaves such steps out."
        )

    def _inputs(self) -> list[Tensor] | None:
        """What the model reads in the support pass, None where it has no modules or the pass cannot be repeated."""
        parameters = self.engine.parameters
        state = random_state(parameters)
        entries = [self.support] if callable(self.support) else self.support
        with InputWatch() as watch, torch.no_grad():
            try:
                for entry in entries:
                    if not isinstance(entry, TaskGroup):
                        entry()
            except Exception:  # the cause is wanted, not another error
                return None
        set_random_state(parameters, state)
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
