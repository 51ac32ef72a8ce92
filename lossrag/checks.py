"""Range checks of options, every one of them once.

The first argument is the options object itself: the error names its class and field, and a configuration translates
both to the key that the user wrote (:meth:`lossrag.errors.OptionError.by_key`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

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
    _check_fields(options, fields, lambda value: 0 < value < math.inf, "a positive number")


def check_least(options: object, least: float, *fields: str, most: float = math.inf) -> None:
    """Raise OptionError unless these fields are finite numbers from ``least`` to ``most``; None passes."""
    expected = f"{least} or more" if most == math.inf else f"from {least} to {most}"
    _check_fields(options, fields, lambda v: v is None or (least <= v <= most and v < math.inf), expected)


def check_share(options: object, *fields: str) -> None:
    """Raise OptionError unless these fields are in [0, 1); None passes."""
    _check_fields(options, fields, lambda value: value is None or 0 <= value < 1, "in [0, 1)")


def check_numbers(options: object, field: str, values: Sequence[float], *, zeros: bool) -> None:
    """Raise OptionError unless the ``values`` of a field are finite and positive; ``zeros``: 0 is fine too, but not
    everywhere."""
    fits = all(math.isfinite(v) and (v >= 0 if zeros else v > 0) for v in values)
    kind = "numbers of 0 or more, not all 0" if zeros else "positive numbers"
    empty = zeros and len(values) > 0 and not any(values)
    require(fits and not empty, options, f"{{{field}}} must hold {kind}, got {list(values)}.")


def check_length(options: object, field: str, values: Sequence[object], tasks: int, kind: str = "number") -> None:
    """Raise OptionError unless a field holds one number, or what ``kind`` says, per task."""
    text = f"{{{field}}} must hold one {kind} for each of the {tasks} tasks, in their order, got {len(values)}: "
    require(len(values) == tasks, options, f"{text}{list(values)}.")


def check_inside(options: object, *fields: str) -> None:
    """Raise OptionError unless these fields are in (0, 1)."""
    _check_fields(options, fields, lambda value: 0 < value < 1, "in (0, 1)")


def _check_fields(options: object, fields: Sequence[str], fits: Callable[[Any], bool], expected: str) -> None:
    for field in fields:
        value = getattr(options, field)
        require(fits(value), options, f"{{{field}}} must be {expected}, got {value!r}.")


def check_choice(options: object, field: str, choices: Sequence[str]) -> None:
    """Raise OptionError unless the field is one of ``choices``."""
    value = getattr(options, field)
    if value not in choices:
        text = f"{{{field}}}={value!r} is unknown: {did_you_mean(str(value), choices)}"
        raise OptionError(type(options).__name__, text)


def one_of(what: str, value: str, choices: Sequence[str]) -> str:
    """``value``, where it is one of ``choices``; raises ConfigError, naming ``what``, for any other.

    >>> one_of("MultiTaskStep: memory", "low", ("rows", "low"))
    'low'
    """
    if value not in choices:
        raise ConfigError(f"{what}={value!r} is unknown: {did_you_mean(value, choices)}")
    return value
