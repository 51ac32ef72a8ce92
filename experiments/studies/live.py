"""What a comparison shows while it runs: a live table on a terminal, a line for each run elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

Row = tuple[str, str]
"""Suite and method."""


class LiveTable:
    """Finished of all runs, and the mean score so far, of every method; tuning and test runs apart.

    runs: how many test runs a method has. trials: how many tuning runs.
    """

    def __init__(self, console: Console, rows: Sequence[Row], trials: int, runs: int) -> None:
        self._console = console
        self._all = {"tuning": trials, "test": runs}
        self._scores: dict[Row, dict[str, list[float | None]]] = {row: {"tuning": [], "test": []} for row in rows}
        self._live = Live(self._table(), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def ended(self, row: Row, phase: str, what: str, summary: Mapping[str, Any] | None) -> None:
        """A run of this phase, ``tuning`` or ``test``; without a summary it failed."""
        key = "validation_score_mean" if phase == "tuning" else "test_score_mean"
        self._scores[row][phase].append(None if summary is None else float(summary[key]))
        if self._console.is_terminal:
            self._live.update(self._table())
            return
        name = "validation" if phase == "tuning" else "test"
        text = "failed" if summary is None else f"{name} {float(summary[key]):.4f}"
        self.say(f"{phase} {'/'.join(row)}, {what}: {text}  ({self._progress(row, phase)})")

    def say(self, line: str) -> None:
        """A line of its own, above the table."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _progress(self, row: Row, phase: str) -> str:
        scores = self._scores[row][phase]
        finished = [score for score in scores if score is not None]
        failed = len(scores) - len(finished)
        text = f"{len(finished)} of {self._all[phase]}"
        if failed:
            text += f", failed: {failed}"
        return f"{text}, mean {mean(finished):.4f}" if finished and phase == "test" else text

    def _table(self) -> Table:
        table = Table(title="runs so far")
        phases = [phase for phase, number in self._all.items() if number]
        for column in ("suite", "method", *phases):
            table.add_column(column)
        for row in self._scores:
            table.add_row(*row, *(self._progress(row, phase) for phase in phases))
        return table
