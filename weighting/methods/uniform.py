"""Uniform weights: the mean of the task losses."""

from __future__ import annotations

from dataclasses import dataclass

from lossrag.weighting.base import WEIGHTINGS, Weighting


@WEIGHTINGS.register("uniform")
@dataclass(frozen=True)
class Uniform(Weighting):
    """Every task weighs 1 for the whole run.

    >>> import torch
    >>> method = Uniform()
    >>> method.init(2, torch.device("cpu"))["weights"].tolist()
    [1.0, 1.0]
    """
