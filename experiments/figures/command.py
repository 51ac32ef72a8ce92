"""`lossrag figures`: the counterparts of the paper's figures from finished runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from lossrag.checks import one_of
from lossrag.errors import ConfigError
from lossrag.experiments.config.compose import build
from lossrag.experiments.config.overrides import plain_values
from lossrag.experiments.figures.accuracy import draw_accuracy
from lossrag.experiments.figures.evolution import draw_weights
from lossrag.experiments.figures.gaps import draw_gaps
from lossrag.experiments.figures.sweeps import draw_sweep
from lossrag.experiments.plotting import Drawing, Skipped, save
from lossrag.experiments.record.finished import FinishedRun, is_begun, load_runs, run_directories
from lossrag.experiments.record.progress import say
from lossrag.files import expanded

NAMES = ("gaps", "accuracy", "rho", "alpha", "weights")


@dataclass(frozen=True)
class FigureOptions:
    """runs: run directories. root: a folder with run directories at any depth. output: where the figures go.

    only: some of :data:`NAMES`. epochs: those of the radar charts.
    """

    runs: list[str] | None = None
    root: str | None = None
    output: str = "figures"
    only: list[str] | None = None
    epochs: list[int] | None = None

    def __post_init__(self) -> None:
        if not self.runs and self.root is None:
            raise ConfigError("lossrag figures needs runs: say root=FOLDER, e.g. root=runs, or runs=[DIR,...].")
        for name in self.only or ():
            one_of("only", name, NAMES)


def figures(arguments: Sequence[str], console: Console) -> int:
    """Run `lossrag figures` with these arguments; the exit code, 0 also when figures were skipped, each with a line."""
    options: FigureOptions = build(FigureOptions, plain_values(arguments), "figures")
    directories = [expanded(run, "runs") for run in options.runs or ()]
    tuning = 0
    if options.root is not None:
        below, tuning = run_directories(expanded(options.root, "root"))
        directories += below
    runs, unfinished = load_runs(directories)
    if tuning:
        say(console, f"left out: {tuning} runs by which a comparison chose its settings")
    for path in unfinished:
        state = "is not finished; the command that started it resumes it" if is_begun(path) else "was never begun"
        say(console, f"left out: {path} {state}")
    if not runs:
        raise ConfigError("None of these runs is finished: wait for them, or resume them with the same commands.")
    for drawing in _drawings(runs, options):
        if isinstance(drawing, Skipped):
            say(console, f"skipped {drawing.name}: {drawing.reason}")
            continue
        png, _ = save(drawing.figure, expanded(options.output, "output"), drawing.name)
        say(console, f"{png}, .pdf")
        for note in drawing.notes:
            say(console, f"  {note}")
    return 0


def _drawings(runs: list[FinishedRun], options: FigureOptions) -> list[Drawing | Skipped]:
    draw: dict[str, Callable[[list[FinishedRun]], Sequence[Drawing | Skipped]]] = {
        "gaps": partial(draw_gaps, epochs=options.epochs),
        "accuracy": draw_accuracy,
        "rho": partial(draw_sweep, "rho"),
        "alpha": partial(draw_sweep, "alpha"),
        "weights": draw_weights,
    }
    return [drawing for name in NAMES if not options.only or name in options.only for drawing in draw[name](runs)]
