"""Noise-robust losses, bounded functions of p_y: a wrong label can only cost so much."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossrag.lossbank.library.registration import register_loss
from lossrag.lossbank.losses.parts import error_p, log_p, of_class


@register_loss(
    "one_minus_p",
    family="noise-robust",
    target_kind="classification",
    reference="half the mean absolute error of Ghosh et al. (AAAI 2017)",
    formula="1 - p_y",
)
def one_minus_p(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - p_y, in [0, 1]: bounded, as Theorems 2 and 3 of the MetaWeighting paper assume.

    >>> import torch
    >>> float(one_minus_p(torch.zeros(1, 4), torch.tensor([2])))
    0.75
    """
    return 1 - of_class(logits.softmax(dim=1), targets)


@register_loss(
    "mae",
    family="noise-robust",
    target_kind="classification",
    reference="Ghosh et al., Robust Loss Functions under Label Noise for Deep Neural Networks, AAAI 2017",
    formula="sum_k |p_k - [k = y]| = 2 (1 - p_y)",
)
def mae(logits: Tensor, targets: Tensor) -> Tensor:
    """L1 distance of p to the one-hot target, 2 (1 - p_y), in [0, 2].

    >>> import torch
    >>> float(mae(torch.zeros(1, 4), torch.tensor([2])))
    1.5
    """
    return 2 * error_p(logits, targets)


@register_loss(
    "generalised_ce",
    family="noise-robust",
    target_kind="classification",
    reference="Zhang and Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018",
    formula="(1 - p_y^q) / q",
    variants={f"generalised_ce_{q}": {"q": q} for q in (0.3, 0.7)},
)
def generalised_ce(logits: Tensor, targets: Tensor, *, q: float = 0.7) -> Tensor:
    """Between cross-entropy (q -> 0) and 1 - p_y (q = 1), in [0, 1 / q].

    With p_y = 1/4: (1 - 1/2) / (1/2).

    >>> import torch
    >>> float(generalised_ce(torch.zeros(1, 4), torch.tensor([2]), q=0.5))
    1.0
    """
    return -torch.expm1(q * log_p(logits, targets)) / q


@register_loss(
    "truncated_generalised_ce",
    family="noise-robust",
    target_kind="classification",
    reference="Zhang and Sabuncu, Generalized Cross Entropy Loss, NeurIPS 2018, equation 8, k = 1/2",
    formula="(1 - max(p_y, k)^q) / q",
)
def truncated_generalised_ce(logits: Tensor, targets: Tensor, *, q: float = 0.7, k: float = 0.5) -> Tensor:
    """Generalised cross-entropy that no longer pulls at samples with p_y < k, in [0, (1 - k^q) / q].

    With p_y = 1/4 < k: (1 - 1/sqrt(2)) / (1/2).

    >>> import torch
    >>> round(float(truncated_generalised_ce(torch.zeros(1, 4), torch.tensor([2]), q=0.5)), 4)
    0.5858
    """
    return -torch.expm1(q * log_p(logits, targets).clamp(min=math.log(k))) / q


@register_loss(
    "tempered_ce",
    family="noise-robust",
    target_kind="classification",
    reference="Amid et al., Robust Bi-Tempered Logistic Loss, NeurIPS 2019, with t_1 = t and t_2 = 1",
    formula="(1 - p_y^(1-t)) / (1 - t) - (1 - sum_k p_k^(2-t)) / (2 - t)",
    variants={f"tempered_ce_{t}": {"t": t} for t in (0.5, 0.8)},
)
def tempered_ce(logits: Tensor, targets: Tensor, *, t: float = 0.8) -> Tensor:
    """Bregman divergence of the tempered entropy, in [0, 1 / (1 - t)); t -> 1 is cross-entropy, t = 0 half of Brier.

    Only the logarithm is tempered: the heavy-tailed softmax (t_2 > 1) has no closed form.

    With p = (1/4, ..., 1/4), t = 1/2: (1 - 1/2) / (1/2) - (1 - 4 / 8) / (3/2) = 1 - 1/3.

    >>> import torch
    >>> round(float(tempered_ce(torch.zeros(1, 4), torch.tensor([2]), t=0.5)), 4)
    0.6667
    """
    log_p = logits.log_softmax(dim=1)
    surprise = -torch.expm1((1 - t) * of_class(log_p, targets)) / (1 - t)
    return surprise - (1 - ((2 - t) * log_p).exp().sum(dim=1)) / (2 - t)


@register_loss(
    "taylor_ce",
    family="noise-robust",
    target_kind="classification",
    reference="Feng et al., Can Cross Entropy Loss Be Robust to Label Noise?, IJCAI 2020",
    formula="sum_{i = 1..terms} (1 - p_y)^i / i",
    variants={f"taylor_ce_{terms}": {"terms": terms} for terms in (2, 6)},
)
def taylor_ce(logits: Tensor, targets: Tensor, *, terms: float = 2) -> Tensor:
    """The first terms of the series of -log p_y in 1 - p_y, in [0, 1 + 1/2 + ... + 1/terms].

    With p_y = 1/4: 3/4 + (9/16) / 2.

    >>> import torch
    >>> float(taylor_ce(torch.zeros(1, 4), torch.tensor([2])))
    1.03125
    """
    error = error_p(logits, targets)
    value = torch.zeros_like(error)
    for i in range(int(terms), 0, -1):  # Horner
        value = error * (value + 1 / i)
    return value


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
    """Cross-entropy as a share of its sum over all classes, in [0, 1]. That sum is K log K or more; of a single class,
    which nothing can be wrong about, the loss is 0.

    >>> import torch
    >>> float(normalised_ce(torch.zeros(1, 4), torch.tensor([2])))
    0.25
    """
    log_p = logits.log_softmax(dim=1)
    return of_class(log_p, targets) / log_p.sum(dim=1).clamp(max=-1.0)


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
