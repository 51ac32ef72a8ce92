"""What the terminal shows while a run goes on: a live bar with the task weights, or plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.series import Values
from tasks import Task

LINE_SECONDS = 2.0
"""At most one plain line in so many seconds, and one for the last epoch."""


class RunProgress:
    """Progress over ``epochs`` epochs of ``steps`` steps."""

    def __init__(self, console: Console, tasks: Sequence[Task], epochs: int, steps: int, done: int) -> None:
        self._console = console
        self._tasks = tasks
        self._epochs = epochs
        self._last_line = 0.0
        self._shown = ""
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[weights]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("train", total=epochs * steps, completed=done, epoch=1, weights="")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, epoch: int, done: int, values: Values | None) -> None:
        """After ``done`` steps of the whole run; ``values`` when this step was logged."""
        if values is not None:
            self._shown = self._weights(values)
        self._bar.update(self._task, completed=done, epoch=epoch, weights=self._shown)

    def epoch(self, epoch: int, values: Values, best: bool) -> None:
        """After an epoch: a line with its validation score and the weights."""
        now = time.monotonic()
        quiet = self._console.is_terminal or now - self._last_line >= LINE_SECONDS
        if not (quiet or best or epoch == self._epochs):
            return
        self._last_line = now
        support = [values[f"support/loss/{task.name}"] for task in self._tasks]
        mark = " *" if best else ""
        self._console.print(
            f"epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}  support loss {sum(support) / len(support):.3f}  "
            f"validation {values['validation/score_mean']:.4f}{mark}  {self._weights(values)}",
            highlight=False,
            soft_wrap=True,
        )

    def _weights(self, values: Values) -> str:
        shown = [f"{task.name} {values[f'weight/{task.name}']:.2f}" for task in self._tasks[:6]]
        return "w " + " ".join(shown) + (" ..." if len(self._tasks) > len(shown) else "")
