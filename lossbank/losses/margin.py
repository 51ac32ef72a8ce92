"""Margin losses: the logit of the class has to lead by a margin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lossrag.lossbank.library.registration import register_loss
from lossrag.lossbank.losses.parts import is_class, of_class


@register_loss(
    "multiclass_hinge",
    family="margin",
    target_kind="classification",
    reference="Crammer and Singer, JMLR 2001",
    formula="max(0, 1 + max_{k != y} z_k - z_y)",
)
def multiclass_hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """Distance of the class from leading its closest rival by 1, in [0, inf).

    >>> import torch
    >>> float(multiclass_hinge(torch.tensor([[2.0, 1.5, 1.25]]), torch.tensor([0])))
    0.5
    """
    rival = logits.masked_fill(is_class(logits, targets), -torch.inf).amax(dim=1)
    return (1 + rival - of_class(logits, targets)).relu()


@register_loss(
    "weston_watkins_hinge",
    family="margin",
    target_kind="classification",
    reference="Weston and Watkins, ESANN 1999",
    formula="sum_{k != y} max(0, 1 + z_k - z_y)",
)
def weston_watkins_hinge(logits: Tensor, targets: Tensor) -> Tensor:
    """The same against every rival, summed, in [0, inf).

    >>> import torch
    >>> float(weston_watkins_hinge(torch.tensor([[2.0, 1.5, 1.25]]), torch.tensor([0])))
    0.75
    """
    lead = 1 + logits - of_class(logits, targets)[:, None]
    return lead.masked_fill(is_class(logits, targets), 0).relu().sum(dim=1)


@register_loss(
    "softmax_margin",
    family="margin",
    target_kind="classification",
    reference="Gimpel and Smith, Softmax-Margin CRFs, NAACL 2010; the same cost for every wrong class",
    formula="log(exp(z_y) + sum_{k != y} exp(z_k + margin)) - z_y",
)
def softmax_margin(logits: Tensor, targets: Tensor, *, margin: float = 1.0) -> Tensor:
    """Cross-entropy after a handicap of ``margin`` for the class: a smooth hinge, in [0, inf).

    With two equal logits: log(1 + e).

    >>> import torch
    >>> round(float(softmax_margin(torch.zeros(1, 2), torch.tensor([0]))), 4)
    1.3133
    """
    handicap = margin * is_class(logits, targets).to(logits.dtype)
    return F.cross_entropy(logits - handicap, targets, reduction="none")


@register_loss(
    "ldam",
    family="margin",
    target_kind="classification",
    reference="Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, NeurIPS 2019",
    formula="cross-entropy of scale (z_k - [k = y] m_y), m_k = max_margin (n_min / n_k)^(1/4)",
    variants={f"ldam_{scale}": {"scale": scale} for scale in (1, 30)},
)
def ldam(
    logits: Tensor, targets: Tensor, *, class_counts: Tensor, max_margin: float = 0.5, scale: float = 30.0
) -> Tensor:
    """Cross-entropy with wider margins for rarer classes, in [0, inf).

    The paper's logits are cosines, and scale 30 makes up for their small range. Here they come as the head gives them,
    so there is scale 1 too.

    With counts 16 and 1 the margins are 1/4 and 1/2; a lead of 1/4 is used up: log(2).

    >>> import torch
    >>> logits, counts = torch.tensor([[0.25, 0.0]]), torch.tensor([16.0, 1.0])
    >>> round(float(ldam(logits, torch.tensor([0]), class_counts=counts)), 4)
    0.6931
    """
    margins = max_margin * (class_counts.min() / class_counts).pow(0.25)
    return F.cross_entropy(scale * (logits - margins * is_class(logits, targets)), targets, reduction="none")
