"""Arrays of .npy files: what is there is read, and nothing more is asked of the machine."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from lossrag import DataError
from lossrag.tasks.files.arrays import read_array


def header(shape, dtype="<f4"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.zeros((0, 4)), np.asfortranarray(np.eye(3, 2))])
def test_what_was_saved(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(read_array(tmp_path / "a.npy"), array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        header((10**6, 10**6)),
        header((10**30,)),
        header((-1, 5)),
        header("'x'"),
        header((2,), "O") + pickle.dumps([print]),
        header((1,), "S9999999999"),
        pickle.dumps(np.ones(3)),
        b"PK\x03\x04" + bytes(50),
    ],
)
def test_headers_that_say_more_than_there_is_and_other_files(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match="as a NumPy array"):
        read_array(tmp_path / "a.npy")


def test_archives_and_pipes(tmp_path):
    np.savez(tmp_path / "a.npz", np.ones(2))
    with pytest.raises(DataError, match="it is an archive"):
        read_array(tmp_path / "a.npz")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(DataError, match="a named pipe, no file"):
        read_array(tmp_path / "pipe.npy")
