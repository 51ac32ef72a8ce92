"""Sections and groups of a configuration: a group's entries are registered names with options of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from lossrag.errors import ConfigError
from lossrag.experiments.config import schema
from lossrag.experiments.config.model import SharingConfig
from lossrag.experiments.config.optimizer import OptimizerConfig
from lossrag.models import ENCODERS
from lossrag.registry import Registry
from lossrag.tasks import SUITES, SuiteEntry
from lossrag.weighting import WEIGHTINGS, Weighting

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
GROUPS: Mapping[str, Registry[Any]] = {"tasks": SUITES, "model": ENCODERS, "weighting": WEIGHTINGS}
OF_GROUP: Mapping[str, Mapping[str, object]] = {
    "model": asdict(SharingConfig()),
    "tasks": {"corrupt": {}},
    "weighting": {},
}
"""Settings that every entry of a group has, beside its own options."""
FROM_ELSEWHERE = {"seed": "${seed}", "root": "${data.root}"}
"""Options of a suite that the run sets once for everything."""


def experiment_names() -> list[str]:
    """The presets that come with the package."""
    return yaml_names(CONF_DIR / "experiment")


def yaml_names(folder: Path) -> list[str]:
    """Names of the YAML files below a folder, as Hydra knows them: without suffix, those of its folders in front."""
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def defaults_of(group: str, name: str) -> dict[str, object]:
    """The settings of a group when ``name`` is chosen and nothing else is said."""
    options = _defaults(_options_of(group, name))
    return {"name": name, **OF_GROUP[group], **{key: FROM_ELSEWHERE.get(key, options[key]) for key in options}}


def _options_of(group: str, name: str) -> object:
    entry = GROUPS[group][name]
    return entry.config if isinstance(entry, SuiteEntry) else entry


def check_entry(group: str, name: str) -> None:
    """Raise ConfigError unless what a user registered is a dataclass that a configuration can fill."""
    entry, what = GROUPS[group][name], f"The {GROUPS[group].kind} {name!r}"
    if group == "tasks" and not isinstance(entry, SuiteEntry):
        raise ConfigError(f"{what} is no suite: register its function with @register_suite.")
    cls: Any = _options_of(group, name)
    form = "@dataclass(frozen=True), every field with a default that YAML can write"
    try:
        options = cls()
        entries = asdict(options)
        OmegaConf.structured(cls)
        OmegaConf.create(entries)
    except Exception as error:  # whatever a user's class may raise, or not be
        reason = " ".join(str(error).split())
        raise ConfigError(f"{what} has no options that can be set: write {form} ({reason:.200}).") from None
    if group == "weighting" and not isinstance(options, Weighting):
        raise ConfigError(f"{what} is no weighting: write class MyMethod(Weighting), {form}.")
    if group == "model" and not callable(getattr(options, "build", None)):
        raise ConfigError(f"{what} has no build(self, vectors, input_shape), which returns the encoder.")
    for taken in ("name", *OF_GROUP[group]):
        if taken in entries:
            raise ConfigError(f"{what} has an option {taken!r}, which {group}.{taken} means already: rename it.")


def _defaults(cls: object) -> dict[str, object]:
    options = cls() if callable(cls) else None
    assert is_dataclass(options)
    assert not isinstance(options, type)
    values = asdict(options)
    return {key_of(option): values[option.name] for option in fields(options)}


def key_of(option: Field[Any]) -> str:
    """Its key in a configuration: its name, or what its metadata say where Python keeps that word for itself."""
    return str(option.metadata.get("key", option.name))


def register_configs() -> None:
    """Offer every registered suite, encoder and weighting as a Hydra group option, with its own defaults."""
    store = ConfigStore.instance()
    sections = {name: _defaults(cls) for name, cls in SECTIONS.items()}
    store.store(name="base", node={"seed": 0, "preset": "custom", "library": [], **sections})
    for group, registry in GROUPS.items():
        for name in registry:
            # Hydra finds torchjd/upgrad as the entry upgrad of the group weighting/torchjd
            *folders, leaf = name.split("/")
            store.store(group="/".join([group, *folders]), name=leaf, node=defaults_of(group, name))
