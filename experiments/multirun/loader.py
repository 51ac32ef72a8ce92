"""Loader of the configurations that Hydra's sweepers and launchers see: Hydra's own sections as Hydra composes them, a
job's as `lossrag train` composes it, so that a run is the same run by either way."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.groups import CONF_DIR, register_configs
from lossrag.experiments.config.identity import Settings, run_id, section
from lossrag.experiments.config.overrides import advice
from lossrag.experiments.config.paths import mended

PRIMARY = "train"
"""Name of the primary configuration, conf/train.yaml, and of Hydra's job."""
DEFAULTS = ("hydra/job_logging=none", "hydra.output_subdir=null")
"""Of Hydra's sections: a run directory holds its own config.yaml, and no log of Hydra."""


def is_hydra(override: str) -> bool:
    """True for an override of Hydra's own sections or of a group among them."""
    return override.lstrip("+~").startswith(("hydra.", "hydra/", "hydra="))


class JobLoader(ConfigLoaderImpl):
    """Hydra's loader, with another source for the job's part.

    planned: by run id, the overrides of the jobs that were composed in this process.
    """

    def __init__(self) -> None:
        register_configs()
        super().__init__(create_config_search_path(str(CONF_DIR)))
        self.cwd = os.getcwd()
        self.planned: dict[str, list[str]] = {}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Hydra's sections and the job's, the latter of ``overrides`` that each name one value; of several values,
        which a multirun has, the first. Raises ConfigError."""
        own = [text for text in overrides if not is_hydra(text)]
        theirs = [text for text in overrides if is_hydra(text)]
        first = self._first(own) if run_mode == RunMode.MULTIRUN else [kept(text) for text in own]
        _, settings = load_config(first)
        given = {text.partition("=")[0] for text in theirs}
        defaults = [text for text in DEFAULTS if text.partition("=")[0] not in given]
        try:
            config = super().load_configuration(None, [*defaults, *theirs], run_mode, from_shell)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(f"Hydra's part of the configuration: {_in_words(error)}") from None
        hydra = config.hydra
        hydra.overrides.hydra = theirs
        hydra.overrides.task = own
        with flag_override(config, ["struct", "readonly"], [False, False]):
            config.merge_with(OmegaConf.create(dict(settings)))
            hydra.job.config_name = PRIMARY
            hydra.job.override_dirname = ",".join(own)
            hydra.runtime.cwd = self.cwd
            if not _names(theirs, "hydra.run.dir"):
                hydra.run.dir = run_folder(settings)
            if not _names(theirs, "hydra.sweep.dir"):
                hydra.sweep.dir = str(section(settings, "run")["root"])
            hydra.sweep.subdir = run_id(settings)
        return config

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of a job; its output directory is the run directory."""
        config: DictConfig = super().load_sweep_config(master_config, sweep_overrides)
        config.hydra.sweep.dir = os.path.join(self.cwd, resolved(config, "hydra.sweep.dir"))
        line = [kept(text) for text in sweep_overrides if not is_hydra(text)]
        self.planned.setdefault(str(config.hydra.sweep.subdir), line)
        return config

    def parsed(self, overrides: Sequence[str]) -> list[Override]:
        """Hydra's parsed form, globs among them; raises ConfigError for what is no override."""
        parser = OverridesParser.create(config_loader=self)
        parsed = []
        for text in overrides:
            try:
                (override,) = parser.parse_overrides([mended(text)])
            except HydraException:
                override = None
            if override is None or not override.key_or_group:
                raise ConfigError(f"Cannot read {text!r}: {advice(text)}")
            override.input_line = text
            parsed.append(override)
        return parsed

    def _first(self, overrides: Sequence[str]) -> list[str]:
        """The overrides with the first of several values; those that only a sweeper can choose are left out."""
        first = []
        for override in self.parsed(overrides):
            text = override.input_line or ""
            if not override.is_sweep_override():
                first.append(text)
            elif override.is_discrete_sweep():
                values = list(override.sweep_string_iterator())
                if not values:
                    raise ConfigError(f"{text} matches nothing: write a pattern that fits one of the names, or names.")
                first.append(f"{override.get_key_element()}={values[0]}")
        return first


def settings_of(config: DictConfig) -> Settings:
    """The plain settings of a job from its configuration, without Hydra's."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def run_folder(settings: Settings) -> str:
    """Where the run of these settings lies."""
    run = section(settings, "run")
    return str(run["dir"] or os.path.join(str(run["root"]), run_id(settings)))


def resolved(config: DictConfig, key: str) -> str:
    """A text among Hydra's sections, with what it refers to; raises ConfigError where that is not known."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        return str(OmegaConf.select(config, key, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key} cannot be resolved: {_in_words(error)}") from None
    finally:
        HydraConfig.instance().cfg = before
        OmegaConf.set_readonly(config.hydra, False)


def _names(overrides: Sequence[str], key: str) -> bool:
    return any(text.lstrip("+").partition("=")[0] == key for text in overrides)


def kept(override: str) -> str:
    """As it was given: sweepers write ``~experiment=`` for ``~experiment``."""
    return override[:-1] if override.startswith("~") and override.endswith("=") else override


def _in_words(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    return " ".join(str(cause).split()).partition(" Config search path")[0]
