"""Console command `lossrag`: one table of its commands, their exit codes, one message per mistake."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from lossrag import __version__
from lossrag.errors import ConfigError, LossRAGError, did_you_mean
from lossrag.experiments import exits
from lossrag.experiments.help import COMMANDS_HELP, MAIN_HELP

# torch and the corpora's libraries take seconds to import: help and typos must not wait for them
COMMANDS = {
    "train": "multirun.entry",
    "benchmark": "benchmark.command",
    "bank": "bank.command",
    "ablate": "studies.ablate",
    "compare": "studies.compare",
    "sweep": "studies.sweep",
    "figures": "figures.command",
    "theory": "theory.command",
    "predict": "trained.predict",
    "evaluate": "trained.evaluate",
    "export": "trained.export",
}
"""Module of every command; the function in it, of the arguments and a console, is called like the command."""
HELP = {"-h", "--help"}
COMPLETION = {"-sc", "--shell-completion"}
"""What Hydra's completion in a shell calls the program with."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 a mistake to mend, 130 interrupted, 143 terminated (checkpoint written)."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """The exit code of one command line."""
    name, *rest = arguments or ["help"]
    several, leads = os.environ.get("WORLD_SIZE", "1") != "1", os.environ.get("RANK", "0") == "0"
    try:
        if name in (*HELP, "help"):
            print(MAIN_HELP, end="")
        elif name == "--version":
            print(f"lossrag {__version__}")
        elif name in COMPLETION:
            importlib.import_module("lossrag.experiments.multirun.shown").complete(rest, COMMANDS)
        elif name not in COMMANDS:
            raise ConfigError(f"Unknown command {name!r}: {did_you_mean(name, COMMANDS)}")
        elif several and name != "train":
            raise ConfigError(f"torchrun starts lossrag train, not lossrag {name}: run that as one process.")
        elif not HELP.isdisjoint(rest) or (not rest and name != "train"):  # train alone has a default
            print(COMMANDS_HELP[name], end="")
        else:
            command = getattr(importlib.import_module(f"lossrag.experiments.{COMMANDS[name]}"), name)
            return int(command(rest, Console()))
        return 0
    except LossRAGError as error:
        # the others of several processes meet it alike
        console = Console(stderr=True, quiet=several and not leads)
        console.print(Text.assemble(("error: ", "bold red"), str(error)), highlight=False, soft_wrap=True)
        return exits.MISTAKE
    except exits.Stopped as stopped:
        if leads:
            print(stopped, file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return exits.INTERRUPTED


if __name__ == "__main__":
    main()
