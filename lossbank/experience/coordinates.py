"""Coordinates of a moment: its context, its trouble as the context tells it, its progress and its encoder, in a space
in which distances say how much alike two moments are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossrag.checks import check_least, check_positive
from lossrag.lossbank.experience.context import CONTEXT_NAMES
from lossrag.lossbank.experience.trials import UNKNOWN, Experience, Floats, Ints

REACH = 4.0
"""Standard deviations that an entry of a context is held to, lest one outlier decides alone."""
EARLIEST = 1e-3
"""Progress below which moments count as equally early."""
_PROGRESS = CONTEXT_NAMES.index("progress")
_FIT_ROWS = 20_000
"""Moments, evenly spaced, that scales and troubles are read from: more of them change nothing."""
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Likeness:
    """Weights of what makes two moments alike. A context as a whole has weight 1.

    trouble: of the trouble that a context looks like; a ridge regression on the bank's known troubles reads it.
    ridge: of that regression, in units of the variance of an entry.
    encoder: distance between two kinds of encoder.
    progress: distance between moments whose progress differs by a factor of ten.
    """

    trouble: float = 3.0
    ridge: float = 1.0
    encoder: float = 0.5
    progress: float = 1.0

    def __post_init__(self) -> None:
        check_least(self, 0, "trouble", "encoder", "progress")
        check_positive(self, "ridge")


class Coordinates:
    """The space of the moments of one target kind, fitted to an experience that has at least one of them.

    The squared distance of two moments is the mean square of the differences of their contexts, each entry in its
    standard deviations, plus the squared distances that :class:`Likeness` adds. Entries that never varied are left out,
    and so is the context's own progress.

    The trouble of a moment is what a linear regression says about it, one number for each trouble, from the entries of
    its context and their products with the progress: the same entry means something else early and late.
    """

    def __init__(self, experience: Experience, moments: NDArray[np.int64], likeness: Likeness) -> None:
        self.likeness = likeness
        self._encoders = {name: number for number, name in enumerate(experience.names["encoder"])}
        self._kinds = np.unique(experience.columns["encoder"][experience.moment_case[moments]])
        rows = moments[np.linspace(0, len(moments) - 1, min(len(moments), _FIT_ROWS)).round().astype(np.int64)]
        contexts, late = experience.contexts[rows].astype(np.float64), lateness(experience.progress[rows])
        self._mean, spread = contexts.mean(axis=0), contexts.std(axis=0)
        # the spread of an entry that never varied is rounding noise at most
        varied = spread > 1e-6 * np.abs(contexts).max(axis=0)
        varied[_PROGRESS] = False
        self._kept = np.flatnonzero(varied)
        self._scale = 1 / spread[self._kept]
        self._late = float(late.mean()), float(late.std())
        self._troubles = np.zeros((2 * len(self._kept), 0))
        cases = experience.moment_case[rows]
        self._fit_troubles(self._inputs(contexts, late), experience.texts("trouble")[cases])

    def _fit_troubles(self, inputs: Doubles, troubles: NDArray[np.str_]) -> None:
        known = troubles != UNKNOWN
        kinds = np.unique(troubles[known])
        if len(kinds) < 2 or not len(self._kept):
            return
        inputs, truth = inputs[known], (troubles[known, None] == kinds).astype(np.float64)
        gram = inputs.T @ inputs / len(inputs) + self.likeness.ridge * np.eye(inputs.shape[1])
        self._troubles = np.linalg.solve(gram, inputs.T @ (truth - truth.mean(axis=0)) / len(inputs))

    def _standard(self, contexts: Doubles) -> Doubles:
        kept = (contexts[:, self._kept] - self._mean[self._kept]) * self._scale
        return np.asarray(np.clip(kept, -REACH, REACH))

    def _inputs(self, contexts: Doubles, late: Doubles) -> Doubles:
        standard, (mean, spread) = self._standard(contexts), self._late
        later = (late - mean) / spread if spread > 1e-6 else np.zeros_like(late)
        return np.concatenate([standard, standard * later[:, None]], axis=1)

    def rows(self, contexts: Floats, progress: Floats, encoders: Ints) -> Floats:
        """Points (n, D) of contexts (n, C) at their progress (n,), encoders (n,) by :meth:`encoder`. A kind without a
        moment here is equally far from all that have one."""
        late = lateness(progress)
        inputs = self._inputs(contexts.astype(np.float64), late)
        count, weights = len(self._kept), self.likeness
        parts = [
            inputs[:, :count] / np.sqrt(max(count, 1)),
            weights.trouble * (inputs @ self._troubles),
            weights.encoder / np.sqrt(2) * (encoders[:, None] == self._kinds),
            weights.progress * late[:, None],
        ]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def encoder(self, kind: str) -> int:
        """The number that stands for a kind of encoder in the experience; -1 for one that is not there."""
        return self._encoders.get(kind, -1)


def lateness(progress: Floats) -> Doubles:
    """Logarithms (n,), base ten, of a progress (n,)."""
    return np.log10(np.maximum(progress.astype(np.float64), EARLIEST))
