"""Which losses a task is composed of, and whether their shares are learned: the policies by name."""

from __future__ import annotations

from dataclasses import dataclass

from lossrag.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Policy:
    """candidates: ``reference`` (the task's configured loss alone), ``all`` that fit the task, ``random`` k of them, or
    those ``retrieved`` by the memory's nearest contexts (``knn``) or by the two towers (``two_tower``).
    learned: whether the outer problem moves the shares."""

    candidates: str
    learned: bool


POLICIES: dict[str, Policy] = {
    "fixed": Policy("reference", learned=False),
    "uniform": Policy("all", learned=False),
    "random": Policy("random", learned=True),
    "gradient": Policy("all", learned=True),
    "knn": Policy("knn", learned=True),
    "two_tower": Policy("two_tower", learned=True),
}


@dataclass(frozen=True)
class Pace:
    """How fast a composer forgets old prices, how often it prices and how often it reviews: see ComposerConfig."""

    decay: float
    every: int
    review: int


@dataclass(frozen=True)
class ComposerConfig:
    """Options of a composer.

    policy: a name of POLICIES. learn: False keeps the shares where retrieval (or chance) put them.
    candidates: names to choose from, None for the whole library.
    k: losses of a task at a time, with a random or retrieved choice. explore: how many of them are tried for being
        uncertain rather than promising.
    horizon: how far a price looks ahead: 1, one step of all parameters (the hypergradient,
    lossbank/composing/one_step.py); more,
        so many steps of the task's head (lossbank/composing/look_ahead.py).
    step: how far a price of typical size moves a score, with ``horizon=1``. temperature: with a longer one, the share
        of its outer loss that a task has to save for the odds of a loss to change by a factor e.
    decay: see :meth:`Composition.observe_prices`. every: training steps between two pricings. review: pricings between
        two choices of candidates. None for what suits the horizon: .1, 2 and 25 for 1; .3, 32 and 1 for a longer one.
    confidence: standard errors that a price must lie below the mixture's for its loss to be switched off. retry:
        reviews it stays off. relational: whether losses on pairs of samples, which cost a batch squared, are offered.
    """

    policy: str = "two_tower"
    learn: bool = True
    candidates: tuple[str, ...] | None = None
    k: int = 8
    explore: int = 2
    horizon: int = 20
    step: float = 0.15
    temperature: float = 0.05
    decay: float | None = None
    every: int | None = None
    review: int | None = None
    confidence: float = 2.0
    retry: int = 4
    relational: bool = True

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(f"loss.policy={self.policy!r} is unknown: {did_you_mean(self.policy, POLICIES)}")
        lowest = {"k": 1, "explore": 0, "every": 1, "review": 1, "retry": 0, "step": 0, "confidence": 0, "decay": 0}
        for name, least in {**lowest, "horizon": 1}.items():
            if getattr(self, name) is not None and not least <= getattr(self, name) < float("inf"):
                raise ConfigError(f"loss.{name} must be {least} or more, got {getattr(self, name)}.")
        if self.decay is not None and self.decay >= 1:
            raise ConfigError(f"loss.decay must be below 1, got {self.decay}.")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"loss.temperature must be above 0, got {self.temperature}.")
        if self.explore >= self.k:
            raise ConfigError(f"loss.explore={self.explore} leaves none of loss.k={self.k} to what is promising.")
        if self.candidates is not None and not self.candidates:
            raise ConfigError("loss.candidates is empty: name at least one loss, or null for the whole library.")

    @property
    def far(self) -> bool:
        """Whether prices look further ahead than one step."""
        return self.horizon > 1

    @property
    def pace(self) -> Pace:
        """What was chosen, and what suits the horizon where nothing was."""
        suits = Pace(0.3, 32, 1) if self.far else Pace(0.1, 2, 25)
        return Pace(
            suits.decay if self.decay is None else self.decay,
            suits.every if self.every is None else self.every,
            suits.review if self.review is None else self.review,
        )


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
