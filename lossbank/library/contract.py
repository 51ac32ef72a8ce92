"""Contract of a loss: a per-sample function of (logits, targets[, features][, class_counts]) -> (B,)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

from lossrag.errors import ConfigError, did_you_mean

LossFunction = Callable[..., Tensor]
"""(logits (B, K), targets) -> (B,). Targets are classes (B,) int64, or values (B, K) floats.

By the name of an argument a function may ask for ``features`` (B, F), and for ``class_counts`` (K,), the positive
number of training samples per class. Other arguments with a number as default are its hyperparameters.
"""

TARGET_KINDS = ("classification", "regression")
NEEDS = ("features", "class_counts")


@dataclass(frozen=True)
class LossInputs:
    """All that a loss may read of a batch: logits (B, K), targets (B,) or (B, K); features (B, F) and class_counts (K,)
    where there are any."""

    logits: Tensor
    targets: Tensor
    features: Tensor | None = None
    class_counts: Tensor | None = None

    def rows(self, start: int, stop: int) -> LossInputs:
        """Some samples of the batch."""
        features = None if self.features is None else self.features[start:stop]
        return LossInputs(self.logits[start:stop], self.targets[start:stop], features, self.class_counts)


@dataclass(frozen=True)
class Loss:
    """One entry of the library: what it is called, what it computes, where it is from.

    family: the lens that it looks through, such as "noise-robust" or "margin".
    hyperparameters: what ``function`` is called with; read-only.
    needs: what it takes besides logits and targets, out of "features" and "class_counts".
    relational: the value of a sample depends on the other samples of the batch.
    formula: one line; z are the logits, p their softmax, y the class, e = prediction - target, f the features.
    """

    name: str
    function: LossFunction
    family: str
    target_kind: str
    reference: str
    hyperparameters: Mapping[str, float] = field(default_factory=dict, hash=False)
    needs: frozenset[str] = frozenset()
    relational: bool = False
    formula: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hyperparameters", MappingProxyType(dict(self.hyperparameters)))

    @property
    def row_by_row(self) -> bool:
        """True where it may be computed on the joined rows of several tasks: it looks at no other samples, no features
        and not at the classes of its task."""
        return not self.relational and not self.needs

    def __call__(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        features: Tensor | None = None,
        class_counts: Tensor | None = None,
        chosen: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Per-sample losses (B,). What the loss does not need may be given and is ignored.

        chosen: hyperparameters that stand in for its own; see :func:`lossrag.lossbank.library.batched.stackable`.

        Raises ConfigError when something that it needs is not given.
        """
        more: dict[str, Tensor] = {}
        for need, value in (("features", features), ("class_counts", class_counts)):
            if need not in self.needs:
                continue
            if value is None:
                raise ConfigError(
                    f"Loss {self.name!r} needs {need}, got none: call it with {need}=..., or choose a loss that does "
                    f"without."
                )
            more[need] = value
        hyperparameters = {**self.hyperparameters, **chosen} if chosen else self.hyperparameters
        return self.function(logits, targets, **more, **hyperparameters)


def read_arguments(name: str, function: LossFunction) -> tuple[frozenset[str], dict[str, float]]:
    """Needs of a loss function, by the names of its arguments, and its hyperparameters with their defaults.

    Arguments whose default is no number are left alone.

    >>> def my_loss(logits, targets, *, features, margin=0.2): ...
    >>> read_arguments("my_loss", my_loss)
    (frozenset({'features'}), {'margin': 0.2})
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"Loss {name!r}: Python cannot read the arguments of {function!r}. "
            f"Wrap it in a function of (logits, targets) and register that."
        ) from error
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:2]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if (len(positional) < 2 and not takes_any) or any(p.name in NEEDS for p in positional):
        raise ConfigError(
            f"Loss {name!r} must take (logits, targets) as its first two arguments, got {inspect.signature(function)}."
        )
    needs: set[str] = set()
    hyperparameters: dict[str, float] = {}
    for parameter in parameters:
        if parameter in positional or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name in NEEDS:
            needs.add(parameter.name)
        elif parameter.default is parameter.empty:
            raise ConfigError(
                f"Loss {name!r} asks for {parameter.name!r}, which no task has: {did_you_mean(parameter.name, NEEDS)} "
                f"A hyperparameter needs a number as default."
            )
        elif isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool):
            hyperparameters[parameter.name] = parameter.default
    return frozenset(needs), hyperparameters
