"""Contrastive losses on the cosines between the features of a batch; class-mates are the positives.

Each sample is an anchor. One without a class-mate in the batch costs nothing, so a batch of one sample costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lossbank.losses.parts import same_class, unit_rows
from lossbank.registration import register_loss

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
def supervised_contrastive(logits: Tensor, targets: Tensor, *, features: Tensor, temperature: float = 0.1) -> Tensor:
    """How unlikely it is to draw a class-mate among all others, in [0, inf). The logits play no part.

    With two equal features of one class and an orthogonal one: log(1 + 1/e).

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> value = supervised_contrastive(features, torch.tensor([0, 0, 1]), features=features, temperature=1.0)
    >>> [round(v, 4) for v in value.tolist()]
    [0.3133, 0.3133, 0.0]
    """
    unit = unit_rows(features.to(logits.dtype))
    similarity = unit @ unit.T / temperature
    positives, others = same_class(targets)
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
def nt_xent(logits: Tensor, targets: Tensor, *, features: Tensor, temperature: float = 0.1) -> Tensor:
    """How unlikely each class-mate is against the samples of other classes only, in [0, inf).

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
    positives, others = same_class(targets)
    negative = _log_sum_exp(similarity, others & ~positives)
    return _mean(torch.logaddexp(similarity, negative) - similarity, positives)
