"""Relational losses: contrasts on the cosines between the features of a batch; class-mates are the positives.

Each sample is an anchor. One without a class-mate in the batch costs nothing, so a batch of one sample costs nothing.
Samples that are not ``labelled`` (B,), booleans, are compared with none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lossrag.lossbank.library.registration import register_loss
from lossrag.lossbank.losses.parts import EPSILON, same_class, unit_rows

TEMPERATURES = (0.1, 0.5)


def _log_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    """Over the masked entries of each row, (B, 1); the lowest finite number, not -inf, where there is none."""
    return values.masked_fill(~mask, torch.finfo(values.dtype).min).logsumexp(dim=1, keepdim=True)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Over the masked entries of each row, (B,); 0 where there is none."""
    return values.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


@register_loss(
    "supervised_contrastive",
    family="relational",
    target_kind="classification",
    reference="Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, L_out",
    formula="-mean_{p: y_p = y, p != i} log(exp(s_ip) / sum_{a != i} exp(s_ia)), s = cos(f_i, f_a) / temperature",
    relational=True,
    variants={f"supervised_contrastive_{t}": {"temperature": t} for t in TEMPERATURES},
)
def supervised_contrastive(
    logits: Tensor, targets: Tensor, *, features: Tensor, labelled: Tensor | None = None, temperature: float = 0.1
) -> Tensor:
    """Unlikeliness of drawing a class-mate among all others, in [0, inf). The logits play no part.

    With two equal features of one class and an orthogonal one: log(1 + 1/e).

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> value = supervised_contrastive(features, torch.tensor([0, 0, 1]), features=features, temperature=1.0)
    >>> [round(v, 4) for v in value.tolist()]
    [0.3133, 0.3133, 0.0]
    """
    unit = unit_rows(features.to(logits.dtype))
    similarity = unit @ unit.T / temperature
    positives, others = same_class(targets, labelled)
    return _mean(_log_sum_exp(similarity, others) - similarity, positives)


@register_loss(
    "nt_xent",
    family="relational",
    target_kind="classification",
    reference="Chen et al., SimCLR, ICML 2020, with class-mates in place of augmented views",
    formula="-mean_{p: y_p = y, p != i} log(exp(s_ip) / (exp(s_ip) + sum_{n: y_n != y} exp(s_in))), "
    "s = cos(f_i, f_a) / temperature",
    relational=True,
    variants={f"nt_xent_{t}": {"temperature": t} for t in TEMPERATURES},
)
def nt_xent(
    logits: Tensor, targets: Tensor, *, features: Tensor, labelled: Tensor | None = None, temperature: float = 0.1
) -> Tensor:
    """Unlikeliness of each class-mate against the samples of other classes only, in [0, inf).

    SimCLR has one positive, the other view of the same sample. Here each class-mate is one in turn, and class-mates
    never stand among the negatives; the logits play no part.

    With two equal features of one class and an orthogonal one: log(1 + 1/e).

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> value = nt_xent(features, torch.tensor([0, 0, 1]), features=features, temperature=1.0)
    >>> [round(v, 4) for v in value.tolist()]
    [0.3133, 0.3133, 0.0]
    """
    unit = unit_rows(features.to(logits.dtype))
    similarity = unit @ unit.T / temperature
    positives, others = same_class(targets, labelled)
    negative = _log_sum_exp(similarity, others & ~positives)
    return _mean(torch.logaddexp(similarity, negative) - similarity, positives)


@register_loss(
    "triplet",
    family="relational",
    target_kind="classification",
    reference="Hermans et al., In Defense of the Triplet Loss, 2017, batch-hard",
    formula="max(0, max_{p: y_p = y} |f_i - f_p| - min_{n: y_n != y} |f_i - f_n| + margin), f on the unit sphere",
    relational=True,
    variants={f"triplet_{margin}": {"margin": margin} for margin in (0.2, 0.5)},
)
def triplet(
    logits: Tensor, targets: Tensor, *, features: Tensor, labelled: Tensor | None = None, margin: float = 0.2
) -> Tensor:
    """Distance of the farthest class-mate from being closer than the closest stranger, in [0, 2 + margin].

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
    positives, others = same_class(targets, labelled)
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
def centre(logits: Tensor, targets: Tensor, *, features: Tensor, labelled: Tensor | None = None) -> Tensor:
    """Half the squared distance to the mean of the batch's samples of the class, in [0, 2).

    The paper learns one centre per class over the whole run, for unnormalised features; this one keeps no state, so the
    sample itself has its share in the centre. The logits play no part.

    With two orthogonal features of one class the mean is (1/2, 1/2): (1/4 + 1/4) / 2.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> [round(v, 4) for v in centre(features, torch.tensor([0, 0, 1]), features=features).tolist()]
    [0.25, 0.25, 0.0]
    """
    unit = unit_rows(features.to(logits.dtype))
    mates = targets[:, None] == targets
    mates = (mates if labelled is None else mates & labelled).to(unit.dtype)
    means = mates @ unit / mates.sum(dim=1, keepdim=True).clamp(min=1)
    return (unit - means).square().sum(dim=1) / 2
