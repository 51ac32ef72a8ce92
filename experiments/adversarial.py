"""AdvMTL (Liu, Qiu, Huang, ACL 2017): the terms that training adds to the task losses of a shared-private model.

    L = sum_t w_t L_t + lambda sum_t L_adv,t + gamma sum_t ||S_t^T P_t||_F^2

The task weights belong to the task losses alone, as in the paper. So the added terms enter as a gradient of their own,
which the optimiser finds beside that of the weighted losses, whatever the method: were they part of L_t, a method that
puts all weight on one task would show the discriminator nothing else, and a negative weight would turn the game around.
The step divides the sum over tasks by T, and the same is done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.config.sharing import ModelConfig
from experiments.objective import BatchObjective
from lossrag import ConfigError
from models import MultiTaskModel, Outputs, orthogonality
from tasks import Suite
from weighting import Losses


class Adversary:
    """Adds (1/T) sum_t (adversarial L_adv,t + orthogonal ||S_t^T P_t||^2) to what an optimiser minimises.

    model: shares as ``shared_private``, and has a discriminator if ``adversarial`` > 0.
    adversarial, orthogonal: the paper's lambda and gamma, 0 or more. penalty: scale of :func:`models.orthogonality`.
    """

    def __init__(self, model: MultiTaskModel, adversarial: float, orthogonal: float, penalty: str = "paper") -> None:
        self.model, self.adversarial, self.orthogonal, self.penalty = model, adversarial, orthogonal, penalty
        self._gradients: dict[Tensor, Tensor] = {}
        self._collecting = False

    def term(self, task: int, features: Tensor) -> Tensor:
        """What a task adds: a scalar from its features (B, 2 F), its loss beside it not included."""
        shared, private = self.model.parts(features)
        total = features.new_zeros(())
        if self.adversarial and self.model.discriminator is not None:
            total = total + self.adversarial * self.model.discriminator.loss(shared, task)
        if self.orthogonal:
            total = total + self.orthogonal * orthogonality(shared, private, self.penalty)
        return total

    def losses(self, inputs: Sequence[Tensor], objective: BatchObjective, *, joint: bool) -> Losses:
        """The task losses of one support batch, ``inputs[t]`` (B_t, ...); while they are computed for the first time,
        the gradient of the terms is collected from the same forward passes.

        joint: one forward pass for all tasks, and one backward pass for their terms.
        """
        self._gradients, self._collecting = {}, True
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
        return [objective.one(task, each) for task, each in outputs.items()]

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """From now on every step of ``optimizer`` starts by adding the collected gradient to that of the losses."""
        optimizer.register_step_pre_hook(self._add)

    def _collect(self, outputs: dict[int, Outputs]) -> None:
        if not self._collecting:  # train.memory=low computes the losses again after the update
            return
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        terms = torch.stack([self.term(task, each.features) for task, each in outputs.items()])
        total = terms.sum() / len(self.model.heads)
        found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
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
