"""Troubles of training targets, drawn at random: label noise and imbalance, and their like for regressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossrag.tasks import Corruption

BETWEEN_TWO = 0.4
"""The largest rate of wrong labels of two classes: beyond half they would be the right ones."""


@dataclass(frozen=True)
class Trouble:
    """A kind of trouble: its strength as in :class:`Case`, and what it does to labels, None for values."""

    kind: str
    strength: float = math.nan
    corruption: Corruption | None = None


@dataclass(frozen=True)
class Strengths:
    """Ranges that the strengths of label troubles are drawn from: of rates, and of the ratios of class sizes."""

    rates: tuple[float, float] = (0.1, 0.6)
    ratios: tuple[float, float] = (3, 50)

    def rate(self, most: float, classes: int, chance: np.random.Generator) -> float:
        """A rate, uniform; at most ``most``."""
        most = min(most, self.rates[1])
        return float(chance.uniform(self.rates[0], most if classes > 2 else min(most, BETWEEN_TWO)))

    def shares(self, most: float, classes: int, chance: np.random.Generator) -> tuple[tuple[float, ...], float]:
        """Shares to keep of every class, exponential in a random order, and the ratio of the largest to the smallest,
        log-uniform; at most ``most``."""
        ratio = math.exp(chance.uniform(math.log(self.ratios[0]), math.log(min(most, self.ratios[1]))))
        shares = ratio ** (-np.arange(classes) / (classes - 1))
        return tuple(chance.permutation(shares).tolist()), ratio


Drawn = Callable[[Strengths, int, np.random.Generator], Trouble]


def _noise(noise: Literal["symmetric", "pair"], most: float) -> Drawn:
    def draw(strengths: Strengths, classes: int, chance: np.random.Generator) -> Trouble:
        rate = strengths.rate(most, classes, chance)
        return Trouble(noise, rate, Corruption(noise, rate))

    return draw


def _imbalance(strengths: Strengths, classes: int, chance: np.random.Generator) -> Trouble:
    shares, ratio = strengths.shares(math.inf, classes, chance)
    return Trouble("imbalance", ratio, Corruption(imbalance=shares))


def _both(strengths: Strengths, classes: int, chance: np.random.Generator) -> Trouble:
    shares, _ = strengths.shares(20, classes, chance)
    rate = strengths.rate(0.4, classes, chance)
    return Trouble("both", rate, Corruption("symmetric", rate, imbalance=shares))


CLASS_TROUBLES: Mapping[str, Drawn] = {
    "clean": lambda strengths, classes, chance: Trouble("clean"),
    "symmetric": _noise("symmetric", 1.0),
    "pair": _noise("pair", 0.45),
    "imbalance": _imbalance,
    "both": _both,
}
"""Of labels: pair noise of half would make the wrong class the right one; both troubles at once are weaker each."""


def drawn_trouble(strengths: Strengths, kind: str, classes: int, chance: np.random.Generator) -> Trouble:
    """A trouble of this kind with a random strength, of labels of so many classes, or of values (0)."""
    if classes:
        return CLASS_TROUBLES[kind](strengths, classes, chance)
    low, high, _ = VALUE_TROUBLES[kind]
    return Trouble(kind, math.exp(chance.uniform(math.log(low), math.log(high))) if high else math.nan)


Doubles = NDArray[np.float64]
Errors = Callable[[np.random.Generator, float, Doubles, Doubles], Doubles]


def _outliers(chance: np.random.Generator, rate: float, x: Doubles, like: Doubles) -> Doubles:
    """A share of the values is off by 3 to 8 deviations, to either side or to one."""
    up = 0.5 if chance.random() < 0.5 else 1.0
    side = np.where(chance.random(like.shape) < up, 1.0, -1.0)
    return np.where(chance.random(like.shape) < rate, side * chance.uniform(3, 8, like.shape), 0.0)


def _heavy_tails(chance: np.random.Generator, scale: float, x: Doubles, like: Doubles) -> Doubles:
    return scale * chance.standard_t(chance.uniform(1.2, 2.5), like.shape)


def _skew(chance: np.random.Generator, scale: float, x: Doubles, like: Doubles) -> Doubles:
    """Log-normal errors around a median of 0, all with their long side in one direction."""
    side = 1.0 if chance.random() < 0.5 else -1.0
    return side * scale * (np.exp(1.2 * chance.standard_normal(like.shape)) - 1)


def _heteroscedastic(chance: np.random.Generator, scale: float, x: Doubles, like: Doubles) -> Doubles:
    """Gaussian errors whose deviation grows exponentially in a random direction of the inputs."""
    along = x @ chance.standard_normal(x.shape[1])
    along = (along - along.mean()) / max(float(along.std()), 1e-6)
    width: Doubles = scale * np.exp(along.clip(-2.5, 2.5))[:, None]
    return width * chance.standard_normal(like.shape)


VALUE_TROUBLES: Mapping[str, tuple[float, float, Errors | None]] = {
    "clean": (0, 0, None),
    "outliers": (0.03, 0.25, _outliers),
    "heavy_tails": (0.15, 1.0, _heavy_tails),
    "skew": (0.15, 1.0, _skew),
    "heteroscedastic": (0.15, 1.0, _heteroscedastic),
}
"""Smallest and largest strength of a trouble with values, in deviations of the clean ones or as a share of them, and
its errors (N, K) for inputs (N, F) and values like these (N, K)."""


def contaminated(trouble: Trouble, inputs: Tensor, targets: Tensor, chance: np.random.Generator) -> Tensor:
    """The targets (N, K), of unit deviation, with the errors of the trouble."""
    errors = VALUE_TROUBLES[trouble.kind][2]
    if errors is None:
        return targets
    return targets + torch.from_numpy(errors(chance, trouble.strength, inputs.numpy(), targets.numpy())).to(targets)
