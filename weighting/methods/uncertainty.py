"""Weighting by homoscedastic uncertainty (Kendall, Gal and Cipolla, CVPR 2018)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lossrag.checks import check_choice, check_length, check_positive, require
from lossrag.errors import did_you_mean
from lossrag.weighting.base import WEIGHTINGS, Signals, State, Weighting, numbers
from lossrag.weighting.training.adam import adam_direction

FACTOR = {"classification": 1.0, "regression": 0.5}
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's, as torch has them by default."""


@WEIGHTINGS.register("uncertainty")
@dataclass(frozen=True)
class Uncertainty(Weighting):
    """w_t = c_t exp(-s_t) (T,), the log variances s (T,) learned with theta on (1/T) sum_t (w_t L_t + s_t / 2).

    Source: "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics", Eq. 7 to 10 with
    s = log sigma^2; L_t is a mean squared error (Gaussian likelihood) or a cross-entropy.

    likelihood: what the task losses stand for, one name for each task or one for all: ``classification``, c = 1
        (1 / sigma^2), or ``regression``, c = 1/2 (1 / (2 sigma^2)). It decides where a weight starts, c, not where it
        settles, 1 / (2 L_t): a large loss gets a small weight.
    lr: step size of s, > 0. Reference implementations let the model's optimiser move s: give it the same.
    optimizer: ``adam`` as theirs, with torch's defaults, or ``sgd``, the plain gradient.

    s starts at 0 and moves after the weights of the step are taken, from the same losses as theta. Nothing bounds s:
    with a loss that stays 0 the weight grows without end, by a factor of about exp(lr) a step under Adam.

    Raises ConfigError for options out of range, and from :meth:`init`, hence before training, when the likelihoods are
    neither one nor T.

    >>> method = Uncertainty(lr=0.5, optimizer="sgd")
    >>> state = method.init(2, torch.device("cpu"))
    >>> for _ in range(200):
    ...     weights, state = method.weigh(state, Signals(torch.tensor([4.0, 0.25])))
    >>> [round(weight, 3) for weight in weights.tolist()]  # 1 / (2 L)
    [0.125, 2.0]
    """

    likelihood: list[str] = field(default_factory=lambda: ["classification"])
    lr: float = 1e-3
    optimizer: str = "adam"

    def __post_init__(self) -> None:
        for name in self.likelihood:
            require(name in FACTOR, self, f"{{likelihood}}={name!r} is unknown: {did_you_mean(name, FACTOR)}")
        check_positive(self, "lr")
        check_choice(self, "optimizer", ("adam", "sgd"))

    def init(self, tasks: int, device: torch.device) -> State:
        """``log_variance`` (T,) 0 and Adam's moments (T,) after ``moves`` (T,) steps."""
        if len(self.likelihood) != 1:
            check_length(self, "likelihood", self.likelihood, tasks, "name")
        zeros = torch.zeros_like(super().init(tasks, device)["weights"])
        moments = {} if self.optimizer == "sgd" else {"mean": zeros, "square": zeros.clone(), "moves": zeros.clone()}
        return {"weights": self._weights(zeros), "log_variance": zeros.clone(), **moments}

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """The weights (T,) of before the step of s; the state holds those of after it."""
        weights = state["weights"]
        gradient = 0.5 - weights * signals.losses.to(weights.dtype)
        # Adam does not care for the factor 1/T, whose changes where tasks are absent would get into the others' moments
        direction, moments = (gradient / len(weights), {}) if self.optimizer == "sgd" else _adam(state, gradient)
        log_variance = state["log_variance"] - self.lr * direction
        return weights, {"weights": self._weights(log_variance), "log_variance": log_variance, **moments}

    def _weights(self, log_variance: Tensor) -> Tensor:
        return numbers([FACTOR[name] for name in self.likelihood], log_variance) * (-log_variance).exp()


def _adam(state: State, gradient: Tensor) -> tuple[Tensor, State]:
    """Adam's direction (T,) for this gradient (T,), and its moments after it."""
    count = state["moves"] + 1
    mean = BETA_1 * state["mean"] + (1 - BETA_1) * gradient
    square = BETA_2 * state["square"] + (1 - BETA_2) * gradient.square()
    direction = adam_direction(mean, square, (BETA_1, BETA_2), count, EPSILON)
    return direction, {"mean": mean, "square": square, "moves": count}
