"""Keys of an index, and what a search may filter them by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lossrag import ConfigError


@dataclass(frozen=True)
class Attributes:
    """What a search may filter losses by."""

    target_kind: str
    family: str


def matching(
    keys: Sequence[str],
    attributes: Sequence[Attributes],
    target_kind: str | None,
    family: str | None,
    among: Collection[str] | None,
) -> NDArray[np.int64]:
    """Positions (m,), ascending, of the ``keys`` (n) with these attributes and among these names, each where given.

    Raises ConfigError when ``among`` is a single string.

    >>> kinds = [Attributes("classification", "margin"), Attributes("classification", "robust")]
    >>> matching(["hinge", "mae"], kinds, "classification", "robust", None)
    array([1])
    """
    if isinstance(among, str):
        raise ConfigError(f"The keys of a filter are a collection of names, not the string {among!r}.")
    if target_kind is None and family is None and among is None:
        return np.arange(len(keys))
    wanted = None if among is None else set(among)
    return np.array(
        [
            place
            for place, (key, each) in enumerate(zip(keys, attributes, strict=True))
            if (target_kind is None or each.target_kind == target_kind)
            and (family is None or each.family == family)
            and (wanted is None or key in wanted)
        ],
        dtype=np.int64,
    )


def check_keys(keys: Sequence[str]) -> None:
    """Raises ConfigError unless ``keys`` are distinct names."""
    if isinstance(keys, str):
        raise ConfigError(f"An index takes a list of keys, not the string {keys!r}.")
    for key in keys:
        if not isinstance(key, str) or not key:
            raise ConfigError(f"A key of an index is a name, not {key!r}.")
    if len(set(keys)) < len(keys):
        twice = sorted(key for key in set(keys) if list(keys).count(key) > 1)
        raise ConfigError(f"The key {twice[0]!r} comes twice: give each key once.")
