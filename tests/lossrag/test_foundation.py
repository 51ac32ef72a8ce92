"""Errors, range checks, registries and extras."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest

import lossrag
import lossrag.extras
from lossrag import ConfigError, LossRAGError, OptionError, Registry, did_you_mean
from lossrag.checks import check_choice, check_inside, check_least, check_positive, check_share, one_of, require
from lossrag.extras import install_line, load_extra


@dataclass
class Options:
    value: object


def test_one_family():
    errors = [getattr(lossrag, name) for name in lossrag.__all__ if name.endswith("Error")]
    assert len(errors) > 3
    assert all(issubclass(error, LossRAGError) for error in errors)
    assert issubclass(OptionError, ConfigError)
    assert issubclass(ConfigError, ValueError)


def test_suggestions():
    assert did_you_mean("alhpa", ["alpha", "beta"]) == "did you mean 'alpha'?"
    assert did_you_mean("q", ["b", "a"]) == "choose from: a, b"


def test_an_option_error_speaks_of_fields_and_of_keys():
    error = OptionError("Options", "{value} must fit {other_2}, not {'a': {}} or {B}.")
    assert str(error) == "Options: value must fit other_2, not {'a': {}} or {B}."
    assert error.by_key("loss.") == "loss.value must fit loss.other_2, not {'a': {}} or {B}."
    require(True, Options(1), "never")
    with pytest.raises(OptionError, match=r"^Options: value is odd"):
        require(False, Options(1), "{value} is odd")


@pytest.mark.parametrize(
    ("check", "fits", "refused", "words"),
    [
        (check_positive, (1, 1e-30), (0, -1, math.inf, math.nan), "must be a positive number"),
        (lambda *given: check_least(given[0], 2, *given[1:]), (2, 7, None), (1.9, -2, math.inf, math.nan), "2 or more"),
        (check_share, (0, 0.999), (1, -0.1, math.nan), r"must be in \[0, 1\)"),
        (check_inside, (1e-9, 0.999), (0, 1, math.nan), r"must be in \(0, 1\)"),
        (lambda *given: check_choice(*given, ("a", "b")), ("a",), ("c", None, 3), "is unknown: choose from: a, b"),
    ],
)
def test_ranges(check, fits, refused, words):
    for value in fits:
        check(Options(value), "value")
    for value in refused:
        with pytest.raises(OptionError, match=f"^Options: value.*{words}") as caught:
            check(Options(value), "value")
        assert repr(value) in str(caught.value)
        assert caught.value.by_key("section.").startswith("section.value")


def test_one_of():
    assert one_of("Step: memory", "low", ("rows", "low")) == "low"
    with pytest.raises(ConfigError, match=r"^Step: memory='lwo' is unknown: did you mean 'low'\?"):
        one_of("Step: memory", "lwo", ("rows", "low"))


def test_registry():
    registry: Registry[int] = Registry("thing")

    @registry.register("one")
    def one() -> None: ...

    assert registry["one"] is one
    assert "one" in registry
    assert list(registry) == ["one"]
    assert len(registry) == 1
    with pytest.raises(ConfigError, match=r"The thing name 'one' is taken"):
        registry.add("one", 2)
    with pytest.raises(ConfigError, match="Unknown thing 'oen': did you mean 'one'"):
        registry["oen"]
    assert registry.remove("one") is one
    assert not registry
    with pytest.raises(ConfigError, match="Unknown thing 'one'"):
        registry.remove("one")


def test_extras_are_installed_by_path_in_a_checkout_and_by_name_elsewhere(monkeypatch, tmp_path):
    checkout = Path(lossrag.extras.__file__).parents[1]
    assert install_line("bert") == f"pip install -e '{checkout}[bert]'"
    monkeypatch.setattr(lossrag.extras, "__file__", str(tmp_path / "site-packages/lossrag/extras.py"))
    assert install_line("bert") == "pip install 'lossrag[bert]'"
    with pytest.raises(
        ConfigError, match=r"^It needs nothing_here, which is not installed: pip install 'lossrag\[x\]'"
    ):
        load_extra("nothing_here", "x", "It")
    assert load_extra("math", "x", "It") is math


def test_an_extra_that_is_broken(monkeypatch, tmp_path):
    (tmp_path / "broken_extra.py").write_text("import nothing_here")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=r"needs broken_extra, which does not load \(No module named 'nothing_here'\)"
    ):
        load_extra("broken_extra", "x", "It")
