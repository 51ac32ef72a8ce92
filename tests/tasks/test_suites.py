from __future__ import annotations

from dataclasses import dataclass, is_dataclass

import pytest
from omegaconf import OmegaConf

from lossrag import ConfigError
from lossrag.tasks import SUITES, Suite, load_suite, register_suite


@dataclass(frozen=True)
class Mine:
    seed: int = 0


@dataclass(frozen=True)
class Demanding:
    folder: str


@pytest.fixture(autouse=True)
def _suites_as_before(monkeypatch):
    monkeypatch.setattr(SUITES, "_entries", dict(SUITES))


def test_every_suite_has_settings_that_hydra_can_hold():
    assert sorted(SUITES) == ["digits", "domains", "newsgroups", "sentiment", "table"]
    for entry in SUITES.values():
        assert is_dataclass(entry.config)
        schema = OmegaConf.structured(entry.config)
        assert OmegaConf.to_object(schema) == entry.config()


def test_names_that_are_not_known():
    with pytest.raises(ConfigError, match=r"Unknown suite 'newsgroup': did you mean 'newsgroups'"):
        load_suite("newsgroup")
    with pytest.raises(ConfigError, match=r"suite 'digits' has no option 'ro': did you mean 'rho'"):
        load_suite("digits", ro=0.1)


def test_a_suite_of_ones_own():
    @register_suite("mine")
    def load(config: Mine) -> Suite:
        return load_suite("digits", seed=config.seed)

    assert SUITES["mine"].config is Mine
    assert load_suite("mine", seed=3).edition == load(Mine(3)).edition == load_suite("digits", seed=3).edition
    with pytest.raises(ConfigError, match="The suite name 'mine' is taken"):
        register_suite("mine")(load)
    with pytest.raises(ConfigError, match="suite 'mine' has no option 'sead': did you mean 'seed'"):
        load_suite("mine", sead=3)


def unannotated(config): ...
def of_a_dict(config: dict) -> Suite: ...
def of_two(config: Mine, more: int) -> Suite: ...
def of_none() -> Suite: ...
def of_the_unknown(config: Nowhere) -> Suite: ...  # noqa: F821
def demanding(config: Demanding) -> Suite: ...


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (unannotated, "the argument config has no dataclass as annotation: write def load"),
        (of_a_dict, "the argument config has no dataclass as annotation"),
        (of_two, "takes its settings alone, not 2 arguments: write def load"),
        (of_none, "not 0 arguments"),
        (of_the_unknown, "cannot read the arguments of .* 'Nowhere' is not defined"),
        (7, "cannot read the arguments of 7"),
        (demanding, "every field of Demanding needs a default .*'folder'"),
    ],
)
def test_functions_that_cannot_load(load, message):
    with pytest.raises(ConfigError, match=f"^Suite 'mine': .*{message}"):
        register_suite("mine")(load)
    assert "mine" not in SUITES


def test_a_function_that_returns_no_suite():
    @register_suite("mine")
    def load(config: Mine) -> Suite: ...

    with pytest.raises(ConfigError, match=r"^Suite 'mine': its function must return a Suite, not None"):
        load_suite("mine")
