"""Remote worker: a task on whatever machine an engine has for it, and a file that tells where it is and how it ended.

The file lies beside the task's log, in a folder that the machines share: who asks reads it as plain JSON, whatever the
engine is.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from lossrag.errors import LeaseHeldError
from lossrag.experiments.record.directory import LEASE
from lossrag.experiments.studies.launchers.base import Standing, Task
from lossrag.experiments.studies.launchers.local import Process, start_worker, stop_workers
from lossrag.files import write_atomic
from lossrag.leases import leased

POLL_SECONDS = 0.1


def standing_path(task: Task) -> Path:
    """The file that tells about a task."""
    return task.log.with_suffix(".json")


def read_standing(task: Task) -> Standing | None:
    """What that file says, None where there is none that can be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(standing_path(task).read_text(encoding="utf-8"))
        code = told["code"]
        if isinstance(told["where"], str) and (code is None or isinstance(code, int)):
            return Standing("running" if code is None else "ended", told["where"], code)
    return None


class RemoteWorker:
    """A task in the hands of an engine. Called, it runs the task to its end; told to stop, it lets it write its
    checkpoint."""

    def __init__(self, task: Task, cwd: str) -> None:
        self.task, self.cwd = task, cwd
        self._process: Process | None = None

    def __call__(self, place: str = "") -> int:
        """The exit code. place: the engine's name for where this is."""
        if os.getcwd() != self.cwd:
            os.chdir(self.cwd)
        where = f"{platform.node()} {place}".strip()
        self._tell(where, None)
        self._wait()
        process = self._process = start_worker(self.task)
        try:
            # no waitpid that blocks: a signal of the engine is answered in between
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
        finally:
            self.stop()
        self._tell(where, process.returncode)
        return process.returncode

    def stop(self) -> None:
        """Let the task end, with a checkpoint where it is not at its end."""
        if self._process is not None:
            stop_workers([self._process])

    def _wait(self) -> None:
        """A run that an engine has given up may still be writing, and one of another driver may still be at it."""
        told = False
        while (self.task.folder / LEASE).exists():
            try:
                with leased(self.task.folder / LEASE):
                    return
            except LeaseHeldError as held:
                if not told:
                    told = True
                    with self.task.log.open("a") as log:
                        log.write(f"waiting for {held}, which is at {self.task.folder}\n")
                time.sleep(POLL_SECONDS)

    def _tell(self, where: str, code: int | None) -> None:
        write_atomic(standing_path(self.task), json.dumps({"where": where, "code": code}).encode())
