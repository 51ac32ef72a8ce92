"""YAML file of a user's own, read as plain data: whatever is in it, the answer is a mapping or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from lossrag.errors import ConfigError

MOST_BYTES = 1 << 18
MOST_NODES = 100_000
"""Values in it, aliases written out: ten lines of YAML can stand for more than there is memory."""


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The content of the YAML file ``path``, interpolations as they are written.

    what: the file in words, with which messages begin. Raises ConfigError for a file that is absent, too large, no YAML
    or no mapping of names.
    """
    where = f"{what} {path}"
    if not path.is_file():
        raise ConfigError(f"{where} is no file." if path.exists() else f"{where} is not there ({path.absolute()}).")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{where} is too large: YAML files of settings have at most {MOST_BYTES:,} bytes.")
        text = path.read_text(encoding="utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{where} must hold names with values, as `train: {{epochs: 3}}`.")
        if _nodes(root, {}) > MOST_NODES:
            raise ConfigError(f"{where} is too large: its aliases stand for more than {MOST_NODES:,} values.")
        plain = OmegaConf.to_container(OmegaConf.create(text))
    except ConfigError:
        raise
    except Exception as error:  # YAML and OmegaConf have many ways to stumble over a file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{where} cannot be read: {reason:.300}") from None
    if not isinstance(plain, dict) or not all(isinstance(key, str) for key in plain):
        raise ConfigError(f"{where} must hold names with values, and names are texts.")
    return {str(key): value for key, value in plain.items()}


def _nodes(node: yaml.Node | None, known: dict[int, int]) -> int:
    """The number of nodes with every alias written out; raises ConfigError for one that holds itself."""
    if node is None:
        return 0
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.YAMLError("an alias stands inside what it stands for")
        return known[id(node)]
    known[id(node)] = 0
    children: list[Any] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_nodes(child, known) for child in children)
    return known[id(node)]
