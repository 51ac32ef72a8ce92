"""Identity of a run: the plain settings that decide its results, as a name, as a digest, as differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from lossrag.errors import ConfigError

Settings = Mapping[str, object]
"""Plain settings by key: values as YAML has them, sections as settings of their own."""
INCIDENTAL = ("data", "machine", "run", "log", "preset", "overrides")
"""Sections that say where and how a run happens, and in what words it was asked for, not what it computes."""


def section(settings: Settings, name: str) -> Settings:
    """The settings of a section or group; raises ConfigError when it is none."""
    part = settings.get(name)
    if not isinstance(part, Mapping):
        raise ConfigError(f"{name} must be a section of keys, got {part!r}.")
    return part


def identity(settings: Settings) -> dict[str, object]:
    """The part of the plain settings that decides the results."""
    deciding = {key: value for key, value in settings.items() if key not in INCIDENTAL}
    library = deciding.pop("library", None) or {}
    if isinstance(library, Mapping) and library:
        # what a file of the user's own holds decides, not where it lies
        deciding["library"] = [f"{Path(path).name} {digest}" for path, digest in library.items()]
    train = deciding.get("train")
    if isinstance(train, Mapping) and train.get("from", "") is None:
        # a run without a parent is what it was before there were any
        deciding["train"] = {key: value for key, value in train.items() if key != "from"}
    # where the data lie does not change what they are: every file is pinned by its checksum
    return {**deciding, "tasks": {key: value for key, value in section(settings, "tasks").items() if key != "root"}}


def run_id(settings: Settings) -> str:
    """A readable name with a digest: suite, weighting, seed, eight hex digits of the resolved settings.

    >>> settings = {"seed": 3, "tasks": {"name": "digits"}, "weighting": {"name": "uniform"}, "run": {}}
    >>> run_id(settings)
    'digits-uniform-s3-7f4c5fb9'
    """
    canonical = json.dumps(identity(settings), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    suite, method = (str(section(settings, group)["name"]) for group in ("tasks", "weighting"))
    return f"{suite}-{method.replace('/', '-')}-s{settings['seed']}-{digest}"


def differing_keys(old: Settings, new: Settings) -> list[str]:
    """The deciding keys whose values differ, as 'key: old -> new' lines.

    >>> differing_keys({"tasks": {}, "train": {"epochs": 2}}, {"tasks": {}, "train": {"epochs": 3}})
    ['train.epochs: 2 -> 3']
    """
    before, after = flatten(identity(old)), flatten(identity(new))
    return [
        f"{key}: {before.get(key, '(absent)')} -> {after.get(key, '(absent)')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "(absent)") != after.get(key, "(absent)")
    ]


def flatten(tree: Settings, prefix: str = "") -> dict[str, object]:
    """The leaves of nested settings by their dotted keys.

    >>> flatten({"seed": 0, "train": {"epochs": 1}})
    {'seed': 0, 'train.epochs': 1}
    """
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
