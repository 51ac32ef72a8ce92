"""Probabilistic losses: cross-entropy and its regularised forms."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lossrag.lossbank.library.registration import register_loss
from lossrag.lossbank.losses.parts import error_p, log_p, of_class


@register_loss(
    "cross_entropy",
    family="probabilistic",
    target_kind="classification",
    reference="negative log-likelihood of the softmax",
    formula="-log p_y",
)
def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p_y, in [0, inf).

    >>> import torch
    >>> round(float(cross_entropy(torch.zeros(1, 4), torch.tensor([2]))), 4)
    1.3863
    """
    return F.cross_entropy(logits, targets, reduction="none")


@register_loss(
    "label_smoothing",
    family="probabilistic",
    target_kind="classification",
    reference="Szegedy et al., Rethinking the Inception Architecture, CVPR 2016",
    formula="-(1 - smoothing) log p_y - smoothing / K sum_k log p_k",
    variants={f"label_smoothing_{smoothing}": {"smoothing": smoothing} for smoothing in (0.05, 0.1, 0.2)},
)
def label_smoothing(logits: Tensor, targets: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy with a share of the target spread evenly over all classes, in (0, inf).

    With p = (3/4, 1/4): 0.9 log(4/3) + 0.1 log(4).

    >>> import torch
    >>> logits = torch.tensor([[3.0, 1.0]]).log()
    >>> round(float(label_smoothing(logits, torch.tensor([0]), smoothing=0.2)), 4)
    0.3975
    """
    log_p = logits.log_softmax(dim=1)
    return -(1 - smoothing) * of_class(log_p, targets) - smoothing * log_p.mean(dim=1)


@register_loss(
    "confidence_penalty",
    family="probabilistic",
    target_kind="classification",
    reference="Pereyra et al., Regularizing Neural Networks by Penalizing Confident Outputs, ICLR 2017 workshop",
    formula="-log p_y + beta sum_k p_k log p_k",
)
def confidence_penalty(logits: Tensor, targets: Tensor, *, beta: float = 0.1) -> Tensor:
    """Cross-entropy minus beta times the entropy of p, in (-beta log K, inf).

    With p = (3/4, 1/4): log(4/3) - 0.1 (3/4 log(4/3) + 1/4 log(4)).

    >>> import torch
    >>> logits = torch.tensor([[3.0, 1.0]]).log()
    >>> round(float(confidence_penalty(logits, torch.tensor([0]))), 4)
    0.2314
    """
    log_p = logits.log_softmax(dim=1)
    return (log_p.exp() * log_p).sum(dim=1) * beta - of_class(log_p, targets)


@register_loss(
    "focal",
    family="probabilistic",
    target_kind="classification",
    reference="Lin et al., Focal Loss for Dense Object Detection, ICCV 2017",
    formula="-(1 - p_y)^gamma log p_y",
    variants={f"focal_{gamma}": {"gamma": gamma} for gamma in (1, 2, 5)},
)
def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Cross-entropy that counts easy samples less, in [0, inf). Use gamma >= 1: below, gradients blow up at p_y = 1.

    With p_y = 3/4: (1/4)^2 log(4/3).

    >>> import torch
    >>> logits = torch.tensor([[3.0, 1.0]]).log()
    >>> round(float(focal(logits, torch.tensor([0]))), 4)
    0.018
    """
    return -error_p(logits, targets).pow(gamma) * log_p(logits, targets)


@register_loss(
    "poly1",
    family="probabilistic",
    target_kind="classification",
    reference="Leng et al., PolyLoss, ICLR 2022",
    formula="-log p_y + epsilon (1 - p_y)",
    variants={f"poly1_{epsilon}": {"epsilon": epsilon} for epsilon in (1, 2)},
)
def poly1(logits: Tensor, targets: Tensor, *, epsilon: float = 1.0) -> Tensor:
    """Cross-entropy with a larger first term of its series in 1 - p_y, in [0, inf).

    With p_y = 3/4: log(4/3) + 1/4.

    >>> import torch
    >>> logits = torch.tensor([[3.0, 1.0]]).log()
    >>> round(float(poly1(logits, torch.tensor([0]))), 4)
    0.5377
    """
    return epsilon * error_p(logits, targets) - log_p(logits, targets)
