"""`lossrag bank`: what is in the library and in a bank, and which losses a task would get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from lossrag.errors import ConfigError, did_you_mean
from lossrag.experiments.bank.add import add
from lossrag.experiments.bank.collect.command import collect
from lossrag.experiments.bank.files import told_bank, writable
from lossrag.experiments.bank.picture import picture
from lossrag.experiments.bank.query import losses_of, neighbour_lines, of_description, of_run
from lossrag.experiments.bank.upkeep import check, export, merge
from lossrag.experiments.bank.validate import validate_bank
from lossrag.experiments.bank.words import curve_figure, in_words, sparkline
from lossrag.experiments.config.library import library_files, load_library
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.config.schema import LossConfig
from lossrag.experiments.plotting import SCREEN, write_figure
from lossrag.experiments.record.progress import say
from lossrag.experiments.record.summary import share_text
from lossrag.experiments.studies.launchers.options import with_launcher
from lossrag.files import expanded
from lossrag.lossbank import LOSSES, LossBank, alike
from lossrag.lossbank.experience.snapshots import REFERENCES
from lossrag.lossbank.library.contract import TARGET_KINDS

Values = dict[str, Any]
NEAREST = 5
"""Cases that a query names."""


def bank(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag bank` with these arguments, one at least; the exit code."""
    name = arguments[0]
    if name not in COMMANDS:
        raise ConfigError(f"Unknown command 'bank {name}': {did_you_mean(name, COMMANDS)}")
    run, usage, keys, positions = COMMANDS[name]
    given = [argument for argument in arguments[1:] if "=" not in argument]
    values = plain_values(with_launcher([argument for argument in arguments[1:] if "=" in argument]), "options")
    if len(given) != positions:
        names = "1 name" if positions == 1 else f"{positions or 'no'} names"
        raise ConfigError(f"bank {name} takes {names}, got {len(given)}. Write: lossrag bank {usage}")
    for key in values:
        if keys is not None and key not in (*keys, "library"):
            known = did_you_mean(key, (*keys, "library"))
            raise ConfigError(f"bank {name} has no option {key!r}: {known}")
    library = library_files(values.get("library", []))
    load_library(library)
    values["library"] = library
    if name != "collect":  # whose processes run them, too
        del values["library"]
    return run(given, values, console)


def _list(given: Sequence[str], values: Values, console: Console) -> int:
    known = told_bank(values["bank"]) if "bank" in values else None
    if known:
        experience = known.experience
        say(console, f"{len(experience):,} cases, {len(experience.gain):,} trials; from {', '.join(known.sources)}")
    for kind in TARGET_KINDS:
        losses = [loss for loss in LOSSES.values() if loss.target_kind == kind]
        losses.sort(key=lambda loss: (loss.family, loss.name))
        names = ("trials", "mean gain", "deviation")
        further = [Column(name, justify="right") for name in names] if known else [Column("formula")]
        firm = [Column(name, no_wrap=True) for name in ("loss", "family")]
        table = Table(*firm, *further, title=f"{len(losses)} losses for {kind}")
        for loss in losses:
            cells = [loss.formula] if known is None else _past(_gains(known, loss.name))
            # a formula is no markup, whatever brackets are in it
            table.add_row(loss.name, loss.family, *map(Text, cells))
        console.print(table)
    strangers = [name for name in known.experience.names["loss"] if name not in LOSSES] if known else []
    if strangers:
        say(console, f"in the bank, but not registered here, so not offered: {', '.join(sorted(strangers))}")
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
        known = told_bank(values["bank"])
        for trouble in [None, *sorted(set(known.experience.texts("trouble").tolist()))]:
            gains = _gains(known, loss.name, trouble)
            if trouble is None or len(gains):
                count, mean, deviation = _past(gains)
                what = f"{count} trials, mean gain {mean}, deviation {deviation}"
                lines.append(f"experience  {trouble or 'all tasks'}: {what}")
    if "output" in values:
        target = writable(values["output"])
        try:
            write_figure(curve_figure(loss, LOSSES[REFERENCES[loss.target_kind]]), target, dpi=SCREEN)
        except (OSError, ValueError) as error:
            raise ConfigError(f"Cannot write output={target}: {error}") from None
        lines.append(f"picture     {target}")
    say(console, "\n".join(lines))
    return 0


def _neighbours(given: Sequence[str], values: Values, console: Console) -> int:
    table = Table("loss", "family", Column("cosine", justify="right"), title=f"nearest to {given[0]} by geometry")
    for name, cosine in alike(given[0], _count(values, "k", 5)):
        table.add_row(name, LOSSES[name].family, f"{cosine:.3f}")
    console.print(table)
    return 0


def _query(given: Sequence[str], values: Values, console: Console) -> int:
    rest = dict(values)
    run, task, step = rest.pop("run", None), rest.pop("task", None), rest.pop("step", None)
    k = _count(rest, "k", LossConfig.k)
    rest.pop("k", None)
    bank = told_bank(rest.pop("bank")) if "bank" in rest else None
    if (run is None) != (task is None) or (run is not None and rest) or (run is None and step is not None):
        raise ConfigError("bank query takes run=RUN_DIR and task=NAME (and step=N), or a description without them.")
    if run is not None:
        at = None if step is None else _count(values, "step", 0, least=0)
        told = of_run(expanded(str(run), "run"), str(task), bank, at)
    else:
        told = of_description(bank or told_bank("builtin"), rest, LossConfig(policy="retrieval", k=k))
    names = ("gain in points", "trials", "share")
    table = Table(
        Column("loss", no_wrap=True), *(Column(name, justify="right") for name in names), title=escape(told.title)
    )
    for name in losses_of(told, k):
        gain, share = told.gains.get(name), told.shares.get(name)
        known = [str(gain), str(gain.trials)] if gain else ["", ""]
        table.add_row(name, *known, "" if share is None else share_text(share))
    console.print(table)
    say(console, told.reason)
    for line in neighbour_lines(told.answer, NEAREST):
        say(console, line)
    return 0


COLLECT = ("parts", "shard", "root", "processes", "launcher")
Command = Callable[[Sequence[str], Values, Console], int]
COMMANDS: Mapping[str, tuple[Command, str, tuple[str, ...] | None, int]] = {
    "list": (_list, "list [bank=FILE]", ("bank",), 0),
    "show": (_show, "show LOSS [bank=FILE] [output=loss.png]", ("bank", "output"), 1),
    "neighbours": (_neighbours, "neighbours LOSS [k=5]", ("k",), 1),
    "query": (_query, "query run=RUN_DIR task=NAME, or query kind=classification classes=4 disagreement=0.4", None, 0),
    "add": (
        add,
        "add run=DIR reference=DIR bank=FILE [trouble=unknown] [clean=true]",
        ("run", "reference", "bank", "trouble", "clean"),
        0,
    ),
    "collect": (collect, "collect PLAN [parts=[NAME]] [root=FOLDER] [processes=2] [launcher=local]", COLLECT, 1),
    "check": (check, "check FILE", (), 1),
    "merge": (merge, "merge FILE FILE output=FILE", ("output",), 2),
    "export": (export, "export bank=FILE output=trials.csv", ("bank", "output"), 0),
    "picture": (
        picture,
        "picture [bank=builtin] [run=RUN_DIR] [at=0.05] [output=bank.png]",
        ("bank", "run", "at", "output"),
        0,
    ),
    "validate": (
        validate_bank,
        "validate [bank=builtin] [at=0.05] [k=8] [neighbours=20] [output=validation.json]",
        ("bank", "at", "moments", "k", "neighbours", "trouble", "encoder", "progress", "output"),
        0,
    ),
}
"""Function, usage, options (None: whatever the function takes) and number of names of every command."""


def _count(values: Values, key: str, default: int, least: int = 1) -> int:
    number = values.get(key, default)
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ConfigError(f"{key} must be a whole number from {least} up, got {number!r}.")
    return number


def _gains(bank: LossBank, loss: str, trouble: str | None = None) -> NDArray[np.float32]:
    """Gains (n,) of a loss in all cases, or in those of a trouble."""
    experience = bank.experience
    place = dict(zip(experience.names["loss"], range(len(experience.names["loss"])), strict=True)).get(loss, -1)
    own = experience.outcome_loss == place
    if trouble is not None:
        own &= (experience.texts("trouble") == trouble)[experience.outcome_case]
    gains: NDArray[np.float32] = experience.gain[own]
    return gains


def _past(gains: NDArray[np.float32]) -> list[str]:
    if not len(gains):
        return ["0", "-", "-"]
    return [f"{len(gains):,}", f"{100 * gains.mean():+.1f}", f"{100 * gains.std():.1f}"]
