"""Jobs: `lossrag train` side by side in processes of one thread each; finished runs are not repeated, half ones resume.

A job is known by its resolved configuration, which names its directory, so that any driver can take up where another
one left off.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

import lossrag
from lossrag.errors import RunDirectoryError
from lossrag.experiments.config.compose import load_config
from lossrag.experiments.config.identity import run_id
from lossrag.experiments.config.paths import quoted
from lossrag.experiments.exits import SIGNALS, Stopped
from lossrag.experiments.record.finished import Summary, read_summary

POLL_SECONDS = 0.05
STOP_SECONDS = 60.0
"""Time that a run has to write its checkpoint after SIGTERM."""
WORKER = """
import sys
if sys.path[0] == "":
    del sys.path[0]
sys.path.insert(0, sys.argv.pop(1))
import lossrag
del sys.path[0]
from lossrag.experiments.studies.worker import main
main()
"""
"""The program of a worker. Python puts the current folder before all others, and a user may have a models.py or a
lossrag.py there: it is taken away. The first argument is the folder of the package that runs here."""


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
    """Make ``folder`` and keep it to this process; raises RunDirectoryError when another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise RunDirectoryError(
            f"{folder} is in use by another process: wait for it, or choose another folder with root=FOLDER."
        ) from None
    with lock:
        yield


def run_jobs(jobs: Sequence[Job], processes: int, logs: Path, ended: Ended) -> dict[Job, Summary | None]:
    """Run what is not finished, ``processes`` at a time; the summary of every job, None for one that failed.

    Ctrl-C and SIGTERM stop the runs, which write a checkpoint, and raise Stopped: the same jobs then go on from there.
    """
    with _stop_signals() as asked:
        return _run(jobs, processes, logs, ended, asked)


def _run(
    jobs: Sequence[Job], processes: int, logs: Path, ended: Ended, asked: Sequence[int]
) -> dict[Job, Summary | None]:
    same: dict[Path, list[Job]] = {}
    for job in jobs:
        same.setdefault(job.directory, []).append(job)
    summaries: dict[Job, Summary | None] = {}
    waiting: deque[Job] = deque()

    def settle(job: Job, summary: Summary | None) -> None:
        for twin in same[job.directory]:
            summaries[twin] = summary
            ended(twin, summary)

    for job, *_ in same.values():
        summary = read_summary(job.directory)
        _check(asked)
        if summary is None:
            _await_release(job, asked)
            waiting.append(job)
        else:
            settle(job, summary)
    logs.mkdir(parents=True, exist_ok=True)
    running: dict[Job, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            _check(asked)
            while waiting and len(running) < processes:
                job = waiting.popleft()
                running[job] = _start(job, logs)
            for job in [job for job, process in running.items() if process.poll() is not None]:
                _close(process := running.pop(job))
                settle(job, read_summary(job.directory) if process.returncode == 0 else None)
            time.sleep(POLL_SECONDS)
    finally:
        _stop(list(running.values()))
    return summaries


def why_failed(job: Job, logs: Path) -> str:
    """The last words of a run that failed: its error message, or where to look."""
    path = _log(job, logs)
    text = path.read_text(errors="replace") if path.exists() else ""  # a job of the same directory may have the log
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else f"see {path if path.exists() else logs}"


def _log(job: Job, logs: Path) -> Path:
    return logs / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '_', job.name)}.log"


def _start(job: Job, logs: Path) -> subprocess.Popen[bytes]:
    with _log(job, logs).open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(Path(lossrag.__file__).parents[1]), "train", *job.overrides],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def _await_release(job: Job, asked: Sequence[int]) -> None:
    """A run whose parent was killed may still be writing its last checkpoint."""
    if not job.directory.is_dir():
        return
    try:
        with FileLock(job.directory / ".lock").acquire(timeout=STOP_SECONDS, cancel_check=lambda: bool(asked)):
            pass
    except Timeout:
        _check(asked)
        raise RunDirectoryError(
            f"The run directory {job.directory} is in use by another process: wait for it."
        ) from None


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
