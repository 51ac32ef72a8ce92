"""Cross-entropy reshaped by how sure the prediction is: focal and Poly-1."""

from __future__ import annotations

from torch import Tensor

from lossbank.losses.parts import error_p, log_p
from lossbank.registration import register_loss


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
