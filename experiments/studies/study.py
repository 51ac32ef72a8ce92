"""Study: the runs of a plan from the check of their settings to their summaries, shown as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from statistics import mean

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lossrag.checks import check_least
from lossrag.experiments.record.finished import Summary
from lossrag.experiments.record.progress import say
from lossrag.experiments.studies.jobs import Job, claimed, make_job, run_jobs, task_of, why_failed
from lossrag.experiments.studies.launchers.base import Launcher
from lossrag.experiments.studies.launchers.opening import opened
from lossrag.experiments.studies.launchers.options import LauncherOptions
from lossrag.experiments.studies.plan import Plan, Run, label
from lossrag.experiments.studies.states import States
from lossrag.proof import write_proven

Summaries = dict[Run, Summary | None]
"""By run: what it left, None when it failed."""
SCORES = {"tuning": ("validation", "validation_score_mean"), "test": ("test", "test_score_mean")}
"""By phase of a study: the split that counts, and its mean score in a summary."""


@dataclass(frozen=True)
class StudyOptions:
    """processes: runs side by side, each with one thread; None for two, and on a cluster for what it takes. launcher:
    where they go (docs/many-runs.md). library: Python files of one's own, which all of them run."""

    processes: int | None = None
    launcher: LauncherOptions = field(default_factory=LauncherOptions)
    library: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_least(self, 1, "processes")


class Study:
    """The runs of a plan in the plan's folder, by the launcher of the options."""

    def __init__(self, plan: Plan, options: StudyOptions, console: Console) -> None:
        self.plan, self.options, self.console = plan, options, console
        self.logs = plan.folder / "logs"
        self.failed: list[Job] = []
        trials = plan.tuning.runs if plan.tuning is not None else 0
        rows = [(suite, row) for suite in plan.suites for row in plan.rows]
        self.states = States(self.logs)
        self.progress = Progress(console, rows, trials, len(plan.seeds), self.states.line)
        self.launcher: Launcher | None = None
        self.content = plan.content()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep the folder to this process, open the launcher and show the progress; raises RunDirectoryError when
        another one has the folder."""
        with claimed(self.plan.folder), self._opened() as self.launcher, self.progress.shown():
            yield

    def _opened(self) -> AbstractContextManager[Launcher]:
        return opened(self.options.launcher, self.options.processes, self.logs)

    def shown(self, jobs: Mapping[Run, Job]) -> bool:
        """True for launcher.dry_run=true, which shows what these jobs would be, and runs nothing."""
        if not self.options.launcher.dry_run:
            return False
        with self._opened() as launcher:
            for job in jobs.values():
                print(launcher.script(task_of(job, self.logs)))
        return True

    def jobs(self, runs: Sequence[Run]) -> dict[Run, Job]:
        """The job of every run; raises ConfigError for a mistake in one, so that it shows before anything runs."""
        return {run: make_job(run.name, self.plan.command(run), self.plan.folder) for run in runs}

    def run(self, jobs: Mapping[Run, Job], phase: str = "test") -> Summaries:
        """Do what is not finished; the summaries of all."""
        runs = {job: run for run, job in jobs.items()}
        assert self.launcher is not None
        summaries = run_jobs(
            list(runs),
            self.launcher,
            self.logs,
            lambda job, summary: self.progress.ended(runs[job], phase, summary),
            self.states,
        )
        self.failed += [job for job in runs if summaries[job] is None]
        return {run: summaries[job] for run, job in jobs.items()}

    def end(self, texts: Mapping[str, str], tables: Sequence[Table]) -> int:
        """Write the files and show the tables; the exit code, 1 when a run failed."""
        write_proven(self.plan.folder, {name: text.encode() for name, text in texts.items()})
        for table in tables:
            self.console.print(table)
        self.say(f"written to {self.plan.folder}: {', '.join(texts)}")
        if self.plan.content() != self.content:
            self.say(f"{self.plan.source} has changed since: these are the results of the plan as it was at the start.")
        for job in self.failed:
            self.say(f"failed: {job.name}: {why_failed(job, self.logs)}")
        return 1 if self.failed else 0

    def say(self, line: str) -> None:
        """Print a line of its own, above the live table."""
        say(self.console, line)


class Progress:
    """Finished of all runs, and the mean score so far, of every row: a live table on a terminal, a line for each run
    elsewhere.

    rows: by suite and name. trials, tests: how many tuning runs and how many others each has. standing: a line on what
    runs where.
    """

    def __init__(
        self,
        console: Console,
        rows: Sequence[tuple[str, str]],
        trials: int,
        tests: int,
        standing: Callable[[], str] = lambda: "",
    ) -> None:
        self._standing = standing
        self._console = console
        self._number = {phase: number for phase, number in (("tuning", trials), ("test", tests)) if number}
        self._scores: dict[tuple[str, str], dict[str, list[float | None]]] = {
            row: {phase: [] for phase in self._number} for row in rows
        }
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=4, transient=True)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the live table up, if there is a terminal."""
        if self._console.is_terminal:
            self._live.start()
        try:
            yield
        finally:
            self._live.stop()

    def ended(self, run: Run, phase: str, summary: Summary | None) -> None:
        """A run of this phase, ``tuning`` or ``test``; without a summary it failed."""
        split, key = SCORES[phase]
        row, score = (run.suite, run.row), None if summary is None else float(summary[key])
        self._scores[row][phase].append(score)
        if self._console.is_terminal:
            return  # its table is drawn anew in any case
        text = "failed" if score is None else f"{split} {score:.4f}"
        what = ["/".join(filter(None, row)), *([label(run.setting)] if run.setting else []), f"seed {run.seed}"]
        say(self._console, f"{phase} {', '.join(what)}: {text}  ({self._state(row, phase)})")

    def _state(self, row: tuple[str, str], phase: str) -> str:
        scores = self._scores[row][phase]
        finished = [score for score in scores if score is not None]
        text = f"{len(finished)} of {self._number[phase]}"
        if failed := len(scores) - len(finished):
            text += f", failed: {failed}"
        return f"{text}, mean {mean(finished):.4f}" if finished and phase == "test" else text

    def _table(self) -> Table:
        table = Table("suite", "row", *self._number, title="runs so far", caption=self._standing() or None)
        for row in self._scores:
            table.add_row(*row, *(self._state(row, phase) for phase in self._number))
        return table
