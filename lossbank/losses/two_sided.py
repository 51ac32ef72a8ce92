"""Cross-entropy against the label tempered by the model's own belief: symmetric, bootstrapped, normalised."""

from __future__ import annotations

from torch import Tensor

from lossbank.losses.parts import error_p, log_p, of_class
from lossbank.registration import register_loss


@register_loss(
    "symmetric_ce",
    family="noise-robust",
    target_kind="classification",
    reference="Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, ICCV 2019, A = -4",
    formula="-alpha log p_y + 4 beta (1 - p_y)",
    variants={"symmetric_ce": {}, "symmetric_ce_6_0.1": {"alpha": 6, "beta": 0.1}},
)
def symmetric_ce(logits: Tensor, targets: Tensor, *, alpha: float = 0.1, beta: float = 1.0) -> Tensor:
    """Cross-entropy plus its reverse, where log 0 counts as -4, in [0, inf).

    The two settings are the paper's for CIFAR-10 and CIFAR-100. Up to the factor alpha it is Poly-1 with
    epsilon = 4 beta / alpha: 40 and 1/15.

    With p_y = 3/4: 0.1 log(4/3) + 4/4.

    >>> import torch
    >>> logits = torch.tensor([[3.0, 1.0]]).log()
    >>> round(float(symmetric_ce(logits, torch.tensor([0]))), 4)
    1.0288
    """
    return 4 * beta * error_p(logits, targets) - alpha * log_p(logits, targets)


@register_loss(
    "bootstrapping_soft",
    family="noise-robust",
    target_kind="classification",
    reference="Reed et al., Training Deep Neural Networks on Noisy Labels with Bootstrapping, ICLR 2015 workshop",
    formula="-beta log p_y - (1 - beta) sum_k p_k log p_k",
)
def bootstrapping_soft(logits: Tensor, targets: Tensor, *, beta: float = 0.95) -> Tensor:
    """Cross-entropy against a mixture of the label and the prediction itself, in [0, inf).

    With p = (3/4, 1/4): 0.95 log(4/3) + 0.05 (3/4 log(4/3) + 1/4 log(4)).

    >>> import torch
    >>> logits = torch.tensor([[3.0, 1.0]]).log()
    >>> round(float(bootstrapping_soft(logits, torch.tensor([0]))), 4)
    0.3014
    """
    log_p = logits.log_softmax(dim=1)
    return -beta * of_class(log_p, targets) - (1 - beta) * (log_p.exp() * log_p).sum(dim=1)


@register_loss(
    "bootstrapping_hard",
    family="noise-robust",
    target_kind="classification",
    reference="Reed et al., Training Deep Neural Networks on Noisy Labels with Bootstrapping, ICLR 2015 workshop",
    formula="-beta log p_y - (1 - beta) max_k log p_k",
)
def bootstrapping_hard(logits: Tensor, targets: Tensor, *, beta: float = 0.8) -> Tensor:
    """Cross-entropy against a mixture of the label and the predicted class, in [0, inf).

    With p = (3/4, 1/4) and y the second class: 0.8 log(4) + 0.2 log(4/3).

    >>> import torch
    >>> logits = torch.tensor([[3.0, 1.0]]).log()
    >>> round(float(bootstrapping_hard(logits, torch.tensor([1]))), 4)
    1.1666
    """
    log_p = logits.log_softmax(dim=1)
    return -beta * of_class(log_p, targets) - (1 - beta) * log_p.amax(dim=1)


@register_loss(
    "normalised_ce",
    family="noise-robust",
    target_kind="classification",
    reference="Ma et al., Normalized Loss Functions for Deep Learning with Noisy Labels, ICML 2020",
    formula="log p_y / sum_k log p_k",
)
def normalised_ce(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy as a share of its sum over all classes, in [0, 1]. That sum is K log K or more.

    >>> import torch
    >>> float(normalised_ce(torch.zeros(1, 4), torch.tensor([2])))
    0.25
    """
    log_p = logits.log_softmax(dim=1)
    return of_class(log_p, targets) / log_p.sum(dim=1)


@register_loss(
    "active_passive",
    family="noise-robust",
    target_kind="classification",
    reference="Ma et al., Normalized Loss Functions for Deep Learning with Noisy Labels, ICML 2020, NCE + MAE",
    formula="alpha log p_y / sum_k log p_k + 2 beta (1 - p_y)",
    variants={"active_passive": {}, "active_passive_10_1": {"alpha": 10}},
)
def active_passive(logits: Tensor, targets: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """Normalised cross-entropy, which fits the label, plus MAE, which lowers the rest, in [0, alpha + 2 beta].

    With p_y = 1/4: 1/4 + 2 (3/4).

    >>> import torch
    >>> float(active_passive(torch.zeros(1, 4), torch.tensor([2])))
    1.75
    """
    return alpha * normalised_ce(logits, targets) + 2 * beta * error_p(logits, targets)
