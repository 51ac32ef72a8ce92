"""The one-line check that the sections of a configuration are made of."""

from __future__ import annotations

from lossrag import ConfigError


def require(holds: bool, key: str, expected: str, value: object) -> None:
    """Raise ConfigError, "key must be expected, got value", unless the condition holds."""
    if not holds:
        raise ConfigError(f"{key} must be {expected}, got {value!r}.")
