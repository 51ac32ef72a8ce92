"""`lossrag bank`: what is in the library and in a bank, and which losses a task would get."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.bank.files import export, folder_of, open_bank, writable
from lossrag.experiments.bank.query import described, nearest_moments, query, remembered
from lossrag.experiments.bank.validate import validate_bank
from lossrag.experiments.bank.words import curve_figure, in_words, sparkline
from lossrag.experiments.config.library import load_library
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.record.progress import say
from lossrag.files import write_atomic
from lossrag.lossbank import LOSSES, LossBank
from lossrag.lossbank.bank import check, merge
from lossrag.lossbank.experience.history import history
from lossrag.lossbank.experience.leave_one_out import leave_one_out
from lossrag.lossbank.library.contract import TARGET_KINDS

FINDINGS = 1
"""Exit code of a check that has something to tell."""
Values = dict[str, Any]
REFERENCES = {"classification": "cross_entropy", "regression": "squared_error"}


def bank(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag bank` with these arguments, one at least; the exit code."""
    name = arguments[0]
    if name not in COMMANDS:
        raise ConfigError(f"Unknown command 'bank {name}': {did_you_mean(name, COMMANDS)}")
    run, usage, keys, positions = COMMANDS[name]
    given = [argument for argument in arguments[1:] if "=" not in argument]
    values = plain_values([argument for argument in arguments[1:] if "=" in argument], "options")
    if len(given) != positions:
        raise ConfigError(f"bank {name} takes {positions} names, got {len(given)}. Write: lossrag bank {usage}")
    for key in values:
        if keys is not None and key not in (*keys, "library"):
            known = did_you_mean(key, (*keys, "library"))
            raise ConfigError(f"bank {name} has no option {key!r}: {known}")
    files = values.pop("library", [])
    load_library([str(file) for file in files] if isinstance(files, list) else [str(files)])
    return run(given, values, console)


def _list(given: Sequence[str], values: Values, console: Console) -> int:
    known = open_bank(values["bank"]) if "bank" in values else None
    if known:
        say(console, f"{len(known.memory):,} records")
    for kind in TARGET_KINDS:
        losses = [loss for loss in LOSSES.values() if loss.target_kind == kind]
        losses.sort(key=lambda loss: (loss.family, loss.name))
        names = ("records", "mean", "deviation")
        further = [Column(name, justify="right") for name in names] if known else [Column("formula")]
        firm = [Column(name, no_wrap=True) for name in ("loss", "family")]
        table = Table(*firm, *further, title=f"{len(losses)} losses for {kind}")
        past = history(known.memory, [loss.name for loss in losses]) if known else None
        for row, loss in enumerate(losses):
            cells = [loss.formula] if past is None else _past(past.counts[row], past.means[row], past.deviations[row])
            # a formula is no markup, whatever brackets are in it
            table.add_row(loss.name, loss.family, *map(Text, cells))
        console.print(table)
    strangers = [name for name in known.memory.records.losses if name not in LOSSES] if known else []
    if strangers:
        say(console, f"in the bank, but not registered here: {', '.join(strangers)}")
    return 0


def _show(given: Sequence[str], values: Values, console: Console) -> int:
    loss = LOSSES[given[0]]
    lines = [
        f"{loss.name}: {loss.family}, for {loss.target_kind}",
        f"formula     {loss.formula or '(none given)'}",
        f"reference   {loss.reference}",
        f"parameters  {', '.join(f'{key}={value:g}' for key, value in loss.hyperparameters.items()) or 'none'}",
        f"needs       {', '.join(['logits', 'targets', *sorted(loss.needs)])}",
        *(f"{'it          ' if not place else ' ' * 12}{words}" for place, words in enumerate(in_words(loss))),
        f"gradient    {sparkline(loss)}  "
        + ("residual -5 to 5" if loss.target_kind == "regression" else "p of the label 0 to 1"),
    ]
    if "bank" in values:
        known = open_bank(values["bank"])
        tasks: list[str | None] = [None, *known.memory.records.tasks]
        for task in tasks:
            past = history(known.memory, [loss.name], task)
            if task is None or past.counts[0]:
                count, mean, deviation = _past(past.counts[0], past.means[0], past.deviations[0])
                lines.append(f"history     {task or 'all tasks'}: {count} records, mean {mean}, deviation {deviation}")
    if "output" in values:
        target = writable(values["output"])
        try:
            curve_figure(loss, LOSSES[REFERENCES[loss.target_kind]]).savefig(target, dpi=130)
        except (OSError, ValueError) as error:
            raise ConfigError(f"Cannot write output={target}: {error}") from None
        lines.append(f"picture     {target}")
    say(console, "\n".join(lines))
    return 0


def _neighbours(given: Sequence[str], values: Values, console: Console) -> int:
    LOSSES[given[0]]  # names what was meant
    table = Table("loss", "family", Column("cosine", justify="right"), title=f"nearest to {given[0]} by geometry")
    for name, cosine in LossBank.create().neighbours(given[0], _count(values, "k", 5)):
        table.add_row(name, LOSSES[name].family, f"{cosine:.3f}")
    console.print(table)
    return 0


def _query(given: Sequence[str], values: Values, console: Console) -> int:
    rest = dict(values)
    run, task = rest.pop("run", None), rest.pop("task", None)
    k, by = _count(rest, "k", 8), str(rest.pop("by", "knn"))
    rest.pop("k", None)
    folder = rest.pop("bank", None)
    if folder is None and run is None:
        raise ConfigError("bank query asks a bank: add bank=FOLDER, or run=RUN_DIR task=NAME.")
    known = open_bank(folder if folder is not None else run)
    if (run is None) != (task is None) or (run is not None and rest):
        raise ConfigError("bank query takes run=RUN_DIR and task=NAME together, or a description without them.")
    if run is not None:
        context, kind = remembered(known, Path(str(run)), str(task))
    else:
        context, kind = described(known, rest)
    table = Table(title=f"losses for such a {kind}, {len(known.memory):,} records asked")
    table.add_column("loss", no_wrap=True)
    table.add_column("contribution", justify="right", no_wrap=True)
    table.add_column("why")
    for loss, contribution, uncertainty, reason in query(known, context, kind, k, by):
        table.add_row(loss, f"{contribution:+.3f} ± {uncertainty:.3f}", reason)
    console.print(table)
    for name, source, step, similarity in nearest_moments(known, context):
        say(console, f"looked alike ({similarity:.2f}): {name} at step {step} of {source}")
    return 0


def _export(given: Sequence[str], values: Values, console: Console) -> int:
    missing = [key for key in ("bank", "output") if key not in values]
    if missing:
        raise ConfigError(f"bank export needs {missing[0]}=. Write: lossrag bank {COMMANDS['export'][1]}")
    target = writable(values["output"])
    if target.suffix not in (".csv", ".json"):
        raise ConfigError(f"output={target}: name a file that ends in .csv or .json.")
    known = open_bank(values["bank"])
    export(known, target)
    say(console, f"{len(known.memory):,} records written to {target}")
    return 0


def _merge(given: Sequence[str], values: Values, console: Console) -> int:
    if "output" not in values:
        raise ConfigError(f"bank merge needs output=. Write: lossrag bank {COMMANDS['merge'][1]}")
    target = Path(str(values["output"]))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"output={target} exists already: name a new folder, so that no bank is lost.")
    joined = merge(open_bank(given[0]), open_bank(given[1]))
    joined.save(target)
    say(console, f"{len(joined.memory):,} records written to {target}; towers are fitted anew when it is used")
    return 0


def _leave_one_out(given: Sequence[str], values: Values, console: Console) -> int:
    if "bank" not in values:
        raise ConfigError(f"bank leave-one-out needs bank=. Write: lossrag bank {COMMANDS['leave-one-out'][1]}")
    k, by = _count(values, "k", 8), values.get("by", "knn")
    if by not in ("knn", "towers"):
        raise ConfigError(f"by must be knn or towers, got {by!r}.")
    families = values.get("families", ["noise-robust", "imbalance"])
    known = open_bank(values["bank"])
    trials = leave_one_out(known, families, best=_count(values, "best", 3), by=by)
    rank = Column("predicted rank", justify="right")
    table = Table("loss", "task", "run", rank, title="losses hidden from the bank, where each was among the best")
    for trial in trials:
        table.add_row(trial.loss, trial.task, trial.run, f"{trial.rank} of {trial.offered}")
    console.print(table)
    among = sum(trial.rank <= k for trial in trials)
    chance = sum(min(k / trial.offered, 1) for trial in trials) / len(trials)
    share = f"{among} of {len(trials)} ({among / len(trials):.0%})"
    say(console, f"among the {k} retrieved: {share}; by chance {chance:.0%}")
    if "output" in values:
        rows = [vars(trial) | {"k": k, "by": by} for trial in trials]
        write_atomic(writable(values["output"]), json.dumps(rows, indent=1).encode() + b"\n")
    return 0


def _check(given: Sequence[str], values: Values, console: Console) -> int:
    findings = check(folder_of(given[0]))
    say(console, "\n".join(findings) if findings else "all is well")
    return FINDINGS if findings else 0


Command = Callable[[Sequence[str], Values, Console], int]
COMMANDS: Mapping[str, tuple[Command, str, tuple[str, ...] | None, int]] = {
    "list": (_list, "list [bank=FOLDER]", ("bank",), 0),
    "show": (_show, "show LOSS [bank=FOLDER] [output=loss.png]", ("bank", "output"), 1),
    "neighbours": (_neighbours, "neighbours LOSS [k=5]", ("k",), 1),
    "query": (_query, "query bank=FOLDER kind=classification classes=4 disagreement=0.4", None, 0),
    "export": (_export, "export bank=FOLDER output=records.csv", ("bank", "output"), 0),
    "merge": (_merge, "merge FOLDER FOLDER output=FOLDER", ("output",), 2),
    "leave-one-out": (
        _leave_one_out,
        "leave-one-out bank=FOLDER [families=[noise-robust,imbalance]] [best=3] [k=8] [by=knn] [output=trials.json]",
        ("bank", "families", "best", "k", "by", "output"),
        0,
    ),
    "check": (_check, "check FOLDER", (), 1),
    "validate": (
        validate_bank,
        "validate [bank=builtin] [at=0.05] [k=8] [neighbours=20] [output=validation.json]",
        ("bank", "at", "moments", "k", "neighbours", "trouble", "encoder", "progress", "output"),
        0,
    ),
}
"""Function, usage, options (None: whatever the function takes) and number of names of every command."""


def _count(values: Values, key: str, default: int) -> int:
    number = values.get(key, default)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigError(f"{key} must be a whole number from 1 up, got {number!r}.")
    return number


def _past(count: int, mean: float, deviation: float) -> list[str]:
    return [f"{count:,}", f"{mean:+.3f}", f"{deviation:.3f}"] if count else ["0", "-", "-"]
