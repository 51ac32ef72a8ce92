"""Terminal of a command, or cell of a notebook: lines for people, and the progress of a run, a live bar or plain lines
where nothing can be redrawn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lossrag.experiments.record.series import Values
from lossrag.tasks import Task

LINE_SECONDS = 2.0
"""At most one plain line in so many seconds, and one for the first and the last epoch."""

SHOWN_TASKS = 6
"""Task weights that fit on one line."""


def say(console: Console, text: str) -> None:
    """Print the text as it stands: no colours, no markup, no lines broken."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class RunProgress:
    """Progress over ``epochs`` epochs of ``steps`` steps."""

    def __init__(self, console: Console, tasks: Sequence[Task], epochs: int, steps: int, done: int) -> None:
        self._console, self._tasks, self._epochs = console, tasks, epochs
        self._last_line = 0.0
        self._shown = ""
        # in a notebook rich draws a bar with ipywidgets, and warns where they are not there
        live = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[weights]}"),
            console=console,
            disable=not live,
            transient=True,
        )
        self._task = self._bar.add_task("train", total=epochs * steps, completed=done, epoch=1, weights="")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, epoch: int, done: int, values: Values | None) -> None:
        """After ``done`` steps of the whole run; ``values`` when this step was logged."""
        if values is not None:
            self._shown = self._named([values[f"weight/{task.name}"] for task in self._tasks])
        self._bar.update(self._task, completed=done, epoch=epoch, weights=self._shown)

    def epoch(self, epoch: int, loss: float, score: float, weights: Sequence[float], best: bool) -> None:
        """After an epoch: its mean support loss, its mean validation score and its mean task weights."""
        now = time.monotonic()
        due = self._console.is_terminal or now - self._last_line >= LINE_SECONDS
        if not due and epoch not in (1, self._epochs):
            return
        self._last_line = now
        say(
            self._console,
            f"epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}  support loss {loss:.3f}  "
            f"mean validation score {score:.4f}{' *' if best else '  '}  {self._named(weights)}",
        )

    def _named(self, weights: Sequence[float]) -> str:
        pairs = zip(self._tasks[:SHOWN_TASKS], weights, strict=False)
        more = " ..." if len(self._tasks) > SHOWN_TASKS else ""
        return "w " + " ".join(f"{task.name} {weight:.2f}" for task, weight in pairs) + more
