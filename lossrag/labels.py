"""Labels: which rows of a batch have one, and means over these alone.

A row without a label is absent: its loss is 0 and it pulls at nothing, no loss on pairs of samples compares another
with it, and a mean over the batch is one over the rows that have a label. All of it without reading a value back.
"""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100
"""Class of a row without a label, as in torch."""


def labelled(targets: Tensor) -> Tensor:
    """Rows that have a label, (B,) booleans; their sum is how many there are.

    A row without one has the class :data:`IGNORED` among classes (B,) of whole numbers, or a NaN among its values,
    (B,) or (B, K) floats.

    >>> labelled(torch.tensor([2, -100, 0])).tolist()
    [True, False, True]
    >>> labelled(torch.tensor([[0.5, 1.0], [float("nan"), 1.0]])).tolist()
    [True, False]
    """
    return ~unlabelled(targets)


def unlabelled(targets: Tensor) -> Tensor:
    """Rows that have no label, (B,) booleans: see :func:`labelled`."""
    if targets.ndim == 1 and not targets.is_floating_point():
        return targets == IGNORED
    unknown = targets.isnan()
    return unknown if targets.ndim == 1 else unknown.flatten(1).any(dim=1)


def labelled_mean(values: Tensor, rows: Tensor) -> Tensor:
    """Mean () of values (B,) over the rows (B,), booleans, that have a label.

    Where there is none it is 0, with a gradient of 0.

    >>> float(labelled_mean(torch.tensor([1.0, 7.0, 3.0]), torch.tensor([True, False, True])))
    2.0
    """
    # a sum of halves leaves their range long before the mean does
    wide = values.dtype if values.dtype.itemsize > 2 else torch.float32
    return (values.masked_fill(~rows, 0).sum(dtype=wide) / rows.sum().clamp(min=1)).to(values.dtype)
