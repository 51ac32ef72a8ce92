"""Inputs of a loss: what it may read of a batch, as it comes and as losses are computed on it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lossrag.errors import ConfigError
from lossrag.labels import labelled, unlabelled

Labelled = Tensor | Literal[True] | None
"""Rows (B,) of a batch that count, booleans; True for all, None for those whose targets say so."""


@dataclass(frozen=True)
class LossInputs:
    """All that a loss may read of a batch: logits (B, K), targets (B,) or (B, K); features (B, F) and class_counts (K,)
    where there are any.

    labelled: (B,) booleans, rows that count, where targets alone do not say so (see :mod:`lossrag.labels`); True where
        all rows are known to have a label, so that nobody has to look.
    """

    logits: Tensor
    targets: Tensor
    features: Tensor | None = None
    class_counts: Tensor | None = None
    labelled: Labelled = None

    def rows(self, start: int, stop: int) -> LossInputs:
        """Some samples of the batch."""
        return self._of_rows(slice(start, stop))

    def present(self) -> LossInputs:
        """The rows that have a label (reads their number from the device)."""
        return self._of_rows(self.present_rows())

    def present_rows(self) -> Tensor:
        """Rows that have a label, (B,) booleans."""
        if self.labelled is True:
            return torch.ones(len(self.targets), dtype=torch.bool, device=self.targets.device)
        known = labelled(self.targets)
        return known if self.labelled is None else known & self.labelled

    def _of_rows(self, rows: slice | Tensor) -> LossInputs:
        features = None if self.features is None else self.features[rows]
        known = self.labelled[rows] if isinstance(self.labelled, Tensor) else self.labelled
        return LossInputs(self.logits[rows], self.targets[rows], features, self.class_counts, known)

    def read(self, target_kind: str, needs: Collection[str], who: str) -> LabelledInputs:
        """These inputs as losses of a kind and with these ``needs`` are computed on them.

        Raises ConfigError, saying ``who`` asks, for shapes and dtypes that do not fit.
        """
        if self.logits.ndim != 2:
            raise ConfigError(f"{who}: logits are (B, K), one row a sample, got {tuple(self.logits.shape)}.")
        logits = wide(self.logits)
        targets = (_values if target_kind == "regression" else _classes)(logits, self.targets, who)
        features = counts = None
        if self.features is not None and "features" in needs:
            features = self._features(who)
        if self.class_counts is not None and "class_counts" in needs:
            counts = _counts(self.class_counts, logits, who)
        dtype = self.logits.dtype
        if self.labelled is True:
            return LabelledInputs(logits, targets, features, counts, None, dtype)
        missing = self._missing(targets, who)
        rows = missing[:, None]
        # What stands in for a row without a label is ordinary: its gradient is finite, and nothing times 0.
        logits = logits.masked_fill(rows, 0)
        targets = targets.masked_fill(rows, 1) if targets.ndim == 2 else targets.masked_fill(missing, 0)
        features = None if features is None else features.masked_fill(rows, 1)
        return LabelledInputs(logits, targets, features, counts, missing, dtype)

    def _missing(self, targets: Tensor, who: str) -> Tensor:
        missing = unlabelled(targets)
        known = self.labelled
        if known is None:
            return missing
        if not isinstance(known, Tensor) or known.dtype != torch.bool or known.shape != missing.shape:
            got = f"{known.dtype} {tuple(known.shape)}" if isinstance(known, Tensor) else repr(known)
            raise ConfigError(f"{who}: labelled are booleans ({len(missing)},), True where a row counts, got {got}.")
        return missing | ~known

    def _features(self, who: str) -> Tensor:
        assert self.features is not None
        if self.features.ndim != 2 or len(self.features) != len(self.logits):
            raise ConfigError(
                f"{who}: features {tuple(self.features.shape)} and logits {tuple(self.logits.shape)} do not fit: give "
                "features (B, F) of the same B samples."
            )
        return wide(self.features)


def joined_rows(parts: Sequence[LossInputs]) -> LossInputs:
    """The rows of several batches, one after the other, for losses that work row by row."""
    complete = all(part.labelled is True for part in parts)
    known: Labelled = True if complete else torch.cat([part.present_rows() for part in parts])
    logits, targets = torch.cat([part.logits for part in parts]), torch.cat([part.targets for part in parts])
    return LossInputs(logits, targets, labelled=known)


@dataclass(frozen=True)
class LabelledInputs:
    """What losses are computed on: inputs that fit, half precision as float32, and something ordinary in the place of
    rows without a label.

    targets: classes (B,) int64, or values (B, K). class_counts: (K,) on the device and in the dtype of the logits.
    missing: (B,) booleans, rows without a label; None where all are known to have one.
    dtype: that of the logits as they came, and of values; None for that of ``logits``.
    """

    logits: Tensor
    targets: Tensor
    features: Tensor | None = None
    class_counts: Tensor | None = None
    missing: Tensor | None = None
    dtype: torch.dtype | None = None

    @property
    def labelled(self) -> Tensor:
        """Rows that have a label, (B,) booleans."""
        if self.missing is None:
            return torch.ones(len(self.logits), dtype=torch.bool, device=self.logits.device)
        return ~self.missing

    def strange_class(self) -> int | None:
        """A class that there is no logit for, to explain an error by; None where there is none, or nothing to read."""
        if self.targets.is_floating_point() or self.targets.device.type == "meta":
            return None
        strange = (self.targets < 0) | (self.targets >= self.logits.shape[1])
        return int(self.targets[strange][0]) if bool(strange.any()) else None

    def finished(self, values: Tensor) -> Tensor:
        """``values`` (..., B) as they go out: 0 for rows without a label, in the dtype of the logits that came."""
        known = values if self.missing is None else values.masked_fill(self.missing, 0)
        return known if self.dtype in (None, self.logits.dtype) else known.to(self.dtype)


def wide(tensor: Tensor) -> Tensor:
    """In float32 where it was in half precision: what losses pass on the way leaves the range of halves."""
    return tensor.float() if tensor.dtype.itemsize < 4 and tensor.is_floating_point() else tensor


def _values(logits: Tensor, targets: Tensor, who: str) -> Tensor:
    """Targets (B, K) of a regression."""
    column = targets[:, None] if targets.ndim == 1 and logits.shape[1] == 1 else targets
    if column.shape != logits.shape:
        raise ConfigError(
            f"{who}: outputs {tuple(logits.shape)} and targets {tuple(targets.shape)} do not fit: a regression takes "
            "targets (B, K) beside outputs (B, K), or (B,) beside (B, 1)."
        )
    return wide(column) if column.is_floating_point() else column.to(logits.dtype)


def _classes(logits: Tensor, targets: Tensor, who: str) -> Tensor:
    """Targets (B,) of a classification."""
    if targets.shape != logits.shape[:1] or targets.is_floating_point():
        raise ConfigError(
            f"{who}: logits {tuple(logits.shape)} and targets {tuple(targets.shape)} of {targets.dtype} do not fit: a "
            "classification takes a class, a whole number, for each row: (B,) beside (B, K)."
        )
    return targets.long()


def _counts(counts: Tensor, logits: Tensor, who: str) -> Tensor:
    """Class counts (K,) beside the logits; a class without samples counts as one of a single sample."""
    if counts.shape != logits.shape[1:]:
        raise ConfigError(
            f"{who}: class_counts {tuple(counts.shape)} and logits {tuple(logits.shape)} do not fit: give the number "
            f"of training samples of each of the {logits.shape[1]} classes."
        )
    counts = counts.to(logits)
    return torch.where(counts > 0, counts, torch.ones_like(counts))
