"""Local launcher: a pool of processes on this machine, one thread each."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import lossrag
from lossrag.experiments.studies.launchers.base import Standing, Task

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

Process = subprocess.Popen[bytes]


def start_worker(task: Task) -> Process:
    """A process of a task, which goes with this one."""
    with task.log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(Path(lossrag.__file__).parents[1]), *task.command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def stop_workers(processes: Sequence[Process]) -> None:
    """Tell them to stop, and end those that have not after ``STOP_SECONDS``."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        close_worker(process)


def close_worker(process: Process) -> None:
    """Close the pipe to a process that has ended."""
    assert process.stdin is not None
    process.stdin.close()


class LocalLauncher:
    """Processes that this one starts, ``slots`` at a time."""

    requeues = False

    def __init__(self, slots: int) -> None:
        self.slots: int | None = slots

    def submit(self, task: Task) -> Process:
        """Start its process."""
        return start_worker(task)

    def poll(self, handle: Process) -> Standing:
        """Running, or ended."""
        if handle.poll() is None:
            return Standing("running", platform.node())
        close_worker(handle)
        return Standing("ended", platform.node(), handle.returncode)

    def cancel(self, handles: Sequence[Process]) -> None:
        """SIGTERM, and SIGKILL after a minute."""
        stop_workers(handles)

    def script(self, task: Task) -> str:
        """The command line."""
        return shlex.join(["lossrag", *task.command])

    def close(self) -> None:
        """Nothing to leave."""
