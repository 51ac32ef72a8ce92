"""What Hydra's flags show: the configuration, and what it is made of."""

from __future__ import annotations

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.multirun.flags import Flags
from lossrag.experiments.multirun.loader import PRIMARY, JobLoader, is_hydra
from lossrag.experiments.multirun.logs import kept_logging


def show(flags: Flags) -> int:
    """Print what the flags ask for; the exit code."""
    if flags.command == "--cfg":
        print(_configuration(flags), end="")
        return 0
    hydra = Hydra(PRIMARY, JobLoader())
    try:
        with kept_logging():
            _tell(hydra, flags)
    except HydraException as error:
        raise ConfigError(f"{flags.command}: {' '.join(str(error).split())}") from None
    return 0


def _tell(hydra: Hydra, flags: Flags) -> None:
    if flags.command == "--info":
        hydra.show_info(flags.value, PRIMARY, list(flags.overrides))
        return
    parser = get_args_parser()
    hydra.hydra_help(PRIMARY, parser, parser.parse_args(list(flags.overrides)))


def _configuration(flags: Flags) -> str:
    own = [text for text in flags.overrides if not is_hydra(text)]
    shown = OmegaConf.create(dict(load_config(own)[1]))  # resolved, as the run reads it
    if flags.value != "job":
        hydra = Hydra(PRIMARY, JobLoader())
        whole = hydra.compose_config(PRIMARY, list(flags.overrides), RunMode.RUN)
        sections = OmegaConf.create({"hydra": whole.hydra})
        shown = sections if flags.value == "hydra" else DictConfig({**shown, "hydra": whole.hydra})
    if flags.package in (None, "", "_global_"):
        return OmegaConf.to_yaml(shown)
    part = OmegaConf.select(shown, flags.package)
    if part is None:
        raise ConfigError(f"--package {flags.package}: {did_you_mean(flags.package, map(str, shown))}")
    if not isinstance(part, Container):
        return f"{part}\n"
    return f"# @package {flags.package}\n{OmegaConf.to_yaml(part)}"
