"""Division of rows: shares, every label in every split, groups in one."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag.tasks.table.division import divide

SHARES = {"support": 0.63, "validation": 0.15, "test": 0.15, "query": 0.07}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(40, 200), st.floats(0, 0.6))
def test_every_label_is_in_every_split(seed, rows, holes):
    chance = np.random.default_rng(seed)
    labels = [[(t, int(chance.integers(2 + t))) for t in range(3) if chance.random() > holes] for _ in range(rows)]
    split = divide(labels, range(rows), SHARES, seed=seed)
    assert split == divide(labels, range(rows), SHARES, seed=seed)
    counts = Counter(label for own in labels for label in own)
    for label, count in counts.items():
        met = {name for name, own in zip(split, labels, strict=True) if label in own}
        assert len(met) == 4 or count < 8
    for name, share in SHARES.items():
        assert abs(split.count(name) - share * rows) <= 0.08 * rows + 4


def test_a_label_of_four_rows_is_in_four_splits():
    labels = [["rare"] if row < 4 else ["usual"] for row in range(100)]
    split = divide(labels, range(100), SHARES, seed=3)
    assert sorted(split[:4]) == sorted(SHARES)
    assert Counter(split)["support"] == 62


def test_groups_stay_together():
    groups = [f"g{row // 3}" for row in range(120)]
    split = divide([[row % 2] for row in range(120)], groups, SHARES, seed=0)
    assert all(len({split[row], split[row + 1], split[row + 2]}) == 1 for row in range(0, 120, 3))
    assert set(split) == set(SHARES)


def test_the_seed_decides():
    one, two = (divide([["a"]] * 50, range(50), SHARES, seed) for seed in (0, 1))
    assert one != two
