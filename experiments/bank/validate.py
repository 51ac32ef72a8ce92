"""`lossrag bank validate`: what a bank's choices gain on sources that it has never seen."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from lossrag.errors import ConfigError
from lossrag.experiments.bank.files import told_bank, writable
from lossrag.experiments.config.compose import build
from lossrag.experiments.record.progress import say
from lossrag.files import write_atomic
from lossrag.lossbank.experience.bank import Retrieval
from lossrag.lossbank.experience.coordinates import Likeness
from lossrag.lossbank.experience.hidden import found_by_family, hidden_losses
from lossrag.lossbank.experience.trials import Experience
from lossrag.lossbank.experience.validation import BANKS, NEAREST, Estimate, Validation, ValidationOptions, validate
from lossrag.lossbank.library.contract import TARGET_KINDS

FEWEST = 10
"""Hidden losses of a family and trouble below which their share is not printed."""
_USUAL = Retrieval()
Report = dict[str, Any]


@dataclass(frozen=True)
class ValidateOptions:
    """bank: a file, or ``builtin``. at: progress at which cases ask; moments: further ones, of the curve. k: candidates
    of the rows "best of k". neighbours, trainings, trouble, encoder, progress: as in :class:`Retrieval` and
    :class:`Likeness`. output: a .json file."""

    bank: str = "builtin"
    at: float = 0.05
    moments: list[float] = field(default_factory=lambda: [0.001, 0.02, 0.05, 0.15])
    k: int = 8
    neighbours: int = _USUAL.neighbours
    trainings: int = _USUAL.trainings
    trouble: float = _USUAL.likeness.trouble
    encoder: float = _USUAL.likeness.encoder
    progress: float = _USUAL.likeness.progress
    output: str | None = None

    def validation(self, kind: str) -> ValidationOptions:
        """Of the cases of a target kind, answered as a bank does."""
        likeness = Likeness(trouble=self.trouble, encoder=self.encoder, progress=self.progress)
        return ValidationOptions(self.at, self.k, kind, retrieval=Retrieval(self.neighbours, self.trainings, likeness))


def validate_bank(given: Sequence[str], values: Mapping[str, Any], console: Console) -> int:
    """Run `lossrag bank validate` with these options; the exit code."""
    options = build(ValidateOptions, values, "validate")
    target = None if options.output is None else writable(options.output)
    if target is not None and target.suffix != ".json":
        raise ConfigError(f"output={target}: name a file that ends in .json.")
    bank = told_bank(options.bank)
    report = {kind: validation_report(bank.experience, options, kind) for kind in TARGET_KINDS}
    report = {kind: own for kind, own in report.items() if own["all"]["cases"]}
    if not report:
        raise ConfigError(
            "No case can be answered without its own source: that takes trials of registered losses from two sources "
            "of one target kind."
        )
    for kind, own in report.items():
        _show(kind, own, options, console)
    if target is not None:
        write_atomic(target, json.dumps({"options": asdict(options), **report}, indent=1).encode() + b"\n")
        say(console, f"written to {target}")
    return 0


def validation_report(experience: Experience, options: ValidateOptions, kind: str) -> Report:
    """The figures of one target kind: by bank (as it is asked, within each encoder, without it), the curve over the
    moment of the question, and hidden losses. JSON-able, shares of 1."""
    usual = options.validation(kind)
    report: Report = {bank: _of(validate(experience, replace(usual, bank=bank))) for bank in BANKS}
    curve = {}
    for at in options.moments if report["all"]["cases"] else ():
        asked = validate(experience, replace(usual, at=at))
        curve[f"{at:g}"] = {"all": _plain(asked.rows()[NEAREST])} | {
            encoder: _plain(asked.rows(asked.encoders == encoder)[NEAREST]) for encoder in _kinds(asked.encoders)
        }
    report["moments"] = curve
    report["hidden"] = [
        {"family": family, "trouble": trouble, **asdict(found)}
        for (family, trouble), found in found_by_family(hidden_losses(experience, usual)).items()
    ]
    return report


def _of(result: Validation) -> Report:
    groups: Report = {"cases": len(result.cases), "harmed": _known(result.harmed())}
    groups["everything"] = _group(result, np.ones(len(result.cases), np.bool_))
    for name in ("source", "encoder", "trouble"):
        texts: NDArray[np.str_] = getattr(result, f"{name}s")
        groups[f"by_{name}"] = {text: _group(result, texts == text) for text in _kinds(texts)}
    return groups


def _group(result: Validation, where: NDArray[np.bool_]) -> Report:
    return {
        "rows": {row: _plain(estimate) for row, estimate in result.rows(where).items()},
        "differences": {f"{a} - {b}": _plain(estimate) for (a, b), estimate in result.differences(where).items()},
    }


def _plain(estimate: Estimate) -> Report:
    return {"mean": estimate.mean, "half": _known(estimate.half), "cases": estimate.cases}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _kinds(texts: NDArray[np.str_]) -> list[str]:
    return sorted(set(texts.tolist()))


def _show(kind: str, report: Report, options: ValidateOptions, console: Console) -> None:
    asked = f"{report['all']['cases']:,} cases, asked at {options.at:g} of the steps"
    _print(f"{kind}, sources never seen: points over the reference; {asked}", report["all"], "by_trouble", console)
    _print(f"{kind}: as a bank answers, by the encoder that asks", report["all"], "by_encoder", console)
    for bank, words in (("within", "from cases with the same encoder alone"), ("without", "without that encoder")):
        if report[bank]["cases"] and len(report["all"]["by_encoder"]) > 1:
            _print(f"{kind}: {words}, by the encoder that asks", report[bank], "by_encoder", console)
    say(console, f"the nearest harm by more than a point in {report['all']['harmed']:.1%} of the cases")
    curve = [f"{at}: {_points(row['all'])}" for at, row in report["moments"].items()]
    say(console, f"the nearest by the moment of the question: {', '.join(curve)}")
    table = Table("family", "trouble", title=f"{kind}: losses hidden with their twins, where they were among the best")
    for name in ("trials", f"among the {options.k}", "not hidden", "by chance"):
        table.add_column(name, justify="right")
    for row in (row for row in report["hidden"] if row["trials"] >= FEWEST):
        shares = [f"{row[name]:.0%}" for name in ("hidden", "open", "chance")]
        table.add_row(*map(escape, (row["family"], row["trouble"] or "all")), str(row["trials"]), *shares)
    console.print(table)


def _print(title: str, report: Report, by: str, console: Console) -> None:
    """In as many tables as the width of the console asks for."""
    columns = {"all": report["everything"], **report[by]}
    names, room = list(columns), max((console.width - 40) // 16, 1)
    for first in range(0, len(names), room):
        shown = names[first : first + room]
        figures = (Column(escape(name), justify="right", no_wrap=True) for name in shown)
        table = Table(Column("choice", min_width=31), *figures, title=title)
        for part in ("rows", "differences"):
            for row in report["everything"][part]:
                table.add_row(row, *(_points(columns[name][part][row]) for name in shown))
            table.add_section()
        console.print(table)


def _points(row: Report) -> str:
    half = row["half"]
    return f"{100 * row['mean']:+.2f}" + ("" if half is None else f" ± {100 * half:.2f}")
