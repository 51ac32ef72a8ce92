"""Gradients with respect to the features that all heads read, and an update with one backward pass below them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.weighting.gradients.places import places


class Representation:
    """The features of T tasks and the gradients of their losses with respect to them.

    features: one tensor (B_t, F) per task; the same object where tasks share it. Tasks that do not are compared as if
        the rows of the others were beside theirs: their inner products are 0.
    losses: T scalars computed from them. Raises ConfigError when a feature tensor needs no gradient, when a loss does
        not depend on its own, or when there are not T of them.

    >>> z = torch.tensor([[1.0, 2.0]], requires_grad=True) * 1.0
    >>> representation = Representation([z, z], [z.sum(), (2 * z[:, 0]).sum()], ["a", "b"])
    >>> representation.gramian("rows").tolist()
    [[2.0, 2.0], [2.0, 4.0]]
    """

    def __init__(self, features: Sequence[Tensor], losses: Sequence[Tensor], tasks: Sequence[str]) -> None:
        if len(features) != len(losses):
            raise ConfigError(
                f"MultiTaskStep: expected the features of {len(losses)} tasks from representation(), got "
                f"{len(features)}: return one tensor per task, the same one for tasks that share it."
            )
        self.features, self.losses = list(features), list(losses)
        parts = zip(features, losses, tasks, strict=True)
        self.gradients = [_gradient(feature, loss, task) for feature, loss, task in parts]

    def gramian(self, align: str) -> Tensor:
        """Inner products (T, T) of the gradients: ``rows`` by row, ``mean`` of their sums (F,) over the rows."""
        if align == "mean":
            sums = torch.stack([gradient.flatten(1).sum(0) for gradient in self.gradients])
            return sums @ sums.mT
        tasks = len(self.gradients)
        total = self.gradients[0].new_zeros(tasks, tasks)
        for members in self._by_tensor().values():
            rows = torch.stack([self.gradients[t].flatten() for t in members])
            index = places(members, total.device)
            total[index[:, None], index] = rows @ rows.mT
        return total

    def backward(self, weights: Tensor) -> None:
        """Add to the parameters' ``grad``: sum_t weights[t] / T grad L_t below the features, grad L_t / T above them.

        One backward pass: on its way down, the gradient that arrives at the features is exchanged for the weighted one.
        """
        share = weights / len(weights)
        hooks = []
        for members in self._by_tensor().values():
            parts = [self.gradients[t] * share[t].to(self.gradients[t].dtype) for t in members]
            weighted = torch.stack(parts).sum(0)
            feature = self.features[members[0]]
            hooks.append(feature.register_hook(lambda _, weighted=weighted: weighted))  # type: ignore[no-untyped-call]
        torch.stack(self.losses).mean().backward()  # type: ignore[no-untyped-call]
        for hook in hooks:
            hook.remove()

    def _by_tensor(self) -> dict[int, list[int]]:
        """The tasks of every different feature tensor."""
        members: dict[int, list[int]] = {}
        for task, feature in enumerate(self.features):
            members.setdefault(id(feature), []).append(task)
        return members


def _gradient(feature: Tensor, loss: Tensor, task: str) -> Tensor:
    if not feature.requires_grad:
        raise ConfigError(
            f"MultiTaskStep: the features of task {task!r} need no gradient, so there is no shared parameter below "
            "them to weigh: train the encoder, or weigh by other signals, for one by Uniform."
        )
    (gradient,) = torch.autograd.grad(loss, feature, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ConfigError(
            f"MultiTaskStep: the loss of task {task!r} does not depend on the features that representation() gave for "
            "it: return the very tensor that its head reads."
        )
    return gradient
