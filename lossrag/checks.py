"""The one-line check that the sections of a configuration are made of."""

from __future__ import annotations

import math

from lossrag.errors import ConfigError


def check_positive(owner: str, option: str, value: float) -> None:
    """Raise ConfigError unless ``value`` is a positive, finite number."""
    if not 0 < value < math.inf:
        raise ConfigError(f"{owner}: {option} must be a positive number, got {value}.")


def check_nonnegative(owner: str, option: str, value: float) -> None:
    """Raise ConfigError unless ``value`` is a finite number of 0 or more."""
    if not 0 <= value < math.inf:
        raise ConfigError(f"{owner}: {option} must be a number of 0 or more, got {value}.")


def require(holds: bool, key: str, expected: str, value: object) -> None:
    """Raise ConfigError, "key must be expected, got value", unless the condition holds."""
    if not holds:
        raise ConfigError(f"{key} must be {expected}, got {value!r}.")
