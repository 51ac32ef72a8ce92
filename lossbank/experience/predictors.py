"""Predictors of contributions in a context: two ways to ask the memory, one contract."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lossrag.errors import ConfigError, did_you_mean
from lossrag.lossbank.experience.history import near_history
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.experience.towers import Towers


@dataclass(frozen=True, eq=False)
class Prediction:
    """Of L losses: ``mean`` (L,) contribution in [-1, 1], and its ``uncertainty`` (L,) in [0, 1], on the CPU.

    Nothing known: mean 0, uncertainty 1.
    """

    mean: Tensor
    uncertainty: Tensor


def top(prediction: Prediction, names: Sequence[str], k: int) -> list[tuple[str, float]]:
    """The min(k, L) best of ``names`` (L) by their mean, best first, equal ones by name.

    >>> top(Prediction(torch.tensor([0.1, 0.5, 0.1]), torch.ones(3)), ["b", "c", "a"], 2)
    [('c', 0.5), ('a', 0.10000000149011612)]
    """
    order = sorted(zip(prediction.mean.neg().tolist(), names, strict=True))
    return [(name, -value) for value, name in order[:k]]


class KnnPredictor:
    """Means over the moments of ``memory`` whose contexts are nearest; no training.

    As many as the root of the number of moments, 4 to 64: few enough to tell contexts apart, ever more to average over.

    ``vectors`` are the geometries by name, of one size. A loss that was tried little or never at those moments
    borrows from losses of a geometry near to its own that were: Nadaraya-Watson regression with a Gaussian kernel,
    whose width is half the distance to the third nearest of them. Its own n records then weigh as n against one.

    >>> memory = Memory(1, "v1")
    >>> memory.add([[0.0]], ["mae"], [0.5], run="r", task="REC", step=0)
    >>> shapes = {"mae": torch.tensor([1.0, 0.0]), "like_mae": torch.tensor([0.99, 0.14])}
    >>> prediction = KnnPredictor(memory, shapes).predict(torch.zeros(1), ["mae", "like_mae"])
    >>> [round(float(mean), 2) for mean in prediction.mean]
    [0.25, 0.24]
    """

    def __init__(self, memory: Memory, vectors: Mapping[str, Tensor]) -> None:
        self.memory = memory
        self._names = tuple(sorted(vectors))
        self._place = {name: place for place, name in enumerate(self._names)}
        rows = torch.stack([vectors[name].double().cpu() for name in self._names]) if vectors else torch.empty(0, 1)
        self._distance = torch.cdist(rows, rows)

    def predict(self, context: Tensor, names: Sequence[str]) -> Prediction:
        """Prediction for the losses ``names`` (L) in ``context`` (C,).

        The uncertainty is the standard error of that mean: from the spread of the contributions and how many there
        are, its own or borrowed ones.
        Raises ConfigError for a name without a vector and for a context that the memory refuses.
        """
        wanted = torch.tensor([_place(self._place, name) for name in names], dtype=torch.long)
        if not len(self.memory) or not len(wanted):
            return Prediction(torch.zeros(len(wanted)), torch.ones(len(wanted)))
        near = near_history(self.memory, context.detach().cpu().numpy(), self._usual(), self._names)
        n = torch.from_numpy(near.counts).double()
        # As if one more record had said 0, give or take 1.
        means = n * torch.from_numpy(near.means).clamp(-1, 1) / (n + 1)
        variances = (n * torch.from_numpy(near.deviations).square().clamp(max=1) + 1) / (n + 1).square()
        lent, doubt = self._borrowed(wanted, n, means, variances)
        own = n[wanted] + 1
        mean = means[wanted] + lent / own
        variance = variances[wanted] + (doubt - 1) / own.square()
        return Prediction(mean.float(), variance.clamp(0, 1).sqrt().float())

    def _usual(self) -> int:
        records = self.memory.records  # sorted by task, run and step
        columns = (records.task, records.run, records.step)
        moments = 1 + int(np.logical_or.reduce([np.diff(column) != 0 for column in columns]).sum())
        return min(max(math.isqrt(moments), 4), 64)

    def _borrowed(self, wanted: Tensor, n: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances (L,) from losses alike that have n > 0 records: 0 and 1 where there are none."""
        distance = self._distance[wanted].clone()
        # Its own records count on their own.
        distance[torch.arange(len(wanted)), wanted] = torch.inf
        distance[:, n == 0] = torch.inf
        third = distance.sort(dim=1).values[:, min(2, distance.shape[1] - 1)]
        width = (third / 2).clamp(min=_NARROWEST, max=_WIDEST)[:, None]
        kernel = torch.exp(-(distance / width).square() / 2)
        mass = kernel.sum(dim=1, keepdim=True) + _PRIOR
        weight = kernel / mass
        mean = weight @ means
        spread = (weight * (variances + (means - mean[:, None]).square())).sum(dim=1)
        return mean, (spread + _PRIOR / mass[:, 0]).clamp(max=1)


_NARROWEST, _WIDEST = 0.05, 0.5
_PRIOR = 0.05
"""Weight of knowing nothing (mean 0, variance 1) beside what losses alike have shown."""


class TowerPredictor:
    """The learned predictor: ``towers`` and loss ``vectors`` (E,) by name."""

    def __init__(self, towers: Towers, vectors: Mapping[str, Tensor]) -> None:
        self.towers = towers
        self._place = {name: place for place, name in enumerate(vectors)}
        rows = [vector.float().cpu() for vector in vectors.values()]
        self._rows = torch.stack(rows) if rows else torch.empty(0, towers.shape.loss)

    def predict(self, context: Tensor, names: Sequence[str]) -> Prediction:
        """Prediction for the losses ``names`` (L) in ``context`` (C,), as :meth:`Towers.predict` has it.

        Raises ConfigError for a name without a vector, and for a context of another size.
        """
        wanted = torch.tensor([_place(self._place, name) for name in names], dtype=torch.long)
        return Prediction(*self.towers.predict(context.detach().cpu().float(), self._rows[wanted]))


def _place(places: Mapping[str, int], name: str) -> int:
    if name not in places:
        raise ConfigError(f"There is no vector of the loss {name!r}: {did_you_mean(name, places)}")
    return places[name]
