"""Launcher: the few things that every engine does for the runs of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Task:
    """A `lossrag` command line: its name in tables, its arguments, its log, and the folder that it keeps to itself."""

    name: str
    command: tuple[str, ...]
    log: Path
    folder: Path


@dataclass(frozen=True)
class Standing:
    """What is known of a task: ``phase`` is waiting, running, ended (with an exit ``code``) or lost.

    where: the machine. why: it was lost, or failed.
    """

    phase: str
    where: str = ""
    code: int | None = None
    why: str = ""


class Launcher(Protocol):
    """An engine that runs tasks.

    slots: how many at once, None where the engine has a queue of its own. requeues: a task that was told to stop,
    though not from here, was preempted, and is submitted again.
    """

    slots: int | None
    requeues: bool

    def submit(self, task: Task) -> Any:
        """Hand a task over; what to ask for it by."""

    def poll(self, handle: Any) -> Standing:
        """How it stands."""

    def cancel(self, handles: Sequence[Any]) -> None:
        """Tell these to stop, and wait until they have written their checkpoints, or time is up."""

    def script(self, task: Task) -> str:
        """What would be submitted for it, word for word."""

    def close(self) -> None:
        """Leave the engine."""
