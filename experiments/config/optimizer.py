"""The section ``optimizer`` of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass

from lossrag.checks import check_choice, check_least, check_positive, check_share, require
from lossrag.errors import ConfigError

SCHEDULES = ("constant", "linear", "cosine")


def lazy_allows(holds: bool, obstacle: str, remedy: str) -> None:
    """Raise ConfigError, naming the remedy, unless ``optimizer.vectors=lazy`` is possible."""
    if not holds:
        raise ConfigError(
            f"optimizer.vectors=lazy updates only the word vectors of each batch, but {obstacle}: set {remedy}, or "
            "optimizer.vectors=dense."
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """name: adam, adamw or sgd. vectors_lr_factor multiplies lr for trainable word vectors, heads_lr_factor for heads.

    schedule: what becomes of the learning rates over the run: ``constant``, or a fall to 0, ``linear`` or ``cosine``.
    warmup: share of the steps, in [0, 1), in which they rise from 0 before that.

    vectors: ``dense`` updates all of them in every step, ``lazy`` only those of the words in the support batch. With
    plain SGD that is the same; Adam's moments of the other words rest instead of decaying and moving them on.

    hypergradient_lr: step size of the learning rate's own descent (Baydin et al., 2018); 0 keeps it as it is.
    """

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    vectors_lr_factor: float = 1.0
    heads_lr_factor: float = 1.0
    schedule: str = "constant"
    warmup: float = 0.0
    vectors: str = "dense"
    hypergradient_lr: float = 0.0

    @property
    def scheduled(self) -> bool:
        """True where the learning rates are set anew before every step."""
        return self.schedule != "constant" or self.warmup > 0

    def __post_init__(self) -> None:
        check_choice(self, "name", ("adam", "adamw", "sgd"))
        check_choice(self, "schedule", SCHEDULES)
        check_choice(self, "vectors", ("dense", "lazy"))
        check_positive(self, "lr", "vectors_lr_factor", "heads_lr_factor")
        check_least(self, 0, "weight_decay", "hypergradient_lr")
        check_share(self, "momentum", "warmup")
        beta = self.hypergradient_lr
        require(
            not beta or self.name != "adamw",
            self,
            f"{{hypergradient_lr}}={beta} adapts the learning rate of sgd and adam; adamw's decay is no part of its "
            "gradient: set {name}=adam, or {hypergradient_lr}=0.",
        )
        require(
            not beta or not self.scheduled,
            self,
            f"{{hypergradient_lr}}={beta} moves the learning rate itself: set {{schedule}}=constant and {{warmup}}=0, "
            "or {hypergradient_lr}=0.",
        )
        lazy_allows(
            self.vectors != "lazy" or not beta,
            f"optimizer.hypergradient_lr={beta} compares gradients of whole tables",
            "optimizer.hypergradient_lr=0",
        )
        for key in ("weight_decay", "momentum"):
            lazy_allows(
                self.vectors != "lazy" or not getattr(self, key),
                f"optimizer.{key}={getattr(self, key)} acts on all of them in every step",
                f"optimizer.{key}=0",
            )
