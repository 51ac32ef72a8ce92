"""The contract of a loss: a per-sample function of (logits, targets), checked when it is registered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lossrag import ConfigError, Registry

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, K), targets) -> (B,). Targets are classes (B,) int64, or values (B, K) floats."""

TARGET_KINDS = ("classification", "regression")


@dataclass(frozen=True)
class Loss:
    """One entry of the library: what it is called, what it computes, where it is from."""

    name: str
    function: LossFunction
    family: str
    target_kind: str
    reference: str

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Per-sample losses (B,)."""
        return self.function(logits, targets)


LOSSES: Registry[Loss] = Registry("loss")


def register_loss(
    name: str, *, family: str, target_kind: str, reference: str
) -> Callable[[LossFunction], LossFunction]:
    """Decorator that checks a per-sample loss on a small probe and puts it in the library.

    target_kind: ``classification`` (integer classes) or ``regression`` (float values).

    Raises ConfigError, naming the loss, when its shape is not (B,), a value is not finite, or no gradient
    reaches the logits.

    >>> @register_loss("my_brier", family="euclidean", target_kind="classification", reference="Brier 1950")
    ... def my_brier(logits, targets):
    ...     truth = torch.nn.functional.one_hot(targets, logits.shape[1])
    ...     return (logits.softmax(1) - truth).square().sum(1)
    >>> LOSSES["my_brier"].family
    'euclidean'
    """
    if target_kind not in TARGET_KINDS:
        raise ConfigError(f"Loss {name!r}: target_kind must be one of {TARGET_KINDS}, got {target_kind!r}.")

    def add(function: LossFunction) -> LossFunction:
        _probe(name, function, target_kind)
        LOSSES.add(name, Loss(name, function, family, target_kind, reference))
        return function

    return add


def _probe(name: str, function: LossFunction, target_kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator).requires_grad_()
    values = torch.randn(5, 3, generator=generator)
    targets = torch.tensor([0, 1, 2, 0, 1]) if target_kind == "classification" else values
    losses = function(logits, targets)
    if losses.shape != (5,):
        raise ConfigError(
            f"Loss {name!r} must return one value per sample, shape (5,) for 5 samples, "
            f"got {tuple(losses.shape)}: do not reduce over the batch."
        )
    if not losses.requires_grad:
        raise ConfigError(f"Loss {name!r} gives no gradient to the logits: compute it with torch operations on them.")
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    if not bool(torch.isfinite(losses).all() and torch.isfinite(gradient).all()):
        raise ConfigError(f"Loss {name!r} is not finite, or its gradient is not, on ordinary logits.")
