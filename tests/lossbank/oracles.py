"""Every loss once more: a batch as plain lists, and what its formulas have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from lossrag.lossbank import LOSSES

COUNTS = [40.0, 10.0, 3.0, 1.0]


@dataclass(frozen=True)
class Batch:
    logits: torch.Tensor
    targets: torch.Tensor
    features: torch.Tensor
    class_counts: torch.Tensor

    def values(self, name):
        return LOSSES[name](self.logits, self.targets, features=self.features, class_counts=self.class_counts)

    def __getitem__(self, rows):
        return Batch(self.logits[rows], self.targets[rows], self.features[rows], self.class_counts)

    def to(self, dtype):
        targets = self.targets.to(dtype) if self.targets.is_floating_point() else self.targets
        return Batch(self.logits.to(dtype), targets, self.features.to(dtype), self.class_counts.to(dtype))


def normal(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch_for(name, samples=8, outputs=4, seed=0):
    """float64. Class 3 occurs once, so that one sample has no class-mate."""
    classes = torch.tensor(([0, 1, 2, 0, 1, 3, 1, 0] * samples)[:samples])
    return Batch(
        2 * normal(samples, outputs, seed=seed),
        classes if LOSSES[name].target_kind == "classification" else 2 * normal(samples, outputs, seed=seed + 1),
        normal(samples, 7, seed=seed + 2),
        torch.tensor(COUNTS[:outputs], dtype=torch.float64),
    )


def built_in(family=None):
    """Names of the losses that come with the library; examples of the documentation are called my_..."""
    return [n for n, loss in LOSSES.items() if not n.startswith("my_") and family in (None, loss.family)]


def softmax(row):
    exponents = [math.exp(value - max(row)) for value in row]
    return [value / sum(exponents) for value in exponents]


def cross_entropy(row, y):
    return math.log(sum(math.exp(value - row[y]) for value in row))


def assert_formula(name, formula):
    """``formula(logits, target)`` of plain lists is the loss of each sample."""
    batch = batch_for(name)
    expected = [formula(row, y) for row, y in zip(batch.logits.tolist(), batch.targets.tolist(), strict=True)]
    assert batch.values(name).tolist() == pytest.approx(expected, rel=1e-10)
