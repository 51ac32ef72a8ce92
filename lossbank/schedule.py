"""When the losses of a run are priced, and when the candidates are chosen anew."""

from __future__ import annotations

from lossbank.policies import ComposerConfig


def price_due(config: ComposerConfig, step: int) -> bool:
    """Whether the step of this number (from 1) is to be priced.

    A look far ahead changes the losses much at the start of a run and little later: it comes at steps 1, 4, 8, 16 ...
    and then every so many.

    >>> [step for step in range(1, 70) if price_due(ComposerConfig(horizon=20), step)]
    [1, 4, 8, 16, 32, 64]
    >>> [step for step in range(1, 7) if price_due(ComposerConfig(horizon=1), step)]
    [1, 3, 5]
    """
    every = config.pace.every
    if config.policy == "fixed":
        return False
    if not config.far:
        return (step - 1) % every == 0
    early = step < every and step & (step - 1) == 0 and step != 2
    return early or step % every == 0


def review_due(config: ComposerConfig, pricings: int, warm: bool) -> bool:
    """Whether candidates are reviewed after so many pricings: every ``review``; in a run that begins with a guess after
    4, 8 and 16 too, and after the first where there is a memory of other runs (``warm``)."""
    every = config.pace.review
    early = 4 <= pricings < every and pricings & (pricings - 1) == 0
    return early or pricings % every == 0 or (pricings == 1 and warm)
