"""Range checks of options, every one of them once.

The first argument is the options object itself: the error names its class and field, and a configuration translates
both to the key that the user wrote (:meth:`lossrag.errors.OptionError.by_key`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lossrag.errors import ConfigError, OptionError, did_you_mean


def require(holds: bool, options: object, text: str) -> None:
    """Raise OptionError with this text, fields in braces, unless the condition holds.

    >>> require(False, (), "{k}=0 leaves nothing to choose from.")
    Traceback (most recent call last):
    lossrag.errors.OptionError: tuple: k=0 leaves nothing to choose from.
    """
    if not holds:
        raise OptionError(type(options).__name__, text)


def check_positive(options: object, *fields: str) -> None:
    """Raise OptionError unless these fields are positive, finite numbers."""
    for field in fields:
        value = getattr(options, field)
        require(0 < value < math.inf, options, f"{{{field}}} must be a positive number, got {value!r}.")


def check_least(options: object, least: float, *fields: str) -> None:
    """Raise OptionError unless these fields are finite numbers of ``least`` or more; None passes."""
    for field in fields:
        value = getattr(options, field)
        fits = value is None or least <= value < math.inf
        require(fits, options, f"{{{field}}} must be {least} or more, got {value!r}.")


def check_share(options: object, *fields: str) -> None:
    """Raise OptionError unless these fields are in [0, 1)."""
    for field in fields:
        value = getattr(options, field)
        require(0 <= value < 1, options, f"{{{field}}} must be in [0, 1), got {value!r}.")


def check_inside(options: object, *fields: str) -> None:
    """Raise OptionError unless these fields are in (0, 1)."""
    for field in fields:
        value = getattr(options, field)
        require(0 < value < 1, options, f"{{{field}}} must be in (0, 1), got {value!r}.")


def check_choice(options: object, field: str, choices: Sequence[str]) -> None:
    """Raise OptionError unless the field is one of ``choices``."""
    value = getattr(options, field)
    if value not in choices:
        raise OptionError(
            type(options).__name__, f"{{{field}}}={value!r} is unknown: {did_you_mean(str(value), choices)}"
        )


def one_of(what: str, value: str, choices: Sequence[str]) -> str:
    """``value``, where it is one of ``choices``; raises ConfigError, naming ``what``, for any other.

    >>> one_of("MultiTaskStep: memory", "low", ("rows", "low"))
    'low'
    """
    if value not in choices:
        raise ConfigError(f"{what}={value!r} is unknown: {did_you_mean(value, choices)}")
    return value
