"""Picture of a bank: its cases in the plane, by the losses that won there, and a run's tasks among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from lossrag.checks import check_share
from lossrag.errors import ConfigError
from lossrag.experiments.bank.asked import asked_of
from lossrag.experiments.bank.files import told_bank, writable
from lossrag.experiments.config.compose import build
from lossrag.experiments.plotting import SCREEN, write_figure
from lossrag.experiments.record.bank_map import asked_tasks, bank_figure
from lossrag.experiments.record.composition_plot import loss_looks
from lossrag.experiments.record.jsonl import iter_points
from lossrag.experiments.record.progress import say
from lossrag.experiments.record.share_series import ShareSeries
from lossrag.experiments.run.contexts import encoder_kind
from lossrag.files import expanded


@dataclass(frozen=True)
class PictureOptions:
    """bank: a file or ``builtin``, the default but for a run's own. run: a directory, whose tasks are drawn as they
    asked. at: progress at which cases are compared; with a run it is that of its last question. output: an image."""

    bank: str | None = None
    run: str | None = None
    at: float = 0.05
    output: str = "bank.png"

    def __post_init__(self) -> None:
        check_share(self, "at")


def picture(given: Sequence[str], values: Mapping[str, Any], console: Console) -> int:
    """Run `lossrag bank picture` with these options; the exit code."""
    options = build(PictureOptions, values, "picture")
    target = writable(options.output)
    bank = None if options.bank is None else told_bank(options.bank)
    if options.run is None:
        figure = bank_figure(bank or told_bank("builtin"), at=options.at)
    else:
        asked = asked_of(expanded(options.run, "run"))
        tasks = asked_tasks(asked.tasks, encoder_kind(asked.config), asked.contexts)
        looks = loss_looks(ShareSeries.of(iter_points(asked.directory / "metrics.jsonl")))
        figure = bank_figure(asked.bank(bank), tasks, looks)
    if figure is None:
        raise ConfigError("There is nothing to draw: the bank has no cases, or none for such targets.")
    try:
        write_figure(figure, target, dpi=SCREEN)
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot write output={target}: {error}") from None
    say(console, f"picture     {target}")
    return 0
