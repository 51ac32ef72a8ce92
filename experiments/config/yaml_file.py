"""YAML file of settings or of a plan, read as plain data: whatever is in it, the answer is a mapping or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from lossrag.errors import ConfigError
from lossrag.files import read_file

MOST_BYTES, MOST_NODES, DEEPEST, LONGEST = 1 << 18, 20_000, 32, 1 << 14
"""Of a file: its size, its values with every alias written out, its nesting, the length of a value."""


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The content of the YAML file ``path``, interpolations as they are written.

    what: the file in words, with which messages begin. Raises ConfigError for a file that is absent, no regular file,
    too large, no YAML or no mapping of names.
    """
    try:
        content = read_file(path, MOST_BYTES)
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} is not there ({path.absolute()}).") from None
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from None
    return parse_yaml(content, f"{what} {path}")


def parse_yaml(content: bytes, where: str) -> dict[str, Any]:
    """The mapping in this content of a file; raises ConfigError, which begins with ``where``, for anything else."""
    try:
        text = content.decode("utf-8-sig")
        mapping = _bound(text)
        plain = OmegaConf.to_container(OmegaConf.create(text)) if mapping else None
    except Exception as error:  # YAML and OmegaConf have many ways to stumble over a file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{where} cannot be read: {reason:.300}") from None
    if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
        raise ConfigError(f"{where} must hold names with values, and names are texts.")
    return {str(key): value for key, value in plain.items()}


def _bound(text: str) -> bool:
    """Whether it is a mapping; raises ValueError for YAML that is deep, or large once its aliases are written out,
    before anything is made."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    root: yaml.Event | None = None
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        anchor: str | None = getattr(event, "anchor", None)
        if root is None and isinstance(event, yaml.NodeEvent):
            root = event
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = open_nodes.pop()
            if name is not None:
                sizes[name] = total - before
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise ValueError(f"the alias *{anchor} stands before, or inside, what it stands for")
            total += sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if len(event.value) > LONGEST:
                raise ValueError(f"a value has {len(event.value):,} characters, {LONGEST:,} at most are read")
            if anchor is not None:
                sizes[anchor] = 1
        if len(open_nodes) > DEEPEST or total > MOST_NODES:
            raise ValueError(f"it has more than {MOST_NODES:,} values, or is nested deeper than {DEEPEST}")
    return isinstance(root, yaml.MappingStartEvent)
