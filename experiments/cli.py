"""The console command `lossrag`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from lossrag import __version__
from lossrag.errors import ConfigError, LossRAGError, did_you_mean
from lossrag.experiments import exits
from lossrag.experiments.help import (
    ABLATE_HELP,
    BANK_HELP,
    COMPARE_HELP,
    FIGURES_HELP,
    MAIN_HELP,
    SWEEP_HELP,
    THEORY_HELP,
    TRAIN_HELP,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a subcommand and exit: 0 done, 2 a mistake to mend, 130 interrupted, 143 terminated (checkpoint written)."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """The exit code of one command line."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(MAIN_HELP)
        return 0
    if arguments[0] == "--version":
        print(f"lossrag {__version__}")
        return 0
    try:
        return _subcommand(arguments[0])(arguments[1:])
    except LossRAGError as error:
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), str(error)), highlight=False, soft_wrap=True)
        return exits.MISTAKE
    except exits.Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return exits.INTERRUPTED


def _subcommand(name: str) -> Callable[[list[str]], int]:
    commands = {
        "train": _train,
        "benchmark": _benchmark,
        "bank": _bank,
        "ablate": _ablate,
        "compare": _compare,
        "sweep": _sweep,
        "figures": _figures,
        "theory": _theory,
    }
    if name not in commands:
        raise ConfigError(f"Unknown command {name!r}: {did_you_mean(name, commands)}")
    return commands[name]


def _train(arguments: list[str]) -> int:
    if any(argument in ("-h", "--help") for argument in arguments):
        print(TRAIN_HELP)
        return 0
    # torch and the corpora's libraries take seconds to import: help and typos must not wait for them
    from lossrag.experiments.config.compose import load_config  # noqa: PLC0415
    from lossrag.experiments.train import train  # noqa: PLC0415

    if "--cfg" in arguments:
        from omegaconf import OmegaConf  # noqa: PLC0415

        _, settings = load_config([a for a in arguments if a not in ("--cfg", "job")])
        print(OmegaConf.to_yaml(OmegaConf.create(settings)), end="")
        return 0
    _, settings = load_config(arguments)
    train(settings, Console())
    return 0


def _benchmark(arguments: list[str]) -> int:
    from lossrag.experiments.benchmark.command import benchmark  # noqa: PLC0415

    return benchmark(arguments, Console())


def _ablate(arguments: list[str]) -> int:
    if _asks_for_help(arguments, ABLATE_HELP):
        return 0
    from lossrag.experiments.studies.ablate import ablate  # noqa: PLC0415

    return ablate(arguments, Console())


def _compare(arguments: list[str]) -> int:
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(COMPARE_HELP, end="")
        return 0
    from lossrag.experiments.studies.compare import compare  # noqa: PLC0415

    return compare(arguments, Console())


def _sweep(arguments: list[str]) -> int:
    if _asks_for_help(arguments, SWEEP_HELP):
        return 0
    from lossrag.experiments.studies.sweep import sweep  # noqa: PLC0415

    return sweep(arguments, Console())


def _figures(arguments: list[str]) -> int:
    if _asks_for_help(arguments, FIGURES_HELP):
        return 0
    from lossrag.experiments.figures.command import figures  # noqa: PLC0415

    return figures(arguments, Console())


def _theory(arguments: list[str]) -> int:
    if _asks_for_help(arguments, THEORY_HELP):
        return 0
    from lossrag.experiments.theory.command import theory  # noqa: PLC0415

    return theory(arguments, Console())


def _asks_for_help(arguments: list[str], text: str) -> bool:
    asks = not arguments or any(argument in ("-h", "--help") for argument in arguments)
    if asks:
        print(text, end="")
    return asks


def _bank(arguments: list[str]) -> int:
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(BANK_HELP, end="")
        return 0
    from lossrag.experiments.bank.command import bank  # noqa: PLC0415

    return bank(arguments, Console())
