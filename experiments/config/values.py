"""Values from Python: keyword arguments as the overrides that the command line would have made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from hydra.core.override_parser.types import Override, OverrideType, ValueType

from lossrag.errors import ConfigError
from lossrag.experiments.config.groups import GROUPS, SECTIONS
from lossrag.experiments.config.overrides import written


def overrides_of(settings: Mapping[str, Any]) -> list[Override]:
    """Overrides in the order of ``settings``: values by key, or the keys of a section in a mapping.

    In the mapping of a group (``tasks``, ``model``, ``weighting``) ``name`` chooses the entry.
    Raises ConfigError for a value that a configuration cannot hold.

    >>> [own.input_line for own in overrides_of({"weighting": {"name": "mgda"}, "train": {"epochs": 2}, "seed": 1})]
    ['weighting=mgda', 'train.epochs=2', 'seed=1']
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key in (*SECTIONS, *GROUPS) and isinstance(value, Mapping):
            flat |= {key if key in GROUPS and own == "name" else f"{key}.{own}": part for own, part in value.items()}
        else:
            flat[key] = value
    return [_override(key, plain(key, value)) for key, value in flat.items()]


def _override(key: str, value: Any) -> Override:
    return Override(OverrideType.CHANGE, key, ValueType.ELEMENT, value, input_line=f"{key}={written(value)}")


def plain(key: str, value: Any) -> Any:
    """The value as YAML has it: numbers of NumPy and paths as Python's numbers and texts, tuples as lists.

    Raises ConfigError, naming the key, for anything else.

    >>> plain("model.hidden", (np.int64(64), 32))
    [64, 32]
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(key, part) for part in value]
    if isinstance(value, Mapping):
        return {name: plain(f"{key}.{name}", part) for name, part in value.items()}
    raise ConfigError(
        f"{key} cannot be a {type(value).__name__}: a configuration holds numbers, texts, lists and mappings of them. "
        "Tables in memory become tasks with lossrag.suite_from(frame, targets=[...]), suites of your own with "
        "register_suite."
    )
