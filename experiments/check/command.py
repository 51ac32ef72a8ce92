"""`lossrag check`: which files of runs, banks and caches are as they were written, and what becomes of the others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from lossrag.errors import ConfigError, RunDirectoryError
from lossrag.experiments.check.findings import Checked, check_run, check_tables, check_tensor_file
from lossrag.experiments.check.repair import KEPT, repair_run
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.library import load_library
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.record.progress import say
from lossrag.proof import SUMS

FINDINGS = 1
"""Exit code of a check that found damage, and of a repair that left some."""


@dataclass(frozen=True)
class CheckOptions:
    """root: a folder with runs, banks, tables and caches at any depth. repair: rebuild what can be rebuilt; library:
    Python files of one's own that its runs were trained with."""

    root: str | None = None
    repair: bool = False
    library: list[str] = field(default_factory=list)


def check(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag check` with these arguments; the exit code, 1 where anything is damaged."""
    given = [argument for argument in arguments if "=" not in argument or Path(argument).exists()]
    options = build(CheckOptions, plain_values([own for own in arguments if own not in given]), "check")
    load_library(options.library)
    places = [_place(Path(name)) for name in given]
    if options.root is not None:
        below = list(_below(Path(options.root)))
        if not below:
            raise ConfigError(f"There is nothing to check in root={options.root}: no run, no bank, no {SUMS}.")
        places += below
    if not places:
        raise ConfigError("lossrag check needs runs or banks: lossrag check DIR ..., or root=FOLDER.")
    damaged = 0
    for path in dict.fromkeys(places):
        checked = _checked(path)
        _tell(checked, console)
        if options.repair and checked.run and checked.findings:
            checked, told = repair_run(checked)
            for line in told:
                say(console, f"  not rebuilt  {line}")
            say(console, f"  after the repair: {_state(checked)}")
        damaged += bool(checked.damage)
    if len(places) > 1:
        say(console, f"{len(places) - damaged:,} of {len(places):,} are whole")
    return FINDINGS if damaged else 0


def _place(path: Path) -> Path:
    if not path.exists():
        raise RunDirectoryError(f"{path} is not there: name a run directory, a bank or a folder of tables.")
    if path.is_dir() and not (path / "config.yaml").exists() and not (path / SUMS).exists():
        raise ConfigError(f"{path} is neither a run nor a folder of tables. For all that is in it say root={path}")
    return path


def _below(root: Path) -> Iterator[Path]:
    """Run directories, folders with sums, and tensor files that belong to no run; links are not followed."""
    for name, folders, files in os.walk(root):
        folder = Path(name)
        folders.sort()
        if "config.yaml" in files:
            yield folder
            folders[:] = [own for own in folders if own not in ("checkpoints", "tensorboard", KEPT)]
            continue
        if SUMS in files:
            yield folder
        # those of other programs, and exported models, are called so, and carry no proof
        own = (file for file in sorted(files) if file.endswith(".safetensors") and not file.startswith("model"))
        yield from (folder / file for file in own)


def _checked(path: Path) -> Checked:
    if not path.is_dir():
        return check_tensor_file(path)
    return check_run(path) if (path / "config.yaml").exists() else check_tables(path)


def _tell(checked: Checked, console: Console) -> None:
    say(console, f"{checked.path}: {_state(checked)}")
    for finding in checked.findings:
        say(console, f"  {finding}")


def _state(checked: Checked) -> str:
    count = f"{checked.files:,} file{'s' if checked.files != 1 else ''}"
    if checked.damage:
        return f"{len(checked.damage):,} of {count} damaged or missing"
    return f"{count}, whole" + (", but not all proven" if checked.findings else "")
