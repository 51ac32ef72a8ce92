"""Probes of a loss's shape: fixed batches, and the gradients that it answers with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lossrag.lossbank.library.batched import named
from lossrag.lossbank.library.contract import Loss

RIGHT_TO_WRONG = (0.999, 0.99, 0.9, 0.7, 0.5, 0.25, 0.1, 0.03, 0.01, 0.001)
"""Probability of the label, from right to wrong."""

RESIDUALS = (0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Sizes of a residual, the regression's way from right to wrong."""

CLASSES, FEATURES = 4, 8
FREQUENCIES = (0.05, 0.5, 0.95)
COUNTS = (1000.0, 200.0, 40.0, 8.0)
SPREADS = (0.1, 0.4, 1.0, 2.0)
_RIVAL = 0.9
_LARGEST = 1e6


@dataclass(frozen=True)
class Answer:
    """Answer of a loss to n samples: values (n,), gradients of their sum on the logits (n, K) and features (n, F)."""

    values: Tensor
    logits: Tensor
    features: Tensor

    @property
    def size(self) -> Tensor:
        """Lengths of the gradients on the logits, (n,)."""
        return self.logits.square().sum(dim=1).sqrt()


def ask(
    loss: Loss, logits: Tensor, targets: Tensor, features: Tensor | None = None, class_counts: Tensor | None = None
) -> Answer:
    """The answer of ``loss`` to ``logits`` (n, K), ``targets``, ``features`` (n, F) and ``class_counts`` (K,).

    Features default to two looser groups of samples per class, counts to 100 samples of every class. What is not
    finite counts as zero, or as a million where it is infinite. Raises LossError where the loss raises.
    """
    if features is None:
        features = grouped_features(targets if targets.ndim == 1 else torch.zeros(len(targets), dtype=torch.long), 0.4)
    if class_counts is None:
        class_counts = logits.new_full((logits.shape[1],), 100.0)
    with torch.enable_grad():
        inputs = [logits.detach().clone().requires_grad_(), features.detach().clone().requires_grad_()]
        with named([loss]):
            values = loss(inputs[0], targets, features=inputs[1], class_counts=class_counts)
        gradients = torch.autograd.grad(values.sum(), inputs, allow_unused=True, materialize_grads=True)
    return Answer(*(part.detach().float().nan_to_num(0.0, _LARGEST, -_LARGEST) for part in (values, *gradients)))


def class_logits(p: Tensor, targets: Tensor, classes: int, *, peaked: bool) -> Tensor:
    """Centred logits (n, K) whose softmax gives the ``targets`` (n,) the probabilities ``p`` (n,).

    The rest is shared evenly by the other classes, or, ``peaked``, nine tenths of it belong to the next class.

    >>> class_logits(torch.tensor([0.5]), torch.tensor([0]), 3, peaked=False).softmax(1)
    tensor([[0.5000, 0.2500, 0.2500]])
    """
    others = max(classes - 1, 1)
    share = torch.full((classes,), 1 / others)
    if peaked and classes > 2:
        share = torch.full((classes,), (1 - _RIVAL) / (others - 1))
        share[1] = _RIVAL
    share[0] = 0.0
    places = (torch.arange(classes) - targets[:, None]) % classes
    probability = (1 - p)[:, None] * share[places] + p[:, None] * (places == 0)
    logits = probability.log()
    return logits - logits.mean(dim=1, keepdim=True)


def grouped_features(targets: Tensor, spread: float) -> Tensor:
    """Features (n, 8) around one axis per class, scattered by ``spread`` in a fixed pattern of no meaning."""
    count = len(targets)
    pattern = torch.sin(torch.arange(1, count * FEATURES + 1, dtype=torch.float32).reshape(count, FEATURES).square())
    return torch.eye(FEATURES)[targets % FEATURES] + spread * pattern


@dataclass(frozen=True)
class Grid:
    """Samples from right to wrong: ``both`` (21, K), two layouts of 10 and one sample far beyond.

    For classification the wrong classes share evenly or have a rival among them; for regression the residual is
    positive or negative. ``pull`` (20, K) is p - 1[y], or the sign of the residual, of all but the last. ``weights``
    (10,) make gradient sizes of different residuals comparable.
    """

    both: Tensor
    targets: Tensor
    pull: Tensor
    weights: Tensor


@lru_cache(maxsize=4)
def grid(target_kind: str) -> Grid:
    """The grid of a target kind; shared, so leave it as it is."""
    if target_kind == "regression":
        size = torch.tensor(RESIDUALS)[:, None]
        both = torch.cat([size, -size, torch.full((1, 1), 1024.0)])
        return Grid(both, torch.zeros(21, 1), both[:20].sign(), 1 / (1 + size[:, 0]))
    p = torch.tensor(RIGHT_TO_WRONG)
    targets = torch.arange(21) % CLASSES
    even = class_logits(p, targets[:10], CLASSES, peaked=False)
    rival = class_logits(p, targets[10:20], CLASSES, peaked=True)
    beyond = class_logits(torch.tensor([1e-6]), targets[20:], CLASSES, peaked=False)
    both = torch.cat([even, rival, beyond])
    pull = both[:20].softmax(dim=1) - torch.eye(CLASSES)[targets[:20]]
    return Grid(both, targets, pull, torch.ones(10))
