"""Entry of `lossrag train`: one run, several with ``--multirun``, or what Hydra's other flags show."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from rich.console import Console

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import build_config, load_config
from lossrag.experiments.config.paths import quoted
from lossrag.experiments.config.presets import FLAG
from lossrag.experiments.multirun.command import multirun
from lossrag.experiments.multirun.flags import read_flags
from lossrag.experiments.multirun.loader import PRIMARY, JobLoader, is_hydra, resolved
from lossrag.experiments.multirun.shown import show
from lossrag.experiments.run.ranks import Ranks
from lossrag.experiments.train import train_run

OF_SEVERAL = ("hydra.sweep.", "hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher")


def train(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag train` with these arguments; the exit code."""
    flags = read_flags(arguments)
    if flags.command not in ("--run", "--multirun"):
        return show(flags)
    if flags.command == "--multirun":
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ConfigError("torchrun starts one run with several processes, and --multirun several: choose one.")
        if any(text.startswith(f"{FLAG}=") for text in flags.overrides):
            raise ConfigError(f"{FLAG} with --multirun: name the preset by its path, experiment=FOLDER/NAME.yaml.")
        return multirun(flags.overrides, console)
    _, settings = load_config(_single(flags.overrides))
    ranks = Ranks.joined(build_config(settings).machine.device)
    train_run(settings, console if ranks.leads else Console(quiet=True), ranks)
    ranks.leave()
    return 0


def _single(overrides: Sequence[str]) -> list[str]:
    """The overrides of a single run, ``hydra.run.dir`` as ``run.dir``; raises ConfigError for others of Hydra's."""
    own = [text for text in overrides if not is_hydra(text)]
    theirs = [text for text in overrides if is_hydra(text) and text != "hydra.mode=RUN"]
    for text in theirs:
        if text.startswith(OF_SEVERAL):
            raise ConfigError(f"{text} is about several runs: add -m (--multirun).")
        if not text.startswith("hydra.run.dir="):
            raise ConfigError(f"{text}: a single run is not Hydra's to start; add -m (--multirun), or leave it out.")
    if theirs:
        config = Hydra(PRIMARY, JobLoader()).compose_config(PRIMARY, list(overrides), RunMode.RUN)
        own.append(f"run.dir={quoted(str(resolved(config, 'hydra.run.dir')))}")
    return own
