"""Likeness of losses: those that look at data in the most similar way, by the cosine of their geometries."""

from __future__ import annotations

from lossrag.errors import ConfigError
from lossrag.lossbank.library.registration import LOSSES
from lossrag.lossbank.shape.geometry import geometry_vectors


def alike(name: str, k: int) -> list[tuple[str, float]]:
    """The min(k, others) losses of the same target kind whose geometry is nearest, with cosines, best first.

    Raises ConfigError for a loss that is not registered, or k < 1.

    >>> import lossrag.lossbank
    >>> [(other, round(cosine, 3)) for other, cosine in alike("mae", 1)]
    [('one_minus_p', 1.0)]
    """
    if k < 1:
        raise ConfigError(f"The number of neighbours is a whole number from 1 up, not {k!r}.")
    own = LOSSES[name]
    others = sorted(loss.name for loss in LOSSES.values() if loss.target_kind == own.target_kind and loss.name != name)
    vectors = geometry_vectors([own, *(LOSSES[other] for other in others)]).double()
    cosines = (vectors[1:] @ vectors[0]).tolist()
    # what differs less is rounding in the vectors, so it counts as a tie
    return sorted(zip(others, cosines, strict=True), key=lambda pair: (-round(pair[1], 6), pair[0]))[:k]
