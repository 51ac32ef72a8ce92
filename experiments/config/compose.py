"""Composition of a typed Config from overrides, with errors that say what to do in place of Hydra's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lossrag.errors import ConfigError, OptionError, did_you_mean
from lossrag.experiments.config import schema
from lossrag.experiments.config.groups import (
    CONF_DIR,
    GROUPS,
    OF_GROUP,
    SECTIONS,
    defaults_of,
    key_of,
    register_configs,
)
from lossrag.experiments.config.identity import Settings, section
from lossrag.experiments.config.library import check_loaded, library_files, load_library
from lossrag.experiments.config.model import ModelConfig, SharingConfig
from lossrag.experiments.config.optimizer import OptimizerConfig
from lossrag.experiments.config.overrides import (
    check_choice,
    check_key,
    check_lists,
    check_retired,
    is_choice,
    is_open,
    parse,
    shortened,
)
from lossrag.experiments.config.paths import quoted
from lossrag.experiments.config.presets import ConfigDir, OwnPreset, own_preset, split_flags
from lossrag.experiments.config.typed import schema_of
from lossrag.experiments.config.yaml_file import read_yaml
from lossrag.lossbank import LOSSES
from lossrag.lossbank.library.contract import TARGET_KINDS
from lossrag.models import ENCODERS
from lossrag.schema import Unfit, check_schema
from lossrag.tasks import SUITES, parse_corruption
from lossrag.weighting import WEIGHTINGS

T = TypeVar("T")
KEYS = ("seed", "preset", "library")
"""Keys beside sections and groups."""
MAX_SEED = 2**32 - 1
"""A step's own seed is this one shifted by 32 bits plus the number of the step."""


def compose_config(overrides: Sequence[str | Override]) -> DictConfig:
    """The composed, untyped configuration; raises ConfigError for unknown names and keys.

    Files of ``library`` are run first, those of a preset's own file before those of the command line.
    """
    words, told = split_flags([override for override in overrides if isinstance(override, str)])
    folder = ConfigDir(told)
    parsed = parse([*words, *(override for override in overrides if isinstance(override, Override))])
    preset = own_preset(parsed, folder)
    libraries = [override.value() for override in parsed if override.key_or_group == "library"]
    files = [file for value in (preset.library if preset else [], *libraries) for file in library_files(value)]
    library = load_library(files)  # what they register may be chosen by name
    register_configs()
    choices = [override for override in parsed if is_choice(override)]
    for override in choices:
        check_choice(override, folder)
    composed = _composed(choices, preset, folder)
    OmegaConf.update(composed, "library", library, merge=False)
    for override in parsed:
        if override in choices or override.key_or_group == "library":
            continue
        check_key(override, composed)
        try:
            OmegaConf.update(composed, override.key_or_group, override.value(), force_add=is_open(override))
        except OmegaConfBaseException as error:
            raise ConfigError(f"Cannot set {shortened(override.input_line or '')}: {_first_line(error)}") from None
    return composed


def _composed(choices: Sequence[Override], preset: OwnPreset | None, folder: ConfigDir) -> DictConfig:
    """The preset with the chosen entries of groups.

    What a preset says about a group is dropped where another entry of it is chosen, by the user or by a preset that
    stands on this one: the alpha of the preset's MetaWeighting is no option of ``weighting=uniform``. How tasks share a
    model is no option of its encoder, and stays.
    """
    known = [override for override in choices if override.key_or_group == "experiment"]
    lines = [override.input_line or "" for override in known[-1:]]
    if preset is not None:
        for group, name in preset.choices.items():
            if name not in folder.names(group) and name not in GROUPS[group]:
                raise ConfigError(
                    f"The preset {preset.path}: Unknown {group} {name!r}: {did_you_mean(name, GROUPS[group])}"
                )
        preset.store()
        lines = [f"experiment={quoted(preset.name)}"]
    composed = _compose([*folder.search, *lines])
    unknown = [key for key in composed if key not in (*KEYS, *SECTIONS, *GROUPS)]
    if unknown:
        where = f"The preset {preset.path}: " if preset else ""
        raise ConfigError(
            f"{where}Unknown key {unknown[0]!r}: {did_you_mean(str(unknown[0]), [*KEYS, *SECTIONS, *GROUPS])}"
        )
    for group, name in preset.choices.items() if preset else ():
        _choose(composed, group, name, folder)
        OmegaConf.update(composed, group, (preset.content.get(group) if preset else None) or {}, force_add=True)
    for override in choices:
        group, name = override.key_or_group, str(override.value())
        if group != "experiment" and name != composed[group].name:
            _choose(composed, group, name, folder)
    return composed


def _choose(composed: DictConfig, group: str, name: str, folder: ConfigDir) -> None:
    """Put an entry of the group in the place of what is there."""
    if name in GROUPS[group]:
        entry: Mapping[str, object] = defaults_of(group, name)
    else:
        read_yaml(folder.file(group, name), f"The entry of {group}")
        section = _compose([*folder.search, "~experiment", f"{group}={quoted(name)}"])[group]
        if not OmegaConf.is_dict(section) or section.get("name") not in GROUPS[group]:
            raise ConfigError(f"{folder.file(group, name)} must say which {group} it is about, as `name: NAME`.")
        entry = {**defaults_of(group, section.name), **cast(dict[str, object], OmegaConf.to_container(section))}
    kept = {key: composed[group][key] for key in OF_GROUP["model"] if group == "model"}
    OmegaConf.update(composed, group, {**entry, **kept}, merge=False)


@contextmanager
def _hydra_aside() -> Iterator[None]:
    """Within, no Hydra is at work: there is one a process, and the user's own program may be it (``hydra.main``)."""
    outer, hydra = GlobalHydra.instance(), GlobalHydra.instance().hydra
    outer.clear()
    try:
        yield
    finally:
        outer.hydra = hydra
        GlobalHydra.set_instance(outer)


def _compose(lines: Sequence[str]) -> DictConfig:
    try:
        with _hydra_aside(), initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            return compose("train", overrides=list(lines))
    except (HydraException, OmegaConfBaseException, RecursionError, ValueError) as error:
        raise ConfigError(f"The configuration cannot be composed: {' '.join(str(error).split())}") from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def load_config(overrides: Sequence[str | Override]) -> tuple[schema.Config, dict[str, object]]:
    """The typed configuration and its plain form, from ``key=value`` overrides, or what stands for them in Python
    (:func:`overrides_of`).

    Raises ConfigError, naming the key, for unknown names or keys and for impossible values.
    """
    try:
        plain = OmegaConf.to_container(compose_config(overrides), resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"The configuration cannot be resolved: {_first_line(error)}") from None
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

    check_loaded(section({"library": {}, **settings}, "library"))
    for name in ("loss", "outer"):
        _check_one_loss(name, section(settings, name))
    loss = options(schema.LossConfig, "loss")
    outer = options(schema.OuterConfig, "outer")
    for name, losses in (("loss", loss), ("outer", outer)):
        _check_loss(f"{name}.classification", losses.classification, "classification")
        _check_loss(f"{name}.regression", losses.regression, "regression")
    for name in (*loss.tasks.values(), *outer.losses.values()):
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
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must hold keys with values, got {values!r:.80}.")
    names = {key_of(field): field.name for field in dataclasses.fields(cls)}
    for key in values:
        if key not in names:
            check_retired(f"{where}.{key}")
            raise ConfigError(f"Unknown key {where}.{key}: {did_you_mean(str(key), names)}")
    values = {names[key]: value for key, value in values.items()}
    # a section's keys carry its name, the options of a command stand alone, a plan is a YAML file
    prefix = f"{where}." if where in (*SECTIONS, *GROUPS) else ""
    check_lists(cls, values, where, "{key}: {value}" if where.startswith("plan ") else f"{prefix}{{key}}={{value}}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(cls), dict(values))
        check_schema(OmegaConf.to_container(merged, resolve=True, throw_on_missing=True), schema_of(cls), where)
        # OmegaConf makes what it is asked for, and says nothing of its type
        return cast(T, OmegaConf.to_object(merged))
    except Unfit as reason:
        raise ConfigError(f"{reason}.") from None
    except OptionError as error:
        raise ConfigError(error.by_key(prefix)) from None
    except (OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}: {_first_line(error)}.") from None
    except OmegaConfBaseException as error:
        keys = {field: key for key, field in names.items()}
        key = f"{where}.{keys.get(error.full_key, error.full_key)}" if error.full_key else where
        raise ConfigError(f"{key}: {str(error).splitlines()[0].rstrip('.')}.") from None


def _choice(group: str, cls: Callable[..., T], values: Settings) -> schema.Choice[T]:
    options = {key: value for key, value in values.items() if key != "name"}
    return schema.Choice(str(values["name"]), build(cls, options, group))


def _check_one_loss(name: str, values: Settings) -> None:
    for kind in TARGET_KINDS:
        if isinstance(given := values.get(kind), Mapping):
            pairs = ", ".join(f"{task}: {loss}" for task, loss in given.items())
            way = f"write loss.tasks={{{pairs}}}" if name == "loss" else "there is one outer loss for each kind"
            raise ConfigError(
                f"{name}.{kind} takes one name, the loss of all tasks of that kind. For a loss per task {way}."
            )


def _check_loss(key: str, name: str | None, kind: str) -> None:
    if name is not None and LOSSES[name].target_kind != kind:
        fitting = [entry for entry, loss in LOSSES.items() if loss.target_kind == kind]
        raise ConfigError(f"{key}={name} is a loss for {LOSSES[name].target_kind}: choose from {', '.join(fitting)}")
