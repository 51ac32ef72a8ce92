"""Losses on the distances between the features of a batch, on the unit sphere."""

from __future__ import annotations

import torch
from torch import Tensor

from lossbank.losses.parts import EPSILON, same_class, unit_rows
from lossbank.registration import register_loss


@register_loss(
    "triplet",
    family="relational",
    target_kind="classification",
    reference="Hermans et al., In Defense of the Triplet Loss, 2017, batch-hard",
    formula="max(0, max_{p: y_p = y} |f_i - f_p| - min_{n: y_n != y} |f_i - f_n| + margin), f on the unit sphere",
    relational=True,
    variants={f"triplet_{margin}": {"margin": margin} for margin in (0.2, 0.5)},
)
def triplet(logits: Tensor, targets: Tensor, *, features: Tensor, margin: float = 0.2) -> Tensor:
    """How far the farthest class-mate is from being closer than the closest stranger, in [0, 2 + margin].

    A sample without a class-mate or without a stranger in the batch costs nothing; the paper's batches have no such
    sample. The paper leaves the features unnormalised; the logits play no part.

    With features at 0, 90 and 180 degrees, the first two of one class: sqrt(2) - 2 + 1 and sqrt(2) - sqrt(2) + 1.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> value = triplet(features, torch.tensor([0, 0, 1]), features=features, margin=1.0)
    >>> [round(v, 4) for v in value.tolist()]
    [0.4142, 1.0, 0.0]
    """
    unit = unit_rows(features.to(logits.dtype))
    square = unit.square().sum(dim=1)
    # Rounding may take the square of a short distance below 0; the root needs more than 0 for a finite gradient.
    distance = ((square[:, None] + square - 2 * unit @ unit.T).clamp(min=0) + EPSILON).sqrt()
    positives, others = same_class(targets)
    negatives = others & ~positives
    farthest = distance.masked_fill(~positives, 0).amax(dim=1)
    closest = distance.masked_fill(~negatives, torch.finfo(distance.dtype).max).amin(dim=1)
    return (farthest - closest + margin).relu() * (positives.any(dim=1) & negatives.any(dim=1))


@register_loss(
    "centre",
    family="relational",
    target_kind="classification",
    reference="Wen et al., A Discriminative Feature Learning Approach for Deep Face Recognition, ECCV 2016, stateless",
    formula="1/2 |f_i - mean_{a: y_a = y} f_a|^2, f on the unit sphere",
    relational=True,
)
def centre(logits: Tensor, targets: Tensor, *, features: Tensor) -> Tensor:
    """Half the squared distance to the mean of the batch's samples of the class, in [0, 2).

    The paper learns one centre per class over the whole run, for unnormalised features; this one keeps no state, so the
    sample itself has its share in the centre. The logits play no part.

    With two orthogonal features of one class the mean is (1/2, 1/2): (1/4 + 1/4) / 2.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> [round(v, 4) for v in centre(features, torch.tensor([0, 0, 1]), features=features).tolist()]
    [0.25, 0.25, 0.0]
    """
    unit = unit_rows(features.to(logits.dtype))
    mates = (targets[:, None] == targets).to(unit.dtype)
    means = mates @ unit / mates.sum(dim=1, keepdim=True)
    return (unit - means).square().sum(dim=1) / 2
