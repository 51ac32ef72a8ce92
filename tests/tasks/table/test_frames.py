"""Frames as tables: the same suite as from a file of the same rows."""

from __future__ import annotations

import numpy as np
import pytest

from lossrag import DataError, load_suite
from lossrag.tasks import SPLITS

ROWS = [{"x": i, "c": "ab"[i % 2], "y": i % 3 if i % 5 else None, "z": i * 0.3} for i in range(60)]
TARGETS = ["y", "z"]


class Frame:
    """As much of a Hugging Face data set as is read."""

    def __init__(self, rows):
        self.rows, self.column_names = rows, list(rows[0])

    def __getitem__(self, name):
        return [row[name] for row in self.rows]

    def __len__(self):
        return len(self.rows)


def same(one, two):
    assert one.tasks == two.tasks
    for split in SPLITS:
        for a, b in zip(one.splits[split], two.splits[split], strict=True):
            assert np.array_equal(a.targets, b.targets, equal_nan=a.targets.is_floating_point())
            assert np.array_equal(a.inputs.values, b.inputs.values)


@pytest.fixture
def from_file(tmp_path):
    path = tmp_path / "t.csv"
    lines = [",".join(ROWS[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in ROWS)]
    path.write_text("\n".join(lines))
    return load_suite("table", data=str(path), targets=TARGETS)


def test_a_data_set(from_file):
    suite = load_suite("table", data=Frame(ROWS), targets=TARGETS)
    same(suite, from_file)
    assert suite.edition.startswith("frame (sha256 ")
    parts = {"train": Frame(ROWS[:40]), "test": Frame(ROWS[40:])}
    assert len(load_suite("table", data=parts, targets=TARGETS).splits["test"][0]) == 20
    with pytest.raises(DataError, match=r"frame, row 8, column 'z': 'much' stands among numbers"):
        load_suite("table", data=Frame([*ROWS[:7], {**ROWS[7], "z": "much"}, *ROWS[8:]]), targets=TARGETS)


def test_hugging_face(from_file):
    datasets = pytest.importorskip("datasets")
    same(load_suite("table", data=datasets.Dataset.from_list(ROWS), targets=TARGETS), from_file)


def test_pandas(from_file):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS)
    same(load_suite("table", data=frame, targets=TARGETS), from_file)
    same(load_suite("table", data=frame.astype({"y": "Int64", "c": "category"}), targets=TARGETS), from_file)
    with pytest.raises(DataError, match="The frame has a column 0"):
        load_suite("table", data=pandas.DataFrame([[1, 2]]), targets=TARGETS)
    with pytest.raises(DataError, match="The frame has no rows"):
        load_suite("table", data=frame[:0], targets=TARGETS)
