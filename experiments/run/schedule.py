"""Learning rates over a run: a warm-up, then constant or falling to 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lossrag.experiments.config.optimizer import OptimizerConfig


def lr_factor(schedule: str, warmup: int, step: int, steps: int) -> float:
    """Factor of the learning rates at ``step``, from 0, of ``steps``, the first ``warmup`` of which rise.

    ``linear`` and ``cosine`` end at 0 after the last step, which itself still moves.

    >>> [lr_factor("linear", 2, step, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> [round(lr_factor("cosine", 0, step, 4), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / (steps - warmup))
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Schedule:
    """Sets the learning rates of a run's optimiser, a function of the step alone: nothing of it is in a checkpoint.

    rates: of its groups, before training.
    """

    config: OptimizerConfig
    optimizer: torch.optim.Optimizer
    rates: tuple[float, ...]
    steps: int

    @staticmethod
    def of(config: OptimizerConfig, optimizer: torch.optim.Optimizer, steps: int) -> Schedule:
        """For a fresh optimiser and a run of so many steps."""
        return Schedule(config, optimizer, tuple(float(group["lr"]) for group in optimizer.param_groups), steps)

    def set(self, step: int) -> None:
        """The learning rates of this step, from 0; those of a constant schedule are left alone."""
        if not self.config.scheduled:
            return
        warmup = math.ceil(self.config.warmup * self.steps)
        factor = lr_factor(self.config.schedule, warmup, step, self.steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
