"""What a configuration is made of: fixed sections, and groups whose choices are registered names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from lossrag.experiments.config import schema
from lossrag.experiments.config.model import SharingConfig
from lossrag.experiments.config.optimizer import OptimizerConfig
from lossrag.models import ENCODERS
from lossrag.registry import Registry
from lossrag.tasks import SUITES, SuiteEntry
from lossrag.weighting import WEIGHTINGS

CONF_DIR = Path(__file__).parent.parent / "conf"
SECTIONS: dict[str, type[Any]] = {
    "data": schema.DataConfig,
    "loss": schema.LossConfig,
    "outer": schema.OuterConfig,
    "optimizer": OptimizerConfig,
    "train": schema.TrainConfig,
    "machine": schema.MachineConfig,
    "run": schema.RunConfig,
    "log": schema.LogConfig,
}
GROUPS: dict[str, Registry[Any]] = {"tasks": SUITES, "model": ENCODERS, "weighting": WEIGHTINGS}
FROM_ELSEWHERE = {"seed": "${seed}", "root": "${data.root}"}
"""Options of a suite that the run sets once for everything."""


def experiment_names() -> list[str]:
    """The presets that ``experiment=`` accepts."""
    folder = CONF_DIR / "experiment"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def options_of(group: str, name: str) -> Any:
    """The dataclass of a registered entry's options."""
    entry = GROUPS[group][name]
    return entry.config if isinstance(entry, SuiteEntry) else entry


def defaults_of(group: str, name: str) -> dict[str, Any]:
    """The settings of a group when ``name`` is chosen and nothing else is said."""
    options = dataclasses.asdict(options_of(group, name)())
    every: dict[str, dict[str, Any]] = {"model": dataclasses.asdict(SharingConfig()), "tasks": {"corrupt": {}}}
    extra = every.get(group, {})
    return {"name": name, **extra, **{key: FROM_ELSEWHERE.get(key, value) for key, value in options.items()}}


def register_configs() -> None:
    """Offer every registered suite, encoder and weighting as a Hydra group option, with its own defaults."""
    store = ConfigStore.instance()
    sections = {name: dataclasses.asdict(cls()) for name, cls in SECTIONS.items()}
    store.store(name="base", node={"seed": 0, "preset": "custom", **sections})
    for group, registry in GROUPS.items():
        for name in registry:
            # Hydra finds torchjd/upgrad as the entry upgrad of the group weighting/torchjd
            *folders, leaf = name.split("/")
            store.store(group="/".join([group, *folders]), name=leaf, node=defaults_of(group, name))
