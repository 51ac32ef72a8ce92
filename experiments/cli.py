"""Console command `lossrag`: one table of its commands, their exit codes, one message per mistake."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType

from rich.console import Console
from rich.text import Text

from lossrag import __version__
from lossrag.errors import ConfigError, LossRAGError, did_you_mean
from lossrag.experiments import exits
from lossrag.experiments.help import COMMANDS_HELP, MAIN_HELP

# torch and the corpora's libraries take seconds to import: help and typos must not wait for them
COMMANDS = {
    "train": "multirun.entry",
    "new": "project.command",
    "benchmark": "benchmark.command",
    "bank": "bank.command",
    "ablate": "studies.ablate",
    "compare": "studies.compare",
    "sweep": "studies.sweep",
    "figures": "figures.command",
    "report": "report.command",
    "theory": "theory.command",
    "predict": "trained.predict",
    "evaluate": "trained.evaluate",
    "export": "trained.export",
    "check": "check.command",
}
"""Module of every command; the function in it, of the arguments and a console, is called like the command."""
HELP = {"-h", "--help"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 a mistake to mend, 130 interrupted, 143 terminated (checkpoint written)."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could stand here (docs/shell.md)
        importlib.import_module("lossrag.experiments.config.completion").complete()
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """The exit code of one command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the name of a file may be no text
            stream.reconfigure(errors="backslashreplace")
    with _sigterm_raises(), _threads_quiet() as failed:
        code = _run(arguments)
    return _unwritten(failed[0]) if failed and not code else code


def _run(arguments: list[str]) -> int:
    name, *rest = arguments or ["help"]
    several, leads = os.environ.get("WORLD_SIZE", "1") != "1", os.environ.get("RANK", "0") == "0"
    begun = False
    try:
        command = _command(name, rest, several)
        begun = True
        code = int(command(rest, Console()))
        sys.stdout.flush()
        return code
    except Exception as error:
        text = str(error) if isinstance(error, LossRAGError) else _in_users_file(error)
        if text is not None:
            # the others of several processes meet it alike
            return _mistake(text, quiet=several and not leads)
        if isinstance(error, OSError):
            return _unwritten(error)
        raise
    except exits.Stopped as stopped:
        if leads:
            print(stopped, file=sys.stderr)
        return stopped.code
    except (KeyboardInterrupt, _Terminated) as stopped:
        what, code = exits.SIGNALS[signal.SIGTERM if isinstance(stopped, _Terminated) else signal.SIGINT]
        print(f"{what}." if begun else f"{what} before the command began: there was nothing to save.", file=sys.stderr)
        return code


def _command(name: str, rest: list[str], several: bool) -> Callable[[list[str], Console], int]:
    """What these words ask for, a command or its help."""
    if name in (*HELP, "help"):
        return partial(_print, MAIN_HELP)
    if name == "--version":
        return partial(_print, f"lossrag {__version__}\n")
    if name not in COMMANDS:
        raise ConfigError(f"Unknown command {name!r}: {did_you_mean(name, COMMANDS)}")
    if several and name != "train":
        raise ConfigError(f"torchrun starts lossrag train, not lossrag {name}: run that as one process.")
    if not HELP.isdisjoint(rest) or (not rest and name != "train"):  # train alone has a default
        return partial(_print, COMMANDS_HELP[name])
    command: Callable[[list[str], Console], int]
    command = getattr(importlib.import_module(f"lossrag.experiments.{COMMANDS[name]}"), name)
    return command


def _print(text: str, rest: list[str], console: Console) -> int:
    print(text, end="")
    return 0


class _Terminated(BaseException):
    """SIGTERM arrived where no command answers it."""


def _mistake(text: str, quiet: bool = False) -> int:
    console = Console(stderr=True, quiet=quiet)
    console.print(Text.assemble(("error: ", "bold red"), text), highlight=False, soft_wrap=True)
    return exits.MISTAKE


def _unwritten(error: OSError) -> int:
    """The exit code after a file, or the output, that could not be read or written."""
    try:
        sys.stdout.flush()
    except OSError:
        # what is left of the output would be tried, and told of, once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # no mistake: `lossrag bank list | head`
        return exits.UNREAD
    return _mistake(f"A file cannot be read or written: {error}. Mend that, and give the same command again.")


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within: SIGTERM ends a command as Ctrl-C does, with a word and its files closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def arrived(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, arrived)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _threads_quiet() -> Iterator[list[OSError]]:
    """Within: a thread that cannot write its file, such as that of TensorBoard, prints no traceback; what such threads
    met, which the command may have met as well."""
    failed: list[OSError] = []
    previous = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if isinstance(arguments.exc_value, OSError):
            failed.append(arguments.exc_value)
        else:
            previous(arguments)

    threading.excepthook = hook
    try:
        yield failed
    finally:
        threading.excepthook = previous


def _in_users_file(error: Exception) -> str | None:
    """A mistake in a file of ``library=`` in one line; None for one of ours, of which a traceback says more."""
    place = importlib.import_module("lossrag.experiments.config.library").place_of(error)
    reason = " ".join(str(error).split()) or "it says no more"
    return None if place is None else f"{place}: {type(error).__name__}: {reason:.500}"


if __name__ == "__main__":
    main()
