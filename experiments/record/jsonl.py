"""Points of a run, metrics.jsonl: every logged point as one line of JSON, the record that no viewer can lose."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lossrag.errors import CheckpointError


class JsonLines:
    """Appends points to a file; ``offset`` bytes of an earlier session are kept, later ones dropped.

    Raises CheckpointError when the file has fewer.
    """

    def __init__(self, path: Path, offset: int) -> None:
        size = path.stat().st_size if path.exists() else 0
        if size < offset:
            raise CheckpointError(
                f"{path} has {size} bytes, but its checkpoint continues it from byte {offset}: restore it, or delete "
                f"{path.parent / 'checkpoints'} to start the run over."
            )
        self._file = open(path, "ab")  # noqa: SIM115 - closed by close()
        self._file.truncate(offset)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line {"step": step, ...}."""
        self._file.write(json.dumps({"step": step, **values}).encode() + b"\n")

    def sync(self) -> int:
        """Force everything to disk; the size of the file, which a checkpoint remembers."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        self._file.close()


class Unwritten(JsonLines):
    """Points of a process that writes none."""

    def __init__(self) -> None:
        """No file."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Nothing."""

    def sync(self) -> int:
        """0."""
        return 0

    def close(self) -> None:
        """Nothing."""


def read_points(path: Path) -> list[dict[str, Any]]:
    """All points of a metrics.jsonl, oldest first."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]
