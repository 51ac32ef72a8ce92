"""`lossrag report RUN... | root=FOLDER`: finished runs as one HTML file that needs no network."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.record.finished import run_directories
from lossrag.experiments.record.progress import say
from lossrag.experiments.report.groups import problems_of
from lossrag.experiments.report.page import html
from lossrag.experiments.report.plans import plans_below
from lossrag.experiments.report.reading import LeftOut, ReportedRun, read_run, unique
from lossrag.experiments.trained.predictions import check_suffix, write_result

SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class ReportOptions:
    """root: a folder with run directories at any depth. output: the file to write."""

    root: str | None = None
    output: str = "report.html"


def report(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag report` with these arguments; the exit code, 0 also when runs were left out, each with a line."""
    given = [argument for argument in arguments if _is_path(argument)]
    options = build(ReportOptions, plain_values([own for own in arguments if own not in given]), "report")
    output = Path(options.output).expanduser()
    check_suffix(output, SUFFIXES)
    if not given and options.root is None:
        raise ConfigError("lossrag report needs runs: lossrag report RUN_DIR ..., or root=FOLDER, e.g. root=runs")
    paths = list(dict.fromkeys(Path(own).expanduser() for own in given))
    runs, left_out, notes = _read(paths, options.root)
    if not runs:
        raise ConfigError("There is no finished run to report on: " + "; ".join(map(_line, left_out)))
    references: list[str] = []
    if options.root is not None:
        plans, damaged = plans_below(Path(options.root).expanduser())
        runs, references = plans.told(runs), plans.references
        left_out += damaged
    problems = problems_of(runs, references)
    page = html(problems, left_out, notes, arguments)
    write_result(output, page.encode("utf-8", "backslashreplace"))
    for text in [*notes, *(f"left out: {_line(own)}" for own in left_out)]:
        say(console, text)
    for run in runs:
        for note in run.notes:
            say(console, note if str(run.run.path) in note else f"{run.run.path}: {note}")
    groups = sum(len(problem.groups) for problem in problems)
    say(console, f"{output}: {len(runs)} runs in {groups} groups, {len(page) / 1e6:.1f} MB")
    return 0


def _is_path(argument: str) -> bool:
    """A run directory, whatever is in its name."""
    return "=" not in argument or ("/" in argument.partition("=")[0] and Path(argument).expanduser().exists())


def _line(own: LeftOut) -> str:
    return f"{own.path}: {own.reason}".encode("utf-8", "backslashreplace").decode()


def _read(paths: list[Path], root: str | None) -> tuple[list[ReportedRun], list[LeftOut], list[str]]:
    """Runs, what is left out, and what to say of the folder."""
    notes = []
    if root is not None:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"root={root} must be a folder that holds run directories, e.g. root=runs")
        try:
            below, tuning = run_directories(folder)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"root={root} cannot be searched, a tuning.csv in it or a folder: {error}") from None
        paths = list(dict.fromkeys([*paths, *below]))
        if tuning:
            notes.append(f"Not shown: {tuning} runs by which a comparison chose its settings.")
    read = [read_run(path) for path in paths]
    runs, again = unique([own for own in read if isinstance(own, ReportedRun)])
    return runs, [*(own for own in read if isinstance(own, LeftOut)), *again], notes
