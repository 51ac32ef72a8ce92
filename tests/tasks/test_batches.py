from __future__ import annotations

from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag import ConfigError
from lossrag.tasks.batches import epoch_plan, ordered_batches, query_index
from lossrag.tasks.suite import SPLITS, DenseInputs, Examples, Suite, Task, TokenInputs

SIZES = st.lists(st.integers(2, 60), min_size=1, max_size=4)


def suite(sizes, shared=False, seed=0) -> Suite:
    """Token inputs of random lengths, or one dense input that all tasks share."""
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for size in [max(sizes)] * len(sizes) if shared else sizes:
        lengths = torch.randint(0, 30, (size,), generator=generator)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        tokens = TokenInputs(torch.ones(int(offsets[-1]), dtype=torch.int64), offsets)
        columns.append(Examples(DenseInputs(torch.zeros(size, 3)) if shared else tokens, torch.arange(size) % 2))
    if shared:
        columns = [Examples(columns[0].inputs, column.targets) for column in columns]
    names = tuple(Task(f"t{i}", "classification", 2) for i in range(len(sizes)))
    return Suite("s", "made up", names, shared, dict.fromkeys(SPLITS, tuple(columns)))


def same(first, second) -> bool:
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


@settings(deadline=None)
@given(SIZES, st.integers(1, 20), st.booleans(), st.integers(0, 5))
def test_every_sample_occurs_and_no_batch_repeats_one(sizes, share, shared, epoch):
    made = suite(sizes, shared)
    batch_size = share if shared else share * len(sizes)
    plan = epoch_plan(made, "support", batch_size, seed=1, epoch=epoch)
    assert len(plan) == ceil(max(sizes) / share)
    for task, size in enumerate([max(sizes)] * len(sizes) if shared else sizes):
        batches = [step[task] for step in plan]
        assert torch.cat(batches).unique().tolist() == list(range(size))
        assert all(len(batch) <= share and len(batch.unique()) == len(batch) for batch in batches)
        one_pass = torch.cat(batches[: ceil(size / share)])
        assert sorted(one_pass.tolist()) == list(range(size))
        assert max(map(len, batches)) - min(map(len, batches)) <= 1


@settings(deadline=None, max_examples=30)
@given(SIZES, st.integers(1, 20), st.booleans())
def test_query_stream_passes_through_every_sample(sizes, share, shared):
    made = suite(sizes, shared)
    batch_size = share if shared else share * len(sizes)
    for task, size in enumerate([max(sizes)] if shared else sizes):
        turn = ceil(size / share)
        for first in (0, turn):
            rows = torch.cat([query_index(made, batch_size, 0, first + i)[task] for i in range(turn)])
            assert sorted(rows.tolist()) == list(range(size))


@pytest.mark.parametrize("shared", [False, True])
def test_plans_depend_on_seed_epoch_split_and_step_alone(shared):
    made = suite([40, 25], shared)
    plan = epoch_plan(made, "support", 8, seed=0, epoch=2)
    assert same(plan, epoch_plan(made, "support", 8, seed=0, epoch=2))
    for other in ({"seed": 1, "epoch": 2}, {"seed": 0, "epoch": 3}):
        assert not torch.equal(plan[0][0], epoch_plan(made, "support", 8, **other)[0][0])
    assert not torch.equal(plan[0][0], epoch_plan(made, "validation", 8, seed=0, epoch=2)[0][0])
    assert same([query_index(made, 8, 0, 7)], [query_index(made, 8, 0, 7)])


def test_shared_input_gives_all_tasks_one_index():
    made = suite([10, 10, 10], shared=True)
    for step in [*epoch_plan(made, "support", 4, 0, 0), query_index(made, 4, 0, 1)]:
        assert len(step) == 3
        assert all(index is step[0] for index in step)


def test_batches_hold_inputs_of_like_length():
    made = suite([2000])
    lengths = made.splits["support"][0].inputs.lengths
    plan = epoch_plan(made, "support", 20, 0, 0)
    spread = [int(lengths[step[0]].max() - lengths[step[0]].min()) for step in plan]
    assert sum(spread) / len(spread) < 8  # 30 without buckets
    means = torch.stack([lengths[step[0]].float().mean() for step in plan])
    assert means.diff().sign().unique().numel() > 1  # and their order is random


def test_query_batch_is_capped_at_the_query_split():
    assert [len(index) for index in query_index(suite([5, 30]), 40, 0, 3)] == [5, 15]


def test_ordered_batches_sort_by_length():
    inputs = suite([33]).splits["test"][0].inputs
    batches = ordered_batches(inputs, 10)
    assert sorted(torch.cat(batches).tolist()) == list(range(33))
    assert (inputs.lengths[torch.cat(batches)].diff() >= 0).all()


def test_what_cannot_work_is_refused():
    made = suite([5, 5, 5])
    with pytest.raises(ConfigError, match=r"batch of 2 leaves some of the 3 tasks of 's' .* to 3 or more"):
        epoch_plan(made, "support", 2, 0, 0)
    with pytest.raises(ConfigError, match=r"at least one sample, not 0"):
        query_index(suite([5], shared=True), 0, 0, 0)
    with pytest.raises(ConfigError, match=r"at least one sample, not 0"):
        ordered_batches(made.splits["test"][0].inputs, 0)
    with pytest.raises(ConfigError, match=r"epoch counts from 0, not -1"):
        epoch_plan(made, "support", 3, 0, -1)
    with pytest.raises(ConfigError, match=r"step counts from 0, not -1"):
        query_index(made, 3, 0, -1)
    with pytest.raises(ConfigError, match=r"Unknown split 'train'"):
        epoch_plan(made, "train", 3, 0, 0)
