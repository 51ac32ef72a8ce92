"""Options that `lossrag predict`, `evaluate` and `export` share, and the run that they name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.library import changes, load_library
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.config.schema import MachineConfig
from lossrag.experiments.record.progress import say
from lossrag.experiments.run.machine import apply_machine
from lossrag.experiments.trained.loaded import LoadedRun, load_run


@dataclass(frozen=True)
class RunOptions:
    """run: the directory of a finished run. threads: of the CPU.

    encoder: where the pre-trained encoder of a run with model=bert lies now. root: the data folder of the bundled one.
    library: Python files of one's own that registered its encoder, losses or metrics.
    """

    run: str = ""
    threads: int | None = None
    encoder: str | None = None
    root: str | None = None
    library: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DataOptions(RunOptions):
    """data: a table (.csv, .tsv, .jsonl, .parquet), or a .npy file of vectors. output: the file to write.

    delimiter, encoding: of a CSV file, where they are others than in training. device: auto, cpu, cuda, cuda:N or mps.
    """

    data: str = ""
    device: str = "auto"
    delimiter: str | None = None
    encoding: str | None = None
    output: str | None = None


Options = TypeVar("Options", bound=RunOptions)


def parsed(cls: type[Options], arguments: Sequence[str], command: str) -> Options:
    """The options of a command; raises ConfigError for unknown ones, and where run= or data= is not said."""
    options = build(cls, plain_values(arguments), command)
    if not options.run:
        raise ConfigError(f"lossrag {command} needs a finished run: say run=DIR, e.g. run=runs/RUN.")
    if isinstance(options, DataOptions) and not options.data:
        raise ConfigError(f"lossrag {command} needs data: say data=FILE, a table with the columns of training.")
    return options


def opened(options: RunOptions, console: Console, on: str = "cpu") -> tuple[LoadedRun, str]:
    """The run on a device, and the machine in words. The user's own files, if any are named, are run first; what has
    changed in them since training is told."""
    load_library(options.library)
    device, machine = apply_machine(MachineConfig(on, options.threads))
    run = load_run(Path(options.run), device=str(device), encoder=options.encoder, root=options.root)
    for note in changes(run.description.library):
        say(console, f"  {note}")
    return run, machine
