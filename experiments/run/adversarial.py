"""AdvMTL (Liu, Qiu, Huang, ACL 2017): the terms that training adds to the task losses of a shared-private model.

    L = sum_t w_t L_t + lambda sum_t L_adv,t + gamma sum_t ||S_t^T P_t||_F^2

The task weights belong to the task losses alone, as in the paper. So the added terms enter as a gradient of their own,
which the optimiser finds beside that of the weighted losses, whatever the method: were they part of L_t, a method that
puts all weight on one task would show the discriminator nothing else, and a negative weight would turn the game around.
The step divides the sum over tasks by T, and the same is done here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.experiments.config.model import ModelConfig
from lossrag.experiments.run.objective import BatchObjective
from lossrag.models import MultiTaskModel, Outputs, orthogonality
from lossrag.tasks import Suite
from lossrag.weighting import Losses

DISCRIMINATOR_LOSS = "discriminator/loss"
DISCRIMINATOR_ACCURACY = "discriminator/accuracy"
ORTHOGONALITY = "orthogonality"
"""Series of a run, one for each task."""


class Adversary:
    """Adds (1/T) sum_t (adversarial L_adv,t + orthogonal ||S_t^T P_t||^2) to what an optimiser minimises.

    model: shares as ``shared_private``, and has a discriminator if ``adversarial`` > 0. adversarial, orthogonal: the
    paper's lambda and gamma, 0 or more. penalty: scale of :func:`lossrag.models.adversarial`.
    """

    def __init__(self, model: MultiTaskModel, adversarial: float, orthogonal: float, penalty: str = "paper") -> None:
        self.model, self.adversarial, self.orthogonal, self.penalty = model, adversarial, orthogonal, penalty
        self._gradients: dict[Tensor, Tensor] = {}
        self._measured: dict[int, dict[str, Tensor]] = {}
        self._collecting = False

    def _measure(self, task: int, features: Tensor) -> dict[str, Tensor]:
        """The scalars of a task, from its features (B, 2 F), by the names of their series, without lambda and gamma;
        those that are off left out."""
        shared, private = self.model.parts(features)
        terms = {}
        if self.adversarial and self.model.discriminator is not None:
            terms[DISCRIMINATOR_LOSS] = self.model.discriminator.loss(shared, task)
            terms[DISCRIMINATOR_ACCURACY] = self.model.discriminator.accuracy(shared, task)
        if self.orthogonal:
            terms[ORTHOGONALITY] = orthogonality(shared, private, self.penalty)
        return terms

    def _weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        weights = {DISCRIMINATOR_LOSS: self.adversarial, ORTHOGONALITY: self.orthogonal}
        return torch.stack([weights[name] * value for name, value in terms.items() if name in weights]).sum()

    def series(self) -> list[str]:
        """The names in :meth:`measured`."""
        names = [DISCRIMINATOR_LOSS, DISCRIMINATOR_ACCURACY] if self.adversarial else []
        return names + ([ORTHOGONALITY] if self.orthogonal else [])

    def measured(self) -> dict[str, Tensor]:
        """Terms of the latest support batch before the update, (T,) by the name of the series; not yet read off the
        device."""
        tasks = sorted(self._measured)
        return {name: torch.stack([self._measured[task][name] for task in tasks]) for name in self.series()}

    def losses(self, inputs: Sequence[Tensor], objective: BatchObjective, *, joint: bool) -> Losses:
        """The task losses of one support batch, ``inputs[t]`` (B_t, ...); while they are computed for the first time,
        the gradient of the terms is collected from the same forward passes.

        joint: one forward pass for all tasks, and one backward pass for their terms.
        """
        self._gradients, self._measured, self._collecting = {}, {}, True
        if joint:
            return partial(self._every, inputs, objective)
        return [partial(self._one, task, batch, objective) for task, batch in enumerate(inputs)]

    def _one(self, task: int, inputs: Tensor, objective: BatchObjective) -> Tensor:
        outputs = self.model.outputs(inputs, task)
        self._collect({task: outputs})
        return objective.one(task, outputs)

    def _every(self, inputs: Sequence[Tensor], objective: BatchObjective) -> list[Tensor]:
        outputs = dict(enumerate(self.model.forward_joint(inputs)))
        self._collect(outputs)
        return [objective.one(task, own) for task, own in outputs.items()]

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """From now on every step of ``optimizer`` starts by adding the collected gradient to that of the losses."""
        optimizer.register_step_pre_hook(self._add)

    def _collect(self, outputs: dict[int, Outputs]) -> None:
        if not self._collecting:  # train.memory=low computes the losses again after the update
            return
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        terms = {task: self._measure(task, own.features) for task, own in outputs.items()}
        for task, values in terms.items():
            self._measured[task] = {name: value.detach() for name, value in values.items()}
        total = torch.stack([self._weighted(values) for values in terms.values()]).sum() / len(self.model.heads)
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                held = self._gradients.get(parameter)
                self._gradients[parameter] = gradient if held is None else held + gradient

    def _add(self, *_: Any) -> None:
        for parameter, gradient in self._gradients.items():
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self._gradients, self._collecting = {}, False


def build_adversary(config: ModelConfig, suite: Suite, model: MultiTaskModel) -> Adversary | None:
    """The added terms of a run, None where there are none; raises ConfigError where they make no sense."""
    if not config.adversarial and not config.orthogonal:
        return None
    if suite.shared_input:
        key = "model.adversarial" if config.adversarial else "model.orthogonal"
        raise ConfigError(
            f"{key} tells tasks apart by their inputs, but those of {suite.name!r} share theirs: set "
            "model.adversarial=0 model.orthogonal=0, or choose a suite with inputs of their own (tasks=sentiment)."
        )
    return Adversary(model, config.adversarial, config.orthogonal, config.penalty)
