"""Upkeep of banks: checked, merged, and their trials exported as a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console

from lossrag.errors import BankError, ConfigError
from lossrag.experiments.bank.files import own_bank, told_bank, writable
from lossrag.experiments.record.progress import say
from lossrag.experiments.studies.results import csv_text
from lossrag.files import write_atomic
from lossrag.lossbank import LOSSES
from lossrag.lossbank.experience.bank import Retrieval
from lossrag.lossbank.experience.files import add_experience
from lossrag.lossbank.experience.trials import Case, Experience

FINDINGS = 1
"""Exit code of a check that found something."""
COLUMNS = (*(field.name for field in fields(Case)), "loss", "gain", "error", "repeats")


def check(given: Sequence[str], values: Mapping[str, Any], console: Console) -> int:
    """Run `lossrag bank check FILE`; the exit code, 1 when there is something to know."""
    try:
        known = told_bank(given[0]).experience
    except BankError as error:
        say(console, str(error))
        return FINDINGS
    told = findings(known)
    say(console, f"{len(known):,} cases, {len(known.moment_case):,} moments, {len(known.gain):,} trials")
    say(console, "\n".join(told) if told else "all is well")
    return FINDINGS if told else 0


def findings(known: Experience) -> list[str]:
    """What to know about an experience that can be read, a sentence each."""
    if not len(known):
        return ["It knows nothing: no loss would be retrieved from it."]
    told = []
    strangers = sorted(name for name in known.names["loss"] if name not in LOSSES)
    if strangers:
        told.append(f"Not registered here, so not offered: {', '.join(strangers)}. library=[FILE] registers your own.")
    pairs = list(zip(known.texts("target_kind").tolist(), known.texts("encoder").tolist(), strict=True))
    for (kind, encoder), count in sorted(Counter(pairs).items()):
        if count < Retrieval.neighbours:
            fewer = f"fewer than the {Retrieval.neighbours} that answer"
            told.append(f"{count} cases of {kind} have the encoder {encoder}, {fewer}.")
    for kind in sorted({kind for kind, _ in pairs}):
        sources = sorted(set(known.texts("source")[known.texts("target_kind") == kind].tolist()))
        if len(sources) == 1:
            told.append(f"All cases of {kind} come from {sources[0]}: without that source nothing is known.")
    unsure = int((~known.columns["clean"].astype(bool)).sum())
    if unsure:
        told.append(f"{unsure} cases were scored on labels that may be wrong.")
    return told


def merge(given: Sequence[str], values: Mapping[str, Any], console: Console) -> int:
    """Run `lossrag bank merge FILE FILE output=FILE`; the exit code."""
    if "output" not in values:
        raise ConfigError("bank merge needs output=. Write: lossrag bank merge FILE FILE output=FILE")
    target = own_bank(values["output"], "output")
    if target.exists():
        raise ConfigError(f"output={target} exists already: name a new file, so that no bank is lost.")
    first, second = (told_bank(name).experience for name in given)
    joined = first.joined(second)
    # should another program have made the file by now, it gets these cases besides its own
    total = len(add_experience(target, joined))
    twice = len(first) + len(second) - len(joined)
    say(console, f"{target} remembers {total:,} cases" + (f"; {twice:,} were in both" if twice else ""))
    return 0


def export(given: Sequence[str], values: Mapping[str, Any], console: Console) -> int:
    """Run `lossrag bank export bank=FILE output=trials.csv`; the exit code."""
    for key in ("bank", "output"):
        if key not in values:
            raise ConfigError(f"bank export needs {key}=. Write: lossrag bank export bank=FILE output=trials.csv")
    target = writable(values["output"])
    if target.suffix != ".csv":
        raise ConfigError(f"output={target}: name a file that ends in .csv.")
    known = told_bank(values["bank"]).experience
    try:
        write_atomic(target, trials_csv(known).encode())
    except OSError as error:
        raise ConfigError(f"Cannot write output={target}: {error}") from None
    say(console, f"{len(known.gain):,} trials written to {target}")
    return 0


def trials_csv(known: Experience) -> str:
    """A line a trial: its case, the loss, what it gained over the reference, the error of that and the repeats."""
    cases = [[_text(value) for value in asdict(known.case(number)).values()] for number in range(len(known))]
    columns = (known.outcome_case, known.outcome_loss, known.gain, known.error, known.repeats)
    rows = [
        [*cases[case], known.names["loss"][loss], _text(gain), _text(error), repeats]
        for case, loss, gain, error, repeats in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return csv_text(COLUMNS, rows)


def _text(value: object) -> object:
    """A number as short as a float32 is precise, and nothing for what is no number."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.7g}"
    return value
