"""Random loss weighting (RLW; Lin, Ye, Zhang and Tsang, TMLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lossrag.checks import check_choice, check_least
from lossrag.streams import Stream, generator
from lossrag.weighting.base import WEIGHTINGS, Signals, State, Weighting, numbers


@WEIGHTINGS.register("random")
@dataclass(frozen=True)
class RandomWeights(Weighting):
    """Weights (T,) drawn anew at every step, >= 0 and of sum T.

    Source: "Reasonable Effectiveness of Random Weighting", Section 3: the litmus test that a method should pass.

    distribution: ``normal``, w = T softmax(z) with z_t standard normal; ``dirichlet``, w / T uniform on the simplex.
    seed: in a run it is that of the run.

    A draw is a function of (seed, step) alone, on the CPU, and the step counts on through checkpoints: a resumed run
    draws what an undisturbed one does, on any device, and nothing else that is random is touched.

    Raises ConfigError for an unknown distribution or a negative seed.

    >>> import torch
    >>> method = RandomWeights(seed=1)
    >>> weights, _ = method.weigh(method.init(3, torch.device("cpu")), Signals(torch.ones(3), step=5))
    >>> bool((weights > 0).all()), round(float(weights.sum()), 6)
    (True, 3.0)
    """

    distribution: str = "normal"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self, "distribution", ("normal", "dirichlet"))
        check_least(self, 0, "seed")

    def weigh(self, state: State, signals: Signals) -> tuple[Tensor, State]:
        """The draw of this step (T,)."""
        tasks = len(state["weights"])
        # no torch generator: on the CPU it would heed 32 bits of its seed, too few for (seed, step)
        chance = generator(self.seed, Stream.RANDOM_WEIGHTS, signals.step)
        if self.distribution == "dirichlet":
            share = chance.dirichlet(np.ones(tasks))
        else:
            share = np.exp(chance.standard_normal(tasks))
            share /= share.sum()
        weights = numbers((tasks * share).tolist(), state["weights"])
        return weights, {"weights": weights}
