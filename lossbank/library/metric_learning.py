"""Losses of pytorch-metric-learning as relational losses of the library."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.extras import load_extra
from lossrag.lossbank.library.contract import Loss
from lossrag.lossbank.library.registration import LOSSES, register_loss

ANCHORED = ("pos_pair", "neg_pair", "triplet")
"""Kinds of partial losses whose first index is the anchor."""


def from_metric_learning(
    name: str, loss_object: Any, *, miner: Any = None, reference: str = "pytorch-metric-learning", formula: str = ""
) -> Loss:
    """Register a loss of pytorch-metric-learning, such as ``losses.TripletMarginLoss()``, under ``name``.

    It works on the features and leaves the logits alone. Its reducer is replaced: losses of pairs and triplets, of
    whichever form, are averaged for each anchor, so that every sample gets its own value; a sample that is no anchor
    gets 0. ``miner`` is an optional miner of that package. Both are copied. Samples without a label are not shown to
    them.

    Raises ConfigError when the package is not installed, when the loss holds trainable parameters (no optimiser of a
    run would see them), and when it only gives one number per batch.
    """
    purpose = f"Loss {name!r}"
    base = load_extra("pytorch_metric_learning.losses", "metric-learning", purpose).BaseMetricLossFunction
    reducers = load_extra("pytorch_metric_learning.reducers", "metric-learning", purpose)
    if not isinstance(loss_object, base):
        raise ConfigError(
            f"Loss {name!r}: expected a loss of pytorch_metric_learning.losses (a BaseMetricLossFunction), got "
            f"{type(loss_object).__name__}. Wrappers such as CrossBatchMemory keep state and cannot be registered."
        )
    if any(True for _ in loss_object.parameters()):
        raise ConfigError(
            f"Loss {name!r}: {type(loss_object).__name__} holds trainable parameters, which no optimiser of a run "
            f"would train. Choose a loss without them."
        )
    inner, mine = copy.deepcopy(loss_object), copy.deepcopy(miner)
    inner.reducer = reducers.DoNothingReducer()

    def function(logits: Tensor, targets: Tensor, *, features: Tensor) -> Tensor:
        indices = None if mine is None else mine(features, targets)
        total = (features * 0).sum(dim=1)  # a batch without pairs: zero, with a gradient of zero
        for part in inner(features, targets, indices).values():
            total = total + _per_anchor(name, part, total)
        return total.to(logits.dtype)

    register_loss(
        name, family="relational", target_kind="classification", reference=reference, formula=formula, relational=True
    )(function)
    return LOSSES[name]


def _per_anchor(name: str, part: dict[str, Any], like: Tensor) -> Tensor:
    """One partial loss of pytorch-metric-learning, (B,)."""
    losses, kind, indices = part["losses"], part["reduction_type"], part["indices"]
    if not isinstance(losses, Tensor):  # its zero for a batch without pairs is the number 0
        return torch.zeros_like(like)
    if kind == "element":
        anchors = indices
    elif kind in ANCHORED:
        anchors = indices[0]
    else:
        raise ConfigError(
            f"Loss {name!r} gives one number per batch ({kind}), which cannot be shared out among samples. "
            f"Choose a loss of elements, pairs or triplets."
        )
    # some come as columns (n, 1)
    if losses.numel() != len(anchors):
        raise ConfigError(
            f"Loss {name!r} gives partial losses {tuple(losses.shape)} for {len(anchors)} anchors ({kind}): choose a "
            f"loss with one for each element, pair or triplet."
        )
    losses = losses.reshape(-1).to(like.dtype)
    zeros = torch.zeros_like(like)
    total = zeros.index_add(0, anchors, losses)
    count = zeros.index_add(0, anchors, torch.ones_like(losses))
    return total / count.clamp(min=1)
