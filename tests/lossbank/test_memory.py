from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag import ConfigError
from lossrag.lossbank.experience.history import history, near_history
from lossrag.lossbank.experience.memory import Memory, merge
from lossrag.lossbank.experience.records import MAX_NAME
from tests.lossbank.simulated import fingerprint

RECORD = st.tuples(
    st.sampled_from(["r1", "r2", "r3"]),
    st.sampled_from(["REC", "TALK"]),
    st.sampled_from(["brier", "ce", "mae"]),
    st.integers(0, 6),
    st.sampled_from([-1.5, -0.0, 0.0, 2.5]),
    st.sampled_from([-1.0, 0.0, 3.0]),
)
RECORDS = st.lists(RECORD, max_size=40)
CAPACITY = st.integers(1, 30)


def memory_of(records, capacity=1000, batch=7) -> Memory:
    memory = Memory(2, "v1", capacity)
    for start in range(0, len(records), batch):
        runs, tasks, losses, steps, values, features = zip(*records[start : start + batch], strict=True)
        memory.add(
            [[feature, step] for feature, step in zip(features, steps, strict=True)],
            losses,
            values,
            run=runs,
            task=tasks,
            step=steps,
        )
    return memory


def keys(memory: Memory) -> list[tuple[str, str, int, str]]:
    r = memory.records
    return [
        (r.tasks[t], r.runs[u], int(s), r.losses[k]) for t, u, s, k in zip(r.task, r.run, r.step, r.loss, strict=True)
    ]


@settings(deadline=None)
@given(RECORDS, CAPACITY, st.integers(1, 9), st.randoms())
def test_what_is_kept_is_a_function_of_the_set(records, capacity, batch, random):
    shuffled = [*records, *records[: len(records) // 2]]
    random.shuffle(shuffled)
    one, two = memory_of(records, capacity), memory_of(shuffled, capacity, batch)
    assert fingerprint(one) == fingerprint(two)
    # reading in between forces it to sort and to evict early
    stepwise = Memory(2, "v1", capacity)
    for start in range(0, len(shuffled), batch):
        stepwise.extend(memory_of(shuffled[start : start + batch]).records)
        assert len(stepwise) <= capacity
    assert fingerprint(stepwise) == fingerprint(one)


@settings(deadline=None)
@given(st.lists(st.tuples(RECORDS, CAPACITY), min_size=3, max_size=3))
def test_merge_commutes_associates_and_is_idempotent(sources):
    a, b, c = (memory_of(records, capacity) for records, capacity in sources)
    assert fingerprint(merge(a, b)) == fingerprint(merge(b, a))
    assert fingerprint(merge(merge(a, b), c)) == fingerprint(merge(a, merge(b, c)))
    assert fingerprint(merge(a, a)) == fingerprint(a)
    assert len(merge(a, b)) <= min(a.capacity, b.capacity)


@settings(deadline=None)
@given(RECORDS, CAPACITY)
def test_kept_keys_are_sorted_distinct_known_and_fair(records, capacity):
    memory = memory_of(records, capacity)
    kept, given_keys = keys(memory), {(task, run, step, loss) for run, task, loss, step, *_ in records}
    assert kept == sorted(set(kept))
    assert set(kept) <= given_keys
    assert len(kept) == min(capacity, len(given_keys))
    # Who loses records ends with no fewer than any other group, but for the last place.
    before = Counter((task, loss) for task, _, _, loss in given_keys)
    after = Counter((task, loss) for task, _, _, loss in kept)
    for group, count in before.items():
        if after[group] < count:
            assert after[group] >= max(after.values()) - 1
    assert set(memory.records.losses) == {key[3] for key in kept}


def test_rare_losses_outlive_frequent_ones_and_all_of_a_run_is_kept():
    memory = Memory(1, "v1", capacity=1000)
    steps = np.arange(20_000)
    memory.add(steps[:, None], ["ce"] * 20_000, steps, run="r", task="REC", step=steps)
    memory.add(steps[:50, None], ["rare"] * 50, steps[:50], run="r", task="REC", step=steps[:50])
    counts = history(memory, ["ce", "rare"])
    assert counts.counts.tolist() == [950, 50]
    # a sample of the whole run: its mean is off by five standard errors at most
    assert abs(counts.means[0] - 9_999.5) < 5 * 20_000 / np.sqrt(12 * 950)
    assert history(memory, ["ce"]).deviations[0] == pytest.approx(20_000 / np.sqrt(12), rel=0.1)


def test_losses_keep_the_same_moments():
    memory = Memory(1, "v1", capacity=100)
    for step in range(200):
        memory.add([[step]] * 2, ["ce", "mae"], [0.0, 1.0], run="r", task="REC", step=step)
    records = memory.records
    assert set(records.step[records.loss == 0]) == set(records.step[records.loss == 1])


def test_conflicting_values_the_cautious_one_stays():
    memory = Memory(1, "v1")
    for value, place in ((0.5, 1.0), (0.2, 2.0), (0.2, 1.0), (0.9, 0.0)):
        memory.add([[place]], ["ce"], [value], run="r", task="REC", step=0)
    assert memory.records.contribution.tolist() == [np.float32(0.2)]
    assert memory.records.context.tolist() == [[1.0]]


@settings(deadline=None)
@given(RECORDS, st.sampled_from([None, "REC", "TALK", "no such"]))
def test_history_by_loss_and_by_task(records, task):
    memory, losses = memory_of(records), ["mae", "never", "ce"]
    found = history(memory, losses, task)
    r = memory.records
    for place, loss in enumerate(losses):
        values = [
            float(r.contribution[i])
            for i, (where, _, _, what) in enumerate(keys(memory))
            if what == loss and task in (None, where)
        ]
        assert found.counts[place] == len(values)
        assert found.means[place] == pytest.approx(np.mean(values) if values else 0.0)
        assert found.deviations[place] == pytest.approx(np.std(values) if values else 0.0)


@settings(deadline=None)
@given(RECORDS, st.tuples(st.floats(-9, 9), st.floats(-9, 9)), st.integers(1, 20))
def test_near_histories_are_finite_means_of_what_was_seen(records, query, k):
    memory = memory_of(records)
    near = near_history(memory, query, k, ["ce", "mae", "never", "brier"])
    scores, counts = near.means, near.counts
    assert np.isfinite(scores).all()
    assert (counts[2], scores[2]) == (0, 0.0)
    assert (scores[counts == 0] == 0).all()
    assert counts.sum() == len(memory.nearest(query, k).positions)
    if len(memory):
        values = memory.records.contribution.astype(np.float64)
        low, high = values.min(), values.max()
        assert ((scores[counts > 0] >= low - 1e-9) & (scores[counts > 0] <= high + 1e-9)).all()
        assert k < len(memory) or counts.sum() == len(memory)


def test_nearest_moments_whatever_the_units():
    memory = Memory(3, "v1")
    for step, (a, b) in enumerate([(0.0, 0.0), (0.0, 1e6), (1e-6, 0.0), (1e-6, 1e6)]):
        memory.add([[a, b, 7.0]] * 2, ["ce", "mae"], [step, -step], run="r", task="REC", step=step)
    found = memory.nearest([1.1e-6, 9e5, 123.0], 1)  # the third feature never varied
    assert memory.records.step[found.positions].tolist() == [3, 3]
    near = near_history(memory, [1e-6, 0.0, 7.0], 1, ["mae", "ce"])
    assert (near.means.tolist(), near.counts.tolist()) == ([-2.0, 2.0], [1, 1])
    exact = memory.nearest(memory.records.context[0], 4)
    assert exact.similarities[0] == 1.0
    assert (np.diff(exact.similarities) <= 0).all()
    assert (exact.similarities > 0).all()


def test_extreme_but_finite_numbers_stay_finite():
    memory, top = Memory(2, "v1"), float(np.finfo(np.float32).max)
    memory.add([[top, 1e-45], [-top, 0.0]], ["ce", "ce"], [top, -top], run="r", task="REC", step=[0, 1])
    assert np.isfinite(near_history(memory, [top, top], 2, ["ce"]).means).all()
    assert np.isfinite(history(memory, ["ce"]).deviations).all()
    assert near_history(Memory(2, "v1"), [0.0, 0.0], 3, ["ce"]).counts.tolist() == [0]
    lone = Memory(2, "v1")
    lone.add([[0.0, 0.0]], ["ce"], [0.5], run="r", task="REC", step=0)
    assert near_history(lone, [5.0, 5.0], 3, ["ce"]).means.tolist() == [0.5]


def test_refusals():
    memory = Memory(2, "v1")

    def add(contexts=((0.0, 1.0),), losses=("ce",), contributions=(0.5,), run="r", task="REC", step=0):
        memory.add(contexts, losses, contributions, run=run, task=task, step=step)

    for changes, message in [
        ({"contributions": [np.nan]}, "contributions must be finite"),
        ({"contributions": [1e39]}, "finite float32"),
        ({"contributions": ["much"]}, "must be numbers"),
        ({"contributions": [1.0, 2.0]}, r"\(1,\), one a record, got the shape \(2,\)"),
        ({"contexts": [[np.inf, 0.0]]}, "contexts must be finite"),
        ({"contexts": [[0.0, 1.0, 2.0]]}, "has 2 numbers, got 3"),
        ({"contexts": [0.0, 1.0]}, r"n = 1 records, got the shape \(2,\)"),
        ({"losses": "ce"}, "not the string"),
        ({"losses": [""]}, "name of a loss"),
        ({"run": "x" * (MAX_NAME + 1)}, "name of a run is a printable string of 1 to 200"),
        ({"task": "a\n"}, "name of a task"),
        ({"task": ["a", "b"]}, "1 expected, got 2"),
        ({"step": -1}, "count from 0"),
        ({"step": 0.5}, "whole numbers"),
    ]:
        with pytest.raises(ConfigError, match=message):
            add(**changes)
    assert len(memory) == 0
    with pytest.raises(ConfigError, match="capacity"):
        Memory(2, "v1", 0)
    with pytest.raises(ConfigError, match="numbers"):
        Memory(0, "v1")
    with pytest.raises(ConfigError, match="'v1' and 'v2'"):
        merge(memory, Memory(2, "v2"))
    with pytest.raises(ConfigError, match="has 2 numbers, got 3"):
        merge(memory, _with_one_record(3))
    with pytest.raises(ConfigError, match=r"\(2,\), got the shape \(3,\)"):
        memory.nearest([0.0] * 3, 1)
    with pytest.raises(ConfigError, match="finite"):
        memory.nearest([np.nan, 0.0], 1)
    with pytest.raises(ConfigError, match="from 1 up"):
        memory.nearest([0.0, 0.0], 0)


def _with_one_record(size: int) -> Memory:
    memory = Memory(size, "v1")
    memory.add(np.zeros((1, size)), ["ce"], [0.0], run="r", task="REC", step=0)
    return memory
