from __future__ import annotations

from dataclasses import is_dataclass

import pytest
from omegaconf import OmegaConf

from lossrag import ConfigError
from lossrag.tasks import SUITES, load_suite


def test_every_suite_has_settings_that_hydra_can_hold():
    assert sorted(SUITES) == ["digits", "newsgroups", "sentiment"]
    for entry in SUITES.values():
        assert is_dataclass(entry.config)
        schema = OmegaConf.structured(entry.config)
        assert OmegaConf.to_object(schema) == entry.config()


def test_names_that_are_not_known():
    with pytest.raises(ConfigError, match=r"Unknown suite 'newsgroup': did you mean 'newsgroups'"):
        load_suite("newsgroup")
    with pytest.raises(ConfigError, match=r"suite 'digits' has no option 'ro': did you mean 'rho'"):
        load_suite("digits", ro=0.1)
