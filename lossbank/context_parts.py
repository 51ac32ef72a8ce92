"""Statistics of a batch that a context is made of: tensor operations only, finite for one sample or one class."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 5
CLASS_NAMES = (
    *(f"confidence_{bin + 1}" for bin in range(BINS)),
    *("disagreement", "likely_and_wrong", "sure_and_wrong"),
    *("p_mean", "p_deviation", "p_10", "p_50", "p_90", "rare_lag"),
)
RESIDUAL_NAMES = ("bias", "explained", "outliers", "skew", "kurtosis")
FEATURE_NAMES = ("feature_norm", "feature_norm_variation", "feature_rank", "feature_separation")

_TINY = 1e-12
_GAUSSIAN_MAD = 1.4826
"""The standard deviation of a Gaussian over its median absolute deviation."""


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """(before - after) / (|before| + |after|), in [-1, 1], 0 where both are 0.

    >>> float(relative_change(torch.tensor(3.0), torch.tensor(1.0)))
    0.5
    """
    return (before - after) / (before.abs() + after.abs()).clamp(min=_TINY)


def class_part(logits: Tensor, targets: Tensor) -> Tensor:
    """What logits (B, K) and classes (B,) say about the fit, (14,): see ``CLASS_NAMES``."""
    classes = logits.shape[1]
    p = logits.softmax(dim=1)
    largest, predicted = p.max(dim=1)
    confidence = ((largest - 1 / classes) / max(1 - 1 / classes, _TINY)).clamp(0, 1)
    edges = torch.arange(BINS, device=logits.device)
    bins = (confidence * BINS).floor().clamp(max=BINS - 1)
    histogram = (bins[:, None] == edges).to(p).mean(dim=0)
    wrong = (predicted != targets).to(p)
    p_y = p.gather(1, targets[:, None]).squeeze(1)
    # Odds against chance: p = 1/K becomes 1/2, whatever K is.
    rebased = (p_y * max(classes - 1, 1)) / (p_y * max(classes - 1, 1) + 1 - p_y).clamp(min=_TINY)
    mates = (targets[:, None] == torch.arange(classes, device=logits.device)).to(p)
    number = mates.sum(dim=0)
    by_class = (mates * rebased[:, None]).sum(dim=0) / number.clamp(min=1)
    lag = rebased.mean() - by_class.sum() / (number > 0).sum()
    single = [
        wrong.mean(),
        (wrong * (confidence > 0.5)).mean(),
        (wrong * (confidence > 0.8)).mean(),
        rebased.mean(),
        rebased.std(correction=0),
    ]
    quantiles = torch.quantile(rebased, rebased.new_tensor([0.1, 0.5, 0.9]))
    return torch.cat([histogram, torch.stack(single), quantiles, lag[None]])


def residual_part(outputs: Tensor, targets: Tensor) -> Tensor:
    """What outputs (B, K) and targets (B, K) say about the residuals, (5,): see ``RESIDUAL_NAMES``."""
    residual = outputs - targets
    # Every output in a unit of its own.
    deviation = residual.std(dim=0, correction=0, keepdim=True)
    mean = residual.mean(dim=0, keepdim=True)
    standard = (residual - mean) / deviation.clamp(min=_TINY)
    bias = (mean / (mean.abs() + deviation).clamp(min=_TINY)).mean()
    variance = targets.var(dim=0, correction=0)
    explained = (variance - residual.square().mean(dim=0)) / (variance + residual.square().mean(dim=0)).clamp(min=_TINY)
    from_median = (residual - residual.median(dim=0, keepdim=True).values).abs()
    usual = _GAUSSIAN_MAD * from_median.median(dim=0, keepdim=True).values
    outliers = (from_median > 3 * usual + 1e-6 * deviation).to(outputs).mean()
    skew, kurtosis = standard.pow(3).mean(), standard.pow(4).mean()
    return torch.stack([bias, explained.mean(), outliers, skew / (1 + skew.abs()), kurtosis / (3 + kurtosis)])


def feature_part(features: Tensor | None, targets: Tensor, classes: int, like: Tensor) -> Tensor:
    """What features (B, F) say about the encoder, (4,): see ``FEATURE_NAMES``; 0 without features."""
    if features is None:
        return like.new_zeros(len(FEATURE_NAMES))
    features = features.detach().to(like)
    norms = features.norm(dim=1)
    variation = norms.std(correction=0) / norms.mean().clamp(min=_TINY)
    centred = features - features.mean(dim=0)
    # Relative to the largest, lest squares of squares leave the range of a float.
    centred = centred / centred.abs().amax().clamp(min=_TINY)
    gram = centred @ centred.T if features.shape[0] <= features.shape[1] else centred.T @ centred
    total = gram.diagonal().sum()
    rank = total.square() / gram.square().sum().clamp(min=_TINY) / min(features.shape)
    separation = like.new_zeros(())
    if targets.ndim == 1:
        mates = (targets[:, None] == torch.arange(classes, device=targets.device)).to(like)
        means = (mates.T @ centred) / mates.sum(dim=0).clamp(min=1)[:, None]
        separation = (mates @ means).square().sum() / total.clamp(min=_TINY)
    log_norm = norms.mean().clamp(min=1e-6).log10()
    return torch.stack([log_norm, variation / (1 + variation), rank, separation])
