"""What a loss does with class counts and with features, measured on fixed probes."""

from __future__ import annotations

import torch
from torch import Tensor

from lossbank.contract import Loss
from lossbank.geometry_probes import CLASSES, COUNTS, FREQUENCIES, SPREADS, Answer, ask, class_logits, grouped_features

TINY = 1e-12


def contrast(a: Tensor, b: Tensor) -> Tensor:
    """(a - b) / (a + b) for sizes, 0 where both are 0."""
    return (a - b) / (a + b + TINY)


def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log10(a / b) for sizes, within [-4, 4] and 0 where both are 0."""
    floor = 1e-4 * torch.maximum(a, b) + TINY
    return ((a + floor) / (b + floor)).log10()


def rarity(loss: Loss, scale: Tensor) -> Tensor:
    """How much a rare label counts against a frequent one (3,), by p_y; 0 without class counts."""
    p = torch.tensor(FREQUENCIES)
    if "class_counts" not in loss.needs or loss.target_kind == "regression":
        return torch.zeros(len(p))
    targets = torch.tensor([0] * len(p) + [CLASSES - 1] * len(p))
    logits = class_logits(p.repeat(2), targets, CLASSES, peaked=False)
    size = ask(loss, logits, targets, class_counts=torch.tensor(COUNTS)).size + 1e-4 * scale
    return log_ratio(size[len(p) :], size[: len(p)]) / 2


def feature_use(loss: Loss, answer: Answer) -> Tensor:
    """What the loss does with features (8,), 0 without; ``answer`` is the one to the grid."""
    if "features" not in loss.needs:
        return torch.zeros(4 + len(SPREADS))
    # Three classes of four; the logits are right, so a loss that reads both is seen where it has settled.
    targets = torch.arange(12) % 3
    logits = class_logits(torch.full((12,), 0.7), targets, CLASSES, peaked=False)
    if loss.target_kind == "regression":
        logits, wanted, flipped = (
            torch.ones(12, 1),
            torch.zeros(12, 1),
            torch.cat([torch.ones(1, 1), -torch.ones(11, 1)]),
        )
    else:
        wanted, flipped = targets, torch.cat([(targets[:1] + 1) % 3, targets[1:]])

    def size(labels: Tensor, features: Tensor) -> Tensor:
        return ask(loss, logits, labels, features).features.square().sum(dim=1).sqrt()

    by_spread = torch.stack([size(wanted, grouped_features(targets, spread)).mean() for spread in SPREADS])
    usual = grouped_features(targets, SPREADS[1])
    each = size(wanted, usual)
    share = answer.features.norm() / (answer.features.norm() + answer.logits.norm() + TINY)
    scaling = torch.log2((size(wanted, 2 * usual).mean() + TINY) / (each.mean() + TINY)) / 2
    number = each.sum().square() / (each.square().sum() + TINY**2) / len(each)
    flip = contrast(size(flipped, usual).mean(), each.mean())
    return torch.cat(
        [torch.stack([share, scaling]), contrast(by_spread, by_spread.mean()), torch.stack([flip, number])]
    )
