"""Context of a task at a moment, as a vector: what a loss is retrieved by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossrag.errors import ConfigError
from lossrag.lossbank.library.contract import TARGET_KINDS

BINS = 5
CLASS_NAMES = (
    *(f"confidence_{bin + 1}" for bin in range(BINS)),
    *("disagreement", "likely_and_wrong", "sure_and_wrong"),
    *("p_mean", "p_deviation", "p_10", "p_50", "p_90", "rare_lag"),
)
RESIDUAL_NAMES = ("bias", "explained", "outliers", "skew", "kurtosis")
FEATURE_NAMES = ("feature_norm", "feature_norm_variation", "feature_rank", "feature_separation")
NEIGHBOUR_NAMES = ("neighbour_agreement", "outvoted")
NEIGHBOURS = 10
"""Rows of the most alike features that a row's target is compared with."""

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
    """Fit of logits (B, K) to classes (B,), (14,): see ``CLASS_NAMES``."""
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
    """Residuals of outputs (B, K) and targets (B, K), (5,): see ``RESIDUAL_NAMES``."""
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
    """Encoder as its features (B, F) show it, (4,): see ``FEATURE_NAMES``; 0 without features."""
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


def neighbour_part(features: Tensor | None, targets: Tensor, classes: int, like: Tensor) -> Tensor:
    """Targets of rows with like features (B, F), by their cosine, (2,): see ``NEIGHBOUR_NAMES``; 0 without features.

    Wrong labels disagree with their neighbours from the first step on, whatever the model has learned.
    """
    if features is None or len(features) < 2:
        return like.new_zeros(len(NEIGHBOUR_NAMES))
    rows = features.detach().to(like)
    rows = nn.functional.normalize(rows - rows.mean(dim=0), dim=1)
    alike = (rows @ rows.T).fill_diagonal_(-2)
    count = min(NEIGHBOURS, len(rows) - 1)
    near = alike.topk(count, dim=1).indices
    if targets.ndim == 1:
        marks = (targets[:, None] == torch.arange(classes, device=like.device)).to(like)
        votes = marks[near].mean(dim=1)
        own, most = votes.gather(1, targets[:, None]).squeeze(1), votes.amax(dim=1)
        chance = marks.mean(dim=0).square().sum()
        agreement = (own.mean() - chance) / (1 - chance).clamp(min=_TINY)
        return torch.stack([agreement.clamp(-1, 1), ((most >= 0.5) & (own < most)).to(like).mean()])
    values = targets.to(like)
    residual = values - values[near].mean(dim=1)
    # the mean of so many neighbours has an error of its own
    noise = values.var(dim=0, correction=0) * (1 + 1 / count)
    explained = ((noise - residual.square().mean(dim=0)) / noise.clamp(min=_TINY)).mean()
    from_median = (residual - residual.median(dim=0, keepdim=True).values).abs()
    usual = _GAUSSIAN_MAD * from_median.median(dim=0, keepdim=True).values
    return torch.stack([explained.clamp(-1, 1), (from_median > 3 * usual + _TINY).to(like).mean()])


_SIDES = ("support", "query")

CONTEXT_NAMES: tuple[str, ...] = (
    *("classification", "regression", "progress", "outputs"),
    *("balance_entropy", "balance_rarest"),
    *(f"{side}_{name}" for side in _SIDES for name in (*CLASS_NAMES, *RESIDUAL_NAMES)),
    *FEATURE_NAMES,
    *NEIGHBOUR_NAMES,
    *("support_loss", "query_loss", "support_loss_fall", "query_loss_fall", "loss_gap"),
)
"""Names of the entries of :func:`context_vector`; see there."""


@dataclass(frozen=True, eq=False)
class TaskSignals:
    """Signals of a task at a moment: K outputs, B support and Bq query samples, one at least of each.

    Targets are classes (B,) int64, or values (B, K) floats for ``target_kind`` "regression". ``features`` (B, F) are
    those of the support samples, ``query_features`` (Bq, F) those of the query samples. ``class_counts`` (K,) are
    numbers of training samples; those of the support batch stand in for them. Losses are scalars, the previous
    ones None at the first moment; ``progress`` is in [0, 1]. All tensors are finite and on one device.
    """

    support_logits: Tensor
    support_targets: Tensor
    query_logits: Tensor
    query_targets: Tensor
    target_kind: str
    support_loss: Tensor
    query_loss: Tensor
    features: Tensor | None = None
    query_features: Tensor | None = None
    previous_support_loss: Tensor | None = None
    previous_query_loss: Tensor | None = None
    class_counts: Tensor | None = None
    progress: float | Tensor = 0.0


@torch.no_grad()
def context_vector(signals: TaskSignals) -> Tensor:
    """The context (C,), float32 on the device of the logits, C = ``len(CONTEXT_NAMES)`` for every task.

    Entries are in [-1, 1], but for asinh of a loss and log10 of a norm. What does not apply (residuals of a
    classification, features of a task that has none) is 0. No entry needs the number of classes: probabilities are
    rebased so that chance, p = 1/K, is always 1/2, and the confidence max p so that chance is 0.

    - target kind, progress, log2 of K (a tenth), entropy of the class counts over log K, rarest over most frequent;
    - for support and query samples of a classification: shares with a confidence in each fifth of [0, 1], share of
      predictions that differ from the label, the same and a confidence above 1/2 and above 4/5 (label noise shows
      here), rebased p_y: mean, deviation, quantiles 10, 50 and 90 %, and how far rare classes are behind (mean over
      samples less mean over classes);
    - for those of a regression: bias over deviation, share of the targets' variance that is explained, outliers
      (beyond 3 robust deviations), skew s / (1 + |s|), kurtosis of the residuals, k / (3 + k);
    - features: log10 of their mean norm, variation of the norm, effective rank (a share of the largest possible),
      share of the variance that lies between the classes;
    - rows with like features, support and query together: how much of a classification's labels, beyond chance, the
      ten nearest rows share, and how many rows half of them or more outvote; of a regression the share of the targets'
      variance that the mean of the nearest explains, and outliers from it;
    - losses, how far they fell since the last moment (of the sum of both), and (query - support) / (query + support).

    Raises ConfigError for another target kind, no samples, or shapes that do not match.

    >>> logits, targets = torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1])
    >>> loss = torch.tensor(0.7)
    >>> context = context_vector(TaskSignals(logits, targets, logits, targets, "classification", loss, loss))
    >>> of = dict(zip(CONTEXT_NAMES, context.tolist()))
    >>> of["support_confidence_5"], of["support_sure_and_wrong"], of["balance_entropy"]
    (1.0, 0.5, 1.0)
    """
    _check(signals)
    logits = signals.support_logits.float()
    outputs = logits.shape[1]
    classification = signals.target_kind == "classification"
    balance = logits.new_zeros(2)
    if classification:
        counts = signals.class_counts
        if counts is None:
            counts = (signals.support_targets[:, None] == torch.arange(outputs, device=logits.device)).sum(dim=0)
        balance = _balance(counts.to(logits))
    parts = [
        logits.new_tensor([classification, not classification]),
        torch.as_tensor(signals.progress).to(logits).reshape(1).clamp(0, 1),
        logits.new_tensor([min(math.log2(outputs) / 10, 1.0)]),
        balance,
    ]
    for answer, targets in (
        (logits, signals.support_targets),
        (signals.query_logits.float(), signals.query_targets),
    ):
        if classification:
            parts += [class_part(answer, targets), logits.new_zeros(len(RESIDUAL_NAMES))]
        else:
            parts += [logits.new_zeros(len(CLASS_NAMES)), residual_part(answer, targets.to(answer))]
    parts += [
        feature_part(signals.features, signals.support_targets, outputs, logits),
        neighbour_part(*_rows(signals), outputs, logits),
        _losses(signals, logits),
    ]
    return torch.cat(parts)


def _rows(signals: TaskSignals) -> tuple[Tensor | None, Tensor]:
    """Features and targets of the support and the query samples, as far as they are known."""
    if signals.features is None or signals.query_features is None:
        return signals.features, signals.support_targets
    features = torch.cat([signals.features, signals.query_features.to(signals.features)])
    return features, torch.cat([signals.support_targets, signals.query_targets.to(signals.support_targets)])


def _balance(counts: Tensor) -> Tensor:
    share = counts / counts.sum().clamp(min=1e-12)
    most = math.log(max(len(counts), 2))
    return torch.stack([torch.special.entr(share).sum() / most, counts.amin() / counts.amax().clamp(min=1e-12)])


def _losses(signals: TaskSignals, like: Tensor) -> Tensor:
    support, query = (loss.detach().to(like).reshape(()) for loss in (signals.support_loss, signals.query_loss))
    falls = [
        torch.zeros_like(now) if before is None else relative_change(before.detach().to(like).reshape(()), now)
        for before, now in ((signals.previous_support_loss, support), (signals.previous_query_loss, query))
    ]
    return torch.stack([support.asinh(), query.asinh(), *falls, relative_change(query, support)])


def _check(signals: TaskSignals) -> None:
    if signals.target_kind not in TARGET_KINDS:
        raise ConfigError(f"The target kind of a task is one of {TARGET_KINDS}, got {signals.target_kind!r}.")
    wide = signals.target_kind == "regression"
    outputs = signals.support_logits.shape[-1]
    for side, logits, targets in (
        ("support", signals.support_logits, signals.support_targets),
        ("query", signals.query_logits, signals.query_targets),
    ):
        if logits.ndim != 2 or not logits.numel() or logits.shape[1] != outputs:
            raise ConfigError(f"The {side} logits are (B, {outputs}) with one sample at least, got {logits.shape}.")
        expected = tuple(logits.shape) if wide else (len(logits),)
        if tuple(targets.shape) != expected:
            raise ConfigError(f"The {side} targets of a {signals.target_kind} are {expected}, got {targets.shape}.")
    features, counts = signals.features, signals.class_counts
    others = signals.query_features
    if others is not None and (others.ndim != 2 or len(others) != len(signals.query_logits)):
        raise ConfigError(f"Give features of the {len(signals.query_logits)} query samples, got {others.shape}.")
    if features is not None and (features.ndim != 2 or len(features) != len(signals.support_logits)):
        raise ConfigError(f"Give features of the {len(signals.support_logits)} support samples, got {features.shape}.")
    if not wide and counts is not None and tuple(counts.shape) != (outputs,):
        raise ConfigError(f"Give the counts of {outputs} classes, ({outputs},), got the shape {tuple(counts.shape)}.")
