"""Version of the program that wrote a file: what a newer one wrote is refused, not guessed at."""

from __future__ import annotations

import re
from pathlib import Path

from lossrag import __version__
from lossrag.errors import RunDirectoryError


def refuse_newer(path: Path, written_by: object) -> None:
    """Raise RunDirectoryError where this version wrote ``path``, as the file says, and is newer than this program.

    >>> refuse_newer(Path("summary.json"), "0.0.9")
    >>> refuse_newer(Path("summary.json"), "9.1.0")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lossrag.errors.RunDirectoryError: summary.json was written by LossRAG 9.1.0, which is newer than this one...
    """
    if isinstance(written_by, str) and _numbers(written_by) > _numbers(__version__):
        raise RunDirectoryError(
            f"{path} was written by LossRAG {written_by}, which is newer than this one, {__version__}: use that one "
            "here, or choose another folder with run.root=FOLDER."
        )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d{1,9}", version[:100])[:3]]
