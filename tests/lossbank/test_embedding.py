from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag import ConfigError
from lossrag.lossbank import LOSSES
from lossrag.lossbank.experience import embedding
from lossrag.lossbank.experience.embedding import (
    EMBEDDING_VERSION,
    GEOMETRY_SIZE,
    PATTERN_NAMES,
    VECTOR_NAMES,
    VECTOR_SIZE,
    geometry_vectors,
    loss_vectors,
)
from lossrag.lossbank.experience.memory import Memory

THREE = [LOSSES[name] for name in ("cross_entropy", "mae", "l1")]
PATTERN = slice(GEOMETRY_SIZE, GEOMETRY_SIZE + len(PATTERN_NAMES) + 1)
HISTORY = slice(PATTERN.stop, VECTOR_SIZE)


def test_what_is_not_known_is_zero():
    vectors = loss_vectors(THREE)
    assert vectors.shape == (3, VECTOR_SIZE) == (3, len(VECTOR_NAMES))
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors[:, :GEOMETRY_SIZE], geometry_vectors(THREE))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert not bool(vectors[:, GEOMETRY_SIZE:].any())
    assert loss_vectors([]).shape == (0, VECTOR_SIZE)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=6), st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_no_block_is_longer_than_the_geometry(pattern, contributions):
    memory = Memory(1, EMBEDDING_VERSION)
    steps = np.arange(len(contributions))
    memory.add(steps[:, None], ["mae"] * len(steps), contributions, run="r", task="t", step=steps)
    vectors = loss_vectors(THREE, memory, {"mae": torch.tensor(pattern), "unheard_of": torch.zeros(6)})
    for block in (slice(0, GEOMETRY_SIZE), PATTERN, HISTORY):
        assert float(vectors[:, block].norm(dim=1).max()) <= 1 + 1e-5
    assert float(vectors[1, PATTERN][-1]) > 0
    assert not bool(vectors[[0, 2], GEOMETRY_SIZE:].any())


def test_history_and_pattern_are_in_their_places():
    memory = Memory(1, EMBEDDING_VERSION)
    memory.add([[0.0], [1.0]], ["mae", "mae"], [0.2, 0.4], run="r", task="t", step=[0, 1])
    row = loss_vectors(THREE, memory, {"mae": torch.tensor([0.5, 3.0, 0.1, 0.2, 0.3, -0.4])})[1]
    of = dict(zip(VECTOR_NAMES, row.tolist(), strict=True))
    assert of["pattern_cosine_to_target"] == pytest.approx(0.5 / 7**0.5)
    assert of["pattern_log_norm"] == pytest.approx(np.tanh(3.0) / 7**0.5)
    assert of["pattern_known"] == pytest.approx(1 / 7**0.5)
    assert of["history_mean"] == pytest.approx(np.tanh(0.3) / 3**0.5)
    assert of["history_deviation"] == pytest.approx(np.tanh(0.1) / 3**0.5, abs=1e-6)
    assert of["history_log_count"] == pytest.approx(np.log10(3) / 5 / 3**0.5)


@pytest.mark.parametrize("bad", [torch.zeros(5), torch.full((6,), torch.nan)])
def test_unfit_patterns_are_refused(bad):
    with pytest.raises(ConfigError, match="'mae' is 6 finite numbers"):
        loss_vectors(THREE, pattern={"mae": bad})


def test_the_version_follows_the_names(monkeypatch):
    assert embedding._version() == EMBEDDING_VERSION
    monkeypatch.setattr(embedding, "CONTEXT_NAMES", (*embedding.CONTEXT_NAMES, "one_more"))
    assert embedding._version() != EMBEDDING_VERSION
    Memory(1, EMBEDDING_VERSION)  # which takes it as a name
