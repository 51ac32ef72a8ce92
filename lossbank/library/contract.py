"""Contract of a loss: a per-sample function of (logits, targets[, features][, class_counts]) -> (B,)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from torch import Tensor, nn

from lossrag.errors import ConfigError, did_you_mean
from lossrag.labels import IGNORED
from lossrag.lossbank.library.inputs import Labelled, LabelledInputs, LossInputs

LossFunction = Callable[..., Tensor]
"""(logits (B, K), targets) -> (B,). Targets are classes (B,) int64, or values (B, K) floats.

By the name of an argument a function may ask for ``features`` (B, F), and for ``class_counts`` (K,), the positive
number of training samples per class. One that compares samples may ask for ``labelled`` (B,), booleans that are False
at rows to leave out of every comparison; else it is given the rows that have a label alone, whose number has to be read
from the device. Other arguments with a number as default are its hyperparameters.

Logits are float32 or wider. Rows without a label hold something ordinary, and their values do not count.
"""

TARGET_KINDS = ("classification", "regression")
NEEDS = ("features", "class_counts", "labelled")


@dataclass(frozen=True)
class Loss:
    """One entry of the library: what it is called, what it computes, where it is from.

    family: the lens that it looks through, such as "noise-robust" or "margin".
    hyperparameters: what ``function`` is called with; read-only.
    needs: what it takes besides logits and targets, out of "features", "class_counts" and "labelled".
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
        labelled: Labelled = None,
    ) -> Tensor:
        """Per-sample losses (B,), 0 for a row without a label. What the loss does not need may be given and is ignored.

        targets: classes (B,), or values (B, K), or (B,) beside one output; see :func:`lossrag.labels.labelled`.
        labelled: (B,) booleans, rows that count, where targets alone do not say so; True where all rows are known to
            have a label, so that nobody has to look.

        Raises ConfigError for shapes that do not fit, and when something that it needs is not given.
        """
        rows = read_labels(LossInputs(logits, targets, features, class_counts, labelled), (self,))
        return rows.finished(self.of(rows))

    def of(self, rows: LabelledInputs, chosen: Mapping[str, Tensor] | None = None) -> Tensor:
        """Per-sample losses (B,) before they are :meth:`LabelledInputs.finished`.

        chosen: hyperparameters that stand in for its own; see :func:`lossrag.lossbank.library.batched.stackable`.
        """
        if not len(rows.logits):
            return rows.logits.sum(dim=1)
        if self.relational and rows.missing is not None and "labelled" not in self.needs:
            return self._of_labelled(rows, chosen)
        more: dict[str, Tensor] = {}
        for need, value in (("features", rows.features), ("class_counts", rows.class_counts)):
            if need not in self.needs:
                continue
            if value is None:
                raise ConfigError(
                    f"Loss {self.name!r} needs {need}, got none: call it with {need}=..., or choose a loss that does "
                    f"without."
                )
            more[need] = value
        if "labelled" in self.needs:
            more["labelled"] = rows.labelled
        hyperparameters = {**self.hyperparameters, **chosen} if chosen else self.hyperparameters
        try:
            return self.function(rows.logits, rows.targets, **more, **hyperparameters)
        except (IndexError, RuntimeError) as error:
            strange = rows.strange_class()
            if strange is None:
                raise
            raise ConfigError(
                f"Loss {self.name!r}: the class {strange} is not one of {rows.logits.shape[1]}, as many as there are "
                f"logits: classes count from 0, and {IGNORED} says that a row has no label."
            ) from error

    def _of_labelled(self, rows: LabelledInputs, chosen: Mapping[str, Tensor] | None) -> Tensor:
        """:meth:`of` for a loss that looks at other samples and knows of no labels: it is given those with one."""
        places = rows.labelled.nonzero().flatten()
        if not len(places):
            return rows.logits.sum(dim=1)
        if len(places) == len(rows.logits):
            return self.of(replace(rows, missing=None), chosen)
        features = None if rows.features is None else rows.features[places]
        own = LabelledInputs(rows.logits[places], rows.targets[places], features, rows.class_counts)
        values = self.of(own, chosen)
        return values.new_zeros(len(rows.logits)).index_copy(0, places, values)


def read_labels(inputs: LossInputs, losses: Sequence[Loss]) -> LabelledInputs:
    """What ``losses`` (one or more, of one target kind) are computed on.

    Raises ConfigError, naming them, for shapes that do not fit.
    """
    names = ", ".join(repr(loss.name) for loss in losses)
    needs = frozenset().union(*(loss.needs for loss in losses))
    return inputs.read(losses[0].target_kind, needs, f"Loss {names}" if len(losses) == 1 else f"Losses {names}")


def read_arguments(name: str, function: LossFunction) -> tuple[frozenset[str], dict[str, float]]:
    """Needs of a loss function, by the names of its arguments, and its hyperparameters with their defaults.

    Arguments whose default is no number are left alone.

    >>> def my_loss(logits, targets, *, features, margin=0.2): ...
    >>> read_arguments("my_loss", my_loss)
    (frozenset({'features'}), {'margin': 0.2})
    """
    try:
        read = function.forward if isinstance(function, nn.Module) else function
        parameters = list(inspect.signature(read).parameters.values())
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
