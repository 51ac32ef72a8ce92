"""Points of a run, metrics.jsonl: every logged point as one line of JSON, the record that no viewer can lose."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lossrag.errors import CheckpointError, RunDirectoryError
from lossrag.experiments.record.descent import CONCLUSION, PREMISE
from lossrag.experiments.record.series import D_TAG
from lossrag.files import check_target
from lossrag.proof import Chain, DamagedFile, iter_lines
from lossrag.schema import COUNT, SHARE, Unfit, check_schema


class JsonLines:
    """Appends points to a file; ``offset`` bytes of an earlier session are kept, later ones dropped.

    Raises CheckpointError, and drops nothing, when the file has fewer, or they are damaged.
    """

    def __init__(self, path: Path, offset: int) -> None:
        size = path.stat().st_size if path.exists() else 0
        anew = f"restore it, or delete {path.parent / 'checkpoints'} to start the run over."
        if size < offset:
            raise CheckpointError(
                f"{path} has {size} bytes, but its checkpoint continues it from byte {offset}: {anew}"
            )
        try:
            self._chain = Chain()
            for _ in iter_lines(path, self._chain, offset) if offset else ():
                pass
        except DamagedFile as reason:
            raise CheckpointError(f"{path} is damaged, {reason}: {anew}") from None
        check_target(path)
        self._file = open(path, "ab")  # noqa: SIM115 - closed by close()
        self._file.truncate(offset)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line {"step": step, ..., "chain": its proof}."""
        self._file.write(self._chain.line({"step": step, **values}))

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


def iter_points(path: Path, ended: bool = False) -> Iterator[dict[str, Any]]:
    """The points of a metrics.jsonl, oldest first, without a last line that a kill tore; of a run that has ``ended``
    that is damage, too. One at a time: those of a long run fill the memory.

    Raises RunDirectoryError, with the line, where it comes to what is damaged.
    """
    try:
        for number, point in enumerate(iter_lines(path, Chain(), ended=ended), start=1):
            _check(point, number)
            yield point
    except (OSError, DamagedFile) as reason:
        raise RunDirectoryError(f"{path} is damaged, {reason}: restore it, or leave its run out.") from None


def read_points(path: Path, ended: bool = False) -> list[dict[str, Any]]:
    """All of them (:func:`iter_points`)."""
    return list(iter_points(path, ended))


POINT = {
    "step": COUNT,
    "epoch?": COUNT,
    f"{D_TAG}?": [[float]],
    **dict.fromkeys((f"{PREMISE}?", f"{CONCLUSION}?"), SHARE),
}
"""What a point holds; everything else in it is a number."""


def _check(point: dict[str, Any], number: int) -> None:
    try:
        check_schema(point, POINT)
        for tag, value in point.items():
            if type(value) is not float and tag != D_TAG:
                check_schema(value, float, tag)
        matrix = point.get(D_TAG, [])
        if len({len(row) for row in matrix}) > 1:
            raise Unfit(f"{D_TAG} must be a matrix, not lists of several lengths")
        if (PREMISE in point) != (CONCLUSION in point):
            raise Unfit(f"{PREMISE} and {CONCLUSION} must both be there, or none")
    except Unfit as reason:
        raise DamagedFile(f"line {number}: {reason}") from None
