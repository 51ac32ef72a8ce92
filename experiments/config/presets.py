"""Presets of a user's own: a YAML file by its path, and a folder of them that ``--config-dir`` names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override

from lossrag.errors import ConfigError
from lossrag.experiments.config.groups import CONF_DIR, GROUPS, SECTIONS, yaml_names
from lossrag.experiments.config.paths import SUFFIXES, quoted
from lossrag.experiments.config.yaml_file import read_yaml
from lossrag.files import expanded

FLAG = "--config-dir"
FLAGS = (FLAG, "-cd")


def split_flags(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without ``--config-dir DIR``, and that folder; raises ConfigError for one that is not there."""
    rest: list[str] = []
    told: str | None = None
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in FLAGS:
            rest.append(word)
            continue
        given = value if equals else next(words, "")
        if not given:
            raise ConfigError(f"{name} takes a folder: {name} DIR, with your presets in DIR/experiment.")
        told = given
    if told is None:
        return rest, None
    folder = expanded(told, FLAG)
    if not folder.is_dir():
        raise ConfigError(f"{FLAG} {told}: there is no such folder ({folder.absolute()}).")
    return rest, folder.absolute()


def flag_of(folder: Path | None) -> list[str]:
    """``--config-dir`` for the command line of another process; nothing for none."""
    return [] if folder is None else [f"{FLAG}={folder}"]


@dataclass(frozen=True)
class ConfigDir:
    """The folder of ``--config-dir``, None for none: presets in its folder ``experiment``, entries of groups in those
    of their names, as Hydra has them."""

    path: Path | None = None

    def names(self, group: str) -> list[str]:
        """Those of a group, or of ``experiment``; raises ConfigError for a name that the package has as well."""
        if self.path is None:
            return []
        names = yaml_names(self.path / group)
        known = yaml_names(CONF_DIR / group) if group == "experiment" else list(GROUPS[group])
        for name in names:
            if name in known:
                raise ConfigError(f"{self.file(group, name)}: {group}={name} is there already: give it another name.")
        return names

    def file(self, group: str, name: str) -> Path:
        assert self.path is not None
        return self.path / group / f"{name}.yaml"

    @property
    def search(self) -> list[str]:
        """What makes Hydra look there as well."""
        return [] if self.path is None else [f"hydra.searchpath=[{quoted(f'file://{self.path}')}]"]


@dataclass(frozen=True)
class OwnPreset:
    """A preset in a file: its name for Hydra, what it says, and by group the entry that its defaults list chooses."""

    path: Path
    name: str
    content: Mapping[str, Any]
    choices: Mapping[str, str]

    @property
    def library(self) -> object:
        """The files of a library that it names."""
        return self.content.get("library") or []

    def store(self) -> None:
        """Let Hydra know it, among the presets of the package, which its defaults list may name."""
        said = {key: value for key, value in self.content.items() if key != "library"}
        ConfigStore.instance().store(group="experiment", name=self.name, node=said, package="_global_")


def own_preset(chosen: Sequence[Override], folder: ConfigDir) -> OwnPreset | None:
    """The preset in a file that these overrides choose last, if that is what they do; raises ConfigError for a file
    that is none."""
    for override in reversed(chosen):
        value = override.value()
        if override.key_or_group != "experiment":
            continue
        if override.is_delete() or not isinstance(value, str):
            return None
        if value.endswith(SUFFIXES):
            return _read(expanded(value, "experiment"))
        return _read(folder.file("experiment", value)) if value in folder.names("experiment") else None
    return None


def _read(path: Path) -> OwnPreset:
    content = read_yaml(path, "The preset")
    if content.keys() >= set(SECTIONS):  # the configuration of a run, whose command is no part of a preset
        content.pop("overrides", None)
    defaults = content.get("defaults")
    if defaults is None:
        defaults = []
    if not isinstance(defaults, list):
        raise ConfigError(f"The preset {path}: defaults is a list, e.g.\ndefaults:\n  - digits".replace("\n", "; "))
    choices = {group: str(value) for entry in defaults for group, value in _overrides(entry)}
    for group in GROUPS:
        section = content.get(group)
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"The preset {path}: {group} is a section of options; which {group} it is stands in the defaults list: "
                f"defaults: [override /{group}: {section!s:.60}]"
            )
        if "name" in section:  # as a resolved configuration has it
            choices[group] = str(section["name"])
            content[group] = {key: value for key, value in section.items() if key != "name"}
    chosen = [entry for entry in defaults if not [*_overrides(entry)]]
    itself = [] if "_self_" in chosen else ["_self_"]
    content["defaults"] = [*chosen, *itself, *({f"override /{group}": name} for group, name in choices.items())]
    content.setdefault("preset", path.stem)
    digest = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:8]
    return OwnPreset(path, f"{path.stem}_{digest}", content, choices)


def _overrides(entry: object) -> list[tuple[str, object]]:
    """(group, entry) of a line ``override /group: entry`` of a defaults list."""
    if not isinstance(entry, Mapping):
        return []
    pairs = [(str(key).removeprefix("override").strip().lstrip("/"), value) for key, value in entry.items()]
    return [(group, value) for group, value in pairs if group in GROUPS]
