"""Composition of a typed Config from overrides, with errors that say what to do in place of Hydra's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lossrag.errors import ConfigError, OptionError, did_you_mean
from lossrag.experiments.config import schema
from lossrag.experiments.config.groups import CONF_DIR, GROUPS, OF_GROUP, SECTIONS, defaults_of, register_configs
from lossrag.experiments.config.identity import Settings, section
from lossrag.experiments.config.library import load_library
from lossrag.experiments.config.model import ModelConfig, SharingConfig
from lossrag.experiments.config.optimizer import OptimizerConfig
from lossrag.experiments.config.overrides import check_choice, check_key, check_lists, is_choice, is_open, parse
from lossrag.lossbank import LOSSES
from lossrag.models import ENCODERS
from lossrag.tasks import SUITES, parse_corruption
from lossrag.weighting import WEIGHTINGS

T = TypeVar("T")
MAX_SEED = 2**32 - 1
"""A step's own seed is this one shifted by 32 bits plus the number of the step."""


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The composed, untyped configuration; raises ConfigError for unknown names and keys."""
    parsed = parse(overrides)
    for override in parsed:
        if override.key_or_group == "loss.library" and isinstance(files := override.value(), list):
            load_library([str(file) for file in files])  # what they register may be chosen by name
    register_configs()
    choices = [override for override in parsed if is_choice(override)]
    values = [override for override in parsed if not is_choice(override)]
    for override in choices:
        check_choice(override)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        composed = _compose(choices)
        presets = [override for override in choices if override.key_or_group == "experiment"]
        _drop_leftovers(composed, composed if presets == choices else _compose(presets))
    for override in values:
        check_key(override, composed)
        try:
            OmegaConf.update(composed, override.key_or_group, override.value(), force_add=is_open(override))
        except OmegaConfBaseException as error:
            raise ConfigError(f"Cannot set {override.input_line}: {str(error).splitlines()[0]}") from None
    return composed


def _compose(choices: Sequence[Override]) -> DictConfig:
    try:
        return compose("train", overrides=[override.input_line or "" for override in choices])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"The configuration cannot be composed: {' '.join(str(error).split())}") from None


def _drop_leftovers(composed: DictConfig, preset: DictConfig) -> None:
    """Undo what the preset said about a group when the user chose another entry of it.

    The alpha of the preset's MetaWeighting is no option of ``weighting=uniform``: the group starts from the entry's
    own defaults. How tasks share a model is no option of its encoder, and stays.
    """
    for group in GROUPS:
        name = composed[group].name
        if name != preset[group].name:
            kept = {key: preset[group][key] for key in OF_GROUP[group]} if group == "model" else {}
            OmegaConf.update(composed, group, {**defaults_of(group, name), **kept}, merge=False)


def load_config(overrides: Sequence[str]) -> tuple[schema.Config, dict[str, object]]:
    """The typed configuration and its plain form, from ``key=value`` overrides.

    Raises ConfigError, naming the key, for unknown names or keys and for impossible values.
    """
    try:
        plain = OmegaConf.to_container(compose_config(overrides), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"The configuration cannot be resolved: {str(error).splitlines()[0]}") from None
    assert isinstance(plain, dict)
    settings: dict[str, object] = {str(key): value for key, value in plain.items()}
    # as they were said: the command of a run, for its report; Hydra's parsed form knows its line
    settings["overrides"] = [own if isinstance(own, str) else str(own.input_line) for own in overrides]
    return build_config(settings), settings


def build_config(settings: Settings) -> schema.Config:
    """The typed configuration of plain settings, every value checked."""
    seed = settings["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed must be a whole number from 0 to {MAX_SEED}, got {seed!r}.")

    def options(cls: type[T], name: str) -> T:
        return build(cls, section(settings, name), name)

    loss = options(schema.LossConfig, "loss")
    load_library(loss.library)  # what it registers may be named in any other section
    outer = options(schema.OuterConfig, "outer")
    for name, losses in (("loss", loss), ("outer", outer)):
        _check_loss(f"{name}.classification", losses.classification, "classification")
        _check_loss(f"{name}.regression", losses.regression, "regression")
    for name in loss.tasks.values():
        LOSSES[name]  # names what was meant; whether it fits the task is seen with the suite
    tasks, model, weighting = (section(settings, group) for group in GROUPS)
    config = schema.Config(
        seed=seed,
        tasks=_choice("tasks", SUITES[str(tasks["name"])].config, {k: v for k, v in tasks.items() if k != "corrupt"}),
        corrupt=parse_corruption(cast(Settings, tasks.get("corrupt") or {})),
        model=model_config(model),
        weighting=_choice("weighting", WEIGHTINGS[str(weighting["name"])], weighting),
        data=options(schema.DataConfig, "data"),
        loss=loss,
        outer=outer,
        optimizer=options(OptimizerConfig, "optimizer"),
        train=options(schema.TrainConfig, "train"),
        machine=options(schema.MachineConfig, "machine"),
        run=options(schema.RunConfig, "run"),
        log=options(schema.LogConfig, "log"),
    )
    _check_sharing(config)
    return config


def model_config(settings: Settings) -> ModelConfig:
    """The typed settings of a model from the section of plain ones."""
    sharing, encoder = ({k: v for k, v in settings.items() if (k in OF_GROUP["model"]) == own} for own in (True, False))
    chosen = _choice("model", ENCODERS[str(settings["name"])], encoder)
    shared = dataclasses.asdict(build(SharingConfig, sharing, "model"))
    return ModelConfig(name=chosen.name, encoder=chosen.options, **shared)


def _check_sharing(config: schema.Config) -> None:
    """Raise ConfigError for a weighting that has nothing to go by in a model that shares in this way."""
    name, needs, sharing = config.weighting.name, config.weighting.options.needs, config.model.sharing
    if not needs.shares_parameters and sharing != "none":
        raise ConfigError(
            f"weighting={name} trains one model per task: add model.sharing=none (got model.sharing={sharing})."
        )
    if needs.representation is not None and sharing != "hard":
        raise ConfigError(
            f"weighting={name} weighs the gradients of the features that all tasks share, but with "
            f"model.sharing={sharing} a task has features of its own: set model.sharing=hard, or choose another "
            "weighting."
        )
    if needs.compares_shared and sharing == "none":
        raise ConfigError(
            f"weighting={name} compares gradients on the parameters that tasks share, but with model.sharing=none they "
            "share none: set model.sharing=hard or shared_private, or choose another weighting."
        )


def build(cls: Callable[..., T], values: Settings, where: str) -> T:
    """An instance of the dataclass ``cls``; raises ConfigError for unknown keys and wrong types."""
    assert dataclasses.is_dataclass(cls)
    names = {field.name for field in dataclasses.fields(cls)}
    for key in values:
        if key not in names:
            raise ConfigError(f"Unknown key {where}.{key}: {did_you_mean(str(key), names)}")
    # a section's keys carry its name, the options of a command stand alone, a plan is a YAML file
    prefix = f"{where}." if where in (*SECTIONS, *GROUPS) else ""
    check_lists(cls, values, where, "{key}: {value}" if where.startswith("plan ") else f"{prefix}{{key}}={{value}}")
    try:
        # OmegaConf makes what it is asked for, and says nothing of its type
        return cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), dict(values))))
    except OptionError as error:
        raise ConfigError(error.by_key(prefix)) from None
    except OmegaConfBaseException as error:
        key = f"{where}.{error.full_key}" if error.full_key else where
        raise ConfigError(f"{key}: {str(error).splitlines()[0].rstrip('.')}.") from None


def _choice(group: str, cls: Callable[..., T], values: Settings) -> schema.Choice[T]:
    options = {key: value for key, value in values.items() if key != "name"}
    return schema.Choice(str(values["name"]), build(cls, options, group))


def _check_loss(key: str, name: str | None, kind: str) -> None:
    if name is not None and LOSSES[name].target_kind != kind:
        fitting = [entry for entry, loss in LOSSES.items() if loss.target_kind == kind]
        raise ConfigError(f"{key}={name} is a loss for {LOSSES[name].target_kind}: choose from {', '.join(fitting)}")
