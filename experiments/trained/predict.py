"""`lossrag predict run=DIR data=FILE`: what a finished run says about other rows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from lossrag.experiments.record.progress import say
from lossrag.experiments.trained.options import DataOptions, opened, parsed
from lossrag.experiments.trained.predictions import SUFFIXES, check_suffix
from lossrag.files import expanded

SHOWN = 3
"""Rows that are printed."""


def predict(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag predict` with these arguments; the exit code."""
    options = parsed(DataOptions, arguments, "predict")
    output = expanded(options.output or "predictions.csv", "output")
    check_suffix(output, SUFFIXES)
    run, machine = opened(options, console, options.device)
    predictions = run.predict(expanded(options.data, "data"), options.delimiter, options.encoding)
    predictions.save(output)
    say(console, f"{run.path}, epoch {run.description.epoch}, on {options.data}: {len(predictions):,} rows, {machine}")
    for note in predictions.notes:
        say(console, f"  {note}")
    for number, row in zip(range(1, SHOWN + 1), predictions.rows, strict=False):
        cells = ", ".join(f"{name} {_shown(cell)}" for name, cell in row.items() if cell is not None)
        say(console, f"row {number}: {cells}")
    say(console, f"predictions   {output}")
    return 0


def _shown(cell: str | float) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else cell
