"""The model of a run: its encoder, how tasks share it, and what keeps shared and private features apart."""

from __future__ import annotations

from dataclasses import dataclass

from lossrag.checks import check_choice, check_least, require
from lossrag.models import PENALTIES, SHARING, EncoderOptions


@dataclass(frozen=True)
class SharingConfig:
    """Sharing of the encoder: ``hard``, ``none``, or ``shared_private``: one for all and one each side by side.

    adversarial, orthogonal: weights lambda and gamma of the terms of AdvMTL (docs/adversarial.md); 0: off.
    penalty: what the second one is, ``paper`` or ``unit`` (models/adversarial.py).
    """

    sharing: str = "hard"
    adversarial: float = 0.0
    orthogonal: float = 0.0
    penalty: str = "paper"

    def __post_init__(self) -> None:
        check_choice(self, "sharing", SHARING)
        check_choice(self, "penalty", PENALTIES)
        check_least(self, 0, "adversarial", "orthogonal")
        for key in ("adversarial", "orthogonal"):
            value = getattr(self, key)
            require(
                not value or self.sharing == "shared_private",
                self,
                f"{{{key}}}={value} keeps shared and private features apart, but with {{sharing}}={self.sharing} there "
                f"are not both: set {{sharing}}=shared_private, or {{{key}}}=0.",
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(SharingConfig):
    """Sharing, the name of the encoder and its own options."""

    name: str
    encoder: EncoderOptions
