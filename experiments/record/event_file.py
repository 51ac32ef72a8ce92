"""Event file of a TensorBoard run, written at once.

SummaryWriter hands its events to a thread per file, which prints a traceback when the disk is full, and writes them two
minutes later. A run of T tasks has T + 1 files: they are written here, in the library's own format.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """A new file in ``folder``; of the files that are there, TensorBoard drops the points from step ``purge`` on.

    Every method but :meth:`close` raises OSError when it cannot write.
    """

    def __init__(self, folder: Path, purge: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        earlier = any(folder.glob("events.*"))
        # read in the order of their names, so these tell microseconds
        self.path = folder / f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self.path, "xb")  # noqa: SIM115 - closed by close()
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), step=purge if earlier else 0, file_version="brain.Event:2"))
        if earlier:
            started = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=purge, session_log=started))

    def add(self, summary: Any, step: int) -> None:
        """A summary of one step."""
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def check(self) -> None:
        """Raise FileNotFoundError when somebody has deleted the file: what is written is lost."""
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} was deleted while it was written")

    def close(self) -> None:
        """Give the file back; what was added is in it."""
        self._file.close()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()
