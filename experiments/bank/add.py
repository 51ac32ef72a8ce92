"""`lossrag bank add`: the trials of a finished run, beside its paired reference run, for a bank of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from lossrag.errors import ConfigError
from lossrag.experiments.bank.files import own_bank
from lossrag.experiments.bank.trials import trials_of
from lossrag.experiments.config.compose import build
from lossrag.experiments.record.finished import load_runs
from lossrag.experiments.record.progress import say
from lossrag.files import expanded
from lossrag.lossbank.experience.files import add_experience
from lossrag.lossbank.experience.trials import Experience


@dataclass(frozen=True)
class AddOptions:
    """run, reference: directories of finished runs that differ in losses alone; the reference recorded contexts.

    trouble: what is wrong with labels that the runs did not corrupt themselves, if anybody knows. clean: the labels of
    the test split are known to be right.
    """

    run: str
    reference: str
    bank: str
    trouble: str = "unknown"
    clean: bool = True


def add(given: Sequence[str], values: Mapping[str, Any], console: Console) -> int:
    """Run `lossrag bank add` with these options; the exit code."""
    for key in ("run", "reference", "bank"):
        if key not in values:
            raise ConfigError(f"bank add needs {key}=. Write: lossrag bank add run=DIR reference=DIR bank=FILE")
    options = build(AddOptions, values, "bank add")
    bank = own_bank(options.bank, "bank")
    pair = [expanded(options.reference, "reference"), expanded(options.run, "run")]
    runs, unfinished = load_runs(pair)
    for path in unfinished:
        raise ConfigError(f"{path} has not finished: the command that started it resumes it.")
    if len(runs) < len(pair):
        raise ConfigError(f"{pair[1]} and {pair[0]} are the same run: a trial needs one that had other losses.")
    records = trials_of(runs, options.trouble, options.clean)
    if not records:
        raise ConfigError(
            f"{pair[1]} and {pair[0]} tell nothing: a trial is a task that the first trained with one loss (not a "
            "composition), and the second with the reference of its kind, cross_entropy or squared_error, with a score "
            "of which more is better, such as r2."
        )
    total = len(add_experience(bank, Experience.of(records)))
    for record in records:
        ((loss, outcome),) = record.outcomes.items()
        say(console, f"{record.case.task}: {loss} {outcome.gain:+.4f} {record.case.metric}")
    say(console, f"{bank} remembers {total:,} cases")
    return 0
