"""Hidden losses: would a bank retrieve a loss that it has never seen? One is taken out with its twins, and asked for
where it was right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lossrag.lossbank.experience.trials import UNKNOWN, Experience
from lossrag.lossbank.experience.validation import Asked, ValidationOptions
from lossrag.lossbank.library.registration import LOSSES
from lossrag.lossbank.shape.geometry import TWIN, geometry_vectors

BEST = 3
"""Losses of a case, those with the largest gains, that are asked for."""


@dataclass(frozen=True)
class HiddenTrial:
    """A loss that was among the best of a case, of this ``family``; hidden, it was expected to be the ``rank``-th of
    those ``offered``, and with all its trials the ``open_rank``-th. k: how many are retrieved."""

    case: int
    loss: str
    family: str
    trouble: str
    rank: int
    open_rank: int
    offered: int
    k: int


def hidden_losses(experience: Experience, options: ValidationOptions | None = None) -> list[HiddenTrial]:
    """A trial for each of the best three losses of every case whose trouble is known and is one, if they gained.

    What answers has seen neither the source of the case nor, anywhere, the loss or its twins. Offered is what was tried
    in the case; k of it are retrieved, half of it where that is less.
    """
    options = options or ValidationOptions()
    asked = Asked(experience, options)
    shapes = geometry_vectors([LOSSES[name] for name in asked.names]).double().numpy()
    twins = [np.flatnonzero(row >= TWIN).tolist() for row in shapes @ shapes.T]
    troubled = ~np.isin(asked.troubles, ("clean", UNKNOWN))
    trials = []
    for case in (case for case in asked.neighbours if troubled[case]):
        gains = asked.gains[case]
        tried = np.flatnonzero(~np.isnan(gains))
        k = min(options.k, max(len(tried) // 2, 1))
        known = asked.expected(case).mean
        best = tried[np.argsort(-gains[tried], kind="stable")[:BEST]]
        for loss in best[gains[best] > 0].tolist():
            hidden = asked.expected(case, sorted({loss, *twins[loss]})).mean
            rank, open_rank = (1 + int((mean[tried] > mean[loss]).sum()) for mean in (hidden, known))
            name, trouble = asked.names[loss], str(asked.troubles[case])
            trials.append(HiddenTrial(case, name, LOSSES[name].family, trouble, rank, open_rank, len(tried), k))
    return trials


@dataclass(frozen=True)
class Found:
    """Of ``trials`` the shares in which the loss was among those retrieved: ``hidden``, ``open`` with all its trials,
    and by ``chance``."""

    trials: int
    hidden: float
    open: float
    chance: float

    @staticmethod
    def of(trials: Sequence[HiddenTrial]) -> Found:
        """Of one trial at least."""
        shares = [(t.rank <= t.k, t.open_rank <= t.k, min(t.k / t.offered, 1)) for t in trials]
        return Found(len(trials), *np.mean(shares, axis=0).tolist())


def found_by_family(trials: Sequence[HiddenTrial]) -> dict[tuple[str, str], Found]:
    """By family and trouble, and under the trouble "" those of a family as a whole, sorted."""
    groups: dict[tuple[str, str], list[HiddenTrial]] = {}
    for trial in trials:
        for trouble in ("", trial.trouble):
            groups.setdefault((trial.family, trouble), []).append(trial)
    return {group: Found.of(groups[group]) for group in sorted(groups)}
