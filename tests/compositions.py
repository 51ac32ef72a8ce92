"""Compositions of the presets that ship: made by Hydra once a process, which takes it a fifth of a second each."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

from omegaconf import DictConfig

from lossrag.experiments.config.compose import _compose
from lossrag.experiments.config.groups import experiment_names

SHIPPED = {"~experiment", *(f"experiment={name}" for name in experiment_names())}


def remembered(lines: Sequence[str]) -> DictConfig:
    """Stands in for ``compose._compose``: the same of presets that ship, and Hydra itself of all else."""
    return copy.deepcopy(_made(tuple(lines))) if {*lines} <= SHIPPED else _compose(lines)


@functools.cache
def _made(lines: tuple[str, ...]) -> DictConfig:
    return _compose(lines)
