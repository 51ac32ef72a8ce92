"""Hydra overrides -> one typed Config, with errors that say what to do instead of Hydra's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import schema
from lossbank import LOSSES
from lossrag import ConfigError, Registry, did_you_mean
from models import ENCODERS
from tasks import SUITES, SuiteEntry
from weighting import WEIGHTINGS

CONF_DIR = Path(__file__).parent.parent / "conf"
SECTIONS: dict[str, type[Any]] = {
    "data": schema.DataConfig,
    "loss": schema.LossConfig,
    "outer": schema.OuterConfig,
    "optimizer": schema.OptimizerConfig,
    "train": schema.TrainConfig,
    "machine": schema.MachineConfig,
    "run": schema.RunConfig,
    "log": schema.LogConfig,
}
GROUPS: dict[str, Registry[Any]] = {"tasks": SUITES, "model": ENCODERS, "weighting": WEIGHTINGS}
FROM_ELSEWHERE = {"seed": "${seed}", "root": "${data.root}"}
"""Options of a suite that the run sets once for everything."""

D = TypeVar("D")


def experiment_names() -> list[str]:
    """The presets that ``experiment=`` accepts."""
    folder = CONF_DIR / "experiment"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def register_configs() -> None:
    """Offer every registered suite, encoder and weighting as a Hydra group option, with its own defaults."""
    store = ConfigStore.instance()
    sections = {name: dataclasses.asdict(cls()) for name, cls in SECTIONS.items()}
    store.store(name="base", node={"seed": 0, "preset": "custom", **sections})
    for group, registry in GROUPS.items():
        extra = {"sharing": "hard"} if group == "model" else {}
        for name in registry:
            options = {
                key: FROM_ELSEWHERE.get(key, v) for key, v in dataclasses.asdict(_options(group, name)()).items()
            }
            store.store(group=group, name=name, node={"name": name, **extra, **options})


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The composed, untyped configuration; raises ConfigError for unknown names and keys."""
    register_configs()
    parsed = _parse(overrides)
    choices = [override for override in parsed if override.key_or_group in (*GROUPS, "experiment")]
    for override in choices:
        _check_choice(override)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        known = _compose([override.input_line or "" for override in choices])
        for override in parsed:
            if override not in choices and not override.is_add():
                _check_key(override, known)
        return _compose(overrides)


def load_config(overrides: Sequence[str]) -> tuple[Config, dict[str, Any]]:
    """The typed configuration and its plain form, from ``key=value`` overrides.

    Raises ConfigError, naming the key, for unknown names or keys and for impossible values.
    """
    composed = compose_config(overrides)
    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"The configuration cannot be resolved: {str(error).splitlines()[0]}") from None
    assert isinstance(plain, dict)
    settings = {str(key): value for key, value in plain.items()}
    return build_config(settings), settings


def build_config(settings: Mapping[str, Any]) -> Config:
    """The typed configuration of plain settings, every value checked."""
    sections = {name: build(cls, settings[name], name) for name, cls in SECTIONS.items()}
    model = dict(settings["model"])
    name, sharing = str(model.pop("name")), str(model.pop("sharing"))
    for key in ("classification", "regression"):
        for section in ("loss", "outer"):
            _check_loss(f"{section}.{key}", getattr(sections[section], key), key)
    config = Config(
        seed=int(settings["seed"]),
        tasks=_choice("tasks", settings["tasks"]),
        model=schema.ModelConfig(name, sharing, build(_options("model", name), model, "model")),
        weighting=_choice("weighting", settings["weighting"]),
        **sections,
    )
    if not config.weighting.options.shares_parameters and sharing != "none":
        raise ConfigError(
            f"weighting={config.weighting.name} trains one model per task: add model.sharing=none "
            f"(got model.sharing={sharing})."
        )
    return config


Config = schema.Config


def build(cls: Any, values: Mapping[str, Any], where: str) -> Any:
    """An instance of the dataclass ``cls``; raises ConfigError for unknown keys and wrong types."""
    names = {field.name for field in dataclasses.fields(cls)}
    for key in values:
        if key not in names:
            raise ConfigError(f"Unknown key {where}.{key}: {did_you_mean(str(key), names)}")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), dict(values)))
    except OmegaConfBaseException as error:
        key = f"{where}.{error.full_key}" if error.full_key else where
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}.") from None


def _options(group: str, name: str) -> Any:
    """The dataclass of a registered entry's options."""
    entry = GROUPS[group][name]
    return entry.config if isinstance(entry, SuiteEntry) else entry


def _choice(group: str, values: Mapping[str, Any]) -> schema.Choice:
    options = dict(values)
    name = str(options.pop("name"))
    return schema.Choice(name, build(_options(group, name), options, group))


def _check_loss(key: str, name: str | None, kind: str) -> None:
    if name is not None and LOSSES[name].target_kind != kind:
        fitting = [entry for entry, loss in LOSSES.items() if loss.target_kind == kind]
        raise ConfigError(f"{key}={name} is a loss for {LOSSES[name].target_kind}: choose from {', '.join(fitting)}")


def _parse(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(
            f"Cannot read the override: {str(error).splitlines()[0]}. Write key=value, e.g. weighting.alpha=0.5"
        ) from None


def _check_choice(override: Override) -> None:
    group = override.key_or_group
    options = experiment_names() if group == "experiment" else list(GROUPS[group])
    value = override.value()
    if isinstance(value, str) and value not in options:
        raise ConfigError(f"Unknown {group} {value!r}: {did_you_mean(value, options)}")


def _check_key(override: Override, known: DictConfig) -> None:
    key = override.key_or_group
    if OmegaConf.select(known, key, default=_MISSING) is not _MISSING:
        return
    keys = _flat_keys(OmegaConf.to_container(known))
    leaf = [full for full in keys if full.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    hint = f"did you mean {leaf[0]!r}?" if leaf else did_you_mean(key, keys)
    raise ConfigError(f"Unknown key {key!r}: {hint}")


_MISSING = object()


def _flat_keys(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict) or (prefix and not tree):
        return [prefix]
    return [key for name, value in tree.items() for key in _flat_keys(value, f"{prefix}.{name}" if prefix else name)]


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose("train", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"The configuration cannot be composed: {' '.join(str(error).split())}") from None
