"""Registration of a loss: read from its signature, probed, refused by name or added to the library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from lossrag.errors import ConfigError, did_you_mean
from lossrag.lossbank.library.contract import TARGET_KINDS, Loss, LossFunction, read_arguments
from lossrag.lossbank.library.probe import check_loss
from lossrag.registry import Registry

Function = TypeVar("Function", bound=LossFunction)
Variants = Mapping[str, Mapping[str, float]]

LOSSES: Registry[Loss] = Registry("loss")
"""The library: all losses by name; add your own with :func:`register_loss`."""


def register_loss(
    name: str,
    *,
    family: str,
    target_kind: str,
    reference: str,
    formula: str = "",
    relational: bool = False,
    variants: Variants | None = None,
) -> Callable[[Function], Function]:
    """Decorator that checks a per-sample loss on small probes and puts it in the library.

    target_kind: ``classification`` (integer classes) or ``regression`` (float values).
    relational: say True when the loss of a sample depends on the other samples of the batch.
    variants: hyperparameters of each entry to register, by the name of the entry. That name is ``name`` or starts with
    ``name`` and an underscore. Without variants there is one entry called ``name``, with the defaults of the
    signature; with variants there is one only if a variant is called so.

    All entries are registered or none. Raises ConfigError, naming the loss, when

    - it asks for something that nobody can give, or a variant sets a hyperparameter that it does not have;
    - it raises an error itself, or its shape is not (B,);
    - it holds trainable parameters, which no optimiser of a run would see;
    - it writes into what it is given, or autograd cannot follow it back (an operation in place, say);
    - a value or a gradient is not finite (for a relational loss also in a batch of one sample or one class);
    - no gradient reaches the logits (for a loss that needs features: neither logits nor features);
    - it is said not to be relational, yet its values change when the batch is split;
    - it asks for ``labelled``, yet compares samples with some that have no label;
    - the name is taken.

    >>> import torch
    >>> @register_loss("my_brier", family="euclidean", target_kind="classification", reference="Brier 1950")
    ... def my_brier(logits, targets):
    ...     truth = torch.nn.functional.one_hot(targets, logits.shape[1])
    ...     return (logits.softmax(1) - truth).square().sum(1)
    >>> LOSSES["my_brier"](torch.zeros(1, 2), torch.tensor([0])).tolist()
    [0.5]
    >>> _ = LOSSES.remove("my_brier")

    >>> @register_loss("my_power", family="regression", target_kind="regression", reference="none",
    ...                variants={"my_power_2": {}, "my_power_4": {"exponent": 4}})
    ... def my_power(logits, targets, *, exponent=2.0):
    ...     return (logits - targets).abs().pow(exponent).mean(1)
    >>> dict(LOSSES["my_power_4"].hyperparameters), "my_power" in LOSSES
    ({'exponent': 4.0}, False)
    >>> _ = LOSSES.remove("my_power_2"), LOSSES.remove("my_power_4")
    """
    if target_kind not in TARGET_KINDS:
        raise ConfigError(f"Loss {name!r}: target_kind must be one of {TARGET_KINDS}, got {target_kind!r}.")

    def add(function: Function) -> Function:
        needs, defaults = read_arguments(name, function)
        entries = [
            Loss(entry, function, family, target_kind, reference, hyperparameters, needs, relational, formula)
            for entry, hyperparameters in _entries(name, defaults, variants).items()
        ]
        for loss in entries:
            if loss.name in LOSSES:
                raise ConfigError(f"The loss name {loss.name!r} is taken: register yours under another name.")
            check_loss(loss)
        for loss in entries:
            LOSSES.add(loss.name, loss)
        return function

    return add


def _entries(name: str, defaults: Mapping[str, float], variants: Variants | None) -> dict[str, dict[str, float]]:
    """Hyperparameters of every entry by its name."""
    if variants is None:
        return {name: dict(defaults)}
    if not variants:
        raise ConfigError(f"Loss {name!r}: variants is empty. Name at least one, or leave variants out.")
    for entry, chosen in variants.items():
        if entry != name and not entry.startswith(f"{name}_"):
            raise ConfigError(f"Loss {name!r}: its variants must be called {name!r} or '{name}_...', got {entry!r}.")
        for key, value in chosen.items():
            if key not in defaults:
                known = did_you_mean(key, defaults) if defaults else "it has none."
                raise ConfigError(f"Loss {entry!r} has no hyperparameter {key!r}: {known}")
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise ConfigError(f"Loss {entry!r}: hyperparameter {key!r} must be a number, got {value!r}.")
    return {
        entry: {**defaults, **{key: float(value) for key, value in chosen.items()}}
        for entry, chosen in variants.items()
    }
