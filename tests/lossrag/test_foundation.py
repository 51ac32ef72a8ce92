"""Errors, suggestions and registries."""

from __future__ import annotations

import pytest

import lossrag
from lossrag import ConfigError, LossRAGError, Registry, did_you_mean


def test_one_family():
    errors = [getattr(lossrag, name) for name in lossrag.__all__ if name.endswith("Error")]
    assert len(errors) > 3
    assert all(issubclass(error, LossRAGError) for error in errors)


def test_suggestions():
    assert did_you_mean("alhpa", ["alpha", "beta"]) == "did you mean 'alpha'?"
    assert did_you_mean("q", ["b", "a"]) == "choose from: a, b"


def test_registry():
    registry: Registry[int] = Registry("thing")

    @registry.register("one")
    def one() -> None: ...

    assert registry["one"] is one
    assert "one" in registry
    assert list(registry) == ["one"]
    assert len(registry) == 1
    with pytest.raises(ConfigError, match="The thing name 'one' is taken"):
        registry.add("one", 2)
    with pytest.raises(ConfigError, match="Unknown thing 'oen': did you mean 'one'"):
        registry["oen"]
