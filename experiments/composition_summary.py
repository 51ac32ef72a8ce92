"""What the tasks' losses are made of, for summary.json and in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossbank import Composer


def composition_summary(composer: Composer) -> dict[str, Any]:
    """Per task the shares of the active losses, largest first, and the losses that are switched off."""
    state = composer.composition
    shares, until = state.shares.tolist(), state.off_until.tolist()
    compositions, off = {}, {}
    for t, task in enumerate(composer.tasks):
        mixed = {composer.names[i]: share for i, share in enumerate(shares[t]) if share > 0}
        compositions[task.name] = dict(sorted(mixed.items(), key=lambda item: (-item[1], item[0])))
        off[task.name] = [
            composer.names[i] for i in composer.fitting[t] if until[t][i] > composer.reviews and shares[t][i] == 0
        ]
    return {"compositions": compositions, "off": off}


def sentence(task: str, shares: Mapping[str, float], off: int) -> str:
    """A composition in a line: the largest shares, until 90 % or three losses are named.

    >>> sentence("TALK", {"symmetric_ce": 0.61, "mae": 0.3, "brier": 0.09}, 7)
    'TALK: symmetric_ce .61, mae .30, 1 other .09; 7 losses off'
    """
    named: list[str] = []
    told = 0.0
    for name, share in sorted(shares.items(), key=lambda item: (-item[1], item[0])):
        if len(named) == 3 or told >= 0.9:
            break
        named.append(f"{name} {_short(share)}")
        told += share
    rest = len(shares) - len(named)
    if rest and 1 - told >= 0.005:
        named.append(f"{rest} {'other' if rest == 1 else 'others'} {_short(1 - told)}")
    return f"{task}: {', '.join(named)}" + (f"; {off} {'loss' if off == 1 else 'losses'} off" if off else "")


def _short(share: float) -> str:
    return f"{share:.2f}".removeprefix("0")
