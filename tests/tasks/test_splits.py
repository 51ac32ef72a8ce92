from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossrag import ConfigError
from lossrag.streams import Stream, generator
from lossrag.tasks.splits import split_train, stratified_mask

STRATA = st.lists(st.integers(0, 4), min_size=1, max_size=200)
SHARE = st.floats(0.01, 0.99)
FROZEN_QUERY, FROZEN_VALIDATION = [7, 9, 10], [2, 4, 6, 19]


@given(STRATA, SHARE, st.integers(0, 9))
def test_mask_takes_the_share_of_every_stratum(strata, share, seed):
    strata = np.array(strata)
    mask = stratified_mask(strata, share, np.random.default_rng(seed))
    for stratum in np.unique(strata):
        size, taken = (strata == stratum).sum(), mask[strata == stratum].sum()
        assert abs(taken - share * size) <= 1.0 + 1e-9
        assert size < 2 or 0 < taken < size


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=200), SHARE, SHARE)
def test_splits_are_disjoint_complete_and_keep_copies_together(samples, rho, validation):
    keys, strata = [key for key, _ in samples], [stratum for _, stratum in samples]
    index = split_train(keys, strata, rho, 3, validation)
    assert sorted(np.concatenate(list(index.values())).tolist()) == list(range(len(samples)))
    seen = [{keys[i] for i in rows} for rows in index.values()]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=200), SHARE)
def test_support_and_query_alone(samples, rho):
    keys, strata = [key for key, _ in samples], [stratum for _, stratum in samples]
    index = split_train(keys, strata, rho, seed=3)
    assert sorted(np.concatenate([index["support"], index["query"]]).tolist()) == list(range(len(samples)))
    assert not {keys[i] for i in index["support"]} & {keys[i] for i in index["query"]}
    distinct = split_train(range(1000), [i % 4 for i in range(1000)], rho, seed=3)
    assert abs(len(distinct["query"]) - 1000 * rho) <= 1
    assert distinct["query"].tolist() != split_train(range(1000), [0] * 1000, rho, seed=4)["query"].tolist()


def test_rho_is_the_query_share_of_what_validation_leaves():
    index = split_train(range(1000), [i % 4 for i in range(1000)], rho=0.25, validation=0.2, seed=0)
    assert {split: len(rows) for split, rows in index.items()} == {
        "support": 600,
        "query": 200,
        "validation": 200,
    }


def test_split_is_frozen_across_machines_and_differs_by_seed():
    index = split_train(range(20), [0] * 20, rho=0.2, validation=0.2, seed=0)
    assert index["query"].tolist() == FROZEN_QUERY
    assert index["validation"].tolist() == FROZEN_VALIDATION
    assert split_train(range(20), [0] * 20, 0.2, 1, 0.2)["query"].tolist() != FROZEN_QUERY


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_share_outside_the_open_interval_is_refused(share):
    with pytest.raises(ConfigError, match=r"^rho .* between 0 and 1, not"):
        split_train([1, 2], [0, 0], share, 0)
    with pytest.raises(ConfigError, match=r"^validation"):
        split_train([1, 2], [0, 0], 0.1, 0, share)


def test_negative_seed_is_refused():
    with pytest.raises(ConfigError, match=r"from 0 up, not -1"):
        generator(-1, Stream.EPOCH)
