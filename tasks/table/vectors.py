"""Vectors from .npy files as the inputs of a table's rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lossrag.errors import DataError
from lossrag.files import expanded
from lossrag.tasks.files.arrays import read_array
from lossrag.tasks.suite import DenseInputs
from lossrag.tasks.table.settings import parse_files


def read_vectors(given: object, part: Sequence[str]) -> DenseInputs:
    """The rows' inputs (N, F): a .npy file for all of them, or one for each part; ``part`` (N,) says which a row is of.

    Raises DataError for files that cannot be read or do not fit the rows.
    """
    files = parse_files("tasks.vectors_file", given)
    arrays = []
    for name, path in files.items():
        array = read_array(expanded(path, "vectors_file"))
        rows = part.count(name)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.number):
            raise DataError(
                f"{path} holds {array.dtype} {array.shape}, not numbers (rows, width): one row for each of the table."
            )
        if len(array) != rows:
            raise DataError(f"{path} has {len(array):,} rows, but the table has {rows:,} of {name}: give each one.")
        bad = np.flatnonzero(~np.isfinite(array.astype(np.float32)).all(axis=1))
        if len(bad):
            raise DataError(f"{path}, row {bad[0] + 1}: a value is no finite number.")
        arrays.append(array.astype(np.float32))
    if len({array.shape[1] for array in arrays}) > 1 or sum(map(len, arrays)) != len(part):
        raise DataError("tasks.vectors_file and tasks.data do not name the same rows: give a file for each part.")
    return DenseInputs(torch.from_numpy(np.concatenate(arrays)))
