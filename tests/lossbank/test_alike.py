"""Losses that look at data in the same way."""

from __future__ import annotations

import pytest

from lossrag import ConfigError
from lossrag.lossbank import LOSSES, alike


def test_they_are_of_the_same_kind_and_not_itself():
    found = alike("logit_adjusted_1", 3)
    assert {LOSSES[name].family for name, _ in found} == {"imbalance"}
    assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)
    assert len(alike("l1", 500)) == sum(loss.target_kind == "regression" for loss in LOSSES.values()) - 1


def test_mistakes():
    with pytest.raises(ConfigError, match="from 1 up"):
        alike("l1", 0)
    with pytest.raises(ConfigError, match="did you mean 'mae'"):
        alike("mea", 1)
