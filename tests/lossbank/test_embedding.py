from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag.lossbank import LOSSES
from lossrag.lossbank.experience import embedding
from lossrag.lossbank.experience.embedding import (
    EMBEDDING_VERSION,
    GEOMETRY_SIZE,
    VECTOR_NAMES,
    VECTOR_SIZE,
    loss_vectors,
)
from lossrag.lossbank.experience.memory import Memory
from lossrag.lossbank.shape.geometry import geometry_vectors

THREE = [LOSSES[name] for name in ("cross_entropy", "mae", "l1")]


def test_what_is_not_known_is_zero():
    vectors = loss_vectors(THREE)
    assert vectors.shape == (3, VECTOR_SIZE) == (3, len(VECTOR_NAMES))
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors[:, :GEOMETRY_SIZE], geometry_vectors(THREE))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert not bool(vectors[:, GEOMETRY_SIZE:].any())
    assert loss_vectors([]).shape == (0, VECTOR_SIZE)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_the_history_is_no_longer_than_the_geometry(contributions):
    memory = Memory(1, EMBEDDING_VERSION)
    steps = np.arange(len(contributions))
    memory.add(steps[:, None], ["mae"] * len(steps), contributions, run="r", task="t", step=steps)
    vectors = loss_vectors(THREE, memory)[:, GEOMETRY_SIZE:]
    assert 0 < float(vectors[1].norm()) <= 1 + 1e-5
    assert not bool(vectors[[0, 2]].any())


def test_the_history_is_in_its_place():
    memory = Memory(1, EMBEDDING_VERSION)
    memory.add([[0.0], [1.0]], ["mae", "mae"], [0.2, 0.4], run="r", task="t", step=[0, 1])
    of = dict(zip(VECTOR_NAMES, loss_vectors(THREE, memory)[1].tolist(), strict=True))
    assert of["history_mean"] == pytest.approx(np.tanh(0.3) / 3**0.5)
    assert of["history_deviation"] == pytest.approx(np.tanh(0.1) / 3**0.5, abs=1e-6)
    assert of["history_log_count"] == pytest.approx(np.log10(3) / 5 / 3**0.5)


def test_the_version_follows_the_names(monkeypatch):
    assert embedding._version() == EMBEDDING_VERSION
    monkeypatch.setattr(embedding, "CONTEXT_NAMES", (*embedding.CONTEXT_NAMES, "one_more"))
    assert embedding._version() != EMBEDDING_VERSION
    Memory(1, EMBEDDING_VERSION)  # which takes it as a name
