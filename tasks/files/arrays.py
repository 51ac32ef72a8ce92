"""Arrays of NumPy's .npy files, read within the bounds of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossrag.errors import DataError
from lossrag.files import GIB, check_file

MAGIC = b"\x93NUMPY"
MOST = 64 * GIB
"""Bytes of a file."""


def read_array(path: Path) -> NDArray[Any]:
    """The array in a .npy file; raises DataError for anything else. A header that says more than there is fails before
    memory is asked for, and nothing is executed."""
    try:
        check_file(path, MOST)
        with path.open("rb") as file:
            begin = file.read(len(MAGIC))
        if begin != MAGIC:
            raise ValueError("it is an archive" if begin.startswith(b"PK") else "it does not begin like one")
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError) as error:
        raise DataError(f"Cannot read {path} as a NumPy array: {error}.") from None
