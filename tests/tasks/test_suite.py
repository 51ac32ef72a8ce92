from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossrag import DataError
from lossrag.tasks.suite import SPLITS, DenseInputs, Examples, Suite, Task, TokenInputs, pool_query

ROWS = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=8)


def tokens(rows, min_length=8) -> TokenInputs:
    offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
    return TokenInputs(torch.tensor([i for row in rows for i in row], dtype=torch.int64), offsets, min_length)


@given(ROWS, st.data(), st.integers(1, 9))
def test_gather_pads_every_row_on_the_right(rows, data, min_length):
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    batch = tokens(rows, min_length).gather(torch.tensor(index, dtype=torch.int64))
    width = max([min_length, *(len(rows[i]) for i in index)])
    assert batch.tolist() == [rows[i] + [0] * (width - len(rows[i])) for i in index]
    assert batch.shape == (len(index), width)


def test_lengths_and_dense_gather():
    assert tokens([[1], [], [2, 3]]).lengths.tolist() == [1, 0, 2]
    dense = DenseInputs(torch.arange(6.0).view(3, 2))
    assert dense.lengths is None
    assert dense.gather(torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [0.0, 1.0]]


def suite(targets, **missing) -> Suite:
    def examples(split):
        values = missing.get(split, targets)
        return (Examples(DenseInputs(torch.zeros(len(values), 2)), torch.tensor(values, dtype=torch.int64)),)

    task = Task("t", "classification", 2, ("yes", "no"))
    return Suite("s", "made up", (task,), True, {split: examples(split) for split in SPLITS})


def test_task_without_samples_or_class_is_refused():
    assert suite([0, 1]).task_names == ("t",)
    with pytest.raises(DataError, match=r"task 't' has no samples in the query split"):
        suite([0, 1], query=[])
    with pytest.raises(DataError, match=r"no sample of class no in the validation split: enlarge that split"):
        suite([0, 1], validation=[0])


def test_rows_without_a_label_are_no_class():
    assert suite([0, -100, 1]).splits["test"][0].targets.tolist() == [0, -100, 1]
    with pytest.raises(DataError, match=r"no sample of class no in the query split"):
        suite([0, 1], query=[0, -100])
    with pytest.raises(DataError, match=r"has 2 samples in the test split, but a label for none of them"):
        suite([0, 1], test=[-100, -100])
    with pytest.raises(DataError, match=r"has the class 2 in the test split, but its classes go from 0 to 1"):
        suite([0, 1], test=[0, 1, 2])
    with pytest.raises(DataError, match=r"has the class -1 in the support split"):
        suite([0, 1], support=[0, 1, -1])


def test_a_regression_without_a_value_is_refused():
    def examples(values):
        return (Examples(DenseInputs(torch.zeros(2, 2)), torch.tensor(values)),)

    some = dict.fromkeys(SPLITS, examples([[1.0, 2.0], [float("nan"), 2.0]]))
    task = Task("t", "regression", 2)
    Suite("s", "made up", (task,), True, some)
    none = examples([[1.0, float("nan")], [float("nan"), 2.0]])
    with pytest.raises(DataError, match=r"task 't' has 2 samples in the validation split, but a label for none"):
        Suite("s", "made up", (task,), True, {**some, "validation": none})


def test_pool_query_joins_shared_inputs_once():
    pooled = pool_query(suite([0, 1], query=[1, 0, 1]))
    assert pooled.splits["support"][0].targets.tolist() == [0, 1, 1, 0, 1]
    assert len(pooled.splits["support"][0].inputs) == 5
    assert len(pooled.splits["query"][0]) == 3


def test_pool_query_joins_token_inputs():
    rows = [[1, 2], [3]], [[4], [5, 6]]
    examples = {split: (Examples(tokens(rows[split == "query"]), torch.tensor([0, 1])),) for split in SPLITS}
    task = Task("t", "classification", 2)
    pooled = pool_query(Suite("s", "made up", (task,), False, examples)).splits["support"][0].inputs
    assert pooled.gather(torch.arange(4))[:, :2].tolist() == [[1, 2], [3, 0], [4, 0], [5, 6]]
