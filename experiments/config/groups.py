"""Sections and groups of a configuration: a group's entries are registered names with options of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from lossrag.experiments.config import schema
from lossrag.experiments.config.model import SharingConfig
from lossrag.experiments.config.optimizer import OptimizerConfig
from lossrag.models import ENCODERS
from lossrag.tasks import SUITES, SuiteEntry
from lossrag.weighting import WEIGHTINGS

CONF_DIR = Path(__file__).parent.parent / "conf"
SECTIONS: Mapping[str, Callable[[], object]] = {
    "data": schema.DataConfig,
    "loss": schema.LossConfig,
    "outer": schema.OuterConfig,
    "optimizer": OptimizerConfig,
    "train": schema.TrainConfig,
    "machine": schema.MachineConfig,
    "run": schema.RunConfig,
    "log": schema.LogConfig,
}
GROUPS: Mapping[str, Mapping[str, object]] = {"tasks": SUITES, "model": ENCODERS, "weighting": WEIGHTINGS}
OF_GROUP: Mapping[str, Mapping[str, object]] = {
    "model": dataclasses.asdict(SharingConfig()),
    "tasks": {"corrupt": {}},
    "weighting": {},
}
"""Settings that every entry of a group has, beside its own options."""
FROM_ELSEWHERE = {"seed": "${seed}", "root": "${data.root}"}
"""Options of a suite that the run sets once for everything."""


def experiment_names() -> list[str]:
    """The presets that ``experiment=`` accepts."""
    folder = CONF_DIR / "experiment"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def defaults_of(group: str, name: str) -> dict[str, object]:
    """The settings of a group when ``name`` is chosen and nothing else is said."""
    entry = GROUPS[group][name]
    options = _defaults(entry.config if isinstance(entry, SuiteEntry) else entry)
    return {"name": name, **OF_GROUP[group], **{key: FROM_ELSEWHERE.get(key, options[key]) for key in options}}


def _defaults(cls: object) -> dict[str, object]:
    options = cls() if callable(cls) else None
    assert dataclasses.is_dataclass(options)
    assert not isinstance(options, type)
    values = dataclasses.asdict(options)
    return {key_of(option): values[option.name] for option in dataclasses.fields(options)}


def key_of(option: dataclasses.Field[Any]) -> str:
    """Its key in a configuration: its name, or what its metadata say where Python keeps that word for itself."""
    return str(option.metadata.get("key", option.name))


def register_configs() -> None:
    """Offer every registered suite, encoder and weighting as a Hydra group option, with its own defaults."""
    store = ConfigStore.instance()
    sections = {name: _defaults(cls) for name, cls in SECTIONS.items()}
    store.store(name="base", node={"seed": 0, "preset": "custom", **sections})
    for group, registry in GROUPS.items():
        for name in registry:
            # Hydra finds torchjd/upgrad as the entry upgrad of the group weighting/torchjd
            *folders, leaf = name.split("/")
            store.store(group="/".join([group, *folders]), name=leaf, node=defaults_of(group, name))
