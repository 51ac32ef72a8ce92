"""Losses for imbalance: cross-entropy that knows how often each class occurs in the training data of the task."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lossrag.lossbank.library.registration import register_loss
from lossrag.lossbank.losses.probabilistic import focal


def _effective_number_weights(class_counts: Tensor, beta: float) -> Tensor:
    """(1 - beta) / (1 - beta^n_k), scaled to a mean of 1 over the classes, (K,)."""
    weights = -1 / torch.expm1(class_counts * math.log(beta))
    return weights / weights.mean()


@register_loss(
    "class_balanced_ce",
    family="imbalance",
    target_kind="classification",
    reference="Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019",
    formula="-w_y log p_y, w_k ~ 1 / (1 - beta^n_k), mean w = 1",
    variants={f"class_balanced_ce_{beta}": {"beta": beta} for beta in (0.99, 0.999, 0.9999)},
)
def class_balanced_ce(logits: Tensor, targets: Tensor, *, class_counts: Tensor, beta: float = 0.999) -> Tensor:
    """Cross-entropy over the effective number of samples of the class, in [0, inf).

    With beta = 1/2 and counts 1 and 2: w ~ 2 and 4/3, that is 6/5 and 4/5.

    >>> import torch
    >>> value = class_balanced_ce(torch.zeros(1, 2), torch.tensor([0]), class_counts=torch.tensor([1.0, 2.0]), beta=0.5)
    >>> round(float(value) / math.log(2), 4)
    1.2
    """
    weights = _effective_number_weights(class_counts, beta)
    return weights[targets] * F.cross_entropy(logits, targets, reduction="none")


@register_loss(
    "class_balanced_focal",
    family="imbalance",
    target_kind="classification",
    reference="Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019, with softmax",
    formula="-w_y (1 - p_y)^gamma log p_y, w_k ~ 1 / (1 - beta^n_k), mean w = 1",
)
def class_balanced_focal(
    logits: Tensor, targets: Tensor, *, class_counts: Tensor, beta: float = 0.999, gamma: float = 1.0
) -> Tensor:
    """Focal loss over the effective number of samples of the class, in [0, inf).

    With beta = 1/2 and counts 1 and 2: w = 6/5, and 1 - p_y = 1/2.

    >>> import torch
    >>> counts = torch.tensor([1.0, 2.0])
    >>> value = class_balanced_focal(torch.zeros(1, 2), torch.tensor([0]), class_counts=counts, beta=0.5)
    >>> round(float(value) / math.log(2), 4)
    0.6
    """
    weights = _effective_number_weights(class_counts, beta)
    return weights[targets] * focal(logits, targets, gamma=gamma)


@register_loss(
    "inverse_frequency_ce",
    family="imbalance",
    target_kind="classification",
    reference="class_balanced_ce in the limit beta -> 1",
    formula="-w_y log p_y, w_k ~ 1 / n_k, mean w = 1",
)
def inverse_frequency_ce(logits: Tensor, targets: Tensor, *, class_counts: Tensor) -> Tensor:
    """Cross-entropy over the number of samples of the class, in [0, inf).

    With counts 1 and 3: w ~ 1 and 1/3, that is 3/2 and 1/2.

    >>> import torch
    >>> value = inverse_frequency_ce(torch.zeros(1, 2), torch.tensor([0]), class_counts=torch.tensor([1.0, 3.0]))
    >>> round(float(value) / math.log(2), 4)
    1.5
    """
    weights = class_counts.reciprocal()
    weights = weights / weights.mean()
    return weights[targets] * F.cross_entropy(logits, targets, reduction="none")


@register_loss(
    "logit_adjusted",
    family="imbalance",
    target_kind="classification",
    reference="Menon et al., Long-Tail Learning via Logit Adjustment, ICLR 2021; tau = 1 is the balanced softmax of "
    "Ren et al., NeurIPS 2020",
    formula="cross-entropy of z_k + tau log(n_k / n)",
    variants={f"logit_adjusted_{tau}": {"tau": tau} for tau in (0.5, 1, 2)},
)
def logit_adjusted(logits: Tensor, targets: Tensor, *, class_counts: Tensor, tau: float = 1.0) -> Tensor:
    """Cross-entropy in which frequent classes start with a lead, in [0, inf).

    With equal logits and counts 3 and 1: -log(3/4).

    >>> import torch
    >>> value = logit_adjusted(torch.zeros(1, 2), torch.tensor([0]), class_counts=torch.tensor([3.0, 1.0]))
    >>> round(float(value), 4)
    0.2877
    """
    prior = (class_counts / class_counts.sum()).log()
    return F.cross_entropy(logits + tau * prior, targets, reduction="none")


@register_loss(
    "vector_scaling",
    family="imbalance",
    target_kind="classification",
    reference="Kini et al., Label-Imbalanced and Group-Sensitive Classification, NeurIPS 2021",
    formula="cross-entropy of (n_k / n_max)^gamma z_k + tau log(n_k / n)",
)
def vector_scaling(
    logits: Tensor, targets: Tensor, *, class_counts: Tensor, gamma: float = 0.3, tau: float = 1.0
) -> Tensor:
    """Cross-entropy of logits that are scaled down and held back for rare classes, in [0, inf).

    With gamma = 1, tau = 0, logits (0, 4) and counts 4 and 1: the second logit counts as 1, log(1 + e).

    >>> import torch
    >>> logits, counts = torch.tensor([[0.0, 4.0]]), torch.tensor([4.0, 1.0])
    >>> round(float(vector_scaling(logits, torch.tensor([0]), class_counts=counts, gamma=1.0, tau=0.0)), 4)
    1.3133
    """
    scale = (class_counts / class_counts.max()).pow(gamma)
    prior = (class_counts / class_counts.sum()).log()
    return F.cross_entropy(scale * logits + tau * prior, targets, reduction="none")
