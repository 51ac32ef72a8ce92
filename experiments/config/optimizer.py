"""The section ``optimizer`` of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass

from lossrag.checks import require as _require
from lossrag.errors import ConfigError, did_you_mean

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
        """Whether the learning rates are set anew before every step."""
        return self.schedule != "constant" or self.warmup > 0

    def __post_init__(self) -> None:
        names = ("adam", "adamw", "sgd")
        if self.name not in names:
            raise ConfigError(f"Unknown optimizer.name {self.name!r}: {did_you_mean(self.name, names)}")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"Unknown optimizer.schedule {self.schedule!r}: {did_you_mean(self.schedule, SCHEDULES)}")
        for key in ("lr", "vectors_lr_factor", "heads_lr_factor"):
            value = getattr(self, key)
            _require(0 < value < float("inf"), f"optimizer.{key}", "a positive number", value)
        _require(0 <= self.weight_decay < float("inf"), "optimizer.weight_decay", "0 or more", self.weight_decay)
        for key in ("momentum", "warmup"):
            value = getattr(self, key)
            _require(0 <= value < 1, f"optimizer.{key}", "in [0, 1)", value)
        _require(self.vectors in ("dense", "lazy"), "optimizer.vectors", "'dense' or 'lazy'", self.vectors)
        self._check_hypergradient()
        for key in ("weight_decay", "momentum"):
            lazy_allows(
                self.vectors != "lazy" or not getattr(self, key),
                f"optimizer.{key}={getattr(self, key)} acts on all of them in every step",
                f"optimizer.{key}=0",
            )

    def _check_hypergradient(self) -> None:
        beta = self.hypergradient_lr
        _require(0 <= beta < float("inf"), "optimizer.hypergradient_lr", "0 or more", beta)
        if not beta:
            return
        if self.name == "adamw":
            raise ConfigError(
                f"optimizer.hypergradient_lr={beta} adapts the learning rate of sgd and adam; adamw's decay is no part "
                "of its gradient: set optimizer.name=adam, or optimizer.hypergradient_lr=0."
            )
        if self.scheduled:
            raise ConfigError(
                f"optimizer.hypergradient_lr={beta} moves the learning rate itself: set optimizer.schedule=constant "
                "and optimizer.warmup=0, or optimizer.hypergradient_lr=0."
            )
        lazy_allows(
            self.vectors != "lazy",
            f"optimizer.hypergradient_lr={beta} compares gradients of whole tables",
            "optimizer.hypergradient_lr=0",
        )
