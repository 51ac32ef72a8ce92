"""Ranges that the options of several weighting methods share."""

from __future__ import annotations

import math

from lossrag import ConfigError


def check_positive(owner: str, option: str, value: float) -> None:
    """Raise ConfigError unless ``value`` is a positive, finite number."""
    if not 0 < value < math.inf:
        raise ConfigError(f"{owner}: {option} must be a positive number, got {value}.")


def check_nonnegative(owner: str, option: str, value: float) -> None:
    """Raise ConfigError unless ``value`` is a finite number of 0 or more."""
    if not 0 <= value < math.inf:
        raise ConfigError(f"{owner}: {option} must be a number of 0 or more, got {value}.")
