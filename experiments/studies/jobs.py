"""Jobs: `lossrag train` side by side, wherever a launcher puts them; finished runs are not repeated, half ones resume.

A job is known by its resolved configuration, which names its directory, so that any driver can take up where another
one left off.
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from lossrag.errors import LeaseHeldError, RunDirectoryError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import run_id
from lossrag.experiments.config.paths import quoted
from lossrag.experiments.exits import INTERRUPTED, SIGNALS, TERMINATED, Stopped
from lossrag.experiments.record.directory import LEASE
from lossrag.experiments.record.finished import Summary, read_summary
from lossrag.experiments.studies.launchers.base import Launcher, Standing, Task
from lossrag.experiments.studies.launchers.local import STOP_SECONDS
from lossrag.experiments.studies.states import States
from lossrag.leases import Lease

POLL_SECONDS = 0.05
ATTEMPTS = 5
"""Times that a run is started again after its node was lost or it was preempted."""


@dataclass(frozen=True)
class Job:
    """A run: the name of its log, the overrides of `lossrag train`, and its directory, which its settings name."""

    name: str
    overrides: tuple[str, ...]
    directory: Path


Ended = Callable[[Job, Summary | None], None]
"""Callback for every job that ended, with its summary, or None when it failed."""


def make_job(name: str, overrides: Sequence[str], root: Path) -> Job:
    """The run of these overrides under ``root``; raises ConfigError for a mistake in them, so that it shows early."""
    every = (*overrides, f"run.root={quoted(str(root))}")
    return Job(name, every, root / run_id(load_config(every)[1]))


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make ``folder`` and keep it to this process; raises RunDirectoryError when another one has it, and when it cannot
    be written."""
    lease = Lease(folder / LEASE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lease.acquire()
    except LeaseHeldError as held:
        raise RunDirectoryError(
            f"{folder} is in use by another process, {held}: wait for it, or choose another folder with root=FOLDER."
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"{folder} cannot be written ({error.strerror}): choose another one.") from None
    try:
        yield
    finally:
        lease.release()


def run_jobs(
    jobs: Sequence[Job], launcher: Launcher, logs: Path, ended: Ended, states: States
) -> dict[Job, Summary | None]:
    """Run what is not finished; the summary of every job, None for one that failed.

    Ctrl-C and SIGTERM stop the runs, which write a checkpoint, and raise Stopped: the same jobs then go on from there.
    """
    with _stop_signals() as asked:
        return _run(jobs, launcher, logs, ended, states, asked)


def _run(
    jobs: Sequence[Job], launcher: Launcher, logs: Path, ended: Ended, states: States, asked: Sequence[int]
) -> dict[Job, Summary | None]:
    same: dict[Path, list[Job]] = {}
    for job in jobs:
        same.setdefault(job.directory, []).append(job)
    summaries: dict[Job, Summary | None] = {}
    waiting: list[Job] = []

    def settle(job: Job, summary: Summary | None, where: str = "", why: str = "") -> None:
        states.tell(job.name, Standing("failed" if summary is None else "finished", where, why=why))
        for twin in same[job.directory]:
            summaries[twin] = summary
            ended(twin, summary)

    for job, *_ in same.values():
        summary = read_summary(job.directory)
        _check(asked)
        if summary is not None:
            settle(job, summary)
            continue
        if not launcher.requeues:  # remote workers wait themselves
            _await_release(job, asked)
        waiting.append(job)
    tasks = {task_of(job, logs): job for job in waiting}
    for task, standing in _run_tasks(list(tasks), launcher, states, asked):
        job = tasks[task]
        summary = read_summary(job.directory) if standing.code == 0 else None
        settle(job, summary, standing.where, "" if summary else standing.why or why_failed(job, logs))
    return summaries


def run_tasks(tasks: Sequence[Task], launcher: Launcher, states: States) -> Iterator[tuple[Task, Standing]]:
    """Run tasks, each as it ends with its exit code, or as lost; raises Stopped as :func:`run_jobs`."""
    with _stop_signals() as asked:
        yield from _run_tasks(tasks, launcher, states, asked)


def _run_tasks(
    tasks: Sequence[Task], launcher: Launcher, states: States, asked: Sequence[int]
) -> Iterator[tuple[Task, Standing]]:
    waiting, attempts = deque(tasks), Counter[Task]()
    running: dict[Task, Any] = {}
    for task in tasks:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        states.tell(task.name, Standing("waiting"))
    try:
        while waiting or running:
            _check(asked)
            while waiting and (launcher.slots is None or len(running) < launcher.slots):
                task = waiting.popleft()
                running[task] = launcher.submit(task)
            for task, handle in list(running.items()):
                standing = launcher.poll(handle)
                if standing.phase in ("waiting", "running"):
                    states.tell(task.name, standing)
                    continue
                del running[task]
                gone = standing.phase == "lost" or standing.code in (TERMINATED, INTERRUPTED)
                if gone and launcher.requeues and attempts[task] < ATTEMPTS:
                    attempts[task] += 1
                    why = standing.why or "preempted"
                    states.tell(task.name, Standing("waiting", standing.where, why=why), loud=True)
                    waiting.append(task)
                else:
                    yield task, standing
            time.sleep(POLL_SECONDS)
    finally:
        launcher.cancel(list(running.values()))


def task_of(job: Job, logs: Path) -> Task:
    """What a launcher gets for a job."""
    return Task(job.name, ("train", *job.overrides), _log(job, logs), job.directory)


def why_failed(job: Job, logs: Path) -> str:
    """The last words of a run that failed: its error message, or where to look."""
    path = _log(job, logs)
    text = path.read_text(errors="replace") if path.exists() else ""  # a job of the same directory may have the log
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else f"see {path if path.exists() else logs}"


def _log(job: Job, logs: Path) -> Path:
    return logs / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '_', job.name)}.log"


def _await_release(job: Job, asked: Sequence[int]) -> None:
    """A run whose parent was killed may still be writing its last checkpoint."""
    if not job.directory.is_dir():
        return
    try:
        lease, until = Lease(job.directory / LEASE), time.monotonic() + STOP_SECONDS
        while True:
            _check(asked)
            try:
                lease.acquire()
                break
            except LeaseHeldError:
                if time.monotonic() >= until:
                    raise
                time.sleep(POLL_SECONDS)
        lease.release()
    except LeaseHeldError as held:
        raise RunDirectoryError(f"The run directory {job.directory} is in use by {held}: wait for it.") from None


def _check(asked: Sequence[int]) -> None:
    """Raise Stopped where a signal has arrived."""
    if asked:
        what, code = SIGNALS[signal.Signals(asked[0])]
        raise Stopped(f"{what}; the same command goes on from here.", code)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Within: the stop signals that have arrived. They interrupt nothing, so that every process that was started is
    known, and waited for."""
    asked: list[int] = []

    def arrived(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    previous = {number: signal.signal(number, arrived) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
